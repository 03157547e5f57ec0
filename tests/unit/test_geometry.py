"""Properties of boxes, crops, heatmaps and pose similarity."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sharpose_rt.geometry.affine import (
    affine_from_region,
    apply_affine,
    crop_affine,
    fit_aspect,
    halvings,
    invert_affine,
    warp_crops,
)
from sharpose_rt.geometry.boxes import area, clip, iou_matrix, keypoints_to_bbox, xywh_to_xyxy, xyxy_to_xywh
from sharpose_rt.geometry.heatmap import decode, encode, flip_back
from sharpose_rt.geometry.oks import oks, oks_matrix, person_scores, pose_scores
from sharpose_rt.skeleton import COCO17, MPII16

SIZES = {2.0: ((64, 48), (256, 192)), 3.0: ((96, 72), (384, 288))}
unit = st.floats(0, 1)
coordinate = st.floats(-2000, 4000, width=32)
quick = settings(max_examples=60)


@st.composite
def boxes(draw, count: int = 1) -> np.ndarray:
    corners = [
        [draw(coordinate), draw(coordinate), draw(st.floats(2, 2000)), draw(st.floats(2, 2000))] for _ in range(count)
    ]
    return xywh_to_xyxy(np.array(corners, np.float64).reshape(-1, 4))


# Heatmaps


NOSE, HIP = COCO17.sigmas[0], COCO17.sigmas[11]
both_ways = pytest.mark.parametrize("sigmas", [None, (NOSE,), (HIP,)], ids=["plain", "nose", "hip"])


@both_ways
@pytest.mark.parametrize("sigma", SIZES)
@quick
@given(x=unit, y=unit)
def test_encode_then_decode_is_a_fifth_of_a_pixel_anywhere(sigma, sigmas, x, y):
    heatmap_hw, crop_hw = SIZES[sigma]
    truth = torch.tensor([[[x * (crop_hw[1] - 1), y * (crop_hw[0] - 1)]]])
    found, score = decode(encode(truth, heatmap_hw, crop_hw, sigma), crop_hw, sigmas)
    assert (found - truth).norm() < 0.2
    assert 0.85 < score.item() <= 1


@both_ways
@pytest.mark.parametrize("sigma", SIZES)
def test_corners_and_edges_decode_exactly(sigma, sigmas):
    heatmap_hw, (h, w) = SIZES[sigma]
    places = [(x, y) for x in (0, 0.3, w / 2, w - 1.3, w - 1) for y in (0, 0.3, h / 2, h - 1.3, h - 1)]
    truth = torch.tensor(places)[:, None]
    found, _ = decode(encode(truth, heatmap_hw, (h, w), sigma), (h, w), sigmas)
    assert (found - truth).norm(dim=-1).max() < 0.05


@both_ways
@quick
@given(scale=st.floats(0.05, 1), x=unit, y=unit)
def test_decoding_does_not_depend_on_the_height_of_the_peak(sigmas, scale, x, y):
    truth = torch.tensor([[[x * 191, y * 255]]])
    heatmap = encode(truth, (64, 48), (256, 192))
    weak, score = decode(heatmap * scale, (256, 192), sigmas)
    assert (weak - truth).norm() < 0.2
    assert score.item() == pytest.approx(float(heatmap.max()) * scale, rel=1e-5)


def test_tops_near_the_border_are_decoded_where_they_are() -> None:
    """Of a network's shape, no exact Gaussians: kernels that the border cuts off would pull them out or in."""
    generator = torch.Generator().manual_seed(0)
    sigmas, (crop_h, crop_w), cells_hw = COCO17.sigmas, (256, 192), (64, 48)
    keypoints = torch.rand(300, 17, 2, generator=generator) * torch.tensor([crop_w - 60.0, 8.0]) + torch.tensor(
        [30.0, 4.0]
    )
    maps = encode(keypoints, cells_hw, (crop_h, crop_w), 2.0)
    maps = maps * torch.exp(0.1 * torch.randn(maps.shape, generator=generator))
    found, _ = decode(maps, (crop_h, crop_w), sigmas)
    assert (found - keypoints).abs().amax(-1).mean() < 2.5  # px; 6 where kernels are brought to one sum


@pytest.mark.parametrize("top", ["flat", "with a spike"])
@pytest.mark.parametrize("keypoint", [5, 9, 11])
@pytest.mark.parametrize("row", [6.0, 8.0])
def test_a_top_near_the_border_that_is_no_gaussian_is_decoded_to_its_middle(top, keypoint, row):
    """There Gaussians alone are decoded by themselves: the highest cell is three cells off here."""
    cell_px = torch.tensor([191 / 47, 255 / 63])
    middle = torch.tensor([20.0, row])
    heatmap = encode((middle * cell_px)[None, None], (64, 48), (256, 192), 3.0)
    if top == "flat":
        heatmap = heatmap.clamp(max=0.6)
    else:
        heatmap[0, 0, int(row), 17] = 1.05
    found, _ = decode(heatmap, (256, 192), (COCO17.sigmas[keypoint],))
    assert (found / cell_px - middle).abs().max() < 0.2


def test_whatever_the_map_a_point_stays_within_a_cell_of_the_highest():
    """The quadratic around a cell of noise has its summit anywhere."""
    maps = torch.rand(20, 17, 64, 48, generator=torch.Generator().manual_seed(0))
    found, _ = decode(maps, (256, 192))
    highest = maps.flatten(2).argmax(2)
    cells = torch.stack([highest % 48, highest // 48], -1)
    assert (found / torch.tensor([191 / 47, 255 / 63]) - cells).abs().max() <= 1 + 1e-4


@quick
@given(seed=st.integers(0, 10_000), keypoint=st.sampled_from([0, 7, 9, 11]))
@example(seed=7084, keypoint=0)  # two tops, which a wide stencil took for one
def test_decoding_by_oks_goes_where_the_expected_oks_is_highest(seed, keypoint):
    """Of maps with several ripples on a blob: better than the highest cell, and as good as the best of all cells."""
    generator = torch.Generator().manual_seed(seed)
    spots = 20 + torch.rand(6, 2, generator=generator) * torch.tensor([40.0, 60.0]) + torch.tensor([55.0, 75.0])
    heights = 0.3 + 0.2 * torch.rand(6, generator=generator)
    heatmap = (heights[:, None, None] * encode(spots[:, None], (64, 48), (256, 192), 1.5)[:, 0]).sum(0)[None, None]
    sigma = COCO17.sigmas[keypoint]
    by_oks, by_top = (decode(heatmap, (256, 192), sigmas)[0][0, 0] for sigmas in ((sigma,), None))
    cells = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")[::-1], -1) * (255 / 63)
    reach_px = 0.6 * 256 * sigma

    def expected(place):
        kernel = torch.exp(-0.5 * (cells - place).square().sum(-1) / reach_px**2)
        return float((heatmap[0, 0] * kernel).sum() / heatmap.sum())

    best = max(expected(place) for place in cells.reshape(-1, 2)[heatmap.flatten() > 0.05])
    assert expected(by_oks) > best - 0.01
    assert expected(by_oks) > expected(by_top) - 0.005


def test_noise_moves_a_decoded_point_little():
    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(200, 1, 2, generator=generator) * torch.tensor([191.0, 255.0])
    heatmaps = encode(truth, (64, 48), (256, 192))
    noisy = heatmaps + 0.02 * torch.randn(heatmaps.shape, generator=generator)
    found, _ = decode(noisy, (256, 192))
    assert (found - truth).norm(dim=-1).mean() < 0.5  # a cell is 4 px


@pytest.mark.parametrize("sigmas", [None, (NOSE, HIP, HIP)])
@pytest.mark.parametrize("value", [0.0, -1.0, 0.5])
def test_a_map_without_a_peak_decodes_inside_the_crop(value, sigmas):
    found, score = decode(torch.full((2, 3, 64, 48), value), (256, 192), sigmas)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= torch.tensor([191.0, 255.0])).all()
    assert (score == max(0.0, value)).all()


def test_scores_stay_within_0_and_1():
    _, score = decode(3 * torch.randn(2, 3, 64, 48), (256, 192))
    assert score.min() >= 0
    assert score.max() <= 1


def test_points_outside_the_crop_leave_only_their_tail():
    outside = encode(torch.tensor([[[-400.0, 50.0], [60.0, 900.0]]]), (64, 48), (256, 192))
    assert outside.max() < 1e-6


@pytest.mark.parametrize("skeleton", [COCO17, MPII16], ids=lambda s: s.name)
def test_flipping_commutes_with_encoding(skeleton):
    """The mirrored crop's heatmaps, flipped back, are the crop's: no shift, as UDP promises."""
    points = torch.rand(2, len(skeleton), 2) * torch.tensor([191.0, 255.0])
    mirrored = points[:, list(skeleton.flip_order)].clone()
    mirrored[..., 0] = 191 - mirrored[..., 0]
    direct, back = (encode(p, (64, 48), (256, 192)) for p in (points, mirrored))
    assert torch.allclose(flip_back(back, skeleton.flip_order), direct, atol=1e-5)
    assert torch.equal(flip_back(flip_back(direct, skeleton.flip_order), skeleton.flip_order), direct)


# Crops


@quick
@given(box=boxes(), padding=st.floats(1, 2), rotation=st.floats(-180, 180), point=st.tuples(coordinate, coordinate))
def test_a_crops_map_and_its_inverse_are_identity(box, padding, rotation, point):
    affine = crop_affine(box, (192, 256), padding, rotation)
    there = apply_affine(np.array([[point]]), affine)
    back = apply_affine(there, invert_affine(affine))
    assert np.abs(back - np.array([[point]])).max() < 1e-6


@quick
@given(box=boxes(), padding=st.floats(1, 2))
def test_the_corner_pixels_of_a_crop_are_the_corners_of_its_region(box, padding):
    """The pixel-centre convention: (0, 0) and (w - 1, h - 1) of the crop are the corners of the padded box."""
    cx, cy, w, h = fit_aspect(box, (192, 256), padding)[0]
    corners = apply_affine([[0, 0], [191, 255]], invert_affine(crop_affine(box, (192, 256), padding)[0]))
    wanted = [[cx - w / 2, cy - h / 2], [cx + w / 2, cy + h / 2]]
    assert np.abs(corners - wanted).max() < 1e-6


@quick
@given(box=boxes())
def test_a_region_holds_its_box_in_the_crops_aspect(box):
    cx, cy, w, h = fit_aspect(box, (192, 256), 1.0)[0]
    assert w / h == pytest.approx(192 / 256)
    assert cx - w / 2 <= box[0, 0] + 1e-6
    assert cy - h / 2 <= box[0, 1] + 1e-6
    assert w + 1e-6 >= box[0, 2] - box[0, 0]
    assert h + 1e-6 >= box[0, 3] - box[0, 1]
    assert w == pytest.approx(box[0, 2] - box[0, 0]) or h == pytest.approx(box[0, 3] - box[0, 1])


def test_a_box_without_extent_still_has_an_inverse():
    affine = crop_affine([[5, 5, 5, 5]], (192, 256))
    assert np.isfinite(invert_affine(affine)).all()


def test_rotation_turns_clockwise_on_the_screen():
    affine = affine_from_region([[100, 100, 192, 256]], (193, 257), 90)[0]
    right, below = apply_affine([[110, 100], [100, 110]], affine)
    assert right[1] > 128  # what was right of the centre is below it now
    assert below[0] < 96


def _smooth(width: int, height: int) -> np.ndarray:
    rows, columns = np.cos(np.arange(height) / 70), np.sin(np.arange(width) / 90)
    grey = (127 + 100 * rows[:, None] * columns).round().astype(np.uint8)
    return cv2.merge([grey, 255 - grey, grey])


@pytest.mark.parametrize("factor", [2.5, 4.2, 7.9])
def test_shrinking_first_changes_nothing_of_a_smooth_picture(factor):
    picture = _smooth(1900, 2300)
    box = [[100, 120, 100 + 190 * factor, 120 + 255 * factor]]
    affine = crop_affine(box, (192, 256), 1.0)
    inside = apply_affine([[0, 0], [191, 255]], invert_affine(affine[0]))
    assert inside.min() >= 0
    crop = warp_crops(picture, affine, (192, 256))[0]
    plain = cv2.warpAffine(picture, affine[0], (192, 256), flags=cv2.INTER_LINEAR)
    difference = np.abs(crop.astype(int) - plain.astype(int))[2:-2, 2:-2]
    assert difference.max() <= 4
    assert difference.mean() < 0.6


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shrinking_first_moves_nothing(factor):
    """A blob is where the map says, to a tenth of a picture pixel; half of one is easily lost where pixels are made
    into one."""
    centre = np.array([[37.2 * factor, 53.7 * factor]])
    rows, columns = (np.exp(-0.5 * ((np.arange(100 * factor) - c) / (4 * factor)) ** 2) for c in centre[0, ::-1])
    picture = cv2.merge([(255 * rows[:, None] * columns).round().astype(np.uint8)] * 3)
    zoom = 1.3 * factor  # picture pixels a crop pixel
    affine = affine_from_region([[40.3 * factor, 50.6 * factor, 47 * zoom, 63 * zoom]], (48, 64))
    assert 2 ** halvings(affine)[0] == factor
    crop = warp_crops(picture, affine, (48, 64))[0, ..., 0].astype(float)
    y, x = np.mgrid[:64, :48]
    found = np.array([(x * crop).sum(), (y * crop).sum()]) / crop.sum()
    assert np.abs(found - apply_affine(centre, affine[0])).max() * zoom < 0.1


def test_shrinking_first_takes_the_aliasing_away():
    """Stripes one pixel wide, seen eight times smaller: grey, where sampling alone shows false stripes."""
    stripes = np.zeros((2100, 1600, 3), np.uint8)
    stripes[:, ::2] = 255
    affine = crop_affine([[0, 0, 1536, 2048]], (192, 256), 1.0)
    crop = warp_crops(stripes, affine, (192, 256))[0][8:-8, 8:-8]
    plain = cv2.warpAffine(stripes, affine[0], (192, 256))[8:-8, 8:-8]
    assert crop.std() < 8
    assert plain.std() > 2 * crop.std()


@pytest.mark.parametrize("far", [[10, 5, 300, 470], [350, 5, 640, 470]], ids=["close together", "far apart"])
def test_a_crop_does_not_depend_on_the_others(far):
    """Large people, made smaller first, in one part of the picture or in parts of their own."""
    picture = np.random.default_rng(0).integers(0, 256, (481, 643, 3), np.uint8)
    boxes = np.array([[3, 7, 303, 475], far, [100, 100, 160, 220], [5, 1, 639, 480]], float)
    affine = crop_affine(boxes, (96, 128))
    together = warp_crops(picture, affine, (96, 128))
    for alone, crop in zip(affine, together, strict=True):
        moved = np.abs(warp_crops(picture, alone, (96, 128))[0].astype(int) - crop)
        assert moved.mean() < 0.05  # OpenCV samples at 32 places a pixel, and its sums round
        assert moved.max() <= 255 / 32 + 1


def test_beyond_the_picture_is_black():
    white = np.full((300, 300, 3), 255, np.uint8)
    crop = warp_crops(white, crop_affine([[-900, -900, -500, -500]], (192, 256)), (192, 256))
    assert crop.shape == (1, 256, 192, 3)
    assert not crop.any()
    assert warp_crops(white, np.zeros((0, 2, 3)), (192, 256)).shape == (0, 256, 192, 3)


# Boxes


@quick
@given(a=boxes(3), b=boxes(2))
def test_iou_is_symmetric_and_within_0_and_1(a, b):
    overlap = iou_matrix(a, b)
    assert overlap.shape == (3, 2)
    assert np.allclose(overlap, iou_matrix(b, a).T)
    assert overlap.min() >= 0
    assert overlap.max() <= 1 + 1e-6
    assert np.allclose(np.diag(iou_matrix(a, a)), 1, atol=1e-5)


def test_iou_of_known_boxes():
    overlap = iou_matrix([[0, 0, 2, 2], [5, 5, 5, 5]], [[1, 0, 3, 2], [2, 0, 4, 2]])
    assert np.allclose(overlap, [[1 / 3, 0], [0, 0]])


@quick
@given(box=boxes(2))
def test_box_notations_round_trip(box):
    assert np.allclose(xywh_to_xyxy(xyxy_to_xywh(box)), box)
    assert np.allclose(area(box), xyxy_to_xywh(box)[:, 2:].prod(-1))
    inside = clip(box, (640, 480))
    assert inside[:, 0::2].min() >= 0
    assert inside[:, 0::2].max() <= 640
    assert inside[:, 1::2].max() <= 480


def test_a_box_inside_out_has_no_area():
    assert area([4, 4, 2, 8]) == 0


def test_the_box_of_keypoints_counts_sure_ones_only():
    points = np.array([[[0, 0], [10, 20], [500, 500]], [[1, 1], [2, 2], [3, 3]]])
    scores = np.array([[0.9, 0.8, 0.1], [0.9, 0.1, 0.1]])
    found = keypoints_to_bbox(points, scores)
    assert found[0].tolist() == [0, 0, 10, 20]
    assert np.isnan(found[1]).all()


# Pose similarity


@quick
@given(seed=st.integers(0, 1000), size=st.floats(100, 1e6))
def test_oks_with_itself_is_1_and_falls_with_distance(seed, size):
    rng = np.random.default_rng(seed)
    pose = rng.uniform(0, 500, (17, 2))
    ones = np.ones(17)
    assert oks(pose, pose, ones, size, COCO17.sigmas) == pytest.approx(1)
    near, far = (oks(pose + shift * np.sqrt(size), pose, ones, size, COCO17.sigmas) for shift in (0.02, 0.05))
    assert 1 > near > far > 0


def test_oks_of_a_pose_without_counted_keypoints_is_0():
    assert oks(np.zeros((17, 2)), np.zeros((17, 2)), np.zeros(17), 100, COCO17.sigmas) == 0


def test_oks_is_that_of_pycocotools():
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.uniform(0, 200, (17, 2)), rng.integers(0, 3, (17, 1))], 1)
    found = truth[:, :2] + rng.normal(0, 6, (17, 2))
    evaluator = evaluation.COCOeval(iouType="keypoints")
    evaluator.params.imgIds, evaluator.params.catIds = [1], [1]
    person = {"keypoints": truth.flatten().tolist(), "area": 9000.0, "bbox": [0, 0, 200, 200]}
    candidate = {"keypoints": np.c_[found, np.ones(17)].flatten().tolist(), "score": 1.0}
    evaluator._gts[1, 1], evaluator._dts[1, 1] = [person], [candidate]
    wanted = evaluator.computeOks(1, 1)[0, 0]
    assert oks(found, truth[:, :2], truth[:, 2], 9000.0, COCO17.sigmas) == pytest.approx(wanted, abs=1e-9)


def test_oks_matrix_counts_the_sure_keypoints_of_the_first():
    poses = np.random.default_rng(1).uniform(0, 300, (3, 17, 2))
    scores = np.ones((3, 17))
    found = oks_matrix(poses, scores, poses[:2], np.full(3, 9e3), COCO17.sigmas)
    assert found.shape == (3, 2)
    assert np.allclose(found[[0, 1], [0, 1]], 1)
    assert found[2].max() < 0.5
    moved = poses[:1].copy()
    moved[0, 0] += 1000
    scores[0, 0] = 0.1
    assert oks_matrix(moved, scores[:1], poses[:1], [9e3], COCO17.sigmas)[0, 0] == pytest.approx(1)
    assert oks_matrix(np.zeros((0, 17, 2)), np.zeros((0, 17)), poses, np.zeros(0), COCO17.sigmas).shape == (0, 3)


def test_a_person_is_as_sure_as_box_pose_and_quality():
    scores = np.random.default_rng(0).uniform(0, 1, (3, 17))
    found = person_scores([1.0, 0.5, 0.5], scores, [np.nan, np.nan, 0.4], COCO17.sigmas)
    np.testing.assert_allclose(found, np.array([1, 0.5, 0.2]) * pose_scores(scores, COCO17.sigmas))
