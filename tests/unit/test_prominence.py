"""Actors come before bystanders in arrays and windows for action recognition."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpose_rt.app import FileRun
from sharpose_rt.config import load
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import FrameRecord, Header, StreamReader, StreamWriter, action_array, windows
from sharpose_rt.skeletons.convert import convert
from sharpose_rt.skeletons.prominence import Prominence
from sharpose_rt.types import Poses, PoseStage

WH = (1920, 1080)
Person = tuple[float, float, float]
"""Height px, how far the limbs move in heights, and the score of each keypoint."""


def _poses(people: Sequence[Person], t: int, ids: Sequence[int], shift: Sequence[float] = (0, 0)) -> Poses:
    joints = np.stack([np.linspace(-0.2, 0.2, 17), np.linspace(-0.5, 0.5, 17)], axis=1)
    waving = np.sin(0.7 * t + np.arange(17))[:, None] * (1.0, 0.5)
    points, boxes, scores = np.zeros((len(people), 17, 2)), np.zeros((len(people), 4)), np.zeros((len(people), 17))
    for i, (height_px, moved, score) in enumerate(people):
        centre = np.array([400 + 300 * i, 500]) + shift
        points[i] = centre + height_px * (joints + moved * waving)
        boxes[i] = [*(centre - height_px * np.array([0.25, 0.5])), *(centre + height_px * np.array([0.25, 0.5]))]
        scores[i] = score
    n = len(people)
    stage = np.full(n, PoseStage.FINE)
    shown = points.astype(np.float32), scores.astype(np.float32)
    return Poses(boxes, np.ones(n), np.array(ids), *shown, *shown, np.ones(n), stage)  # type: ignore[arg-type]


def _clip(people: Sequence[Person], seen: Callable[[int, int], bool] = lambda i, t: True, **more: float) -> list[Poses]:
    """Twenty frames; `seen` says whether person i is in frame t, `pan_px` moves everybody so far a frame."""
    frames = []
    for t in range(20):
        there = [i for i in range(len(people)) if seen(i, t)]
        one = _poses(people, t, range(1, len(people) + 1), (more.get("pan_px", 0.0) * t, 0))
        frames.append(one.kept(np.isin(np.arange(len(people)), there)))
    return frames


def _order(frames: Sequence[Poses]) -> list[int]:
    prominence = Prominence()
    for poses in frames:
        prominence.add(poses.track_ids.tolist(), poses, raw=False)
    strengths = prominence.strengths()
    return sorted(strengths, key=lambda key: -strengths[key])


STILL_AND_SURE, SMALL_AND_BLURRED = (500.0, 0.002, 0.95), (400.0, 0.1, 0.5)


def test_who_moves_comes_before_who_stands_in_plain_view() -> None:
    assert _order(_clip([STILL_AND_SURE, SMALL_AND_BLURRED])) == [2, 1]
    assert _order(_clip([STILL_AND_SURE, SMALL_AND_BLURRED], lambda i, t: i == 0 or t < 10)) == [2, 1]  # leaves early


def test_a_camera_that_pans_makes_nobody_an_actor() -> None:
    panned = _clip([STILL_AND_SURE, SMALL_AND_BLURRED], pan_px=40.0)
    assert _order(panned) == [2, 1]


def test_of_those_who_move_alike_the_larger_and_those_who_stay_longer_come_first() -> None:
    assert _order(_clip([(200.0, 0.1, 0.8), (600.0, 0.1, 0.8)])) == [2, 1]
    assert _order(_clip([(300.0, 0.1, 0.8), (300.0, 0.1, 0.8)], lambda i, t: i == 1 or t < 12)) == [2, 1]


def test_people_of_a_single_frame_come_by_size_and_score() -> None:
    assert _order([_poses([(200.0, 0.0, 0.9), (500.0, 0.0, 0.9), (500.0, 0.0, 0.5)], 0, [1, 2, 3])]) == [2, 3, 1]


@given(people=st.integers(1, 40), order=st.randoms(use_true_random=False))
def test_when_somebody_appears_changes_nothing(people: int, order: object) -> None:
    """Also past the places that are kept ready: each has the strength that they have alone."""
    ids = list(range(1, people + 1))
    order.shuffle(ids)  # type: ignore[attr-defined]
    together = Prominence()
    for t in range(6):
        for i in ids:
            together.add([i], _poses([(100.0 + i, 0.1, 0.5)], t, [i]), raw=False)
    alone = Prominence()
    for t in range(6):
        alone.add([7], _poses([(100.0 + ids[0], 0.1, 0.5)], t, [7]), raw=False)
    assert together.strengths()[ids[0]] == pytest.approx(alone.strengths()[7])
    assert len(together.strengths()) == people


def test_keypoints_that_were_not_found_move_nowhere() -> None:
    frames = []
    for t, poses in enumerate(_clip([STILL_AND_SURE, SMALL_AND_BLURRED])):
        hidden = poses.keypoint_scores.copy()
        hidden[0, 5:] = 0 if t % 2 else 0.95
        points = poses.keypoints.copy()
        points[hidden == 0] = 0
        frames.append(Poses(*[getattr(poses, n) for n in ("bboxes_xyxy", "bbox_scores", "track_ids")], points, hidden,
                            points, hidden, poses.quality, poses.stage))  # fmt: skip
    assert _order(frames) == [2, 1]


def test_arrays_pickles_and_windows_take_the_actor(tmp_path: Path) -> None:
    frames = _clip([STILL_AND_SURE, SMALL_AND_BLURRED])
    path = tmp_path / "clip.skeletons.jsonl"
    with StreamWriter(path, Header("clip.mp4", WH, 25.0, COCO17, {"name": "tiny"}, "a", "b", "none", "0")) as writer:
        for t, poses in enumerate(frames):
            writer.write(t, t / 25, poses)
    assert action_array(path, 1).track_ids.tolist() == [2]
    (written,) = convert(path, "pyskl", person_slots=1)
    (annotation,) = pickle.loads(written.read_bytes())["annotations"]
    np.testing.assert_allclose(annotation["keypoint"][0], [poses.keypoints[1] for poses in frames], atol=0.01)
    records = [FrameRecord(t, t / 25, poses) for t, poses in enumerate(frames)]
    (window,) = windows(records, length=20, person_slots=1, normalize="none")
    assert window.track_ids.tolist() == [[2]]


@pytest.mark.shared
def test_the_two_who_act_come_before_the_third_who_stands_behind(shared_dir: Path, tmp_path: Path) -> None:
    clip = shared_dir / "video" / "pose2sim_multi_cam01.mp4"
    config = load(None, ["source.stride=4", "source.max_frames=20", "detector.name=bundled", "output.video=false"],
                  options={"output": {"directory": str(tmp_path)}, "offline": True})  # fmt: skip
    results = FileRun(str(clip), config).run()
    assert results.stream is not None
    sizes_px: dict[int, list[float]] = {}
    for frame in StreamReader(results.stream):
        for person in frame.poses:
            sizes_px.setdefault(person.track_id, []).append(float(person.bbox_xyxy[3] - person.bbox_xyxy[1]))
    whole = {track_id: np.median(heights) for track_id, heights in sizes_px.items() if len(heights) > 10}
    assert len(whole) == 3
    behind = min(whole, key=lambda track_id: whole[track_id])
    assert action_array(results.stream, 3).track_ids.tolist()[2] == behind
