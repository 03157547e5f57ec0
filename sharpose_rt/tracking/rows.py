"""Rows of `Poses`: made, changed and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.geometry.boxes import longer_side
from sharpose_rt.types import Poses, PoseStage

REACH = 0.2
"""How far outside the box a predicted keypoint may be, in longer sides of the box; three in a thousand measured ones
are farther. A limb that was last seen jumping from one person to another flies off when predicted."""


def raw(poses: Poses) -> Poses:
    """The same people with their raw keypoints as keypoints."""
    return replace(poses, keypoints=poses.raw_keypoints, keypoint_scores=poses.raw_keypoint_scores)


def estimated(poses: Poses) -> Poses:
    """The people who were in the frame, without those whom a smoother has predicted."""
    return poses.kept(poses.stage != PoseStage.PREDICTED)


def with_keypoints(
    poses: Poses, row_of: Mapping[int, int], points: NDArray[np.floating], scores: NDArray[np.floating]
) -> Poses:
    """The same people with keypoints from `points` (T, K, 2) and `scores` (T, K), at the row of their track id.

    People without a row have their raw keypoints.
    """
    keypoints, keypoint_scores = poses.raw_keypoints.copy(), poses.raw_keypoint_scores.copy()
    for index, track_id in enumerate(poses.track_ids):
        row = row_of.get(int(track_id))
        if row is not None:
            keypoints[index], keypoint_scores[index] = points[row], scores[row]
    return replace(poses, keypoints=keypoints, keypoint_scores=keypoint_scores)


def predicted(
    track_id: int,
    bbox_xyxy: ArrayLike,
    bbox_score: float,
    keypoints: NDArray[np.floating],
    keypoint_scores: NDArray[np.floating],
    quality: float,
) -> Poses:
    """One person who is not in the frame: raw keypoints are the predicted ones, with score 0.

    Predicted keypoints that are too far outside the box (`REACH`) also have score 0.
    """
    box, points = np.asarray(bbox_xyxy, np.float32), keypoints[None].astype(np.float32)
    reach_px = REACH * longer_side(box)
    near = ((keypoints >= box[:2] - reach_px) & (keypoints <= box[2:] + reach_px)).all(1)
    return Poses(
        bboxes_xyxy=box[None],
        bbox_scores=np.array([bbox_score], np.float32),
        track_ids=np.array([track_id], np.int64),
        keypoints=points,
        keypoint_scores=np.where(near, keypoint_scores, 0)[None].astype(np.float32),
        raw_keypoints=points,
        raw_keypoint_scores=np.zeros((1, len(keypoints)), np.float32),
        quality=np.array([quality], np.float32),
        stage=np.array([PoseStage.PREDICTED], np.int64),
    )


def join(parts: Sequence[Poses]) -> Poses:
    """The people of all `parts` (at least one), one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = [item.name for item in fields(Poses)]
    return Poses(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
