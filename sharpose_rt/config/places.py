"""Where the package keeps what can be made again: downloads, converted networks, measurements."""

from __future__ import annotations

import atexit
import contextlib
import os
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


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, and its folder where there is none: the new text is there whole, or what was before.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = beside(path)
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A new name in the folder of `path`, with its ending: what is written there and renamed appears at once."""
    return path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
