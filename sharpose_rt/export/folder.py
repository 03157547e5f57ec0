"""A folder of graphs and their sheet (`sharpose.json`); if the sheet exists, so do all graphs that it describes."""

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
"""Largest difference of an output from torch's, relative to its largest number."""
CELLS = ("selected", "low")
DECIDED = ("keypoints", *CELLS)
"""Outputs that jump if two candidates differ only by rounding, as may happen in crops of noise."""
MOST_OTHER = 0.1
"""Largest share of these that may differ from torch's: cells, and keypoints more than `NEAR_PX` away."""
NEAR_PX = 0.1
EXAMPLES, TRIALS = 2, 5
"""Number of crops with which a graph is made, and with which it is tested."""


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
    """Writes `FILES` into a folder, each atomically, once all are done.

    An old sheet is removed first and the new one written last: if replacing fails midway, there is none.

    Args:
        folder: created if missing.
        name, weights, behaviour: see `load_model`.
        detector: only its size counts.
        opset: see `OPSETS`.
        overwrite: replace files of these names.
        say: called with a line on each graph.

    Raises:
        ConfigError: no such variant, behaviour or opset, or a package is missing.
        WeightsError: there are no weights, or they do not fit.
        OutputError: such files exist, cannot be written, or do not compute the same as torch.
    """
    check_can_write(opset)
    there = [file for file in FILES if (folder / file).exists()]
    for file in there:
        if not (folder / file).is_file():
            raise OutputError(f"{folder / file} is not a file, so it cannot be replaced; give another folder")
    if there and not overwrite:
        raise OutputError(f"{folder} has {', '.join(there)}; give another folder, or --overwrite to replace them")
    network, info = load_model(name, weights, behaviour)
    bundled = BundledDetector(detector)
    found = bundled.load()
    size = Letterbox.fit((1, 1), bundled.sizes[0], found.stride).input_wh[0]  # as large as this package would make it
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
                    values |= plan.run(values)  # outputs are inputs of the next
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
        with contextlib.suppress(OSError):  # those that are not empty stay
            for path in made:
                path.rmdir()


def _noise(crops: int, size_hw: tuple[int, int], square: int) -> dict[str, Tensor]:
    """Inputs of the graphs, patches of colour; the same each time."""
    random = torch.Generator().manual_seed(crops)

    def colours(count: int, *size_hw: int) -> Tensor:
        small = torch.rand(count, 3, 8, 6, generator=random) * 255
        return F.interpolate(small, size_hw, mode="bilinear").permute(0, 2, 3, 1).to(torch.uint8).contiguous()

    return {"crops": colours(crops, *size_hw), "picture": colours(1, square, square)[0]}


def _compared(plan: Plan, values: dict[str, Tensor], path: Path) -> str:
    """The file's differences from torch, in words.

    Raises:
        OutputError: they are too large.
    """
    if not can_run():
        return "not compared with torch, which needs onnxruntime (pip install onnxruntime)"
    found = run_onnx(plan, values, path)
    shares = {name: _share(name, found[name], values[name]) for name in plan.outputs}
    for name, share in shares.items():
        most, what = (MOST_OTHER, "of them differ") if name in DECIDED else (MOST_OFF, "of the largest")
        if not share <= most:  # also true for NaN
            raise OutputError(
                f"{plan.file} differs from torch in {name}: {share:.1e} {what}, at most {most:g} is accepted; nothing "
                "was written. Try another --opset or version of onnxscript"
            )
    worst = max((name for name in shares if name not in DECIDED), key=lambda name: shares[name])
    line = f"at most {shares[worst]:.0e} from torch ({worst})"
    if "keypoints" in found:
        line += f", keypoints {(found['keypoints'] - values['keypoints']).abs().max():.4f} px"
    return line


def _share(name: str, found: Tensor, wanted: Tensor) -> float:
    """For numbers, their largest difference relative to the largest one; for `DECIDED` outputs, the share that
    differs."""
    if name == "keypoints":
        return 1 - ((found - wanted).norm(dim=2) <= NEAR_PX).float().mean().item()
    if name in CELLS:
        return 1 - (wanted[:, :, None] == found[:, None]).any(2).float().mean().item()
    return (found - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())
