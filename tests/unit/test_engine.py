"""The pose engine: a picture and boxes in, poses in picture pixels out; devices and precisions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpose_rt.config import PoseConfig
from sharpose_rt.engine import PoseEngine, device, resolve_device, resolve_precision
from sharpose_rt.engine.explain import explain
from sharpose_rt.errors import ConfigError, DeviceError, WeightsError
from sharpose_rt.geometry.affine import apply_affine, crop_affine, invert_affine, warp_crops
from sharpose_rt.models import VARIANTS, Variant
from sharpose_rt.models.gate import Gate
from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB
from sharpose_rt.models.variants import RELEASED
from sharpose_rt.models.weights import amend, load_model, save_weights
from tests.gain_weights import with_gain
from tests.golden_rule import golden_model
from tests.raising import raising

MINI = Variant("mini", (128, 96), width=48, heads=3, alpha=0.5, sigma_cells=2, depth=4)
BOXES = np.array([[20, 30, 120, 210], [150, 10, 260, 235], [-30, 100, 60, 400]], np.float32)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Weights that are far from symmetric, on the CPU in float32."""
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    model = golden_model(MINI, RELEASED)
    with torch.no_grad():  # so that peaks lie between 0 and 1, as those of a trained network
        for parameter in model.decoder.layers[-1].parameters():
            parameter *= 0.2
    save_weights(model, path, metadata={"quality_threshold": "0.25"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "mini", MINI)
        yield PoseConfig(model="mini", weights=str(path), device="cpu", precision="fp32", backend="torch")


@pytest.fixture(scope="module")
def engine(config) -> PoseEngine:
    return PoseEngine(replace(config, quality_threshold=math.inf))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    blocks = np.random.default_rng(5).integers(0, 256, (12, 15, 3), np.uint8)
    return blocks.repeat(20, 0).repeat(20, 1)


def _crops(picture: np.ndarray, boxes: np.ndarray = BOXES) -> np.ndarray:
    return warp_crops(picture, crop_affine(boxes, (96, 128)), (96, 128))


def test_an_estimate_is_the_crops_estimate_mapped_back(engine, picture):
    affine = crop_affine(BOXES, (96, 128))
    inside = engine.estimate_crops(warp_crops(picture, affine, (96, 128)))
    found = engine.estimate(picture, BOXES)
    assert np.allclose(found.keypoints, apply_affine(inside.keypoints, invert_affine(affine)), atol=1e-3)
    assert np.array_equal(found.scores, inside.scores)
    assert (found.keypoints.shape, found.scores.shape) == ((3, 17, 2), (3, 17))
    assert found.keypoints.dtype == found.scores.dtype == found.quality.dtype == np.float32
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


def test_moving_the_picture_and_its_boxes_moves_the_poses(engine, picture):
    boxes = np.array([[40, 40, 120, 180], [150, 60, 220, 180]])  # inside, padding included
    before = engine.estimate(picture, boxes)
    moved = np.zeros((400, 500, 3), np.uint8)
    moved[30 : 30 + picture.shape[0], 50 : 50 + picture.shape[1]] = picture
    after = engine.estimate(moved, boxes + np.array([50, 30, 50, 30]))
    assert np.allclose(after.keypoints, before.keypoints + np.array([50, 30]), atol=0.05)


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), []], ids=["array", "list"])
def test_no_boxes_give_no_poses(engine, picture, boxes):
    found = engine.estimate(picture, boxes)
    assert len(found) == 0
    assert found.keypoints.shape == (0, 17, 2)
    assert found.scores.shape == (0, 17)
    assert (found.quality.dtype, found.refined.dtype) == (np.float32, np.bool_)


@pytest.mark.parametrize("shape", [(2, 96, 128, 3), (128, 96, 3), (2, 3, 128, 96), (2, 128, 96, 4)])
def test_crops_of_a_wrong_shape_are_refused(engine, shape):
    with pytest.raises(ValueError, match=r"uint8 \[N, 128, 96, 3\] is needed"):
        engine.estimate_crops(np.zeros(shape, np.uint8))


def test_crops_of_a_wrong_type_are_refused(engine):
    with pytest.raises(ValueError, match="float32"):
        engine.estimate_crops(np.zeros((1, 128, 96, 3), np.float32))


def test_batches_give_what_single_crops_give(config, picture):
    crops = _crops(picture).repeat(3, 0)[:7]
    whole = PoseEngine(config).estimate_crops(crops)
    parts = PoseEngine(replace(config, max_batch=2)).estimate_crops(crops)
    assert np.allclose(whole.keypoints, parts.keypoints, atol=1e-2)
    assert np.allclose(whole.scores, parts.scores, atol=1e-5)
    assert np.array_equal(whole.refined, parts.refined)


def test_the_picture_is_normalised_as_imagenet_in_rgb(engine):
    crop = np.zeros((1, 128, 96, 3), np.uint8)
    crop[..., 0], crop[..., 1], crop[..., 2] = 10, 100, 200  # blue, green, red
    wanted = [(value - mean) / std for value, mean, std in zip((200, 100, 10), MEAN_RGB, STD_RGB, strict=True)]
    assert engine.backend.prepare(torch.from_numpy(crop))[0, :, 5, 7].tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_gate_is_the_weights_unless_given(config):
    assert PoseEngine(config).gate.quality_threshold == 0.25
    assert PoseEngine(replace(config, quality_threshold=0.6)).gate.quality_threshold == 0.6


def test_crops_are_cut_as_the_weights_say_unless_given(config, tmp_path):
    assert PoseEngine(config).box_padding == 1.25  # as is usual
    closer = tmp_path / "closer.safetensors"
    amend(Path(config.weights), closer, {"box_padding": "1.1"})
    stated = replace(config, weights=str(closer))
    for wanted, given in ((1.1, stated), (1.5, replace(stated, box_padding=1.5))):
        found = PoseEngine(given).affines(BOXES)
        np.testing.assert_array_equal(found, crop_affine(BOXES, (96, 128), wanted))
    for damaged in ("wide", "nan", "9"):
        amend(Path(config.weights), closer, {"box_padding": damaged})
        with pytest.raises(WeightsError, match=rf"closer\.safetensors states a box_padding of '{damaged}'; 0\.5 to 4"):
            PoseEngine(stated)


@pytest.mark.parametrize(
    ("name", "damaged", "accepted"),
    [
        ("quality_threshold", "0,9", "-inf to inf"),
        ("quality_threshold", "nan", "-inf to inf"),
        ("attention_scale", "0", "1e-06 to 1e\\+06"),
        ("attention_scale", "-inf", "1e-06 to 1e\\+06"),
    ],
)
def test_damaged_numbers_of_a_weights_file_are_named(config, tmp_path, name, damaged, accepted):
    broken = tmp_path / "broken.safetensors"
    amend(Path(config.weights), broken, {name: damaged})
    with pytest.raises(
        WeightsError, match=rf"broken\.safetensors states a {name} of '{damaged}'; {accepted} is accepted"
    ):
        PoseEngine(replace(config, weights=str(broken)))


def test_the_gate_decides_for_each_crop(config, picture):
    crops = _crops(picture)
    quality = PoseEngine(config).estimate_crops(crops).quality
    threshold = float(np.sort(quality)[:2].mean())
    gated = PoseEngine(replace(config, quality_threshold=threshold)).estimate_crops(crops)
    assert gated.refined.tolist() == (quality < threshold).tolist()
    assert gated.refined.sum() == 1
    none = PoseEngine(replace(config, quality_threshold=-math.inf)).estimate_crops(crops)
    assert not none.refined.any()
    assert np.allclose(none.keypoints[~gated.refined], gated.keypoints[~gated.refined], atol=1e-2)


def test_people_too_small_are_not_refined(config, picture):
    boxes = np.array([[0, 0, 40, 60], [10, 5, 40, 105], [0, 20, 90, 50], [5, 5, 30, 104]])  # 60, 100, 120, 99 px
    everybody = PoseEngine(replace(config, quality_threshold=math.inf))
    engine = PoseEngine(replace(config, quality_threshold=math.inf, refine_from_px=100))
    found, coarse = engine.estimate(picture, boxes), replace(config, quality_threshold=-math.inf)
    assert found.refined.tolist() == [False, True, True, False]
    fine, coarse = everybody.estimate(picture, boxes), PoseEngine(coarse).estimate(picture, boxes)
    wanted = np.where(found.refined[:, None, None], fine.keypoints, coarse.keypoints)
    np.testing.assert_allclose(found.keypoints, wanted, atol=1e-2)
    # These are cut out closer; who leaves for a good quality is not.
    affines = engine.affines(boxes)
    np.testing.assert_array_equal(affines[[1, 2]], crop_affine(boxes[[1, 2]], engine.crop_size_hw[::-1], 1.25))
    np.testing.assert_array_equal(affines[[0, 3]], crop_affine(boxes[[0, 3]], engine.crop_size_hw[::-1], 1.0))
    padded = PoseEngine(replace(config, quality_threshold=-math.inf, coarse_padding=1.25))
    np.testing.assert_array_equal(padded.affines(boxes), everybody.affines(boxes))
    assert np.abs(padded.estimate(picture, boxes).keypoints - coarse.keypoints).max() > 0.1
    # Two pictures at once, and a threshold besides.
    both = PoseEngine(replace(config, quality_threshold=float(np.median(fine.quality)), refine_from_px=100))
    pair = both.estimate_all([(picture, boxes[:1]), (picture, boxes[1:])])
    low = fine.quality < both.gate.quality_threshold
    assert [bool(r) for part in pair for r in part.refined] == (low & found.refined).tolist()
    # Who chooses in the gate's place has the last word.
    assert engine.estimate(picture, boxes, lambda rows, outlook: outlook.quality > -1).refined.all()


def test_who_gains_little_is_not_refined(config, picture, tmp_path):
    path = with_gain(config, tmp_path)
    crops = _crops(picture)
    gain = PoseEngine(replace(config, weights=str(path))).infer(crops).gain.numpy()
    middle = float(np.median(gain))
    asked = replace(config, weights=str(path), refine_from_gain=middle)
    found = PoseEngine(asked).estimate_crops(crops)
    assert found.refined.tolist() == (gain >= middle).tolist()
    assert 0 < found.refined.sum() < len(crops)
    # What weights state holds until a threshold of either kind is given; weights without a predictor refine all.
    amend(path, path, {"refine_from_gain": repr(middle)})
    gates = [PoseEngine(replace(config, weights=str(path), **given)).gate for given in ({}, {"quality_threshold": 0.9})]
    assert [gate.refine_from_gain for gate in gates] == [middle, -math.inf]
    with pytest.raises(WeightsError, match="does not predict what the fine stage adds"):
        PoseEngine(replace(config, refine_from_gain=0.1))
    amend(path, path, {"refine_from_gain": "much"})
    with pytest.raises(WeightsError, match="states a refine_from_gain of 'much'"):
        PoseEngine(asked)


def test_with_flip_test_a_crop_and_its_mirror_go_through_the_same_stages(config, picture):
    crops = np.concatenate([_crops(picture), _crops(picture)[:, :, ::-1]])
    engine = PoseEngine(replace(config, flip_test=True))
    engine.gate = Gate(float(np.median(engine.estimate_crops(crops).quality)))
    gated = engine.estimate_crops(crops)
    assert 0 < gated.refined.sum() < len(crops)
    chosen = engine.estimate_crops(crops, lambda rows, _: gated.refined[rows])
    np.testing.assert_array_equal(gated.keypoints, chosen.keypoints)
    np.testing.assert_array_equal(gated.refined, chosen.refined)


def test_with_flip_test_those_who_are_corrected_by_whoever_asks_are_not_mirrored(config, picture):
    boxes = np.array([[10.0 * n, 5, 10.0 * n + 40, 90] for n in range(4)], np.float32)
    chosen = np.array([True, False, False, True])
    both = PoseEngine(replace(config, flip_test=True))
    seen, infer = [], both._infer
    both._infer = lambda crops, choose: seen.append(len(crops)) or infer(crops, choose)
    (found,) = both.estimate_all([(picture, boxes)], lambda rows, _: chosen[rows], corrected=True)
    assert seen == [4, 2]
    whole = both.estimate(picture, boxes, lambda rows, _: chosen[rows])
    np.testing.assert_allclose(found.keypoints[chosen], whole.keypoints[chosen], atol=0.01)
    assert not found.scores[~chosen].any()
    (found,) = both.estimate_all([(picture, boxes)], lambda rows, _: np.zeros(4, bool)[rows], corrected=True)
    assert not found.refined.any()


def test_flip_test_is_symmetric(config, picture):
    """With it, a mirrored crop gives the mirrored pose, whatever the weights."""
    engine = PoseEngine(replace(config, flip_test=True, quality_threshold=math.inf))
    crops = _crops(picture)
    found, mirrored = engine.estimate_crops(crops), engine.estimate_crops(crops[:, :, ::-1])
    back = mirrored.keypoints[:, list(engine.skeleton.flip_order)]
    back[..., 0] = 95 - back[..., 0]
    scores = mirrored.scores[:, list(engine.skeleton.flip_order)]
    assert np.allclose(scores, found.scores, atol=1e-4)
    assert np.median(np.abs(back - found.keypoints)) < 0.01  # a tie between two peaks may fall either way
    plain = PoseEngine(replace(config, quality_threshold=math.inf)).estimate_crops(crops)
    assert not np.allclose(plain.scores, found.scores, atol=1e-3)


def test_bf16_is_near_fp32(config, picture):
    crops = _crops(picture)
    exact, rough = (
        PoseEngine(replace(config, precision=p, quality_threshold=math.inf)).infer(crops) for p in ("fp32", "bf16")
    )
    assert rough.heatmaps.dtype == torch.bfloat16
    assert rough.quality.dtype == rough.cell_scores.dtype == torch.float32
    for name in ("coarse_heatmaps", "quality"):
        a, b = getattr(exact, name).float(), getattr(rough, name).float()
        assert (a - b).abs().mean() < 0.02 * a.std() + 0.02
    same = (exact.selected_cells == rough.selected_cells).float().mean()
    assert same > 0.8


def test_explain_cuts_out_closer_whom_a_run_does(config, picture):
    engine = PoseEngine(replace(config, quality_threshold=-math.inf))
    poses, seen = engine.estimate(picture, BOXES), list(explain(engine, picture, BOXES))
    assert [e.quality for e in seen] == pytest.approx(poses.quality.tolist(), abs=1e-5)


def test_explain_says_what_the_engine_does(config, picture):
    quality = PoseEngine(config).estimate(picture, BOXES).quality
    engine = PoseEngine(replace(config, quality_threshold=float(np.sort(quality)[:2].mean())))
    poses, seen = engine.estimate(picture, BOXES), list(explain(engine, picture, BOXES))
    crops, affine = _crops(picture), crop_affine(BOXES, (96, 128))
    assert [e.refined for e in seen] == poses.refined.tolist()
    for i, e in enumerate(seen):
        assert np.array_equal(e.crop_bgr, crops[i])
        assert e.attention.shape == e.selected.shape == MINI.coarse_grid_hw
        assert e.attention.sum() == pytest.approx(1, abs=1e-5)
        assert e.selected.sum() == engine.network.selected_count
        assert e.attention[e.selected].min() >= e.attention[~e.selected].max()
        assert e.quality == pytest.approx(float(poses.quality[i]), abs=1e-5)
        keypoints = e.fine_keypoints if e.refined else e.coarse_keypoints
        assert keypoints is not None
        assert np.allclose(apply_affine(keypoints, invert_affine(affine[i])), poses.keypoints[i], atol=0.05)


# Devices and precisions


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(DeviceError, match="fp32, bf16 or int8 is accepted"):
        resolve_precision("fp16", torch.device("cpu"))
    assert resolve_precision("auto", torch.device("cuda")) == torch.float16
    assert resolve_precision("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:3"])
def test_cuda_without_one_says_what_to_try(wanted):
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match=rf"device is '{wanted}': .*; 'cpu' works anywhere; run `sharpose-rt doctor`"):
        resolve_device(wanted)


@pytest.mark.parametrize("wanted", ["gpu", "mps", "", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cpu:0", "cuda:0\n"])
def test_what_names_no_device_is_none(wanted):
    """Some were taken for the first CUDA device, and some ended in a ValueError."""
    with pytest.raises(ConfigError, match="'auto', 'cpu', 'cuda' or 'cuda:N' is accepted"):
        resolve_device(wanted)
    with pytest.raises(ConfigError, match=r"pose\.device is "):
        PoseConfig(device=wanted)


def test_a_listed_device_that_does_not_run_is_not_taken(monkeypatch):
    """As with a driver too old: the device is listed, and the first kernel fails."""

    monkeypatch.setattr(device, "cuda_problem", device.cuda_problem.__wrapped__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    error = RuntimeError("no kernel image is available for execution on the device\nmore")
    monkeypatch.setattr(torch, "ones", raising(error))
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"no kernel image.*; 'cpu' works anywhere"):
        resolve_device("cuda")
    for wanted in (("cuda:1",), ("cuda", 1)):
        with pytest.raises(DeviceError, match="there is no CUDA device 1; found 1, counted from 0;"):
            resolve_device(*wanted)


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(cuda, config, picture):
    crops = _crops(picture)
    full = replace(config, quality_threshold=math.inf)
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        on_cpu = PoseEngine(full).infer(crops)
        on_cuda = PoseEngine(replace(full, device=cuda)).infer(crops)
        half = PoseEngine(replace(full, device=cuda, precision="fp16")).infer(crops)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
    assert torch.equal(on_cuda.selected_cells.cpu(), on_cpu.selected_cells)
    for name in ("coarse_heatmaps", "heatmaps", "quality", "cell_scores"):
        a, b = getattr(on_cpu, name), getattr(on_cuda, name).cpu()
        assert (a - b).abs().max() < 1e-3 * max(1.0, float(a.std()))
    difference = (half.coarse_heatmaps.float().cpu() - on_cpu.coarse_heatmaps).abs().mean()
    assert difference < 0.01 * on_cpu.coarse_heatmaps.std()


@pytest.mark.gpu
def test_auto_takes_cuda_where_it_works(cuda):
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert device.cuda_problem(0) is None


@pytest.mark.parametrize("weights", ["auto", "random"])
def test_loading_leaves_a_programs_own_chance_as_it_was(weights):
    before = torch.get_rng_state()
    load_model("tiny_256x192", weights)
    assert torch.equal(torch.get_rng_state(), before)
