"""Carries the fine stage's corrections of coarse poses over to frames in which a person is not refined.

From frame to frame the coarse stage makes similar errors while a limb looks similar. So a correction by the fine stage
holds for a while, and people who move as expected can do without that stage meanwhile. Letters: N people, K keypoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.geometry.affine import apply_affine
from sharpose_rt.geometry.oks import oks
from sharpose_rt.tracking.camera import Camera
from sharpose_rt.types import Float32

Pose = tuple[Float32, Float32]
"""Keypoints (K, 2) px and scores (K,)."""


class Place(NamedTuple):
    """Where a person is in a frame: centre of the box (2,) px, size of the person in px, and media time in s."""

    centre: NDArray[np.float64]
    size_px: float
    pts_s: float


FADES_S = 0.3
"""After this time a third of a correction is left."""
FADES_SIZES = 0.1
"""The same for a keypoint that has moved this far within the box, in sizes of the person."""
TRUST, NOISE_SIZES = 0.5, 0.03
"""A corrected keypoint is moved by a share of at most TRUST towards where it was expected; less, the longer ago the
last refinement was and the farther off that place is, compared with NOISE_SIZES, the coarse stage's extra noise."""
EXTRAPOLATED = 2.0
"""Frame intervals for which a pose is expected to keep moving as before."""


@dataclass
class Refinement:
    """The recent output for one person.

    Args:
        pts_s: media time of the last refinement.
        change: (K, 3), the correction made then: x and y in sizes of the person, and the score.
        coarse: (K, 2), the coarse pose then, relative to the centre of the box, in sizes of the person.
        shown: times and keypoints (K, 2) px of the last two poses that were output.
    """

    pts_s: float = -math.inf
    change: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    coarse: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    shown: list[tuple[float, NDArray[np.float64]]] = field(default_factory=list)

    def moved(self, camera: Camera) -> None:
        """Applies a camera motion."""
        self.shown = [(pts_s, apply_affine(keypoints, camera)) for pts_s, keypoints in self.shown]

    def corrected(self, coarse: Pose, place: Place) -> Pose:
        """A coarse pose with what is left of the correction; unchanged if there was none."""
        if not len(self.change):
            return coarse
        keypoints, scores = coarse
        moved = np.linalg.norm((keypoints - place.centre) / place.size_px - self.coarse, axis=-1)
        left = self._left(place.pts_s) * np.exp(-moved / FADES_SIZES)[:, None] * self.change
        corrected = (keypoints + place.size_px * left[:, :2]).astype(np.float32)
        return corrected, np.clip(scores + left[:, 2], 0, 1).astype(np.float32)

    def expected(self, pts_s: float) -> NDArray[np.float64] | None:
        """Where the keypoints (K, 2) should be now, px; None if nothing is known."""
        if not self.shown:
            return None
        last_s, last = self.shown[-1]
        first_s, first = self.shown[0]
        if last_s <= first_s:
            return last
        return last + min((pts_s - last_s) / (last_s - first_s), EXTRAPOLATED) * (last - first)

    def steadied(self, keypoints: Float32, expected: NDArray[np.float64] | None, place: Place) -> Float32:
        """A corrected pose (K, 2) px with less noise, moved towards where it was `expected`."""
        if expected is None:
            return keypoints
        off = expected - keypoints
        near = np.exp(-np.square(np.linalg.norm(off, axis=-1) / (place.size_px * NOISE_SIZES)) / 2)
        return (keypoints + TRUST * self._left(place.pts_s) * near[:, None] * off).astype(np.float32)

    def refined(self, coarse: Pose, fine: Pose, place: Place) -> None:
        """Records what the fine stage made of a coarse pose."""
        self.pts_s, self.coarse = place.pts_s, (coarse[0] - place.centre) / place.size_px
        self.change = np.c_[(fine[0] - coarse[0]) / place.size_px, fine[1] - coarse[1]]

    def came_out(self, keypoints: Float32, pts_s: float) -> None:
        """Records a pose (K, 2) px that was output."""
        self.shown = [*self.shown[-1:], (pts_s, keypoints.astype(np.float64))]

    def _left(self, pts_s: float) -> float:
        return math.exp((self.pts_s - pts_s) / FADES_S)


def surprises(
    poses: Sequence[Pose],
    expected: Sequence[NDArray[np.float64] | None],
    sizes_px: Sequence[float],
    sigmas: Sequence[float],
) -> NDArray[np.float64]:
    """How far N poses are from where they were expected, (N,) in 0..1: 1 - OKS with keypoints weighted by their scores;
    1 if nothing was expected."""
    rows = [row for row, there in enumerate(expected) if there is not None]
    surprise = np.ones(len(poses))
    if rows:
        keypoints, scores = (np.stack(values) for values in zip(*(poses[row] for row in rows), strict=True))
        there, areas_px2 = np.array([expected[row] for row in rows]), np.square([sizes_px[row] for row in rows])
        surprise[rows] = 1 - oks(keypoints, there, scores, areas_px2, sigmas, weights=scores)
    return surprise
