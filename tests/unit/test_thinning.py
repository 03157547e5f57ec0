"""Thinner detectors: what others can stand in for goes without loss, and the file is read, trained on and refused."""

from __future__ import annotations

import argparse
import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpose_rt.commands import train_detector, weights
from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.bundled import BundledDetector, build_module, load_module
from sharpose_rt.detection.runtime import Runtime
from sharpose_rt.errors import ConfigError, DatasetError, OutputError, WeightsError
from sharpose_rt.models.stem import InvertedResidual
from sharpose_rt.training.detector_finish import save_detector
from sharpose_rt.training.detector_recipe import DetectorRecipe
from sharpose_rt.training.person_detector import DetectorTrainer
from sharpose_rt.training.pictures import Picture
from sharpose_rt.training.thinning import LEAST_PICTURES, thin
from sharpose_rt.types import Frame

pytest.importorskip("ultralytics")
WIDE = 48
"""Hidden channels of each block of the detector here; what ships has up to 912."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures, no two alike."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(LEAST_PICTURES):
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(small, (96, 72), interpolation=cv2.INTER_CUBIC))
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A file of our architecture with few hidden channels, half of which say what the other half says."""
    torch.manual_seed(0)
    module = build_module("mobile150", tmp_path_factory.getbasetemp())
    for block in module.trunk.layers[1:]:
        block.keep(torch.arange(WIDE // 2).repeat(2))
    path = tmp_path_factory.mktemp("detector") / "wide.safetensors"
    facts = {"image_size": "96", "score_slope": "1.5", "score_shift": "0.25"}
    save_detector(path, module, DetectorRecipe("mobile150", image_size=96), facts)
    return path


def thin_file(source, target, *images, megabytes=1.0, overwrite=False):
    return weights.run(
        argparse.Namespace(
            action=weights.thin_weights,
            source=source,
            target=target,
            images=list(images),
            megabytes=megabytes,
            overwrite=overwrite,
        )
    )


def size_of(path):
    return sum(p.numel() for p in load_module(path)[0].parameters())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([(16, 16, 1), (16, 24, 2)]), st.integers(1, 2))
def test_what_is_said_twice_goes_without_loss(seed, shape, strips):
    torch.manual_seed(seed)
    block = InvertedResidual(shape[0], shape[1], 4, shape[2]).eval()  # 64 hidden channels
    twice = torch.randperm(64)
    with torch.no_grad():
        for layer in (block.expand, block.depthwise):
            layer.weight[twice[:32]], layer.bias[twice[:32]] = layer.weight[twice[32:]], layer.bias[twice[32:]]
    inputs = 2 * torch.randn(40, shape[0], 8, 8)
    with torch.no_grad():
        before = block(inputs)
        each = sum(p.numel() for p in block.parameters()) // 64
        most = sum(p.numel() for p in block.parameters()) - 16 * strips * each
        found = thin(torch.nn.Sequential(block), lambda: list(map(block, inputs.split(1))), most)
        assert found == {"0": (64, 64 - 16 * strips)}
        assert block.hidden == 64 - 16 * strips
        assert float((block(inputs) - before).std() / before.std()) < 1e-3


@torch.no_grad()
def test_what_is_needed_stays():
    """Though more is asked for: nothing goes any more once a tenth of what the block says would be lost."""
    torch.manual_seed(0)
    block = InvertedResidual(32, 64, 6, 2).eval()
    block.expand.weight *= 8
    block.depthwise.weight *= 8  # so that what is cut off at 0 and 6 matters
    inputs = torch.randn(300, 32, 8, 8)
    before = block(inputs)
    assert thin(torch.nn.Sequential(block), lambda: list(map(block, inputs.split(1))), 0) == {"0": (192, block.hidden)}
    assert 48 < block.hidden < 192
    lost = (block(inputs) - before).square().mean() / before.var((0, 2, 3), correction=0).mean()
    assert 0.04 < float(lost) < 0.11


def test_a_thinner_file_finds_the_same(detector, pictures, tmp_path, capsys):
    """To be read by what reads any detector, in floats and in int8, with the curve of its scores."""
    target = tmp_path / "thin.safetensors"
    megabytes = size_of(detector) * 2 / 1e6 * 0.92
    assert thin_file(detector, target, pictures, megabytes=megabytes) == 0
    assert size_of(target) * 2 / 1e6 <= megabytes < size_of(detector) * 2 / 1e6
    narrow = load_module(target)[0].trunk.layers[15].hidden
    assert f"trunk.layers.15: {narrow} of {WIDE} hidden channels" in capsys.readouterr().out
    before, after = (load_module(path) for path in (detector, target))
    kept = {key: text for key, text in after[1].items() if key != "input_ranges"}
    assert kept == before[1]
    frame = Frame(0, 0.0, cv2.imread(str(pictures / "07.png")))
    with torch.no_grad():
        crop = torch.from_numpy(frame.image_bgr.copy()).permute(2, 0, 1)[None, :, :64].float() / 255
        deep = [module.eval().trunk.features(crop, (12, 15)) for module, _ in (before, after)]
    for wider, thinner in zip(*deep, strict=True):
        assert float((wider - thinner).std() / wider.std()) < 0.02
    for runtime in (Runtime(), Runtime(int8=True)):
        found = BundledDetector(DetectorConfig(score_threshold=0.0), weights=target, runtime=runtime)
        found.open()
        assert len(found.detect(frame)) > 0
    ranges = json.loads(after[1]["input_ranges"])
    assert len(ranges["trunk.layers.15.depthwise"][0]) == narrow < WIDE


def test_a_thin_detector_is_trained_on(detector, pictures, tmp_path):
    """From its file, and from the checkpoint of that run, which says nothing else of how thin it is."""
    pixels = sorted(str(path) for path in pictures.glob("*.png"))
    people = [Picture(path, np.array([[8.0, 8, 40, 64]]), np.zeros((0, 4))) for path in pixels]
    recipe = DetectorRecipe("mobile150", init=str(detector), image_size=96, minutes=1e4, workers=0, batch=2, threads=1)
    trainer = DetectorTrainer(people, np.ones(len(people)), recipe, tmp_path / "run")
    assert trainer.trunk is not None
    assert [block.hidden for block in trainer.trunk.layers[1:]] == [WIDE] * 15
    trainer.save()
    again = DetectorTrainer(people, np.ones(len(people)), recipe, tmp_path / "run", resume=True)
    state = trainer.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.module.state_dict().items())
    moved = [p for group in again.optimizer.param_groups for p in group["params"]]
    assert set(map(id, moved)) == set(map(id, again.module.parameters()))


def test_wide_and_thin_have_no_mean(detector, pictures, tmp_path, monkeypatch):
    labels = [{"id": 1 + n, "image_id": 1 + n, "category_id": 1, "bbox": [8, 8, 40, 60]} for n in range(12)]
    images = [{"id": 1 + n, "file_name": f"{n:02}.png", "width": 96, "height": 72} for n in range(12)]
    document = {"images": images, "annotations": labels, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(pictures)
    (tmp_path / "set" / "annotations.json").write_text(json.dumps(document))
    parser = argparse.ArgumentParser()
    train_detector.add_arguments(parser)
    options = ["--data-root", str(tmp_path), "--set", "set", "--out", str(tmp_path / "out.safetensors")]
    options += ["--init", "random", "--average", str(detector), "--image-size", "96", "--small-size", "0"]
    monkeypatch.setattr(DetectorTrainer, "run", lambda *_, **__: pytest.fail("hours went by"))
    with pytest.raises(ConfigError, match=r"--average .*wide.safetensors has other numbers of channels .* \(--init "):
        train_detector.run(parser.parse_args(options))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"megabytes": 50.0}, ConfigError, r"--megabytes is 50; .* has [\d.]+ already, and fewer than that"),
        ({"megabytes": 0.5}, WeightsError, r"can be thinned to [\d.]+ MB of weights, not to 0.5.*nothing was written"),
        ({"images": "few"}, DatasetError, rf"3 pictures were given; {LEAST_PICTURES} or more"),
        ({"images": "none"}, DatasetError, r"none is not a folder with pictures \(.*\.jpg"),
        ({"source": "other"}, ConfigError, r"is a '.*tiny.yaml'; a detector of architecture 'mobile150' is accepted"),
        ({"target": "thin.pt"}, OutputError, r"a name that ends in \.safetensors"),
    ],
)
def test_what_cannot_be_thinned_is_told(detector, pictures, tmp_path, options, error, words):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("00.png", "01.png", "02.png"):
        (few / name).symlink_to(pictures / name)
    source = detector
    if "source" in options:
        source, plan = tmp_path / "other.safetensors", tmp_path / "tiny.yaml"
        plan.write_text("nc: 1\nbackbone:\n  - [-1, 1, Conv, [16, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n")
        save_detector(source, build_module(str(plan), tmp_path), DetectorRecipe(str(plan)), {})
    target = tmp_path / options.get("target", "thin.safetensors")
    images = {"few": few, "none": tmp_path / "none"}.get(options.get("images"), pictures)
    with pytest.raises(error, match=words):
        thin_file(source, target, images, megabytes=options.get("megabytes", 1.0))
    assert not target.exists()
