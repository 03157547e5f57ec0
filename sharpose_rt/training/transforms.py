"""Augmented crops of labelled people. Sampling the affine is separate from the warp, which may happen elsewhere.

Defaults and order are those of MMPose's top-down pipeline, which the paper uses; colour, patches, pasted people, cut
edges and low resolution are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sharpose_rt.geometry.affine import affine_from_region, apply_affine, fit_aspect, invert_affine, warp_crops
from sharpose_rt.skeleton import TRUNK, Skeleton
from sharpose_rt.training.config import AugmentConfig
from sharpose_rt.training.datasets import People

Float32 = NDArray[np.float32]

MIN_PASSER_JOINTS = 9
"""People with fewer known joints have no outline to cut out."""
MIN_KEPT_JOINTS = 3
"""Cut edges leave at least this many joints."""
NO_AUGMENT = AugmentConfig(shift=0, scale=0, rotation_p=0, flip_p=0, half_body_p=0)


@dataclass(frozen=True)
class Variation:
    """How a crop shows its person.

    Args:
        affine: (2, 3) picture to crop.
        flipped: it mirrors.
        border: (3,) a, b, c; the picture ends where a x + b y + c of its pixels falls below 0. Zeros: no new border.
        share: of the person's box, 0..1, inside the border.
    """

    affine: NDArray[np.float64]
    flipped: bool
    border: NDArray[np.float64]
    share: float


def vary(
    bbox_xyxy: Float32,
    keypoints: Float32,
    joint_weights: Float32,
    crop_size_wh: tuple[int, int],
    config: AugmentConfig,
    skeleton: Skeleton,
    rng: np.random.Generator,
) -> Variation:
    """A random crop of one person: half body, shift, scale, rotation, mirror image.

    Args:
        bbox_xyxy: (4,) px.
        keypoints: (K, 2) px.
        joint_weights: (K,), 0 where not labelled.
        crop_size_wh: width and height of the crop.
        config: strengths and probabilities.
        skeleton: defines the upper body.
        rng: the only source of randomness.
    """
    box, border, share = bbox_xyxy, np.zeros(3), 1.0
    if config.cut_p > 0 and rng.random() < config.cut_p:
        box, border, share = _cut_box(keypoints[joint_weights > 0], rng, box)
    elif rng.random() < config.half_body_p:
        box = _half_body_box(keypoints, joint_weights, config, skeleton, rng, box)
    region = fit_aspect(box, crop_size_wh, config.padding)[0]
    if rng.random() < config.shift_p:
        region[:2] += rng.uniform(-config.shift, config.shift, 2) * region[2:]
    region[2:] *= np.clip(1 + config.scale * rng.standard_normal(), 1 - config.scale, 1 + config.scale)
    turn = 0.0
    if rng.random() < config.rotation_p:
        limit = 2 * config.rotation_deg
        turn = float(np.clip(config.rotation_deg * rng.standard_normal(), -limit, limit))
    affine = affine_from_region(region, crop_size_wh, turn)[0]
    flipped = bool(rng.random() < config.flip_p)
    if flipped:  # x becomes width - 1 - x
        affine[0] = -affine[0]
        affine[0, 2] += crop_size_wh[0] - 1
    return Variation(affine, flipped, border, share)


def _cut_box(joints: Float32, rng: np.random.Generator, box: Float32) -> tuple[Float32, NDArray[np.float64], float]:
    """A part of the box, the border where it ends, and its share; the whole box if too few joints (N, 2) would be left.

    A third to nine tenths of a side remain; half of the cuts remove the legs.
    """
    axis, keeps_low = ((1, True), (1, False), (0, True), (0, False))[rng.choice(4, p=(0.5, 0.2, 0.15, 0.15))]
    share = rng.uniform(0.33, 0.9)
    place = box[axis] + (share if keeps_low else 1 - share) * (box[axis + 2] - box[axis])
    border = np.zeros(3)
    border[axis], border[2] = (-1, place) if keeps_low else (1, -place)
    if _before(border, joints).sum() < MIN_KEPT_JOINTS:
        return box, np.zeros(3), 1.0
    kept = box.copy()
    kept[axis + 2 if keeps_low else axis] = place
    return kept, border, share


def _before(border: NDArray[np.float64], points: Float32) -> NDArray[np.bool_]:
    """Which points (N, 2) are inside the border, (N,)."""
    return points @ border[:2] + border[2] >= 0


def _half_body_box(
    keypoints: Float32,
    weights: Float32,
    config: AugmentConfig,
    skeleton: Skeleton,
    rng: np.random.Generator,
    box: Float32,
) -> Float32:
    """The box of the upper or lower body, or `box` if too few joints are labelled."""
    labelled = weights > 0
    if labelled.sum() < config.half_body_joints:
        return box
    upper = np.zeros(len(skeleton), bool)
    upper[list(skeleton.upper_body)] = True
    halves = [keypoints[labelled & upper], keypoints[labelled & ~upper]]
    halves = [half for half in halves if len(half) >= 3]
    if not halves:
        return box
    half = halves[0] if len(halves) == 1 or rng.random() < 0.7 else halves[1]
    low, high = half.min(0), half.max(0)
    margin = (
        (high - low) * (1.5 / config.padding - 1) / 2
    )  # 1.5 times the extent of the joints when padded, as in MMPose
    return np.concatenate([low - margin, high + margin])


def jitter_colour(crop_bgr: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The crop with random brightness, contrast and saturation, each a factor of 1 ± strength."""
    factors = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    return cv2.transform(crop_bgr, colour_matrix(factors, float(crop_bgr.mean())))  # type: ignore[return-value]


def colour_matrix(factors: Float32, mean: float) -> NDArray[np.float64]:
    """(3, 4) matrix that changes brightness, contrast and saturation of BGR pixels by `factors` (3,); `mean` is the
    crop's."""
    gain, contrast, saturation = factors
    # All three are linear in the pixel: one 3x3 matrix and an offset.
    grey = np.array([0.114, 0.587, 0.299])
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1))
    return np.concatenate([gain * contrast * matrix, np.full((3, 1), gain * mean * (1 - contrast))], 1)


def draw_patch(size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
    """A patch that covers part of a crop, with pixels from another place or a colour (then from_y is -1).

    Its size is a tenth to a third of the height and to 0.4 of the width; (9,): y, x, h, w, from_y, from_x, b, g, r.
    """
    h, w = size_hw
    ph, pw = int(h * rng.uniform(0.1, 0.33)), int(w * rng.uniform(0.1, 0.4))
    y, x = int(rng.integers(0, h - ph)), int(rng.integers(0, w - pw))
    if rng.random() < 0.5:
        return np.array([y, x, ph, pw, rng.integers(0, h - ph), rng.integers(0, w - pw), 0, 0, 0])
    return np.array([y, x, ph, pw, -1, -1, *rng.integers(0, 256, 3)])


def paste_patch(crop: NDArray[np.uint8], patch: NDArray[np.int64]) -> None:
    """Covers a part of the crop (h, w, 3) with a patch of `draw_patch`."""
    y, x, h, w, from_y, from_x = patch[:6]
    source = patch[6:] if from_y < 0 else crop[from_y : from_y + h, from_x : from_x + w].copy()
    crop[y : y + h, x : x + w] = source


def beyond(borders: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Which pixels (..., h, w) of crops are outside borders (..., 3) in crop pixels, see `Sample`."""
    h, w = size_hw
    x, y, c = (number[..., None, None] for number in borders.unbind(-1))
    rows = y * torch.arange(h, device=borders.device)[:, None] + c
    return x * torch.arange(w, device=borders.device) + rows < 0


def coarsen(pixels: Tensor, factor: float) -> Tensor:
    """The crop (3, h, w) float32 with the resolution reduced by `factor`."""
    h, w = pixels.shape[1:]
    small = F.interpolate(pixels[None], (round(h / factor), round(w / factor)), mode="bilinear", antialias=True)
    return F.interpolate(small, (h, w), mode="bilinear")[0]


@dataclass(frozen=True)
class Passer:
    """Another person in front.

    Args:
        index: of the person.
        affine: (2, 3) from their picture to this crop.
        mask: (h, w) uint8, 255 where they cover the crop; drawn along the skeleton, as labels have no outline.
    """

    index: int
    affine: NDArray[np.float64]
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """All random choices for a crop, and its labels; the pixels are made later.

    Args:
        variation: picture to crop.
        keypoints: (K, 2) float32 crop px.
        joint_weights: (K,) float32.
        area: of the person, crop px².
        colour: (3,) float32 factors of brightness, contrast, saturation; ones change nothing.
        patch: (9,) from `draw_patch`, with height 0 if nothing is covered.
        passer: the person in front, or None.
        border: (3,) float32, see `Variation.border`, in crop pixels.
        coarser: factor for `coarsen`; 1 changes nothing.
    """

    variation: Variation
    keypoints: Float32
    joint_weights: Float32
    area: float
    colour: Float32
    patch: NDArray[np.int64]
    passer: Passer | None
    border: Float32
    coarser: float

    @property
    def labels(self) -> dict[str, Tensor]:
        """The labels for the loss: `keypoints`, `joint_weights`, `area`."""
        return {
            "keypoints": torch.from_numpy(self.keypoints),
            "joint_weights": torch.from_numpy(self.joint_weights),
            "area": torch.tensor(self.area, dtype=torch.float32),
        }


def draw_mask(
    joints: NDArray[np.float64], known: NDArray[np.bool_], size_px: float, size_hw: tuple[int, int], skeleton: Skeleton
) -> NDArray[np.uint8]:
    """Mask (h, w), 0 to 255 with soft edges, of a body: thick limbs, and the trunk between shoulders and hips.

    Args:
        joints: (K, 2) crop px.
        known: (K,).
        size_px: root of the person's area.
        size_hw: of the crop.
        skeleton: which joints are limbs.
    """
    mask = np.zeros(size_hw, np.uint8)
    thick = max(3, int(0.22 * size_px))
    where = joints.round().astype(int).clip(-4096, 4096)
    for a, b in skeleton.limbs:
        if known[a] and known[b]:
            cv2.line(mask, where[a].tolist(), where[b].tolist(), 255, thick)
    body = np.array([joint for joint, name in enumerate(skeleton.keypoints) if name in TRUNK and known[joint]], int)
    if len(body) >= 3:
        cv2.fillConvexPoly(mask, cv2.convexHull(where[body].astype(np.int32)), 255)
    return cv2.GaussianBlur(mask, (5, 5), 0)  # type: ignore[return-value]


class Sampler:
    """Makes `Sample`s: one is requested by (person, draw) and only depends on these and the seed."""

    def __init__(
        self, people: People, crop_size_wh: tuple[int, int], config: AugmentConfig, skeleton: Skeleton, seed: int = 0
    ) -> None:
        self.people, self.crop_size_wh, self.config = people, crop_size_wh, config
        self.skeleton, self.seed = skeleton, seed

    def draw(self, index: int, draw: int) -> Sample:
        """The sample of person `index` with the number `draw` in the run."""
        rng = np.random.default_rng((self.seed, index, draw))
        people, config, size_wh = self.people, self.config, self.crop_size_wh
        keypoints, weights = people.keypoints[index], people.joint_weights[index]
        variation = vary(people.bboxes_xyxy[index], keypoints, weights, size_wh, config, self.skeleton, rng)
        colour = rng.uniform(1 - config.colour, 1 + config.colour, 3).astype(np.float32)
        covered = rng.random() < config.occlusion_p
        patch = draw_patch((size_wh[1], size_wh[0]), rng) if covered else np.zeros(9, np.int64)
        points = apply_affine(keypoints, variation.affine)
        weights = np.where(_before(variation.border, keypoints), weights, 0)
        if variation.flipped:
            order = list(self.skeleton.flip_order)
            points, weights = points[order], weights[order]
        weights = np.where(self._reachable(points), weights, 0).astype(np.float32)
        to_picture = np.vstack([invert_affine(variation.affine), [0, 0, 1]])
        border = (variation.border @ to_picture).astype(np.float32)
        area = float(variation.share * people.areas[index] * abs(np.linalg.det(variation.affine[:, :2])))
        passer = self._passer(index, points, weights, rng) if rng.random() < config.person_p else None
        coarser = 1.0
        if rng.random() < config.low_resolution_p:
            coarser = float(config.low_resolution ** rng.random())
        return Sample(variation, points.astype(np.float32), weights, area, colour, patch, passer, border, coarser)

    def _passer(
        self, index: int, points: NDArray[np.float64], weights: Float32, rng: np.random.Generator
    ) -> Passer | None:
        """Another person of similar size, placed so that they cover a part of this one."""
        people, (w, h) = self.people, self.crop_size_wh
        other = int(rng.integers(len(people)))
        known = people.joint_weights[other] > 0
        if other == index or known.sum() < MIN_PASSER_JOINTS or not (weights > 0).any():
            return None
        seen = points[weights > 0]
        place = (seen.min(0) + seen.max(0)) / 2 + rng.choice([-1, 1]) * np.array([rng.uniform(0.2, 0.45) * w, 0])
        region = fit_aspect(people.bboxes_xyxy[other], (w, h), self.config.padding)[0]
        region[2:] /= rng.uniform(0.7, 1.2)
        affine = affine_from_region(region, (w, h), rng.uniform(-15, 15))[0]
        affine[:, 2] += place - (np.array([w, h]) - 1) / 2
        joints = apply_affine(people.keypoints[other], affine)
        size_px = np.sqrt(people.areas[other] * abs(np.linalg.det(affine[:, :2])))
        return Passer(other, affine, draw_mask(joints, known, size_px, (h, w), self.skeleton))

    def _reachable(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(K,) True for joints inside the crop, or so close that their Gaussian reaches it."""
        reach_px = 8.0  # two heatmap cells
        size = np.array(self.crop_size_wh)
        inside = (points > -reach_px) & (points < size - 1 + reach_px)
        return np.logical_and(inside[:, 0], inside[:, 1])


class CropDataset(Dataset[dict[str, Tensor]]):
    """Augmented crops, each warped from its picture; an item is requested by (person, draw), see `Sampler`."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler.people)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """A crop with its labels.

        Returns:
            `crop` (h, w, 3) uint8 BGR; `keypoints` (K, 2) float32 crop px; `joint_weights` (K,) float32;
            `area` () float32, of the person in crop px².
        """
        people, sample = self.sampler.people, self.sampler.draw(*item)
        image = people.picture(item[0])
        crop = warp_crops(image, sample.variation.affine, self.sampler.crop_size_wh)[0]
        if self.sampler.config.cut_p > 0:
            crop[beyond(torch.from_numpy(sample.border), crop.shape[:2]).numpy()] = 0
        if self.sampler.config.colour > 0:
            crop = cv2.transform(crop, colour_matrix(sample.colour, float(crop.mean())))
        if sample.passer:
            crop = self._cover(crop, sample.passer)  # type: ignore[arg-type]
        if sample.coarser > 1:
            pixels = coarsen(torch.from_numpy(crop).permute(2, 0, 1).float(), sample.coarser)
            crop = pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        paste_patch(crop, sample.patch)  # type: ignore[arg-type]
        return {"crop": torch.from_numpy(np.ascontiguousarray(crop)), **sample.labels}

    def _cover(self, crop: NDArray[np.uint8], passer: Passer) -> NDArray[np.uint8]:
        image = self.sampler.people.picture(passer.index)
        other = warp_crops(image, passer.affine, self.sampler.crop_size_wh)[0]
        share = passer.mask[:, :, None] / np.float32(255)
        return (crop + share * (other.astype(np.float32) - crop)).round().astype(np.uint8)
