"""A short clip of people for a first try: a camera moving over the photographs that ultralytics ships."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import OutputConfig
from sharpose_rt.errors import SourceError
from sharpose_rt.machine.photographs import load_photograph, photograph_path
from sharpose_rt.media.writer import VideoWriter

SIZE_WH = (960, 720)
FPS = 25.0


@dataclass(frozen=True)
class Shot:
    """One photograph with the first and last view of the camera: centre x, y and width in photograph px."""

    photograph: str
    first: tuple[float, float, float]
    last: tuple[float, float, float]


# Every view is inside its photograph, at most as wide as the clip, and shows whole people.
SHOTS = (
    Shot("bus.jpg", first=(405, 600, 808), last=(359, 655, 716)),
    Shot("zidane.jpg", first=(482, 360, 956), last=(798, 358, 940)),
)


def make_demo_clip(path: Path, seconds: float = 6.0) -> Path:
    """Writes the clip (960x720, 25 fps, H.264 in mp4, no sound, shots of equal length) and returns its path.

    Raises:
        SourceError: the photographs are missing.
        OutputError: the clip cannot be written.
    """
    photographs = [read_photograph(shot.photograph) for shot in SHOTS]
    counts = np.diff([round(i * seconds * FPS / len(SHOTS)) for i in range(len(SHOTS) + 1)])
    writer = VideoWriter(path, SIZE_WH, FPS, OutputConfig(crf=18, audio=False))
    frame_id = 0
    try:
        for shot, photograph, count in zip(SHOTS, photographs, counts, strict=True):
            for i in range(count):
                writer.write(view(photograph, shot, i / max(1, count - 1)), frame_id / FPS)
                frame_id += 1
    except BaseException:
        writer.close(complete=False)
        raise
    writer.close()
    return path


def view(photograph: NDArray[np.uint8], shot: Shot, progress: float) -> NDArray[np.uint8]:
    """The view of the camera, (720, 960, 3) uint8, at `progress` 0..1 of a shot, which starts and stops smoothly."""
    eased = (1 - math.cos(math.pi * progress)) / 2
    x, y, width = (1 - eased) * np.array(shot.first) + eased * np.array(shot.last)
    scale = SIZE_WH[0] / width
    # Fractions of a pixel matter: rounding the view to whole pixels would make people jitter.
    affine = np.array([[scale, 0, (SIZE_WH[0] - 1) / 2 - scale * x], [0, scale, (SIZE_WH[1] - 1) / 2 - scale * y]])
    frame = cv2.warpAffine(photograph, affine, SIZE_WH, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return frame.astype(np.uint8, copy=False)


def read_photograph(name: str) -> NDArray[np.uint8]:
    """A photograph of the installed ultralytics package, (H, W, 3) uint8 BGR, found without importing it.

    Raises:
        SourceError: it is missing or cannot be read.
    """
    path, image = photograph_path(name), load_photograph(name)
    if path is None:
        raise SourceError("the demo needs the photographs of the ultralytics package; pip install ultralytics")
    if image is None:
        raise SourceError(
            f"no readable photograph at {path}; install ultralytics again, or run `sharpose-rt track --source YOURS`"
        )
    return image
