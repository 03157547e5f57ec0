"""Fits a frame into a network's input and maps boxes back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

PAD_VALUE = 114
"""Grey level around the picture, as in the training of every YOLO model."""


@dataclass(frozen=True)
class Letterbox:
    """A resize that keeps the aspect ratio, with a grey border.

    Networks measure boxes from the outer edge of the first pixel, this project from its centre, so half a pixel is
    subtracted on the way back.
    """

    resized_wh: tuple[int, int]
    """Size of the picture inside the input, px."""
    offset_xy: tuple[int, int]
    """Position of its first pixel in the input, px."""
    input_wh: tuple[int, int]
    """Size of the input, px."""
    scale_xy: tuple[float, float]
    """Input pixels per frame pixel; the two differ by the rounding of `resized_wh`."""

    @classmethod
    def fit(
        cls, size_wh: tuple[int, int], image_size: int, stride: int = 32, fixed_wh: tuple[int, int] | None = None
    ) -> Letterbox:
        """The letterbox for frames of `size_wh`.

        Args:
            size_wh: size of the frame, px.
            image_size: longer side of the input, px, rounded up to the stride.
            stride: both sides of the input are multiples of it.
            fixed_wh: the input's size if the network accepts only one; replaces `image_size`.
        """
        longest = math.ceil(image_size / stride) * stride
        room = fixed_wh or (longest, longest)
        scale = min(room[0] / size_wh[0], room[1] / size_wh[1])
        resized = tuple(max(1, min(room[i], round(size_wh[i] * scale))) for i in (0, 1))
        full = fixed_wh or tuple(math.ceil(side / stride) * stride for side in resized)
        return cls(
            resized_wh=(resized[0], resized[1]),
            offset_xy=((full[0] - resized[0]) // 2, (full[1] - resized[1]) // 2),
            input_wh=(full[0], full[1]),
            scale_xy=(resized[0] / size_wh[0], resized[1] / size_wh[1]),
        )

    def apply(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The network's input (H, W, 3) uint8 for a picture of the fitted size."""
        left, top = self.offset_xy
        width, height = self.resized_wh
        canvas = np.full((self.input_wh[1], self.input_wh[0], 3), PAD_VALUE, np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(
            image_bgr, self.resized_wh, interpolation=cv2.INTER_LINEAR
        )
        return canvas

    def to_frame(self, bboxes_xyxy: ArrayLike) -> NDArray[np.float64]:
        """Boxes (N, 4) of the input in the frame's pixels."""
        boxes = np.asarray(bboxes_xyxy, np.float64)
        return (boxes - np.tile(self.offset_xy, 2)) / np.tile(self.scale_xy, 2) - 0.5
