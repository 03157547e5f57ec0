"""Masked pretraining fills in what is hidden, leaks nothing of it, and gives training a start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sharpose_rt.errors import ConfigError
from sharpose_rt.models import create_model
from sharpose_rt.models.variants import VARIANTS
from sharpose_rt.models.weights import load_model
from sharpose_rt.skeleton import COCO17
from sharpose_rt.training.config import DataConfig, OptimConfig, SetConfig, TrainConfig
from sharpose_rt.training.loop import Trainer, load_people
from sharpose_rt.training.pretrain import MaskedAutoencoder, Pretrainer
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


def test_pretraining_learns_and_training_starts_from_it(tmp_path):
    folder = write_set(tmp_path / "painted")
    people = load_people(config(), [tmp_path], COCO17)
    run = Pretrainer(config(), people, tmp_path / "pre")
    losses = run.run(lambda _: None)
    assert len(losses) > 10
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
