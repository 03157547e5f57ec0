"""Teachers whose heatmaps a network learns beside the labels (Hinton et al. 2015; for heatmaps Zhang et al. 2019)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.geometry.heatmap import flip_back
from sharpose_rt.models import find_variant
from sharpose_rt.models.variants import Variant
from sharpose_rt.models.weights import load_model


class Teacher(Protocol):
    """What a pupil needs of its teacher."""

    def __call__(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, h, w) float32 of normalised crops (B, 3, H, W)."""
        ...


def create_teacher(model: str, weights: str, pupil: Variant, device: torch.device) -> Teacher:
    """The teacher that a configuration names.

    Args:
        model: a variant of ours, or 'file' for a network in ONNX or OpenVINO's form.
        weights: its weights, or that file; crops and heatmaps as ours (ImageNet normalisation, UDP).
        pupil: whose crops it is given, and whose keypoints are wanted.
        device: where ours runs; a file runs on the CPU.

    Raises:
        ConfigError: it takes crops of another size or has other keypoints than the pupil; the runtime of the file is
            not installed, or it is of no known kind.
        WeightsError: it cannot be read.
    """
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
    """A network in ONNX (.onnx) or OpenVINO's form (.xml), run by OpenVINO on the CPU; flip-averaged.

    Args:
        path: the file.
        pupil: whose crops it is given, and whose keypoints are wanted, in their order.
    """

    def __init__(self, path: Path, pupil: Variant) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ConfigError("a teacher from a file needs OpenVINO: pip install 'sharpose-rt[cpu]'") from error
        if path.suffix not in (".xml", ".onnx"):
            raise ConfigError(f"distill.weights is {str(path)!r}; a .xml or .onnx file is accepted for model 'file'")
        try:
            self.network = openvino.Core().compile_model(str(path), "CPU")
        except RuntimeError as error:
            raise WeightsError(f"the teacher {path} cannot be read: {str(error).splitlines()[0]}") from error
        outputs = [i for i, out in enumerate(self.network.outputs) if len(out.partial_shape) == 4]
        if len(outputs) != 1:
            raise WeightsError(f"the teacher {path} has {len(outputs)} outputs of 4 axes; one of heatmaps is wanted")
        self.output, self.flip_order = outputs[0], pupil.skeleton.flip_order
        takes, gives = self.network.inputs[0].partial_shape, self.network.outputs[self.output].partial_shape
        wants = openvino.PartialShape([1, 3, *pupil.size_hw]), openvino.PartialShape([1, len(pupil.skeleton), -1, -1])
        if not (takes.compatible(wants[0]) and gives.compatible(wants[1])):
            raise ConfigError(
                f"the teacher {path} makes heatmaps {gives} of crops {takes}; a teacher of {pupil.name} makes "
                f"{wants[1]} of {wants[0]}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, h, w), the mean of those of each crop and of its mirror image."""
        return (self._run(images) + flip_back(self._run(images.flip(-1)), self.flip_order)) / 2

    def _run(self, images: Tensor) -> Tensor:
        """One crop after the other, since such files take a batch of one."""
        pixels = images.float().cpu().numpy()
        maps = [torch.from_numpy(self.network([pixels[i : i + 1]])[self.output].copy()) for i in range(len(pixels))]
        return torch.cat(maps).to(images.device)


def distillation_loss(heatmaps: Tensor, taught: Tensor) -> Tensor:
    """Mean square error (scalar) to a teacher's heatmaps, fitted to ours in size; unlabelled joints take part too.

    Args:
        heatmaps: (B, K, h, w).
        taught: (B, K, h', w').
    """
    if taught.shape[2:] != heatmaps.shape[2:]:
        taught = F.interpolate(taught, heatmaps.shape[2:], mode="bilinear", align_corners=True)  # UDP's grid
    return F.mse_loss(heatmaps, taught)
