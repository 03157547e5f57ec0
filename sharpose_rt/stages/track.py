"""Boxes in, boxes with identities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.runtime import BaseStage
from sharpose_rt.tracking import CameraMotion, Tracker
from sharpose_rt.types import Packet, Poses


class TrackStage(BaseStage[Packet, Packet]):
    """Gives each box its track id.

    `last_poses` returns the poses of the previous frame, for trackers that use them. `camera` finds how the picture
    moves; without it, the packet's own camera motion is used. `moved_frames` counts frames with motion. `look` returns
    the appearance of the people in boxes (N, 4) of a picture as unit vectors (N, D), by which the tracker recognises
    them again.
    """

    name = "track"

    def __init__(
        self,
        tracker: Tracker,
        last_poses: Callable[[], Poses | None] = lambda: None,
        camera: CameraMotion | None = None,
        look: Callable[[NDArray[np.uint8], ArrayLike], NDArray[np.float32]] | None = None,
    ) -> None:
        self.tracker, self.last_poses, self.camera, self.look = tracker, last_poses, camera, look
        self.moved_frames = 0
        self._people_xyxy = np.zeros((0, 4), np.float32)

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with its tracks. Nobody is carried over into a new scene or pictures of another size."""
        if item.new_scene:
            self.tracker.forget()
            if self.camera is not None:
                self.camera.forget()
        image = item.frame.image_bgr
        pts_s = item.frame.pts_s
        camera = item.camera if self.camera is None else self.camera.step(image, self._people_xyxy, pts_s)
        look = None if self.look is None else partial(self.look, image)
        tracks = self.tracker.update(item.detections, pts_s, self.last_poses(), camera, look)
        self._people_xyxy = tracks.bboxes_xyxy
        self.moved_frames += camera is not None
        return (item.left(self.name, tracks=tracks, camera=camera),)
