"""Heatmaps of keypoints: encoding, and decoding to a fraction of a cell. Conventions: see `geometry.affine`.

Letters: B crops, K keypoints, h x w heatmap cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn


def encode(
    keypoints: Tensor, heatmap_size_hw: tuple[int, int], crop_size_hw: tuple[int, int], sigma_cells: float = 2.0
) -> Tensor:
    """Gaussian heatmaps (..., K, h, w) with peak 1 of keypoints (..., K, 2) in crop px, centred exactly (UDP).

    Args:
        keypoints: x, y in crop px; may lie outside the crop.
        heatmap_size_hw: h, w.
        crop_size_hw: height and width of the crop, px.
        sigma_cells: standard deviation in heatmap cells (2 at 256x192, 3 at 384x288 in the released configs).
    """
    (h, w), (crop_h, crop_w) = heatmap_size_hw, crop_size_hw
    x = keypoints[..., 0:1] * ((w - 1) / (crop_w - 1)) - torch.arange(w, device=keypoints.device)
    y = keypoints[..., 1:2] * ((h - 1) / (crop_h - 1)) - torch.arange(h, device=keypoints.device)
    norm = -0.5 / sigma_cells**2
    return torch.exp(norm * y.square())[..., :, None] * torch.exp(norm * x.square())[..., None, :]


def decode(
    heatmaps: Tensor, crop_size_hw: tuple[int, int], sigmas: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in crop px and scores (B, K) in 0..1 from heatmaps (B, K, h, w), h and w at least 5.

    The score is the value of the highest cell. With `sigmas`, the position is that of the highest expected OKS: a
    heatmap says how likely the keypoint is in each cell, so its sum weighted by the keypoint's OKS kernel around a
    position is the OKS that this position would have on average. So a flat or split peak is decoded to where most of
    its weight is, not to a ripple on it. Beyond the border, the map is continued at half its value there (`_BEYOND`).
    The position for a Gaussian is its centre, except near the border. So a Gaussian peak there, like every peak without
    `sigmas`, is decoded without the kernel.

    Args:
        heatmaps: of any float type.
        crop_size_hw: height and width of the crop, px.
        sigmas: (K,) of the skeleton (COCO's, `skeleton.sigmas`).
    """
    h, w = heatmaps.shape[2:]
    maps = heatmaps.float()
    x, y, ripple = _summit(maps, reach=2)
    if sigmas is not None:
        # The kernels have already removed the noise: a wider stencil would only blur peaks that are close together.
        likely_x, likely_y, _ = _summit(_under_kernels(maps.clamp(min=0), tuple(sigmas)), reach=1)
        width = _oks_deviations(tuple(sigmas), h, maps.device)
        edge = torch.minimum(torch.minimum(x, w - 1 - x), torch.minimum(y, h - 1 - y)) < 4 * width
        same_top = (x - likely_x).square() + (y - likely_y).square() < (1.5 * width).square()
        gaussian = edge & same_top & (ripple < _RIPPLE)
        x, y = torch.where(gaussian, x, likely_x), torch.where(gaussian, y, likely_y)
    step = torch.stack([x * ((crop_size_hw[1] - 1) / (w - 1)), y * ((crop_size_hw[0] - 1) / (h - 1))], -1)
    return step, maps.amax((2, 3)).clamp(0, 1)


class Decode(nn.Module):
    """`decode` as a module whose only input is heatmaps, for backends to trace and record.

    Args:
        crop_size_hw: height and width of the crop, px.
        sigmas: (K,) of the skeleton.
    """

    def __init__(self, crop_size_hw: tuple[int, int], sigmas: Sequence[float]) -> None:
        super().__init__()
        self.crop_size_hw, self.sigmas = crop_size_hw, tuple(sigmas)

    def forward(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (B, K, 2) in crop px and scores (B, K) of heatmaps (B, K, h, w)."""
        return decode(heatmaps, self.crop_size_hw, self.sigmas)


_RIPPLE = 0.05
"""A peak counts as Gaussian if its logarithm differs from the fitted quadratic by less than this (root mean square),
which is little more than rounding."""
_OKS_WIDTH = 0.6
"""Standard deviation of the kernel for a sigma of 1, in heights of the heatmap. In our crops a body's area is that of a
square whose side is 0.4 of the crop's height, and the OKS kernel's deviation is 2 sigma such sides; three quarters of
that were best on people of COCO train2017."""

_BEYOND = 0.5
"""Assumed value of the cells beyond the border, as a share of the cell at the border. With 0, a keypoint beyond the
border is pulled into the crop; with 1, as with normalised kernels, those inside are pulled out. By mean OKS, half was
best on each of three sets of COCO train2017."""


def _summit(maps: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Position x, y (B, K), in cells, of the highest cell of maps (B, K, h, w), refined to a fraction of a cell; and
    the fit's residual.

    A quadratic is fitted to the logarithm of the cells around it, `reach` to each side. Like the Newton step of DARK
    (Zhang et al. 2020) it is exact for a Gaussian at any position, but the least-squares fit averages out noise, for
    which DARK needs a blur that biases peaks at the border.
    """
    b, k, h, w = maps.shape
    rows = maps.reshape(b * k, h, w)
    # The position is found by rows: torch's search for a position is ten times slower than for a value.
    peak, y = rows.amax(2).max(1)  # (B*K,)
    x = rows.gather(1, y[:, None, None].expand(-1, 1, w)).argmax(2).squeeze(1)

    # The stencil stays inside the map; a quadratic can be fitted equally well beside the peak.
    centre_x, centre_y = x.clamp(reach, w - 1 - reach), y.clamp(reach, h - 1 - reach)
    steps = torch.arange(-reach, reach + 1, device=rows.device)
    cells = ((centre_y[:, None] + steps)[:, :, None] * w + (centre_x[:, None] + steps)[:, None, :]).flatten(1)
    floor = (peak * 1e-3).clamp(min=1e-12)[:, None]  # the logarithm of a cell without signal must not dominate the fit
    log = torch.maximum(rows.flatten(1).gather(1, cells), floor).log()  # (B*K, cells)
    fit, rest = _quadratic_fit(reach, log.device)
    gx, gy, gxx, gyy, gxy = (log @ fit).unbind(1)

    det = gxx * gyy - gxy.square()
    is_peak = (det > 1e-6) & (gxx < 0)
    det = torch.where(is_peak, det, torch.ones_like(det))
    fine_x = centre_x - (gyy * gx - gxy * gy) / det
    fine_y = centre_y - (gxx * gy - gxy * gx) / det
    # If the maximum is more than a cell away from the highest cell, the shape is not Gaussian: keep the cell.
    trusted = is_peak & ((fine_x - x).abs() <= 1) & ((fine_y - y).abs() <= 1)
    x, y = torch.where(trusted, fine_x, x.to(fine_x)), torch.where(trusted, fine_y, y.to(fine_y))
    ripple = torch.where(trusted, (log @ rest).square().mean(1).sqrt(), torch.inf)
    return x.view(b, k), y.view(b, k), ripple.view(b, k)


@cache
def _quadratic_fit(reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices from the values of n = (2 reach + 1)^2 cells: (n, 5) to the derivatives gx, gy, gxx, gyy, gxy of their
    least-squares quadratic, and (n, n) to its residuals."""
    steps = torch.arange(-reach, reach + 1.0)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    x, y = x.flatten().double(), y.flatten().double()
    design = torch.stack([torch.ones_like(x), x, y, x * x / 2, y * y / 2, x * y], 1)
    inverse = torch.linalg.pinv(design)
    rest = torch.eye(len(x), dtype=torch.float64) - design @ inverse
    return inverse[1:].T.float().to(device), rest.float().to(device)


def _under_kernels(maps: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    """The sum of maps (B, K, h, w) around each cell, weighted by the kernel of their keypoint."""
    b, k, h, w = maps.shape
    rows, columns = (_oks_kernels(sigmas, size, h, maps.device) for size in (h, w))
    # One product per keypoint over all crops: thousands of small ones, one per map, take five times as long.
    over_rows = rows @ maps.permute(1, 2, 0, 3).reshape(k, h, b * w)
    found = over_rows.view(k, h * b, w) @ columns.transpose(1, 2)
    return found.view(k, h, b, w).permute(2, 0, 1, 3)


@cache
def _oks_deviations(sigmas: tuple[float, ...], height: int, device: torch.device) -> Tensor:
    """The kernels' standard deviations (K,) in cells, on heatmaps of that height."""
    return (_OKS_WIDTH * height * torch.tensor(sigmas, dtype=torch.float32, device=device)).clamp(min=0.5)


@cache
def _oks_kernels(sigmas: tuple[float, ...], size: int, height: int, device: torch.device) -> Tensor:
    """(K, size, size): weights of the cells around each cell of an axis; the end cells also have the weights of those
    beyond."""
    deviations = _oks_deviations(sigmas, height, device)[:, None, None]
    cells, beyond = torch.arange(size, device=device), torch.arange(1, size, device=device)

    def kernel(distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / deviations).square())

    weights = kernel(cells[:, None] - cells)
    weights[..., 0] += _BEYOND * kernel(cells[:, None] + beyond).sum(2)
    weights[..., -1] += _BEYOND * kernel(size - 1 - cells[:, None] + beyond).sum(2)
    return weights * (weights > 1e-6)  # subnormal numbers make products fifty times slower


def flip_back(heatmaps: Tensor, flip_order: tuple[int, ...]) -> Tensor:
    """Heatmaps (B, K, h, w) of mirrored crops, mirrored back; the UDP convention needs no shift."""
    return heatmaps[:, list(flip_order)].flip(-1)
