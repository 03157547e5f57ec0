"""The network's input: crops normalised as for ImageNet, as in the authors' training."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)
"""Of ImageNet, in 0..255."""


def normalise(crops: Tensor) -> Tensor:
    """Crops (B, h, w, 3) uint8 BGR as (B, 3, h, w) float32 RGB with mean 0 and standard deviation 1 over ImageNet."""
    mean, scale = _constants(crops.device)
    return (crops.permute(0, 3, 1, 2).flip(1).float() - mean) * scale


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation (3, 1, 1) on a device; kept, as making them each time would wait for the
    device."""
    with torch.inference_mode(False):  # training uses them too
        mean, deviation = torch.tensor([MEAN_RGB, STD_RGB], dtype=torch.float32, device=device).view(2, 3, 1, 1)
        return mean, 1 / deviation
