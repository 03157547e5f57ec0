"""A constant-velocity Kalman filter in closed form, for any number of coordinates in one numpy pass.

Each coordinate has its own state (position x, velocity v), so the filter's matrices are 2x2 and need no linear algebra:
F = [[1, dt], [0, 1]], H = [1, 0]. The acceleration is white noise in continuous time, whose covariance over a step is
Q = q [[dt^3/3, dt^2/2], [dt^2/2, dt]] (Bar-Shalom, Li and Kirubarajan 2001, section 6.2): two short steps give exactly
the result of one long step, so a variable frame rate makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Motion:
    """Means and covariances of coordinates that move with nearly constant velocity.

    `x` and `v` have one shape, (..., A); the covariance `pxx`, `pxv`, `pvv` broadcasts against it, so that axes with
    equal noise can share one, (..., 1). Units: px and s.
    """

    x: Float64
    v: Float64
    pxx: Float64
    pxv: Float64
    pvv: Float64

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Motion:
        return Motion(self.x[index], self.v[index], self.pxx[index], self.pxv[index], self.pvv[index])

    def replace_rows(self, index: Any, rows: Motion) -> None:
        """Write `rows` over the rows at `index`, in place."""
        for mine, new in zip(self.arrays(), rows.arrays(), strict=True):
            mine[index] = new

    def arrays(self) -> tuple[Float64, ...]:
        """The five arrays, in the order of the fields."""
        return self.x, self.v, self.pxx, self.pxv, self.pvv


def begin(position: Float64, noise_std: Float64, speed_std: Float64) -> Motion:
    """A state at the measured `position` (..., A), with no known velocity.

    Args:
        position: (..., A) px.
        noise_std: standard deviation of the measurement, px; the shape of the covariance.
        speed_std: standard deviation of the unknown velocity, px/s; the same shape.
    """
    return Motion(
        x=np.array(position, np.float64),
        v=np.zeros(np.shape(position)),
        pxx=np.square(noise_std),
        pxv=np.zeros(np.shape(noise_std)),
        pvv=np.square(speed_std),
    )


def concatenate(parts: Sequence[Motion]) -> Motion:
    """The rows of all `parts`, one after the other."""
    return Motion(*(np.concatenate(arrays) for arrays in zip(*(p.arrays() for p in parts), strict=True)))


def predict(state: Motion, dt_s: float, density: Float64 | float) -> Motion:
    """The state `dt_s` seconds later; `density` is the acceleration's spectral density, px^2/s^3."""
    x, v, pxx, pxv, pvv = state.arrays()
    return Motion(
        x=x + dt_s * v,
        v=v.copy(),
        pxx=pxx + dt_s * (2 * pxv + dt_s * (pvv + density * (dt_s / 3))),
        pxv=pxv + dt_s * (pvv + density * (dt_s / 2)),
        pvv=pvv + density * dt_s,
    )


def update(state: Motion, position: Float64, noise_std: Float64) -> Motion:
    """The state after measuring `position` (..., A) px with standard deviation `noise_std` px."""
    x, v, pxx, pxv, pvv = state.arrays()
    variance = np.square(noise_std)
    total = pxx + variance
    gain_x, gain_v = pxx / total, pxv / total
    residual = position - x
    # (1 - gain_x) is written variance / total: no difference of nearly equal numbers, so pxx stays positive.
    keep = variance / total
    return Motion(x + gain_x * residual, v + gain_v * residual, pxx * keep, pxv * keep, pvv - gain_v * pxv)


def smooth_back(filtered: Motion, later: Motion, dt_s: float, density: Float64 | float) -> Motion:
    """The Rauch-Tung-Striebel estimate of a state, given the smoothed state `dt_s` seconds `later`.

    Args:
        filtered: the state after its own measurement.
        later: the smoothed state of the step after it.
        dt_s: seconds between the two; if it is 0, the later state is returned.
        density: as in `predict` between the two, px^2/s^3.
    """
    ahead = predict(filtered, dt_s, density)
    # Gain G = P F' / P_ahead, row by row: P F' = [[pxx + dt pxv, pxv], [pxv + dt pvv, pvv]].
    to_x, to_v = filtered.pxx + dt_s * filtered.pxv, filtered.pxv + dt_s * filtered.pvv
    determinant = ahead.pxx * ahead.pvv - np.square(ahead.pxv)
    determinant = np.where(determinant > 0, determinant, np.inf)  # nothing is known of it, and nothing can be learnt
    gxx = (to_x * ahead.pvv - filtered.pxv * ahead.pxv) / determinant
    gxv = (filtered.pxv * ahead.pxx - to_x * ahead.pxv) / determinant
    gvx = (to_v * ahead.pvv - filtered.pvv * ahead.pxv) / determinant
    gvv = (filtered.pvv * ahead.pxx - to_v * ahead.pxv) / determinant
    dx, dv = later.x - ahead.x, later.v - ahead.v
    dxx, dxv, dvv = later.pxx - ahead.pxx, later.pxv - ahead.pxv, later.pvv - ahead.pvv
    return Motion(
        x=filtered.x + gxx * dx + gxv * dv,
        v=filtered.v + gvx * dx + gvv * dv,
        pxx=filtered.pxx + gxx * gxx * dxx + 2 * gxx * gxv * dxv + gxv * gxv * dvv,
        pxv=filtered.pxv + gxx * gvx * dxx + (gxx * gvv + gxv * gvx) * dxv + gxv * gvv * dvv,
        pvv=filtered.pvv + gvx * gvx * dxx + 2 * gvx * gvv * dxv + gvv * gvv * dvv,
    )
