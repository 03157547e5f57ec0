"""How long stages take and how busy they are, in constant memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

# Monotonic like time.monotonic(), which ticks only every 16 ms on Windows.
clock = time.perf_counter

_LOWEST_S = 1e-6
_RATIO = 1.059
_LOG_RATIO = math.log(_RATIO)
_BINS = 2 + math.ceil(math.log(1e4 / _LOWEST_S) / _LOG_RATIO)


class LatencyHistogram:
    """Percentiles of durations within 3 %, in some 400 counters however many are added.

    Bins are log-spaced with a ratio of 1.059 between 1 µs and 10,000 s and report their geometric middle, so a
    percentile is at most 2.91 % off. Durations below 1 µs are off by at most 1 µs; those above 10,000 s are reported
    as the longest. `count`, `mean` and `max` are exact. One thread adds; any thread may read meanwhile.
    """

    def __init__(self) -> None:
        self._counts = [0] * _BINS
        self._sum_s = 0.0
        self._min_s = math.inf
        self._max_s = 0.0

    @property
    def count(self) -> int:
        """How many durations were added."""
        return sum(self._counts)

    @property
    def mean(self) -> float:
        """Seconds; 0 when empty."""
        return self._sum_s / max(1, self.count)

    @property
    def max(self) -> float:
        """Seconds; 0 when empty."""
        return self._max_s

    def add(self, seconds: float) -> None:
        """Counts one duration."""
        assert seconds >= 0, seconds
        index = 0
        if seconds >= _LOWEST_S:
            index = min(_BINS - 1, 1 + int(math.log(seconds / _LOWEST_S) / _LOG_RATIO))
        self._sum_s += seconds
        self._min_s = min(self._min_s, seconds)
        self._max_s = max(self._max_s, seconds)
        self._counts[index] += 1

    def percentile(self, q: float) -> float:
        """Seconds that q percent (0..100) of the durations do not exceed: the nearest rank; 0 when empty."""
        assert 0 <= q <= 100, q
        counts = list(self._counts)
        rank = max(1, math.ceil(q * sum(counts) / 100))
        seen = 0
        for index, n in enumerate(counts):
            seen += n
            if seen >= rank:
                return self._middle(index)
        return 0.0

    def _middle(self, index: int) -> float:
        if index == 0:
            return self._min_s
        if index == _BINS - 1:
            return self._max_s
        middle = _LOWEST_S * math.exp((index - 0.5) * _LOG_RATIO)
        return min(max(middle, self._min_s), self._max_s)

    def merge(self, other: LatencyHistogram) -> None:
        """Adds all that `other` counted."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self._sum_s += other._sum_s
        self._min_s = min(self._min_s, other._min_s)
        self._max_s = max(self._max_s, other._max_s)


@dataclass(frozen=True)
class StageStats:
    """What one stage has done so far; latencies are those of process() (of read() for the source).

    `busy_s` is the time spent in the stage itself, including flushing but not waiting for neighbours. `parts` are the
    stages of a chain.
    """

    name: str
    items_in: int
    items_out: int
    busy_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    parts: tuple[StageStats, ...] = ()


@dataclass(frozen=True)
class ChannelStats:
    """What has passed through one channel so far.

    `put_wait_s` is how long producers waited for room (the consumer is the slow side), `get_wait_s` how long
    consumers waited for an item (the producer is the slow side). `mean_fill` is averaged over time, in items.
    """

    name: str
    capacity: int
    puts: int
    gets: int
    dropped: dict[str, int]
    put_wait_s: float
    get_wait_s: float
    mean_fill: float
    max_fill: int


@dataclass(frozen=True)
class PipelineStats:
    """Stages (the source first) and the channels after each of them; `caller` is whatever iterates over the run."""

    elapsed_s: float
    live: bool
    stages: tuple[StageStats, ...]
    channels: tuple[ChannelStats, ...]
    caller: StageStats

    @property
    def bottleneck(self) -> str | None:
        """Name of the stage that was busy the longest, or None before anything ran.

        A live source is left out: it is always busy waiting for its next frame.
        """
        busiest = max((*self.stages[self.live :], self.caller), key=lambda stage: stage.busy_s)
        return busiest.name if busiest.busy_s > 0 else None

    @property
    def dropped(self) -> dict[str, int]:
        """Items dropped in all channels, by reason."""
        total: dict[str, int] = {}
        for channel in self.channels:
            for reason, n in channel.dropped.items():
                total[reason] = total.get(reason, 0) + n
        return total

    def summary(self) -> dict[str, Any]:
        """The statistics as plain data for JSON, each stage with its `busy_share` (0..1 of the elapsed time)."""

        def row(stage: StageStats) -> dict[str, Any]:
            share = stage.busy_s / self.elapsed_s if self.elapsed_s else 0.0
            return {**asdict(stage), "busy_share": share, "parts": [row(part) for part in stage.parts]}

        return {
            "elapsed_s": self.elapsed_s,
            "bottleneck": self.bottleneck,
            "dropped": self.dropped,
            "stages": [row(stage) for stage in self.stages],
            "caller": row(self.caller),
            "channels": [asdict(channel) for channel in self.channels],
        }


@dataclass
class StageMeter:
    """Measures one stage; written only by its thread, read by any."""

    name: str
    items_in: int = 0
    items_out: int = 0
    busy_s: float = 0.0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    def outputs(self, produce: Callable[[], Iterable[T]], *, sample: bool = True) -> Generator[T, None, None]:
        """Yields what `produce()` yields; only the time within it counts, as one latency when `sample` is true.

        The time that the consumer spends between two outputs is left out.
        """
        spent_s, started_s = 0.0, clock()
        for item in produce():
            spent_s += clock() - started_s
            self.items_out += 1
            yield item
            started_s = clock()
        self.add(spent_s + clock() - started_s, sample=sample)

    def add(self, seconds: float, *, sample: bool = True) -> None:
        """Counts busy time, also as one latency when `sample` is true."""
        self.busy_s += seconds
        if sample:
            self.latency.add(seconds)

    def snapshot(self, parts: tuple[StageStats, ...] = ()) -> StageStats:
        """The statistics so far."""
        p50, p95, p99 = (1e3 * self.latency.percentile(q) for q in (50, 95, 99))
        mean_ms, max_ms = 1e3 * self.latency.mean, 1e3 * self.latency.max
        return StageStats(self.name, self.items_in, self.items_out, self.busy_s, mean_ms, p50, p95, p99, max_ms, parts)
