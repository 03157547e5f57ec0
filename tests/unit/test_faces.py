"""Heads that are hidden: where they are, whatever is known of somebody, and that nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import ultralytics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from live_world import packet
from media_clips import write_clip

from sharpose_rt import PoseTracker
from sharpose_rt.app import FileRun
from sharpose_rt.config import DrawConfig, load
from sharpose_rt.media import Painter
from sharpose_rt.media.faces import head_circles, hide_faces
from sharpose_rt.skeleton import COCO17, HALPE26, MPII16, SKELETONS, Skeleton
from sharpose_rt.skeletons import StreamReader
from sharpose_rt.types import Detections, Poses

SIZE_WH = (640, 360)
HEAD, TRUNK = range(5), (5, 6, 11, 12)


def _standing(people: int = 1) -> Poses:
    poses = packet(7, people, SIZE_WH).poses
    assert poses is not None
    return replace(poses, raw_keypoints=poses.keypoints.copy())


def _without(poses: Poses, *places: int) -> Poses:
    scores = poses.keypoint_scores.copy()
    scores[:, list(places)] = 0
    return replace(poses, keypoint_scores=scores, raw_keypoint_scores=scores)


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE_WH[1], SIZE_WH[0], 3), np.uint8)


def _face(poses: Poses) -> np.ndarray:
    """Places (N, 3, 2) that must not be seen: eyes and nose."""
    return poses.keypoints[:, :3]


@pytest.mark.parametrize("lost", [(), (0,), (3, 4), (*HEAD,), (*HEAD, 11, 12)])
def test_a_face_is_hidden_by_whatever_is_known(lost: tuple[int, ...]) -> None:
    poses = _standing(3)
    circles = head_circles(_without(poses, *lost), COCO17)
    apart = np.linalg.norm(_face(poses) - circles[:, None, :2], axis=2)
    assert (apart < circles[:, None, 2]).all()
    heights = poses.bboxes_xyxy[:, 3] - poses.bboxes_xyxy[:, 1]
    assert (circles[:, 2] < 0.35 * heights).all()


def test_a_head_becomes_blocks_and_nothing_else_changes() -> None:
    poses, image = _standing(2), _noise()
    before = image.copy()
    hide_faces(image, poses, COCO17)
    rows, columns = np.mgrid[: SIZE_WH[1], : SIZE_WH[0]]
    inside = np.zeros(image.shape[:2], bool)
    for x, y, radius in head_circles(poses, COCO17):
        head = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        assert len(np.unique(image[head], axis=0)) <= 49
        assert image[head].std() < before[head].std() / 3
        inside |= head
    np.testing.assert_array_equal(image[~inside], before[~inside])
    assert 0.001 < inside.mean() < 0.1


def test_a_head_that_moves_fast_is_hidden_where_it_is_and_where_it_is_drawn() -> None:
    poses = _standing()
    ahead = replace(poses, raw_keypoints=poses.keypoints + np.float32(25))
    (circle,) = head_circles(ahead, COCO17)
    for points in (poses.keypoints, ahead.raw_keypoints):
        assert (np.linalg.norm(points[0, :3] - circle[:2], axis=1) < circle[2]).all()


def test_somebody_upside_down_without_a_face() -> None:
    poses = _standing()
    turned = replace(poses, keypoints=-poses.keypoints + np.array([640, 360], np.float32))
    turned = replace(turned, raw_keypoints=turned.keypoints)
    (circle,) = head_circles(_without(turned, *HEAD), COCO17)
    assert (np.linalg.norm(turned.keypoints[0, :3] - circle[:2], axis=1) < circle[2]).all()


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda skeleton: skeleton.name)
def test_heads_of_every_skeleton(skeleton: Skeleton) -> None:
    at = {name: i for i, name in enumerate(skeleton.keypoints)}
    places = {
        "shoulder": (20, 40),
        "hip": (14, 95),
        "eye": (4, 12),
        "ear": (9, 14),
        "elbow": (25, 70),
        "wrist": (25, 95),
    }
    places |= {"knee": (14, 140), "ankle": (14, 185)}
    points = np.full((1, len(skeleton), 2), (300.0, 100 + 15.0), np.float32)
    scores = np.zeros((1, len(skeleton)), np.float32)
    for name, (x, y) in places.items():
        for side, sign in (("left", 1), ("right", -1)):
            if (place := at.get(f"{side}_{name}")) is not None:
                points[0, place], scores[0, place] = (300 + sign * x, 100 + y), 0.9
    for name, y in (("nose", 16), ("head_top", 0), ("head", 0), ("neck", 35), ("upper_neck", 32)):
        if (place := at.get(name)) is not None:
            points[0, place], scores[0, place] = (300, 100 + y), 0.9
    one = np.ones(1, np.float32)
    box = np.array([[270, 95, 330, 290]], np.float32)
    poses = Poses(box, one, one.astype(int), points, scores, points, scores, one, one.astype(int))
    (circle,) = head_circles(poses, skeleton)
    assert np.linalg.norm(circle[:2] - (300, 112)) < circle[2] < 60


@pytest.mark.parametrize("skeleton", [MPII16, HALPE26], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("lost", [(), ("left_shoulder",), ("neck", "upper_neck"), ("neck", "upper_neck", "left_hip")])
def test_a_face_of_which_nothing_was_found_is_below_the_top(skeleton: Skeleton, lost: tuple[str, ...]) -> None:
    places = {"head_top": (300, 100), "head": (300, 100), "upper_neck": (300, 132), "neck": (300, 135)}
    for side, sign in (("left", 1), ("right", -1)):
        places |= {f"{side}_shoulder": (300 + sign * 20, 140), f"{side}_hip": (300 + sign * 14, 195)}
    scores = np.array([[0.9 * (name in places and name not in lost) for name in skeleton.keypoints]], np.float32)
    points = np.array([[places.get(name, (0, 0)) for name in skeleton.keypoints]], np.float32)
    one = np.ones(1, np.float32)
    box = np.array([[270, 95, 330, 290]], np.float32)
    poses = Poses(box, one, one.astype(int), points, scores, points, scores, one, one.astype(int))
    (circle,) = head_circles(poses, skeleton)
    for y in (102, 112, 128):  # of the crown, the eyes, the chin
        assert abs(y - circle[1]) < circle[2] < 40
    top = np.array([[0.9 * name.startswith("head") for name in skeleton.keypoints]], np.float32)
    alone = replace(poses, keypoint_scores=top, raw_keypoint_scores=top)
    assert np.isnan(head_circles(alone, skeleton)).all()  # nobody knows how large the head is: half of the box


@pytest.mark.parametrize("lost", [(*HEAD, 5), (*HEAD, *TRUNK), range(17)])
def test_where_nothing_tells_where_a_head_is_half_of_the_box_is_hidden(lost: tuple[int, ...]) -> None:
    poses, image = _standing(), _noise()
    before = image.copy()
    hide_faces(image, _without(poses, *lost), COCO17)
    assert np.isnan(head_circles(_without(poses, *lost), COCO17)).all()
    _check_upper_half(image, before, poses.bboxes_xyxy[0])


def _check_upper_half(image: np.ndarray, before: np.ndarray, box_xyxy: np.ndarray) -> None:
    left, top, right, bottom = np.round(box_xyxy).astype(int)
    half = (slice(top, (top + bottom) // 2), slice(left, right))
    assert len(np.unique(image[half].reshape(-1, 3), axis=0)) <= 50
    rest = before.copy()
    rest[top - 2 : (top + bottom) // 2 + 3, left - 2 : right + 3] = image[
        top - 2 : (top + bottom) // 2 + 3, left - 2 : right + 3
    ]
    np.testing.assert_array_equal(image, rest)


def test_who_was_detected_alone_is_hidden_too_and_nobody_twice() -> None:
    poses, image = _standing(3), _noise()
    before = image.copy()
    known = replace(poses, **{name: values[:1] for name, values in vars(poses).items()})
    shaken = poses.bboxes_xyxy + np.random.default_rng(0).normal(0, 3, (3, 4)).astype(np.float32)
    hide_faces(image, known, COCO17, Detections(shaken, np.ones(3)))
    wanted = before.copy()
    hide_faces(wanted, known, COCO17)
    hide_faces(wanted, Poses.empty(17), COCO17, Detections(shaken[1:], np.ones(2)))
    np.testing.assert_array_equal(image, wanted)
    for x, y in _face(poses)[1:].reshape(-1, 2).round().astype(int):
        assert (image[y - 3 : y + 4, x - 3 : x + 4] != before[y - 3 : y + 4, x - 3 : x + 4]).mean() > 0.9
    plain = _noise()
    hide_faces(plain, Poses.empty(17), COCO17, Detections.empty())
    np.testing.assert_array_equal(plain, before)


@pytest.mark.parametrize("smooth", ["kalman", "rts"])
def test_nobody_is_seen_in_a_run(tmp_path: Path, smooth: str) -> None:
    """A photograph with people at both ends of a clip: in every frame, the first one too, each has a hidden head."""
    photograph = cv2.imread(str(Path(ultralytics.__file__).parent / "assets/zidane.jpg"))
    assert photograph is not None
    photograph = cv2.resize(photograph, (640, 360), interpolation=cv2.INTER_AREA)
    write_clip(tmp_path / "clip.mp4", 8, images=[np.zeros_like(photograph)] * 2 + [photograph] * 6, gop=1)
    options = {
        "detector": {"name": "bundled"},
        "smooth": {"method": smooth},
        "tracker": {"scene_cut": 0.0},
        "output": {"directory": str(tmp_path)},
    }
    options |= {"draw": {"faces": False, "boxes": False, "ids": False, "trail_s": 0, "status": False, "min_score": 1.0}}
    results = FileRun(str(tmp_path / "clip.mp4"), load(options=options | {"offline": True})).run()
    assert results.video is not None
    with av.open(str(results.video)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(frames) == 8
    assert not list(StreamReader(results.stream or ""))[2].poses.track_ids.size  # nobody has a pose as yet
    for frame in frames[2:]:
        for x, y in ((300, 180), (488, 90)):  # the faces of the two
            face = cv2.cvtColor(frame[y - 20 : y + 20, x - 20 : x + 20], cv2.COLOR_BGR2GRAY)
            plain = cv2.cvtColor(photograph[y - 20 : y + 20, x - 20 : x + 20], cv2.COLOR_BGR2GRAY)
            assert abs(np.corrcoef(_detail(face), _detail(plain))[0, 1]) < 0.4


def test_who_has_no_pose_yet_is_hidden_in_a_program_too() -> None:
    photograph = cv2.imread(str(Path(ultralytics.__file__).parent / "assets/zidane.jpg"))
    assert photograph is not None
    draw = {"faces": False, "boxes": False, "ids": False, "min_score": 1.0}
    pictures = [np.zeros_like(photograph), photograph]
    with PoseTracker(detector={"name": "bundled"}, tracker={"scene_cut": 0.0}, draw=draw) as tracker:
        first = [tracker.update(picture, number / 25) for number, picture in enumerate(pictures)][-1]
        again = list(tracker.run(pictures))[-1]
    for frame in (first, again):
        assert len(frame.people) == 0
        assert frame.detections is not None
        hidden = photograph.copy()
        hide_faces(hidden, frame.poses, COCO17, frame.detections)
        assert (hidden != photograph).any()
        np.testing.assert_array_equal(frame.drawn(), hidden)


def _detail(grey: np.ndarray) -> np.ndarray:
    """What of a picture is finer than a fifth of its side."""
    side = len(grey) // 5
    return (grey - cv2.blur(grey.astype(np.float32), (side, side))).ravel()


def test_of_nobody_nothing_is_hidden() -> None:
    image = _noise()
    before = image.copy()
    hide_faces(image, Poses.empty(17), COCO17)
    np.testing.assert_array_equal(image, before)
    assert head_circles(Poses.empty(16), MPII16).shape == (0, 3)


wild = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


@given(arrays(np.float32, (2, 17, 2), elements=wild), arrays(np.float32, (2, 4), elements=wild), st.integers(1, 40))
def test_nothing_is_too_wild(points: np.ndarray, boxes: np.ndarray, side: int) -> None:
    scores, one = np.ones((2, 17), np.float32), np.ones(2, np.float32)
    poses = Poses(boxes, one, one.astype(int), points, scores, points, scores, one, one.astype(int))
    image = np.full((side, 2 * side, 3), 90, np.uint8)
    with np.errstate(all="ignore"):
        hide_faces(image, poses, COCO17)
    assert (image == 90).all()  # blocks of one colour


def test_the_painter_hides_faces_below_what_it_draws() -> None:
    poses, image = _standing(2), _noise()
    bare = DrawConfig(boxes=False, ids=False, trail_s=0, status=False)
    wanted = image.copy()
    hide_faces(wanted, poses, COCO17)
    Painter(COCO17, bare).draw(wanted, poses, 0)
    np.testing.assert_array_equal(Painter(COCO17, replace(bare, faces=False)).draw(image, poses, 0), wanted)
