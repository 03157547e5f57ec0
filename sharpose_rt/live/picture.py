"""Frames as JPEG for the page and other viewers, made once for all of them, outside the run's threads."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from sharpose_rt.config.schema import DrawConfig, LiveConfig
from sharpose_rt.live.hub import Moment
from sharpose_rt.media import Painter
from sharpose_rt.media.faces import hide_faces
from sharpose_rt.skeleton import Skeleton

_HEAD = struct.Struct("!Id")  # frame_id, pts_s


class Pictures:
    """Encodes the newest frame, without what `draw` hides, `small` for a page of many; for one thread only."""

    def __init__(self, skeleton: Skeleton, config: LiveConfig, draw: DrawConfig, *, small: bool = False) -> None:
        self._skeleton, self._config, self._draw = skeleton, config, draw
        self._side_px = min(config.wall_px, config.picture_px) if small else config.picture_px
        self._moment: Moment | None = None
        self._message = b""

    def message(self, moment: Moment) -> bytes:
        """`frame_id` (uint32) and `pts_s` (float64), both big-endian, then the JPEG."""
        if moment is not self._moment:
            frame, poses, image = moment.frame, moment.packet.poses, moment.frame.image_bgr
            detections = moment.packet.detections
            if not self._draw.picture:
                image = np.zeros_like(image)
            elif not self._draw.faces and poses is not None:
                image = image.copy()
                hide_faces(image, poses, self._skeleton, detections)
            jpeg = _jpeg(image, self._side_px, self._config.picture_quality)
            self._message = _HEAD.pack(frame.frame_id & 0xFFFFFFFF, frame.pts_s) + jpeg
            self._moment = moment
        return self._message


class Drawn:
    """The newest frame with its people drawn on it, as JPEG; for one thread only.

    Args:
        skeleton: of the people.
        config: size and quality.
        draw: what is drawn.
        region: corners, px, of a polygon to outline.
    """

    def __init__(
        self, skeleton: Skeleton, config: LiveConfig, draw: DrawConfig, region: Sequence[tuple[float, float]] = ()
    ) -> None:
        self._painter, self._config = Painter(skeleton, draw, region), config
        self._moment: Moment | None = None
        self._made = b""

    def jpeg(self, moment: Moment) -> bytes:
        """The picture of this moment, or of a later one that has already been made."""
        last = self._moment
        if last is None or moment.frame.frame_id > last.frame.frame_id:
            camera, new_scene = moment.place.since(last and last.place)
            packet = replace(moment.packet, camera=camera, new_scene=new_scene)
            image = self._painter.drawn(packet, moment.status_line)
            self._made = _jpeg(image, self._config.picture_px, self._config.picture_quality)
            self._moment = moment
        return self._made


def _jpeg(image_bgr: np.ndarray, side_px: int, quality: int) -> bytes:
    shrink = side_px / max(image_bgr.shape[:2])
    if shrink < 1:
        image_bgr = cv2.resize(image_bgr, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_LINEAR)
    done, jpeg = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return jpeg.tobytes()
