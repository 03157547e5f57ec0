"""What is read off the tokens: heatmaps of the keypoint tokens, the quality of the quality token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeypointDecoder(nn.Module):
    """Heatmaps from keypoint tokens (Eq. 3), shared by all keypoints and both stages.

    One linear layer where the token is wide enough, else a hidden layer of half the heatmap's cells (TokenPose's rule).
    """

    def __init__(self, width: int, heatmap_size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = heatmap_size_hw
        cells = math.prod(heatmap_size_hw)
        if width >= cells / 4:
            layers = [nn.LayerNorm(width), nn.Linear(width, cells)]
        else:
            hidden = cells // 2
            layers = [
                nn.LayerNorm(width),
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.LayerNorm(hidden),
                nn.Linear(hidden, cells),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, keypoint_tokens: Tensor) -> Tensor:
        """(B, K, h, w) from (B, K, D)."""
        return self.layers(keypoint_tokens).unflatten(-1, self.size_hw)


class QualityPredictor(nn.Module):
    """Predicted OKS of the coarse pose from the quality token (Eq. 4)."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.activation = {"sigmoid": torch.sigmoid, "gelu": F.gelu}[activation]
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 1)

    def forward(self, quality_token: Tensor) -> Tensor:
        """(B,) from (B, D); in float32, as it is compared with a threshold."""
        x = F.gelu(self.fc1(self.norm(quality_token)))
        return self.activation(self.fc3(F.gelu(self.fc2(x))).squeeze(-1).float())
