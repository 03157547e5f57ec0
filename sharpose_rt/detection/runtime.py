"""What runs a detector's network on the CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """Backend 'torch' or 'openvino', how many threads it has (None leaves that to torch), and whether weights that are
    ready for it multiply in int8."""

    backend: str = "torch"
    threads: int | None = None
    int8: bool = False


EAGER = Runtime()
