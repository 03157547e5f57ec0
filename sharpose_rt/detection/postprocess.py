"""From a detector's raw boxes to `Detections`: the last steps that all detectors share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.geometry.boxes import clip, iou_matrix
from sharpose_rt.types import Detections

MIN_SIDE_PX = 2.0
"""A box that is thinner after clipping shows nobody."""
AGREES_IOU = 0.7
"""Boxes that overlap a kept one by so much say where the same person is."""
DOUBT_IOU, DOUBT_FADES = 0.35, 0.05
"""Who overlaps somebody surer by more than the first is the less sure, by exp(-(overlap - first)² / second)."""


def strongest_first(bboxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating]) -> NDArray[np.intp]:
    """Order (N,) by falling score; equal scores are ordered by their coordinates, so the order never varies."""
    return np.lexsort((*bboxes_xyxy.T[::-1], -scores))


def finish(bboxes_xyxy: ArrayLike, scores: ArrayLike, size_wh: tuple[int, int], config: DetectorConfig) -> Detections:
    """The valid boxes: clipped to the frame, at least as sure as the threshold, strongest first, at most max_people.

    Args:
        bboxes_xyxy: (N, 4) px; boxes that are not finite or have no extent inside the frame are dropped.
        scores: (N,), brought into 0..1.
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


def suppress(bboxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], iou_threshold: float) -> NDArray[np.intp]:
    """Indices of the boxes that greedy non-maximum suppression keeps, strongest first.

    Our own, because torchvision has no operators where it does not match torch, as PyPI's does not match the CPU build
    of PyTorch's own index. No bound on the boxes that take part: a crowd has thousands, some twenty a person.

    Args:
        bboxes_xyxy: (N, 4) px.
        scores: (N,).
        iou_threshold: a box that overlaps a stronger one by more goes.
    """
    left = strongest_first(bboxes_xyxy, scores)
    boxes = np.asarray(bboxes_xyxy, np.float64)
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[iou_matrix(boxes[best], boxes[left])[0] <= iou_threshold]
    return np.array(kept, np.intp)


def each_person_once(
    bboxes_xyxy: NDArray[np.floating], scores: NDArray[np.floating], iou_threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (M, 4) and scores (M,) of those that `suppress` keeps, strongest first as they were scored.

    A kept box becomes the mean of those that agree with it, weighted by the squares of score and overlap (box voting,
    Gidaris and Komodakis 2015). A score falls by the overlap with somebody surer, as in Soft-NMS (Bodla et al. 2017):
    of two people who stand close both stay, while most second boxes of one person fall below the threshold.

    Args:
        bboxes_xyxy: (N, 4) px.
        scores: (N,), 0..1.
        iou_threshold: see `suppress`; at 1 all boxes stay as they are.
    """
    if iou_threshold >= 1:
        order = strongest_first(bboxes_xyxy, scores)
        return bboxes_xyxy[order], scores[order]
    boxes, sure = np.asarray(bboxes_xyxy, np.float64), np.asarray(scores, np.float64)
    kept = suppress(boxes, sure, iou_threshold)
    overlap = iou_matrix(boxes[kept], boxes)
    person, voter = np.nonzero((overlap >= AGREES_IOU) & (sure > 0))  # a box without extent overlaps none
    weights = (overlap[person, voter] * sure[voter]) ** 2
    total, means = np.bincount(person, weights, len(kept))[:, None], boxes[kept]
    sums = np.stack([np.bincount(person, weights * side, len(kept)) for side in boxes[voter].T], 1)
    np.divide(sums, total, out=means, where=total > 0)
    surer = np.tril(iou_matrix(means, means), -1).max(1, initial=0)
    return means, sure[kept] * np.exp(-((surer - DOUBT_IOU).clip(0) ** 2) / DOUBT_FADES)
