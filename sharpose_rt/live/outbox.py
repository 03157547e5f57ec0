"""What waits to be sent to one consumer: the newest record of each run, or a bounded queue of records."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from sharpose_rt.live.thinned import Place

Policy = Literal["newest", "queue"]


@dataclass(frozen=True)
class Record:
    """One line of a run's stream; `header` is that run's first line, for consumers that have not had it."""

    run: int
    name: str
    header: bytes
    line: bytes
    frame_id: int | None
    """None for the end line."""
    place: Place | None = None
    """Of the camera."""


class Outbox:
    """Passes records to one sender; runs take turns, so that none starves another.

    Unlike a `runtime.Channel` it has a queue for each run, never drops an end line, and waits for limited time only.

    Args:
        capacity: most frame records of each run that wait; beyond that the oldest is dropped.
        patience_s: how long `put` first waits for room. If that was in vain, it does not wait again until the consumer
            has taken something, so that a dead consumer delays a run by this time only once.
    """

    def __init__(self, capacity: int, patience_s: float = 0.0) -> None:
        assert capacity >= 1, capacity
        self.dropped = 0
        self._capacity, self._patience_s = capacity, patience_s
        self._patient = patience_s > 0
        self._waiting: dict[int, deque[Record]] = {}
        self._closed = False
        self._changed = threading.Condition()

    def put(self, record: Record) -> None:
        """Adds a record; without room, the oldest is dropped."""
        with self._changed:
            if record.frame_id is not None:
                self._make_room(record.run)
            self._waiting.setdefault(record.run, deque()).append(record)
            self._changed.notify_all()

    def take(self) -> Record | None:
        """The next record, waiting for one; None when closed and all were taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if not self._waiting:
                return None
            run, records = next(iter(self._waiting.items()))
            del self._waiting[run]
            record = records.popleft()
            if records:
                self._waiting[run] = records  # to the end of the line
            self._patient = self._patience_s > 0
            self._changed.notify_all()
            return record

    @property
    def frames(self) -> int:
        """Number of frame records that wait."""
        with self._changed:
            return sum(record.frame_id is not None for waiting in self._waiting.values() for record in waiting)

    def close(self) -> None:
        """Marks the end: nothing follows, but what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _make_room(self, run: int) -> None:
        if self._patient and self._full(run):
            self._patient = self._changed.wait_for(lambda: self._closed or not self._full(run), self._patience_s)
        if self._full(run):
            self._waiting[run].popleft()
            self.dropped += 1

    def _full(self, run: int) -> bool:
        waiting = self._waiting.get(run, ())
        return sum(record.frame_id is not None for record in waiting) >= self._capacity
