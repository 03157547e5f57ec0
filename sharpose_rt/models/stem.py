"""A small convolutional network that may start from ImageNet weights: tokens for poses, features for the detector.

Ours, for networks that have to learn from tens of thousands of people. Letters: B crops, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class _Row:
    """A row of the table of EfficientNet-Lite0: side of the depthwise kernel, stride, channels, expansion."""

    kernel: int
    stride: int
    channels: int
    expansion: int = 6


ROWS = (
    _Row(3, 1, 16, 1),
    _Row(3, 2, 24),
    _Row(3, 1, 24),
    _Row(5, 2, 40),
    _Row(5, 1, 40),
    _Row(3, 2, 80),
    _Row(3, 1, 80),
    _Row(3, 1, 80),
    _Row(5, 1, 112),
    _Row(5, 1, 112),
    _Row(5, 1, 112),
    _Row(5, 2, 192),
    _Row(5, 1, 192),
    _Row(5, 1, 192),
)
"""EfficientNet-Lite0 (Tan and Le 2019, Google's variant for plain processors), but for its last two blocks."""
FIRST_CHANNELS = 32
DETAIL_AFTER = 4
"""The block whose output, an eighth of the size, goes to the decoder as detail."""
DETAIL_CHANNELS = ROWS[DETAIL_AFTER].channels
TOKENS_AFTER = 10
"""The block whose output, a sixteenth of the size, becomes tokens."""


class FarPadded(nn.Conv2d):
    """A convolution of stride 2, padded as these weights were trained: a row less before than behind.

    Its window reaches half a step further right and down than its cell; the filters, trained on pictures and their
    mirror images, have learnt to look at the cell's middle. Padded alike on both sides each stride would add half a
    cell of shift, twelve pixels in the end.
    """

    def __init__(self, channels: int, out: int, kernel: int, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride=2, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C', h/2, w/2) from (B, C, h, w)."""
        behind = self.kernel_size[0] // 2
        return super().forward(F.pad(input, (behind - 1, behind, behind - 1, behind)))


class InvertedResidual(nn.Module):
    """1x1 up, depthwise, 1x1 down (Sandler et al. 2018), added to the input where shapes allow; norms are folded in."""

    def __init__(self, channels: int, row: _Row) -> None:
        super().__init__()
        hidden = channels * row.expansion
        self.expand = nn.Conv2d(channels, hidden, 1) if row.expansion > 1 else nn.Identity()
        self.depthwise = (
            nn.Conv2d(hidden, hidden, row.kernel, padding=row.kernel // 2, groups=hidden)
            if row.stride == 1
            else FarPadded(hidden, hidden, row.kernel, groups=hidden)
        )
        self.project = nn.Conv2d(hidden, row.channels, 1)
        self.residual = row.stride == 1 and channels == row.channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C', h/stride, w/stride) from (B, C, h, w)."""
        y = x if isinstance(self.expand, nn.Identity) else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class MobileTrunk(nn.Module):
    """The first blocks of EfficientNet-Lite0.

    A linear patch embedding has to find edges and parts at every offset anew; these layers share what they learn over
    the picture, and may start from weights that have seen a million photographs (`training.stem_weights`).

    Args:
        blocks: how many of `ROWS`.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        rows = ROWS[:blocks]
        self.first = FarPadded(3, FIRST_CHANNELS, 3)
        before = (FIRST_CHANNELS, *(row.channels for row in rows))
        self.layers = nn.ModuleList(InvertedResidual(c, row) for c, row in zip(before, rows, strict=False))

    def features(self, images: Tensor, after: Sequence[int]) -> list[Tensor]:
        """What the blocks numbered `after`, ascending, give, (B, C, h', w') each, from (B, 3, h, w) normalised."""
        x = F.relu6(self.first(images.contiguous(memory_format=torch.channels_last)))
        found = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in after:
                found.append(x)
        return found


class MobileStem(MobileTrunk):
    """Tokens of 16 px cells, and the features of their quarters."""

    def __init__(self, width: int) -> None:
        super().__init__(TOKENS_AFTER + 1)
        self.last = nn.Conv2d(ROWS[TOKENS_AFTER].channels, width, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) of the N cells, row-major, and detail (B, N, 4, C) of their quarters, from (B, 3, h, w)."""
        detail, x = self.features(images, (DETAIL_AFTER, TOKENS_AFTER))
        tokens = self.last(x).flatten(2).transpose(1, 2)
        b, c, h, w = detail.shape
        quarters = detail.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)  # (B, h/16, w/16, 2, 2, C)
        return tokens, quarters.reshape(b, (h // 2) * (w // 2), 4, c)
