"""What a run counts of itself while it goes on."""

from __future__ import annotations

import tracemalloc
from collections import deque

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


def test_what_has_stopped_has_no_frame_rate() -> None:
    totals = RunTotals(live=True)
    totals.add(packet(0, people=2))
    (last_s,) = totals.left_s
    for ago_s, line in ((0, "0.2 fps | 2 people | "), (20, "0.2 fps | 2 people | "), (200, "0.0 fps | 0 people | ")):
        totals.left_s = deque(last_s - ago_s - 5 * n for n in range(20, -1, -1))  # a slow one, over 100 s
        assert totals.status_line().startswith(line)
