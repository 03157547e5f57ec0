"""Coarse and fine poses for all boxes of a dataset, so that any quality threshold can be evaluated without the network.

Letters: N boxes, K keypoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpose_rt.config import PoseConfig
from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation.boxes import Boxes
from sharpose_rt.geometry.affine import (
    apply_affine,
    body_heights,
    crop_affine,
    invert_affine,
    warp_crops,
)
from sharpose_rt.geometry.heatmap import decode, flip_back
from sharpose_rt.labels.coco import read_picture
from sharpose_rt.models import SHaRPose
from sharpose_rt.models.gate import Gate, Outlook
from sharpose_rt.models.pixels import normalise
from sharpose_rt.skeleton import COCO17
from sharpose_rt.types import Float32

Estimate = Callable[[NDArray[np.uint8], Float32], tuple[Float32, Float32]]
"""Any estimator: from a picture (H, W, 3) uint8 BGR and boxes (N, 4) xyxy px to keypoints (N, K, 2) px and scores (N,
K)."""


@dataclass(frozen=True)
class Predictions:
    """Poses of N boxes: keypoints (N, K, 2) px, keypoint scores (N, K), quality (N,) of the coarse stage (NaN if
    unknown), whether the flip test was used, coarse poses in tighter crops (if they differ), and the gain (N,) of the
    fine stage (if predicted)."""

    boxes: Boxes
    coarse_keypoints: Float32
    coarse_scores: Float32
    fine_keypoints: Float32
    fine_scores: Float32
    quality: Float32
    flip_test: bool = False
    near_keypoints: Float32 | None = None
    near_scores: Float32 | None = None
    gain: Float32 | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def outlook(self) -> Outlook:
        """The input of the gate."""
        return Outlook(self.quality, np.full(len(self), math.inf) if self.gain is None else self.gain)

    def gated(self, gate: Gate) -> tuple[Float32, Float32, NDArray[np.bool_]]:
        """Keypoints, scores and who was refined (N,), as in a run with this gate."""
        heights_px = body_heights(self.boxes.bboxes_xyxy)
        refined = gate.refined(self.outlook, heights_px)
        coarse = self.coarse_keypoints, self.coarse_scores
        if (
            self.near_keypoints is not None and self.near_scores is not None
        ):  # people who are never refined get a tighter crop
            coarse = mixed(gate.never(heights_px), (self.near_keypoints, self.near_scores), coarse)
        return *mixed(refined, (self.fine_keypoints, self.fine_scores), coarse), refined


def mixed(
    which: NDArray[np.bool_], these: tuple[Float32, Float32], others: tuple[Float32, Float32]
) -> tuple[Float32, Float32]:
    """Keypoints (N, K, 2) and scores (N, K) of `these` for people in `which` (N,), and of `others` for the rest."""
    return np.where(which[:, None, None], these[0], others[0]), np.where(which[:, None], these[1], others[1])


def closer_padding(gate: Gate) -> float | None:
    """The padding of crops for people whom this gate never refines; None if there is nobody."""
    return PoseConfig.coarse_padding if gate.leaves_some else None


def predict(
    model: SHaRPose | Estimate,
    document: dict[str, Any],
    images: Path,
    boxes: Boxes,
    *,
    flip_test: bool = False,
    near_padding: float | None = None,
    batch: int = 16,
) -> Predictions:
    """Poses of all boxes through both stages, and optionally through the coarse stage with a tighter crop.

    Args:
        model: a network, or any estimator, for which coarse and fine are the same and quality is NaN.
        document: the label file, for the names of pictures.
        images: folder of the pictures.
        boxes: where the people are.
        flip_test: average heatmaps with those of the mirrored crop; quality is that of the original crop.
        near_padding: padding of the tighter crop, `PoseConfig.coarse_padding` in a run; None: no such crop, see
            `closer_padding`.
        batch: crops per batch.

    Raises:
        DatasetError: a picture is missing, or a box refers to none of the dataset.
    """
    rows = [
        _run_network(model, crops, flip_test) if isinstance(model, SHaRPose) else _run_estimate(model, crops)
        for crops in _batches(document, images, boxes, model, near_padding, batch)
    ]
    if not rows:  # nobody was found
        k = len(model.variant.skeleton) if isinstance(model, SHaRPose) else len(COCO17)
        points, scores = np.zeros((0, k, 2), np.float32), np.zeros((0, k), np.float32)
        return Predictions(boxes, points, scores, points, scores, np.zeros(0, np.float32), flip_test)
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    back = np.argsort(columns[0], kind="stable")
    coarse, coarse_scores, fine, fine_scores, quality, gain, *near = (
        column[back].astype(np.float32) for column in columns[1:]
    )
    near_keypoints, near_scores = near or (None, None)
    poses = coarse, coarse_scores, fine, fine_scores
    return Predictions(boxes, *poses, quality, flip_test, near_keypoints, near_scores, gain)


@dataclass
class _Crops:
    """N boxes: their rows in `Boxes`, and either crops (N, P, h, w, 3) at each of P paddings with their affines
    (N, P, 2, 3), or the picture itself."""

    rows: NDArray[np.int64]
    bboxes_xyxy: Float32
    image: NDArray[np.uint8] | None
    crops: NDArray[np.uint8] | None
    affines: NDArray[np.float64] | None


def _batches(
    document: dict[str, Any],
    images: Path,
    boxes: Boxes,
    model: SHaRPose | Estimate,
    near_padding: float | None,
    batch: int,
) -> Iterator[_Crops]:
    """Boxes picture by picture; for a network, crops of several pictures are combined to full batches."""
    records = {record["id"]: record for record in document["images"]}
    waiting: list[_Crops] = []
    for image_id in dict.fromkeys(boxes.image_ids.tolist()):
        if image_id not in records:
            raise DatasetError(f"a box names the picture {image_id}, which is not in the label file")
        rows = np.flatnonzero(boxes.image_ids == image_id)
        image = read_picture(records[image_id], images)
        if not isinstance(model, SHaRPose):
            yield _Crops(rows, boxes.bboxes_xyxy[rows], image, None, None)
            continue
        h, w = model.variant.size_hw
        paddings = [model.box_padding] if near_padding is None else [model.box_padding, near_padding]
        affines = np.stack([crop_affine(boxes.bboxes_xyxy[rows], (w, h), padding) for padding in paddings], 1)
        crops = warp_crops(image, affines.reshape(-1, 2, 3), (w, h)).reshape(len(rows), len(paddings), h, w, 3)
        for row, box, crop, affine in zip(rows, boxes.bboxes_xyxy[rows], crops, affines, strict=True):
            waiting.append(_Crops(np.array([row]), box[None], None, crop[None], affine[None]))
        while len(waiting) >= batch:
            yield _join(waiting[:batch])
            waiting = waiting[batch:]
    if waiting:
        yield _join(waiting)


def _join(items: list[_Crops]) -> _Crops:
    joined = {f.name: [getattr(item, f.name) for item in items] for f in fields(_Crops) if f.name != "image"}
    return _Crops(image=None, **{name: np.concatenate(values) for name, values in joined.items()})


@torch.inference_mode()
def _run_network(model: SHaRPose, crops: _Crops, flip_test: bool) -> tuple[Any, ...]:
    assert crops.crops is not None
    assert crops.affines is not None
    parameter, order = next(model.parameters()), model.variant.skeleton.flip_order
    images, *near = (
        normalise(part).to(parameter.dtype) for part in torch.from_numpy(crops.crops).to(parameter.device).unbind(1)
    )

    def stages(images: Tensor, near: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        out = model(images, math.inf)
        heatmaps = (out.coarse_heatmaps, out.heatmaps, *(model.coarse_stage(closer).heatmaps for closer in near))
        return [stage.float() for stage in heatmaps], [out.quality, out.gain]

    heatmaps, outlook = stages(images, near)
    if flip_test:
        mirrored, _ = stages(images.flip(-1), [closer.flip(-1) for closer in near])
        heatmaps = [(h + flip_back(m, order)) / 2 for h, m in zip(heatmaps, mirrored, strict=True)]
    back = invert_affine(crops.affines)
    columns: list[np.ndarray] = []
    for stage, padding in zip(heatmaps, (0, 0, *range(1, 1 + len(near))), strict=True):
        keypoints, scores = decode(stage, model.variant.size_hw, model.variant.skeleton.sigmas)
        columns += [apply_affine(keypoints.cpu().numpy(), back[:, padding]), scores.cpu().numpy()]
    return (crops.rows, *columns[:4], *(values.float().cpu().numpy() for values in outlook), *columns[4:])


def _run_estimate(estimate: Estimate, crops: _Crops) -> tuple[Any, ...]:
    assert crops.image is not None
    keypoints, scores = estimate(crops.image, crops.bboxes_xyxy)
    n = len(crops.rows)
    return crops.rows, keypoints, scores, keypoints, scores, np.full(n, np.nan), np.full(n, np.inf)
