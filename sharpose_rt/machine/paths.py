"""What pathlib does, where its own way raises: at a folder that may not be entered, a name too long, no such user."""

from __future__ import annotations

import os
from pathlib import Path


def is_file(path: str | Path) -> bool:
    """Whether there is a file that may be looked at."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder that may be looked at."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: str | Path) -> bool:
    """Whether there is something that may be looked at."""
    return os.path.exists(path)  # noqa: PTH110


def expanded(path: str) -> Path:
    """The path with '~' and '~user' as the folder of that user; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def as_text(name: str) -> str:
    """A name as UTF-8 can hold it: with backslash escapes in the place of bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()
