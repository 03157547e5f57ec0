"""The state of a training run on disk: only tensors and plain values, written in one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from sharpose_rt.errors import ConfigError, OutputError, WeightsError, writing
from sharpose_rt.machine.whole_files import clear_beside, whole
from sharpose_rt.training.config import TrainConfig

FORMAT = "sharpose.training/1"
_STATE_OF = {"train": "model", "pretrain": "network", "train-detector": "recipe"}
"""The key that only the checkpoints of each command have."""
FIXED = ("model", "behaviour", "batch", "seed", "frozen_stem_blocks", "optim.optimizer")
"""Options that cannot change within a run."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path` in one step: a crash leaves the earlier file.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(f"the checkpoint {path}", "is the disk full?", RuntimeError), whole(path) as part:
        torch.save({"format": FORMAT, **state}, part)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU; never runs code from the file.

    Raises:
        WeightsError: it is missing, damaged, or not a checkpoint of this package.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint {path}; --resume wants the --out folder of an earlier run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds of errors for damaged files
        raise WeightsError(
            f"cannot read the checkpoint {path}: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise WeightsError(f"{path} is not a training checkpoint of this version; expected {FORMAT}")
    return state


def refuse_begun(folder: Path, resume: bool) -> None:
    """Raises OutputError if the folder contains the checkpoint of a run, unless `resume` is set."""
    if (folder / "last.pt").exists() and not resume:
        raise OutputError(f"{folder} already contains a run; --resume continues it, another --out starts a new one")


def load_run(command: str, out: Path) -> dict[str, Any]:
    """The state of the run in the folder `out`, for `command` to continue; removes partial files of a killed run.

    Raises:
        WeightsError: see `load_checkpoint`; or it belongs to a run of another command, which is named.
    """
    state = load_checkpoint(out / "last.pt")
    if _STATE_OF[command] in state:
        for name in ("last.pt", "weights.safetensors"):
            clear_beside(out / name)
        return state
    maker = next((name for name, key in _STATE_OF.items() if key in state), None)
    if maker is None:
        raise WeightsError(f"--resume: {out} contains no run of `sharpose-rt {command}`; give the --out folder of one")
    start = "" if maker == "train-detector" else f", from its weights by --set init={out / 'weights.safetensors'}"
    raise WeightsError(
        f"--resume: the run in {out} was made by `sharpose-rt {maker}`, and `sharpose-rt {command}` cannot continue "
        f"it; `sharpose-rt {maker} --resume` can, or start a new run in another --out{start}"
    )


def check_unchanged(was: TrainConfig, now: TrainConfig, keys: Iterable[str], out: Path) -> None:
    """Raises ConfigError if a run that continues in the folder `out` has another value for one of the keys."""
    for key in keys:
        then, wanted = attrgetter(key)(was), attrgetter(key)(now)
        if then != wanted:
            raise ConfigError(
                f"--resume: the run in {out} has {key} {then!r}, not {wanted!r}, which cannot change within a run; "
                f"give --set {key}={then}, or start a new run in another --out"
            )


def get_chance(device: torch.device) -> dict[str, Any]:
    """The random state of the CPU and the device of the run, for a checkpoint."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"rng": torch.get_rng_state(), "rng_cuda": cuda}


def set_chance(state: Mapping[str, Any], device: torch.device) -> None:
    """Restores the random state of a checkpoint, as far as it is in it."""
    if state.get("rng") is not None:
        torch.set_rng_state(state["rng"])
    if device.type == "cuda" and state.get("rng_cuda") is not None:
        torch.cuda.set_rng_state(state["rng_cuda"], device)
