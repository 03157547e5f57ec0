"""Writes plans as ONNX files, and runs these."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpose_rt.errors import ConfigError
from sharpose_rt.export.graphs import Plan

OPSETS = range(18, 24)
"""Opsets that torch's exporter can write."""


def check_can_write(opset: int) -> None:
    """Checks that ONNX files of this opset can be written.

    Raises:
        ConfigError: a package is not installed, or does not write this opset.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX files need {' and '.join(missing)}, not installed: pip install 'sharpose-rt[onnx]'")
    if opset not in OPSETS:
        raise ConfigError(
            f"opset {opset} cannot be written; {OPSETS[0]} to {OPSETS[-1]} are accepted, of which older programs "
            "support only the lowest"
        )


def can_run() -> bool:
    """Whether the package that runs ONNX is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def write_onnx(plan: Plan, examples: Mapping[str, Tensor], path: Path, opset: int) -> None:
    """Writes a plan with all its weights in one file, after onnx has checked it.

    Args:
        plan: must have been run, so that what it keeps between runs exists and becomes constants.
        examples: contains its inputs; at least two rows if it is batched, as a batch of one may be folded away.
        path: file to write.
        opset: one of `OPSETS`.

    Raises:
        OSError: it cannot be written.
    """
    import onnx

    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they report each node that they fold
    axes = {0: torch.export.Dim("B")} if plan.batched else {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own code
        program = torch.onnx.export(
            _OneList(plan.module).eval(),
            plan.chosen(examples),
            input_names=plan.inputs,
            output_names=plan.outputs,
            opset_version=opset,
            dynamic_shapes=((axes,) * len(plan.inputs),),
            custom_translation_table=_operators(),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # Torch states one format version for all opsets, which runtimes that support the opset may not know.
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # file and line where each node originated: paths of this machine
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def run_onnx(plan: Plan, values: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The outputs of a plan's file for the inputs among `values`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = session.run(list(plan.outputs), {name: values[name].numpy() for name in plan.inputs})
    return {name: torch.from_numpy(array) for name, array in zip(plan.outputs, found, strict=True)}


class _OneList(nn.Module):
    """A module with its inputs in one list, so that dynamic axes can always be declared in the same way."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        """The module's outputs."""
        return self.module(*inputs)


def _operators() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX implementations of operators that torch's exporter lacks."""
    from onnxscript import opset18

    op: Any = opset18  # typed for values, but called with symbolic ones

    def hypot(x: Any, y: Any) -> Any:
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    def sort(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        length = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
        return op.TopK(x, length, axis=dim, largest=int(descending), sorted=1)  # stable by its definition

    return {torch.ops.aten.hypot.default: hypot, torch.ops.aten.sort.stable: sort}
