"""Sheets of a model's failures: the people with the least accurate poses, and the pictures with most missed people."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError, DatasetError, OutputError
from sharpose_rt.evaluation.coco import oks_with_labels
from sharpose_rt.evaluation.predict import Predictions
from sharpose_rt.evaluation.truth import label_triples, labels_of
from sharpose_rt.geometry.affine import apply_affine, crop_affine, warp_crops
from sharpose_rt.labels.coco import read_picture
from sharpose_rt.media.draw import draw_pose, sheet
from sharpose_rt.media.writer import write_image
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeleton import Skeleton

TILE_WH = (144, 192)
PICTURE_WH = (384, 288)
LINE_PX, GAP_PX = 20, 8  # height of a text line, and the gap between pictures
GREY = 60
# BGR. Orange and blue are distinct for every kind of colour blindness.
MISSED, FALSE_ALARM, FOUND = (0, 140, 255), (255, 128, 0), (225, 235, 225)
WORST_IN_TRUTH = "--worst compares people with their labels; it needs --boxes gt"


@dataclass(frozen=True)
class Verdict:
    """A detector's result for a picture, boxes (N, 4) xyxy px from its corner, without boxes on crowds.

    Args:
        image_id: the picture.
        missed_xyxy: labelled people without a box.
        found_xyxy: boxes on labelled people.
        false_xyxy: boxes on nobody labelled.
        false_scores: (N,) of these, in 0..1.
    """

    image_id: int
    missed_xyxy: NDArray[np.float64]
    found_xyxy: NDArray[np.float64]
    false_xyxy: NDArray[np.float64]
    false_scores: NDArray[np.float64]


def write_worst(
    predictions: Predictions,
    document: dict[str, Any],
    images: Path | None,
    gate: Gate,
    skeleton: Skeleton,
    out: Path,
    people: int = 12,
) -> list[float]:
    """Writes a sheet of the people with the lowest OKS, label left and pose right; returns their OKS, ascending.

    Args:
        predictions: in ground-truth boxes.
        document: the labels.
        images: folder of the pictures; None draws on grey, for pictures that must not be published.
        gate: decides who is refined.
        skeleton: the keypoints.
        out: picture file.
        people: how many at most.

    Raises:
        ConfigError: the boxes are not ground truth.
        DatasetError: nobody has a labelled keypoint.
        OutputError: it cannot be written.
    """
    if (predictions.boxes.annotation_ids < 0).any():
        raise ConfigError(WORST_IN_TRUTH)
    keypoints, scores, _ = predictions.gated(gate)
    records = labels_of(predictions.boxes.annotation_ids, document)
    truth, similarity = label_triples(records), oks_with_labels(keypoints, records, document)
    similarity = np.where((truth[..., 2] > 0).any(1), similarity, math.inf)
    order = [i for i in np.argsort(similarity, kind="stable")[:people] if math.isfinite(similarity[i])]
    if not order:
        raise DatasetError("--worst: none of the people has a labelled keypoint; leave it out")
    record_of = {record["id"]: record for record in document["images"]}
    tiles = []
    for i in order:
        affine = crop_affine(predictions.boxes.bboxes_xyxy[i], TILE_WH)[0]
        crop = np.full((TILE_WH[1], TILE_WH[0], 3), GREY, np.uint8)
        if images:
            crop = warp_crops(read_picture(record_of[records[i]["image_id"]], images), affine, TILE_WH)[0]
        pairs = ((truth[i, :, :2], truth[i, :, 2] > 0), (keypoints[i], scores[i]))
        views = [
            draw_pose(crop, apply_affine(points, affine).astype(np.float32), np.asarray(seen, np.float32), skeleton)
            for points, seen in pairs
        ]
        tiles.append(_captioned(np.concatenate(views, 1), f"OKS {similarity[i]:.2f}"))
    _write(out, sheet(tiles, columns=4))
    return [float(similarity[i]) for i in order]


def write_worst_pictures(
    verdicts: Sequence[Verdict], document: dict[str, Any], images: Path, out: Path, *, plain: bool, pictures: int = 12
) -> list[int]:
    """Writes a sheet of the pictures with most missed people; returns their ids, worst first.

    Pictures with equally many are ordered by the strongest false detection. A legend explains the colours.

    Args:
        verdicts: of all pictures, see `evaluation.detector.judge`.
        document: the labels.
        images: folder of the pictures.
        out: picture file.
        plain: draw on grey, for pictures that must not be published.
        pictures: how many at most.

    Raises:
        DatasetError: a picture is missing.
        OutputError: it cannot be written.
    """
    record_of = {record["id"]: record for record in document["images"]}
    worst = sorted(verdicts, key=lambda v: (len(v.missed_xyxy), v.false_scores.max(initial=0)), reverse=True)[:pictures]
    tiles = []
    for verdict in worst:
        picture = read_picture(record_of[verdict.image_id], images)
        tiles.append(_judged(np.full_like(picture, GREY) if plain else picture, verdict))
    judged = sheet(tiles, columns=3)
    _write(out, np.concatenate([_legend(judged.shape[1]), judged], 0))
    return [verdict.image_id for verdict in worst]


def check_sheet(out: str | None, plain: bool) -> None:
    """Checks --worst and --worst-plain before minutes of evaluation.

    Raises:
        ConfigError: --worst-plain without --worst.
        OutputError: the folder does not exist, or the suffix is not that of a picture.
    """
    if out is not None:
        _check_picture_file(Path(out))
    elif plain:
        raise ConfigError("--worst-plain leaves the photographs out of a sheet; give --worst OUT.png too")


def _check_picture_file(path: Path) -> None:
    # Only the suffix, and as bytes: OpenCV's Python binding crashes on text that is not UTF-8.
    if not path.parent.is_dir() or not cv2.haveImageWriter(os.fsencode(f"x{path.suffix}")):  # type: ignore[arg-type]
        raise OutputError(f"{path} cannot be written; give a picture file such as worst.png in a folder that exists")


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    _check_picture_file(path)
    write_image(path, picture)


def _judged(picture: NDArray[np.uint8], verdict: Verdict) -> NDArray[np.uint8]:
    """A tile with the picture, fitted into PICTURE_WH, and its boxes, below a line with their numbers."""
    scale = min(PICTURE_WH[0] / picture.shape[1], PICTURE_WH[1] / picture.shape[0])
    size_wh = (round(scale * picture.shape[1]), round(scale * picture.shape[0]))
    view = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)
    kinds = ((verdict.found_xyxy, FOUND, 1), (verdict.false_xyxy, FALSE_ALARM, 2), (verdict.missed_xyxy, MISSED, 2))
    for boxes, colour, width in kinds:  # drawn after scaling, so that lines have the same width for small people
        for left, top, right, bottom in np.round(scale * boxes).astype(int).tolist():
            cv2.rectangle(view, (left, top), (right, bottom), colour, width)
    tile = np.zeros((LINE_PX + PICTURE_WH[1] + GAP_PX, PICTURE_WH[0] + GAP_PX, 3), np.uint8)
    tile[LINE_PX : LINE_PX + size_wh[1], : size_wh[0]] = view
    missed, false = len(verdict.missed_xyxy), len(verdict.false_xyxy)
    text = f"missed {missed} of {missed + len(verdict.found_xyxy)}"
    if false:
        text += f"; false alarms {false}, strongest {verdict.false_scores.max():.2f}"
    return _captioned(tile, text)


def _legend(width_px: int) -> NDArray[np.uint8]:
    """A line (LINE_PX, width_px, 3) that explains the colours of boxes."""
    line = np.zeros((LINE_PX, width_px, 3), np.uint8)
    names = {"label that was missed": MISSED, "box that is a false alarm": FALSE_ALARM, "box on a label": FOUND}
    for column, (name, colour) in enumerate(names.items()):
        _captioned(line[:, column * width_px // len(names) :], name, colour)
    return line


def _captioned(tile: NDArray[np.uint8], text: str, colour: tuple[int, int, int] = (255, 255, 255)) -> NDArray[np.uint8]:
    cv2.putText(tile, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return tile
