"""The paper's losses (Eq. 9-11), and a localisation term that lets short runs learn from the first step.

Letters: B crops, K keypoints, h x w heatmap cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def heatmap_mse(heatmaps: Tensor, targets: Tensor, joint_weights: Tensor) -> Tensor:
    """Joint-weighted mean square error over all cells (one stage of Eq. 10), a scalar.

    Args:
        heatmaps: (B, K, h, w).
        targets: (B, K, h, w), Gaussians of peak 1.
        joint_weights: (B, K), 0 where a joint is not labelled; unlabelled joints count as without error, as in
            MMPose, not as absent.
    """
    return (joint_weights * (heatmaps - targets).square().mean((2, 3))).mean()


def localisation(heatmaps: Tensor, targets: Tensor, joint_weights: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softmax(temperature * heatmap) against the normalised Gaussian, a scalar in nats a cell.

    Ours. A Gaussian covers under 1 % of the cells, so the all-zero map is almost as good for MSE and training rests
    there for many epochs; this term pulls at the right cell at once. Divided by the number of cells, so its
    gradient is of MSE's size.
    """
    cells = heatmaps.shape[-2] * heatmaps.shape[-1]
    target = targets.flatten(2)
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
    log_p = (temperature * heatmaps.flatten(2)).log_softmax(-1)
    return (joint_weights * -(target * log_p).sum(-1)).mean() / cells


def quality_mse(quality: Tensor, true_oks: Tensor, labelled: Tensor) -> Tensor:
    """Mean square error (Eq. 11) of predicted quality (B,) to the coarse stage's OKS (B,) where `labelled` (B,)."""
    return (labelled * (quality - true_oks).square()).sum() / labelled.sum().clamp(min=1)


def batch_oks(keypoints: Tensor, truth: Tensor, joint_weights: Tensor, areas: Tensor, sigmas: Sequence[float]) -> Tensor:
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
