"""A flag that may be raised from anywhere, including a signal handler."""

from __future__ import annotations

import threading
import time

_LOOK_S = 0.5  # a handler in the waiting thread may raise the flag just before the wait, and then wakes nobody


class Flag:
    """Like `threading.Event`, but a signal handler may `set` it while the interrupted thread is in `set` or `wait`.

    A thread cannot take the lock of an Event twice: when two signals came in quick succession, the second handler
    waited forever for the first.
    """

    def __init__(self) -> None:
        self._raised = False
        self._changed = threading.Condition(threading.RLock())

    def is_set(self) -> bool:
        """Whether it was raised."""
        return self._raised

    def set(self) -> None:
        """Raises it permanently."""
        self._raised = True
        with self._changed:
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Waits at most `timeout_s` until it is raised; returns whether it is."""
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while not self._raised and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(min(left_s, _LOOK_S))
        return self._raised
