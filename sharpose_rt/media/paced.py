"""A file that behaves like a camera: frames come at their media times, whether somebody takes them or not.

So does a stream that arrives in pieces (HLS): played as it comes, most of each piece would be dropped at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from sharpose_rt.media.source import FALLBACK_FPS, Loss, Source, SourceState
from sharpose_rt.types import Frame

CATCH_UP = 0.25
"""Share of a step by which a broadcast that was waited for is played faster, until it is in the present again."""
DRIFT = 3e-4
"""The same at all times: where the clock of the one who sends is faster than ours, by which no two differ as much, what
is shown would grow older every day, until the pieces that are wanted are gone."""


class PacedSource(Source):
    """Hands on the frames of `inner` at the times of its own timestamps, marked as captured when they were due.

    A frame is decoded ahead, as only then its time is known, and handed on as late as if it had been decoded when it
    was due: decoding is part of its latency, as with a camera. Where frames come later than they play, the clock waits
    for them: `slipped_s` says by how much in all. A broadcast is caught up with afterwards (`CATCH_UP`).
    """

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.name, inner.config)
        self.inner = inner
        self.faults, self.stem = inner.faults, inner.stem
        self.slipped_s = 0.0
        self._period_s = 1 / FALLBACK_FPS
        self._start_s: float | None = None
        self._opened_s = 0.0
        self._behind_s = self._caught_up_s = self._last_s = 0.0

    @property
    def state(self) -> SourceState:
        """See `Source.state`."""
        return self.inner.state

    @property
    def losses(self) -> tuple[Loss, ...]:
        """See `Source.losses`."""
        return self.inner.losses

    def keep_looking(self, wanted: Callable[[], bool]) -> None:
        """See `Source.keep_looking`."""
        self.inner.keep_looking(wanted)

    def open(self) -> None:
        """Open the file; see `Source.open`."""
        self.inner.open()
        if self._stop.is_set():
            return
        self._info = replace(self.inner.info, live=True, audio=False)
        self._period_s = 1 / (self._info.fps or FALLBACK_FPS)
        self._opened_s = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame when it is due, or None at the end; see `Source.read`."""
        began_s = time.monotonic()
        frame = self.inner.read()
        if frame is None or self._stop.is_set():
            return None
        took_s = 0.0 if self.inner.info.live else time.monotonic() - began_s  # a live one may have waited for it
        if self._start_s is None:
            self._start_s = began_s - frame.pts_s
            if self.inner.info.live:  # it went on while the networks were loaded
                self._behind_s = began_s - self._opened_s
        late_s = began_s - (self._start_s + frame.pts_s)
        if late_s > self._period_s:
            self.slipped_s += late_s
            self._start_s += late_s
            # What had to be waited for because it was played faster was not there yet: that is the present.
            self._behind_s = max(0.0, late_s - self._caught_up_s) if self.inner.info.live else 0.0
            self._caught_up_s = 0.0
        elif self.inner.info.live:
            step_s = max(0.0, frame.pts_s - self._last_s)
            taken_s = min(self._behind_s, CATCH_UP * step_s)
            self._start_s -= taken_s + DRIFT * step_s
            self._behind_s -= taken_s
            self._caught_up_s += taken_s
        self._last_s = frame.pts_s
        due_s = self._start_s + frame.pts_s
        self._stop.wait(max(0.0, due_s + took_s - time.monotonic()))
        if self._stop.is_set():  # before it is due
            return None
        return replace(frame, captured_at_s=due_s)

    def interrupt(self) -> None:
        """End a wait, too; see `Source.interrupt`."""
        super().interrupt()
        self.inner.interrupt()

    def close(self) -> None:
        """Close the file."""
        self.inner.close()
