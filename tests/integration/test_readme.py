"""What README and the guide say can be done can be done."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_clips import write_clip

from sharpose_rt.cli import COMMANDS, build_parser, main
from sharpose_rt.commands import guide
from sharpose_rt.models.weights import BUNDLED, bundled_weights
from sharpose_rt.skeletons import StreamReader

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLES = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
GUIDE = {page.stem: page.read_text(encoding="utf-8") for page in sorted(guide.PAGES.glob("*.md"))}
PAGES = {ROOT / "README.md": README, **{guide.PAGES / f"{name}.md": text for name, text in GUIDE.items()}}


def _commands(text: str) -> list[list[str]]:
    """Every call of `sharpose-rt` in the shell blocks of a page."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    parts = [p for line in lines for p in re.split(r"&&|\|", line.split("  #")[0])]
    return [shlex.split(p.strip())[1:] for p in parts if p.strip().startswith("sharpose-rt")]


def test_there_are_commands() -> None:
    assert len(_commands(README)) >= 4


_ALL = [command for text in (README, SAMPLES, *GUIDE.values()) for command in _commands(text)]


@pytest.mark.parametrize("command", list(map(list, dict.fromkeys(map(tuple, _ALL)))), ids=" ".join)
def test_every_command_parses(command: list[str]) -> None:
    if command[0].startswith("--"):
        command = ["track", *command]
    assert build_parser().parse_args(command)


def test_every_option_of_the_tables_exists_and_every_option_is_in_the_guide() -> None:
    parser = build_parser()
    known = {s for action in parser._actions for s in _options_of(action, "track") if s.startswith("--")}
    assert _options_told(README) <= known
    assert len(_options_told(README)) > 10
    assert _options_told(GUIDE["options"]) <= known
    assert known - set(re.findall(r"--[a-z-]+", GUIDE["options"])) == {"--help"}


def _options_told(text: str) -> set[str]:
    table = [line for line in text.splitlines() if line.startswith("| `--")]
    return {option for line in table for option in re.findall(r"--[a-z-]+", line.split("|")[1])}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        assert (page.parent / path).is_file(), target
        assert not anchor, "headings are renamed, pages are not"


def test_a_page_of_the_guide_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(GUIDE) == set(re.findall(r"guide/(\w+)\.md", README.partition("## The guide")[2]))
    for name, text in GUIDE.items():
        assert name not in COMMANDS
        assert main(["help", name]) == 0
        assert capsys.readouterr().out == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["help", "live"]) == 0
    assert "/api/latest" in capsys.readouterr().out
    for wrong, meant in (("format", "'formats'"), ("camera", "'cameras'")):
        assert main(["help", wrong]) == 2
        assert f"no page '{wrong}'; did you mean {meant}?" in capsys.readouterr().err
    assert main(["help", "nonsense"]) == 2
    assert "'nonsense' is not a command" in capsys.readouterr().err
    assert main(["live"]) == 2
    assert "did you mean `sharpose-rt help live`?" in capsys.readouterr().err


def _options_of(action: object, command: str) -> list[str]:
    choices = getattr(action, "choices", None) or {}
    if not isinstance(choices, dict) or command not in choices:
        return []
    return [s for a in choices[command]._actions for s in a.option_strings]


def test_the_demo_runs_without_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if bundled_weights("tiny_256x192") is None:
        pytest.fail("README's first command needs the weights of tiny_256x192, which do not ship")
    assert main(["demo", "--seconds", "0.4", "--output", str(tmp_path)]) == 0
    assert "complete: 10 frames" in capsys.readouterr().out
    assert {"demo_clip.mp4", "demo_clip.annotated.mp4"} <= {path.name for path in tmp_path.iterdir()}
    reader = StreamReader(tmp_path / "demo_clip.skeletons.jsonl")
    people = [len(record.poses) for record in reader]
    assert len(people) == 10
    assert max(people) >= 1
    assert reader.header.model["weights_sha256"]
    assert main(["validate", str(tmp_path / "demo_clip.skeletons.jsonl")]) == 0


def test_what_is_said_of_the_weights_is_on_their_cards() -> None:
    given = {}
    for card in ("tiny_256x192", "person_detector"):
        for metric in json.loads((BUNDLED / f"{card}.json").read_text())["metrics"]:
            words = [w for w in shlex.split(metric["command"]) if w not in ("--offline", "--annotations", "--images")]
            command = " ".join(w for w in words if "coco_val_dev" not in w).removesuffix(" --json metrics.json")
            given[command] = f"{metric['values']['AP']:.3f}", f"{metric['values']['AP50']:.3f}"
    rows = re.findall(r"\| ([0-9.]+) \| ([0-9.]+) \| `(sharpose-rt eval[^`]*)` \|", GUIDE["accuracy"])
    assert len(rows) == 7
    for ap, ap50, command in rows:
        assert given[command] == (ap, ap50), command
    told = README.partition("## How good")[2].partition("\n\n`")[0]
    shown = ("", " --flip-test", " --boxes detector --detector bundled")
    for command in [f"sharpose-rt eval{options}" for options in shown] + [
        "sharpose-rt eval-detector --detector bundled"
    ]:
        assert given[command][0] in told


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
