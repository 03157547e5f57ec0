"""What runs in a pipeline: sources and stages, plain objects that know nothing of threads or channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

from sharpose_rt.runtime.stats import StageMeter, StageStats

Status = Literal["complete", "interrupted", "error"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Source(Protocol[T_co]):
    """What feeds a pipeline. All but interrupt() is called in one thread."""

    @property
    def name(self) -> str:
        """For messages, with credentials masked."""
        ...

    def open(self) -> None:
        """Makes read() possible. May block."""

    def read(self) -> T_co | None:
        """The next item, or None at the end. May block."""

    def interrupt(self) -> None:
        """Makes an open() or read() that is blocked now or called later return None or raise soon.

        Called from any thread or signal handler, perhaps more than once or just before open(), but never after close().
        It should only set a flag and take no lock. An exception from open() or read() afterwards counts as the end.
        """

    def close(self) -> None:
        """Releases everything. Called once if open() was called, even if that raised."""


class Stage(Protocol[In_contra, Out_co]):
    """One step of a pipeline. All methods are called in one thread."""

    @property
    def name(self) -> str:
        """Short and unique in its pipeline; names the thread and the statistics."""
        ...

    def open(self) -> None:
        """Acquires what process() needs. The source is already open; no item has been read yet."""
        ...

    def process(self, item: In_contra, /) -> Iterable[Out_co]:
        """The output for one item: usually one, but none or several are fine; may be a generator."""
        ...

    def flush(self) -> Iterable[Out_co]:
        """What was held back; called when the source ended or was asked to stop."""
        ...

    def close(self, status: Status, /) -> None:
        """Releases everything. Called once if open() was called, even if that raised.

        `status` is how the whole run ended: "complete" only when every stage has processed and flushed everything,
        "interrupted" when the run was stopped or left early, "error" when anything failed.
        """
        ...


class BaseStage(Generic[In, Out]):
    """A stage that passes items on and holds nothing; override what differs."""

    name: str = "stage"

    def open(self) -> None:
        """Nothing to acquire."""

    def process(self, item: In, /) -> Iterable[Out]:
        """The item itself."""
        return (item,)  # type: ignore[return-value]

    def flush(self) -> Iterable[Out]:
        """Nothing was held back."""
        return ()

    def close(self, status: Status, /) -> None:
        """Nothing to release."""


class Chain(BaseStage[Any, Any]):
    """Several stages as one, in one thread: an item leaves the last part before the next enters the first.

    Used where a later stage feeds an earlier one, as the last poses feed the tracker. A failure carries a note with the
    name of the part.
    """

    def __init__(self, name: str, stages: Sequence[Stage[Any, Any]]) -> None:
        self.name = name
        self.stages = tuple(stages)
        self._meters = tuple(StageMeter(stage.name) for stage in self.stages)
        self._opened: list[Stage[Any, Any]] = []

    def open(self) -> None:
        """Opens the parts in order; those not reached will not be closed either."""
        for stage in self.stages:
            self._opened.append(stage)
            try:
                stage.open()
            except BaseException as error:
                self._note(stage, error)
                raise

    def process(self, item: Any, /) -> Iterator[Any]:
        """What the last part emits for one item."""
        return self._through(0, item)

    def flush(self) -> Iterator[Any]:
        """Flushes the parts in order, passing the items of each through all that follow it."""
        for index, stage in enumerate(self.stages):
            for item in self._outputs(index, stage.flush, sample=False):
                yield from self._through(index + 1, item)

    def close(self, status: Status, /) -> None:
        """Closes all opened parts in order, then raises the first failure with the later ones as notes."""
        first: BaseException | None = None
        while self._opened:
            stage = self._opened.pop(0)
            try:
                stage.close(status)
            except BaseException as error:
                self._note(stage, error)
                status = "error"
                if first is None:
                    first = error
                else:
                    first.add_note(f"then close() of {stage.name!r} failed: {describe(error)}")
        if first is not None:
            raise first

    def stats(self) -> tuple[StageStats, ...]:
        """The statistics of each part."""
        parts = zip(self.stages, self._meters, strict=True)
        return tuple(meter.snapshot(stage_parts(stage)) for stage, meter in parts)

    def _through(self, index: int, item: Any) -> Iterator[Any]:
        if index == len(self.stages):
            yield item
            return
        self._meters[index].items_in += 1
        for out in self._outputs(index, lambda: self.stages[index].process(item), sample=True):
            yield from self._through(index + 1, out)

    def _outputs(self, index: int, produce: Callable[[], Iterable[T]], *, sample: bool) -> Iterator[T]:
        try:
            yield from self._meters[index].outputs(produce, sample=sample)
        except Exception as error:
            self._note(self.stages[index], error)
            raise

    def _note(self, stage: Stage[Any, Any], error: BaseException) -> None:
        error.add_note(f"in {stage.name!r}, a part of {self.name!r}")


def stage_parts(stage: Stage[Any, Any]) -> tuple[StageStats, ...]:
    """The statistics of a chain's parts; empty for any other stage."""
    return stage.stats() if isinstance(stage, Chain) else ()


def describe(error: BaseException) -> str:
    """Type and message of an exception in one line."""
    return f"{type(error).__name__}: {error}"
