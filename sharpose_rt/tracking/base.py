"""The interface of trackers, and the clock that they share."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from sharpose_rt.tracking.camera import Camera
from sharpose_rt.tracking.memory import Look
from sharpose_rt.types import Detections, Poses, Tracks

ROUNDED_S = 0.01
"""Tolerance added to durations in seconds: 30 frames at 29.97 frames per second last 1.001 s."""


class Tracker(Protocol):
    """Assigns track ids to boxes, frame by frame, in media time."""

    name: str
    uses_poses: bool
    """True if `update` uses the poses of the previous frame."""

    @property
    def known_again(self) -> int:
        """How often a person who had left and returned was given their previous id."""
        ...

    @property
    def settled(self) -> bool:
        """Whether the last detector run found everybody who is tracked and nobody who is waiting for an id."""
        ...

    def update(
        self,
        detections: Detections | None,
        pts_s: float,
        last_poses: Poses | None = None,
        camera: Camera | None = None,
        look: Look | None = None,
    ) -> Tracks:
        """Confirmed people of this frame, in order of id.

        Detected rows have the box and the score of their detection. The order of the detections does not matter. Ids
        are positive and increase; a track gets its id when it is confirmed. An id is used again only if the tracker
        recognises a person who had left.

        Args:
            detections: boxes of this frame; None if the detector did not run, in which case boxes are predicted.
            pts_s: media time of this frame, not before the previous one. A jump of more than `TrackerConfig.max_lost_s`
                ends all tracks.
            last_poses: poses of the previous frame, with track ids.
            camera: how the picture moved since the previous frame, from `CameraMotion`; None if it did not move.
            look: returns the appearance of people in boxes of this frame, by which those who return can be recognised.

        Raises:
            ValueError: time goes backwards or is not a number.
        """
        ...

    def forget(self) -> None:
        """Ends all tracks, for pictures unrelated to those before; their ids are not used again."""
        ...


class Clock:
    """Media time that never goes backwards."""

    def __init__(self) -> None:
        self.pts_s: float | None = None

    def advance(self, pts_s: float) -> float:
        """Seconds since the last call; 0 at the first.

        Raises:
            ValueError: time goes backwards or is not a number.
        """
        if not math.isfinite(pts_s):
            raise ValueError(f"the tracker got a frame at {pts_s} s; the media time must be finite")
        last, self.pts_s = self.pts_s, pts_s
        if last is None:
            return 0.0
        if pts_s < last:
            self.pts_s = last
            raise ValueError(
                f"the tracker got a frame at {pts_s:.6f} s after one at {last:.6f} s; frames must be in order of media "
                "time. Sort them, or use a new tracker for a new source"
            )
        return pts_s - last


def canonical(detections: Detections) -> Detections:
    """The usable boxes, best first, in an order that does not depend on the input's.

    Boxes that are not finite or have no area are omitted.
    """
    boxes, scores = detections.bboxes_xyxy, detections.bbox_scores
    usable = np.isfinite(boxes).all(1) & np.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    order = np.lexsort((*boxes.T[::-1], -scores))
    order = order[usable[order]]
    return detections.take(order)
