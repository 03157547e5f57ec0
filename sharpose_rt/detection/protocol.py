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
    def closest(self) -> int:
        """The closest look it can take, each of which takes longer and finds smaller people than the one before; 0
        where it has one alone. Known after `open`."""
        ...

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """People in the frame: inside the frame, strongest first. `look` is from 0 to `closest`."""
        ...

    def close(self) -> None:
        """Let the model go; safe to call twice and before `open`."""
        ...
