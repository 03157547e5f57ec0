"""The networks. Modules get explicit arguments; they read no files and choose no device."""

from sharpose_rt.models.create import create_model
from sharpose_rt.models.sharpose import SHaRPose, SHaRPoseOutput
from sharpose_rt.models.variants import BEHAVIOURS, VARIANTS, Behaviour, Variant, find_behaviour, find_variant

__all__ = [
    "BEHAVIOURS",
    "VARIANTS",
    "Behaviour",
    "SHaRPose",
    "SHaRPoseOutput",
    "Variant",
    "create_model",
    "find_behaviour",
    "find_variant",
]
