"""How many cores torch's loops take, thread by thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def take_threads(count: int) -> None:
    """From now on loops that the calling thread starts in torch run in `count` threads, whatever others take."""
    # Asked first: a thread's number is that of whoever set one last, in any thread, until it was asked for once.
    torch.get_num_threads()
    torch.set_num_threads(count)


@contextlib.contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Torch's loops of this thread of ours have no more threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
