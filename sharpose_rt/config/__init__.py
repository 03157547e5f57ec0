"""Options of a run: what they are (`schema`) and where they come from (`load`)."""

from sharpose_rt.config.load import find_preset, load, merge, preset_names, read_yaml, to_dict
from sharpose_rt.config.schema import (
    DetectorConfig,
    DrawConfig,
    OutputConfig,
    PoseConfig,
    RunConfig,
    SmoothConfig,
    SourceConfig,
    TrackerConfig,
)

__all__ = [
    "DetectorConfig",
    "DrawConfig",
    "OutputConfig",
    "PoseConfig",
    "RunConfig",
    "SmoothConfig",
    "SourceConfig",
    "TrackerConfig",
    "find_preset",
    "load",
    "merge",
    "preset_names",
    "read_yaml",
    "to_dict",
]
