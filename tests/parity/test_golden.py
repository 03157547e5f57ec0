"""The released behaviour against vectors that the authors' released network gave.

Each vector's weights and input are rebuilt by `golden_rule`; the vectors lie in ../shared/reference/golden, and how
they were made is written in ../shared/reference/released_model.md.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sharpose_rt.models import Behaviour, SHaRPose, SHaRPoseOutput, find_variant
from sharpose_rt.models.variants import PAPER, RELEASED
from tests.golden_rule import golden_images, golden_model

pytestmark = pytest.mark.shared


TAGS = pytest.mark.parametrize("golden", ["small_256x192", "base_256x192"], indirect=True)
SMALL = pytest.mark.parametrize("golden", ["small_256x192"], indirect=True)


@pytest.fixture(scope="module")
def golden(request, shared_dir):
    """Stored arrays, network, input, and our result with every crop refined."""
    tag = request.param
    path = shared_dir / "reference" / "golden" / f"golden_{tag}.npz"
    with np.load(path) as file:
        wanted = dict(file)
    model = golden_model(find_variant(tag), RELEASED)
    images = golden_images(tag, model.variant.size_hw)
    with torch.inference_mode():
        output = model(images, math.inf)
    return wanted, model, images, output


def _assert_near(found: torch.Tensor, wanted: np.ndarray, scale: float = 1.0) -> None:
    assert tuple(found.shape) == wanted.shape
    assert np.abs(found.numpy() - wanted.astype(np.float64)).max() < 1e-4 * scale


@TAGS
def test_coarse_heatmaps_and_quality(golden):
    wanted, _, _, output = golden
    _assert_near(output.coarse_heatmaps, wanted["coarse_heatmaps"], wanted["coarse_heatmaps"].std())
    _assert_near(output.quality, wanted["quality"])


@TAGS
def test_scores_and_selected_cells(golden):
    wanted, _, _, output = golden
    _assert_near(output.cell_scores, wanted["scores"], wanted["scores"].std())
    assert np.array_equal(output.selected_cells.numpy(), wanted["selected"])


@SMALL
def test_scores_over_all_rows_are_those_of_the_paper(golden):
    """Eq. 7 as written: the mean over every keypoint row, where the released code sums all but the last."""
    wanted, model, images, _ = golden
    as_written = replace(RELEASED, skip_last_keypoint_row=False, sum_keypoint_rows=False)
    coarse = _with_behaviour(model, as_written).coarse_stage(images)
    _assert_near(coarse.cell_scores, wanted["scores_all_rows"], wanted["scores_all_rows"].std())


@TAGS
def test_fine_heatmaps(golden):
    wanted, _, _, output = golden
    assert output.refined.all()
    _assert_near(output.heatmaps, wanted["fine_heatmaps"], wanted["fine_heatmaps"].std())


@TAGS
def test_gated_result(golden):
    wanted, model, images, output = golden
    with torch.inference_mode():
        gated: SHaRPoseOutput = model(images, float(wanted["gate_threshold"]))
    assert gated.refined.sum() == wanted["refined"]
    assert 0 < gated.refined.sum() < len(images)  # else the vector would test nothing
    assert gated.refined.tolist() == (wanted["quality"] < wanted["gate_threshold"]).tolist()
    half_rounding = 2**-10 * np.abs(wanted["gated_heatmaps"].astype(np.float64)).max()  # stored as float16
    error = np.abs(gated.heatmaps.numpy() - wanted["gated_heatmaps"].astype(np.float64)).max()
    assert error < half_rounding + 1e-4
    wanted_exactly = torch.where(gated.refined[:, None, None, None], output.heatmaps, output.coarse_heatmaps)
    assert (gated.heatmaps - wanted_exactly).abs().max() < 1e-4


@SMALL
def test_the_papers_behaviour_differs(golden):
    """That the agreement above is no accident: the paper's text gives other heatmaps from the same weights."""
    wanted, model, images, _ = golden
    output = _with_behaviour(model, PAPER)(images[:1])
    assert np.abs(output.heatmaps.numpy() - wanted["fine_heatmaps"][:1]).max() > 0.01


def _with_behaviour(model: SHaRPose, behaviour: Behaviour) -> SHaRPose:
    with torch.device("meta"):
        other = SHaRPose(model.variant, behaviour)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval().requires_grad_(False)
