"""Keeps a live run within its latency or rate budget: what work is skipped, for whom first, and when it resumes.

With a two-stage network each person may be refined or not, and may wait for it. So one number, the relief, says how
much work is skipped, in this order:

    0..1    a growing share of the people below the quality threshold is not refined, those in least need first
    1..2    the threshold goes down to -inf: nobody is refined
    2..3    the detector runs less often, down to every `longest_detect_every`-th frame
    3..4    people are estimated in turn, those in most need first; the others are predicted by the smoother

The relief rises as soon as the 95th percentile of recent frames exceeds the budget, by more the later they are. It
falls in smaller steps when there is room, by more the more room there is. If that was too early, the next step down
waits longer (as in TCP: quick to back off, slow to recover).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import BudgetConfig
from sharpose_rt.types import Float32

log = logging.getLogger("sharpose_rt")

REFINE, THRESHOLD, DETECT, PREDICT = range(4)
"""The steps of the relief, by its integer part."""
LEAST_REFINED = 0.1
"""Share of the people below the threshold who are refined at the end of the first step, at least one."""
LEAST_ESTIMATED = 0.25
"""Share of the people who are estimated at the end of the last step, at least one."""
WINDOW = 10
"""Frames that a decision to lower the relief is based on, at least."""
RECENT = 40
"""Recent frames; the relief rises when more than `LATE_SHARE` of them were late. Of 40 that takes three, so that an
occasional hiccup, which no relief would prevent, has no effect."""
LATE_SHARE = 0.05
"""Share of frames that may be late: the budget is kept at the 95th percentile."""
AIM = 0.9
"""A frame that takes a larger share of its time counts as late, to keep the budget with a margin."""
ROOM = 0.7
"""With a 95th percentile below this share of the budget there is room."""
A_PAUSE = 4.0
"""An interval this many times the usual one means that the source was away, not that a frame took so long."""
LEAST_BACK, MOST_BACK = 0.1, 0.5
"""Smallest and largest step by which the relief falls."""
LONGEST_PATIENCE = 16


@dataclass(frozen=True)
class Plan:
    """The settings for the next frames.

    Args:
        relief: 0 (nothing is skipped) to 4.
        refine_share: share of the people below the threshold who are refined, 0..1.
        quality_threshold: people with a lower predicted quality need refining.
        detect_every: the detector runs on every n-th frame.
        estimate_share: share of all people who are estimated, 0..1; the others are predicted.
    """

    relief: float
    refine_share: float
    quality_threshold: float
    detect_every: int
    estimate_share: float

    def record(self, estimated: int, refined: int, predicted: int) -> dict[str, Any]:
        """For the stream: the settings of a frame, and how many people were estimated, refined and predicted."""
        return {**asdict(self), "estimated": estimated, "refined": refined, "predicted": predicted}


def make_plan(
    relief: float, threshold: float, detect_every: int, longest_detect_every: int, qualities: NDArray[np.floating]
) -> Plan:
    """The plan for a relief; `threshold` and `detect_every` are those without any.

    `qualities` (Q,) are those of recent people; the lowered threshold is a quantile of them.
    """
    done = [min(1.0, max(0.0, relief - step)) for step in range(4)]
    if done[THRESHOLD] >= 1:
        lowered = -math.inf
    elif done[THRESHOLD] > 0 and len(qualities):
        lowered = min(threshold, float(np.quantile(qualities, 1 - done[THRESHOLD])))
    else:
        lowered = threshold
    longest = max(detect_every, longest_detect_every)
    every = round(detect_every * (longest / detect_every) ** done[DETECT])
    return Plan(
        relief=round(relief, 3),
        refine_share=1 - (1 - LEAST_REFINED) * done[REFINE],
        quality_threshold=lowered,
        detect_every=every,
        estimate_share=1 - (1 - LEAST_ESTIMATED) * done[PREDICT],
    )


class BudgetController:
    """Watches how late frames are output and sets the plan; one thread observes, any thread reads `plan`.

    Args:
        config: the budget: a latency, a rate, or both.
        detect_every: the interval without a budget.
        predict: people may be predicted instead of estimated.
    """

    def __init__(self, config: BudgetConfig, detect_every: int, *, predict: bool) -> None:
        self.config, self.detect_every = config, detect_every
        self.most = 4.0 if predict and config.predict else 3.0
        self.threshold = math.inf
        self.changes = 0
        self.within = self.observed = 0
        self._relief = 0.0
        self._weights: dict[str, float] = {}
        self._qualities: deque[float] = deque(maxlen=400)
        self._loads: list[float] = []
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._tightened = False  # and no frame has been in time since
        self._refined = 0
        self._out: dict[int, deque[tuple[float, int]]] = {}
        self._since_s = -math.inf
        self._calm, self._patience, self._gave_back = 0, 1, False
        self._told = False
        self.plan = self._planned()

    def begin(self, threshold: float) -> None:
        """Sets the quality threshold without a budget, known once the network is loaded."""
        self.threshold = threshold
        self.plan = self._planned()

    def saw(self, qualities: Float32) -> None:
        """Records the predicted qualities (N,) of the people of one frame."""
        self._qualities.extend(qualities[np.isfinite(qualities)].tolist())

    def observe(
        self, captured_at_s: float, out_at_s: float, dropped_before: int, refined: int, source: int = 0
    ) -> None:
        """Records one frame when it is output: clock times in seconds, frames dropped before it, people refined in it,
        and its source if there are several."""
        load = self._load(captured_at_s, out_at_s, dropped_before, source)
        self.observed += 1
        self.within += load <= 1
        for name, value in asdict(self.plan).items():
            self._weights[name] = self._weights.get(name, 0.0) + (value if math.isfinite(value) else 0.0)
        if captured_at_s < self._since_s:
            return  # captured before the plan was set: says little about it
        if load <= AIM and self._tightened:
            self._tightened = False
            self._recent.clear()  # these have been reacted to
        self._loads.append(load)
        self._recent.append(load)
        self._refined += refined
        size = max(WINDOW, self.plan.detect_every + 1)  # frames on which the detector runs are the late ones
        late = sorted(load / AIM for load in self._recent if load > AIM)
        if load > AIM and len(late) > LATE_SHARE * RECENT:
            self._tighten(late[len(late) // 2], out_at_s)
        elif len(self._loads) >= size:
            self._consider(size, out_at_s)

    def summary(self) -> dict[str, Any]:
        """For the summary of a run: the budget, how far it was kept, and the average settings."""
        n = max(1, self.observed)
        means = {name: total / n for name, total in self._weights.items() if name != "quality_threshold"}
        return {
            "latency_ms": self.config.latency_ms,
            "target_fps": self.config.target_fps,
            "frames_within": self.within / n,
            "changes": self.changes,
            "mean": means,
            "last": asdict(self.plan),
        }

    def _aims(self) -> list[str]:
        aims = {"--latency-budget-ms": self.config.latency_ms, "--target-fps": self.config.target_fps}
        return [f"{option} {value:g}" for option, value in aims.items() if value is not None]

    def _load(self, captured_at_s: float, out_at_s: float, dropped_before: int, source: int) -> float:
        """How much of its time a frame took: above 1 is late. A rate applies to each source separately."""
        out = self._out.setdefault(source, deque(maxlen=WINDOW))
        out.append((out_at_s, dropped_before))
        load = 0.0
        if self.config.latency_ms is not None:
            load = (out_at_s - captured_at_s) / (self.config.latency_ms / 1e3)
        # If nothing is dropped, the source is the slow side and no relief would raise the rate.
        took_s = [now - last for (last, _), (now, _) in pairwise(out) if last >= self._since_s]
        if self.config.target_fps is not None and took_s and sum(n for _, n in list(out)[1:]):
            longest_s = A_PAUSE * median(took_s)
            took_s = [time_s for time_s in took_s if time_s <= longest_s]
            load = max(load, sum(took_s) / len(took_s) * self.config.target_fps)
        return load

    def _tighten(self, load: float, now_s: float) -> None:
        """Raises the relief; the later the frames were, the more."""
        if self._gave_back:
            self._patience = min(LONGEST_PATIENCE, 2 * self._patience)
        relief = self._relief
        if relief == self.most and not self._told:
            self._told = True
            log.warning(
                "the budget (%s) cannot be kept here: even after all reductions, frames take %.0f %% of their time; "
                "relax it, or see in stages_ms of the stream what takes so long",
                " and ".join(self._aims()), 100 * AIM * load,
            )  # fmt: skip
        if relief < DETECT and not self._refined:
            relief = float(DETECT)  # nobody was refined: the first two steps would gain nothing
        self._set(min(self.most, relief + min(1.0, 0.1 + 0.3 * math.log2(load))), now_s, load)
        self._gave_back, self._tightened = False, True

    def _consider(self, size: int, now_s: float) -> None:
        """After each whole window: lowers the relief if there is room."""
        p95 = sorted(self._loads)[math.ceil((1 - LATE_SHARE) * size) - 1]
        self._loads, self._refined = [], 0
        if self._gave_back and p95 <= AIM:  # and the budget was still kept
            self._patience, self._gave_back = max(1, self._patience // 2), False
        self._calm = self._calm + 1 if p95 < ROOM else 0
        if self._calm >= self._patience and self._relief > 0:
            back = min(MOST_BACK, LEAST_BACK + 0.2 * math.log2(ROOM / max(p95, 0.01)))
            self._set(max(0.0, self._relief - back), now_s, p95)
            self._gave_back = True

    def _set(self, relief: float, now_s: float, load: float) -> None:
        before, self._relief = self._relief, relief
        self._loads, self._refined, self._calm, self._since_s = [], 0, 0, now_s
        self.plan = plan = self._planned()
        if relief == before:
            return
        self.changes += 1
        level = logging.INFO if int(relief) != int(before) else logging.DEBUG
        log.log(
            level,
            "budget: frames take %.0f %% of their time; from now on %.0f %% of people below quality %.2f are refined, "
            "the detector runs every %d frame(s), and %.0f %% of people are estimated",
            100 * load,
            100 * plan.refine_share,
            plan.quality_threshold,
            plan.detect_every,
            100 * plan.estimate_share,
        )

    def _planned(self) -> Plan:
        qualities = np.array(self._qualities, np.float32)
        return make_plan(self._relief, self.threshold, self.detect_every, self.config.longest_detect_every, qualities)
