"""Raw keypoints in, smoothed ones beside them out."""

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
        self._size_wh: tuple[int, int] | None = None

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with smoothed poses. Nobody is carried over into pictures of another size."""
        assert item.poses is not None
        if self._size_wh not in (None, item.frame.size_wh):
            self.smoother.forget()
        self._size_wh = item.frame.size_wh
        return (item.left(self.name, poses=self.smoother.update(item.poses, item.frame.pts_s)),)
