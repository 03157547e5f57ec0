"""Joint angles: of figures whose angles are known, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sharpose_rt.skeleton import COCO17, MPII16, SKELETONS, Skeleton
from sharpose_rt.skeletons import angle_names, joint_angles

COCO = angle_names(COCO17)
JOINTS = ("shoulder", "elbow", "hip", "knee")


def _figure(**moved: tuple[float, float]) -> np.ndarray:
    """Somebody upright with hanging arms, seen from the front, x of the left side larger; some keypoints elsewhere."""
    places = {"shoulder": (10, 0), "elbow": (10, 20), "wrist": (10, 40), "hip": (10, 50), "knee": (10, 75)}
    places["ankle"] = (10, 100)
    sides = (("left", 1), ("right", -1))
    at = {f"{side}_{name}": (sign * x, y) for name, (x, y) in places.items() for side, sign in sides}
    at |= moved
    return np.array([[at.get(name, (0, -10)) for name in COCO17.keypoints]], float)


def _of(points: np.ndarray, name: str) -> float:
    return float(joint_angles(points, np.ones(points.shape[:2]), COCO17)[0, COCO.index(name)])


def test_names_of_every_skeleton() -> None:
    assert (*(f"{side}_{joint}" for joint in JOINTS for side in ("left", "right")), "trunk") == COCO
    assert angle_names(MPII16) == COCO
    for skeleton in SKELETONS.values():
        extra = ("left_ankle", "right_ankle") if "left_big_toe" in skeleton.keypoints else ()
        assert angle_names(skeleton) == (*COCO[:-1], *extra, "trunk")
    bare = Skeleton("bare", ("head",), (), (), (0.1,), ())
    assert angle_names(bare) == ()
    assert joint_angles(np.zeros((3, 1, 2)), np.ones((3, 1)), bare).shape == (3, 0)


@pytest.mark.parametrize(
    ("moved", "name", "angle"),
    [
        ({}, "left_elbow", 180),
        ({}, "left_shoulder", 0),
        ({}, "right_knee", 180),
        ({}, "trunk", 0),
        ({"left_wrist": (30, 20)}, "left_elbow", 90),
        ({"left_wrist": (10, 0)}, "left_elbow", 0),
        ({"right_elbow": (-30, 0)}, "right_shoulder", 90),
        ({"right_elbow": (-10, -20)}, "right_shoulder", 180),
        ({"left_knee": (35, 50)}, "left_hip", 90),
        ({"left_shoulder": (60, 50), "right_shoulder": (40, 50)}, "trunk", 90),
        ({"left_shoulder": (-40, 50), "right_shoulder": (-60, 50)}, "trunk", -90),
        ({"left_shoulder": (10, 100), "right_shoulder": (-10, 100)}, "trunk", 180),
    ],
)
def test_known_angles(moved: dict[str, tuple[float, float]], name: str, angle: float) -> None:
    assert _of(_figure(**moved), name) == pytest.approx(angle, abs=1e-9)


def test_what_was_not_found_has_no_angle() -> None:
    points, scores = _figure().repeat(2, 0), np.ones((2, 17))
    scores[1, COCO17.keypoints.index("left_knee")] = 0.2
    for min_score, missing in ((0.0, []), (0.5, ["left_hip", "left_knee"])):
        angles = joint_angles(points, scores, COCO17, min_score)
        assert [COCO[i] for i in np.flatnonzero(np.isnan(angles[1]))] == missing
        assert np.isfinite(angles[0]).all()
    scores[1] = 0
    assert np.isnan(joint_angles(points, scores, COCO17)[1]).all()
    assert joint_angles(np.zeros((0, 17, 2)), np.zeros((0, 17)), COCO17).shape == (0, 9)


def test_two_keypoints_in_one_place_make_no_angle() -> None:
    assert np.isnan(_of(_figure(left_wrist=(10, 20)), "left_elbow"))


coordinates = st.floats(-1000, 1000, width=32)


@given(
    arrays(np.float64, (2, 17, 2), elements=coordinates),
    st.floats(-180, 180),
    st.floats(0.1, 10),
    arrays(np.float64, 2, elements=coordinates),
)
def test_only_the_trunk_depends_on_how_the_picture_is_held(
    points: np.ndarray, turned_deg: float, scale: float, shift: np.ndarray
) -> None:
    scores = np.ones((2, 17))
    before = joint_angles(points, scores, COCO17)
    turn = np.radians(turned_deg)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])  # clockwise: y is down
    after = joint_angles(points @ matrix.T + shift, scores, COCO17)
    spread = np.array([_least_limb(one) for one in points])  # where a limb has no length, rounding decides
    clear = spread > 1
    np.testing.assert_allclose(after[clear, :-1], before[clear, :-1], atol=1e-3)
    apart = (after[clear, -1] - before[clear, -1] - turned_deg + 180) % 360 - 180
    np.testing.assert_allclose(apart, 0, atol=1e-3)
    assert ((before[clear, :-1] >= 0) & (before[clear, :-1] <= 180)).all()


def _least_limb(points: np.ndarray) -> float:
    at = dict(zip(COCO17.keypoints, points, strict=True))
    pairs = [("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "shoulder"), ("hip", "knee"), ("knee", "ankle")]
    lengths = [np.linalg.norm(at[f"{s}_{a}"] - at[f"{s}_{b}"]) for a, b in pairs for s in ("left", "right")]
    trunk = at["left_shoulder"] + at["right_shoulder"] - at["left_hip"] - at["right_hip"]
    return float(min(*lengths, np.linalg.norm(trunk)))
