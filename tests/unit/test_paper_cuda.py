"""What is written for a GPU runs on the card of `tests/paper_cuda.py`, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paper_cuda import missing

ROOT = Path(__file__).resolve().parents[2]


def run_on_paper(*arguments: str) -> None:
    """pytest with these arguments, on that card; skips where there can be none."""
    if reason := missing():
        pytest.skip(f"no CUDA card on paper: {reason}")
    # Without a way to skip: a test that did not find the card would pass as one that ran.
    environment = os.environ | {"SHARPOSE_REQUIRE_GPU": "1"}
    command = [sys.executable, "-m", "tests.paper_cuda", "-m", "gpu", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


@pytest.mark.timeout(600)
def test_streams_graphs_runs_and_training():
    run_on_paper("tests/on_paper.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_tested_on_a_gpu():
    run_on_paper("tests/unit/test_engine.py", "tests/unit/test_cuda_path.py")
