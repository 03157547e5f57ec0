"""Raw keypoints in, raw and smoothed keypoints out."""

from __future__ import annotations

from collections.abc import Iterable

from sharpose_rt.runtime import BaseStage
from sharpose_rt.tracking import KeypointSmoother
from sharpose_rt.types import Packet


class SmoothStage(BaseStage[Packet, Packet]):
    """Smooths each track's keypoints over media time."""

    name = "smooth"

    def __init__(self, smoother: KeypointSmoother) -> None:
        self.smoother = smoother

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with smoothed poses. Nobody is carried over into a new scene or pictures of another size."""
        assert item.poses is not None
        if item.new_scene:
            self.smoother.forget()
        tracked = () if item.tracks is None else item.tracks.track_ids
        return (item.left(self.name, poses=self.smoother.update(item.poses, item.frame.pts_s, tracked, item.camera)),)
