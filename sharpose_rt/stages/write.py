"""The last stage: passes each frame to the outputs and counts what the summary reports."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sharpose_rt.runtime import BaseStage, LatencyHistogram, Status
from sharpose_rt.stages.sinks import Sink
from sharpose_rt.types import Packet, Poses, PoseStage

_PAGE = 1024  # ids that share one integer, with one bit each


class Ids:
    """How many different ids were seen, using about one bit per id: a camera may see millions of people.

    0, which stands for nobody in particular, is not counted.
    """

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def update(self, ids: Iterable[int]) -> None:
        """Counts the new ones among `ids`."""
        for number in ids:
            page, place = divmod(number, _PAGE)
            seen = self._pages.get(page, 0)
            if number and not seen >> place & 1:
                self._pages[page] = seen | 1 << place
                self._count += 1


@dataclass
class RunTotals:
    """Totals of a run so far; written by one thread, read by any."""

    frames: int = 0
    dropped: int = 0
    losses: int = 0
    people: int = 0
    people_now: int = 0
    most_people: int = 0
    coarse: int = 0
    fine: int = 0
    predicted: int = 0
    ids: Ids = field(default_factory=Ids)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    left_s: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    live: bool = False
    two_stages: bool = True
    spans: dict[str, LatencyHistogram] = field(default_factory=dict)
    late_s: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def add(self, packet: Packet) -> None:
        """Counts one frame."""
        poses = packet.poses
        assert poses is not None
        stages = np.bincount(poses.stage, minlength=len(PoseStage))
        self.coarse += int(stages[PoseStage.COARSE])
        self.fine += int(stages[PoseStage.FINE])
        self.predicted += int(stages[PoseStage.PREDICTED])
        self.frames += 1
        self.dropped += packet.frame.dropped_before
        self.losses += packet.frame.lost_before_s > 0
        self.people += len(poses)
        self.people_now = len(poses)
        self.most_people = max(self.most_people, len(poses))
        self.ids.update(poses.track_ids.tolist())
        now_s = time.monotonic()
        late_s = max(0.0, now_s - packet.frame.captured_at_s)
        self.latency.add(late_s)
        self.late_s.append(late_s)
        self.left_s.append(now_s)
        for stage, span_ms in packet.spans_ms.items():
            self.spans.setdefault(stage, LatencyHistogram()).add(span_ms / 1e3)

    def recount(self, frames: Iterable[Poses]) -> None:
        """Counts the people again from the frames as finally written, if these differ from the frames as output."""
        people = [poses for poses in frames if len(poses)]
        self.people, self.most_people = sum(map(len, people)), max(map(len, people), default=0)
        self.predicted = sum(int((poses.stage == PoseStage.PREDICTED).sum()) for poses in people)

    @property
    def exit_rate(self) -> float | None:
        """Share of estimated crops that were not refined, 0..1; None before any, or with a single stage."""
        estimated = self.coarse + self.fine
        return self.coarse / estimated if estimated and self.two_stages else None

    @property
    def stopped(self) -> bool:
        """Whether no frame has come for longer than the recent ones took together, and for at least a second."""
        if not self.left_s:
            return False
        return time.monotonic() - self.left_s[-1] > max(1.0, self.left_s[-1] - self.left_s[0])

    @property
    def fps(self) -> float:
        """Frames per second of wall time over recent frames; 0 before the second one, and once they have stopped."""
        if len(self.left_s) < 2 or self.left_s[-1] <= self.left_s[0] or self.stopped:
            return 0.0
        return (len(self.left_s) - 1) / (self.left_s[-1] - self.left_s[0])

    def status_line(self) -> str:
        """'24.1 fps | 3 people | exit 62 %': the text drawn on the video and shown as progress.

        Live sources add the latency of recent frames and the number dropped: ' | 85 ms, p95 140 ms | 12 dropped'.
        """
        exits = "" if self.exit_rate is None else f" | exit {100 * self.exit_rate:.0f} %"
        people = 0 if self.stopped else self.people_now
        noun = "person" if people == 1 else "people"
        line = f"{self.fps:.1f} fps | {people} {noun}{exits}"
        if self.live and self.late_s:
            p50, p95 = (1e3 * np.percentile(self.late_s, q, method="higher") for q in (50, 95))
            line += f" | {p50:.0f} ms, p95 {p95:.0f} ms | {self.dropped} dropped"
        return line

    def latency_ms(self) -> dict[str, Any]:
        """Percentiles from capture to output, and of each stage's part in it (including waits) with its mean share."""
        whole_s = sum(h.mean for h in self.spans.values())

        def row(histogram: LatencyHistogram) -> dict[str, float]:
            return {f"p{q}": histogram.percentile(q) * 1e3 for q in (50, 95, 99)}

        parts = {
            name: {**row(h), "share": h.mean / whole_s if whole_s else None} for name, h in list(self.spans.items())
        }
        return {"capture_to_output": row(self.latency), "stages": parts}


class WriteStage(BaseStage[Packet, Packet]):
    """Passes each frame to the outputs in order, and finishes them all however the run ends.

    `make_sinks` is called at the first frame, when all models are loaded and their names known. `observe` is called
    with each frame as it is output. `ending` maps how the run ended to what the outputs are told.
    """

    name = "write"

    def __init__(
        self,
        make_sinks: Callable[[], Iterable[Sink]],
        totals: RunTotals,
        observe: Callable[[Packet], None] = lambda packet: None,
        ending: Callable[[Status], Status] = lambda status: status,
    ) -> None:
        self.make_sinks, self.totals, self.observe, self.ending = make_sinks, totals, observe, ending
        self.sinks: list[Sink] | None = None

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet, once it has been written."""
        if self.sinks is None:
            self.sinks = []
            self.sinks.extend(self.make_sinks())
        item = item.left(self.name)  # its wait for the outputs is part of its latency, too
        self.totals.add(item)
        self.observe(item)
        status_line = self.totals.status_line()
        for sink in self.sinks:
            sink.write(item, status_line)
        return (item,)

    def close(self, status: Status, /) -> None:
        """Finishes every output; a failure is raised after all have been tried."""
        told = self.ending(status)
        with contextlib.ExitStack() as stack:
            for sink in reversed(self.sinks or ()):
                stack.callback(sink.close, told, self.totals.frames, self.totals.dropped)
