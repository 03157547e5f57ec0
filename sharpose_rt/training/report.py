"""Pictures of a training run: its curves, and a sheet of labels and predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from sharpose_rt.errors import writing
from sharpose_rt.geometry.heatmap import decode
from sharpose_rt.machine.whole_files import whole
from sharpose_rt.media.draw import draw_pose, sheet
from sharpose_rt.media.writer import write_image
from sharpose_rt.models.pixels import normalise
from sharpose_rt.training.transforms import NO_AUGMENT, CropDataset, Sampler

if TYPE_CHECKING:
    from sharpose_rt.training.log import Row
    from sharpose_rt.training.loop import Trainer

_PANELS = (
    ("mean square error", ("mse_coarse", "mse_fine", "mse_dense")),
    ("localisation (nats)", ("localisation_coarse", "localisation_fine", "localisation_dense")),
    ("OKS of training crops", ("oks_coarse", "oks_fine", "oks_dense")),
    ("AP, validation", ("val_ap", "val_ap_coarse")),
    ("quality loss", ("quality",)),
    ("learning rate", ("lr",)),
)


def write_report(trainer: Trainer, people: int = 16) -> None:
    """Writes `curves.png` and `predictions.png` (label left, prediction right) to the folder of the run.

    Raises:
        OutputError: they cannot be written.
    """
    draw_curves(trainer.rows, trainer.out / "curves.png")
    write_image(trainer.out / "predictions.png", prediction_sheet(trainer, people))


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Plots losses, similarity, AP and learning rate against training minutes; bold lines are means over a tenth.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    for panel, (title, keys) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for colour, key in enumerate(keys):
            points = np.array([(row["elapsed_s"] / 60, row[key]) for row in rows if key in row]).reshape(-1, 2)
            if not len(points):
                continue
            window = max(1, len(points) // 10)
            panel.plot(*points.T, color=f"C{colour}", alpha=0.3)
            smooth = np.convolve(points[:, 1], np.ones(window) / window, mode="valid")
            panel.plot(points[window - 1 :, 0], smooth, color=f"C{colour}", linewidth=2, label=key)
        panel.set_title(title)
        panel.set_xlabel("minutes")
        if panel.get_legend_handles_labels()[0]:
            panel.legend()
    with writing(path, "is the disk full?"), whole(path) as part:
        figure.savefig(part, format="png", dpi=100)


def prediction_sheet(trainer: Trainer, people: int) -> NDArray[np.uint8]:
    """A sheet (H, W, 3) uint8 BGR of crops from all training sets: label, coarse pose, final pose."""
    model = trainer.averaged()
    size_hw, skeleton = model.variant.size_hw, model.variant.skeleton
    chosen = trainer.people.spread(people)
    augment = replace(NO_AUGMENT, padding=model.box_padding)
    dataset = CropDataset(Sampler(chosen, (size_hw[1], size_hw[0]), augment, skeleton))
    batch = default_collate([dataset[i, 0] for i in range(len(chosen))])
    with torch.inference_mode():
        out = model(normalise(batch["crop"].to(trainer.device)), math.inf)
    stages = [decode(h.float().cpu(), size_hw, skeleton.sigmas) for h in (out.coarse_heatmaps, out.heatmaps)]
    poses = [(batch["keypoints"], batch["joint_weights"]), *stages]
    tiles = []
    for i, crop in enumerate(batch["crop"].numpy()):
        views = [draw_pose(crop, k[i].numpy(), s[i].numpy(), skeleton) for k, s in poses]
        tiles.append(np.concatenate(views, 1))
    return sheet(tiles, columns=max(1, round(math.sqrt(len(tiles) / 2))))
