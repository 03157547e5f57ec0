"""Boxes for the evaluation of poses: from the labels, a file or a detector."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.errors import ConfigError, DatasetError, DetectorError
from sharpose_rt.evaluation.truth import counted_people
from sharpose_rt.geometry.boxes import xywh_to_xyxy
from sharpose_rt.labels.coco import looked_at, read_picture
from sharpose_rt.types import Float32, Frame

SCORE_THRESHOLD = 0.001
"""For evaluating a detector: AP is over the whole precision-recall curve, so it needs weak boxes too."""


@dataclass(frozen=True)
class Boxes:
    """N boxes of a dataset, each with its picture, score and label.

    Args:
        image_ids: (N,).
        bboxes_xyxy: (N, 4) px.
        scores: (N,) in 0..1.
        annotation_ids: (N,), -1 for detected boxes.
    """

    image_ids: NDArray[np.int64]
    bboxes_xyxy: Float32
    scores: Float32
    annotation_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, rows: NDArray[Any]) -> Boxes:
        """Only these rows."""
        return Boxes(*(values[rows] for values in vars(self).values()))


def choose_boxes(
    boxes: str,
    document: dict[str, Any],
    images: Path,
    detector: str = DetectorConfig.name,
    image_size: int | None = None,
    *,
    offline: bool = False,
) -> Boxes:
    """Boxes for a value of --boxes, a word or a file; name and size of a detector are as in `DetectorConfig`.

    Raises:
        ConfigError: it is neither.
        DatasetError: the file is wrong.
        DetectorError: the detector is not available.
    """
    if boxes == "gt":
        return truth_boxes(document)
    if boxes == "detector":
        config = DetectorConfig(detector, score_threshold=SCORE_THRESHOLD, image_size=image_size)
        return detector_boxes(document, images, config, offline)
    if not Path(boxes).is_file():
        raise ConfigError(f"--boxes is {boxes!r}: no such file; 'gt', 'detector' or a file of detections is accepted")
    found = file_boxes(Path(boxes), document.get("people_ids"))
    unlabelled = {image["id"] for image in document["images"]} - {image["id"] for image in looked_at(document)}
    return found.take(~np.isin(found.image_ids, list(unlabelled)))


def truth_boxes(document: dict[str, Any]) -> Boxes:
    """The boxes of `counted_people`."""
    people = counted_people(document)
    xywh = np.array([a["bbox"] for a in people], np.float32).reshape(-1, 4)
    return Boxes(
        np.array([a["image_id"] for a in people], np.int64),
        xywh_to_xyxy(xywh).astype(np.float32),
        np.ones(len(people), np.float32),
        np.array([a["id"] for a in people], np.int64),
    )


def file_boxes(path: Path, people: Collection[Any] | None = None) -> Boxes:
    """Detected people from a file in COCO's result form: a list of image_id, category_id, bbox xywh, score.

    Args:
        path: the file.
        people: ids of the categories of people; if None, or not in the file: 1, as in COCO, or the only category.

    Raises:
        DatasetError: it cannot be read, or a record is wrong.
    """
    try:
        records = json.loads(path.read_bytes())
        there = {r.get("category_id", 1) for r in records}
        people = there.intersection(people or ()) or (there if len(there) == 1 else {1})
        records = [r for r in records if r.get("category_id", 1) in people]
        xywh = np.array([r["bbox"] for r in records], np.float32).reshape(-1, 4)
        image_ids = np.array([r["image_id"] for r in records], np.int64)
        scores = np.array([r["score"] for r in records], np.float32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DatasetError(
            f"cannot read boxes from {path}: {type(error).__name__} {error}; COCO's result form is wanted, a list of "
            '{"image_id", "category_id", "bbox": [x, y, width, height], "score"}'
        ) from error
    fine = np.isfinite(np.c_[xywh, scores]).all(1) & (xywh[:, 2:] >= 0).all(1)  # numpy turns null into NaN
    if not fine.all():
        raise DatasetError(
            f"{path}: a record is {records[int(fine.argmin())]!r:.160}; "
            "a finite score and bbox are wanted, of a width and height of 0 px or more"
        )
    boxes = xywh_to_xyxy(xywh).astype(np.float32)
    return Boxes(image_ids, boxes, scores, np.full(len(records), -1, np.int64))


def detector_boxes(
    document: dict[str, Any], images: Path, config: DetectorConfig, offline: bool = False, *, int8: bool = False
) -> Boxes:
    """People that a detector finds in the labelled pictures of a dataset; `int8` simulates 8-bit integers.

    Boxes of a file are used unchanged, with corners as in labels.

    Raises:
        DetectorError: the detector is not available, or not in int8.
    """
    from sharpose_rt.detection import Looks, Runtime, create_detector
    from sharpose_rt.detection.boxes import BoxFileDetector

    detector = create_detector(config, offline=offline, runtime=Runtime(int8=int8))
    detector.open()
    if int8 and not getattr(detector, "in_int8", False):
        detector.close()
        raise DetectorError(
            f"detector '{config.name}' has no int8; 'bundled' and files of `train-detector` have. Leave out "
            "--precision to measure it as it is"
        )
    looks = Looks(detector)
    ids, boxes, scores = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    try:
        labelled = {record["id"] for record in looked_at(document)}
        for index, record in enumerate(document["images"]):
            if record["id"] not in labelled:
                continue
            if isinstance(detector, BoxFileDetector):
                rows = np.array(detector.of_picture(record, index), np.float32).reshape(-1, 5)
                rows = rows[rows[:, 4] >= config.score_threshold]
                found, sure = rows[:, :4], rows[:, 4]
            else:
                picture = Frame(index, float(index), read_picture(record, images))
                people = looks.detect(picture, new_scene=True)
                found, sure = people.bboxes_xyxy, people.bbox_scores
            ids.append(np.full(len(found), record["id"], np.int64))
            boxes.append(found)
            scores.append(sure)
    finally:
        detector.close()
    image_ids = np.concatenate(ids)
    return Boxes(image_ids, np.concatenate(boxes), np.concatenate(scores), np.full(len(image_ids), -1, np.int64))
