"""Boxes of people in, their poses out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sharpose_rt.engine import Engine
from sharpose_rt.engine.base import Choose
from sharpose_rt.runtime import BaseStage, Status
from sharpose_rt.stages.budget import BudgetController
from sharpose_rt.stages.needs import People, Person, estimate_first, refine, refine_first
from sharpose_rt.types import Packet, Poses, PoseStage, Tracks


class EstimateStage(BaseStage[Packet, Packet]):
    """Runs the pose network on the boxes of each frame. `engine` is there once the stage is open.

    `load` gives it, for the thread that opens the stage.

    It is ready for so many people then (`ready_for`; None: for any number): most videos have no more. A `live` source
    does not wait while a larger group than before is prepared for (see `Engine.warm_up`).
    With a `budget` its plan decides who is estimated and who is refined; without, the engine's gate does, by what the
    coarse stage said of a person of late. It may serve several `sources`, whose people share batches and budget.
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

    def open(self) -> None:
        """Load the network."""
        self.engine = self.load()
        self.engine.warm_up(self.ready_for, behind=self.live)
        if self.budget is not None:
            self.budget.begin(self.engine.gate.quality_threshold)

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with its poses, raw and not yet smoothed."""
        return (self.together([(0, item)])[0],)

    def together(self, items: Sequence[tuple[int, Packet]]) -> list[Packet]:
        """The packets, each of another source by its place, with their poses: all people go through at once."""
        assert self.engine is not None
        tracks, gate = [_tracks(packet) for _, packet in items], self.engine.gate
        if self.budget is None:
            choose: Choose | None = None
            if gate.asks_network:
                people = self._follow(items, tracks)
                choose = lambda part, outlook: refine(people[part], outlook, gate)  # noqa: E731
            found = self._estimate(items, tracks, choose)
            return [packet.left(self.name, poses=poses) for (_, packet), poses in zip(items, found, strict=True)]
        return self._within(self.budget, items, tracks)

    def _within(
        self, budget: BudgetController, items: Sequence[tuple[int, Packet]], tracks: Sequence[Tracks]
    ) -> list[Packet]:
        """The packets with poses of those whose turn it is."""
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
        found = self._estimate(items, chosen, lambda part, outlook: refine_first(asked[part], outlook, plan, gate))
        quality = np.concatenate([poses.quality for poses in found])
        refined = [(poses.stage == PoseStage.FINE) & self.engine.two_stages for poses in found]
        for person, value, fine in zip(asked, quality.tolist(), np.concatenate(refined).tolist(), strict=True):
            person.estimated(value, fine)
        budget.saw(quality)
        return [
            packet.left(
                self.name,
                poses=poses,
                budget=plan.record(len(poses), int(fine.sum()), len(t) - len(poses)),
            )
            for (_, packet), t, poses, fine in zip(items, tracks, found, refined, strict=True)
        ]

    def _follow(self, items: Sequence[tuple[int, Packet]], tracks: Sequence[Tracks]) -> list[Person]:
        """The people of all sources' tracks, one after the other."""
        pairs = zip(items, tracks, strict=True)
        return [person for (i, packet), t in pairs for person in self._people[i].follow(t, packet.frame.pts_s)]

    def _estimate(
        self, items: Sequence[tuple[int, Packet]], tracks: Sequence[Tracks], choose: Choose | None = None
    ) -> list[Poses]:
        assert self.engine is not None
        pictures = [(packet.frame.image_bgr, t.bboxes_xyxy) for (_, packet), t in zip(items, tracks, strict=True)]
        found = [
            estimates.poses(t.bboxes_xyxy, t.bbox_scores, t.track_ids)
            for estimates, t in zip(self.engine.estimate_all(pictures, choose), tracks, strict=True)
        ]
        for (index, _), poses in zip(items, found, strict=True):
            self.last_poses[index] = poses
        return found

    def close(self, status: Status, /) -> None:
        """Let the last frames' poses go; the engine's facts stay for the summary."""
        self.last_poses = [None] * len(self.last_poses)


def _tracks(packet: Packet) -> Tracks:
    assert packet.tracks is not None
    return packet.tracks
