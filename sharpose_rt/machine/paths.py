"""What pathlib does, where its own way raises: at a folder that may not be entered, a name too long, no such user."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Iterator
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


def place_of(source: str) -> str:
    """Where a source is, whatever leads there: a relative path means what it means from the present folder. Links of
    one folder to one file are several sources; an address is as it is."""
    if "://" in source:
        return source
    folder, name = os.path.split(os.path.expanduser(source.rstrip(f"/{os.sep}")))  # noqa: PTH111
    return os.path.join(_real(os.path.join(os.getcwd(), folder)), name)  # noqa: PTH109, PTH118 - it is called often


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def matching(pattern: Path) -> set[Path]:
    """What matches a glob. `**` follows links to folders, but not into a folder that it is in already."""
    parts = pattern.parts
    if "**" not in parts:
        return set(map(Path, glob.glob(str(pattern))))  # noqa: PTH207 - Path.glob takes no absolute one
    at = parts.index("**")
    folders = (folder for base in matching(Path(*parts[:at])) for folder in _folders(base))
    return {
        path for folder in folders for path in matching(Path(glob.escape(str(folder)), *(parts[at + 1 :] or ("*",))))
    }


def _folders(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The folder and those below it; of a loop of links each once."""
    real = os.path.realpath(folder)
    if real in above or not is_folder(folder):
        return
    yield folder
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names alone
    except OSError:  # as glob has it: a folder that may not be read has nothing
        return
    for name in names:
        if not name.startswith("."):
            yield from _folders(folder / name, above | {real})


def as_text(name: str) -> str:
    """A name as UTF-8 can hold it: with backslash escapes in the place of bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()
