"""What a tracker is, and the clock that all trackers share."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from sharpose_rt.tracking.camera import Camera
from sharpose_rt.tracking.memory import Look
from sharpose_rt.types import Detections, Poses, Tracks

ROUNDED_S = 0.01
"""Times that are given as so many seconds mean that much more: a second of 29.97 frames a second is 1.001 s."""


class Tracker(Protocol):
    """Gives identities to boxes, frame by frame, in media time."""

    name: str
    uses_poses: bool
    """True when `update` makes use of the poses of the frame before."""

    @property
    def known_again(self) -> int:
        """How often somebody who was gone has been given their id back."""
        ...

    @property
    def settled(self) -> bool:
        """Whether the detector found, when it ran last, everybody who is followed, and nobody who waits for an id."""
        ...

    def update(
        self,
        detections: Detections | None,
        pts_s: float,
        last_poses: Poses | None = None,
        camera: Camera | None = None,
        look: Look | None = None,
    ) -> Tracks:
        """People of this frame who are confirmed, by id.

        Rows that were detected have the box and the score of their own detection. The order of the detections does
        not matter. Ids are positive and rise; a track gets its id when it is confirmed. An id is used again only where
        a tracker knows somebody again who was gone.

        Args:
            detections: boxes of this frame; None where the detector did not run, then boxes are carried on.
            pts_s: media time of this frame, not before that of the last one. A jump of more than
                `TrackerConfig.max_lost_s` ends all tracks.
            last_poses: poses of the frame before, with the track ids of its boxes.
            camera: how the picture moved since the frame before, as of `CameraMotion`; None where it stood still.
            look: how people in boxes of this frame look, by which those who come back may be known again.

        Raises:
            ValueError: time goes backwards or is not a number.
        """
        ...

    def forget(self) -> None:
        """Ends all tracks, for pictures that have nothing to do with those before; their ids are not used again."""
        ...


class Clock:
    """Media time that only goes forward."""

    def __init__(self) -> None:
        self.pts_s: float | None = None

    def advance(self, pts_s: float) -> float:
        """Seconds since the last call, 0 at the first.

        Raises:
            ValueError: time goes backwards or is not a number.
        """
        if not math.isfinite(pts_s):
            raise ValueError(f"the tracker was given a frame at {pts_s} s; a finite media time is accepted")
        last, self.pts_s = self.pts_s, pts_s
        if last is None:
            return 0.0
        if pts_s < last:
            self.pts_s = last
            raise ValueError(
                f"the tracker was given a frame at {pts_s:.6f} s after one at {last:.6f} s; frames must come in order "
                "of media time. Sort them, or use a new tracker for a new source"
            )
        return pts_s - last


def canonical(detections: Detections) -> Detections:
    """The usable boxes, best first, in an order that does not depend on the order they came in.

    Boxes that are not finite or have no area are left out.
    """
    boxes, scores = detections.bboxes_xyxy, detections.bbox_scores
    usable = np.isfinite(boxes).all(1) & np.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    order = np.lexsort((*boxes.T[::-1], -scores))
    order = order[usable[order]]
    return detections.take(order)
