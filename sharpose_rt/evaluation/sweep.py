"""AP and saved work for thresholds of the gate: quality (the paper's Fig. 6), height or gain; and the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sharpose_rt.config.checks import GAIN_RANGE
from sharpose_rt.evaluation.coco import ap, gmacs, results
from sharpose_rt.evaluation.predict import Predictions
from sharpose_rt.evaluation.tables import Row, write_table
from sharpose_rt.evaluation.truth import skeleton_of
from sharpose_rt.geometry.affine import body_heights
from sharpose_rt.models.gate import Gate

QUALITY, HEIGHT, GAIN = "quality_threshold", "refine_from_px", "refine_from_gain"
"""Fields of `Gate` that can be swept."""
_ENDS = {QUALITY: (math.inf, -math.inf), HEIGHT: (0.0, math.inf), GAIN: GAIN_RANGE}
"""Values that refine all, and none."""
_ASKED = {
    QUALITY: "quality threshold",
    HEIGHT: "people less tall are not refined (px)",
    GAIN: "people of a lower predicted gain are not refined (AP)",
}
COLUMNS = ("exit_rate", "AP", "AP50", "AP75", "gmacs_per_person")
MAX_LOSS_AP = 0.003


def sweep(
    predictions: Predictions,
    document: dict[str, Any],
    model: object,
    steps: int = 20,
    by: str = QUALITY,
    gate: Gate | None = None,
) -> list[Row]:
    """Rows from all refined to none, with values at even shares of crops in between; `by` is the field to sweep.

    Other conditions of `gate` apply in every row; 'all' are then those who meet them.
    """
    gate, (every, nobody) = gate or Gate(), _ENDS[by]
    if by == HEIGHT:
        values = np.floor(np.sort(body_heights(predictions.boxes.bboxes_xyxy)))
    else:
        values = np.sort(predictions.outlook.gain) if by == GAIN else np.sort(predictions.quality)[::-1]
    middle = [float(values[int(share * len(values))]) for share in np.linspace(0, 1, steps + 1)[1:-1] if len(values)]
    rows = []
    for value in [every, *middle, nobody]:
        keypoints, scores, refined = predictions.gated(replace(gate, **{by: value}))
        exit_rate = float(1 - refined.mean()) if len(refined) else 0.0
        metrics = ap(results(predictions, keypoints, scores, skeleton_of(document)), document)
        row = {by: value, "exit_rate": exit_rate, "gmacs_per_person": gmacs(model, exit_rate, predictions.flip_test)}
        rows.append(row | {name: metrics[name] for name in ("AP", "AP50", "AP75")})
    return list({row[by]: row for row in rows}.values())


def calibrated(rows: Sequence[Row]) -> Row:
    """The row that saves most among those that lose at most MAX_LOSS_AP (0.3 AP) against the first, all refined."""
    return max((row for row in rows if row["AP"] >= rows[0]["AP"] - MAX_LOSS_AP), key=lambda row: row["exit_rate"])


def write_sweep(rows: Sequence[Row], path: Path) -> tuple[Path, Path]:
    """Writes table and figure, see `write_table`, and returns both."""
    return write_table(rows, (_swept(rows), *COLUMNS), lambda part: _draw(rows, part), path)


def _swept(rows: Sequence[Row]) -> str:
    return next(name for name in _ENDS if name in rows[0])


def _draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    bars = figure.subplots()
    places = range(len(rows))
    bars.bar(places, [100 * row["exit_rate"] for row in rows], color="#9ecae1")
    bars.set_ylabel("crops that skip the fine stage (%)")
    by = _swept(rows)
    bars.set_xlabel(_ASKED[by])
    digits = {HEIGHT: 0, QUALITY: 2, GAIN: 3}[by]
    bars.set_xticks(places, [f"{row[by]:.{digits}f}" for row in rows], rotation=60)
    lines = bars.twinx()
    for name, colour in (("AP", "#d62728"), ("AP50", "#7f7f7f"), ("AP75", "#2ca02c")):
        lines.plot(places, [100 * row[name] for row in rows], "o-", color=colour, label=name)
    lines.set_ylabel("AP")
    lines.set_ylim(0, 100)
    lines.legend()
    figure.savefig(path, format="png", dpi=120)
