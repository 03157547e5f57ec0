"""Joint angles in the picture: between a skeleton's limbs, and between the trunk and the vertical."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.skeleton import TRUNK, Skeleton

_ENDS = {
    "shoulder": ("elbow", "hip"),
    "elbow": ("shoulder", "wrist"),
    "hip": ("shoulder", "knee"),
    "knee": ("hip", "ankle"),
    "ankle": ("knee", "big_toe"),
}
"""The two neighbours between which each joint's angle is measured."""


def angle_names(skeleton: Skeleton) -> tuple[str, ...]:
    """What `joint_angles` returns for this skeleton: 'left_elbow', ... for the joints whose neighbours it has, and
    'trunk'."""
    has = set(skeleton.keypoints)
    joints = [f"{side}_{joint}" for joint in _ENDS for side in ("left", "right") if has >= set(_triple(side, joint))]
    return (*joints, *(["trunk"] if has >= set(TRUNK) else []))


def joint_angles(
    keypoints: ArrayLike, scores: ArrayLike, skeleton: Skeleton, min_score: float = 0.0
) -> NDArray[np.float64]:
    """Angles (N, A) in degrees, in the order of `angle_names`; NaN where a keypoint was not found.

    A joint's angle is that between the limbs that meet at it, 0 (folded) to 180 (straight): at the shoulder between
    upper arm and trunk, at the hip between trunk and thigh. The trunk's angle, from the middle of the hips to the
    middle of the shoulders, is 0 when upright, 90 to the right of the picture and -90 to the left, within -180 to 180.
    All are angles in the picture: a limb that points at the camera is foreshortened, so its angles differ from the
    body's.

    Args:
        keypoints: (N, K, 2) px, y down.
        scores: (N, K); 0 is a keypoint that was not found.
        skeleton: of the K keypoints.
        min_score: keypoints below it count as not found.
    """
    points, sure = np.asarray(keypoints, np.float64), np.asarray(scores, np.float64)
    points = np.where(((sure > 0) & (sure >= min_score))[..., None], points, np.nan)
    at = {name: points[:, index] for index, name in enumerate(skeleton.keypoints)}
    columns = []
    for name in angle_names(skeleton):
        if name == "trunk":
            left_shoulder, right_shoulder, left_hip, right_hip = (at[part] for part in TRUNK)
            x, y = (left_shoulder + right_shoulder - left_hip - right_hip).T
            columns.append(_degrees(x, -y))
            continue
        first, joint, last = (at[part] for part in _triple(*name.split("_", 1)))
        (ax, ay), (bx, by) = (first - joint).T, (last - joint).T
        columns.append(np.abs(_degrees(ax * by - ay * bx, ax * bx + ay * by)))
    return np.stack(columns, 1) if columns else np.zeros((len(points), 0))


def _triple(side: str, joint: str) -> tuple[str, str, str]:
    first, last = _ENDS[joint]
    return f"{side}_{first}", f"{side}_{joint}", f"{side}_{last}"


def _degrees(sine: NDArray[np.float64], cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The angle whose sine and cosine have this ratio; NaN where both are 0, as two keypoints coincide."""
    return np.where((sine == 0) & (cosine == 0), np.nan, np.degrees(np.arctan2(sine, cosine)))
