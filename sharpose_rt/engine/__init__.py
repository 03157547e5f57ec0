"""Runs a network fast, from a picture and boxes to poses in picture pixels."""

from sharpose_rt.config import PoseConfig
from sharpose_rt.config.checks import is_network_file
from sharpose_rt.engine.appearance import Appearance
from sharpose_rt.engine.base import Engine, PoseEstimates
from sharpose_rt.engine.choice import choose
from sharpose_rt.engine.device import resolve_device, resolve_precision
from sharpose_rt.engine.engine import PoseEngine
from sharpose_rt.engine.file_engine import FileEngine, file_skeleton
from sharpose_rt.errors import ConfigError
from sharpose_rt.models.variants import find_variant
from sharpose_rt.skeleton import Skeleton

__all__ = [
    "Appearance",
    "Engine",
    "FileEngine",
    "PoseEngine",
    "PoseEstimates",
    "choose",
    "create_engine",
    "resolve_device",
    "resolve_precision",
    "skeleton_of",
]


def create_engine(config: PoseConfig) -> Engine:
    """The engine of the model that `config` names: a variant of ours, or a file.

    Raises:
        WeightsError: there are no weights, or they do not fit.
        DeviceError: the device, the precision or the backend is not available.
        ConfigError: no such variant, or an option that a network from a file does not have.
    """
    if is_network_file(config.model):
        return FileEngine(config)
    if config.pixels != "auto":
        raise ConfigError(f"pose.pixels is {config.pixels!r}, but the model {config.model!r} is not a file; omit it")
    return PoseEngine(config)


def skeleton_of(model: str) -> Skeleton:
    """The keypoints of a model, a variant of ours or a file, without an engine.

    Raises:
        ConfigError: there is no such variant.
        WeightsError: the file is not a network that an engine can run.
        DeviceError: the package that reads the file is not installed.
    """
    return file_skeleton(model) if is_network_file(model) else find_variant(model).skeleton
