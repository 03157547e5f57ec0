"""Weights and inputs that anybody can rebuild: each tensor is drawn from a generator seeded by its own name."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from sharpose_rt.models import Behaviour, SHaRPose, Variant
from sharpose_rt.models.released import load_released_state_dict, released_names

_NORMS = (
    "norm.weight",
    "norm1.weight",
    "norm2.weight",
    "reuse_block.0.weight",
    "heatmap_mlp.0.weight",
    "heatmap_mlp.3.weight",
)


def golden_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The parameter of that released name, float32; the rules hold in this order."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith(_NORMS):
        x = 1 + 0.1 * x
    elif len(shape) == 1:
        x = 0.05 * x
    elif "token" in name or "pos_embed" in name:
        x = 0.5 * x
    elif "qkv" in name:
        x = x * 1.5 / np.sqrt(shape[1])
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(x.astype(np.float32))


def golden_state_dict(model: SHaRPose) -> dict[str, torch.Tensor]:
    """Every parameter of a model, under its released name."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {theirs: golden_tensor(theirs, shapes[ours]) for ours, theirs in released_names(model).items()}


def golden_model(variant: Variant, behaviour: Behaviour) -> SHaRPose:
    """The network with these weights, which unlike freshly initialised ones are far from symmetric."""
    with torch.device("meta"):  # no time lost on random weights that are replaced at once
        model = SHaRPose(variant, behaviour)
    model = model.to_empty(device="cpu").eval()
    load_released_state_dict(model, golden_state_dict(model))
    return model


def golden_images(tag: str, size_hw: tuple[int, int]) -> torch.Tensor:
    """(4, 3, H, W) float32: blocks of 16x16 pixels, and noise on them."""
    (h, w), rng = size_hw, np.random.default_rng(zlib.crc32(tag.encode()))
    blocks = rng.standard_normal((4, 3, h // 16, w // 16)).astype(np.float32).repeat(16, 2).repeat(16, 3)
    return torch.from_numpy(blocks + np.float32(0.3) * rng.standard_normal((4, 3, h, w)).astype(np.float32))
