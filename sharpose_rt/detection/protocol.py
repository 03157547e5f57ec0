"""The interface of person detectors."""

from __future__ import annotations

from typing import Protocol

from sharpose_rt.types import Detections, Frame


class Detector(Protocol):
    """Finds people in one frame at a time.

    Building one is cheap. `open` loads the model, in the thread that then calls `detect` and `close`. If called again
    for another source, perhaps in another thread, it keeps the model and forgets what it knew about the pictures.
    """

    name: str
    """Name of the source of the boxes; after `open`, that of `auto` names the detector it chose."""

    def open(self) -> None:
        """Load; raises DetectorError if the model or the boxes cannot be loaded."""
        ...

    @property
    def closest(self) -> int:
        """Highest `look` that it supports; each takes longer and finds smaller people than the one before. 0 if it has
        only one. Known after `open`."""
        ...

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """People in the frame: inside the frame, strongest first. `look` is from 0 to `closest`."""
        ...

    def close(self) -> None:
        """Release the model; may be called twice, and before `open`."""
        ...
