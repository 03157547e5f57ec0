"""The predicted gain of the fine stage: fitted to people, kept in weights, asked by the gate."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpose_rt.cli import main
from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation import gain
from sharpose_rt.evaluation.boxes import truth_boxes
from sharpose_rt.evaluation.coco import reached, results
from sharpose_rt.evaluation.gain import fit_gain
from sharpose_rt.evaluation.predict import predict
from sharpose_rt.evaluation.truth import read_labels
from sharpose_rt.models import VARIANTS, create_model
from sharpose_rt.models.gate import Gate, Outlook
from sharpose_rt.models.weights import file_sha256, load_model, read_metadata, save_weights
from tests.people_set import SMALL, write_set


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A hundred people in pictures that are not labelled in their order."""
    folder = write_set(tmp_path_factory.mktemp("gain"), pictures=50)
    document = json.loads((folder / "annotations.json").read_text())
    order = np.random.default_rng(0).permutation(len(document["annotations"]))
    document["annotations"] = [document["annotations"][i] for i in order]
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def test_the_gate_by_hand():
    outlook = Outlook(np.array([0.5, 0.9, 0.5, math.nan, 0.5]), np.array([0.1, 0.1, 0.01, math.nan, math.inf]))
    heights_px = np.array([100.0, 100, 100, 100, 50])
    assert Gate().refined(outlook, heights_px).all()
    assert Gate(0.9, 80, 0.05).refined(outlook, heights_px).tolist() == [True, False, False, True, False]
    assert Gate(0.9, 80, 0.05).refined(outlook).tolist() == [True, False, False, True, True]
    assert Gate(-math.inf).refined(outlook).tolist() == [False, False, False, True, False]  # NaN is no number
    assert Gate(-math.inf).never(heights_px).all()
    assert Gate(refine_from_px=80).never(heights_px).tolist() == [False] * 4 + [True]
    asks = [gate.asks_network for gate in (Gate(), Gate(refine_from_px=5), Gate(0.9), Gate(refine_from_gain=0.0))]
    assert asks == [False, False, True, True]


def test_thresholds_of_ap_that_an_oks_reaches():
    assert reached(np.array([0.0, 0.5, 0.72, 1.0])).tolist() == [0, 0.1, 0.5, 1]


def test_a_gain_that_is_linear_is_found(folder, monkeypatch):
    rng = np.random.default_rng(1)
    model, truth = create_model(SMALL), rng.normal(size=32) / 50
    x = rng.normal(3, 2, (2000, 32)).astype(np.float32)
    y = 0.08 + (x - 3) @ truth + rng.normal(0, 0.02, 2000)
    monkeypatch.setattr(gain, "_known", lambda *_: (x, y, np.arange(2000) // 2, lambda early: 0.7 - (y * early).mean()))
    fit = fit_gain(model, [(folder / "annotations.json", folder / "images")])
    with torch.no_grad():
        predicted = fit.predictor(torch.from_numpy(x))[:, 0].numpy()
    assert fit.people == 2000
    assert fit.mean_gain == pytest.approx(y.mean())
    assert np.corrcoef(predicted, y)[0, 1] > 0.9
    assert predicted.mean() == pytest.approx(y.mean(), abs=1e-4)
    assert 0.85 < fit.correlation < 1
    assert fit.lost_by_half < 0.2
    assert fit.cost_of_half == pytest.approx(fit.lost_by_half * y.mean())
    monkeypatch.setattr(gain, "_known", lambda *_: (x, rng.permutation(y), np.arange(2000) // 2, len))
    by_chance = fit_gain(model, [(folder / "annotations.json", folder / "images")])
    assert abs(by_chance.correlation) < 0.1  # what the fit has seen would correlate
    assert by_chance.lost_by_half > 0.4


def test_tokens_and_gains_are_of_the_same_people(folder, monkeypatch):
    torch.manual_seed(1)
    model, document = create_model(SMALL), read_labels(folder / "annotations.json")
    tokens, gains, image_ids, ap_of = gain._known(model, document, folder / "images")
    assert image_ids.tolist() == sorted(truth_boxes(document).image_ids.tolist())
    predictions = predict(model, document, folder / "images", truth_boxes(document))
    quality = model.quality_predictor(torch.from_numpy(tokens)).detach().numpy()
    order = np.argsort(predictions.boxes.image_ids, kind="stable")
    np.testing.assert_allclose(quality, predictions.quality[order], atol=1e-5)
    assert gains.shape == (100,)
    predictions = predict(model, document, folder / "images", truth_boxes(document).take(order))
    for early, gate in ((np.zeros(100, bool), Gate()), (np.ones(100, bool), Gate(-math.inf))):
        keypoints, scores, _ = predictions.gated(gate)
        wanted = results(predictions, keypoints, scores)
        monkeypatch.setattr(gain, "ap", lambda people, _, wanted=wanted: {"AP": float(people == wanted)})
        assert ap_of(early) == 1


def test_weights_learn_to_predict_it(folder, tmp_path, capsys, caplog, monkeypatch):
    torch.manual_seed(1)
    reach = {"coarse": np.linspace(0.4, 0.8, 100), "fine": np.full(100, 0.8)}  # random weights reach nothing
    monkeypatch.setattr(gain, "true_oks", lambda predictions, document, stage: reach[stage])
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_weights(create_model(SMALL), source, metadata={"quality_threshold": "inf"})
    source.with_suffix(".json").write_text(json.dumps({"sha256": file_sha256(source), "metrics": []}))
    labels = [str(folder / "annotations.json"), str(folder / "images")]
    command = ["weights", "gain", str(source), str(target), "--set", *labels]
    assert main([*command, "--refine-from-gain", "0.02"]) == 0
    assert "100 people, for whom the fine stage adds" in capsys.readouterr().out
    assert "useless for people outside the fit (correlation -0.063)" in caplog.text
    (before, _), (after, info) = (load_model(SMALL.name, str(path)) for path in (source, target))
    assert before.gain_predictor is None
    assert info.refine_from_gain == 0.02
    images = torch.randn(3, 3, 128, 96)
    a, b = before(images), after(images)
    assert torch.equal(a.heatmaps, b.heatmaps)
    assert torch.isinf(a.gain).all()
    assert torch.isfinite(b.gain).all()
    card = json.loads(target.with_suffix(".json").read_text())
    assert card["sha256"] == file_sha256(target)
    assert card["gain"]["people"] == 100
    assert main([*command, "--overwrite", "--refine-from-gain", "2"]) == 2
    assert "--refine-from-gain is 2; at least -1 and at most 1 is accepted" in capsys.readouterr().err
    kept = tmp_path / "kept.safetensors"
    export = ["weights", "export", str(target), "--model", SMALL.name, "--quality-threshold", "inf"]
    assert main([*export[:3], str(kept), *export[3:]]) == 0
    assert load_model(SMALL.name, str(kept))[1].gate(None, 0.0, None) == Gate(refine_from_gain=0.02)
    # Of one network alone: means of weights predict nothing, and what is trained further neither.
    mean = tmp_path / "mean.safetensors"
    assert main([*export[:3], str(mean), *export[3:], "--average", str(source)]) == 0
    assert load_model(SMALL.name, str(mean))[0].gain_predictor is None
    assert "refine_from_gain" not in read_metadata(mean)
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_where_both_stages_are_alike_there_is_nothing_to_predict(folder, monkeypatch):
    x = np.random.default_rng(1).normal(size=(200, 32)).astype(np.float32)
    for y in (np.zeros(200), np.linspace(-0.2, 0.1, 200)):
        monkeypatch.setattr(gain, "_known", lambda *_, y=y: (x, y, np.arange(200), len))
        with pytest.raises(DatasetError, match=r"adds -?0\.\d+ AP to these 200 people, so there is no gain to predict"):
            fit_gain(create_model(SMALL), [(folder / "annotations.json", folder / "images")])


def test_what_a_header_says_of_the_gate():
    assert Gate(0.9).stated() == {"quality_threshold": 0.9}
    assert Gate(math.inf, 80.0, 0.05).stated() == vars(Gate(math.inf, 80.0, 0.05))


def test_too_few_people_are_refused(tmp_path):
    few = write_set(tmp_path / "few")
    with pytest.raises(DatasetError, match=r"8 people with keypoints in .*; 100 or more are wanted"):
        fit_gain(create_model(SMALL), [(few / "annotations.json", few / "images")])
