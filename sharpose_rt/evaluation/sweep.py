"""AP and saved work against the quality threshold: the paper's Fig. 6, and a threshold chosen from it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpose_rt.errors import OutputError
from sharpose_rt.evaluation.coco import ap, gmacs, results
from sharpose_rt.evaluation.predict import Predictions

COLUMNS = ("quality_threshold", "exit_rate", "AP", "AP50", "AP75", "gmacs_per_person")
MAX_LOSS_AP = 0.003
Row = dict[str, float]


def sweep(predictions: Predictions, document: dict[str, Any], model: object, steps: int = 20) -> list[Row]:
    """Rows from all refined (threshold inf) to none (-inf), with thresholds at even shares of crops in between."""
    quality = np.sort(predictions.quality)[::-1]
    shares = np.linspace(0, 1, steps + 1)[1:-1]
    middle = [float(quality[int(share * len(quality))]) for share in shares] if len(quality) else []
    rows = []
    for threshold in [math.inf, *dict.fromkeys(middle), -math.inf]:
        keypoints, scores, refined = predictions.gated(threshold)
        exit_rate = float(1 - refined.mean()) if len(refined) else 0.0
        metrics = ap(results(predictions, keypoints, scores), document)
        row = {"quality_threshold": threshold, "exit_rate": exit_rate, "gmacs_per_person": gmacs(model, exit_rate)}
        rows.append(row | {name: metrics[name] for name in ("AP", "AP50", "AP75")})
    return rows


def calibrated_threshold(rows: Sequence[Row], max_loss_ap: float = MAX_LOSS_AP) -> Row:
    """The row that saves most among those that lose at most `max_loss_ap` (0.003 = 0.3 AP) to refining all."""
    best = next(row for row in rows if row["quality_threshold"] == math.inf)["AP"]
    return max((row for row in rows if row["AP"] >= best - max_loss_ap), key=lambda row: row["exit_rate"])


def write_sweep(rows: Sequence[Row], path: Path) -> tuple[Path, Path]:
    """Write `path` with .csv and with .png, and give both.

    Raises:
        OutputError: they cannot be written.
    """
    table, figure = path.with_suffix(".csv"), path.with_suffix(".png")
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({key: f"{row[key]:.6g}" for key in COLUMNS} for row in rows)
        _draw(rows, figure)
    except OSError as error:
        raise OutputError(f"cannot write the sweep to {table}: {error}") from error
    return table, figure


def _draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    bars = figure.subplots()
    places = range(len(rows))
    bars.bar(places, [100 * row["exit_rate"] for row in rows], color="#9ecae1")
    bars.set_ylabel("crops that skip the fine stage (%)")
    bars.set_xlabel("quality threshold")
    bars.set_xticks(places, [f"{row['quality_threshold']:.2f}" for row in rows], rotation=60)
    lines = bars.twinx()
    for name, colour in (("AP", "#d62728"), ("AP50", "#7f7f7f"), ("AP75", "#2ca02c")):
        lines.plot(places, [100 * row[name] for row in rows], "o-", color=colour, label=name)
    lines.set_ylabel("AP")
    lines.set_ylim(0, 100)
    lines.legend()
    figure.savefig(path, dpi=120)
