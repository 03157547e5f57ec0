"""The threads of torch's and OpenVINO's loops: how many a loop takes, thread by thread, and that a fork loses them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from sharpose_rt.errors import DeviceError

_used_by: int | None = None
"""The process in which networks were first used."""


def use_networks() -> None:
    """From now on this process has threads that one forked from it has not.

    Raises:
        DeviceError: this is such a fork; it would wait for them for ever.
    """
    global _used_by
    process = os.getpid()
    _used_by = _used_by or process
    if _used_by != process:
        raise DeviceError(
            f"networks were used in process {_used_by} before this one, {process}, was forked from it, and would wait "
            "here for ever; start workers with multiprocessing.get_context('spawn'), or before networks are first used"
        )


def take_threads(count: int) -> None:
    """From now on loops that the calling thread starts in torch run in `count` threads, whatever others take.

    Raises:
        DeviceError: see `use_networks`.
    """
    use_networks()
    # Asked first: a thread's number is that of whoever set one last, in any thread, until it was asked for once.
    torch.get_num_threads()
    torch.set_num_threads(count)


@contextlib.contextmanager
def threads_given_back() -> Iterator[None]:
    """Whatever is taken inside, afterwards loops of the calling thread have as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Torch's loops of this thread of ours have no more threads inside."""
    with threads_given_back():
        torch.set_num_threads(min(torch.get_num_threads(), count))
        yield
