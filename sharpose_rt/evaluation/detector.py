"""COCO box AP of a person detector, and its mistakes, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.config.checks import is_boxes_file
from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation.boxes import Boxes, detector_boxes
from sharpose_rt.evaluation.coco import pycocotools
from sharpose_rt.evaluation.metrics import stated_precision
from sharpose_rt.evaluation.truth import picture_ids
from sharpose_rt.evaluation.worst import Verdict, write_worst_pictures
from sharpose_rt.geometry.boxes import xywh_to_xyxy, xyxy_to_xywh
from sharpose_rt.labels.boxes import box_keypoints
from sharpose_rt.labels.coco import area_of, box_of, check_picture, looked_at, people_records, read_document

METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL")
JUDGED_SCORE = DetectorConfig.score_threshold
"""Weaker boxes are not drawn as mistakes of a detector, because a run ignores them."""


def evaluate_detector(
    config: DetectorConfig,
    annotations: Path,
    images: Path,
    *,
    offline: bool = False,
    int8: bool = False,
    worst: Path | None = None,
    worst_plain: bool = False,
    measured: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Box metrics of a detector on a label file: the keys of `box_ap`, and facts about the run.

    Args:
        config: the detector; its threshold should be low, see `boxes.SCORE_THRESHOLD`.
        annotations: labels in COCO's form; people need a box, but no keypoints.
        images: folder of the pictures.
        offline: download nothing.
        int8: simulate 8-bit integers in torch, if the weights are quantized.
        worst: picture file for the worst pictures, see `worst.write_worst_pictures`.
        worst_plain: without the photographs.
        measured: called with the metrics before anything is drawn, which may fail.

    Raises:
        DatasetError: labels or pictures are wrong.
        DetectorError: the detector is not available, or not in int8.
        OutputError: `worst` cannot be written.
    """
    document = read_box_labels(annotations)
    found, as_labels = detector_boxes(document, images, config, offline, int8=int8), is_boxes_file(config.name)
    counted = sum(not record["iscrowd"] for record in document["annotations"])
    metrics = {
        **box_ap(found, document, as_labels=as_labels),
        "images": len(looked_at(document)),
        "people": counted,
        "boxes": len(found),
        "score_threshold": config.score_threshold,
        "detector": config.name,
        "precision": stated_precision("int8" if int8 else "fp32"),
    }
    measured(metrics)
    if worst:
        verdicts = judge(found, document, as_labels=as_labels)
        write_worst_pictures(verdicts, document, images, worst, plain=worst_plain)
    return metrics


def read_box_labels(annotations: Path) -> dict[str, Any]:
    """The people of a label file for pycocotools, in category 1, with missing fields filled in.

    People are selected by `labels.coco.people_records`. Boxes in regions marked `iscrowd` or `ignore` do not count, as
    in COCO.

    Raises:
        DatasetError: the file or a record is wrong, or nobody is labelled; names both.
    """
    document = read_document(annotations)
    box_keypoints(document)
    index_of = picture_ids(document["images"], annotations)
    records = []
    for number, record in people_records(document, annotations):
        check_picture(record, number, annotations, index_of)
        box = box_of(record, number, annotations, empty=True)
        records.append(
            {
                "id": len(records) + 1,  # for pycocotools, id 0 means no match
                "image_id": record["image_id"],
                "category_id": 1,
                "bbox": box,
                "area": area_of(record, box, number, annotations),
                "iscrowd": int(bool(record.get("iscrowd") or record.get("ignore"))),
            }
        )
    if all(record["iscrowd"] for record in records):
        raise DatasetError(f"{annotations}: no person in it has a box; AP needs some")
    return {"images": document["images"], "annotations": records, "categories": [{"id": 1, "name": "person"}]}


def _from_corners(boxes: Boxes, document: dict[str, Any]) -> NDArray[np.float64]:
    """(N, 4) px measured from the corner of the picture, as in labels; our boxes are measured from the centre of the
    first pixel and end at the centres of border pixels."""
    sizes = {image["id"]: (image.get("width", math.inf), image.get("height", math.inf)) for image in document["images"]}
    last = np.array([sizes[i] for i in boxes.image_ids.tolist()], np.float64).reshape(-1, 2) - 1
    inner = boxes.bboxes_xyxy.astype(np.float64)
    corners = inner + 0.5
    corners[:, :2] -= 0.5 * (inner[:, :2] <= 0)
    corners[:, 2:] += 0.5 * (inner[:, 2:] >= last)
    return corners


def box_ap(boxes: Boxes, document: dict[str, Any], *, as_labels: bool = False) -> dict[str, float]:
    """AP, AP50, AP75, APS, APM, APL and AR (for 100 boxes per picture) in 0..1; -1 if nobody has this size.

    Args:
        boxes: detections.
        document: labels from `read_box_labels`.
        as_labels: the boxes are measured from the corner of the picture already, like those of a file.
    """
    evaluation = _evaluation(boxes, document, as_labels)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats]
    return dict(zip((*METRICS, "AR"), [*stats[:6], stats[8]], strict=True))


def judge(
    boxes: Boxes, document: dict[str, Any], min_score: float = JUDGED_SCORE, *, as_labels: bool = False
) -> list[Verdict]:
    """Found and missed people at an IoU of 0.5, for every picture with a label or a box, ordered by id.

    Args:
        boxes: detections.
        document: labels from `read_box_labels`.
        min_score: weaker boxes are left out.
        as_labels: as in `box_ap`.
    """
    evaluation = _evaluation(boxes, document, as_labels, min_score)
    any_size = evaluation.evalImgs[: len(evaluation.params.imgIds)]  # small and large people come after
    verdicts = []
    for picture in filter(None, any_size):
        # Row 0 is the IoU of 0.5. Matches contain the other's id, and ids start from 1.
        matched, counts = picture["dtMatches"][0] > 0, ~picture["dtIgnore"][0]
        found, false = matched & counts, ~matched & counts
        missed = (picture["gtMatches"][0] == 0) & (picture["gtIgnore"] == 0)
        labels, detections = _xyxy(evaluation.cocoGt, picture["gtIds"]), _xyxy(evaluation.cocoDt, picture["dtIds"])
        scores = np.array(picture["dtScores"], np.float64)[false]
        image_id = int(picture["image_id"])
        verdicts.append(Verdict(image_id, labels[missed], detections[found], detections[false], scores))
    return verdicts


def _evaluation(boxes: Boxes, document: dict[str, Any], as_labels: bool, min_score: float = 0.0) -> Any:
    """pycocotools' COCOeval after `evaluate`: boxes with at least this score are matched with labels."""
    labels_of_coco, evaluator = pycocotools()
    corners = boxes.bboxes_xyxy.astype(np.float64) if as_labels else _from_corners(boxes, document)
    found = [
        {"image_id": int(i), "category_id": 1, "bbox": box, "score": float(score)}
        for i, box, score in zip(boxes.image_ids, xyxy_to_xywh(corners).tolist(), boxes.scores, strict=True)
        if score >= min_score
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = labels_of_coco()
        truth.dataset = {"info": {}, **document}
        truth.createIndex()
        evaluation = evaluator(truth, truth.loadRes(found) if found else labels_of_coco(), "bbox")
        evaluation.evaluate()
    return evaluation


def _xyxy(records: Any, ids: list[int]) -> NDArray[np.float64]:
    """(N, 4) px, the boxes with these ids in a COCO object."""
    xywh = np.array([records.anns[i]["bbox"] for i in ids], np.float64).reshape(-1, 4)
    return xywh_to_xyxy(xywh).astype(np.float64)
