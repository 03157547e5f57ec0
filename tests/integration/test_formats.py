"""`--format`: a run writes the skeletons as other programs want them, by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from media_clips import write_clip

from sharpose_rt.cli import main
from sharpose_rt.skeletons.convert import convert

FRAMES = 6


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "walk.mp4"
    write_clip(path, FRAMES, size_wh=(96, 64))
    return path


def track(video: Path, *more: str) -> int:
    base = ["--source", str(video), "--output", str(video.parent / "out"), "--weights", "random", "--boxes", "full"]
    return main([*base, "--no-video", *more])


def test_formats_are_what_convert_makes_of_the_stream(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track(video, "--format", "openpose,csv, pyskl", "--person-slots", "3", "--fill", "linear") == 0
    out, printed = video.parent / "out", capsys.readouterr().out
    names = ("walk.openpose", "walk.csv", "walk.pyskl.pkl")
    assert all(str(out / name) in printed for name in names)
    assert len(list((out / "walk.openpose").iterdir())) == FRAMES
    (again,) = convert(out / "walk.skeletons.jsonl", "pyskl", out / "again", person_slots=3, fill="linear")
    assert again.read_bytes() == (out / "walk.pyskl.pkl").read_bytes()
    assert json.loads((out / "walk.summary.json").read_text())["config"]["output"]["formats"][0] == "openpose"


def test_a_second_run_replaces_none_of_them(video: Path) -> None:
    assert track(video, "--format", "trc") == 0
    out = video.parent / "out"
    (out / "walk.skeletons.jsonl").unlink()
    (out / "walk.summary.json").unlink()
    before = (out / "walk_person01.trc").read_bytes()
    assert track(video, "--format", "trc") == 0
    assert (out / "walk-2_person01.trc").is_file()
    assert (out / "walk_person01.trc").read_bytes() == before


def test_smoothing_both_ways_is_in_them(video: Path) -> None:
    assert track(video, "--format", "coco", "--smooth", "rts") == 0
    out = video.parent / "out"
    (again,) = convert(out / "walk.skeletons.jsonl", "coco", out / "again.json")
    assert again.read_bytes() == (out / "walk.coco.json").read_bytes()


def test_wrong_formats_are_told_before_anything_runs(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track(video, "--format", "openpos") == 2
    assert "did you mean 'openpose'" in capsys.readouterr().err
    assert track(video, "--format", "csv", "--set", "output.stream=false") == 2
    assert "made from the skeleton stream" in capsys.readouterr().err
    assert not (video.parent / "out").exists()
