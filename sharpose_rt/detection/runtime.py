"""What runs a detector's network on the CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """Backend 'torch' or 'openvino', and how many threads it has; None leaves that to torch."""

    backend: str = "torch"
    threads: int | None = None


EAGER = Runtime()
