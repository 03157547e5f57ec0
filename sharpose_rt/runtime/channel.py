"""A bounded channel between two threads that can be ended or cancelled and measures which side waited."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Literal, TypeVar

from sharpose_rt.errors import ConfigError
from sharpose_rt.runtime.stats import ChannelStats, clock

T = TypeVar("T")
Policy = Literal["wait", "drop_oldest"]

# Every wait rechecks its condition this often. Windows does not deliver Ctrl-C to a wait without a timeout, and a
# signal handler that cancels can run just before the wait that it was meant to wake.
POLL_S = 0.1

# An item for a busy consumer is made slightly before the consumer is expected to be free, judging by its last _RECENT
# items. While it takes longer than expected, the producer spends a share _IN_VAIN of its time on making fresher items.
_RECENT, _EARLY, _IN_VAIN = 3, 0.9, 0.2

SLOW_CONSUMER = "consumer slower than source"
SLOW_DECODER = "decoder slower than source"


class EndOfStream(Exception):
    """The producer has finished and every item was taken."""


class Cancelled(Exception):
    """The channel was cancelled; nothing more goes through."""


class Channel(Generic[T]):
    """Hands items from a producer to a consumer in order, with at most `capacity` of them waiting.

    Args:
        name: for statistics.
        capacity: most items that may wait, 1 or more.
        policy: what put() does when full: "wait" for room, or "drop_oldest" and never block.
        fold: `fold(dropped, next)` returns what replaces the item after a dropped one, so that what the dropped one
            carried (such as its own count of drops) is not lost. It must be quick.
        room: `room(item)` returns how many items like that one may wait, where memory allows fewer than `capacity`.
            One always may.

    Raises:
        ConfigError: capacity or policy is not accepted.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        policy: Policy = "wait",
        fold: Callable[[T, T], T] | None = None,
        room: Callable[[T], int] | None = None,
    ) -> None:
        if capacity < 1:
            raise ConfigError(f"capacity of channel {name!r} is {capacity}; 1 or more is accepted")
        if policy not in ("wait", "drop_oldest"):
            raise ConfigError(f"policy of channel {name!r} is {policy!r}; 'wait' or 'drop_oldest' is accepted")
        self.name = name
        self.capacity = capacity
        self._policy = policy
        self._fold = fold
        self._room = room
        # `with` on the bare lock: a Ctrl-C can fall into the Python code of Condition.__enter__ and leave it locked.
        # Re-entrant, because a signal handler may cancel while its own thread is in get().
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._items: deque[T] = deque()
        self._ended = False
        self._cancelled = False
        self._puts = self._gets = self._drops = self._max_fill = 0
        self._put_wait_s = self._get_wait_s = 0.0
        self._fill_area = 0.0
        self._first_s: float | None = None
        self._last_s = 0.0
        self._waited_for = False  # the consumer is in get()
        self._put_s = self._got_s = 0.0
        self._took_s: deque[float] = deque(maxlen=_RECENT)  # durations of the consumer's last items

    @property
    def drops(self) -> bool:
        """Whether it drops items rather than let a producer wait."""
        return self._policy == "drop_oldest"

    def wait_until_wanted(self, lead_s: float) -> None:
        """Waits until an item that takes `lead_s` to make will be taken about when it is ready.

        An item put earlier would be dropped for a fresher one, after making it took processor time from the consumer;
        in a channel that does not drop, it would only grow old.

        Raises:
            Cancelled: the channel was cancelled, before or while waiting.
        """
        with self._lock:
            while (early_s := self._early_s(lead_s)) > 0 and not self._cancelled:
                self._changed.wait(min(early_s, POLL_S))
            if self._cancelled:
                raise Cancelled

    def _early_s(self, lead_s: float) -> float:
        if self._waited_for or self._puts == 0:
            return 0.0
        if self._items:  # without dropping, a fresher one has to wait behind it
            return self._put_s + lead_s / _IN_VAIN - clock() if self.drops else POLL_S
        return self._got_s + _EARLY * min(self._took_s, default=0.0) - lead_s - clock()

    def put(self, item: T) -> None:
        """Appends an item; when full, waits or drops the oldest, depending on the policy.

        Raises:
            Cancelled: the channel was cancelled, before or while waiting.
        """
        with self._lock:
            assert not self._ended, f"put() after end() on channel {self.name!r}"
            most = self.capacity if self._room is None else max(1, min(self.capacity, self._room(item)))
            if self._policy == "wait":
                self._put_wait_s += self._wait_while(lambda: len(self._items) >= most)
            elif self._cancelled:
                raise Cancelled
            self._weigh_fill()
            while len(self._items) >= most:
                item = self._drop_oldest(item)
            self._items.append(item)
            self._puts += 1
            self._put_s = self._last_s
            self._max_fill = max(self._max_fill, len(self._items))
            self._changed.notify_all()

    def get(self) -> T:
        """The oldest item, waiting for one.

        Raises:
            EndOfStream: the producer called end() and everything was taken.
            Cancelled: the channel was cancelled, before or while waiting.
        """
        with self._lock:
            if self._gets:
                self._took_s.append(clock() - self._got_s)
            if not self._items:
                self._waited_for = True
                self._changed.notify_all()
            self._get_wait_s += self._wait_while(lambda: not self._items and not self._ended)
            self._waited_for = False
            if not self._items:
                raise EndOfStream
            self._weigh_fill()
            try:
                item = self._items.popleft()
            except IndexError:  # a signal handler in this thread has just cancelled
                raise Cancelled from None
            self._got_s = self._last_s
            self._gets += 1
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        """Items until the end; raises Cancelled as get() does."""
        while True:
            try:
                item = self.get()
            except EndOfStream:
                return
            yield item

    def end(self) -> None:
        """Marks the end: no item follows, but those that wait can still be taken."""
        with self._lock:
            self._ended = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Discards what waits and makes every put() and get(), now and later, raise Cancelled."""
        with self._lock:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def stats(self) -> ChannelStats:
        """The statistics so far."""
        with self._lock:
            elapsed_s = 0.0 if self._first_s is None else self._last_s - self._first_s
            return ChannelStats(
                name=self.name,
                capacity=self.capacity,
                puts=self._puts,
                gets=self._gets,
                dropped={SLOW_CONSUMER: self._drops} if self._drops else {},
                put_wait_s=self._put_wait_s,
                get_wait_s=self._get_wait_s,
                mean_fill=self._fill_area / elapsed_s if elapsed_s else 0.0,
                max_fill=self._max_fill,
            )

    def _drop_oldest(self, newest: T) -> T:
        """Removes the oldest item, folds it into the one after it, and returns the newest."""
        dropped = self._items.popleft()
        self._drops += 1
        if self._fold is None:
            return newest
        if not self._items:
            return self._fold(dropped, newest)
        self._items[0] = self._fold(dropped, self._items[0])
        return newest

    def _wait_while(self, blocked: Callable[[], bool]) -> float:
        """Seconds waited until `blocked()` became false; raises Cancelled."""
        waited_s = 0.0
        if not self._cancelled and blocked():
            started_s = clock()
            while not self._cancelled and blocked():
                self._changed.wait(POLL_S)
            waited_s = clock() - started_s
        if self._cancelled:
            raise Cancelled
        return waited_s

    def _weigh_fill(self) -> None:
        """Adds the current fill, weighted by how long it lasted; called before each change."""
        now_s = clock()
        if self._first_s is None:
            self._first_s = now_s
        else:
            self._fill_area += len(self._items) * (now_s - self._last_s)
        self._last_s = now_s
