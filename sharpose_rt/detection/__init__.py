"""Person detectors: `create_detector` creates the one that a `DetectorConfig` names."""

from sharpose_rt.detection.factory import create_detector
from sharpose_rt.detection.looks import Looks
from sharpose_rt.detection.protocol import Detector
from sharpose_rt.detection.runtime import Runtime

__all__ = ["Detector", "Looks", "Runtime", "create_detector"]
