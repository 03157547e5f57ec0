"""The sound of a source, cut to a span, for the annotated video."""

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
_APART_S = 0.05  # sound may be so far from its timestamp, which are rounded; beyond, silence is put in or sound cut


def audio_packets(
    path: str, out: Any, start_s: float, span_s: float, stack: contextlib.ExitStack
) -> Iterator[tuple[float, Any]]:
    """Packets of the first audio stream of a file, each with its time in seconds from `start_s`, for `out`.

    They cover media times start_s .. start_s + span_s to within one packet; times are those of the file's main video,
    whose first frame is at 0; where recordings were put together the sound of each begins with its pictures. They are
    copied where the codec fits into mp4, else encoded as AAC. Adds the stream to `out` at once; yields nothing, with a
    warning, where the sound cannot be had. `stack` closes the file.
    """
    try:
        source: Any = stack.enter_context(av.open(file_address(path), metadata_errors="replace"))
        stream: Any = source.streams.audio[0]
        from_s = (first_picture_s(path) or 0.0) + start_s
        if start_s > 0:
            # A little early: the packets before the start are left out below.
            source.seek(max(0, math.floor((from_s - 0.5) / stream.time_base)), stream=stream)
        name, rate = stream.codec_context.codec.canonical_name, stream.codec_context.sample_rate
        copied = name in _FITS_MP4 and not (name == "mp3" and rate < _LEAST_MP3_HZ)
        if copied:
            target = out.add_stream_from_template(stream)
        else:
            target = out.add_stream("aac", rate=_aac_rate(stream.sample_rate), layout=_layout(stream))
    except (av.error.FFmpegError, OSError, IndexError, AttributeError, ValueError) as error:
        log.warning("the audio of %s cannot be used (%s); the video has none", path, _reason(error))
        return iter(())
    packets = (_copied if copied else _encoded)(source, stream, target, from_s, span_s, _joins(path, start_s))
    return _until_error(path, packets, start_s)


def _aac_rate(rate: int) -> int:
    """The lowest rate of AAC, Hz, that keeps all of a sound; of one above all rates the highest."""
    rates = sorted(av.Codec("aac", "w").audio_rates or [rate])
    return next((one for one in rates if one >= rate), rates[-1])


def _layout(stream: Any) -> str:
    return "mono" if stream.codec_context.channels == 1 else "stereo"


def _joins(path: str, start_s: float) -> Iterator[float]:
    """How far media time is ahead of the file's own, in s, from each place on where recordings were put together.

    The pictures go on frame by frame there, see `MediaClock`. The file is read anew when the first is asked for. Where
    a start was sought none is known: nobody can tell which of the recordings that led into.
    """
    if start_s > 0:
        log.warning(
            "the clock of %s begins anew, as where recordings were put together: in a video that begins at %g s the "
            "sound may not fit the pictures; for sound that does, run the file whole and in one part",
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
        if last_dts is not None and packet.dts <= last_dts:  # set back, as where two recordings were put together
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
        # One packet before the start stays: decoders overlap packets, and the edit list hides its sound.
        if at_s + 1.5 * length_s <= 0:
            continue
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        if out_dts is not None and packet.dts <= out_dts:  # the recording before has more sound than pictures
            continue
        out_dts = packet.dts
        packet.stream = target
        yield at_s, packet


def _encoded(
    source: Any, stream: Any, target: Any, from_s: float, span_s: float, joins: Iterator[float]
) -> Iterator[tuple[float, Any]]:
    """Sound follows itself sample by sample from media time 0 on, and its timestamps to within `_APART_S`."""
    context, rate = target.codec_context, target.codec_context.sample_rate
    resampler = av.AudioResampler(context.format, context.layout, rate)
    next_pts, surplus = None, 0  # where the next sample goes, and how many are left out before it
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
    """Decoded sound, each frame with its time, s: one that has none follows the one before, the first its packet."""
    next_s = None
    for packet in source.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # one that is damaged, or was cut into by what was sought
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
    """Frames of as many samples, of a second or less each."""
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
            log.warning("%s has no sound from %g s on, by its own clock; the video from there has none", path, start_s)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        log.warning("the audio of %s breaks off (%s)", path, _reason(error))


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
