"""Ends PyAV's blocking calls from another thread.

While it waits, FFmpeg repeatedly asks a callback whether to continue. PyAV's callback (av/container/core) only checks
time limits, by `time.monotonic`, and cannot be told to stop. So its `time` is replaced by a clock on which all time is
over for a thread whose source was interrupted. If a PyAV release no longer uses that clock, an interrupted call still
ends by its own time limit.
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
    """`time` as PyAV uses it; after an interruption, every reading is a billion seconds later than the last."""

    def __init__(self) -> None:
        self.stops: dict[int, Flag] = {}
        self._looks = 0

    def monotonic(self) -> float:
        stop = self.stops.get(threading.get_ident())
        if stop is None or not stop.is_set():
            return time.monotonic()
        # Not infinity: PyAV may use this value as the start of its wait, and inf > inf + limit is never true.
        self._looks += 1
        return time.monotonic() + self._looks * _LONG_S

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


_clock = _Clock()
av.container.core.time = _clock  # type: ignore[attr-defined]


@contextmanager
def interruptible(stop: Flag) -> Iterator[None]:
    """While active, PyAV's waits in this thread end as soon as `stop` is set; they must have a time limit."""
    thread = threading.get_ident()
    _clock.stops[thread] = stop
    try:
        yield
    finally:
        del _clock.stops[thread]
