"""Natural order of names that contain numbers."""

from __future__ import annotations

import re

Key = list[tuple[int, int | str]]


def natural(name: str) -> Key:
    """A sorting key that puts 'img2' before 'img10', ignoring case."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name.lower()) if part]
