"""People in one part of the picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.detection.postprocess import MIN_SIDE_PX
from sharpose_rt.detection.protocol import Detector
from sharpose_rt.errors import DetectorError
from sharpose_rt.types import Detections, Frame

logger = logging.getLogger("sharpose_rt.detection")

Corner = NDArray[np.float32]

MARGINS = (0.15, 0.5, np.inf)
"""Margins around a region that may be shown, in shares of the region's longer side; only a few, as a detector has to
prepare for each size."""
_FRAMES = 10
"""Number of frames for which a wider margin is kept before a narrower one is tried again."""
_EDGE_PX = 2.0
"""A box that ends this close to the edge of what was shown may extend beyond it."""


class Region:
    """A polygon in pictures, which may differ in size.

    Args:
        corners: x, y px each.
    """

    def __init__(self, corners: Sequence[tuple[float, float]]) -> None:
        self.corners = np.array(corners, np.float32)
        self._begun = False
        self._missed: set[tuple[int, int]] = set()

    def within(self, frame: Frame) -> tuple[Corner, Corner] | None:
        """Least and greatest x, y px of the part inside a frame; None, with a warning, if there is none.

        Raises:
            DetectorError: no part is inside the first frame.
        """
        most = np.array(frame.size_wh, np.float32) - 1
        low, high = self.corners.min(0), self.corners.max(0)
        inner_low, inner_high = low.clip(0, most), high.clip(0, most)
        if (inner_high - inner_low).min() >= MIN_SIDE_PX:
            self._begun = True
            return inner_low, inner_high
        said = (
            f"the region from {low[0]:g},{low[1]:g} to {high[0]:g},{high[1]:g} is outside the picture, which is "
            f"{frame.size_wh[0]}x{frame.size_wh[1]} px; give corners inside it (--region, detector.region)"
        )
        if not self._begun:
            raise DetectorError(said)
        if frame.size_wh not in self._missed:  # one of several pictures, or a stream that came back smaller
            logger.warning("frame %d: %s; nobody is detected in it", frame.frame_id, said)
            self._missed.add(frame.size_wh)
        return None

    def has(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which of the points (N, 2) are inside."""
        inside = [cv2.pointPolygonTest(self.corners, (float(x), float(y)), False) >= 0 for x, y in points]
        return np.array(inside, bool)


class RegionDetector:
    """The people found by another detector whose boxes have their centre in a region.

    The other detector is shown only the region's part of the picture, with a margin. If somebody reaches from the
    region to the margin's edge and would be cut off there, it runs again with a wider one (`MARGINS`).

    Args:
        inner: finds the people.
        corners: of the region, x, y px each.
        max_people: number of boxes in the region to keep, strongest first.
        looks: `inner` uses the picture; if not, it gets the whole frame.
    """

    def __init__(
        self, inner: Detector, corners: Sequence[tuple[float, float]], max_people: int, *, looks: bool = True
    ) -> None:
        self.inner, self.max_people, self.looks, self.name = inner, max_people, looks, inner.name
        self._corners = corners
        self._begin()

    def _begin(self) -> None:
        self._region = Region(self._corners)
        self._margin, self._kept_for = 0, 0

    def open(self) -> None:
        """See `Detector`."""
        self._begin()
        self.inner.open()
        self.name = self.inner.name

    @property
    def closest(self) -> int:
        """See `Detector`."""
        return self.inner.closest

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """People in the region, in px of the whole frame; DetectorError if no part of it is inside the first frame."""
        found_in = self._region.within(frame)
        if found_in is None:
            return Detections.empty()
        found = self._look(frame, *found_in, look) if self.looks else self.inner.detect(frame)
        middles = (found.bboxes_xyxy[:, :2] + found.bboxes_xyxy[:, 2:]) / 2
        return found.take(np.flatnonzero(self._region.has(middles))[: self.max_people])

    def close(self) -> None:
        """See `Detector`."""
        self.inner.close()

    def _look(self, frame: Frame, low: Corner, high: Corner, look: int) -> Detections:
        """People in the region and around it, in px of the whole frame."""
        if self._margin > 0:
            self._kept_for -= 1
            if self._kept_for == 0:
                self._margin, self._kept_for = self._margin - 1, _FRAMES
        while True:
            found, cut_off = self._look_within(frame, low, high, MARGINS[self._margin], look)
            if not cut_off:
                return found
            self._margin, self._kept_for = self._margin + 1, _FRAMES

    def _look_within(
        self, frame: Frame, low: Corner, high: Corner, margin: float, look: int
    ) -> tuple[Detections, bool]:
        """People found with a margin, and whether it cuts off somebody in the region."""
        size = np.array(frame.size_wh)
        around = margin * (high - low).max()
        first = np.floor((low - around).clip(0)).astype(int)
        last = np.ceil((high + around).clip(0, size - 1)).astype(int)
        part = np.ascontiguousarray(frame.image_bgr[first[1] : last[1] + 1, first[0] : last[0] + 1])
        found = self.inner.detect(replace(frame, image_bgr=part), look=look)
        boxes = found.bboxes_xyxy + np.tile(first, 2).astype(np.float32)
        reaches_in = (boxes[:, :2] < high).all(1) & (boxes[:, 2:] > low).all(1)
        cut_before = ((boxes[:, :2] < first + _EDGE_PX) & (first > 0)).any(1)
        cut_after = ((boxes[:, 2:] > last - _EDGE_PX) & (last < size - 1)).any(1)
        return Detections(boxes, found.bbox_scores, found.look), bool((reaches_in & (cut_before | cut_after)).any())
