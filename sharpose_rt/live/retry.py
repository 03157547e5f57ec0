"""When to retry a consumer that cannot be reached, and which reasons were already reported."""

from __future__ import annotations

import random

from sharpose_rt.media.reconnect import pauses_s

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0


class Retry:
    """Growing pauses with jitter, and reasons that are reported once, until the consumer `was_reached`."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self.was_reached()

    def was_reached(self) -> None:
        """Makes pauses short again and every reason new."""
        self._pauses_s = pauses_s(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, random.random)
        self._told.clear()

    def pause_s(self) -> float:
        """Seconds to wait before the next attempt."""
        return next(self._pauses_s)

    def is_new(self, reason: str) -> bool:
        """Whether this reason has not been reported since the consumer was last reached."""
        told = reason in self._told
        self._told.add(reason)
        return not told
