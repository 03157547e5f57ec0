"""The painter: what is drawn, where, in which colours, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sharpose_rt.config.schema import DetectorConfig, DrawConfig
from sharpose_rt.media.draw import SIDE_COLOURS, Painter, sheet, track_colour
from sharpose_rt.skeleton import COCO17, HALPE26, MPII16, WHOLEBODY133, Skeleton
from sharpose_rt.types import Frame, Packet, Poses, PoseStage

BARE = DrawConfig(boxes=False, ids=False, trail_s=0, status=False)
SIZE = (400, 600, 3)


def people(
    points: np.ndarray,
    *,
    scores: float | np.ndarray = 1.0,
    ids: list[int] | None = None,
    stage: PoseStage = PoseStage.FINE,
    boxes: np.ndarray | None = None,
) -> Poses:
    """People at (N, K, 2) keypoints, boxes around them."""
    n, k = points.shape[:2]
    if boxes is None:
        boxes = np.concatenate((np.nanmin(points, axis=1) - 5, np.nanmax(points, axis=1) + 5), axis=1)
    keypoint_scores = np.broadcast_to(np.asarray(scores, np.float32), (n, k)).copy()
    return Poses(
        boxes,
        np.ones(n),
        np.array(ids if ids is not None else range(1, n + 1)),
        points,
        keypoint_scores,
        points,
        keypoint_scores,
        np.ones(n),
        np.full(n, stage),
    )


def test_without_the_picture_nothing_of_it_is_left() -> None:
    noise = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    drawn = Painter(COCO17, DrawConfig(picture=False)).draw(noise, people(spread()), 0, "12 fps")
    np.testing.assert_array_equal(drawn, Painter(COCO17).draw(blank(), people(spread()), 0, "12 fps"))


def test_the_region_is_outlined() -> None:
    square = DetectorConfig(region=((500, 300), (400, 100))).polygon
    image = Painter(COCO17, BARE, square).draw(blank(), Poses.empty(17), 0)
    for x, y in ((400, 200), (500, 200), (450, 100), (450, 300)):
        assert image[y, x].min() > 100
    assert not image[104:297, 404:497].any()
    assert not Painter(COCO17, BARE).draw(blank(), Poses.empty(17), 0).any()


def spread(skeleton: Skeleton = COCO17, at: tuple[float, float] = (300, 200)) -> np.ndarray:
    """(1, K, 2): keypoints far from each other, on a ring."""
    angle = np.arange(len(skeleton)) * 2 * np.pi / len(skeleton)
    return (np.stack((np.cos(angle), np.sin(angle)), axis=1) * 140 + at)[None]


@pytest.mark.parametrize("size_hw", [(1, 1), (4, 4), (6, 300), (300, 5)])
def test_pictures_of_a_few_pixels_are_drawn_on(size_hw: tuple[int, int]) -> None:
    image = np.full((*size_hw, 3), 200, np.uint8)
    assert Painter(COCO17).draw(image, people(spread()), 0, "12 fps, 3 people").shape == image.shape


def blank() -> np.ndarray:
    return np.zeros(SIZE, np.uint8)


def pixel(image: np.ndarray, point: np.ndarray) -> tuple[int, ...]:
    return tuple(image[round(float(point[1])), round(float(point[0]))].tolist())


@pytest.mark.parametrize("skeleton", [COCO17, MPII16, HALPE26], ids=lambda skeleton: skeleton.name)
def test_keypoints_have_the_colour_of_their_side(skeleton: Skeleton) -> None:
    points = spread(skeleton)
    image = Painter(skeleton, BARE).draw(blank(), people(points), 0)
    for index, point in enumerate(points[0]):
        assert pixel(image, point) == SIDE_COLOURS[skeleton.side(index)]


def test_angles_stand_beside_their_joints_on_the_outer_side(monkeypatch: pytest.MonkeyPatch) -> None:
    points, scores, names = np.zeros((1, 17, 2)), np.zeros(17), COCO17.keypoints.index
    for side, x in (("left", 400), ("right", 200)):
        for name, at in (("shoulder", (x, 100)), ("elbow", (x, 200)), ("wrist", (300, 200))):
            points[0, names(f"{side}_{name}")], scores[names(f"{side}_{name}")] = at, 0.9
    scores[names("right_wrist")] = 0.2  # below what is drawn
    said: list[tuple[str, tuple[int, int]]] = []
    monkeypatch.setattr("cv2.putText", lambda image, text, at, *_: said.append((text, at)))
    for skeleton in (COCO17, WHOLEBODY133):
        placed = np.zeros((1, len(skeleton), 2)), np.zeros(len(skeleton))
        placed[0][0, :17], placed[1][:17] = points, scores
        Painter(skeleton, replace(BARE, angles=True)).draw(blank(), people(placed[0], scores=placed[1]), 0)
        assert {text for text, _ in said} == {"90"}
        assert len(said) == 2  # once for its outline
        assert all(404 < x < 420 and 195 < y < 215 for _, (x, y) in said)
        said.clear()


def test_limbs_join_sides_in_their_colour() -> None:
    points = np.zeros((1, 17, 2))
    names = COCO17.keypoints.index
    points[0, names("left_hip")], points[0, names("left_knee")] = (100, 100), (100, 200)
    points[0, names("right_hip")] = (200, 100)
    scores = np.zeros(17)
    scores[[names("left_hip"), names("left_knee"), names("right_hip")]] = 1
    image = Painter(COCO17, BARE).draw(blank(), people(points, scores=scores), 0)
    # A line of one pixel is a little darker for its soft edges.
    np.testing.assert_allclose(pixel(image, np.array((100, 150))), SIDE_COLOURS["left"], rtol=0.15)
    np.testing.assert_allclose(pixel(image, np.array((150, 100))), SIDE_COLOURS["centre"], rtol=0.15)
    assert pixel(image, np.array((200, 150))) == (0, 0, 0)


def test_hands_and_faces_are_thin_lines_without_dots() -> None:
    points, scores, names = np.zeros((1, 133, 2)), np.zeros(133), WHOLEBODY133.keypoints.index
    for name, at in (("left_thumb1", (100, 100)), ("left_thumb2", (100, 200)), ("face_30", (300, 100))):
        points[0, names(name)], scores[names(name)] = at, 1
    image = Painter(WHOLEBODY133, BARE).draw(blank(), people(points, scores=scores), 0)
    np.testing.assert_allclose(pixel(image, np.array((100, 150))), SIDE_COLOURS["left"], rtol=0.15)
    assert not image[150, 103:].any()  # as thin as that, and without an outline
    assert not image[:, 290:310].any()  # the tip of a nose alone is no line


def test_unsure_lost_and_far_points_are_left_out_or_harmless() -> None:
    points = spread()
    scores = np.ones(17)
    scores[3] = 0.1
    image = Painter(COCO17, BARE).draw(blank(), people(points, scores=scores), 0)
    assert pixel(image, points[0, 3]) == (0, 0, 0)
    points[0, 5], points[0, 6], points[0, 7] = (np.nan, 1), (np.inf, 5), (1e9, -1e9)
    image = Painter(COCO17).draw(blank(), people(points, boxes=np.array([[np.nan, 0, 1e9, 50.0]])), 0)
    assert pixel(image, points[0, 15]) == SIDE_COLOURS["left"]


def test_draws_in_place_and_nobody_changes_nothing() -> None:
    image = blank()
    painter = Painter(COCO17)
    assert painter.draw(image, Poses.empty(17), 0.0) is image
    assert not image.any()
    painter.draw(image, people(spread()), 0.1)
    assert image.any()


def test_predicted_is_paler_and_dashed() -> None:
    points = spread()
    fine, predicted = (
        Painter(COCO17, BARE).draw(blank(), people(points, stage=stage), 0)
        for stage in (PoseStage.FINE, PoseStage.PREDICTED)
    )
    assert np.count_nonzero(predicted) < 0.85 * np.count_nonzero(fine)
    a, b = pixel(fine, points[0, 15]), pixel(predicted, points[0, 15])
    assert max(b) - min(b) < max(a) - min(a)


def test_stages_have_different_labels_and_boxes_the_tracks_colour() -> None:
    points = spread()
    labels = []
    for stage in PoseStage:
        config = DrawConfig(trail_s=0, status=False)
        poses = people(points, ids=[7], stage=stage)
        image = Painter(COCO17, config).draw(blank(), poses, 0)
        left, top = poses.bboxes_xyxy[0, :2].round().astype(int)
        labels.append(image[top - 20 : top, left : left + 40].copy())
        if stage != PoseStage.PREDICTED:
            assert pixel(image, np.array((left, 200))) == track_colour(7)
    assert all((a != b).any() for a, b in ((labels[0], labels[1]), (labels[1], labels[2]), (labels[0], labels[2])))


def test_person_without_a_track_has_no_label() -> None:
    config = DrawConfig(boxes=False, trail_s=0)
    image = Painter(COCO17, config).draw(blank(), people(spread(), ids=[0]), 0)
    bare = Painter(COCO17, BARE).draw(blank(), people(spread(), ids=[0]), 0)
    np.testing.assert_array_equal(image, bare)


def test_colours_of_neighbouring_ids_are_apart_and_stable() -> None:
    colours = np.array([track_colour(n) for n in range(1, 60)], float)
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 60
    assert len({tuple(colour) for colour in colours}) == 59
    assert track_colour(5) == (64, 167, 255)


def trail_of(painter: Painter, times: list[float], step_px: float = 10, track: int = 3) -> np.ndarray:
    image = blank()
    for n, time_s in enumerate(times):
        image = painter.draw(blank(), people(spread(at=(160 + n * step_px, 200)), ids=[track]), time_s)
    return image


def trail_pixels(image: np.ndarray, track: int = 3) -> int:
    return int((image == track_colour(track)).all(axis=2).sum())


def test_trail_follows_media_time() -> None:
    config = DrawConfig(boxes=False, ids=False, status=False, trail_s=1.0)
    long = trail_pixels(trail_of(Painter(COCO17, config), [n / 10 for n in range(10)]))
    short = trail_pixels(trail_of(Painter(COCO17, config), [n * 0.4 for n in range(10)]))
    none = trail_pixels(trail_of(Painter(COCO17, config), [n * 2.0 for n in range(10)]))
    assert long > short > none == 0


def test_trail_lies_where_people_went_whatever_the_camera_does() -> None:
    config = DrawConfig(boxes=False, ids=False, status=False, trail_s=1.0)
    pan = np.array([[1.0, 0, 10], [0, 1, 0]])

    def drawn(camera: np.ndarray | None, step_px: float) -> int:
        painter, image = Painter(COCO17, config), blank()
        for n in range(10):
            poses = people(spread(at=(160 + n * step_px, 200)), ids=[3])
            image = painter.draw(blank(), poses, n / 10, "", camera if n else None)
        return trail_pixels(image)

    stands, walks = drawn(pan, 10), drawn(None, 10)
    assert walks > 100 > 10 > stands
    assert drawn(pan, 0) > 100  # the camera follows who walks
    assert drawn(None, 0) == 0


def test_no_trail_reaches_into_a_new_scene() -> None:
    config = DrawConfig(boxes=False, ids=False, status=False, trail_s=1.0)

    def pixels(cut: int | None) -> int:
        painter, image = Painter(COCO17, config), blank()
        for n in range(10):
            poses = people(spread(at=(160 + n * 10, 200)), ids=[3])
            packet = Packet(Frame(n, n / 10, blank()), poses=poses, new_scene=n == cut)
            image = painter.drawn(packet)
            assert not packet.frame.image_bgr.any()
        return np.count_nonzero(image.any(axis=2))

    person = np.count_nonzero(Painter(COCO17, config).draw(blank(), people(spread(at=(250, 200)), ids=[3]), 0.0).any(2))
    assert pixels(None) > pixels(5) > pixels(9) == person


def test_trail_ends_with_the_track_and_memory_is_bounded() -> None:
    painter = Painter(COCO17, DrawConfig(trail_s=1.0))
    for n in range(500):
        painter.draw(blank(), people(spread(), ids=[n + 1]), n / 10)
    assert len(painter._trails) <= 12
    for n in range(500):
        painter.draw(blank(), people(spread(), ids=[1000]), 50 + n * 1e-4)
    assert max(len(trail) for trail in painter._trails.values()) <= 128
    image = painter.draw(blank(), Poses.empty(17), 50.06)
    assert not image.any()
    painter.draw(blank(), Poses.empty(17), 60.0)
    assert not painter._trails


@pytest.mark.parametrize(("fps", "trail_s"), [(30, 1.0), (240, 1.0), (30, 10.0), (1000, 0.5)])
def test_a_trail_is_as_long_as_it_is_said_to_be(fps: int, trail_s: float) -> None:
    painter = Painter(COCO17, DrawConfig(trail_s=trail_s))
    trail_of(painter, [n / fps for n in range(round(1.3 * trail_s * fps))], step_px=0.1)
    (trail,) = painter._trails.values()
    assert 0.95 * trail_s < trail[-1][0] - trail[0][0] <= trail_s
    assert len(trail) <= 128


def test_time_that_starts_anew_forgets_trails() -> None:
    painter = Painter(COCO17, DrawConfig(trail_s=10))
    trail_of(painter, [5.0, 5.1, 5.2])
    painter.draw(blank(), Poses.empty(17), 0.0)
    assert not painter._trails


@pytest.mark.parametrize("size", [(1080, 1920, 3), (240, 320, 3), (64, 48, 3), (8, 8, 3)])
def test_status_is_legible_on_white_and_fits(size: tuple[int, int, int]) -> None:
    image = np.full(size, 255, np.uint8)
    Painter(COCO17).draw(image, Poses.empty(17), 0.0, "31.2 fps   4 people   exit 62 %")
    if size[0] >= 240:
        top = image[: size[0] // 5]
        assert top.min() < 120
        assert (image[size[0] // 3 :] == 255).all()
        assert (top[:, -2:] == 255).all()


def test_lines_grow_with_picture_and_person() -> None:
    points = spread()
    small = np.count_nonzero(Painter(COCO17, BARE).draw(blank(), people(points), 0).any(axis=2))
    big_image = np.zeros((1600, 2400, 3), np.uint8)
    big = np.count_nonzero(Painter(COCO17, BARE).draw(big_image, people(points * 4), 0).any(axis=2))
    assert big > 6 * small


def test_a_sheet_has_its_tiles_in_rows_and_black_behind_the_last() -> None:
    tiles = [np.full((2, 3, 3), level, np.uint8) for level in (10, 20, 30, 40, 50)]
    made = sheet(tiles, columns=3)
    assert made.shape == (4, 9, 3)
    assert made[::2, ::3, 0].tolist() == [[10, 20, 30], [40, 50, 0]]
    assert len(tiles) == 5
