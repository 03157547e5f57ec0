"""Where the package keeps what can be made again: downloads, converted networks, measurements."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def cache_dir() -> Path:
    """The folder of what can be had again: `$XDG_CACHE_HOME/sharpose-rt`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sharpose-rt"


def beside(path: Path) -> Path:
    """A new name in the folder of `path`, with its ending: what is written there and renamed appears at once."""
    return path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
