"""Rare kinds of clips, sounds and pictures, and parts of one run: nothing is lost, shifted or called cut off."""

from __future__ import annotations

import logging
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from media_clips import numbered, read_number, write_clip
from PIL import Image

from sharpose_rt.commands import explain
from sharpose_rt.config.schema import OutputConfig, RunConfig, SourceConfig
from sharpose_rt.media.files import natural_order, read_image
from sharpose_rt.media.opening import open_source
from sharpose_rt.media.source import SourceInfo
from sharpose_rt.media.writer import VideoWriter
from sharpose_rt.outputs import RunOutputs
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import FrameRecord, Header, StreamReader, StreamWriter, encode
from sharpose_rt.stages import StoredFrames
from sharpose_rt.types import Frame, Packet, Poses

SIZE_WH = (160, 96)
HEARD_HZ = 8000  # rate at which sound is looked at
BINS = 10  # loudness is looked at this often in a second

pytestmark = pytest.mark.timeout(60)


def header(source: str, fps: float | None = 10.0) -> Header:
    return Header(source, SIZE_WH, fps, COCO17, {"name": "tiny"}, "full", "none", "none", "0")


def write_ticks(path: Path, container: str, codec: str, ticks: Sequence[int], *, bframes: int, last: int = 1) -> None:
    """Writes a clip of 10 ticks a second with a picture at each of `ticks`; the last one stays `last` ticks."""
    packets: list[Any] = []
    with av.open(str(path), "w", format=container) as out:
        video: Any = out.add_stream(codec, rate=10, options={"g": "12", "bf": str(bframes)})
        video.width, video.height, video.pix_fmt = *SIZE_WH, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 10)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="bgr24")
            frame.pts, frame.time_base = tick, Fraction(1, 10)
            packets += video.encode(frame)
        packets += video.encode(None)
        top = max(packet.pts for packet in packets)
        for packet in packets:
            if packet.pts == top and last > 1:
                packet.duration = round(Fraction(last, 10) / packet.time_base)
            out.mux(packet)


def write_tone(path: Path, rate: int, seconds: int) -> None:
    """Writes a WAV with a sine of 440 Hz."""
    tone = np.sin(np.arange(seconds * rate) * 2 * np.pi * 440 / rate) * 8000
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(tone.astype("<i2").tobytes())


def annotated(sound_of: Path, seconds: int) -> Path:
    """A video of grey pictures with the sound of a file."""
    path = sound_of.with_name("out.mp4")
    writer = VideoWriter(path, SIZE_WH, 10, OutputConfig(preset="ultrafast"), audio_from=str(sound_of))
    for number in range(seconds * 10):
        writer.write(np.full((96, 160, 3), 90, np.uint8), number / 10)
    assert writer.close() == path
    return path


def heard(path: Path) -> np.ndarray:
    """The sound of a file, mono, `HEARD_HZ`; empty where there is none."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        resampler = av.AudioResampler("flt", "mono", HEARD_HZ)
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(parts)


def loudness(sound: np.ndarray) -> np.ndarray:
    """Root mean square of each tenth of a second."""
    step = HEARD_HZ // BINS
    return np.sqrt(np.square(sound[: len(sound) // step * step].reshape(-1, step)).mean(1))


def pitch_hz(sound: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * HEARD_HZ / len(sound))


# --- parts of a run


def parts_of_run(folder: Path, stem: str, times_s: Sequence[float], *, overwrite: bool) -> dict[str, list[float]]:
    """Writes a run of one second a part and returns the times in each stream, by what follows the stem in its name."""
    source = SimpleNamespace(name="walk.mp4", stored=None)
    people: Any = SimpleNamespace(source=source, live=False, skeleton=COCO17, header=lambda info: header(info.name))
    output = OutputConfig(directory=str(folder), split_s=1.0, overwrite=overwrite, video=False)
    info = SourceInfo("walk.mp4", "video", False, SIZE_WH, 10.0, stem=stem)
    sinks = list(RunOutputs(people, RunConfig(output=output), (), None).open(info, lambda: "", video=False))
    for number, time_s in enumerate(times_s):
        frame = Frame(number, time_s, np.zeros((96, 160, 3), np.uint8), 0.0)
        for sink in sinks:
            sink.write(Packet(frame, None, poses=Poses.empty(17)), "")
    for sink in sinks:
        sink.close("complete", len(times_s), 0)
    streams = sorted(folder.glob("*.skeletons.jsonl"))
    assert all(path.name.startswith(stem) for path in streams)
    return {
        path.name[len(stem) :].removesuffix(".skeletons.jsonl"): [record.pts_s for record in StreamReader(path)]
        for path in streams
    }


@pytest.mark.parametrize("overwrite", [True, False])
def test_parts_of_a_run_do_not_replace_each_other_however_long_its_name(tmp_path: Path, overwrite: bool) -> None:
    parts = parts_of_run(
        tmp_path, "walk_" + "x" * 145, [0, 0.25, 0.75, 1, 1.25, 1.75, 2, 2.25, 2.75], overwrite=overwrite
    )
    assert parts == {f".00h00m0{second}s": [second, second + 0.25, second + 0.75] for second in range(3)}


@pytest.mark.parametrize("overwrite", [True, False])
def test_parts_that_begin_in_one_second_do_not_replace_each_other(tmp_path: Path, overwrite: bool) -> None:
    parts = parts_of_run(tmp_path, "walk", [0.9, 1.7, 2.05, 2.95, 3.05], overwrite=overwrite)
    assert parts == {".00h00m00s": [0.9, 1.7], ".00h00m02s": [2.05], ".00h00m02s-2": [2.95, 3.05]}


def test_parts_of_an_earlier_run_are_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    for _ in range(2):
        parts = parts_of_run(tmp_path, "x" * 150, [0.0, 0.5, 1.0], overwrite=True)
        assert parts == {".00h00m00s": [0.0, 0.5], ".00h00m01s": [1.0]}


# --- times


@pytest.mark.parametrize(
    ("codec", "bframes", "left_out"),
    [
        ("mpeg4", 1, False),
        ("mpeg4", 2, False),
        ("mpeg4", 2, True),
        ("libx264", 0, True),
        ("libx264", 2, True),
    ],
)
def test_pictures_of_an_avi_come_at_their_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, bframes: int, left_out: bool
) -> None:
    ticks = [*range(5), *range(8, 15), *range(20, 30)] if left_out else list(range(24))
    write_ticks(tmp_path / "walk.avi", "avi", codec, ticks, bframes=bframes)
    with open_source(str(tmp_path / "walk.avi")) as source:
        frames = list(source)
        assert source.faults.cut_off is None
    assert [read_number(frame.image_bgr) for frame in frames] == list(range(len(ticks)))
    np.testing.assert_allclose([frame.pts_s for frame in frames], np.array(ticks) / 10, atol=1e-3)
    assert "cut off" not in caplog.text


@pytest.mark.parametrize(
    ("name", "container", "codec"), [("walk.mkv", "matroska", "libx264"), ("walk.webm", "webm", "libvpx")]
)
def test_a_file_whose_last_picture_stays_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, container: str, codec: str
) -> None:
    path, bframes = tmp_path / name, 2 if codec == "libx264" else 0
    write_ticks(path, container, codec, range(12), bframes=bframes, last=80)
    with open_source(str(path)) as source:
        assert source.info.duration_s == pytest.approx(9.1, abs=0.05)
        assert [read_number(frame.image_bgr) for frame in source] == list(range(12))
        assert source.faults.cut_off is None
    assert "cut off" not in caplog.text


def test_a_file_whose_last_pictures_are_gone_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "walk.mkv"
    write_ticks(path, "matroska", "libx264", range(60), bframes=2, last=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_source(str(path)) as source:
        assert 0 < sum(1 for _ in source) < 60
        assert source.faults.cut_off
    assert "cut off" in caplog.text


# --- pictures


def test_numbered_folders_come_in_natural_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"part{part}" / f"img{number}.png" for part in (1, 2, 10) for number in (1, 9, 10)]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), numbered(number))
    assert sorted(paths, key=natural_order) == paths
    with open_source(str(tmp_path / "**" / "*.png")) as source:
        assert [read_number(frame.image_bgr) for frame in source] == list(range(9))


@pytest.mark.skipif(not cv2.haveImageWriter(".avif"), reason="this OpenCV knows no AVIF")
@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow writes no AVIF")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_upright(tmp_path: Path, orientation: int) -> None:
    """Pillow writes the orientation of Exif as 'irot' and 'imir'. A wrong ending changes nothing."""
    stored = numbered(341)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(stored[..., ::-1]).save(tmp_path / "named.avif", "JPEG", exif=exif, quality=95)
    Image.fromarray(stored[..., ::-1]).save(tmp_path / "a.avif", exif=exif)
    turned = np.rot90(stored, {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0))
    upright = turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned
    (tmp_path / "named.jpg").write_bytes((tmp_path / "a.avif").read_bytes())
    for name in ("a.avif", "named.jpg", "named.avif"):
        for image in (read_image(tmp_path / name), explain.read_image(tmp_path / name)):
            assert image is not None
            assert image.shape == upright.shape
            assert np.abs(image.astype(int) - upright).mean() < 8
    as_stored = read_image(tmp_path / "a.avif", upright=False)
    assert as_stored is not None
    assert read_number(as_stored) == 341


@pytest.mark.parametrize("stretched_first", [True, False])
def test_pixel_aspect_changes_with_the_size(tmp_path: Path, stretched_first: bool) -> None:
    clips = [tmp_path / "a.ts", tmp_path / "b.ts"]
    write_clip(clips[0], 8, container="mpegts", size_wh=(180, 144), pixel_aspect=Fraction(16, 11))
    write_clip(clips[1], 8, container="mpegts", size_wh=(320, 180), pixel_aspect=Fraction(1))
    sizes = [(262, 144), (320, 180)]
    order = (0, 1) if stretched_first else (1, 0)
    (tmp_path / "both.ts").write_bytes(b"".join(clips[at].read_bytes() for at in order))
    with open_source(str(tmp_path / "both.ts")) as source:
        frames = list(source)
    assert [frame.size_wh for frame in frames] == [sizes[at] for at in order for _ in range(8)]
    assert [read_number(frame.image_bgr) for frame in frames] == [*range(8)] * 2


# --- pictures of a folder, for a replay


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = tmp_path / "shots"
    folder.mkdir()
    for number in range(8):
        cv2.imwrite(str(folder / f"p{number}.png"), numbered(number))
    return folder


def stream_of(folder: Path, **config: float) -> Path:
    path = folder.with_name("shots.skeletons.jsonl")
    with open_source(str(folder), SourceConfig(**config)) as source:  # type: ignore[arg-type]
        fps, frames = source.info.fps, list(source)
    with StreamWriter(path, header(str(folder), fps)) as writer:
        for frame in frames:
            record = FrameRecord(frame.frame_id, frame.pts_s, Poses.empty(17), picture=frame.source)
            writer.write_line(encode(record.to_record()))
        writer.end("complete")
    return path


def recalled(stream: Path, folder: Path, **config: float) -> list[tuple[str | None, int | None]]:
    """The name of the picture of each frame, and the number in that picture where it is there."""
    reader = StreamReader(stream)
    source = StoredFrames(reader, reader.warn_unless_complete(), SourceConfig(**config), str(folder))  # type: ignore[arg-type]
    with source:
        frames: list[Any] = list(source)
        seen = [(frame.record.picture, read_number(frame.image_bgr) if frame.pictured else None) for frame in frames]
        assert source.unseen == sum(number is None for _, number in seen)
    return seen


def test_pictures_are_known_by_name_where_some_have_gone(shots: Path) -> None:
    stream = stream_of(shots)
    for number in (0, 3, 4):
        (shots / f"p{number}.png").unlink()
    assert recalled(stream, shots) == [(f"p{n}.png", None if n in (0, 3, 4) else n) for n in range(8)]


@pytest.mark.parametrize(("run_fps", "replay_fps"), [(5.0, None), (None, 5.0), (2.0, 7.0)])
def test_pictures_are_known_by_name_at_another_rate(
    shots: Path, run_fps: float | None, replay_fps: float | None
) -> None:
    stream = stream_of(shots, **({"image_fps": run_fps} if run_fps else {}))
    seen = recalled(stream, shots, **({"image_fps": replay_fps} if replay_fps else {}))
    assert seen == [(f"p{n}.png", n) for n in range(8)]


def test_pictures_are_known_by_name_from_a_start_on(shots: Path) -> None:
    stream = stream_of(shots, image_fps=4.0)
    assert recalled(stream, shots, start_s=1.0) == [(f"p{n}.png", n) for n in range(4, 8)]


# --- sound


def test_one_damaged_packet_does_not_silence_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "walk.mkv"
    write_clip(path, 60, audio="mp2", container="matroska")
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(audio=0) if packet.size][80]
    data = path.read_bytes()
    assert data.count(packet) == 1
    path.write_bytes(data.replace(packet, b"\xaa" * len(packet)))
    with caplog.at_level(logging.WARNING):
        loud = loudness(heard(annotated(path, 6))) > 0.05
    assert len(loud) == pytest.approx(6 * BINS, abs=1)
    assert np.flatnonzero(~loud[1:-1]).size <= 1
    assert "ends early" not in caplog.text


@pytest.mark.parametrize(("rate", "kept"), [(192_000, 96_000), (6_000, 7_350), (48_000, 48_000)])
def test_sound_of_any_rate_is_kept(tmp_path: Path, rate: int, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    write_tone(tmp_path / "tone.wav", rate, 2)
    path = annotated(tmp_path / "tone.wav", 2)
    assert not caplog.messages
    with av.open(str(path)) as container:
        assert container.streams.audio[0].sample_rate == kept
    sound = heard(path)
    assert (loudness(sound)[1 : 2 * BINS - 1] > 0.05).all()
    assert pitch_hz(sound) == pytest.approx(440, abs=2)
