"""Whether people are upright in the picture: cameras may be mounted sideways, or upside down below a ceiling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sharpose_rt.detection.looks import SURE
from sharpose_rt.detection.protocol import Detector
from sharpose_rt.types import Detections, Frame

AGAIN_S, LONGEST_S = 1.0, 60.0
"""Interval between the frames examined, in media time; it grows to the second while nobody is found in any
direction."""
UPRIGHT = 0.9
"""A person with this score is upright, so the turned pictures need not be examined."""
THERE, MORE = 0.8, 0.5
"""The turned picture must show somebody with the first score, and its sum of scores must be higher by the second."""
ENOUGH = 2
"""The picture should be turned if this many frames say so, and more than show people upright; it should not if one more
frame than this shows them upright."""


class Turned:
    """Finds out whether more people are found when the picture is turned.

    The networks were mostly trained on upright people and find few in a picture on its side. The check runs the
    detector three more times, only in frames in which nobody is found with confidence. The people it finds are not
    used: their poses would be no better.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._votes = [0] * 4  # for each quarter turn
        self._next_s, self._wait_s = -math.inf, AGAIN_S

    def turn(self, frame: Frame, found: Detections) -> int:
        """Degrees clockwise by which the picture should be turned, returned once; else 0.

        Args:
            frame: the next one.
            found: people whom the detector found in it.
        """
        if frame.pts_s < self._next_s:
            return 0
        quarters = self._best(frame, found)
        self._wait_s = min(2 * self._wait_s, LONGEST_S) if quarters is None else AGAIN_S
        self._next_s = frame.pts_s + self._wait_s
        if quarters is None:
            return 0
        self._votes[quarters] += 1
        upright, votes = self._votes[0], self._votes[quarters]
        told = quarters > 0 and votes >= ENOUGH and votes > upright
        if told or upright > ENOUGH:
            self._next_s = math.inf
        return 90 * quarters if told else 0

    def _best(self, frame: Frame, found: Detections) -> int | None:
        """Quarter turns clockwise after which people are upright; None if nobody is found."""
        if found.bbox_scores.max(initial=0) >= UPRIGHT:
            return 0
        seen = [found.bbox_scores]
        for quarters in (1, 2, 3):
            image = np.ascontiguousarray(np.rot90(frame.image_bgr, -quarters))
            seen.append(self._detector.detect(replace(frame, image_bgr=image)).bbox_scores)
        sums = [float(scores[scores >= SURE].sum()) for scores in seen]
        best = max((1, 2, 3), key=sums.__getitem__)
        if seen[best].max(initial=0) >= THERE and sums[best] > sums[0] + MORE:
            return best
        return 0 if sums[0] else None
