"""What is wanted of a detector's torch module, whatever runs it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def first_tensor(out: Any) -> Tensor:
    """The first tensor of whatever a network gives: itself, or in lists within lists."""
    while not isinstance(out, Tensor):
        out = out[0]
    return out


class FirstOutput(nn.Module):
    """A module without its further outputs, which only training needs: a recorded or traced one gives tensors alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        """The first tensor of whatever comes back."""
        return first_tensor(self.module(pixels))
