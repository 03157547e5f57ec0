"""Boxes in, boxes with identities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sharpose_rt.runtime import BaseStage
from sharpose_rt.tracking import Tracker
from sharpose_rt.types import Packet, Poses


class TrackStage(BaseStage[Packet, Packet]):
    """Gives each box its person. `last_poses` gives the poses of the frame before, where the tracker uses them."""

    name = "track"

    def __init__(self, tracker: Tracker, last_poses: Callable[[], Poses | None] = lambda: None) -> None:
        self.tracker, self.last_poses = tracker, last_poses

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with its tracks. Nobody is carried over into a new scene, or into pictures of another size."""
        if item.new_scene:
            self.tracker.forget()
        tracks = self.tracker.update(item.detections, item.frame.pts_s, self.last_poses())
        return (item.left(self.name, tracks=tracks),)
