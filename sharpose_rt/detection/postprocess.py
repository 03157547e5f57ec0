"""From a detector's raw boxes to `Detections`: the final steps that all detectors share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.geometry.boxes import clip, iou_matrix
from sharpose_rt.types import Detections

MIN_SIDE_PX = 2.0
"""A box with a shorter side after clipping shows nobody."""
AGREES_IOU = 0.7
"""Boxes that overlap a kept one by at least this much are averaged into it."""
DOUBT_IOU, DOUBT_FADES = 0.35, 0.05
"""If a box overlaps a stronger one by more than the first, its score is multiplied by exp(-(overlap - first)² /
second)."""


def strongest_first(bboxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.intp]:
    """Order (N,) by descending score; equal scores are ordered by coordinates, so the order is deterministic."""
    return np.lexsort((*bboxes_xyxy.T[::-1], -scores))


def finish(bboxes_xyxy: ArrayLike, scores: ArrayLike, size_wh: tuple[int, int], config: DetectorConfig) -> Detections:
    """The valid boxes: clipped to the frame, with at least the threshold's score, strongest first, at most max_people.

    Args:
        bboxes_xyxy: (N, 4) px; boxes that are not finite or have no extent inside the frame are dropped.
        scores: (N,), clipped to 0..1.
        size_wh: size of the frame, px. Its pixel centres span 0 .. w-1, and so do the clipped boxes.
        config: threshold and count.
    """
    boxes = np.asarray(bboxes_xyxy, np.float32).reshape(-1, 4)
    sure = np.asarray(scores, np.float32).reshape(-1)
    valid = np.isfinite(boxes).all(1) & (sure >= config.score_threshold)
    boxes, sure = clip(boxes[valid], (size_wh[0] - 1, size_wh[1] - 1)), sure[valid].clip(0, 1)
    wide = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE_PX).all(1)
    boxes, sure = boxes[wide], sure[wide]
    order = strongest_first(boxes, sure)[: config.max_people]
    return Detections(boxes[order], sure[order])


def suppress(
    bboxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], iou_threshold: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which boxes (M,) greedy non-maximum suppression keeps, strongest first, and means (M, 4) of agreeing boxes.

    A mean is over the kept box and those that overlap it by AGREES_IOU, weighted by the squares of score and overlap
    (box voting, Gidaris and Komodakis 2015): it is more accurate, and moves less from frame to frame.

    Our own, because torchvision has no operators if it does not match torch, as PyPI's does not match the CPU build
    from PyTorch's own index. There is no limit on the number of boxes: a crowd has thousands, about twenty per person.

    Args:
        bboxes_xyxy: (N, 4) px.
        scores: (N,).
        iou_threshold: a box that overlaps a stronger one by more is dropped, and counts in no other mean.
    """
    left = strongest_first(bboxes_xyxy, scores)
    boxes, sure = np.asarray(bboxes_xyxy, np.float64), np.asarray(scores, np.float64)
    kept: list[int] = []
    means: list[NDArray[np.float64]] = []
    while len(left):
        best = left[0]
        overlap = iou_matrix(boxes[best], boxes[left])[0]
        agrees = overlap >= AGREES_IOU
        weights = (overlap[agrees] * sure[left[agrees]]) ** 2
        total = weights.sum()  # 0 for a box without extent, which overlaps nothing, not even itself
        kept.append(int(best))
        means.append(weights @ boxes[left[agrees]] / total if total > 0 else boxes[best])
        left = left[1:][overlap[1:] <= iou_threshold]
    return np.array(kept, np.intp), np.array(means).reshape(-1, 4)


def each_person_once(
    bboxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], iou_threshold: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Boxes (M, 4) and scores (M,) of people, each once, from several boxes of each.

    The boxes are the means from `suppress`. A score is reduced by the overlap with a stronger box, as in Soft-NMS
    (Bodla et al. 2017): two people close together both remain, while most second boxes of one person fall below the
    threshold.

    Args:
        bboxes_xyxy: (N, 4) px.
        scores: (N,), 0..1.
        iou_threshold: see `suppress`; at 1 all boxes are unchanged.
    """
    if iou_threshold >= 1:
        return bboxes_xyxy, scores
    kept, boxes = suppress(bboxes_xyxy, scores, iou_threshold)
    surer = np.tril(iou_matrix(boxes, boxes), -1).max(1, initial=0)
    return boxes, scores[kept] * np.exp(-((surer - DOUBT_IOU).clip(0) ** 2) / DOUBT_FADES)
