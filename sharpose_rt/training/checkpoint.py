"""The state of a training run on disk: tensors and plain values only, whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from sharpose_rt.errors import OutputError, WeightsError

FORMAT = "sharpose.training/1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` at once: a crash in between leaves the earlier file.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        torch.save({"format": FORMAT, **state}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write the checkpoint {path}: {error}; is the disk full?") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU; never runs code from the file.

    Raises:
        WeightsError: it is missing, damaged, or no checkpoint of ours.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint {path}; --resume wants the --out folder of an earlier run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"cannot read the checkpoint {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise WeightsError(f"{path} is no training checkpoint of this version ({FORMAT} is wanted)")
    return state
