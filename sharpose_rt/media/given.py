"""Frames that the calling program provides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import ConfigError, SourceError
from sharpose_rt.media.source import Source, SourceInfo

_END = object()
Given = Iterable[NDArray[Any] | tuple[float, NDArray[Any]]]
"""Pictures (H, W, 3) uint8 BGR, or pairs of media time in seconds and picture."""


class GivenFrames(Source):
    """Frames of an iterable, read in the pipeline's own thread whenever it has room for the next one.

    Args:
        frames: see `Given`; each picture is copied, as the program may write into it later.
        fps: gives times to pictures without one.
        config: trims and thins, as for other sources.
        stills: the pictures are unrelated to each other.

    Raises:
        ConfigError: `fps` is not above 0.
    """

    def __init__(self, frames: Given, fps: float, config: SourceConfig, *, stills: bool = False) -> None:
        if not isinstance(fps, Real) or not 0 < fps < np.inf:
            raise ConfigError(f"fps is {fps!r}; a number above 0 is accepted")
        super().__init__("frames", config)
        self._frames, self._fps, self.stills = frames, fps, stills
        self._iterator: Iterator[Any] = iter(())
        self._count = 0
        self._last_s = -np.inf
        self._picture: NDArray[np.uint8] | None = None

    def _open(self) -> None:
        self._iterator = iter(self._frames)

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        return SourceInfo(self.name, "frames", False, size_wh, fps=self._fps / self.config.stride, stem="frames")

    def _grab(self) -> float | None:
        item: Any = next(self._iterator, _END)
        if item is _END:
            return None
        number, self._count = self._count, self._count + 1
        if isinstance(item, tuple) and len(item) != 2:
            raise SourceError(f"frame {number} is a tuple of {len(item)}; a picture, or time and picture, is accepted")
        pts_s, image = item if isinstance(item, tuple) else (number / self._fps, item)
        if isinstance(pts_s, (bool, np.bool_)):
            raise SourceError(
                f"frame {number} has the time {pts_s!r}, perhaps the success flag of cap.read(); seconds are accepted, "
                "or only the picture: `run(image for _, image in iter(cap.read, (False, None)))`"
            )
        problem = wrong_picture(image)
        if problem:
            raise SourceError(f"frame {number} is {problem}")
        time_s = seconds(pts_s)
        if not self._last_s <= time_s < np.inf:
            raise SourceError(
                f"frame {number} has the time {pts_s!r} after {self._last_s}; finite times that never decrease are "
                "accepted"
            )
        self._last_s, self._picture = time_s, image
        return self._last_s

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        assert self._picture is not None
        return np.array(self._picture, order="C"), ""

    def _nothing_left(self) -> str:
        if self._count:  # trimming left none
            return super()._nothing_left()
        return "there is no frame: the iterable is empty; was its camera or file opened?"


def seconds(time: Any) -> float:
    """A time in seconds; NaN if it is not a number."""
    try:
        return np.nan if isinstance(time, (bool, np.bool_)) else float(time)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def wrong_picture(image: object) -> str:
    """What is wrong with a picture and what is accepted; empty if nothing is wrong."""
    wanted = "(H, W, 3) uint8 BGR is accepted"
    if not isinstance(image, np.ndarray):
        pil = type(image).__module__.startswith("PIL.")
        hint = '; try `np.asarray(image.convert("RGB"))[..., ::-1]`' if pil else ""
        return f"a {type(image).__name__}; {wanted}{hint}"
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and 0 not in image.shape:
        return ""
    hint = ""
    if np.issubdtype(image.dtype, np.floating):
        hint = "; for values in 0..1 try `(image * 255).astype(np.uint8)`"
    elif image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 4)):
        code = "BGRA2BGR" if image.ndim == 3 and image.shape[2] == 4 else "GRAY2BGR"
        hint = f"; try `cv2.cvtColor(image, cv2.COLOR_{code})`"
    return f"{image.dtype} of shape {image.shape}; {wanted}{hint}"
