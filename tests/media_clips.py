"""Small generated clips: the frame number can be read from the pixels, times and faults are chosen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
TIME_BASE = Fraction(1, 1000)


def numbered(number: int, size_wh: tuple[int, int] = (160, 96)) -> np.ndarray:
    """(H, W, 3) uint8 BGR whose upper half is `number` in black and white bars, lowest bit left; lower left is red."""
    width, height = size_wh
    image = np.full((height, width, 3), 90, np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        image[: height // 2, left:right] = 235 if number >> bit & 1 else 20
    image[height * 3 // 4 :, : width // 4] = (20, 20, 220)
    return image


def read_number(image: np.ndarray) -> int:
    """The number that `numbered` drew, from an upright picture of any size."""
    height, width = image.shape[:2]
    row = image[height // 8 : height * 3 // 8].astype(float).mean((0, 2))
    return sum(1 << bit for bit in range(BITS) if row[int((bit + 0.5) * width / BITS)] > 128)


WALK_TIMES = [n / 10 + (0.03 if n % 3 else 0.0) for n in range(24)]
"""Media times of `write_walk`, uneven, as phones film."""


def write_walk(path: Path) -> None:
    """Writes a small clip with sound."""
    write_clip(path, times_s=WALK_TIMES, size_wh=(160, 128), audio="aac")


def write_clip(
    path: Path | io.BytesIO,
    frames: int = 30,
    *,
    fps: int = 10,
    times_s: Sequence[float] | None = None,
    size_wh: tuple[int, int] = (160, 96),
    audio: str | None = None,
    rotation: float = 0,
    hflip: bool = False,
    container: str = "mp4",
    codec: str = "libx264",
    gop: int = 12,
    bframes: int = 2,
    faststart: bool = False,
    pixel_aspect: Fraction | None = None,
    images: Sequence[np.ndarray] | None = None,
) -> list[float]:
    """Writes a clip and returns the media time of each frame in seconds.

    `audio` is the codec of a sine of 440 Hz beside it, whose first sample is at time 0. `rotation` (degrees
    counter-clockwise) and `hflip` go into the display matrix; the stored pixels stay as they are.
    """
    times = list(times_s) if times_s is not None else [n / fps for n in range(frames)]
    options = {"movflags": "faststart"} if faststart else {}
    target = str(path) if isinstance(path, Path) else path
    with av.open(target, "w", format=container, options=options) as out:
        video = out.add_stream(codec, rate=fps, options={"g": str(gop), "bf": str(bframes)})
        video.width, video.height = (images[0].shape[1], images[0].shape[0]) if images else size_wh
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        vfr = times_s is not None
        video.time_base = video.codec_context.time_base = TIME_BASE if vfr else Fraction(1, fps)
        if rotation or hflip:
            video.set_display_rotation(rotation, hflip=hflip)
        sound = out.add_stream(audio, rate=44100) if audio else None
        if sound is not None:
            write_sound(out, sound, times[-1] + 1 / fps)
        for number, time_s in enumerate(times):
            image = images[number] if images else numbered(number, size_wh)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = round(time_s / float(video.time_base)), video.time_base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return times


def write_sound(out, stream, duration_s: float) -> None:
    """Writes a sine of 440 Hz, from time 0 on."""
    rate, count = 44100, round(duration_s * 44100)
    wave = (np.sin(np.arange(count) * 2 * np.pi * 440 / rate) * 8000).astype(np.int16)
    resampler = av.AudioResampler(stream.codec_context.format, stream.codec_context.layout, rate)
    for at in range(0, count, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, at
        for part in resampler.resample(frame):
            out.mux(stream.encode(part))
    out.mux(stream.encode(None))


def cut_tail(path: Path, keep: float) -> Path:
    """A copy of the file that ends after the fraction `keep` of its bytes."""
    cut = path.with_name(f"cut_{path.name}")
    data = path.read_bytes()
    cut.write_bytes(data[: int(len(data) * keep)])
    return cut


def decode_times(path: Path) -> list[float]:
    """Presentation times in seconds of every frame that a plain PyAV loop decodes."""
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]
