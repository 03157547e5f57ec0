"""Remembers people who left and their appearance, to recognise them when they return.

The appearance of a person is a unit vector from a network (deep metric learning, as in DeepSORT, Wojke et al. 2017).
The similarity of two vectors gives the odds that they show the same person. All remembered people compete with the
possibility of somebody new: the more of them might have returned, the more similar one has to look. How much similarity
counts is learnt from each scene: two people who are present at once are different, so if they look similar anyway, as
in uniform or at night, similarity says little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.tracking.camera import Camera, moved_box
from sharpose_rt.types import Float32

Look = Callable[[ArrayLike], NDArray[np.float32]]
"""Returns unit vectors (N, D) of the appearance ("looks") of the people in boxes (N, 4) of this frame's picture."""

ENOUGH = 3
"""People who were looked at less often are not remembered."""
MOST = 64
"""Most people remembered at once; those who left first are forgotten."""
LASTS = 16
"""About how many looks count; older ones fade."""
LOG_ODDS_PER_ALIKE, EVEN_ALIKE = 14.0, 0.56
"""Turn the similarity (cosine, after subtracting the mean of all people) of two looks into log odds that they show one
person: the slope, and the similarity of even odds; fitted to pairs of people in a street from `eval-appearance`."""
TRUSTED = 10
"""Those odds count as much as this many pairs of looks from the scene itself."""
SAME = 1e-6
"""Similarities that differ by less are equal."""
PAIRS = 512
"""How many pairs of looks at one person, and at two, are kept per scene."""
RETURNS_S = 4.0
"""A priori, a newcomer is as likely to be a person who has just left as somebody else; after this time half as likely,
after twice this time a third."""
SHRUNK = 4
"""The mean of few people is theirs rather than the scene's, so this many zero vectors are added to it."""
NEAR, WALKS_PER_S = 1.0, 1.0
"""In body heights: how far from where they left people may return, and how much farther for each second."""
SIZES = 2.0
"""Returning people are at most this many times as tall, or as small, in the picture."""
KNOWN, UNSURE, WAIT_S = 0.8, 0.3, 0.3
"""A newcomer is recognised from the first probability on. From the second on they get no id until the third, in
seconds, has passed, to see more of them."""


@dataclass
class Looks:
    """The looks at one person: the sum of unit vectors (D,), their number, and the time of the last one."""

    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    count: int = 0
    at_s: float = -np.inf

    def add(self, vector: NDArray[np.floating], pts_s: float) -> None:
        """Add a look at that person."""
        before = self.total * (1 - 1 / LASTS if self.count >= LASTS else 1.0) if self.count else 0.0
        self.total, self.count, self.at_s = vector.astype(np.float64) + before, self.count + 1, pts_s

    @property
    def vector(self) -> NDArray[np.float64]:
        """The mean direction (D,), of length 1."""
        return _unit(self.total)


class Experience:
    """How similar looks have been in this scene, at one person and at two who were present at once."""

    def __init__(self) -> None:
        self._same, self._others = deque[float](maxlen=PAIRS), deque[float](maxlen=PAIRS)

    def learn(
        self, vector: NDArray[np.floating], own: Looks, others: Sequence[Looks], mean: NDArray[np.float64]
    ) -> None:
        """Learn from a look (D,) at a person with looks `own` while `others` are present."""
        alike = _alike([own, *others], vector[None], mean)[:, 0].tolist()
        self._same.append(alike[0])
        self._others.extend(alike[1:])

    @property
    def tells(self) -> bool:
        """Whether people look enough like themselves, in a quarter of the looks, to be recognised."""
        (odds,) = self.odds(np.quantile(self._same or [1.0], [0.75])).tolist()
        return odds >= KNOWN * (1 + odds)

    def odds(self, alike: NDArray[np.float64]) -> NDArray[np.float64]:
        """Odds of one person rather than two, for each of `alike` (...), -1..1.

        As fitted to other scenes, but no further from 1 than this scene supports: than the ratio of how often looks at
        one person and at two have been at least as similar here (or at most, for odds below 1).
        """
        fitted = np.exp(LOG_ODDS_PER_ALIKE * (alike - EVEN_ALIKE))
        many, few = np.maximum(fitted, 1), np.minimum(fitted, 1)
        same, others = np.sort(self._same), np.sort(self._others)
        more = _share(same, alike, 1, above=True) / _share(others, alike, 1 / many, above=True)
        less = _share(same, alike, few, above=False) / _share(others, alike, 1, above=False)
        return np.where(fitted > 1, np.clip(more, 1, many), np.clip(less, few, 1))


def _share(
    ordered: NDArray[np.float64], value: NDArray[np.float64], fitted: ArrayLike, above: bool
) -> NDArray[np.float64]:
    """The share (...) of `ordered` that is at least (or at most) `value` (...); `fitted` counts as `TRUSTED` more
    values."""
    up_to = np.searchsorted(ordered, value + (-SAME if above else SAME), "left" if above else "right")
    count = len(ordered) - up_to if above else up_to
    return (count + TRUSTED * np.asarray(fitted)) / (len(ordered) + TRUSTED)


@dataclass
class Left:
    """A person who has left: where and when they were last seen."""

    track_id: int
    looks: Looks
    bbox_xyxy: Float32
    seen_s: float


@dataclass(frozen=True)
class Newcomer:
    """A new person, who may be one who left: their looks, box (4,) px, and how long they have been waiting for an
    answer."""

    looks: Looks
    bbox_xyxy: Float32
    waited_s: float


class Memory:
    """The people of one source who have left.

    Args:
        remember_s: for how long, in media time.
    """

    def __init__(self, remember_s: float) -> None:
        self.remember_s = remember_s
        self.gone: list[Left] = []
        self.experience = Experience()

    def keep(self, one: Left) -> None:
        """Remember a person if they were looked at often enough."""
        if one.looks.count >= ENOUGH:
            self.gone = [*self.gone, one][-MOST:]

    def advance(self, pts_s: float, camera: Camera | None = None) -> None:
        """Forget people whose time is over, and move the others' boxes with the camera."""
        self.gone = [one for one in self.gone if pts_s - one.seen_s <= self.remember_s]
        if camera is not None:
            for one in self.gone:
                one.bbox_xyxy = moved_box(one.bbox_xyxy, camera)

    def take(self, track_ids: Collection[int]) -> None:
        """Remove people who are back."""
        self.gone = [one for one in self.gone if one.track_id not in track_ids]

    def forget(self) -> None:
        """Forget everybody."""
        self.gone, self.experience = [], Experience()


def decide(
    new: Sequence[Newcomer],
    gone: Sequence[Left],
    present: Sequence[Looks],
    pts_s: float,
    experience: Experience,
) -> list[int | None]:
    """Who each newcomer is: the id of a person who had left, 0 for somebody else, None if more must be seen first.

    No id is given twice; the likeliest match goes first.

    Args:
        new: the newcomers.
        gone: who left.
        present: looks at the others present, which improve the mean of all people.
        pts_s: now.
        experience: how much similarity counts in this scene.
    """
    mean = mean_look([*(left.looks for left in gone), *present])
    likely = [
        (probability, row, track_id)
        for row, one in enumerate(new)
        for track_id, probability in who(one, gone, mean, pts_s, experience).items()
    ]
    answers: dict[int, int | None] = {}
    for probability, row, track_id in sorted(likely, key=lambda found: (-found[0], *found[1:])):
        if row in answers or track_id in answers.values():
            continue
        if probability >= KNOWN:
            answers[row] = track_id
        elif probability >= UNSURE and new[row].waited_s < WAIT_S and experience.tells:
            answers[row] = None
    return [answers.get(row, 0) for row in range(len(new))]


def mean_look(people: Sequence[Looks]) -> NDArray[np.float64]:
    """What all `people` have in common, (D,), which identifies nobody; 0 () for no people."""
    vectors = [looks.vector for looks in people if looks.count]
    return np.sum(vectors, 0) / (len(vectors) + SHRUNK)


def who(
    one: Newcomer,
    gone: Sequence[Left],
    mean: NDArray[np.float64],
    pts_s: float,
    experience: Experience,
) -> dict[int, float]:
    """Probabilities, by track id, that a new person is one of those `gone`; the rest to 1 is that they are none of
    them.

    People who cannot have come that far are omitted.

    Args:
        one: the new person.
        gone: who left.
        mean: mean of all people's looks (D,), see `mean_look`.
        pts_s: now.
        experience: as for `decide`.
    """
    candidates = [left for left in gone if _may_be(left, one.bbox_xyxy, pts_s)]
    if not candidates:
        return {}
    alike = _alike([left.looks for left in candidates], one.looks.vector[None], mean)[:, 0]
    gone_s = pts_s - np.array([left.seen_s for left in candidates])
    odds = experience.odds(alike) / (1 + gone_s / RETURNS_S)
    shares = odds / (1 + odds.sum())
    return {left.track_id: float(share) for left, share in zip(candidates, shares, strict=True)}


def likeness(
    people: Sequence[Looks], vectors: NDArray[np.floating], mean: NDArray[np.float64], experience: Experience
) -> NDArray[np.float64]:
    """Probability (N, M), 0..1, that looks (M, D) show each of N `people`, if both are equally likely a priori."""
    odds = experience.odds(_alike(people, vectors, mean))
    return odds / (1 + odds)


def _alike(people: Sequence[Looks], vectors: NDArray[np.floating], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """How similar (N, M), -1..1, looks (M, D) are to those of each of N `people`, apart from what all share."""
    return np.stack([_unit(looks.vector - mean) for looks in people]) @ np.stack([_unit(v - mean) for v in vectors]).T


def _may_be(one: Left, box: Float32, pts_s: float) -> bool:
    """Whether they can have come from where they left to that box (4,) by now."""
    before, now = one.bbox_xyxy, box
    tall, taller = sorted((float(before[3] - before[1]), float(now[3] - now[1])))
    way = float(np.linalg.norm((before[:2] + before[2:] - now[:2] - now[2:]) / 2))
    return taller <= SIZES * tall and way <= taller * (NEAR + WALKS_PER_S * (pts_s - one.seen_s))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
