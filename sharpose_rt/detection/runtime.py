"""What runs a detector's network on the CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """Backend 'torch' or 'openvino', how many threads it has (None leaves that to torch), whether weights that are
    ready for it multiply in int8, and whether others, in OpenVINO, do in bf16 (None: where that is faster)."""

    backend: str = "torch"
    threads: int | None = None
    int8: bool = False
    bf16: bool | None = None


EAGER = Runtime()
