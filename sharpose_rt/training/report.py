"""Pictures of a training run: its curves, and a sheet of predictions beside the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharpose_rt.training.loop import Trainer


def write_report(trainer: Trainer) -> None:
    """Write `curves.png` and `predictions.png` to the run's folder."""
