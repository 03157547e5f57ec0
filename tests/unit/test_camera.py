"""The camera's motion is found, people's is none of it, and neither ids nor smoothing suffer from it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_worlds import STANDING, Score, View, follow, score, shaken, world

from sharpose_rt.config import SmoothConfig, TrackerConfig
from sharpose_rt.geometry.affine import apply_affine
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.skeleton import COCO17, WHOLEBODY133
from sharpose_rt.stages import TrackStage, count_dropped
from sharpose_rt.tracking import CameraMotion, KeypointSmoother, PeopleMotion, create_tracker, rts_smooth
from sharpose_rt.tracking.camera import HELD, RESTS
from sharpose_rt.types import Detections, Frame, Packet, Poses

NOBODY = np.zeros((0, 4), np.float32)
SIZE_WH = (960, 540)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return cv2.resize(read_photograph("bus.jpg"), None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC)


def view(photograph: np.ndarray, at_xy: tuple[float, float], turn_deg: float = 0.0, zoom: float = 1.0) -> np.ndarray:
    """A window onto the photograph, around a point of it."""
    to_view = cv2.getRotationMatrix2D(at_xy, turn_deg, zoom)
    to_view[:, 2] += np.array(SIZE_WH) / 2 - at_xy
    return cv2.warpAffine(photograph, to_view, SIZE_WH, flags=cv2.INTER_LINEAR)


def moves(
    camera: CameraMotion, images: list[np.ndarray], people: np.ndarray = NOBODY, fps: float = 25
) -> list[np.ndarray | None]:
    return [camera.step(image, people, n / fps) for n, image in enumerate(images)]


@given(
    dx=st.floats(-60, 60), dy=st.floats(-40, 40), turn_deg=st.floats(-2, 2), zoom=st.floats(0.97, 1.03)
)  # fmt: skip
@settings(max_examples=25)
def test_a_shift_a_turn_and_a_zoom_are_found(photograph, dx, dy, turn_deg, zoom):
    start = (640.0, 800.0)
    camera = CameraMotion()
    first = view(photograph, start)
    there, end = view(photograph, (start[0] + 20, start[1])), (start[0] + dx, start[1] + dy)
    (*_, found) = moves(camera, [first, there, first, view(photograph, end, turn_deg, zoom)])
    assert found is not None
    true = cv2.getRotationMatrix2D((start[0] + dx, start[1] + dy), turn_deg, zoom)
    points = np.array([[300.0, 200], [660, 340], [480, 270]])
    whole = points + start - np.array(SIZE_WH) / 2
    wanted = apply_affine(whole, true) + np.array(SIZE_WH) / 2 - (start[0] + dx, start[1] + dy)
    np.testing.assert_allclose(apply_affine(points, found), wanted, atol=2.0)


def test_a_picture_that_stands_still_has_no_motion(photograph):
    rng = np.random.default_rng(0)
    still = view(photograph, (640, 800)).astype(np.int16)
    noisy = [np.clip(still + rng.integers(-6, 7, still.shape), 0, 255).astype(np.uint8) for _ in range(20)]
    assert moves(CameraMotion(), noisy) == [None] * 20


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 900), (10, 10), (480, 640), (2160, 3840)])
def test_pictures_without_anything_to_follow_are_no_trouble(size_hw):
    blank = np.full((*size_hw, 3), 90, np.uint8)
    assert moves(CameraMotion(), [blank] * 3) == [None] * 3
    everywhere = np.array([[-50, -50, 9000, 9000]], np.float32)
    assert moves(CameraMotion(), [blank] * 3, everywhere) == [None] * 3


def test_people_who_move_are_not_the_camera(photograph):
    ground, person = view(photograph, (640, 800)), view(photograph, (640, 300))[20:520, 100:800]
    images = []
    for n in range(6):
        image = ground.copy()
        image[20:520, 60 + 12 * n : 760 + 12 * n] = person
        images.append(image)
    assert [found is not None for found in moves(CameraMotion(), images)] == [False] * 2 + [True] * 4
    boxes = [np.array([[60 + 12 * n, 20, 760 + 12 * n, 520]], np.float32) for n in range(6)]
    camera = CameraMotion()
    seen = zip(images, [NOBODY, *boxes], range(6), strict=False)
    assert [camera.step(image, box, n / 25) for image, box, n in seen] == [None] * 6
    stage = TrackStage(create_tracker(TrackerConfig(min_detections=1), COCO17), camera=CameraMotion())
    for n, (image, box) in enumerate(zip(images, boxes, strict=True)):
        stage.process(Packet(Frame(n, n / 25, image), Detections(box, np.full(1, 0.9, np.float32))))
    assert stage.moved_frames == 0


def test_a_camera_that_moves_is_followed_in_small_steps_too_until_it_rests(photograph):
    places = [640.0, 650, 660, *[660.5 + 0.5 * n for n in range(10)], *[665.0] * (RESTS + 5)]
    found = moves(CameraMotion(), [view(photograph, (x, 800)) for x in places])
    known = [camera is not None for camera in found]
    assert known == [False, False, *[True] * (RESTS), *[False] * (len(places) - RESTS - 2)]
    slow = [camera[0, 2] for camera in found[4:13] if camera is not None]
    assert np.mean(slow) == pytest.approx(-0.5, abs=0.2)


@pytest.mark.parametrize("fps", [30, 60, 120])
def test_a_slow_pan_is_one_at_any_rate(photograph, fps):
    pan = [view(photograph, (500 + 48 * n / fps, 800)) for n in range(fps)]  # of a twentieth of the width in a second
    found = moves(CameraMotion(), pan, fps=fps)
    assert [camera is not None for camera in found[6 * fps // 30 :]] == [True] * (fps - 6 * fps // 30)
    still = [camera[0, 2] for camera in found if camera is not None]
    assert sum(still) == pytest.approx(-48 * len(still) / fps, rel=0.1)
    assert moves(CameraMotion(), [pan[0]] * fps, fps=fps) == [None] * fps


@pytest.mark.parametrize("times", [2, 3, 6])
def test_a_pan_that_is_stored_at_more_frames_a_second_is_the_same(photograph, times):
    views = [view(photograph, (640 + 10 * n, 800)) for n in range(12)]
    once = moves(CameraMotion(), views, fps=10)
    more = moves(CameraMotion(), [seen for seen in views for _ in range(times)], fps=10 * times)
    for found, before in zip(more[::times], once, strict=True):
        assert (found is None) == (before is None)
        assert found is None or np.allclose(found, before, atol=0.1)
    others = [found for place, found in enumerate(more) if place % times and found is not None]
    assert all(np.allclose(found, np.eye(2, 3), atol=0.01) for found in others)


def test_what_cannot_be_known_goes_on_for_a_while(photograph):
    camera = CameraMotion()
    moves(camera, [view(photograph, (600 + 10 * n, 800)) for n in range(4)])
    dark = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
    found = moves(camera, [dark] * (HELD + 3))
    assert [one is not None for one in found] == [True] * HELD + [False] * 3
    assert found[0] is not None
    assert found[0][0, 2] == pytest.approx(-10, abs=1)
    camera.forget()
    assert moves(camera, [view(photograph, (640 + 30 * n, 800)) for n in range(2)]) == [None, None]
    shaking = [view(photograph, (640 + 12 * (n % 2), 800)) for n in range(30)]
    (*_, held) = moves(CameraMotion(), [*shaking, dark])
    assert held is not None
    assert abs(held[0, 2]) < 3  # it shook by 12


def test_a_hand_that_shakes_costs_no_identity():
    made = [(world(seed=seed, people=16), seed) for seed in (20, 21)]
    totals = []
    for see in (lambda views, seed: views, shaken, _blindly):
        seen = [see(views, seed) for views, seed in made]
        counts = [score(views, follow(views, create_tracker(TrackerConfig(), COCO17))) for views in seen]
        totals.append(sum(counts, Score()))
    still, followed, blind = totals
    assert (followed.switches, followed.ids, followed.tracked) == (still.switches, still.ids, still.tracked)
    assert blind.switches > 1.5 * followed.switches


def _blindly(views: list[View], seed: int) -> list[View]:
    return [replace(view, camera=None) for view in shaken(views, seed)]


def test_boxes_that_wait_for_the_detector_go_with_the_camera():
    tracker = create_tracker(TrackerConfig(), COCO17)
    box = np.array([[100, 100, 180, 300]], np.float32)
    tracker.update(Detections(box, np.array([0.9], np.float32)), 0.0)
    camera = np.array([[1.0, 0, 40], [0, 1, -15]])
    carried = tracker.update(None, 0.04, None, camera)
    np.testing.assert_allclose(carried.bboxes_xyxy[0], box[0] + [40, -15, 40, -15], atol=0.1)
    zoomed = tracker.update(None, 0.08, None, np.array([[2.0, 0, 0], [0, 2, 0]]))
    np.testing.assert_allclose(zoomed.bboxes_xyxy[0], 2 * carried.bboxes_xyxy[0], atol=0.5)


def some_frames(seed: int, count: int = 30) -> list[tuple[float, Poses]]:
    """One person who walks and waves, seen with noise, away for three frames."""
    rng = np.random.default_rng(seed)
    frames = []
    for n in range(count):
        points = rng.uniform(0, 1, (17, 2)) * 4 + np.linspace(50, 200, 34).reshape(17, 2) + [4 * n, 0]
        here = n not in (12, 13, 14)
        box = np.array([[40 + 4 * n, 40, 220 + 4 * n, 220]], np.float32)[:here]
        one, keypoints = np.ones(len(box), np.float32), points[None][:here].astype(np.float32)
        scores = rng.uniform(0.2, 0.9, (len(box), 17)).astype(np.float32)
        ids = np.ones(len(box), np.int64)
        poses = Poses(box, one, ids, keypoints, scores, keypoints, scores, one, np.zeros(len(box), np.int64))
        frames.append((n / 25, poses))
    return frames


def filmed(frames, seed: int):
    """The same frames through a hand: moved poses, the shifts, and the camera's motion before each."""
    shifts = np.cumsum(np.random.default_rng(seed).normal(0, 20, (len(frames), 2)), 0)
    cameras = [None, *(np.column_stack([np.eye(2), step]) for step in np.diff(shifts, axis=0))]
    moved = []
    for (pts_s, poses), shift in zip(frames, shifts, strict=True):
        points = (poses.raw_keypoints + shift).astype(np.float32)
        boxes = (poses.bboxes_xyxy + np.tile(shift, 2)).astype(np.float32)
        moved.append((pts_s, replace(poses, bboxes_xyxy=boxes, keypoints=points, raw_keypoints=points)))
    return moved, shifts, cameras


@given(seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_smoothing_is_the_same_in_a_shaken_picture(seed):
    frames = some_frames(seed)
    moved, shifts, cameras = filmed(frames, seed + 1)
    for both_ways in (False, True):
        if both_ways:
            still = rts_smooth(frames, SmoothConfig(), COCO17)
            found = rts_smooth(moved, SmoothConfig(), COCO17, cameras)
            blind = rts_smooth(moved, SmoothConfig(), COCO17)
        else:
            one, two, three = (KeypointSmoother(SmoothConfig(), COCO17) for _ in range(3))
            still = [one.update(poses, at_s) for at_s, poses in frames]
            found = [two.update(poses, at_s, (), c) for (at_s, poses), c in zip(moved, cameras, strict=True)]
            blind = [three.update(poses, at_s) for at_s, poses in moved]
        assert [len(poses) for poses in found] == [len(poses) for poses in still]
        assert sum(len(poses) for poses in still) == len(frames)  # the gap is filled
        worst = blindly = 0.0
        for a, b, c, shift in zip(still, found, blind, shifts, strict=True):
            worst = max(worst, np.abs(b.keypoints - a.keypoints - shift).max())
            np.testing.assert_allclose(b.keypoint_scores, a.keypoint_scores, atol=1e-5)
            np.testing.assert_allclose(b.bboxes_xyxy - np.tile(shift, 2), a.bboxes_xyxy, atol=0.05)
            if len(c) == len(a):
                blindly = max(blindly, np.abs(c.keypoints - a.keypoints - shift).max())
        assert worst < 0.05
        assert blindly > 1


def test_what_the_camera_did_before_a_dropped_frame_goes_on_with_the_next():
    turn, shift = np.array([[0.0, -1, 5], [1, 0, 2]]), np.array([[1.0, 0, 10], [0, 1, -3]])

    def kept(before: np.ndarray | None, after: np.ndarray | None, *, cut: str = "") -> np.ndarray | None:
        blank = np.zeros((4, 4, 3), np.uint8)
        dropped = Packet(Frame(0, 0.0, blank), camera=before, new_scene=cut == "dropped")
        return count_dropped(dropped, Packet(Frame(1, 0.1, blank), camera=after, new_scene=cut == "kept")).camera

    points = np.array([[1.0, 2], [30, 40]])
    both = kept(turn, shift)
    assert both is not None
    np.testing.assert_allclose(apply_affine(points, both), apply_affine(apply_affine(points, turn), shift))
    assert kept(turn, None) is turn
    assert kept(None, shift) is shift
    assert kept(None, None) is None
    assert kept(turn, shift, cut="dropped") is kept(turn, shift, cut="kept") is None


def test_the_stage_tells_the_tracker_and_those_behind_it(photograph):
    stage = TrackStage(create_tracker(TrackerConfig(), COCO17), camera=CameraMotion())
    nobody = Detections.empty()
    packets = []
    for n in range(6):
        frame = Frame(n, n / 25, view(photograph, (600 + 12 * n, 800)))
        (packet,) = stage.process(Packet(frame, nobody, new_scene=n == 4))
        packets.append(packet.camera)
    assert [camera is not None for camera in packets] == [False, False, True, True, False, False]
    assert stage.moved_frames == 2
    assert TrackStage(create_tracker(TrackerConfig(), COCO17)).camera is None


# Where there are people alone


def standing(at_px: np.ndarray, size_px: np.ndarray, rng: np.random.Generator) -> Poses:
    """People in boxes of `size_px` (N,) whose first corners are `at_px` (N, 2); joints with a network's noise."""
    n, k = len(at_px), len(COCO17)
    extent = size_px[:, None] * [0.4, 1.0]
    points = at_px[:, None] + STANDING * extent[:, None] + rng.normal(0, 0.005, (n, k, 2)) * size_px[:, None, None]
    boxes, one = np.hstack([at_px, at_px + extent]), np.ones(n)
    scores = np.where(rng.random((n, k)) < 0.15, 0.1, 0.8)
    return Poses(boxes, one, np.zeros(n), points, scores, points, scores, one, one)  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(8, 20),
    shift=st.tuples(st.floats(-12, 12), st.floats(-12, 12)).filter(lambda xy: np.hypot(*xy) > 6),
)
@settings(max_examples=60, deadline=None)
def test_what_most_people_do_at_once_is_the_camera(seed, count, shift):
    """One of them walks, one leaves, one comes, and they are told in another order."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(40, 120, count)
    at = np.stack([np.arange(count) * 220.0, rng.uniform(0, 400, count)], 1)
    motion = PeopleMotion(COCO17.body)
    assert motion.step(standing(at, size, rng)) is None
    moved = at + shift
    moved[0] += [0.1 * size[0], 0]
    order = rng.permutation(np.arange(count - 1))
    moved, size = np.vstack([moved[order], [[50, 700]]]), np.append(size[order], 90)
    camera = motion.step(standing(moved, size, rng))
    assert camera is not None
    np.testing.assert_array_equal(camera[:, :2], np.eye(2))
    np.testing.assert_allclose(camera[:, 2], shift, atol=2.0)


@given(seed=st.integers(0, 10_000), count=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_people_who_walk_by_themselves_are_no_camera(seed, count):
    rng = np.random.default_rng(seed)
    size = rng.uniform(40, 200, count)
    at = np.stack([np.arange(count) * 220.0, rng.uniform(0, 400, count)], 1)
    speed = rng.uniform(-0.15, 0.15, (count, 2)) * size[:, None] * (rng.random(count) < 0.5)[:, None]
    motion = PeopleMotion(COCO17.body)
    for step in range(4):
        camera = motion.step(standing(at + step * speed, size, rng))
        assert camera is None or count < 8 or np.linalg.norm(camera[:, 2]) < 3


def test_hands_that_move_hide_no_pan():
    """Two hands have 42 of a whole body's 133 keypoints; it is the body that the camera moves."""
    rng = np.random.default_rng(0)
    at, size = np.stack([np.arange(5) * 200.0, np.zeros(5)], 1), np.full(5, 150.0)
    motion = PeopleMotion(WHOLEBODY133.body)
    camera = None
    for t in range(4):
        body, k = standing(at + np.array([12 * t, 0]), size, rng), len(WHOLEBODY133)
        points, scores = np.zeros((5, k, 2), np.float32), np.zeros((5, k), np.float32)
        points[:, :17], scores[:, :17] = body.keypoints, body.keypoint_scores
        points[:, 91:], scores[:, 91:] = at[:, None] + [12 * t, 60 + 30 * (t % 2)], 0.8
        whole = {"keypoints": points, "keypoint_scores": scores}
        camera = motion.step(replace(body, **whole, **{f"raw_{name}": values for name, values in whole.items()}))
    assert camera is not None
    np.testing.assert_allclose(camera[:, 2], [12, 0], atol=2.0)


def test_too_few_people_tell_nothing_and_a_new_scene_begins_anew():
    rng = np.random.default_rng(0)
    at, size = np.stack([np.arange(8) * 200.0, np.zeros(8)], 1), np.full(8, 120.0)
    motion = PeopleMotion(COCO17.body)
    for count in (3, 8, 3):
        motion.step(standing(at[:count], size[:count], rng))
        assert motion.step(standing(at[:3] + 9, size[:3], rng)) is None
    crowd = np.stack([np.arange(300) * 9.0, np.zeros(300)], 1)
    motion.step(standing(crowd, np.full(300, 120.0), rng))
    assert motion.step(standing(crowd + 9, np.full(300, 120.0), rng)) is None
    motion.step(standing(at, size, rng))
    motion.forget()
    assert motion.step(standing(at + 9, size, rng)) is None
    assert motion.step(standing(at + 18, size, rng)) is not None
