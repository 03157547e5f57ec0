"""Media time from the timestamps of a container."""

from __future__ import annotations

import math
import time
from collections import deque

from sharpose_rt.media.source import FALLBACK_FPS

RESTART_S = 1.0
"""Occasional smaller steps back are frames out of order; after a larger one the clock restarted, as in joined files."""
# With this many steps back within this many frames, timestamps are useless.
_STEPS_BACK, _WITHIN_FRAMES = 3, 50
# A live stream whose time gains this much on ours in one step has also reset its clock.
_LEAP_S = 5.0


class MediaClock:
    """Turns container timestamps into media time in seconds that starts near 0 and strictly increases.

    A missing or single out-of-order timestamp becomes the last time plus one frame. So does every timestamp once they
    are repeatedly out of order (B-frames in a container that does not support them). After a jump back (a restarted
    stream) time continues from where it was. Frames with equal timestamps are half a frame apart. For `live` frames the
    elapsed time replaces the frame duration, and a leap far ahead of it counts as a restart.
    """

    def __init__(self, time_base: float, origin: int | None, fps: float | None, live: bool = False) -> None:
        self._time_base, self._origin, self._live = time_base, origin, live
        self._frame_s = 1 / (fps or FALLBACK_FPS)
        self._last_s: float | None = None
        self._given_s = -math.inf
        self._last_at_s = 0.0
        self._frames = 0
        self._top_s = -math.inf
        self._steps_back: deque[int] = deque(maxlen=_STEPS_BACK)
        self._anew: int | None = None
        self._disordered = False

    @property
    def last_s(self) -> float:
        """Media time of the last frame; 0 before the first."""
        return self._last_s or 0.0

    def stamp(self, pts: int | None) -> float:
        """Media time in seconds of a frame with this timestamp (in units of the time base)."""
        now_s = time.monotonic()
        step_s = now_s - self._last_at_s if self._live else self._frame_s
        self._last_at_s = now_s
        self._frames += 1
        if self._last_s is None:
            # Some containers, such as ASF, state a start time later than that of their first frame.
            if self._origin is None or (pts is not None and pts < self._origin):
                self._origin = pts
            self._last_s = 0.0 if pts is None else max(0.0, self._seconds(pts))
            self._given_s = self._top_s = self._last_s if pts is None else self._seconds(pts)
        elif pts is None or self._disordered:
            self._last_s += step_s
        else:
            self._last_s = self._after(self._last_s, pts, step_s)
        return self._last_s

    def _after(self, last_s: float, pts: int, step_s: float) -> float:
        pts_s = self._seconds(pts)
        given_s, self._given_s = self._given_s, pts_s
        anew, self._anew = self._anew, None
        if anew is not None and pts_s <= self._top_s:  # like the previous one: the clock did restart there
            self._origin, given_s = anew, last_s
            pts_s = self._given_s = self._seconds(pts)
            self._top_s = last_s
        if pts_s > last_s and (not self._live or pts_s - last_s < step_s + _LEAP_S):
            self._top_s = pts_s
            return pts_s
        if given_s <= pts_s <= last_s:  # the file's own times are in order; one of ours was ahead of them
            self._top_s = max(self._top_s, pts_s)
            return last_s + step_s / 2
        begins = pts - round((last_s + step_s) / self._time_base)
        if pts_s > last_s:  # a live clock leapt
            self._origin = begins
            self._given_s = self._top_s = self._seconds(pts)
            return last_s + step_s
        if last_s - pts_s < RESTART_S:
            self._steps_back.append(self._frames)
            often = len(self._steps_back) == _STEPS_BACK
            self._disordered = often and self._frames - self._steps_back[0] < _WITHIN_FRAMES
        self._anew = begins  # if the next one is behind, too; else only this one is out of order
        return last_s + step_s

    def _seconds(self, pts: int) -> float:
        return (pts - (self._origin or 0)) * self._time_base
