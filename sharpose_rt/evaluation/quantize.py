"""Measures the ranges that int8 needs, and its cost, on labelled people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation.boxes import truth_boxes
from sharpose_rt.evaluation.coco import score
from sharpose_rt.evaluation.mpii import check_pckh
from sharpose_rt.evaluation.predict import Predictions, predict
from sharpose_rt.evaluation.truth import by_pckh, check_keypoints, read_labels
from sharpose_rt.models import SHaRPose
from sharpose_rt.models.gate import Gate
from sharpose_rt.models.int8 import Ranges, observe, quantized


def quantize(
    model: SHaRPose, annotations: Path, images: Path, people: int, head_boxes: Path | None = None
) -> tuple[Ranges, dict[str, Any]]:
    """The input ranges of the layers (`models.int8`), and the cost of int8 on the same people.

    Args:
        model: in float32 on the CPU.
        annotations: people in COCO's keypoint form, MPII's .mat, or its common JSON.
        images: folder of the pictures.
        people: how many, evenly spread; all if there are fewer.
        head_boxes: `mpii_gt_val.mat`, for MPII's common JSON.

    Returns:
        The ranges; and `people` with their AP without and with int8, `AP` and `AP_int8` (0..1), or `PCKh` and
        `PCKh_int8` for MPII's own files.

    Raises:
        ConfigError: the labels have other keypoints than the network.
        DatasetError: the labels or a picture cannot be read, there is nobody, or MPII's people lack head sizes.
    """
    document = _some(read_labels(annotations, head_boxes, model.variant.skeleton), people)
    check_keypoints(model.variant, document)
    boxes = truth_boxes(document)
    if not len(boxes):
        raise DatasetError(f"{annotations} has nobody with keypoints; a label file of people is wanted")
    check_pckh(document, in_truth=True)
    measure = "PCKh" if by_pckh(document) else "AP"
    found: list[Predictions] = []
    ranges = observe(model, lambda: found.append(predict(model, document, images, boxes)))
    found.append(predict(quantized(model, ranges), document, images, boxes))
    exact, rounded = (score(predictions, document, Gate(), model)[measure] for predictions in found)
    return ranges, {"people": len(boxes), measure: exact, f"{measure}_int8": rounded}


def _some(document: dict[str, Any], count: int) -> dict[str, Any]:
    """The document with the labels of this many people."""
    ids = truth_boxes(document).annotation_ids
    kept = set(ids[np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)].tolist())
    return {**document, "annotations": [a for a in document["annotations"] if a["id"] in kept]}
