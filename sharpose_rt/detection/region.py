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

MARGIN = 0.15
"""Of the picture around a region, in shares of the region's longer side, that is shown at first."""
_EDGE_PX = 2.0
"""A box that ends so near to the edge of what was shown may go on beyond it."""


class RegionDetector:
    """What another detector finds in a region: whose box has its middle inside.

    It is shown the region's part of the picture alone, with a margin. Who reaches from the region to the margin's edge
    would be cut off there; then the margin grows, for good, until nobody does.

    Args:
        inner: finds the people.
        polygon: corners of the region, x, y px each.
        max_people: the strongest so many boxes in it are kept.
        looks: `inner` goes by the picture; else it is shown all of it.
    """

    def __init__(
        self, inner: Detector, polygon: Sequence[tuple[float, float]], max_people: int, *, looks: bool = True
    ) -> None:
        self.inner, self.max_people, self.looks, self.name = inner, max_people, looks, inner.name
        self._polygon = np.array(polygon, np.float32)
        self._margin = MARGIN
        self._outside_of: set[tuple[int, int]] | None = None

    def open(self) -> None:
        """See `Detector`."""
        self.inner.open()
        self.name = self.inner.name

    def detect(self, frame: Frame) -> Detections:
        """People in the region, in px of the whole frame; nobody in a frame that the region lies outside of.

        Raises:
            DetectorError: the region lies outside of the first frame.
        """
        try:
            low, high = bounds(self._polygon, frame.size_wh)
        except DetectorError as error:
            if self._outside_of is None:
                raise
            if frame.size_wh not in self._outside_of:  # a picture among others, or a stream that came back smaller
                logger.warning("frame %d: %s; nobody is looked for there", frame.frame_id, error)
                self._outside_of.add(frame.size_wh)
            return Detections.empty()
        if self._outside_of is None:
            self._outside_of = set()
        found = self._look(frame, low, high) if self.looks else self.inner.detect(frame)
        middles = (found.bboxes_xyxy[:, :2] + found.bboxes_xyxy[:, 2:]) / 2
        inside = [cv2.pointPolygonTest(self._polygon, (float(x), float(y)), False) >= 0 for x, y in middles]
        rows = np.flatnonzero(inside)[: self.max_people]
        return Detections(found.bboxes_xyxy[rows], found.bbox_scores[rows])

    def close(self) -> None:
        """See `Detector`."""
        self.inner.close()

    def _look(self, frame: Frame, low: NDArray[np.float32], high: NDArray[np.float32]) -> Detections:
        """What is found in the region and around it, in px of the whole frame."""
        size = np.array(frame.size_wh)
        while True:
            around = self._margin * (high - low).max()
            first = np.maximum(0, np.floor(low - around)).astype(int)
            last = np.minimum(size - 1, np.ceil(high + around)).astype(int)
            part = np.ascontiguousarray(frame.image_bgr[first[1] : last[1] + 1, first[0] : last[0] + 1])
            found = self.inner.detect(replace(frame, image_bgr=part))
            boxes = found.bboxes_xyxy + np.tile(first, 2).astype(np.float32)
            reaches_in = (boxes[:, :2] < high).all(1) & (boxes[:, 2:] > low).all(1)
            cut_before = ((boxes[:, :2] < first + _EDGE_PX) & (first > 0)).any(1)
            cut_after = ((boxes[:, 2:] > last - _EDGE_PX) & (last < size - 1)).any(1)
            if not (reaches_in & (cut_before | cut_after)).any():
                return Detections(boxes, found.bbox_scores)
            self._margin *= 2


def bounds(polygon: NDArray[np.float32], size_wh: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and greatest x, y px of a region's corners (N, 2), within a picture of that size.

    Raises:
        DetectorError: it lies outside.
    """
    most = np.array(size_wh, np.float32) - 1
    low, high = polygon.min(0), polygon.max(0)
    inner_low, inner_high = low.clip(0, most), high.clip(0, most)
    if (inner_high - inner_low).min() < MIN_SIDE_PX:
        raise DetectorError(
            f"the region from {low[0]:g},{low[1]:g} to {high[0]:g},{high[1]:g} lies outside of the picture, which is "
            f"{size_wh[0]}x{size_wh[1]} px; give corners inside (--region, detector.region)"
        )
    return inner_low, inner_high
