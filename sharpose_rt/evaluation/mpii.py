"""PCKh on MPII: the share of joints within half a head size of their true position (Andriluka et al. 2014).

Computed as in HRNet and MMPose, so that numbers are comparable: the head size is 0.6 of the diagonal of its box, pelvis
and thorax do not count, the total is over all labelled joints, and a group is the mean of its joints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation.predict import Predictions
from sharpose_rt.evaluation.truth import by_pckh, counted_people, label_triples, labels_of
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeleton import MPII16

_PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
GROUPS = {"head": ("head_top",), **{f"{part}s": (f"left_{part}", f"right_{part}") for part in _PARTS}}
_NOT_COUNTED = ("pelvis", "thorax")


def pckh(
    keypoints: ArrayLike, truth: ArrayLike, labelled: ArrayLike, head_size_px: ArrayLike, limit: float = 0.5
) -> dict[str, float]:
    """PCKh of N people in 0..1: over all counted joints (`PCKh`) and for each group; NaN if nothing is labelled.

    Args:
        keypoints: (N, 16, 2) px.
        truth: (N, 16, 2) px.
        labelled: (N, 16), above 0 for labelled joints.
        head_size_px: (N,) of each person.
        limit: largest distance of a correct joint, in head sizes.
    """
    distance = np.linalg.norm(np.asarray(keypoints, np.float64) - np.asarray(truth, np.float64), axis=-1)
    right = distance <= limit * np.asarray(head_size_px, np.float64)[:, None]
    counted = np.asarray(labelled) > 0
    index = {name: i for i, name in enumerate(MPII16.keypoints)}
    used = [i for name, i in index.items() if name not in _NOT_COUNTED]
    result = {"PCKh": _share(right[:, used], counted[:, used])}
    for group, names in GROUPS.items():
        joints = [_share(right[:, index[name]], counted[:, index[name]]) for name in names]
        result[f"PCKh_{group}"] = sum(joints) / len(joints)
    return result


def check_pckh(document: Mapping[str, Any], *, in_truth: bool) -> None:
    """Checks, before minutes of evaluation, that PCKh can be measured if it is the metric of these labels.

    Args:
        document: the labels.
        in_truth: whether poses are estimated in the boxes of the labels.

    Raises:
        DatasetError: they are not, or people lack head sizes.
    """
    if not by_pckh(document):
        return
    if not in_truth:
        raise DatasetError(
            "PCKh is measured in the boxes of the labels, as MPII says which person is meant; --boxes gt"
        )
    if any(not record.get("head_size_px", 0) > 0 for record in counted_people(document)):
        raise DatasetError("PCKh needs head boxes: give --head-boxes mpii_gt_val.mat, or MPII's own .mat as labels")


def pckh_metrics(predictions: Predictions, document: dict[str, Any], gate: Gate) -> dict[str, float]:
    """`pckh` at a threshold, with PCKh@0.1, and PCKh_coarse and PCKh_fine of each stage alone.

    Raises:
        DatasetError: people lack head sizes, or the boxes are not those of the labels.
    """
    check_pckh(document, in_truth=not (predictions.boxes.annotation_ids < 0).any())
    records = labels_of(predictions.boxes.annotation_ids, document)
    triples = label_triples(records)
    truth = triples[..., :2], triples[..., 2], np.array([record["head_size_px"] for record in records])
    keypoints = predictions.gated(gate)[0]
    result = pckh(keypoints, *truth)
    result["PCKh@0.1"] = pckh(keypoints, *truth, limit=0.1)["PCKh"]
    result["PCKh_coarse"] = pckh(predictions.coarse_keypoints, *truth)["PCKh"]
    result["PCKh_fine"] = pckh(predictions.fine_keypoints, *truth)["PCKh"]
    return result


def _share(right: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float:
    return float((right & counted).sum() / counted.sum()) if counted.any() else float("nan")
