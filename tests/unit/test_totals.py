"""What a run counts of itself while it goes on."""

from __future__ import annotations

import tracemalloc
from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import pytest
from live_world import packet

from sharpose_rt.stages import RunTotals
from sharpose_rt.stages.write import Ids


def test_ids_are_counted_each_once() -> None:
    ids = Ids()
    for some in ([0], [1, 2, 1023, 1024, 1025], [2, 3, 1024], [], [1 << 40, -7], [-7, 1 << 40]):
        ids.update(some)
    assert len(ids) == 8


def test_a_great_many_ids_take_little_memory() -> None:
    """A byte for each at most, what little there is of the table itself included."""
    ids = Ids()
    tracemalloc.start()
    try:
        for first in range(1, 200_001, 10):
            ids.update(range(first, first + 10))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids) == 200_000
    assert taken < 200_000  # bytes


def test_a_run_tells_whom_it_saw_and_how_they_were_found(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [100.0]
    monkeypatch.setattr("sharpose_rt.stages.write.time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    totals = RunTotals(live=True)
    assert totals.status_line() == "0.0 fps | 0 people"
    for people, dropped, lost_s, late_s in ((4, 0, 0.0, 0.02), (1, 2, 0.0, -0.5), (5, 3, 1.5, 0.06), (0, 0, 0.0, 0.04)):
        seen = packet(totals.frames, people)  # one after another coarse, fine, predicted
        how = {"dropped_before": dropped, "lost_before_s": lost_s, "captured_at_s": clock_s[0] - late_s}
        totals.add(replace(seen, frame=replace(seen.frame, **how)))
        clock_s[0] += 0.5
    assert (totals.frames, totals.dropped, totals.losses) == (4, 5, 1)
    assert (totals.people, totals.most_people, totals.people_now, len(totals.ids)) == (10, 5, 0, 5)
    assert (totals.coarse, totals.fine, totals.predicted) == (5, 3, 2)
    assert totals.status_line() == "2.0 fps | 0 people | exit 62 % | 40 ms, p95 60 ms | 5 dropped"
    assert sorted(totals.late_s) == pytest.approx([0, 0.02, 0.04, 0.06])  # none comes before it was captured
    totals.two_stages = False
    assert totals.exit_rate is None


def test_what_has_stopped_has_no_frame_rate() -> None:
    totals = RunTotals(live=True)
    totals.add(packet(0, people=2))
    (last_s,) = totals.left_s
    for ago_s, line in ((0, "0.2 fps | 2 people | "), (20, "0.2 fps | 2 people | "), (200, "0.0 fps | 0 people | ")):
        totals.left_s = deque(last_s - ago_s - 5 * n for n in range(20, -1, -1))  # a slow one, over 100 s
        assert totals.status_line().startswith(line)
