"""The device and precision in which a network runs."""

from __future__ import annotations

from functools import cache

import torch

from sharpose_rt.compute.precision import fastest_dtype
from sharpose_rt.config import checks
from sharpose_rt.errors import DeviceError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


@cache
def cuda_problem(index: int = 0) -> str | None:
    """Why CUDA device `index` cannot be used, or None if a small multiplication worked on it.

    A listed device may not work: if the driver is too old, or torch is built without its architecture, an error comes
    only when something runs.
    """
    if not torch.cuda.is_available():
        built = "is a CPU build" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
        return f"torch {torch.__version__} {built} and sees no CUDA device"
    if index >= torch.cuda.device_count():
        return f"there is no CUDA device {index}; found {torch.cuda.device_count()}, counted from 0"
    try:
        ones = torch.ones(8, 8, device=f"cuda:{index}")
        if float((ones @ ones).sum()) != 512:
            return "a multiplication on it gave a wrong result"
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def resolve_device(wanted: str, index: int = 0) -> torch.device:
    """The device for 'auto' (CUDA if it really works, else the CPU), 'cpu', 'cuda' or 'cuda:N'.

    `index` is the CUDA device's if the name has none.

    Raises:
        ConfigError: it is none of those names.
        DeviceError: a CUDA device was requested and does not work; says why.
    """
    checks.device("device", wanted)
    if wanted == "cpu":
        return torch.device("cpu")
    index = int(wanted.partition(":")[2] or index)
    problem = cuda_problem(index)
    if problem is None:
        return torch.device("cuda", index)
    if wanted == "auto":
        return torch.device("cpu")
    raise DeviceError(f"device is {wanted!r}: {problem}; 'cpu' works anywhere; run `sharpose-rt doctor` for details")


def resolve_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The number format for 'auto', 'fp32', 'bf16', 'fp16' or 'int8'.

    'auto' is fp16 on CUDA; on a CPU bf16 if that is really faster (`precision.fastest_dtype`), else fp32. Whether int8
    is faster still, if the weights allow it, is measured in `choice`.

    Raises:
        DeviceError: fp16 on a CPU, where it is slower than fp32; int8 on CUDA.
    """
    if wanted == "auto":
        if device.type == "cuda":
            return torch.float16
        return fastest_dtype()
    if wanted == "fp16" and device.type == "cpu":
        raise DeviceError("--precision fp16 is for CUDA; on a CPU fp32, bf16 or int8 is accepted")
    if wanted == "int8" and device.type == "cuda":
        raise DeviceError("--precision int8 is for the CPU, with OpenVINO; on CUDA fp16, bf16 or fp32 is accepted")
    return DTYPES[wanted]
