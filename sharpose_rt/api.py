"""The Python API: `PoseTracker` for a source, `SHaRPose` for single pictures."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.config import DrawConfig, PoseConfig, RunConfig, SourceConfig, load, merge
from sharpose_rt.errors import ConfigError, SourceError
from sharpose_rt.machine.process import let_waiting_threads_sleep
from sharpose_rt.media.given import Given, GivenFrames, seconds, wrong_picture
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.types import Detections, Frame, Packet, Person, Poses

let_waiting_threads_sleep()  # before torch is loaded below; on a busy machine `update` took many times as long

import torch  # noqa: E402

from sharpose_rt.compute.threads import threads_given_back  # noqa: E402
from sharpose_rt.engine import skeleton_of  # noqa: E402
from sharpose_rt.graph import Models, Tracking  # noqa: E402

if TYPE_CHECKING:
    from sharpose_rt.engine import PoseEstimates
    from sharpose_rt.media import Source
    from sharpose_rt.runtime.pipeline import Pipeline

log = logging.getLogger("sharpose_rt")

_ELSEWHERE = {"output", "live"}
"""Sections that only the command line uses."""


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """A frame and the people in it."""

    frame: Frame
    poses: Poses
    skeleton: Skeleton = field(repr=False)
    """Names, limbs and order of the keypoints."""
    draw_config: DrawConfig = field(default=DrawConfig(), repr=False)
    """How `drawn` draws: the section `draw` of the tracker's options."""
    source: str = ""
    """The video, camera or address of the frame, with credentials masked; for pictures their folder or glob (their
    names are in `frame.source`); '' for frames given by the program."""
    camera: NDArray[np.float64] | None = field(default=None, repr=False)
    """Affine map (2, 3) from points (x, y) px of the previous frame to this one; None if the camera did not move."""
    new_scene: bool = False
    """The picture has nothing in common with the previous one, after a cut or a change of size, so no id continues."""
    detections: Detections | None = field(default=None, repr=False)
    """Detected people, including new ones without a pose; None if the detector did not run on this frame."""

    @property
    def frame_id(self) -> int:
        """Counts from 0."""
        return self.frame.frame_id

    @property
    def pts_s(self) -> float:
        """Media time in seconds."""
        return self.frame.pts_s

    @property
    def image_bgr(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8, read-only: copy it before drawing, or use `drawn()`."""
        return self.frame.image_bgr

    def drawn(self) -> NDArray[np.uint8]:
        """(H, W, 3) BGR, a new picture with the people drawn on it; without trails, which need previous frames."""
        from sharpose_rt.media import Painter

        painter, image = Painter(self.skeleton, self.draw_config), self.image_bgr.copy()
        return painter.draw(image, self.poses, self.pts_s, detections=self.detections)

    @property
    def people(self) -> list[Person]:
        """One entry per person."""
        return list(self.poses)


class PoseTracker:
    """Tracks people and their keypoints through a source.

        for frame in PoseTracker("tiny_256x192").run("video.mp4"):
            for person in frame.people:
                print(frame.pts_s, person.track_id, person.keypoints)

    Args:
        model: a variant (`sharpose-rt models` lists them), or the file of another project's network.
        config: a `RunConfig`, the name of a preset, or a YAML file; None uses the defaults.
        options: changes by section, such as `detector={"name": "full"}` or `smooth={"method": "none"}`; not for
            `output` and `live`, because nothing is written or served.

    To process one frame at a time in your own loop:

        with PoseTracker() as tracker:
            frame = tracker.update(image_bgr)

    Raises:
        ConfigError: an unknown or bad option, or no such model.
        WeightsError: the model is a file, and not a supported network.
    """

    def __init__(
        self, model: str | Path | None = None, config: RunConfig | str | Path | None = None, **options: Any
    ) -> None:
        for name in _ELSEWHERE & options.keys():  # allowed in `config`, which can be shared with the command line
            raise ConfigError(
                f"PoseTracker writes and serves nothing, but {name} is {options[name]!r}; leave it out, or use "
                "`sharpose-rt track`, or `sharpose_rt.app.FileRun` to write files, as in "
                "pipelines/video_to_skeletons.py"
            )
        base = config if isinstance(config, RunConfig) else load(config)
        if model is not None:
            base = merge(base, {"pose": {"model": model}}, where="PoseTracker")
        self.config = merge(base, options, where="PoseTracker")
        self._skeleton = skeleton_of(self.config.pose.model)
        self._loop: _Loop | None = None
        # Re-entrant: while their thread holds it, a signal handler may call close(), or garbage collection end a run.
        self._turn = threading.RLock()
        self._idle: list[Models] = []
        self._updating = self._close_after = False
        self._running: set[Pipeline] = set()  # close() stops each of them once
        self._closings = 0  # a run that began before the last call stops

    @property
    def skeleton(self) -> Skeleton:
        """Names, limbs and order of the keypoints."""
        return self._skeleton

    def run(
        self, source: str | Path | int | Given, fps: float = 30.0, *, stills: bool = False
    ) -> Generator[TrackedFrame, None, None]:
        """Yields frames with people as they are ready; leaving the loop early stops and closes everything.

        A generator that is kept in a variable continues until its `close()`. Leaving waits for the frames in progress,
        or for the next one if the program provides the frames. From another thread or a signal handler, use
        `PoseTracker.close`: frames in progress are still yielded. The models are loaded once and kept for the next call
        until `close`; simultaneous runs have their own.

        Args:
            source: a file, folder, glob, camera or address, as for `--source`, or the number of a camera. Several
                videos are processed one after another, each with its own ids (`TrackedFrame.source` tells them apart);
                one that cannot be read is logged, and the next one follows. Or frames of the program: an iterable of
                pictures (H, W, 3) uint8 BGR, or of pairs of media time in seconds and picture; it is read in another
                thread, a few frames ahead.
            fps: frame rate of pictures without times.
            stills: the pictures of the program are photographs, so nobody is tracked or smoothed from one to the next.
                For files this is detected.

        Raises:
            SharposeError: the source (or all of several), the model or the detector cannot be used.
        """
        from sharpose_rt.media import PacedSource, expand_sources, is_live, open_source

        self._check()
        torch.get_num_threads()  # once asked, the calling thread keeps its number of threads, whatever the run uses
        begun = self._closings
        if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
            source = f"webcam:{source}"
        if not isinstance(source, (str, Path)):
            given = GivenFrames(_frames(source), fps, self.config.source, stills=stills)
            paced = self.config.source.realtime
            with self._models(begun) as models:
                yield from self._through(PacedSource(given) if paced else given, "", models, begun, live=paced)
            return
        specs = expand_sources(str(source))
        failed = 0
        with self._models(begun) as models:
            for number, spec in enumerate(specs, start=1):
                if self._closings != begun:
                    return
                try:
                    opened = open_source(spec, self.config.source)
                    live = is_live(spec, self.config.source)
                    yield from self._through(opened, opened.name, models, begun, live=live)
                except SourceError as error:
                    failed += 1
                    if failed == len(specs):
                        raise
                    log.warning("%s%s", error, "; continuing with the next one" if number < len(specs) else "")

    def _through(
        self, source: Source, name: str, models: Models, begun: int, *, live: bool
    ) -> Generator[TrackedFrame, None, None]:
        tracking = Tracking(source, self.config, live=live, models=models)
        pipeline = tracking.pipeline()
        self._running.add(pipeline)
        try:
            if self._closings != begun:  # before close() could see it
                pipeline.stop()
            with closing(pipeline.run()) as packets:
                for packet in packets:
                    tracking.observe(packet)
                    yield _tracked(packet, tracking, name)
        finally:
            self._running.discard(pipeline)

    @contextmanager
    def _models(self, begun: int) -> Iterator[Models]:
        """Idle models, or new ones; they are kept for the next run unless it failed or close() was called."""
        with self._turn, _as_in_own_threads():
            models = self._idle.pop() if self._idle else Models(self.config)
        try:
            yield models
        except GeneratorExit:  # the loop was left early
            self._keep(models, begun)
            raise
        except BaseException:
            models.close()
            raise
        self._keep(models, begun)

    def _keep(self, models: Models, begun: int) -> None:
        with self._turn:
            if not self._idle and self._closings == begun:
                self._idle.append(models)
                return
        models.close()

    def update(self, image_bgr: NDArray[Any], pts_s: float | None = None, *, new_scene: bool = False) -> TrackedFrame:
        """The next frame of your own loop with its people, computed in the calling thread.

        The first call prepares everything for its picture size and two people. More people are processed in smaller
        batches until larger ones are prepared, so results may differ in the last digits from run to run.

        Args:
            image_bgr: (H, W, 3) uint8; it is copied. Options of the section `source` have no effect here.
            pts_s: media time in seconds, greater than that of the previous frame; None uses the clock, continuing from
                the last time given.
            new_scene: the picture has nothing in common with the previous one: no track or smoothing continues.

        Raises:
            SharposeError: the model or the detector cannot be used.
            ValueError: the picture has another shape or type, or the time is not a number of seconds or goes backwards.
            RuntimeError: a signal handler calls it during another call.
        """
        if problem := wrong_picture(image_bgr):
            raise ValueError(f"the picture is {problem}")
        with self._turn, _as_in_own_threads():
            if self._updating:
                raise RuntimeError("update was called during another update (by a signal handler?); call it afterwards")
            self._updating = True
            try:
                if self._loop is None:
                    self._check()
                    self._loop = _Loop(self.config, image_bgr.shape)
                return self._loop.step(image_bgr, pts_s, new_scene)
            finally:
                self._updating = False
                if self._close_after:
                    self.close()

    def close(self) -> None:
        """Stops every `run` and frees the models; later calls start anew, with ids from 1.

        May be called from any thread and from a signal handler. A run still yields the frames in progress before its
        models are freed. It waits for an `update` in another thread; within an `update` of the same thread it takes
        effect afterwards.
        """
        self._closings += 1
        for pipeline in list(self._running):
            self._running.discard(pipeline)  # a second call would discard the frames in progress
            pipeline.stop()
        with self._turn:
            self._close_after = self._updating
            if self._updating:
                return
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.close()
            while self._idle:
                self._idle.pop().close()

    def __enter__(self) -> PoseTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if self.config.smooth.method == "rts":
            raise ConfigError("smooth.method rts needs the whole file; use `sharpose-rt track`, or kalman or none here")


@contextmanager
def _as_in_own_threads() -> Iterator[None]:
    """Restores torch's threads and default device, and numpy's error handling, for the calling thread afterwards.

    With `np.seterr(all="raise")` of the program, values that underflow would be an error, and with its
    `torch.set_default_device` tensors meant for the CPU would be created elsewhere.
    """
    usual = torch.get_default_device().type == "cpu"  # a device context costs every torch call some microseconds
    with (
        threads_given_back(),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
        nullcontext() if usual else torch.device("cpu"),
    ):
        yield


def _frames(source: Any) -> Given:
    """The source as an iterable of frames. Raises SourceError if it is none."""
    if not (hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
        raise SourceError(
            f"the source is {source!r}; a file, folder, 'glob', camera, address or iterable of pictures is accepted"
        )
    if isinstance(source, np.ndarray) and source.ndim in (2, 3):
        raise SourceError(
            f"the source is one picture, {source.dtype} of shape {source.shape}; several are accepted: use "
            "`run([image])`, or `update(image)`"
        )
    if isinstance(source, Sequence) and source and isinstance(source[0], (str, Path)):
        raise SourceError(
            f"the source is a {type(source).__name__} of names, the first {str(source[0])!r}; pictures are accepted. "
            "For files give a folder or 'glob', or `run` one name after another"
        )
    return source


def _tracked(packet: Packet, tracking: Tracking, source: str = "") -> TrackedFrame:
    assert packet.poses is not None
    known = packet.camera, packet.new_scene, packet.detections
    return TrackedFrame(packet.frame, packet.poses, tracking.skeleton, tracking.config.draw, source, *known)


class _Loop:
    """The stages of a run, one after another in the calling thread, prepared for pictures of `shape` (H, W, 3)."""

    def __init__(self, config: RunConfig, shape: tuple[int, ...]) -> None:
        blank = np.broadcast_to(np.uint8(0), shape)  # only its size is needed, and a real picture would be kept
        with GivenFrames((blank,), 1.0, SourceConfig()) as source:
            self._tracking = Tracking(source, config, live=True)  # later frames must not wait for preparations
        self._stages = self._tracking.stages
        self._count, self._last_s = 0, -math.inf
        self._began_s: float | None = None
        with ExitStack() as opening:
            for stage in self._stages:
                stage.open()
                opening.callback(stage.close, "complete")
            self._open = opening.pop_all()

    def step(self, image_bgr: NDArray[Any], pts_s: float | None, new_scene: bool) -> TrackedFrame:
        """See `PoseTracker.update`."""
        self._tracking.engine.move_here()  # any thread may call, with its own number of threads
        now_s = time.monotonic()
        if self._began_s is None:  # not earlier: preparing the networks may take seconds
            self._began_s = now_s
        # The clock of some systems is coarser than a fast loop.
        time_s = max(now_s - self._began_s, self._last_s + 1e-4) if pts_s is None else seconds(pts_s)
        if not self._last_s < time_s < math.inf:
            raise ValueError(
                f"pts_s is {pts_s!r} after {self._last_s}; increasing, finite times in seconds are accepted (for a "
                "timedelta its total_seconds())"
            )
        if pts_s is not None:
            self._began_s = now_s - time_s  # without further times, the clock continues from here
        item: Any = Frame(self._count, time_s, np.array(image_bgr, order="C"), now_s, new_scene=new_scene)
        self._count, self._last_s = self._count + 1, time_s
        for stage in self._stages:
            (item,) = stage.process(item)
        self._tracking.observe(item)
        return _tracked(item, self._tracking)

    def close(self) -> None:
        """Frees everything."""
        self._open.close()


class SHaRPose:
    """The pose network alone, over a picture with boxes or over crops. Several threads take turns.

        poses = SHaRPose("tiny_256x192")(image_bgr, bboxes_xyxy)
        poses[0].keypoints

    Args:
        model: a variant (`sharpose-rt models` lists them), or the file of another project's network.
        options: fields of `PoseConfig`, such as `weights="x.safetensors"` or `quality_threshold=0.9`.

    Raises:
        WeightsError: there are no weights, or they do not fit.
        DeviceError: the device or precision is not available.
        ConfigError: an unknown or bad option.
    """

    def __init__(self, model: str | Path = PoseConfig.model, **options: Any) -> None:
        from sharpose_rt.engine import create_engine

        config = merge(RunConfig().pose, {"model": model, **options}, where="SHaRPose")
        with _as_in_own_threads():
            self.engine = create_engine(config)
        self._turn = threading.Lock()

    @property
    def skeleton(self) -> Skeleton:
        """Names, limbs and order of the keypoints."""
        return self.engine.skeleton

    def __call__(self, image_bgr: NDArray[Any], bboxes_xyxy: ArrayLike | None = None) -> Poses:
        """Poses in picture px for boxes (N, 4) of a picture (H, W, 3) uint8; without boxes it is one person.

        Raises:
            ValueError: the picture has another shape or type, or boxes are not (N, 4), finite, x0 <= x1 and y0 <= y1.
        """
        if problem := wrong_picture(image_bgr):
            raise ValueError(f"the picture is {problem}")
        height, width = image_bgr.shape[:2]
        boxes = np.asarray([[0, 0, width - 1, height - 1]] if bboxes_xyxy is None else bboxes_xyxy, np.float32)
        if (boxes.size and boxes.shape[-1:] != (4,)) or boxes.ndim > 2:
            raise ValueError(f"boxes have shape {boxes.shape}; (N, 4) x0, y0, x1, y1 in px is accepted")
        boxes = boxes.reshape(-1, 4)
        if not np.isfinite(boxes).all() or (boxes[:, :2] > boxes[:, 2:]).any():
            raise ValueError(f"boxes are {boxes.tolist()}; finite x0 <= x1 and y0 <= y1 in px are accepted")
        with self._in_turn():
            return _untracked(self.engine.estimate(image_bgr, boxes), boxes)

    def crops(self, crops_bgr: NDArray[np.uint8]) -> Poses:
        """Poses in crop px for crops (N, h, w, 3) uint8 of the network's input size.

        Raises:
            ValueError: the crops have another size or type.
        """
        height, width = self.engine.crop_size_hw
        with self._in_turn():
            found = self.engine.estimate_crops(np.asarray(crops_bgr))
        return _untracked(found, np.tile(np.array([0, 0, width - 1, height - 1], np.float32), (len(found), 1)))

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Moves the engine, with its number of threads, to the calling thread, and restores that thread's
        afterwards."""
        with self._turn, _as_in_own_threads():
            self.engine.move_here()
            yield


def _untracked(found: PoseEstimates, boxes: NDArray[np.float32]) -> Poses:
    return found.poses(boxes, np.ones(len(boxes)), np.zeros(len(boxes)))
