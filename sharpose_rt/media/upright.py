"""Decoded frames as they are meant to be seen: upright BGR with square pixels."""

from __future__ import annotations

import math
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from sharpose_rt.media.source import turned

# A more extreme pixel aspect ratio is an error in the file.
_LONGEST_PIXEL = 4
# Programs that scale to whole pixels put the remainder into the aspect ratio; not worth scaling every frame again.
_ROUNDING = 0.01


class Upright:
    """Decoded frames of one source as they are meant to be seen.

    Colour matrix and range are those of the frame (swscale). Pixels that are not square, as in anamorphic video, are
    made so by stretching the stored width. Display rotation and mirroring (ISO/IEC 14496-12, 'tkhd' matrix) are
    applied.

    Args:
        pixel_aspect: width of a stored pixel over its height; None or 0 if unknown.
    """

    def __init__(self, pixel_aspect: Fraction | None = None) -> None:
        self._stretch = _stretch(pixel_aspect)
        self._size_wh: tuple[int, int] | None = None
        # Shared by all frames: one per frame would have its own threads, and live until the cycle collector runs.
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._mirrored, self._turns = False, 0

    def __call__(self, frame: av.VideoFrame, pixel_aspect: Fraction | None = None) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR; `pixel_aspect` is only used when the size changes."""
        before, self._size_wh = self._size_wh, (frame.width, frame.height)
        if before not in (None, self._size_wh):
            self._stretch = _stretch(pixel_aspect)
        width = round(frame.width * self._stretch)
        image: NDArray[np.uint8] = self._reformatter.reformat(frame, width, format="bgr24", threads=1).to_ndarray()  # type: ignore[assignment]
        return self._turned(frame, image)

    @classmethod
    def as_of(cls, frame: av.VideoFrame, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Another decoder's picture, mirrored and rotated like this frame."""
        return cls()._turned(frame, image)

    def _turned(self, frame: av.VideoFrame, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if frame.rotation != self._rotation:
            self._look(frame)
        if self._mirrored:
            image = cv2.flip(image, 1)  # type: ignore[assignment]
        return np.ascontiguousarray(turned(image, 90 * self._turns))

    def _look(self, frame: av.VideoFrame) -> None:
        """Reads the display matrix of a frame; called rarely, as a frame whose side data was read refers to itself and
        keeps its picture until the cycle collector runs."""
        self._rotation = frame.rotation
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # other side data that PyAV does not know, such as EXIF and the views of stereo video
            self._mirrored, self._turns = False, round(-frame.rotation / 90) % 4
            return
        if matrix is None:
            self._mirrored, self._turns = False, 0
            return
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)  # x' = a x + c y, y' = b x + d y, y down
        self._mirrored = a * d - b * c < 0
        if self._mirrored:
            a, b = -a, -b
        self._turns = round(math.degrees(math.atan2(float(b), float(a))) / 90) % 4  # clockwise


def _stretch(pixel_aspect: Fraction | None) -> Fraction | int:
    said = pixel_aspect or 1
    believed = 1 / _LONGEST_PIXEL <= said <= _LONGEST_PIXEL and abs(said - 1) > _ROUNDING
    return said if believed else 1
