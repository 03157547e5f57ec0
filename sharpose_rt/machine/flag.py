"""A flag that may be raised from anywhere, a signal's handler too."""

from __future__ import annotations

import threading
import time

_LOOK_S = 0.5  # a handler in the thread that waits may raise the flag just before it sleeps, and wakes nobody


class Flag:
    """As `threading.Event`, but a handler may `set` it while the thread that it interrupts does, or waits for it.

    That one's lock cannot be taken twice by a thread: of two signals shortly after each other the second one waited
    for the first, for ever.
    """

    def __init__(self) -> None:
        self._raised = False
        self._changed = threading.Condition(threading.RLock())

    def is_set(self) -> bool:
        """Whether it was raised."""
        return self._raised

    def set(self) -> None:
        """Raises it, for good."""
        self._raised = True
        with self._changed:
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Waits until it is raised, for so long at most; whether it is."""
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while not self._raised and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(min(left_s, _LOOK_S))
        return self._raised
