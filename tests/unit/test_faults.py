"""Faults of what a run stands on: links, pipes and devices in the place of files, sources that cannot be closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from media_clips import write_clip

from sharpose_rt.config.places import write_whole
from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import OutputError
from sharpose_rt.media import open_source
from sharpose_rt.media.group import SourceGroup
from sharpose_rt.skeletons import StreamReader, rewrite_stream

SAMPLE = Path(__file__).parents[2] / "samples" / "demo.skeletons.jsonl"


def test_a_link_goes_on_to_lead_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "far" / "real.json")
    write_whole(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "far" / "real.json").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes of a name here")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        write_whole(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.timeout(30)
def test_a_source_that_cannot_be_closed_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_clip(tmp_path / "a.mp4", 3)
    sources = [open_source(str(tmp_path / "a.mp4"), SourceConfig()) for _ in range(2)]

    def fail() -> None:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(sources[0], "close", fail)
    group = SourceGroup(sources, [False, False], lambda old, new: new)
    group.open()
    rounds = 0
    while group.read() is not None:
        rounds += 1
    group.close()
    assert rounds == 3
    assert "the driver is gone" in caplog.text


def test_a_stream_that_cannot_be_rewritten_stays_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tmp_path / "walk.skeletons.jsonl"
    stream.write_bytes(SAMPLE.read_bytes())
    frames = [record.poses for record in StreamReader(stream)]

    def full(*_: object) -> None:
        raise OutputError("cannot write walk.skeletons.jsonl.part") from OSError(28, "No space left on device")

    monkeypatch.setattr("sharpose_rt.skeletons.rewrite.StreamWriter.write_line", full)
    with pytest.raises(OutputError, match=r"walk.skeletons.jsonl stays as it was, .*: No space left on device"):
        rewrite_stream(stream, frames, smoothing="rts")
    assert stream.read_bytes() == SAMPLE.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["walk.skeletons.jsonl"]
