"""`--record`: the pictures as they came, each where its record is, for a replay or a set of labels later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from media_clips import WALK_TIMES, numbered, read_number, write_clip
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.cli import main
from sharpose_rt.config import RunConfig, load
from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import ConfigError
from sharpose_rt.media.writer import VideoWriter, first_pts_s
from sharpose_rt.outputs import Results
from sharpose_rt.skeletons import FrameRecord, StreamReader, StreamWriter, encode
from sharpose_rt.stages import StoredFrame, StoredFrames
from sharpose_rt.types import Poses

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "demo.skeletons.jsonl"
OPTIONS = [f"pose.model={SMALL.name}", "pose.weights=random", "pose.precision=fp32", "pose.quality_threshold=-inf"]
OPTIONS += ["detector.name=full"]

pytestmark = pytest.mark.timeout(120)


def config_of(out: Path, *more: str) -> RunConfig:
    return load(None, [*OPTIONS, f"output.directory={out}", "output.preset=ultrafast", "output.record=true", *more])


def recorded(clip: Path, out: Path, *more: str) -> Results:
    return FileRun(str(clip), config_of(out, *more)).run()


def stored(stream: Path, recording: Path, **part: float) -> list[StoredFrame]:
    """The frames of a stream with their pictures, as `replay` and `collect` read them."""
    reader = StreamReader(stream)
    with StoredFrames(reader, reader.warn_unless_complete(), SourceConfig(**part), str(recording)) as frames:  # type: ignore[arg-type]
        return [frame for frame in frames if isinstance(frame, StoredFrame)]


def numbers(frames: list[StoredFrame]) -> list[int]:
    assert all(frame.pictured for frame in frames)
    return [read_number(frame.image_bgr) for frame in frames]


@pytest.mark.parametrize("more", [[], ["source.realtime=true"], ["output.video=false", "output.stream=true"]])
def test_every_record_has_its_picture_and_nothing_is_drawn(clip: Path, tmp_path: Path, more: list[str]) -> None:
    results = recorded(clip, tmp_path, *more)
    assert results.recording == tmp_path / "walk.recording.mp4"
    assert (results.video is None) == ("output.video=false" in more)
    assert results.stream is not None
    frames = stored(results.stream, results.recording)
    shown = numbers(frames)
    assert shown == sorted(set(shown))
    assert [frame.pts_s for frame in frames] == pytest.approx([WALK_TIMES[number] for number in shown], abs=1e-4)
    if not more:
        assert shown == list(range(len(WALK_TIMES)))
    left, bottom = frames[0].image_bgr[100:120, 10:30].reshape(-1, 3).mean(0), frames[0].image_bgr[100:120, 60:100]
    np.testing.assert_allclose(left, [20, 20, 220], atol=12)  # as the clip is painted
    np.testing.assert_allclose(bottom, 90, atol=12)


def test_a_part_is_found_in_its_recording_though_times_go_on(clip: Path, tmp_path: Path) -> None:
    results = recorded(clip, tmp_path, "output.split_s=1")
    summary = json.loads((tmp_path / "walk.summary.json").read_text())
    shown = []
    for part in summary["parts"]:
        frames = stored(tmp_path / part["stream"], tmp_path / part["recording"])
        assert first_pts_s(str(tmp_path / part["recording"])) == pytest.approx(part["first_pts_s"], abs=1e-6)
        shown += numbers(frames)
    assert (len(summary["parts"]), shown) == (3, list(range(len(WALK_TIMES))))
    last = summary["parts"][-1]
    assert results.recording == tmp_path / last["recording"]
    begun = numbers(stored(tmp_path / last["stream"], tmp_path / last["recording"], start_s=2.15))
    assert begun == [number for number in range(len(WALK_TIMES)) if WALK_TIMES[number] >= 2.15]


def test_a_run_over_a_recording_has_times_of_its_own(clip: Path, tmp_path: Path) -> None:
    recorded(clip, tmp_path, "output.split_s=1")
    recording = tmp_path / "walk.00h00m01s.recording.mp4"
    config = load(None, [*OPTIONS, f"output.directory={tmp_path / 'again'}", "output.video=false"])
    results = FileRun(str(recording), config).run()
    assert results.stream is not None
    first = [number for number, time_s in enumerate(WALK_TIMES) if 1 <= time_s < 2]
    assert numbers(stored(results.stream, recording)) == first


def test_a_part_of_a_file_and_odd_sides(tmp_path: Path) -> None:
    clip = tmp_path / "odd.mkv"
    images = [np.full((97, 161, 3), 10 * n, np.uint8) for n in range(20)]
    write_clip(clip, 20, container="matroska", codec="ffv1", images=images)
    with av.open(str(clip)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (161, 97)
    results = recorded(clip, tmp_path / "out", "source.start_s=0.55")
    assert results.stream is not None
    assert results.recording is not None
    frames = stored(results.stream, results.recording)
    assert [round(float(frame.image_bgr.mean()) / 10) for frame in frames] == list(range(6, 20))
    assert {frame.image_bgr.shape for frame in frames} == {(97, 161, 3)}


def test_the_command_records_what_is_smoothed_both_ways_and_collects_from_it(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [text for option in [*OPTIONS, "output.preset=ultrafast"] for text in ("--set", option)]
    base = ["--source", str(clip), "--output", str(out), "--no-video", "--smooth", "rts", *options]
    assert main([*base, "--record"]) == 0
    assert f"recording  {out / 'walk.recording.mp4'}" in capsys.readouterr().out
    stream = str(out / "walk.skeletons.jsonl")
    assert main(["collect", stream, "--out", str(tmp_path / "set"), "--pictures", "3", "--min-score", "0"]) == 0
    pictures = sorted((tmp_path / "set" / "images").iterdir())
    for picture in pictures:
        image = cv2.imread(str(picture))
        assert image is not None
        assert picture.stem == f"walk.recording_{read_number(image):06d}"
    (out / "walk.recording.mp4").unlink()
    assert main(["collect", stream, "--out", str(tmp_path / "other")]) == 2
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize("hides", ["draw.faces=false", "draw.picture=false"])
def test_who_hides_faces_records_none(hides: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--record keeps the original pictures with the faces"):
        config_of(tmp_path, hides)


def test_pictures_need_no_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((96, 160, 3), 90, np.uint8))
    results = recorded(tmp_path, tmp_path / "out")
    assert results.recording is None
    assert "--record is for video" in caplog.text
    assert not list((tmp_path / "out").glob("*.recording.mp4"))


def test_what_came_back_in_another_size_has_no_picture_and_costs_the_others_nothing(tmp_path: Path) -> None:
    """A video has one size; those pictures were fitted into it."""
    header = replace(StreamReader(SAMPLE).header, frame_size_wh=(160, 96), fps=10.0)
    stream, recording = tmp_path / "cam.skeletons.jsonl", VideoWriter(tmp_path / "cam.recording.mp4", (160, 96), 10.0)
    nobody = Poses.empty(17)
    with StreamWriter(stream, header) as writer:
        for number, size_wh in enumerate([None, (320, 240), (320, 240), None]):
            recording.write(numbered(number, size_wh or (160, 96)), number / 10)
            record = FrameRecord(number, number / 10, nobody, frame_size_wh=size_wh)
            writer.write_line(encode(record.to_record()))
        writer.end("complete")
    path = recording.close()
    assert path is not None
    frames = stored(stream, path)
    assert [frame.pictured for frame in frames] == [True, False, False, True]
    assert [read_number(frames[place].image_bgr) for place in (0, 3)] == [0, 3]
    assert [frame.size_wh for frame in frames] == [(160, 96), (320, 240), (320, 240), (160, 96)]
