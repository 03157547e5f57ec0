"""What runs a detector's network on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from sharpose_rt.config import PoseConfig
from sharpose_rt.machine.threads import detector_threads


@dataclass(frozen=True)
class Runtime:
    """Backend 'torch' or 'openvino', how many threads it has (None leaves that to torch), whether weights that are
    ready for it multiply in int8, and whether others, in OpenVINO, do in bf16 (None: where that is faster)."""

    backend: str = "torch"
    threads: int | None = None
    int8: bool = False
    bf16: bool | None = None

    @classmethod
    def beside(cls, pose: PoseConfig) -> Runtime:
        """As in a run with this pose network, whose backend and precision are named: by the same, in the same."""
        int8 = pose.precision == "int8"
        bf16 = None if int8 else pose.precision == "bf16"  # a detector that cannot do int8 takes what is fastest
        return cls(pose.backend, detector_threads(pose.threads), int8, bf16)


EAGER = Runtime()
