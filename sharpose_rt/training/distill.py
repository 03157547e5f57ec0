"""Teachers whose heatmaps a network learns beside the labels (Hinton et al. 2015; for heatmaps Zhang et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpose_rt.compute.openvino_graphs import PRECISION_HINTS, openvino, read_graph
from sharpose_rt.compute.precision import fastest_dtype
from sharpose_rt.config.checks import is_network_file
from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.geometry.heatmap import flip_back
from sharpose_rt.models import find_variant
from sharpose_rt.models.variants import Variant
from sharpose_rt.models.weights import load_model
from sharpose_rt.training.config import DistillConfig

Teacher = Callable[[Tensor], Tensor]
"""Gives heatmaps (B, K, h, w) float32 of normalised crops (B, 3, H, W)."""


def create_teacher(config: DistillConfig, pupil: Variant, device: torch.device) -> Teacher:
    """The teacher that a configuration names, averaged over mirror images where it asks for that.

    Args:
        config: its `model` is a variant of ours, or 'file' for a network in ONNX or OpenVINO's form; `weights` are its
            weights, or that file. Crops and heatmaps are as ours (ImageNet normalisation, UDP).
        pupil: whose crops it is given, and whose keypoints are wanted.
        device: where ours runs; a file runs on the CPU.

    Raises:
        ConfigError: it takes crops of another size or has other keypoints than the pupil; the runtime of the file is
            not installed, or it is of no known kind.
        WeightsError: it cannot be read.
    """
    teacher = _read_teacher(config.model, config.weights, pupil, device)
    if not config.flip:
        return teacher
    order = pupil.skeleton.flip_order
    return lambda images: (teacher(images) + flip_back(teacher(images.flip(-1)), order)) / 2


def _read_teacher(model: str, weights: str, pupil: Variant, device: torch.device) -> Teacher:
    if model == "file":
        return FileTeacher(Path(weights), pupil)
    variant = find_variant(model)
    if variant.size_hw != pupil.size_hw or variant.skeleton != pupil.skeleton:
        raise ConfigError(
            f"distill.model is {model!r}, of {_said(variant)}; a teacher of {pupil.name} is of its {_said(pupil)}; "
            "`sharpose-rt models` lists them"
        )
    network, _ = load_model(model, weights)
    network.to(device).requires_grad_(False)

    @torch.no_grad()
    def heatmaps(images: Tensor) -> Tensor:
        return network(images, quality_threshold=math.inf).heatmaps.float()

    return heatmaps


def _said(variant: Variant) -> str:
    return f"{variant.size_hw[0]}x{variant.size_hw[1]} px and {variant.skeleton.name}'s keypoints"


class FileTeacher:
    """A network in ONNX (.onnx) or OpenVINO's form (.xml), run by OpenVINO on as many threads as torch has.

    Args:
        path: the file.
        pupil: whose crops it is given, and whose keypoints are wanted, in their order.
    """

    def __init__(self, path: Path, pupil: Variant) -> None:
        if not is_network_file(str(path)):
            raise ConfigError(f"distill.weights is {str(path)!r}; a .xml or .onnx file is accepted for model 'file'")
        package, core = openvino()
        # Each process of torchrun has its threads. By itself OpenVINO takes bfloat16 where that is slower, too.
        hint = PRECISION_HINTS[fastest_dtype()]
        asked = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": hint}
        graph = read_graph(path)
        try:
            self.network = core.compile_model(graph, "CPU", asked)
        except RuntimeError as error:
            raise WeightsError(f"the teacher {path} cannot be run: {str(error).splitlines()[0]}") from error
        outputs = [i for i, out in enumerate(self.network.outputs) if len(out.partial_shape) == 4]
        if len(outputs) != 1:
            raise WeightsError(f"the teacher {path} has {len(outputs)} outputs of 4 axes; one of heatmaps is wanted")
        self.output = outputs[0]
        takes, gives = self.network.inputs[0].partial_shape, self.network.outputs[self.output].partial_shape
        wants = package.PartialShape([1, 3, *pupil.size_hw]), package.PartialShape([1, len(pupil.skeleton), -1, -1])
        if not (takes.compatible(wants[0]) and gives.compatible(wants[1])):
            raise ConfigError(
                f"the teacher {path} makes heatmaps {gives} of crops {takes}; a teacher of {pupil.name} makes "
                f"{wants[1]} of {wants[0]}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, h, w) of one crop after the other, since such files take a batch of one."""
        pixels = images.float().cpu().numpy()
        maps = [torch.from_numpy(self.network([pixels[i : i + 1]])[self.output].copy()) for i in range(len(pixels))]
        return torch.cat(maps).to(images.device)


def distillation_loss(heatmaps: Tensor, taught: Tensor, followed: Tensor | float = 1.0) -> Tensor:
    """Mean square error (scalar) to a teacher's heatmaps; unlabelled joints take part too.

    Args:
        heatmaps: (B, K, h, w).
        taught: (B, K, h, w).
        followed: (B, K), 0 for joints in which the teacher is not followed.
    """
    return (followed * (heatmaps - taught).square().mean((2, 3))).mean()


def fitted(taught: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """A teacher's heatmaps (B, K, h', w') in our size (B, K, h, w), on UDP's grid."""
    if taught.shape[2:] == size_hw:
        return taught
    return F.interpolate(taught, size_hw, mode="bilinear", align_corners=True)


def is_right(taught: Tensor, targets: Tensor, joint_weights: Tensor) -> Tensor:
    """Joints (B, K) of 0 or 1: where a teacher's heatmap is nearer to the label than an empty one, or none is given.

    A teacher that sees the wrong person, or nobody, would pull away from a label that is known.

    Args:
        taught: (B, K, h, w).
        targets: (B, K, h, w), of the labels.
        joint_weights: (B, K), 0 where a joint is not labelled.
    """
    near = (taught - targets).square().sum((2, 3)) < targets.square().sum((2, 3))
    return ((joint_weights == 0) | near).to(taught)
