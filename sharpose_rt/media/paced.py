"""A file that behaves like a camera: frames come at their media times, whether somebody takes them or not.

So does a stream that arrives in pieces (HLS): played as it comes, most of each piece would be dropped at once.
"""

from __future__ import annotations

import time
from dataclasses import replace

from sharpose_rt.media.source import Loss, Source, SourceState
from sharpose_rt.types import Frame

_FALLBACK_FPS = 25.0


class PacedSource(Source):
    """Hands on the frames of `inner` at the rate of its own timestamps, marked as captured when they were due.

    A frame is decoded when it is due, not ahead of it, so decoding is part of its latency as with a camera. Where
    decoding itself is slower than the file plays, the clock waits for it: `slipped_s` says by how much in all.
    """

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.name, inner.config)
        self.inner = inner
        self.slipped_s = 0.0
        self._period_s = 1 / _FALLBACK_FPS
        self._start_s: float | None = None
        self._next_s = 0.0

    @property
    def state(self) -> SourceState:
        """See `Source.state`."""
        return self.inner.state

    @property
    def losses(self) -> tuple[Loss, ...]:
        """See `Source.losses`."""
        return self.inner.losses

    def open(self) -> None:
        """Open the file; see `Source.open`."""
        self.inner.open()
        if self._stop.is_set():
            return
        self._info = replace(self.inner.info, live=True, audio=False)
        self._period_s = 1 / (self._info.fps or _FALLBACK_FPS)

    def read(self) -> Frame | None:
        """The next frame when it is due, or None at the end; see `Source.read`."""
        began_s = self._wait_until(self._next_s)
        frame = self.inner.read()
        if frame is None or self._stop.is_set():
            return None
        if self._start_s is None:
            self._start_s = began_s - frame.pts_s
        late_s = began_s - (self._start_s + frame.pts_s)
        if late_s > self._period_s:
            self.slipped_s += late_s
            self._start_s += late_s
        due_s = self._start_s + frame.pts_s
        self._wait_until(due_s)  # only where the frame rate varies
        if self._stop.is_set():  # before it is due
            return None
        self._next_s = due_s + self._period_s
        return replace(frame, captured_at_s=due_s)

    def interrupt(self) -> None:
        """End a wait, too; see `Source.interrupt`."""
        super().interrupt()
        self.inner.interrupt()

    def close(self) -> None:
        """Close the file."""
        self.inner.close()

    def _wait_until(self, at_s: float) -> float:
        """The time, which is `at_s` or later unless the wait was interrupted."""
        remaining_s = at_s - time.monotonic()
        if remaining_s > 0:
            self._stop.wait(remaining_s)
        return time.monotonic()
