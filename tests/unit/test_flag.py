"""The flag that ends a source, raised from threads and from signal handlers."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from sharpose_rt.machine.flag import Flag

pytestmark = pytest.mark.timeout(20)


def test_it_is_waited_for_until_it_is_raised_or_time_is_over() -> None:
    flag = Flag()
    assert not flag.is_set()
    assert not flag.wait(0.01)
    assert not flag.wait(-1)
    threading.Timer(0.05, flag.set).start()
    assert flag.wait(15)
    assert flag.is_set()
    assert flag.wait(1e9)


@pytest.mark.parametrize("held", ["set", "wait"])
def test_a_signal_may_raise_it_while_its_own_thread_does_or_waits(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs while that thread has the flag's lock, before it sleeps: nobody wakes it, and it looks again."""
    flag, came = Flag(), []
    method = "notify_all" if held == "set" else "wait"
    real = getattr(flag._changed, method)

    def interrupted(*arguments: float) -> object:
        if not came:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(*arguments)

    monkeypatch.setattr(flag._changed, method, interrupted)

    def handler(*_: object) -> None:
        came.append(time.monotonic())
        flag.set()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        if held == "set":
            flag.set()
        else:
            assert flag.wait(15)
            assert time.monotonic() - came[0] < 10
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert flag.is_set()
    assert len(came) == 1
