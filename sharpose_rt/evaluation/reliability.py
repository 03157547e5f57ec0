"""Reliability of keypoint scores: the share of keypoints with a score that are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError
from sharpose_rt.evaluation.predict import Predictions
from sharpose_rt.evaluation.tables import Row, write_table
from sharpose_rt.evaluation.truth import label_triples, labels_of, skeleton_of
from sharpose_rt.geometry.oks import similarities
from sharpose_rt.models.gate import Gate

_BINS = 10
RIGHT = 0.5
"""Least similarity (contribution to OKS) of a correct keypoint to its label."""
COLUMNS = ("from", "to", "mean_score", "labelled", "unlabelled", "right_of_labelled", "right_of_all", "similarity")
IN_TRUTH = "--reliability compares each pose with the label whose box it is in; use it with --boxes gt"


def reliability(predictions: Predictions, document: dict[str, Any], gate: Gate) -> list[Row]:
    """One row for each tenth of the scores that has keypoints.

    Keys: `from` and `to` of the scores, `mean_score`; `labelled` and `unlabelled`, the numbers of keypoints with and
    without a label (COCO has none for joints outside the picture or with unclear positions); `right_of_labelled` and
    `right_of_all`, the shares of correct keypoints, where the latter counts those without a label as wrong; mean
    `similarity` to the labels. NaN if there are none.

    Args:
        predictions: of ground-truth boxes.
        document: their labels.
        gate: decides who is refined.

    Raises:
        ConfigError: boxes are not those of the labels.
    """
    if (predictions.boxes.annotation_ids < 0).any():
        raise ConfigError(IN_TRUTH)
    keypoints, scores, _ = predictions.gated(gate)
    records = labels_of(predictions.boxes.annotation_ids, document)
    truth, areas = label_triples(records), np.array([record["area"] for record in records], np.float64)
    similar = similarities(keypoints, truth[..., :2], areas, skeleton_of(document).sigmas)
    known = truth[..., 2] > 0
    which = np.clip((scores * _BINS).astype(int), 0, _BINS - 1)
    rows = []
    for number in range(_BINS):
        here = which == number
        if here.any():
            ends = {"from": number / _BINS, "to": (number + 1) / _BINS, "mean_score": float(scores[here].mean())}
            rows.append(ends | _shares(similar[here & known], int((here & ~known).sum())))
    return rows


def _shares(similar: NDArray[np.float64], unlabelled: int) -> Row:
    """A row for keypoints of similar scores: labelled ones by their similarity, and the number of others."""
    count, right = len(similar), float((similar >= RIGHT).sum())
    return {
        "labelled": count,
        "unlabelled": unlabelled,
        "right_of_labelled": right / count if count else math.nan,
        "right_of_all": right / (count + unlabelled),
        "similarity": float(similar.mean()) if count else math.nan,
    }


def score_gap(rows: Sequence[Row]) -> float:
    """Mean difference between a score and the share of all keypoints that are right (expected calibration error)."""
    counts = [row["labelled"] + row["unlabelled"] for row in rows]
    gaps = [abs(row["mean_score"] - row["right_of_all"]) for row in rows]
    return sum(count * gap for count, gap in zip(counts, gaps, strict=True)) / max(1, sum(counts))


def write_reliability(rows: Sequence[Row], path: Path) -> tuple[Path, Path]:
    """Writes table and figure, see `write_table`, and returns both."""
    return write_table(rows, COLUMNS, lambda part: _draw(rows, part), path)


def _draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    bars = figure.subplots()
    middles = [(row["from"] + row["to"]) / 2 for row in rows]
    width = rows[0]["to"] - rows[0]["from"] if rows else 0.1
    labelled, unlabelled = ([row[name] for row in rows] for name in ("labelled", "unlabelled"))
    bars.bar(middles, labelled, 0.9 * width, color="#9ecae1", label="keypoints with a label")
    bars.bar(middles, unlabelled, 0.9 * width, bottom=labelled, color="#e0e0e0", label="without")
    bars.set_ylabel("keypoints")
    bars.set_xlabel("score")
    lines = bars.twinx()
    lines.plot([0, 1], [0, 100], "--", color="#7f7f7f", linewidth=1)
    for name, colour, label in (("labelled", "#2ca02c", "those with a label"), ("all", "#d62728", "all")):
        shares = [100 * row[f"right_of_{name}"] for row in rows]
        lines.plot([row["mean_score"] for row in rows], shares, "o-", color=colour, label=f"right, of {label}")
    lines.set_ylabel(f"keypoints that are right: a similarity of {RIGHT} to the label (%)")
    lines.set_ylim(0, 105)
    bars.set_xlim(0, 1)
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(path, format="png", dpi=120)
