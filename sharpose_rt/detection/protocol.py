"""What every person detector offers."""

from __future__ import annotations

from typing import Protocol

from sharpose_rt.types import Detections, Frame


class Detector(Protocol):
    """Finds people in one frame at a time.

    Building one is cheap. `open` loads the model, in the thread that then calls `detect` and `close`. Called again for
    another source, perhaps in another thread, it keeps the model and forgets what it knew of the pictures.
    """

    name: str
    """What found the boxes; `auto` says after `open` which detector it took."""

    def open(self) -> None:
        """Make ready; raises DetectorError where the model or the boxes cannot be had."""
        ...

    @property
    def looks_closer(self) -> bool:
        """It can look closer, which takes longer and finds smaller people; known after `open`."""
        ...

    def detect(self, frame: Frame, *, closer: bool = False) -> Detections:
        """People in the frame: inside the frame, strongest first. `closer` makes no difference to who cannot."""
        ...

    def close(self) -> None:
        """Let the model go; safe to call twice and before `open`."""
        ...
