"""The part of a detector's output that is used, whatever runs its torch module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def first_tensor(out: Any) -> Tensor:
    """The first tensor of a network's output, which may be a tensor or nested lists."""
    while not isinstance(out, Tensor):
        out = out[0]
    return out


class FirstOutput(nn.Module):
    """A module without its other outputs, which only training needs: recorded or traced modules must return only
    tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        """The module's first output."""
        return first_tensor(self.module(pixels))
