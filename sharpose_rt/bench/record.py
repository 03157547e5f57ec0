"""One measurement as JSON: the figures, the machine, the versions, the date and the command."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sharpose_rt.errors import OutputError, StreamError, writing
from sharpose_rt.evaluation.metrics import command_line
from sharpose_rt.machine.processor import cpu_model
from sharpose_rt.machine.threads import cores
from sharpose_rt.machine.whole_files import write_whole
from sharpose_rt.skeletons import versions

SCHEMA = "sharpose.bench/1"
_KEYS = ("schema", "kind", "date", "command", "machine", "versions", "settings", "results")


def make_record(
    kind: str, settings: Mapping[str, Any], results: Sequence[Mapping[str, Any]], began: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of a measurement that has just ended; `began` is the result of `machine()` before it."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "machine": {**began, "load_after": _load()},
        "versions": versions(),
        "settings": dict(settings),
        "results": [dict(row) for row in results],
    }


@contextmanager
def keeping(rows: Sequence[object], say: Callable[[str], None]) -> Iterator[dict[str, bool]]:
    """Yields {'interrupted': bool} for the settings: in the block, Ctrl-C ends a measurement that has `rows` and keeps
    them; without any rows it is passed on."""
    ended = {"interrupted": False}
    try:
        yield ended
    except KeyboardInterrupt:
        if not rows:
            raise
        ended["interrupted"] = True
        say("interrupted; what was measured until now is kept")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record, making its folder.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + "\n")


def check_writable(*paths: Path | None) -> None:
    """Raises an error before a long measurement rather than after it; makes the folders.

    Raises:
        OutputError: one of `paths` (None: unused) cannot be written.
    """
    for path in paths:
        if path is None:
            continue
        with writing(path, "give another path"):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise OutputError(f"{path} cannot be written (no permission, or a folder); give another path")


def write_text(path: Path, text: str) -> None:
    """Writes a file, making its folder; completely, or an earlier file stays.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path, "give another path"):
        write_whole(path, text)


def read_record(path: Path) -> dict[str, Any]:
    """A record written by `write_record`.

    Raises:
        StreamError: it is not such a file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StreamError(f"{path} cannot be read: {error}; a file written by `bench --json` is accepted") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise StreamError(f"{path} is not a {SCHEMA} file; a file written by `bench --json` is accepted")
    missing = [key for key in _KEYS if key not in record]
    if missing:
        raise StreamError(f"{path} lacks {', '.join(missing)}; measure again")
    return record


def machine() -> dict[str, Any]:
    """Facts about this machine, and how busy it is (`load_before`: mean runnable processes over the last minute)."""
    import psutil
    import torch

    facts: dict[str, Any] = {
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads_torch": torch.get_num_threads(),
        "ram_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "os": platform.platform(),
        "gpu": None,
        "load_before": _load(),
    }
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        named = [f"cuda:{i} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for i, gpu in enumerate(gpus)]
        facts["gpu"] = f"{'; '.join(named)}; CUDA {torch.version.cuda}"
    return facts


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def percentiles(values: Sequence[float] | np.ndarray, *ranks: float, scale: float = 1.0) -> dict[str, float]:
    """{'p50': ..} of at least one value, each multiplied by `scale`."""
    found = np.percentile(np.asarray(values, np.float64), ranks) * scale
    return {f"p{rank:g}": float(value) for rank, value in zip(ranks, found, strict=True)}
