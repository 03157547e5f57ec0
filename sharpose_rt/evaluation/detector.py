"""COCO box AP of a person detector, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.factory import is_boxes_file
from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation.coco import picture_ids, pycocotools
from sharpose_rt.evaluation.predict import Boxes, detector_boxes
from sharpose_rt.skeleton import BOX_TO_AREA
from sharpose_rt.training.datasets import box_of, check_picture, people_records, read_json

METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL")


def evaluate_detector(
    config: DetectorConfig, annotations: Path, images: Path, *, offline: bool = False, int8: bool = False
) -> dict[str, Any]:
    """Box metrics of a detector on a label file; see `box_ap` for the keys, to which facts of the run are added.

    Args:
        config: the detector; its threshold should be low, see `predict.SCORE_THRESHOLD`.
        annotations: labels in COCO's form; people need a box, no keypoints.
        images: folder of the pictures.
        offline: download nothing.
        int8: multiply 8-bit integers, where the bundled weights are ready for it.

    Raises:
        DatasetError: labels or pictures are wrong.
        DetectorError: the detector cannot be had.
    """
    document = read_box_labels(annotations)
    found = detector_boxes(document, images, config, offline, int8=int8)
    counted = sum(not record["iscrowd"] for record in document["annotations"])
    return {
        **box_ap(found, document, as_labels=is_boxes_file(config.name)),
        "images": len(document["images"]),
        "people": counted,
        "boxes": len(found),
        "score_threshold": config.score_threshold,
        "detector": config.name,
    }


def read_box_labels(annotations: Path) -> dict[str, Any]:
    """The people of a label file as pycocotools wants them, category 1, missing fields filled in.

    Who is a person, says `training.datasets.people_records`. What is marked `iscrowd` or `ignore` is a region in which
    boxes neither count nor harm, as COCO has it.

    Raises:
        DatasetError: the file or a record is wrong, or nobody is labelled; names both.
    """
    document = read_json(annotations)
    index_of = picture_ids(document["images"], annotations)
    records = []
    for number, record in people_records(document, annotations):
        check_picture(record, number, annotations, index_of)
        box = box_of(record, number, annotations, empty=True)
        records.append(
            {
                "id": len(records) + 1,  # pycocotools takes id 0 for no match
                "image_id": record["image_id"],
                "category_id": 1,
                "bbox": box,
                "area": float(record.get("area") or BOX_TO_AREA * box[2] * box[3]),
                "iscrowd": int(bool(record.get("iscrowd") or record.get("ignore"))),
            }
        )
    if all(record["iscrowd"] for record in records):
        raise DatasetError(f"{annotations}: no person in it has a box; AP needs some")
    return {"images": document["images"], "annotations": records, "categories": [{"id": 1, "name": "person"}]}


def _from_corners(boxes: Boxes, document: dict[str, Any]) -> NDArray[np.float64]:
    """(N, 4) px from the picture's corner, as labels count: ours, which ends at the border pixels' centres, do from
    the centre of the first pixel."""
    sizes = {image["id"]: (image.get("width", math.inf), image.get("height", math.inf)) for image in document["images"]}
    last = np.array([sizes[i] for i in boxes.image_ids.tolist()], np.float64) - 1
    inner = boxes.bboxes_xyxy.astype(np.float64)
    corners = inner + 0.5
    corners[:, :2] -= 0.5 * (inner[:, :2] <= 0)
    corners[:, 2:] += 0.5 * (inner[:, 2:] >= last)
    return corners


def box_ap(boxes: Boxes, document: dict[str, Any], *, as_labels: bool = False) -> dict[str, float]:
    """AP, AP50, AP75, APS, APM, APL and AR (of 100 boxes a picture) in 0..1; -1 where nobody is of that size.

    Args:
        boxes: what was found.
        document: labels from `read_box_labels`.
        as_labels: the boxes count from the picture's corner already, as those of a file do.
    """
    labels_of_coco, evaluator = pycocotools()
    if not len(boxes):
        return dict.fromkeys((*METRICS, "AR"), 0.0)
    corners = boxes.bboxes_xyxy.astype(np.float64) if as_labels else _from_corners(boxes, document)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    found = [
        {"image_id": int(i), "category_id": 1, "bbox": box, "score": float(score)}
        for i, box, score in zip(boxes.image_ids, xywh.tolist(), boxes.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = labels_of_coco()
        truth.dataset = {"info": {}, **document}  # type: ignore[reportAttributeAccessIssue]
        truth.createIndex()
        evaluation = evaluator(truth, truth.loadRes(found), "bbox")  # type: ignore[reportArgumentType]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats]
    return dict(zip((*METRICS, "AR"), [*stats[:6], stats[8]], strict=True))
