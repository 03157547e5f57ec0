"""The cost of a variant, counted by running it on tensors without data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from sharpose_rt.models.baselines import DenseViTPose
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.variants import Behaviour, Variant

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Parameters, tokens, and multiply-accumulates of one crop (the paper calls these FLOPs).

    `dense_gmacs` is both stages as the paper's Table 2 counts them: with every fine patch embedded and every coarse
    token carried over, although only the selected cells need it. This implementation embeds and carries only the
    selected ones.
    """

    parameters: int
    coarse_tokens: int
    fine_tokens: int
    coarse_gmacs: float
    fine_gmacs: float
    dense_gmacs: float

    @property
    def both_gmacs(self) -> float:
        """Of a crop that is refined."""
        return self.coarse_gmacs + self.fine_gmacs

    def gmacs_at(self, exit_rate: float) -> float:
        """Mean per crop if a share of crops, 0..1, leaves after the coarse stage."""
        return self.coarse_gmacs + (1 - exit_rate) * self.fine_gmacs


@cache  # a sweep needs it for every row
def measure_cost(variant: Variant, behaviour: Behaviour) -> Cost:
    """The cost of a variant; takes a moment the first time, and hardly any memory."""
    with torch.device("meta"):
        model = SHaRPose(variant, behaviour).eval()
        image = torch.empty(1, 3, *variant.size_hw)
    coarse, coarse_gmacs = count_gmacs(lambda: model.coarse_stage(image))
    selected, low = split_cells(coarse.cell_scores, model.selected_count)
    _, fine_gmacs = count_gmacs(lambda: model.fine_stage(image, coarse, selected, low))

    unselected = math.prod(variant.coarse_grid_hw) - model.selected_count
    carry = 2 * variant.width**2 * variant.mlp_ratio
    embed = 3 * variant.patch_px**2 * variant.width if variant.stem == "patch" else 0  # others embed all patches
    skipped = unselected * (carry + variant.split**2 * embed) / 1e9
    tokens = variant.tokens(behaviour)
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, *tokens, coarse_gmacs, fine_gmacs, coarse_gmacs + fine_gmacs + skipped)


def measure_dense_gmacs(variant: Variant) -> float:
    """Multiply-accumulates, in 1e9, for one crop in the dense network of a variant's size."""
    with torch.device("meta"):
        model = DenseViTPose(variant).eval()
        image = torch.empty(1, 3, *variant.size_hw)
    return count_gmacs(lambda: model(image))[1]


def count_gmacs(run: Callable[[], T]) -> tuple[T, float]:
    """The result of `run()`, and its multiply-accumulates, in 1e9."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops() / 2e9
