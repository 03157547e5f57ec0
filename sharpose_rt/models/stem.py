"""Small convolutional networks that may start from public weights: tokens for poses, features for the detector.

Our design, for networks that learn from only tens of thousands of people. Letters: B crops, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpose_rt.models.layers import learns_in_bf16_on_cpu

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""MobileNetV2 (Sandler et al. 2018, table 2): expansion, channels, blocks, stride of the first block."""
DETAIL_CHANNELS = 24
DETAIL_SIDE = 4
"""Places along a token's side that have their own detail: one per 4 px."""
_LEVELS_AFTER = (2, 5, 9, 12, 16)
"""Blocks of the pose network's trunk whose outputs are used: at 4, 8 and 16 px, the last at 16 px, and at 32 px."""


class FarPadded(nn.Conv2d):
    """A convolution of stride 2, padded as the public weights were trained: one row less before than after.

    Its window extends half a step further right and down than its cell; the filters, trained on pictures and their
    mirror images, have learnt to look at the cell's centre. With equal padding on both sides, each stride would add a
    shift of half a cell, twelve pixels in total.
    """

    def __init__(self, channels: int, out: int, groups: int = 1) -> None:
        super().__init__(channels, out, 3, stride=2, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C', h/2, w/2) from (B, C, h, w)."""
        if self.groups > 1 and learns_in_bf16_on_cpu(input):
            # oneDNN takes up to seven times as long for the gradient of a depthwise layer with a stride.
            every = F.conv2d(input, self.weight, self.bias, padding=1, groups=self.groups)
            return every[:, :, 1::2, 1::2]
        return super().forward(F.pad(input, (0, 1, 0, 1)))


class InvertedResidual(nn.Module):
    """1x1 up, depthwise, 1x1 down (Sandler et al. 2018), added to the input where shapes allow; norms are folded in."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = nn.Conv2d(channels, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = (
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
            if stride == 1
            else FarPadded(hidden, hidden, groups=hidden)
        )
        self.project = nn.Conv2d(hidden, out, 1)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', h/stride, w/stride) from (B, C, h, w)."""
        y = x if isinstance(self.expand, nn.Identity) else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y

    @property
    def hidden(self) -> int:
        """Channels between the layers."""
        return self.project.in_channels

    def keep(self, channels: Tensor) -> None:
        """Keeps these hidden channels (C',) and removes the others; only for a block that expands."""
        assert isinstance(self.expand, nn.Conv2d)
        for layer in (self.expand, self.depthwise):
            assert layer.bias is not None
            layer.weight, layer.bias = nn.Parameter(layer.weight[channels]), nn.Parameter(layer.bias[channels])
            layer.out_channels = len(channels)
        self.depthwise.groups = self.depthwise.in_channels = len(channels)
        self.project.weight = nn.Parameter(self.project.weight[:, channels])
        self.project.in_channels = len(channels)


class MobileTrunk(nn.Module):
    """MobileNetV2 without its last layers: a sequence of inverted residuals.

    A linear patch embedding has to learn edges and parts separately at every offset. These layers share what they learn
    across the picture, and may start from weights that have seen very many people (`training.movenet`).

    Args:
        width: factor on the channels of the published network.
        blocks: how many of its 17 blocks to use.
    """

    def __init__(self, width: float, blocks: int = 17) -> None:
        super().__init__()
        rows = list(_blocks(width))[:blocks]
        first = _channels(32, width)
        self.channels = tuple(out for out, _, _ in rows)
        """Output channels of each block."""
        self.first = FarPadded(3, first)
        before = (first, *self.channels)
        self.layers: list[InvertedResidual] = nn.ModuleList(  # type: ignore[assignment]
            InvertedResidual(c, *row) for c, row in zip(before, rows, strict=False)
        )

    def freeze(self, blocks: int) -> None:
        """Freeze the weights of the first convolution and the first `blocks` in training."""
        for part in (self.first, *self.layers[:blocks]):
            part.requires_grad_(False)

    def match(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Removes from each block the hidden channels that a thinned trunk's state (`training.thinning`) does not have.
        Its names begin with `prefix`."""
        for number, block in enumerate(self.layers):
            stored = state.get(f"{prefix}layers.{number}.project.weight")
            if stored is not None and stored.ndim == 4 and 0 < stored.shape[1] < block.hidden:
                block.keep(torch.arange(stored.shape[1]))

    def features(self, images: Tensor, after: Sequence[int]) -> list[Tensor]:
        """Outputs (B, C, h', w') of the blocks numbered `after`, ascending, from normalised (B, 3, h, w)."""
        x = F.relu6(self.first(images.contiguous(memory_format=torch.channels_last)))
        found = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in after:
                found.append(x)
        return found


def _blocks(width: float) -> Iterator[tuple[int, int, int]]:
    """Channels, expansion and stride of each block."""
    for expansion, channels, count, stride in _STAGES:
        for number in range(count):
            yield _channels(channels, width), expansion, 1 if number else stride


def _channels(count: int, width: float) -> int:
    """The nearest multiple of eight, as in the published networks of other widths."""
    return int(count * width + 4) // 8 * 8


class Merge(nn.Module):
    """A level of a feature pyramid (Lin et al. 2017): the coarser level enlarged, this one added, mixed.

    Args:
        level: channels of the trunk at this level.
        channels: of the coarser level.
        out: of the result.
    """

    def __init__(self, level: int, channels: int, out: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(level, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, out, 1)

    def forward(self, coarser: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The sum (B, C, h, w), and the result (B, C', h, w)."""
        enlarged = F.interpolate(coarser, scale_factor=2, mode="bilinear", align_corners=False)
        total = enlarged + self.lateral(level)
        return total, F.relu(self.pointwise(self.depthwise(total)))


class MobileStem(MobileTrunk):
    """Tokens of 16 px cells, and features of every 4 px in them: MobileNetV2 with MoveNet's feature pyramid.

    The pyramid brings the deepest layers' features of the whole body to a quarter of the picture's size, which is that
    of the fine stage's heatmaps. Both sides of a picture are multiples of 32 px.
    """

    def __init__(self, width: int) -> None:
        super().__init__(1.75)
        at4, at8, at16, before_deep, at32 = (self.channels[number] for number in _LEVELS_AFTER)
        self.deep = nn.Conv2d(at32, 1280, 1)
        self.narrow = nn.Conv2d(1280, 64, 1)
        self.merges = nn.ModuleList([Merge(at16, 64, 32), Merge(at8, 32, 24), Merge(at4, 24, 24)])
        self.detail = nn.Conv2d(24, DETAIL_CHANNELS, 3, padding=1, groups=24, bias=False)
        self.token = nn.Conv2d(before_deep + 64, width, 1)
        self.places = nn.Linear(DETAIL_SIDE**2 * DETAIL_CHANNELS, width, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) of the N cells, row-major, and detail (B, N, 16, C) of their places, from (B, 3, h, w)."""
        at4, at8, at16, before_deep, at32 = self.features(images, _LEVELS_AFTER)
        x = self.narrow(F.relu6(self.deep(at32)))
        pyramid16, x = self.merges[0](x, at16)
        _, x = self.merges[1](x, at8)
        _, x = self.merges[2](x, at4)
        tokens = self.token(torch.cat([before_deep, pyramid16], 1)).flatten(2).transpose(1, 2)
        detail = self.detail(x)
        b, c, h, w = detail.shape
        s = DETAIL_SIDE
        places = detail.permute(0, 2, 3, 1).reshape(b, h // s, s, w // s, s, c).transpose(2, 3)
        places = places.reshape(b, (h // s) * (w // s), s * s, c)  # row-major inside a token's cell
        return tokens + self.places(places.flatten(2)), places
