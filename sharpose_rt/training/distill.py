"""Teachers whose heatmaps a network learns beside the labels (Hinton et al. 2015; for heatmaps Zhang et al. 2019)."""

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
"""Gives heatmaps (B, K, h, w) float32 of normalised crops (B, 3, H, W)."""


def create_teacher(config: DistillConfig, pupil: Variant, device: torch.device) -> Teacher:
    """The teacher that a configuration names, or the mean of several; of mirror images too where it asks for that.

    Args:
        config: its `model` is a variant of ours, or 'file' for a network in ONNX, OpenVINO's or ncnn's form; `weights`
            are its weights, or that file; `also` further files. Crops and heatmaps are as ours (ImageNet normalisation,
            UDP).
        pupil: whose crops it is given, and whose keypoints are wanted.
        device: where ours runs; a file runs on the CPU.

    Raises:
        ConfigError: it takes crops of another size or has other keypoints than the pupil; the runtime of the file is
            not installed, or it is of no known kind.
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
    """A network in ONNX (.onnx) or OpenVINO's form (.xml), run by OpenVINO on as many threads as torch has.

    Args:
        path: the file.
        pupil: whose crops it is given, and whose keypoints are wanted, in their order.
    """

    def __init__(self, path: Path, pupil: Variant) -> None:
        if not is_network_file(str(path)):
            raise ConfigError(f"a teacher's file is {str(path)!r}; a .xml, .onnx or .param file is accepted")
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


class NcnnTeacher:
    """A network in ncnn's form (.param, with its .bin beside it), run by the package `ncnn` on as many threads as torch
    has.

    Args:
        path: the .param file.
        pupil: whose crops it is given, and whose keypoints are wanted, in their order.
    """

    def __init__(self, path: Path, pupil: Variant) -> None:
        if importlib.util.find_spec("ncnn") is None:
            raise ConfigError(f"the teacher {path} is run by ncnn, which is not installed: `pip install ncnn`")
        ncnn = importlib.import_module("ncnn")  # a module of compiled code, without types
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
        """Heatmaps (B, K, h, w) of one crop after the other."""
        pixels = images.float().cpu().numpy()
        return torch.stack([torch.from_numpy(self._run(crop)) for crop in pixels]).to(images.device)

    def _run(self, crop: np.ndarray) -> np.ndarray:
        run = self.net.create_extractor()
        crop = np.ascontiguousarray(crop)  # ncnn reads this memory later, and does not hold it
        run.input(self.input, self.mat(crop))
        failed, found = run.extract(self.output)
        if failed:
            raise WeightsError(f"ncnn cannot run its network on a picture of {crop.shape[1]}x{crop.shape[2]} px")
        return np.array(found)


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
