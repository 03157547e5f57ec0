"""Where the package keeps what can be made again: downloads, converted networks, and tables of what was measured."""

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
    """The folder of what can be had again: `$XDG_CACHE_HOME/sharpose-rt`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sharpose-rt"
    except RuntimeError:  # a user without a home, as in some containers
        return _for_this_process()


@cache
def _for_this_process() -> Path:
    """A folder that goes with the process: one of a known name in a shared place could be another user's."""
    try:
        folder = TemporaryDirectory(prefix="sharpose-rt-", ignore_cleanup_errors=True)
    except OSError:  # nothing may be written anywhere, which whoever writes into a cache copes with
        return Path(os.devnull, "sharpose-rt")
    log.info(
        "this user has no home: what is measured and converted is kept in %s while this program runs, and each "
        "start does it again; XDG_CACHE_HOME names a folder that lasts",
        folder.name,
    )
    atexit.register(folder.cleanup)
    return Path(folder.name)


def recall(path: Path) -> dict[str, Any]:
    """The table in `path`; empty where there is none yet, or it is damaged: what it held is then measured again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(path: Path, key: str, value: object) -> bool:
    """Put an entry into the table, at once or not at all; False without a right to: the next start measures again."""
    try:
        write_whole(path, json.dumps({**recall(path), key: value}, indent=1) + "\n")
    except OSError as error:
        log.debug("%s was not written: %s", path, error)
        return False
    return True
