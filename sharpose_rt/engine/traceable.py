"""The network's stages as modules with only tensors, which OpenVINO and ONNX can trace; their crops are uint8."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB
from sharpose_rt.models.sharpose import CoarseOutput, SHaRPose


class Normalise(nn.Module):
    """Images (B, 3, h, w) of crops (B, h, w, 3) uint8 BGR, inside the graph."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = torch.tensor([MEAN_RGB, STD_RGB], dtype=torch.float32).view(2, 3, 1, 1)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / deviation)

    def forward(self, crops_bgr: Tensor) -> Tensor:
        """Images (B, 3, h, w)."""
        return (crops_bgr.permute(0, 3, 1, 2).flip(1).float() - self.mean) * self.scale


class CoarseStage(nn.Module):
    """`SHaRPose.coarse_stage` with a tuple as output."""

    def __init__(self, network: SHaRPose) -> None:
        super().__init__()
        self.normalise, self.network = Normalise(), network

    def forward(self, crops_bgr: Tensor) -> tuple[Tensor, ...]:
        """The tensors of `CoarseOutput` in order."""
        return self.network.coarse_stage(self.normalise(crops_bgr)).tensors


class FineStage(nn.Module):
    """`SHaRPose.fine_stage` with the one kind of coarse tokens that the behaviour needs besides the outputs."""

    def __init__(self, network: SHaRPose) -> None:
        super().__init__()
        self.normalise, self.network = Normalise(), network

    def forward(
        self,
        crops_bgr: Tensor,
        selected: Tensor,
        low: Tensor,
        image_inputs: Tensor,
        image_outputs: Tensor,
        detail: Tensor | None = None,
    ) -> Tensor:
        """Heatmaps (R, K, h, w)."""
        coarse = CoarseOutput.of_tokens(image_inputs, image_outputs, detail)
        return self.network.fine_stage(self.normalise(crops_bgr), coarse, selected, low)
