"""MOTChallenge text with boxes or labels of tracks: one line per box and frame."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_COLUMNS = ("frame", "id", "box left", "box top", "box width", "box height")


@dataclass(frozen=True)
class Row:
    """One line of the text.

    Args:
        where: file and line, for messages.
        frame_id: from 0.
        person: the id; -1 if unknown.
        xywh: left, top, width and height of the box in px; the centre of the top left pixel is at 0, 0.
        more: the numbers from the seventh column on, as far as requested and present.
        columns: number of columns in the line.
    """

    where: str
    frame_id: int
    person: int
    xywh: tuple[float, float, float, float]
    more: tuple[float, ...]
    columns: int


def rows(text: str, where: str, columns: int) -> list[Row]:
    """The lines `frame,id,left,top,width,height[,...]` of a text, in which frames and pixels count from 1.

    Separators are commas, semicolons or spaces. Empty lines, comments (#) and a header line are skipped.

    Args:
        text: the whole file.
        where: name of the file in messages.
        columns: number of columns that the caller needs, at least 6; others need not be numbers.

    Raises:
        ValueError: a line has too few columns, or a wrong number in one of them; says which.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = re.split(r"\s*[,;]\s*|\s+", line.strip().rstrip(",; \t"))
        if not any(cells) or cells[0].startswith("#") or (number == 1 and cells[0].isidentifier()):
            continue
        place = f"{where}, line {number}"
        if len(cells) < len(_COLUMNS):
            raise ValueError(
                f"{place}: {len(cells)} values in {line!r:.80}; frame,id,left,top,width,height[,...] of MOTChallenge "
                "is accepted"
            )
        numbers = [_number(cell) for cell in cells[:columns]]
        if not (numbers[0] >= 1 and numbers[0].is_integer()):  # NaN and infinity are neither
            raise ValueError(f"{place}: frame is {cells[0] or 'empty'}; whole numbers from 1 are accepted")
        for at, value in enumerate(numbers):
            if not math.isfinite(value):
                name = _COLUMNS[at] if at < len(_COLUMNS) else f"column {at + 1}"
                raise ValueError(f"{place}: {name} is {cells[at]!r}; finite numbers are accepted")
        frame, person, left, top, width, height, *more = numbers
        xywh = (left - 1, top - 1, width, height)
        found.append(Row(place, int(frame) - 1, int(person), xywh, tuple(more), len(cells)))
    return found


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
