"""Networks whose layers multiply 8-bit integers: inputs and weights are rounded to grids, which OpenVINO recognises.

Torch only simulates this; results agree up to the last bits of a float. A layer's inputs share a grid of 256 steps over
their observed range; its weights have one grid per output channel. Inputs of a depthwise layer also have one per
channel, since it does not sum over channels. Sums, norms, attention with its average, and the predicted quality and
gain are not rounded: they select cells and people, and cost little.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sharpose_rt.errors import WeightsError

N = TypeVar("N", bound=nn.Module)

End = float | Sequence[float]
Ranges = Mapping[str, tuple[End, End]]
"""Lowest and highest input of each rounded layer, by name; for a depthwise layer, of each channel."""
NEW_RANGES = (
    "write a pose network's with `sharpose-rt weights quantize`, a detector's with `sharpose-rt train-detector`"
)
"""Advice for damaged or foreign ranges."""
_EXACT = (
    "quality_predictor.",  # the gate compares them with thresholds
    "gain_predictor",
    # Most sensitive to rounding are the stem's first depthwise layer, as in any MobileNetV2, and its pyramid's features
    # of every 4 px.
    "patch_embed.first",
    "patch_embed.layers.0.depthwise",
    "patch_embed.merges.",
    "patch_embed.detail",
    "patch_embed.places",
    "patch_embed.token",
    # So are the decoder's layers after that: these small layers cause nearly all of the error in heatmaps.
    "decoder.coarse_pixels.detail",
    "decoder.coarse_pixels.out",
    "decoder.fine_pixels.detail",
    "decoder.fine_pixels.out",
)


def observe(network: nn.Module, run: Callable[[], object]) -> dict[str, tuple[End, End]]:
    """The ranges of the layers' inputs while `run` sends people through `network`.

    Each end of a range is the mean over single crops: the rare crop beyond it is clipped, and all others get a finer
    grid. A single channel is idle in many crops, so its ends are the extremes.
    """
    ends: defaultdict[str, list[Tensor]] = defaultdict(list)
    layers = _layers(network)

    def note(name: str, from_dim: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: ends[name].append(torch.stack(inputs[0].flatten(from_dim).aminmax(dim=from_dim)))

    hooks = [
        layer.register_forward_pre_hook(note(name, 2 if _is_depthwise(layer) else 1)) for name, layer in layers.items()
    ]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: torch.cat(ends[name], 1) for name in layers if name in ends}  # (2, B), or (2, B, C) of a depthwise
    return {
        name: (_short(low.amin(0)), _short(high.amax(0))) if low.ndim > 1 else (_short(low.mean()), _short(high.mean()))
        for name, (low, high) in found.items()
    }


def _short(end: Tensor) -> End:
    """Four digits, as in a file."""
    values = [float(f"{value:.4g}") for value in end.flatten().tolist()]
    return values if end.ndim else values[0]


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def quantized(network: N, ranges: Ranges) -> N:
    """A copy of a network in float32 that rounds inputs and weights of its layers.

    Ranges of layers that are not rounded, as in files of earlier versions, are ignored.

    Raises:
        WeightsError: the ranges do not match this network's layers.
    """
    rounded = copy.deepcopy(network)
    layers = _layers(rounded)
    if odd := sorted({name for name in ranges if not name.startswith(_EXACT)} ^ set(layers)):
        raise WeightsError(
            f"the ranges for int8 are not for this network's layers ({', '.join(odd[:3])}, ...); {NEW_RANGES}"
        )
    for name, layer in layers.items():
        channels = getattr(layer, "in_channels", None)
        if any(isinstance(end, Sequence) and len(end) != channels for end in ranges[name]):
            raise WeightsError(f"the ranges for int8 of {name} have the wrong number of channels; {NEW_RANGES}")
        grid = WeightGrid(layer.weight, axis=1 if isinstance(layer, nn.ConvTranspose2d) else 0)
        parametrize.register_parametrization(layer, "weight", grid, unsafe=True)
        parent, _, own = name.rpartition(".")
        setattr(rounded.get_submodule(parent), own, nn.Sequential(InputGrid(*ranges[name]), layer))
    return rounded.eval()


def _layers(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d | nn.ConvTranspose2d]:
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
        and name != "patch_embed"  # the fine stage uses a linear one's weights directly
        and not name.startswith(_EXACT)
    }


class InputGrid(nn.Module):
    """Rounds to 256 even steps from `low` to `high`, including 0, so that padding stays exact.

    Args:
        low: for all inputs (B, ...), or one for each channel of (B, C, ...).
        high: likewise.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, low: End, high: End) -> None:
        super().__init__()
        lows, highs = (torch.as_tensor(end, dtype=torch.float32) for end in (low, high))
        lows, highs = lows.clamp(max=0.0), highs.clamp(min=0.0)
        step = (highs - lows).clamp(min=1e-6) / 255
        self.register_buffer("step", step)
        self.register_buffer("zero", (-lows / step).round().to(torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """As `x`, of any shape."""
        if self.step.ndim:
            return torch.fake_quantize_per_channel_affine(x, self.step, self.zero, 1, 0, 255)
        return torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, 0, 255)


class WeightGrid(nn.Module):
    """Rounds a weight to 255 steps around 0, scaled for each output channel to its largest weight.

    Args:
        weight: its channels are along `axis`.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, weight: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis
        largest = weight.detach().transpose(0, axis).flatten(1).abs().amax(1)
        self.register_buffer("step", (largest / 127).clamp(min=1e-9))
        self.register_buffer("zero", torch.zeros(len(largest), dtype=torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        """As `weight`."""
        return torch.fake_quantize_per_channel_affine(weight, self.step, self.zero, self.axis, -127, 127)
