"""What the next frame inherits from frames that were dropped before it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from sharpose_rt.geometry.affine import chain_motions
from sharpose_rt.types import Frame, Packet

Item = TypeVar("Item", Frame, Packet)


def count_dropped(dropped: Item, kept: Item) -> Item:
    """The item after a dropped one, with its frame's count of dropped frames updated.

    The boxes of a dropped frame pass to the next one if that has none: with `detector.every` they are the only ones
    for a while. The camera motions before both are combined.
    """
    if isinstance(kept, Frame):
        assert isinstance(dropped, Frame)
        return _counted(dropped, kept)
    assert isinstance(dropped, Packet)
    detections = dropped.detections if kept.detections is None else kept.detections
    new_scene = kept.new_scene or dropped.new_scene
    camera = None if new_scene else chain_motions(dropped.camera, kept.camera)
    frame = _counted(dropped.frame, kept.frame)
    return replace(kept, frame=frame, detections=detections, new_scene=new_scene, camera=camera)


def _counted(dropped: Frame, kept: Frame) -> Frame:
    return replace(
        kept,
        dropped_before=kept.dropped_before + dropped.dropped_before + 1,
        lost_before_s=kept.lost_before_s + dropped.lost_before_s,
        new_scene=kept.new_scene or dropped.new_scene,
    )
