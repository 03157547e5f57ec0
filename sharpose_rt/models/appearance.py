"""The appearance network: from a small crop of a person to a unit vector that tells people apart by appearance.

Our design: residual blocks (He et al. 2016) and attention that selects where to look, small enough to run alongside the
other networks. Letters: B crops, C channels, N places, H heads, D length of a vector.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpose_rt.errors import WeightsError
from sharpose_rt.models.weights import BUNDLED, check_shipped, read_safetensors

CROP_HW = (96, 72)
"""Height and width of a crop, px."""
PADDING = 1.1
"""Factor by which a box is enlarged for its crop."""
DIMENSIONS = 64
SHIPPED = BUNDLED / "person_appearance.safetensors"
_WIDTHS = (24, 48, 96)
_HEADS = 4


class AppearanceNetwork(nn.Module):
    """Vectors (B, D) of length 1 from crops (B, 3, *CROP_HW) normalised like the pose network's."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        self.features = nn.Sequential(
            _convolution(3, a, 2), _convolution(a, b, 2), Residual(b), _convolution(b, c, 2), Residual(c)
        )
        self.attention = nn.Conv2d(c, _HEADS, 1)
        places = (CROP_HW[0] // 8) * (CROP_HW[1] // 8)
        self.position = nn.Parameter(torch.zeros(_HEADS, places))
        self.vector = nn.Sequential(nn.Linear(_HEADS * c, 256), nn.ReLU(), nn.Linear(256, DIMENSIONS))

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        x = self.features(crops)  # (B, C, h, w)
        weights = (self.attention(x).flatten(2) + self.position).softmax(-1)  # (B, H, N)
        pooled = weights @ x.flatten(2).transpose(1, 2)  # (B, H, C)
        return F.normalize(self.vector(pooled.flatten(1)), dim=-1)


class Residual(nn.Module):
    """Two convolutions, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) from the same shape."""
        return F.relu(x + self.second(self.first(x)))


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def load_appearance(path: Path = SHIPPED) -> AppearanceNetwork:
    """The network with the weights of a file (default: the bundled ones), in float32 on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, or of another network.
    """
    if path == SHIPPED:
        check_shipped(path)
    state, _ = read_safetensors(path)
    with torch.random.fork_rng(devices=[]):  # new layers are filled at random; the program's own generator is unchanged
        network = AppearanceNetwork()
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} is not an appearance network of this version: {error}") from error
    return network.float().eval().requires_grad_(False)
