"""Affine maps from the picture to the crops of people.

The pixel-centre convention of the whole project: integer coordinates are pixel centres, so a picture of width w spans
0 .. w-1. A box of width b that becomes a crop of width w is scaled by (w - 1) / b, and the box's centre is mapped to
(w - 1) / 2. A heatmap of width v over that crop has (w - 1) / (v - 1) crop pixels per cell. UDP (Huang et al. 2020,
"The Devil Is in the Details") calls this unbiased: flipping and resizing commute with it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]


USUAL_PADDING = 1.25
"""The usual factor by which boxes are enlarged for their crops (MMPose's top-down pipeline, and SHaRPose's authors)."""


def fit_aspect(
    bboxes_xyxy: ArrayLike, crop_size_wh: tuple[int, int], padding: ArrayLike = USUAL_PADDING
) -> NDArray[np.float64]:
    """Each box widened to the crop's aspect and enlarged by `padding`: (N, 4) as cx, cy, w, h in px.

    `padding` is one factor or (N,). A box without extent counts as one pixel, so that every map has an inverse.
    """
    boxes = np.asarray(bboxes_xyxy, np.float64).reshape(-1, 4)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    width, height = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0).T
    aspect = crop_size_wh[0] / crop_size_wh[1]
    width, height = np.maximum(width, height * aspect), np.maximum(height, width / aspect)
    return np.concatenate([centre, np.stack([width, height], 1) * np.reshape(padding, (-1, 1))], 1)


def body_heights(bboxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Heights (N,) in px of the people in boxes (N, 4): the box's height, or 4/3 of its width if that is more, as for
    people who lie or bend."""
    return fit_aspect(bboxes_xyxy, (3, 4), padding=1.0)[:, 3]


def crop_affine(
    bboxes_xyxy: ArrayLike,
    crop_size_wh: tuple[int, int],
    padding: ArrayLike = USUAL_PADDING,
    rotation_deg: ArrayLike = 0.0,
) -> NDArray[np.float64]:
    """The map from picture to crop for each box: (N, 2, 3) float64.

    Args:
        bboxes_xyxy: (N, 4) px.
        crop_size_wh: width and height of the crop, px.
        padding: see `fit_aspect`.
        rotation_deg: angle by which the picture is turned in the crop (scalar or (N,)); clockwise, as y points down.
    """
    return affine_from_region(fit_aspect(bboxes_xyxy, crop_size_wh, padding), crop_size_wh, rotation_deg)


def affine_from_region(
    regions_cxcywh: ArrayLike, crop_size_wh: tuple[int, int], rotation_deg: ArrayLike = 0.0
) -> NDArray[np.float64]:
    """As `crop_affine`, from the regions (N, 4) that the crops show: centre and size, px."""
    regions = np.asarray(regions_cxcywh, np.float64).reshape(-1, 4)
    turn = np.broadcast_to(np.deg2rad(np.asarray(rotation_deg, np.float64)), len(regions))
    last_pixel = np.array(crop_size_wh, np.float64) - 1
    scale = last_pixel / regions[:, 2:]
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    linear = scale[:, :, None] * rotation
    offset = last_pixel / 2 - np.einsum("nij,nj->ni", linear, regions[:, :2])
    return np.concatenate([linear, offset[:, :, None]], -1)


def invert_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """The inverse of each map (..., 2, 3)."""
    maps = np.asarray(affine, np.float64)
    linear = np.asarray(np.linalg.inv(maps[..., :2]), np.float64)
    return np.concatenate([linear, -linear @ maps[..., 2:]], -1)


def chain_affines(first: ArrayLike, then: ArrayLike) -> NDArray[np.float64]:
    """The map (2, 3) that applies `first` (2, 3), then `then` (2, 3)."""
    one, two = np.asarray(first, np.float64), np.asarray(then, np.float64)
    return np.concatenate([two[:, :2] @ one[:, :2], apply_affine(one[:, 2:].T, two).T], -1)


def chain_motions(first: NDArray[np.float64] | None, second: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Both motions one after the other; None is no motion; see `chain_affines`."""
    if first is None or second is None:
        return first if second is None else second
    return chain_affines(first, second)


def apply_affine(points: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Points (N, K, 2) mapped by (N, 2, 3), or (K, 2) by (2, 3)."""
    maps = np.asarray(affine, np.float64)
    return np.asarray(points, np.float64) @ np.swapaxes(maps[..., :2], -1, -2) + maps[..., None, :, 2]


def warp_crops(image: NDArray[np.uint8], affine: ArrayLike, crop_size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Crops (N, h, w, 3) uint8 of one picture (H, W, 3), bilinear; black beyond its borders.

    If a person is much larger than the crop, the picture is first halved, by area averaging, until there are at most 2
    picture pixels per crop pixel: bilinear sampling alone would alias.
    """
    maps = np.asarray(affine, np.float64).reshape(-1, 2, 3)
    w, h = crop_size_wh
    crops = np.zeros((len(maps), h, w, 3), np.uint8)
    four = np.empty((h, w, 4), np.uint8)  # OpenCV warps four channels in a third of the time of three
    often = np.minimum(halvings(maps), min(image.shape[:2]).bit_length() - 1)
    for times in np.unique(often).tolist():
        rows, factor = np.flatnonzero(often == times), 2**times
        for which, region in _shared(_seen(maps[rows], crop_size_wh, factor, image.shape)):
            if (region[2:] <= region[:2]).any():
                continue  # outside the picture
            part = _halved(image, region, times)
            for row, matrix in zip(rows[which], _onto_part(maps[rows[which]], region[:2], factor), strict=True):
                cv2.warpAffine(part, matrix, crop_size_wh, dst=four, flags=cv2.INTER_LINEAR)
                cv2.cvtColor(four, cv2.COLOR_BGRA2BGR, dst=crops[row])
    return crops


def halvings(affine: ArrayLike) -> NDArray[np.int64]:
    """How often (N,) the picture is halved for each map (N, 2, 3) to a crop; 0 for up to 2 picture pixels per crop
    pixel."""
    crop_px_per_pixel = np.sqrt(np.abs(np.linalg.det(np.asarray(affine, np.float64)[:, :, :2])))
    return np.maximum(np.ceil(-np.log2(crop_px_per_pixel)) - 1, 0).astype(np.int64)


def _seen(
    maps: NDArray[np.float64], crop_size_wh: tuple[int, int], factor: int, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """The parts of a picture of that shape that crops show: (N, 4) as x0, y0, x1, y1, all multiples of `factor` px.

    So halving gives the same pixels whichever part is halved. A part without extent is outside the picture.
    """
    (w, h), limit = crop_size_wh, np.array([shape[1], shape[0]])
    corners = apply_affine(np.array([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]]), invert_affine(maps))
    low, high = corners.min(1) // factor - 1, corners.max(1) // factor + 2  # with the neighbours for bilinear sampling
    return np.concatenate([np.clip(end, 0, limit // factor) for end in (low, high)], 1).astype(np.int64) * factor


def _shared(regions: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Which crops are made from which part: one part for all if it has no more pixels than their separate parts
    together."""
    each = np.arange(len(regions))
    union = np.concatenate([regions[:, :2].min(0), regions[:, 2:].max(0)])
    if np.prod(union[2:] - union[:2]) <= np.prod(regions[:, 2:] - regions[:, :2], axis=1).sum():
        return [(each, union)]
    return [(each[n : n + 1], region) for n, region in enumerate(regions)]


def _halved(image: NDArray[np.uint8], region: NDArray[np.int64], times: int) -> NDArray[np.uint8]:
    """That part of the picture, halved `times` times, with a fourth channel."""
    x0, y0, x1, y1 = region.tolist()
    part = image[y0:y1, x0:x1]
    for _ in range(times):  # OpenCV averages 2x2 pixels quickly, but no other number
        part = cv2.resize(part, (part.shape[1] // 2, part.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(part, cv2.COLOR_BGR2BGRA)  # type: ignore[return-value]


def _onto_part(maps: NDArray[np.float64], low: NDArray[np.int64], factor: int) -> NDArray[np.float64]:
    """Maps (N, 2, 3) to crops, from the part of the picture that begins at `low` (x, y), made `factor` times
    smaller."""
    # Cell j of the small picture has its centre at low + factor * j + (factor - 1) / 2 of the large one.
    offset = maps[:, :, :2] @ (low + (factor - 1) / 2) + maps[:, :, 2]
    return np.concatenate([maps[:, :, :2] * factor, offset[:, :, None]], 2)
