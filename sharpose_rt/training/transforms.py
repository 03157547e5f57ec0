"""Varied crops of labelled people. Which affine is drawn is kept apart from the warp, so a warp elsewhere can follow.

Defaults and order are those of MMPose's top-down pipeline, which the paper uses; colour and occlusion are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sharpose_rt.geometry.affine import affine_from_region, apply_affine, fit_aspect, warp_crops
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.training.config import AugmentConfig
from sharpose_rt.training.datasets import People, read_image

Float32 = NDArray[np.float32]

NO_AUGMENT = AugmentConfig(shift=0, scale=0, rotation_p=0, flip_p=0, half_body_p=0)
IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variation:
    """How one crop shows its person: `affine` (2, 3) picture to crop, mirrored where `flipped`."""

    affine: NDArray[np.float64]
    flipped: bool


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
        config: how much of each.
        skeleton: says what the upper body is.
        rng: all chance comes from it.
    """
    box = bbox_xyxy
    if rng.random() < config.half_body_p:
        box = _half_body_box(keypoints, joint_weights, config.half_body_joints, skeleton, rng, box)
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
    return Variation(affine, flipped)


def _half_body_box(
    keypoints: Float32, weights: Float32, least: int, skeleton: Skeleton, rng: np.random.Generator, box: Float32
) -> Float32:
    """The box of the upper or lower body, or `box` where too few joints are labelled."""
    labelled = weights > 0
    if labelled.sum() < least:
        return box
    upper = np.zeros(len(skeleton), bool)
    upper[list(skeleton.upper_body)] = True
    halves = [keypoints[labelled & upper], keypoints[labelled & ~upper]]
    halves = [half for half in halves if len(half) >= 3]
    if not halves:
        return box
    half = halves[0] if len(halves) == 1 or rng.random() < 0.7 else halves[1]
    low, high = half.min(0), half.max(0)
    margin = (high - low) * 0.25  # 1.5 times the joints' extent, as MMPose
    return np.concatenate([low - margin, high + margin])


def jitter_colour(crop_bgr: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The crop with random brightness, contrast and saturation, each a factor of 1 ± strength."""
    gain, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    mean = float(crop_bgr.mean())
    # All three are linear in the pixel: one 3x3 matrix and an offset.
    grey = np.array([0.114, 0.587, 0.299])
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1))
    matrix = np.concatenate([gain * contrast * matrix, np.full((3, 1), gain * mean * (1 - contrast))], 1)
    return cv2.transform(crop_bgr, matrix)  # type: ignore[return-value]


def occlude(crop: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Pastes one patch of noise-tinted colour, or of the crop itself, over a tenth to a third of either side."""
    h, w = crop.shape[:2]
    ph, pw = int(h * rng.uniform(0.1, 0.33)), int(w * rng.uniform(0.1, 0.4))
    y, x = int(rng.integers(0, h - ph)), int(rng.integers(0, w - pw))
    if rng.random() < 0.5:
        from_y, from_x = int(rng.integers(0, h - ph)), int(rng.integers(0, w - pw))
        patch = crop[from_y : from_y + ph, from_x : from_x + pw].copy()
    else:
        patch = rng.integers(0, 256, (1, 1, 3), np.uint8)
    crop[y : y + ph, x : x + pw] = patch


class CropDataset(Dataset[dict[str, Tensor]]):
    """Varied crops; an item is asked for by (person, draw) and depends on nothing else than these and the seed."""

    def __init__(
        self, people: People, crop_size_wh: tuple[int, int], config: AugmentConfig, skeleton: Skeleton, seed: int = 0
    ) -> None:
        self.people = people
        self.crop_size_wh = crop_size_wh
        self.config = config
        self.skeleton = skeleton
        self.seed = seed

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """One crop with its labels.

        Returns:
            `crop` (h, w, 3) uint8 BGR; `keypoints` (K, 2) float32 crop px; `joint_weights` (K,) float32;
            `area` () float32, of the person in crop px².
        """
        index, draw = item
        rng = np.random.default_rng((self.seed, index, draw))
        people, config = self.people, self.config
        keypoints, weights = people.keypoints[index], people.joint_weights[index]
        variation = vary(people.bboxes_xyxy[index], keypoints, weights, self.crop_size_wh, config, self.skeleton, rng)
        image = read_image(people.image_paths[people.image_index[index]])
        crop = warp_crops(image, variation.affine, self.crop_size_wh)[0]
        if config.colour > 0:
            crop = jitter_colour(crop, config.colour, rng)
        if rng.random() < config.occlusion_p:
            occlude(crop, rng)
        points = apply_affine(keypoints, variation.affine)
        if variation.flipped:
            order = list(self.skeleton.flip_order)
            points, weights = points[order], weights[order]
        weights = np.where(self._reachable(points), weights, 0)
        area = people.areas[index] * abs(np.linalg.det(variation.affine[:, :2]))
        return {
            "crop": torch.from_numpy(np.ascontiguousarray(crop)),
            "keypoints": torch.from_numpy(points.astype(np.float32)),
            "joint_weights": torch.from_numpy(weights.astype(np.float32)),
            "area": torch.tensor(area, dtype=torch.float32),
        }

    def _reachable(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(K,) True where a joint lies in the crop, or so near that its Gaussian reaches in."""
        reach_px = 8.0  # two heatmap cells
        size = np.array(self.crop_size_wh)
        inside = (points > -reach_px) & (points < size - 1 + reach_px)
        return np.logical_and(inside[:, 0], inside[:, 1])


def normalise(crops: Tensor) -> Tensor:
    """Crops (B, h, w, 3) uint8 BGR as (B, 3, h, w) float32 RGB, by ImageNet's mean and standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN_RGB, device=crops.device).view(3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD_RGB, device=crops.device).view(3, 1, 1) * 255
    return (crops.flip(-1).permute(0, 3, 1, 2).float() - mean) / std
