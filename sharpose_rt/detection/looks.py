"""Chooses the input size ("look") of a detector for the frames of one source: larger ("closer") while it sees small
people.

A detector's time grows with the square of its input's side. If people are near, a small input finds all of them. If
somebody small is seen, others are probably missed. If nobody is seen, all may be too small, and behind people who are
near there may be others.
"""

from __future__ import annotations

import math

import numpy as np

from sharpose_rt.detection.protocol import Detector
from sharpose_rt.types import Detections, Frame

KEPT_S = 1.0
"""How long it keeps looking closer after it last saw somebody small, in media time."""
PROBED_S = 1.0
"""While it sees nobody small, it looks closer at one frame per interval of this length, in media time."""
SURE = 0.5
"""Weaker boxes do not count as somebody."""


class Looks:
    """A detector on the frames of one source; the detector may be shared with other sources.

    Args:
        detector: asks for a closer look by `Detections.look`.
        live: waiting frames are lost, so the closest look is not used, nor any probe while somebody is found.
    """

    def __init__(self, detector: Detector, *, live: bool = False) -> None:
        self.detector, self._live = detector, live
        self.closer = 0
        """Number of frames that got a closer look."""
        self._begin()

    def _begin(self) -> None:
        self._look, self._until_s = 0, -math.inf
        self._probed_s: dict[bool, float] = {}  # while somebody was found, and while nobody was

    @property
    def closest(self) -> int:
        """The closest look that frames may get; known once the detector is open."""
        return min(self.detector.closest, 1) if self._live else self.detector.closest

    def make_ready(self, size_wh: tuple[int, int]) -> None:
        """Let the detector prepare what most frames of a size need, so that none waits for it."""
        blank = Frame(0, 0.0, np.zeros((size_wh[1], size_wh[0], 3), np.uint8))
        for look in range(min(self.closest, 1) + 1):
            self.detector.detect(blank, look=look)

    def detect(self, frame: Frame, *, new_scene: bool = False) -> Detections:
        """People in the frame, strongest first; at a new scene nothing is known about their size."""
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
        """Whether it is time to check for people who are too small to be found.

        While somebody is found, the first check waits for the interval: a photograph shows those who matter.
        """
        somebody = bool((found.bbox_scores >= SURE).any())
        last_s = self._probed_s.get(somebody, now_s if somebody else -math.inf)
        if not self.closest or (somebody and self._live):
            return False
        due = now_s - last_s >= PROBED_S
        self._probed_s[somebody] = now_s if due else last_s
        return due
