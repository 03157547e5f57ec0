"""Which people need the network most (low quality, fast movement, a long wait), and which need the fine stage most (not
where they were expected, a long wait)."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.geometry.affine import body_heights
from sharpose_rt.models.gate import Gate, Outlook
from sharpose_rt.skeleton import BOX_TO_AREA, COCO17
from sharpose_rt.stages.budget import Plan
from sharpose_rt.stages.refinement import Place, Refinement
from sharpose_rt.tracking.camera import Camera
from sharpose_rt.types import Float32, Poses, Tracks

log = logging.getLogger("sharpose_rt")

SPEED = 1.0
"""Box heights per second that count as much as the whole range of quality."""
SURE_SCORE, SURE_SHARE = 0.3, 0.6
"""A pose with at least this share of keypoints above this score is good enough to derive the next box from."""
SINCE_S = 1.0
"""A wait that counts as much; it has no upper limit, so everybody gets a turn."""
DETAIL_PX = 150
"""Above this height the fine stage sees more detail of a person than the coarse one, whose crop has 128 rows."""
MUCH_GAIN = 0.15
"""A predicted gain in AP that counts in full; few people have more."""
STEADY_S = 0.3
"""Time over which the coarse stage's predictions for a person are averaged."""
CHANGED = 0.1
"""1 - OKS of a pose with the expected one from which the fine stage should look."""
PRESSED_EVERY = 3
"""In a live run that drops frames, people go through the fine stage on every n-th frame."""
PRESSED, OF_FRAMES = 3, 20
"""A run is under pressure when PRESSED of its last OF_FRAMES frames follow dropped ones; fewer may be chance."""
CALM_S, LONGEST_CALM_S = 10.0, 160.0
"""How long no frame must be dropped before everybody is refined on each frame again; doubled, up to a limit, each time
that this was too early."""
WAIT_S = 0.1
"""A time without the fine stage that counts as much as `CHANGED`; it has no upper limit, so everybody gets a turn."""


def need(quality: NDArray[np.floating], speed: NDArray[np.floating], since_s: NDArray[np.floating]) -> Float32:
    """How much each person (N,) needs the network: low quality, fast movement, long without it.

    `quality` as predicted, where NaN counts as the lowest; `speed` in box heights per second; `since_s` in seconds.
    """
    low = 1 - np.clip(np.nan_to_num(quality, nan=0.0), 0, 1)
    return (low + np.clip(speed / SPEED, 0, 1) + since_s / SINCE_S).astype(np.float32)


def all_sure(poses: Poses | None) -> bool:
    """Whether there are people, and the poses of all locate them well enough to do without the detector."""
    if poses is None or not len(poses):
        return False
    scores = poses.raw_keypoint_scores[:, : len(COCO17)]  # boxes are not derived from hands and faces
    return bool(((scores >= SURE_SCORE).mean(1) >= SURE_SHARE).all())


@dataclass
class Person:
    """One tracked person: where the box was, how fast it moved, and when the network last ran on it (the fine stage
    `frames` ago)."""

    centre: NDArray[np.float64]
    pts_s: float
    refined_s: float
    size_px: float = 1.0
    height_px: float = 0.0
    frames: int = 0
    refinement: Refinement = field(default_factory=Refinement)
    speed: float = 0.0
    quality: float = math.nan
    estimated_s: float = -math.inf
    outlook: Outlook = field(default_factory=lambda: Outlook(np.array(math.nan), np.array(math.nan)))
    outlook_s: float = -math.inf

    def seen(self, box: NDArray[np.float64], height_px: float, pts_s: float, camera: Camera | None = None) -> None:
        """Records the box of a frame, and the camera motion before it."""
        centre, sides = box.reshape(2, 2).mean(0), np.maximum(box[2:] - box[:2], 1)
        self.size_px, self.height_px = math.sqrt(BOX_TO_AREA * sides.prod()), height_px
        self.frames += 1
        if camera is not None:
            self.refinement.moved(camera)
        if pts_s > self.pts_s:
            now = float(np.hypot(*(centre - self.centre))) / height_px / (pts_s - self.pts_s)
            self.speed, self.pts_s = (self.speed + now) / 2, pts_s
        self.centre = centre

    @property
    def place(self) -> Place:
        """Where the person is in the last frame."""
        return Place(self.centre, self.size_px, self.pts_s)

    def estimated(self, quality: float, refined: bool) -> None:
        """Records that the network ran on the last box."""
        self.quality, self.estimated_s = quality, self.pts_s
        if refined:
            self.refined_s, self.frames = self.pts_s, 0

    def expect(self, said: Outlook) -> Outlook:
        """Records what the coarse stage predicts for the last box, () each; returns the mean of recent predictions.

        If the new number or the mean so far is not finite, the mean starts again.
        """
        new = 1 - math.exp(-(self.pts_s - self.outlook_s) / STEADY_S)
        self.outlook_s = self.pts_s
        pairs = (self.outlook.quality, said.quality), (self.outlook.gain, said.gain)
        quality, gain = (was + new * (now - was) if np.isfinite(was + now) else now for was, now in pairs)
        self.outlook = Outlook(quality, gain)
        return self.outlook


class People:
    """The people of one source, by track id."""

    def __init__(self) -> None:
        self.known: dict[int, Person] = {}

    def follow(self, tracks: Tracks, pts_s: float, camera: Camera | None = None) -> list[Person]:
        """The people of these boxes, given the `camera` motion before them; all others are forgotten."""
        known: dict[int, Person] = {}
        boxes, heights_px = tracks.bboxes_xyxy.astype(np.float64), body_heights(tracks.bboxes_xyxy).tolist()
        for track_id, box, height_px in zip(tracks.track_ids.tolist(), boxes, heights_px, strict=True):
            known[track_id] = person = self.known.get(track_id) or Person(box.reshape(2, 2).mean(0), pts_s, pts_s)
            person.seen(box, height_px, pts_s, camera)
        self.known = known
        return list(known.values())


class Pace:
    """How often people who move as expected are refined in a live run without a budget: on each frame, or, once frames
    were dropped, on every third until none has been dropped for some time."""

    def __init__(self) -> None:
        self._dropped: deque[bool] = deque(maxlen=OF_FRAMES)
        self._until_s, self._calm_s = -math.inf, CALM_S / 2

    def every(self, dropped: bool, now_s: float) -> int:
        """The n of "every n-th frame" at this time (s, of any clock); `dropped` if frames were dropped before this."""
        self._dropped.append(dropped)
        pressed = now_s < self._until_s
        if dropped and (pressed or sum(self._dropped) >= PRESSED):
            if not pressed:
                self._calm_s = min(2 * self._calm_s, LONGEST_CALM_S)
                self._dropped.clear()
                log.info("frames are dropped: people who move as expected are refined every %d frames", PRESSED_EVERY)
            self._until_s = now_s + self._calm_s
        return PRESSED_EVERY if now_s < self._until_s else 1


def estimate_first(people: Sequence[Person], share: float) -> NDArray[np.int64]:
    """Rows, ascending, of the `share` of people who most need a pose."""
    if share >= 1 or not people:
        return np.arange(len(people))
    facts = [(p.quality, p.speed, min(p.pts_s - p.estimated_s, 1e3)) for p in people]
    order = np.argsort(-need(*np.array(facts).T), kind="stable")
    return np.sort(order[: math.ceil(share * len(people))])


def steadied(people: Sequence[Person], outlook: Outlook) -> Outlook:
    """The coarse stage's predictions for people (N,), averaged with its recent ones.

    Its predictions for one person vary from frame to frame nearly as much as from person to person, and a person who
    alternates between the stages appears to jerk.
    """
    said = zip(people, outlook.quality, outlook.gain, strict=True)
    means = [person.expect(Outlook(quality, gain)) for person, quality, gain in said]
    qualities, gains = np.array([(mean.quality, mean.gain) for mean in means], np.float32).reshape(-1, 2).T
    return Outlook(qualities, gains)


def refine(
    people: Sequence[Person], outlook: Outlook, gate: Gate, surprise: NDArray[np.floating], every: int = 1
) -> NDArray[np.bool_]:
    """Which of the people (N,) with this outlook are refined: those whom the gate selects and who are `due`."""
    wanted = gate.refined(steadied(people, outlook), np.array([person.height_px for person in people]))
    return wanted & due(people, surprise, every)


def due(people: Sequence[Person], surprise: NDArray[np.floating], every: int) -> NDArray[np.bool_]:
    """Which of the people (N,) are not where they were expected (`surprise` (N,), see `surprises`), or have their turn
    on every n-th frame; turns are spread so that all frames take about the same time."""
    waited = np.array([person.frames for person in people])
    turn = waited >= every
    turn[np.argsort(-waited, kind="stable")[: len(people) // every]] = True
    return turn | (surprise >= CHANGED)


def refine_first(
    people: Sequence[Person], outlook: Outlook, plan: Plan, gate: Gate, surprise: NDArray[np.floating], every: int = 1
) -> NDArray[np.bool_]:
    """Which of the people (N,) with this outlook are refined under `plan`: nobody whom `refine` would not.

    The gain from the fine stage hardly correlates with quality. People are ranked by how far they are from where they
    were expected (`surprise` (N,), see `surprises`), how long they have not been refined, and the predicted gain, or,
    if the weights do not predict it, height: tall people gain three times as much as those below 80 px.
    """
    outlook, heights_px = steadied(people, outlook), np.array([person.height_px for person in people])
    wanted = replace(gate, quality_threshold=plan.quality_threshold).refined(outlook, heights_px)
    wanted &= due(people, surprise, every)
    if plan.refine_share >= 1 or not wanted.any():
        return wanted
    since_s = np.array([person.pts_s - person.refined_s for person in people])
    promise = np.where(np.isfinite(outlook.gain), outlook.gain / MUCH_GAIN, heights_px / DETAIL_PX)
    needs = (surprise / CHANGED + since_s / WAIT_S) * (0.5 + np.clip(promise, 0, 1))
    order = np.argsort(-np.where(wanted, needs, -np.inf), kind="stable")
    chosen = np.zeros(len(people), bool)
    chosen[order[: math.ceil(plan.refine_share * wanted.sum())]] = True
    return chosen
