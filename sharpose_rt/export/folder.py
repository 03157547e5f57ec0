"""A folder of graphs and their sheet, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpose_rt.config import DetectorConfig
from sharpose_rt.config.places import beside
from sharpose_rt.detection.bundled import WEIGHTS, BundledDetector
from sharpose_rt.detection.letterbox import Letterbox
from sharpose_rt.errors import OutputError
from sharpose_rt.export.graphs import Plan, people_plan, pose_plans
from sharpose_rt.export.onnx import can_run, check_can_write, differences, write_onnx
from sharpose_rt.export.sheet import ports, sheet
from sharpose_rt.models.weights import file_sha256, load_model

FILES = ("person_detector.onnx", "coarse.onnx", "fine.onnx", "sharpose.json")
MOST_OFF = 1e-3
"""How far an output may be from torch's, in parts of its largest number."""
DECIDED = ("keypoints", "selected", "low")
"""Outputs that jump where two places are alike but for rounding, as happens in crops of noise."""
EXAMPLES, TRIALS = 2, 5
"""Crops that a graph is made with, and that it is tried with."""


def export_folder(
    folder: Path,
    name: str,
    weights: str,
    behaviour: str,
    detector: DetectorConfig,
    opset: int,
    *,
    overwrite: bool,
    say: Callable[[str], object],
) -> None:
    """Writes `FILES` into a folder, each at once, when all are done.

    Args:
        folder: made where it is missing.
        name, weights, behaviour: see `load_model`.
        detector: of which the size counts.
        opset: see `OPSETS`.
        overwrite: replace files of these names.
        say: takes a line on each graph.

    Raises:
        ConfigError: no such variant, behaviour or opset, or a package is missing.
        WeightsError: there are no weights, or they do not fit.
        OutputError: there are such files, they cannot be written, or compute something else than torch.
    """
    check_can_write(opset)
    there = [file for file in FILES if (folder / file).exists()]
    if there and not overwrite:
        raise OutputError(f"{folder} has {', '.join(there)}; give another folder, or --overwrite to replace them")
    network, info = load_model(name, weights, behaviour)
    bundled = BundledDetector(detector)
    found = bundled.load()
    size = Letterbox.fit((1, 1), bundled.image_size, found.stride).input_wh[0]  # as large as the package would make it
    example, trial = (_noise(count, network.variant.size_hw, size) for count in (EXAMPLES, TRIALS))
    parts = {file: beside(folder / file) for file in FILES}
    graphs: dict[str, Any] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plan in (people_plan(found), *pose_plans(network)):
            began_s = time.perf_counter()
            for values in (example, trial):
                values |= plan.run(values)  # what comes out goes into the next
            write_onnx(plan, example, parts[plan.file], opset)
            megabytes, seconds = parts[plan.file].stat().st_size / 1e6, time.perf_counter() - began_s
            say(f"{plan.file}: {megabytes:.1f} MB in {seconds:.0f} s; {_compared(plan, trial, parts[plan.file])}")
            graphs[plan.file] = {"sha256": file_sha256(parts[plan.file]), **ports(plan, trial)}
        facts = sheet(network, info, {"size": size, "weights_sha256": file_sha256(WEIGHTS)}, opset, graphs)
        parts["sharpose.json"].write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for file, part in parts.items():
            part.replace(folder / file)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}); give another folder") from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()


def _noise(crops: int, size_hw: tuple[int, int], square: int) -> dict[str, Tensor]:
    """Inputs of the graphs, patches of colour: the same ones each time."""
    random = torch.Generator().manual_seed(crops)

    def colours(count: int, *size_hw: int) -> Tensor:
        small = torch.rand(count, 3, 8, 6, generator=random) * 255
        return F.interpolate(small, size_hw, mode="bilinear").permute(0, 2, 3, 1).to(torch.uint8).contiguous()

    return {"crops": colours(crops, *size_hw), "picture": colours(1, square, square)[0]}


def _compared(plan: Plan, values: dict[str, Tensor], path: Path) -> str:
    """How far the file is from torch, in words.

    Raises:
        OutputError: too far.
    """
    if not can_run():
        return "not compared with torch, which wants onnxruntime (pip install onnxruntime)"
    off = differences(plan, values, path)
    shares = {name: off[name] / max(1.0, values[name].abs().max().item()) for name in off if name not in DECIDED}
    worst = max(shares, key=lambda name: shares[name])
    if not shares[worst] <= MOST_OFF:
        raise OutputError(
            f"{plan.file} gives other {worst} than torch: {shares[worst]:.1e} of the largest apart, {MOST_OFF:g} is "
            "accepted; nothing was written. Try another --opset or version of onnxscript"
        )
    return f"{shares[worst]:.0e} from torch at most ({worst})" + (
        f", keypoints {off['keypoints']:.4f} px" if "keypoints" in off else ""
    )
