"""Boxes as `xyxy` pixels: overlap, boxes around keypoints, other notations."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.floating]


def inside_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> NDArray[np.float32]:
    """Share of each box of `a` (N, 4) that is inside each box of `b` (M, 4): (N, M) float32 in 0..1."""
    inter = _intersections(a_xyxy, b_xyxy)
    own = area(np.asarray(a_xyxy, np.float64).reshape(-1, 4))[:, None]
    return np.divide(inter, own, out=np.zeros_like(inter), where=own > 0).astype(np.float32)


def iou_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Overlap (IoU) of each box of `a` (N, 4) with each box of `b` (M, 4): (N, M) in 0..1."""
    a, b = np.asarray(a_xyxy, np.float64).reshape(-1, 4), np.asarray(b_xyxy, np.float64).reshape(-1, 4)
    inter = _intersections(a, b)
    union = area(a)[:, None] + area(b)[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def _intersections(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(a_xyxy, np.float64).reshape(-1, 4), np.asarray(b_xyxy, np.float64).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)


def area(bboxes_xyxy: ArrayLike) -> Float:
    """Area of each box (..., 4) in px²; 0 for an inverted box."""
    boxes = np.asarray(bboxes_xyxy)
    return np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)


def longer_side(bboxes_xyxy: ArrayLike) -> Float:
    """Longer side of each box (..., 4), px."""
    boxes = np.asarray(bboxes_xyxy)
    return (boxes[..., 2:] - boxes[..., :2]).max(-1)


def xywh_to_xyxy(bboxes_xywh: ArrayLike) -> Float:
    """Corners of boxes (..., 4) given as left, top, width, height."""
    boxes = np.asarray(bboxes_xywh)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def xyxy_to_xywh(bboxes_xyxy: ArrayLike) -> Float:
    """Left, top, width, height of boxes (..., 4) given as corners."""
    boxes = np.asarray(bboxes_xyxy)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def clip(bboxes_xyxy: ArrayLike, size_wh: tuple[int, int]) -> Float:
    """Boxes (N, 4) cut at the picture's borders."""
    boxes = np.array(bboxes_xyxy, copy=True)
    boxes[..., 0::2] = boxes[..., 0::2].clip(0, size_wh[0])
    boxes[..., 1::2] = boxes[..., 1::2].clip(0, size_wh[1])
    return boxes


def keypoints_to_bbox(keypoints: ArrayLike, scores: ArrayLike, min_score: float = 0.3) -> Float:
    """Smallest box around the sure keypoints of each person.

    Args:
        keypoints: (N, K, 2) px.
        scores: (N, K); a keypoint below `min_score` does not count.

    Returns:
        (N, 4) xyxy px; NaN where a person has fewer than two sure keypoints.
    """
    points, sure = np.asarray(keypoints, np.float64), np.asarray(scores) >= min_score
    low = np.where(sure[..., None], points, np.inf).min(1, initial=np.inf)
    high = np.where(sure[..., None], points, -np.inf).max(1, initial=-np.inf)
    boxes = np.concatenate([low, high], -1)
    boxes[sure.sum(1) < 2] = np.nan
    return boxes
