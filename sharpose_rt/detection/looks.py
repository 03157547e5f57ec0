"""How closely a detector looks at the frames of one source: closer while it sees small people.

The time that a detector takes grows with the square of its picture's side. Where people are near, a small picture finds
all of them; where somebody small is seen, there are others who are missed; where nobody is, all may be too small.
"""

from __future__ import annotations

import math

import numpy as np

from sharpose_rt.detection.protocol import Detector
from sharpose_rt.types import Detections, Frame

KEPT_S = 1.0
"""It goes on looking closer for so long, in media time, after it last saw somebody small."""
PROBED_S = 1.0
"""While it sees nobody it looks closer at one frame in so long, in media time."""
SURE = 0.5
"""Weaker boxes do not say that there is somebody."""


class Looks:
    """A detector on the frames of one source; it may be shared with others.

    Args:
        detector: which, by `Detections.small`, asks for a closer look.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.closer = 0
        """Frames that were looked at closer."""
        self._until_s = self._probed_s = -math.inf

    def make_ready(self, size_wh: tuple[int, int]) -> None:
        """Let the detector make ready what it has for frames of a size, so that no frame waits for it."""
        blank = Frame(0, 0.0, np.zeros((size_wh[1], size_wh[0], 3), np.uint8))
        self.detector.detect(blank)
        if self.detector.looks_closer:
            self.detector.detect(blank, closer=True)

    def detect(self, frame: Frame, *, new_scene: bool = False) -> Detections:
        """People in the frame, strongest first; where a new scene begins nothing is known of their size."""
        if new_scene:
            self._until_s = self._probed_s = -math.inf
        closer = frame.pts_s < self._until_s
        found = self.detector.detect(frame, closer=closer)
        small = found.small
        if not closer and (small or self._probes(found, frame.pts_s)):
            closer, near = True, self.detector.detect(frame, closer=True)
            small |= near.small
            found = near if small else found
        if small:
            self._until_s = frame.pts_s + KEPT_S
        self.closer += closer
        return found

    def _probes(self, found: Detections, now_s: float) -> bool:
        """Nobody was found, and it is time to see whether all are too small for that."""
        soon = now_s - self._probed_s < PROBED_S
        if soon or not self.detector.looks_closer or (found.bbox_scores >= SURE).any():
            return False
        self._probed_s = now_s
        return True
