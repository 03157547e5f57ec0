"""The audio of a source, cut to a time span, for the annotated video."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.media.clock import RESTART_S
from sharpose_rt.media.container import file_address, first_picture_s, frame_rate, main_video
from sharpose_rt.media.source import FALLBACK_FPS

log = logging.getLogger("sharpose_rt.media")

# What players accept inside mp4; anything else becomes AAC.
_FITS_MP4 = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus"))
_LEAST_MP3_HZ = 16_000  # in mp4
_APART_S = 0.05  # timestamps are rounded; audio further off than this is mended by inserting silence or cutting sound


def audio_packets(
    path: str, out: Any, start_s: float, span_s: float, stack: contextlib.ExitStack
) -> Iterator[tuple[float, Any]]:
    """Packets of the first audio stream of a file, each with its time in seconds from `start_s`, for `out`.

    They cover media times start_s .. start_s + span_s to within one packet. Times are those of the file's main video,
    whose first frame is at 0; in a file of joined recordings, the sound of each starts with its pictures. Packets are
    copied if mp4 supports the codec, else encoded as AAC. Adds the stream to `out` immediately; yields nothing, with a
    warning, if the sound cannot be used. `stack` closes the file.
    """
    try:
        source: Any = stack.enter_context(av.open(file_address(path), metadata_errors="replace"))
        stream: Any = source.streams.audio[0]
        from_s = (first_picture_s(path) or 0.0) + start_s
        if start_s > 0:
            # A little early: packets before the start are dropped below.
            source.seek(max(0, math.floor((from_s - 0.5) / stream.time_base)), stream=stream)
        name, rate = stream.codec_context.codec.canonical_name, stream.codec_context.sample_rate
        copied = name in _FITS_MP4 and not (name == "mp3" and rate < _LEAST_MP3_HZ)
        if copied:
            target = out.add_stream_from_template(stream)
        else:
            target = out.add_stream("aac", rate=_aac_rate(stream.sample_rate), layout=_layout(stream))
    except (av.error.FFmpegError, OSError, IndexError, AttributeError, ValueError) as error:
        log.warning("the audio of %s cannot be used (%s); the video has no sound", path, _reason(error))
        return iter(())
    packets = (_copied if copied else _encoded)(source, stream, target, from_s, span_s, _joins(path, start_s))
    return _until_error(path, packets, start_s)


def _aac_rate(rate: int) -> int:
    """The lowest AAC sample rate, Hz, that is at least `rate`; the highest one if none is."""
    rates = sorted(av.Codec("aac", "w").audio_rates or [rate])
    return next((one for one in rates if one >= rate), rates[-1])


def _layout(stream: Any) -> str:
    return "mono" if stream.codec_context.channels == 1 else "stereo"


def _joins(path: str, start_s: float) -> Iterator[float]:
    """By how many seconds media time is ahead of the file's own clock after each join of two recordings.

    The pictures continue frame by frame there, see `MediaClock`. The file is read again when the first value is needed.
    With a start above 0 no value is known, as it is unknown in which of the recordings the seek ended.
    """
    if start_s > 0:
        log.warning(
            "the clock of %s restarts, as in joined recordings: in a video that begins at %g s the sound may not match "
            "the pictures; to avoid this, process the whole file, without --start and --split",
            path, start_s,
        )  # fmt: skip
        return
    ahead_s, top_s, last_s = 0.0, -math.inf, -math.inf
    with av.open(file_address(path), metadata_errors="replace") as container:
        video = main_video(container)
        if video is None:
            return
        step_s = 1 / (frame_rate(video) or FALLBACK_FPS)
        for packet in container.demux(video):
            if packet.pts is None or packet.dts is None:
                continue
            at_s, dts_s = (float(ticks * packet.time_base) for ticks in (packet.pts, packet.dts))
            if dts_s < last_s - RESTART_S:
                ahead_s += top_s + step_s - at_s
                yield ahead_s
                top_s = at_s
            top_s, last_s = max(top_s, at_s), dts_s


def _copied(
    source: Any, stream: Any, target: Any, from_s: float, span_s: float, joins: Iterator[float]
) -> Iterator[tuple[float, Any]]:
    shift, last_dts, out_dts = round(from_s / stream.time_base), None, None
    for packet in source.demux(stream):
        if packet.pts is None or packet.dts is None:
            continue
        if last_dts is not None and packet.dts <= last_dts:  # the clock was set back, as in joined recordings
            far = (last_dts - packet.dts) * packet.time_base > RESTART_S
            ahead_s = next(joins, None) if far else None
            if ahead_s is None:
                shift += packet.dts - last_dts - max(1, packet.duration or 0)
            else:
                shift = round((from_s - ahead_s) / stream.time_base)
        last_dts = packet.dts
        at_s = float((packet.pts - shift) * packet.time_base)
        length_s = float((packet.duration or 0) * packet.time_base)
        if at_s >= span_s:
            return
        # One packet before the start is kept: decoders overlap packets, and the edit list hides its sound.
        if at_s + 1.5 * length_s <= 0:
            continue
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        if out_dts is not None and packet.dts <= out_dts:  # the previous recording has more sound than pictures
            continue
        out_dts = packet.dts
        packet.stream = target
        yield at_s, packet


def _encoded(
    source: Any, stream: Any, target: Any, from_s: float, span_s: float, joins: Iterator[float]
) -> Iterator[tuple[float, Any]]:
    """Encodes continuous samples from media time 0 on, which follow the timestamps to within `_APART_S`."""
    context, rate = target.codec_context, target.codec_context.sample_rate
    resampler = av.AudioResampler(context.format, context.layout, rate)
    next_pts, surplus = None, 0  # position of the next sample, and how many samples to drop before it
    last_s, ahead_s = -math.inf, 0.0
    for frame, time_s in _timed_sound(source, stream):
        if time_s < last_s - RESTART_S:
            ahead_s = next(joins, ahead_s if next_pts is None else from_s + next_pts / rate - time_s)
        last_s = time_s
        at_s = time_s + ahead_s - from_s
        if at_s >= span_s:
            break
        if at_s + frame.samples / frame.sample_rate <= 0:
            continue
        due_pts = round(at_s * rate)
        if next_pts is None:
            next_pts, surplus = max(0, due_pts), max(0, -due_pts)
        apart = due_pts - (next_pts - surplus)
        missing = 0
        if abs(apart) > _APART_S * rate:
            missing, surplus = max(0, apart - surplus), max(0, surplus - apart)
        for part in (*_silence(context, missing), *resampler.resample(frame)):
            left_out = min(surplus, part.samples)
            surplus -= left_out
            if left_out == part.samples:
                continue
            rest = _without(part, left_out)
            rest.pts, rest.time_base = next_pts, Fraction(1, rate)
            next_pts += rest.samples
            yield from _timed(target.encode(rest))
    yield from _timed(target.encode(None))


def _timed_sound(source: Any, stream: Any) -> Iterator[tuple[Any, float]]:
    """Decoded audio frames with their times, s; if missing, the end of the previous frame, or the packet's at first."""
    next_s = None
    for packet in source.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # damaged, or cut by the seek
            continue
        for frame in frames:
            time_s = frame.time
            if time_s is None:
                first_s = float((packet.pts or 0) * packet.time_base)
                time_s = first_s if next_s is None else next_s
            next_s = time_s + frame.samples / frame.sample_rate
            yield frame, time_s


def _without(frame: Any, samples: int) -> Any:
    """The frame without its first samples."""
    if not samples:
        return frame
    first = samples if frame.format.is_planar else samples * frame.layout.nb_channels
    return _sound(np.ascontiguousarray(frame.to_ndarray()[:, first:]), frame, frame.sample_rate)


def _silence(context: Any, samples: int) -> Iterator[Any]:
    """Silent frames of `samples` in total, each of one second or less."""
    channels, planar = context.layout.nb_channels, context.format.is_planar
    while samples > 0:
        count = min(samples, context.sample_rate)
        shape = (channels, count) if planar else (1, channels * count)
        yield _sound(np.zeros(shape, np.float32), context, context.sample_rate)
        samples -= count


def _sound(samples: NDArray[np.float32], like: Any, sample_rate: int) -> Any:
    frame = av.AudioFrame.from_ndarray(samples, like.format.name, like.layout.name)
    frame.sample_rate = sample_rate
    return frame


def _timed(packets: list[Any]) -> Iterator[tuple[float, Any]]:
    for packet in packets:
        yield float(packet.pts * packet.time_base), packet


def _until_error(path: str, packets: Iterator[tuple[float, Any]], start_s: float) -> Iterator[tuple[float, Any]]:
    found = False
    try:
        for packet in packets:
            found = True
            yield packet
        if not found:
            log.warning("%s has no sound from %g s on by its own clock, so the video has none", path, start_s)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        log.warning("the audio of %s ends early (%s)", path, _reason(error))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
