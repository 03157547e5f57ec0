"""How the cores are shared out: decoding, detection, pose and encoding run at the same time."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def network_threads(wanted: int | None) -> int:
    """CPU threads of the pose network: `wanted`, else three quarters of the cores, at most 8; of two cores both.

    Threads of a parallel loop that wait for one that has no core cost far more than a thread less. Of two cores,
    though, one alone leaves the other to a detector that is done long before: with both, frames of ten people took two
    thirds of the time, and those of one person with encoding no more than before.
    """
    return wanted if wanted is not None else min(8, max(min(2, cores()), cores() * 3 // 4))


def detector_threads(pose_threads: int | None) -> int:
    """CPU threads of the detector, beside the pose network: the cores that one leaves, from 1 to 4."""
    return min(4, max(1, cores() - network_threads(pose_threads)))
