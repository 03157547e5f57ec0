"""How closely a detector looks at the frames of one source: closer while it sees small people.

The time that a detector takes grows with the square of its picture's side. Where people are near, a small picture finds
all of them; where somebody small is seen, there are others who are missed; where nobody is, all may be too small, and
behind those who are near there may be others.
"""

from __future__ import annotations

import math

import numpy as np

from sharpose_rt.detection.protocol import Detector
from sharpose_rt.types import Detections, Frame

KEPT_S = 1.0
"""It goes on looking closer for so long, in media time, after it last saw somebody small."""
PROBED_S = 1.0
"""While it sees nobody small it looks closer at one frame in so long, in media time."""
SURE = 0.5
"""Weaker boxes do not say that there is somebody."""


class Looks:
    """A detector on the frames of one source; it may be shared with others.

    Args:
        detector: which, by `Detections.look`, asks for a closer look.
        live: frames that wait are lost: none is looked at closest, nor probed where somebody is found.
    """

    def __init__(self, detector: Detector, *, live: bool = False) -> None:
        self.detector, self._live = detector, live
        self.closer = 0
        """Frames that were looked at closer."""
        self._begin()

    def _begin(self) -> None:
        self._look, self._until_s = 0, -math.inf
        self._probed_s: dict[bool, float] = {}  # where somebody was found, and where nobody was

    @property
    def closest(self) -> int:
        """The closest look that frames may get; known when the detector is open."""
        return min(self.detector.closest, 1) if self._live else self.detector.closest

    def make_ready(self, size_wh: tuple[int, int]) -> None:
        """Let the detector make ready what most frames of a size want, so that none waits for it."""
        blank = Frame(0, 0.0, np.zeros((size_wh[1], size_wh[0], 3), np.uint8))
        for look in range(min(self.closest, 1) + 1):
            self.detector.detect(blank, look=look)

    def detect(self, frame: Frame, *, new_scene: bool = False) -> Detections:
        """People in the frame, strongest first; where a new scene begins nothing is known of their size."""
        if new_scene:
            self._begin()
        if frame.pts_s >= self._until_s:
            self._look = 0
        look = self._look
        found = self.detector.detect(frame, look=look)
        if look == found.look == 0 and self._probes(found, frame.pts_s):
            look, near = 1, self.detector.detect(frame, look=1)
            found = near if near.look else found
        while (wanted := min(found.look, self.closest)) > look:
            look, found = wanted, self.detector.detect(frame, look=wanted)
        if wanted >= self._look:
            self._look, self._until_s = wanted, frame.pts_s + KEPT_S
        self.closer += look > 0
        return found

    def _probes(self, found: Detections, now_s: float) -> bool:
        """It is time to see whether there is somebody who is too small to be found.

        Where somebody is found that has time: a photograph shows those who are meant.
        """
        somebody = bool((found.bbox_scores >= SURE).any())
        last_s = self._probed_s.get(somebody, now_s if somebody else -math.inf)
        if not self.closest or (somebody and self._live):
            return False
        due = now_s - last_s >= PROBED_S
        self._probed_s[somebody] = now_s if due else last_s
        return due
