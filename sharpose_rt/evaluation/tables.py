"""A table and a figure of it, as two files that are there together or not at all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sharpose_rt.errors import writing
from sharpose_rt.machine.whole_files import whole

Row = dict[str, float]


def table_files(path: Path) -> tuple[Path, Path]:
    """The table and the figure: `path` with .csv and .png behind it, or in place of either."""
    stem = path.stem if path.suffix in (".csv", ".png") else path.name
    return path.with_name(f"{stem}.csv"), path.with_name(f"{stem}.png")


def write_table(
    rows: Sequence[Mapping[str, float]], columns: Sequence[str], draw: Callable[[Path], None], path: Path
) -> tuple[Path, Path]:
    """Write the table and what `draw` makes of it, see `table_files`, and give both.

    Raises:
        OutputError: they cannot be written; earlier ones then stay, both.
    """
    table, figure = table_files(path)
    with writing(table, "give another path"), whole(table) as table_part, whole(figure) as figure_part:
        with table_part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({key: f"{row[key]:.6g}" for key in columns} for row in rows)
        draw(figure_part)
    return table, figure
