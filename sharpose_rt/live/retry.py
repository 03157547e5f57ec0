"""When a consumer that is out of reach is tried again, and what of it was told."""

from __future__ import annotations

import random

from sharpose_rt.media.reconnect import pauses_s

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0


class Retry:
    """Pauses that grow, with jitter, and reasons that are told once, until it `was_reached`."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self.was_reached()

    def was_reached(self) -> None:
        """From the next loss on pauses are short again, and every reason is told."""
        self._pauses_s = pauses_s(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, random.random)
        self._told.clear()

    def pause_s(self) -> float:
        """Seconds to wait before the next attempt."""
        return next(self._pauses_s)

    def is_new(self, reason: str) -> bool:
        """This reason was not told since it was reached."""
        told = reason in self._told
        self._told.add(reason)
        return not told
