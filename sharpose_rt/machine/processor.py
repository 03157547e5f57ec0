"""Which processor this is: figures of one, measured or printed, are not those of another."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path


def cpu_model() -> str:
    """The processor's name as the system gives it."""
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
    """The processor's name with what tells generations apart that share one, as "AMD EPYC" in a virtual machine."""
    core = _first_core()
    keys = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")  # the last two of ARM, which has no name
    return " ".join([cpu_model(), *(core[key] for key in keys if key in core)])


@cache
def _first_core() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
        return {key.strip(): value.strip() for key, _, value in lines}
    return {}
