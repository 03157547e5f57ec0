"""Boxes of people in, poses out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.engine import Engine
from sharpose_rt.engine.base import PoseEstimates
from sharpose_rt.models.gate import Outlook
from sharpose_rt.runtime import BaseStage, Status
from sharpose_rt.stages.budget import BudgetController
from sharpose_rt.stages.needs import Pace, People, Person, estimate_first, refine, refine_first
from sharpose_rt.stages.refinement import Pose, surprises
from sharpose_rt.types import Packet, Poses, PoseStage, Tracks


class EstimateStage(BaseStage[Packet, Packet]):
    """Runs the pose network on the boxes of each frame.

    `load` returns the `engine`, in the thread that opens the stage. Opening prepares it for `ready_for` people (None:
    any number); most videos have no more. A `live` source does not wait while the engine prepares for a larger group
    (see `Engine.warm_up`).
    With a `budget` its plan decides who is estimated and who is refined. Without one, everyone is estimated, and the
    engine's gate decides who is refined, from what the coarse stage recently predicted and `PoseConfig.refine_every`.
    People who are not refined keep the last correction that the fine stage made (see `stages.refinement`). One stage
    may serve several `sources`, whose people share batches and budget.
    """

    name = "pose"

    def __init__(
        self,
        load: Callable[[], Engine],
        budget: BudgetController | None = None,
        sources: int = 1,
        *,
        live: bool = False,
    ) -> None:
        self.load, self.budget, self.live = load, budget, live
        self.ready_for: int | None = 2
        self.engine: Engine | None = None
        self.last_poses: list[Poses | None] = [None] * sources
        self._people = [People() for _ in range(sources)]
        self._pace = Pace()

    def open(self) -> None:
        """Loads the network."""
        self.engine = self.load()
        self.engine.warm_up(self.ready_for, behind=self.live)
        if self.budget is not None:
            self.budget.begin(self.engine.gate.quality_threshold)

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with its poses, raw and not yet smoothed."""
        return (self.together([(0, item)])[0],)

    def together(self, items: Sequence[tuple[int, Packet]]) -> list[Packet]:
        """The packets with their poses. `items` are (source number, packet), and all people go through together."""
        assert self.engine is not None
        tracks, gate = [_tracks(packet) for _, packet in items], self.engine.gate
        if self.budget is None:
            every, chosen = self._every([packet for _, packet in items]), None
            if gate.asks_network or every > 1:
                chosen = Refining(self._follow(items, tracks), partial(refine, gate=gate, every=every), self._sigmas)
            found = self._estimate(items, tracks, chosen)
            return [packet.left(self.name, poses=poses) for (_, packet), poses in zip(items, found, strict=True)]
        return self._within(self.budget, items, tracks)

    def _within(
        self, budget: BudgetController, items: Sequence[tuple[int, Packet]], tracks: Sequence[Tracks]
    ) -> list[Packet]:
        """The packets with the poses of the people whose turn it is."""
        plan = budget.plan
        first = estimate_first(self._follow(items, tracks), plan.estimate_share)
        rows = np.split(first, np.searchsorted(first, np.cumsum([len(t) for t in tracks])[:-1]))
        begins = np.cumsum([0, *(len(t) for t in tracks[:-1])])
        chosen = [t.take(r - begin) for t, r, begin in zip(tracks, rows, begins, strict=True)]
        asked = [
            self._people[i].known[n] for (i, _), t in zip(items, chosen, strict=True) for n in t.track_ids.tolist()
        ]
        assert self.engine is not None
        gate = self.engine.gate
        decide = partial(refine_first, plan=plan, gate=gate, every=self.engine.config.refined_every)
        found = self._estimate(items, chosen, Refining(asked, decide, self._sigmas))
        quality = np.concatenate([poses.quality for poses in found])
        refined = [(poses.stage == PoseStage.FINE) & self.engine.two_stages for poses in found]
        budget.saw(quality)
        return [
            packet.left(self.name, poses=poses, budget=plan.record(len(poses), int(fine.sum()), len(t) - len(poses)))
            for (_, packet), t, poses, fine in zip(items, tracks, found, refined, strict=True)
        ]

    def _follow(self, items: Sequence[tuple[int, Packet]], tracks: Sequence[Tracks]) -> list[Person]:
        """The people of all tracks, in the order of the sources."""
        pairs = zip(items, tracks, strict=True)
        return [
            person
            for (i, packet), t in pairs
            for person in self._people[i].follow(t, packet.frame.pts_s, packet.camera)
        ]

    def _every(self, packets: Sequence[Packet]) -> int:
        """The n of these frames: people who move as expected are refined on every n-th frame."""
        assert self.engine is not None
        if self.engine.config.refine_every is not None or not self.live:
            return self.engine.config.refined_every
        dropped = any(packet.frame.dropped_before for packet in packets)
        return self._pace.every(dropped, max(packet.frame.captured_at_s for packet in packets))

    @property
    def _sigmas(self) -> tuple[float, ...]:
        assert self.engine is not None
        return self.engine.skeleton.sigmas

    def _estimate(
        self, items: Sequence[tuple[int, Packet]], tracks: Sequence[Tracks], refining: Refining | None
    ) -> list[Poses]:
        assert self.engine is not None
        pictures = [(packet.frame.image_bgr, t.bboxes_xyxy) for (_, packet), t in zip(items, tracks, strict=True)]
        if refining is None:
            estimates = self.engine.estimate_all(pictures)
        else:
            estimates = refining.carried(self.engine.estimate_all(pictures, refining.choose, corrected=True))
        pairs = zip(estimates, tracks, strict=True)
        found = [poses.poses(t.bboxes_xyxy, t.bbox_scores, t.track_ids) for poses, t in pairs]
        for (index, _), poses in zip(items, found, strict=True):
            self.last_poses[index] = poses
        return found

    def close(self, status: Status, /) -> None:
        """Releases the last poses; the engine's facts stay for the summary."""
        self.last_poses = [None] * len(self.last_poses)


class Refining:
    """Which of these people (N,) are refined in one frame, and the corrections that the others keep.

    Args:
        people: one for each box that is estimated, in order.
        decide: `refine` or `refine_first`: which of some people (n,) are refined, from what the coarse stage predicts
            and how far (n,) its poses are from where they were expected.
        sigmas: (K,) of the skeleton.
    """

    def __init__(
        self, people: Sequence[Person], decide: Callable[..., NDArray[np.bool_]], sigmas: Sequence[float]
    ) -> None:
        self.people, self.decide, self.sigmas = people, decide, sigmas
        self._coarse: list[Pose] = []
        self._corrected: list[Pose] = []
        self._expected: list[NDArray[np.float64] | None] = []

    def choose(self, part: slice, outlook: Outlook) -> NDArray[np.bool_]:
        """See `engine.base.Choose`."""
        assert outlook.coarse is not None
        people, coarse = self.people[part], list(zip(*outlook.coarse(), strict=True))
        corrected = [
            person.refinement.corrected(pose, person.place) for person, pose in zip(people, coarse, strict=True)
        ]
        expected = [person.refinement.expected(person.pts_s) for person in people]
        self._coarse += coarse
        self._corrected += corrected
        self._expected += expected
        surprise = surprises(corrected, expected, [person.size_px for person in people], self.sigmas)
        return self.decide(people, outlook, surprise=surprise)

    def carried(self, found: Sequence[PoseEstimates]) -> list[PoseEstimates]:
        """The poses per picture, corrected for people who were not refined; remembers what is output."""
        estimates, begin, two_stages = [], 0, bool(self._coarse)
        for poses in found:
            keypoints, scores = poses.keypoints.copy(), poses.scores.copy()
            for row in range(len(poses)):
                number = begin + row
                person, fine = self.people[number], bool(poses.refined[row]) and two_stages
                person.estimated(float(poses.quality[row]), fine)
                if fine:
                    person.refinement.refined(self._coarse[number], (keypoints[row], scores[row]), person.place)
                elif two_stages:
                    corrected, scores[row] = self._corrected[number]
                    keypoints[row] = person.refinement.steadied(corrected, self._expected[number], person.place)
                person.refinement.came_out(keypoints[row], person.pts_s)
            begin += len(poses)
            estimates.append(replace(poses, keypoints=keypoints, scores=scores))
        return estimates


def _tracks(packet: Packet) -> Tracks:
    assert packet.tracks is not None
    return packet.tracks
