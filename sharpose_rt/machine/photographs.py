"""The photographs of people that come with the ultralytics package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

PEOPLE = {
    "bus.jpg": ((48, 399, 246, 904), (222, 405, 345, 862), (669, 392, 810, 879), (0, 550, 78, 874)),
    "zidane.jpg": ((123, 197, 1112, 711), (742, 43, 1149, 711)),
}
"""Boxes of the people in them: xyxy px."""


def photograph_path(name: str) -> Path | None:
    """Where a photograph should be, found without importing the package; None if it is not installed."""
    spec = importlib.util.find_spec("ultralytics")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "assets" / name


def load_photograph(name: str) -> NDArray[np.uint8] | None:
    """A photograph, (H, W, 3) uint8 BGR; None if it is missing or cannot be read."""
    path = photograph_path(name)
    try:
        image = None if path is None else cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    return None if image is None else np.asarray(image, np.uint8)
