"""How far reading lags behind a live stream, and which packets to skip to catch up."""

from __future__ import annotations

import math

LONGEST_S = 1.0
"""If the backlog stays longer than this, packets are skipped up to the next key frame."""
_PATIENCE_S = 2.0
"""How long the backlog may stay so: after a busy moment the decoder catches up sooner than the next key frame comes,
which many cameras send only every ten seconds."""
_SHORT_S = 0.2
"""Below this, decoding resumes at the next key frame."""
LONGEST_WAIT_S = 15.0
"""Longest wait for a key frame; some streams have none and refresh their pictures bit by bit."""


class Backlog:
    """Estimates what waits in the buffers of the system, the network and FFmpeg while the decoder works.

    Like any queue (Lindley 1952) it grows by the time spent on a packet. It shrinks by the time between the sending of
    this packet and of the next one, or by the wait for the next one if that is longer: a packet that had to be waited
    for is current, however wrong the sender's clock.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """How late the next packet is."""
        self.skipping = False
        """Whether packets are skipped."""
        self._sent_s = self._skip_s = math.nan
        self._late_s = math.inf  # since when the backlog is too long
        self._had_s = 0.0

    def begin(self, now_s: float) -> None:
        """Work begins now; time spent before, such as on loading networks, does not count."""
        self._had_s = now_s

    def take(self, sent_s: float, asked_s: float, had_s: float, *, key: bool) -> None:
        """Records a packet with its time on the sender's clock, and when it was requested and received on ours; `key`
        if decoding can start with it."""
        step_s, work_s, wait_s = sent_s - self._sent_s, asked_s - self._had_s, had_s - asked_s
        if not step_s >= 0:  # the first packet, or the clock was set back: the backlog stays the same
            step_s = work_s
        self.seconds = max(0.0, self.seconds + work_s - max(step_s, wait_s))
        self._sent_s, self._had_s = sent_s, had_s
        self._late_s = min(self._late_s, had_s) if self.seconds > LONGEST_S else math.inf
        if not self.skipping and had_s - self._late_s > _PATIENCE_S:
            self.skipping, self._skip_s = True, had_s
        elif self.skipping and self.seconds < _SHORT_S:
            self.skipping = not key and had_s - self._skip_s < LONGEST_WAIT_S
