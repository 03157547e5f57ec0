"""Torch modules to export, each to one file, with the names of their inputs and outputs, which `sheet` explains.

Letters: B crops, K keypoints, h x w heatmap cells, S selected and L other coarse cells, N boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpose_rt.detection.first_output import FirstOutput
from sharpose_rt.detection.yolo import Network
from sharpose_rt.engine.traceable import CoarseStage, FineStage
from sharpose_rt.geometry.heatmap import decode
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import CoarseOutput, SHaRPose

POSE = ("keypoints", "scores", "heatmaps")


@dataclass(frozen=True)
class Plan:
    """A file to write: a module in evaluation mode, and the names of its inputs and outputs."""

    file: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batched: bool = True
    """The first axis of all inputs and outputs is dynamic."""

    @torch.no_grad()
    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Torch's outputs for the inputs among `values`."""
        return dict(zip(self.outputs, self.module(*self.chosen(values)), strict=True))

    def chosen(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The inputs among `values`, in order."""
        return tuple(values[name] for name in self.inputs)


class Coarse(nn.Module):
    """The coarse stage and its results: keypoints, and the cells that the fine stage splits."""

    def __init__(self, network: SHaRPose) -> None:
        super().__init__()
        self.stage, self.tokens = CoarseStage(network), _tokens(network)

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Pose, inputs of the gate, cells and tokens of crops (B, H, W, 3) uint8 BGR.

        Quality and gain are (B,), selected (B, S) and low (B, L) cells int64.
        A pose is keypoints (B, K, 2) in crop px, scores (B, K) and heatmaps (B, K, h, w).
        """
        network = self.stage.network
        coarse = CoarseOutput(*self.stage(crops))
        cells = split_cells(coarse.cell_scores, network.selected_count)
        tokens = (getattr(coarse, name) for name in self.tokens)
        gate = (getattr(coarse, name) for name in _gate(network))
        return *_pose(coarse.heatmaps, network), *gate, *cells, *tokens


class Fine(nn.Module):
    """The fine stage, from the crops and the outputs of `Coarse` for them."""

    def __init__(self, network: SHaRPose) -> None:
        super().__init__()
        self.stage, self.tokens = FineStage(network), _tokens(network)

    def forward(self, crops: Tensor, selected: Tensor, low: Tensor, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Pose, as from `Coarse`."""
        given = dict(zip(self.tokens, tokens, strict=True))
        outputs = given["image_outputs"]
        inputs = given.get("image_inputs", outputs)  # if they are not given, they are not used
        heatmaps = self.stage(crops, selected, low, inputs, outputs, given.get("detail"))
        return _pose(heatmaps, self.stage.network)


class People(nn.Module):
    """A one-class detector before suppression: corners, and scores after their curve."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        assert isinstance(network.run, nn.Module)
        assert network.class_count == 1
        assert not network.end2end
        self.network, self.score_curve = FirstOutput(network.run), network.score_curve

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) xyxy px and scores (N,) of a letterboxed picture (S, S, 3) uint8 BGR."""
        pixels = picture.flip(2).permute(2, 0, 1)[None].float() / 255
        rows = self.network(pixels)[0].T  # (N, 5)
        centre, half, scores = rows[:, :2], rows[:, 2:4] / 2, rows[:, 4]
        slope, shift = self.score_curve
        return torch.cat([centre - half, centre + half], 1), torch.sigmoid(slope * scores.logit(1e-7) + shift)


def pose_plans(network: SHaRPose) -> tuple[Plan, Plan]:
    """The plans of both stages."""
    handed_on = ("selected", "low", *_tokens(network))
    return (
        Plan("coarse.onnx", Coarse(network).eval(), ("crops",), (*POSE, *_gate(network), *handed_on)),
        Plan("fine.onnx", Fine(network).eval(), ("crops", *handed_on), POSE),
    )


def people_plan(network: Network) -> Plan:
    """The plan of a detector, for one size, as its head lays out anchors for the size."""
    module = People(network).eval()
    return Plan("person_detector.onnx", module, ("picture",), ("boxes", "box_scores"), batched=False)


def _gate(network: SHaRPose) -> tuple[str, ...]:
    """The fields of a `CoarseOutput` that the gate uses."""
    return ("quality",) if network.gain_predictor is None else ("quality", "gain")


def _tokens(network: SHaRPose) -> tuple[str, ...]:
    """What the fine stage uses of a `CoarseOutput`, besides the cells."""
    looked_at = {
        "image_inputs": network.behaviour.low_tokens_from_input,
        "image_outputs": True,
        "detail": network.variant.stem == "mobile",
    }
    return tuple(name for name, is_looked_at in looked_at.items() if is_looked_at)


def _pose(heatmaps: Tensor, network: SHaRPose) -> tuple[Tensor, Tensor, Tensor]:
    return *decode(heatmaps, network.variant.size_hw, network.variant.skeleton.sigmas), heatmaps
