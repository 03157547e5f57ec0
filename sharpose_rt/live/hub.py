"""What the server shows: the newest frame of each run, the last seconds of its skeletons, and its status.

The writing thread puts in, the server's thread takes out, and neither waits: a viewer is woken and takes the newest
frame, so that a slow one sees fewer frames and does not delay the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from sharpose_rt.config.schema import DrawConfig, LiveConfig
from sharpose_rt.live.thinned import Journey, Place, Thinned
from sharpose_rt.machine.paths import as_text
from sharpose_rt.media import SourceInfo
from sharpose_rt.runtime import LatencyHistogram
from sharpose_rt.skeletons import Header, encode, end_record
from sharpose_rt.skeletons.names import unique_name
from sharpose_rt.stages import RunTotals
from sharpose_rt.types import Frame, Packet

STALLED_S = 10.0
"""A run without a frame for this long is reported as stalled."""

_TICK_S = 0.5
_RECENT_S = 120.0
_TICKS = int(_RECENT_S / _TICK_S)
_PIECES = 6  # in which the latencies of the last two minutes are kept and forgotten
_MAX_RECENT_BYTES = 64 << 20


@dataclass(frozen=True)
class Moment:
    """One frame, with its line of the stream."""

    packet: Packet
    line: bytes
    place: Place
    """Of the camera."""
    status_line: str = ""

    @property
    def frame(self) -> Frame:
        """Its picture."""
        return self.packet.frame


class LiveRun:
    """One run over one source, as viewers see it; without a header until its source is available."""

    def __init__(
        self,
        hub: Hub,
        name: str,
        source: str,
        live: bool,
        source_state: Callable[[], str],
        header: bytes = b"",
        info: SourceInfo | None = None,
    ) -> None:
        self.name, self.source, self.live, self.header, self.info = name, source, live, header, info
        self.newest: Moment | None = None
        self.end_line: bytes | None = None
        facts = Header.from_record(orjson.loads(header)) if header else None
        self.skeleton = facts.skeleton if facts else None
        # A one-stage network has no threshold.
        two_stages = facts is None or facts.model.get("quality_threshold", math.inf) is not None
        self.totals = RunTotals(two_stages=two_stages)
        self.ticks: deque[dict[str, Any]] = deque(maxlen=_TICKS)
        self._hub, self._history_s, self._source_state = hub, hub.config.history_s, source_state
        self._lock, self._journey = threading.Lock(), Journey()
        self._recent: deque[tuple[float, int, bytes]] = deque()
        self._recent_bytes = 0
        self._since: list[tuple[float, dict[str, float]]] = []
        self._late: deque[tuple[float, LatencyHistogram]] = deque(maxlen=_PIECES + 1)
        self._tick_s = self._last_s = time.monotonic()

    def frame(self, line: bytes, packet: Packet, status_line: str = "") -> None:
        """Records one frame."""
        frame, now_s = packet.frame, time.monotonic()
        self.totals.add(packet)
        with self._lock:
            self._recent.append((frame.pts_s, frame.frame_id, line))
            self._recent_bytes += len(line)
            while self._recent_bytes > _MAX_RECENT_BYTES or frame.pts_s - self._recent[0][0] > self._history_s:
                self._recent_bytes -= len(self._recent.popleft()[2])
        place = self._journey.go(packet.camera, new_scene=packet.new_scene, lost_s=packet.frame.lost_before_s)
        self.newest, self._last_s = Moment(packet, line, place, status_line), now_s
        late_s = max(0.0, now_s - frame.captured_at_s)
        self._since.append((late_s, packet.spans_ms))
        if not self._late or now_s - self._late[-1][0] >= _RECENT_S / _PIECES:
            self._late.append((now_s, LatencyHistogram()))
        self._late[-1][1].add(late_s)
        if now_s - self._tick_s >= _TICK_S:
            self._tick(now_s)
        self._hub.wake()

    def end(self, line: bytes) -> None:
        """The run is over; its last frame stays."""
        self.end_line = line
        self._hub.wake()

    @property
    def state(self) -> str:
        """'waiting' for its source, 'running', 'lost' while reconnecting to the source, 'stalled' or 'ended'."""
        if self.end_line is not None:
            return "ended"
        source = self._source_state()
        if source == "lost":
            return "lost"
        if not self.header and source != "ended":
            return "waiting"
        if self.header and time.monotonic() - self._last_s <= STALLED_S:
            return "running"
        return "ended" if source == "ended" else "stalled"  # ended: one of several sources, while others continue

    @property
    def damaged(self) -> int:
        """Frames so far that were skipped because they could not be decoded."""
        return self.info.faults.damaged if self.info else 0

    @property
    def fps(self) -> float:
        """Frames per second over recent frames; 0 unless it is running."""
        return self.totals.fps if self.state == "running" else 0.0

    @property
    def people(self) -> int:
        """People in the last frame; 0 unless it is running."""
        return self.totals.people_now if self.state == "running" else 0

    @property
    def latency(self) -> LatencyHistogram:
        """How long the frames of the last two minutes took from capture to here."""
        recent, now_s = LatencyHistogram(), time.monotonic()
        for begun_s, late in list(self._late):
            if now_s - begun_s <= _RECENT_S:
                recent.merge(late)
        return recent

    def recent(self, seconds: float) -> list[bytes]:
        """The lines of the last `seconds` of media time, as a valid stream."""
        with self._lock:
            lines = list(self._recent)
        thinned = Thinned()
        first_s = lines[-1][0] - seconds if lines else 0.0
        frames = [thinned.frame(number, line) for pts_s, number, line in lines if pts_s >= first_s]
        end = self.end_line or encode(end_record("interrupted", 0, 0))
        return [self.header, *frames, thinned.end(end)]

    def status(self) -> dict[str, Any]:
        """The current figures, for the page."""
        totals, late = self.totals, self.latency
        return {
            "name": self.name,
            "source": self.source,
            "state": self.state,
            "live": self.live,
            "frames": totals.frames,
            "frame_count": self.info and self.info.frame_count,
            "dropped": totals.dropped,
            "damaged": self.damaged,
            "losses": totals.losses,
            "fps": round(self.fps, 2),
            "people": self.people,
            "ids": len(totals.ids),
            "stages": {"coarse": totals.coarse, "fine": totals.fine, "predicted": totals.predicted},
            "exit_rate": totals.exit_rate,
            "latency_ms": {f"p{q}": round(1e3 * late.percentile(q), 1) if late.count else None for q in (50, 95, 99)},
        }

    def _tick(self, now_s: float) -> None:
        """Sums up the last half second for the plots."""
        late_ms = np.array([late_s for late_s, _ in self._since]) * 1e3
        p50, p95 = np.percentile(late_ms, (50, 95))
        stages: dict[str, float] = {}
        for _, spans_ms in self._since:
            for name, span_ms in spans_ms.items():
                stages[name] = stages.get(name, 0.0) + span_ms / len(self._since)
        self.ticks.append(
            {
                "t": round(now_s, 2),
                "fps": round(len(late_ms) / (now_s - self._tick_s), 2),
                "p50": round(float(p50), 1),
                "p95": round(float(p95), 1),
                "people": self.totals.people_now,
                "stages_ms": {name: round(value, 1) for name, value in stages.items()},
            }
        )
        self._since, self._tick_s = [], now_s


class Hub:
    """All runs of the program: a tap that the server reads from.

    Args:
        config: of the server.
        draw: how people are drawn in pictures made here, and how much of the pictures viewers get.
        region: corners, px of the frame, of a polygon to outline: where people are looked for.
    """

    def __init__(
        self,
        config: LiveConfig | None = None,
        draw: DrawConfig | None = None,
        *,
        region: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.config, self.draw, self.region = config or LiveConfig(), draw or DrawConfig(), region
        self.runs: list[LiveRun] = []
        self.closed = False
        self.viewers = 0
        self.publishers: list[Callable[[], dict[str, Any]]] = []
        self._expected: dict[str, LiveRun] = {}  # by source stem
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Event] = set()

    def expect(self, stem: str, source: str, *, live: bool, state: Callable[[], str]) -> None:
        """Announces a run over a source with this stem; until it begins it is listed as waiting."""
        stem, source = map(as_text, (stem, source))  # as in SourceInfo
        run = LiveRun(self, unique_name(stem, {other.name for other in self.runs}), source, live, state)
        self._expected[stem], self.runs = run, [*self.runs, run]
        self.wake()

    def begin(self, info: SourceInfo, header: bytes, *, live: bool, state: Callable[[], str]) -> LiveRun:
        """Begins a run, and forgets those that have ended or whose source never came."""
        expected = self._expected.pop(info.stem, None)
        name = expected.name if expected else unique_name(info.stem, {run.name for run in self.runs})
        run = LiveRun(self, name, info.name, live, state, header, info)
        runs = [run if other is expected else other for other in self.runs]  # keeps its place
        if run not in runs:
            runs.append(run)
        self.runs = [r for r in runs if r is run or (r.end_line is None and (r.header or r.state != "ended"))]
        self.wake()
        return run

    def pick(self, name: str | None) -> LiveRun | None:
        """The run with that name; without a name, the first ongoing run whose source is available, else the last."""
        if name is not None:
            return next((run for run in self.runs if run.name == name), None)
        runs = [run for run in self.runs if run.header] or self.runs
        return next((run for run in runs if run.state != "ended"), runs[-1] if runs else None)

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Sets the loop whose viewers are woken from now on."""
        self._loop = loop

    def wake(self) -> None:
        """Wakes every viewer because there is something new; from any thread."""
        if self._loop is not None and self._waiting:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._set_all)

    def close(self) -> None:
        """Disconnects the viewers; from any thread."""
        self.closed = True
        self.wake()

    @contextlib.contextmanager
    def listening(self) -> Any:
        """Yields an event that is set whenever there is something new; for the loop's thread."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            yield event
        finally:
            self._waiting.discard(event)

    def _set_all(self) -> None:
        for event in self._waiting:
            event.set()
