"""The person detector that ships with the package."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.assets import import_ultralytics, model_plan
from sharpose_rt.detection.runtime import EAGER, Runtime
from sharpose_rt.detection.yolo import IMAGE_SIZE, Network, YoloDetector, module_network
from sharpose_rt.errors import WeightsError

logger = logging.getLogger("sharpose_rt.detection")

OURS = "mobile150"
"""Name of our own architecture."""
SIZES_PX = 32, 8192
"""Least and greatest longer side of the pictures that a detector may use."""
CROWD = 2
"""The look for crowds uses this many times the closer size."""
WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "person_detector.safetensors"


class BundledDetector(YoloDetector):
    """A one-class network with our own weights, in safetensors, which cannot run code.

    The file's metadata gives the `architecture` (see `build_module`), the class `names`, the `image_size` it is used
    at, the `closer_size` for small people, and the curve that turns its scores into shares of correct boxes.
    """

    def __init__(
        self, config: DetectorConfig, *, device: str = "cpu", weights: Path = WEIGHTS, runtime: Runtime = EAGER
    ) -> None:
        super().__init__(f"bundled:{weights.stem}", config, device, runtime)
        self.weights = weights

    def load(self) -> Network:
        """The network with its weights; raises WeightsError if they do not fit."""
        from sharpose_rt.models.int8 import quantized  # they pull in torch
        from sharpose_rt.models.weights import parse_ranges, stated

        module, metadata = load_module(self.weights)
        own_size = int(stated(metadata, "image_size", self.weights, IMAGE_SIZE, SIZES_PX))
        closer_size = int(stated(metadata, "closer_size", self.weights, own_size, (own_size, SIZES_PX[1])))
        if self.config.image_size is None and closer_size > own_size:
            self.sizes = (own_size, closer_size, CROWD * closer_size)
        else:
            self.sizes = (self.config.image_size or own_size,)
        network = module_network(module, {0: metadata.get("names", "person")}, self.name, self.device)
        ranges = parse_ranges(metadata, self.weights) if self.runtime.int8 else None
        if ranges is not None:
            fused: Any = network.run
            network = replace(network, run=quantized(fused, ranges), in_int8=True)
        slope = stated(metadata, "score_slope", self.weights, 1, (1e-3, 1e3))
        shift = stated(metadata, "score_shift", self.weights, 0, (-1e3, 1e3))
        return replace(network, score_curve=(slope, shift))


def load_module(weights: Path) -> tuple[Any, dict[str, str]]:
    """The torch module that a weights file describes, with its weights, and the file's metadata.

    Raises:
        WeightsError: the file is missing, damaged, names no architecture, or its tensors do not fit it.
    """
    import torch

    from sharpose_rt.models.weights import check_shipped, read_safetensors

    if weights == WEIGHTS:
        check_shipped(weights)
    state, metadata = read_safetensors(weights)
    architecture = metadata.get("architecture")
    if not architecture:
        raise WeightsError(
            f"person detector '{weights}' has no `architecture` in its metadata; give a file from `train-detector`"
        )
    with torch.random.fork_rng(devices=[]):  # new layers are filled at random; the program's own generator is unchanged
        module = build_module(architecture, weights.parent, state)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"person detector '{weights}' does not fit '{architecture}': {error}") from error
    return module.float(), metadata


def build_module(architecture: str, folder: Path, state: Mapping[str, Any] | None = None) -> Any:
    """An untrained one-class module: 'mobile150', or that of a model file in `folder` or of ultralytics.

    With the state of a thinned 'mobile150' it is thinned to match.
    """
    import_ultralytics()
    if architecture == OURS:
        from sharpose_rt.detection.person_network import PersonNetwork

        network = PersonNetwork()
        network.trunk.match(state or {}, "trunk.")
        return network
    if not architecture.endswith((".yaml", ".yml")):
        raise WeightsError(
            f"person detector architecture '{architecture}' is unknown to this version; '{OURS}' or an ultralytics "
            "model file (.yaml) is accepted. Retrain a detector of an earlier version with `sharpose-rt train-detector`"
        )
    from ultralytics.nn.tasks import DetectionModel

    beside = folder / architecture
    try:
        plan: Any = model_plan(str(beside) if beside.is_file() else architecture)
        return DetectionModel(plan, ch=3, nc=1, verbose=False)
    except Exception as error:  # a parser of free text may raise any kind
        raise WeightsError(f"person detector architecture '{architecture}' cannot be built: {error}") from error
