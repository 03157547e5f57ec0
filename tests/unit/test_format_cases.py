"""Cases in which what is made of streams, or sent of them, was once not what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pythonosc.osc_message import OscMessage

from sharpose_rt.api import TrackedFrame
from sharpose_rt.cli import main
from sharpose_rt.errors import StreamError
from sharpose_rt.live.osc import message, packets
from sharpose_rt.live.thinned import Journey, Thinned
from sharpose_rt.machine.natural import natural
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import FrameRecord, Header, StreamReader, StreamWriter, action_array, encode, windows
from sharpose_rt.skeletons.convert import convert
from sharpose_rt.skeletons.importers import import_stream
from sharpose_rt.types import Frame, Poses, PoseStage

pytestmark = pytest.mark.timeout(60)


def people(*ids: int, x: float = 50.0, stage: PoseStage = PoseStage.FINE) -> Poses:
    n = len(ids)
    boxes, points = np.tile([20.0, 20, 120, 220], (n, 1)), np.full((n, 17, 2), x)
    scores, one = np.full((n, 17), 0.9), np.ones(n)
    return Poses(boxes, one, np.array(ids, np.int64), points, scores, points, scores, one, one * int(stage))  # type: ignore[arg-type]


def stream(path: Path, records: Sequence[FrameRecord], fps: float = 25.0) -> Path:
    model = {"name": "tiny", "weights_sha256": None, "behaviour": "paper", "quality_threshold": None}
    header = Header(
        source="walk.mp4", frame_size_wh=(640, 480), fps=fps, skeleton=COCO17, model=model, detector="full",
        tracker="none", smoothing="none", version="0",
    )  # fmt: skip
    with StreamWriter(path, header) as writer:
        for record in records:
            writer.write_line(encode(record.to_record()))
        writer.end("complete")
    return path


@pytest.mark.parametrize("names", [("a.mp4", "b.mp4"), ("", "")])  # the program's own frames have none
@pytest.mark.parametrize("within_scenes", [False, True])
def test_no_window_reaches_from_one_video_into_the_next(within_scenes: bool, names: tuple[str, str]) -> None:
    """As `PoseTracker.run` gives those of a folder: ids and times begin anew with each."""
    blank = np.zeros((480, 640, 3), np.uint8)
    frames = [
        TrackedFrame(Frame(number, number / 25, blank), people(1, x=x), COCO17, source=source)
        for source, x in zip(names, (100.0, 500.0), strict=True)
        for number in range(6)
    ]
    length: Any = np.int64(4)
    found = list(windows(frames, length, 2, normalize="none", within_scenes=within_scenes))
    assert len(found) == 4
    for window in found:
        assert (np.diff(window.pts_s[0]) > 0).all()
        assert len(np.unique(window.data[0, 0, :, :, 0])) == 1  # x of one video


@pytest.mark.parametrize(("fps", "frames"), [(10, 2), (30, 2), (30, 15), (29.97, 7)])
def test_gaps_of_one_length_are_filled_wherever_they_lie(tmp_path: Path, fps: float, frames: int) -> None:
    """Times of a stream are rounded; of gaps of just as long as is allowed none may stay."""
    starts = range(5, 180, frames + 6)
    gone = {start + i for start in starts for i in range(frames - 1)}
    records = [FrameRecord(i, round(i / fps, 6), people() if i in gone else people(1)) for i in range(200)]
    array = action_array(
        stream(tmp_path / "walk.skeletons.jsonl", records, fps), 1, fill="linear", max_gap_s=frames / fps
    )
    assert (array.scores[0, sorted(gone)] > 0).all()


def test_osc_carries_numbers_that_32_bits_cannot_hold() -> None:
    sent = message("/a", "iis", 2**31, -5, "x")
    assert OscMessage(sent).params == [2**31, -5, "x"]
    assert message("/a", "ii", 2**31 - 1, -(2**31)) == b"/a\0\0,ii\0" + b"\x7f\xff\xff\xff\x80\0\0\0"
    record = FrameRecord(2**40, 1.0, people(2**62)).to_record()
    assert b"".join(packets(record)).count(b",hh") == 1  # the person's


def test_a_consumer_is_told_of_a_loss_before_a_frame_that_it_does_not_get() -> None:
    journey, thinned, told = Journey(), Thinned(), {}
    for number in range(8):
        lost_s = {2: 59.9, 3: 0.5, 7: 1.25}.get(number)
        record = FrameRecord(number, float(number), people(), lost_before_s=lost_s)
        place = journey.go(None, new_scene=number == 3, lost_s=lost_s or 0.0)
        if number not in (2, 3, 5):
            line = json.loads(thinned.frame(number, encode(record.to_record()), place))
            told[number] = line.get("lost_before_s"), line.get("new_scene")
    assert told == {0: (None, None), 1: (None, None), 4: (60.4, True), 6: (None, None), 7: (1.25, None)}


@pytest.mark.parametrize("dotted", [False, True])
def test_pictures_come_back_from_openpose_in_the_order_of_the_run(tmp_path: Path, dotted: bool) -> None:
    names = [f"{number}_left.jpg" for number in range(1, 13)]
    records = [FrameRecord(i, i / 25, people(i + 1), picture=name) for i, name in enumerate(names)]
    (folder,) = convert(stream(tmp_path / "shots.skeletons.jsonl", records), "openpose")
    if dotted:  # as macOS leaves them on drives of others
        for file in list(folder.iterdir()):
            (folder / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    back = import_stream(folder, "openpose", tmp_path / "back.skeletons.jsonl", fps=25, frame_size_wh=(640, 480))
    assert [record.poses.track_ids.tolist() for record in StreamReader(back)] == [[i + 1] for i in range(12)]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True), st.text("ab_é", max_size=3))
def test_natural_order_counts(numbers: list[int], word: str) -> None:
    names = [f"{word}{number}{word.upper()}.png" for number in numbers]
    assert sorted(names, key=natural) == [f"{word}{number}{word.upper()}.png" for number in sorted(numbers)]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_of_ultralytics_is_no_stream(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(StreamError, match=r"results\.json is empty"):
        import_stream(path, "ultralytics", tmp_path / "new.skeletons.jsonl", fps=25, frame_size_wh=(640, 480))
    assert not (tmp_path / "new.skeletons.jsonl").exists()


def test_mot_can_do_without_who_was_only_predicted(tmp_path: Path) -> None:
    records = [
        FrameRecord(0, 0.0, people(1)),
        FrameRecord(1, 0.04, people(1, stage=PoseStage.PREDICTED)),
        replace(FrameRecord(2, 0.08, people(1))),
    ]
    path = stream(tmp_path / "walk.skeletons.jsonl", records)
    frames = {}
    for predicted in ("true", "false"):
        out = tmp_path / f"{predicted}.txt"
        assert main(["convert", str(path), "--to", "mot", "--option", f"predicted={predicted}", "--out", str(out)]) == 0
        frames[predicted] = [line.split(",")[0] for line in out.read_text().splitlines()]
    assert frames == {"true": ["1", "2", "3"], "false": ["1", "3"]}
