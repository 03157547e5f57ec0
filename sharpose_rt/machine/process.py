"""Settings that our programs make for the whole process before anything large is loaded. A library should make none of
them except how idle threads wait."""

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
"""Held while the process's warnings or environment are changed temporarily: otherwise two threads could restore each
other's changes and make them permanent."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names in glibc's malloc.h."""


def prepare(opencv_threads: int) -> None:
    """Applies settings that suit threads on few cores and tensors of a few megabytes, but none that the user has set.
    If standard output or error is closed (`>&-`), its text is discarded; a closed standard input is empty.

    Args:
        opencv_threads: per OpenCV call; its default is all cores, on which other threads are busy.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # otherwise the next opened file takes its number, and libraries print into that file
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - while the process lives
    let_waiting_threads_sleep()
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", str(opencv_threads))
    # A picture file of a few kilobytes may claim a size larger than all memory; no camera makes this many pixels.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        keep_freed_memory()


def let_waiting_threads_sleep() -> None:
    """Makes idle threads of torch's loops sleep, unless the user has set otherwise; read when torch is loaded.

    Spinning threads take cores from whatever else has work: the decoder, the encoder, the caller's own loop. On a busy
    machine one forward pass took 60 times longer.
    """
    # Lower case: libgomp ignores case, but by the locale's rules, and in Turkish I is not an upper-case i.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next tensor; returns whether it does.

    By default glibc gives large blocks back to the system, and every layer's result is mapped in page by page and
    zeroed again: thousands of page faults per crop, up to a third of the time of a batch in torch.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    largest = 32 << 20  # accepted by glibc
    return all((mallopt(_MMAP_THRESHOLD, largest), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 2 * largest)))


@contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """During the block SIGTERM ends the program as an error does, with status 143, so half-written files are removed.

    By default it would end the process immediately. A second one is ignored: some programs, such as GNU `timeout`, send
    it twice. Outside the main thread, which alone can set handlers, nothing changes.
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
