"""Files that appear whole or not at all, and replace what was there in one step."""

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
    """A name beside `path` to write a file under, which takes the place of `path` at the block's end: the new file is
    there whole, or what was before. The folder is made where there is none; a link goes on to lead to the file.

    Raises:
        OSError: the folder cannot be made, the file not put in place, or `path` is a device, a pipe or a folder.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file, which alone can be replaced")
    part = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        on_disk(part)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):  # in a folder that cannot be used nothing is left either
            part.unlink(missing_ok=True)


def on_disk(path: Path) -> None:
    """Waits until a file's contents have left the system's memory: a power cut after a renaming leaves zeros else."""
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
    """A new name in the folder of `path`, with its ending: what is written there and renamed appears at once."""
    return path.with_name(f".{path.stem[:40]}.{uuid4().hex}{path.suffix}")  # a name may have 255 bytes


def clear_beside(path: Path) -> None:
    """Removes what writes of `path` left under names of `beside` where their process was killed."""
    stem, suffix = map(glob.escape, (path.stem[:40], path.suffix))
    for part in path.parent.glob(f".{stem}.{32 * '[0-9a-f]'}{suffix}"):
        with contextlib.suppress(OSError):
            part.unlink()
