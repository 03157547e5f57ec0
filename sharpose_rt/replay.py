"""A run whose people come from a skeleton stream: shows, tracks and smooths them again without a network.

stored frames ──► recall ──► track ──► identify ──► choose ──► smooth ──► write
                             └── if people are tracked again ──┘
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sharpose_rt import __version__
from sharpose_rt.app import Run
from sharpose_rt.config import RunConfig
from sharpose_rt.config.checks import Unset
from sharpose_rt.engine import Appearance
from sharpose_rt.errors import ConfigError, OutputError
from sharpose_rt.graph import room_for
from sharpose_rt.media import PacedSource, SourceInfo
from sharpose_rt.outputs import Results
from sharpose_rt.runtime import Chain, Pipeline, Stage, Status
from sharpose_rt.skeletons import Header, StreamReader, output_paths
from sharpose_rt.skeletons.records import utc_now
from sharpose_rt.stages import (
    ChoosePeopleStage,
    IdentifyStage,
    RecallStage,
    RunTotals,
    SmoothStage,
    StoredFrames,
    Swap,
    TrackStage,
)
from sharpose_rt.tracking import CameraMotion, KeypointSmoother, PeopleMotion, SceneCuts, create_tracker
from sharpose_rt.types import Packet

if TYPE_CHECKING:
    from sharpose_rt.media import Source
    from sharpose_rt.stages import Tap

log = logging.getLogger("sharpose_rt")


@dataclass(frozen=True)
class Changes:
    """Changes to the people of a stream.

    Args:
        track: track them again, with the configured tracker.
        smooth: smooth them again from their raw keypoints, with the configured method.
        same: maps ids to the id of the same person.
        wanted: ids to keep, after merging; None keeps everybody.
        swaps: ids to exchange, before merging.
    """

    track: bool = False
    smooth: bool = False
    same: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    wanted: frozenset[int] | None = None
    swaps: Sequence[Swap] = ()

    @property
    def any(self) -> bool:
        """Whether the stream changes."""
        return self.track or self.smooth or bool(self.same or self.swaps) or self.wanted is not None


class ReplayTotals(RunTotals):
    """Totals of a replay, with media time instead of speed in the status line."""

    pts_s = 0.0

    def add(self, packet: Packet) -> None:
        """Adds one frame."""
        super().add(packet)
        self.pts_s = packet.frame.pts_s

    def status_line(self) -> str:
        """'12.48 s | 3 people': drawn on the video and shown as progress."""
        return f"{self.pts_s:.2f} s | {self.people_now} {'person' if self.people_now == 1 else 'people'}"


class Recalled:
    """People of a stream; see `graph.People`.

    Args:
        path: of the stream.
        config: validated; its detector, network and budget are not used.
        changes: to the people.
        video: of the stream; None shows people on black.
        paced: play at the pace of the stream.
        loop: repeat until stopped.

    Raises:
        ConfigError: poses must be compared, but the keypoints belong to no known set.
        StreamError: the stream cannot be read.
        SourceError: there is no such video.
    """

    live = False

    def __init__(
        self,
        path: str,
        config: RunConfig,
        changes: Changes,
        video: str | None = None,
        *,
        paced: bool = False,
        loop: bool = False,
    ) -> None:
        self.config, self.changes, self._video, self._loop = config, changes, video, loop
        self.reader = StreamReader(path)
        self.skeleton = self.reader.header.skeleton
        follows = changes.track and config.tracker.name == "sharpose"  # the other one only uses boxes
        smooths = changes.smooth and config.smooth.method != "none"
        if (follows or smooths) and len(self.skeleton.sigmas) != len(self.skeleton):
            advice = ("use --tracker bytetrack",) * follows + ("give --smooth none",) * smooths
            raise ConfigError(
                f"{path} has {len(self.skeleton)} keypoints that belong to no known set, so poses cannot be compared; "
                f"{' and '.join(advice)}"
            )
        self.totals: RunTotals = ReplayTotals(two_stages=False)
        self._count = self.reader.warn_unless_complete()
        self.frames = self.open_again()
        self.source: Source = _Patient(self.frames) if paced else self.frames
        tracker = config.tracker
        if isinstance(tracker.high_score, Unset):  # the people in a stream have been selected already
            tracker = replace(tracker, high_score=0.0)
        self.tracker = create_tracker(tracker, self.skeleton) if changes.track else None
        self.identify = IdentifyStage(tracker.match_threshold)
        self.choose = ChoosePeopleStage(changes.same, changes.wanted, changes.swaps)

    def open_again(self) -> StoredFrames:
        """The frames again from the start."""
        return StoredFrames(self.reader, self._count, self.config.source, self._video, loop=self._loop)

    def pipeline(self, *more: Stage[Any, Any]) -> Pipeline:
        """See `graph.People`."""
        config, changes = self.config, self.changes
        seen = changes.track and self.frames.has_pictures
        cuts = SceneCuts(config.tracker.scene_cut) if seen else None
        follows = changes.track and config.tracker.camera_motion
        motion = PeopleMotion(self.skeleton.body) if follows and not seen else None
        anew = changes.track or changes.smooth
        stages: list[Stage[Any, Any]] = [RecallStage(anew=anew, detect=changes.track, motion=motion, cuts=cuts)]
        if self.tracker is not None:
            camera = CameraMotion() if follows and seen else None
            look = None
            if seen and config.tracker.name == "sharpose" and config.tracker.remember_s > 0:
                look = Appearance().look
            stages += [TrackStage(self.tracker, lambda: self.identify.last_poses, camera, look), self.identify]
        stages.append(self.choose)
        if changes.smooth:
            stages.append(SmoothStage(KeypointSmoother(config.smooth, self.skeleton)))
        people = Chain("people", stages)
        return Pipeline(self.source, [people, *more], capacity=config.queue_frames, room=room_for)

    def observe(self, packet: Packet) -> None:
        """See `graph.People`."""

    def header(self, info: SourceInfo) -> Header:
        """See `graph.People`."""
        stored, changes = self.reader.header, self.changes
        return replace(
            stored,
            tracker=stored.tracker if self.tracker is None else self.tracker.name,
            smoothing=self.config.smooth.forward if changes.smooth else stored.smoothing,
            version=__version__,
            created=utc_now(),
        )

    def figures(self) -> dict[str, Any]:
        """See `graph.People`."""
        changes = self.changes
        return {
            "stream": str(self.reader.path),
            "video": self._video,
            "unseen": self.frames.unseen,
            "changes": {
                "track": changes.track,
                "smooth": changes.smooth,
                "swap": [[*swap] for swap in changes.swaps],
                "merge": {str(old): new for old, new in changes.same.items()},
                "people": None if changes.wanted is None else sorted(changes.wanted),
            },
            "left_out": self.identify.left_out,
            "known_again": 0 if self.tracker is None else self.tracker.known_again,
        }


class _Patient(PacedSource):
    """Plays at the pace of its timestamps, or slower, and drops nothing."""

    def open(self) -> None:
        """See `Source.open`."""
        super().open()
        if self._info is not None:
            self._info = self.inner.info


class ReplayRun(Run):
    """A run over the people of a stream. Requested outputs are written; the stream itself only if it changes.

    Args:
        path: of the stream.
        config: only its sections source (which part), tracker, smooth, draw and output are used.
        changes: to the people.
        video: of the stream; None draws people on black.
        taps: receive each frame as it is done.
        paced: play at the pace of the stream.
        loop: repeat until stopped; nothing is written.

    Raises:
        ConfigError: the options do not go together.
        StreamError: the stream cannot be read.
        SourceError: there is no such video.
        OutputError: an input would be overwritten.
    """

    def __init__(
        self,
        path: str,
        config: RunConfig,
        changes: Changes | None = None,
        video: str | None = None,
        taps: Sequence[Tap] = (),
        *,
        paced: bool = False,
        loop: bool = False,
    ) -> None:
        changes = changes or Changes()
        if loop and (config.output.video or config.output.formats):
            raise ConfigError("--loop never ends, so nothing can be written; add --no-video, and leave out --format")
        if loop and config.smooth.method == "rts" and changes.smooth:
            raise ConfigError("smooth.method rts needs the whole stream, and --loop never ends; replay it first")
        if config.smooth.method == "rts" and not changes.smooth:
            config = replace(config, smooth=replace(config.smooth, method="none"))
        read = config.source
        part = read.start_s > 0 or read.end_s is not None or read.max_frames is not None or read.stride > 1
        stream = config.output.stream and not loop and (changes.any or part or bool(config.output.formats))
        config = replace(config, output=replace(config.output, stream=stream))
        self._recalled = Recalled(path, config, changes, video, paced=paced, loop=loop)
        if config.output.overwrite:
            _check_apart(config, self._recalled.frames.stem, (path, video))
        super().__init__(self._recalled, config, self._recalled.open_again, taps)

    def ending(self, status: Status) -> Status:
        """The results of an incomplete stream are incomplete too."""
        end = self._recalled.reader.end
        stored = "interrupted" if end is None else end["status"]
        return stored if status == "complete" and self._recalled.frames.read_to_its_end else status

    def run(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Results:
        """See `Run.run`; warns about ids that do not exist."""
        results = super().run(on_packet)
        changes, frames = self._recalled.changes, self._recalled.frames
        named = set(changes.same) | (changes.wanted or set())
        if missing := sorted(named - self._recalled.choose.seen):
            log.warning("nobody in %s has the id %s", frames.name, ", ".join(map(str, missing)))
        for one, other, from_s in sorted(set(changes.swaps) - self._recalled.choose.made):
            log.warning("nobody in %s has the id %d or %d from %g s on", frames.name, one, other, from_s)
        if frames.unseen:
            log.warning(
                "%d of %d frames of %s have no picture at their time in the video, and are drawn on black",
                frames.unseen, self.totals.frames, frames.name,
            )  # fmt: skip
        return results


def _check_apart(config: RunConfig, stem: str, read: Sequence[str | None]) -> None:
    """Raises OutputError if `--overwrite` would replace an input."""
    paths = output_paths(config.output.directory, stem, overwrite=True)
    for path in (paths.stream, paths.video):
        if any(name is not None and path.resolve() == Path(name).resolve() for name in read):
            raise OutputError(f"{path} is an input; choose another folder (--output), or leave out --overwrite")
