"""Optimisers, the learning rate schedule, and the moving average of weights."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sharpose_rt.errors import ConfigError
from sharpose_rt.training.config import OptimConfig
from sharpose_rt.training.muon import Muon
from sharpose_rt.training.world import World

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_TABLES = ("keypoint_tokens", "quality_token", "mask_token", "coarse_position", "fine_position", "position")


def build_optimizers(
    model: nn.Module,
    config: OptimConfig,
    world: World = World(),  # noqa: B008 (frozen)
) -> list[Optimizer]:
    """AdamW over all parameters, or Muon over the blocks' matrices and AdamW over the rest.

    Each parameter group carries `peak_lr`, which the schedule scales.
    """
    depth = 1 + max((int(m[1]) for n, _ in model.named_parameters() if (m := _BLOCK.search(n))), default=-1)
    adam: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    muon: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = config.layer_decay ** (depth + 1 - layer_of(name, depth))
        if "patch_embed" in name:
            factor *= config.stem_lr
        if config.optimizer == "muon" and _BLOCK.search(name) and parameter.ndim == 2:
            muon[factor].append(parameter)
        else:
            adam[factor, 0.0 if is_undecayed(name, parameter) else config.weight_decay].append(parameter)
    optimizers: list[Optimizer] = [
        AdamW(
            [
                {"params": params, "lr": config.lr * factor, "peak_lr": config.lr * factor, "weight_decay": decay}
                for (factor, decay), params in adam.items()
            ],
            betas=(0.9, 0.999),
        )
    ]
    if muon:
        groups = [
            {"params": params, "lr": config.muon_lr * factor, "peak_lr": config.muon_lr * factor}
            for factor, params in muon.items()
        ]
        optimizers.append(Muon(groups, weight_decay=config.weight_decay, world=world))
    return optimizers


def resume_optimizers(
    optimizers: Sequence[Optimizer], module: nn.Module, was: OptimConfig, saved: Sequence[dict[str, Any]]
) -> None:
    """Loads the moments of optimisers from an earlier configuration.

    A saved state identifies parameters by their position in groups, and another weight decay or learning rate of the
    stem may group them differently. So the earlier groups are made again; rates and decays are the current ones.
    """
    for optimizer, earlier, state in zip(optimizers, build_optimizers(module, was), saved, strict=True):
        try:
            earlier.load_state_dict(state)
        except ValueError as error:
            raise ConfigError(
                f"--resume: the optimiser's state is of other parameters ({error}): an earlier version wrote the "
                "checkpoint; start a new run in another --out, from its weights by --set init=FILE"
            ) from error
        optimizer.state = earlier.state


def layer_of(name: str, depth: int) -> int:
    """0 for the embeddings, i + 1 for block i, depth + 1 for everything after the blocks (ViT's layer-wise decay)."""
    if match := _BLOCK.search(name):
        return int(match[1]) + 1
    return 0 if "patch_embed" in name or _is_table(name) else depth + 1


def is_undecayed(name: str, parameter: Tensor) -> bool:
    """True for biases, norms, position tables and tokens."""
    return parameter.ndim <= 1 or _is_table(name)


def _is_table(name: str) -> bool:
    """Whether a parameter is a position or token; layers that process tokens may have similar names."""
    return name.rpartition(".")[2] in _TABLES


def lr_factor(config: OptimConfig, progress: float, step: int) -> float:
    """Factor on the peak learning rate at `progress` (0..1) of the run, including the warm-up by `step`."""
    if config.schedule == "steps":
        factor = 0.1 ** sum(progress >= at for at in config.steps)
    else:
        factor = cosine(progress, config.final_lr)
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return factor * (0.001 + 0.999 * warm)


def cosine(progress: float, final: float = 0.0) -> float:
    """Cosine from 1 at the start of a run to `final` at its end, at `progress` (0..1)."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_lr(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Scales the peak learning rate of every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


class Ema:
    """Exponential moving average of a model's weights; its decay rises from 0.1 so that early weights are forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Adds the weights after step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.shadow.values(), model.state_dict().values(), strict=True))
        floats = [(old, new) for old, new in pairs if old.is_floating_point()]
        torch._foreach_lerp_(  # type: ignore[reportPrivateImportUsage]
            [old for old, _ in floats], [new for _, new in floats], 1 - decay
        )
        for old, new in pairs:
            if not old.is_floating_point():  # counters of batch normalisation
                old.copy_(new)
