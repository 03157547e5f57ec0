"""Which processor this is: measurements made on one do not hold for another."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path


def cpu_model() -> str:
    """The processor's name as reported by the system."""
    if name := _first_core().get("model name"):
        return name
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
            )
            return told.stdout.strip()
    return platform.processor() or platform.machine()


def processor_key() -> str:
    """The processor's name with what distinguishes generations that share it, as "AMD EPYC" in a virtual machine."""
    core = _first_core()
    keys = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")  # the last two for ARM, which has no name
    return " ".join([cpu_model(), *(core[key] for key in keys if key in core)])


@cache
def _first_core() -> dict[str, str]:
    """What Linux reports about the first core; empty on other systems."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
        return {key.strip(): value.strip() for key, _, value in lines}
    return {}
