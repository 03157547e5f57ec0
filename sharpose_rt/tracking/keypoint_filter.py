"""Kalman filters of all keypoints of all tracks, advanced in one numpy pass per frame.

Letters in shapes: T live tracks, N people of this frame, K keypoints.

Noise is given in box sizes, so that near and far people are treated alike. The size of a person is the longer side of
the box in px (the box of a person lying down has little height).

    measurement:  std = noise * size / score                            px
    motion:       density = (acceleration * agility * size)^2 * ACCELERATION_LASTS_S    px^2/s^3
    agility:      (speed / AGILE_SPEED)^2, from LEAST_AGILITY to 1; speed in box sizes per second
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import SmoothConfig
from sharpose_rt.geometry.affine import apply_affine
from sharpose_rt.geometry.boxes import longer_side
from sharpose_rt.tracking import kalman
from sharpose_rt.tracking.camera import Camera
from sharpose_rt.tracking.kalman import Float64, Motion
from sharpose_rt.tracking.motion import SLOW_DOWN_S

Bool = NDArray[np.bool_]

ACCELERATION_LASTS_S = 0.1
"""How long limbs keep the same acceleration; turns its standard deviation into a spectral density."""
AGILE_SPEED = 0.7
"""Speed in box sizes per second from which a keypoint may accelerate fully; slower ones less, ..."""
LEAST_AGILITY = 0.03
"""... down to this share: what is still is kept still, what moves is followed (as in Casiez et al. 2012)."""
UNKNOWN_SPEED = 2.0
"""Standard deviation of the velocity of a keypoint that has just appeared, box sizes per second."""
COAST_S = 0.15
"""Time constant with which the velocity of a keypoint that is not measured falls to that of its person."""
GATE = 25.0
"""Squared Mahalanobis distance (2 degrees of freedom) above which a measurement is an outlier."""
GATE_SPEED = 1.0
"""Standard deviation of a sudden start of motion, box sizes per second, which the gate allows on top of the noise."""
MAX_REJECTED = 2
"""This many outliers in a row are a jump, which is followed at once."""
LONGEST_STEP_S = 0.5
"""Least time for which a state is kept without measurements: two frames of a slow source belong together, but not those
before and after a jump."""
TICKS_S = 0.002
"""Tolerance for the interval between the times of two frames: each is rounded, in Matroska to a millisecond."""
LEAST_SCORE = 0.05
"""Lower scores count as this in the measurement's standard deviation."""


@dataclass(frozen=True)
class FilterStep:
    """The state of all live tracks after one frame; the rows of absent people are predicted.

    `measured`: the keypoint was measured now and accepted. `linked`: its state continues from the previous frame.
    `present`: the person is in this frame. `born`: the track began in this frame. `camera`: how the picture moved
    before it.
    """

    pts_s: float
    track_ids: NDArray[np.int64]
    motion: Motion
    density: Float64
    known: Bool
    measured: Bool
    linked: Bool
    seen_s: Float64
    score: Float64
    present: Bool
    born: Bool
    camera: Camera | None

    def shift(self, points: Float64) -> Float64:
        """By how much the camera moved points (..., 2) px of the previous frame."""
        return np.zeros_like(points) if self.camera is None else apply_affine(points, self.camera) - points


def measurement_std(config: SmoothConfig, size_px: Float64, scores: Float64) -> Float64:
    """Standard deviations (T, K) in px of keypoints with `scores` (T, K) of people of `size_px` (T,)."""
    return config.noise * size_px[:, None] / np.clip(scores, LEAST_SCORE, 1)


def box_size(bboxes_xyxy: NDArray[np.floating]) -> Float64:
    """Longer side (N,) of each box (N, 4), at least 1 px."""
    return np.maximum(longer_side(np.asarray(bboxes_xyxy, np.float64)), 1.0)


def fade(config: SmoothConfig, age_s: Float64) -> Float64:
    """Share of the score that is left `age_s` seconds after a measurement: 1 while held, then down to 0."""
    if config.fade_s == 0:
        return (age_s <= config.hold_s + TICKS_S).astype(np.float64)
    return np.clip(1 - (age_s - config.hold_s) / config.fade_s, 0, 1)


class KeypointFilter:
    """Kalman filters of the keypoints of all live tracks.

    Args:
        config: noise, and how long unmeasured keypoints are kept.
        keypoint_count: K.
        coast: let the velocity of unmeasured keypoints fall to that of their person, and lost people come to rest, as a
            causal filter should; must be off for a backward pass.
    """

    def __init__(self, config: SmoothConfig, keypoint_count: int, *, coast: bool = True) -> None:
        self.config, self.coast = config, coast
        self.life_s = max(config.hold_s + config.fade_s, LONGEST_STEP_S) + TICKS_S
        self.pts_s: float | None = None
        t, k = 0, keypoint_count
        self.track_ids = np.zeros(t, np.int64)
        self.motion = Motion(np.zeros((t, k, 2)), np.zeros((t, k, 2)), *(np.zeros((t, k, 1)) for _ in range(3)))
        self.known = np.zeros((t, k), bool)
        self.rejected = np.zeros((t, k), np.int64)
        self.seen_s, self.score = np.zeros((t, k)), np.zeros((t, k))
        self.size_px, self.present_s = np.ones(t), np.zeros(t)

    def step(
        self,
        pts_s: float,
        track_ids: NDArray[np.int64],
        points: NDArray[np.floating],
        scores: NDArray[np.floating],
        size_px: Float64,
        tracked: NDArray[np.int64],
        camera: Camera | None = None,
    ) -> FilterStep:
        """Advance all tracks to `pts_s` and update them with the people of this frame.

        Args:
            pts_s: media time, not before the last step's.
            track_ids: (N,) positive and unique.
            points: (N, K, 2) px.
            scores: (N, K) in 0..1; below `config.min_score` a keypoint is not measured.
            size_px: (N,) as of `box_size`.
            tracked: ids of those present, measured or not: they do not come to rest.
            camera: maps points of the last step's frame to this one, (2, 3) px; None if it did not move.

        Raises:
            ValueError: time goes backwards.
        """
        if self.pts_s is not None and pts_s < self.pts_s:
            raise ValueError(
                f"smoothing got a frame at {pts_s:.6f} s after one at {self.pts_s:.6f} s; frames must be in order of "
                "media time. Sort them, or use a new smoother for a new source"
            )
        dt_s = 0.0 if self.pts_s is None else pts_s - self.pts_s
        self.pts_s = pts_s
        self._keep(pts_s - self.present_s <= self.life_s)
        self.known = self.known & (pts_s - self.seen_s <= self.life_s)
        born = self._add(track_ids, points, size_px)
        size = self.size_px[:, None, None]
        speed = np.linalg.norm(self.motion.v, axis=-1, keepdims=True) / size
        agility = np.clip((speed / AGILE_SPEED) ** 2, LEAST_AGILITY, 1)
        density = (self.config.acceleration * size * agility) ** 2 * ACCELERATION_LASTS_S
        if camera is not None:
            self.motion = replace(self.motion, x=apply_affine(self.motion.x, camera))
        self.motion = kalman.predict(self.motion, dt_s, density)

        row_of = {int(track_id): row for row, track_id in enumerate(self.track_ids)}
        rows = np.array([row_of[int(track_id)] for track_id in track_ids], np.int64)
        z, score = self.motion.x.copy(), np.zeros_like(self.score)
        z[rows], score[rows] = points, scores
        self.size_px[rows], self.present_s[rows] = size_px, pts_s
        present = np.zeros(len(self.track_ids), bool)
        present[rows] = True
        measured, linked = self._measure(z, score, dt_s)
        self._let_go(z, present, measured, np.isin(self.track_ids, tracked), dt_s)
        return FilterStep(
            pts_s=pts_s,
            track_ids=self.track_ids.copy(),
            motion=self.motion,
            density=density,
            known=self.known.copy(),
            measured=measured,
            linked=linked,
            seen_s=self.seen_s.copy(),
            score=self.score.copy(),
            present=present,
            born=born,
            camera=camera,
        )

    def _keep(self, alive: Bool) -> None:
        for name in ("track_ids", "motion", "known", "rejected", "seen_s", "score", "size_px", "present_s"):
            setattr(self, name, getattr(self, name)[alive])

    def _add(self, track_ids: NDArray[np.int64], points: NDArray[np.floating], size_px: Float64) -> Bool:
        """Add rows for new tracks, with nothing known yet; (T,) true for those rows."""
        new = ~np.isin(track_ids, self.track_ids)
        count, k = int(new.sum()), self.known.shape[1]
        none = np.zeros((count, k))
        self.track_ids = np.concatenate([self.track_ids, track_ids[new]])
        fresh = kalman.begin(np.asarray(points, np.float64)[new], none[..., None], none[..., None])
        self.motion = kalman.concatenate([self.motion, fresh])
        self.known = np.concatenate([self.known, none.astype(bool)])
        self.rejected = np.concatenate([self.rejected, none.astype(np.int64)])
        self.seen_s, self.score = np.concatenate([self.seen_s, none]), np.concatenate([self.score, none])
        self.size_px = np.concatenate([self.size_px, size_px[new]])
        self.present_s = np.concatenate([self.present_s, np.zeros(count)])
        return np.arange(len(self.track_ids)) >= len(self.track_ids) - count

    def _measure(self, z: Float64, score: Float64, dt_s: float) -> tuple[Bool, Bool]:
        """Update with measurements `z` (T, K, 2); (T, K) which were accepted, and which continue from before."""
        config, predicted = self.config, self.motion
        std = measurement_std(config, self.size_px, score)[..., None]
        sure = (score >= config.min_score) & (score > 0)
        onset = GATE_SPEED * self.size_px[:, None, None] * dt_s
        spread = predicted.pxx + np.square(std) + np.square(onset)
        distance2 = np.square(z - predicted.x).sum(-1) / spread[..., 0]
        outlier = self.known & sure & (distance2 > GATE)
        self.rejected = np.where(outlier, self.rejected + 1, np.where(sure, 0, self.rejected))
        begun = sure & (~self.known | (self.rejected >= MAX_REJECTED))
        updated = sure & self.known & ~outlier
        linked = self.known & ~begun

        speed = np.broadcast_to(UNKNOWN_SPEED * self.size_px[:, None, None], std.shape)
        fresh, better = kalman.begin(z, std, speed), kalman.update(predicted, z, std)
        self.motion = choose(begun, fresh, choose(updated, better, predicted))
        self.known, self.rejected = self.known | begun, np.where(begun, 0, self.rejected)
        measured = begun | updated
        self.seen_s = np.where(measured, self.pts_s or 0.0, self.seen_s)
        self.score = np.where(measured, score, self.score)
        return measured, linked

    def _let_go(self, z: Float64, present: Bool, measured: Bool, tracked: Bool, dt_s: float) -> None:
        """Slow down what was not measured; what is unknown takes the network's position."""
        motion = self.motion
        v, x = motion.v, motion.x
        if self.coast and dt_s > 0 and not measured.all():
            weight = self.known[..., None].astype(np.float64)
            body = (v * weight).sum(1, keepdims=True) / np.maximum(weight.sum(1, keepdims=True), 1)
            own = np.where(measured[..., None], 0.0, v - body)
            shared = np.where((tracked | measured.any(1))[:, None, None], 0.0, body)
            for part, lasts_s in ((own, COAST_S), (shared, SLOW_DOWN_S)):
                lost = 1 - np.exp(-dt_s / lasts_s)
                x = x - part * (dt_s - lasts_s * lost)  # it moved at full speed; now it is as after many short steps
                v = v - part * lost
        x = np.where((present[:, None] & ~self.known)[..., None], z, x)
        self.motion = Motion(x, v, motion.pxx, motion.pxv, motion.pvv)


def choose(where: Bool, yes: Motion, no: Motion) -> Motion:
    """Elements of `yes` where `where` (T, K) is true, else of `no`."""
    return Motion(*(np.where(where[..., None], a, b) for a, b in zip(yes.arrays(), no.arrays(), strict=True)))
