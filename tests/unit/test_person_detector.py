"""The detector's training: scenes show their boxes, unsure people are painted out, it learns, resumes and is used."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from sharpose_rt.commands import train_detector
from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.bundled import WEIGHTS, BundledDetector, build_module, load_module
from sharpose_rt.detection.runtime import Runtime
from sharpose_rt.errors import ConfigError, DatasetError, OutputError
from sharpose_rt.training.checkpoint import load_checkpoint
from sharpose_rt.training.detector_finish import calibrate, save_detector
from sharpose_rt.training.detector_recipe import DetectorRecipe
from sharpose_rt.training.detector_scenes import PeopleScenes, Wanted, collate
from sharpose_rt.training.person_detector import DetectorTrainer, _Numbers
from sharpose_rt.training.pictures import Picture, read_pictures
from sharpose_rt.training.world import World
from sharpose_rt.types import Frame

pytest.importorskip("ultralytics")

TINY = """
nc: 1
end2end: True
reg_max: 1
scales:
  n: [1.0, 1.0, 64]
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [48, 3, 2]]
head:
  - [[2, 3, 4], 1, Detect, [nc]]
"""
COLOUR_BGR = (40, 220, 60)
UNSURE_BGR = (20, 30, 240)


@pytest.fixture
def folder(tmp_path):
    """A set of pictures in which people are green bars and unsure ones red."""
    rng = np.random.default_rng(0)
    (tmp_path / "bars" / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, 13):
        image = np.full((200, 260, 3), 120, np.uint8)
        image[:] = rng.integers(60, 140, 3)
        for place, x in enumerate((10, 95, 180)):
            h, w = int(rng.integers(60, 150)), int(rng.integers(25, 55))
            y = int(rng.integers(0, 200 - h))
            unsure = place == 2
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), UNSURE_BGR if unsure else COLOUR_BGR, -1)
            box = {"image_id": number, "bbox": [x, y, w, h], "category_id": 1, "score": 0.2 if unsure else 0.9}
            annotations.append({"id": len(annotations) + 1, **box})
        cv2.imwrite(str(tmp_path / "bars" / "images" / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 260, "height": 200})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "bars" / "annotations.json").write_text(json.dumps(document))
    (tmp_path / "tinyn.yaml").write_text(TINY)
    return tmp_path / "bars"


@pytest.fixture
def recipe(folder):
    architecture = str(folder.parent / "tinyn.yaml")
    return DetectorRecipe(architecture, image_size=128, minutes=0.3, batch=8, warmup_steps=4, workers=0, threads=1)


def is_colour(pixels, colour_bgr):
    rgb = np.array(colour_bgr[::-1])
    return np.abs(pixels.numpy().transpose(1, 2, 0).astype(int) - rgb).max(-1) < 30


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_lie_on_their_people_and_unsure_ones_are_gone(folder, recipe, mosaic):
    pictures = read_pictures(folder, 0.4)
    scenes = PeopleScenes(pictures, np.ones(len(pictures)), replace(recipe, mosaic=mosaic, colour=0.0))
    seen = 0
    for number in range(30):
        pixels, boxes = scenes[Wanted(number, 128, True)]
        green = is_colour(pixels, COLOUR_BGR)
        covered = np.zeros_like(green)
        for x, y, w, h in (boxes.numpy() * 128).tolist():
            x0, y0, x1, y1 = round(x - w / 2), round(y - h / 2), round(x + w / 2), round(y + h / 2)
            covered[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = True
            inner = green[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
            assert inner.size == 0 or inner.mean() > 0.7
            seen += 1
        assert (green & ~covered).mean() < 0.02  # slivers at the edges of what is painted out
        assert is_colour(pixels, UNSURE_BGR).mean() < 0.01
    assert seen > 20


@pytest.mark.parametrize("unsure", [False, True])
def test_of_whom_little_is_left_nothing_is_seen(recipe, tmp_path, unsure):
    """Else the network learns that people at the edge are nobody."""
    image = np.full((240, 320, 3), 60, np.uint8)
    image[:, 120:200] = COLOUR_BGR
    cv2.imwrite(str(tmp_path / "a.png"), image)
    somebody, nobody = np.array([[120.0, 0, 200, 240]]), np.zeros((0, 4))
    picture = Picture(str(tmp_path / "a.png"), *((nobody, somebody) if unsure else (somebody, nobody)))
    scenes, labels = PeopleScenes([picture], np.ones(1), replace(recipe, mosaic=1.0, colour=0.0)), 0
    for number in range(150):
        pixels, boxes = scenes[Wanted(number, 160, True)]
        left = is_colour(pixels, COLOUR_BGR)
        for x, y, w, h in (boxes.numpy() * 160).tolist():
            left[max(0, int(y - h / 2) - 2) : int(y + h / 2) + 3, max(0, int(x - w / 2) - 2) : int(x + w / 2) + 3] = (
                False
            )
        assert left.sum() <= 60, number  # edges that warping has blurred
        labels += len(boxes)
    assert (labels == 0) == unsure


def test_a_scene_depends_on_its_number_alone(folder, recipe):
    pictures = read_pictures(folder, 0.4)
    first, again = (PeopleScenes(pictures, np.ones(len(pictures)), recipe) for _ in range(2))
    _ = again[Wanted(3, 128, True)]
    assert all(torch.equal(a, b) for a, b in zip(first[Wanted(7, 128, True)], again[Wanted(7, 128, True)], strict=True))
    assert not torch.equal(first[Wanted(7, 128, True)][0], first[Wanted(8, 128, True)][0])


def test_the_trunk_keeps_its_weights_for_a_part_of_the_run_and_its_first_blocks_for_all_of_it(folder, recipe):
    pictures = read_pictures(folder, 0.4)
    recipe = replace(recipe, architecture="mobile150", init="random", minutes=1e4, frozen_until=0.5, frozen_blocks=2)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), recipe, folder.parent / "run")
    batch = collate([trainer.scenes[Wanted(number, 128, False)] for number in range(2)])

    def moved() -> set[str]:
        before = {name: p.detach().clone() for name, p in trainer.module.named_parameters()}
        trainer.train_step(batch)
        after = dict(trainer.module.named_parameters())
        return {name for name, value in before.items() if not torch.equal(value, after[name])}

    first = moved()
    assert any(name.startswith("neck.") for name in first)
    assert not any(name.startswith("trunk.") for name in first)
    trainer.clock.elapsed_before_s = 0.6 * 60 * recipe.minutes
    later = moved()
    assert {"trunk.layers.2.depthwise.weight", "trunk.layers.15.project.bias"} <= later
    assert not any(name.startswith(("trunk.first", "trunk.layers.0", "trunk.layers.1.")) for name in later)


def test_the_one_that_ships_is_trained_on(folder, recipe):
    pictures = read_pictures(folder, 0.4)
    recipe = replace(recipe, architecture="mobile150", init="bundled", frozen_until=0.0, minutes=1e4)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), recipe, folder.parent / "run")
    shipped, _ = load_module(WEIGHTS)
    state = trainer.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in shipped.state_dict().items())
    trainer.train_step(collate([trainer.scenes[Wanted(number, 128, False)] for number in range(2)]))
    assert not torch.equal(shipped.state_dict()["trunk.layers.15.project.bias"], state["trunk.layers.15.project.bias"])


@pytest.mark.parametrize("architecture", ["mobile150", "tinyn.yaml"])
def test_loading_a_detector_leaves_a_programs_chance_as_it_was(folder, recipe, architecture):
    path = WEIGHTS
    if architecture != "mobile150":
        path = folder.parent / "mine.safetensors"
        save_detector(path, build_module(architecture, folder.parent), replace(recipe, architecture=architecture), {})
    before = torch.get_rng_state()
    load_module(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_detector_of_another_architecture_is_not_trained_on(folder, recipe):
    with pytest.raises(ConfigError, match=r"'bundled' is a 'mobile150', but .*tinyn.yaml.*; give --arch.* mobile150"):
        DetectorTrainer(read_pictures(folder, 0.4), np.ones(12), replace(recipe, init="bundled"), folder.parent / "run")


@pytest.mark.slow
def test_two_processes_train_together(folder):
    """Other pictures, the same weights; the first of them writes."""
    root = folder.parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["--data-root", str(root), "--set", "bars", "--architecture", str(root / "tinyn.yaml")]
    sizes = ["--image-size", "64", "--small-size", "64", "--batch", "2", "--workers", "0", "--threads", "1"]
    ends = ["--minutes", "0.03", "--held-out", "0.3", "--out", str(root / "together.safetensors")]
    done = subprocess.run(
        [*command, "-m", "sharpose_rt", "train-detector", *options, *sizes, *ends],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("12 pictures") == 1
    state = load_checkpoint(root / "together.safetensors.run" / "last.pt")
    assert state["step"] > 0
    with safe_open(str(root / "together.safetensors"), framework="pt") as file:
        assert file.metadata()["trained_steps"] == str(state["step"])


def test_the_processes_share_the_scenes(folder, recipe):
    pictures = read_pictures(folder, 0.4)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), recipe, folder.parent / "run")
    seen = []
    for rank in range(2):
        trainer.world = World(size=2, rank=rank)
        stream = iter(_Numbers(trainer))
        seen += [number for _ in range(3) for number, *_ in next(stream)]
    assert sorted(seen) == list(range(2 * 3 * recipe.batch))


def test_some_scenes_are_larger_and_equally_so_in_all_processes(folder, recipe):
    """Boxes of larger scenes lie on their people, too; the part of the run with small ones is behind."""
    pictures = read_pictures(folder, 0.4)
    recipe = replace(recipe, large_share=0.5, small_size=96, minutes=1e4, colour=0.0)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), recipe, folder.parent / "run")
    assert {wanted.size for wanted in next(iter(_Numbers(trainer)))} == {96}
    trainer.clock.elapsed_before_s = 0.6 * 60 * recipe.minutes
    sizes, alone = [], trainer.world
    for rank in range(2):
        trainer.world = World(size=2, rank=rank)
        stream = iter(_Numbers(trainer))
        sizes.append([{wanted.size for wanted in next(stream)} for _ in range(60)])
    assert sizes[0] == sizes[1]
    assert set().union(*sizes[0]) == {128, 160, 192, 224, 256}
    assert 15 < sizes[0].count({128}) < 45
    batch = collate([trainer.scenes[Wanted(number, 192, False)] for number in range(4)])
    assert batch["img"].shape == (4, 3, 192, 192)
    for index, box in zip(batch["batch_idx"].int().tolist(), batch["bboxes"] * 192, strict=True):
        x, y = box[:2].int().tolist()
        assert is_colour(batch["img"][index], COLOUR_BGR)[y, x]
    trainer.world = alone
    assert trainer.train_step(batch)["loss"] > 0
    with pytest.raises(ConfigError, match=r"large_share is 1\.5"):
        replace(recipe, large_share=1.5)


def test_a_picture_that_nobody_labelled_takes_no_part(folder):
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    empty = {**document["images"][0], "id": 90}
    document["images"] += [{**empty, "is_labeled": False}, {**empty, "id": 91}]
    path.write_text(json.dumps(document))
    pictures = read_pictures(folder, 0.4)
    assert len(pictures) == 13
    assert not len(pictures[-1].people_xyxy)


def test_a_picture_without_people_takes_part(folder, recipe):
    empty = Picture(str(folder / "images" / "1.png"), np.zeros((0, 4)), np.zeros((0, 4)))
    scenes = PeopleScenes([empty], np.ones(1), recipe)
    batch = collate([scenes[Wanted(0, 128, False)], scenes[Wanted(1, 128, True)]])
    assert batch["bboxes"].shape == (0, 4)
    trainer = DetectorTrainer([empty], np.ones(1), recipe, folder.parent / "run")
    assert trainer.train_step(batch)["loss"] > 0


def arguments(folder, **changes):
    parser = argparse.ArgumentParser()
    train_detector.add_arguments(parser)
    args = parser.parse_args(["--out", str(folder.parent / "found.safetensors")])
    options = {
        "data_root": [str(folder.parent)],
        "set": ["bars"],
        "architecture": str(folder.parent / "tinyn.yaml"),
        "image_size": 128,
        "small_size": 96,
        "held_out": 0.3,
        "minutes": 0.01,
        "batch": 8,
        "lr": 8e-3,
        "workers": 0,
        "threads": 1,
        **changes,
    }
    for name, value in options.items():
        setattr(args, name, value)
    return args


def test_it_learns_where_people_are_and_how_sure_its_boxes_are(folder, recipe):
    """Sixty steps on a dozen pictures: not by the clock, so that a slow machine gives the same."""
    pictures = read_pictures(folder, 0.4)
    recipe = replace(recipe, minutes=1e4, lr=8e-3, mosaic=0.0, ema=0.9)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), recipe, folder.parent / "run")
    losses = []
    for step in range(60):
        batch = collate([trainer.scenes[Wanted(number, 128, False)] for number in range(8 * step, 8 * step + 8)])
        losses.append(trainer.train_step(batch)["loss"])
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    weights = folder.parent / "found.safetensors"
    save_detector(weights, trainer.averaged(), recipe, {})
    slope, shift = calibrate(weights, pictures)
    assert slope > 0
    save_detector(weights, trainer.averaged(), recipe, {"score_slope": f"{slope:.6f}", "score_shift": f"{shift:.6f}"})
    again = calibrate(weights, pictures)
    assert again == pytest.approx((1, 0), abs=0.15)  # it is calibrated now
    with pytest.raises(DatasetError, match="0 show a person"):
        calibrate(weights, [replace(p, people_xyxy=np.zeros((0, 4))) for p in pictures])


def test_the_command_trains_saves_and_resumes(folder, capsys):
    assert train_detector.run(arguments(folder)) == 0
    assert "12 pictures with 24 people" in capsys.readouterr().out
    weights = folder.parent / "found.safetensors"
    detector = BundledDetector(DetectorConfig(score_threshold=0.0), weights=weights)
    detector.open()
    assert detector.sizes[0] == 128
    assert len(detector.detect(Frame(0, 0.0, cv2.imread(str(folder / "images" / "1.png")))))
    with pytest.raises(OutputError, match="--resume"):
        train_detector.run(arguments(folder))
    assert train_detector.run(arguments(folder, resume=True, minutes=0.015, use_size=160)) == 0
    again = BundledDetector(DetectorConfig(), weights=weights)
    again.open()
    assert again.sizes[0] == 160
    rounded = BundledDetector(DetectorConfig(score_threshold=0.0), weights=weights, runtime=Runtime(int8=True))
    rounded.open()
    assert len(rounded.detect(Frame(0, 0.0, cv2.imread(str(folder / "images" / "1.png")))))
    with safe_open(str(weights), framework="pt") as file:
        assert "input_ranges" in file.metadata()
    assert "steps" in capsys.readouterr().out


def test_a_run_that_has_ended_is_averaged_with_what_it_began_from(folder, recipe):
    assert train_detector.run(arguments(folder)) == 0
    found, before = folder.parent / "found.safetensors", folder.parent / "before.safetensors"
    trained, _ = load_module(found)
    save_detector(before, build_module(recipe.architecture, folder.parent), recipe, {})
    with pytest.raises(ConfigError, match="'bundled' is a 'mobile150'"):
        train_detector.run(arguments(folder, resume=True, average=[str(before), "bundled"]))
    assert train_detector.run(arguments(folder, resume=True, average=[str(before)])) == 0
    (mean, facts), (other, _) = load_module(found), load_module(before)
    assert facts["average_with"] == before.name
    assert {"input_ranges", "trained_steps"} <= facts.keys()
    first, second = trained.state_dict(), other.state_dict()
    for name, value in mean.state_dict().items():
        torch.testing.assert_close(value, ((first[name] + second[name]) / 2).to(value.dtype), rtol=2e-3, atol=2e-3)
    changed = [name for name in first if not torch.allclose(first[name].float(), mean.state_dict()[name].float())]
    assert len(changed) > 10


def test_the_command_states_a_size_for_closer_looks(folder):
    with pytest.raises(ConfigError, match=r"--closer-size is 96; 128 \(the usual size\) to"):
        train_detector.run(arguments(folder, closer_size=96))
    small = {"architecture": "mobile150", "init": "random", "image_size": 64, "small_size": 0, "batch": 2}
    assert train_detector.run(arguments(folder, **small, minutes=1e-3, closer_size=96)) == 0
    detector = BundledDetector(DetectorConfig(), weights=folder.parent / "found.safetensors")
    detector.open()
    assert detector.sizes[:2] == (64, 96)


def test_a_resumed_run_fetches_nothing(folder, monkeypatch):
    """Its weights are those of the checkpoint; where it once began from need not be there any more."""
    small = {"architecture": "mobile150", "image_size": 64, "small_size": 0, "batch": 2, "minutes": 1e-3}
    assert train_detector.run(arguments(folder, **small, init="random")) == 0

    def fetch(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("sharpose_rt.training.person_detector.load_multipose", fetch)
    assert train_detector.run(arguments(folder, **small, resume=True)) == 0
    with pytest.raises(AssertionError):
        train_detector.run(arguments(folder, **small, out=str(folder.parent / "other.safetensors")))


def test_what_was_learnt_before_a_picture_that_cannot_be_read_is_kept(folder, recipe):
    pictures = read_pictures(folder, 0.4)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), replace(recipe, minutes=10), folder.parent / "run")
    with pytest.raises(DatasetError, match="cannot be decoded"):
        trainer.run(
            say=lambda _: [path.write_bytes(b"no picture") for path in (folder / "images").iterdir()], log_steps=1
        )
    assert load_checkpoint(trainer.out / "last.pt")["step"] == trainer.step > 0


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_before_its_first_step_leaves_nothing(folder, there):
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no picture")
    out = folder.parent / "new" / "found.safetensors"
    if there:
        (folder.parent / "new").mkdir()
    with pytest.raises(DatasetError, match="cannot be decoded"):
        train_detector.run(arguments(folder, out=str(out)))
    assert out.parent.exists() == there
    assert not there or not list(out.parent.iterdir())


def test_a_run_whose_folder_cannot_be_made_says_so(folder):
    (folder.parent / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"the folder .*found.safetensors.run cannot be written \(.*\); give another --out"
    ):
        train_detector.run(arguments(folder, out=str(folder.parent / "file" / "found.safetensors")))


def test_a_loss_that_is_not_finite_stops_before_the_step(folder, recipe):
    pictures = read_pictures(folder, 0.4)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), recipe, folder.parent / "run")
    batch = collate([trainer.scenes[Wanted(number, 128, False)] for number in range(2)])
    with torch.no_grad():
        for parameter in trainer.module.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(DatasetError, match=r"at step 1; begin anew with a lower --lr"):
        trainer.train_step(batch)


def test_a_resumed_run_has_its_own_rate(folder, recipe):
    """What a loss that is not finite advises."""
    pictures = read_pictures(folder, 0.4)
    rates = []
    for lr, resume in ((2e-3, False), (1e-5, True)):
        using = pictures, np.ones(len(pictures)), replace(recipe, lr=lr), folder.parent / "run"
        wanted = [group["peak_lr"] for group in DetectorTrainer(*using).optimizer.param_groups]
        trainer = DetectorTrainer(*using, resume=resume)
        if not resume:
            trainer.train_step(collate([trainer.scenes[Wanted(number, 128, False)] for number in range(4)]))
            trainer.out.mkdir()
            trainer.save()
        rates.append([group["peak_lr"] for group in trainer.optimizer.param_groups])
        assert rates[-1] == wanted
    assert max(rates[1]) < min(rates[0])
    assert trainer.step == 1
    assert trainer.optimizer.state  # its moments are those of before


def test_a_resumed_run_tells_its_speed_from_where_it_goes_on(folder, recipe, monkeypatch):
    def one_a_second(batch):
        trainer.step += 1
        return {"loss": 0.0}

    pictures, lines = read_pictures(folder, 0.4), []
    few = replace(recipe, batch=2, minutes=20 / 60)
    trainer = DetectorTrainer(pictures, np.ones(len(pictures)), few, folder.parent / "run")
    trainer.step = 6
    monkeypatch.setattr(trainer, "train_step", one_a_second)
    monkeypatch.setattr("sharpose_rt.training.running.time", SimpleNamespace(monotonic=lambda: float(trainer.step)))
    trainer.run(lines.append, log_steps=10)
    assert [line.split("  ")[0::2] for line in lines] == [[f"step {n}", "2.0 pictures/s"] for n in (10, 20)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": []}, "--set names no dataset"),
        ({"set": ["bars=none"]}, "NAME=WEIGHT"),
        ({"set": ["bars=inf"]}, "--set got 'bars=inf'; .* a finite weight above 0"),
        ({"set": ["bars=nan"]}, "--set got 'bars=nan'"),
        ({"set": ["bars=0"]}, "--set got 'bars=0'"),
        ({"image_size": 100}, "multiple of 32"),
        ({"out": "x.pt"}, ".safetensors"),
        ({"minutes": 0.0}, "above 0"),
        ({"precision": "int8"}, "auto, bf16 or fp32"),
        ({"device": "mps"}, "device is 'mps'; 'auto', 'cpu', 'cuda' or 'cuda:N' is accepted"),
        ({"frozen_until": 1.5}, "0 to 1"),
        ({"minutes": math.nan}, "minutes is nan; above 0"),
        ({"lr": -1.0}, "lr is -1; at least 0 and at most 1"),
        ({"threads": -1}, "threads is -1; at least 0"),
        ({"workers": -1}, "workers is -1; at least 0"),
        ({"batch": 0}, "batch is 0; at least 1"),
        ({"small_size": -32}, "small_size is -32; at least 0"),
        ({"image_size": 9600}, "image_size is 9600; at least 32 and at most 8192"),
        ({"use_size": 5}, "--use-size is 5; at least 32"),
        ({"closer_size": 9000}, "to 8192 is accepted, or leave it out"),
    ],
)
def test_wrong_options_say_what_is_accepted(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        train_detector.run(arguments(folder, **changes))


def test_sets_may_be_named_together_or_one_by_one():
    parser = argparse.ArgumentParser()
    train_detector.add_arguments(parser)
    args = parser.parse_args(["--out", "x.safetensors", "--set", "coco=1", "--set", "sports=2", "dance"])
    assert args.set == ["coco=1", "sports=2", "dance"]
    assert parser.parse_args(["--out", "x.safetensors"]).set == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("score", "high", "score is 'high'; a finite number is accepted, or no score"),
        ("bbox", [1, 2, 0, 4], r"bbox is \[1, 2, 0, 4\]; .* above 0 is accepted"),
        ("image_id", 99, "image_id 99 is not among"),
    ],
)
def test_a_wrong_label_is_named(folder, field, value, message):
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    document["annotations"][4][field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=rf"bars/annotations\.json: annotations\[4\]: {message}"):
        read_pictures(folder, 0.4)


def test_a_score_of_null_is_none(folder):
    path = folder / "annotations.json"
    whole = read_pictures(folder, 0.4)
    document = json.loads(path.read_text())
    for record in document["annotations"]:
        if record["score"] >= 0.5:
            record["score"] = None
    path.write_text(json.dumps(document))
    for picture, other in zip(read_pictures(folder, 0.4), whole, strict=True):
        np.testing.assert_array_equal(picture.people_xyxy, other.people_xyxy)
        np.testing.assert_array_equal(picture.unsure_xyxy, other.unsure_xyxy)


def test_scores_are_not_calibrated_on_one_picture_alone(folder, monkeypatch):
    judged = []

    def counted(weights, pictures):
        judged.append(len(pictures))
        return calibrate(weights, pictures)

    monkeypatch.setattr("sharpose_rt.training.detector_finish.calibrate", counted)
    for share in (0.03, 0.5):
        out = str(folder.parent / f"{share}.safetensors")
        assert train_detector.run(arguments(folder, held_out=share, minutes=1e-3, out=out)) == 0
    assert judged == [3, 6]


def test_a_training_whose_scores_cannot_be_calibrated_is_not_lost(folder, monkeypatch, capsys):
    nobody = [replace(picture, people_xyxy=np.zeros((0, 4))) for picture in read_pictures(folder, 0.4)]
    monkeypatch.setattr(
        "sharpose_rt.training.detector_finish.calibrate", lambda weights, pictures: calibrate(weights, nobody)
    )
    assert train_detector.run(arguments(folder, minutes=1e-3)) == 0
    assert re.search(
        r"^scores are not calibrated: of \d+ boxes .* 0 show a person", capsys.readouterr().out, re.MULTILINE
    )
    _, facts = load_module(folder.parent / "found.safetensors")
    assert "input_ranges" in facts
    assert "score_slope" not in facts


def test_a_picture_to_calibrate_on_is_told_of_before_the_training(folder):
    (folder / "images" / "3.png").unlink()
    with pytest.raises(DatasetError, match=r"3\.png is missing"):
        train_detector.run(arguments(folder, held_out=0.9, minutes=1e6))
    assert not (folder.parent / "found.safetensors.run").exists()


def test_a_set_that_is_missing(folder):
    with pytest.raises(DatasetError, match="nobody"):
        train_detector.run(arguments(folder, set=["nobody"]))
