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
        self._sums: dict[int, NDArray[np.float64]] = {}
        """By key (1 + K, 4): mean score, size in px, frames, 0 of the person; found, squares, x, y of the keypoints."""

    def add(self, keys: list[int], poses: Poses, *, raw: bool, scale: NDArray[np.float64] | float = 1.0) -> None:
        """Adds the people (N,) of a frame, identified by `keys`; `scale` converts px to a common size."""
        points, scores = poses.points(raw=raw)
        boxes = poses.bboxes_xyxy.astype(np.float64)
        centred = (points - (boxes[:, None, :2] + boxes[:, None, 2:]) / 2) * scale
        found = scores > 0
        centred[~found] = 0
        table = np.zeros((len(keys), 1 + scores.shape[1], 4))
        table[:, 0, 0], table[:, 0, 1], table[:, 0, 2] = scores.mean(axis=1), longer_side(boxes) * np.mean(scale), 1
        table[:, 1:, 0], table[:, 1:, 1], table[:, 1:, 2:] = found, np.square(centred).sum(axis=-1), centred
        for key, row in zip(keys, table, strict=True):
            before = self._sums.get(key)
            self._sums[key] = row if before is None else before + row

    def strengths(self) -> dict[int, float]:
        """Presence times movement, px, of each person by key."""
        if not self._sums:
            return {}
        sums = np.stack(list(self._sums.values()))
        presence, size_px, frames = sums[:, 0, :3].T
        count, squares, centred = np.maximum(sums[:, 1:, 0], 1), sums[:, 1:, 1], sums[:, 1:, 2:]
        variance = squares / count - np.square(centred / count[..., None]).sum(axis=-1)
        moved, several = np.sqrt(np.maximum(variance, 0)), count > 1
        movement_px = (moved * several).sum(axis=1) / np.maximum(several.sum(axis=1), 1)
        strength = presence * (movement_px + STILL * size_px / frames)
        return dict(zip(self._sums, strength.tolist(), strict=True))
