"""A window on the screen; only used from the main thread, as operating systems require."""

from __future__ import annotations

import os
import sys
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import OutputError

_LARGEST_PX = 1280
"""Initial length of the longer side of the window; the user may enlarge it."""


class Window:
    """Shows pictures under a title.

    Raises:
        OutputError: there is no screen, or this OpenCV was built without windows.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._sized = False
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise OutputError(
                "--show needs a screen, but DISPLAY and WAYLAND_DISPLAY are empty; --serve 8080 shows it in a browser"
            )
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise OutputError(
                f"--show cannot open a window ({error.err or error}); --serve 8080 shows it in a browser"
            ) from error

    def show(self, image_bgr: NDArray[np.uint8]) -> bool:
        """Shows a picture; False if the user asked to stop (q, Esc, or closing the window)."""
        if not self._sized:
            height, width = image_bgr.shape[:2]
            fit = min(1.0, _LARGEST_PX / max(height, width))
            cv2.resizeWindow(self.title, round(width * fit), round(height * fit))
            self._sized = True
        cv2.imshow(self.title, image_bgr)
        key = cv2.waitKey(1) & 0xFF
        return key not in (ord("q"), 27) and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1

    def __enter__(self) -> Window:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        cv2.destroyWindow(self.title)
