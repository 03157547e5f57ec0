"""How far the reading of a live stream is behind what was sent, and what is left out so that it is not for long."""

from __future__ import annotations

import math

LONGEST_S = 1.0
"""A backlog that stays above is not worked off: what was sent is left out up to the next key frame."""
_PATIENCE_S = 2.0
"""For which it may stay so: after a moment in which the machine was busy a decoder is quicker than the next key frame,
which many cameras send every ten seconds."""
_SHORT_S = 0.2
"""A backlog below is none: decoding goes on with the next key frame."""
LONGEST_WAIT_S = 15.0
"""For which a key frame is waited for; some streams have none, and refresh their pictures bit by bit."""


class Backlog:
    """What waits in the buffers of system, network and FFmpeg while a decoder is at work.

    As any queue (Lindley 1952) it grows by the time that went by at work on a packet, and falls by that between its
    sending and the next one's, or by what the next one was waited for, where that is more: whatever is waited for is
    of the present, however wrong the sender's clock.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """By which what comes next is late."""
        self.skipping = False
        """What comes is left out."""
        self._sent_s = self._skip_s = math.nan
        self._late_s = math.inf  # since when it is too long
        self._had_s = 0.0

    def begin(self, now_s: float) -> None:
        """Work begins now: what was done before, as loading networks, counts for nothing."""
        self._had_s = now_s

    def take(self, sent_s: float, asked_s: float, had_s: float, *, key: bool) -> None:
        """Takes in a packet of this time by the sender's clock, which was asked for, and had, at these of ours; `key`
        where decoding may begin with it."""
        step_s, work_s, wait_s = sent_s - self._sent_s, asked_s - self._had_s, had_s - asked_s
        if not step_s >= 0:  # at first, or the clock was set back: what waits goes on waiting
            step_s = work_s
        self.seconds = max(0.0, self.seconds + work_s - max(step_s, wait_s))
        self._sent_s, self._had_s = sent_s, had_s
        self._late_s = min(self._late_s, had_s) if self.seconds > LONGEST_S else math.inf
        if not self.skipping and had_s - self._late_s > _PATIENCE_S:
            self.skipping, self._skip_s = True, had_s
        elif self.skipping and self.seconds < _SHORT_S:
            self.skipping = not key and had_s - self._skip_s < LONGEST_WAIT_S
