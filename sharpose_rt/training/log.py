"""The log of a training run: a CSV file, and optionally TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sharpose_rt.errors import ConfigError, writing
from sharpose_rt.machine.whole_files import whole

COLUMNS: tuple[str, ...] = (
    "step",
    "samples",
    "elapsed_s",
    "progress",
    "lr",
    "loss",
    "mse_coarse",
    "mse_fine",
    "mse_dense",
    "localisation_coarse",
    "localisation_fine",
    "localisation_dense",
    "distill_coarse",
    "distill_fine",
    "coarse_from_fine",
    "quality",
    "oks_coarse",
    "oks_fine",
    "oks_dense",
    "grad_norm",
    "samples_per_s",
    "val_ap",
    "val_ap_coarse",
)
Row = dict[str, float]


def write_log(rows: Sequence[Row], path: Path, *, append: bool = False) -> None:
    """Writes lines of a log: replaces the file in one step, or appends to it.

    Raises:
        OutputError: it cannot be written.
    """
    with (
        writing(f"the log {path}", "is the disk full?"),
        nullcontext(path) if append else whole(path) as target,
        target.open("a" if append else "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if not append:
            writer.writeheader()
        writer.writerows({key: _text(key, value) for key, value in row.items()} for row in rows)


def _text(key: str, value: float) -> str:
    """The text of a number; steps and samples exactly, because long runs have more than six digits and are resumed by
    them."""
    return f"{value:.0f}" if key in ("step", "samples") else f"{value:.6g}"


def read_log(path: Path, last_step: int | None = None) -> list[Row]:
    """Lines of a log up to `last_step`, without empty columns and incomplete lines."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    rows: list[Row] = []
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):  # a truncated number is still a number
        with suppress(ValueError, TypeError):
            rows.append({key: float(value) for key, value in row.items() if value != ""})
    return [row for row in rows if "step" in row and (last_step is None or row["step"] <= last_step)]


class TensorBoard:
    """Writes the columns of a log as scalars to a folder, continuing a run after `samples`.

    Raises:
        ConfigError: TensorBoard is not installed.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, samples: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("tensorboard=true needs TensorBoard: pip install 'sharpose-rt[tensorboard]'") from error
        self._folder = folder
        with self._writing():
            # Overwrites what a killed run logged after its last checkpoint.
            self._writer: Any = SummaryWriter(str(folder), purge_step=samples + 1 if samples else None)

    def add(self, row: Row) -> None:
        """Writes one line of the log; raises OutputError if it cannot be written."""
        with self._writing():
            for key, value in row.items():
                if key not in ("step", "samples"):
                    self._writer.add_scalar(key, value, int(row["samples"]))
            self._writer.flush()

    def _writing(self) -> AbstractContextManager[None]:
        return writing(f"TensorBoard's log in {self._folder}", "is the disk full?")
