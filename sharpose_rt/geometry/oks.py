"""Object keypoint similarity (OKS), COCO's measure of how close two poses are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.types import quality_factor

SAME_POSE, SAME_BODY = 0.7, 0.8
"""Poses that are more similar than the first belong to one person. So do those that are more similar than the second
when keypoints count by their sigmas: in a box without the head, the face's five keypoints are wrong and all others
right."""
VISIBLE_SCORE = 0.2
"""Keypoints with a lower score do not count in the score of a pose."""


def oks(
    keypoints: ArrayLike,
    truth: ArrayLike,
    counted: ArrayLike,
    area_px2: ArrayLike,
    sigmas: Sequence[float],
    weights: ArrayLike = 1.0,
) -> NDArray[np.float64]:
    """Similarity (...) in 0..1 of keypoints (..., K, 2) to `truth` (..., K, 2), as pycocotools computes it.

    Args:
        keypoints: px.
        truth: px.
        counted: (..., K); keypoints where it is above 0 count. If none does, the similarity is 0.
        area_px2: (...) area of the person.
        sigmas: (K,) of the skeleton.
        weights: (..., K) how much each keypoint counts; by default all count alike, as in COCO.
    """
    similarity = similarities(keypoints, truth, area_px2, sigmas)
    mask = (np.asarray(counted) > 0) * np.asarray(weights, np.float64)
    count = mask.sum(-1)
    total = (mask * similarity).sum(-1)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def similarities(
    keypoints: ArrayLike, truth: ArrayLike, area_px2: ArrayLike, sigmas: Sequence[float]
) -> NDArray[np.float64]:
    """Each keypoint's part of OKS (..., K) in 0..1; arguments as for `oks`."""
    distance2 = ((np.asarray(keypoints, np.float64) - np.asarray(truth, np.float64)) ** 2).sum(-1)
    variance = (2 * np.asarray(sigmas, np.float64)) ** 2
    scale = np.asarray(area_px2, np.float64)[..., None] + np.spacing(1)
    return np.exp(-distance2 / variance / scale / 2)


def pose_scores(keypoint_scores: ArrayLike, sigmas: Sequence[float] = ()) -> NDArray[np.float64]:
    """Mean of each person's keypoint scores above 0.2, (...) from (..., K); 0 if there are none.

    If `sigmas` are given, keypoints count by them: the five of a face, which are close together and easily found, say
    little about a body.
    """
    scores = np.asarray(keypoint_scores, np.float64)
    weights = (scores > VISIBLE_SCORE) * (np.asarray(sigmas) if len(sigmas) else np.ones(scores.shape[-1]))
    return (scores * weights).sum(-1) / np.maximum(weights.sum(-1), 1e-9)


def person_scores(
    bbox_scores: ArrayLike, keypoint_scores: ArrayLike, quality: ArrayLike, sigmas: Sequence[float]
) -> NDArray[np.float64]:
    """Score of each person, (N,) in 0..1: the product of box score (N,), `pose_scores` of the keypoint scores (N, K)
    and, where it is known (not NaN), predicted quality (N,).

    The quality says what keypoint scores do not: how accurate the keypoints are, and whether this is a person.
    """
    return np.asarray(bbox_scores) * pose_scores(keypoint_scores, sigmas) * quality_factor(quality)


def oks_matrix(
    a: ArrayLike,
    a_scores: ArrayLike,
    b: ArrayLike,
    area_px2: ArrayLike,
    sigmas: Sequence[float],
    min_score: float = 0.3,
    weights: ArrayLike = 1.0,
) -> NDArray[np.float64]:
    """Similarity (N, M) of poses `a` (N, K, 2) to poses `b` (M, K, 2), over the sure keypoints of `a`.

    `area_px2` (N,) belongs to `a`; `weights` are as in `oks`; with (..., 1, 1, K) the similarities are (..., N, M).
    """
    first, second = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    counted = np.broadcast_to(
        (np.asarray(a_scores) >= min_score)[:, None],
        (*np.broadcast_shapes(first.shape, second.shape)[:2], first.shape[2]),
    )
    return oks(first, second, counted, np.asarray(area_px2)[:, None] + np.zeros((1, second.shape[1])), sigmas, weights)


def same_poses(
    a: ArrayLike,
    a_scores: ArrayLike,
    b: ArrayLike,
    area_px2: ArrayLike,
    sigmas: Sequence[float],
    min_score: float = 0.3,
) -> NDArray[np.bool_]:
    """Whether (N, M) poses `a` (N, K, 2) and `b` (M, K, 2) are similar enough to be one person's; as `oks_matrix`."""
    weights = np.stack([np.ones(len(sigmas)), sigmas])[:, None, None]
    pose, body = oks_matrix(a, a_scores, b, area_px2, sigmas, min_score, weights)
    return (pose > SAME_POSE) | (body > SAME_BODY)
