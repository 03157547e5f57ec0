"""Which processor this is: figures of one, measured or printed, are not those of another."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    if name := _first("model name"):
        return name
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
            )
            return told.stdout.strip()
    return platform.processor() or platform.machine()


def processor_key() -> str:
    """The processor's name with what tells generations apart that share one, as "AMD EPYC" in a virtual machine."""
    wanted = ("cpu family", "model", "stepping")
    return " ".join([cpu_model(), *(_first(key) for key in wanted)]).strip()


def _first(key: str) -> str:
    """What Linux says of the first core; empty elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
