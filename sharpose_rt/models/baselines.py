"""Networks to compare SHaRPose with: no weights, no training, never part of a run.

Letters: B crops, K keypoints, N tokens, D width, h x w token grid.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from sharpose_rt.models.layers import Block
from sharpose_rt.models.variants import Variant


class DenseViTPose(nn.Module):
    """ViTPose (Xu et al., NeurIPS 2022) with the width, depth and heads of a variant: a plain ViT and a small decoder.

    Every patch of the full-size crop is a token in every layer. Attention and MLP are the same modules as in
    `SHaRPose`, so differences in speed are due to the design alone.

    Args:
        variant: sizes; those of the coarse stage and the selection of regions are not used.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        d, p = variant.width, variant.patch_px
        self.grid_hw = variant.size_hw[0] // p, variant.size_hw[1] // p
        # Section 3.1; the authors' code pads by 2 px, which does not change the number of patches.
        self.patch_embed = nn.Conv2d(3, d, p, p, padding=2)
        self.position = nn.Parameter(torch.zeros(1, math.prod(self.grid_hw), d))
        self.blocks = nn.ModuleList(Block(d, variant.heads, variant.mlp_ratio) for _ in range(variant.depth))
        self.norm = nn.LayerNorm(d)
        self.decoder = ClassicDecoder(d, len(variant.skeleton))

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, H/4, W/4) of crops (B, 3, H, W)."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.position  # (B, N, D)
        for block in self.blocks:
            x, _ = block(x)  # Eq. 1
        features = self.norm(x).transpose(1, 2).unflatten(2, self.grid_hw)  # (B, D, h, w)
        return self.decoder(features)


class ClassicDecoder(nn.Sequential):
    """Two deconvolutions that each double the size, with batch norm and ReLU, then 1x1 to heatmaps (Eq. 2)."""

    def __init__(self, width: int, keypoints: int, filters: int = 256) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, channels in enumerate((width, filters), 1):
            layers[f"deconv{number}"] = nn.ConvTranspose2d(channels, filters, 4, stride=2, padding=1, bias=False)
            layers[f"norm{number}"] = nn.BatchNorm2d(filters)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
        layers["predict"] = nn.Conv2d(filters, keypoints, 1)
        super().__init__(layers)


def create_dense(variant: Variant) -> DenseViTPose:
    """The dense network with random weights, in evaluation mode."""
    model = DenseViTPose(variant)
    nn.init.trunc_normal_(model.position, std=0.02)
    return model.eval()
