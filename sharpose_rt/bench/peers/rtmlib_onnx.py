"""rtmlib's RTMPose class on ONNX Runtime, person by person, with a network of the same size and random weights.

Its own weights are on a server that is not always available; everything around the network is rtmlib's own code.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from harness import run


def make(job):
    """RTMPose with a dense network of the variant's size."""
    path = str(Path(sys.argv[1]) / "dense.onnx")
    height, width = export_simcc(job["pose"]["model"], path)
    options = {"model_input_size": (width, height), "backend": "onnxruntime", "device": "cpu"}
    pose = importlib.import_module("rtmlib").RTMPose(path, **options)

    def peer(image, boxes):
        return len(np.asarray(pose(image, bboxes=boxes.tolist())[0])) if len(boxes) else 0

    return peer


def export_simcc(model: str, path: str) -> tuple[int, int]:
    """Writes the dense network of a variant as ONNX with RTMPose's outputs (SimCC, split 2); returns its (h, w)."""
    import torch
    from torch import Tensor, nn

    from sharpose_rt.models import find_variant
    from sharpose_rt.models.baselines import create_dense

    class SimCC(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = create_dense(find_variant(model))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            heatmaps = self.network(images)  # (B, K, h/4, w/4)
            along_x, along_y = heatmaps.amax(2), heatmaps.amax(3)
            return along_x.repeat_interleave(8, 2), along_y.repeat_interleave(8, 2)

    size_hw = find_variant(model).size_hw
    names: Any = {"input_names": ["input"], "output_names": ["simcc_x", "simcc_y"]}
    torch.onnx.export(SimCC().eval(), (torch.zeros(1, 3, *size_hw),), path, dynamo=False, opset_version=17, **names)
    return size_hw


if __name__ == "__main__":
    run(make)
