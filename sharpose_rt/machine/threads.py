"""How the cores are divided among decoding, detection, pose and encoding, which run at the same time."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """Cores that this process may use: no more than its container allows (`docker run --cpus`)."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(min(here, max(1, _quota())))


def _quota() -> float:
    """The CPU quota of Linux control groups (versions 2 and 1) in cores, rounded up; infinity without a limit.

    A container sees its own group as the root; a service (`CPUQuota=`) is in nested groups, each of which may limit it.
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
    """CPU threads of the pose network: `wanted`, else three quarters of the cores, at most 8; on two cores, both.

    A parallel loop whose threads wait for one without a core costs far more than one thread fewer. With one thread on
    two cores, though, the other core idles once the detector is done: with two, frames of ten people took two thirds of
    the time, and frames of one person with encoding took no longer.
    """
    return wanted if wanted is not None else min(8, max(min(2, cores()), cores() * 3 // 4))


def media_threads() -> int:
    """CPU threads of the encoder and of OpenCV: a quarter of the cores, at least 1 and at most 4.

    By default x264 uses one and a half times as many threads as there are cores. On two cores, alongside the networks,
    a 1080p clip with its annotated video ran at 19 frames per second with that, and at 23 with one thread.
    """
    return min(4, max(1, cores() // 4))


def detector_threads(pose_threads: int | None) -> int:
    """CPU threads of the detector: the cores that the pose network leaves, from 1 to 4."""
    return min(4, max(1, cores() - network_threads(pose_threads)))
