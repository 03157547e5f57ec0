"""The paper's losses (Eq. 9-11), and a localisation term that lets short runs learn from the first step.

Letters: B crops, K keypoints, h x w heatmap cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LIMB_WEIGHTS = {"elbow": 1.2, "knee": 1.2, "wrist": 1.5, "ankle": 1.5}


def limb_weights(keypoints: Sequence[str]) -> Tensor:
    """Factors (K,) on the error of each joint: larger for the ends of limbs, which move most and are missed most.

    The values are those of MMPose's description of COCO (`joint_weights`).
    """
    return torch.tensor([_LIMB_WEIGHTS.get(name.rpartition("_")[2], 1.0) for name in keypoints])


def heatmap_mse(heatmaps: Tensor, targets: Tensor, joint_weights: Tensor) -> Tensor:
    """Joint-weighted mean square error over all cells (one stage of Eq. 10), a scalar.

    Args:
        heatmaps: (B, K, h, w).
        targets: (B, K, h, w), Gaussians of peak 1.
        joint_weights: (B, K), 0 for unlabelled joints, which count as having no error, as in MMPose, and not as absent.
    """
    return (joint_weights * (heatmaps - targets).square().mean((2, 3))).mean()


def localisation(heatmaps: Tensor, targets: Tensor, joint_weights: Tensor, temperature: float) -> Tensor:
    """Divergence of softmax(temperature * target) from softmax(temperature * heatmap), a scalar in nats a cell.

    Ours. A Gaussian covers less than 1 % of the cells, so an all-zero heatmap is almost as good for MSE, and training
    stays there for many epochs; this term favours the right cell at once. Its minimum is the target up to a constant,
    so it never contradicts MSE; divided by the number of cells, its gradient is as large as that of MSE."""
    cells = heatmaps.shape[-2] * heatmaps.shape[-1]
    log_p = (temperature * heatmaps.flatten(2)).log_softmax(-1)
    target = (temperature * targets.flatten(2)).log_softmax(-1)
    return (joint_weights * (target.exp() * (target - log_p)).sum(-1)).mean() / cells


def quality_mse(quality: Tensor, true_oks: Tensor, labelled: Tensor) -> Tensor:
    """Mean square error (Eq. 11) of predicted quality (B,) to the coarse stage's OKS (B,) where `labelled` (B,)."""
    return (labelled * (quality - true_oks).square()).sum() / labelled.sum().clamp(min=1)


def batch_oks(
    keypoints: Tensor, truth: Tensor, joint_weights: Tensor, areas: Tensor, sigmas: Sequence[float]
) -> Tensor:
    """OKS (B,) in 0..1 of keypoints (B, K, 2) over the labelled joints; `geometry.oks.oks` on the device.

    Args:
        keypoints: crop px.
        truth: crop px.
        joint_weights: (B, K); joints above 0 count.
        areas: (B,) crop px².
        sigmas: (K,) of the skeleton.
    """
    variance = (2 * torch.as_tensor(sigmas, device=keypoints.device, dtype=keypoints.dtype)) ** 2
    distance2 = (keypoints - truth).square().sum(-1)
    similarity = torch.exp(-distance2 / (2 * variance * areas[:, None].clamp(min=1e-6)))
    counted = (joint_weights > 0).to(similarity)
    return (similarity * counted).sum(1) / counted.sum(1).clamp(min=1)


class DenseHead(nn.Module):
    """Heatmaps directly from the coarse image tokens by one linear map: an auxiliary head that is discarded after
    training.

    Ours. Keypoint tokens only see the picture through attention, which takes long to form from random weights. Here
    each image token predicts its own cells, so the encoder learns at once what a joint looks like (as with ViTPose's
    simple decoder), and the keypoint tokens then find tokens worth attending to."""

    def __init__(self, width: int, keypoints: int, grid_hw: tuple[int, int], heatmap_size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.grid_hw, self.keypoints = grid_hw, keypoints
        self.cell_hw = heatmap_size_hw[0] // grid_hw[0], heatmap_size_hw[1] // grid_hw[1]
        self.linear = nn.Linear(width, keypoints * self.cell_hw[0] * self.cell_hw[1])
        nn.init.trunc_normal_(self.linear.weight, std=0.002)
        nn.init.zeros_(self.linear.bias)

    def forward(self, image_tokens: Tensor) -> Tensor:
        """(B, K, h, w) from (B, Nc, D)."""
        x = self.linear(image_tokens)  # (B, Nc, K*r*s)
        x = x.unflatten(1, self.grid_hw).unflatten(-1, (self.keypoints, *self.cell_hw))  # (B, gh, gw, K, r, s)
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # (B, K, gh*r, gw*s)
