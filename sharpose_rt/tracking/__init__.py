"""Identities of people over time, and smoothing of their keypoints."""

from sharpose_rt.config import TrackerConfig
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.tracking.base import Tracker
from sharpose_rt.tracking.camera import CameraMotion, PeopleMotion
from sharpose_rt.tracking.scene import SceneCuts
from sharpose_rt.tracking.smoothing import KeypointSmoother, rts_smooth


def create_tracker(config: TrackerConfig, skeleton: Skeleton) -> Tracker:
    """The tracker that `config.name` names, with no tracks yet."""
    if config.name == "bytetrack":
        from sharpose_rt.tracking.byte_tracker import ByteTrack

        return ByteTrack(config)
    from sharpose_rt.tracking.sharpose_tracker import SharposeTracker  # scipy's optimiser takes a third of a second

    return SharposeTracker(config, skeleton)


__all__ = ["CameraMotion", "KeypointSmoother", "PeopleMotion", "SceneCuts", "Tracker", "create_tracker", "rts_smooth"]
