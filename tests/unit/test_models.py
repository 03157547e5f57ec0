"""The network: shapes, gate, choice of cells, cost, weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from sharpose_rt.cli import main
from sharpose_rt.commands.weights import describe
from sharpose_rt.detection.bundled import load_module
from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.models import VARIANTS, SHaRPose, Variant, create_model, find_behaviour, find_variant
from sharpose_rt.models import weights as weights_module
from sharpose_rt.models.cost import measure_cost
from sharpose_rt.models.head import PixelDecoder
from sharpose_rt.models.released import load_released_state_dict, released_names
from sharpose_rt.models.selection import AttentionAverage, fine_indices, split_cells, take
from sharpose_rt.models.variants import PAPER, RELEASED
from sharpose_rt.models.weights import (
    amend,
    bundled_weights,
    file_sha256,
    import_released,
    load_model,
    read_metadata,
    save_weights,
)
from tests.golden_rule import golden_model, golden_state_dict

# As the paper's, only small: every test below would pass or fail alike on the large ones.
MINI = Variant("mini", (192, 128), width=48, heads=3, alpha=0.5, sigma_cells=2, depth=4)


# Our own stem and decoder.
LIGHT = replace(MINI, name="light", stem="mobile", decoder="pixels")


@pytest.fixture(scope="module", params=["paper", "released", "light"])
def mini(request) -> SHaRPose:
    if request.param == "light":
        torch.manual_seed(0)
        return create_model(LIGHT)
    return golden_model(MINI, find_behaviour(request.param))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(5, 3, *MINI.size_hw, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def _middle_threshold(model: SHaRPose, images: torch.Tensor) -> float:
    quality = model(images, -math.inf).quality.sort().values
    return float((quality[1] + quality[2]) / 2)


class FineStageSpy:
    """Counts the crops that each call of the fine stage sees."""

    def __init__(self, model: SHaRPose, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        real = model.fine_stage

        def spy(images, *rest):
            self.batches.append(len(images))
            return real(images, *rest)

        monkeypatch.setattr(model, "fine_stage", spy)


# Shapes and the gate


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("behaviour", [PAPER, RELEASED], ids=["paper", "released"])
def test_every_variant_gives_the_stated_shapes(variant, behaviour):
    with torch.device("meta"):
        model = SHaRPose(variant, behaviour).eval()
        output = model.coarse_stage(torch.empty(2, 3, *variant.size_hw))
        selected, low = split_cells(output.cell_scores, model.selected_count)
        heatmaps = model.fine_stage(torch.empty(2, 3, *variant.size_hw), output, selected, low)
    cells, k = math.prod(variant.coarse_grid_hw), len(variant.skeleton)
    h, w = variant.size_hw
    assert heatmaps.shape == output.heatmaps.shape == (2, k, h // 4, w // 4)
    assert output.quality.shape == (2,)
    assert output.cell_scores.shape == (2, cells)
    assert selected.shape == (2, variant.selected_cells(behaviour))
    assert low.shape[1] + selected.shape[1] == cells
    fine_tokens = variant.tokens(behaviour)[1]
    assert fine_tokens == selected.shape[1] * variant.split**2 + low.shape[1] + k


def test_selected_cells_round_as_each_text_says():
    base = find_variant("base_256x192")  # 0.4 * 48 = 19.2
    assert (base.selected_cells(PAPER), base.selected_cells(RELEASED)) == (19, 20)
    small = find_variant("small_256x192")  # exactly 24
    assert (small.selected_cells(PAPER), small.selected_cells(RELEASED)) == (24, 24)


def test_without_refining_the_fine_stage_is_not_computed(mini, images, monkeypatch):
    spy = FineStageSpy(mini, monkeypatch)
    with FlopCounterMode(display=False) as counter:
        output = mini(images[:1], -math.inf)
    with FlopCounterMode(display=False) as coarse_alone:
        mini.coarse_stage(images[:1])
    assert spy.batches == []
    assert counter.get_total_flops() == coarse_alone.get_total_flops()
    assert not output.refined.any()
    assert torch.equal(output.heatmaps, output.coarse_heatmaps)


def test_an_infinite_threshold_refines_all(mini, images, monkeypatch):
    spy = FineStageSpy(mini, monkeypatch)
    output = mini(images, math.inf)
    assert spy.batches == [len(images)]
    assert output.refined.all()
    assert not torch.allclose(output.heatmaps, output.coarse_heatmaps, atol=1e-3)


def test_a_mixed_gate_computes_only_the_refined_crops(mini, images, monkeypatch):
    threshold = _middle_threshold(mini, images)
    everybody, nobody = mini(images, math.inf), mini(images, -math.inf)
    spy = FineStageSpy(mini, monkeypatch)
    output = mini(images, threshold)
    assert spy.batches == [2]
    assert torch.equal(output.refined, output.quality < threshold)
    assert torch.allclose(output.heatmaps[output.refined], everybody.heatmaps[output.refined], atol=1e-5)
    assert torch.equal(output.heatmaps[~output.refined], nobody.coarse_heatmaps[~output.refined])


def test_quality_at_the_threshold_leaves_and_nan_is_refined():
    quality = torch.tensor([0.89, 0.9, 0.91, math.nan])
    assert SHaRPose.needs_refining(quality, quality[1].item()).tolist() == [True, False, False, True]
    assert SHaRPose.needs_refining(quality, -math.inf).tolist() == [False, False, False, True]


def test_a_crop_does_not_depend_on_the_others_of_its_batch(mini, images):
    threshold = _middle_threshold(mini, images)
    together = mini(images, threshold)
    for i in range(len(images)):
        alone = mini(images[i : i + 1], threshold)
        assert alone.refined[0] == together.refined[i]
        assert torch.equal(alone.selected_cells[0], together.selected_cells[i])
        assert torch.allclose(alone.heatmaps[0], together.heatmaps[i], atol=1e-5)
        assert torch.allclose(alone.quality[0], together.quality[i], atol=1e-6)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(mini(images[order], threshold).heatmaps, together.heatmaps[order], atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_no_cell_and_every_cell_can_be_split(alpha, images):
    variant = replace(MINI, alpha=alpha)
    model = golden_model(variant, PAPER)
    output = model(images[:2], math.inf)
    assert output.selected_cells.shape == (2, round(alpha * math.prod(variant.coarse_grid_hw)))
    assert torch.isfinite(output.heatmaps).all()
    assert variant.tokens(PAPER)[1] == (24 * 4 if alpha else 24) + 17


def test_an_empty_batch_gives_an_empty_result(mini):
    output = mini(torch.empty(0, 3, *MINI.size_hw), 0.5)
    assert output.heatmaps.shape == (0, 17, 48, 32)
    assert output.refined.shape == (0,)


# Order of tokens


def test_each_token_is_where_its_slice_says(mini, images):
    """Eq. 1 and Eq. 8: image, keypoint and quality tokens; then fine, coarse and keypoint tokens."""
    cells, k = math.prod(MINI.coarse_grid_hw), len(MINI.skeleton)
    assert (mini.images, mini.keypoints) == (slice(0, cells), slice(cells, cells + k))
    seen: list[torch.Tensor] = []
    hook = mini.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        coarse = mini.coarse_stage(images[:1])
        selected, low = split_cells(coarse.cell_scores, mini.selected_count)
        mini.fine_stage(images[:1], coarse, selected, low)
    finally:
        hook.remove()
    first, second = seen
    assert (first.shape[1], second.shape[1]) == MINI.tokens(mini.behaviour)
    assert torch.equal(first[:, mini.images], coarse.image_inputs)
    assert torch.equal(first[:, mini.keypoints], mini.keypoint_tokens)
    assert torch.equal(first[:, -1:], mini.quality_token)
    assert torch.equal(second[:, -k:], mini.keypoint_tokens)  # they start again; no quality token
    source = coarse.image_inputs if mini.behaviour.low_tokens_from_input else coarse.image_outputs
    assert torch.equal(second[:, -k - low.shape[1] : -k], take(source, low))


def test_fine_tokens_are_the_patches_inside_their_cells(images):
    """The embedding of chosen patches is that of the convolution at the same places."""
    model = golden_model(MINI, PAPER)
    selected = torch.tensor([[0, 4, 11]]).expand(2, -1)
    index = fine_indices(selected, MINI.coarse_grid_hw, MINI.split)
    chosen, detail = model._fine_tokens(images[:2], index)
    assert detail is None
    dense = model.patch_embed(images[:2]).flatten(2).transpose(1, 2) + model.fine_position
    assert torch.allclose(chosen, take(dense, index), atol=1e-4)


def test_pixels_of_every_token_land_in_its_cell():
    torch.manual_seed(0)
    decoder = PixelDecoder(8, (3, 2), 2, (24, 16), detail=6, channels=4)
    keypoints, coarse, detail = torch.randn(2, 5, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 16, 6)
    selected, others = split_cells(torch.rand(2, 6), 2)
    high, high_detail = torch.randn(2, 2 * 4, 8), torch.randn(2, 2 * 4, 16, 6)
    rows = torch.arange(2)[:, None]
    low = coarse[rows, others], detail[rows, others]
    found = decoder.fine(keypoints, (high, high_detail), low, selected, others)
    whole = decoder.coarse(keypoints, coarse, detail)
    query = decoder.query(keypoints)

    def square(embedding, token, detail, crop):
        """(K, 4 * side, 4 * side) of one token: its sixteen places put together."""
        side = embedding.place_hw[0]
        pixels = embedding(token[None, None], detail[None, None])[0].view(16, side, side, 4) @ query[crop].T
        rows = [torch.cat(list(pixels[first : first + 4]), 1) for first in (0, 4, 8, 12)]
        return torch.cat(rows, 0).movedim(2, 0)

    for crop in range(2):
        for cell in range(6):
            y, x = cell // 2 * 8, cell % 2 * 8
            wanted = square(decoder.coarse_pixels, coarse[crop, cell], detail[crop, cell], crop)
            assert torch.allclose(whole[crop, :, y : y + 8, x : x + 8], wanted, atol=1e-5)
            if cell in others[crop]:
                assert torch.allclose(found[crop, :, y : y + 8, x : x + 8], wanted, atol=1e-5)
        for place, cell in enumerate(selected[crop].tolist()):
            for part in range(4):
                y, x = cell // 2 * 8 + part // 2 * 4, cell % 2 * 8 + part % 2 * 4
                number = place * 4 + part
                wanted = square(decoder.fine_pixels, high[crop, number], high_detail[crop, number], crop)
                assert torch.allclose(found[crop, :, y : y + 4, x : x + 4], wanted, atol=1e-5)


def test_the_coarse_stage_sees_the_picture_at_half_size(images):
    half = SHaRPose._resample(images, 0.5)
    wanted = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    assert torch.allclose(half, wanted, atol=1e-6)


# Choice of cells


@settings(max_examples=50)
@given(count=st.integers(0, 12), seed=st.integers(0, 99), ties=st.booleans())
def test_split_cells_parts_all_cells(count, seed, ties):
    scores = torch.rand(3, 12, generator=torch.Generator().manual_seed(seed))
    scores = (scores * 3).round() if ties else scores
    high, low = split_cells(scores, count)
    assert torch.equal(torch.cat([high, low], 1).sort(1).values, torch.arange(12).expand(3, -1))
    assert torch.equal(high, high.sort(1).values)
    assert torch.equal(low, low.sort(1).values)
    if 0 < count < 12:
        assert (scores.gather(1, high).min(1).values >= scores.gather(1, low).max(1).values).all()


def test_between_equal_scores_the_earlier_cell_wins():
    assert split_cells(torch.ones(1, 6), 2)[0].tolist() == [[0, 1]]


def test_fine_indices_cover_a_cells_square():
    assert fine_indices(torch.tensor([[4]]), (3, 3), 2).tolist() == [[14, 15, 20, 21]]  # centre of a 6x6 grid
    every = fine_indices(torch.arange(12)[None], (4, 3), 2)
    assert every.sort().values.tolist() == [list(range(48))]


def test_the_average_is_that_of_equations_6_and_7():
    layers = torch.rand(4, 2, 3, 5, 7)  # layers, B, heads, M, Nc
    average = AttentionAverage()
    kept = torch.zeros(2, 3, 5, 7)
    for layer in layers:
        average.add(layer)
        kept = 0.99 * kept + 0.01 * layer
    assert average.scores is not None
    assert torch.allclose(average.scores, kept.mean(1).mean(1), atol=1e-7)


@pytest.mark.parametrize(("behaviour", "first"), [(PAPER, 0), (RELEASED, 1)], ids=["paper", "released"])
def test_cells_are_scored_by_the_layers_that_each_text_says(behaviour, first, images):
    """The released code leaves out the first quarter of the layers, and the last keypoint's row."""
    model = golden_model(MINI, behaviour)
    seen: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scores = model.coarse_stage(images[:2]).cell_scores
    average = AttentionAverage(sum_rows=behaviour.sum_keypoint_rows)
    rows = slice(model.keypoints.start, model.keypoints.stop - behaviour.skip_last_keypoint_row)
    for block, tokens in list(zip(model.blocks, seen, strict=True))[first:]:
        average.add(block(tokens, rows)[1][..., model.images])
    assert average.scores is not None
    assert torch.allclose(scores, average.scores, rtol=1e-4)


# Cost, against the paper's Table 2 as measured on the released architecture (parameters in M, GMACs of both stages)

TABLE_2 = {
    "small_256x192": (28.48, 4.84),
    "small_384x288": (48.52, 10.84),
    "base_256x192": (94.12, 17.06),
    "base_384x288": (118.54, 32.71),
    "base_mpii_256x256": (101.79, 21.91),
}


@pytest.mark.parametrize("name", TABLE_2)
def test_cost_is_that_of_table_2(name):
    parameters, gmacs = TABLE_2[name]
    cost = measure_cost(find_variant(name), RELEASED)
    assert cost.parameters / 1e6 == pytest.approx(parameters, rel=0.01)
    assert cost.dense_gmacs == pytest.approx(gmacs, rel=0.01)
    assert cost.coarse_gmacs < cost.fine_gmacs < cost.both_gmacs < cost.dense_gmacs
    assert cost.gmacs_at(0) == cost.both_gmacs
    assert cost.gmacs_at(1) == cost.coarse_gmacs


# Names


def test_unknown_names_are_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match="tiny_256x192"):
        create_model("huge")
    with pytest.raises(ConfigError, match="paper, released"):
        create_model("tiny_256x192", "exact")


@pytest.mark.parametrize("variant", [v for v in VARIANTS.values() if v.stem == "patch"], ids=lambda v: v.name)
def test_released_names_are_one_to_one(variant):
    with torch.device("meta"):
        names = released_names(SHaRPose(variant, RELEASED))
    assert len(set(names.values())) == len(names)
    assert all(theirs.startswith(("backbone.", "keypoint_head.")) for theirs in names.values())


def test_the_attention_scale_can_be_set(images):
    plain, scaled = golden_model(MINI, PAPER), golden_model(MINI, PAPER)
    weights_module.set_attention_scale(scaled, 0.5 * plain.blocks[0].attn.scale)
    assert not torch.allclose(plain(images[:1]).heatmaps, scaled(images[:1]).heatmaps, atol=1e-3)
    made = create_model(MINI, attention_scale=0.123)
    assert {block.attn.scale for block in made.blocks} == {0.123}


# Weights


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that takes the place of the bundled weights', and MINI and LIGHT among the variants."""
    monkeypatch.setattr(weights_module, "BUNDLED", tmp_path)
    monkeypatch.setitem(VARIANTS, "mini", MINI)
    monkeypatch.setitem(VARIANTS, "light", LIGHT)
    return tmp_path


@pytest.mark.parametrize("half", [False, True])
def test_weights_round_trip(half, mini, shelf, images):
    path = shelf / "mine.safetensors"
    save_weights(mini, path, half=half, metadata={"quality_threshold": "0.7", "note": "x"})
    loaded, info = load_model(mini.variant.name, str(path))
    assert loaded.behaviour == mini.behaviour
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    tolerance = 1e-3 if half else 0
    for name, tensor in mini.state_dict().items():
        assert torch.allclose(loaded.state_dict()[name], tensor, rtol=tolerance, atol=tolerance)
    assert info.quality_threshold == 0.7
    assert info.metadata["note"] == "x"
    assert info.sha256 == file_sha256(path)
    assert path.stat().st_size < (3 if half else 5) * sum(p.numel() for p in mini.parameters())
    if not half:
        assert torch.equal(loaded(images[:1]).heatmaps, mini(images[:1]).heatmaps)
    assert list(shelf.iterdir()) == [path]  # no part file stays


def test_the_attention_scale_travels_with_the_weights(mini, shelf):
    other = golden_model(MINI, PAPER)
    weights_module.set_attention_scale(other, 0.2)
    save_weights(other, shelf / "scaled.safetensors")
    assert load_model("mini", str(shelf / "scaled.safetensors"))[0].blocks[0].attn.scale == 0.2


def test_bundled_weights_are_checked_against_their_card(mini, shelf):
    name = mini.variant.name
    assert bundled_weights(name) is None
    path = shelf / f"{name}.safetensors"
    save_weights(mini, path)
    (shelf / f"{name}.json").write_text(json.dumps({"sha256": file_sha256(path)}))
    assert bundled_weights(name) == path
    assert load_model(name)[1].path == str(path)

    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="was shipped"):
        load_model(name)
    (shelf / f"{name}.json").unlink()
    with pytest.raises(WeightsError, match="reinstall the package"):
        load_model(name)


def test_a_variant_without_weights_says_what_to_do(shelf, monkeypatch):
    with pytest.raises(WeightsError, match="--weights random"):
        load_model("mini")
    model, info = load_model("mini", "random")
    assert (info.sha256, info.quality_threshold) == ("", math.inf)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("a program's chance on its GPU"))
    again, _ = load_model("mini", "random")
    assert torch.equal(model.keypoint_tokens, again.keypoint_tokens)


def test_weights_of_another_variant_are_refused(mini, shelf):
    path = shelf / "mine.safetensors"
    save_weights(mini, path)
    with pytest.raises(WeightsError, match=f"use --model {mini.variant.name}"):
        load_model("tiny_256x192", str(path))


@pytest.mark.parametrize("name", ["there.is.none.safetensors", "notes.txt"])
def test_a_wrong_path_is_refused(name, shelf):
    (shelf / "notes.txt").write_text("x")
    with pytest.raises(WeightsError, match=r"safetensors"):
        load_model("mini", str(shelf / name))


def test_every_fault_of_a_checkpoint_is_named_at_once(shelf):
    model = create_model(MINI, "released")
    state = golden_state_dict(model)
    del state["backbone.norm.bias"]
    state["optimizer.step"] = torch.zeros(1)
    state["backbone.keypoint_tokens"] = torch.zeros(1, 16, 48)
    with pytest.raises(WeightsError) as caught:
        load_released_state_dict(model, state)
    text = str(caught.value)
    assert "missing: backbone.norm.bias" in text
    assert "surplus: optimizer.step" in text
    assert "weights for 16 keypoints, model with 17" in text


def test_a_network_that_the_authors_never_released_names_theirs(shelf, capsys):
    torch.save({"state_dict": golden_state_dict(create_model(MINI, "released"))}, shelf / "official.pth")
    wanted = r"no network like light; use --model small_256x192 or .* or base_mpii_256x256 or mini$"
    with pytest.raises(WeightsError, match=wanted):
        load_model("light", str(shelf / "official.pth"))
    arguments = ["weights", "import", str(shelf / "official.pth"), str(shelf / "ours.safetensors")]
    assert main([*arguments, "--model", "tiny_256x192"]) == 2
    assert "no network like tiny_256x192; use --model small_256x192" in capsys.readouterr().err
    assert not (shelf / "ours.safetensors").exists()


def load_model_file(path):
    return load_model("mini", str(path))


def amend_itself(path):
    amend(path, path, {})


@pytest.mark.parametrize("keep", [0, 1, 40, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_a_weights_error(keep, suffix, shelf):
    whole, cut = shelf / f"whole{suffix}", shelf / f"cut{suffix}"
    model = golden_model(MINI, RELEASED)
    if suffix == ".pth":
        torch.save({"state_dict": golden_state_dict(model)}, whole)
    else:
        save_weights(model, whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(WeightsError, match=r"cannot read .*cut"):
        load_model("mini", str(cut))


@pytest.mark.parametrize("read", [load_model_file, read_metadata, amend_itself, load_module, describe])
def test_all_that_reads_a_damaged_file_says_the_same(read, shelf):
    cut = shelf / "cut.safetensors"
    cut.write_bytes(b"\x09" + bytes(7) + b'{"a": 1')
    with pytest.raises(
        WeightsError, match=r"^cannot read .*cut\.safetensors: .*; is it a complete \.safetensors file\?$"
    ):
        read(cut)


def test_an_import_gives_the_released_networks_result(shelf, images):
    model = golden_model(MINI, RELEASED)
    torch.save({"state_dict": golden_state_dict(model), "meta": {"epoch": 210}}, shelf / "official.pth")
    import_released(shelf / "official.pth", shelf / "ours.safetensors", "mini", quality_threshold=0.9)
    ours, info = load_model("mini", str(shelf / "ours.safetensors"))
    direct, _ = load_model("mini", str(shelf / "official.pth"))
    assert ours.behaviour.name == direct.behaviour.name == "released"
    assert info.quality_threshold == 0.9
    for loaded in (ours, direct):
        assert torch.equal(loaded(images[:2]).heatmaps, model(images[:2]).heatmaps)
