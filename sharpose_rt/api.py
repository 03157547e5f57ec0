"""What a program uses: `PoseTracker` over a source, `SHaRPose` over single pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.app import Tracking
from sharpose_rt.config import RunConfig, load, merge
from sharpose_rt.errors import ConfigError
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.types import Frame, Person, Poses

if TYPE_CHECKING:
    from sharpose_rt.engine import PoseEstimates


@dataclass(frozen=True)
class TrackedFrame:
    """A frame and the people in it."""

    frame: Frame
    poses: Poses

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
        """(H, W, 3), read-only: copy it to draw."""
        return self.frame.image_bgr

    @property
    def people(self) -> list[Person]:
        """One entry a person."""
        return [self.poses[i] for i in range(len(self.poses))]


class PoseTracker:
    """Tracks people and their keypoints through a source.

        for frame in PoseTracker("tiny_256x192").run("video.mp4"):
            for person in frame.people:
                print(frame.pts_s, person.track_id, person.keypoints)

    Args:
        model: a variant; `sharpose-rt models` lists them.
        config: a `RunConfig`, a preset's name, or a YAML file; None takes the defaults.
        options: changes by section, as in `detector={"name": "full"}` or `smooth={"method": "none"}`.

    Raises:
        ConfigError: an unknown or bad option.
    """

    def __init__(self, model: str | None = None, config: RunConfig | str | None = None, **options: Any) -> None:
        base = config if isinstance(config, RunConfig) else load(config)
        if model is not None:
            base = replace(base, pose=replace(base.pose, model=model))
        self.config = merge(base, options, where="PoseTracker")

    def run(self, source: str | Path) -> Iterator[TrackedFrame]:
        """Frames with people, as they are ready; leaving the loop early stops and closes everything.

        Args:
            source: a file, folder, glob, camera or address, as `--source` takes it; several videos come one after
                another, each with ids of its own.

        Raises:
            SharposeError: the source, the model or the detector cannot be used.
        """
        from sharpose_rt.media import expand_sources, is_live, open_source

        if self.config.smooth.method == "rts":
            raise ConfigError("smooth.method rts needs the whole file; use `sharpose-rt track`, or kalman or none here")
        for spec in expand_sources(str(source)):
            opened = open_source(spec, self.config.source)
            tracking = Tracking(opened, self.config)
            pipeline = tracking.pipeline(live=is_live(spec, self.config.source))
            with closing(pipeline.run()) as packets:
                for packet in packets:
                    tracking.observe(packet)
                    yield TrackedFrame(packet.frame, packet.poses)


class SHaRPose:
    """The pose network alone, over a picture with boxes or over crops.

        poses = SHaRPose("tiny_256x192")(image_bgr, bboxes_xyxy)
        poses[0].keypoints

    Args:
        model: a variant; `sharpose-rt models` lists them.
        options: fields of `PoseConfig`, as in `weights="x.safetensors"` or `quality_threshold=0.9`.

    Raises:
        WeightsError: there are no weights, or they do not fit.
        DeviceError: the device or the precision cannot be had.
        ConfigError: an unknown or bad option.
    """

    def __init__(self, model: str = "tiny_256x192", **options: Any) -> None:
        from sharpose_rt.engine import PoseEngine

        config = merge(RunConfig().pose, {"model": model, **options}, where="SHaRPose")
        self.engine = PoseEngine(config)

    @property
    def skeleton(self) -> Skeleton:
        """Names, limbs and order of the keypoints."""
        return self.engine.skeleton

    def __call__(self, image_bgr: NDArray[np.uint8], bboxes_xyxy: ArrayLike | None = None) -> Poses:
        """Poses in px of a picture (H, W, 3) for boxes (N, 4); without boxes the whole picture is one person."""
        height, width = image_bgr.shape[:2]
        boxes = np.asarray([[0, 0, width, height]] if bboxes_xyxy is None else bboxes_xyxy, np.float32).reshape(-1, 4)
        return _untracked(self.engine.estimate(image_bgr, boxes), boxes)

    def crops(self, crops_bgr: NDArray[np.uint8]) -> Poses:
        """Poses in crop px of crops (N, h, w, 3) uint8 of the network's input size."""
        n, height, width = crops_bgr.shape[:3]
        boxes = np.tile(np.array([0, 0, width, height], np.float32), (n, 1))
        return _untracked(self.engine.estimate_crops(crops_bgr), boxes)


def _untracked(found: PoseEstimates, boxes: NDArray[np.float32]) -> Poses:
    return found.poses(boxes, np.ones(len(boxes)), np.zeros(len(boxes)))
