"""Reconnects lost cameras and streams; their media time continues by the clock."""

from __future__ import annotations

import functools
import logging
import math
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceError, SourceLost
from sharpose_rt.media.source import STALE_S, Loss, Source, SourceInfo, SourceState

log = logging.getLogger("sharpose_rt.media")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
STEADY_S = 30.0
"""After a connection that lasted this long, the next loss starts with a short pause again."""
TOLD_EVERY_S = 3600.0
"""Attempts that fail like the previous one are logged no more often than this."""
SLEW = 0.05
"""Share of a step that is subtracted from media time while it is ahead of the clock."""


def pauses_s(first_s: float, longest_s: float, draw: Callable[[], float]) -> Iterator[float]:
    """An endless series of waits before each attempt, s: they double up to `longest_s`, each shortened by up to half.

    `draw` gives numbers in 0..1. The jitter prevents many clients that lost a server from reconnecting all at once
    ("equal jitter", Brooker, "Exponential backoff and jitter", 2015).
    """
    pause_s = first_s
    while True:
        yield pause_s * (0.5 + 0.5 * draw())
        pause_s = min(longest_s, 2 * pause_s)


class Reconnecting(Source):
    """Frames of the source that `make` builds; a live one that is lost is built and opened again.

    The first connection must succeed, so that a wrong address is reported immediately, unless other sources continue
    without it (`keep_looking`). After a loss, connecting is tried for `config.reconnect_s`, or as long as others
    continue, with growing pauses (`pauses_s`). Media time advances by the time lost, so that tracks expire as usual;
    the first frame of a new connection has it in `lost_before_s`. A source ends if it is not live, or has reached the
    end that it stated. So does a broadcast if only a recording is in its place until `reconnect_s` is over, which is
    not played.

    Args:
        spec: for messages.
        config: for all frames, across connections.
        make: builds a new, unopened source; may raise SourceError.
        draw: jitter, 0..1.
    """

    def __init__(
        self, spec: str, config: SourceConfig, make: Callable[[], Source], draw: Callable[[], float] = random.random
    ) -> None:
        super().__init__(spec, config)
        self._make, self._draw = make, draw
        self._go_on_without: Callable[[], bool] = lambda: False
        self.inner = self._made()
        self.stem = self.inner.stem
        self._pauses = pauses_s(FIRST_PAUSE_S, LONGEST_PAUSE_S, draw)
        self._lost = self._came_back = self._trying = False
        self._lost_early: SourceLost | None = None  # while the first frame waited
        self._offset_s, self._ahead_s = 0.0, -math.inf
        self._connected_s = 0.0
        self._last: tuple[float, float] | None = None  # media time of the last frame, and its arrival
        self._losses: deque[Loss] = deque(maxlen=100)

    @property
    def state(self) -> SourceState:
        """'lost' while reconnecting; see `Source.state`."""
        state = super().state
        return "lost" if self._trying or (state != "ended" and self._lost) else state

    @property
    def losses(self) -> tuple[Loss, ...]:
        """See `Source.losses`."""
        return tuple(self._losses)

    @property
    def behind_s(self) -> float:
        """See `Source.behind_s`."""
        return self.inner.behind_s

    def keep_looking(self, wanted: Callable[[], bool]) -> None:
        """See `Source.keep_looking`."""
        self._go_on_without = wanted

    def open(self) -> None:
        """See `Source.open`; if others continue without it, it starts as lost and connecting is tried again."""
        began_s = time.monotonic()
        try:
            super().open()
            return
        except SourceError as error:
            if self._stop.is_set() or not (self.config.reconnect_s and self._go_on_without()):
                raise
            failure = error
        self._ended = False
        log.warning("%s; the others continue without it until it is there", failure)
        if self._found(self._open_anew, str(failure), 0.0, began_s, math.inf) is None and not self._stop.is_set():
            raise failure

    def _open_anew(self) -> float | None:
        self.inner = self._made()
        try:
            super().open()
        finally:
            self._ended = False  # connecting will be tried again
        return None if self._waiting is None else self._waiting.pts_s

    def _made(self) -> Source:
        source = self._make()
        source._stop = self._stop  # an interruption ends any connection
        source.faults = self.faults  # summed over all connections
        return source

    def _open(self) -> None:
        self.inner._open()
        self._connected_s = time.monotonic()

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        return self.inner._describe(size_wh)

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        return self.inner._retrieve()

    def _close(self) -> None:
        self.inner._close()

    def _is_of_the_present(self) -> bool:
        return self.inner._is_of_the_present()

    def _begin_anew(self, first_pts_s: float, captured_at_s: float, rate_fps: float) -> bool:
        begun = False
        try:
            begun = self.inner._begin_anew(first_pts_s, captured_at_s, rate_fps)
        except SourceLost as error:
            self._lost_early = error
        self._last = 0.0 if begun else first_pts_s, time.monotonic()
        if begun:
            self._offset_s, self._ahead_s = 0.0, -math.inf
        return begun

    def _grab(self) -> float | None:
        try:
            if self._lost_early is not None:
                error, self._lost_early = self._lost_early, None
                raise error
            pts_s, reason = self.inner._grab(), f"{self.name} has ended"
        except SourceLost as error:
            if self._last is None or not (self.inner.live and self.config.reconnect_s):
                raise
            pts_s, reason = None, str(error)
        if pts_s is None:
            if self._stop.is_set() or self._last is None or not self.config.reconnect_s or self.inner.finite:
                return None
            pts_s = self._returned(reason)
            if pts_s is None:
                return None
        came_s = time.monotonic() - self.behind_s
        self._last = self._kept_to_clock(pts_s + self._offset_s, came_s), came_s
        return self._last[0]

    def _kept_to_clock(self, pts_s: float, came_s: float) -> float:
        """Media time, no further ahead of the clock than it was in the first connection.

        Frames that were buffered while connecting arrive in a burst, later than they were captured. Steps are slightly
        shortened until this is made up for, so that speeds stay true.
        """
        ahead_s = pts_s - came_s
        if not self._came_back:
            self._ahead_s = max(self._ahead_s, ahead_s)
        elif self._last is not None and ahead_s > self._ahead_s:
            taken_s = min(ahead_s - self._ahead_s, SLEW * max(0.0, pts_s - self._last[0]))
            self._offset_s -= taken_s
            return pts_s - taken_s
        return pts_s

    def _returned(self, reason: str) -> float | None:
        """Media time of the first picture of a new connection, on its own clock; None if no connection is possible.

        Raises SourceLost if the source did not return in time, and did not end regularly.
        """
        assert self._last is not None
        last_pts_s, last_s = self._last
        self.lost_before_s = 0.0
        if time.monotonic() - self._connected_s > STEADY_S:
            self._pauses = pauses_s(FIRST_PAUSE_S, LONGEST_PAUSE_S, self._draw)
        log.warning("%s; trying to connect again", reason)
        end_s = math.inf if self.config.end_s is None else last_s + self.config.end_s - last_pts_s
        connect = functools.partial(self._connect, recorded=self.inner.finite)
        pts_s = self._found(connect, reason, last_pts_s, last_s, end_s)
        if pts_s is not None:
            self._came_back, self.lost_before_s = True, self._losses[-1].seconds
            self._offset_s = last_pts_s + self.lost_before_s - pts_s
        return pts_s

    def _found(
        self, connect: Callable[[], float | None], reason: str, last_pts_s: float, last_s: float, end_s: float
    ) -> float | None:
        """The result of `connect` when it succeeds; None if no more frames are needed, or only a recording is left.

        Raises SourceLost if this takes longer than `config.reconnect_s` from `last_s` on, and no others continue.
        """
        self._lost = True
        attempts, failure, told_s = 0, "no attempt was made", -math.inf
        until_s = last_s + self.config.reconnect_s
        while not self._stop.is_set() and (now_s := time.monotonic()) < end_s:
            if now_s >= until_s and not self._go_on_without():
                break
            self.inner._close()
            self._stop.wait(min(next(self._pauses), end_s - now_s, until_s - now_s if now_s < until_s else math.inf))
            attempts += 1
            self._trying = True  # a source that cannot be opened closes itself, which is not the end
            try:
                pts_s = connect()
            except SourceError as error:
                before, failure = failure, str(error)
                now_s = time.monotonic()
                if _without_numbers(failure) != _without_numbers(before) or now_s - told_s >= TOLD_EVERY_S:
                    log.info("attempt %d, after %.0f s: %s", attempts, now_s - last_s, failure)
                    told_s = now_s
                continue
            finally:
                self._trying = False
            if pts_s is None:  # interrupted
                break
            self._lost, gap_s = False, time.monotonic() - self.behind_s - last_s
            self._losses.append(Loss(reason, last_pts_s, gap_s, attempts, True))
            log.warning("%s is back after %.1f s (%d attempts)", self.name, gap_s, attempts)
            return pts_s
        gap_s = time.monotonic() - last_s
        self._losses.append(Loss(reason, last_pts_s, gap_s, attempts, False))
        if self._stop.is_set() or time.monotonic() >= end_s:
            return None
        if self.inner.finite:
            log.warning("%s has ended: only a recording has been there for %.0f s", self.name, gap_s)
            return None
        raise SourceLost(
            f"{reason}. It did not come back within {self.config.reconnect_s:g} s ({attempts} attempts; the last: "
            f"{failure}); raise source.reconnect_s to wait longer"
        )

    def _connect(self, recorded: bool) -> float | None:
        """Opens a new source; returns the media time of its first picture, None after an interruption.

        Raises SourceError if it has no picture, or is a recording although the source was not `recorded` before.
        """
        began_s, self.inner = time.monotonic(), self._made()
        self.inner._open()
        self._connected_s = time.monotonic()
        if self.inner.finite and not recorded:
            raise SourceError(f"{self.name} has a recording, or a single picture, in place of the live stream")
        pts_s = self.inner._grab()
        if pts_s is not None and self.inner._is_of_the_present() and time.monotonic() - began_s > STALE_S:
            # Frames that arrived while FFmpeg analysed the stream waited meanwhile, for an unknown time.
            begun = self.inner._begin_anew(pts_s, time.monotonic(), self._rate_fps)
            pts_s = self.inner._grab() if begun else None
        if pts_s is None and not self._stop.is_set():
            raise SourceError(f"{self.name} opened but sent no picture")
        return pts_s


def _without_numbers(reason: str) -> str:
    return re.sub(r"[\d.]+", "", reason)
