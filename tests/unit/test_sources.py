"""Sources: every kind opens, hands on the right frames at the right times, and fails in one clear line."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import gc
import glob
import http.server
import io
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import av.error
import cv2
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from hypothesis import given
from hypothesis import strategies as st
from live_servers import MjpegServer, free_port, serving
from media_clips import cut_tail, decode_times, numbered, read_number, write_clip, write_sound
from PIL import Image

from sharpose_rt.config.schema import HWACCELS, SourceConfig
from sharpose_rt.errors import ConfigError, SourceAway, SourceError, SourceLost, SourceTimeout
from sharpose_rt.machine.paths import matching
from sharpose_rt.media import PacedSource, hardware, reconnect
from sharpose_rt.media.backlog import Backlog
from sharpose_rt.media.clock import MediaClock
from sharpose_rt.media.container import ContainerSource, first_picture_s
from sharpose_rt.media.files import VideoFile, below, read_image
from sharpose_rt.media.live import Camera, NetworkVideo, StdinVideo, index_is_last
from sharpose_rt.media.opening import expand_sources, is_live, open_source
from sharpose_rt.media.reconnect import Reconnecting
from sharpose_rt.media.redact import redact
from sharpose_rt.media.screen import Screen
from sharpose_rt.media.source import Faults, Source
from sharpose_rt.types import Packet


def numbers(source: Source) -> list[int]:
    return [read_number(frame.image_bgr) for frame in source]


class Clock:
    """Stands where the module `time` stands: a clock that is turned by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        for module in ("source", "live", "reconnect"):
            monkeypatch.setattr(f"sharpose_rt.media.{module}.time", self)

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "walk.mp4"
    write_clip(path, 30, audio="aac", faststart=True)
    return path


# --- video files


def test_every_frame_comes_in_order_at_its_time(clip: Path) -> None:
    with open_source(clip) as source:
        info = source.info
        frames = list(source)
    assert [read_number(frame.image_bgr) for frame in frames] == list(range(30))
    assert [frame.frame_id for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.pts_s for frame in frames], np.arange(30) / 10, atol=1e-6)
    assert info.kind == "video"
    assert not info.live
    assert (info.size_wh, info.fps, info.frame_count, info.stem) == ((160, 96), 10.0, 30, "walk")
    assert info.duration_s == pytest.approx(3.0)
    assert info.audio
    assert info.path == str(clip)
    assert all(a.captured_at_s <= b.captured_at_s for a, b in pairwise(frames))


def test_variable_rate_keeps_gaps(tmp_path: Path) -> None:
    times = [0.0, 0.033, 0.1, 0.4, 0.41, 1.7, 1.75, 2.0]
    write_clip(tmp_path / "vfr.mp4", times_s=times)
    with open_source(str(tmp_path / "vfr.mp4")) as source:
        np.testing.assert_allclose([frame.pts_s for frame in source], times, atol=1e-3)


@pytest.mark.parametrize("start_s", [0.0, 0.5, 0.55, 1.2, 1.25, 2.9])
@pytest.mark.parametrize("name", ["trim.mp4", "trim.mkv", "trim.avi", "trim.ts"])
def test_trimming_is_exact(tmp_path: Path, name: str, start_s: float) -> None:
    containers = {".mkv": "matroska", ".ts": "mpegts"}
    suffix = Path(name).suffix
    write_clip(tmp_path / name, 30, container=containers.get(suffix, suffix[1:]), gop=12)
    with open_source(str(tmp_path / name), SourceConfig(start_s=start_s, end_s=2.95)) as source:
        frames = list(source)
    expected = [n for n in range(30) if start_s - 1e-6 <= n / 10 < 2.95]
    assert [read_number(frame.image_bgr) for frame in frames] == expected
    np.testing.assert_allclose([frame.pts_s for frame in frames], np.array(expected) / 10, atol=2e-3)
    assert frames[0].frame_id == 0


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [("a.m2v", "mpeg2video", "mpeg2video"), ("a.mjpeg", "mjpeg", "mjpeg"), ("a.h264", "h264", "libx264")],
)
def test_trimming_is_exact_without_timestamps(tmp_path: Path, name: str, container: str, codec: str) -> None:
    write_clip(tmp_path / name, 100, fps=25, container=container, codec=codec, bframes=0)
    with open_source(str(tmp_path / name), SourceConfig(start_s=2.0)) as source:
        frames = list(source)
    assert [read_number(frame.image_bgr) for frame in frames] == list(range(50, 100))
    np.testing.assert_allclose([frame.pts_s for frame in frames], np.arange(50, 100) / 25, atol=0.001)


def test_end_is_exclusive_and_stride_and_limit_count(clip: Path) -> None:
    config = SourceConfig(start_s=0.4, end_s=2.0, stride=3, max_frames=4)
    with open_source(str(clip), config) as source:
        assert (source.info.frame_count, source.info.start_s) == (4, 0.4)
        assert source.info.fps == pytest.approx(10 / 3)
        assert numbers(source) == [4, 7, 10, 13]
    with open_source(str(clip), SourceConfig(end_s=2.0)) as source:
        assert source.info.frame_count == 20
        assert numbers(source) == list(range(20))


def test_start_behind_the_end_is_said(clip: Path) -> None:
    with pytest.raises(SourceError, match="no frame from 60 s"):
        open_source(str(clip), SourceConfig(start_s=60)).open()


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_rotation_and_mirroring_are_undone(tmp_path: Path, rotation: int, hflip: bool) -> None:
    # Stored pixels are mirrored and turned the other way, so that the upright picture is the numbered one.
    turns = {0: 0, 90: 3, 180: 2, -90: 1}[rotation]
    upright = [numbered(n)[:, :: -1 if hflip else 1] for n in range(3)]
    stored = [np.ascontiguousarray(np.rot90(image, turns)) for image in upright]
    path = tmp_path / "turned.mp4"
    write_clip(path, 3, images=stored, rotation=rotation, hflip=hflip)
    with open_source(str(path)) as source:
        assert source.info.size_wh == (160, 96)
        frames = list(source)
    assert [read_number(frame.image_bgr) for frame in frames] == [0, 1, 2]
    np.testing.assert_allclose(frames[2].image_bgr[90, 10], (20, 20, 220), atol=12)  # the red corner


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_motion_jpeg_with_exif_is_upright(tmp_path: Path, orientation: int | None) -> None:
    """FFmpeg hands EXIF on beside the picture, of which PyAV does not know the kind."""
    turns = {3: 2, 6: 1, 8: 3}.get(orientation or 1, 0)
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x010E] = "a camera"
    if orientation is not None:
        exif[0x0112] = orientation
    for number in range(3):
        stored = np.ascontiguousarray(np.rot90(numbered(number), turns))
        Image.fromarray(stored[..., ::-1]).save(data, "JPEG", exif=exif, quality=95)
    path = tmp_path / "filmed.mjpeg"
    path.write_bytes(data.getvalue())
    with open_source(str(path)) as source:
        assert source.info.size_wh == (160, 96)
        frames = list(source)
    assert [read_number(frame.image_bgr) for frame in frames] == [0, 1, 2]
    np.testing.assert_allclose(frames[2].image_bgr[90, 10], (20, 20, 220), atol=12)  # the red corner


@pytest.mark.parametrize("realtime", [False, True])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_clockwise_where_asked(clip: Path, degrees: int, realtime: bool) -> None:
    with open_source(str(clip), SourceConfig(max_frames=2, realtime=realtime, rotate=degrees)) as source:
        assert source.info.size_wh == ((160, 96) if degrees == 180 else (96, 160))
        frame = next(iter(source))
    back = np.ascontiguousarray(np.rot90(frame.image_bgr, degrees // 90))  # np turns the other way
    assert read_number(back) == 0
    np.testing.assert_allclose(back[90, 10], (20, 20, 220), atol=12)  # the red corner


@pytest.mark.parametrize("degrees", [45, -90, 360])
def test_a_turn_by_other_angles_is_refused(degrees: int) -> None:
    with pytest.raises(ConfigError, match=f"rotate is {degrees}; 0, 90, 180 or 270"):
        SourceConfig(rotate=degrees)


@pytest.mark.parametrize("rotation", [0, 90])
def test_pixels_become_square(tmp_path: Path, rotation: int) -> None:
    path = tmp_path / "anamorphic.mp4"
    write_clip(path, 3, size_wh=(110, 96), pixel_aspect=Fraction(16, 11), rotation=rotation)
    with open_source(str(path)) as source:
        info, frames = source.info, list(source)
    assert info.size_wh == ((96, 160) if rotation else (160, 96))
    assert {frame.size_wh for frame in frames} == {info.size_wh}
    if not rotation:
        assert [read_number(frame.image_bgr) for frame in frames] == [0, 1, 2]


@pytest.mark.parametrize("aspect", [Fraction(1, 100), Fraction(161, 160)])
def test_pixels_that_cannot_be_meant_or_hardly_differ_are_left_as_they_are(tmp_path: Path, aspect: Fraction) -> None:
    write_clip(tmp_path / "a.mp4", 2, size_wh=(640, 384), pixel_aspect=aspect)
    with open_source(str(tmp_path / "a.mp4")) as source:
        assert source.info.size_wh == (640, 384)


def test_cut_off_file_gives_all_that_is_there_and_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clip(tmp_path / "whole.mp4", 120, size_wh=(320, 192), faststart=True)
    cut = cut_tail(tmp_path / "whole.mp4", 0.7)
    with open_source(str(cut)) as source, caplog.at_level(logging.WARNING, "sharpose_rt.media"):
        found = numbers(source)
    assert 50 < len(found) < 115
    assert found == list(range(len(found)))
    assert re.search(rf"ends after {len(found)} of 120 frames: the file is cut off", caplog.text)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_sound_that_is_longer_than_the_pictures_is_no_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, container: str
) -> None:
    path = tmp_path / "long sound"
    with av.open(str(path), "w", format=container) as out:
        video, audio = out.add_stream("libx264", rate=10), out.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        for n in range(10):
            out.mux(video.encode(av.VideoFrame.from_ndarray(numbered(n), format="bgr24")))
        out.mux(video.encode(None))
        for n in range(60):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, 1024 * n
            out.mux(audio.encode(sound))
        out.mux(audio.encode(None))
    with open_source(str(path)) as source, caplog.at_level(logging.WARNING, "sharpose_rt.media"):
        assert source.info.frame_count == 10
        assert numbers(source) == list(range(10))
    assert not caplog.records


def test_damage_in_the_middle_is_skipped(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.ts", 60, container="mpegts", size_wh=(320, 192))
    data = bytearray((tmp_path / "a.ts").read_bytes())
    for at in range(len(data) // 3, len(data) // 3 + 8 * 188):
        data[at] = 0xA5
    (tmp_path / "a.ts").write_bytes(data)
    with open_source(str(tmp_path / "a.ts")) as source:
        frames = list(source)
    times = [frame.pts_s for frame in frames]
    assert times == sorted(set(times))
    assert read_number(frames[-1].image_bgr) == 59


def test_too_much_damage_is_an_error(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    data = clip.read_bytes()
    start = data.index(b"mdat") + 4
    broken.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    source = open_source(str(broken), SourceConfig(max_bad_frames=2))
    with pytest.raises(SourceError, match=r"3 undecodable frames in a row"):
        source.open()


def damage(path: Path, damaged: Iterable[int]) -> None:
    """Makes the packets of these numbers undecodable."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as stored:
        places = [(packet.pos, packet.size) for packet in stored.demux(video=0) if packet.pos is not None]
    for n in damaged:
        at, size = places[n]
        data[at : at + size] = b"\xff" * size
    path.write_bytes(data)


def test_damage_at_many_places_is_skipped_where_it_is_not_in_a_row(tmp_path: Path) -> None:
    path, damaged = tmp_path / "a.mp4", range(5, 40, 5)
    write_clip(path, 40, gop=1, bframes=0)  # each picture stands for itself
    damage(path, damaged)
    with open_source(str(path), SourceConfig(max_bad_frames=1)) as source:
        assert numbers(source) == [n for n in range(40) if n not in damaged]


class Dropping(VideoFile):
    """A camera that sends the file, and then is gone."""

    live, finite = True, False


def test_faults_are_known_to_whatever_a_source_is_wrapped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.01)
    whole = tmp_path / "whole.mp4"
    write_clip(whole, 40, fps=200, gop=1, bframes=0, faststart=True)
    damage(whole, (3, 5, 8))
    cut, config = cut_tail(whole, 0.7), SourceConfig()
    with VideoFile(cut, config) as plain:
        there = len(numbers(plain))
    assert 10 < there < 37
    assert plain.faults == Faults(3, f"{there} of 40 frames")
    for source in (
        PacedSource(VideoFile(cut, config)),
        Reconnecting("file", config, lambda: VideoFile(cut, config)),
        PacedSource(Reconnecting("file", config, lambda: VideoFile(cut, config))),
    ):
        with source:
            assert len(numbers(source)) == there
        assert source.faults == plain.faults
    with Reconnecting("camera", SourceConfig(max_frames=50), lambda: Dropping(whole, SourceConfig())) as camera:
        assert len(numbers(camera)) == 50
    assert len(camera.losses) == 1
    assert camera.faults == Faults(6)  # three of each connection


def test_reading_can_be_interrupted_and_left_early(clip: Path) -> None:
    with open_source(str(clip)) as source:
        assert source.read() is not None
        source.interrupt()
        assert source.read() is None
    source.close()
    assert source.read() is None


def test_info_before_open_is_a_clear_error(clip: Path) -> None:
    with pytest.raises(SourceError, match=r"call open\(\) first"):
        _ = open_source(str(clip)).info


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "is empty"),
        ("noise.mp4", os.urandom(5000), "cannot be opened as a video"),
        ("notes.txt", b"just a text file, line after line\n" * 50, "is text|cannot be opened as a video"),
        ("bad.jpg", b"\xff\xd8\xff not a picture", "cannot be read as an image"),
    ],
)
def test_not_a_video(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(str(tmp_path / name)).open()
    assert "\n" not in str(caught.value)


def copy_stream(
    path: Path, into: Path, kind: str, reads: dict[str, str] | None = None, writes: dict[str, str] | None = None
) -> None:
    """Copies the stream of a kind, with options of the file that is read and of the one that is written."""
    with av.open(str(path), options=reads) as original, av.open(str(into), "w", options=writes) as out:
        given = original.streams.get({kind: 0})[0]
        stream = out.add_stream_from_template(given)
        for packet in original.demux(given):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def test_sound_alone_is_said(tmp_path: Path) -> None:
    write_clip(tmp_path / "both.mp4", 5, audio="aac")
    copy_stream(tmp_path / "both.mp4", tmp_path / "sound.mp4", "audio")
    with pytest.raises(SourceError, match="has sound but no pictures"):
        open_source(str(tmp_path / "sound.mp4")).open()


@pytest.mark.timeout(30)
def test_a_camera_whose_pictures_have_not_begun_is_not_there_yet(tmp_path: Path) -> None:
    """A service tries again then (status 75), which a file of sound alone is not worth."""
    sound, over = io.BytesIO(), threading.Event()
    with av.open(sound, "w", format="mpegts") as out:
        write_sound(out, out.add_stream("mp2", rate=44_100), 20.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def send() -> None:
        data = sound.getvalue()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for at in range(0, len(data), 1316):
                if over.wait(0.005):
                    return
                with contextlib.suppress(ConnectionError):  # nobody listens yet
                    sender.sendto(data[at : at + 1316], ("127.0.0.1", port))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with pytest.raises(SourceAway, match="has sound but no pictures now; check that it sends video, and try again"):
            open_source(f"udp://127.0.0.1:{port}").open()
    finally:
        over.set()
        thread.join()


def test_missing_file_offers_the_nearest(clip: Path) -> None:
    with pytest.raises(SourceError, match=r"did you mean .*walk\.mp4"):
        open_source(str(clip.with_name("wolk.mp4")))


def test_a_number_that_is_no_file_offers_the_camera(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ask in (open_source, expand_sources):
        with pytest.raises(SourceError, match=r"^0 does not exist; did you mean 'webcam:0'\?$"):
            ask("0")
    shutil.copy(clip, "01")
    with pytest.raises(SourceError, match=r"did you mean 'webcam:1' or 01\?"):
        open_source("1")
    assert expand_sources("01") == ["01"]


def test_colours_are_those_of_the_stream(tmp_path: Path) -> None:
    write_clip(tmp_path / "c.mp4", 2)
    with open_source(str(tmp_path / "c.mp4")) as source:
        frame = source.read()
    assert frame is not None
    np.testing.assert_allclose(frame.image_bgr[90, 10], (20, 20, 220), atol=6)


# --- the media clock


def test_clock_counts_after_repeated_disorder_and_without_timestamps() -> None:
    clock = MediaClock(1 / 30, 0, 30.0)
    times = [clock.stamp(pts) for pts in (1, 2, 4, 3, 6, 5, 8, 7, None, 10, 9, 20)]
    np.testing.assert_allclose(np.diff(times), np.array([1, 2, *[1] * 9]) / 30)  # from 7 on it counts


def test_clock_forgives_a_step_back_now_and_then() -> None:
    clock = MediaClock(1e-3, 0, 25.0)
    pieces = [range(200 * n, 200 * n + 12_000, 200) for n in (0, 58, 116, 174)]  # each begins 400 ms before the end
    times = [clock.stamp(pts) for piece in pieces for pts in piece]
    wanted = np.full(len(times) - 1, 0.2)
    wanted[59::60] = 0.04
    np.testing.assert_allclose(np.diff(times), wanted, atol=2e-3)


def test_clock_begins_at_0_where_the_first_frame_is_before_the_beginning() -> None:
    clock = MediaClock(1e-3, 1000, 25.0)
    assert [clock.stamp(pts) for pts in (960, 1040, 1080)] == pytest.approx([0, 0.08, 0.12])


def test_clock_goes_on_after_a_restart_and_parts_equal_times() -> None:
    clock = MediaClock(0.1, 100, 10.0)
    times = [clock.stamp(pts) for pts in (100, 101, 101, 102, 160, 5, 6, 9)]
    np.testing.assert_allclose(times, [0.0, 0.1, 0.15, 0.2, 6.0, 6.1, 6.2, 6.5], atol=1e-9)


def test_a_time_that_is_made_up_leaves_those_after_it_alone() -> None:
    clock = MediaClock(1e-3, 0, 25.0)
    times = [clock.stamp(pts) for pts in (0, 40, 80, 80, 88, 1000, 3000, 9000)]  # frames 80, 80, 88: a burst
    np.testing.assert_allclose(times, [0, 0.04, 0.08, 0.1, 0.12, 1, 3, 9], atol=1e-9)
    clock = MediaClock(1e-3, 0, 25.0)
    times = [clock.stamp(pts) for pts in (0, 0, 0, 90, 130, 120, 200)]
    np.testing.assert_allclose(times, [0, 0.02, 0.04, 0.09, 0.13, 0.17, 0.2], atol=1e-9)  # 120 alone fell out of order


def write_two(path: Path, container: str, sizes_wh: Sequence[tuple[int, int]], frames: Sequence[int]) -> None:
    """A file with a video stream of each size, of so many frames."""
    with av.open(str(path), "w", format=container) as out:
        streams = [out.add_stream("libx264", rate=10) for _ in sizes_wh]
        for stream, (width, height) in zip(streams, sizes_wh, strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for stream, (width, height), count in zip(streams, sizes_wh, frames, strict=True):
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number, (width, height)), format="bgr24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))


def test_a_photograph_that_moves_is_a_video(tmp_path: Path) -> None:
    """Phones put its picture, larger than the film, into a track of its own."""
    path = tmp_path / "PXL.mp4"
    write_two(path, "mp4", [(160, 96), (320, 192)], [10, 1])
    with open_source(str(path)) as source:
        assert numbers(source) == list(range(10))
    write_two(path, "mp4", [(160, 96), (320, 192)], [10, 10])  # the larger of two films
    with open_source(str(path)) as source:
        assert source.info.size_wh == (320, 192)


def test_an_encrypted_video_is_refused_and_its_copy_without_is_read(tmp_path: Path) -> None:
    clear, locked, again, key = tmp_path / "a.mp4", tmp_path / "locked.mp4", tmp_path / "again.mp4", "0123" * 8
    write_clip(clear, 6, codec="libx264")
    protect = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    copy_stream(clear, locked, "video", writes=protect)
    copy_stream(locked, again, "video", reads={"decryption_key": key})
    with pytest.raises(SourceError, match="is encrypted; use a decrypted copy"):
        open_source(str(locked)).open()
    with open_source(str(again)) as source:
        assert numbers(source) == list(range(6))


def test_titles_may_be_in_any_code(tmp_path: Path) -> None:
    path = tmp_path / "old.avi"
    with av.open(str(path), "w", format="avi") as out:
        out.metadata["title"] = "TITLE"
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="bgr24")))
        out.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"TITLE", b"\xfeb\xe9b\xff"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    with open_source(str(path)) as source:
        assert numbers(source) == [0, 1, 2]


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("mpegts", "mpeg4"), ("mpeg", "mpeg2video"), ("mpeg", "mpeg4")],
)
def test_a_start_without_an_index_gives_the_same_frames(tmp_path: Path, container: str, codec: str) -> None:
    """What is sought may be behind the start, or in the middle, where some codecs paint on grey until a key frame."""
    path = tmp_path / "old.mpg"
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    images = [np.ascontiguousarray(np.roll(noise, 3 * number, 1)) for number in range(120)]
    write_clip(path, 120, images=images, container=container, codec=codec, gop=30, fps=25)
    with open_source(str(path)) as source:
        everything = list(source)
    for start_s in (0.5, 0.9, 2.1, 4.3):
        wanted = [frame for frame in everything if frame.pts_s >= start_s]
        with open_source(str(path), SourceConfig(start_s=start_s)) as source:
            found = list(source)
            assert isinstance(source, ContainerSource)
            if container == "mpegts" and codec != "mpeg4" and start_s > 4:
                assert source._decoded < 110  # of the 120
        assert [frame.pts_s for frame in found] == pytest.approx([frame.pts_s for frame in wanted])
        assert all(np.array_equal(a.image_bgr, b.image_bgr) for a, b in zip(wanted, found, strict=True))
        assert (source.info.faults.damaged, source.info.faults.cut_off) == (0, None)


def test_a_start_is_sought_by_the_time_of_the_first_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ASF says that it starts later than that, and media time is 0 there, see `MediaClock`."""
    path = tmp_path / "late.mp4"
    write_clip(path, 20, gop=5)
    assert first_picture_s(str(path)) == 0
    monkeypatch.setattr("sharpose_rt.media.container.first_picture_s", lambda path: -0.15)
    with open_source(str(path), SourceConfig(start_s=0.55)) as source:
        frame = source.read()
        assert frame is not None
        assert (read_number(frame.image_bgr), frame.pts_s) == (4, pytest.approx(0.55))


@pytest.mark.parametrize("wrong", [0, 30_000])
def test_one_damaged_time_leaves_those_after_it_alone(wrong: int) -> None:
    clock, stamps = MediaClock(1e-3, 0, 25.0), [40 * n for n in range(1000)]
    stamps[900] = wrong
    times = np.array([clock.stamp(pts) for pts in stamps])
    np.testing.assert_allclose(np.delete(times, 900), np.delete(np.arange(1000) / 25, 900), atol=1e-9)


@pytest.mark.parametrize("every", [25, 60, 250])
def test_frames_that_fall_out_of_order_leave_the_times_where_they_are(every: int) -> None:
    clock, stamps = MediaClock(1e-3, 0, 25.0), [40 * n for n in range(15_000)]
    for n in range(every, len(stamps) - 1, every):
        stamps[n], stamps[n + 1] = stamps[n + 1], stamps[n]
    times = np.array([clock.stamp(pts) for pts in stamps])
    assert np.diff(times).min() > 0
    assert np.abs(times - np.arange(15_000) / 25).max() < 0.1
    assert times[-1] == pytest.approx(599.96)


@pytest.mark.parametrize("strerror", [True, False])
def test_secrets_of_an_address_are_not_in_what_is_told_of_bad_frames(strerror: bool) -> None:
    source = open_source("http://user:secret@127.0.0.1:9/video", SourceConfig(reconnect_s=0))
    url = "http://user:secret@127.0.0.1:9/video"
    error = av.error.InvalidDataError(1, "Invalid data", url) if strerror else RuntimeError(f"no frame in {url}")
    with contextlib.ExitStack() as stack:
        stack.callback(source.close)
        told = str(getattr(source, "_made", lambda: source)()._too_bad(31, error))
    assert "31 undecodable frames" in told
    assert ("Invalid data" if strerror else "no frame in") in told
    assert "secret" not in told


# --- images, folders, globs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shots"
    folder.mkdir()
    for n, size_wh in ((2, (160, 96)), (10, (320, 200)), (1, (200, 96))):
        cv2.imwrite(str(folder / f"img{n}.png"), numbered(n, size_wh))
    (folder / "notes.txt").write_text("x")
    return folder


def test_folder_of_images_in_natural_order(folder: Path) -> None:
    with open_source(str(folder), SourceConfig(image_fps=4)) as source:
        info, frames = source.info, list(source)
    assert [frame.source for frame in frames] == ["img1.png", "img2.png", "img10.png"]
    assert [read_number(frame.image_bgr) for frame in frames] == [1, 2, 10]
    assert [frame.size_wh for frame in frames] == [(200, 96), (160, 96), (320, 200)]
    assert [frame.pts_s for frame in frames] == [0, 0.25, 0.5]
    assert (info.kind, info.stem, info.frame_count, info.fps, info.audio) == ("images", "shots", 3, 4, False)


def test_pictures_of_one_name_say_their_folders(folder: Path, tmp_path: Path) -> None:
    for path in ("x/a/img1.png", "y/a/img1.png", "y/img2.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / path), numbered(1))
    with open_source(str(tmp_path / "?" / "**" / "*.png")) as source:
        names = [frame.source for frame in source]
    assert sorted(filter(None, names)) == ["img2.png", "x/a/img1.png", "y/a/img1.png"]


def test_a_glob_matches_what_pythons_own_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "x/a.mp4", "x/y/b.mp4", "x/[1]/a.mp4", "x/.hidden/a.mp4", "z/y/z/a.mp4", ".b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with contextlib.suppress(OSError):  # Windows wants to be asked for links
        (tmp_path / "link").symlink_to("x", target_is_directory=True)
        (tmp_path / "nowhere").symlink_to("gone", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    patterns = ("*.mp4", "**/*.mp4", "**", "x/**", "**/a.mp4", "?/**/*.mp4", "**/y/**/*.mp4", "**/**/a.mp4", "n/**/a")
    for pattern in (
        *patterns,
        *(f"{tmp_path}/{pattern}" for pattern in patterns),
        "x/[[]1]/**/*",
        "./**/b.mp4",
        "../*/*",
    ):
        theirs = {Path(name) for name in glob.glob(pattern, recursive=True)}  # noqa: PTH207
        assert {path for path in matching(Path(pattern)) if path.is_file()} == {p for p in theirs if p.is_file()}


def test_glob_and_stride_of_images(folder: Path) -> None:
    with open_source(str(folder / "img1*.png")) as source:
        assert numbers(source) == [1, 10]
    with open_source(str(folder), SourceConfig(stride=2)) as source:
        assert source.info.frame_count == 2
        assert numbers(source) == [1, 10]


def test_unreadable_image_is_skipped_then_an_error(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "img3.jpg").write_bytes(b"no")
    with open_source(str(folder)) as source:
        assert numbers(source) == [1, 2, 10]
    assert "img3.jpg" in caplog.text
    with (
        pytest.raises(SourceError, match=r"img3\.jpg cannot be read"),
        open_source(str(folder), SourceConfig(max_bad_frames=0)) as source,
    ):
        list(source)


@pytest.mark.skipif(not cv2.haveImageWriter(".avif"), reason="this OpenCV knows no AVIF")
def test_avif_among_the_pictures_of_a_folder(folder: Path) -> None:
    cv2.imwrite(str(folder / "img7.AVIF"), numbered(7))
    with open_source(str(folder)) as source:
        assert numbers(source) == [1, 2, 7, 10]


def test_photographs_of_a_folder_that_nothing_reads_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("IMG_1.HEIC", "IMG_2.heic", "raw.dng"):
        (folder / name).write_bytes(b"x")
    assert expand_sources(str(folder)) == [str(folder)]
    with open_source(str(folder)) as source:
        assert numbers(source) == [1, 2, 10]
    with open_source(str(folder)):  # as a replay does, or a second pass
        pass
    (told,) = caplog.messages  # once, and of notes.txt nothing
    assert "shots has photographs that cannot be read here (2 .heic, 1 .dng)" in told


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".ppm"])
def test_pictures_of_12_bits_in_16_are_as_bright_as_others(tmp_path: Path, suffix: str) -> None:
    shades = np.linspace(0, 255, 160, dtype=np.uint8)
    image = np.broadcast_to(shades[:, None], (96, 160, 3)).astype(np.uint16)
    for name, stored in (("mono12", image * 257 >> 4), ("whole", image * 257)):
        cv2.imwrite(str(tmp_path / (name + suffix)), stored)
        assert np.array_equal(read_image(tmp_path / (name + suffix)), image)
    cv2.imwrite(str(tmp_path / "night.png"), (image // 20).astype(np.uint8))
    assert np.array_equal(read_image(tmp_path / "night.png"), image // 20)


def test_unreadable_images_that_do_not_follow_each_other_are_skipped(folder: Path) -> None:
    for n in (0, 3, 11):
        (folder / f"img{n}.png").write_bytes(b"no")
    with open_source(str(folder), SourceConfig(max_bad_frames=1)) as source:
        assert numbers(source) == [1, 2, 10]


@pytest.mark.parametrize("name", ["é.jpg", "é.jfif", "é"])
def test_one_image_with_exif_orientation(tmp_path: Path, name: str) -> None:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(np.rot90(numbered(5)[..., ::-1])))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(tmp_path / name, "jpeg", exif=exif, quality=95)
    with open_source(str(tmp_path / name)) as source:
        assert source.info.kind == "image"
        assert source.info.size_wh == (160, 96)
        assert numbers(source) == [5]


def test_expand_gives_each_video_then_the_images(folder: Path) -> None:
    write_clip(folder / "b.mp4", 3)
    write_clip(folder / "a10.mkv", 3, container="matroska")
    write_clip(folder / "a9.avi", 3, container="avi")
    specs = expand_sources(str(folder))
    assert [Path(spec).name for spec in specs] == ["a9.avi", "a10.mkv", "b.mp4", "shots"]
    assert expand_sources(str(folder / "*.mp4")) == [str(folder / "b.mp4")]
    assert [expand_sources(spec) for spec in ("webcam:1", "-", "rtsp://h/x")] == [["webcam:1"], ["-"], ["rtsp://h/x"]]
    kinds = []
    for spec in specs:
        with open_source(spec) as source:
            kinds.append(source.info.kind)
    assert kinds == ["video", "video", "video", "images"]
    with open_source(str(folder / "*.mp4")) as source:
        assert numbers(source) == [0, 1, 2]
    with pytest.raises(SourceError, match="2 videos"):
        open_source(str(folder / "a*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_odd_paths_are_files_or_said(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "~nobody.mp4")
    with open_source("~nobody.mp4") as source:
        assert source.info.frame_count == 30
    assert expand_sources("~nobody.mp4") == ["~nobody.mp4"]
    for spec in ("x" * 300 + ".mp4", "a\0b"):
        with pytest.raises(SourceError, match="cannot be accessed"):
            open_source(spec)
    with pytest.raises(SourceError, match="matches nothing"):
        open_source("x" * 300 + "*.mp4")
    os.mkfifo("pipe")
    with pytest.raises(SourceError, match=r"^pipe is a device or a pipe; a file is accepted"):
        open_source("pipe")


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_what_may_not_be_looked_at_keeps_nothing_from_the_rest(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, "walk.mp4")
    Path("link.mp4").symlink_to("x" * 300)  # as into a folder that may not be entered, which root may
    assert expand_sources(".") == ["walk.mp4"]

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(SourceError, match=r"cannot be accessed .Permission denied."):
        open_source(".")
    with pytest.raises(SourceError, match=r"wolk\.mp4 does not exist; check the path"):
        open_source("wolk.mp4")


@pytest.mark.parametrize("spec", ["rtsp:/me:hidden@cam/live", "rtsp:/me:hid/den@cam", "rtsp:/me:hidden@cam/*.mp4"])
@pytest.mark.parametrize("look", [open_source, expand_sources])
def test_an_address_that_has_lost_a_slash_keeps_its_password(spec: str, look: Callable[[str], object]) -> None:
    with pytest.raises(SourceError, match=r"rtsp:/\*\*\*@cam.* (begins with SCHEME://|matches nothing)") as caught:
        look(spec)
    assert "hid" not in str(caught.value)


def test_nothing_usable_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no files"):
        open_source(str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SourceError, match=r"1 \.txt"):
        expand_sources(str(tmp_path))
    with pytest.raises(SourceError, match="matches nothing"):
        open_source(str(tmp_path / "*.mp4"))


# --- network


@contextmanager
def tcp_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A loopback server that hands each connection to `answer`; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            taken.append(connection)
            with contextlib.suppress(OSError):  # who is answered leaves, or the test ends, in the middle
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in taken:
            connection.close()
        thread.join()


@pytest.fixture
def http_root(clip: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(clip.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc on this system")
def test_reading_leaves_neither_threads_nor_frames_behind(clip: Path) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 (native ones, which `threading` does not know)

    gc.collect()
    gc.disable()  # it would hide what is left behind
    try:
        with open_source(str(clip)) as source:
            source.read()
            before = threads()
            assert len(list(source)) == 29
            assert threads() <= before
            assert sum(isinstance(item, av.VideoFrame) for item in gc.get_objects()) < 5
    finally:
        gc.enable()


@pytest.mark.timeout(30)
def test_http_file_is_finite(http_root: str) -> None:
    with open_source(f"{http_root}/walk.mp4?token=abc") as source:
        info = source.info
        assert numbers(source) == list(range(30))
    assert (info.kind, info.live, info.frame_count, info.path, info.stem) == ("network", False, 30, None, "walk")
    assert info.name.endswith("walk.mp4?token=***")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("container", ["matroska", "flv", "h264"])
def test_an_http_file_that_does_not_say_how_long_it_is_ends(http_root: str, clip: Path, container: str) -> None:
    path = clip.parent / f"recorded_{container}"
    options = {"live": "1"} if container == "matroska" else {"flvflags": "no_duration_filesize"}
    with av.open(str(path), "w", format=container, options=options if container != "h264" else {}) as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for n in range(12):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(n), format="bgr24")))
        out.mux(stream.encode(None))
    with open_source(f"{http_root}/{path.name}", SourceConfig(reconnect_s=5)) as source:
        assert not source.info.live
        assert numbers(source) == list(range(12))
        assert not source.losses


@pytest.mark.timeout(30)
def test_an_http_file_that_breaks_off_is_no_whole_one(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.ts", 100, container="mpegts")
    data = (tmp_path / "a.ts").read_bytes()

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(data)}\r\nContent-Type: video/mp2t\r\n\r\n".encode()
        connection.sendall(head + data[: len(data) // 2])
        connection.shutdown(socket.SHUT_WR)

    config = SourceConfig(reconnect_s=5)
    with tcp_server(answer) as port, open_source(f"http://127.0.0.1:{port}/a.ts", config) as source:
        assert not source.info.live
        with pytest.raises(SourceLost, match=r"broke off after \d+ frames"):
            list(source)


@pytest.mark.timeout(30)
def test_http_stream_without_length_is_live(clip: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "s.mkv", 12, container="matroska", codec="mjpeg", gop=1, bframes=0)
    body = io.BytesIO()
    with av.open(str(tmp_path / "s.mkv")) as stored:
        for packet in stored.demux(video=0):
            if packet.size:
                body.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + bytes(packet) + b"\r\n")

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        connection.sendall(head + body.getvalue())
        connection.shutdown(socket.SHUT_WR)

    config = SourceConfig(reconnect_s=0)
    with tcp_server(answer) as port, open_source(f"http://127.0.0.1:{port}/video", config) as source:
        assert source.info.live
        assert source.info.frame_count is None
        assert source.info.stem == "http_127.0.0.1"
        times: list[float] = []
        with pytest.raises(SourceLost, match=r"broke off after \d+ frames"):
            times.extend(frame.pts_s for frame in source)
    assert len(times) >= 10
    assert times == sorted(times)


@pytest.mark.timeout(30)
def test_pictures_that_a_decoder_painted_over_are_left_out_where_they_are_live(tmp_path: Path) -> None:
    path, damaged = tmp_path / "a.ts", (7, 15, 16)
    write_clip(path, 30, gop=1, bframes=0, codec="mpeg2video", container="mpegts", size_wh=(320, 192))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as stored:
        places = [packet.pos for packet in stored.demux(video=0) if packet.pos is not None]
    for n in damaged:
        at = places[n] + 2 * 188  # of some six packets the third is lost: its PID becomes that of padding
        data[at + 1 : at + 3] = b"\x1f\xff"

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data)
        connection.shutdown(socket.SHUT_WR)

    config = SourceConfig(max_frames=24)
    with tcp_server(answer) as port, open_source(f"http://127.0.0.1:{port}/video", config) as source:
        assert source.info.live
        assert numbers(source) == [n for n in range(27) if n not in damaged]
    path.write_bytes(data)
    with open_source(str(path)) as source:
        assert len(numbers(source)) == 30


@pytest.mark.timeout(30)
@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_silent_server_times_out_and_hides_the_password(scheme: str) -> None:
    with tcp_server(lambda _: None) as port:
        source = open_source(f"{scheme}://me:hidden@127.0.0.1:{port}/x", SourceConfig(open_timeout_s=0.3))
        with pytest.raises(SourceTimeout, match=r"did not answer within 0\.3 s") as caught:
            source.open()
    assert "hidden" not in str(caught.value)
    assert "***@127.0.0.1" in str(caught.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_interrupt_ends_a_waiting_open(scheme: str) -> None:
    reached = threading.Event()
    with tcp_server(lambda _: reached.set()) as port:
        config = SourceConfig(open_timeout_s=600, read_timeout_s=600)
        source = open_source(f"{scheme}://127.0.0.1:{port}/x", config)
        opening = threading.Thread(target=source.open)
        opening.start()
        assert reached.wait(10)
        source.interrupt()
        opening.join(20)
        assert not opening.is_alive()
    assert source.read() is None
    with pytest.raises(SourceError, match="interrupted"):
        _ = source.info


def test_what_comes_by_rtp_is_had_by_the_address_of_its_description(tmp_path: Path, clip: Path, http_root: str) -> None:
    described, port, other = clip.parent / "rtp.sdp", free_port(), free_port()
    described.write_text(f"v=0\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 26\n")  # motion JPEG
    ended = threading.Event()

    def send() -> None:
        anything = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with anything, av.open(f"rtp://127.0.0.1:{port}", "w", format="rtp") as out:
            video = out.add_stream("mjpeg", rate=10)
            video.width, video.height, video.pix_fmt = 160, 96, "yuvj420p"
            while not ended.wait(0.05):
                out.mux(video.encode(av.VideoFrame.from_ndarray(numbered(7), format="bgr24")))
                anything.sendto(b"\x80\x60" + bytes(60), ("127.0.0.1", other))  # RTP of a kind that is agreed upon

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with open_source(f"{http_root}/rtp.sdp") as source:
            assert source.info.live
            frame = source.read()
            assert frame is not None
            assert frame.size_wh == (160, 96)
        with pytest.raises(SourceError, match=r"described by an \.sdp file"):
            open_source(f"rtp://127.0.0.1:{other}").open()
    finally:
        ended.set()
        sender.join()
    with pytest.raises(SourceError, match=r"opened over HTTP; .*/NAME\.sdp"):
        open_source(described).open()


class OneWay(io.BytesIO):
    """A file for who writes into a pipe, and cannot go back to its header."""

    def seekable(self) -> bool:
        return False


def test_an_avi_that_came_through_a_pipe_tells_no_length(tmp_path: Path) -> None:
    written = OneWay()
    write_clip(written, 20, container="avi", codec="mpeg4", bframes=0)
    path = tmp_path / "piped.avi"
    path.write_bytes(written.getvalue())
    with open_source(path) as source:
        assert (source.info.frame_count, source.info.duration_s) == (None, None)
        assert numbers(source) == list(range(20))
        assert source.info.faults.cut_off is None


@pytest.mark.timeout(30)
def test_an_rtsp_server_that_sends_over_udp_alone_is_told() -> None:
    """VLC's is one."""
    sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:trackID=0\r\n"

    def answer(connection: socket.socket) -> None:
        while request := connection.recv(4096):
            number = re.search(rb"CSeq: (\d+)", request)
            assert number is not None
            status = b"461 Unsupported transport" if request.startswith(b"SETUP") else b"200 OK"
            body = sdp if request.startswith(b"DESCRIBE") else b""
            head = b"RTSP/1.0 %b\r\nCSeq: %b\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % (status, number[1], len(body)) + body)

    told = pytest.raises(SourceError, match="does not send over tcp; try --rtsp-transport udp")
    with tcp_server(answer) as port, told:
        open_source(f"rtsp://127.0.0.1:{port}/v").open()


def stalling(clip: Path, keep: float) -> Callable[[socket.socket], None]:
    data = clip.read_bytes()

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(data)}\r\nContent-Type: video/mp4\r\n\r\n".encode()
        connection.sendall(head + data[: int(len(data) * keep)])

    return answer


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "long.mp4", 150, size_wh=(320, 192), faststart=True, gop=10)
    return tmp_path / "long.mp4"


@pytest.mark.timeout(30)
def test_stream_that_stalls_times_out(long_clip: Path) -> None:
    config = SourceConfig(read_timeout_s=0.3)
    silence = pytest.raises(SourceTimeout, match=r"sent no picture for 0\.3 s after \d+ frames")
    with tcp_server(stalling(long_clip, 0.6)) as port, open_source(f"http://127.0.0.1:{port}/l.mp4", config) as source:
        assert source.info.frame_count == 150
        with silence:
            list(source)


def with_longer_sound() -> bytes:
    """An MPEG-TS of 30 pictures in 1.2 s, and a minute of sound."""
    data = io.BytesIO()
    with av.open(data, "w", format="mpegts") as out:
        video = out.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        sound = out.add_stream("mp2", rate=44_100)
        for number in range(30):
            out.mux(video.encode(av.VideoFrame.from_ndarray(numbered(number), format="bgr24")))
        out.mux(video.encode(None))
        write_sound(out, sound, 60.0)
    return data.getvalue()


@pytest.mark.timeout(30)
def test_a_stream_whose_sound_alone_goes_on_is_lost() -> None:
    data, all_sent = with_longer_sound(), threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data[:300_000])
        for at in range(300_000, len(data), 4096):
            connection.sendall(data[at : at + 4096])
            time.sleep(0.1)
        all_sent.set()
        connection.shutdown(socket.SHUT_RDWR)

    config = SourceConfig(reconnect_s=0, read_timeout_s=0.5)
    lost = pytest.raises(SourceLost, match=r"sent no picture for 0\.5 s after \d+ frames")
    with tcp_server(answer) as port, open_source(f"http://127.0.0.1:{port}/live", config) as source, lost:
        list(source)
    assert not all_sent.is_set()


@pytest.mark.timeout(60)
def test_a_stream_whose_codec_changes_is_connected_to_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's decoder of MPEG-2 finds nothing in H.264, and says nothing."""
    monkeypatch.setattr("sharpose_rt.media.container.LONGEST_WAIT_S", 0.0)
    before, after, viewers = io.BytesIO(), io.BytesIO(), []
    write_clip(before, 30, fps=25, container="mpegts", codec="mpeg2video", bframes=0)
    write_clip(after, 100, fps=25, container="mpegts", bframes=0)

    def answer(connection: socket.socket) -> None:
        if not connection.recv(4096).startswith(b"GET"):
            return
        viewers.append(connection)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        if len(viewers) == 1:
            connection.sendall(before.getvalue())
        while True:  # until nobody looks any more
            for at in range(0, len(after.getvalue()), 1316):
                connection.sendall(after.getvalue()[at : at + 1316])
                time.sleep(0.01)

    config = SourceConfig(read_timeout_s=0.5, max_frames=40)
    with tcp_server(answer) as port, open_source(f"http://127.0.0.1:{port}/live", config) as source:
        assert len(numbers(source)) == 40
        assert len(source.losses) == 1


@pytest.mark.timeout(60)
def test_a_stream_that_is_joined_between_key_frames_begins_with_the_next_one() -> None:
    written = io.BytesIO()
    write_clip(written, 160, container="mpegts", gop=80, bframes=0)
    data = written.getvalue()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    sent = b"".join(packets[len(packets) // 8 :])  # some 60 pictures before the second key frame

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + sent)
        connection.shutdown(socket.SHUT_RDWR)

    config = SourceConfig(reconnect_s=0, end_s=2.0)
    with tcp_server(answer) as port, open_source(f"http://127.0.0.1:{port}/live", config) as source:
        frames = list(source)
        assert [read_number(frame.image_bgr) for frame in frames] == list(range(80, 100))
        assert frames[0].pts_s == 0
        assert source.info.faults.damaged == 0


@pytest.mark.timeout(30)
def test_interrupt_ends_a_waiting_read(long_clip: Path) -> None:
    with tcp_server(stalling(long_clip, 0.6)) as port:
        config = SourceConfig(open_timeout_s=600, read_timeout_s=600)
        seen = threading.Event()
        result: list[int] = []

        def run() -> None:
            with open_source(f"http://127.0.0.1:{port}/long.mp4", config) as opened:
                sources.append(opened)
                seen.set()
                result.extend(numbers(opened))

        sources: list[Source] = []
        thread = threading.Thread(target=run)
        thread.start()
        assert seen.wait(10)
        sources[0].interrupt()
        thread.join(20)
        assert not thread.is_alive()
    assert len(result) < 150


@pytest.mark.timeout(30)
def test_what_is_held_back_when_a_read_is_interrupted_is_no_picture() -> None:
    """It may be half of one."""
    written, result = io.BytesIO(), []
    write_clip(written, 160, container="mpegts", gop=1, bframes=0)
    sent = written.getvalue()[: len(written.getvalue()) // 2]

    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + sent)

    with av.open(io.BytesIO(sent)) as container:
        there = len(list(container.decode(video=0)))
    with tcp_server(answer) as port, open_source(f"http://127.0.0.1:{port}/live") as source:
        for frame in source:
            result.append(read_number(frame.image_bgr))
            if len(result) == there - 2:
                threading.Timer(0.2, source.interrupt).start()
        assert result == list(range(there - 2))
        assert source.faults.damaged == 0


@pytest.mark.timeout(30)
def test_refusing_server_and_missing_page(http_root: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceError, match="Connection refused") as caught:
        open_source(f"http://127.0.0.1:{port}/x.mp4").open()
    assert not isinstance(caught.value, SourceTimeout)
    with pytest.raises(SourceError, match="404"):
        open_source(f"{http_root}/nowhere.mp4").open()


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ('401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"', "give user and password: http://USER:PASSWORD@HOST/"),
        ("403 Forbidden", "give user and password: http://USER:PASSWORD@HOST/"),
        ("200 OK\r\nContent-Type: text/plain", "it answers, but not with a video"),
    ],
)
def test_a_server_that_gives_no_video_is_told_of(answer: str, hint: str) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(f"HTTP/1.0 {answer}\r\nContent-Length: 8\r\n\r\nno video".encode())

    with tcp_server(reply) as port, pytest.raises(SourceError, match=hint) as caught:
        open_source(f"http://me:hidden@127.0.0.1:{port}/cam").open()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("spec", ["http://u:hidden@[::1/x.mp4", "rtsp://u:hidden@[fe80::1/x", "file://[::1/x.mp4"])
def test_an_address_that_cannot_be_taken_apart_is_said(spec: str) -> None:
    with pytest.raises(SourceError, match=r"is not an address.*\[::1\]") as caught:
        open_source(spec)
    assert "hidden" not in str(caught.value)
    with pytest.raises(SourceError, match="is not an address"):
        is_live("http://[::1/stream")


def test_address_checks_need_no_network() -> None:
    with pytest.raises(SourceError, match=r"'ftp'://.*rtsp"):
        open_source("ftp://host/x.mp4")
    with pytest.raises(SourceError, match="no host"):
        open_source("rtsp:///x")
    source = open_source("rtsp://cam.local:554/a", SourceConfig(rtsp_transport="udp"))
    assert isinstance(source, Reconnecting)
    assert isinstance(source.inner, NetworkVideo)
    assert source.inner.live
    assert source.inner.stem == "rtsp_cam.local"
    assert source.inner._options() == {"rtsp_transport": "udp"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("rtsp://me:secret@host:554/x", "rtsp://***@host:554/x"),
        ("rtsp://me:p@ss@host/x", "rtsp://***@host/x"),
        ("open http://a/b?x=1&token=abc&y=2 now", "open http://a/b?x=1&token=***&y=2 now"),
        ("http://a/b?api_key=q#f", "http://a/b?api_key=***#f"),
        ("srt://h:9?passphrase=abc", "srt://h:9?passphrase=***"),
        ("rtsp://me:p/s?s#1 x@host/x", "rtsp://***@host/x"),
        ("rtsp://me:p@s/s@host/x", "rtsp://***@host/x"),
        ("rtsp://a/x failed, then rtsp://me:p/s@b/y", "rtsp://a/x failed, then rtsp://***@b/y"),
        ("http://host/@team/clip.mp4", "http://host/@team/clip.mp4"),
        ("http://a/v?usr=me&loginpas=q&pas=q&pw=q&n=1", "http://a/v?usr=***&loginpas=***&pas=***&pw=***&n=1"),
        ("http://a/v?loginuse=me&PASS=q&psw=q", "http://a/v?loginuse=***&PASS=***&psw=***"),
        ("http://a/v?X-Amz-Credential=q&credential=q", "http://a/v?X-Amz-Credential=***&credential=***"),
        ("rtsp://a/user=me_password=q_channel=1_stream=0.sdp", "rtsp://a/user=***_channel=1_stream=0.sdp"),
        ("rtsp://a/user=me&password=q&channel=1", "rtsp://a/user=***&password=***&channel=1"),
        ("/home/a@b/clip.mp4", "/home/a@b/clip.mp4"),
        ("rtsp://me@corp.com:pa/ss@host/x", "rtsp://***@host/x"),
        ("rtsp://me:12345/67@host/x", "rtsp://***@host/x"),
        ("rtsp://me:554/@host/x", "rtsp://***@host/x"),
        ("rtsp://me:12/3 4@host/x", "rtsp://***@host/x"),
        ("rtsp://me:p://s@host/x", "rtsp://***@host/x"),
        ("'rtsp://a:554/x' failed, then 'rtsp://me:1/2@b/y'", "'rtsp://a:554/x' failed, then 'rtsp://***@b/y'"),
        ("rtsp://cam1:8554/live@main", "rtsp://***@main"),  # the same as a password of digits
        ("rtsp:/me:secret@host/x", "rtsp:/***@host/x"),
        ("no C:/a:b@c/x", "no C:/a:b@c/x"),
        ("rtsp:/host:554/x", "rtsp:/host:554/x"),
        ("file:/home/a@b/clip.mp4", "file:/home/a@b/clip.mp4"),
        ("http://a/v?jwt=q&authorization=q&bearer=q", "http://a/v?jwt=***&authorization=***&bearer=***"),
        (
            "http://a/v?session=q&sessionid=q&sid=q&PHPSESSID=q",
            "http://a/v?session=***&sessionid=***&sid=***&PHPSESSID=***",
        ),
        ("http://a/v?hdnts=q&hdnea=q&pin=q&otp=q&sas=q", "http://a/v?hdnts=***&hdnea=***&pin=***&otp=***&sas=***"),
        ("http://a/v?auth_code=q&accesscode=q&code=q", "http://a/v?auth_code=***&accesscode=***&code=***"),
        ("rtsp://a/v;token=q and rtsp://a/v#token=q", "rtsp://a/v;token=*** and rtsp://a/v#token=***"),
        (
            "http://a/v?mode=pin&codec=sid&spin=1&side=2&transcode=3#t=4",
            "http://a/v?mode=pin&codec=sid&spin=1&side=2&transcode=3#t=4",
        ),
        ("https://a/v?Policy=q_&Signature=q~&Key-Pair-Id=APKA", "https://a/v?Policy=***&Signature=***&Key-Pair-Id=***"),
        ("'rtmp://host:1935/app/live_1-a_b=': refused", "'rtmp://host:1935/app/***': refused"),
        (
            "http://h/a.m3u8?md5=Ab1&wmsAuthSign=Cd2&ticket=3&x=4",
            "http://h/a.m3u8?md5=***&wmsAuthSign=***&ticket=***&x=4",
        ),
        ("http://h/a?authbasic=Ab=&wowzatokenhash=1&hmac=2", "http://h/a?authbasic=***&wowzatokenhash=***&hmac=***"),
        (
            "rtmps://me:q@host/rtmp/FB-1?s_bl=1&a=Ab/c, then rtmp://b/app/k.",
            "rtmps://***@host/rtmp/***, then rtmp://b/app/***.",
        ),
        ("RTMPT://host/app/instance/key", "RTMPT://host/app/***"),
        ("rtmp://host/app/*** and rtmp://host/app", "rtmp://host/app/*** and rtmp://host/app"),
    ],
)
def test_redact(text: str, masked: str) -> None:
    assert redact(text) == masked


DIGITS_AND_MARKS = st.text("0123456789/:@?#&=% .", min_size=1)
# What follows a blank and has '://' in it is taken for another address.
PASSWORDS = (DIGITS_AND_MARKS | st.text(min_size=1)).filter(lambda text: not re.search(r"\n|\s\S*://", text))


@given(
    st.sampled_from(["rtsp", "http", "srt"]),
    st.text("abz09._@\\:", min_size=1),
    PASSWORDS,
    st.sampled_from(["", ":554", ":8080"]),
    st.sampled_from(["open {} now", "{}", "'{}': refused"]),
)
def test_a_password_is_never_shown(scheme: str, user: str, password: str, port: str, said: str) -> None:
    shown = redact(said.format(f"{scheme}://{user}:{password}@cam.local{port}/live.sdp?channel=1"))
    assert shown == said.format(f"{scheme}://***@cam.local{port}/live.sdp?channel=1")


@given(
    st.sampled_from(["rtsp", "http", "srt"]),
    st.sampled_from(["cam1", "192.168.1.2", "[fe80::1]", "cam.example.org"]),
    st.none() | st.integers(0, 99999),
    st.text("abz09._-/~", max_size=20),
    st.sampled_from(["{}", "open {}", "'{0}' failed, then {0}"]),
)
def test_an_address_without_a_password_stays_readable(
    scheme: str, host: str, port: int | None, path: str, said: str
) -> None:
    text = said.format(f"{scheme}://{host}{'' if port is None else f':{port}'}/{path}?channel=1#t=2")
    assert redact(text) == text


def test_is_live_before_opening() -> None:
    live = (
        "webcam",
        "webcam:2",
        "/dev/video0",
        "rtsp://h/x.mp4",
        "srt://h:9",
        "http://h/video.mjpg",
        "http://h/rtp.sdp",
        "http://127.0.0.1:9/cam?id=1",  # nobody there to ask
    )
    stored = ("clip.mp4", "-", "file:///a/b.mp4", "https://h/a.mp4?token=1", "*.jpg")
    assert [is_live(spec) for spec in live] == [True] * len(live)
    assert [is_live(spec) for spec in stored] == [False] * len(stored)


@pytest.mark.timeout(30)
def test_a_server_tells_whether_an_address_without_suffix_is_stored(http_root: str, clip: Path) -> None:
    shutil.copy(clip, clip.parent / "download")
    assert not is_live(f"{http_root}/download?id=walk")
    with open_source(f"{http_root}/download?id=walk") as source:
        assert numbers(source) == list(range(30))
    assert is_live(f"{http_root}/nothing")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "answer",
    [
        "200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\nContent-Length: 99",
        "200 OK\r\nContent-Type: video/mp2t",
        "405 Method Not Allowed\r\nContent-Length: 12",
        "200 OK\r\nContent-Length: many",
        "nonsense",
    ],
)
def test_whatever_gives_no_length_is_live(answer: str) -> None:
    asked: list[bytes] = []

    def reply(connection: socket.socket) -> None:
        asked.append(connection.recv(4096))
        connection.sendall(f"HTTP/1.0 {answer}\r\n\r\n".encode())

    with tcp_server(reply) as port:
        assert is_live(f"http://me:hidd%65n@127.0.0.1:{port}/cam?id=1")
    assert asked[0].startswith(b"HEAD /cam?id=1 ")
    assert base64.b64encode(b"me:hidden") in asked[0]


@pytest.mark.timeout(30)
def test_a_server_that_sends_elsewhere_does_not_pass_the_password_on() -> None:
    asked: list[bytes] = []

    def elsewhere(connection: socket.socket) -> None:
        asked.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 9\r\n\r\n")

    with tcp_server(elsewhere) as other:

        def redirect(connection: socket.socket) -> None:
            asked.append(connection.recv(4096))
            connection.sendall(f"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:{other}/cam\r\n\r\n".encode())

        with tcp_server(redirect) as port:
            assert not is_live(f"http://me:hidden@127.0.0.1:{port}/cam?id=2")
    assert b"Authorization" in asked[0]
    assert b"Authorization" not in asked[1]


# --- standard input


@pytest.mark.timeout(30)
@pytest.mark.parametrize("faststart", [True, False])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_stdin_pipe(tmp_path: Path, container: str, faststart: bool) -> None:
    write_clip(tmp_path / "in", 30, container=container, faststart=faststart and container == "mp4")
    data = (tmp_path / "in").read_bytes()
    assert index_is_last(data) == (container == "mp4" and not faststart)
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(data)

    feeding = threading.Thread(target=feed)
    feeding.start()
    with os.fdopen(reader, "rb") as pipe, StdinVideo(SourceConfig(start_s=1.05), pipe) as source:
        info = source.info
        assert numbers(source) == list(range(11, 30))
    feeding.join()
    assert (info.kind, info.live, info.path, info.stem) == ("stdin", False, None, "stdin")


def test_stdin_from_a_file(clip: Path) -> None:
    with clip.open("rb") as file, StdinVideo(SourceConfig(start_s=2.0), file) as source:
        assert numbers(source) == list(range(20, 30))


@pytest.mark.timeout(30)
def test_stdin_in_real_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "in.mp4", 6, fps=50)
    with (tmp_path / "in.mp4").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        with open_source("-", SourceConfig(realtime=True)) as source:
            assert source.info.live
            frames = list(source)
    assert [read_number(frame.image_bgr) for frame in frames] == list(range(6))
    assert (np.diff([frame.captured_at_s for frame in frames]) >= 0.02 - 1e-6).all()


@pytest.mark.timeout(30)
def test_stdin_that_sends_nothing_is_interrupted_or_empty() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb") as sender:
        source = StdinVideo(SourceConfig(), pipe)
        opening = threading.Thread(target=source.open)
        opening.start()
        source.interrupt()
        opening.join(20)
        assert not opening.is_alive()
        sender.close()
        with pytest.raises(SourceError, match=r"^standard input is empty"):
            StdinVideo(SourceConfig(), pipe).open()


@pytest.mark.timeout(30)
def test_stdin_that_cannot_be_kept_says_where_room_is_wanted(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sharpose_rt.media.live.shutil.copyfileobj", full)
    monkeypatch.setattr("sharpose_rt.media.live.index_is_last", lambda head: True)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe, os.fdopen(writer, "wb") as sender:
        sender.write(clip.read_bytes()[:1000])
        sender.close()
        with pytest.raises(SourceError, match=r"cannot be stored in .*No space left on device.*TMPDIR"):
            StdinVideo(SourceConfig(), pipe).open()


# --- camera


class RecordedCapture:
    """Stands where cv2.VideoCapture stands: hands out pictures, then fails; None is a failed read."""

    def __init__(self, pictures: list[np.ndarray | None], opened: bool = True) -> None:
        self.pictures, self.opened, self.released = list(pictures), opened, False
        self.asked: dict[int, float] = {}

    def isOpened(self) -> bool:
        return self.opened

    def read(self) -> tuple[bool, np.ndarray | None]:
        image = self.pictures.pop(0) if self.pictures else None
        return image is not None, image

    def get(self, prop: int) -> float:
        return 30.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def set(self, prop: int, value: float) -> bool:
        self.asked[prop] = value
        return True

    def release(self) -> None:
        self.released = True


def test_camera_gives_frames_by_the_clock_and_then_is_lost() -> None:
    capture = RecordedCapture([None, numbered(0), numbered(1), None, numbered(2)])
    config = SourceConfig(camera_size_wh=(640, 480), camera_fps=25, max_bad_frames=3)
    source = Camera("webcam:7", config, 7, lambda device: capture)
    found: list[tuple[int, float, float]] = []
    with source:
        assert (source.info.kind, source.info.live, source.info.stem) == ("camera", True, "webcam7")
        with pytest.raises(SourceLost, match="sends no more pictures"):
            found.extend((read_number(frame.image_bgr), frame.pts_s, frame.captured_at_s) for frame in source)
    assert [number for number, _, _ in found] == [0, 1, 2]
    assert found[0][1] == 0
    assert found[1][1] < found[2][1]
    assert found[2][2] <= time.monotonic()
    assert capture.asked[cv2.CAP_PROP_BUFFERSIZE] == 1
    assert capture.asked[cv2.CAP_PROP_FRAME_WIDTH] == 640
    assert capture.asked[cv2.CAP_PROP_FPS] == 25
    assert capture.released


def test_a_camera_begins_in_the_present_however_long_the_first_frame_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class Buffered(RecordedCapture):
        """Two pictures wait in it; the others come as it films them, 30 a second."""

        def read(self) -> tuple[bool, np.ndarray | None]:
            if len(self.pictures) < 7:
                clock.now_s += 1 / 30
            return super().read()

    capture = Buffered([numbered(n) for n in range(9)])
    monkeypatch.setattr("sharpose_rt.media.live.open_capture", lambda device: capture)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with open_source("webcam:7", SourceConfig(max_frames=3, reconnect_s=0)) as source:
        clock.now_s += 1  # networks are loaded
        frames = list(source)
    # The first is old, so are the two that waited in the camera; the next two had to be waited for, and told so.
    assert [read_number(frame.image_bgr) for frame in frames] == [5, 6, 7]
    assert [frame.frame_id for frame in frames] == [0, 1, 2]
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [b"Content-Type: image/jpeg\r\n", b"Content-Type: image/jpg\r\n", b""])
def test_a_stream_begins_in_the_present_and_a_recording_at_its_beginning(
    clip: Path, http_root: str, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    monkeypatch.setattr("sharpose_rt.media.source.STALE_S", 0.05)
    # Of those that FFmpeg refuses a first connection is given up.
    with MjpegServer([((160, 96), None)] * 2, kind=kind) as server, open_source(server.url) as source:
        while server.sent < 60:
            time.sleep(0.02)
        first, second = source.read(), source.read()
        assert first is not None
        assert second is not None
        assert read_number(first.image_bgr) > 40
        assert (first.frame_id, first.pts_s, second.frame_id) == (0, 0, 1)
        assert second.pts_s > 0
        assert source.losses == ()
    with open_source(f"{http_root}/{clip.name}") as source:
        time.sleep(0.1)
        assert numbers(source) == list(range(30))


@pytest.mark.timeout(60)
def test_a_stream_that_ends_while_its_first_frame_waits_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.media.source.STALE_S", 0.05)
    config = SourceConfig(reconnect_s=5, max_frames=20)
    with MjpegServer([((160, 96), 20), ((200, 120), None)]) as server, open_source(server.url, config) as source:
        time.sleep(1.0)  # longer than the first connection lasts
        frames = list(source)
        assert len(frames) == 20
        assert frames[-1].size_wh == (200, 120)
        assert [loss.back for loss in source.losses] == [True]
        assert all(b.pts_s > a.pts_s and b.frame_id == a.frame_id + 1 for a, b in pairwise(frames))


@pytest.mark.timeout(60)
def test_a_stream_that_falls_silent_while_its_first_frame_waits_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.media.source.STALE_S", 0.05)
    config = SourceConfig(reconnect_s=0, read_timeout_s=1)
    with MjpegServer([((160, 96), 20)], silent=True) as server, open_source(server.url, config) as source:
        time.sleep(1.0)
        with pytest.raises(SourceLost, match="sent no picture for 1 s"):
            list(source)


@pytest.mark.timeout(30)
def test_waiting_for_the_present_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    class Interrupts(RecordedCapture):
        """All of its pictures waited in it; somebody interrupts when half of them are taken."""

        def read(self) -> tuple[bool, np.ndarray | None]:
            if len(self.pictures) == 5:
                source.interrupt()
            return super().read()

    capture = Interrupts([numbered(0)] * 10)
    monkeypatch.setattr("sharpose_rt.media.live.open_capture", lambda device: capture)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with open_source("webcam:7") as source:
        clock.now_s += 1
        assert source.read() is None
    assert len(capture.pictures) == 4


@pytest.mark.timeout(30)
@pytest.mark.parametrize("part", [{"start_s": 0.2}, {"stride": 4}])
def test_a_start_counts_from_the_first_connection_and_a_stride_changes_nothing(
    part: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose_rt.media.source.STALE_S", 0.05)
    monkeypatch.setattr("sharpose_rt.media.source._CATCH_UP_S", 1e9)  # it is not needed
    with MjpegServer([((160, 96), None)]) as server, open_source(server.url, SourceConfig(**part)) as source:
        opened_s = time.monotonic()
        time.sleep(0.5)
        frame = source.read()
        assert frame is not None
        if "start_s" in part:
            assert frame.captured_at_s <= opened_s  # the one that was there first
            assert frame.pts_s >= 0.2
        else:
            assert frame.captured_at_s > opened_s + 0.5
            assert frame.pts_s == 0


def test_a_camera_that_is_lost_while_its_first_frame_waits_gives_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.media.source.STALE_S", 0.05)
    monkeypatch.setattr("sharpose_rt.media.live.open_capture", lambda device: RecordedCapture([numbered(0)]))
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with open_source("webcam:7", SourceConfig(max_bad_frames=2, reconnect_s=0)) as source:
        time.sleep(0.1)
        frame = source.read()
        assert frame is not None
        assert (frame.frame_id, frame.pts_s, read_number(frame.image_bgr)) == (0, 0, 0)
        with pytest.raises(SourceLost, match="no more pictures"):
            source.read()


def test_camera_pictures_are_not_overwritten_by_the_next() -> None:
    class OneBuffer(RecordedCapture):
        buffer = np.zeros((96, 160, 3), np.uint8)

        def read(self) -> tuple[bool, np.ndarray | None]:
            good, image = super().read()
            if image is not None:
                self.buffer[:] = image
            return good, self.buffer

    with Camera("webcam", SourceConfig(), 0, lambda _: OneBuffer([numbered(1), numbered(2)])) as source:
        first, second = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert (read_number(first.image_bgr), read_number(second.image_bgr)) == (1, 2)


@pytest.mark.timeout(30)
def test_camera_wait_is_interrupted() -> None:
    source = Camera("webcam", SourceConfig(max_bad_frames=10**9, read_timeout_s=600), 0, lambda _: RecordedCapture([]))
    opening = threading.Thread(target=source.open)
    opening.start()
    source.interrupt()
    opening.join(20)
    assert not opening.is_alive()


# --- the screen


@contextmanager
def white_screen(size_wh: tuple[int, int] = (640, 480)) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An X server that shows white: its display, and its process."""
    if not (xvfb := shutil.which("Xvfb")):
        pytest.skip("no X server to look at (apt-get install xvfb)")
    told, tell = os.pipe()
    options = ["-displayfd", str(tell), "-wr", "-noreset", "-nolisten", "tcp", "-screen", "0"]
    options.append(f"{size_wh[0]}x{size_wh[1]}x24")
    with subprocess.Popen([xvfb, *options], pass_fds=[tell], stderr=subprocess.DEVNULL) as server:
        os.close(tell)
        try:
            with os.fdopen(told) as answer:
                yield f":{int(answer.readline())}", server
        finally:
            server.terminate()


@pytest.mark.timeout(60)
def test_a_real_screen_and_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with white_screen() as (display, _):
        monkeypatch.setenv("DISPLAY", display)
        for spec, size_wh in (("screen", (640, 480)), ("screen:0", (640, 480)), ("screen:320x200+10+20", (320, 200))):
            assert is_live(spec)
            assert expand_sources(spec) == [spec]
            with open_source(spec, SourceConfig(max_frames=4, camera_fps=50)) as source:
                assert (source.info.kind, source.info.live, source.info.size_wh) == ("screen", True, size_wh)
                assert (source.info.fps, source.info.stem) == (50, "screen")
                frames = list(source)
            assert [frame.image_bgr.min() for frame in frames] == [255] * 4
            times = [frame.pts_s for frame in frames]
            assert times[0] == 0
            assert all(b > a for a, b in pairwise(times))
        for spec, said in (("screen:3", "screens: screen:0"), ("screen:640x480+1+0", "640x480 px together")):
            with pytest.raises(SourceError, match=said):
                open_source(spec).open()


@pytest.mark.timeout(60)
def test_a_screen_that_goes_away_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with white_screen() as (display, server):
        monkeypatch.setenv("DISPLAY", display)
        with open_source("screen", SourceConfig(reconnect_s=0)) as source:
            assert source.read() is not None
            server.kill()
            with pytest.raises(SourceLost, match="can no longer be captured"):
                list(source)


def test_a_screen_is_looked_at_in_its_turn_and_what_was_missed_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    mss = pytest.importorskip("mss")
    now_s = 100.0

    class Shot:
        width, height, bgra = 2, 1, bytes((1, 2, 3, 0, 4, 5, 6, 0))

    class Grabber:
        monitors = ({"left": 0, "top": 0, "width": 2, "height": 1},) * 2

        def grab(self, area: object) -> Shot:
            return Shot()

        def close(self) -> None:
            pass

    def wait(seconds: float) -> bool:
        nonlocal now_s
        now_s += seconds
        return False

    monkeypatch.setattr(mss, "MSS", Grabber)
    source = Screen("screen", SourceConfig(camera_fps=10))
    monkeypatch.setattr("sharpose_rt.media.screen.time.monotonic", lambda: now_s)
    monkeypatch.setattr(source._stop, "wait", wait)
    times = []
    with source:
        for late_s in (0, 0, 0.35, 0, 0):
            frame = source.read()
            assert frame is not None
            np.testing.assert_array_equal(frame.image_bgr, [[[1, 2, 3], [4, 5, 6]]])
            times.append(round(frame.pts_s, 6))
            now_s += late_s
    assert times == [0, 0.1, 0.2, 0.55, 0.65]


def test_no_screen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mss")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", "")
    if sys.platform.startswith("linux"):
        with pytest.raises(SourceError, match="DISPLAY is empty"):
            open_source("screen").open()
    for spec in ("screen:big", "screen:"):
        with pytest.raises(SourceError, match=f"'{spec}' is not a screen; 'screen', 'screen:N'"):
            open_source(spec)
    monkeypatch.setitem(sys.modules, "mss", None)
    with pytest.raises(SourceError, match=re.escape("pip install 'sharpose-rt[screen]'")):
        open_source("screen")


def test_no_such_camera_lists_what_is_there() -> None:
    capture = RecordedCapture([], opened=False)
    with pytest.raises(SourceError, match=r"webcam:93.*(cameras here|no camera was found)"):
        Camera("webcam:93", SourceConfig(), 93, lambda _: capture).open()
    with pytest.raises(SourceError, match="webcam:93"):
        open_source("webcam:93").open()
    with pytest.raises(SourceError, match="webcam:N"):
        open_source("webcam:front")


@pytest.mark.parametrize(
    ("system", "said"), [("darwin", "Privacy & Security, Camera$"), ("win32", "another program[^;]*$")]
)
def test_where_nothing_lists_cameras_none_is_said_to_be_there(monkeypatch, system: str, said: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SourceError, match=said):
        Camera("webcam:93", SourceConfig(), 93, lambda _: RecordedCapture([], opened=False)).open()


@pytest.mark.parametrize(("size", "finite"), [(None, False), (-1, False), (0, False), (5000, True)])
def test_a_stream_by_http_that_says_no_length_is_live(size: int | None, finite: bool) -> None:
    video = NetworkVideo("http://127.0.0.1:9/a.ts", SourceConfig())
    video._container = SimpleNamespace(size=size, duration=None, format=SimpleNamespace(name="mpegts"))  # type: ignore[assignment]
    video._opened()
    assert (video.finite, video.live) == (finite, not finite)  # PyAV says None since 19, and said a number below 0


# --- a stream of which more comes than is taken


class _Sent(VideoFile):
    """A file that comes as a stream does, all of which waits in buffers already."""

    live = True

    def _ages(self) -> bool:
        return True


@pytest.mark.parametrize("bframes", [0, 2])
def test_what_waits_in_buffers_is_told_and_left_out_when_it_is_old(tmp_path, monkeypatch, caplog, bframes) -> None:
    clock = Clock(monkeypatch)
    for module in ("container", "clock"):
        monkeypatch.setattr(f"sharpose_rt.media.{module}.time", clock)
    write_clip(tmp_path / "walk.ts", 60, container="mpegts", gop=10, bframes=bframes)
    with _Sent(tmp_path / "walk.ts", SourceConfig()) as source:
        first = source.read()
        assert first is not None
        clock.now_s += 30.0  # networks are loaded
        frames = [first]
        while (frame := source.read()) is not None:
            late_s = clock.now_s - frame.captured_at_s
            frames.append(frame)
            assert late_s == pytest.approx(source.behind_s)
            assert late_s < 2.8 + 0.3 * bframes  # the decoder holds back so many
            clock.now_s += 0.3  # three times as long as each is shown
    shown = [read_number(frame.image_bgr) for frame in frames]
    assert shown[:16] == [*range(14), 40, 41]  # late by a second for two: on to a key frame of the present
    assert [frame.frame_id for frame in frames][:27] == shown[:27]  # then it is late again
    assert frames[14].dropped_before == 26
    assert source.faults.left_out == 60 - len(frames)
    assert caplog.text.count("sends more than can be decoded here") == 1
    np.testing.assert_allclose([frame.pts_s for frame in frames], np.array(shown) / 10, atol=1e-3)


class _Fed:
    """An MPEG-TS that comes picture by picture, each 0.1 s after the one before; `sent_s` is when."""

    def __init__(self, path: Path, clock: Clock) -> None:
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        data, begins = path.read_bytes(), [packet.pos for packet in packets]
        self._pieces = [data[a:b] for a, b in pairwise([0, *begins[1:], len(data)])]
        self._clock, self.sent_s = clock, []
        self.shown = np.argsort([packet.pts for packet in packets]).tolist()  # places of the pictures as they are shown

    def read(self, size: int) -> bytes:
        if len(self.sent_s) == len(self._pieces):
            return b""
        self._clock.now_s += 0.1
        self.sent_s.append(self._clock.now_s)
        return self._pieces[len(self.sent_s) - 1]


@pytest.mark.parametrize("bframes", [0, 2])
def test_what_ffmpeg_and_the_decoder_hold_back_is_part_of_the_latency(bframes: int, tmp_path, monkeypatch) -> None:
    """Where a picture of H.264 ends is known by the next one, and where that ends in MPEG-TS by the one after it."""
    clock = Clock(monkeypatch)
    for module in ("container", "clock"):
        monkeypatch.setattr(f"sharpose_rt.media.{module}.time", clock)
    write_clip(tmp_path / "walk.ts", 200, container="mpegts", gop=10, bframes=bframes)
    fed = _Fed(tmp_path / "walk.ts", clock)
    monkeypatch.setattr(_Sent, "_target", lambda source: fed)
    held = []
    with _Sent(tmp_path / "walk.ts", SourceConfig()) as source:
        probed = len(fed.sent_s)  # all of these are had at once
        for frame in source:
            place = fed.shown[read_number(frame.image_bgr)]
            if probed < place < 190:
                assert frame.captured_at_s == pytest.approx(fed.sent_s[place])
                assert frame.waited_s == pytest.approx(clock.now_s - frame.captured_at_s)
                assert Packet(frame).left("detect").spans_ms["capture"] == 1e3 * frame.waited_s
                held.append(round((clock.now_s - frame.captured_at_s) / 0.1))
    assert len(held) > 50
    assert min(held) >= 2
    assert (max(held) > 2) == (bframes > 0)  # those the decoder puts in order


def late_after(packets: Iterable[tuple[float, float, float]], *, key: bool = True) -> Backlog:
    """The backlog after packets that were (sent, by the sender's clock, asked for, had)."""
    backlog = Backlog()
    for packet in packets:
        backlog.take(*packet, key=key)
    return backlog


def test_what_is_waited_for_is_of_the_present() -> None:
    asked = np.arange(100) / 25
    assert late_after((t, t, t + 0.03) for t in asked).seconds == 0
    assert late_after((t / 3, t, t + 0.03) for t in asked).seconds == 0  # a sender whose clock is slow
    assert late_after((3 * t, t, t + 0.03) for t in asked).seconds == 0
    assert late_after([(0, 0, 0), (0.04, 0.5, 0.5), (0.08, 0.5, 2.5)]).seconds == 0  # was late, then none came
    assert late_after([(0, 0, 0), (0.04, 0.5, 0.5), (0.08, 0.5, 0.5)]).seconds == pytest.approx(0.42)
    assert late_after([(0, 0, 0), (0.04, 0.5, 0.5), (900, 0.6, 0.6)]).seconds == 0  # its clock leapt, or much was lost
    assert late_after([(0, 0, 0), (0.04, 0.5, 0.5), (-9, 0.6, 0.6)]).seconds == pytest.approx(0.46)  # it was set back
    assert late_after([(0, 0, 0), (0.04, 0.5, 0.5), (-9, 0.6, 1.2)]).seconds == 0


def test_what_a_busy_moment_left_is_worked_off() -> None:
    """A decoder is quicker than the next key frame may be."""
    stalled = [(0.0, 0.0, 0.0), (0.1, 10.0, 10.0)]
    worked_off = [(0.1 + 0.1 * i, 10 + 0.015 * i, 10 + 0.015 * i) for i in range(1, 110)]
    assert late_after([*stalled, *worked_off[:50]], key=False).seconds > 1
    assert not any(late_after([*stalled, *worked_off[:n]], key=False).skipping for n in range(0, 110, 10))
    assert late_after([*stalled, *worked_off], key=False).seconds == pytest.approx(0.5, abs=0.2)


def test_a_stream_without_key_frames_is_not_waited_for_for_ever() -> None:
    stalled = [(0.0, 0.0, 0.0), (0.1, 3.0, 3.0), (0.2, 6.0, 6.0)]
    caught_up = [(t, t, t) for t in np.arange(6.1, 30, 0.1)]
    assert late_after([*stalled, *caught_up[:100]], key=False).skipping
    assert not late_after([*stalled, *caught_up[:100]]).skipping
    assert not late_after([*stalled, *caught_up], key=False).skipping


# --- footage of people

CLIPS = {
    "pose2sim_multi_cam01.mp4": False,
    "pyskl_ntu_sample.avi": False,
    "tfjs_pose_squats.mp4": False,
    "sports2d_demo_old.mp4": True,
    "openpose_video.avi": True,
    "sports2d_demo.mp4": True,
}
HEAVY = {
    "supervision_walking.mp4": True,
    "sam2_juggle.mp4": False,
    "romp_sample_video2.mp4": True,
    "intel_one_by_one_person.mp4": False,
}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "audio"),
    [*CLIPS.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in HEAVY.items())],
)
def test_real_clips_whole(shared_dir: Path, name: str, audio: bool) -> None:
    path = shared_dir / "video" / name
    plain = decode_times(path)
    with open_source(str(path)) as source:
        info = source.info
        times, sizes, count = [], set(), 0
        for frame in source:
            times.append(frame.pts_s)
            sizes.add(frame.size_wh)
            count = frame.frame_id + 1
    assert count == len(plain) == info.frame_count
    assert sizes == {info.size_wh}
    assert info.audio == audio
    assert np.all(np.diff(times) > 0)
    if name == "pyskl_ntu_sample.avi":  # its own timestamps are out of order
        plain = [n / 30 for n in range(72)]
    np.testing.assert_allclose(times, plain, atol=1e-6)


# --- decoding in hardware


def test_hardware_that_is_not_there_is_named_or_done_without(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "problem", lambda kind: f"no {kind}")
    with pytest.raises(SourceError, match=r"--hwaccel cuda does not work here \(no cuda\); --hwaccel auto"):
        open_source(str(clip), SourceConfig(hwaccel="cuda")).open()
    with open_source(str(clip), SourceConfig(hwaccel="auto", max_frames=3)) as source:
        assert [read_number(frame.image_bgr) for frame in source] == [0, 1, 2]
    with pytest.raises(ConfigError, match="hwaccel is 'nvdec'; one of none, auto, cuda"):
        SourceConfig(hwaccel="nvdec")


def test_auto_takes_the_first_hardware_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "problem", lambda kind: None if kind in ("vaapi", "d3d11va") else "absent")
    chosen = hardware.decoder("auto")
    assert chosen is not None
    assert chosen.allow_software_fallback
    assert hardware.decoder("none") is None


def test_a_kind_is_asked_of_ffmpeg_and_of_the_driver() -> None:
    assert "FFmpeg" in str(hardware.problem("nonsense"))
    for kind in HWACCELS:
        reason = hardware.problem(kind)
        assert reason is None or reason


@pytest.mark.gpu
def test_nvdec_gives_the_pictures_that_the_cpu_gives(
    cuda: str, shared_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "HWAccel", lambda kind, **_: HWAccel(kind, allow_software_fallback=False))
    path = str(shared_dir / "video" / "tfjs_pose_squats.mp4")
    with open_source(path, SourceConfig(max_frames=20)) as ours:
        wanted = [(frame.pts_s, frame.image_bgr) for frame in ours]
    with open_source(path, SourceConfig(max_frames=20, hwaccel="cuda")) as theirs:
        found = [(frame.pts_s, frame.image_bgr) for frame in theirs]
    assert [pts_s for pts_s, _ in found] == [pts_s for pts_s, _ in wanted]
    for (_, a), (_, b) in zip(wanted, found, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 2


@pytest.mark.parametrize(
    ("source", "spec", "folder"),
    [
        ("set/**/*.mp4", "set/jump/a/1.mp4", "jump/a"),
        ("set/**/*.mp4", "set/1.mp4", "."),
        ("*/1.mp4", "jump/1.mp4", "jump"),
        ("/data/*/1.mp4", "/data/jump/1.mp4", "jump"),
        ("*.mp4", "1.mp4", "."),
        ("set/**/*.jpg", "set/**/*.jpg", "."),
        ("../set/**/*.mp4", "../set/jump/1.mp4", "jump"),
        ("set/*/../../../b/*.mp4", "set/jump/../../../b/1.mp4", "."),  # not out of the folder for results
    ],
)
def test_where_a_file_lies_below_what_was_asked_for(source, spec, folder):
    assert below(source, spec) == Path(folder)


def test_pictures_of_folders_are_named_by_what_holds_them(tmp_path):
    for kind in ("a", "b"):
        (tmp_path / "nest" / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "nest" / kind / "x.jpg"), np.zeros((8, 8, 3), np.uint8))
    with open_source(str(tmp_path / "nest" / "**" / "*.jpg")) as source:
        assert source.info.stem == "nest"
    with pytest.raises(SourceError, match=r"nest/\*\*/\*\.jpg' searches"):
        open_source(str(tmp_path / "nest"))
    (tmp_path / "clips" / "jump").mkdir(parents=True)
    (tmp_path / "clips" / "jump" / "1.MP4").touch()
    with pytest.raises(SourceError, match=r"clips/\*\*/\*\.mp4' searches"):
        open_source(str(tmp_path / "clips"))


def test_slow_motion_has_the_times_of_the_scene(tmp_path, caplog):
    with av.open(str(tmp_path / "slow.mp4"), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata["com.android.capture.fps"] = "240.000000"
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height = 64, 48
        for _ in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "bgr24")))
        container.mux(stream.encode())
    times = {}
    for filmed_fps, start_s in ((None, 0.0), (240.0, 0.0), (240.0, 0.1)):
        with open_source(str(tmp_path / "slow.mp4"), SourceConfig(filmed_fps=filmed_fps, start_s=start_s)) as source:
            times[filmed_fps, start_s] = [frame.pts_s for frame in source]
            if filmed_fps:
                assert source.info.fps == 240
                assert source.info.duration_s == pytest.approx(0.25 - start_s, abs=1e-3)
                assert source.info.frame_count == len(times[filmed_fps, start_s])
                assert source.faults.cut_off is None
        (said,) = caplog.messages if filmed_fps is None else [""]
        assert filmed_fps or "filmed at 240 frames per second and is stored at 30" in said
        caplog.clear()
    np.testing.assert_allclose(times[None, 0.0], np.arange(60) / 30, atol=1e-4)
    np.testing.assert_allclose(times[240.0, 0.0], np.arange(60) / 240, atol=1e-4)
    np.testing.assert_allclose(times[240.0, 0.1], np.arange(24, 60) / 240, atol=1e-4)
    with open_source(str(tmp_path / "slow.mp4"), SourceConfig(filmed_fps=240, image_fps=240)) as source:
        next(iter(source))
    assert "source.image_fps is only for pictures" in caplog.text
    with pytest.raises(ConfigError, match=r"source\.filmed_fps is 0"):
        SourceConfig(filmed_fps=0)
