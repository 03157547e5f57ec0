"""Where a model fails: a picture of the people whose poses are furthest from their labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError, OutputError
from sharpose_rt.evaluation.coco import label_triples, labels_of, oks_with_labels
from sharpose_rt.evaluation.predict import Predictions
from sharpose_rt.geometry.affine import apply_affine, crop_affine, warp_crops
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.training.datasets import picture_paths, read_image
from sharpose_rt.training.report import draw_pose

TILE_WH = (144, 192)
GREY = 60


def write_worst(
    predictions: Predictions,
    document: dict[str, Any],
    images: Path | None,
    quality_threshold: float,
    skeleton: Skeleton,
    out: Path,
    people: int = 12,
    refine_from_px: float = 0.0,
) -> list[float]:
    """Write a sheet of the people of lowest OKS, label left and pose right; gives their OKS, ascending.

    Args:
        predictions: in ground-truth boxes.
        document: the labels.
        images: folder of the pictures; None draws on grey, for pictures that must not be passed on.
        quality_threshold, refine_from_px: as in `evaluation.coco.score`.
        skeleton: the keypoints.
        out: picture file.
        people: at most so many.

    Raises:
        ConfigError: the boxes are no ground truth.
        OutputError: it cannot be written.
    """
    if (predictions.boxes.annotation_ids < 0).any():
        raise ConfigError("--worst compares people with their labels; it takes --boxes gt alone")
    keypoints, scores, _ = predictions.gated(quality_threshold, refine_from_px)
    records = labels_of(predictions, document)
    truth, similarity = label_triples(records), oks_with_labels(keypoints, records, document)
    similarity = np.where((truth[..., 2] > 0).any(1), similarity, math.inf)
    order = [i for i in np.argsort(similarity, kind="stable")[:people] if math.isfinite(similarity[i])]
    index_of, paths = picture_paths(document["images"], Path("labels"), images) if images else ({}, [])
    tiles = []
    for i in order:
        affine = crop_affine(predictions.boxes.bboxes_xyxy[i], TILE_WH)[0]
        crop = np.full((TILE_WH[1], TILE_WH[0], 3), GREY, np.uint8)
        if images:
            crop = warp_crops(read_image(paths[index_of[records[i]["image_id"]]]), affine, TILE_WH)[0]
        pairs = ((truth[i, :, :2], truth[i, :, 2] > 0), (keypoints[i], scores[i]))
        views = [
            draw_pose(crop, apply_affine(points, affine).astype(np.float32), np.asarray(seen, np.float32), skeleton)
            for points, seen in pairs
        ]
        tiles.append(_captioned(np.concatenate(views, 1), f"OKS {similarity[i]:.2f}"))
    if not cv2.imwrite(str(out), _sheet(tiles)):
        raise OutputError(f"cannot write {out}; a picture file such as worst.png in a folder that exists is wanted")
    return [float(similarity[i]) for i in order]


def _captioned(tile: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    cv2.putText(tile, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def _sheet(tiles: list[NDArray[np.uint8]], columns: int = 4) -> NDArray[np.uint8]:
    tiles = tiles + [np.zeros((TILE_WH[1], 2 * TILE_WH[0], 3), np.uint8)] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0)
