"""Weights of a test that predict what the fine stage adds."""

from __future__ import annotations

from pathlib import Path

import torch

from sharpose_rt.config import PoseConfig
from sharpose_rt.models.weights import load_model, save_weights


def with_gain(config: PoseConfig, folder: Path) -> Path:
    """A file in `folder` of the weights of `config`, with a predictor of small random weights, always the same."""
    network, _ = load_model(config.model, config.weights)
    network.gain_predictor = torch.nn.Linear(network.variant.width, 1)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(network.gain_predictor.weight, std=0.01, generator=generator)
    torch.nn.init.zeros_(network.gain_predictor.bias)
    path = folder / "with_gain.safetensors"
    save_weights(network, path)
    return path
