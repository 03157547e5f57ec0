"""Which precision this machine's processor multiplies fastest in: measured, not believed."""

from __future__ import annotations

import platform
import time
from functools import cache

import torch

from sharpose_rt.machine.cache import cache_dir, recall, remember
from sharpose_rt.machine.processor import processor_key

WORTH_IT = 1.15
"""How much faster bfloat16 or int8 must be to be taken by itself: it costs accuracy."""


@cache
def fastest_dtype() -> torch.dtype:
    """bfloat16 where the CPU has it (AMX, or AVX512-BF16) and really is faster in it, else float32.

    Measured once and remembered: a processor that says AVX512-BF16, but had its AMX hidden by a virtual machine, did
    half as many multiplications in bfloat16 as in float32.
    """
    in_hardware = torch.cpu.get_capabilities()
    if not (in_hardware.get("avx512_bf16") or in_hardware.get("amx_bf16")):
        return torch.float32
    path, key = cache_dir() / "precisions.json", f"{this_machine()}, {torch.get_num_threads()} threads"
    rates = recall(path).get(key)
    if not isinstance(rates, dict) or not all(isinstance(rates.get(name), float) for name in ("fp32", "bf16")):
        rates = _multiplications()
        remember(path, key, rates)
    return torch.bfloat16 if rates["bf16"] > WORTH_IT * rates["fp32"] else torch.float32


def this_machine() -> str:
    """What a measurement that is remembered holds for: a cache may be carried to another processor, as in a volume."""
    quick = [name for name in ("amx_bf16", "avx512_bf16", "avx512_vnni") if torch.cpu.get_capabilities().get(name)]
    capability = torch.backends.cpu.get_cpu_capability()
    return ", ".join([platform.node(), processor_key(), capability, *quick, f"torch {torch.__version__}"])


def _multiplications(side: int = 1024) -> dict[str, float]:
    """GFLOP/s of a matrix product in either precision, which take turns; the best of each."""
    matrices = {"fp32": torch.ones(side, side), "bf16": torch.ones(side, side, dtype=torch.bfloat16)}
    seconds: dict[str, list[float]] = {name: [] for name in matrices}
    for _ in range(6):
        for name, matrix in matrices.items():
            began_s = time.perf_counter()
            torch.nn.functional.linear(matrix, matrix)
            seconds[name].append(time.perf_counter() - began_s)
    return {name: round(2e-9 * side**3 / min(times), 1) for name, times in seconds.items()}
