"""Several sources in one run: one detector and one pose network for all, outputs for each.

    capture 1 ─┐
    capture 2 ─┼─► round ─► detect ─► track, pose, smooth ─► write 1, 2, 3
    capture 3 ─┘                            │
                       the crops of all cameras in one batch

The unit is the round: at most one frame of each source (`media.SourceGroup`), so that a fast camera takes no turn of
a slow one, and a lost one holds nobody up. Trackers, smoothers and outputs are those of single runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sharpose_rt.app import FileRun
from sharpose_rt.config import RunConfig
from sharpose_rt.config.checks import is_boxes_file
from sharpose_rt.errors import ConfigError, SharposeError
from sharpose_rt.graph import Tracking, room_for
from sharpose_rt.media import Round, SourceGroup
from sharpose_rt.outputs import Results
from sharpose_rt.runtime import SLOW_CONSUMER, BaseStage, Pipeline, Status
from sharpose_rt.skeletons.names import safe_stem, unique_name
from sharpose_rt.stages import DetectStage, EstimateStage, SmoothStage, TrackStage, WriteStage, count_dropped
from sharpose_rt.types import Packet

Packets = tuple[tuple[int, Packet], ...]
"""A round on its way through the stages."""


@runtime_checkable
class Expecting(Protocol):
    """A tap that shows sources before they are there."""

    def expect(self, stem: str, source: str, *, live: bool, state: Callable[[], str]) -> None:
        """A run over the source of this stem and name will begin; `state` as in `stages.Tap.begin`."""
        ...


class SeveralRun:
    """One run over several sources, read at once; each has a folder of its own below `output.directory`.

    Args:
        specs: single sources, as `media.expand_sources` gives them.
        config: checked already; options of a source hold for each.
        taps: what follows the runs as they go.

    Raises:
        ConfigError: the options do not go together.
    """

    def __init__(self, specs: Sequence[str], config: RunConfig, taps: Sequence[Any] = ()) -> None:
        _check(specs, config)
        self.config, self._taps = config, tuple(taps)
        self.runs: list[_Part] = []
        for place, spec in enumerate(specs):
            first: Tracking | None = self.runs[0].tracking if place else None
            self.runs.append(_Part(spec, config, taps, sources=len(specs), first=first, place=place))
        self.live = all(run.live for run in self.runs)
        sources, live = [run.source for run in self.runs], [run.live for run in self.runs]
        self.source = SourceGroup(sources, live, count_dropped)
        parts = [run.tracking for run in self.runs]
        parts[0].check_budget(self.live)
        parts[0].estimate.live = self.live
        stages = [
            _Detect([part.detect for part in parts], self.source),
            _People([part.track for part in parts], parts[0].estimate, [part.smooth for part in parts]),
            _Write(self.runs, self._name_folders),
        ]
        # Beside a file a camera cannot drop frames, but they must not grow old in queues either.
        capacity = 1 if any(live) else config.queue_frames
        self._pipeline = Pipeline(self.source, stages, capacity, self.live, fold=fold_rounds, room=_room)
        for run in self.runs:
            run.belongs_to(self._pipeline, self.source)

    def run(self, on_packet: Callable[[int, Packet], None] = lambda place, packet: None) -> list[Results]:
        """Runs to the end of all sources; `on_packet` is told the place of the source, and the packet, after writing.

        Raises:
            SharposeError: and anything else that a stage raised, or what the last source failed with.
        """
        try:
            with closing(self._pipeline.run()) as rounds:
                for packets in rounds:
                    for place, packet in packets:
                        on_packet(place, packet)
        except BaseException:
            for run in self.runs:
                with contextlib.suppress(SharposeError):  # it must not hide why
                    run.finish()
            raise
        found: list[Results] = []
        with contextlib.ExitStack() as stack:  # one that fails, as in a format, costs the others nothing
            for run in reversed(self.runs):
                stack.callback(lambda run=run: found.append(run.finish()))
        return found

    def stop(self) -> None:
        """Ask for an orderly end; see `FileRun.stop`."""
        self._pipeline.stop()

    def status_line(self) -> str:
        """The status lines of all sources."""
        return " || ".join(f"{i}: {run.totals.status_line()}" for i, run in enumerate(self.runs, start=1))

    def _name_folders(self) -> None:
        """Gives each run its folder, named as its source, now that they are open, or as it will be named then.

        Taps that expect runs are told of all, since one that is away begins late or never.
        """
        taken: set[str] = set()
        folders: set[str] = set()
        opened = self.source.opened
        for run in self.runs:
            stem = run.source.info.stem if run.place in opened else run.source.stem
            stem = unique_name(stem, taken)  # by place; taps would count by who is seen first
            folder = unique_name(safe_stem(stem), folders)
            run.outputs.stem, run.outputs.config = stem, self.config.below(folder)
            for tap in self._taps:
                if isinstance(tap, Expecting):
                    tap.expect(stem, run.source.name, live=run.live, state=lambda run=run: run.source_state)


def _check(specs: Sequence[str], config: RunConfig) -> None:
    if config.smooth.method == "rts":
        raise ConfigError("smooth.method rts goes over one file at a time; give a single --source, or --smooth kalman")
    if is_boxes_file(config.detector.name):
        raise ConfigError(f"boxes of {config.detector.name} belong to one source; several need a detector")
    if config.detector.region:
        raise ConfigError(
            f"--region {config.detector.region} is of one source's picture; give a single --source, or leave it away"
        )
    if specs.count("-") > 1:
        raise ConfigError("standard input is one source; '-' is there more than once")


class _Part(FileRun):
    """The run of one source among several: its outputs and figures."""

    _finished = False

    def belongs_to(self, pipeline: Pipeline, group: SourceGroup) -> None:
        """The pipeline that runs it with the others."""
        self._pipeline, self._group = pipeline, group
        self.write = WriteStage(
            lambda: self.open_outputs(video=self.config.output.video), self.totals, self.tracking.observe
        )

    @property
    def status(self) -> Status:
        """As of the whole run, but 'error' where this source failed while the others went on."""
        return "error" if self.failed else super().status

    @property
    def failed(self) -> bool:
        """This source has failed."""
        return self.place in self._group.errors

    @property
    def source_state(self) -> str:
        """See `FileRun`."""
        return "lost" if self.failed and not self._finished else super().source_state

    def finish(self) -> Results:
        """See `FileRun`."""
        self._finished = True
        return self._finish()

    def _figures(self) -> dict[str, Any]:
        error = self._group.errors.get(self.place)
        slow = self.totals.dropped - self._faults.left_out
        dropped = {SLOW_CONSUMER: slow} if slow > 0 else {}
        return {
            **super()._figures(),
            "dropped": {**dropped, **self._left_out},
            "error": None if error is None else str(error),
        }


@dataclass
class _Detect(BaseStage[Round, Packets]):
    """The detector on the frames of a round, one after the other."""

    parts: Sequence[DetectStage]
    sources: SourceGroup
    name: str = "detect"

    def open(self) -> None:
        """Load the model, which is one for all, and make it ready for the first source that is there."""
        self.parts[self.sources.opened[0]].open()

    def process(self, item: Round, /) -> Iterator[Packets]:
        """The round with the boxes of each frame."""
        yield tuple((place, packet) for place, frame in item for packet in self.parts[place].process(frame))

    def close(self, status: Status, /) -> None:
        """Let the model go."""
        self.parts[0].close(status)


@dataclass
class _People(BaseStage[Packets, Packets]):
    """Tracks each source, estimates all people of a round at once, smooths each source."""

    tracks: Sequence[TrackStage]
    estimate: EstimateStage
    smooths: Sequence[SmoothStage]
    name: str = "track+pose+smooth"

    def open(self) -> None:
        """Load the network."""
        self.estimate.open()

    def process(self, item: Packets, /) -> Iterator[Packets]:
        """The round with its people."""
        tracked = [(place, out) for place, packet in item for out in self.tracks[place].process(packet)]
        posed = zip(tracked, self.estimate.together(tracked), strict=True)
        yield tuple((place, out) for (place, _), packet in posed for out in self.smooths[place].process(packet))

    def close(self, status: Status, /) -> None:
        """Let the last poses go."""
        self.estimate.close(status)


@dataclass
class _Write(BaseStage[Packets, Packets]):
    """Hands each packet to the outputs of its source."""

    runs: Sequence[_Part]
    begin: Callable[[], None]
    name: str = "write"
    begun: bool = False

    def process(self, item: Packets, /) -> Iterator[Packets]:
        """The round, after it was written."""
        if not self.begun:
            self.begin()
            self.begun = True
        yield tuple((place, out) for place, packet in item for out in self.runs[place].write.process(packet))

    def close(self, status: Status, /) -> None:
        """Finish the outputs of all; a failure among them is raised when all were tried."""
        with contextlib.ExitStack() as stack:
            for run in reversed(self.runs):
                stack.callback(run.write.close, "error" if run.failed else status)


def _room(round_: Round | Packets) -> int:
    """How many rounds like this one may wait between two threads."""
    return room_for(*(item for _, item in round_))


def fold_rounds(dropped: Any, kept: Any) -> Any:
    """The round after a dropped one: frames of sources that are in the dropped one alone stay in it."""
    frames: dict[int, Any] = dict(dropped)
    for place, item in kept:
        frames[place] = count_dropped(frames[place], item) if place in frames else item
    return tuple(sorted(frames.items(), key=lambda pair: pair[0]))
