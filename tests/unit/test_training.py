"""Training learns, is exact on resume, stops cleanly, and says what is wrong."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import nn

from sharpose_rt.cli import main
from sharpose_rt.commands import train as train_command
from sharpose_rt.config import preset_names, to_dict
from sharpose_rt.errors import ConfigError, DatasetError, DeviceError, OutputError, WeightsError
from sharpose_rt.geometry.heatmap import encode, flip_back
from sharpose_rt.geometry.oks import oks
from sharpose_rt.machine.whole_files import beside
from sharpose_rt.models import create_model, find_variant
from sharpose_rt.models.create import set_attention_scale
from sharpose_rt.models.layers import Attention
from sharpose_rt.models.pixels import normalise
from sharpose_rt.models.stem import MobileStem
from sharpose_rt.models.variants import VARIANTS
from sharpose_rt.models.weights import load_model, save_weights
from sharpose_rt.skeleton import COCO17
from sharpose_rt.training import loop, losses, report, running
from sharpose_rt.training.checkpoint import load_checkpoint, load_run, save_checkpoint
from sharpose_rt.training.config import (
    DataConfig,
    DistillConfig,
    LossConfig,
    OptimConfig,
    SetConfig,
    load_config,
    read_config,
)
from sharpose_rt.training.datasets import load_people
from sharpose_rt.training.distill import FileTeacher, create_teacher, distillation_loss, fitted, is_right
from sharpose_rt.training.log import TensorBoard, read_log
from sharpose_rt.training.movenet import load_thunder
from sharpose_rt.training.optim import Ema, is_undecayed, layer_of, lr_factor
from sharpose_rt.training.report import write_report
from sharpose_rt.training.running import Clock, batches_of, plain_errors
from sharpose_rt.training.start import starting_model
from sharpose_rt.training.world import World, join_world, pick_device
from tests.full_disk import file_size_limit
from tests.movenet_file import write_movenet
from tests.people_set import SMALL, change, trainer, write_set
from tests.people_set import train_config as config


@pytest.fixture(autouse=True)
def small_variant(monkeypatch):
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "painted")


# --- losses -------------------------------------------------------------------------------------------------------


def test_heatmap_mse_is_the_weighted_mean():
    heatmaps, targets = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    heatmaps[0, 1], targets[0, 1] = 3.0, 1.0
    weights = torch.ones(2, 3)
    assert losses.heatmap_mse(heatmaps, targets, weights).item() == pytest.approx(4 / 6)
    weights[0, 1] = 0.25
    assert losses.heatmap_mse(heatmaps, targets, weights).item() == pytest.approx(1 / 6)
    weights[0, 1] = 0
    assert losses.heatmap_mse(heatmaps, targets, weights).item() == 0


def test_ends_of_limbs_may_count_more(folder, tmp_path):
    factors = dict(zip(COCO17.keypoints, losses.limb_weights(COCO17.keypoints).tolist(), strict=True))
    assert factors["left_wrist"] == factors["right_ankle"] == 1.5
    assert factors["right_elbow"] == factors["left_knee"] == pytest.approx(1.2)
    assert sum(factors.values()) == pytest.approx(9 + 4 * 1.2 + 4 * 1.5)

    def loss(joints: str, joint: str) -> float:
        """Where only this joint is labelled."""
        run = trainer(config(drop_path=0.0, loss=LossConfig(joints=joints)), folder, tmp_path)
        batch = next(iter(run._loader()))
        only = torch.zeros(17)
        only[COCO17.keypoints.index(joint)] = 1
        return run.loss({**batch, "joint_weights": only.expand(len(batch["crop"]), -1)}, 0.0)[0].item()

    assert loss("limbs", "left_wrist") == pytest.approx(1.5 * loss("equal", "left_wrist"), rel=1e-4)
    assert loss("limbs", "nose") == pytest.approx(loss("equal", "nose"), rel=1e-4)
    with pytest.raises(ConfigError, match=r"loss\.joints"):
        LossConfig(joints="legs")


def test_localisation_pulls_at_the_right_cell_where_mse_hardly_does():
    target = encode(torch.tensor([[[40.0, 60.0]]]), (32, 24), (128, 96), 2.0)
    weights = torch.ones(1, 1)
    flat = torch.zeros_like(target).requires_grad_()
    losses.localisation(flat, target, weights, 15.0).backward()
    assert flat.grad is not None
    assert target.flatten()[flat.grad.flatten().argmin()] > 0.99 * target.max()
    right, wrong = target * 1.0, target.roll(6, -1)
    losses_at = [losses.localisation(h, target, weights, 10.0).item() for h in (right, 0 * target, wrong)]
    assert losses_at[0] == pytest.approx(0, abs=1e-6)
    assert losses_at == sorted(losses_at)
    assert losses.localisation(wrong, target, torch.zeros(1, 1), 15.0).item() == 0
    two, one = target.expand(2, -1, -1, -1), torch.tensor([[1.0], [0.0]])  # of two crops one is labelled
    nats = entropy((10 * target).flatten().softmax(0), np.full(32 * 24, 1 / (32 * 24)))
    assert losses.localisation(0 * two, two, one, 10.0).item() == pytest.approx(nats / (32 * 24) / 2, rel=1e-4)


def test_dense_head_puts_each_token_in_its_place():
    head = losses.DenseHead(4, 3, (2, 5), (16, 40))
    tokens = torch.zeros(1, 10, 4)
    tokens[0, 7] = torch.tensor([1.0, 2, 3, 4])  # row 1, column 2
    out = head(tokens)
    assert out.shape == (1, 3, 16, 40)
    lit = out[0].abs().amax(0) > 0
    assert lit[8:16, 16:24].all()
    assert lit.sum() == 64


def test_quality_loss_counts_labelled_people_alone():
    quality, truth = torch.tensor([0.5, 0.9]), torch.tensor([0.7, 0.1])
    assert losses.quality_mse(quality, truth, torch.tensor([1.0, 0.0])).item() == pytest.approx(0.04)
    assert losses.quality_mse(quality, truth, torch.zeros(2)).item() == 0


def test_oks_on_the_device_is_oks():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 100, (6, 17, 2))
    found, weights = truth + rng.normal(0, 4, truth.shape), rng.integers(0, 2, (6, 17)).astype(float)
    areas = rng.uniform(500, 5000, 6)
    tensors = [torch.tensor(a) for a in (found, truth, weights, areas)]
    expected = oks(found, truth, weights, areas, COCO17.sigmas)
    np.testing.assert_allclose(losses.batch_oks(*tensors, COCO17.sigmas), expected, rtol=1e-6)


# --- optimisers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_optimised_once_with_its_decay(tmp_path, folder, name):
    optim = OptimConfig(optimizer=name, lr=1e-3, muon_lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    run = trainer(config(optim=optim), folder, tmp_path / "run")
    groups = [g for o in run.optimizers for g in o.param_groups]
    found = {id(p): g for g in groups for p in g["params"]}
    assert len(found) == sum(len(g["params"]) for g in groups) == len(list(run.model.parameters()))
    by_name = {n: found[id(p)] for n, p in run.model.named_parameters()}
    for key, decay, factor in (
        ("keypoint_tokens", 0, 0.5**3),
        ("coarse_position", 0, 0.5**3),
        ("patch_embed.weight", 0.1, 0.5**3),
        ("blocks.0.attn.qkv.weight", 0.1, 0.5**2),
        ("blocks.1.attn.qkv.bias", 0, 0.5),
        ("blocks.1.norm1.weight", 0, 0.5),
        ("norm.bias", 0, 1),
    ):
        assert by_name[key]["weight_decay"] == decay, key
        assert by_name[key]["peak_lr"] == pytest.approx(1e-3 * factor), key
    in_muon = {n for n, g in by_name.items() if "momentum" in g}
    assert in_muon == (
        {n for n in by_name if n.startswith("blocks.") and by_name[n]["weight_decay"]} if name == "muon" else set()
    )


def test_layers_count_from_the_input():
    assert [layer_of(n, 2) for n in ("fine_position", "blocks.0.a", "blocks.1.a", "decoder.layers.1.weight")] == [
        0,
        1,
        2,
        3,
    ]


def test_layers_that_are_named_after_tokens_are_layers():
    parameters = dict(create_model(find_variant("tiny_256x192")).named_parameters())
    matrices = {name: p for name, p in parameters.items() if name.endswith("token.weight")}
    assert len(matrices) >= 2
    assert not any(is_undecayed(name, p) for name, p in matrices.items())
    assert {layer_of(name, 6) for name in matrices if name.startswith("decoder")} == {7}
    tables = ("keypoint_tokens", "quality_token", "coarse_position", "fine_position")
    assert all(is_undecayed(name, parameters[name]) and layer_of(name, 6) == 0 for name in tables)


def test_learning_rates():
    steps = OptimConfig(schedule="steps", steps=(0.8, 0.95), warmup_steps=10)
    assert [round(lr_factor(steps, p, 100), 6) for p in (0, 0.79, 0.8, 0.95, 1)] == [1, 1, 0.1, 0.01, 0.01]
    assert lr_factor(steps, 0, 0) == pytest.approx(0.1009)
    cosine = OptimConfig(schedule="cosine", final_lr=0.1, warmup_steps=0)
    assert [lr_factor(cosine, p, 0) for p in (0, 0.5, 1, 1.2)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_moving_average_follows_slowly():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, 0.9)
    nn.init.ones_(model.weight)
    ema.update(model, 10_000)
    assert ema.shadow["weight"].item() == pytest.approx(0.1)
    ema.update(model, 0)  # young averages forget fast
    assert ema.shadow["weight"].item() == pytest.approx(0.91)


def test_the_moving_average_takes_counters_as_they_are():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    ema = Ema(model, 0.9)
    for step in range(1, 4):
        model(torch.randn(4, 2))
        ema.update(model, step)
    assert ema.shadow["1.num_batches_tracked"].item() == 3
    assert ema.shadow["1.running_mean"].ne(model.state_dict()["1.running_mean"]).any()


# --- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preset_names("train"))
def test_presets_load_and_fit_their_variant(name):
    preset = load_config(name)
    assert preset.data.sets
    assert find_variant(preset.model).name == preset.model
    assert all(s.name != "coco_val_dev" for s in preset.data.sets)


def test_the_paper_presets_follow_the_paper():
    preset = load_config("coco_base_256x192")
    assert (preset.epochs, preset.optim.lr, preset.optim.layer_decay, preset.optim.weight_decay) == (
        210,
        5e-4,
        0.75,
        0.1,
    )
    assert preset.optim.clip_norm == 0
    assert [round(s * 210) for s in preset.optim.steps] == [170, 200]
    assert (preset.loss.quality, round(preset.loss.quality_from * 210)) == (0.03, 180)
    assert (preset.augment.shift, preset.augment.scale, preset.augment.rotation_deg) == (0.16, 0.5, 40)
    assert preset.loss.localisation == 0


def test_options_are_set_and_checked():
    changed = load_config("tiny_256x192_cpu", ["optim.lr=1e-4", "data.sets=[a, {name: b, weight: 2}]", "batch=8"])
    assert (changed.optim.lr, changed.batch) == (1e-4, 8)
    assert changed.data.sets == (SetConfig("a"), SetConfig("b", weight=2))
    assert load_config("tiny_256x192_cpu", ["data.validation=null"]).data.validation is None
    for text, message in (
        ("optim.lrr=1", "did you mean 'lr'"),
        ("optim.lr=fast", "optim.lr is 'fast'"),
        ("optim.clip_norm=-1", "optim.clip_norm is -1"),
        ("optim.warmup_steps=-4", "optim.warmup_steps is -4"),
        ("optim.weight_decay=-5", "optim.weight_decay is -5"),
        ("loss.quality=-1", "loss.quality is -1"),
        ("data.sets=[{weight: 1}]", "its name"),
        ("data.sets=[{name: a, wait: 1}]", "unknown key 'data.sets.wait'"),
        ("data.sets=3", "a list of sets"),
        ("batch", "key=value"),
        ("precision=fp8", "one of auto, fp32, bf16"),
        ("device=gpu", "device is 'gpu'; 'auto', 'cpu', 'cuda' or 'cuda:N' is accepted"),
        ("seed=-1", "seed is -1; at least 0"),
        ("threads=-1", "threads is -1; at least 0"),
        ("checkpoint_minutes=-1", "checkpoint_minutes is -1; at least 0"),
        ("validate_minutes=-1", "validate_minutes is -1; at least 0"),
        ("augment.flip_p=2", "at least 0 and at most 1 is accepted"),
        ("data.hidden_weight=1.5", r"data\.hidden_weight is 1\.5; at least 0 and at most 1 is accepted"),
        ("data.sets=[{name: a, compare_limit: 0}]", "data.sets a: compare_limit is 0; above 0 is accepted"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("tiny_256x192_cpu", [text])


def test_the_options_of_joint_weights_reach_the_reader(folder):
    document = json.loads((folder / "annotations.json").read_text())
    (folder / "second.json").write_text(json.dumps(document))
    change(folder, 0, keypoints=[9.0, 9.0, 2.0, *document["annotations"][0]["keypoints"][3:5], 1.0, *[0.0] * 45])
    near = SetConfig("painted", compare="second.json")
    wide = replace(near, compare_limit=1e6)

    def weights(item: SetConfig) -> list[float]:
        plan = config(data=DataConfig(sets=(item,), hidden_weight=0.5))
        return load_people(plan, [folder.parent], COCO17).joint_weights[0, :3].tolist()

    assert [weights(item) for item in (SetConfig("painted"), wide, near)] == [[1, 0.5, 0], [1, 0.5, 0], [0, 0.5, 0]]


def test_a_configuration_from_before_an_option_has_its_default():
    saved = to_dict(config())
    for item in (saved["data"], *saved["data"]["sets"]):
        for name in ("hidden_weight", "compare", "compare_limit"):
            item.pop(name, None)
    assert read_config(saved, "last.pt") == config()


# --- the run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_the_run_that_did_not_stop(tmp_path, folder, optimizer):
    optim = replace(config().optim, optimizer=optimizer)
    loss = replace(config().loss, dense=1.0, localisation=1.0)
    plan = config(coarse_only_until=0.25, optim=optim, loss=loss, checkpoint_minutes=1e-6)  # 8 steps
    whole = trainer(plan, folder, tmp_path / "whole")
    assert whole.run() == "finished"
    assert whole.step == 8

    first = trainer(plan, folder, tmp_path / "parts")
    assert first.run(progress=lambda row: first.stop() if row["step"] == 3 else None) == "stopped"
    assert first.step == 3
    second = trainer(plan, folder, tmp_path / "parts")
    second.resume()
    assert second.run() == "finished"

    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert whole.ema is not None
    assert second.ema is not None
    assert all(torch.equal(whole.ema.shadow[name], second.ema.shadow[name]) for name in whole.ema.shadow)
    logs = [read_log(tmp_path / run / "log.csv") for run in ("whole", "parts")]
    assert [r["loss"] for r in logs[0]] == [r["loss"] for r in logs[1]]
    assert [r["step"] for r in logs[1]] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_run_takes_other_rates_and_decays_and_keeps_its_moments(tmp_path, folder, name):
    optim = replace(config().optim, optimizer=name, lr=1e-3, stem_lr=0.5)
    run = trainer(config(optim=optim, epochs=1), folder, tmp_path / "run")
    run.run()
    # A stem that learns like the rest, and weights that do not decay, are in fewer groups than they were.
    changed = replace(optim, lr=2e-3, stem_lr=1.0, weight_decay=0.0)
    again = trainer(config(optim=changed, epochs=2), folder, tmp_path / "run")
    again.resume()
    moments = {p: state for o in again.optimizers for p, state in o.state.items()}
    before = {p: state for o in run.optimizers for p, state in o.state.items()}
    for ours, theirs in zip(again.model.parameters(), run.model.parameters(), strict=True):
        for key, value in before.get(theirs, {}).items():  # what rates the pose has not learnt yet
            assert torch.equal(moments[ours][key], value), key
    groups = [group for optimizer in again.optimizers for group in optimizer.param_groups]
    assert {group["weight_decay"] for group in groups} == {0.0}
    assert groups[0]["peak_lr"] == 2e-3
    assert again.run() == "finished"


def test_an_average_may_begin_or_end_at_a_resume(tmp_path, folder):
    plain, averaged = replace(config().optim, ema=0.0), replace(config().optim, ema=0.999)
    run = trainer(config(optim=plain, epochs=1), folder, tmp_path / "run")
    run.run()
    again = trainer(config(optim=averaged, epochs=2), folder, tmp_path / "run")
    again.resume()
    trained = run.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in again.averaged().state_dict().items())
    again.run()
    last = trainer(config(optim=plain, epochs=2), folder, tmp_path / "run")
    last.resume()
    assert torch.equal(last.averaged().norm.weight, again.model.norm.weight)


def test_weights_bring_their_attention_scale(tmp_path, folder):
    source = create_model(SMALL)
    usual = source.blocks[0].attn.scale
    set_attention_scale(source, 0.2)
    save_weights(source, tmp_path / "start.safetensors")
    plan = config(init=str(tmp_path / "start.safetensors"), epochs=1)
    run = trainer(plan, folder, tmp_path / "run")
    assert {block.attn.scale for block in run.model.blocks} == {0.2}
    run.run()
    assert load_model(SMALL.name, str(tmp_path / "run" / "weights.safetensors"))[0].blocks[0].attn.scale == 0.2
    again = trainer(replace(plan, init="random"), folder, tmp_path / "run")
    assert again.model.blocks[0].attn.scale == usual
    again.resume()
    assert again.model.blocks[0].attn.scale == 0.2


def test_the_coarse_stage_trains_alone_first(tmp_path, folder):
    run = trainer(config(coarse_only_until=0.5, epochs=2), folder, tmp_path / "run")
    run.run()
    assert ["mse_fine" in row for row in run.rows] == [False, False, True, True]


def test_the_fine_stage_trains_on_the_stated_share(tmp_path, folder, monkeypatch):
    run = trainer(config(refined_share=0.6), folder, tmp_path / "run")
    seen = []
    fine_stage = run.model.fine_stage
    monkeypatch.setattr(
        run.model, "fine_stage", lambda images, *rest: seen.append(len(images)) or fine_stage(images, *rest)
    )
    run.run(progress=lambda row: run.stop())
    assert seen == [math.ceil(0.6 * run.config.batch)]
    assert {"mse_coarse", "mse_fine", "oks_fine"} <= set(run.rows[0])


def test_attention_in_bf16_learns_what_it_learns_in_float32():
    """There the softmax is written out, whose gradient is quicker on a CPU than that of fused attention."""
    torch.manual_seed(0)
    layer = Attention(48, heads=3)
    tokens = torch.randn(2, 110, 48)
    outputs, gradients = [], []
    for in_bf16 in (False, True):
        given = tokens.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            out, rows = layer(given)
        assert rows is None
        assert out.dtype == (torch.bfloat16 if in_bf16 else torch.float32)
        out.float().square().sum().backward()
        outputs.append(out.detach().float())
        gradients.append((given.grad, layer.qkv.weight.grad, layer.proj.weight.grad))
        layer.zero_grad()
    assert torch.allclose(*outputs, atol=0.02)
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(
    ("precision", "fastest", "wanted"),
    [
        ("auto", "bfloat16", True),
        ("auto", "float32", False),
        ("bf16", "float32", True),
        ("fp32", "bfloat16", False),
    ],
)
def test_precision_auto_is_what_the_processor_is_quicker_in(tmp_path, folder, monkeypatch, precision, fastest, wanted):
    monkeypatch.setattr("sharpose_rt.training.world.fastest_dtype", lambda: getattr(torch, fastest))
    run = trainer(config(precision=precision), folder, tmp_path / "run")
    seen = []
    run.model.blocks[0].mlp.fc1.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    run.run(progress=lambda row: run.stop())
    assert set(seen) == {torch.bfloat16 if wanted else torch.float32}


def test_what_ships_is_trained_on_by_a_preset_of_its_own(tmp_path, folder):
    plan = load_config("tiny_256x192_finetune", ["data.sets=[painted]", "batch=2", "threads=1", "data.workers=0"])
    run = trainer(plan, folder, tmp_path / "run")
    shipped, _ = load_model(plan.model)
    assert shipped.gain_predictor is not None
    assert run.model.gain_predictor is None  # of the network as it was
    shipped.gain_predictor = None
    assert all(torch.equal(value, run.model.state_dict()[name]) for name, value in shipped.state_dict().items())
    run.run(progress=lambda row: run.stop())
    moved = {
        name for name, value in shipped.state_dict().items() if not torch.equal(value, run.model.state_dict()[name])
    }
    assert any(name.startswith("blocks.") for name in moved)
    assert not any(name.startswith(("patch_embed.first.", "patch_embed.layers.0.")) for name in moved)
    assert math.isfinite(run.rows[0]["loss"])


def test_a_stem_starts_from_movenet_its_first_layers_stay_and_the_others_learn_slower(tmp_path, folder, monkeypatch):
    mobile = replace(SMALL, name="small_mobile", size_hw=(128, 64), stem="mobile", decoder="pixels")
    monkeypatch.setitem(VARIANTS, mobile.name, mobile)
    optim = replace(config().optim, lr=1e-3, stem_lr=0.25, warmup_steps=0)
    public = str(write_movenet(tmp_path / "public"))
    plan = config(model=mobile.name, init_stem=public, frozen_stem_blocks=3, optim=optim, epochs=1)
    run = trainer(plan, folder, tmp_path / "run")
    reference = MobileStem(mobile.width)
    load_thunder(reference, public)
    before = {name: value.clone() for name, value in run.model.patch_embed.state_dict().items()}
    ours = ("token.", "places.")
    assert all(torch.equal(before[k], v) for k, v in reference.state_dict().items() if not k.startswith(ours))
    rates = {id(p): group["peak_lr"] for o in run.optimizers for group in o.param_groups for p in group["params"]}
    run.run()
    for name, parameter in run.model.patch_embed.named_parameters():
        frozen = name.startswith(("first.", "layers.0.", "layers.1.", "layers.2."))
        assert torch.equal(parameter, before[name]) == frozen, name
        assert rates.get(id(parameter)) == (None if frozen else pytest.approx(0.25e-3)), name
    assert rates[id(run.model.norm.weight)] == pytest.approx(1e-3)


def test_quality_and_localisation_terms_come_and_go(tmp_path, folder):
    plan = config(epochs=2)
    plan = replace(plan, loss=replace(plan.loss, quality_from=0.75, localisation=1.0, localisation_until=0.5))
    run = trainer(plan, folder, tmp_path / "run")
    run.run()
    assert ["quality" in row for row in run.rows] == [False, False, False, True]
    assert ["localisation_coarse" in row for row in run.rows] == [True, True, False, False]


def test_helpers_fade_until_they_have_gone(tmp_path, folder):
    """Heatmaps straight from the tokens, and the pull at the right cell, at a half and at the end of their part."""
    terms = replace(config().loss, dense=2.0, localisation=3.0, localisation_until=0.8, quality_from=1.0)
    run = trainer(config(drop_path=0.0, coarse_only_until=1.0, loss=terms), folder, tmp_path)
    batch, cells = next(iter(run._loader())), math.prod(SMALL.heatmap_size_hw)
    for progress, early in ((0.0, 1.0), (0.4, 0.5), (0.8, 0.0)):
        total, parts = run.loss(batch, progress)
        assert ("mse_dense" in parts) == (early > 0)
        errors = {name: float(value) for name, value in parts.items()}
        wanted = 0.0
        for stage, share in (("coarse", 1.0), ("dense", 2.0 * early)):
            pull = errors.get(f"localisation_{stage}", 0.0) / cells
            wanted += share * (errors.get(f"mse_{stage}", 0.0) + 3.0 * early * pull)
        assert total.item() == pytest.approx(cells * wanted, rel=1e-4)


def test_each_term_has_its_weight(tmp_path, folder):
    terms = replace(config().loss, dense=0.0, localisation=0.0, quality=5.0, quality_from=0.0, coarse_from_fine=7.0)
    run = trainer(config(drop_path=0.0, loss=terms), folder, tmp_path)
    batch, cells = next(iter(run._loader())), math.prod(SMALL.heatmap_size_hw)
    taught = 0.8 * encode(batch["keypoints"], SMALL.heatmap_size_hw, SMALL.size_hw, SMALL.sigma_cells)
    run.config, run.teacher = replace(run.config, distill=DistillConfig(weight=3.0)), lambda images: taught
    total, parts = run.loss(batch, 0.0)
    weights = {"quality": 5, "coarse_from_fine": 7, "distill_coarse": 3, "distill_fine": 3}
    terms = {name: value for name, value in parts.items() if not name.startswith("oks_")}
    assert len(terms) == 6
    assert all(terms.values())
    wanted = cells * sum(weights.get(name, 1) * float(value) for name, value in terms.items())
    assert total.item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("limit", [0.0, 1e-6])
def test_gradients_are_clipped_where_it_is_asked_for(tmp_path, folder, limit):
    run = trainer(config(optim=replace(config().optim, clip_norm=limit)), folder, tmp_path)
    row = run.train_step(next(iter(run._loader())))
    assert row["grad_norm"] > 1e-2  # as it was before
    moments = [state["exp_avg"] for optimizer in run.optimizers for state in optimizer.state.values()]
    taken = torch.cat([moment.flatten() for moment in moments]).norm() / (1 - 0.9)  # AdamW's first step
    assert taken.item() == pytest.approx(limit or row["grad_norm"], rel=1e-3)


def test_sigterm_ends_the_run_with_a_checkpoint(tmp_path, folder):
    before = signal.getsignal(signal.SIGTERM)
    run = trainer(config(epochs=100), folder, tmp_path / "run")
    assert run.run(progress=lambda row: os.kill(os.getpid(), signal.SIGTERM)) == "stopped"
    assert signal.getsignal(signal.SIGTERM) is before
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == run.step == 1


def test_time_limits(tmp_path, folder, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: now_s[0]))

    def a_quarter_of_a_second(_):
        now_s[0] += 0.25

    run = trainer(config(epochs=1e5), folder, tmp_path / "run")
    assert run.run(max_minutes=0.75 / 60, progress=a_quarter_of_a_second) == "max-minutes"
    assert run.step == 3
    minutes = config(budget="minutes", minutes=1.5 / 60)
    run = trainer(minutes, folder, tmp_path / "timed")
    assert run.run(progress=a_quarter_of_a_second) == "finished"
    assert [row["samples_per_s"] for row in run.rows][1:] == [4 / 0.25] * 5
    rates = [row["lr"] for row in run.rows]
    assert len(rates) == 6
    assert rates[1:] == sorted(rates[1:], reverse=True)  # after the warm-up
    assert rates[-1] < rates[1] / 2
    assert Clock(minutes.minutes, elapsed_before_s=0.75).progress(10**9) == 0.5


def test_reading_crops_for_the_device_is_no_training_time(tmp_path, folder, monkeypatch):
    read = loop.DeviceCrops

    def slowly(*args):
        time.sleep(1)
        return read(*args)

    monkeypatch.setattr(loop, "DeviceCrops", slowly)
    plan = config(data=replace(config().data, cache="device"))
    run = trainer(plan, folder, tmp_path / "run")
    begun_s = time.monotonic()
    run.run(progress=lambda row: run.stop())
    assert run.clock.elapsed_s <= time.monotonic() - begun_s - 1


def test_weights_of_a_run_load_as_a_model(tmp_path, folder):
    run = trainer(config(epochs=1, augment=replace(config().augment, padding=1.1)), folder, tmp_path / "run")
    run.run()
    model, info = load_model(SMALL.name, str(tmp_path / "run" / "weights.safetensors"))
    assert run.ema is not None
    assert all(torch.equal(value, run.ema.shadow[name]) for name, value in model.state_dict().items())
    assert info.metadata["trained_samples"] == "8"
    assert model.box_padding == 1.1
    with pytest.raises(WeightsError, match=r"last\.pt contains no table .*; expected the .* that the training wrote"):
        load_model(SMALL.name, str(tmp_path / "run" / "last.pt"))


def test_what_was_learnt_before_a_picture_that_cannot_be_read_is_kept(tmp_path, folder):
    run = trainer(config(epochs=3), folder, tmp_path / "run")
    pictures = sorted((folder / "images").iterdir())
    with pytest.raises(DatasetError, match=r"images/\d\.png cannot be decoded"):
        run.run(progress=lambda row: [path.write_bytes(b"no picture") for path in pictures])
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == run.step > 0


def test_weights_of_another_behaviour_are_not_trained_on_as_if_they_were_of_this(tmp_path):
    path = tmp_path / "released.safetensors"
    save_weights(create_model(SMALL.name, "released"), path)
    with pytest.raises(ConfigError, match="'released', the run of 'paper'; --set behaviour=released"):
        starting_model(config(init=str(path)))
    assert starting_model(config(init=str(path), behaviour="released")).behaviour.name == "released"


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path, folder):
    run = trainer(config(), folder, tmp_path / "run")
    batch = {k: v.unsqueeze(0) for k, v in _item(run).items()}
    with torch.no_grad():
        run.model.norm.bias[0] = math.nan
    before = run.model.patch_embed.weight.clone()
    with pytest.raises(DatasetError, match=r"at step 1; begin anew with a lower --set optim\.lr"):
        run.train_step(batch)
    run.out.mkdir()
    run.save()
    with pytest.raises(DatasetError, match="--resume from the last checkpoint with a lower"):
        run.train_step(batch)
    assert torch.equal(run.model.patch_embed.weight, before)


def _item(run):
    return run._loader().dataset[0, 0]


def test_resume_refuses_another_run(tmp_path, folder):
    with pytest.raises(WeightsError, match="no checkpoint"):
        trainer(config(), folder, tmp_path / "none").resume()
    run = trainer(config(epochs=1), folder, tmp_path / "run")
    run.run()
    optim, loss = config().optim, config().loss
    for changes, message in (
        ({"batch": 2}, "has batch 4, not 2"),
        ({"behaviour": "released"}, "has behaviour 'paper', not 'released'"),
        ({"seed": 1}, "has seed 0, not 1"),
        ({"optim": replace(optim, optimizer="muon")}, "has optim.optimizer 'adamw', not 'muon'"),
        ({"optim": replace(optim, layer_decay=0.5)}, "has optim.layer_decay 1.0, not 0.5"),
        ({"loss": replace(loss, dense=0.5)}, "has loss.dense 0.0, not 0.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer(config(**changes), folder, tmp_path / "run").resume()


def test_resume_accepts_what_may_change(tmp_path, folder):
    plan = config(epochs=1, loss=replace(config().loss, dense=0.5))
    trainer(plan, folder, tmp_path / "run").run()
    changed = replace(
        plan,
        epochs=2,
        threads=2,
        data=replace(plan.data, sets=(*plan.data.sets, SetConfig("painted", weight=0.5))),
        augment=replace(plan.augment, colour=0.2),
        loss=replace(plan.loss, dense=0.25, localisation=1.0),
    )
    run = trainer(changed, folder, tmp_path / "run")
    run.resume()
    assert run.run() == "finished"


def test_somebody_must_be_drawn(folder):
    with pytest.raises(ConfigError, match=r"data\.max_people is 0; at least 1"):
        DataConfig(max_people=0)
    with pytest.raises(ConfigError, match="nobody is drawn"):
        load_people(config(data=DataConfig(sets=(SetConfig("painted", weight=0),))), [folder.parent], COCO17)


def test_a_broken_picture_is_named_without_the_traceback_of_a_worker(tmp_path, folder):
    for picture in (folder / "images").iterdir():
        picture.write_bytes(b"cut")
    for cache in ("none", "device"):
        run = trainer(config(data=replace(config().data, workers=1, cache=cache)), folder, tmp_path / "run")
        with pytest.raises(DatasetError, match=r"^the picture .*\.png cannot be decoded; .*$") as raised:
            run.run()
        assert "\n" not in str(raised.value)
        if cache == "none":  # these leave SIGTERM alone, and would keep the process from ending
            assert not multiprocessing.active_children()


def test_checkpoints_are_whole_and_hold_no_code(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})

    def full(_, file):
        file.write_bytes(b"the beginning")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            OutputError, match=r"the checkpoint .*last\.pt cannot be written \(no space left\); is the disk full"
        ):
            save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the weights .*\.safetensors cannot be written \(.*\); free some space or"):
        save_weights(create_model(SMALL), tmp_path / "file" / "weights.safetensors")
    torch.save({"format": "other"}, path)
    with pytest.raises(WeightsError, match="not a training checkpoint"):
        load_checkpoint(path)
    torch.save({"format": main}, path)
    with pytest.raises(WeightsError, match="cannot read"):
        load_checkpoint(path)
    path.write_bytes(b"cut")
    with pytest.raises(WeightsError, match="cannot read"):
        load_checkpoint(path)


def test_what_a_killed_run_left_of_a_checkpoint_goes_when_it_is_resumed(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {}})
    for name in ("last.pt", "weights.safetensors"):
        beside(tmp_path / name).write_bytes(b"the beginning")
    (tmp_path / ".last.notes.pt").touch()
    load_run("train", tmp_path)
    assert {found.name for found in tmp_path.iterdir()} == {"last.pt", ".last.notes.pt"}


def test_command_line_trains_reports_and_resumes(tmp_path, folder, capsys):
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 4\nepochs: 1\ndevice: cpu\nlog_steps: 1\n"
        "data: {sets: [painted], validation: painted, workers: 0}\n"
    )
    arguments = ["--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 0
    told = capsys.readouterr().out
    assert re.search(
        rf"^finished after 8 samples, \S+ minutes; results in {re.escape(arguments[-1])}$", told, re.MULTILINE
    )
    assert re.search(r"^step 1  \d\.\d min  50\.0 %  lr \S+  grad_norm .*  coarse .*  fine .*  /s ", told, re.MULTILINE)
    for name in ("last.pt", "weights.safetensors", "log.csv", "config.yaml", "curves.png", "predictions.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    assert "val_ap" in read_log(tmp_path / "run" / "log.csv")[-1]
    assert load_config(str(tmp_path / "run" / "config.yaml")).model == SMALL.name
    assert main(["train", *arguments]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", *arguments, "--resume", "--set", "epochs=2"]) == 0
    assert re.search(
        r"^resumed at step 2 after \S+ minutes; length of the run: 2 epochs$", capsys.readouterr().out, re.MULTILINE
    )
    kept = (tmp_path / "run" / "config.yaml").read_text()
    assert "epochs: 2" in kept
    assert main(["train", *arguments, "--resume", "--set", "batch=2", "--set", "data.max_people=3"]) == 2
    told = capsys.readouterr()
    assert "has batch 4, not 2" in told.err
    assert "3 people in 3 pictures, 3 draws per epoch" in told.out  # of four
    assert (tmp_path / "run" / "config.yaml").read_text() == kept
    assert main(["train", *arguments, "--resume", "--data-root", "x", "--set", "data.sets=[missing]"]) == 2
    assert "no set 'missing'" in capsys.readouterr().err


def test_what_validation_needs_is_asked_for_before_a_run_begins(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)  # as if it were not installed
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\ndevice: cpu\ndata: {{sets: [painted], validation: painted, workers: 0}}\n"
    )
    arguments = ["--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 2
    assert "AP needs pycocotools: pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_minutes_that_are_told_are_those_of_training(tmp_path, folder, capsys, monkeypatch):
    monkeypatch.setattr(report, "write_report", lambda run: setattr(run.clock, "elapsed_before_s", 6e4))
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 4\nepochs: 0.5\ndevice: cpu\ndata: {{sets: [painted], workers: 0}}\n"
    )
    arguments = ["--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 0
    said = re.search(r"finished after 4 samples, (\S+) minutes", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) < 1000  # not of the pictures that come behind
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    save_checkpoint(tmp_path / "run" / "last.pt", state | {"elapsed_s": 6000.0})
    assert main(["train", *arguments, "--resume"]) == 0
    told = capsys.readouterr().out
    assert "resumed at step 1 after 100.0 minutes" in told
    assert re.search(r"finished after 4 samples, 100\.\d minutes", told)


def no_pictures(folder, _):
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no picture")


def loss_that_is_not_finite(_, monkeypatch):
    monkeypatch.setattr(loop.Trainer, "loss", lambda *_: (torch.tensor(math.nan, requires_grad=True), {}))


@pytest.mark.parametrize(
    ("options", "spoil", "message"),
    [
        (["data.sets=[missing]"], None, "no set 'missing'"),
        (["init=none.safetensors"], None, "no weights at 'none.safetensors'"),
        (["tensorboard=true"], no_pictures, "cannot be decoded"),
        ([], loss_that_is_not_finite, "the loss is nan at step 1"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_before_its_first_step_leaves_nothing(
    tmp_path, folder, monkeypatch, capsys, options, spoil, message, there
):
    out = tmp_path / "new" / "run"
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 4\nepochs: 1\ndevice: cpu\ndata: {{sets: [painted], workers: 0}}\n"
    )
    if there:
        out.mkdir(parents=True)
        (out / "notes.txt").write_text("mine")
    if spoil:
        spoil(folder, monkeypatch)
    arguments = ["--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(out)]
    changes = [part for option in options for part in ("--set", option)]
    assert main(["train", *arguments, *changes]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"painted", "plan.yaml", *(["new"] if there else [])}
    assert not there or [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_run_that_fails_later_keeps_its_log(tmp_path, folder, monkeypatch, capsys):
    step, out = loop.Trainer.train_step, tmp_path / "run"

    def fails_at_two(self, batch):
        if self.step:
            raise DatasetError("no more")
        return step(self, batch)

    monkeypatch.setattr(loop.Trainer, "train_step", fails_at_two)
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 4\nepochs: 1\ndevice: cpu\ndata: {{sets: [painted], workers: 0}}\n"
    )
    assert (
        main(["train", "--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(out)]) == 2
    )
    assert [row["step"] for row in read_log(out / "log.csv")] == [1]
    assert (out / "config.yaml").is_file()


def test_processes_that_train_together_have_a_device_each(monkeypatch):
    """On a machine of two GPUs, which is made up."""
    problems = {0: None, 1: None, 2: "there are 2 CUDA devices"}
    monkeypatch.setattr("sharpose_rt.engine.device.cuda_problem", problems.get)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda:0")
    assert [pick_device(name, World(2, 1, 1)).index for name in ("auto", "cuda")] == [1, 1]
    assert pick_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="'cuda:0', and torchrun has started 2 processes"):
        pick_device("cuda:0", World(2, 1, 1))
    assert pick_device("cpu", World(2, 1, 1)) == torch.device("cpu")
    with pytest.raises(ConfigError, match="'cuda:N'"):
        pick_device("mps")
    joined = []
    monkeypatch.setattr(torch.cuda, "set_device", joined.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: joined.append(backend))
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert join_world("auto") == join_world("cpu") == World(3, 1, 1)
    assert joined == [torch.device("cuda:1"), "nccl", "gloo"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceError, match="there are 2 CUDA devices"):
        join_world("auto")  # the CPU would be taken by this process alone
    assert len(joined) == 3


def test_a_run_may_lie_in_a_folder_whose_name_is_no_text(tmp_path, folder):
    run = trainer(config(epochs=1), folder, tmp_path / os.fsdecode(b"caf\xe9"))
    run.run()
    write_report(run, people=2)
    assert {"last.pt", "weights.safetensors", "predictions.png"} <= {path.name for path in run.out.iterdir()}


def test_max_minutes_end_a_part_and_not_the_run(tmp_path, folder, capsys, monkeypatch):
    clock = count()  # each look at the clock takes 40 ms
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: 0.04 * next(clock)))
    monkeypatch.setattr("sharpose_rt.training.report.write_report", lambda _: None)
    out = tmp_path / "run"
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 4\nbudget: minutes\nminutes: 0.05\ndevice: cpu\nlog_steps: 1\n"
        "data: {sets: [painted], workers: 0}\n"
    )
    command = ["train", "--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(out)]
    assert main([*command, "--max-minutes", "0.005"]) == 0
    assert "max-minutes after" in capsys.readouterr().out
    assert load_config(str(out / "config.yaml")).minutes == 0.05
    steps = load_checkpoint(out / "last.pt")["step"]
    assert read_log(out / "log.csv")[-1]["progress"] < 0.9
    assert main([*command, "--resume"]) == 0
    assert "finished after" in capsys.readouterr().out
    assert load_checkpoint(out / "last.pt")["step"] > steps
    assert main([*command, "--resume", "--max-minutes", "nan"]) == 2
    assert "--max-minutes is nan; at least 0" in capsys.readouterr().err


def test_options_of_the_command_line_parse():
    parser = argparse.ArgumentParser()
    train_command.add_arguments(parser)
    args = parser.parse_args(["--config", "x", "--set", "a=1", "--set", "b=2", "--max-minutes", "0.5"])
    assert (args.set, args.max_minutes, args.resume) == (["a=1", "b=2"], 0.5, False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sixteen_people_are_learnt_by_heart(tmp_path):
    folder = write_set(tmp_path / "painted", pictures=8)
    plan = config(drop_path=0.0, batch=16, epochs=400)
    still = replace(plan.augment, shift_p=0, scale=0, rotation_p=0, flip_p=0, half_body_p=0)
    optim = OptimConfig(lr=3e-3, schedule="cosine", warmup_steps=20)
    loss = replace(plan.loss, localisation=1.0, quality_from=0.5)
    run = trainer(replace(plan, augment=still, optim=optim, loss=loss), folder, tmp_path / "run")
    run.run()
    last = run.rows[-1]
    assert last["oks_coarse"] > 0.9
    assert last["oks_fine"] > 0.9
    assert last["quality"] < 0.02
    write_report(run, people=4)


# --- teachers, several processes, logs ------------------------------------------------------------------------------


def test_a_teacher_is_followed(tmp_path, folder):
    teacher = trainer(config(epochs=1), folder, tmp_path / "teacher")
    teacher.run()
    taught = DistillConfig(SMALL.name, str(tmp_path / "teacher" / "weights.safetensors"), weight=50.0)
    run = trainer(config(epochs=6, distill=taught), folder, tmp_path / "pupil")
    assert run.run() == "finished"
    errors = [row["distill_coarse"] for row in run.rows if "distill_coarse" in row]
    assert np.mean(errors[-3:]) < 0.7 * np.mean(errors[:2])
    assert all("distill_fine" in row for row in run.rows if "distill_coarse" in row)


def test_a_teacher_from_a_file(tmp_path, monkeypatch):
    onnx = pytest.importorskip("openvino", reason="openvino is not installed")
    from openvino import opset13 as ops

    pupil, channels = find_variant("tiny_256x192"), torch.arange(17) % 3
    leaning = torch.linspace(0, 1, 48)  # it is surer of what stands on the right
    image = ops.parameter([1, 3, 256, 192], np.float32, name="image")
    pooled = ops.avg_pool(image, [4, 4], [0, 0], [0, 0], [4, 4], exclude_pad=True)
    joints = ops.add(ops.gather(pooled, channels.numpy(), np.array(1)), leaning.numpy().reshape(1, 1, 1, 48))
    onnx.save_model(onnx.Model([ops.result(joints)], [image]), tmp_path / "t.xml")
    images = torch.rand(3, 3, 256, 192)

    def alone(images):
        return torch.nn.functional.avg_pool2d(images, 4)[:, channels] + leaning

    taught = DistillConfig("file", str(tmp_path / "t.xml"), weight=1.0)
    found = create_teacher(taught, pupil, torch.device("cpu"))(images)
    assert torch.allclose(found, alone(images), atol=1e-2)  # bf16 where the CPU has it
    both = create_teacher(replace(taught, flip=True), pupil, torch.device("cpu"))(images)
    wanted = (alone(images) + flip_back(alone(images.flip(-1)), COCO17.flip_order)) / 2
    assert torch.allclose(both, wanted, atol=1e-2)
    small = ops.avg_pool(joints, [2, 2], [0, 0], [0, 0], [2, 2], exclude_pad=True)
    onnx.save_model(onnx.Model([ops.result(small)], [image]), tmp_path / "small.xml")
    mean = create_teacher(replace(taught, also=(str(tmp_path / "small.xml"),)), pupil, torch.device("cpu"))(images)
    wanted = (alone(images) + fitted(torch.nn.functional.avg_pool2d(alone(images), 2), (64, 48))) / 2
    assert torch.allclose(mean, wanted, atol=1e-2)
    for dtype in (torch.float32, torch.bfloat16):  # OpenVINO would choose by what the CPU says, not by what is faster
        monkeypatch.setattr("sharpose_rt.training.distill.fastest_dtype", lambda dtype=dtype: dtype)
        hint = FileTeacher(tmp_path / "t.xml", pupil).network.get_property("INFERENCE_PRECISION_HINT")
        assert ("bfloat16" in str(hint)) == (dtype == torch.bfloat16)
    with pytest.raises(ConfigError, match=r"\.xml, \.onnx or \.param"):
        create_teacher(replace(taught, also=("t.pth",)), pupil, torch.device("cpu"))
    for other in (SMALL, find_variant("base_mpii_256x256")):
        with pytest.raises(ConfigError, match=f"a teacher of {other.name}"):
            FileTeacher(tmp_path / "t.xml", other)


def test_a_teacher_in_ncnns_form(tmp_path):
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    pupil, taught = find_variant("tiny_256x192"), DistillConfig("file", str(tmp_path / "t.param"), weight=1.0)
    layers = [
        "Input image 0 1 image",
        "Pooling pool 1 1 image pooled 0=1 1=4 2=4",
        "Convolution out 1 1 pooled maps 0=17 1=1 5=1 6=51",
    ]
    weights, bias = torch.randn(17, 3, 1, 1), torch.randn(17)
    (tmp_path / "t.param").write_text("\n".join(["7767517", "3 3", *layers, ""]))
    with pytest.raises(WeightsError, match=r"no file .*t\.bin"):
        create_teacher(taught, pupil, torch.device("cpu"))
    (tmp_path / "t.bin").write_bytes(bytes(4) + weights.numpy().tobytes() + bias.numpy().tobytes())
    images = torch.rand(2, 3, 256, 192)
    found = create_teacher(taught, pupil, torch.device("cpu"))(images)
    wanted = torch.nn.functional.conv2d(torch.nn.functional.avg_pool2d(images, 4), weights, bias)
    assert torch.allclose(found, wanted, atol=2e-2)
    teacher = create_teacher(taught, pupil, torch.device("cpu"))
    for _ in range(20):  # channels last, as crops of training lie in memory: ncnn does not hold what it reads
        assert torch.equal(teacher(images.contiguous(memory_format=torch.channels_last)), found)
    with pytest.raises(ConfigError, match=r"\[17, 64, 64\].*256x256 px; heatmaps of 16 keypoints"):
        create_teacher(taught, find_variant("base_mpii_256x256"), torch.device("cpu"))


def test_a_teacher_is_not_followed_to_the_wrong_person():
    labels = torch.tensor([[[10.0, 10.0], [30.0, 20.0], [40.0, 40.0], [5.0, 50.0]]])
    targets = encode(labels, (64, 48), (64, 48))
    says = torch.tensor(
        [[[11.0, 10.0], [45.0, 60.0], [40.0, 40.0], [40.0, 5.0]]]
    )  # near, elsewhere, unsure, unlabelled
    taught = encode(says, (64, 48), (64, 48)) * torch.tensor([1.0, 1.0, 0.2, 1.0])[:, None, None]
    weights = torch.tensor([[1.0, 0.5, 1.0, 0.0]])
    followed = is_right(taught, targets, weights)
    assert followed.tolist() == [[1, 0, 1, 1]]
    own = torch.zeros_like(taught).requires_grad_()
    distillation_loss(own, taught, followed).backward()
    assert own.grad is not None
    assert (own.grad.flatten(2).abs().sum(2) > 0).tolist() == [[True, False, True, True]]


def test_heatmaps_of_another_size_are_fitted_on_the_same_grid():
    x = torch.linspace(0, 1, 24).expand(1, 1, 32, 24)
    wide = fitted(x, (64, 48))
    assert torch.allclose(wide, torch.linspace(0, 1, 48).expand(1, 1, 64, 48), atol=1e-6)
    assert fitted(wide, (64, 48)) is wide


def test_the_fine_stage_teaches_the_coarse_one(tmp_path, folder):
    runs = []
    for weight in (0.0, 30.0):
        plan = config(epochs=8, drop_path=0.0)
        run = trainer(replace(plan, loss=replace(plan.loss, coarse_from_fine=weight)), folder, tmp_path / f"{weight}")
        run.run()
        runs.append(run)
    alone, taught = runs
    assert not any("coarse_from_fine" in row for row in alone.rows)
    errors = [row["coarse_from_fine"] for row in taught.rows if "coarse_from_fine" in row]
    batch = next(batches_of(taught._loader(), taught.save))
    with torch.no_grad():
        images = normalise(batch["crop"])
        apart = []
        for run in runs:
            _, stages = run._forward(images, coarse_only=False)
            apart.append(float((stages["coarse"] - stages["fine"]).square().mean()))
    assert errors
    assert apart[1] < apart[0]


def test_the_coarse_stage_does_not_teach_the_fine_one(tmp_path, folder):
    """Of what the two differ by, all of the gradient is the coarse stage's."""
    gradients = []
    for weight in (0.0, 30.0):
        plan = config(drop_path=0.0, loss=replace(config().loss, coarse_from_fine=weight))
        run = trainer(plan, folder, tmp_path)
        run.loss(next(iter(run._loader())), 0.0)[0].backward()
        of_fine = ("fine_position", "carry.", "carry_norm.")
        named = run.model.named_parameters()
        gradients.append({name: p.grad for name, p in named if name.startswith((*of_fine, "coarse_position"))})
    alone, taught = gradients
    assert not torch.allclose(alone.pop("coarse_position"), taught.pop("coarse_position"))
    assert len(alone) >= 6
    for name, gradient in alone.items():
        assert gradient.any()
        torch.testing.assert_close(gradient, taught[name], msg=name)


def test_a_teacher_takes_the_crops_of_its_pupil(tmp_path, folder):
    plan = config(distill=DistillConfig("tiny_256x192", weight=1.0))
    with pytest.raises(ConfigError, match=r"distill\.model is 'tiny_256x192', of 256x192 px"):
        trainer(plan, folder, tmp_path / "run")


def test_two_processes_train_as_one_of_twice_the_batch(tmp_path, folder):
    alone = trainer(config(batch=8, drop_path=0.0, epochs=2), folder, tmp_path / "alone")
    alone.run()
    script = tmp_path / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        [*command, str(folder), str(tmp_path / "together")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    together = load_checkpoint(tmp_path / "together" / "last.pt")
    assert together["samples"] == alone.samples
    assert together["step"] == alone.step
    for name, value in alone.model.state_dict().items():
        assert torch.allclose(value, together["model"][name], atol=2e-3), name


TOGETHER = """
import sys
from dataclasses import replace
from pathlib import Path
from sharpose_rt.models.variants import VARIANTS
from tests.people_set import SMALL
from tests.unit import test_training as t

VARIANTS[SMALL.name] = SMALL
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
run = t.trainer(t.config(batch=4, drop_path=0.0, epochs=2), folder, out)
assert run.world.size == 2
run.run()
run.world.leave()
threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]  # none where there is no /proc
assert not [name for name in threads if "gloo" in name], threads
"""


def test_tensorboard_gets_the_log(tmp_path, folder):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(config(epochs=1, tensorboard=True), folder, tmp_path / "run")
    run.run()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses_seen = [event.value for event in events.Scalars("loss")]
    assert losses_seen == pytest.approx([row["loss"] for row in run.rows if "loss" in row], rel=1e-5)


def test_tensorboard_has_each_step_once_though_a_killed_run_goes_on_before_its_end(tmp_path, folder):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan, saved = config(epochs=3, tensorboard=True), tmp_path / "saved.pt"
    run = trainer(plan, folder, tmp_path / "run")

    def keep(row):
        if row["step"] == 2:
            run.save()
            shutil.copy(tmp_path / "run" / "last.pt", saved)

    run.run(progress=keep)
    shutil.copy(saved, tmp_path / "run" / "last.pt")
    again = trainer(plan, folder, tmp_path / "run", resume=True)
    assert again.step == 2
    again.run()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("loss")]
    assert steps == [row["samples"] for row in again.rows if "loss" in row]


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own
def test_a_disk_that_is_full_is_told_with_the_folder_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    before = threading.enumerate()
    board = TensorBoard(tmp_path / "tensorboard")
    (writer,) = set(threading.enumerate()) - set(before)
    message = rf"TensorBoard's log in {tmp_path / 'tensorboard'} cannot be written \(.*\); is the disk full"
    row = {f"column {n}": 1.0 for n in range(50)}
    with file_size_limit(2000), pytest.raises(OutputError, match=message):
        board.add(row | {"step": 1, "samples": 8})
    writer.join(30)  # it ends by that error, which pytest would hold against the next test
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"TensorBoard's log in {tmp_path / 'file'} cannot be written"):
        TensorBoard(tmp_path / "file")


def test_crops_held_on_the_device_train_too(tmp_path, folder):
    base = config(epochs=1)
    run = trainer(replace(base, data=replace(base.data, cache="device")), folder, tmp_path / "run")
    assert run.run() == "finished"
    assert run.crops is not None
    assert run.rows[-1]["loss"] > 0


@pytest.mark.parametrize(
    "said",
    [
        "Caught RuntimeError in DataLoader worker process 0. unable to allocate shared memory(shm) for file </torch_1>",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory.",
    ],
)
def test_too_little_shared_memory_is_told_with_what_to_do(said):
    with pytest.raises(ConfigError, match=r"--shm-size=8g.*data\.workers=0"), plain_errors():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="something else"), plain_errors():
        raise RuntimeError("something else")
