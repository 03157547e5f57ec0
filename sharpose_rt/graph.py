"""From a configuration to the graph: the only place where the stages are assembled.

    capture -> detect -> track -> pose -> smooth -> write

Each stage is a thread with a bounded channel in front of it, except for track, pose and smooth when the tracker uses
the last pose: that is a loop, and runs in one thread, because a loop between threads would either wait as long or make
the result depend on timing. For live sources they always share one thread, to avoid the delay of channels between them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sharpose_rt import __version__
from sharpose_rt.config import DetectorConfig, RunConfig
from sharpose_rt.config.checks import is_boxes_file, is_network_file
from sharpose_rt.errors import ConfigError
from sharpose_rt.runtime import Chain, Pipeline, Stage
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.types import Frame, Packet

if TYPE_CHECKING:
    from sharpose_rt.engine import Engine
    from sharpose_rt.media import Source, SourceInfo
    from sharpose_rt.skeletons import Header
    from sharpose_rt.stages import RunTotals
    from sharpose_rt.tracking import Tracker

QUEUE_BYTES = 64 << 20
"""Most memory for pictures that wait between two threads."""


class Models:
    """The detector and the networks of a configuration: loaded by the first run and kept for later ones.

    Only one run at a time may use them; each uses them in its own threads.

    Args:
        config: validated.
    """

    def __init__(self, config: RunConfig) -> None:
        # Imported here because they import torch, which --help and `validate` do not need.
        from sharpose_rt.detection import Runtime, create_detector
        from sharpose_rt.engine import Appearance, choose, resolve_device

        self._pose = choose(config.pose)
        device = str(resolve_device(self._pose.device))
        runtime = Runtime.beside(self._pose)
        self.detector = create_detector(config.detector, device=device, offline=config.offline, runtime=runtime)
        known = config.tracker.name == "sharpose" and config.tracker.remember_s > 0
        self.look = Appearance().look if known else None
        """The appearance of people in boxes of a picture; None if it is not used."""
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """The pose engine, moved to the calling thread.

        Raises:
            WeightsError: there are no weights, or they do not fit.
            DeviceError: the device or precision is not available.
        """
        from sharpose_rt.engine import create_engine

        if self._engine is None:
            self._engine = create_engine(self._pose)
        else:
            self._engine.move_here()
        return self._engine

    def close(self) -> None:
        """Frees them."""
        self.detector.close()
        self._engine = None


class People(Protocol):
    """The origin of the people in a run: a detector and a network (`Tracking`), or a stream (`replay.Recalled`)."""

    source: Source
    skeleton: Skeleton
    totals: RunTotals
    live: bool
    """Whether the source is live."""

    def pipeline(self, *more: Stage[Any, Any]) -> Pipeline:
        """The whole graph from the source to smoothed people, followed by `more` stages."""
        ...

    def observe(self, packet: Packet) -> None:
        """Called for each frame that is output."""
        ...

    def header(self, info: SourceInfo) -> Header:
        """The header of the stream; available once the stages are open."""
        ...

    def figures(self) -> dict[str, Any]:
        """Entries of the summary about how the people were found."""
        ...


class Tracking:
    """Source, models and stages of a run over one source, without outputs.

    Args:
        source: not yet open; closed by the run.
        config: validated.
        sources: how many sources share the detector, the network and the budget.
        first: the first of these; None if this is the first.
        place: index of this source among them.
        tracker: replaces the configured one.
        models: kept for the next run; None loads its own, which are freed with it.
        live: frames are dropped if they come too fast, and do not wait for larger batches to be prepared.

    Raises:
        ConfigError: the options contradict each other.
    """

    def __init__(
        self,
        source: Source,
        config: RunConfig,
        *,
        sources: int = 1,
        first: Tracking | None = None,
        place: int = 0,
        tracker: Tracker | None = None,
        live: bool = False,
        models: Models | None = None,
    ) -> None:
        from sharpose_rt.engine import skeleton_of
        from sharpose_rt.stages import BudgetController, DetectStage, EstimateStage, RunTotals, SmoothStage, TrackStage
        from sharpose_rt.stages.needs import all_sure
        from sharpose_rt.tracking import CameraMotion, KeypointSmoother, SceneCuts, create_tracker

        part = config.source.start_s > 0 or config.source.stride > 1
        if part and is_boxes_file(config.detector.name):
            raise ConfigError(
                f"boxes of {config.detector.name} belong to the frames of the source one by one; leave out --start and "
                "--stride, or use a detector"
            )
        self.source, self.config, self.place, self.live = source, config, place, live
        self.skeleton = skeleton_of(config.pose.model)
        self.tracker = tracker or create_tracker(config.tracker, self.skeleton)
        self.totals = RunTotals(live=live, two_stages=not is_network_file(config.pose.model))
        if first is None:
            own = models or Models(config)
            self.detector, look = own.detector, own.look
            self.budget: BudgetController | None = None
            if config.budget.wanted:
                predict = config.smooth.method == "kalman"  # only this method fills the gaps
                self.budget = BudgetController(config.budget, config.detector.every, predict=predict)
            self.estimate = EstimateStage(own.engine, self.budget, sources, live=live)
        else:
            self.detector, self.budget, self.estimate = first.detector, first.budget, first.estimate
            look = first.track.look
        # Without `self`: a reference cycle would keep the models until garbage collection.
        budget, estimate, tracks = self.budget, self.estimate, self.tracker
        by_need = config.detector.every_if_sure > 0
        if by_need and (sources > 1 or not self.tracker.uses_poses):
            raise ConfigError(
                "--detect-every-if-sure uses the poses of the previous frame, so it needs a single source and the "
                "tracker `sharpose`; use --detect-every N otherwise"
            )

        def every() -> int:
            wanted = config.detector.every if budget is None else budget.plan.detect_every
            # People missed by the detector have no pose, and the certainty of the others says nothing about them.
            sure = by_need and tracks.settled and all_sure(estimate.last_poses[place])
            return max(wanted, config.detector.every_if_sure) if sure else wanted

        coming = (lambda: source.info.size_wh) if live else None
        most = config.detector.max_people
        self.detect = DetectStage(
            self.detector,
            every,
            SceneCuts(config.tracker.scene_cut),
            coming,
            live=live,
            most=most if most == DetectorConfig.max_people else None,  # a number set by the user needs no warning
            rotated=None if config.detector.region else config.source.rotate,
            called=source.name if sources > 1 else "",
            keep=models is not None,
        )
        camera = CameraMotion() if config.tracker.camera_motion else None
        self.track = TrackStage(self.tracker, lambda: estimate.last_poses[place], camera, look)
        self.smooth = SmoothStage(KeypointSmoother(config.smooth, self.skeleton))
        stages: list[Stage[Any, Any]] = [self.track, self.estimate, self.smooth]
        if by_need:  # the last pose decides about detection too: in one thread, to be independent of timing
            stages = [Chain("detect+track+pose+smooth", [self.detect, *stages])]
        elif live or self.tracker.uses_poses or config.detector.every > 1:
            stages = [self.detect, Chain("track+pose+smooth", stages)]
        else:
            stages = [self.detect, *stages]
        self.stages = stages

    @property
    def engine(self) -> Engine:
        """The pose engine; available once the stages are open."""
        assert self.estimate.engine is not None
        return self.estimate.engine

    def observe(self, packet: Packet) -> None:
        """Tells the controller of the budget, if there is one, that a frame was output."""
        if self.budget is not None:
            assert packet.budget is not None
            frame, now_s = packet.frame, time.monotonic()
            refined = packet.budget["refined"]
            self.budget.observe(frame.captured_at_s, now_s, frame.dropped_before, refined, self.place)

    def header(self, info: SourceInfo) -> Header:
        """See `People`."""
        from sharpose_rt.skeletons import Header

        engine = self.engine
        return Header(
            source=info.name,
            frame_size_wh=info.size_wh,
            fps=info.fps,
            skeleton=self.skeleton,
            model={
                "name": Path(self.config.pose.model).name,  # without the folder of a file, which is private
                "weights_sha256": engine.weights.sha256 or None,
                "behaviour": engine.behaviour,
                **(engine.gate.stated() if engine.two_stages else {"quality_threshold": None}),
                **({"refine_every": every} if (every := self.config.pose.refined_every) > 1 else {}),
            },
            detector=self.detector.name,
            tracker=self.tracker.name,
            smoothing=self.config.smooth.forward,
            version=__version__,
        )

    def figures(self) -> dict[str, Any]:
        """See `People`."""
        engine = self.estimate.engine
        return {
            "budget": None if self.budget is None else self.budget.summary(),
            "detector": self.detector.name,
            "detected_frames": self.detect.detected_frames,
            "closer_looks": self.detect.looks.closer,
            "moved_frames": self.track.moved_frames,
            "known_again": self.tracker.known_again,
            "device": engine and str(engine.device),
            "backend": engine and engine.backend_name,
            "precision": engine and str(engine.dtype),
            "weights": engine and engine.weights.facts,
        }

    def pipeline(self, *more: Stage[Any, Any]) -> Pipeline:
        """The whole graph, with `more` stages after smoothing.

        Raises:
            ConfigError: see `check_budget`.
        """
        from sharpose_rt.stages import count_dropped

        self.check_budget(self.live)
        return Pipeline(
            self.source,
            [*self.stages, *more],
            capacity=self.config.queue_frames,
            live=self.live,
            fold=count_dropped,
            dropping=min(2, len(self.stages)),  # frames with poses are not dropped
            room=room_for,
        )

    def check_budget(self, live: bool) -> None:
        """Raises ConfigError if there is a budget but the source is a file, which waits for every frame."""
        if self.budget is not None and not live:
            raise ConfigError(
                f"--latency-budget-ms and --target-fps are for live sources, and {self.source.name} waits until each "
                "frame is done; add --realtime to play it at its own pace"
            )


def room_for(*items: Frame | Packet) -> int:
    """How many items of this size may wait between two threads: eight frames of 1080p, two of 4K."""
    frames = [item if isinstance(item, Frame) else item.frame for item in items]
    return QUEUE_BYTES // max(1, sum(frame.image_bgr.nbytes for frame in frames))
