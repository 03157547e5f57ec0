"""Path functions that, unlike pathlib's, raise nothing: on a folder without access, a name that is too long, an unknown
user, a loop of links."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Iterator
from pathlib import Path


def is_file(path: str | Path) -> bool:
    """Whether this is an accessible file."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether this is an accessible folder."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: str | Path) -> bool:
    """Whether this is accessible and exists."""
    return os.path.exists(path)  # noqa: PTH110


def expanded(path: str) -> Path:
    """The path with '~' or '~user' replaced by that user's home folder; unchanged if there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def place_of(source: str) -> str:
    """The absolute path of a source with links in its folders resolved, but not its own name, so that two links to one
    file are two sources. A relative path is relative to the current folder; an address is returned unchanged."""
    if "://" in source:
        return source
    folder, name = os.path.split(os.path.expanduser(source.rstrip(f"/{os.sep}")))  # noqa: PTH111
    return os.path.join(_real(os.path.join(os.getcwd(), folder)), name)  # noqa: PTH109, PTH118 - called often


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def matching(pattern: Path) -> set[Path]:
    """The paths that match a glob. `**` follows links to folders, but not into a folder that it is already in."""
    parts = pattern.parts
    if "**" not in parts:
        return set(map(Path, glob.glob(str(pattern))))  # noqa: PTH207 - Path.glob rejects absolute patterns
    at = parts.index("**")
    folders = (folder for base in matching(Path(*parts[:at])) for folder in _folders(base))
    return {
        path for folder in folders for path in matching(Path(glob.escape(str(folder)), *(parts[at + 1 :] or ("*",))))
    }


def _folders(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The folder and those below it, each once even in a loop of links."""
    real = os.path.realpath(folder)
    if real in above or not is_folder(folder):
        return
    yield folder
    try:
        names = os.listdir(folder)  # noqa: PTH208 - only names
    except OSError:  # as in glob, an unreadable folder is empty
        return
    for name in names:
        if not name.startswith("."):
            yield from _folders(folder / name, above | {real})


def as_text(name: str) -> str:
    """A name that UTF-8 can encode: bytes that are not text become backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
