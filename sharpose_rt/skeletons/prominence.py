"""Tells the actors of a clip from bystanders.

A bystander in plain view may be seen better and longer than an actor who is small, blurred or leaves early, so scores
alone are not enough. Readers of NTU RGB+D choose people by how much they move (`read_xyz` in ST-GCN and its
successors); this does the same for 2D poses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.geometry.boxes import longer_side
from sharpose_rt.types import Poses

STILL = 0.01
"""Movement added for everybody, as a share of their size, which ranks people who do not move by size and presence."""


class Prominence:
    """Ranks people by presence times movement.

    Presence is the sum of a person's mean keypoint scores over the frames. Movement is the standard deviation of their
    keypoints around the centre of the box, in px, averaged over the keypoints. Walking past or a moving camera counts
    little, and of two people who move alike the larger one counts more."""

    def __init__(self) -> None:
        self._row_of: dict[int, int] = {}
        self._presence = self._size_px = self._frames = np.zeros(0)
        self._count = self._squares = np.zeros((0, 0))
        self._sum = np.zeros((0, 0, 2))

    def add(self, keys: list[int], poses: Poses, *, raw: bool, scale: NDArray[np.float64] | float = 1.0) -> None:
        """Adds the people (N,) of a frame, identified by `keys`; `scale` converts px to a common size."""
        if not keys:
            return
        for key in keys:
            self._row_of.setdefault(key, len(self._row_of))
        points, scores = (
            (poses.raw_keypoints, poses.raw_keypoint_scores) if raw else (poses.keypoints, poses.keypoint_scores)
        )
        self._make_room(scores.shape[1])
        rows = [self._row_of[key] for key in keys]
        boxes = poses.bboxes_xyxy.astype(np.float64)
        centred = (points - (boxes[:, None, :2] + boxes[:, None, 2:]) / 2) * scale
        found = scores > 0
        centred[~found] = 0
        self._presence[rows] += scores.mean(axis=1)
        self._size_px[rows] += longer_side(boxes) * np.mean(scale)
        self._frames[rows] += 1
        self._count[rows] += found
        self._sum[rows] += centred
        self._squares[rows] += np.square(centred).sum(axis=-1)

    def _make_room(self, keypoint_count: int) -> None:
        lacking = len(self._row_of) - len(self._presence)
        if lacking > 0:
            lacking = max(lacking, len(self._presence))  # avoids a copy for each new person
            for name, shape in {
                "_presence": (), "_size_px": (), "_frames": (),
                "_count": (keypoint_count,), "_squares": (keypoint_count,), "_sum": (keypoint_count, 2),
            }.items():  # fmt: skip
                old = getattr(self, name).reshape(-1, *shape)
                setattr(self, name, np.concatenate([old, np.zeros((lacking, *shape))]))

    def strengths(self) -> dict[int, float]:
        """Presence times movement, px, of each person by key."""
        count = np.maximum(self._count, 1)
        variance = self._squares / count - np.square(self._sum / count[..., None]).sum(axis=-1)
        moved, several = np.sqrt(np.maximum(variance, 0)), self._count > 1
        movement_px = (moved * several).sum(axis=1) / np.maximum(several.sum(axis=1), 1)
        strength = self._presence * (movement_px + STILL * self._size_px / np.maximum(self._frames, 1))
        return {key: float(strength[row]) for key, row in self._row_of.items()}
