"""Options of a run: what they are (`schema`) and where they come from (`load`)."""

from sharpose_rt.config.load import find_preset, load, merge, override, preset_names, read_yaml, to_dict
from sharpose_rt.config.schema import (
    BudgetConfig,
    DetectorConfig,
    DrawConfig,
    LiveConfig,
    OutputConfig,
    PoseConfig,
    RunConfig,
    SmoothConfig,
    SourceConfig,
    TrackerConfig,
)

__all__ = [
    "BudgetConfig",
    "DetectorConfig",
    "DrawConfig",
    "LiveConfig",
    "OutputConfig",
    "PoseConfig",
    "RunConfig",
    "SmoothConfig",
    "SourceConfig",
    "TrackerConfig",
    "find_preset",
    "load",
    "merge",
    "override",
    "preset_names",
    "read_yaml",
    "to_dict",
]
