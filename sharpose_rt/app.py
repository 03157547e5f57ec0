"""From a configuration to a run: the one place where the graph is put together.

    capture -> detect -> track -> pose -> smooth -> write

Each is a thread of its own with a bounded channel before it, but for track, pose and smooth when the tracker uses
the last pose: that is a loop, which lives in one thread, since a loop between threads would either wait as long or
make the result depend on their timing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpose_rt import __version__
from sharpose_rt.config import RunConfig, to_dict
from sharpose_rt.config.checks import is_boxes_file
from sharpose_rt.errors import ConfigError, SharposeError
from sharpose_rt.models.variants import find_variant
from sharpose_rt.runtime import BaseStage, Chain, Pipeline, Stage, Status
from sharpose_rt.types import Frame, Packet, Poses

if TYPE_CHECKING:
    from sharpose_rt.engine import PoseEngine
    from sharpose_rt.media import Painter, Source
    from sharpose_rt.runtime import PipelineStats
    from sharpose_rt.skeletons import OutputPaths
    from sharpose_rt.stages import Sink, Tap
    from sharpose_rt.tracking import Tracker

log = logging.getLogger("sharpose_rt")

QUEUE_BYTES = 64 << 20
"""Pictures that wait between two threads take this much memory at most."""


@dataclass(frozen=True)
class Results:
    """Where a run's outputs are (None: not written), how it ended, and the contents of its summary."""

    status: Status
    stream: Path | None
    video: Path | None
    summary: Path | None
    figures: dict[str, Any]
    formats: tuple[Path, ...] = ()


class Tracking:
    """Source, models and stages of one run over one source, before any output.

    Args:
        source: not yet open; closed by the run.
        config: checked already.
        sources: how many sources share the detector, the network and the budget.
        first: of those, the one that has been made already; None where this is the first.
        place: of this source among them.
        tracker: in place of the one that the configuration names.
        live: nobody waits for a larger batch to be prepared, and the first frame for nothing.

    Raises:
        ConfigError: the options do not go together.
    """

    def __init__(
        self,
        source: Source,
        config: RunConfig,
        sources: int = 1,
        first: Tracking | None = None,
        place: int = 0,
        tracker: Tracker | None = None,
        *,
        live: bool = False,
    ) -> None:
        # Imported here: they pull in torch and its friends, which --help and `validate` do without.
        from sharpose_rt.detection import Runtime, create_detector
        from sharpose_rt.engine import choose, resolve_device
        from sharpose_rt.stages import BudgetController, DetectStage, EstimateStage, RunTotals, SmoothStage, TrackStage
        from sharpose_rt.stages.needs import all_sure
        from sharpose_rt.tracking import KeypointSmoother, SceneCuts, create_tracker

        part = config.source.start_s > 0 or config.source.stride > 1
        if part and is_boxes_file(config.detector.name):
            raise ConfigError(
                f"boxes of {config.detector.name} belong to the source's frames one by one; leave --start and --stride "
                "away, or use a detector"
            )
        self.source, self.config, self.place = source, config, place
        self.skeleton = find_variant(config.pose.model).skeleton
        self.tracker = tracker or create_tracker(config.tracker, self.skeleton)
        self.totals = RunTotals()
        if first is None:
            device = str(resolve_device(config.pose.device))
            pose = choose(config.pose)
            runtime = Runtime.beside(pose)
            self.detector = create_detector(config.detector, device=device, offline=config.offline, runtime=runtime)
            self.budget: BudgetController | None = None
            if config.budget.wanted:
                predict = config.smooth.method == "kalman"  # nothing else fills the gaps
                self.budget = BudgetController(config.budget, config.detector.every, predict=predict)
            self.estimate = EstimateStage(pose, self.budget, sources, live=live)
        else:
            self.detector, self.budget, self.estimate = first.detector, first.budget, first.estimate
        # Not through `self`: in a circle the models would stay until Python looks for such.
        budget, estimate, tracks = self.budget, self.estimate, self.tracker
        by_need = config.detector.every_if_sure > 0
        if by_need and (sources > 1 or not self.tracker.uses_poses):
            raise ConfigError(
                "--detect-every-if-sure goes by the poses of the frame before: it takes one source and the tracker "
                "`sharpose`; --detect-every N takes any"
            )

        def every() -> int:
            wanted = config.detector.every if budget is None else budget.plan.detect_every
            # Whom the detector missed has no pose; the others being sure says nothing about them.
            sure = by_need and tracks.settled and all_sure(estimate.last_poses[place])
            return max(wanted, config.detector.every_if_sure) if sure else wanted

        coming = (lambda: source.info.size_wh) if live else None
        self.detect = DetectStage(self.detector, every, SceneCuts(config.tracker.scene_cut), coming)
        self.track = TrackStage(self.tracker, lambda: estimate.last_poses[place])
        self.smooth = SmoothStage(KeypointSmoother(config.smooth, self.skeleton))
        stages: list[Stage[Any, Any]] = [self.track, self.estimate, self.smooth]
        if by_need:  # the detector's turn hangs on the last pose too: one thread, else it would hang on their timing
            stages = [Chain("detect+track+pose+smooth", [self.detect, *stages])]
        elif self.tracker.uses_poses or config.detector.every > 1:
            stages = [self.detect, Chain("track+pose+smooth", stages)]
        else:
            stages = [self.detect, *stages]
        self.stages = stages

    @property
    def engine(self) -> PoseEngine:
        """The pose engine; there once the stages are open."""
        assert self.estimate.engine is not None
        return self.estimate.engine

    @property
    def opened(self) -> bool:
        """The source and the network were opened."""
        return self.estimate.engine is not None

    def observe(self, packet: Packet) -> None:
        """Tells the budget's controller, where there is one, that a frame has come out."""
        if self.budget is not None:
            assert packet.budget is not None
            frame, now_s = packet.frame, time.monotonic()
            refined = packet.budget["refined"]
            self.budget.observe(frame.captured_at_s, now_s, frame.dropped_before, refined, self.place)

    def pipeline(self, *more: Stage[Any, Any], live: bool) -> Pipeline:
        """The whole graph, with `more` stages after smoothing.

        Raises:
            ConfigError: as `check_budget`.
        """
        self.check_budget(live)
        return Pipeline(
            self.source,
            [*self.stages, *more],
            capacity=self.config.queue_frames,
            live=live,
            fold=count_dropped,
            dropping=min(2, len(self.stages)),  # what is made is not dropped
            room=room_for,
        )

    def check_budget(self, live: bool) -> None:
        """Raises ConfigError where there is a budget, but the source is a file that waits as long as it takes."""
        if self.budget is not None and not live:
            raise ConfigError(
                f"--latency-budget-ms and --target-fps are for what is live, and {self.source.name} waits until each "
                "frame is done; add --realtime to play it at its own pace"
            )


class FileRun:
    """One run with outputs: stream, annotated video or pictures, summary.

    Args:
        spec: a single source, as `media.expand_sources` gives it.
        config: checked already.
        taps: what follows the run as it goes, such as the browser view.
        sources, first, place: of the run among several, as `Tracking` takes them.
        tracker: see `Tracking`.
        taken: names of outputs that runs before it have taken, to which it adds its own.
    """

    def __init__(
        self,
        spec: str,
        config: RunConfig,
        taps: Sequence[Tap] = (),
        sources: int = 1,
        first: Tracking | None = None,
        place: int = 0,
        tracker: Tracker | None = None,
        taken: set[str] | None = None,
    ) -> None:
        from sharpose_rt.media import is_live, open_source

        self.spec, self.config, self.taps, self.place = spec, config, tuple(taps), place
        self.source = open_source(spec, config.source)
        self.live = is_live(spec, config.source)
        self._check()
        self.tracking = Tracking(self.source, config, sources, first, place, tracker, live=self.live)
        self.totals = self.tracking.totals
        self.totals.live = self.live
        self._taken = set() if taken is None else taken
        self._paths: OutputPaths | None = None
        self._sinks: list[Sink] = []
        self._forward: list[tuple[float, Poses]] = []
        self._pipeline: Pipeline | None = None
        self._forward_stats: PipelineStats | None = None
        self._stopped = False
        self._half_smoothed = False  # the backward pass has failed
        self.stem: str | None = None  # what taps are told, where not the source's own

    def _check(self) -> None:
        from sharpose_rt.skeletons.convert import check_formats

        check_formats(self.config.output.formats, self._format_options())
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
        sinks = lambda: self._open_sinks(video=self.config.output.video and not with_rts)  # noqa: E731
        write = WriteStage(sinks, self.totals, self.tracking.observe)
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
        if self._half_smoothed:
            return "error"
        return "interrupted" if self._pipeline is None else self._pipeline.status

    @property
    def source_state(self) -> str:
        """As `Source.state`; 'lost' too where the source has failed and others go on."""
        return self.source.state

    def _open_sinks(self, *, video: bool, stream: bool = True) -> Iterator[Sink]:
        """Opens the outputs one by one, so that whoever takes them can close those that opened before one failed."""
        from sharpose_rt.skeletons import output_paths
        from sharpose_rt.skeletons.convert import WRITERS
        from sharpose_rt.skeletons.names import safe_stem, unique_name
        from sharpose_rt.stages import ImageSink, StreamSink, VideoSink

        output, info = self.config.output, self.source.info
        if self._paths is None:
            stem = unique_name(safe_stem(info.stem), self._taken)
            suffixes = [WRITERS[name].suffix for name in output.formats]
            self._paths = output_paths(output.directory, stem, output.overwrite, suffixes)
        paths = self._paths
        if stream and (output.stream or self.taps):
            path = paths.stream if output.stream else None
            options = {"live": self.live, "overwrite": output.overwrite, "taps": self.taps}
            told = info if self.stem is None else replace(info, stem=self.stem)
            yield self._keep(StreamSink(path, self._header(), told, **options, state=lambda: self.source_state))
        if video and info.kind in ("image", "images"):
            yield self._keep(ImageSink(paths, info, self.painter()))
        elif video:
            yield self._keep(VideoSink(paths.video, info, self.painter(), output))

    def painter(self) -> Painter:
        """A new one, as the configuration says; it remembers trails, so each of several outputs has its own."""
        from sharpose_rt.media import Painter

        return Painter(self.tracking.skeleton, self.config.draw, self.config.detector.polygon)

    def _keep(self, sink: Sink) -> Sink:
        self._sinks.append(sink)
        return sink

    def _backward_pass(self, on_packet: Callable[[Packet], None]) -> None:
        """Smooths both ways, replaces the stream, and reads the source again for the video."""
        from sharpose_rt.media import open_source
        from sharpose_rt.skeletons import rewrite_stream
        from sharpose_rt.stages import RunTotals, WriteStage
        from sharpose_rt.tracking import rts_smooth

        assert self._paths is not None
        self._half_smoothed = True
        smoothed = rts_smooth(self._forward, self.config.smooth, self.tracking.skeleton)
        if self.config.output.stream:
            rewrite_stream(self._paths.stream, smoothed, smoothing="rts")
        self._half_smoothed, self._forward = False, []
        self.totals.recount(smoothed)
        if not self.config.output.video:
            return
        assert self._pipeline is not None
        self._forward_stats = self._pipeline.stats()
        self.source = open_source(self.spec, self.config.source)
        write = WriteStage(lambda: self._open_sinks(video=True, stream=False), RunTotals())
        self._pipeline = Pipeline(self.source, [_Attach(smoothed), write], self.config.queue_frames, room=room_for)
        if self._stopped:  # while it was smoothed
            self._pipeline.stop()
            log.warning("interrupted: the skeletons are written, the video, which rts makes behind them, is not")
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
                **engine.gate.stated(),
            },
            detector=self.tracking.detector.name,
            tracker=self.tracking.tracker.name,
            # Until the backward pass has been, the stream holds what the forward one smoothed.
            smoothing="kalman" if config.smooth.method == "rts" else config.smooth.method,
            version=__version__,
        )

    def _finish(self) -> Results:
        """Closes the source, writes the summary, gives back unused names."""
        from sharpose_rt.media.source import let_go
        from sharpose_rt.skeletons import write_summary
        from sharpose_rt.stages import StreamSink

        let_go(self.source)
        figures = self._figures()
        stream = next((s.path for s in self._sinks if isinstance(s, StreamSink)), None)
        video = next((s.path for s in self._sinks if not isinstance(s, StreamSink)), None)
        summary, formats = None, ()
        try:
            formats = self._convert(stream)
        finally:
            if self._paths is not None:
                self._paths.release()
                summary = self._paths.summary
                write_summary(summary, figures)
        return Results(self.status, stream, video, summary, figures, formats)

    def _convert(self, stream: Path | None) -> tuple[Path, ...]:
        """The skeletons in the other formats that are wanted, made from the finished stream."""
        from sharpose_rt.skeletons.convert import convert_all

        output = self.config.output
        if stream is None or not output.formats:
            return ()
        return tuple(convert_all(stream, output.formats, overwrite=output.overwrite, **self._format_options()))

    def _format_options(self) -> dict[str, Any]:
        """What is said of how the formats are written, by name."""
        from sharpose_rt.skeletons.convert import options_of

        output = self.config.output
        given: dict[str, Any] = {} if output.fill == "none" else {"fill": output.fill}
        if output.person_slots is not None:
            given["person_slots"] = output.person_slots
        return given | options_of(output.format_options)

    def _figures(self) -> dict[str, Any]:
        from sharpose_rt.skeletons import versions

        t, pipeline = self.totals, self._pipeline
        run = self._forward_stats or (pipeline and pipeline.stats())
        stats = run.summary() if run else {}
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
            "latency_ms": t.latency_ms(),
            "budget": None if self.tracking.budget is None else self.tracking.budget.summary(),
            "damaged": self.source.faults.damaged,
            "cut_off": self.source.faults.cut_off,
            "losses": [vars(loss) for loss in self.source.losses],
            "pipeline": stats,
            "detector": self.tracking.detector.name,
            "detected_frames": self.tracking.detect.detected_frames,
            "device": str(self.tracking.engine.device) if self.tracking.opened else None,
            "backend": self.tracking.engine.backend.name if self.tracking.opened else None,
            "precision": str(self.tracking.engine.dtype) if self.tracking.opened else None,
            "weights": self.tracking.engine.weights.facts if self.tracking.opened else None,
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


def room_for(*items: Frame | Packet) -> int:
    """How many like these, together, may wait between two threads: eight frames of 1080p, two of 4K."""
    frames = [item if isinstance(item, Frame) else item.frame for item in items]
    return QUEUE_BYTES // max(1, sum(frame.image_bgr.nbytes for frame in frames))


def count_dropped(dropped: Frame | Packet, kept: Frame | Packet) -> Frame | Packet:
    """The item after a dropped one, its frame knowing how many were dropped before it.

    The boxes of a dropped frame go on with the next one where that has none of its own: with `detector.every` they
    are the only ones for a while.
    """
    if isinstance(kept, Packet):
        assert isinstance(dropped, Packet)
        detections = dropped.detections if kept.detections is None else kept.detections
        new_scene = kept.new_scene or dropped.new_scene
        return replace(kept, frame=_counted(dropped.frame, kept.frame), detections=detections, new_scene=new_scene)
    assert isinstance(dropped, Frame)
    return _counted(dropped, kept)


def _counted(dropped: Frame, kept: Frame) -> Frame:
    return replace(
        kept,
        dropped_before=kept.dropped_before + dropped.dropped_before + 1,
        lost_before_s=kept.lost_before_s + dropped.lost_before_s,
        new_scene=kept.new_scene or dropped.new_scene,
    )
