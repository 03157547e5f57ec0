"""Which precision this machine's processor multiplies fastest in: measured, not believed."""

from __future__ import annotations

import platform
import time
from functools import cache
from statistics import median

import torch

from sharpose_rt.compute.threads import at_most_threads
from sharpose_rt.machine.cache import cache_dir, recall, remember
from sharpose_rt.machine.processor import processor_key

WORTH_IT = 1.15
"""How much faster bfloat16 or int8 must be to be taken by itself: it costs accuracy."""


@cache
def fastest_dtype() -> torch.dtype:
    """bfloat16 where the CPU has it (AMX, or AVX512-BF16) and really is faster in it, else float32.

    Measured once and remembered: a processor that says AVX512-BF16, but had its AMX hidden by a virtual machine, did
    half as many multiplications in bfloat16 as in float32. What is taken decides the last digits of all that is found,
    so other work that comes and goes meanwhile must not: bfloat16 has to be faster in the best turn and in most.
    """
    in_hardware = torch.cpu.get_capabilities()
    if not (in_hardware.get("avx512_bf16") or in_hardware.get("amx_bf16")):
        return torch.float32
    path, key = cache_dir() / "precisions.json", this_machine()
    rates = recall(path).get(key)
    if not isinstance(rates, dict) or not all(isinstance(rates.get(name), float) for name in ("fp32", "bf16", "ratio")):
        with at_most_threads(1):  # whatever thread asks
            rates = _multiplications()
        remember(path, key, rates)
    faster = min(rates["bf16"] / rates["fp32"], rates["ratio"])
    return torch.bfloat16 if faster > WORTH_IT else torch.float32


def this_machine() -> str:
    """What a measurement that is remembered holds for: a cache may be carried to another processor, as in a volume."""
    quick = [name for name in ("amx_bf16", "avx512_bf16", "avx512_vnni") if torch.cpu.get_capabilities().get(name)]
    capability = torch.backends.cpu.get_cpu_capability()
    return ", ".join([processor_key(), capability, *quick, f"torch {torch.__version__}"])


def multiplies_integers() -> bool:
    """Whether the processor multiplies 8-bit integers in full: on x86 those without VNNI clip sums of two products,
    which costs accuracy, and gain little time."""
    in_hardware = torch.cpu.get_capabilities()
    return platform.machine().lower() not in ("x86_64", "amd64") or any(
        in_hardware.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")
    )


def _multiplications(side: int = 1024) -> dict[str, float]:
    """GFLOP/s of a matrix product in either precision, the best of each; and bf16's over fp32's in the middle turn."""
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    matrices = {name: torch.ones(side, side, dtype=dtype) for name, dtype in types.items()}
    seconds: dict[str, list[float]] = {name: [] for name in matrices}
    for _ in range(15):
        for name, matrix in matrices.items():
            began_s = time.perf_counter()
            torch.nn.functional.linear(matrix, matrix)
            seconds[name].append(time.perf_counter() - began_s)
    ratio = median(fp32_s / bf16_s for fp32_s, bf16_s in zip(seconds["fp32"], seconds["bf16"], strict=True))
    best = {name: round(2e-9 * side**3 / min(times), 1) for name, times in seconds.items()}
    return {**best, "ratio": round(ratio, 3)}
