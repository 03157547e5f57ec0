"""Runs a source and stages, each in its own thread, with bounded channels between them.

How a run ends:

    end of source   the source has no more items; every stage flushes; status "complete"
    stop()          the source is interrupted; items in progress still go through and are flushed; "interrupted"
    cancelled       stop() again, Ctrl-C, or the caller leaves; items in progress are discarded; "interrupted"
    a failure       reading ends and what waits before the failed stage is discarded, but what the stage has already
                    emitted still goes through and is flushed; then the first exception is raised in the caller;
                    "error". A failing open() cancels the run, "error"

In every case, everything that was opened is closed once and every thread is joined before run() ends.
"""

from __future__ import annotations

import reprlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any
from weakref import WeakSet

from sharpose_rt.runtime.channel import POLL_S, Cancelled, Channel, EndOfStream
from sharpose_rt.runtime.stage import Source, Stage, Status, describe, stage_parts
from sharpose_rt.runtime.stats import PipelineStats, StageMeter, clock

_RECENT = 3  # items over which the median duration is taken, as a single slow one says nothing

CAPTURE = "capture"
CALLER = "caller"

_ITEMS = reprlib.Repr()
_ITEMS.maxother = 200
_running: WeakSet[Pipeline] = WeakSet()


def _cancel_forgotten() -> None:
    """Cancels runs whose caller's thread has ended: Python waits for their threads at exit, but nobody takes items."""
    while True:  # other threads, and pools that wait for them, end later than the main program
        for pipeline in list(_running):
            pipeline.abandon(threading.main_thread())
        time.sleep(POLL_S)


threading._register_atexit(threading.Thread(target=_cancel_forgotten, daemon=True).start)  # type: ignore[attr-defined]  # as concurrent.futures does


@contextmanager
def _ctrl_c_deferred() -> Iterator[None]:
    """A Ctrl-C during the block takes effect after it.

    In CPython 3.11 a Ctrl-C during Thread.start() can leave the new thread dead or stuck before its first line, and
    one during Thread.join() marks a running thread as stopped (the fix for bpo-45274).
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # handlers run only in the main thread; None: not set by Python
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


class Pipeline:
    """A source and stages that run concurrently; `run()` yields what the last stage emits.

    Order of a run: the source opens; then all stages at once, each in its own thread; then the first item is read.
    So a stage may ask the opened source for its size, and a camera is not read while models load. When all stages
    have finished without error, they are closed one after the other, source first, so that the status passed to each
    includes what happened before it.

    Args:
        source: what feeds the first stage; its thread is called "capture".
        stages: in order, with unique names.
        capacity: most items that wait between two threads; in a live pipeline it is one.
        live: the first `dropping` channels (after the source and after the first stage) drop their oldest item
            instead of making the producer wait, so that the slow stage behind them always takes a fresh one. The
            output of that stage is not dropped. Each stage starts on an item shortly before its result will be taken,
            whichever stage (or the caller) is the slow one, so that nothing grows old in between.
        room: see `Channel`.
        fold: see `Channel`.
    """

    def __init__(
        self,
        source: Source[Any],
        stages: Sequence[Stage[Any, Any]],
        capacity: int = 8,
        live: bool = False,
        fold: Callable[[Any, Any], Any] | None = None,
        dropping: int = 2,
        room: Callable[[Any], int] | None = None,
    ) -> None:
        names = [CAPTURE, *(stage.name for stage in stages), CALLER]
        assert len(set(names)) == len(names), f"names of stages are not unique: {names}"
        self._source = source
        self._stages = tuple(stages)
        self._live = live
        self._meters = tuple(StageMeter(name) for name in names)
        self._channels: tuple[Channel[Any], ...] = tuple(
            Channel(
                f"{before} -> {after}",
                capacity=1 if live else capacity,
                policy="drop_oldest" if live and i < min(dropping, len(stages)) else "wait",
                fold=fold,
                room=room,
            )
            for i, (before, after) in enumerate(pairwise(names))
        )
        # Thread i is the source's (0) or that of stage i - 1; it reads channel i - 1 and feeds channel i.
        self._threads = tuple(
            threading.Thread(target=self._thread_main, args=(i,), name=name) for i, name in enumerate(names[:-1])
        )
        # Both locks are re-entrant: a signal handler may call stop() while its own thread holds one.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._source_lock = threading.RLock()
        self._source_active = False
        self._stopping = False
        self._cancelled = False
        self._cut_short = False
        self._reached: dict[str, int] = dict.fromkeys(("opened", "finished", "closed"), 0)  # threads that got this far
        self._working = 0  # threads between their first line and their last
        self._closed_door = False
        self._failures: list[BaseException] = []
        self._started_s: float | None = None
        self._ended_s: float | None = None
        self._caller: threading.Thread | None = None

    def run(self) -> Generator[Any, None, None]:
        """Yields what the last stage emits, in order, in the caller's thread. A pipeline runs once.

        Leaving early stops everything. `for item in pipeline.run()` may be left by `break` or an exception; a run
        held in a variable goes on until its close(), so write `with contextlib.closing(pipeline.run()) as items:`,
        which also raises any failure while closing.

        Raises:
            BaseException: the original exception of the first source or stage that failed, with notes on where it was
                raised and on later failures.
            RuntimeError: the pipeline has already run.
        """
        if self._started_s is not None:
            raise RuntimeError("this pipeline has already run; build another one")
        self._started_s = clock()
        return self._run()

    def stop(self) -> None:
        """Ends the run gracefully: reading ends, items in progress are still returned. A second call cancels it.

        May be called from any thread, from a signal handler, and before run().
        """
        with self._lock:
            again, self._stopping = self._stopping, True
        if again:
            self._cancel()
        else:
            self._interrupt_source()

    def abandon(self, caller: threading.Thread) -> None:
        """Cancels the run if its items were taken by `caller` or by a thread that has ended."""
        taker = self._caller
        if taker is caller or (taker is not None and not taker.is_alive()):
            self._cancel()

    @property
    def status(self) -> Status:
        """The status of the run so far; final when run() has ended."""
        with self._lock:
            if self._failures:
                return "error"
            return "complete" if self._all("finished") and not self._cut_short else "interrupted"

    def stats(self) -> PipelineStats:
        """The statistics so far; cheap, and allowed from any thread while running."""
        ended_s = clock() if self._ended_s is None else self._ended_s
        parts = [(), *(stage_parts(stage) for stage in self._stages)]
        return PipelineStats(
            elapsed_s=0.0 if self._started_s is None else ended_s - self._started_s,
            live=self._live,
            stages=tuple(m.snapshot(p) for m, p in zip(self._meters[:-1], parts, strict=True)),
            channels=tuple(channel.stats() for channel in self._channels),
            caller=self._meters[-1].snapshot(),
        )

    # In the caller's thread

    def _run(self) -> Generator[Any, None, None]:
        left: BaseException | None = None
        _running.add(self)
        try:
            with _ctrl_c_deferred():
                for thread in self._threads:
                    thread.start()
            yield from self._results()
        except BaseException as error:  # left early, Ctrl-C, or raised by a signal handler
            left = error
        try:
            left = self._join(left)
        finally:
            self._ended_s = clock()
            _running.discard(self)
        try:
            self._raise_first(left)
        finally:
            del left  # otherwise it keeps this frame alive, and with it the models

    def _results(self) -> Generator[Any, None, None]:
        meter = self._meters[-1]
        while True:
            self._caller = threading.current_thread()
            try:
                item = self._channels[-1].get()
            except (EndOfStream, Cancelled):
                return
            meter.items_in += 1
            started_s = clock()
            yield item
            meter.add(clock() - started_s)

    def _join(self, left: BaseException | None) -> BaseException | None:
        """Cancels if the caller left, and waits for all threads; returns why the caller left.

        A first Ctrl-C here is remembered while files are closed; a second is let through, in case a thread hangs in
        third-party code.
        """
        pressed = False
        if threading.current_thread() in self._threads:  # garbage collection runs in any; none can wait for itself
            self._cancel()
            return left
        while True:
            try:
                if left is not None:
                    self._cancel()
                self._wait_until(self._shut)
                with _ctrl_c_deferred():
                    for thread in self._threads:
                        if thread.is_alive():
                            thread.join()
                return left
            except KeyboardInterrupt as error:
                if pressed:
                    raise
                pressed, left = True, error

    def _shut(self) -> bool:
        """Whether no thread is at work; if so, one that starts later does nothing."""
        self._closed_door = self._working == 0
        return self._closed_door

    def _raise_first(self, left: BaseException | None) -> None:
        """Raises why the caller left, or else the first failure; the others become notes."""
        errors = [e for e in self._failures if e is not left]
        if left is not None and not isinstance(left, GeneratorExit):
            errors.insert(0, left)
        if not errors:
            return
        first, *later = errors
        for error in later:
            where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            first.add_note(f"then failed: {describe(error)}{where}")
        try:
            raise first
        finally:
            del first, later, errors, left  # otherwise the traceback keeps itself and its frames alive

    # In the threads

    def _thread_main(self, index: int) -> None:
        with self._lock:
            if self._closed_door:
                return
            self._working += 1
        try:
            if index == 0:
                self._capture()
            else:
                self._work(index)
        finally:
            with self._lock:
                self._working -= 1
                self._changed.notify_all()

    def _capture(self) -> None:
        source, outlet = self._source, self._channels[0]
        with self._source_lock:
            self._source_active = not self._stopping
        if not self._source_active:  # stopped before it began
            self._cancel()
            return
        doing = f"open() of source {source.name!r}"
        reading = False
        try:
            self._open_source()
            if self._stopping:  # while it opened: no stage need start
                self._cancel()
                raise Cancelled
            self._mark("opened")
            self._meet(lambda: self._all("opened"))
            reading, doing = True, f"read() of source {source.name!r}"
            while (item := self._read()) is not None:
                outlet.put(item)
            self._cut_short = self._stopping
            outlet.end()
            self._mark("finished")
        except BaseException as error:
            self._fail(CAPTURE, doing, error, 0 if reading else None)
        with self._source_lock:
            self._source_active = False
        self._close(CAPTURE, source.close)

    def _open_source(self) -> None:
        try:
            self._source.open()
        except Exception:
            if not self._stopping:
                raise
            self._cancel()  # caused by the interrupt: nothing will come
            raise Cancelled from None

    def _read(self) -> Any | None:
        if self._stopping:
            return None
        meter, started_s = self._meters[0], clock()
        try:
            item = self._source.read()
        except Exception:
            if self._stopping:  # caused by the interrupt
                return None
            raise
        if item is not None:
            meter.add(clock() - started_s)
            meter.items_out += 1
        return item

    def _work(self, index: int) -> None:
        stage, meter = self._stages[index - 1], self._meters[index]
        inlet, outlet = self._channels[index - 1], self._channels[index]
        self._wait_until(lambda: self._cancelled or self._reached["opened"] > 0)
        if self._cancelled:
            return
        doing, item = "open()", None
        try:
            stage.open()
            self._mark("opened")
            for item in self._wanted(inlet, outlet) if self._live else inlet:
                doing = "process()"
                meter.items_in += 1
                self._pass_on(meter.outputs(lambda item=item: stage.process(item)), outlet)
            doing = "flush()"
            self._pass_on(meter.outputs(stage.flush, sample=False), outlet)
            outlet.end()
            self._mark("finished")
            self._meet(lambda: bool(self._failures) or (self._all("finished") and self._reached["closed"] == index))
        except BaseException as error:
            opened = doing != "open()"
            if doing == "process()":
                doing += f" of {_ITEMS.repr(item)}"
            self._fail(meter.name, doing, error, index if opened else None)
        self._close(meter.name, lambda: stage.close(self.status))

    @staticmethod
    def _wanted(inlet: Channel[Any], outlet: Channel[Any]) -> Iterator[Any]:
        """Yields each item only when its result will soon be taken: until then a fresher one may come."""
        took_s: deque[float] = deque(maxlen=_RECENT)
        for item in inlet:
            began_s = clock()
            yield item
            took_s.append(clock() - began_s)
            outlet.wait_until_wanted(sorted(took_s)[(len(took_s) - 1) // 2])

    @staticmethod
    def _pass_on(outputs: Generator[Any, None, None], outlet: Channel[Any]) -> None:
        with closing(outputs):  # an interrupted generator unwinds before its stage is closed
            for item in outputs:
                outlet.put(item)

    def _close(self, name: str, close: Callable[[], None]) -> None:
        try:
            close()
        except BaseException as error:
            self._record(name, "close()", error)
        self._mark("closed")

    # In any thread

    def _fail(self, name: str, doing: str, error: BaseException, index: int | None = None) -> None:
        """Records a failure and ends the run; the first failure is raised in the caller.

        If thread `index` failed while working, only what comes before it is cancelled: its outlet ends, so that the
        stages behind it finish what they were given.
        """
        if isinstance(error, Cancelled) and (self._cancelled or self._failures):
            if index is not None:
                self._channels[index].end()
            return
        self._record(name, doing, error)
        if index is None:
            if not self._cancelled:
                self._cancel()
            return
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
        for channel in self._channels[:index]:
            channel.cancel()
        self._channels[index].end()
        self._interrupt_source()

    def _record(self, name: str, doing: str, error: BaseException) -> None:
        error.add_note(f"in {name!r}, {doing}")
        with self._lock:
            if not any(error is known for known in self._failures):
                self._failures.append(error)
            self._changed.notify_all()

    def _cancel(self) -> None:
        """Makes every thread leave soon; may be repeated."""
        with self._lock:
            self._cancelled = self._stopping = True
            self._changed.notify_all()
        for channel in self._channels:
            channel.cancel()
        self._interrupt_source()

    def _interrupt_source(self) -> None:
        with self._source_lock:  # so that the source is not closed meanwhile
            if not self._source_active:
                return
            try:
                self._source.interrupt()
            except Exception as error:
                self._fail(CAPTURE, "interrupt()", error)

    def _all(self, what: str) -> bool:
        return self._reached[what] == len(self._threads)

    def _mark(self, what: str) -> None:
        with self._lock:
            self._reached[what] += 1
            self._changed.notify_all()

    def _meet(self, ready: Callable[[], bool]) -> None:
        """Waits until `ready()`; raises Cancelled."""
        self._wait_until(lambda: self._cancelled or ready())
        if self._cancelled:
            raise Cancelled

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        with self._lock:
            while not ready():
                self._changed.wait(POLL_S)
