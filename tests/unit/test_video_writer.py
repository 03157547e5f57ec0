"""The writer: decodable, in time, with sound, in the right colours, and readable after a crash."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from full_disk import file_size_limit
from media_clips import decode_times, numbered, read_number, write_clip

from sharpose_rt.config.schema import OutputConfig, SourceConfig
from sharpose_rt.errors import OutputError
from sharpose_rt.media.audio import _timed_sound
from sharpose_rt.media.draw import Painter
from sharpose_rt.media.h264 import letterbox
from sharpose_rt.media.opening import open_source
from sharpose_rt.media.source import SourceInfo
from sharpose_rt.media.writer import VideoWriter, write_image
from sharpose_rt.skeleton import COCO17
from sharpose_rt.stages import VideoSink
from sharpose_rt.types import Frame, Packet, Poses

FAST = OutputConfig(preset="ultrafast")


def write(path: Path, times_s: list[float], size_wh: tuple[int, int] = (160, 96), **options) -> Path:
    writer = VideoWriter(path, size_wh, 10, FAST, **options)
    for number, time_s in enumerate(times_s):
        writer.write(numbered(number, size_wh), time_s)
    result = writer.close()
    assert result == path
    return path


def audio_span(path: Path) -> tuple[str, float, float]:
    """Codec, first and last time in seconds of the first audio stream."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
    last = frames[-1]
    return stream.codec_context.codec.canonical_name, frames[0].time, last.time + last.samples / last.sample_rate


def numbers(path: Path) -> list[int]:
    with open_source(str(path)) as source:
        return [read_number(frame.image_bgr) for frame in source]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_folder_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(Path("sound.mp4"), 10, audio="aac")
    path = write(Path("2026-11-27T10:30:00") / "file:out.mp4", [0.0, 0.1, 0.2], audio_from="sound.mp4")
    assert numbers(path) == [0, 1, 2]
    assert names(path.parent) == [path.name]
    assert audio_span(tmp_path / path)[0] == "aac"


def test_frames_and_times_come_back(tmp_path: Path) -> None:
    times = [5.0, 5.033, 5.1, 5.4, 5.41, 6.7, 6.75, 7.0]
    path = write(tmp_path / "new" / "out.mp4", times)
    np.testing.assert_allclose(decode_times(path), np.array(times) - 5.0, atol=2e-5)
    assert numbers(path) == list(range(8))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(2.1, abs=1e-3)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert names(path.parent) == ["out.mp4"]


@pytest.mark.parametrize("live", [False, True])
def test_a_video_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut just then would leave an empty file, and nothing beside it."""
    synced: dict[int, list[str]] = {}
    monkeypatch.setattr(os, "fsync", lambda handle: synced.update({os.fstat(handle).st_ino: names(tmp_path)}))
    path = write(tmp_path / "out.mp4", [0.0, 0.1], live=live)
    assert "out.mp4" not in synced[path.stat().st_ino]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("at", [28, 29, 30])
def test_the_header_says_how_long_it_is_though_there_is_a_gap(tmp_path: Path, at: int, live: bool) -> None:
    """FFmpeg's demuxer counts the frames itself; other players believe what is written."""
    writer = VideoWriter(tmp_path / "out.mp4", (160, 96), 25, OutputConfig(), live=live)  # a preset with B-frames
    for n in range(60):
        writer.write(numbered(n), n / 25 + (5 if n >= at else 0))
    writer.close()
    data = (tmp_path / "out.mp4").read_bytes()

    def number(box: bytes, offset: int) -> int:
        start = data.rindex(box) + 4 + offset  # of the last box: a live one's pictures begin with that of the part file
        return int.from_bytes(data[start : start + 4], "big")

    ticks = number(b"mvhd", 12)
    assert [number(*field) / ticks for field in ((b"mvhd", 16), (b"tkhd", 20), (b"elst", 8))] == pytest.approx(
        [7.4] * 3
    )
    # The reordering of frames counts in here, by a frame or two.
    assert number(b"mdhd", 16) / number(b"mdhd", 12) == pytest.approx(7.4, abs=0.08 + 1e-6)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("preset", ["ultrafast", "veryfast"])  # without B-frames and with them
def test_a_gap_longer_than_an_mp4_can_hold_keeps_the_times(tmp_path: Path, preset: str, live: bool) -> None:
    hours = [0, 0, 0, 8, 8, 8, 8, 14, 20, 55]
    times = [hour * 3600 + n / 10 for n, hour in enumerate(hours)]
    writer = VideoWriter(tmp_path / "out.mp4", (160, 96), 10, OutputConfig(preset=preset), live=live)
    for n, time_s in enumerate(times):
        writer.write(numbered(n), time_s)
    assert writer.close() == tmp_path / "out.mp4"
    assert writer.frames == len(times)
    found, shown = decode_times(tmp_path / "out.mp4"), numbers(tmp_path / "out.mp4")
    assert [found[shown.index(n)] for n in range(len(times))] == pytest.approx(times, abs=2e-5)
    assert shown == sorted(shown)  # in a gap the last picture before it stays
    assert max(np.diff(found)) <= 3 * 3600


def test_readers_know_a_live_video_as_they_do_another(tmp_path: Path) -> None:
    """It has one index of the whole, unlike its part file. At a frame a second each begins a fragment."""
    writer = VideoWriter(tmp_path / "out.mp4", (160, 96), 25, OutputConfig(), live=True)
    for n in range(61):
        writer.write(numbered(n), float(n))
    path = writer.close()
    assert path is not None
    assert numbers(path) == list(range(61))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, container.duration) == (61, 60_040_000)
        container.seek(55 * 90_000, stream=stream)
        assert next(container.decode(stream)).time == 50  # where the last keyframe is
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 61
    capture.set(cv2.CAP_PROP_POS_FRAMES, 45)
    assert read_number(capture.read()[1]) == 45
    capture.release()


@pytest.mark.parametrize("live", [False, True])
def test_only_a_live_video_is_not_copied(tmp_path: Path, live: bool) -> None:
    """That of a day has gigabytes, and whoever stops the run may allow seconds."""
    path, part = tmp_path / "out.mp4", tmp_path / "out.part.mp4"
    info = SourceInfo("in", "camera" if live else "video", live=live, size_wh=(160, 96), fps=25)
    sink = VideoSink(path, info, Painter(COCO17), FAST)
    for n in range(50):
        sink.write(Packet(Frame(n, n / 25, numbered(n)), poses=Poses.empty(17)), "")
    written = part.stat().st_ino
    sink.close("complete", 50, 0)
    assert (sink.path, names(tmp_path)) == (path, ["out.mp4"])
    assert (path.stat().st_ino == written) == live
    assert numbers(path) == list(range(50))


@pytest.mark.parametrize(("count", "wanted"), [(2, b" threads=1 "), (16, b" threads=4 ")])
def test_the_encoder_leaves_the_cores_to_the_networks(tmp_path: Path, monkeypatch, count: int, wanted: bytes) -> None:
    monkeypatch.setattr("sharpose_rt.machine.threads.cores", lambda: count)
    path = write(tmp_path / "out.mp4", [0.0, 0.1, 0.2], (640, 480))
    assert wanted in path.read_bytes()  # x264 writes its settings into what it makes


def test_equal_times_are_parted(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mp4", [0.0, 0.0, 0.0, 0.1])
    times = decode_times(path)
    assert len(times) == 4
    assert np.all(np.diff(times) > 0)


@pytest.mark.parametrize("size_wh", [(161, 97), (160, 97), (161, 96)])
def test_odd_sizes_are_padded_not_scaled(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    path = write(tmp_path / "out.mp4", [0.0, 0.1, 0.2], size_wh)
    with open_source(str(path)) as source:
        frame = source.read()
    assert frame is not None
    assert frame.size_wh == (size_wh[0] + size_wh[0] % 2, size_wh[1] + size_wh[1] % 2)
    inner = frame.image_bgr[: size_wh[1], : size_wh[0]].astype(int)
    assert np.abs(inner - numbered(0, size_wh)).mean() < 6


def test_colours_survive(tmp_path: Path) -> None:
    image = np.zeros((96, 160, 3), np.uint8)
    colours = [(40, 200, 90), (200, 60, 180), (20, 20, 220), (250, 250, 250), (5, 5, 5)]
    for n, colour in enumerate(colours):
        image[:, n * 32 : (n + 1) * 32] = colour
    writer = VideoWriter(tmp_path / "out.mp4", (160, 96), 10, OutputConfig(crf=5))
    for n in range(3):
        writer.write(image, n / 10)
    writer.close()
    with av.open(str(tmp_path / "out.mp4")) as container:
        decoded = next(container.decode(video=0))
        assert (decoded.colorspace, decoded.color_range) == (6, 1)
    with open_source(str(tmp_path / "out.mp4")) as source:
        frame = source.read()
    assert frame is not None
    for n, colour in enumerate(colours):
        np.testing.assert_allclose(frame.image_bgr[48, n * 32 + 16], colour, atol=4)


def test_other_sizes_are_letterboxed(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (160, 96), 10, FAST)
    writer.write(numbered(0), 0.0)
    writer.write(np.full((200, 100, 3), 255, np.uint8), 1.0)
    writer.close()
    with open_source(str(tmp_path / "out.mp4")) as source:
        frames = list(source)
    assert [frame.size_wh for frame in frames] == [(160, 96)] * 2
    columns = frames[1].image_bgr[48, :, 1] > 128
    assert columns.sum() == pytest.approx(48, abs=2)  # 100x200 in a height of 96
    assert not columns[:50].any()


def test_letterbox_keeps_the_aspect() -> None:
    out = letterbox(np.full((50, 200, 3), 255, np.uint8), (100, 100))
    rows = (out[:, 50, 0] > 128).nonzero()[0]
    assert (rows[0], rows[-1]) == (37, 61)
    assert (out[50, :, 0] > 128).all()


# --- audio


def annotate(source_path: Path, path: Path, config: SourceConfig) -> Path:
    with open_source(str(source_path), config) as source:
        assert source.info.audio
        writer = VideoWriter(path, source.info.size_wh, source.info.fps, FAST, source.info.path)
        for frame in source:
            writer.write(frame.image_bgr, frame.pts_s)
    assert writer.close() == path
    return path


@pytest.mark.parametrize(
    ("codec", "container", "expected"),
    [("aac", "mp4", "aac"), ("libmp3lame", "matroska", "mp3"), ("pcm_s16le", "matroska", "aac")],
)
def test_audio_is_copied_or_made_to_fit(tmp_path: Path, codec: str, container: str, expected: str) -> None:
    write_clip(tmp_path / "in", 30, audio=codec, container=container)
    out = annotate(tmp_path / "in", tmp_path / "out.mp4", SourceConfig(stride=3))
    name, first_s, last_s = audio_span(out)
    assert name == expected
    assert first_s == pytest.approx(0, abs=0.03)
    assert last_s == pytest.approx(3.0, abs=0.06)
    assert decode_times(out)[0] == 0


def test_mp3_of_a_rate_that_mp4_has_not_is_made_anew(tmp_path: Path) -> None:
    """As of old Flash videos."""
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        video, sound = out.add_stream("libx264", rate=10), out.add_stream("libmp3lame", rate=11025, layout="mono")
        video.width, video.height = 160, 96
        for number in range(10):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((96, 160, 3), np.uint8), format="bgr24")))
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1102), np.float32), format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 11025, 1102 * number, Fraction(1, 11025)
            out.mux(sound.encode(part))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    name, first_s, last_s = audio_span(annotate(tmp_path / "in.mkv", tmp_path / "out.mp4", SourceConfig()))
    assert (name, first_s, last_s) == ("aac", pytest.approx(0, abs=0.05), pytest.approx(0.9, abs=0.15))


def test_sound_without_times_follows_its_first_packet() -> None:
    """As the decoder of WMA Pro gives it."""
    frames = [SimpleNamespace(time=time, samples=480, sample_rate=48000) for time in (None, None, 0.5, None)]
    packets = [
        SimpleNamespace(pts=pts, time_base=Fraction(1, 1000), decode=lambda part=part: part)
        for pts, part in ((120, []), (153, frames[:1]), (None, frames[1:]))
    ]
    source = SimpleNamespace(demux=lambda stream: iter(packets))
    assert [time_s for _, time_s in _timed_sound(source, None)] == pytest.approx([0.153, 0.163, 0.5, 0.51])


def write_noise(path: Path, levels: Sequence[int | None], spacing: float = 1.0, *, codec: str = "pcm_s16le") -> None:
    """A second of noise of each level, None for no packet at all, in a codec that has to be made anew unless given.

    The timestamps of sound are as far apart as `spacing` says, as of a microphone whose clock is another.
    """
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("libx264", rate=10), out.add_stream(codec, rate=44100)
        video.width, video.height = 160, 96
        for second, level in enumerate(levels):
            if level is not None:
                noise = np.random.default_rng(0).integers(-level, level + 1, (1, 44100)).astype(np.int16)
                part = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
                part.sample_rate, part.time_base = 44100, Fraction(1, 44100)
                part.pts = round(spacing * second * 44100)
                out.mux(sound.encode(part))
            for n in range(10 * second, 10 * second + 10):
                out.mux(video.encode(av.VideoFrame.from_ndarray(numbered(n), format="bgr24")))
        for stream in (sound, video):
            out.mux(stream.encode(None))


def loud_from(path: Path) -> float:
    """When it is loud first, in seconds."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()).max(0) > 0.05)
            if len(loud):
                return frame.time + loud[0] / frame.sample_rate
    raise AssertionError("all of it is silent")


def loud_spells(path: Path) -> list[float]:
    """When it becomes loud after half a second that was not, in seconds."""
    found, last_s = [], -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for at in np.flatnonzero(np.abs(frame.to_ndarray()).max(0) > 0.05):
                at_s = frame.time + at / frame.sample_rate
                found += [at_s] if at_s > last_s + 0.5 else []
                last_s = at_s
    return found


def test_sound_with_a_gap_stays_beside_its_pictures(tmp_path: Path) -> None:
    write_noise(tmp_path / "in.mkv", (0, 0, None, 8000, 8000))
    result = annotate(tmp_path / "in.mkv", tmp_path / "out.mp4", SourceConfig())
    assert loud_from(result) == pytest.approx(3, abs=0.06)
    assert audio_span(result)[2] == pytest.approx(5, abs=0.1)


def test_sound_of_a_part_begins_where_the_part_does_not_with_its_packet(tmp_path: Path) -> None:
    write_noise(tmp_path / "in.mkv", (0, 0, 8000, 8000))
    part = annotate(tmp_path / "in.mkv", tmp_path / "part.mp4", SourceConfig(start_s=0.65))
    assert loud_from(part) == pytest.approx(2 - 0.7, abs=0.03)  # the first frame handed on is at 0.7 s


@pytest.mark.parametrize("spacing", [0.99, 1.01])
def test_sound_whose_clock_is_another_stays_beside_its_pictures(tmp_path: Path, spacing: float) -> None:
    write_noise(tmp_path / "in.mkv", (*10 * [0], 8000, 8000), spacing)
    result = annotate(tmp_path / "in.mkv", tmp_path / "out.mp4", SourceConfig())
    assert loud_from(result) == pytest.approx(10 * spacing, abs=0.06)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_copied_audio_is_bit_exact_and_trimmed_to_the_span(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", 40, audio="aac")
    whole = annotate(tmp_path / "in.mp4", tmp_path / "whole.mp4", SourceConfig())
    assert packets(whole) == packets(tmp_path / "in.mp4")
    part = annotate(tmp_path / "in.mp4", tmp_path / "part.mp4", SourceConfig(start_s=1.05, end_s=2.0))
    _, first_s, last_s = audio_span(part)
    assert first_s == pytest.approx(0, abs=0.03)
    assert last_s == pytest.approx(0.9, abs=0.05)
    original, kept = packets(tmp_path / "in.mp4"), packets(part)
    at = original.index(kept[0])
    assert original[at : at + len(kept)] == kept
    assert at * 1024 / 44100 == pytest.approx(1.1, abs=0.05)  # the first frame handed on is at 1.1 s


@pytest.mark.parametrize("codec", ["aac", "mp2"])  # copied, and made anew
def test_audio_goes_on_where_two_recordings_were_put_together(tmp_path: Path, codec: str) -> None:
    write_clip(tmp_path / "one.ts", 20, audio=codec, container="mpegts")
    (tmp_path / "two.ts").write_bytes(2 * (tmp_path / "one.ts").read_bytes())
    out = annotate(tmp_path / "two.ts", tmp_path / "out.mp4", SourceConfig())
    assert len(numbers(out)) == 40
    _, first_s, last_s = audio_span(out)
    assert (first_s, last_s) == (pytest.approx(0, abs=0.1), pytest.approx(4.0, abs=0.3))


@pytest.mark.parametrize("codec", ["aac", "mp2"])  # copied, and made anew
@pytest.mark.parametrize("levels", [(0, 8000, None), (0, 8000)])  # a second without sound, and as long as the pictures
def test_sound_of_each_of_several_recordings_begins_with_its_pictures(
    tmp_path: Path, codec: str, levels: Sequence[int | None]
) -> None:
    write_noise(tmp_path / "one.ts", levels, codec=codec)
    (tmp_path / "four.ts").write_bytes(4 * (tmp_path / "one.ts").read_bytes())
    out = annotate(tmp_path / "four.ts", tmp_path / "out.mp4", SourceConfig())
    assert numbers(out) == 4 * list(range(10 * len(levels)))
    assert loud_spells(out) == pytest.approx([1 + n * len(levels) for n in range(4)], abs=0.06)


def test_of_a_part_of_several_recordings_the_sound_is_said_to_be_uncertain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_noise(tmp_path / "one.ts", (0, 8000), codec="aac")
    (tmp_path / "four.ts").write_bytes(4 * (tmp_path / "one.ts").read_bytes())
    annotate(tmp_path / "four.ts", tmp_path / "out.mp4", SourceConfig(start_s=1))
    assert "four.ts restarts, as in joined recordings: in a video that begins at 1 s" in caplog.text
    annotate(tmp_path / "four.ts", tmp_path / "later.mp4", SourceConfig(start_s=5))  # beyond what its clock shows
    assert "four.ts has no sound from 5 s on by its own clock" in caplog.text


def test_audio_goes_with_the_stream_that_is_looked_at(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w", format="matroska") as out:
        pictures = [out.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, size_wh in zip(pictures, [(64, 48), (160, 96)], strict=True):
            stream.width, stream.height = size_wh
        sound = out.add_stream("aac", rate=44100)
        for n in range(50):
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1764), np.float32), format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 44100, n * 1764, Fraction(1, 44100)
            out.mux(sound.encode(part))
            for stream in pictures[: 1 if n < 25 else 2]:  # the larger one begins a second later
                frame = av.VideoFrame.from_ndarray(numbered(n, (stream.width, stream.height)), format="bgr24")
                frame.pts, frame.time_base = n, Fraction(1, 25)
                out.mux(stream.encode(frame))
        for stream in (sound, *pictures):
            out.mux(stream.encode(None))
    result = annotate(tmp_path / "in.mkv", tmp_path / "out.mp4", SourceConfig())
    assert numbers(result) == list(range(25, 50))
    _, first_s, last_s = audio_span(result)
    assert (first_s, last_s) == (pytest.approx(0, abs=0.05), pytest.approx(1.0, abs=0.06))
    assert len(packets(result)) < 0.6 * len(packets(tmp_path / "in.mkv"))


def test_pictures_are_kept_where_the_audio_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(path, out, start_s, span_s, stack):
        raise av.error.InvalidDataError(1, "Invalid data", path)

    write_clip(tmp_path / "in.mp4", 5, audio="aac")
    monkeypatch.setattr("sharpose_rt.media.writer.audio_packets", broken)
    out = annotate(tmp_path / "in.mp4", tmp_path / "out.mp4", SourceConfig())
    assert numbers(out) == list(range(5))
    assert "cannot be kept (Invalid data)" in caplog.text
    assert sorted(names(tmp_path)) == ["in.mp4", "out.mp4"]


def test_audio_of_a_name_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "in.mp4", 10, audio="aac")
    (tmp_path / "in.mp4").rename("12:30.mp4")
    assert audio_span(annotate(Path("12:30.mp4"), tmp_path / "out.mp4", SourceConfig()))[0] == "aac"


def test_no_audio_when_unwanted_or_unusable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clip(tmp_path / "silent.mp4", 5)
    out = write(tmp_path / "out.mp4", [0.0, 0.1], audio_from=str(tmp_path / "silent.mp4"))
    assert numbers(out) == [0, 1]
    assert "the video has no sound" in caplog.text
    write_clip(tmp_path / "loud.mp4", 5, audio="aac")
    writer = VideoWriter(tmp_path / "o2.mp4", (160, 96), 10, OutputConfig(audio=False), str(tmp_path / "loud.mp4"))
    writer.write(numbered(0), 0)
    writer.close()
    with av.open(str(tmp_path / "o2.mp4")) as container:
        assert not container.streams.audio


# --- faults


def test_no_frames_leave_no_file(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (160, 96), 10)
    assert writer.close() is None
    assert writer.close() is None
    assert not list(tmp_path.iterdir())


def test_close_twice_and_incomplete_run(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (160, 96), None, FAST)
    for n in range(5):
        writer.write(numbered(n), n / 25)
    assert writer.close(complete=False) == tmp_path / "out.mp4"
    assert writer.close() == tmp_path / "out.mp4"
    assert numbers(tmp_path / "out.mp4") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("live", [False, True])
def test_what_a_run_killed_while_it_closed_has_left_goes(tmp_path: Path, live: bool) -> None:
    (tmp_path / "out.part.mp4").write_bytes(b"whole")
    (tmp_path / "out.finished.mp4").write_bytes(b"half")
    write(tmp_path / "out.mp4", [0.0, 0.1], live=live)
    assert names(tmp_path) == ["out.mp4"]


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot be written .*--output"):
        VideoWriter(tmp_path / "file" / "out.mp4", (160, 96), 10)
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(tmp_path / "file" / "out.png", numbered(0))


def run(script: str, tmp_path: Path) -> subprocess.Popen[str]:
    tests = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join((str(tests), str(tests.parent)))
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.mark.timeout(60)
def test_killed_in_the_middle_leaves_a_video_that_plays(tmp_path: Path) -> None:
    script = """
        import itertools, sys
        from pathlib import Path
        from media_clips import numbered
        from sharpose_rt.media.writer import VideoWriter
        writer = VideoWriter(Path(sys.argv[1]) / "out.mp4", (160, 96), 10)
        for n in itertools.count():
            writer.write(numbered(n % 1000), n / 10)
            print(n, flush=True)
    """
    with run(script, tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 300:
                process.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "out.mp4").exists()
    found = numbers(tmp_path / "out.part.mp4")
    assert len(found) > 200
    # The B-frame that is shown before the last picture may have its place in the fragment that was not written.
    assert found[:-1] == list(range(len(found) - 1))


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("room", [1_000_000, 20_000])  # of which the second holds no picture
def test_full_disk_is_an_error_and_keeps_what_was_written(tmp_path: Path, room: int) -> None:
    script = """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from sharpose_rt.config.schema import OutputConfig
        from sharpose_rt.errors import OutputError
        from sharpose_rt.media.writer import VideoWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))
        writer = VideoWriter(Path(sys.argv[1]) / "out.mp4", (320, 192), 10, OutputConfig(preset="ultrafast"))
        noise = np.random.default_rng(0).integers(0, 255, (192, 320, 3), dtype=np.uint8)
        try:
            for n in range(2000):
                writer.write(np.roll(noise, n, axis=1), n / 10)
        except OutputError as error:
            print(error)
        try:
            writer.write(noise, 1e3)
        except OutputError as error:
            print(error)
        print(writer.close(complete=False))
        try:
            writer.close()
        except OutputError as error:
            print("again", error)
    """
    with run(script.replace("ROOM", str(room)), tmp_path) as process:
        output, _ = process.communicate(timeout=50)
    lines = output.splitlines()
    assert process.returncode == 0
    assert "cannot be written further" in lines[0]
    assert ("can be played" in lines[0]) == (room > 100_000)
    assert "make room" in lines[0]
    assert lines[1] == lines[0]
    assert lines[2:] == [str(tmp_path / "out.part.mp4")]
    if "can be played" not in lines[0]:
        return
    assert (tmp_path / "out.part.mp4").stat().st_size > 500_000
    assert not (tmp_path / "out.mp4").exists()
    with open_source(str(tmp_path / "out.part.mp4")) as source:
        assert sum(1 for _ in source) > 5


@pytest.mark.parametrize("live", [False, True])
def test_finishing_on_a_full_disk_keeps_the_part_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, live: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for complete in (True, False):
        writer = VideoWriter(tmp_path / "out.mp4", (160, 96), 10, FAST, live=live)
        writer.write(numbered(3), 0)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(Path, "replace", full)
            if complete:
                with pytest.raises(OutputError, match="No space left"):
                    writer.close()
            else:
                assert writer.close(complete=False) == tmp_path / "out.part.mp4"
                assert "No space left" in caplog.text
        assert names(tmp_path) == ["out.part.mp4"]
        assert numbers(tmp_path / "out.part.mp4") == [3]


@pytest.mark.parametrize("live", [False, True])
def test_no_room_for_the_last_second_is_an_error(tmp_path: Path, live: bool) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (320, 192), 10, FAST, live=live)
    noise = np.random.default_rng(0).integers(0, 255, (192, 320, 3), dtype=np.uint8)
    for number in range(5):  # all of which lie in the fragment that closing writes
        writer.write(np.roll(noise, number, axis=1), number / 10)
    with file_size_limit(50_000), pytest.raises(OutputError, match=r"written further after 5 frames \(File too large"):
        writer.close()
    assert names(tmp_path) == ["out.part.mp4"]


# --- pictures


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_picture(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / "new" / f"out{suffix}", numbered(9))
    assert names(path.parent) == [path.name]
    assert np.abs(cv2.imread(str(path)).astype(int) - numbered(9)).mean() < 3


def test_picture_of_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.jpg or \.png"):
        write_image(tmp_path / "out.xyz", numbered(0))
    assert not list(tmp_path.iterdir())
