"""Channels: order, loss, waiting, ending, cancelling; and the figures of runtime.stats."""

from __future__ import annotations

import math
import signal
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpose_rt.errors import ConfigError
from sharpose_rt.runtime import (
    SLOW_CONSUMER,
    Cancelled,
    Channel,
    EndOfStream,
    LatencyHistogram,
    PipelineStats,
    StageMeter,
)
from sharpose_rt.runtime import channel as channel_module
from sharpose_rt.runtime import stats as stats_module

pytestmark = pytest.mark.timeout(30)


def in_thread(target) -> threading.Thread:
    thread = threading.Thread(target=target, name="test-peer")
    thread.start()
    return thread


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(channel_module, "clock", clock)
    monkeypatch.setattr(stats_module, "clock", clock)
    return clock


# Waiting channels


@pytest.mark.parametrize("policy", ["wait", "drop_oldest"])
def test_fewer_large_items_wait_and_one_always_may(policy):
    channel = Channel("c", 4, policy, room=lambda size: 12 // size)
    for size in (3, 3, 3, 3):
        channel.put(size)
    if policy == "drop_oldest":
        channel.put(6)  # beside what is smaller, too
        assert [channel.get(), channel.get()] == [3, 6]
    else:
        assert [channel.get() for _ in range(3)] == [3, 3, 3]
        channel.put(6)
        peer = in_thread(lambda: channel.put(6))
        while not channel._changed._waiters:  # two wait already
            pass
        assert [channel.get(), channel.get()] == [3, 6]
        peer.join()
        assert channel.get() == 6
    channel.put(24)
    assert channel.get() == 24


@given(items=st.lists(st.integers(), max_size=60), capacity=st.integers(1, 9))
@settings(max_examples=40)
def test_wait_keeps_every_item_in_order(items, capacity):
    channel = Channel("c", capacity)

    def produce():
        for item in items:
            channel.put(item)
        channel.end()

    peer = in_thread(produce)
    got = list(channel)
    peer.join()
    assert got == items
    stats = channel.stats()
    assert (stats.puts, stats.gets, stats.dropped) == (len(items), len(items), {})
    assert stats.max_fill <= capacity


def test_put_blocks_when_full_until_there_is_room():
    channel = Channel("c", 1)
    channel.put("first")
    about_to_put, done = threading.Event(), threading.Event()

    def produce():
        about_to_put.set()
        channel.put("second")
        done.set()

    peer = in_thread(produce)
    about_to_put.wait()
    assert channel.stats().puts == 1
    assert not done.is_set()
    assert channel.get() == "first"
    peer.join()
    assert done.is_set()
    assert channel.get() == "second"


def test_items_left_at_the_end_can_still_be_taken():
    channel = Channel("c", 3)
    channel.put(1)
    channel.put(2)
    channel.end()
    assert [channel.get(), channel.get()] == [1, 2]
    for _ in range(2):
        with pytest.raises(EndOfStream):
            channel.get()


def test_end_wakes_a_waiting_consumer():
    channel = Channel("c", 1)
    peer = in_thread(channel.end)
    with pytest.raises(EndOfStream):
        channel.get()
    peer.join()


@pytest.mark.parametrize("policy", ["wait", "drop_oldest"])
def test_cancel_is_for_good_and_throws_items_away(policy):
    channel = Channel("c", 2, policy)
    channel.put(1)
    channel.end()
    channel.cancel()
    with pytest.raises(Cancelled):
        channel.get()
    other = Channel("c", 2, policy)
    other.cancel()
    with pytest.raises(Cancelled):
        other.put(1)


def test_cancel_wakes_waiting_producer_and_consumer():
    full, empty = Channel("full", 1), Channel("empty", 1)
    full.put(0)
    outcomes = []

    def expect_cancelled(call):
        with pytest.raises(Cancelled):
            call()
        outcomes.append("cancelled")

    peers = [in_thread(lambda: expect_cancelled(lambda: full.put(1))), in_thread(lambda: expect_cancelled(empty.get))]
    full.cancel()
    empty.cancel()
    for peer in peers:
        peer.join()
    assert outcomes == ["cancelled"] * 2


@pytest.mark.parametrize("raises", [True, False])
def test_a_signal_reaches_the_main_thread_while_it_waits(raises, monkeypatch):
    """The default Ctrl-C raises in get(); a handler may cancel the very channel its thread waits on."""
    channel = Channel("c", 1)
    waiting = threading.Event()
    wait = channel._changed.wait
    monkeypatch.setattr(channel._changed, "wait", lambda timeout: (waiting.set(), wait(timeout)))

    def press_ctrl_c():
        waiting.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    handler = signal.default_int_handler if raises else lambda *_: channel.cancel()
    before = signal.signal(signal.SIGINT, handler)
    try:
        peer = in_thread(press_ctrl_c)
        with pytest.raises(KeyboardInterrupt if raises else Cancelled):
            channel.get()
        peer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    if raises:
        in_thread(lambda: channel.put(1)).join()  # the lock was given back
        assert channel.get() == 1


# Dropping channels


@given(count=st.integers(0, 40), capacity=st.integers(1, 5))
def test_drop_oldest_keeps_the_newest_and_counts(count, capacity):
    channel = Channel("c", capacity, "drop_oldest")
    for item in range(count):
        channel.put(item)
    channel.end()
    assert list(channel) == list(range(count))[-capacity:]
    dropped = max(0, count - capacity)
    assert channel.stats().dropped == ({SLOW_CONSUMER: dropped} if dropped else {})
    assert channel.stats().puts == count


@given(takes=st.lists(st.booleans(), max_size=60), capacity=st.integers(1, 4))
def test_fold_carries_what_was_dropped(takes, capacity):
    """Items are (number, drops before it), as a frame is; kept and counted items account for every put."""
    channel = Channel("c", capacity, "drop_oldest", lambda old, new: (new[0], new[1] + old[1] + 1))
    got, waiting = [], 0
    for number, take in enumerate(takes):
        channel.put((number, 0))
        waiting = min(capacity, waiting + 1)
        if take:
            got.append(channel.get())
            waiting -= 1
    channel.end()
    got += list(channel)
    numbers = [number for number, _ in got]
    gaps = [b - a - 1 for a, b in zip([-1, *numbers], numbers, strict=False)]
    assert [drops for _, drops in got] == gaps
    assert sum(gaps) == sum(channel.stats().dropped.values())


@pytest.mark.parametrize(("capacity", "policy"), [(0, "wait"), (-1, "wait"), (1, "newest")])
def test_bad_definitions_are_refused(capacity, policy):
    with pytest.raises(ConfigError, match="accepted"):
        Channel("c", capacity, policy)


# Figures


def test_channel_weighs_its_fill_by_time(clock):
    channel = Channel("c", 4)
    channel.put("a")
    clock.now_s += 1  # one item for 1 s
    channel.put("b")
    clock.now_s += 3  # two for 3 s
    channel.get()
    channel.get()
    stats = channel.stats()
    assert stats.mean_fill == pytest.approx((1 * 1 + 2 * 3) / 4)
    assert (stats.max_fill, stats.put_wait_s, stats.get_wait_s) == (2, 0, 0)


def test_channel_measures_who_waited(clock, monkeypatch):
    channel = Channel("c", 1)

    def wait_2_s(timeout, peer):
        clock.now_s += 2
        peer()

    monkeypatch.setattr(channel._changed, "wait", lambda t: wait_2_s(t, lambda: channel.put("late")))
    assert channel.get() == "late"
    channel.put("x")
    monkeypatch.setattr(channel._changed, "wait", lambda t: wait_2_s(t, channel.get))
    channel.put("y")
    stats = channel.stats()
    assert (stats.get_wait_s, stats.put_wait_s) == (2, 2)


durations_s = st.lists(st.floats(1e-6, 9e3), min_size=1, max_size=200)


@given(values=durations_s, q=st.integers(0, 100))
def test_percentiles_are_within_three_percent(values, q):
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    exact = np.sort(values)[max(1, math.ceil(q * len(values) / 100)) - 1]
    assert histogram.percentile(q) == pytest.approx(exact, rel=0.03)
    if q % 25 == 0:  # where q / 100 has no rounding of its own in numpy
        assert histogram.percentile(q) == pytest.approx(np.percentile(values, q, method="inverted_cdf"), rel=0.03)
    assert histogram.count == len(values)
    assert histogram.mean == pytest.approx(np.mean(values))
    assert histogram.max == max(values)


@pytest.mark.parametrize("q", [50, 95, 99])
def test_percentiles_of_many_durations_match_numpy(q):
    values = np.random.default_rng(7).lognormal(mean=-4, sigma=1.5, size=20_000)
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    assert histogram.percentile(q) == pytest.approx(np.percentile(values, q), rel=0.03)


@given(a=durations_s, b=durations_s)
def test_merged_histograms_equal_one_of_all(a, b):
    left, right, both = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    for value in a:
        left.add(value)
        both.add(value)
    for value in b:
        right.add(value)
        both.add(value)
    left.merge(right)
    assert (left.count, left.max) == (both.count, both.max)
    assert left.mean == pytest.approx(both.mean)
    assert [left.percentile(q) for q in (0, 50, 99, 100)] == [both.percentile(q) for q in (0, 50, 99, 100)]


def test_histogram_ends():
    histogram = LatencyHistogram()
    assert (histogram.percentile(50), histogram.mean, histogram.max, histogram.count) == (0, 0, 0, 0)
    histogram.add(0.0)
    assert histogram.percentile(50) == 0
    histogram.add(5e5)
    assert histogram.percentile(100) == 5e5


def test_meter_leaves_out_the_time_between_outputs(clock):
    def two_outputs():
        clock.now_s += 1
        yield "a"
        clock.now_s += 2
        yield "b"

    meter = StageMeter("m")
    for _ in meter.outputs(two_outputs):
        clock.now_s += 100  # whoever takes them
    stats = meter.snapshot()
    assert (stats.busy_s, stats.items_out) == (3, 2)
    assert stats.p50_ms == pytest.approx(3000, rel=0.03)
    for _ in meter.outputs(two_outputs, sample=False):
        pass
    assert meter.busy_s == 6
    assert meter.latency.count == 1


@pytest.mark.parametrize(
    ("busy", "live", "bottleneck"),
    [
        ((5, 2, 1, 0), False, "capture"),
        ((5, 2, 1, 0), True, "detect"),
        ((5, 2, 3, 0), True, "pose"),
        ((1, 2, 3, 4), False, "caller"),
        ((0, 0, 0, 0), False, None),
    ],
)
def test_summary_names_the_bottleneck(busy, live, bottleneck):
    meters = [StageMeter(name, busy_s=b) for name, b in zip(("capture", "detect", "pose", "caller"), busy, strict=True)]
    rows = [meter.snapshot() for meter in meters]
    summary = PipelineStats(10.0, live, tuple(rows[:-1]), (), rows[-1]).summary()
    assert summary["bottleneck"] == bottleneck
    assert [row["busy_share"] for row in (*summary["stages"], summary["caller"])] == [b / 10 for b in busy]


# Made for when it is taken


def taken(channel: Channel[int], clock: Clock, at_s: float) -> int:
    clock.now_s = 100 + at_s
    return channel.get()


def early_s(channel: Channel[int], clock: Clock, at_s: float, lead_s: float = 0.02) -> float:
    """How long a producer waits at that time before it makes an item, which takes it `lead_s`."""
    clock.now_s = 100 + at_s
    return max(0.0, channel._early_s(lead_s))


def test_an_item_is_made_for_when_its_consumer_is_free(clock):
    channel: Channel[int] = Channel("c", 1, "drop_oldest")
    assert channel.drops
    assert early_s(channel, clock, 0.0) == 0  # none was made yet
    for number, at_s in enumerate((0.0, 0.1, 0.3, 0.4, 0.5)):
        channel.put(number)
        assert taken(channel, clock, at_s) == number
    # The last three took 0.2, 0.1 and 0.1 s: a little earlier than the next ends an item has to be ready.
    assert early_s(channel, clock, 0.5) == pytest.approx(0.09 - 0.02)
    assert early_s(channel, clock, 0.5, lead_s=0.2) == 0
    assert early_s(channel, clock, 0.58) == 0
    channel.put(5)  # and the consumer is later than that: another one now and then
    assert early_s(channel, clock, 0.6) == pytest.approx(0.08)
    assert early_s(channel, clock, 0.69) == 0


def test_where_none_is_dropped_the_next_item_is_made_when_the_last_one_was_taken(clock):
    channel: Channel[int] = Channel("c", 1)
    for number, at_s in enumerate((0.0, 0.1, 0.2)):
        channel.put(number)
        assert taken(channel, clock, at_s) == number
    assert early_s(channel, clock, 0.2) == pytest.approx(0.09 - 0.02)
    channel.put(3)
    assert early_s(channel, clock, 9.0) > 0  # it would wait behind the other
    assert taken(channel, clock, 9.1) == 3
    assert early_s(channel, clock, 9.2) == 0


def test_who_waits_for_an_item_gets_one_at_once(clock):
    channel: Channel[int] = Channel("c", 1, "drop_oldest")
    for number in range(3):
        channel.put(number)
        channel.get()
        clock.now_s += 9.0
    got: list[int] = []
    thread = in_thread(lambda: got.append(channel.get()))
    channel.wait_until_wanted(1.0)  # although the last items took 9 s
    channel.put(3)
    thread.join()
    assert got == [3]


def test_waiting_to_be_wanted_is_cancelled(clock):
    channel: Channel[int] = Channel("c", 1, "drop_oldest")
    channel.put(0)
    thread = in_thread(channel.cancel)
    with pytest.raises(Cancelled):
        channel.wait_until_wanted(1e9)
    thread.join()


def test_a_signal_that_cancels_within_a_get_cancels_it(monkeypatch):
    """The handler runs in the thread that takes, which has the lock already."""
    channel: Channel[int] = Channel("c", 1, "wait")
    channel.put(0)
    monkeypatch.setattr(channel, "_weigh_fill", channel.cancel)
    with pytest.raises(Cancelled):
        channel.get()
