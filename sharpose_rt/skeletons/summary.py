"""The summary next to a stream (`*.summary.json`): statistics, resolved configuration and versions of a run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from sharpose_rt.errors import writing
from sharpose_rt.machine.packages import version
from sharpose_rt.machine.whole_files import whole
from sharpose_rt.skeletons.plain import plain

_PACKAGES = (
    "sharpose-rt",
    "torch",
    "numpy",
    "opencv-python",
    "av",
    "ultralytics",
    "supervision",
    "trackers",
    "openvino",
)


def write_summary(path: str | Path, data: Mapping[str, Any]) -> None:
    """Writes `data` as indented JSON, keys in the given order, values converted by `plain`.

    Readers see the old file or the complete new one, never a part.

    Raises:
        OutputError: the file cannot be written; an existing one is then unchanged.
    """
    path = Path(path)
    text = orjson.dumps(plain(data), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    with writing(f"the summary {path}", "free some space or choose another --output"), whole(path) as part:
        part.write_bytes(text)


def versions() -> dict[str, str | None]:
    """Versions of Python, this package and its dependencies, without importing them; None if not installed."""
    system = {"python": platform.python_version(), "platform": platform.platform()}
    return system | {name: version(name) for name in _PACKAGES}
