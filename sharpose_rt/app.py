"""A run over one source with its outputs and its ending."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from sharpose_rt.config import RunConfig, to_dict
from sharpose_rt.errors import ConfigError, SharposeError
from sharpose_rt.graph import Models, People, Tracking, room_for
from sharpose_rt.outputs import Results, RunOutputs, check_outputs
from sharpose_rt.runtime import SLOW_DECODER, BaseStage, Pipeline, Status
from sharpose_rt.types import Detections, Frame, Packet, Poses

if TYPE_CHECKING:
    from sharpose_rt.media import Source
    from sharpose_rt.runtime import PipelineStats
    from sharpose_rt.stages import Sink, Tap
    from sharpose_rt.tracking import Tracker
    from sharpose_rt.tracking.camera import Camera

log = logging.getLogger("sharpose_rt")


class Run:
    """One run with outputs: stream, annotated video or pictures, summary.

    Args:
        people: where the people come from, and their source.
        config: validated.
        open_again: opens the source again, for a second pass.
        taps: receive each frame as it is done, such as the browser view.
        taken: names of outputs used by earlier runs, to which it adds its own.

    Raises:
        ConfigError: the options do not go together.
    """

    def __init__(
        self,
        people: People,
        config: RunConfig,
        open_again: Callable[[], Source],
        taps: Sequence[Tap] = (),
        taken: set[str] | None = None,
    ) -> None:
        check_outputs(config.output)
        if config.smooth.method == "rts" and config.output.split_s:
            raise ConfigError("smooth.method rts needs the whole video, which --split divides; leave one of them out")
        self.people, self.source, self.totals, self.live = people, people.source, people.totals, people.live
        self.outputs = RunOutputs(people, config, taps, taken)
        self._open_again = open_again
        self._forward: list[_Passed] = []
        self._pipeline: Pipeline | None = None
        self._forward_stats: PipelineStats | None = None
        self._faults = people.source.faults  # of the first pass: the second one may be interrupted
        self._stopped = False
        self._half_smoothed = False  # the backward pass has failed

    @property
    def config(self) -> RunConfig:
        """The configuration, including where the results go."""
        return self.outputs.config

    def run(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Results:
        """Runs to the end, calling `on_packet` in the calling thread after each frame was written.

        Raises:
            SharposeError: and anything else raised by a stage, after all outputs were closed.
        """
        from sharpose_rt.stages import WriteStage

        with_rts = self.config.smooth.method == "rts"
        sinks = lambda: self.open_outputs(video=self.config.output.video and not with_rts)  # noqa: E731
        write = WriteStage(sinks, self.totals, self.people.observe, self.ending)
        self._pipeline = self.people.pipeline(write)
        if self._stopped:
            self._pipeline.stop()
        try:
            with closing(self._pipeline.run()) as packets:
                for packet in packets:
                    if with_rts:
                        assert packet.poses is not None
                        known = packet.camera, packet.new_scene, packet.detections
                        self._forward.append(_Passed(packet.frame.pts_s, packet.poses, *known))
                    on_packet(packet)
            if self._forward and len(self._forward) == self.totals.frames:  # otherwise it was aborted
                self._backward_pass(on_packet)
        except BaseException:
            with contextlib.suppress(SharposeError):  # an error in writing the summary must not hide the cause
                self._finish()
            raise
        return self._finish()

    def stop(self) -> None:
        """Stops the run cleanly: frames in progress are still written. A second call discards them."""
        self._stopped = True
        if self._pipeline is not None:
            self._pipeline.stop()

    @property
    def status(self) -> Status:
        """How the run ended, or its current state."""
        if self._half_smoothed:
            return "error"
        return "interrupted" if self._pipeline is None else self.ending(self._pipeline.status)

    def ending(self, status: Status) -> Status:
        """The status to write for a run that ended with `status`."""
        return status

    @property
    def source_state(self) -> str:
        """Like `Source.state`; also 'lost' if the source has failed while others continue."""
        return self.source.state

    def open_outputs(self, *, video: bool, stream: bool = True) -> Iterator[Sink]:
        """See `RunOutputs.open`."""
        return self.outputs.open(self.source.info, lambda: self.source_state, video=video, stream=stream)

    def _backward_pass(self, on_packet: Callable[[Packet], None]) -> None:
        """Smooths forward and backward, replaces the stream, and reads the source again for the video."""
        from sharpose_rt.skeletons import rewrite_stream
        from sharpose_rt.stages import RunTotals, WriteStage
        from sharpose_rt.tracking import rts_smooth

        self._half_smoothed = True
        passed, self._forward = self._forward, []
        begins = [0, *(n for n, one in enumerate(passed) if one.new_scene and n), len(passed)]
        smoothed: list[Poses] = []
        for scene in (passed[begin:end] for begin, end in pairwise(begins)):
            forward, cameras = [(one.pts_s, one.poses) for one in scene], [one.camera for one in scene]
            smoothed += rts_smooth(forward, self.config.smooth, self.people.skeleton, cameras)
        if self.config.output.stream:
            rewrite_stream(self.outputs.stream, smoothed, smoothing="rts")
        self._half_smoothed = False
        self.totals.recount(smoothed)
        if not self.config.output.video:
            return
        assert self._pipeline is not None
        self._forward_stats = self._pipeline.stats()
        self.source = self._open_again()
        write = WriteStage(lambda: self.open_outputs(video=True, stream=False), RunTotals())
        stages = [_Attach([one._replace(poses=poses) for one, poses in zip(passed, smoothed, strict=True)]), write]
        self._pipeline = Pipeline(self.source, stages, self.config.queue_frames, room=room_for)
        if self._stopped:  # while it was smoothed
            self._pipeline.stop()
            log.warning("interrupted: the skeletons are written, but not the video, which rts writes afterwards")
        with closing(self._pipeline.run()) as packets:
            for packet in packets:
                on_packet(packet)

    def _finish(self) -> Results:
        from sharpose_rt.media.source import let_go

        let_go(self.source)
        return self.outputs.finish(self.status, self._figures())

    @property
    def _left_out(self) -> dict[str, int]:
        """Frames that the source skipped, by reason."""
        return {SLOW_DECODER: self._faults.left_out} if self._faults.left_out else {}

    def _figures(self) -> dict[str, Any]:
        from sharpose_rt.skeletons import versions

        t, pipeline = self.totals, self._pipeline
        run = self._forward_stats or (pipeline and pipeline.stats())
        stats = run.summary() if run else {}
        elapsed_s = stats.get("elapsed_s", 0.0)
        return {
            "status": self.status,
            "source": self.source.name,
            "folder": os.getcwd(),  # noqa: PTH109 - relative names of the source refer to it
            "place": self.outputs.place,
            "stored": self.people.source.stored,
            "frames": t.frames,
            "dropped": {**stats.get("dropped", {}), **self._left_out},
            "frames_per_s": t.frames / elapsed_s if elapsed_s else None,
            "people": {"rows": t.people, "most_in_a_frame": t.most_people, "ids": len(t.ids)},
            "stages": {"coarse": t.coarse, "fine": t.fine, "predicted": t.predicted},
            "exit_rate": t.exit_rate,
            "latency_ms": t.latency_ms(),
            "damaged": self._faults.damaged,
            "cut_off": self._faults.cut_off,
            "times_lost": t.losses,  # may be more than are listed
            "losses": [vars(loss) for loss in self.source.losses],
            "pipeline": stats,
            **self.people.figures(),
            "config": to_dict(self.config),
            "versions": versions(),
        }


class FileRun(Run):
    """The main run over one source: detects people, tracks them and estimates their poses.

    Args:
        spec: a single source, as from `media.expand_sources`.
        config: validated.
        taps, taken: see `Run`.
        sources, first, place: of the run among several, see `Tracking`.
        tracker, models: see `Tracking`.

    Raises:
        ConfigError: the options do not go together.
    """

    def __init__(
        self,
        spec: str,
        config: RunConfig,
        taps: Sequence[Tap] = (),
        *,
        sources: int = 1,
        first: Tracking | None = None,
        place: int = 0,
        tracker: Tracker | None = None,
        taken: set[str] | None = None,
        models: Models | None = None,
    ) -> None:
        from sharpose_rt.media import is_live, open_source

        self.place = place
        source, live = open_source(spec, config.source), is_live(spec, config.source)
        _check_smoothing(config, spec, source.name if live else None)
        self.tracking = Tracking(
            source, config, sources=sources, first=first, place=place, tracker=tracker, live=live, models=models
        )
        super().__init__(self.tracking, config, lambda: open_source(spec, config.source), taps, taken)


def _check_smoothing(config: RunConfig, spec: str, live: str | None) -> None:
    """Raises ConfigError if the source cannot be smoothed backward; `live` is its name if it is live, else None."""
    if config.smooth.method != "rts":
        return
    if live is not None:
        raise ConfigError(f"smooth.method is rts, but {live} is live; kalman or none is accepted")
    if spec == "-" and config.output.video:
        raise ConfigError("smooth.method rts reads the video twice, which standard input cannot; add --no-video")


class _Passed(NamedTuple):
    """What is kept from a frame for the second pass."""

    pts_s: float
    poses: Poses
    camera: Camera | None
    new_scene: bool
    detections: Detections | None


class _Attach(BaseStage[Frame, Packet]):
    """Adds to each frame, by its number, what was kept from the first pass, with poses smoothed backward."""

    name = "attach"

    def __init__(self, passed: list[_Passed]) -> None:
        self.passed = passed

    def process(self, item: Frame, /) -> Iterator[Packet]:
        """The frame with its poses."""
        if item.frame_id < len(self.passed):
            _, poses, camera, new_scene, detections = self.passed[item.frame_id]
            yield Packet(item, detections, camera=camera, poses=poses, new_scene=new_scene)
