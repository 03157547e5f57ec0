"""The clip that runs are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest
from media_clips import write_walk
from people_set import SMALL

from sharpose_rt.models import VARIANTS


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`write_walk`'s; nobody changes it."""
    path = tmp_path_factory.mktemp("clip") / "walk.mp4"
    write_walk(path)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of tests of what lies around it."""
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
