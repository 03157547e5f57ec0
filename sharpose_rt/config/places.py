"""Where the package keeps what can be made again: downloads, converted networks, measurements."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4


def cache_dir() -> Path:
    """The folder of what can be had again: `$XDG_CACHE_HOME/sharpose-rt`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sharpose-rt"
    except RuntimeError:  # a user without a home, as in some containers
        return _for_this_process()


@cache
def _for_this_process() -> Path:
    """A folder that goes with the process: one of a known name in a shared place could be another user's."""
    folder = TemporaryDirectory(prefix="sharpose-rt-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)


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
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):  # in a folder that cannot be used nothing is left either
            part.unlink(missing_ok=True)


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
