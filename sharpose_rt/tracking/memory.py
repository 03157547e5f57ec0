"""Who left, and how they looked: people who come back are known again.

What is compared are unit vectors of an appearance network (deep metric learning, as in DeepSORT, Wojke et al. 2017).
How alike two of them are is turned into how many times likelier it is that they are of one person, and all who are
remembered compete with somebody new: among many who might have come back one has to look more alike than among few.
What likeness is worth is learnt from each scene: two who are there at once are not one person, so where they look alike
nevertheless, as in uniform or by night, it says little.
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
"""Unit vectors (N, D) of how the people in boxes (N, 4) of this frame's picture look."""

ENOUGH = 3
"""Who was looked at less often is not remembered."""
MOST = 64
"""People who are remembered at once; those who left first are forgotten."""
LASTS = 16
"""So many looks count; the oldest fade."""
LOG_ODDS_PER_ALIKE, EVEN_ALIKE = 14.0, 0.56
"""How alike (cosine, after the mean of all people is taken away) two looks are, as log odds that they are of one
person: the slope, and where both are as likely; fitted to people of a street by `eval-appearance`'s pairs."""
TRUSTED = 10
"""Those odds weigh as much as so many pairs of looks of the scene itself."""
SAME = 1e-6
"""Two that differ by less are as much alike."""
PAIRS = 512
"""So many pairs of looks at one person, and at two, are kept of a scene."""
RETURNS_S = 4.0
"""That a newcomer is one who has just left is as likely beforehand as that it is somebody else; after so long half as
likely, after twice as long a third."""
SHRUNK = 4
"""The mean of few people is theirs rather than the scene's: it counts as if so many had looked like nobody."""
NEAR, WALKS_PER_S = 1.0, 1.0
"""In body heights: who left may come back so near to where that was, and so much further each second."""
SIZES = 2.0
"""Who comes back is at most so many times as tall or as small in the picture."""
KNOWN, UNSURE, WAIT_S = 0.8, 0.3, 0.3
"""Somebody new is taken for one who was gone where that is so likely; where it is not quite clear they get no id for so
long, and more is seen of them."""


@dataclass
class Looks:
    """How one person has looked: the sum of unit vectors (D,), how many there were, and when the last one was."""

    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    count: int = 0
    at_s: float = -np.inf

    def add(self, vector: NDArray[np.floating], pts_s: float) -> None:
        """One more look at that person."""
        before = self.total * (1 - 1 / LASTS if self.count >= LASTS else 1.0) if self.count else 0.0
        self.total, self.count, self.at_s = vector.astype(np.float64) + before, self.count + 1, pts_s

    @property
    def vector(self) -> NDArray[np.float64]:
        """The mean direction (D,), of length 1."""
        return _unit(self.total)


class Experience:
    """How alike looks have been in this scene, at one person and at two who were there at once."""

    def __init__(self) -> None:
        self._same, self._others = deque[float](maxlen=PAIRS), deque[float](maxlen=PAIRS)

    def learn(
        self, vector: NDArray[np.floating], own: Looks, others: Sequence[Looks], mean: NDArray[np.float64]
    ) -> None:
        """Take in a look (D,) at somebody of whom there are `own` looks, while `others` are there too."""
        alike = _alike([own, *others], vector[None], mean)[:, 0].tolist()
        self._same.append(alike[0])
        self._others.extend(alike[1:])

    @property
    def tells(self) -> bool:
        """Whether one person looks enough like themselves, at one time in four, to be known by it."""
        (odds,) = self.odds(np.quantile(self._same or [1.0], [0.75])).tolist()
        return odds >= KNOWN * (1 + odds)

    def odds(self, alike: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many times likelier one person is than two, for each of `alike` (...), -1..1.

        As fitted to other scenes, but no further from 1 than what is as much alike, or as little, has been so much
        oftener here of one person than of two.
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
    """The share (...) of `ordered` that is at least `value` (...), or at most; `fitted` counts as `TRUSTED` more."""
    up_to = np.searchsorted(ordered, value + (-SAME if above else SAME), "left" if above else "right")
    count = len(ordered) - up_to if above else up_to
    return (count + TRUSTED * np.asarray(fitted)) / (len(ordered) + TRUSTED)


@dataclass
class Left:
    """Somebody who is gone: where and when they were seen last."""

    track_id: int
    looks: Looks
    bbox_xyxy: Float32
    seen_s: float


@dataclass(frozen=True)
class Newcomer:
    """Somebody new, who may be one of those: looks at them, their box (4,) px, and how long that has been asked."""

    looks: Looks
    bbox_xyxy: Float32
    waited_s: float


class Memory:
    """The people of one source who are gone.

    Args:
        remember_s: for how long, in media time.
    """

    def __init__(self, remember_s: float) -> None:
        self.remember_s = remember_s
        self.gone: list[Left] = []
        self.experience = Experience()

    def keep(self, one: Left) -> None:
        """Remember somebody, where they were looked at often enough."""
        if one.looks.count >= ENOUGH:
            self.gone = [*self.gone, one][-MOST:]

    def advance(self, pts_s: float, camera: Camera | None = None) -> None:
        """Forget whose time is over, and move the places of the others as the camera moved the picture."""
        self.gone = [one for one in self.gone if pts_s - one.seen_s <= self.remember_s]
        if camera is not None:
            for one in self.gone:
                one.bbox_xyxy = moved_box(one.bbox_xyxy, camera)

    def take(self, track_ids: Collection[int]) -> None:
        """Those people are here again."""
        self.gone = [one for one in self.gone if one.track_id not in track_ids]

    def forget(self) -> None:
        """Everybody."""
        self.gone, self.experience = [], Experience()


def decide(
    new: Sequence[Newcomer],
    gone: Sequence[Left],
    present: Sequence[Looks],
    pts_s: float,
    experience: Experience,
) -> list[int | None]:
    """Who each newcomer is: the id of one who was gone, 0 for somebody else, None where more must be seen first.

    Nobody is found in two of them: the likeliest goes first.

    Args:
        new: the newcomers.
        gone: who left.
        present: looks at the others who are there, by whom the mean of all people is known better.
        pts_s: now.
        experience: what likeness is worth here.
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
    """What all `people` share, (D,), which says nothing about who somebody is; 0 () of nobody."""
    vectors = [looks.vector for looks in people if looks.count]
    return np.sum(vectors, 0) / (len(vectors) + SHRUNK)


def who(
    one: Newcomer,
    gone: Sequence[Left],
    mean: NDArray[np.float64],
    pts_s: float,
    experience: Experience,
) -> dict[int, float]:
    """Who of those who are `gone` somebody new is: probabilities by track id; what is missing to 1 is nobody of them.

    Those who cannot have come so far are left out.

    Args:
        one: the new person.
        gone: who left.
        mean: of all people's looks (D,), see `mean_look`.
        pts_s: now.
        experience: as of `decide`.
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
    """How likely (N, M), 0..1, looks (M, D) are at each of N `people`, where it was as likely as not beforehand."""
    odds = experience.odds(_alike(people, vectors, mean))
    return odds / (1 + odds)


def _alike(people: Sequence[Looks], vectors: NDArray[np.floating], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """How alike (N, M), -1..1, looks (M, D) are to those at each of N `people`, beside what all share."""
    return np.stack([_unit(looks.vector - mean) for looks in people]) @ np.stack([_unit(v - mean) for v in vectors]).T


def _may_be(one: Left, box: Float32, pts_s: float) -> bool:
    """Whether they can have come from where they left to that box (4,) since then."""
    before, now = one.bbox_xyxy, box
    tall, taller = sorted((float(before[3] - before[1]), float(now[3] - now[1])))
    way = float(np.linalg.norm((before[:2] + before[2:] - now[:2] - now[2:]) / 2))
    return taller <= SIZES * tall and way <= taller * (NEAR + WALKS_PER_S * (pts_s - one.seen_s))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
