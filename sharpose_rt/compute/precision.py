"""The precision in which this machine's processor multiplies fastest: measured, not assumed."""

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
"""How much faster bfloat16 or int8 must be to be chosen automatically: it costs accuracy."""


@cache
def fastest_dtype() -> torch.dtype:
    """bfloat16 if the CPU has it (AMX or AVX512-BF16) and is measurably faster in it, else float32.

    Measured once and remembered: a processor that reports AVX512-BF16, but whose AMX was hidden by a virtual machine,
    did half as many multiplications per second in bfloat16 as in float32. The choice affects the last digits of all
    results, so it must not depend on other load: bfloat16 has to be faster both in the best round and in most rounds.
    """
    in_hardware = torch.cpu.get_capabilities()
    if not (in_hardware.get("avx512_bf16") or in_hardware.get("amx_bf16")):
        return torch.float32
    path, key = cache_dir() / "precisions.json", this_machine()
    rates = recall(path).get(key)
    if not isinstance(rates, dict) or not all(isinstance(rates.get(name), float) for name in ("fp32", "bf16", "ratio")):
        with at_most_threads(1):  # whichever thread asks
            rates = _multiplications()
        remember(path, key, rates)
    faster = min(rates["bf16"] / rates["fp32"], rates["ratio"])
    return torch.bfloat16 if faster > WORTH_IT else torch.float32


def this_machine() -> str:
    """The key of a remembered measurement: a cache may move to another processor, for example in a volume."""
    quick = [name for name in ("amx_bf16", "avx512_bf16", "avx512_vnni") if torch.cpu.get_capabilities().get(name)]
    capability = torch.backends.cpu.get_cpu_capability()
    return ", ".join([processor_key(), capability, *quick, f"torch {torch.__version__}"])


def multiplies_integers() -> bool:
    """Whether the processor multiplies 8-bit integers exactly: x86 processors without VNNI clip sums of two products,
    which costs accuracy, and gain little speed."""
    in_hardware = torch.cpu.get_capabilities()
    return platform.machine().lower() not in ("x86_64", "amd64") or any(
        in_hardware.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")
    )


def _multiplications(side: int = 1024) -> dict[str, float]:
    """The best GFLOP/s of a matrix product in each precision, and the median ratio of bf16 to fp32 over all rounds."""
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
