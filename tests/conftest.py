"""Fixtures that every test may use."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One thread a loop, before torch is loaded: tests run beside each other, and threads that spin take their cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

os.environ["no_proxy"] = "*"  # whom tests reach is this machine, whatever proxy leads to others

settings.register_profile("house", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("house")

gc.disable()  # until all is imported, see `pytest_collection_finish`

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of clips, data and reference vectors beside the checkout; skips where it is absent."""
    if not (SHARED / "README.md").is_file():
        pytest.skip(f"no shared data at {SHARED}: this test needs the clips and labelled pictures that lie there")
    return SHARED


@pytest.fixture
def cuda() -> str:
    """A CUDA device; without one the test is skipped, or fails when SHARPOSE_REQUIRE_GPU=1."""
    import torch

    if not torch.cuda.is_available():
        reason = "no CUDA device on this machine"
        if os.environ.get("SHARPOSE_REQUIRE_GPU") == "1":
            pytest.fail(f"SHARPOSE_REQUIRE_GPU=1, but there is {reason}")
        pytest.skip(reason)
    return "cuda"


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts what it puts in the background with SIGINT ignored; Python, and what it starts, leave it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """Our program keeps what it has freed (`machine.process.keep_freed_memory`), and one that runs all tests would keep
    what the largest of each took: gigabytes for each process."""
    yield
    gc.collect()
    gc.freeze()  # as in `pytest_collection_finish`: what is left was imported meanwhile
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None:
        trim(0)


@pytest.fixture(autouse=True)
def one_thread_a_loop() -> None:
    """Torch's loops of each test begin with one thread, whatever an engine of a test before took."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def auto_is_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backend `auto` measures nothing in tests: what they find must not depend on which one is faster today."""
    monkeypatch.setattr("sharpose_rt.engine.choice.installed", lambda: ("torch",))


def pytest_collection_finish() -> None:
    """What importing left stays, and need not be looked through each time that garbage is collected: a tenth of all."""
    gc.collect()
    gc.freeze()
    gc.enable()
