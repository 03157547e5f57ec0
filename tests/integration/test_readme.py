"""What README says can be done can be done."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_clips import write_clip

from sharpose_rt.cli import build_parser, main
from sharpose_rt.models.weights import BUNDLED, bundled_weights
from sharpose_rt.skeletons import StreamReader

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLES = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")


def _commands(text: str) -> list[list[str]]:
    """Every call of `sharpose-rt` in the shell blocks of a page."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    parts = [p for line in lines for p in re.split(r"&&|\|", line.split("  #")[0])]
    return [shlex.split(p.strip())[1:] for p in parts if p.strip().startswith("sharpose-rt")]


def test_there_are_commands() -> None:
    assert len(_commands(README)) >= 4


@pytest.mark.parametrize("command", _commands(README) + _commands(SAMPLES), ids=" ".join)
def test_every_command_parses(command: list[str]) -> None:
    if command[0].startswith("--"):
        command = ["track", *command]
    assert build_parser().parse_args(command)


def test_every_option_of_the_table_exists() -> None:
    table = [line for line in README.splitlines() if line.startswith("| `--")]
    options = {option for line in table for option in re.findall(r"--[a-z-]+", line.split("|")[1])}
    assert len(options) > 20
    parser = build_parser()
    known = {s for action in parser._actions for s in _options_of(action, "track")}
    assert options <= known


def _options_of(action: object, command: str) -> list[str]:
    choices = getattr(action, "choices", None) or {}
    if not isinstance(choices, dict) or command not in choices:
        return []
    return [s for a in choices[command]._actions for s in a.option_strings]


def test_the_demo_runs_without_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if bundled_weights("tiny_256x192") is None:
        pytest.fail("README's first command needs the weights of tiny_256x192, which do not ship")
    assert main(["demo", "--seconds", "1", "--output", str(tmp_path)]) == 0
    assert "complete: 25 frames" in capsys.readouterr().out
    reader = StreamReader(tmp_path / "demo_clip.skeletons.jsonl")
    people = [len(record.poses) for record in reader]
    assert len(people) == 25
    assert max(people) >= 1
    assert reader.header.model["weights_sha256"]
    assert main(["validate", str(tmp_path / "demo_clip.skeletons.jsonl")]) == 0


def test_the_sample_is_what_this_version_writes(tmp_path: Path) -> None:
    sample = ROOT / "samples" / "demo.skeletons.jsonl"
    assert main(["validate", str(sample)]) == 0
    card = json.loads((BUNDLED / "tiny_256x192.json").read_text())
    assert StreamReader(sample).header.model["weights_sha256"] == card["sha256"]
    assert main(["convert", str(sample), "--to", "coco", "--out", str(tmp_path / "demo.coco.json")]) == 0


def test_the_python_of_the_readme_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, loop = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    clip = tmp_path / "video.mp4"
    write_clip(clip, 5, size_wh=(96, 64))
    code = code.replace('"video.mp4"', repr(str(clip)))
    code = code.replace('PoseTracker("tiny_256x192")', 'PoseTracker("tiny_256x192", detector={"name": "full"})')
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5
    names: dict[str, Any] = {"image_bgr": np.zeros((64, 96, 3), np.uint8)}
    loop = loop.replace("PoseTracker()", 'PoseTracker(detector={"name": "full"})')
    exec(compile(f"from sharpose_rt import PoseTracker\n{loop}", "README.md", "exec"), names)
    assert len(names["frame"].people) == 1
