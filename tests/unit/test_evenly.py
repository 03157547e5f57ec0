"""Frames at even steps of media time: who moves evenly is seen to, whatever times the frames have."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpose_rt.api import TrackedFrame
from sharpose_rt.errors import ConfigError
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import FrameRecord, Header, StreamReader, StreamWriter, action_array, at_fps, windows
from sharpose_rt.skeletons.convert import convert, options_of
from sharpose_rt.types import Frame, Poses, PoseStage

SPEED = np.array([30.0, -12.0])


def people(time_s: float, ids: list[int], score: float = 0.5) -> Poses:
    """Everybody moves at `SPEED`, px/s, from (100 id, 200)."""
    n = len(ids)
    places = np.array([[100.0 * i, 200.0] for i in ids]).reshape(n, 2) + time_s * SPEED
    points = np.repeat(places[:, None], 17, 1) + np.arange(17)[None, :, None]
    boxes = np.hstack([places - 5, places + 25])
    scores = np.full((n, 17), score)
    stages = np.full(n, int(PoseStage.FINE))
    return Poses(boxes, np.ones(n), np.array(ids, np.int64), points, scores, points + 1, scores, np.ones(n), stages)


def record(time_s: float, ids: list[int], number: int = 0, **more: object) -> FrameRecord:
    return FrameRecord(number, time_s, people(time_s, ids), **more)  # type: ignore[arg-type]


def expect(poses: Poses, time_s: float, ids: list[int]) -> None:
    wanted = people(time_s, ids)
    assert poses.track_ids.tolist() == ids
    for name in ("bboxes_xyxy", "keypoints", "raw_keypoints", "keypoint_scores"):
        np.testing.assert_allclose(getattr(poses, name), getattr(wanted, name), atol=0.04)


@given(
    gaps=st.lists(st.floats(1e-3, 0.4), min_size=1, max_size=12),
    fps=st.floats(0.5, 100),
    start_s=st.floats(-5, 5),
)
def test_who_moves_evenly_does_so_at_any_rate(gaps: list[float], fps: float, start_s: float) -> None:
    times = start_s + np.cumsum([0.0, *gaps])
    found = list(at_fps([record(float(t), [1, 3], n) for n, t in enumerate(times)], fps))
    assert [frame.frame_id for frame in found] == list(range(len(found)))
    for n, frame in enumerate(found):
        assert frame.pts_s == pytest.approx(start_s + n / fps)
        expect(frame.poses, frame.pts_s, [1, 3])
    assert found[-1].pts_s <= times[-1] + 1e-5 < found[-1].pts_s + 1 / fps + 2e-5


@pytest.mark.parametrize("fps", [10, 24, 25, 30, 60, 24000 / 1001])
def test_frames_at_the_same_steps_stay_as_they_are(fps: float) -> None:
    given_ = [record(round(n / fps, 6), [1, 2] if n % 3 else [2], n) for n in range(50)]  # as a stream rounds times
    found = list(at_fps(given_, fps))
    assert len(found) == len(given_)
    for frame, before in zip(found, given_, strict=True):
        assert frame.poses is before.poses


def test_who_comes_or_goes_is_where_the_nearer_frame_has_them() -> None:
    frames = [record(0.0, [1, 2]), record(0.3, [3, 1])]
    found = list(at_fps(frames, 10))
    assert [frame.poses.track_ids.tolist() for frame in found] == [[1, 2], [1, 2], [3, 1], [3, 1]]
    expect(found[1].poses.kept(found[1].poses.track_ids == 1), 0.1, [1])
    expect(found[1].poses.kept(found[1].poses.track_ids == 2), 0.0, [2])  # nobody knows where they went
    expect(found[2].poses.kept(found[2].poses.track_ids == 3), 0.3, [3])


def test_a_keypoint_that_one_frame_lacks_is_not_drawn_to_the_corner() -> None:
    lacking = people(0.2, [1])
    points, scores = lacking.keypoints.copy(), lacking.keypoint_scores.copy()
    points[0, 5], scores[0, 5] = 0, 0
    after = FrameRecord(1, 0.2, replace(lacking, keypoints=points, keypoint_scores=scores))
    near, _, far = list(at_fps([record(0.0, [1]), after], 15))[1:]
    wanted = people(0.0, [1])
    np.testing.assert_array_equal(near.poses.keypoints[0, 5], wanted.keypoints[0, 5])
    assert near.poses.keypoint_scores[0, 5] == 0.5
    assert far.poses.keypoint_scores[0, 5] == 0
    np.testing.assert_allclose(near.poses.raw_keypoints, people(1 / 15, [1]).raw_keypoints, atol=0.01)


def test_people_without_ids_are_never_mixed() -> None:
    frames = [record(0.0, [1]), record(0.2, [2])]
    frames = [replace(one, poses=replace(one.poses, track_ids=np.zeros(1, np.int64))) for one in frames]
    found = list(at_fps(frames, 20))
    assert [float(frame.poses.keypoints[0, 0, 0]) for frame in found] == [100, 100, 100, 206, 206]


def test_nobody_moves_across_a_cut_or_while_a_camera_is_away() -> None:
    frames = [record(0.0, [1]), record(0.2, [1], new_scene=True), record(2.2, [1])]
    found = list(at_fps(frames, 10))
    assert [frame.new_scene for frame in found] == [n == 2 for n in range(23)]
    expect(found[1].poses, 0.0, [1])
    expect(found[2].poses, 0.2, [1])
    assert [len(frame.poses) for frame in found[3:22]] == [0] * 19
    expect(found[22].poses, 2.2, [1])

    smaller = [record(0.0, [1], frame_size_wh=(640, 480)), record(0.2, [1], frame_size_wh=(320, 240))]
    found = list(at_fps(smaller, 10))
    assert [frame.frame_size_wh for frame in found] == [(640, 480), (640, 480), (320, 240)]
    assert [frame.new_scene for frame in found] == [False, False, True]
    expect(found[1].poses, 0.0, [1])


def test_each_video_has_steps_of_its_own() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    frames = [
        TrackedFrame(Frame(n, n * 0.1, picture), people(n * 0.1, [1]), COCO17, source=video)
        for video in ("a.mp4", "b.mp4")
        for n in range(4)
    ]
    found = list(at_fps(frames, 20))
    assert [(frame.source, round(frame.pts_s, 6)) for frame in found] == [
        (video, round(n * 0.05, 6)) for video in ("a.mp4", "b.mp4") for n in range(7)
    ]
    assert {frame.frame_size_wh for frame in found} == {(30, 20)}
    got = list(windows(frames, length=7, stride=7, fps=20, person_slots=1))
    assert len(got) == 2
    for _, data, pts_s in got:
        np.testing.assert_allclose(pts_s[0], np.arange(7) / 20)
        steps = np.diff(data[0, 0, :, 0, 0]) * 30 * 20  # px/s
        np.testing.assert_allclose(steps, SPEED[0], rtol=1e-3)
    falling = [record(t, [1]) for t in (0.0, 0.1, 0.0, 0.1)]
    assert [round(frame.pts_s, 6) for frame in at_fps(falling, 10)] == [0.0, 0.1, 0.0, 0.1]


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A second of a camera that gave from 5 to 30 frames a second."""
    header = Header("cam.mp4", (640, 480), None, COCO17, {}, "", "", "", "")
    times = [0.0, 0.2, 0.4, 0.45, 0.5, 0.6, 0.6333, 0.6667, 0.7, 0.85, 1.0]
    with StreamWriter(tmp_path / "cam.skeletons.jsonl", header) as writer:
        for n, time_s in enumerate(times):
            writer.write(n, time_s, people(time_s, [1, 2]))
    return tmp_path / "cam.skeletons.jsonl"


def test_arrays_and_formats_take_them(slow: Path) -> None:
    array = action_array(slow, fps=30)
    assert array.keypoints.shape == (2, 31, 17, 2)
    np.testing.assert_allclose(array.pts_s, np.arange(31) / 30)
    np.testing.assert_allclose(np.diff(array.keypoints[0, :, 0], axis=0) * 30, np.tile(SPEED, (30, 1)), atol=0.5)
    (path,) = convert(slow, "pyskl", **options_of(["fps=30"]))
    (annotation,) = pickle.loads(path.read_bytes())["annotations"]
    assert annotation["total_frames"] == 31
    np.testing.assert_array_equal(annotation["keypoint"], array.keypoints)
    (path,) = convert(slow, "kinetics", fps=15)
    assert path.read_text().count('"frame_index"') == 16
    assert '"frame_index":16' in path.read_text()
    assert len(action_array(slow).pts_s) == 11


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1001])
def test_rates_that_are_none(slow: Path, fps: float) -> None:
    for ask in (lambda: at_fps(StreamReader(slow), fps), lambda: action_array(slow, fps=fps)):
        with pytest.raises(ConfigError, match=r"fps is .*; above 0"):
            ask()
    with pytest.raises(ConfigError, match="fps"):
        convert(slow, "pyskl", fps=fps)
