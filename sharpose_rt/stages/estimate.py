"""Boxes of people in, their poses out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from sharpose_rt.config import PoseConfig
from sharpose_rt.engine import PoseEngine
from sharpose_rt.runtime import BaseStage, Status
from sharpose_rt.types import Packet, Poses, PoseStage, Tracks


class EstimateStage(BaseStage[Packet, Packet]):
    """Runs the pose network on the boxes of each frame. `engine` is there once the stage is open."""

    name = "pose"

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self.engine: PoseEngine | None = None
        self.last_poses: Poses | None = None

    def open(self) -> None:
        """Load the network."""
        self.engine = PoseEngine(self.config)

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with its poses, raw and not yet smoothed."""
        assert self.engine is not None
        assert item.tracks is not None
        self.last_poses = estimate_poses(self.engine, item.frame.image_bgr, item.tracks)
        return (replace(item, poses=self.last_poses),)

    def close(self, status: Status, /) -> None:
        """Let the last frame's poses go; the engine's facts stay for the summary."""
        self.last_poses = None


def estimate_poses(engine: PoseEngine, image_bgr: np.ndarray, tracks: Tracks) -> Poses:
    """Poses of the tracked people of one picture."""
    found = engine.estimate(image_bgr, tracks.bboxes_xyxy)
    return Poses(
        bboxes_xyxy=tracks.bboxes_xyxy,
        bbox_scores=tracks.bbox_scores,
        track_ids=tracks.track_ids,
        keypoints=found.keypoints,
        keypoint_scores=found.scores,
        raw_keypoints=found.keypoints,
        raw_keypoint_scores=found.scores,
        quality=found.quality,
        stage=np.where(found.refined, PoseStage.FINE, PoseStage.COARSE),
    )
