"""Keypoint orders of other programs, filled by name from our keypoint sets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeleton import WHOLEBODY133, Skeleton
from sharpose_rt.skeletons.stream import StreamReader

# Order of OpenPose's COCO model (POSE_COCO_BODY_PARTS) and of Kinetics-skeleton.
OPENPOSE_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip

# Order of OpenPose's BODY_25 (POSE_BODY_25_BODY_PARTS); if a set has no feet, the last six are missing.
BODY_25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
    "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip

# OpenPose's face has the 68 landmarks of COCO-WholeBody and the pupils; its hands have the same order.
_BEHIND_THE_BODY = WHOLEBODY133.keypoints[WHOLEBODY133.body :]
FACE_70 = (*_BEHIND_THE_BODY[:68], "right_pupil", "left_pupil")
LEFT_HAND_21, RIGHT_HAND_21 = _BEHIND_THE_BODY[68:89], _BEHIND_THE_BODY[89:]
OPENPOSE_PARTS = {
    "face_keypoints_2d": FACE_70, "hand_left_keypoints_2d": LEFT_HAND_21, "hand_right_keypoints_2d": RIGHT_HAND_21
}  # fmt: skip

# OpenPose's training labels define the neck of COCO people like this; the middle of the hips likewise.
_MIDDLES = {"neck": ("left_shoulder", "right_shoulder"), "mid_hip": ("left_hip", "right_hip")}


def to_layout(table: NDArray[np.float64], skeleton: Skeleton, layout: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, len(layout), 3) from (N, K, 3) x, y, score; zeros for keypoints that `skeleton` lacks or that were not found.

    Neck and mid hip are the middle of their left and right keypoints, with the lower of the two scores; missing if
    either is.
    """
    index = {name: i for i, name in enumerate(skeleton.keypoints)}
    out = np.zeros((len(table), len(layout), 3))
    for j, name in enumerate(layout):
        if name in index:
            out[:, j] = table[:, index[name]]
        elif name in _MIDDLES and all(part in index for part in _MIDDLES[name]):
            left, right = (table[:, index[part]] for part in _MIDDLES[name])
            middle = np.concatenate([(left + right)[:, :2] / 2, np.minimum(left, right)[:, 2:]], axis=1)
            out[:, j] = np.where(middle[:, 2:] > 0, middle, 0)
    return out


def check_layout(reader: StreamReader, layout: tuple[str, ...]) -> None:
    """Raises ConfigError if a stream has none of these keypoints: its people would have none in such a file."""
    names = reader.header.skeleton.keypoints
    if set(names).isdisjoint(layout):
        raise ConfigError(
            f"{reader.path} has {len(names)} keypoints, {', '.join(names[:3]):.80} and so on, none of which this "
            "format has; csv, parquet and others accept any"
        )
