"""Pipelines: order, failures at every place, leaving early, Ctrl-C, stopping, live sources, chains, figures."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from statistics import median
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpose_rt.runtime import SLOW_CONSUMER, BaseStage, Chain, Pipeline
from sharpose_rt.runtime import pipeline as pipeline_module

pytestmark = pytest.mark.timeout(30)

COUNT = 40


class Boom(Exception):
    """What the tests make fail."""


class Numbers:
    """A source of `count` numbers (None: without end) that records its calls and fails where told."""

    name = "numbers"

    def __init__(self, count: int | None = COUNT, fail: dict[str, BaseException] | None = None) -> None:
        self.count = count
        self.fail = fail or {}
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.next = 0
        self.interrupted = threading.Event()

    def _called(self, what: str) -> None:
        self.calls.append(what)
        self.threads.add(threading.current_thread().name)
        if what in self.fail:
            raise self.fail[what]

    def open(self) -> None:
        self._called("open")

    def read(self) -> int | None:
        if self.next == 3:
            self._called("read")
        if self.next == self.count or self.interrupted.is_set():
            return None
        self.next += 1
        return self.next - 1

    def interrupt(self) -> None:
        self.interrupted.set()
        if "interrupt" in self.fail:
            raise self.fail["interrupt"]

    def close(self) -> None:
        self._called("close")


class BlockedAfter(Numbers):
    """Gives `count` numbers and then blocks until it is interrupted, which it reports by raising."""

    def read(self) -> int | None:
        if self.next == self.count:
            self.interrupted.wait()
            raise OSError("read was interrupted")
        return super().read()


class Probe(BaseStage[int, int]):
    """Adds `step`, records its calls, fails where told, and may do something for each item."""

    def __init__(
        self,
        name: str,
        step: int = 0,
        fail: dict[str, BaseException] | None = None,
        hold: bool = False,
        on_item: Callable[[int], object] = lambda item: None,
    ) -> None:
        self.name = name
        self.step = step
        self.fail = fail or {}
        self.hold = hold
        self.on_item = on_item
        self.held: list[int] = []
        self.seen = 0
        self.opens = 0
        self.flushes = 0
        self.statuses: list[str] = []
        self.threads: set[str] = set()

    def _called(self, what: str) -> None:
        self.threads.add(threading.current_thread().name)
        if what in self.fail:
            raise self.fail[what]

    def open(self) -> None:
        self.opens += 1
        self._called("open")

    def process(self, item: int) -> list[int]:
        self.seen += 1
        self.on_item(item)
        if item == 3:
            self._called("process")
        if self.hold:
            self.held.append(item + self.step)
            return []
        return [item + self.step]

    def flush(self) -> list[int]:
        self.flushes += 1
        self._called("flush")
        return self.held

    def close(self, status: str) -> None:
        self.statuses.append(status)
        self._called("close")


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def assert_closed_once(source: Numbers, stages: list[Probe], status: str) -> None:
    assert source.calls.count("close") == source.calls.count("open") == 1
    assert [stage.statuses for stage in stages] == [[status]] * len(stages)


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


# In order


@given(
    delays_ms=st.lists(st.lists(st.floats(0, 0.5), min_size=1, max_size=5), min_size=1, max_size=4),
    count=st.integers(0, 25),
    capacity=st.integers(1, 4),
)
@settings(max_examples=25)
def test_order_is_kept_and_nothing_lost_whatever_the_timing(delays_ms, count, capacity):
    def jitter(delays: list[float]) -> Callable[[int], None]:
        return lambda item: time.sleep(delays[item % len(delays)] / 1e3)

    stages = [Probe(f"s{i}", on_item=jitter(d)) for i, d in enumerate(delays_ms)]
    source = Numbers(count)
    pipeline = Pipeline(source, stages, capacity)
    assert list(pipeline.run()) == list(range(count))
    assert_closed_once(source, stages, "complete")
    assert pipeline.status == "complete"
    assert pipeline.stats().dropped == {}


def test_stages_without_any_and_with_several_outputs():
    class Spread(BaseStage[int, int]):
        name = "spread"

        def process(self, item: int) -> Iterator[int]:
            for _ in range(item):
                yield item

    assert list(Pipeline(Numbers(4), [Spread()]).run()) == [1, 2, 2, 3, 3, 3]
    assert list(Pipeline(Numbers(4), []).run()) == [0, 1, 2, 3]


def test_flushed_items_go_through_the_stages_that_follow():
    stages = [Probe("a", step=100, hold=True), Probe("b", step=1000)]
    assert list(Pipeline(Numbers(3), stages, capacity=1).run()) == [1100, 1101, 1102]


def test_each_is_opened_used_and_closed_in_its_own_named_thread():
    source = Numbers(5, fail={})
    stages = [Probe("a"), Probe("b")]
    list(Pipeline(source, stages).run())
    assert [source.threads, *(stage.threads for stage in stages)] == [{"capture"}, {"a"}, {"b"}]


def test_source_opens_first_and_is_read_when_all_stages_are_open():
    order = []

    class Logged(Numbers):
        def open(self) -> None:
            order.append("source")

        def read(self) -> int | None:
            order.append("read")
            return super().read()

    class Opening(BaseStage[int, int]):
        def __init__(self, name: str) -> None:
            self.name = name

        def open(self) -> None:
            meet.wait()  # all stages open at once, or this never ends
            order.append("stage")

    meet = threading.Barrier(3)
    list(Pipeline(Logged(1), [Opening(name) for name in "abc"]).run())
    assert order == ["source", "stage", "stage", "stage", "read", "read"]


def test_a_pipeline_runs_once():
    pipeline = Pipeline(Numbers(1), [])
    list(pipeline.run())
    with pytest.raises(RuntimeError, match="has already run"):
        pipeline.run()


# Failures


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("error_type", [Boom, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["open", "read", "close"])
def test_failing_source(place, error_type, live):
    boom = error_type("source")
    source, stages = Numbers(fail={place: boom}), [Probe("a"), Probe("b")]
    pipeline = Pipeline(source, stages, capacity=1, live=live)
    with pytest.raises(error_type) as caught:
        list(pipeline.run())
    assert caught.value is boom
    assert "in 'capture'" in notes(boom)
    assert pipeline.status == "error"
    assert source.calls.count("close") == 1
    assert [stage.statuses for stage in stages] == ([[], []] if place == "open" else [["error"], ["error"]])


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("place", ["open", "process", "flush", "close"])
def test_failing_stage(place, at, live):
    boom = Boom("stage")
    source = Numbers()
    stages = [Probe(name, fail={place: boom} if i == at else None) for i, name in enumerate("abc")]
    if live:  # so paced that nothing is dropped: process() fails at a certain item
        taken = threading.Semaphore(1)
        stages[1].on_item = lambda item: taken.release()
        read = source.read
        source.read = lambda: (taken.acquire(), read())[1]  # type: ignore[method-assign]
        source.interrupt = taken.release  # type: ignore[method-assign]
    pipeline = Pipeline(source, stages, capacity=1, live=live)
    with pytest.raises(Boom) as caught:
        list(pipeline.run())
    assert caught.value is boom
    assert f"in '{'abc'[at]}', {place}()" in notes(boom)
    assert pipeline.status == "error"
    assert source.calls.count("close") == 1
    assert [len(stage.statuses) for stage in stages] == [stage.opens for stage in stages]
    if place == "open":
        assert source.next == 0
        assert {s for stage in stages for s in stage.statuses} == {"error"}
    elif place == "close":  # stages close in order
        assert [stage.statuses[0] for stage in stages] == ["complete"] * (at + 1) + ["error"] * (2 - at)
    else:
        assert_closed_once(source, stages, "error")


@pytest.mark.parametrize("at", [None, 0, 1])
def test_what_came_out_before_a_failure_is_finished(at):
    """A damaged frame in a file costs that frame and what follows it, not those that were on their way."""
    boom = Boom("damaged")
    gate = threading.Event()
    source = Numbers(fail={"read": boom} if at is None else None)
    stages = [
        Probe("a", fail={"process": boom} if at == 0 else None),
        Probe("b", fail={"process": boom} if at == 1 else None),
        Probe("c", hold=True, on_item=lambda item: gate.wait() if item == 0 else None),
    ]
    pipeline = Pipeline(source, stages)

    def open_gate() -> None:
        while not pipeline._failures:
            time.sleep(0.001)
        gate.set()

    items: list[int] = []
    opener = threading.Thread(target=open_gate)
    opener.start()
    with pytest.raises(Boom):
        items.extend(pipeline.run())  # keeps what came before the failure
    opener.join()
    assert items == [0, 1, 2]
    assert stages[2].flushes == 1
    assert_closed_once(source, stages, "error")


def test_the_note_names_the_item():
    boom = Boom("bad item")
    with pytest.raises(Boom):
        list(Pipeline(Numbers(), [Probe("a"), Probe("b", fail={"process": boom})]).run())
    assert boom.__notes__ == ["in 'b', process() of 3"]


def test_failing_fold_is_a_failure_of_the_source():
    boom = Boom("fold")

    def fold(dropped: int, following: int) -> int:
        raise boom

    started, released = threading.Event(), threading.Event()

    class Paced(Numbers):
        def read(self) -> int | None:
            if self.next == 1:
                started.wait()
            return super().read()

        def close(self) -> None:
            released.set()
            super().close()

    stage = Probe("a", on_item=lambda item: (started.set(), released.wait()))
    with pytest.raises(Boom) as caught:
        list(Pipeline(Paced(), [stage], live=True, fold=fold).run())
    assert caught.value is boom
    assert stage.statuses == ["error"]


def test_later_failures_ride_along_as_notes():
    first, second = Boom("first"), OSError("disk full")
    stages = [Probe("a"), Probe("b", fail={"process": first}), Probe("c", fail={"close": second})]
    with pytest.raises(Boom) as caught:
        list(Pipeline(Numbers(), stages).run())
    assert caught.value is first
    assert "then failed: OSError: disk full (in 'c', close())" in notes(first)


def test_a_generator_that_is_cut_off_unwinds_before_its_stage_closes():
    order = []

    class Endless(BaseStage[int, int]):
        name = "endless"

        def process(self, item: int) -> Iterator[int]:
            try:
                while True:
                    yield item
            finally:
                order.append("unwound")

        def close(self, status: str) -> None:
            order.append(status)

    with closing(Pipeline(Numbers(), [Endless()]).run()) as items:
        assert next(items) == 0
    assert order == ["unwound", "interrupted"]


# Leaving early


def test_break_stops_everything_silently():
    source, stages = BlockedAfter(5), [Probe("a"), Probe("b")]
    for item in Pipeline(source, stages, capacity=1).run():
        if item == 4:  # the source blocks now
            break
    assert_closed_once(source, stages, "interrupted")
    assert [stage.flushes for stage in stages] == [0, 0]


def test_an_exception_in_the_callers_loop_stops_everything():
    source, stages = Numbers(None), [Probe("a"), Probe("b")]

    def divide() -> None:
        for item in Pipeline(source, stages, capacity=2).run():
            1 / item

    with pytest.raises(ZeroDivisionError):
        divide()
    assert_closed_once(source, stages, "interrupted")


@pytest.mark.parametrize("place", ["a", "capture"])
def test_a_close_that_fails_after_leaving_early_is_raised(place):
    boom = Boom("close")
    source = Numbers(None, fail={"close": boom} if place == "capture" else None)
    stage = Probe("a", fail={"close": boom} if place == "a" else None)
    run = Pipeline(source, [stage]).run()
    next(run)
    with pytest.raises(Boom) as caught:
        run.close()
    assert caught.value is boom
    assert len(stage.statuses) == source.calls.count("close") == 1


def test_a_run_that_was_never_begun_opens_nothing():
    source, stage = Numbers(), Probe("a")
    Pipeline(source, [stage]).run().close()
    assert (source.calls, stage.opens) == ([], 0)


# Ctrl-C


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]


@pytest.fixture
def default_sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
def test_ctrl_c_while_waiting():
    source = BlockedAfter(5)
    stages = [Probe("a"), Probe("b", hold=True, on_item=lambda item: press_ctrl_c() if item == 4 else None)]
    pipeline = Pipeline(source, stages)
    with pytest.raises(KeyboardInterrupt):
        list(pipeline.run())
    assert_closed_once(source, stages, "interrupted")
    assert pipeline.status == "interrupted"


@pytest.mark.usefixtures("default_sigint")
def test_ctrl_c_while_threads_start(monkeypatch):
    source, stages = Numbers(None), [Probe("a"), Probe("b")]
    pipeline = Pipeline(source, stages)
    start = threading.Thread.start
    started = []

    def start_and_press(thread: threading.Thread) -> None:
        press_ctrl_c()
        start(thread)
        started.append(thread.name)

    monkeypatch.setattr(threading.Thread, "start", start_and_press)
    with pytest.raises(KeyboardInterrupt):
        list(pipeline.run())
    assert started == ["capture", "a", "b"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert source.calls.count("close") == source.calls.count("open")
    assert [len(stage.statuses) for stage in stages] == [stage.opens for stage in stages]


def test_a_thread_that_cannot_start_stops_the_others(monkeypatch):
    source, stages = Numbers(None), [Probe("a"), Probe("b")]
    start = threading.Thread.start

    def start_but_b(thread: threading.Thread) -> None:
        if thread.name == "b":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_but_b)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(Pipeline(source, stages).run())
    assert source.next == 0
    assert source.calls.count("close") == source.calls.count("open")


@pytest.mark.usefixtures("default_sigint")
def test_ctrl_c_while_files_are_closed_lets_them_close():
    cancelled = threading.Event()

    class Slow(Probe):
        def close(self, status: str) -> None:
            press_ctrl_c()
            cancelled.wait()
            super().close(status)

    source, stage = Numbers(3), Slow("a")
    pipeline = Pipeline(source, [stage])
    cancel = pipeline._cancel
    pipeline._cancel = lambda: (cancel(), cancelled.set())[0]  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        list(pipeline.run())
    assert stage.statuses == ["complete"]  # every item had gone through


@pytest.mark.usefixtures("default_sigint")
def test_ctrl_c_carries_failures_as_notes():
    source = BlockedAfter(2)
    stage = Probe("a", hold=True, fail={"close": OSError("disk full")})
    stage.on_item = lambda item: press_ctrl_c() if item == 1 else None
    with pytest.raises(KeyboardInterrupt) as caught:
        list(Pipeline(source, [stage]).run())
    assert "disk full" in notes(caught.value)
    assert stage.statuses == ["interrupted"]


def test_a_signal_handler_may_stop_and_everything_is_drained():
    source = BlockedAfter(5)
    stages = [Probe("a", hold=True), Probe("b")]
    stages[0].on_item = lambda item: press_ctrl_c() if item == 4 else None
    pipeline = Pipeline(source, stages)
    before = signal.signal(signal.SIGINT, lambda *_: pipeline.stop())
    try:
        assert list(pipeline.run()) == [0, 1, 2, 3, 4]
    finally:
        signal.signal(signal.SIGINT, before)
    assert_closed_once(source, stages, "interrupted")


# Stopping


@pytest.mark.parametrize("source_type", [Numbers, BlockedAfter])
def test_stop_drains_what_is_under_way(source_type):
    source = source_type(None if source_type is Numbers else 6)
    stages = [Probe("a"), Probe("b", hold=True), Probe("c")]
    pipeline = Pipeline(source, stages, capacity=2)
    stages[1].on_item = lambda item: pipeline.stop() if item == 5 else None
    assert list(pipeline.run()) == list(range(source.next))
    assert source.next >= 6
    assert [stage.flushes for stage in stages] == [1, 1, 1]
    assert_closed_once(source, stages, "interrupted")


def test_stopping_twice_throws_away_what_is_under_way():
    source, stages = Numbers(None), [Probe("a", hold=True), Probe("b")]
    pipeline = Pipeline(source, stages)
    stages[0].on_item = lambda item: (pipeline.stop(), pipeline.stop()) if item == 5 else None
    assert list(pipeline.run()) == []
    assert stages[0].flushes == 0
    assert_closed_once(source, stages, "interrupted")


def test_stopping_a_finished_source_changes_nothing():
    source, stage = Numbers(3), Probe("a")
    pipeline = Pipeline(source, [stage])
    closed = threading.Event()
    source.close = lambda: closed.set()  # type: ignore[method-assign]
    stage.on_item = lambda item: (closed.wait(), pipeline.stop())[1] if item == 2 else None
    assert list(pipeline.run()) == [0, 1, 2]
    assert stage.statuses == ["complete"]
    assert not source.interrupted.is_set()  # never after close()


def test_stop_before_the_run_opens_nothing():
    source, stage = Numbers(), Probe("a")
    pipeline = Pipeline(source, [stage])
    pipeline.stop()
    assert list(pipeline.run()) == []
    assert (source.calls, stage.opens, pipeline.status) == ([], 0, "interrupted")


@pytest.mark.parametrize("raises", [True, False])
def test_stop_while_the_source_opens(raises):
    class Unreachable(Numbers):
        def open(self) -> None:
            super().open()
            pipeline.stop()
            self.interrupted.wait()
            if raises:
                raise OSError("open was interrupted")

    source, stage = Unreachable(), Probe("a")
    pipeline = Pipeline(source, [stage])
    assert list(pipeline.run()) == []
    assert source.calls == ["open", "close"]
    assert (stage.opens, stage.statuses) == (0, [])
    assert pipeline.status == "interrupted"


def test_an_interrupt_that_fails_is_raised():
    boom = Boom("interrupt")
    source, stage = Numbers(None, fail={"interrupt": boom}), Probe("a")
    pipeline = Pipeline(source, [stage])
    stage.on_item = lambda item: pipeline.stop() if item == 2 else None
    with pytest.raises(Boom) as caught:
        list(pipeline.run())
    assert caught.value is boom
    assert_closed_once(source, [stage], "error")


# Live


def test_live_keeps_the_newest_and_counts_what_it_dropped():
    """The stage is busy with the first item until the source has given its last."""
    busy, exhausted = threading.Event(), threading.Event()

    class Camera(Numbers):
        def read(self) -> tuple[int, int] | None:  # type: ignore[override]
            if self.next == 1:
                busy.wait()
            number = super().read()
            if number is None:
                exhausted.set()
            return None if number is None else (number, 0)

    stage = Probe("a", on_item=lambda item: (busy.set(), exhausted.wait()))
    stage.process = lambda item: (stage.on_item(item), [item])[1]  # type: ignore[method-assign]
    pipeline = Pipeline(Camera(10), [stage], live=True, fold=lambda old, new: (new[0], new[1] + old[1] + 1))
    assert list(pipeline.run()) == [(0, 0), (9, 8)]
    stats = pipeline.stats()
    assert stats.dropped == {SLOW_CONSUMER: 8}
    assert stats.channels[0].dropped == {SLOW_CONSUMER: 8}
    assert [channel.capacity for channel in stats.channels] == [1, 1]
    assert stage.statuses == ["complete"]


def test_a_slow_second_stage_takes_a_fresh_item_and_what_it_made_is_kept():
    """The second stage is busy with the first item until the first stage has made its last."""
    busy, made = threading.Event(), threading.Event()
    source, first, second, third = Numbers(10), Probe("a"), Probe("b"), Probe("c")
    read = source.read
    source.read = lambda: (busy.wait() if source.next == 1 else None, read())[1]  # type: ignore[method-assign]
    first.flush = lambda: (made.set(), [])[1]  # type: ignore[method-assign]
    second.process = lambda item: (busy.set(), made.wait(), [item])[2]  # type: ignore[method-assign]
    pipeline = Pipeline(source, [first, second, third], live=True)
    found = list(pipeline.run())
    assert (found[0], found[-1]) == (0, 9)
    stats = pipeline.stats()
    assert len(found) == 2
    assert stats.dropped == {SLOW_CONSUMER: 8}
    assert stats.channels[2].dropped == stats.channels[3].dropped == {}


def test_little_is_made_for_a_slow_second_stage_that_it_would_not_take():
    source = Numbers(100)
    first, second = (Probe(name, on_item=lambda _, s=s: time.sleep(s)) for name, s in (("a", 0.004), ("b", 0.04)))
    read = source.read
    source.read = lambda: (time.sleep(0.004), read())[1]  # type: ignore[method-assign]
    pipeline = Pipeline(source, [first, second], live=True)
    taken = len(list(pipeline.run()))
    made = pipeline.stats().stages[1].items_in
    assert taken <= made < 50  # of 100, most of which came while the second was busy


@pytest.mark.parametrize("busy_s", [(0.001, 0.06, 0.0), (0.001, 0.002, 0.06)], ids=["last stage", "caller"])
def test_nothing_grows_old_before_whoever_is_slow(busy_s):
    """Ten numbers come in the time of one that is taken; three such times went by while they waited in line."""
    *rest, caller_s = busy_s
    source, first = Numbers(120), Probe("first")
    stages = [Probe(f"stage {s}", on_item=lambda _, s=s: time.sleep(s)) for s in sorted(rest)]
    read, late = source.read, []
    source.read = lambda: (time.sleep(0.006), read())[1]  # type: ignore[method-assign]
    for item in Pipeline(source, [first, *stages], live=True).run():
        late.append(source.next - item)
        time.sleep(caller_s)
    assert median(late) < 25


# Chains


def test_a_chain_finishes_an_item_before_the_next_and_flushes_in_order():
    order: list[tuple[str, int]] = []
    first = Probe("first", step=10, hold=True, on_item=lambda item: order.append(("first", item)))
    second = Probe("second", step=100, on_item=lambda item: order.append(("second", item)))
    third = Probe("third", step=1000, hold=True)
    assert list(Pipeline(Numbers(3), [Chain("chain", [first, second, third])]).run()) == [1110, 1111, 1112]
    assert order == [("first", 0), ("first", 1), ("first", 2), ("second", 10), ("second", 11), ("second", 12)]

    order.clear()
    first.hold = False
    chain = Chain("chain", [first, second])
    outputs = [list(chain.process(item)) for item in (0, 1)]
    assert outputs == [[110], [111]]
    assert order == [("first", 0), ("second", 10), ("first", 1), ("second", 11)]


@pytest.mark.parametrize("place", ["open", "process", "flush", "close"])
def test_failing_part_of_a_chain(place):
    boom, later = Boom("part"), OSError("disk full")
    parts = [Probe("x"), Probe("y", fail={place: boom}), Probe("z", fail={"close": later})]
    source, other = Numbers(), Probe("other")
    with pytest.raises(Boom) as caught:
        list(Pipeline(source, [Chain("chain", parts), other]).run())
    assert caught.value is boom
    assert "in 'y', a part of 'chain'" in notes(boom)
    assert notes(boom).count("a part of 'chain'") == (1 if place in ("open", "close") else 2)
    assert [len(part.statuses) for part in parts] == [part.opens for part in parts]
    assert [part.opens for part in parts] == ([1, 1, 0] if place == "open" else [1, 1, 1])
    if place != "open":
        assert "disk full" in notes(boom)
        assert parts[2].statuses == ["error"]
    assert source.calls.count("close") == 1


# Figures


def test_stats_count_items_and_are_plain_data():
    chain = Chain("chain", [Probe("x"), Probe("y", hold=True)])
    pipeline = Pipeline(Numbers(7), [Probe("a"), chain])
    assert pipeline.stats().summary()["bottleneck"] is None
    assert len(list(pipeline.run())) == 7
    stats = pipeline.stats()
    assert [(s.name, s.items_in, s.items_out) for s in (*stats.stages, stats.caller)] == [
        ("capture", 0, 7),
        ("a", 7, 7),
        ("chain", 7, 7),
        ("caller", 7, 0),
    ]
    assert [(part.name, part.items_in, part.items_out) for part in stats.stages[2].parts] == [("x", 7, 7), ("y", 7, 7)]
    assert [(c.name, c.puts, c.gets) for c in stats.channels] == [
        ("capture -> a", 7, 7),
        ("a -> chain", 7, 7),
        ("chain -> caller", 7, 7),
    ]
    assert stats.elapsed_s == pipeline.stats().elapsed_s > 0  # the clock has stopped
    summary = json.loads(json.dumps(stats.summary()))
    assert summary["bottleneck"] in {"capture", "a", "chain", "caller"}
    assert all(0 <= row["busy_share"] <= 1 for row in summary["stages"])


@pytest.mark.parametrize(
    ("took_s", "leads_s"),
    [
        ([3, 0.02, 0.02, 0.02], [3, 0.02, 0.02, 0.02]),  # the first one loads a graph
        ([0.02, 0.02, 1, 0.02, 0.02], [0.02] * 5),  # something held the machine up
        ([0.02, 0.2, 0.2, 0.2], [0.02, 0.02, 0.2, 0.2]),  # more people came
    ],
)
def test_one_slow_item_does_not_say_how_long_they_take(took_s, leads_s, monkeypatch):
    now_s, found = [0.0], []
    monkeypatch.setattr(pipeline_module, "clock", lambda: now_s[0])
    outlet = SimpleNamespace(drops=True, wait_until_wanted=found.append)
    for seconds in Pipeline._wanted(took_s, outlet):  # type: ignore[arg-type]
        now_s[0] += seconds
    assert found == pytest.approx(leads_s)
