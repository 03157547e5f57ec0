"""The photographs of people that the installed ultralytics package brings along."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def photograph_path(name: str) -> Path | None:
    """Where a photograph ('bus.jpg', 'zidane.jpg') should be, found without importing the package; None without it."""
    spec = importlib.util.find_spec("ultralytics")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "assets" / name
