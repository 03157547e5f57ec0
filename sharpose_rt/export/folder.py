"""A folder of graphs and their sheet: where the sheet is, all graphs are that it tells of."""

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
from sharpose_rt.detection.bundled import WEIGHTS, BundledDetector
from sharpose_rt.detection.letterbox import Letterbox
from sharpose_rt.errors import OutputError, writing
from sharpose_rt.export.graphs import Plan, people_plan, pose_plans
from sharpose_rt.export.onnx import can_run, check_can_write, run_onnx, write_onnx
from sharpose_rt.export.sheet import ports, sheet
from sharpose_rt.machine.whole_files import beside
from sharpose_rt.models.weights import file_sha256, load_model

SHEET = "sharpose.json"
FILES = ("person_detector.onnx", "coarse.onnx", "fine.onnx", SHEET)
MOST_OFF = 1e-3
"""How far an output may be from torch's, in parts of its largest number."""
CELLS = ("selected", "low")
DECIDED = ("keypoints", *CELLS)
"""Outputs that jump where two places are alike but for rounding, as may happen in crops of noise."""
MOST_OTHER = 0.1
"""Which share of them may be others than torch's: cells, and keypoints farther than `NEAR_PX` away."""
NEAR_PX = 0.1
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

    The sheet is put there last, and an old one goes first: where replacing fails midway, there is none.

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
    for file in there:
        if not (folder / file).is_file():
            raise OutputError(f"{folder / file} is no file, so it cannot be replaced; give another folder")
    if there and not overwrite:
        raise OutputError(f"{folder} has {', '.join(there)}; give another folder, or --overwrite to replace them")
    network, info = load_model(name, weights, behaviour)
    bundled = BundledDetector(detector)
    found = bundled.load()
    size = Letterbox.fit((1, 1), bundled.sizes[0], found.stride).input_wh[0]  # as large as the package would make it
    example, trial = (_noise(count, network.variant.size_hw, size) for count in (EXAMPLES, TRIALS))
    parts = {file: beside(folder / file) for file in FILES}
    graphs: dict[str, Any] = {}
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with writing(folder, "give another folder"):
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
            parts[SHEET].write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            (folder / SHEET).unlink(missing_ok=True)
            for file, part in parts.items():
                part.replace(folder / file)
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()
        with contextlib.suppress(OSError):  # those that hold something stay
            for path in made:
                path.rmdir()


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
    found = run_onnx(plan, values, path)
    shares = {name: _share(name, found[name], values[name]) for name in plan.outputs}
    for name, share in shares.items():
        most, what = (MOST_OTHER, "of them are others") if name in DECIDED else (MOST_OFF, "of the largest apart")
        if not share <= most:  # nor is NaN
            raise OutputError(
                f"{plan.file} gives other {name} than torch: {share:.1e} {what}, {most:g} is accepted; nothing was "
                "written. Try another --opset or version of onnxscript"
            )
    worst = max((name for name in shares if name not in DECIDED), key=lambda name: shares[name])
    line = f"{shares[worst]:.0e} from torch at most ({worst})"
    if "keypoints" in found:
        line += f", keypoints {(found['keypoints'] - values['keypoints']).abs().max():.4f} px"
    return line


def _share(name: str, found: Tensor, wanted: Tensor) -> float:
    """Of numbers, how far they are apart in parts of the largest; of what is `DECIDED`, how much of it differs."""
    if name == "keypoints":
        return 1 - ((found - wanted).norm(dim=2) <= NEAR_PX).float().mean().item()
    if name in CELLS:
        return 1 - (wanted[:, :, None] == found[:, None]).any(2).float().mean().item()
    return (found - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())
