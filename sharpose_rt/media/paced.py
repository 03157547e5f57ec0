"""A file that behaves like a camera: frames come at their media times, whether they are taken or not.

A stream in segments (HLS) is played in the same way; as it arrives, most of each segment would be dropped at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from sharpose_rt.media.source import FALLBACK_FPS, Loss, Source, SourceState
from sharpose_rt.types import Frame

CATCH_UP = 0.25
"""Share of a step by which a delayed broadcast is played faster until it is current again."""
DRIFT = 3e-4
"""Share by which a broadcast is always played faster, more than any two clocks differ. If the sender's clock is faster
than ours, playback would otherwise lag more every day, until the segments are no longer available."""


class PacedSource(Source):
    """Passes on the frames of `inner` at their timestamps, marked as captured when they were due.

    A frame is decoded ahead, to know its time, but passed on as late as if it had been decoded when it was due:
    decoding is part of its latency, as with a camera. If frames arrive too late, the clock waits for them, and
    `slipped_s` is the total wait. A broadcast catches up afterwards (`CATCH_UP`).
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
        """Opens the file; see `Source.open`."""
        self.inner.open()
        if self._stop.is_set():
            return
        self._info = replace(self.inner.info, live=True, audio=False)
        self._period_s = 1 / (self._info.fps or FALLBACK_FPS)
        self._opened_s = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame when it is due; None at the end; see `Source.read`."""
        began_s = time.monotonic()
        frame = self.inner.read()
        if frame is None or self._stop.is_set():
            return None
        took_s = 0.0 if self.inner.info.live else time.monotonic() - began_s  # a live source may have waited
        if self._start_s is None:
            self._start_s = began_s - frame.pts_s
            if self.inner.info.live:  # it continued while the networks were loaded
                self._behind_s = began_s - self._opened_s
        late_s = began_s - (self._start_s + frame.pts_s)
        if late_s > self._period_s:
            self.slipped_s += late_s
            self._start_s += late_s
            # A wait caused by playing faster means that playback has caught up.
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
        """Ends a wait, too; see `Source.interrupt`."""
        super().interrupt()
        self.inner.interrupt()

    def close(self) -> None:
        """Closes the file."""
        self.inner.close()
