"""Whether people stand upright in the picture: cameras are mounted on their side, or below a ceiling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sharpose_rt.detection.looks import SURE
from sharpose_rt.detection.protocol import Detector
from sharpose_rt.types import Detections, Frame

AGAIN_S, LONGEST_S = 1.0, 60.0
"""One frame in so long is looked at, in media time; the longer the longer nobody is there however it is turned."""
UPRIGHT = 0.9
"""Who is found so surely stands upright, which saves the looks at the picture turned."""
THERE, MORE = 0.8, 0.5
"""Turned, it must show somebody so surely, and this much more in all, in scores."""
ENOUGH = 2
"""So many frames, and more than show people upright, say that it should be turned; one more that it should not."""


class Turned:
    """Finds out whether people are found where the picture is turned, and few as it is.

    The networks have learnt people as they mostly are, and find few who lie on their side. It costs three looks, at the
    frames alone in which nobody is found surely. Whom it finds so is not taken over: their poses would be no better.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._votes = [0] * 4  # for each quarter turn
        self._next_s, self._wait_s = -math.inf, AGAIN_S

    def turn(self, frame: Frame, found: Detections) -> int:
        """Degrees clockwise by which the picture should be turned, told once; else 0.

        Args:
            frame: the next one.
            found: who the detector found in it.
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
        """Quarter turns clockwise in which people stand upright; None where nobody does in any."""
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
