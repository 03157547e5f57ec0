"""People in one part of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.detection.postprocess import MIN_SIDE_PX
from sharpose_rt.detection.protocol import Detector
from sharpose_rt.errors import DetectorError
from sharpose_rt.types import Detections, Frame


class RegionDetector:
    """What another detector finds in a region: whose box has its middle inside.

    Args:
        inner: finds the people.
        polygon: its corners, x, y px each.
        margin: `inner` is shown the region's part of the picture, and so much around it, in shares of its longer side:
            who stands at its edge is seen whole. None: `inner` does not go by the picture.
    """

    def __init__(self, inner: Detector, polygon: Sequence[tuple[float, float]], margin: float | None) -> None:
        self.inner, self.margin, self.name = inner, margin, inner.name
        self._polygon = np.array(polygon, np.float32)
        self._low, self._high = self._polygon.min(0), self._polygon.max(0)

    def open(self) -> None:
        """See `Detector`."""
        self.inner.open()
        self.name = self.inner.name

    def detect(self, frame: Frame) -> Detections:
        """People in the region, in px of the whole frame; DetectorError where it lies outside of the frame."""
        self._check(frame.size_wh)
        if self.margin is not None:
            left, top, right, bottom = self._part(frame.size_wh, self.margin)
            part = np.ascontiguousarray(frame.image_bgr[top:bottom, left:right])
            found = self.inner.detect(replace(frame, image_bgr=part))
            boxes = found.bboxes_xyxy + np.array((left, top, left, top), np.float32)
        else:
            found = self.inner.detect(frame)
            boxes = found.bboxes_xyxy
        inside = self._inside((boxes[:, :2] + boxes[:, 2:]) / 2)
        return Detections(boxes[inside], found.bbox_scores[inside])

    def close(self) -> None:
        """See `Detector`."""
        self.inner.close()

    def _part(self, size_wh: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the whole pixels that are shown, the last two exclusive."""
        around = margin * (self._high - self._low).max()
        left, top = (max(0, int(value)) for value in np.floor(self._low - around))
        ends = np.ceil(self._high + around)
        right, bottom = (min(side, int(value) + 1) for side, value in zip(size_wh, ends, strict=True))
        return left, top, right, bottom

    def _check(self, size_wh: tuple[int, int]) -> None:
        (x0, y0), (x1, y1) = self._low, self._high
        if min(x1, size_wh[0] - 1) - max(x0, 0) < MIN_SIDE_PX or min(y1, size_wh[1] - 1) - max(y0, 0) < MIN_SIDE_PX:
            raise DetectorError(
                f"the region from {x0:g},{y0:g} to {x1:g},{y1:g} lies outside of the picture, which is "
                f"{size_wh[0]}x{size_wh[1]} px; give corners inside (--region, detector.region)"
            )

    def _inside(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        tests = [cv2.pointPolygonTest(self._polygon, (float(x), float(y)), False) >= 0 for x, y in points]
        return np.array(tests, bool)
