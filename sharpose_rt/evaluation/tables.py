"""A table and its figure, as two files that only appear together."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sharpose_rt.errors import writing
from sharpose_rt.machine.whole_files import whole

Row = dict[str, float]


def table_files(path: Path) -> tuple[Path, Path]:
    """The files of table and figure: `path` with .csv and .png appended, or replacing either suffix."""
    stem = path.stem if path.suffix in (".csv", ".png") else path.name
    return path.with_name(f"{stem}.csv"), path.with_name(f"{stem}.png")


def write_table(
    rows: Sequence[Mapping[str, float]], columns: Sequence[str], draw: Callable[[Path], None], path: Path
) -> tuple[Path, Path]:
    """Writes the table and its figure by `draw`, see `table_files`, and returns both.

    Raises:
        OutputError: they cannot be written; existing ones are then kept.
    """
    table, figure = table_files(path)
    with writing(table, "give another path"), whole(table) as table_part, whole(figure) as figure_part:
        with table_part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({key: f"{row[key]:.6g}" for key in columns} for row in rows)
        draw(figure_part)
    return table, figure
