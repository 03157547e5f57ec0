"""Frames as JPEG for the page, made once for all viewers, outside of the run's threads."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from sharpose_rt.config.schema import LiveConfig
from sharpose_rt.types import Frame

_HEAD = struct.Struct("!Id")  # frame_id, pts_s


class Pictures:
    """Encodes the newest frame, or a black one of its size (`blank`), `small` as one of many; called in one thread
    alone."""

    def __init__(self, config: LiveConfig, *, blank: bool = False, small: bool = False) -> None:
        self._config, self._blank = config, blank
        self._side_px = min(config.wall_px, config.picture_px) if small else config.picture_px
        self._frame: Frame | None = None
        self._message = b""

    def message(self, frame: Frame) -> bytes:
        """`frame_id` (uint32) and `pts_s` (float64), both big-endian, then the JPEG."""
        if frame is not self._frame:
            self._message = _HEAD.pack(frame.frame_id & 0xFFFFFFFF, frame.pts_s) + self._jpeg(frame.image_bgr)
            self._frame = frame
        return self._message

    def _jpeg(self, image_bgr: np.ndarray) -> bytes:
        shrink = self._side_px / max(image_bgr.shape[:2])
        if shrink < 1:
            image_bgr = cv2.resize(image_bgr, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_LINEAR)
        if self._blank:
            image_bgr = np.zeros_like(image_bgr)
        done, jpeg = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, self._config.picture_quality])
        assert done
        return jpeg.tobytes()
