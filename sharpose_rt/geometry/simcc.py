"""Keypoints as two rows of bins, one for each axis (SimCC, Li et al. 2022), as in RTMPose.

Their crops are not those of `geometry.affine`: a box as wide as the crop is mapped onto its w pixels, not onto the
w - 1 steps from the first to the last pixel. Letters: B crops, K keypoints, W and H bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def from_udp(crop_size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """The map (2, 2) from a crop of `crop_affine` to one of these; there is no shift."""
    h, w = crop_size_hw
    return np.diag([w / (w - 1), h / (h - 1)])


def decode_simcc(along_x: Tensor, along_y: Tensor, crop_size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) in crop px and scores (B, K) in 0..1: the highest bins, and the lower of their two values.

    Args:
        along_x: (B, K, W), with W a multiple of the crop's width.
        along_y: (B, K, H), with H the same multiple of its height.
        crop_size_hw: height and width of the crop, px.
    """
    (score_x, x), (score_y, y) = along_x.max(2), along_y.max(2)
    bins = along_x.new_tensor([along_x.shape[2] / crop_size_hw[1], along_y.shape[2] / crop_size_hw[0]])
    return torch.stack([x, y], -1) / bins, torch.minimum(score_x, score_y).clamp(0, 1)


def flip_simcc_back(lines: Sequence[Tensor], flip_order: tuple[int, ...], crop_width: int) -> list[Tensor]:
    """Rows (B, K, W) and (B, K, H) of bins of mirrored crops, mirrored back.

    Pixel x becomes w - 1 - x, so with n bins per pixel bin b becomes W - n - b. The last n - 1 bins, which are beyond
    the last pixel's centre, have no counterpart.
    """
    along_x, along_y = (line[:, list(flip_order)] for line in lines)
    beyond = along_x.shape[2] // crop_width - 1
    mirrored = along_x.flip(2)[..., beyond:]
    return [torch.cat([mirrored, along_x.new_zeros(*mirrored.shape[:2], beyond)], 2), along_y]
