"""MoveNet as TensorFlow.js stores it, with weights of our own: names, shapes and layout are its."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STAGES = ((1, 1, 1), (2, 2, 6), (2, 3, 6), (2, 4, 6), (1, 3, 6), (2, 3, 6), (1, 1, 6))
"""MobileNetV2: stride of the first block, number of blocks, expansion. Kernel sides are 3."""


@dataclass(frozen=True)
class Network:
    """Channels of its first layer, and of the blocks of each stage."""

    name: str
    first: int
    channels: tuple[int, ...]

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Stride, channels and expansion of each."""
        return [
            (1 if number else stride, channels, expansion)
            for (stride, count, expansion), channels in zip(STAGES, self.channels, strict=True)
            for number in range(count)
        ]


THUNDER = Network("movenet-thunder", 56, (32, 40, 56, 112, 168, 280, 560))
MULTIPOSE = Network("movenet-multipose", 48, (24, 40, 48, 96, 144, 240, 480))
EXTRACTOR = "StatefulPartitionedCall/center_net_mobile_net_v2fpn_feature_extractor/model_1/"


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Its backbone's weights, and of Thunder all that the stem takes, by their full names."""
    found: dict[str, tuple[int, ...]] = {}

    def folded(name: str, shape: tuple[int, ...], kind: str = "Conv2D") -> None:
        found[f"{EXTRACTOR}model/{name}/{kind}_weights"] = shape
        found[f"{EXTRACTOR}model/{name}/{kind}_bn_offset"] = (shape[2] if kind == "depthwise" else shape[3],)

    before = network.first
    folded("Conv1", (3, 3, 3, before))
    for number, (_, channels, expansion) in enumerate(network.blocks):
        name = f"block_{number}" if number else "expanded_conv"
        hidden = before * expansion
        if expansion > 1:
            folded(f"{name}_expand", (1, 1, before, hidden))
        folded(f"{name}_depthwise", (3, 3, hidden, 1), "depthwise")
        folded(f"{name}_project", (1, 1, hidden, channels))
        before = channels
    if network != THUNDER:
        return found
    folded("Conv_1", (1, 1, 560, 1280))
    for name, before, after in (("", 1280, 64), ("_1", 112, 64), ("_2", 56, 32), ("_3", 40, 24)):
        found[f"{EXTRACTOR}conv2d{name}/Conv2D/ReadVariableOp"] = (1, 1, before, after)
        found[f"{EXTRACTOR}conv2d{name}/BiasAdd/ReadVariableOp"] = (after,)
    for name, before, after in (("", 64, 32), ("_1", 32, 24), ("_2", 24, 24)):
        mix = f"{EXTRACTOR}separable_conv2d{name}/separable_conv2d"
        found[f"{mix}/ReadVariableOp"] = (3, 3, before, 1)
        found[f"{mix}_weights"] = (1, 1, before, after)
        found[f"{mix}_bn_offset"] = (after,)
    head = "StatefulPartitionedCall/kpt_heatmap_0/separable_conv2d_4/separable_conv2d/ReadVariableOp"
    found[head] = (3, 3, 24, 1)
    return found


def write_movenet(folder: Path, network: Network = THUNDER, seed: int = 0) -> Path:
    """Write its `.json` and `.bin`, in float16 among integers as there; the path of the first."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    data, entries = bytearray(), []
    for name, shape in shapes(network).items():
        if len(shape) == 1:
            values = random.normal(0, 0.1, shape)
        else:
            fan_in = shape[0] * shape[1] * (1 if shape[3] == 1 else shape[2])
            values = random.normal(0, (2 / fan_in) ** 0.5, shape)
        data += np.array([7], np.int32).tobytes() + values.astype(np.float16).tobytes()
        entries.append({"name": f"{name}/axis", "shape": [], "dtype": "int32"})
        stored = {"dtype": "float16", "original_dtype": "float32"}
        entries.append({"name": name, "shape": list(shape), "dtype": "float32", "quantization": stored})
    path, stored = folder / f"{network.name}.json", f"{network.name}.bin"
    (folder / stored).write_bytes(data)
    path.write_text(json.dumps({"weightsManifest": [{"paths": [stored], "weights": entries}]}))
    return path
