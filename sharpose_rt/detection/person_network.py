"""Network of the bundled person detector: a small trunk that may start from public weights, and ultralytics' head.

A detector trained from scratch needs more pictures and hours than were available, so the trunk is that of MoveNet
MultiPose, a MobileNetV2 of 1.5 times the width, without its last block. The blocks, head and loss after it are
ultralytics'. The head is the one whose boxes need suppression: after the same number of steps it finds more people than
the end-to-end one, which learns later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import SPPF, C3k2, Conv, Detect
from ultralytics.nn.tasks import BaseModel
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.torch_utils import initialize_weights

from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB
from sharpose_rt.models.stem import MobileTrunk

STRIDES = (8, 16, 32)
LEVELS_AFTER = (5, 12, 15)
"""The blocks of the trunk whose outputs have these strides."""
BLOCKS = LEVELS_AFTER[-1] + 1
"""Of the trunk, without those after the last level."""
WIDTHS = (64, 96, 128)
"""Channels of the three levels before the head."""


class Head(Detect):
    """Ultralytics' head, whose form does not depend on which of their models was built before in this process."""

    legacy = False


class PersonNetwork(BaseModel):
    """Boxes of people, one class, at three levels; several for each person, of which the strongest should be kept."""

    task = "detect"
    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        head = Head(nc=1, reg_max=1, end2end=False, ch=WIDTHS)
        head.stride = torch.tensor(STRIDES, dtype=torch.float32)
        head.bias_init()
        self.trunk = MobileTrunk(1.5, blocks=BLOCKS)
        self.neck = Neck([self.trunk.channels[number] for number in LEVELS_AFTER])
        self.model: Any = nn.ModuleList([head])  # where ultralytics expects the head
        self.stride, self.names, self.yaml = head.stride, {0: "person"}, {"channels": 3}
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(3, 1, 1) / 255, persistent=False)
        self.register_buffer("scale", 255 / torch.tensor(STD_RGB).view(3, 1, 1), persistent=False)
        for part in (self.neck, head):
            initialize_weights(part)

    def predict(self, x: Tensor, *_: Any, **__: Any) -> Any:
        """The output of `Detect` for pictures (B, 3, H, W) RGB in 0..1, both sides multiples of 32 px."""
        levels = self.trunk.features((x - self.mean) * self.scale, LEVELS_AFTER)
        return self.model[-1](self.neck(levels))

    def init_criterion(self) -> v8DetectionLoss:
        """Ultralytics' loss; each person is assigned to the ten cells that agree most."""
        return v8DetectionLoss(self)


class Neck(nn.Module):
    """Mixes the levels top-down, then bottom-up (path aggregation, Liu et al. 2018).

    Args:
        channels: of the trunk's levels.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        fine, middle, deep = channels
        a, b, c = WIDTHS
        self.pool = SPPF(deep, c)
        self.down_middle = C3k2(c + middle, b)
        self.down_fine = C3k2(b + fine, a)
        self.to_middle, self.up_middle = Conv(a, a, 3, 2), C3k2(a + b, b)
        self.to_deep, self.up_deep = Conv(b, b, 3, 2), C3k2(b + c, c)
        self.enlarge = nn.Upsample(scale_factor=2)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """The three levels, of `WIDTHS` channels, from those of the trunk."""
        fine, middle, deep = levels
        deep = self.pool(deep)
        middle = self.down_middle(torch.cat([self.enlarge(deep), middle], 1))
        fine = self.down_fine(torch.cat([self.enlarge(middle), fine], 1))
        middle = self.up_middle(torch.cat([self.to_middle(fine), middle], 1))
        deep = self.up_deep(torch.cat([self.to_deep(middle), deep], 1))
        return [fine, middle, deep]
