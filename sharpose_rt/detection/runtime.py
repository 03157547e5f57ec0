"""What runs a detector's network on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from sharpose_rt.config import PoseConfig
from sharpose_rt.machine.threads import detector_threads


@dataclass(frozen=True)
class Runtime:
    """Backend 'torch' or 'openvino', its number of threads (None: torch's default), whether weights prepared for it run
    in int8, and whether others run in bf16 in OpenVINO (None: if that is faster)."""

    backend: str = "torch"
    threads: int | None = None
    int8: bool = False
    bf16: bool | None = None

    @classmethod
    def beside(cls, pose: PoseConfig) -> Runtime:
        """The backend and precision of this pose network, in which both are named."""
        int8 = pose.precision == "int8"
        bf16 = None if int8 else pose.precision == "bf16"  # a detector without int8 takes the fastest
        return cls(pose.backend, detector_threads(pose.threads), int8, bf16)


EAGER = Runtime()
