"""Runs a network fast: a picture and boxes in, poses in picture pixels out."""

from sharpose_rt.engine.choice import choose
from sharpose_rt.engine.device import resolve_device, resolve_precision
from sharpose_rt.engine.engine import PoseEngine, PoseEstimates

__all__ = ["PoseEngine", "PoseEstimates", "choose", "resolve_device", "resolve_precision"]
