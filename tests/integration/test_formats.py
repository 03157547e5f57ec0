"""`--format`: a run writes the skeletons as other programs want them, by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from media_clips import write_clip
from people_set import SMALL
from raising import raising

from sharpose_rt.cli import main
from sharpose_rt.skeletons.convert import WRITERS, convert

FRAMES = 6


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "walk.mp4"
    write_clip(path, FRAMES, size_wh=(96, 64))
    return path


def track(video: Path, *more: str) -> int:
    network = ["--model", SMALL.name, "--weights", "random", "--boxes", "full"]
    return main(["--source", str(video), "--output", str(video.parent / "out"), *network, "--no-video", *more])


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


def test_options_of_formats(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track(video, "--format", "openpose,mot,csv", "--option", "model=COCO", "--option", "min_score=0.5") == 0
    out = video.parent / "out"
    (again,) = convert(out / "walk.skeletons.jsonl", "openpose", out / "again", model="COCO", min_score=0.5)
    for file, other in zip(sorted((out / "walk.openpose").iterdir()), sorted(again.iterdir()), strict=True):
        assert file.read_bytes() == other.read_bytes()
    assert track(video, "--format", "csv,mot", "--option", "min_scor=0.5") == 2
    assert "unknown option 'min_scor' of format csv or mot; did you mean 'min_score'?" in capsys.readouterr().err
    assert track(video, "--format", "csv", "--option", "min_score=5") == 2
    assert "0 to 1 is accepted" in capsys.readouterr().err
    assert track(video, "--option", "min_score=0.5") == 2
    assert "there are none; name some" in capsys.readouterr().err


def test_one_format_that_cannot_be_written_leaves_the_others(
    video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = raising(OSError(28, "No space left on device"))
    monkeypatch.setitem(WRITERS, "coco", WRITERS["coco"]._replace(write=full))
    assert track(video, "--format", "coco,csv") != 0
    assert "walk.coco.json cannot be written (No space left on device)" in capsys.readouterr().err
    assert (video.parent / "out" / "walk.csv").stat().st_size > 0
    assert (video.parent / "out" / "walk.skeletons.jsonl").is_file()
