"""Outputs in parts (`--split`): together they hold every frame once, and each is whole as soon as the next begins."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from live_world import Lines
from media_clips import WALK_TIMES as TIMES
from media_clips import read_number
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.cli import main
from sharpose_rt.config import RunConfig, load
from sharpose_rt.errors import ConfigError, OutputError
from sharpose_rt.several import SeveralRun
from sharpose_rt.skeletons import StreamReader, output_paths, validate
from sharpose_rt.stages import PartedSink
from sharpose_rt.types import Frame, Packet

FRAMES = len(TIMES)
OPTIONS = [f"pose.model={SMALL.name}", "pose.weights=random", "pose.precision=fp32", "pose.quality_threshold=-inf"]
OPTIONS += ["detector.name=full"]

pytestmark = pytest.mark.timeout(120)


def _config(out: Path, *more: str) -> RunConfig:
    return load(None, [*OPTIONS, f"output.directory={out}", "output.preset=ultrafast", "output.split_s=1", *more])


def _numbers(path: Path) -> tuple[list[int], float, float]:
    """The numbers that the frames of a video bear, the time of the first, and the length of the sound in seconds."""
    with av.open(str(path)) as container:
        frames = [(float(f.time), read_number(f.to_ndarray(format="bgr24"))) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [p for p in container.demux(audio=0) if p.dts is not None]
        sound_s = float(sum((p.duration or 0) * p.time_base for p in sound))
    return [number for _, number in frames], frames[0][0], sound_s


def test_parts_of_a_file_hold_every_frame_once(clip: Path, tmp_path: Path) -> None:
    plain = ["draw.boxes=false", "draw.ids=false", "draw.status=false", "draw.min_score=1"]
    results = FileRun(str(clip), _config(tmp_path, "output.formats=[csv]", *plain)).run()
    names = [f"walk.00h00m0{second}s" for second in range(3)]
    endings = ("annotated.mp4", "csv", "skeletons.jsonl")
    wanted = {f"{name}.{ending}" for name in names for ending in endings} | {"walk.summary.json"}
    assert {path.name for path in tmp_path.iterdir()} == wanted
    assert (results.parts, results.status) == (3, "complete")
    assert results.stream == tmp_path / f"{names[-1]}.skeletons.jsonl"
    assert results.video == tmp_path / f"{names[-1]}.annotated.mp4"
    assert results.formats == (tmp_path / f"{names[-1]}.csv",)

    summary = json.loads((tmp_path / "walk.summary.json").read_text())
    assert summary["frames"] == FRAMES
    seen: list[int] = []
    for place, name in enumerate(names):
        path = tmp_path / f"{name}.skeletons.jsonl"
        assert [p for p in validate(path) if p.severity == "error"] == []
        reader = StreamReader(path)
        records = list(reader)
        assert all(place <= record.pts_s < place + 1 for record in records)
        assert {int(i) for record in records for i in record.poses.track_ids} == {1}  # somebody stays who they are
        assert reader.end is not None
        assert (reader.end["status"], reader.end["frames"]) == ("complete", len(records))
        numbers, first_s, sound_s = _numbers(tmp_path / f"{name}.annotated.mp4")
        assert [record.frame_id for record in records] == list(range(len(records)))  # places in its own video
        assert first_s == 0
        assert sound_s == pytest.approx(min(1.0, TIMES[-1] + 0.1 - place), abs=0.1)
        rows = (tmp_path / f"{name}.csv").read_text().splitlines()
        assert len(rows) - 1 == len(records)
        assert summary["parts"][place] == {
            "stream": path.name,
            "video": f"{name}.annotated.mp4",
            "recording": None,
            "formats": [f"{name}.csv"],
            "frames": len(records),
            "first_pts_s": records[0].pts_s,
            "last_pts_s": records[-1].pts_s,
        }
        seen += numbers
    assert seen == list(range(FRAMES))
    assert len(summary["parts"]) == len(names)


def test_parts_of_a_live_source_bear_its_time_and_taps_know_of_none(clip: Path, tmp_path: Path) -> None:
    tap = Lines()
    config = _config(tmp_path, "source.realtime=true", "output.video=false")
    results = FileRun(str(clip), config, [tap]).run()
    streams = sorted(tmp_path.glob("*.jsonl"))
    assert results.parts == len(streams) >= 3
    assert results.video is None
    pts_s: list[float] = []
    for path in streams:
        match = re.fullmatch(r"walk\.(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z\.skeletons\.jsonl", path.name)
        assert match is not None
        part = list(StreamReader(path))
        year, month, day, hour, minute, second = match.groups()
        assert part[0].captured_at is not None
        assert part[0].captured_at.startswith(f"{year}-{month}-{day}T{hour}:{minute}:{second}")
        begins_s = datetime.fromisoformat(part[0].captured_at).replace(microsecond=0).timestamp()
        times_s = [datetime.fromisoformat(record.captured_at or "").timestamp() for record in part]
        assert all(begins_s <= time_s < begins_s + 1.01 for time_s in times_s)  # one second of the clock
        assert [p for p in validate(path) if p.severity == "error"] == []
        pts_s += [record.pts_s for record in part]
    records = [json.loads(line) for line in tap.lines]
    kinds = [record["type"] for record in records]
    assert kinds == ["header", *["frame"] * len(pts_s), "end"]
    assert [record["pts_s"] for record in records[1:-1]] == pts_s
    numbers = [record["frame_id"] for record in records[1:-1]]
    assert numbers == sorted(set(numbers))  # they go on through the parts


def test_parts_are_replaced_where_that_is_asked_and_a_long_name_keeps_their_times(clip: Path, tmp_path: Path) -> None:
    long, out = tmp_path / f"{'w' * 240}.mp4", tmp_path / "out"
    long.write_bytes(clip.read_bytes())
    written = []
    for _ in range(2):
        FileRun(str(long), _config(out, "output.video=false", "output.formats=[csv]", "output.overwrite=true")).run()
        written.append({path.name: path.stat().st_mtime_ns for path in out.iterdir()})
    first, second = written
    assert first.keys() == second.keys()
    assert all(first[name] < second[name] for name in first)
    for ending in ("skeletons.jsonl", "csv"):
        times = [name.removesuffix(ending)[-11:] for name in sorted(second) if name.endswith(ending)]
        assert times == [f".00h00m0{second}s." for second in range(3)]


def test_without_a_stream_there_are_videos_alone(clip: Path, tmp_path: Path) -> None:
    FileRun(str(clip), _config(tmp_path, "output.stream=false")).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"walk.00h00m0{second}s.annotated.mp4" for second in range(3)),
        "walk.summary.json",
    ]
    parts = json.loads((tmp_path / "walk.summary.json").read_text())["parts"]
    assert [part["stream"] for part in parts] == [None] * 3
    assert sum(part["frames"] for part in parts) == FRAMES


def test_a_run_beside_an_earlier_one_takes_no_name_of_it(clip: Path, tmp_path: Path) -> None:
    before = FileRun(str(clip), _config(tmp_path, "output.video=false")).run()
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = FileRun(str(clip), _config(tmp_path, "output.video=false")).run()
    assert before.stream is not None
    assert again.stream is not None
    assert again.stream.name == "walk-2.00h00m02s.skeletons.jsonl"
    assert {path: path.read_bytes() for path in kept} == kept


def test_the_last_part_of_an_interrupted_run_says_so(clip: Path, tmp_path: Path) -> None:
    run = FileRun(str(clip), _config(tmp_path, "output.video=false", "queue_frames=1"))
    seen: list[Packet] = []

    def stop(packet: Packet) -> None:
        assert not list(tmp_path.glob("walk.s*.json*"))  # empty, a stream would stop `convert *.jsonl`
        for in_parts in (False, True):
            other = output_paths(tmp_path, "walk", overwrite=False, in_parts=in_parts)
            assert other.summary.name == "walk-2.summary.json"  # the name is taken, though nothing has it yet
            other.release()
        seen.append(packet)
        if packet.frame.pts_s > 1.2:
            run.stop()

    run.run(stop)
    ends = []
    assert not list(tmp_path.glob("*.part"))
    for path in sorted(tmp_path.glob("*.jsonl")):
        reader = StreamReader(path)
        frames = len(list(reader))
        assert reader.end is not None
        assert reader.end["frames"] == frames
        ends.append(reader.end["status"])
    assert ends == ["complete", "interrupted"]


@pytest.mark.parametrize("failing", [1, 3])
def test_a_format_that_fails_ends_the_run_after_its_summary(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls: list[Path] = []

    def convert(stream: Path, *_: object, **__: object) -> list[Path]:
        calls.append(stream)
        if len(calls) == failing:
            raise OutputError("no room for this format")
        return []

    monkeypatch.setattr("sharpose_rt.skeletons.convert.convert_all", convert)
    with pytest.raises(OutputError, match="no room for this format"):
        FileRun(str(clip), _config(tmp_path, "output.video=false", "output.formats=[csv]")).run()
    assert (tmp_path / "walk.summary.json").is_file()
    assert sum(1 for path in tmp_path.glob("*.jsonl") for _ in StreamReader(path)) > 0


def test_each_of_several_sources_has_parts_of_its_own(clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes())
    out = tmp_path / "out"
    results = SeveralRun([str(clip), str(other)], _config(out, "output.video=false")).run()
    assert [result.parts for result in results] == [3, 3]
    for name in ("walk", "other"):
        times = [r.pts_s for path in sorted((out / name).glob("*.jsonl")) for r in StreamReader(path)]
        np.testing.assert_allclose(times, TIMES, atol=2e-3)


def test_pictures_stay_in_one_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((64, 64, 3), np.uint8))
    results = FileRun(str(folder), _config(tmp_path / "out")).run()
    assert results.parts == 0
    assert results.stream == tmp_path / "out" / "pictures.skeletons.jsonl"
    assert "--split is for video" in caplog.text


def test_parts_keep_to_their_grid_behind_a_gap() -> None:
    begun: list[float] = []
    ended: list[int] = []
    sink = PartedSink(10.0, lambda frame: begun.append(frame.pts_s) or (), lambda part: ended.append(part.frames))
    for pts_s in (3.0, 12.9, 13.0, 22.0, 61.0, 62.9, 63.0):
        sink.write(Packet(Frame(0, pts_s, np.zeros((4, 4, 3), np.uint8))), "")
    sink.close("complete", 7, 0)
    assert begun == [3.0, 13.0, 61.0, 63.0]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be set here")
@pytest.mark.parametrize(
    ("split_s", "captured", "wanted"),
    [
        (3600, "2026-01-31T09:59:58 10:00:00 10:59:59 11:00:01 14:30 15:00", "09:59:58 10:00:00 11:00:01 14:30 15:00"),
        (86400, "2026-01-31T09:00 22:59 23:00 23:59", "09:00 23:00"),  # midnight in Berlin
        # The night in which its clocks are put back, at 01:00 UTC: the hour from two to three comes twice.
        (3600, "2026-10-25T00:30 00:59 01:00 01:59 02:00", "00:30 01:00 02:00"),
        (600, "2026-10-25T00:55 01:05 01:09 01:10 01:11", "00:55 01:05 01:10"),
        (86400, "2026-10-25T00:30 01:30 22:30 23:00", "00:30 23:00"),  # on summer time till one, then no longer
        # A clock that ran ahead until a time server was asked, and one that was corrected by a moment.
        (3600, "2026-01-31T14:10 14:50 12:20 12:59 13:00 13:00 14:00", "14:10 12:20 13:00 14:00"),
        (3600, "2026-01-31T14:00 13:59:59.5 14:30", "14:00"),
    ],
)
def test_parts_of_a_live_source_begin_as_the_clock_strikes(
    split_s: float, captured: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, _, times = captured.partition("T")
    begun: list[datetime] = []

    def begin(frame: Frame) -> tuple[()]:
        begun.append(datetime.fromtimestamp(frame.captured_at_s, UTC))
        return ()

    at = {name: datetime.fromisoformat(f"{day}T{name}+00:00") for name in times.split()}
    when = lambda frame: (datetime.fromtimestamp(frame.captured_at_s, UTC), 0.0)  # noqa: E731
    monkeypatch.setattr("sharpose_rt.stages.sinks.captured_at", when)
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        sink = PartedSink(split_s, begin, lambda part: None, live=True)
        for number, moment in enumerate(at.values()):
            picture = np.zeros((4, 4, 3), np.uint8)
            sink.write(Packet(Frame(number, float(number), picture, captured_at_s=moment.timestamp())), "")
    time.tzset()
    assert begun == [at[name] for name in wanted.split()]


def test_frames_that_were_dropped_before_a_part_are_its_own() -> None:
    written: list[Packet] = []

    class Kept:
        path = None

        def write(self, packet: Packet, status_line: str) -> None:
            written.append(packet)

        def close(self, status: str, frames: int, dropped: int) -> None:
            ends.append((status, frames, dropped))

    ends: list[tuple[str, int, int]] = []
    sink = PartedSink(1.0, lambda frame: [Kept()], lambda part: None)
    for number, pts_s, dropped in ((0, 0.0, 0), (3, 0.9, 2), (7, 1.1, 3), (8, 1.2, 0)):
        sink.write(Packet(Frame(number, pts_s, np.zeros((4, 4, 3), np.uint8), dropped_before=dropped)), "")
    sink.close("interrupted", 4, 5)
    assert [packet.frame.frame_id for packet in written] == [0, 3, 3, 4]
    assert ends == [("complete", 2, 2), ("interrupted", 2, 3)]


def test_the_command_says_how_many_parts_there_are(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option for value in OPTIONS for option in ("--set", value)]
    command = ["--source", str(clip), "--no-video", "--output", str(tmp_path), *options]
    assert main([*command, "--split", "2"]) == 0
    assert "2 parts; the last one:\n  skeletons  " in capsys.readouterr().out
    assert main([*command, "--split", "0.5"]) == 2
    assert "--split: output.split_s is 0.5" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="rts needs the whole video"):
        FileRun(str(clip), _config(tmp_path, "smooth.method=rts"))
