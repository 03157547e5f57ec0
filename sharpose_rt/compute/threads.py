"""The threads of torch's and OpenVINO's loops: how many each calling thread gets, and that a fork loses them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from sharpose_rt.errors import DeviceError

_used_by: int | None = None
"""The process in which networks were first used."""


def use_networks() -> None:
    """Notes that this process has threads that a process forked from it will not have.

    Raises:
        DeviceError: this is such a fork; it would wait for those threads forever.
    """
    global _used_by
    process = os.getpid()
    _used_by = _used_by or process
    if _used_by != process:
        raise DeviceError(
            f"process {process} was forked from process {_used_by} after that had used networks, so networks would "
            "hang here; start workers with multiprocessing.get_context('spawn'), or before networks are first used"
        )


def take_threads(count: int) -> None:
    """From now on torch loops that the calling thread starts run in `count` threads, whatever other threads set.

    Raises:
        DeviceError: see `use_networks`.
    """
    use_networks()
    # Read it first: until a thread has read its number once, it has the one that any thread set last.
    torch.get_num_threads()
    torch.set_num_threads(count)


@contextlib.contextmanager
def threads_given_back() -> Iterator[None]:
    """Restores the calling thread's number of torch threads after the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Limits the calling thread's torch loops to `count` threads during the block."""
    with threads_given_back():
        torch.set_num_threads(min(torch.get_num_threads(), count))
        yield
