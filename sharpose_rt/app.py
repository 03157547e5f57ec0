"""From a configuration to a run: the one place where the graph is put together.

    capture -> detect -> track -> pose -> smooth -> write

Each is a thread of its own with a bounded channel before it, but for track, pose and smooth when the tracker uses
the last pose: that is a loop, which lives in one thread, since a loop between threads would either wait as long or
make the result depend on their timing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpose_rt.config import RunConfig, to_dict
from sharpose_rt.errors import ConfigError, SharposeError
from sharpose_rt.models.variants import find_variant
from sharpose_rt.runtime import BaseStage, Chain, Pipeline, Stage, Status
from sharpose_rt.types import Frame, Packet, Poses

if TYPE_CHECKING:
    from sharpose_rt.engine import PoseEngine
    from sharpose_rt.media import Source
    from sharpose_rt.skeletons import OutputPaths
    from sharpose_rt.stages import Sink

log = logging.getLogger("sharpose_rt")


@dataclass(frozen=True)
class Results:
    """Where a run's outputs are (None: not written), how it ended, and the contents of its summary."""

    status: Status
    stream: Path | None
    video: Path | None
    summary: Path | None
    figures: dict[str, Any]


class Tracking:
    """Source, models and stages of one run over one source, before any output.

    Args:
        source: not yet open; closed by the run.
        config: checked already.

    Raises:
        ConfigError: the options do not go together.
    """

    def __init__(self, source: Source, config: RunConfig) -> None:
        # Imported here: they pull in torch and its friends, which --help and `validate` do without.
        from sharpose_rt.detection import create_detector, is_boxes_file
        from sharpose_rt.engine import resolve_device
        from sharpose_rt.stages import DetectStage, EstimateStage, RunTotals, SmoothStage, TrackStage
        from sharpose_rt.tracking import KeypointSmoother, create_tracker

        part = config.source.start_s > 0 or config.source.stride > 1
        if part and is_boxes_file(config.detector.name):
            raise ConfigError(
                f"boxes of {config.detector.name} belong to the source's frames one by one; leave --start and --stride "
                "away, or use a detector"
            )
        self.source, self.config = source, config
        self.skeleton = find_variant(config.pose.model).skeleton
        device = str(resolve_device(config.pose.device))
        self.detector = create_detector(config.detector, device=device, offline=config.offline)
        self.tracker = create_tracker(config.tracker, self.skeleton)
        self.totals = RunTotals()
        self._estimate = EstimateStage(config.pose)
        stages: list[Stage[Any, Any]] = [
            TrackStage(self.tracker, lambda: self._estimate.last_poses),
            self._estimate,
            SmoothStage(KeypointSmoother(config.smooth, self.skeleton)),
        ]
        if self.tracker.uses_poses or config.detector.every > 1:
            stages = [Chain("track+pose+smooth", stages)]
        self.stages: list[Stage[Any, Any]] = [DetectStage(self.detector, config.detector.every), *stages]

    @property
    def engine(self) -> PoseEngine:
        """The pose engine; there once the stages are open."""
        assert self._estimate.engine is not None
        return self._estimate.engine

    @property
    def opened(self) -> bool:
        """The source and the network were opened."""
        return self._estimate.engine is not None

    def pipeline(self, *more: Stage[Any, Any], live: bool) -> Pipeline:
        """The whole graph, with `more` stages after smoothing."""
        return Pipeline(
            self.source, [*self.stages, *more], capacity=self.config.queue_frames, live=live, fold=count_dropped
        )


class FileRun:
    """One run with outputs: stream, annotated video or pictures, summary.

    Args:
        spec: a single source, as `media.expand_sources` gives it.
        config: checked already.
    """

    def __init__(self, spec: str, config: RunConfig) -> None:
        from sharpose_rt.media import is_live, open_source

        self.spec, self.config = spec, config
        self.source = open_source(spec, config.source)
        self.live = is_live(spec)
        self._check()
        self.tracking = Tracking(self.source, config)
        self.totals = self.tracking.totals
        self._paths: OutputPaths | None = None
        self._sinks: list[Sink] = []
        self._forward: list[tuple[float, Poses]] = []
        self._pipeline: Pipeline | None = None
        self._stopped = False

    def _check(self) -> None:
        if self.config.smooth.method != "rts":
            return
        if self.live:
            raise ConfigError(f"smooth.method is rts, but {self.source.name} is live; kalman or none is accepted")
        if self.spec == "-" and self.config.output.video:
            raise ConfigError("smooth.method rts reads the video twice, which standard input cannot; add --no-video")

    def run(self, on_packet: Callable[[Packet], None] = lambda packet: None) -> Results:
        """Runs to the end, calling `on_packet` in the caller's thread after each frame was written.

        Raises:
            SharposeError: and anything else that a stage raised, after all outputs were closed.
        """
        from sharpose_rt.stages import WriteStage

        with_rts = self.config.smooth.method == "rts"
        write = WriteStage(lambda: self._open_sinks(video=self.config.output.video and not with_rts), self.totals)
        self._pipeline = self.tracking.pipeline(write, live=self.live)
        if self._stopped:
            self._pipeline.stop()
        try:
            with closing(self._pipeline.run()) as packets:
                for packet in packets:
                    if with_rts:
                        assert packet.poses is not None
                        self._forward.append((packet.frame.pts_s, packet.poses))
                    on_packet(packet)
            if self._forward and len(self._forward) == self.totals.frames:  # else it was cut short the hard way
                self._backward_pass(on_packet)
        except BaseException:
            with contextlib.suppress(SharposeError):  # a summary that cannot be written must not hide why
                self._finish()
            raise
        return self._finish()

    def stop(self) -> None:
        """Ask for an orderly end: what is under way is still written. A second call throws it away."""
        self._stopped = True
        if self._pipeline is not None:
            self._pipeline.stop()

    @property
    def status(self) -> Status:
        """How the run ended, or stands."""
        return "interrupted" if self._pipeline is None else self._pipeline.status

    def _open_sinks(self, *, video: bool, stream: bool = True) -> Iterator[Sink]:
        """Opens the outputs one by one, so that whoever takes them can close those that opened before one failed."""
        from sharpose_rt.skeletons import output_paths
        from sharpose_rt.stages import ImageSink, StreamSink, VideoSink

        output, info = self.config.output, self.source.info
        paths = self._paths = self._paths or output_paths(output.directory, info.stem, output.overwrite)
        if stream and output.stream:
            yield self._keep(StreamSink(paths.stream, self._header, live=self.live, overwrite=output.overwrite))
        if video and info.kind in ("image", "images"):
            yield self._keep(ImageSink(paths.image, info, self.tracking.skeleton, self.config.draw))
        elif video:
            yield self._keep(VideoSink(paths.video, info, self.tracking.skeleton, self.config.draw, output))

    def _keep(self, sink: Sink) -> Sink:
        self._sinks.append(sink)
        return sink

    def _backward_pass(self, on_packet: Callable[[Packet], None]) -> None:
        """Smooths both ways, replaces the stream, and reads the source again for the video."""
        from sharpose_rt.media import open_source
        from sharpose_rt.skeletons import rewrite_stream
        from sharpose_rt.stages import RunTotals, WriteStage
        from sharpose_rt.tracking import rts_smooth

        smoothed = rts_smooth(self._forward, self.config.smooth, self.tracking.skeleton)
        self._forward = []
        assert self._paths is not None
        if self.config.output.stream:
            rewrite_stream(self._paths.stream, smoothed, smoothing="rts")
        if not self.config.output.video or self._stopped:
            return
        self.source = open_source(self.spec, self.config.source)
        write = WriteStage(lambda: self._open_sinks(video=True, stream=False), RunTotals())
        self._pipeline = Pipeline(self.source, [_Attach(smoothed), write], capacity=self.config.queue_frames)
        with closing(self._pipeline.run()) as packets:
            for packet in packets:
                on_packet(packet)

    def _header(self) -> Any:
        from sharpose_rt.skeletons import Header

        info, engine, config = self.source.info, self.tracking.engine, self.config
        return Header(
            source=info.name,
            frame_size_wh=info.size_wh,
            fps=info.fps,
            skeleton=self.tracking.skeleton,
            model={
                "name": config.pose.model,
                "weights_sha256": engine.weights.sha256 or None,
                "behaviour": engine.network.behaviour.name,
                "quality_threshold": engine.quality_threshold,
            },
            detector=self.tracking.detector.name,
            tracker=self.tracking.tracker.name,
            # Until the backward pass has been, the stream holds what the forward one smoothed.
            smoothing="kalman" if config.smooth.method == "rts" else config.smooth.method,
            version=version(),
        )

    def _finish(self) -> Results:
        """Closes the source, writes the summary, gives back unused names."""
        from sharpose_rt.skeletons import write_summary
        from sharpose_rt.stages import StreamSink

        self.source.close()
        figures = self._figures()
        stream = next((s.path for s in self._sinks if isinstance(s, StreamSink)), None)
        video = next((s.path for s in self._sinks if not isinstance(s, StreamSink)), None)
        summary = None
        if self._paths is not None:
            self._paths.release()
            summary = self._paths.summary
            write_summary(summary, figures)
        return Results(self.status, stream, video, summary, figures)

    def _figures(self) -> dict[str, Any]:
        from sharpose_rt.skeletons import versions

        t, pipeline = self.totals, self._pipeline
        stats = pipeline.stats().summary() if pipeline is not None else {}
        latency = {f"p{q}": t.latency.percentile(q) * 1e3 for q in (50, 95, 99)}
        elapsed_s = stats.get("elapsed_s", 0.0)
        return {
            "status": self.status,
            "source": self.source.name,
            "frames": t.frames,
            "dropped": stats.get("dropped", {}),
            "frames_per_s": t.frames / elapsed_s if elapsed_s else None,
            "people": {"rows": t.people, "most_in_a_frame": t.most_people, "ids": len(t.ids - {0})},
            "stages": {"coarse": t.coarse, "fine": t.fine, "predicted": t.predicted},
            "exit_rate": t.exit_rate,
            "latency_ms": {"capture_to_output": latency},
            "pipeline": stats,
            "detector": self.tracking.detector.name,
            "device": str(self.tracking.engine.device) if self.tracking.opened else None,
            "precision": str(self.tracking.engine.dtype) if self.tracking.opened else None,
            "weights": vars(self.tracking.engine.weights) if self.tracking.opened else None,
            "config": to_dict(self.config),
            "versions": versions(),
        }


class _Attach(BaseStage[Frame, Packet]):
    """Gives each frame, by its number, the poses that the backward pass found for it."""

    name = "attach"

    def __init__(self, frames: list[Poses]) -> None:
        self.frames = frames

    def process(self, item: Frame, /) -> Iterator[Packet]:
        """The frame with its poses."""
        if item.frame_id < len(self.frames):
            yield Packet(item, poses=self.frames[item.frame_id])


def count_dropped(dropped: Frame | Packet, kept: Frame | Packet) -> Frame | Packet:
    """The item after a dropped one, its frame knowing how many were dropped before it.

    The boxes of a dropped frame go on with the next one where that has none of its own: with `detector.every` they
    are the only ones for a while.
    """
    if isinstance(kept, Packet):
        assert isinstance(dropped, Packet)
        detections = dropped.detections if kept.detections is None else kept.detections
        return replace(kept, frame=_counted(dropped.frame, kept.frame), detections=detections)
    assert isinstance(dropped, Frame)
    return _counted(dropped, kept)


def _counted(dropped: Frame, kept: Frame) -> Frame:
    return replace(kept, dropped_before=kept.dropped_before + dropped.dropped_before + 1)


def version() -> str:
    """Version of this package."""
    try:
        return importlib.metadata.version("sharpose-rt")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
