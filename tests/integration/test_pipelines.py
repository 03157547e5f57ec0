"""Every recipe of `pipelines/` runs as its docstring says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from media_clips import write_clip

from sharpose_rt.skeletons import validate

RECIPES = Path(__file__).resolve().parents[2] / "pipelines"


def _recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_recipe_is_tested() -> None:
    tested = {"live_camera", "video_to_skeletons", "skeletons_to_action_array"}
    assert {path.stem for path in RECIPES.glob("*.py")} == tested


def test_live_camera(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "a.mp4"
    write_clip(clip, 12, size_wh=(96, 64))
    arguments = [str(clip), "--weights", "random", "--detector", "full", "--frames", "5"]
    _recipe("live_camera").main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all("id 1 nose" in line for line in lines)


def test_video_to_skeletons_to_action_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for name in ("a", "b"):
        write_clip(videos / f"{name}.mp4", 6, size_wh=(96, 64))
    (videos / "broken.mp4").write_bytes(b"not a video" * 100)
    arguments = [str(videos), str(out), "--set", "pose.weights=random", "--set", "detector.name=full"]
    recipe = _recipe("video_to_skeletons")
    recipe.main(arguments)
    first = capsys.readouterr().out
    assert "broken.mp4" in first
    for name in ("a", "b"):
        stream = out / name / f"{name}.skeletons.jsonl"
        assert [p for p in validate(stream) if p.severity == "error"] == []
    recipe.main(arguments)
    assert capsys.readouterr().out.count("done before") == 2

    target = tmp_path / "a.npz"
    _recipe("skeletons_to_action_array").main([str(out / "a" / "a.skeletons.jsonl"), str(target)])
    assert "(2, 6, 17, 2)" in capsys.readouterr().out
    assert np.load(target)["keypoints"].shape == (2, 6, 17, 2)
