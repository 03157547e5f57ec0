"""What the fine stage changed is carried on: in the arithmetic, in the engine and in whole runs."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from people_set import SMALL

from sharpose_rt.config import PoseConfig, load
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import ConfigError
from sharpose_rt.machine.photographs import PEOPLE, load_photograph
from sharpose_rt.models import VARIANTS
from sharpose_rt.models.gate import Outlook
from sharpose_rt.skeleton import COCO17
from sharpose_rt.stages import EstimateStage
from sharpose_rt.stages.refinement import FADES_S, FADES_SIZES, TRUST, Place, Refinement, surprises
from sharpose_rt.types import Frame, Packet, Poses, PoseStage, Tracks

PLAIN = [f"pose.model={SMALL.name}", "pose.weights=random", "pose.precision=fp32", "pose.backend=torch"]
SIZE_PX = 100.0
CENTRE = np.array([300.0, 200.0])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)


def pose(seed: int = 0) -> np.ndarray:
    return (CENTRE + np.random.default_rng(seed).uniform(-50, 50, (17, 2))).astype(np.float32)


def at(pts_s: float) -> Place:
    return Place(CENTRE, SIZE_PX, pts_s)


def scores(value: float) -> np.ndarray:
    return np.full(17, value, np.float32)


# --- the arithmetic


@given(
    bias=st.tuples(st.floats(-8, 8), st.floats(-8, 8)),
    gap_s=st.floats(0, 1),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    zoom=st.floats(0.2, 5),
)
def test_a_change_goes_with_the_person_and_fades_as_is_stated(
    bias: tuple[float, float], gap_s: float, shift: tuple[float, float], zoom: float
) -> None:
    last, truth = Refinement(), pose()
    last.refined(((truth + bias).astype(np.float32), scores(0.5)), (truth, scores(0.7)), at(2.0))
    place = lambda points: (CENTRE + shift + zoom * (points - CENTRE)).astype(np.float32)  # noqa: E731
    now = place(truth + np.array(bias)), scores(0.4)
    keypoints, sure = last.corrected(now, Place(CENTRE + shift, zoom * SIZE_PX, 2.0 + gap_s))
    left = math.exp(-gap_s / FADES_S)
    np.testing.assert_allclose(keypoints, place(truth + (1 - left) * np.array(bias)), atol=0.01 * zoom + 1e-3)
    np.testing.assert_allclose(sure, 0.4 + left * 0.2, atol=1e-5)


def test_of_a_limb_that_has_moved_within_the_box_less_is_left() -> None:
    last, truth = Refinement(), pose()
    coarse = truth + np.float32(6)
    last.refined((coarse, scores(0.5)), (truth, scores(0.5)), at(0.0))
    moved = coarse.copy()
    moved[9] += np.array([FADES_SIZES * SIZE_PX, 0], np.float32)
    change = moved - last.corrected((moved, scores(0.5)), at(0.0))[0]
    np.testing.assert_allclose(change[:9], 6, atol=1e-3)
    np.testing.assert_allclose(change[9], 6 / math.e, atol=1e-3)


def test_without_a_fine_stage_before_a_pose_stays_as_it_is() -> None:
    last, found = Refinement(), (pose(), scores(0.3))
    assert last.corrected(found, at(0.0))[0] is found[0]
    last.came_out(pose(1), 0.0)
    np.testing.assert_array_equal(last.steadied(found[0], last.expected(0.1), at(0.1)), found[0])


def test_scores_stay_in_their_range() -> None:
    last = Refinement()
    last.refined((pose(), scores(0.1)), (pose(), scores(0.9)), at(0.0))
    assert last.corrected((pose(), scores(0.8)), at(0.0))[1].max() == 1
    last.refined((pose(), scores(0.9)), (pose(), scores(0.1)), at(0.0))
    assert last.corrected((pose(), scores(0.2)), at(0.0))[1].min() == 0


def test_noise_near_the_expected_place_is_halved_and_a_movement_is_not() -> None:
    last, there = Refinement(), pose()
    last.refined((there, scores(0.5)), (there, scores(0.5)), at(0.1))
    for pts_s in (0.0, 0.1):
        last.came_out(there, pts_s)
    off = np.zeros((17, 2), np.float32)
    off[0], off[1] = [0.2, 0], [40, 0]
    steady = last.steadied(there + off, last.expected(0.1), at(0.1))
    np.testing.assert_allclose(steady[0] - there[0], [(1 - TRUST) * 0.2, 0], atol=0.01)
    np.testing.assert_allclose(steady[1] - there[1], [40, 0], atol=0.01)


@given(st.floats(0.01, 0.5), st.tuples(st.floats(-300, 300), st.floats(-300, 300)))
def test_steady_motion_is_no_surprise_also_where_the_camera_moves_on(
    step_s: float, velocity: tuple[float, float]
) -> None:
    last, start = Refinement(), pose()
    poses = [(start + np.array(velocity) * n * step_s).astype(np.float32) for n in range(3)]
    for n in range(2):
        last.came_out(poses[n], n * step_s)
    camera = np.array([[1.0, 0, 25], [0, 1, -60]])
    last.moved(camera)
    seen = poses[2] + np.array([25, -60], np.float32)
    expected, sizes_px = [last.expected(2 * step_s)], [SIZE_PX]
    assert surprises([(seen, scores(0.5))], expected, sizes_px, COCO17.sigmas)[0] < 1e-3
    jumped = seen.copy()
    jumped[:8] += np.float32(200)
    surprise = surprises([(jumped, scores(0.5))], expected, sizes_px, COCO17.sigmas)
    assert surprise[0] == pytest.approx(8 / 17, abs=0.01)
    assert surprises([(seen, scores(0.5))], [Refinement().expected(0.0)], sizes_px, COCO17.sigmas).tolist() == [1.0]
    assert surprises([], [], [], COCO17.sigmas).tolist() == []


def test_frames_of_one_time_expect_the_same_place() -> None:
    last = Refinement()
    last.came_out(pose(), 1.0)
    last.came_out(pose(1), 1.0)
    expected = last.expected(1.0)
    assert expected is not None
    np.testing.assert_allclose(expected, pose(1))


# --- the engine


def test_the_engine_shows_coarse_poses_where_they_are_in_the_pictures() -> None:
    engine = PoseEngine(load(None, [*PLAIN, "pose.max_batch=3"]).pose)
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 255, (200, 500, 3), np.uint8) for _ in range(2)]
    boxes = [np.array([[80.0 * i, 10, 80.0 * i + 70, 190] for i in range(n)], np.float32) for n in (4, 1)]
    shown: list[tuple[np.ndarray, np.ndarray]] = []

    def nobody(rows: slice, outlook: Outlook) -> np.ndarray:
        assert outlook.coarse is not None
        shown.append(outlook.coarse())
        return np.zeros(len(range(5)[rows]), bool)

    found = engine.estimate_all(list(zip(pictures, boxes, strict=True)), nobody)
    assert [len(keypoints) for keypoints, _ in shown] == [3, 2]
    for place in (0, 1):
        together = np.concatenate([part[place] for part in shown])
        wanted = np.concatenate([(poses.keypoints, poses.scores)[place] for poses in found])
        np.testing.assert_allclose(together, wanted, atol=1e-3)


# --- the stage and whole runs


def walkers(count: int, people: int = 2) -> list[Packet]:
    """People before a bus whom a camera passes, 6 px a frame, with the boxes of the photograph."""
    image = load_photograph("bus.jpg")
    assert image is not None
    boxes = np.array(PEOPLE["bus.jpg"][:people], np.float32)
    ids, sure = np.arange(1, len(boxes) + 1), np.ones(len(boxes), np.float32)
    found = []
    for n in range(count):
        shift = np.array([6 * n, 0, 6 * n, 0], np.float32)
        picture = np.asarray(
            cv2.warpAffine(image, np.array([[1, 0, 6 * n], [0, 1, 0]], np.float32), image.shape[1::-1]), np.uint8
        )
        camera = None if n == 0 else np.array([[1.0, 0, 6], [0, 1, 0]])
        tracks = Tracks(boxes + shift, sure, ids, sure > 0)
        found.append(Packet(Frame(n, n / 25, picture), tracks=tracks, camera=camera))
    return found


def poses_of(config: PoseConfig, items: list[Packet]) -> list[Poses]:
    stage = EstimateStage(lambda: PoseEngine(config))
    stage.open()
    found = [packet.poses for item in items for packet in stage.process(item)]
    return [poses for poses in found if poses is not None]


SHIPPED = PoseConfig(precision="fp32", backend="torch", device="cpu")


def test_poses_that_are_not_refined_stay_near_those_that_are() -> None:
    items = walkers(7)
    every, coarse, carried = (
        poses_of(config, items)
        for config in (SHIPPED, replace(SHIPPED, quality_threshold=-1.0), replace(SHIPPED, refine_every=3))
    )
    stages = np.array([poses.stage for poses in carried])
    assert (stages[0] == PoseStage.FINE).all()
    assert (stages == PoseStage.COARSE).mean() > 0.4
    assert ((stages == PoseStage.FINE).sum(0) >= 3).all()  # each had a turn again, and again

    def off_px(found: list[Poses]) -> float:
        sure = np.array([poses.keypoint_scores for poses in every]) > 0.5
        kept = np.array([poses.stage for poses in carried]) == PoseStage.COARSE
        away = [np.abs(a.keypoints - b.keypoints).max(-1) for a, b in zip(found, every, strict=True)]
        return float(np.mean(np.array(away)[sure & kept[..., None]]))

    assert off_px(carried) < 0.5 * off_px(coarse)


def test_a_live_run_that_drops_frames_does_so_by_itself_and_any_other_does_not() -> None:
    items = [
        replace(item, frame=replace(item.frame, captured_at_s=n / 25, dropped_before=n % 2))
        for n, item in enumerate(walkers(9, 1))
    ]

    def early(config: PoseConfig, *, live: bool) -> list[bool]:
        stage = EstimateStage(lambda: PoseEngine(config), live=live)
        stage.open()
        found = [packet.poses for item in items for packet in stage.process(item)]
        return [bool((poses.stage == PoseStage.COARSE).any()) for poses in found if poses is not None]

    pressed = early(SHIPPED, live=True)
    assert not any(pressed[:6])
    assert sum(pressed[6:]) >= 2
    assert not any(early(SHIPPED, live=False))
    assert not any(early(replace(SHIPPED, refine_every=1), live=True))


def test_a_person_who_comes_anew_takes_nothing_over() -> None:
    items = walkers(3, 4)
    assert items[2].tracks is not None
    items[2] = replace(items[2], tracks=replace(items[2].tracks, track_ids=np.array([1, 12, 13, 4])))
    stages = np.array([poses.stage for poses in poses_of(replace(SHIPPED, refine_every=9), items)])
    assert stages[1].tolist() == stages[2][[0, 3]].tolist() * 2 == [PoseStage.COARSE] * 4
    assert stages[2][[1, 2]].tolist() == [PoseStage.FINE] * 2


@pytest.mark.parametrize("value", [0, -1])
def test_odd_intervals_are_refused(value: int) -> None:
    with pytest.raises(ConfigError, match="refine_every"):
        PoseConfig(refine_every=value)
