"""What was measured once on a machine: small tables in JSON, in the user's cache."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from sharpose_rt.config.places import write_whole

log = logging.getLogger("sharpose_rt.config")


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
