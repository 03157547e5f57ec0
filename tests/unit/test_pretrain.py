"""Masked pretraining fills in what is hidden, leaks nothing of it, and gives training a start."""

from __future__ import annotations

import argparse
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from sharpose_rt.commands import pretrain
from sharpose_rt.errors import ConfigError, DatasetError, WeightsError
from sharpose_rt.models import create_model
from sharpose_rt.models.create import attention_scale_of
from sharpose_rt.models.stem import MobileStem
from sharpose_rt.models.variants import VARIANTS
from sharpose_rt.models.weights import load_model, save_weights
from sharpose_rt.skeleton import COCO17
from sharpose_rt.training.checkpoint import load_checkpoint, save_checkpoint
from sharpose_rt.training.config import DataConfig, OptimConfig, SetConfig, TrainConfig
from sharpose_rt.training.datasets import load_people
from sharpose_rt.training.loop import Trainer
from sharpose_rt.training.movenet import load_thunder
from sharpose_rt.training.pretrain import MaskedAutoencoder, Pretrainer
from sharpose_rt.training.running import Clock
from tests.movenet_file import write_movenet
from tests.people_set import SMALL, write_set

CONV = replace(SMALL, name="small_conv", size_hw=(128, 64), stem="mobile", decoder="pixels")


@pytest.fixture(autouse=True)
def small_variants(monkeypatch):
    for variant in (SMALL, CONV):
        monkeypatch.setitem(VARIANTS, variant.name, variant)


def config(**changes):
    base = TrainConfig(
        model=CONV.name,
        data=DataConfig(sets=(SetConfig("painted"),), workers=0),
        optim=OptimConfig(lr=2e-3, warmup_steps=2, schedule="cosine"),
        batch=8,
        budget="minutes",
        minutes=0.12,
        threads=1,
        device="cpu",
    )
    return replace(base, **changes)


@pytest.mark.parametrize("variant", [SMALL, CONV], ids=lambda v: v.stem)
def test_hidden_pixels_do_not_reach_the_encoder(variant):
    network = MaskedAutoencoder(create_model(variant)).eval()
    images = torch.rand(2, 3, *variant.size_hw)
    torch.manual_seed(1)
    order = torch.rand(2, network.model.fine_position.shape[1]).argsort(1)
    hidden = order[:, order.shape[1] - round(0.75 * order.shape[1]) :]
    changed = images.clone()
    columns = variant.size_hw[1] // variant.patch_px
    for crop in range(2):
        for place in hidden[crop].tolist():
            y, x = place // columns * variant.patch_px, place % columns * variant.patch_px
            changed[crop, :, y : y + variant.patch_px, x : x + variant.patch_px] += 0.3  # each patch's norm undoes it
    found = []
    for pixels in (images, changed):
        torch.manual_seed(1)
        found.append(network(pixels, "fine").item())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_pretraining_learns_and_training_starts_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "progress", lambda self, samples: samples / 96)  # whatever else the machine does
    folder = write_set(tmp_path / "painted")
    people = load_people(config(), [tmp_path], COCO17)
    run = Pretrainer(config(), people, tmp_path / "pre")
    losses = run.run(lambda _: None)
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    model, info = load_model(CONV.name, str(tmp_path / "pre" / "weights.safetensors"))
    assert info.metadata["pretrained"] == "mae"
    start = config(budget="epochs", epochs=1, init=str(tmp_path / "pre" / "weights.safetensors"))
    trainer = Trainer(start, load_people(start, [folder.parent], COCO17), tmp_path / "run")
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, model.get_parameter(name)), name
    again = Pretrainer(config(), people, tmp_path / "pre")
    again.resume()
    assert (again.step, again.samples) == (run.step, run.samples)


def test_pretraining_wants_a_time(tmp_path):
    write_set(tmp_path / "painted")
    people = load_people(config(), [tmp_path], COCO17)
    with pytest.raises(ConfigError, match="minutes"):
        Pretrainer(config(budget="epochs"), people, tmp_path / "pre")


def pretrainer(folder, out, **changes):
    plan = config(**changes)
    return Pretrainer(plan, load_people(plan, [folder.parent], COCO17), out)


def peaks(run):
    """Peak learning rate by parameter."""
    found = {p: group["peak_lr"] for o in run.optimizers for group in o.param_groups for p in group["params"]}
    return {name: found.get(parameter) for name, parameter in run.network.named_parameters()}


def test_the_encoder_learns_as_fast_as_its_decoder(tmp_path):
    folder = write_set(tmp_path / "painted")
    optim = replace(config().optim, lr=1e-3, layer_decay=0.5, stem_lr=0.1)
    assert set(peaks(pretrainer(folder, tmp_path / "pre", optim=optim)).values()) == {1e-3}


def test_pretraining_starts_where_training_would(tmp_path):
    folder = write_set(tmp_path / "painted")
    public = str(write_movenet(tmp_path / "public"))
    optim = replace(config().optim, lr=1e-3, stem_lr=0.1)
    run = pretrainer(folder, tmp_path / "pre", init_stem=public, frozen_stem_blocks=2, optim=optim)
    reference = MobileStem(CONV.width)
    load_thunder(reference, public)
    assert torch.equal(run.network.model.patch_embed.get_parameter("deep.weight"), reference.deep.weight)
    rates = peaks(run)
    assert rates["model.patch_embed.first.weight"] is None
    assert rates["model.patch_embed.deep.weight"] == pytest.approx(1e-4)
    assert rates["model.blocks.0.mlp.fc1.weight"] == 1e-3

    torch.manual_seed(5)
    source = create_model(CONV)
    save_weights(source, tmp_path / "start.safetensors")
    run = pretrainer(folder, tmp_path / "pre", init=str(tmp_path / "start.safetensors"))
    assert all(torch.equal(v, run.network.model.state_dict()[k]) for k, v in source.state_dict().items())
    with pytest.raises(WeightsError, match="nonexistent"):
        pretrainer(folder, tmp_path / "pre", init="nonexistent.safetensors")


def test_stopped_and_resumed_is_the_same_as_never_stopped(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "painted")
    monkeypatch.setattr(Clock, "progress", lambda self, samples: samples / 48)  # else the rates follow the clock
    whole = pretrainer(folder, tmp_path / "whole", log_steps=1)
    losses = whole.run(lambda _: None)
    assert len(losses) == 6
    first = pretrainer(folder, tmp_path / "parts", log_steps=1)
    before = signal.getsignal(signal.SIGTERM)
    found = first.run(lambda line: os.kill(os.getpid(), signal.SIGTERM) if line.startswith("step 2") else None)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (first.step, first.stopped) == (2, True)
    second = pretrainer(folder, tmp_path / "parts")
    second.resume()
    assert found + second.run(lambda _: None) == losses
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


def test_what_it_started_from_is_not_asked_for_when_it_goes_on(tmp_path):
    folder, start = write_set(tmp_path / "painted"), tmp_path / "start.safetensors"
    save_weights(create_model(CONV, attention_scale=0.5), start)
    run = pretrainer(folder, tmp_path / "pre", init=str(start))
    run.save()
    start.unlink()
    plan = config(init=str(start))
    again = Pretrainer(plan, run.people, tmp_path / "pre", resume=True)
    assert attention_scale_of(again.network.model) == 0.5
    again.save()  # whose weights state it
    assert attention_scale_of(load_model(CONV.name, str(tmp_path / "pre" / "weights.safetensors"))[0]) == 0.5
    assert all(torch.equal(v, again.network.state_dict()[k]) for k, v in run.network.state_dict().items())


def test_what_was_learnt_before_a_picture_that_cannot_be_read_is_kept(tmp_path):
    folder = write_set(tmp_path / "painted")
    run = pretrainer(folder, tmp_path / "pre", minutes=10, log_steps=1)
    with pytest.raises(DatasetError, match="cannot be decoded"):
        run.run(lambda _: [path.write_bytes(b"no picture") for path in (folder / "images").iterdir()])
    assert load_checkpoint(tmp_path / "pre" / "last.pt")["step"] == run.step > 0


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path):
    folder = write_set(tmp_path / "painted")
    run = pretrainer(folder, tmp_path / "new" / "pre", minutes=10)
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="cannot be decoded"):
        run.run(lambda _: None)
    assert not (tmp_path / "new").exists()


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    run = pretrainer(write_set(tmp_path / "painted"), tmp_path / "pre")
    with torch.no_grad():
        run.network.model.norm.bias[0] = math.nan
    crops = torch.zeros(2, *CONV.size_hw, 3, dtype=torch.uint8)
    with pytest.raises(DatasetError, match=r"at step 1; begin anew with a lower --set optim\.lr"):
        run.train_step(crops)
    run.save()
    with pytest.raises(DatasetError, match="--resume from the last checkpoint with a lower"):
        run.train_step(crops)


def test_a_pretraining_of_another_model_is_not_resumed(tmp_path):
    folder = write_set(tmp_path / "painted")
    pretrainer(folder, tmp_path / "pre", minutes=0.001).run(lambda _: None)
    with pytest.raises(ConfigError, match=f"has model '{CONV.name}', not '{SMALL.name}'"):
        pretrainer(folder, tmp_path / "pre", model=SMALL.name).resume()


def test_runs_of_train_and_of_pretrain_are_not_taken_for_each_other(tmp_path):
    folder = write_set(tmp_path / "painted")
    plan = config(minutes=0.001)
    people = load_people(plan, [folder.parent], COCO17)
    Pretrainer(plan, people, tmp_path / "pre").run(lambda _: None)
    Trainer(plan, people, tmp_path / "run").run()
    weights = tmp_path / "pre" / "weights.safetensors"
    message = f"run in {tmp_path / 'pre'} was made by `sharpose-rt pretrain`, .* --out, from .* --set init={weights}$"
    with pytest.raises(WeightsError, match=message):
        Trainer(plan, people, tmp_path / "pre").resume()
    with pytest.raises(WeightsError, match=r"made by `sharpose-rt train`, and `sharpose-rt pretrain` cannot continue"):
        Pretrainer(plan, people, tmp_path / "run").resume()
    for state, message in (
        ({"recipe": {}}, "`sharpose-rt train-detector --resume` can.*--out$"),
        ({}, "contains no run"),
    ):
        save_checkpoint(tmp_path / "run" / "last.pt", state)
        with pytest.raises(WeightsError, match=message):
            Trainer(plan, people, tmp_path / "run").resume()


def test_the_command_says_that_it_was_stopped(tmp_path, capsys, monkeypatch):
    write_set(tmp_path / "painted")
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 8\ndevice: cpu\nthreads: 1\ndata: {{sets: [painted], workers: 0}}\n"
    )
    parser = argparse.ArgumentParser()
    pretrain.add_arguments(parser)
    command = ["--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(tmp_path / "pre")]
    step = Pretrainer.train_step

    def interrupted(run, crops):
        os.kill(os.getpid(), signal.SIGINT)
        return step(run, crops)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "train_step", interrupted)
        assert pretrain.run(parser.parse_args(command)) == 130
    assert "stopped after 8 crops" in capsys.readouterr().out
    assert pretrain.run(parser.parse_args([*command, "--resume", "--minutes", "0.005"])) == 0
    told = capsys.readouterr().out
    assert "to train from these weights" in told
    assert pretrain.run(parser.parse_args([*command, "--resume", "--minutes", "0.001"])) == 0
    assert capsys.readouterr().out == told  # it went on from there, and nothing was left to do
