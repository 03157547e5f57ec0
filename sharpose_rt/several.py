"""Several sources in one run: one detector and one pose network for all, outputs for each.

    capture 1 ─┐
    capture 2 ─┼─► round ─► detect ─► track, pose, smooth ─► write 1, 2, 3
    capture 3 ─┘                            │
                       the crops of all cameras in one batch

Work is done in rounds of at most one frame of each source (`media.SourceGroup`), so that a fast camera does not slow
down others, and a lost one does not hold them up. Trackers, smoothers and outputs are those of single runs.
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
    """A tap that shows sources before they are available."""

    def expect(self, stem: str, source: str, *, live: bool, state: Callable[[], str]) -> None:
        """Announces a run over the source with this stem and name; `state` as in `stages.Tap.begin`."""
        ...


class SeveralRun:
    """One run over several sources at once; each has its own folder below `output.directory`.

    Args:
        specs: single sources, as from `media.expand_sources`.
        config: validated; options of a source apply to each.
        taps: receive each frame as it is done.

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
        # Together with a file, a camera cannot drop frames, but they must not wait in queues either.
        capacity = 1 if any(live) else config.queue_frames
        self._pipeline = Pipeline(self.source, stages, capacity, self.live, fold=fold_rounds, room=_room)
        for run in self.runs:
            run.belongs_to(self._pipeline, self.source)

    def run(self, on_packet: Callable[[int, Packet], None] = lambda place, packet: None) -> list[Results]:
        """Runs to the end of all sources; calls `on_packet` with the index of the source and the packet after writing.

        Raises:
            SharposeError: and anything else raised by a stage, or the error of the last source to fail.
        """
        try:
            with closing(self._pipeline.run()) as rounds:
                for packets in rounds:
                    for place, packet in packets:
                        on_packet(place, packet)
        except BaseException:
            for run in self.runs:
                with contextlib.suppress(SharposeError):  # it must not hide the cause
                    run.finish()
            raise
        found: list[Results] = []
        with contextlib.ExitStack() as stack:  # if one fails, such as in a format, the others are finished too
            for run in reversed(self.runs):
                stack.callback(lambda run=run: found.append(run.finish()))
        return found

    def stop(self) -> None:
        """Stops the run cleanly; see `FileRun.stop`."""
        self._pipeline.stop()

    def status_line(self) -> str:
        """The status lines of all sources."""
        return " || ".join(f"{i}: {run.totals.status_line()}" for i, run in enumerate(self.runs, start=1))

    def _name_folders(self) -> None:
        """Gives each run a folder named after its source, now that the sources are open.

        Announces all runs to the taps, because a source that is away starts late or never.
        """
        taken: set[str] = set()
        folders: set[str] = set()
        opened = self.source.opened
        for run in self.runs:
            stem = run.source.info.stem if run.place in opened else run.source.stem
            stem = unique_name(stem, taken)  # numbered by index here; taps would number them by first frame
            folder = unique_name(safe_stem(stem), folders)
            run.outputs.stem, run.outputs.config = stem, self.config.below(folder)
            for tap in self._taps:
                if isinstance(tap, Expecting):
                    tap.expect(stem, run.source.name, live=run.live, state=lambda run=run: run.source_state)


def _check(specs: Sequence[str], config: RunConfig) -> None:
    if config.smooth.method == "rts":
        raise ConfigError("smooth.method rts is for one file at a time; give a single --source, or --smooth kalman")
    if is_boxes_file(config.detector.name):
        raise ConfigError(f"boxes of {config.detector.name} belong to one source; several need a detector")
    if config.detector.region:
        raise ConfigError(
            f"--region {config.detector.region} is for the picture of one source; give a single --source, or leave it "
            "out"
        )
    if specs.count("-") > 1:
        raise ConfigError("standard input is one source, but '-' is given more than once")


class _Part(FileRun):
    """The run of one source among several: its outputs and figures."""

    _finished = False

    def belongs_to(self, pipeline: Pipeline, group: SourceGroup) -> None:
        """Sets the pipeline that all sources share."""
        self._pipeline, self._group = pipeline, group
        self.write = WriteStage(
            lambda: self.open_outputs(video=self.config.output.video), self.totals, self.tracking.observe
        )

    @property
    def status(self) -> Status:
        """The status of the whole run, but 'error' if this source failed while others continued."""
        return "error" if self.failed else super().status

    @property
    def failed(self) -> bool:
        """Whether this source has failed."""
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
    """Runs the detector on the frames of a round, one after another."""

    parts: Sequence[DetectStage]
    sources: SourceGroup
    name: str = "detect"

    def open(self) -> None:
        """Loads the shared model and prepares it for the first available source."""
        self.parts[self.sources.opened[0]].open()

    def process(self, item: Round, /) -> Iterator[Packets]:
        """The round with the boxes of each frame."""
        yield tuple((place, packet) for place, frame in item for packet in self.parts[place].process(frame))

    def close(self, status: Status, /) -> None:
        """Frees the model."""
        self.parts[0].close(status)


@dataclass
class _People(BaseStage[Packets, Packets]):
    """Tracks each source, estimates the poses of all people in a round at once, and smooths each source."""

    tracks: Sequence[TrackStage]
    estimate: EstimateStage
    smooths: Sequence[SmoothStage]
    name: str = "track+pose+smooth"

    def open(self) -> None:
        """Loads the network."""
        self.estimate.open()

    def process(self, item: Packets, /) -> Iterator[Packets]:
        """The round with its people."""
        tracked = [(place, out) for place, packet in item for out in self.tracks[place].process(packet)]
        posed = zip(tracked, self.estimate.together(tracked), strict=True)
        yield tuple((place, out) for (place, _), packet in posed for out in self.smooths[place].process(packet))

    def close(self, status: Status, /) -> None:
        """Frees the last poses."""
        self.estimate.close(status)


@dataclass
class _Write(BaseStage[Packets, Packets]):
    """Passes each packet to the outputs of its source."""

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
        """Finishes all outputs; raises an error only after all were tried."""
        with contextlib.ExitStack() as stack:
            for run in reversed(self.runs):
                stack.callback(run.write.close, "error" if run.failed else status)


def _room(round_: Round | Packets) -> int:
    """How many rounds of this size may wait between two threads."""
    return room_for(*(item for _, item in round_))


def fold_rounds(dropped: Any, kept: Any) -> Any:
    """Merges a dropped round into the next one: frames of sources that only the dropped one has are kept."""
    frames: dict[int, Any] = dict(dropped)
    for place, item in kept:
        frames[place] = count_dropped(frames[place], item) if place in frames else item
    return tuple(sorted(frames.items(), key=lambda pair: pair[0]))
