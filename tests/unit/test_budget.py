"""The latency budget: what is given up in which order, that it is kept in a simulated pipeline, and who goes first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_clips import write_clip
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.config import BudgetConfig, SmoothConfig, load
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import ConfigError
from sharpose_rt.models import VARIANTS
from sharpose_rt.models.gate import Gate, Outlook
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import StreamReader, validate
from sharpose_rt.stages import EstimateStage, SmoothStage
from sharpose_rt.stages.budget import DETECT, LONGEST_PATIENCE, WINDOW, BudgetController, Plan, make_plan
from sharpose_rt.stages.needs import (
    CALM_S,
    CHANGED,
    LONGEST_CALM_S,
    PRESSED_EVERY,
    STEADY_S,
    Pace,
    People,
    Person,
    estimate_first,
    need,
    refine,
    refine_first,
)
from sharpose_rt.tracking import KeypointSmoother
from sharpose_rt.types import Detections, Frame, Packet, PoseStage, Tracks

PLAIN = [f"pose.model={SMALL.name}", "pose.weights=random", "pose.precision=fp32", "pose.backend=torch"]
QUALITIES = np.linspace(0.1, 0.95, 40)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)


# --- the plan


@given(st.floats(0, 4), st.floats(0, 4), st.sampled_from([math.inf, 0.8, -math.inf]), st.integers(1, 8))
def test_more_relief_never_gives_anything_back(a: float, b: float, threshold: float, every: int) -> None:
    less, more = (make_plan(relief, threshold, every, 30, QUALITIES) for relief in sorted((a, b)))
    assert more.refine_share <= less.refine_share
    assert more.quality_threshold <= less.quality_threshold <= threshold
    assert less.quality_threshold == threshold or min(a, b) > 1
    assert every <= less.detect_every <= more.detect_every <= 30
    assert more.estimate_share <= less.estimate_share


def test_what_is_given_up_comes_in_order() -> None:
    plans = [make_plan(relief, 0.9, 2, 30, QUALITIES) for relief in (0, 0.5, 1, 1.5, 2, 2.5, 3, 4)]
    assert plans[0] == Plan(0, 1.0, 0.9, 2, 1.0)
    assert [p.refine_share < 1 for p in plans] == [False] + [True] * 7
    assert [p.quality_threshold < 0.9 for p in plans] == [False] * 3 + [True] * 5
    assert plans[4].quality_threshold == -math.inf
    assert [p.detect_every > 2 for p in plans] == [False] * 5 + [True] * 3
    assert plans[6].detect_every == 30
    assert [p.estimate_share < 1 for p in plans] == [False] * 7 + [True]


def test_a_detector_that_runs_seldom_is_not_called_more_often() -> None:
    assert make_plan(3, math.inf, 50, 30, QUALITIES).detect_every == 50


# --- the controller


@dataclass
class Plant:
    """A live run in which each stage takes a stated time: frames that nobody takes are dropped."""

    people: int = 20
    detect_ms: float = 60.0
    coarse_ms: float = 4.0
    fine_ms: float = 8.0
    source_fps: float = 25.0
    now_s: float = 0.0
    since_detected: int = 10**9
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def frame(self, control: BudgetController | None, threshold: float) -> float:
        """Runs one frame and returns its latency in seconds."""
        plan = Plan(0, 1, threshold, 1, 1) if control is None else control.plan
        period_s, before_s = 1 / self.source_fps, self.now_s
        captured_s = math.floor(self.now_s / period_s + 1e-9) * period_s  # the newest one that is there
        if captured_s <= before_s - 1:
            captured_s += period_s
        self.since_detected += 1
        detects = self.since_detected >= plan.detect_every
        self.since_detected = 0 if detects else self.since_detected
        estimated = math.ceil(plan.estimate_share * self.people)
        quality = self.rng.uniform(0, 1, estimated).astype(np.float32)
        wanted = int((quality < plan.quality_threshold).sum())
        refined = wanted if plan.refine_share >= 1 else math.ceil(plan.refine_share * wanted)
        work_ms = detects * self.detect_ms + estimated * self.coarse_ms + refined * self.fine_ms
        out_s = captured_s + max(0.0, self.now_s - captured_s) + work_ms / 1e3
        dropped = max(0, math.floor((out_s - captured_s) / period_s) - 1)
        self.now_s = max(out_s, captured_s + period_s)
        if control is not None:
            control.saw(quality)
            control.observe(captured_s, out_s, dropped, refined)
        return out_s - captured_s


@dataclass
class Held:
    """A controller that sees a frame come out later than it would have."""

    control: BudgetController
    held_s: float

    def __getattr__(self, name: str) -> object:
        return getattr(self.control, name)

    def observe(self, captured_at_s: float, out_at_s: float, dropped_before: int, refined: int) -> None:
        self.control.observe(captured_at_s, out_at_s + self.held_s, dropped_before, refined)


def run(plant: Plant, control: BudgetController | None, frames: int, threshold: float = math.inf) -> np.ndarray:
    return np.array([plant.frame(control, threshold) for _ in range(frames)])


def controller(threshold: float = math.inf, *, predict: bool = True, **config: float) -> BudgetController:
    control = BudgetController(BudgetConfig(**config), 1, predict=predict)  # type: ignore[arg-type]
    control.begin(threshold)
    return control


@pytest.mark.parametrize("budget_ms", [280, 220, 160, 110])
def test_the_95th_percentile_is_kept_with_and_not_without(budget_ms: float) -> None:
    without = run(Plant(), None, 300)
    assert np.percentile(without, 95) > budget_ms / 1e3
    control = controller(latency_ms=budget_ms)
    kept = run(Plant(), control, 600)
    assert np.percentile(kept[60:], 95) <= budget_ms / 1e3
    summary = control.summary()
    assert summary["frames_within"] >= 0.9  # until it has settled some are late
    assert summary["changes"] > 0


def test_a_rate_is_meant_for_each_source_by_itself() -> None:
    """One camera of two is gone, or comes twice as fast: that the other is slower than both together says nothing."""
    for other_fps in (0, 7):
        control, events = controller(target_fps=10), []
        for source, fps in ((0, 14), (1, other_fps)):
            events += [(n / fps, source) for n in range(20 * fps)] if fps else []
        for out_s, source in sorted(events):
            control.observe(out_s - 0.05, out_s, source == 0, 1, source)  # the second drops nothing: it is slow itself
        assert control.plan.relief == 0
    slow = controller(target_fps=10)
    for n in range(100):
        slow.observe(n / 14, n / 14 + 0.05, 1, 1, n % 2)  # 7 frames a second of each, 14 of both
    assert slow.plan.relief > 0


@pytest.mark.parametrize("gap_s", [2, 30])
def test_a_pause_of_the_source_is_no_load(gap_s: float) -> None:
    """A camera of 45 frames a second, of which 15 are taken where 10 are wanted, stalls."""
    control = controller(target_fps=10)
    for n in range(200):
        out_s = n / 15 + (gap_s if n >= 100 else 0)
        control.observe(
            out_s - 0.06, out_s, 2, 1
        )  # what the network held back comes at once, and most of it is dropped
        assert control.plan.relief == 0


def test_no_more_is_given_up_than_is_needed() -> None:
    control = controller(latency_ms=280)
    run(Plant(), control, 600)
    assert control.plan.relief < 1
    assert control.plan.refine_share > 0.3
    assert control.plan.detect_every == 1
    roomy = controller(latency_ms=1000)
    run(Plant(), roomy, 100)
    assert roomy.plan == Plan(0, 1.0, math.inf, 1, 1.0)
    assert roomy.summary()["changes"] == 0


def test_all_is_given_back_when_the_crowd_has_gone() -> None:
    control, plant = controller(latency_ms=160), Plant()
    run(plant, control, 200)
    assert control.plan.relief > 1
    plant.people = 1
    run(plant, control, 1500)
    assert control.plan.relief == 0


def test_the_more_room_there_is_the_more_is_given_back_at_once() -> None:
    steps = []
    for share in (0.69, 0.35, 0.1):
        control, frames = controller(latency_ms=100), 0
        for taken, until in ((1.5, 2), (share, 0)):
            before = control.plan.relief
            while control.plan.relief < until if until else control.plan.relief == before:
                frames += 1
                control.observe(frames, frames + taken * 0.1, 0, 1)
        steps.append(before - control.plan.relief)
    assert steps == sorted(steps)
    assert steps[0] == pytest.approx(0.1, abs=0.01)
    assert steps[1] == pytest.approx(0.3, abs=0.01)
    assert steps[2] == pytest.approx(0.5)


def test_what_was_given_up_under_a_load_of_others_is_back_soon_after() -> None:
    control, plant = controller(latency_ms=100), Plant(people=2, detect_ms=12)
    run(plant, control, 100)
    assert control.plan.relief == 0
    busy = replace(plant, detect_ms=120, coarse_ms=40, fine_ms=80)  # ten times as slow
    run(busy, control, 200)
    assert control.plan.relief > 2.5
    plant.now_s = busy.now_s
    late = run(plant, control, 150) > 0.100
    assert control.plan.relief == 0
    assert late.mean() < 0.03


def test_the_threshold_goes_down_through_the_qualities_that_were_seen() -> None:
    control, plant = controller(latency_ms=160), Plant()
    while not 1 < control.plan.relief < 2:
        plant.frame(control, math.inf)
    share_above = control.plan.relief - 1  # of qualities that are even from 0 to 1
    assert control.plan.quality_threshold == pytest.approx(1 - share_above, abs=0.1)


def test_without_a_fine_stage_the_detector_gives_way_at_once() -> None:
    control, plant, late = controller(-math.inf, latency_ms=160), Plant(), np.empty(0)
    while not control.changes:
        late = np.append(late, run(plant, control, 1, -math.inf))
    assert control.plan.relief > DETECT  # the steps before it would have given nothing
    late = np.append(late, run(plant, control, 300, -math.inf))
    assert control.plan.relief > 2
    assert control.plan.estimate_share == 1
    assert np.percentile(late[60:], 95) <= 0.160
    assert (late > 0.160).sum() < 30


def test_people_are_predicted_only_where_the_smoother_does_so() -> None:
    for predict, least in ((True, 0.9), (False, 1.0)):
        control = controller(predict=predict, latency_ms=60)
        run(Plant(), control, 300)
        assert (control.plan.estimate_share < 1) == predict
        assert control.plan.estimate_share <= least
        assert control.plan.relief <= control.most


@pytest.mark.parametrize("fps", [4, 6, 10])
def test_a_rate_is_kept_where_the_source_gives_it(fps: float) -> None:
    control, plant = controller(target_fps=fps), Plant()
    run(plant, control, 300)
    began_s = plant.now_s
    run(plant, control, 300)
    assert 300 / (plant.now_s - began_s) >= 0.95 * fps
    slow_source = Plant(people=1, source_fps=5)
    relaxed = controller(target_fps=30)
    run(slow_source, relaxed, 100)
    assert relaxed.plan.relief == 0  # nothing would make a camera of 5 frames a second give 30


@pytest.mark.parametrize("fps", [3.8, 4])
def test_intervals_of_an_earlier_plan_do_not_give_up_more_for_a_rate(fps: float) -> None:
    control, plant = controller(target_fps=fps), Plant(people=2)
    run(plant, control, 100)
    plant.people = 20
    run(plant, control, 100)
    began_s = plant.now_s
    run(plant, control, 100)
    assert fps < 100 / (plant.now_s - began_s) < 1.25 * fps


def test_a_stop_of_the_world_is_not_answered_for_ever() -> None:
    control, plant = controller(latency_ms=400), Plant(people=2)
    run(plant, control, 100)
    for _ in range(3):  # three frames that some other program held up
        control.observe(plant.now_s, plant.now_s + 5, 100, 2)
        plant.now_s += 5
    assert control.plan.relief > 0
    run(plant, control, 400)
    assert control.plan.relief == 0


@pytest.mark.parametrize("people", [1, 20])
@pytest.mark.parametrize("hiccup_ms", [300, 1000])
def test_what_no_relief_would_mend_costs_nothing_while_the_95th_percentile_is_kept(people: int, hiccup_ms: int) -> None:
    """Two frames of a hundred are held up by another program."""
    control, plant, rng = controller(latency_ms=330), Plant(people), np.random.default_rng(5)
    quiet = controller(latency_ms=330)
    run(Plant(people), quiet, 2000)
    late, relief = [], []
    for _ in range(2000):
        held_s = hiccup_ms / 1e3 * (rng.random() < 0.02)
        late.append(plant.frame(Held(control, held_s), math.inf) + held_s > 0.330)  # type: ignore[arg-type]
        relief.append(control.plan.relief)
    assert 0.01 < np.mean(late) <= 0.05
    assert np.mean(relief) < quiet.plan.relief + 0.6


def test_a_budget_that_cannot_be_kept_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for budget_ms in (110, 20):
        control = controller(latency_ms=budget_ms)
        run(Plant(), control, 300)
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == (budget_ms == 20)
    assert said[0].startswith("the budget (--latency-budget-ms 20) cannot be kept here: even after all reductions")


def test_what_was_given_back_too_early_is_given_back_later_each_time() -> None:
    control, frames = controller(latency_ms=100), 0

    def took(load: float) -> None:
        nonlocal frames
        frames += 1
        control.observe(frames, frames + load * 0.1, 0, 1)

    def windows_until_given_back() -> int:
        relief, began = control.plan.relief, frames
        while control.plan.relief == relief:
            took(0.69)  # just enough room: by small steps
        assert control.plan.relief < relief
        return (frames - began) // WINDOW

    patience = []
    for _ in range(6):
        for _ in range(3):
            took(1.2)  # each time that something is given back frames are late again
        patience.append(windows_until_given_back())
    assert patience == [1, 2, 4, 8, 16, LONGEST_PATIENCE] == [1, 2, 4, 8, 16, 16]
    assert [windows_until_given_back() for _ in range(5)] == [8, 4, 2, 1, 1]  # all of it was kept


# --- who goes first


def tracks(centres: dict[int, float]) -> Tracks:
    boxes = np.array([[x - 10, 0, x + 10, 100] for x in centres.values()], np.float32).reshape(-1, 4)
    n = len(centres)
    return Tracks(boxes, np.ones(n, np.float32), np.array(list(centres), np.int64), np.ones(n, bool))


def test_need_grows_with_each_of_its_reasons() -> None:
    still, now = np.zeros(3), np.zeros(3)
    assert need(np.array([0.9, 0.2, np.nan]), still, now).argsort().tolist() == [0, 1, 2]
    assert need(np.full(3, 0.5), np.array([0, 0.5, 0.9]), now).argsort().tolist() == [0, 1, 2]
    assert need(np.full(3, 0.5), still, np.array([0, 1, 9.0])).argsort().tolist() == [0, 1, 2]


def test_who_surprises_is_refined_first_and_everybody_has_a_turn() -> None:
    known, plan = People(), Plan(0.5, 0.3, math.inf, 1, 1)
    quality, surprise = np.array([0.1, 0.9, 0.5, 0.9], np.float32), np.array([0.4, 0.0, 0.1, 0.0])
    turns = []
    for n in range(60):
        people = known.follow(tracks({1: 0, 2: 50, 3: 200, 4: 400}), n / 10)
        chosen = refine_first(people, unsure(quality), plan, Gate(), surprise)
        _estimated(people, quality, chosen)
        assert chosen.sum() == 2  # 0.3 of 4 people, rounded up
        turns.append(chosen)
    counts = np.sum(turns, 0)
    assert counts.min() >= 4  # also who is where they were expected
    assert counts[0] > counts[2] > counts[3]


def test_only_people_below_the_threshold_are_refined() -> None:
    people, new = People().follow(tracks({1: 0, 2: 50}), 0.0), np.ones(2)
    quality = np.array([0.9, 0.3], np.float32)
    assert refine_first(people, unsure(quality), Plan(0, 1, 0.5, 1, 1), Gate(), new).tolist() == [False, True]
    assert refine_first(people, unsure(quality), Plan(0.9, 0.2, 0.5, 1, 1), Gate(), new).tolist() == [False, True]
    assert not refine_first(people, unsure(quality), Plan(2, 0.1, -math.inf, 1, 1), Gate(), new).any()


def test_a_live_run_that_drops_frames_refines_in_turn_until_it_has_dropped_none_for_a_while() -> None:
    pace = Pace()

    def every(dropped: Sequence[float], until_s: float, begin_s: float) -> list[int]:
        """A frame each tenth of a second; before those of these times some were dropped."""
        times = [round(n / 10, 1) for n in range(round(10 * begin_s), round(10 * until_s))]
        return [pace.every(now_s in dropped, now_s) for now_s in times]

    assert set(every([0, 0.1], 5, 0)) == {1}  # a start
    pressed = every([5, 5.5, 6, 7], 30, 5)
    assert pressed == [1] * 10 + [PRESSED_EVERY] * round(10 * (1 + CALM_S)) + [1] * (240 - round(10 * (1 + CALM_S)))
    again = every([30, 30.1, 30.2], 60, 30)  # too early: it waits for twice as long
    assert again.count(PRESSED_EVERY) == round(10 * 2 * CALM_S)
    for begin_s in (100, 200, 400, 700, 1000):
        calm = every([begin_s, begin_s + 0.1, begin_s + 0.2], begin_s + 200, begin_s)
    assert calm.count(PRESSED_EVERY) == round(10 * LONGEST_CALM_S)


@pytest.mark.parametrize(("count", "every"), [(1, 3), (2, 3), (7, 3), (10, 4), (3, 1)])
def test_who_moves_as_expected_is_refined_every_nth_time_and_frames_take_alike(count: int, every: int) -> None:
    known, quality, calm = People(), np.full(count, 0.5, np.float32), np.zeros(count)
    turns = []
    for n in range(1 + 4 * every):
        people = known.follow(tracks({i: 50.0 * i for i in range(1, count + 1)}), n / 25)
        turns.append(refine(people, unsure(quality), Gate(), np.ones(count) if n == 0 else calm, every))
        _estimated(people, quality, turns[-1])
    assert turns[0].all()  # nothing is known of those who have just come
    first, *rest = (np.flatnonzero(column) for column in np.array(turns).T)
    for waits in (np.diff(first), *map(np.diff, rest)):
        assert len(waits) > 1
        assert waits.max() <= every
    at_once = np.sum(turns[1:], 1)
    assert at_once.min() >= count // every
    assert at_once.max() <= count // every + count % every
    surprised = calm.copy()
    surprised[-1] = 2 * CHANGED
    people = known.follow(tracks({i: 50.0 * i for i in range(1, count + 1)}), 9.0)
    _estimated(people, quality, np.ones(count, bool))
    people = known.follow(tracks({i: 50.0 * i for i in range(1, count + 1)}), 9.04)
    assert refine(people, unsure(quality), Gate(), surprised, every)[-1]
    unhurried = Plan(0, 1, math.inf, 1, 1)  # a budget with nothing to give up goes by it too
    alike = refine_first(people, unsure(quality), unhurried, Gate(), surprised, every)
    assert alike.tolist() == refine(people, unsure(quality), Gate(), surprised, every).tolist()
    assert alike.all() == (count == 1 or every == 1)
    assert not refine(people, unsure(quality), Gate(refine_from_px=500), surprised, every).any()


def test_the_gate_goes_by_the_mean_of_what_was_said_of_late() -> None:
    people, gate = People(), Gate(refine_from_gain=0.05)
    said = 0.05 + np.random.default_rng(0).normal(0, 0.015, (300, 2)).astype(np.float32)
    kept = []
    for n, now in enumerate(said):
        frames = people.follow(tracks({1: 0, 2: 50}), n / 30)
        kept.append(refine(frames, Outlook(now, now), gate, np.zeros(2)))
    changes = [np.count_nonzero(side[1:] != side[:-1]) for side in (said >= 0.05, np.array(kept))]
    assert changes[1] < changes[0] / 3
    assert people.known[1].outlook.gain == pytest.approx(said[-9:, 0].mean(), abs=0.01)


def test_the_mean_follows_a_change_at_the_pace_that_is_stated() -> None:
    people, unknown = People(), np.array([math.inf], np.float32)
    for n in range(30 + round(30 * STEADY_S)):
        now = np.array([0.2 if n < 30 else 0.8], np.float32)
        refine(people.follow(tracks({1: 0}), n / 30), Outlook(now, unknown), Gate(), np.zeros(1))
    assert people.known[1].outlook.quality == pytest.approx(0.8 - 0.6 / math.e, abs=0.002)


@given(
    said=st.lists(st.sampled_from([0.2, 0.9, math.nan]), min_size=1, max_size=12), step_s=st.sampled_from([0, 0.1, 9])
)
def test_a_number_that_is_none_refines_its_own_frame_and_spoils_no_later_one(said: list[float], step_s: float) -> None:
    people, unknown = People(), np.array([math.inf], np.float32)
    for n, value in enumerate(said):
        person = people.follow(tracks({1: 0}), n * step_s)
        outlook = Outlook(np.array([value], np.float32), unknown)
        refined = refine(person, outlook, Gate(quality_threshold=0.1), np.zeros(1))
        assert refined.tolist() == [math.isnan(value)]  # every number is above the threshold
        assert person[0].outlook.gain == math.inf


def test_the_tall_are_refined_before_the_small_and_never_who_is_too_small() -> None:
    boxes = np.array([[0, 0, 20, 40], [50, 0, 90, 120], [100, 0, 200, 400], [300, 0, 310, 30]], np.float32)
    there = Tracks(boxes, np.ones(4, np.float32), np.arange(1, 5), np.ones(4, bool))
    known, quality, alike = People(), np.full(4, 0.5, np.float32), np.zeros(4)
    half, people = Plan(0.5, 0.5, math.inf, 1, 1), known.follow(there, 0.0)
    assert refine_first(people, unsure(quality), half, Gate(), np.ones(4)).tolist() == [False, True, True, False]
    chosen = np.zeros(4)
    for n in range(60):
        people = known.follow(there, 0.1 + n / 10)
        turn = refine_first(people, unsure(quality), Plan(0.5, 0.3, math.inf, 1, 1), Gate(refine_from_px=35.0), alike)
        chosen += turn
        _estimated(people, quality, turn)
    assert chosen.tolist()[3] == 0
    assert chosen[2] >= chosen[1] > chosen[0] >= 4  # the small have their turn, too


def test_estimation_goes_round_and_newcomers_come_first() -> None:
    known, seen = People(), []
    for n in range(8):
        there = tracks({i: 100.0 * i for i in range(1, 5)} | ({9: 50.0} if n == 6 else {}))
        people = known.follow(there, n / 10)
        rows = estimate_first(people, 0.25)
        _estimated([people[row] for row in rows], np.full(len(rows), 0.5, np.float32), np.zeros(len(rows), bool))
        seen.append(there.track_ids[rows].tolist())
    assert sorted(i for ids in seen[:4] for i in ids) == [1, 2, 3, 4]
    assert 9 in seen[6]
    assert estimate_first(people, 1.0).tolist() == [0, 1, 2, 3]
    assert estimate_first([], 0.5).tolist() == []
    assert 9 not in known.known


def test_where_the_gain_is_predicted_it_goes_before_the_size() -> None:
    boxes = np.array([[0, 0, 20, 40], [50, 0, 90, 120], [100, 0, 200, 400]], np.float32)
    there = Tracks(boxes, np.ones(3, np.float32), np.arange(1, 4), np.ones(3, bool))
    people, quality = People().follow(there, 0.0), np.full(3, 0.5, np.float32)
    outlook, some = Outlook(quality, np.array([0.12, 0.05, 0.01], np.float32)), Plan(0.5, 0.5, math.inf, 1, 1)
    every, new = Plan(0, 1, math.inf, 1, 1), np.ones(3)
    assert refine_first(people, outlook, some, Gate(), new).tolist() == [True, True, False]
    assert refine_first(people, unsure(quality), some, Gate(), new).tolist() == [False, True, True]
    assert refine_first(people, outlook, every, Gate(refine_from_gain=0.1), new).tolist() == [True, False, False]


def unsure(quality: np.ndarray) -> Outlook:
    """As weights give it that predict no gain."""
    return Outlook(quality, np.full(len(quality), math.inf))


def _estimated(people: list[Person], quality: np.ndarray, refined: np.ndarray) -> None:
    for person, value, fine in zip(people, quality.tolist(), refined.tolist(), strict=True):
        person.estimated(value, fine)


# --- in the network and in a whole run


def test_the_engine_refines_who_is_chosen() -> None:
    config = load(None, [*PLAIN, "pose.max_batch=3"]).pose
    engine = PoseEngine(config)
    image = np.random.default_rng(1).integers(0, 255, (200, 500, 3), np.uint8)
    boxes = np.array([[80.0 * i, 10, 80.0 * i + 70, 190] for i in range(5)], np.float32)
    asked: list[int] = []

    def choose(rows: slice, outlook: Outlook) -> np.ndarray:
        asked.extend(range(5)[rows])
        assert len(outlook.quality) == len(outlook.gain) == len(range(5)[rows])
        return np.isin(np.arange(5)[rows], (1, 4))

    found, every = engine.estimate(image, boxes, choose), engine.estimate(image, boxes)
    assert asked == [0, 1, 2, 3, 4]
    assert found.refined.tolist() == [False, True, False, False, True]
    assert every.refined.all()  # random weights refine all
    np.testing.assert_allclose(found.keypoints[[1, 4]], every.keypoints[[1, 4]], atol=1e-2)
    np.testing.assert_allclose(found.quality, every.quality, atol=1e-5)


class Crowd:
    """A detector that sees twelve people who walk."""

    name, closest = "crowd", 0

    def open(self) -> None: ...
    def close(self) -> None: ...

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        left = np.arange(12, dtype=np.float32) * 24 + 3 * frame.pts_s
        boxes = np.stack([left, left * 0 + 10, left + 20, left * 0 + 80], 1)
        return Detections(boxes, np.full(12, 0.9, np.float32))


def test_those_who_wait_for_their_turn_are_predicted_where_they_go() -> None:
    pose = load(None, PLAIN).pose
    control = controller(latency_ms=100)
    estimate = EstimateStage(lambda: PoseEngine(pose), control)
    smooth = SmoothStage(KeypointSmoother(SmoothConfig(min_score=0), COCO17))
    estimate.open()
    image = np.random.default_rng(2).integers(0, 255, (100, 320, 3), np.uint8)
    people = tracks({i: 30.0 * i for i in range(1, 9)})
    for n in range(6):
        if n == 1:
            control.plan = Plan(4, 0.1, -math.inf, 30, 0.25)
        (packet,) = estimate.process(Packet(Frame(n, n / 25, image), tracks=people))
        (packet,) = smooth.process(packet)
        assert packet.budget is not None
        assert packet.poses is not None
        assert sorted(packet.poses.track_ids.tolist()) == list(range(1, 9))
        predicted = int((packet.poses.stage == PoseStage.PREDICTED).sum())
        assert (packet.budget["estimated"], packet.budget["predicted"]) == ((8, 0) if n == 0 else (2, 6))
        assert packet.budget["refined"] == (8 if n == 0 else 0)
        assert predicted == packet.budget["predicted"]


@pytest.mark.timeout(90)
def test_a_whole_run_gives_up_in_order_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.detection.create_detector", lambda *_, **__: Crowd())
    write_clip(tmp_path / "walk.mp4", 120, fps=20, size_wh=(320, 96))
    options = [*PLAIN, "output.video=false"]
    more = ["source.realtime=true", "budget.latency_ms=0.01", f"output.directory={tmp_path / 'out'}"]
    results = FileRun(str(tmp_path / "walk.mp4"), load(None, [*options, *more])).run()
    assert results.stream is not None
    assert [p for p in validate(results.stream) if p.severity == "error"] == []
    records = list(StreamReader(results.stream))
    first, last = records[0].budget, records[-1].budget
    assert first is not None
    assert last is not None
    assert (first["relief"], first["refined"], first["quality_threshold"]) == (0, len(records[0].poses), "inf")
    reliefs = [record.budget["relief"] for record in records if record.budget]
    assert reliefs == sorted(reliefs)  # nothing comes in time, so nothing is given back
    assert last["relief"] > 0
    relieved = [r.budget for r in records if r.budget and r.budget["relief"] >= 1 and r.budget["estimated"] > 2]
    assert all(budget["refined"] < budget["estimated"] for budget in relieved)
    budget = results.figures["budget"]
    assert budget["latency_ms"] == 0.01
    assert budget["frames_within"] == 0
    assert budget["last"]["relief"] >= last["relief"]
    assert set(records[-1].stages_ms or {}) == {"detect", "track", "pose", "smooth", "write"}


def test_a_file_that_waits_takes_no_budget(tmp_path: Path) -> None:
    write_clip(tmp_path / "walk.mp4", 3)
    config = load(None, ["budget.latency_ms=100", "pose.weights=random", f"output.directory={tmp_path / 'out'}"])
    with pytest.raises(ConfigError, match="--realtime"):
        FileRun(str(tmp_path / "walk.mp4"), config).run()
    assert not (tmp_path / "out").exists()
