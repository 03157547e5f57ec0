"""Ends PyAV's blocking calls from another thread.

FFmpeg asks a callback again and again, while it waits, whether to go on. PyAV's callback (av/container/core) knows
time limits only, which it takes from `time.monotonic`, and has no way to be told to stop. So its `time` is replaced
by a clock on which, for a thread whose source was interrupted, all time is over. Where a PyAV release no longer asks
that clock, an interrupted call still ends by its own time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import av.container.core

from sharpose_rt.machine.flag import Flag

_LONG_S = 1e9


class _Clock:
    """`time` as PyAV uses it; every look at it after an interruption is a thousand million seconds later."""

    def __init__(self) -> None:
        self.stops: dict[int, Flag] = {}
        self._looks = 0

    def monotonic(self) -> float:
        stop = self.stops.get(threading.get_ident())
        if stop is None or not stop.is_set():
            return time.monotonic()
        # Not infinity: PyAV may take this very value as the start of its wait, and inf > inf + limit is never true.
        self._looks += 1
        return time.monotonic() + self._looks * _LONG_S

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


_clock = _Clock()
av.container.core.time = _clock  # type: ignore[attr-defined]


@contextmanager
def interruptible(stop: Flag) -> Iterator[None]:
    """Within it, PyAV's waits in this thread end as soon as `stop` is set; they need a time limit to be asked."""
    thread = threading.get_ident()
    _clock.stops[thread] = stop
    try:
        yield
    finally:
        del _clock.stops[thread]
