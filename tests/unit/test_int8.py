"""8-bit layers: as good as float ones, really integers in OpenVINO, and only where the weights are ready for them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sharpose_rt.cli import main
from sharpose_rt.compute import openvino_graphs, precision
from sharpose_rt.config import PoseConfig
from sharpose_rt.engine import PoseEngine, choice, choose, device
from sharpose_rt.engine.openvino_backend import OpenVinoBackend
from sharpose_rt.errors import ConfigError, DatasetError, DeviceError, OutputError, WeightsError
from sharpose_rt.evaluation import quantize
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.models import VARIANTS, Variant, create_model
from sharpose_rt.models.int8 import _EXACT, InputGrid, WeightGrid, observe, quantized
from sharpose_rt.models.pixels import normalise
from sharpose_rt.models.weights import RANGES, amend, file_sha256, load_model, read_ranges, save_weights
from tests.people_set import SMALL, write_set

CONV = replace(SMALL, name="test_conv", size_hw=(128, 64), stem="mobile", decoder="pixels")
PEOPLE = [[50, 400, 245, 903], [223, 405, 345, 860]]
"""In the photograph bus.jpg."""
openvino = pytest.mark.skipif(not openvino_graphs.installed(), reason="openvino is not installed (the extra `cpu`)")


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory):
    """A cache of this module's own, and two small variants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("int8_cache")))
        for variant in (SMALL, CONV):
            patch.setitem(VARIANTS, variant.name, variant)
        yield


def save_plain(variant: Variant, path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(create_model(variant.name), path, metadata={"quality_threshold": "inf"})
    return path


def made_ready(variant: Variant, plain: Path, path: Path) -> Path:
    """The same weights, ready for int8."""
    crops = np.random.default_rng(0).integers(0, 256, (4, *variant.size_hw, 3), np.uint8)
    amend(plain, path, {RANGES: json.dumps(seen(load_model(variant.name, str(plain))[0], crops))})
    return path


def seen(model, crops: np.ndarray) -> dict[str, tuple[float, float]]:
    return observe(model, lambda: model(normalise(torch.from_numpy(crops)), math.inf))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Weights that are not ready for int8."""
    return save_plain(CONV, tmp_path_factory.mktemp("int8") / "plain.safetensors")


@pytest.fixture(scope="module")
def ready(plain) -> Path:
    """The same, ready for it."""
    return made_ready(CONV, plain, plain.with_name("ready.safetensors"))


@pytest.fixture
def config(ready) -> PoseConfig:
    return PoseConfig(model="test_conv", weights=str(ready), device="cpu")


# Grids


def test_a_grid_of_inputs_holds_zero_and_clips_at_its_ends():
    grid = InputGrid(-0.17, 8.0)
    x = torch.linspace(-1, 9, 501)
    step = 8.17 / 255
    assert grid(torch.zeros(1)) == 0
    assert len(grid(x).unique()) <= 256
    inside = (x >= -0.16) & (x <= 7.9)
    assert (grid(x) - x)[inside].abs().max() <= step / 2 + 1e-5
    assert -0.17 - step < grid(x).min()
    assert grid(x).max() < 8 + step
    assert InputGrid(2.0, 4.0)(torch.zeros(1)) == 0  # padding, though nothing so low was seen
    assert InputGrid(0.0, 0.0)(torch.ones(1)).isfinite()


def test_each_channel_of_a_depthwise_layer_has_a_grid_of_its_own():
    wide = torch.tensor([1e-3, 1.0, 50.0, 0.0])
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0)) * wide.view(4, 1, 1)
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1, groups=4), torch.nn.Conv2d(4, 2, 1))
    ranges = observe(layers, lambda: [layers(x[:2]), layers(x[2:])])
    lows, highs = (torch.tensor(end) for end in ranges["0"])
    assert torch.allclose(lows, x.amin((0, 2, 3)), rtol=1e-3)  # an end of any crop, not the mean over them
    assert torch.allclose(highs, x.amax((0, 2, 3)), rtol=1e-3)
    assert all(isinstance(end, float) for end in ranges["1"])
    moved = (InputGrid(*ranges["0"])(x) - x).abs().amax((0, 2, 3))
    assert torch.all(moved <= (highs - lows) / 255 + 1e-9)
    assert moved[2] > 10 * moved[1] > 0  # one grid for all would move them alike
    rounded = quantized(layers, json.loads(json.dumps(ranges)))
    assert (rounded(x) - layers(x)).abs().mean() < 0.05 * layers(x).std()


def test_the_range_of_a_layer_is_the_mean_of_single_crops_not_the_outermost():
    layer = torch.nn.Sequential(torch.nn.Linear(2, 1))
    crops = torch.tensor([[[-1.0, 0.0], [2.0, 1.0]], [[-3.0, 4.0], [0.0, 6.0]], [[-5.0, 0.0], [0.0, 1.0]]])
    ranges = observe(layer, lambda: [layer(crops[:2]), layer(crops[2:])])
    assert ranges == {"0": (-3.0, 3.0)}
    assert InputGrid(*ranges["0"])(crops).max() < 3.1  # the second crop goes further, and coarsens nobody's grid


def test_each_output_channel_has_a_grid_of_its_own():
    weight = torch.randn(4, 6, 3, 3) * torch.tensor([1e-3, 1, 50, 0]).view(4, 1, 1, 1)
    rounded = WeightGrid(weight)(weight)
    widest = weight.flatten(1).abs().amax(1)
    assert torch.all((rounded - weight).flatten(1).abs().amax(1) <= widest / 254 + 1e-9)
    turned = weight.transpose(0, 1)  # a transposed convolution has its output channels second
    assert torch.equal(WeightGrid(turned, axis=1)(turned), rounded.transpose(0, 1))


@pytest.mark.parametrize("variant", [SMALL, CONV], ids=lambda v: v.name)
def test_all_layers_are_rounded_but_those_that_the_gate_and_the_fine_stage_look_at(variant):
    model = create_model(variant)
    crops = np.random.default_rng(1).integers(0, 256, (2, *variant.size_hw, 3), np.uint8)
    ranges = seen(model, crops)
    assert {"blocks.0.attn.qkv", "blocks.1.mlp.fc2", "carry.fc1"} <= set(ranges)
    assert ("patch_embed.layers.4.depthwise" in ranges) == (variant is CONV)
    floats = ("quality_predictor.", "patch_embed.first", "patch_embed.layers.0.depthwise", "patch_embed.merges.")
    assert not any(name.startswith(floats) or name == "patch_embed" for name in ranges)
    assert not any(module._forward_pre_hooks for module in model.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = normalise(torch.from_numpy(crops))
    earlier = {**ranges, "decoder.fine_pixels.detail": (-1.0, 1.0)}  # of a version that rounded this layer, too
    with torch.inference_mode():
        exact, rounded, again = model(images), quantized(model, ranges)(images), quantized(model, earlier)(images)
    assert torch.equal(rounded.heatmaps, again.heatmaps)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(exact.heatmaps, rounded.heatmaps)
    assert (exact.heatmaps - rounded.heatmaps).abs().mean() < 0.2 * exact.heatmaps.std()


def test_ranges_of_another_network_are_refused():
    ranges = {"blocks.0.attn.qkv": (-1.0, 1.0), "elsewhere": (0.0, 1.0)}
    with pytest.raises(WeightsError, match="weights quantize"):
        quantized(create_model("test_conv"), ranges)


def test_ranges_of_another_number_of_channels_are_refused():
    model = create_model("test_conv")
    ranges = dict(seen(model, np.zeros((1, *CONV.size_hw, 3), np.uint8)))
    ranges["patch_embed.layers.4.depthwise"] = ([0.0, 0.0], [1.0, 6.0])
    with pytest.raises(WeightsError, match=r"layers\.4\.depthwise .* channels; .* `sharpose-rt weights quantize`"):
        quantized(model, ranges)


# In OpenVINO


@openvino
@pytest.mark.timeout(300)  # two graphs of full size are converted
def test_people_in_a_photograph_have_the_same_poses_of_integers(tmp_path):
    model, info = load_model("tiny_256x192")
    image = read_photograph("bus.jpg")
    exact = PoseEngine(PoseConfig(device="cpu", precision="fp32", backend="torch", quality_threshold=math.inf))
    crops = exact.backend.cut(image, _affines(exact), (192, 256)).numpy()
    path, ranges = tmp_path / "ready.safetensors", seen(model, crops)
    amend(Path(info.path), path, {RANGES: json.dumps(ranges)})
    config = replace(exact.config, precision="int8", backend="auto", weights=str(path), max_batch=4)
    engine = PoseEngine(config)
    assert (engine.backend.name, engine.dtype) == ("openvino", torch.int8)
    a, b = exact.estimate(image, PEOPLE), engine.estimate(image, PEOPLE)
    sure = a.scores > 0.4
    assert sure.sum() > 20
    heights = np.array([box[3] - box[1] for box in PEOPLE])[:, None]
    moved = np.linalg.norm(a.keypoints - b.keypoints, axis=-1) / heights
    assert np.median(moved[sure]) < 0.01
    assert np.mean(moved[sure] < 0.03) > 0.85
    assert np.abs(a.quality - b.quality).max() < 0.1

    # Torch only simulates the integers, but to the same poses.
    images = normalise(torch.from_numpy(crops))
    with torch.inference_mode():
        simulated, unrounded = quantized(model, ranges)(images), model(images)
    for maps, wanted in (
        (simulated.coarse_heatmaps, unrounded.coarse_heatmaps),
        (simulated.heatmaps, unrounded.heatmaps),
    ):
        assert (maps - wanted).square().mean() < 0.004 * wanted.square().mean()
    assert (simulated.heatmaps - engine.infer(crops).heatmaps).abs().mean() < 0.05 * simulated.heatmaps.std()
    assert isinstance(engine.backend, OpenVinoBackend)
    for stage in ("coarse", "fine"):
        _multiplies_integers(engine.backend, stage)


def _affines(engine: PoseEngine) -> np.ndarray:
    from sharpose_rt.geometry.affine import crop_affine

    return crop_affine(PEOPLE, (engine.crop_size_hw[1], engine.crop_size_hw[0]), engine.box_padding)


def _multiplies_integers(backend: OpenVinoBackend, stage: str) -> None:
    """A pad or a sum in the wrong place leaves a layer in floats, and nobody would notice but for the speed."""
    compiled = backend._graphs[stage, 2]._requests[0].get_compiled_model()
    layers: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ops():
        facts: Any = node.get_rt_info()
        kind = str(facts["layerType"].astype(str))
        if kind in ("Convolution", "GroupConvolution", "FullyConnected"):
            layers[node.get_friendly_name()] = str(facts["runtimePrecision"].astype(str))
        assert kind != "Pad", node.get_friendly_name()
    floats = [name for name, precision in layers.items() if precision not in ("u8", "i8")]
    assert len(layers) - len(floats) > 40
    # The mean over pixels before the network is a convolution too, but no layer.
    exact = tuple(f"__module.network.{part}" for part in _EXACT)
    assert all(name.startswith(exact) or not name.startswith("__module") for name in floats), floats


# What is chosen, what is refused


def test_int8_is_refused_where_it_cannot_be(config, plain, monkeypatch):
    with pytest.raises(WeightsError, match=r"test_conv do not state.*weights quantize"):
        PoseEngine(replace(config, weights=str(plain), precision="int8"))
    with pytest.raises(WeightsError, match="weights quantize"):
        choose(replace(config, weights="random", precision="int8"))
    with pytest.raises(DeviceError, match="--backend openvino"):
        choose(replace(config, precision="int8", backend="torch"))
    monkeypatch.setattr(device, "cuda_problem", lambda index=0: None)
    with pytest.raises(DeviceError, match="with OpenVINO; on CUDA"):
        choose(replace(config, precision="int8", device="cuda"))
    with pytest.raises(ConfigError, match="int8"):
        PoseConfig(precision="int4")


def test_int8_without_openvino_says_what_to_install(config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    monkeypatch.setattr(openvino_graphs, "openvino", openvino_graphs.openvino.__wrapped__)
    with pytest.raises(DeviceError, match=r"pip install 'sharpose-rt\[cpu\]'"):
        PoseEngine(replace(config, precision="int8"))


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '{"a": [1, "x"]}'])
def test_damaged_ranges_are_refused(plain, tmp_path, text):
    path = tmp_path / "damaged.safetensors"
    amend(plain, path, {RANGES: text})
    with pytest.raises(WeightsError, match="damaged"):
        read_ranges("test_conv", str(path))


@pytest.mark.parametrize(
    ("rate", "backend", "taken"),
    [(300.0, "openvino", "int8"), (220.0, "openvino", "fp32"), (50.0, "openvino", "fp32")],
)
def test_auto_takes_int8_where_it_is_clearly_faster(config, plain, monkeypatch, tmp_path, rate, backend, taken):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "installed", lambda: ("torch", "openvino"))
    monkeypatch.setattr(device, "fastest_dtype", lambda: torch.float32)
    monkeypatch.setattr(choice, "multiplies_integers", lambda: True)
    rates = {"torch float32": 100.0, "openvino float32": 200.0, "openvino int8": rate}
    asked = []

    def measured(network, config, ranges):
        asked.append(config)
        return {str(way): rates[str(way)] for way in choice.ways(config, ranges)}

    monkeypatch.setattr(choice, "measure", measured)
    for _ in range(2):
        found = choose(config)
        assert (found.backend, found.precision) == (backend, taken)
        assert choose(found) == found  # nothing is left to measure
    assert len(asked) == 1
    assert choose(replace(config, weights=str(plain))).precision == "fp32"
    assert choose(replace(config, backend="torch")).precision == "fp32"
    assert choose(replace(config, backend="openvino")).precision == taken


def test_auto_takes_int8_where_it_is_faster_at_all_than_bfloat16_which_costs_as_much(config, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "installed", lambda: ("torch", "openvino"))
    monkeypatch.setattr(device, "fastest_dtype", lambda: torch.bfloat16)
    monkeypatch.setattr(choice, "multiplies_integers", lambda: True)
    for rate, taken in ((210.0, "int8"), (190.0, "bf16")):
        rates = {"torch bfloat16": 100.0, "openvino bfloat16": 200.0, "openvino int8": rate}
        monkeypatch.setattr(choice, "measure", lambda *_, rates=rates: rates)
        assert choose(config).precision == taken
        (tmp_path / "sharpose-rt" / "backends.json").unlink()


@openvino
def test_a_processor_without_vnni_is_not_offered_int8_and_warned_of_it(config, monkeypatch, caplog):
    monkeypatch.setattr(choice, "installed", lambda: ("torch", "openvino"))
    monkeypatch.setattr(device, "fastest_dtype", lambda: torch.float32)
    _, info = load_model(config.model, config.weights)
    for there, names in ((True, {"float32", "int8"}), (False, {"float32"})):
        monkeypatch.setattr(choice, "multiplies_integers", lambda there=there: there)
        assert {str(way).split()[1] for way in choice.ways(config, info.ranges)} == names
        assert not caplog.text
    choice._warn_of_int8.cache_clear()
    for _ in range(2):
        choice.ways(replace(config, precision="int8"), info.ranges)
    assert caplog.text.count("this processor has no VNNI") == 1


@pytest.mark.parametrize(
    ("machine", "in_hardware", "wanted"),
    [
        ("x86_64", {"avx2": True}, False),
        ("AMD64", {"avx512_bw": True, "avx512_vnni": False}, False),
        ("x86_64", {"avx_vnni": True}, True),
        ("x86_64", {"avx512_vnni": True}, True),
        ("aarch64", {}, True),
    ],
)
def test_which_processors_multiply_integers_in_full(monkeypatch, machine, in_hardware, wanted):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: in_hardware)
    assert precision.multiplies_integers() is wanted


@pytest.mark.parametrize("fastest", [torch.float32, torch.bfloat16])
def test_layers_without_grids_multiply_in_the_fastest_floats(monkeypatch, fastest):
    monkeypatch.setattr(openvino_graphs, "fastest_dtype", lambda: fastest)
    assert openvino_graphs.besides_grids(torch.int8) == fastest
    assert openvino_graphs.besides_grids(torch.float32) == torch.float32
    assert openvino_graphs.besides_grids(torch.bfloat16) == torch.bfloat16


# The command


def quantize_args(source: Path, target: Path, folder: Path, *more: str) -> list[str]:
    labels = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    return ["weights", "quantize", str(source), str(target), *labels, *more]


def test_quantize_writes_ranges_and_nothing_else(plain, tmp_path, capsys):
    folder = write_set(tmp_path / "set")
    source, target = tmp_path / "in.safetensors", tmp_path / "out" / "out.safetensors"
    source.write_bytes(plain.read_bytes())
    card = {"sha256": file_sha256(source), "metrics": []}
    source.with_suffix(".json").write_text(json.dumps(card))
    assert main(quantize_args(source, target, folder, "--people", "5")) == 0
    before, after = (load_model("test_conv", str(path)) for path in (source, target))
    assert all(torch.equal(v, after[0].state_dict()[k]) for k, v in before[0].state_dict().items())
    assert {**before[1].metadata, RANGES: after[1].metadata[RANGES]} == dict(after[1].metadata)
    quantized(after[0], after[1].ranges)  # they fit
    written = json.loads(target.with_suffix(".json").read_text())
    assert written["sha256"] == file_sha256(target) == after[1].sha256
    assert written["int8"]["people"] == 5
    assert "AP of 5 people" in capsys.readouterr().out

    with pytest.raises(OutputError, match="--overwrite"):
        run_command(quantize_args(target, target, folder))
    assert main(quantize_args(target, target, folder, "--overwrite")) == 0
    assert json.loads(target.with_suffix(".json").read_text())["int8"]["people"] == 8

    assert main(["weights", "show", str(target)]) == 0
    assert "ready for --precision int8" in capsys.readouterr().out
    shipped = tmp_path / "shipped.safetensors"
    export = ["weights", "export", str(target), str(shipped), "--model", "test_conv", "--quality-threshold", "0.7"]
    assert main(export) == 0
    assert read_ranges("test_conv", str(shipped)) == read_ranges("test_conv", str(target))

    labels = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    evaluate = ["eval", *labels, "--model", "test_conv", "--device", "cpu", "--precision", "int8", "--weights"]
    assert main([*evaluate, str(target)]) == 0
    assert "int8, simulated in torch" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="weights quantize"):
        run_command([*evaluate, str(plain)])


def run_command(arguments: list[str]) -> int:
    """As `main`, but what goes wrong is raised."""
    from sharpose_rt.cli import build_parser

    args = build_parser().parse_args(arguments)
    return args.command.run(args)


def test_quantize_refuses_what_costs_too_much_or_cannot_be_measured(plain, tmp_path, monkeypatch):
    folder, target = write_set(tmp_path / "set", pictures=1), tmp_path / "out.safetensors"
    with pytest.raises(ConfigError, match="--people is 0"):
        run_command(quantize_args(plain, target, folder, "--people", "0"))
    with pytest.raises(WeightsError, match=r"cannot read .*none.safetensors: No such file"):
        run_command(quantize_args(tmp_path / "none.safetensors", target, folder))
    save_file({"x": torch.zeros(1)}, tmp_path / "nameless.safetensors")
    for source in (tmp_path / "nameless.safetensors", tmp_path / "old.pth"):
        with pytest.raises(WeightsError, match=rf"{source.name} is not a .safetensors file that names its model"):
            run_command(quantize_args(source, target, folder))
    nobody = write_set(tmp_path / "nobody", pictures=1, people=0)
    with pytest.raises(DatasetError, match="nobody"):
        run_command(quantize_args(plain, target, nobody))
    aps = iter((0.5, 0.494))
    monkeypatch.setattr(quantize, "score", lambda *_: {"AP": next(aps)})
    with pytest.raises(WeightsError, match=r"0\.0060 AP; up to 0\.005 is accepted"):
        run_command(quantize_args(plain, target, folder))
    assert not target.exists()


@pytest.mark.slow  # as in float, in `test_backends`
@openvino
def test_compiled_graphs_are_kept_and_give_the_same_to_the_last_digit(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weights = made_ready(SMALL, save_plain(SMALL, tmp_path / "plain.safetensors"), tmp_path / "ready.safetensors")
    config = PoseConfig(SMALL.name, str(weights), device="cpu", backend="openvino", precision="int8")
    config = replace(config, quality_threshold=math.inf)
    crops = np.random.default_rng(1).integers(0, 256, (1, *SMALL.size_hw, 3), np.uint8)
    ov, core = openvino_graphs.openvino()
    compiled: list[str] = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            if name == "compile_model":
                compiled.append(name)
            return getattr(core, name)

    monkeypatch.setattr(openvino_graphs, "openvino", lambda: (ov, Counted()))
    decoding = 1  # a graph without integers, which is compiled each time

    def estimate(config: PoseConfig) -> tuple[Any, int]:
        compiled.clear()
        return PoseEngine(config).estimate_crops(crops), len(compiled) - decoding

    (first, made), (again, more) = estimate(config), estimate(config)
    assert (made, more) == (2, 0)
    for name in ("keypoints", "scores", "quality"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))

    folder = tmp_path / "sharpose-rt" / "compiled"
    kept = sorted(folder.iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:-1] + b"?")
    kept[1].write_bytes(b"")
    mended, more = estimate(config)
    assert more == 2
    np.testing.assert_array_equal(mended.keypoints, first.keypoints)

    assert estimate(replace(config, threads=1))[1] == 2  # they hold for a number of threads
    assert len(list(folder.iterdir())) == 4
    # Room for one, whose size differs a little from run to run, and never for two.
    largest = max(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(openvino_graphs, "COMPILED_BYTES", largest * 3 // 2)
    estimate(replace(config, threads=3))
    left = list(folder.iterdir())
    assert len(left) == 1
    assert sum(path.stat().st_size for path in left) <= openvino_graphs.COMPILED_BYTES
