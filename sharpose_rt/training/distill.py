"""Teachers whose heatmaps a network learns in addition to labels (Hinton et al. 2015; for heatmaps Zhang et al.
2019)."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
"""Returns heatmaps (B, K, h, w) float32 for normalised crops (B, 3, H, W)."""


def create_teacher(config: DistillConfig, pupil: Variant, device: torch.device) -> Teacher:
    """The teacher of a configuration, or the mean of several, optionally including mirrored crops.

    Args:
        config: `model` is one of our variants, or 'file' for a network in ONNX, OpenVINO or ncnn form; `weights` are
            its weights, or this file; `also` lists further files. Crops and heatmaps must be like ours (ImageNet
            normalisation, UDP).
        pupil: defines the crops and keypoints.
        device: for a variant of ours; a file runs on the CPU.

    Raises:
        ConfigError: it has another crop size or other keypoints than the pupil, or the runtime for the file is not
            installed, or the kind of file is unknown.
        WeightsError: it cannot be read.
    """
    teachers = [_read_teacher(config.model, config.weights, pupil, device)]
    teachers += [_read_teacher("file", name, pupil, device) for name in config.also]

    def mean(images: Tensor) -> Tensor:
        return torch.stack([fitted(teacher(images), pupil.heatmap_size_hw) for teacher in teachers]).mean(0)

    if not config.flip:
        return mean
    order = pupil.skeleton.flip_order
    return lambda images: (mean(images) + flip_back(mean(images.flip(-1)), order)) / 2


def _read_teacher(model: str, weights: str, pupil: Variant, device: torch.device) -> Teacher:
    if model == "file":
        return (NcnnTeacher if weights.lower().endswith(".param") else FileTeacher)(Path(weights), pupil)
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
    """A network in ONNX (.onnx) or OpenVINO form (.xml), run by OpenVINO with as many threads as torch.

    Args:
        path: the file.
        pupil: defines the crops, and the keypoints in their order.
    """

    def __init__(self, path: Path, pupil: Variant) -> None:
        if not is_network_file(str(path)):
            raise ConfigError(f"a teacher's file is {str(path)!r}; a .xml, .onnx or .param file is accepted")
        package, core = openvino()
        # Each process of torchrun has its own threads. By default OpenVINO uses bfloat16 even if that is slower.
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
        """Heatmaps (B, K, h, w), one crop after another, because such files have a batch size of one."""
        pixels = images.float().cpu().numpy()
        maps = [torch.from_numpy(self.network([pixels[i : i + 1]])[self.output].copy()) for i in range(len(pixels))]
        return torch.cat(maps).to(images.device)


class NcnnTeacher:
    """A network in ncnn form (.param, with its .bin next to it), run by the package `ncnn` with as many threads as
    torch.

    Args:
        path: the .param file.
        pupil: defines the crops, and the keypoints in their order.
    """

    def __init__(self, path: Path, pupil: Variant) -> None:
        if importlib.util.find_spec("ncnn") is None:
            raise ConfigError(f"the teacher {path} is run by ncnn, which is not installed: `pip install ncnn`")
        ncnn = importlib.import_module("ncnn")  # a compiled module, without types
        self.mat, self.net = ncnn.Mat, ncnn.Net()
        self.net.opt.num_threads = torch.get_num_threads()
        self.net.opt.use_fp16_arithmetic = False
        weights = path.with_suffix(".bin")
        for file in (path, weights):
            if not file.is_file():
                raise WeightsError(f"no file {file}; a network in ncnn's form is a .param and a .bin file")
        if self.net.load_param(str(path)) or self.net.load_model(str(weights)):
            raise WeightsError(f"the teacher {path} cannot be read by ncnn")
        names = self.net.input_names(), self.net.output_names()
        if (len(names[0]), len(names[1])) != (1, 1):
            raise WeightsError(
                f"the teacher {path} has inputs and outputs {names}; one picture and heatmaps are wanted"
            )
        self.input, self.output = names[0][0], names[1][0]
        shape = self._run(np.zeros((3, *pupil.size_hw), np.float32)).shape
        if len(shape) != 3 or shape[0] != len(pupil.skeleton):
            raise ConfigError(
                f"the teacher {path} makes {list(shape)} of a crop of {pupil.size_hw[0]}x{pupil.size_hw[1]} px; "
                f"heatmaps of {len(pupil.skeleton)} keypoints are wanted of a teacher of {pupil.name}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Heatmaps (B, K, h, w), one crop after another."""
        pixels = images.float().cpu().numpy()
        return torch.stack([torch.from_numpy(self._run(crop)) for crop in pixels]).to(images.device)

    def _run(self, crop: np.ndarray) -> np.ndarray:
        run = self.net.create_extractor()
        crop = np.ascontiguousarray(crop)  # ncnn reads this memory later, without keeping a reference
        run.input(self.input, self.mat(crop))
        failed, found = run.extract(self.output)
        if failed:
            raise WeightsError(f"ncnn cannot run its network on a picture of {crop.shape[1]}x{crop.shape[2]} px")
        return np.array(found)


def distillation_loss(heatmaps: Tensor, taught: Tensor, followed: Tensor | float = 1.0) -> Tensor:
    """Mean square error (scalar) to a teacher's heatmaps, including unlabelled joints.

    Args:
        heatmaps: (B, K, h, w).
        taught: (B, K, h, w).
        followed: (B, K), 0 for joints where the teacher is ignored.
    """
    return (followed * (heatmaps - taught).square().mean((2, 3))).mean()


def fitted(taught: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """A teacher's heatmaps (B, K, h', w') resized to ours (B, K, h, w), on UDP's grid."""
    if taught.shape[2:] == size_hw:
        return taught
    return F.interpolate(taught, size_hw, mode="bilinear", align_corners=True)


def is_right(taught: Tensor, targets: Tensor, joint_weights: Tensor) -> Tensor:
    """(B, K) of 0 or 1: joints whose teacher heatmap is nearer to the label than an empty one, or without a label.

    A teacher that sees the wrong person, or nobody, would contradict a known label.

    Args:
        taught: (B, K, h, w).
        targets: (B, K, h, w), of the labels.
        joint_weights: (B, K), 0 for unlabelled joints.
    """
    near = (taught - targets).square().sum((2, 3)) < targets.square().sum((2, 3))
    return ((joint_weights == 0) | near).to(taught)
