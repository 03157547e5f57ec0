"""Scenes for training a person detector: single pictures, or four together, with the boxes of their people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sharpose_rt.detection.letterbox import PAD_VALUE
from sharpose_rt.training.detector_recipe import DetectorRecipe
from sharpose_rt.training.pictures import Picture
from sharpose_rt.training.transforms import jitter_colour

MIN_VISIBLE, MIN_SIDE_PX = 0.25, 4.0
"""People of whom augmentation leaves less are painted over."""
Boxes = NDArray[np.float64]


class Wanted(NamedTuple):
    """The number of a scene, its side in px, and whether it may consist of four pictures."""

    number: int
    size: int
    may_mix: bool


class PeopleScenes(Dataset[tuple[Tensor, Tensor]]):
    """Augmented scenes with boxes of people; an item only depends on its number, the recipe and the seed.

    Args:
        pictures: with everybody labelled.
        draws: (N,) relative frequency of each.
        recipe: mosaic, colour, seed.
    """

    def __init__(self, pictures: Sequence[Picture], draws: NDArray[np.float64], recipe: DetectorRecipe) -> None:
        self.pictures, self.recipe = pictures, recipe
        self.chance = np.cumsum(draws) / np.sum(draws)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """A scene, (3, S, S) uint8 RGB, and its people (n, 4) float32, cxcywh in 0..1."""
        number, size, may_mix = wanted
        rng = np.random.default_rng((self.recipe.seed, number))
        scene = np.full((size, size, 3), PAD_VALUE, np.uint8)
        if may_mix and rng.random() < self.recipe.mosaic:
            x, y = (rng.uniform(0.3, 0.7, 2) * size).astype(int).tolist()
            windows = [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]
            boxes = np.concatenate([self._paste(scene, window, (0.9, 2.0), rng) for window in windows])
        else:
            boxes = self._paste(scene, (0, 0, size, size), (0.8, 1.6), rng)
        scene = jitter_colour(scene, self.recipe.colour, rng)
        pixels = torch.from_numpy(np.ascontiguousarray(scene[..., ::-1].transpose(2, 0, 1)))
        centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / size
        return pixels, torch.from_numpy(centred.astype(np.float32))

    def _paste(
        self,
        scene: NDArray[np.uint8],
        window: tuple[int, int, int, int],
        scales: tuple[float, float],
        rng: np.random.Generator,
    ) -> Boxes:
        """Draws a picture into a window of the scene, with random size, position and mirroring; returns its boxes."""
        picture = self.pictures[int(np.searchsorted(self.chance, rng.random()))]
        image = picture.read()
        h, w = image.shape[:2]
        x0, y0, x1, y1 = window
        ww, wh = x1 - x0, y1 - y0
        scale = math.exp(rng.uniform(math.log(scales[0]), math.log(scales[1]))) * max(ww, wh) / max(w, h)
        free_x, free_y = ww - scale * w, wh - scale * h  # negative if the picture is larger than the window
        shift_x, shift_y = rng.random() * free_x, rng.random() * free_y
        matrix = np.array([[scale, 0, shift_x], [0, scale, shift_y]])
        if rng.random() < 0.5:
            matrix[0] = [-scale, 0, ww - shift_x]
        people, unsure = (_move(boxes, matrix) for boxes in (picture.people_xyxy, picture.unsure_xyxy))
        people_seen, keeps = _visible(people, ww, wh)
        centred = matrix.copy()
        centred[:, 2] += (
            matrix[:, :2].sum(1) / 2 - 0.5
        )  # labels are measured from a pixel's corner, warps from its centre
        # cv2 only averages areas when resizing; halving first avoids aliasing at small scales.
        while scale < 0.55:
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            scale, centred = scale * 2, _for_half(centred)
        patch = cv2.warpAffine(image, centred, (ww, wh), borderMode=cv2.BORDER_CONSTANT, borderValue=(PAD_VALUE,) * 3)
        hidden, _ = _visible(np.concatenate([unsure, people[~keeps]]), ww, wh)
        for bx0, by0, bx1, by1 in hidden.round().astype(int):
            if not _covers(people_seen[keeps], (bx0, by0, bx1, by1)):
                patch[by0:by1, bx0:bx1] = PAD_VALUE
        scene[y0:y1, x0:x1] = patch
        return people_seen[keeps] + np.array([x0, y0, x0, y0])


def _move(boxes: Boxes, matrix: NDArray[np.float64]) -> Boxes:
    """Boxes (N, 4) under an affine (2, 3) of scale and mirroring."""
    x = boxes[:, [0, 2]] * matrix[0, 0] + matrix[0, 2]
    y = boxes[:, [1, 3]] * matrix[1, 1] + matrix[1, 2]
    return np.stack([x.min(1, initial=np.inf), y[:, 0], x.max(1, initial=-np.inf), y[:, 1]], 1)


def _visible(boxes: Boxes, width: int, height: int) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes (N, 4) clipped to the window, and which (N,) show enough of their person."""
    cut = boxes.clip(0, [width, height, width, height])
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(1) / np.maximum(whole.prod(1), 1e-9)
    return cut, (share >= MIN_VISIBLE) & (sides.min(1, initial=np.inf) >= MIN_SIDE_PX)


def _for_half(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine for a picture of half the size, with pixel centres in the same position."""
    result = matrix.copy()
    result[:, :2] *= 2
    result[:, 2] += matrix[:, :2].sum(1) * 0.5
    return result


def _covers(people: Boxes, box: tuple[int, int, int, int]) -> bool:
    """Whether painting over `box` would hide a large part of a person who counts."""
    if not len(people):
        return False
    low, high = np.maximum(people[:, :2], box[:2]), np.minimum(people[:, 2:], box[2:])
    inside = np.clip(high - low, 0, None).prod(1)
    return bool((inside > 0.3 * (people[:, 2:] - people[:, :2]).prod(1)).any())


def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A batch for ultralytics' loss, with `img` (B, 3, S, S) still uint8."""
    counts = torch.tensor([len(boxes) for _, boxes in samples])
    boxes = torch.cat([boxes for _, boxes in samples])
    return {
        "img": torch.stack([pixels for pixels, _ in samples]),
        "bboxes": boxes,
        "cls": torch.zeros(len(boxes), 1),
        "batch_idx": torch.arange(len(samples)).repeat_interleave(counts).float(),
    }
