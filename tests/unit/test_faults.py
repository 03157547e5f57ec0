"""Faults of what a run stands on: links, pipes and devices in the place of files, a full disk, sources that cannot be
closed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_disk import file_size_limit
from media_clips import write_clip

from sharpose_rt.bench.alone import PARTS
from sharpose_rt.bench.plot import plot_pipeline
from sharpose_rt.commands import explain
from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.engine.explain import Explanation
from sharpose_rt.errors import OutputError
from sharpose_rt.evaluation.sweep import write_sweep
from sharpose_rt.machine.whole_files import write_whole
from sharpose_rt.media import open_source
from sharpose_rt.media.group import SourceGroup
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import StreamReader, rewrite_stream
from sharpose_rt.training.report import draw_curves

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
    with pytest.raises(OSError, match="not a regular file"):
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
        raise OutputError("walk.skeletons.jsonl.part cannot be written") from OSError(28, "No space left on device")

    monkeypatch.setattr("sharpose_rt.skeletons.stream.StreamWriter.write_line", full)
    with pytest.raises(
        OutputError, match=r"walk.skeletons.jsonl cannot be written \(No space left on device\); it stays as it was"
    ):
        rewrite_stream(stream, frames, smoothing="rts")
    assert stream.read_bytes() == SAMPLE.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["walk.skeletons.jsonl"]


def _sweep(value: float, path: Path) -> None:
    names = ("refine_from_px", "exit_rate", "AP", "AP50", "AP75", "gmacs_per_person")
    write_sweep([dict.fromkeys(names, value)], path)


def _curves(value: float, path: Path) -> None:
    draw_curves([{"elapsed_s": 60.0 * minute, "lr": value} for minute in range(3)], path)


def _explanation(value: float, path: Path) -> None:
    cells, heatmap = np.full((4, 3), value, np.float32), np.full((32, 24), value, np.float32)
    pose: Any = (heatmap, np.full((17, 2), 40.0, np.float32), np.full(17, value, np.float32))
    crop = np.full((128, 96, 3), 128, np.uint8)
    found = Explanation(crop, cells, cells > 0.5, *pose, *pose, value, value)
    explain.draw(found, COCO17, "person", Gate(), path)


def _pipeline(value: float, path: Path) -> None:
    row = {"people": 1, "people_mean": 1.0, "fps": 10.0, "latency_ms": dict.fromkeys(("p50", "p95", "p99"), value)}
    settings = {"source": "a.mp4", "size_wh": (64, 48), "fps": 25.0, "mode": "file", "video": True}
    rows = [row | {"alone": [{"name": part, "mean_ms": value} for part in PARTS]}]
    machine = {"gpu": None, "cpu": "a processor", "cores": 2}
    plot_pipeline({"settings": settings, "results": rows, "machine": machine}, path)


@pytest.mark.parametrize("draw", [_sweep, _curves, _explanation, _pipeline])
def test_a_figure_that_finds_the_disk_full_leaves_the_earlier_one(
    draw: Callable[[float, Path], None], tmp_path: Path
) -> None:
    draw(0.25, tmp_path / "figure.png")
    earlier = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with file_size_limit(4000), pytest.raises(OutputError, match=r"figure.*cannot be written"):
        draw(0.75, tmp_path / "figure.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == earlier
