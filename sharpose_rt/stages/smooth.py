"""Raw keypoints in, smoothed ones beside them out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sharpose_rt.runtime import BaseStage
from sharpose_rt.tracking import KeypointSmoother
from sharpose_rt.types import Packet


class SmoothStage(BaseStage[Packet, Packet]):
    """Smooths each track's keypoints over media time."""

    name = "smooth"

    def __init__(self, smoother: KeypointSmoother) -> None:
        self.smoother = smoother

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with smoothed poses."""
        assert item.poses is not None
        return (replace(item, poses=self.smoother.update(item.poses, item.frame.pts_s)),)
