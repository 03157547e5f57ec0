"""Files that appear complete or not at all, and replace an earlier file in one step."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; a file written there replaces `path` at the end of the block, so that
    `path` is either the complete new file or unchanged. The folder is made if needed; a link is kept and its target
    replaced.

    Raises:
        OSError: the folder cannot be made, the file cannot be put in place, or `path` is a device, a pipe or a folder.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file, and only those can be replaced")
    part = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        on_disk(part)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):  # in an unusable folder nothing was written
            part.unlink(missing_ok=True)


def on_disk(path: Path) -> None:
    """Waits until a file's contents are on disk: otherwise a power cut after renaming it can leave zeros."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, see `whole`.

    Raises:
        OSError: it cannot be written.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def beside(path: Path) -> Path:
    """A new name in the folder of `path`, with its suffix: a file written there can be renamed in one step."""
    return path.with_name(f".{path.stem[:40]}.{uuid4().hex}{path.suffix}")  # a name may have 255 bytes


def clear_beside(path: Path) -> None:
    """Removes files that killed processes left under names of `beside(path)`."""
    stem, suffix = map(glob.escape, (path.stem[:40], path.suffix))
    for part in path.parent.glob(f".{stem}.{32 * '[0-9a-f]'}{suffix}"):
        with contextlib.suppress(OSError):
            part.unlink()
