"""Output of metrics: lines on the terminal, and a JSON file with the command that measured them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from sharpose_rt.errors import writing
from sharpose_rt.machine.whole_files import write_whole
from sharpose_rt.media.redact import redact
from sharpose_rt.skeletons.plain import plain


def command_line() -> str:
    """The command that started this process, with secrets in addresses masked."""
    return shlex.join(["sharpose-rt", *map(redact, sys.argv[1:])])


def stated_precision(precision: str) -> str:
    """The name of the precision in metrics."""
    return "int8, simulated in torch" if precision == "int8" else precision


def describe(metrics: dict[str, Any]) -> str:
    """The metrics as lines of name and value."""
    return "\n".join(f"{k:22} {v:.4f}" if isinstance(v, float) else f"{k:22} {v}" for k, v in metrics.items())


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics as JSON, with the command that measured them."""
    write_json(path, {"command": command_line()} | metrics)


def write_json(path: Path, value: object) -> None:
    """Writes JSON; infinite numbers become "inf" and "-inf", and NaN becomes null, as JSON has neither."""
    with writing(path, "give another path"):
        write_whole(path, json.dumps(plain(value), indent=1) + "\n")
