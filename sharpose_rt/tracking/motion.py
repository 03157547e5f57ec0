"""Boxes that move with nearly constant velocity: centre, width and height, each with its own Kalman filter."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.geometry.affine import apply_affine
from sharpose_rt.tracking import kalman
from sharpose_rt.tracking.camera import Camera
from sharpose_rt.tracking.kalman import Float64, Motion

# For (centre x, centre y, width, height), in box heights; chosen on tests/tracking_worlds.py.
NOISE = np.array([0.05, 0.06, 0.08, 0.08])
"""Standard deviation of a detector's box."""
POSE_NOISE = 1.5
"""How many times noisier a box from a pose is."""
ACCELERATION = np.array([1.5, 0.75, 0.4, 0.4])
"""Standard deviation of the acceleration, box heights per second squared."""
ACCELERATION_LASTS_S = 0.3
"""How long people keep the same acceleration."""
UNKNOWN_SPEED = np.array([1.0, 0.4, 0.2, 0.2])
"""Standard deviation of the velocity of a new box, box heights per second."""
SLOW_DOWN_S = 0.6
"""Time constant with which people who are not seen come to rest."""


def to_centre(bboxes_xyxy: ArrayLike) -> Float64:
    """Centre x, centre y, width, height of boxes (..., 4) px."""
    boxes = np.asarray(bboxes_xyxy, np.float64)
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def to_corners(state: Float64) -> Float64:
    """Boxes xyxy (..., 4) px of centres and sizes, which are at least 1 px."""
    half = np.maximum(state[..., 2:], 1) / 2
    return np.concatenate([state[..., :2] - half, state[..., :2] + half], -1)


def begin(bboxes_xyxy: ArrayLike) -> Motion:
    """New boxes (N, 4), assumed to be at rest."""
    position = to_centre(bboxes_xyxy)
    scale = _scale(position)
    return kalman.begin(position, NOISE * scale, UNKNOWN_SPEED * scale)


def predict(boxes: Motion, dt_s: float, seen: NDArray[np.bool_]) -> Motion:
    """The boxes `dt_s` seconds later; those that were not `seen` (N,) when the detector last ran slow down."""
    density = (ACCELERATION * _scale(boxes.x)) ** 2 * ACCELERATION_LASTS_S
    ahead = kalman.predict(boxes, dt_s, density)
    left = np.exp(-dt_s / SLOW_DOWN_S)
    slower = np.where(seen, 1.0, left)[:, None]
    travel_s = np.where(seen, dt_s, SLOW_DOWN_S * (1 - left))[:, None]  # as far as in many short steps
    return Motion(boxes.x + travel_s * boxes.v, ahead.v * slower, ahead.pxx, ahead.pxv, ahead.pvv)


def moved(boxes: Motion, camera: Camera) -> Motion:
    """The boxes after the camera's motion; they stay upright."""
    grown = np.sqrt(np.linalg.det(camera[:, :2]))
    at = np.concatenate([apply_affine(boxes.x[:, :2], camera), boxes.x[:, 2:] * grown], -1)
    return Motion(at, *boxes.arrays()[1:])


def update(boxes: Motion, bboxes_xyxy: ArrayLike, noise: float = 1.0) -> Motion:
    """The boxes after a measurement `bboxes_xyxy` (N, 4) that is `noise` times as noisy as a detector's."""
    position = to_centre(bboxes_xyxy)
    return kalman.update(boxes, position, noise * NOISE * _scale(position))


def _scale(position: Float64) -> Float64:
    return np.maximum(position[..., 3:4], 1.0)
