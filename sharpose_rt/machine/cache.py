"""Where the package keeps what can be recreated: downloads, converted networks and tables of measurements."""

from __future__ import annotations

import atexit
import json
import logging
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sharpose_rt.machine.whole_files import write_whole

log = logging.getLogger("sharpose_rt.machine")


def cache_dir() -> Path:
    """The cache folder: `$XDG_CACHE_HOME/sharpose-rt`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sharpose-rt"
    except RuntimeError:  # a user without a home folder, as in some containers
        return _for_this_process()


@cache
def _for_this_process() -> Path:
    """A folder removed when the process ends: one with a known name in a shared place could be another user's."""
    try:
        folder = TemporaryDirectory(prefix="sharpose-rt-", ignore_cleanup_errors=True)
    except OSError:  # nothing can be written anywhere, which all users of the cache can handle
        return Path(os.devnull, "sharpose-rt")
    log.info(
        "this user has no home folder: measurements and converted networks are kept in %s while this program runs and "
        "made again at each start; set XDG_CACHE_HOME to a lasting folder to keep them",
        folder.name,
    )
    atexit.register(folder.cleanup)
    return Path(folder.name)


def recall(path: Path) -> dict[str, Any]:
    """The table in `path`; empty if it is missing or damaged, so that its contents are measured again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(path: Path, key: str, value: object) -> bool:
    """Adds an entry to the table atomically; False if it cannot be written, so that the next start measures again."""
    try:
        write_whole(path, json.dumps({**recall(path), key: value}, indent=1) + "\n")
    except OSError as error:
        log.debug("%s was not written: %s", path, error)
        return False
    return True
