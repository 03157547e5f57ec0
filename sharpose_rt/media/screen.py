"""Frames of this machine's screen."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceError, SourceLost
from sharpose_rt.media.source import Device, SourceInfo

log = logging.getLogger("sharpose_rt.media")

DEFAULT_FPS = 30.0


def is_screen(spec: str) -> bool:
    """Whether `spec` is 'screen' or 'screen:...'."""
    return spec == "screen" or spec.startswith("screen:")


class Screen(Device):
    """A screen, or a part of it, `config.camera_fps` times per second (default 30).

    Uses the package `mss`: FFmpeg's grabber for X11 picks up the X libraries loaded by OpenCV's wheel, and crashes.

    Args:
        spec: 'screen' for the first screen, 'screen:N' for another, N from 0, or 'screen:WxH+X+Y' for W x H px at X, Y
            in the area of all screens together.
        config: see `Source`.

    Raises:
        SourceError: the spec has another form, or `mss` is not installed.
    """

    stem = "screen"

    def __init__(self, spec: str, config: SourceConfig) -> None:
        super().__init__(spec, config)
        _, colon, what = spec.partition(":")
        part = re.fullmatch(r"(\d+)x(\d+)\+(\d+)\+(\d+)", what)
        self._part = None if part is None else [int(value) for value in part.groups()]
        if self._part is None and colon and not what.isdecimal():
            raise SourceError(
                f"{spec!r} is not a screen; 'screen', 'screen:N' with N from 0, or 'screen:WIDTHxHEIGHT+X+Y' as in "
                "screen:1280x720+0+0 is accepted (for a file with such a name use ./NAME)"
            )
        self._number = int(what) if what.isdecimal() else 0
        self._fps = config.camera_fps or DEFAULT_FPS
        try:
            import mss
        except ImportError as error:
            raise SourceError(
                f"--source screen needs the package mss ({error}); pip install 'sharpose-rt[screen]'"
            ) from error
        self._mss: Any = mss
        self._grabber: Any = None
        self._shot: Any = None
        self._due_s = 0.0

    def _open(self) -> None:
        try:
            self._grabber = self._mss.MSS()
            everything, *screens = self._grabber.monitors
            self._due_s = time.monotonic()
        except (self._mss.ScreenShotError, OSError, ValueError) as error:
            raise SourceError(f"{self.name} cannot be captured ({error}): {_hint()}") from None
        if os.environ.get("WAYLAND_DISPLAY"):
            log.warning("%s may be black, as Wayland hides its content; log in to an X11 session", self.name)
        if self._part is None:
            if self._number >= len(screens):
                raise SourceError(
                    f"{self.name} does not exist; screens: {', '.join(f'screen:{n}' for n in range(len(screens)))}"
                )
            self._area = screens[self._number]
            return
        width, height, x, y = self._part
        if not (width and height and x + width <= everything["width"] and y + height <= everything["height"]):
            raise SourceError(
                f"{self.name} is not inside the screens, which are {everything['width']}x{everything['height']} px "
                "together; use a part that is, or 'screen' for the whole first one"
            )
        left, top = everything["left"] + x, everything["top"] + y
        self._area = {"left": left, "top": top, "width": width, "height": height}

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        kept = self._kept(None, self._fps, None)
        return SourceInfo(self.name, "screen", True, size_wh, start_s=self.config.start_s, stem=self.stem, **kept)  # type: ignore[arg-type]

    def _grab(self) -> float | None:
        if self._grabber is None or self._stop.wait(max(0.0, self._due_s - time.monotonic())):
            return None
        now_s = time.monotonic()
        due_s = self._due_s + 1 / self._fps
        self._due_s = due_s if due_s > now_s else now_s + 1 / self._fps  # missed pictures are skipped
        try:
            self._shot = self._grabber.grab(self._area)
        except (self._mss.ScreenShotError, OSError, AssertionError) as error:  # the last: no answer
            reason = str(error).partition("\n")[0] or "its server is gone"
            raise SourceLost(f"{self.name} can no longer be captured: {reason}; check that you are logged in") from None
        return self._stamp(now_s)

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        shot, self._shot = self._shot, None
        bgra = np.frombuffer(shot.bgra, np.uint8).reshape(shot.height, shot.width, 4)
        return np.ascontiguousarray(bgra[..., :3]), ""

    def _close(self) -> None:
        grabber, self._grabber = self._grabber, None
        if grabber is not None:
            with contextlib.suppress(self._mss.ScreenShotError):  # its server is gone
                grabber.close()


def _hint() -> str:
    """What to check if no screen can be captured."""
    if sys.platform == "darwin":
        return "allow it for the terminal in the system's settings, Privacy & Security, Screen Recording"
    if os.environ.get("WAYLAND_DISPLAY"):
        return "Wayland does not let programs capture it; log in to an X11 session"
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        return "there is none: DISPLAY is empty; set it, as in DISPLAY=:0"
    return "check that you have permission"
