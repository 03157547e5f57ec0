"""How the cores are shared out: decoding, detection, pose and encoding run at the same time."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """Cores that this process may use: no more than a container is given (`docker run --cpus`)."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(min(here, max(1, _quota())))


def _quota() -> float:
    """Cores' worth of time that Linux' control groups (versions 2 and 1) give, rounded up; infinity where all.

    A container sees its own group as the first one; a service (`CPUQuota=`) lies in groups below, of which each limits.
    """
    groups = {PurePosixPath("/")}
    with suppress(OSError, ValueError):
        for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "" or "cpu" in kinds.split(","):
                own = PurePosixPath("/") / path
                groups |= {own, *own.parents}
    return min(_quota_of(group.relative_to("/")) for group in groups)


def _quota_of(group: PurePosixPath) -> float:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (CGROUPS / group / "cpu.max").read_text(encoding="ascii").split()
        return math.inf if quota == "max" else math.ceil(int(quota) / int(period))
    with suppress(OSError, ValueError, ZeroDivisionError):
        files = (CGROUPS / "cpu" / group / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
        quota_us, period_us = (int(file.read_text(encoding="ascii")) for file in files)
        return math.inf if quota_us <= 0 else math.ceil(quota_us / period_us)
    return math.inf


def network_threads(wanted: int | None) -> int:
    """CPU threads of the pose network: `wanted`, else three quarters of the cores, at most 8; of two cores both.

    Threads of a parallel loop that wait for one that has no core cost far more than a thread less. Of two cores,
    though, one alone leaves the other to a detector that is done long before: with both, frames of ten people took two
    thirds of the time, and those of one person with encoding no more than before.
    """
    return wanted if wanted is not None else min(8, max(min(2, cores()), cores() * 3 // 4))


def media_threads() -> int:
    """CPU threads of the encoder, and of OpenCV: a quarter of the cores, at most 4.

    x264 by itself takes one and a half times as many threads as there are cores. On two, beside the networks, a 1080p
    clip with its annotated video came out at 19 frames a second, and at 23 with one.
    """
    return min(4, max(1, cores() // 4))


def detector_threads(pose_threads: int | None) -> int:
    """CPU threads of the detector, beside the pose network: the cores that one leaves, from 1 to 4."""
    return min(4, max(1, cores() - network_threads(pose_threads)))
