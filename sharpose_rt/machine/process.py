"""What a program of ours asks of its whole process, before anything large is loaded. A library would not, but for how
threads wait."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

settings_lock = threading.RLock()
"""Held while the process's warnings or environment are changed for a moment: two threads would put back each other's
changes, for good."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names in glibc's malloc.h."""


def prepare(opencv_threads: int) -> None:
    """Settings that fit threads which share few cores and tensors of some megabytes; the user's own are kept. Where
    standard output or error is closed (`>&-`), what is said goes nowhere, and closed standard input is empty.

    Args:
        opencv_threads: of each call of OpenCV; by default it takes all cores, which other threads are busy on.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened takes its number, and what libraries say goes into that
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - while the process lives
    let_waiting_threads_sleep()
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", str(opencv_threads))
    # A picture of a few kilobytes may say that it is larger than all memory; no camera's has so many pixels.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        keep_freed_memory()


def let_waiting_threads_sleep() -> None:
    """Idle threads of torch's loops sleep, unless the user has a wish of their own; read when torch is loaded.

    Spinning, they take the cores from whatever else has work: the decoder, the encoder, the caller's own loop. On a
    busy machine one forward pass took 60 times longer.
    """
    # In small letters: libgomp compares whatever the case, and in Turkish an I is no i in another case.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_freed_memory() -> bool:
    """Whether freed memory now waits for the next tensor; by default glibc gives large blocks back to the system.

    Every layer's result would be mapped in page by page and zeroed again: thousands of faults for a crop, up to a third
    of the time of a batch in torch.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    largest = 32 << 20  # that glibc takes
    return all((mallopt(_MMAP_THRESHOLD, largest), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 2 * largest)))


@contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the program as an error does, with status 143: what is half written goes.

    By itself it would end the process on the spot. A second one changes nothing: some programs, such as GNU `timeout`,
    send it twice. Outside the main thread, which alone can, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
