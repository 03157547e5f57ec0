"""People by their outlines: histograms of oriented gradients and linear filters, 34 kB of weights.

What finds people until a trained network is bundled. Features after Felzenszwalb et al. 2010, "Object Detection with
Discriminatively Trained Part Based Models", section 6 (31 numbers a cell of 8 x 8 px), slid over a pyramid as
Dalal and Triggs 2005 did; a filter for each of a few shapes of people (upright, seated, wide). OpenCV's detector of
this kind is no longer part of OpenCV 5, so the filters are our own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.postprocess import finish, suppress
from sharpose_rt.errors import DetectorError, WeightsError
from sharpose_rt.types import Detections, Frame

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("sharpose_rt.detection")

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "hog_people.safetensors"
CELL_PX = 8
MARGIN_CELLS = 1
"""A filter sees so much more than the person on each side."""
PAD_CELLS = 3
"""Cells added around the picture, so that people at its edge are found."""
FLAT_ENERGY = 1e4 / 64**2
"""Keeps noise of flat regions small: about a grey level of gradient in each pixel of a block."""
LEVELS_PER_OCTAVE = 6
WORKING_SCALE = 1.5
"""The pyramid starts at `image_size` times this; people from about a tenth of that are found."""
IOU_THRESHOLD = 0.4
INSIDE_THRESHOLD = 0.7
"""A linear filter answers at many scales on one person: boxes within boxes go too."""


@dataclass(frozen=True)
class HogFilters:
    """The linear filters of people's shapes.

    Args:
        weights: one (31, h, w) float32 tensor a shape; h and w in cells, margins included.
        scale, offset: from a filter's answer to a logit, one for each shape.
    """

    weights: tuple[torch.Tensor, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]


def load_filters(path: Path = WEIGHTS) -> HogFilters:
    """The filters of a file.

    Raises:
        WeightsError: it is missing or damaged, or it is the package's own and not the one that was shipped.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path == WEIGHTS:
            _check_shipped(path)
        tensors = load_file(path)
        shapes = sum(key.startswith("filter") for key in tensors)
        weights = tuple(tensors[f"filter{i}"].float() for i in range(shapes))
        return HogFilters(weights, tuple(tensors["scale"].tolist()), tuple(tensors["offset"].tolist()))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"people filters '{path}' cannot be read: {error}; reinstall the package") from error


def _check_shipped(path: Path) -> None:
    """Compare a file with the SHA-256 on the card that ships beside it."""
    wanted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted:
        raise WeightsError(f"{path} has SHA-256 {found}, but {wanted} was shipped; install the package again")


def hog_features(image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gradient histograms of a picture (H, W, 3): (31, H // 8, W // 8) float32.

    Each cell holds 18 directed and 9 undirected orientations and 4 sums of gradient energy, normalised by the four
    blocks of cells around it.
    """
    rows, columns = image_bgr.shape[0] // CELL_PX, image_bgr.shape[1] // CELL_PX
    quarters = np.pad(_orientations(image_bgr, rows * 2, columns * 2), ((1, 1), (1, 1), (0, 0)), mode="edge")
    # Bilinear weights of 16 px around each cell: 1-3-3-1 over boxes of 4 px, along both axes.
    ramp = (1.0, 3.0, 3.0, 1.0)
    directed = np.zeros((rows, columns, 18), np.float32)
    for i, j in np.ndindex(4, 4):
        directed += ramp[i] * ramp[j] / 64 * quarters[i : i + 2 * rows : 2, j : j + 2 * columns : 2]
    undirected = directed[..., :9] + directed[..., 9:]  # (h, w, 9)

    energy = np.pad(np.square(undirected).sum(-1), 1, mode="edge")
    blocks = energy[:-1, :-1] + energy[1:, :-1] + energy[:-1, 1:] + energy[1:, 1:]
    norms = 1 / np.sqrt(blocks + FLAT_ENERGY)  # (h + 1, w + 1)
    features = np.zeros((rows, columns, 31), np.float32)
    for i, norm in enumerate((norms[:-1, :-1], norms[:-1, 1:], norms[1:, :-1], norms[1:, 1:])):
        clipped = np.minimum(directed * norm[..., None], 0.2)
        features[..., :18] += 0.5 * clipped
        features[..., 18:27] += 0.5 * np.minimum(undirected * norm[..., None], 0.2)
        features[..., 27 + i] = 0.2357 * clipped.sum(-1)
    return np.ascontiguousarray(features.transpose(2, 0, 1))


def _orientations(image_bgr: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
    """Gradient of the grey picture summed by its nearest direction over boxes of 4 px: (rows, columns, 18) float32."""
    half = CELL_PX // 2
    grey = cv2.cvtColor(image_bgr[: rows * half, : columns * half], cv2.COLOR_BGR2GRAY)
    dx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1, borderType=cv2.BORDER_REPLICATE)
    magnitude, angle = cv2.cartToPolar(dx, dy)
    direction = (angle * np.float32(9 / math.pi) + np.float32(0.5)).astype(np.int32)
    direction[direction >= 18] = 0
    box = (np.arange(rows * half) // half * columns)[:, None] + np.arange(columns * half) // half
    index = box.astype(np.int32) * 18 + direction
    total = np.bincount(index.ravel(), magnitude.ravel(), minlength=rows * columns * 18)
    return total.astype(np.float32).reshape(rows, columns, 18)


class HogDetector:
    """Finds people who stand upright and are seen whole; a stopgap where no network can be had.

    It misses most people who bend, lie, hide each other, are cut off at the waist, or are smaller than a tenth of the
    frame, and takes tree trunks and window frames for people: on 58 pictures of COCO (188 people with keypoints) it
    has AP50 0.17. A small YOLO network finds most of them. `weights/hog_people.md` says what the scores were
    calibrated on.
    """

    def __init__(self, config: DetectorConfig, *, device: str = "cpu", weights: Path = WEIGHTS) -> None:
        self.name = "bundled:hog"
        self.config = config
        self.device = device
        self.weights = weights
        self._filters: HogFilters | None = None

    def open(self) -> None:
        """Read the filters."""
        import torch

        if self._filters is None:
            filters, device = load_filters(self.weights), torch.device(self.device)
            moved = tuple(weight.to(device) for weight in filters.weights)
            self._filters = HogFilters(moved, filters.scale, filters.offset)

    def detect(self, frame: Frame) -> Detections:
        """People in the frame, strongest first."""
        if self._filters is None:
            raise DetectorError(f"detector '{self.name}' is not open; call open() first")
        boxes, scores = search(frame.image_bgr, self._filters, self._sizes(frame.size_wh), self.config.score_threshold)
        kept = suppress(boxes, scores, min(IOU_THRESHOLD, self.config.iou_threshold), INSIDE_THRESHOLD)
        return finish(boxes[kept], scores[kept], frame.size_wh, self.config)

    def close(self) -> None:
        """Let the filters go."""
        self._filters = None

    def _sizes(self, size_wh: tuple[int, int]) -> list[tuple[int, int]]:
        return pyramid_sizes(size_wh, self.config.image_size * WORKING_SCALE)


def pyramid_sizes(size_wh: tuple[int, int], longest_px: float) -> list[tuple[int, int]]:
    """Sizes of the pyramid's pictures, largest first, down to where a person fills the picture."""
    sizes: list[tuple[int, int]] = []
    scale = longest_px / max(size_wh)
    while min(size := (round(size_wh[0] * scale), round(size_wh[1] * scale))) >= 6 * CELL_PX:
        sizes.append(size)
        scale *= 2 ** (-1 / LEVELS_PER_OCTAVE)
    return sizes


def search(
    image_bgr: NDArray[np.uint8], filters: HogFilters, sizes_wh: list[tuple[int, int]], score_threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every place of the pyramid where a filter answers: boxes (N, 4) px of the picture and scores (N,) in 0..1."""
    import torch
    import torch.nn.functional as F

    boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
    height, width = image_bgr.shape[:2]
    pad = PAD_CELLS * CELL_PX
    with torch.inference_mode():
        for size_wh in sizes_wh:
            resized = cv2.resize(
                image_bgr, size_wh, interpolation=cv2.INTER_AREA if size_wh[0] < width else cv2.INTER_LINEAR
            )
            padded = cv2.copyMakeBorder(resized, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
            features = torch.from_numpy(hog_features(np.asarray(padded, np.uint8))[None]).to(filters.weights[0].device)
            step = np.array([width / size_wh[0], height / size_wh[1]])
            for weight, scale, offset in zip(filters.weights, filters.scale, filters.offset, strict=True):
                if any(f < w for f, w in zip(features.shape[2:], weight.shape[1:], strict=True)):
                    continue
                answer = torch.sigmoid(F.conv2d(features, weight[None])[0, 0] * scale + offset)
                rows, columns = (answer >= score_threshold).nonzero(as_tuple=True)
                corner = torch.stack([columns, rows], 1).cpu().numpy() + MARGIN_CELLS - PAD_CELLS
                extent = np.array(weight.shape[:0:-1]) - 2 * MARGIN_CELLS
                found = np.concatenate([corner, corner + extent], 1) * CELL_PX
                boxes.append(found * np.tile(step, 2) - 0.5)
                scores.append(answer[rows, columns].double().cpu().numpy())
    return np.concatenate(boxes), np.concatenate(scores)
