"""Heatmaps of keypoints: encoding, and decoding below one cell. Conventions: see `geometry.affine`.

Letters: B crops, K keypoints, h x w heatmap cells.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def encode(
    keypoints: Tensor,
    heatmap_size_hw: tuple[int, int],
    crop_size_hw: tuple[int, int],
    sigma_cells: float = 2.0,
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


def decode(heatmaps: Tensor, crop_size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in crop px and scores (B, K) in 0..1 from heatmaps (B, K, h, w).

    The score is the highest cell. Its place is refined by a quadratic that is fitted to the logarithm of the 5x5
    cells around it: exact for a Gaussian wherever it lies (as the Newton step of DARK, Zhang et al. 2020, is), but
    the least-squares fit averages over noise where DARK needs a blur, which biases peaks at the border.
    """
    b, k, h, w = heatmaps.shape
    flat = heatmaps.reshape(b * k, h * w).float()  # (B*K, h*w)
    peak, index = flat.max(1)  # (B*K,)
    x, y = index % w, index // w

    # The stencil stays inside the map; a quadratic is fitted as well from beside the peak.
    centre_x, centre_y = x.clamp(2, w - 3), y.clamp(2, h - 3)
    reach = torch.arange(-2, 3, device=flat.device)
    cells = ((centre_y[:, None] + reach)[:, :, None] * w + (centre_x[:, None] + reach)[:, None, :]).flatten(1)
    floor = (peak * 1e-3).clamp(min=1e-12)[:, None]  # the logarithm of a cell without signal must not rule the fit
    log = torch.maximum(flat.gather(1, cells), floor).log()  # (B*K, 25)
    gx, gy, gxx, gyy, gxy = (log @ _quadratic_fit().to(log)).unbind(1)

    det = gxx * gyy - gxy.square()
    is_peak = (det > 1e-6) & (gxx < 0)
    det = torch.where(is_peak, det, torch.ones_like(det))
    fine_x = centre_x - (gyy * gx - gxy * gy) / det
    fine_y = centre_y - (gxx * gy - gxy * gx) / det
    # A summit further than a cell from the highest cell means that the shape is no Gaussian: keep the cell.
    trusted = is_peak & ((fine_x - x).abs() <= 1) & ((fine_y - y).abs() <= 1)
    x, y = torch.where(trusted, fine_x, x.to(fine_x)), torch.where(trusted, fine_y, y.to(fine_y))

    step = torch.stack([x * ((crop_size_hw[1] - 1) / (w - 1)), y * ((crop_size_hw[0] - 1) / (h - 1))], -1)
    return step.view(b, k, 2), peak.clamp(0, 1).view(b, k)


@cache
def _quadratic_fit() -> Tensor:
    """(25, 5) map from 5x5 values to the derivatives gx, gy, gxx, gyy, gxy of their least-squares quadratic."""
    y, x = torch.meshgrid(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0), indexing="ij")
    x, y = x.flatten().double(), y.flatten().double()
    design = torch.stack([torch.ones_like(x), x, y, x * x / 2, y * y / 2, x * y], 1)
    return torch.linalg.pinv(design)[1:].T.float()


def flip_back(heatmaps: Tensor, flip_order: tuple[int, ...]) -> Tensor:
    """Heatmaps (B, K, h, w) of mirrored crops as those of the crops; needs no shift in the UDP convention."""
    return heatmaps[:, list(flip_order)].flip(-1)
