"""A person detector with fewer hidden channels: those that others in their block can replace are removed.

Many hidden channels of a trained block are nearly redundant. They are removed one by one, always the one that matters
least after the weights of the others have compensated for it (Hassibi & Stork 1993, "Optimal Brain Surgeon", for whole
channels); the layer that reads the others is fitted to its earlier outputs by least squares. This needs pictures, but
no labels or training.

Letters: C hidden channels of a block, O its outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.bundled import OURS, BundledDetector, load_module
from sharpose_rt.errors import ConfigError, DatasetError, WeightsError
from sharpose_rt.models.stem import InvertedResidual
from sharpose_rt.models.weights import RANGES, write_network
from sharpose_rt.training.detector_finish import input_ranges, look_at
from sharpose_rt.training.pictures import Picture

LEAST_PICTURES = 50
"""Fewest pictures needed to distinguish the channels of a block."""
PLACES = 150
"""Positions per picture that are sampled in each block."""
TOGETHER = 16
"""Channels removed at once, as processors compute in such groups."""
_RIDGE = 1e-5
"""Regularisation, relative to the mean square of a channel, as channels may be nearly identical."""
_MOST = 0.1
"""Largest share of a block's output variance that may be lost."""


def thin_detector(
    source: Path, target: Path, pictures: Sequence[Picture], megabytes: float
) -> dict[str, tuple[int, int]]:
    """Writes a detector's file with thinner blocks; the calibration of scores is kept, the int8 ranges are measured
    again.

    Args:
        source: a file of our own architecture.
        target: the file to write.
        pictures: of people in similar places as in later use; the first hundred are used for int8.
        megabytes: largest size of the weights, at two bytes each.

    Returns:
        Hidden channels before and after, by name, of the blocks that became thinner.

    Raises:
        WeightsError: the file is damaged, or would lose too much.
        ConfigError: it has another architecture, or is as small already.
        DatasetError: there are too few pictures, or one cannot be read.
        OutputError: the target cannot be written.
    """
    module, facts = load_module(source)
    if facts["architecture"] != OURS:
        raise ConfigError(f"{source} is a {facts['architecture']!r}; a detector of architecture {OURS!r} is accepted")
    has, most = _count(module), int(megabytes * 1e6 / 2)
    if has <= most:
        raise ConfigError(
            f"--megabytes is {megabytes:g}; {source} has {has * 2 / 1e6:.2f} already, and fewer than that are accepted"
        )
    if len(pictures) < LEAST_PICTURES:
        raise DatasetError(
            f"{len(pictures)} pictures were given; {LEAST_PICTURES} or more are needed to tell what a block can lose"
        )
    detector = BundledDetector(DetectorConfig(), weights=source)
    network = replace(detector.load(), run=module.eval())
    found = thin(module, lambda: look_at(pictures, detector, network), most)
    if (left := _count(module)) > most:
        raise WeightsError(
            f"{source} can be thinned to {left * 2 / 1e6:.2f} MB of weights, not to {megabytes:g}: a block would lose "
            f"{_MOST:.0%} of its output; nothing was written"
        )
    facts = {key: text for key, text in facts.items() if key != RANGES}
    write_network(module, target, facts)
    write_network(module, target, facts | {RANGES: json.dumps(input_ranges(target, pictures))})
    return found


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class _Seen:
    """Statistics of a block: products of its hidden channels and 1 (C + 1, C + 1), and the variance of its outputs."""

    products: Tensor
    spread: float

    @property
    def damped(self) -> Tensor:
        return self.products + _RIDGE * self.products.diagonal().mean() * torch.eye(len(self.products))


@dataclass(frozen=True, order=True)
class _Step:
    """A step that removes channels of a block, after its earlier steps: the loss per parameter, the number of the
    block, the channels removed so far, and the parameters removed."""

    loss: float
    block: int
    gone: int
    parameters: int


def thin(module: nn.Module, run: Callable[[], object], most_parameters: int) -> dict[str, tuple[int, int]]:
    """Removes hidden channels of a module until it has at most this many parameters, those with the least loss first.

    Args:
        module: in evaluation mode on the CPU; its `InvertedResidual` blocks are thinned in place.
        run: sends pictures through it.
        most_parameters: of the whole module. It stays larger if a block would lose a tenth of its output.

    Returns:
        Hidden channels before and after, by name, of the blocks that became thinner.
    """
    blocks = {
        name: block
        for name, block in module.named_modules()
        if isinstance(block, InvertedResidual)
        and isinstance(block.expand, nn.Conv2d)  # the others have no hidden channels
    }
    seen = _watch(blocks, run)
    orders, steps = [], []
    for number, (name, block) in enumerate(blocks.items()):
        order, losses = _order(_reading(block), seen[name])
        orders.append(order)
        steps += _steps(number, block, losses)
    surplus = _count(module) - most_parameters
    gone = [0] * len(blocks)
    for step in sorted(steps):
        if surplus <= 0:
            break
        surplus -= step.parameters
        gone[step.block] = step.gone
    found = {}
    for (name, block), order, count in zip(blocks.items(), orders, gone, strict=True):
        if count:
            found[name] = block.hidden, block.hidden - count
            _take_out(block, order[:count], seen[name])
    return found


def _reading(block: InvertedResidual) -> Tensor:
    """Weights and bias (O, C + 1) of the layer that reads the hidden channels."""
    assert block.project.bias is not None
    return torch.cat([block.project.weight.flatten(1), block.project.bias[:, None]], 1).detach().double()


@torch.no_grad()
def _watch(blocks: dict[str, InvertedResidual], run: Callable[[], object]) -> dict[str, _Seen]:
    """Statistics of the blocks while `run` runs."""
    chance = torch.Generator().manual_seed(0)
    products = {name: torch.zeros(block.hidden + 1, block.hidden + 1).double() for name, block in blocks.items()}
    said = {name: torch.zeros(3, block.project.out_channels).double() for name, block in blocks.items()}

    def hidden(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            places = inputs[0].movedim(1, -1).flatten(0, -2)
            places = places[torch.randperm(len(places), generator=chance)[:PLACES]]
            places = torch.cat([places, torch.ones(len(places), 1)], 1)
            products[name] += places.T @ places

        return note

    def outputs(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            places = output.movedim(1, 0).flatten(1).double()  # (O, places)
            said[name] += torch.stack([torch.ones(len(places)) * places.shape[1], places.sum(1), (places**2).sum(1)])

        return note

    hooks = [block.project.register_forward_pre_hook(hidden(name)) for name, block in blocks.items()]
    hooks += [block.register_forward_hook(outputs(name)) for name, block in blocks.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    seen = {}
    for name, (count, total, squares) in said.items():
        variance = squares / count - (total / count).square()
        seen[name] = _Seen(products[name], float(variance.sum() * products[name][-1, -1]))
    return seen


def _order(reading: Tensor, seen: _Seen) -> tuple[list[int], list[float]]:
    """The order in which channels are removed, and the share of the block's output lost after each."""
    weights, inverse = reading.clone(), torch.linalg.inv(seen.damped)
    here = torch.ones(len(inverse), dtype=torch.bool)
    order: list[int] = []
    losses: list[float] = []
    lost = 0.0
    while int(here.sum()) > TOGETHER + 1 and lost < _MOST * seen.spread:
        costs = weights.square().sum(0) / inverse.diagonal()
        costs[~here] = costs[-1] = torch.inf  # the bias stays
        out = int(costs.argmin())
        lost += float(costs[out])
        order.append(out)
        losses.append(lost / seen.spread)
        column = inverse[:, out] / inverse[out, out]
        weights -= torch.outer(weights[:, out], column)
        inverse -= torch.outer(column, inverse[out])
        weights[:, out] = 0
        inverse[out, out] = 1  # so that it is never divided by again
        here[out] = False
    return order, losses


def _steps(number: int, block: InvertedResidual, losses: list[float]) -> Iterator[_Step]:
    """The steps for a block, each leaving a multiple of `TOGETHER` channels; the cost never decreases, because earlier
    steps must be taken first."""
    each = sum(p.numel() for p in block.parameters()) // block.hidden  # the last bias, which is kept, is less than one
    before, lost, rate = 0, 0.0, 0.0
    for gone in range(1, len(losses) + 1):
        if (block.hidden - gone) % TOGETHER == 0:
            parameters = (gone - before) * each
            rate = max(rate, (losses[gone - 1] - lost) / parameters)
            yield _Step(rate, number, gone, parameters)
            before, lost = gone, losses[gone - 1]


@torch.no_grad()
def _take_out(block: InvertedResidual, gone: list[int], seen: _Seen) -> None:
    """Removes channels of a block and refits the layer that reads the others."""
    kept = torch.tensor(sorted(set(range(block.hidden)) - set(gone)))
    columns = torch.cat([kept, torch.tensor([block.hidden])])  # and the bias
    wanted = _reading(block) @ seen.products[:, columns]
    fitted = torch.linalg.solve(seen.damped[columns][:, columns], wanted.T).T
    block.keep(kept)
    block.project.weight.copy_(fitted[:, :-1, None, None])
    assert block.project.bias is not None
    block.project.bias.copy_(fitted[:, -1])
