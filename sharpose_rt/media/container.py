"""Decoding with PyAV, shared by all sources that are containers: files, network streams and standard input."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.container
import av.error
import av.format
import numpy as np
from av.codec.context import Flags
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceAway, SourceError, SourceLost
from sharpose_rt.media.backlog import LONGEST_S, LONGEST_WAIT_S, Backlog
from sharpose_rt.media.clock import MediaClock
from sharpose_rt.media.hardware import decoder
from sharpose_rt.media.interrupt import interruptible
from sharpose_rt.media.redact import redact
from sharpose_rt.media.source import FALLBACK_FPS, Source, SourceInfo
from sharpose_rt.media.spoilt import Spoilt
from sharpose_rt.media.upright import Upright

log = logging.getLogger("sharpose_rt.media")

# FFmpeg "plays" any text file as a scrolling terminal, which nobody wants.
_TEXT_FORMATS = frozenset(("tty", "bin", "xbin", "adf", "idf"))
# How long before the start to try seeking in MPEG-TS: without an index, a seek may end after its target.
_BACK_S = (0.0, 3.0, 15.0)
# The length that FFmpeg writes into an unfinished AVI, and that stays if the output is a pipe.
_UNKNOWN_FRAMES = 1 << 30
# FFmpeg finds the end of a picture, and that of a packet of MPEG-TS, by the beginning of the next one.
_HELD_BACK = {"rtsp": 1, "rtp": 1, "sdp": 1, "mpegts": 2}
_WITHOUT_END = frozenset(("h264", "hevc"))
_REORDERED = 32  # packets among which to find that of a picture
# FFmpeg conceals losses in most codecs, also in files. In these it outputs noise.
_UNCONCEALED = frozenset(("hevc",))


class ContainerSource(Source):
    """Upright BGR frames with square pixels, from the largest real video stream of a container.

    Subclasses say what to open (`_target`), and override what differs.
    """

    kind = "video"
    stem = "video"
    _format: str | None = None  # None: detected by FFmpeg

    def __init__(self, spec: str, config: SourceConfig) -> None:
        super().__init__(spec, config)
        self._container: Any = None
        self._stream: Any = None
        self._ahead: Any = None
        self._current: Any = None
        self._decoded = 0
        self._shown_s = 0.0  # stated duration of the last frame
        self._seeking = False
        self._slowed = 1.0  # stored over filmed frame rate
        self._upright = Upright()
        self._backlog = Backlog()
        self._came_s: float | None = None

    def _target(self) -> str | BinaryIO:
        raise NotImplementedError

    def _options(self) -> dict[str, str]:
        return {}

    def _timeouts_s(self) -> tuple[float, float] | None:
        return None

    def _local_path(self) -> str | None:
        return None

    def _open(self) -> None:
        with interruptible(self._stop):
            self._connect()
            if self._container is not None and self.config.start_s > 0 and self._seekable():
                self._seek()

    def _connect(self) -> None:
        """Opens the container at its beginning, or not at all after an interruption."""
        if self._stop.is_set():
            return
        hardware, began_s = decoder(self.config.hwaccel), time.monotonic()
        try:
            self._container = av.open(
                self._target(),
                "r",
                format=self._format,
                options=self._options(),
                timeout=self._timeouts_s(),
                hwaccel=hardware,
                metadata_errors="replace",  # titles and makers in any encoding
            )
        except SourceError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if not self._stop.is_set():
                self._raise_open(error, time.monotonic() - began_s)
            return
        self._opened()
        self._stream = self._video_stream()
        self._set_up()

    def _set_up(self) -> None:
        """Prepares the stream's decoder, clock and counters, and starts decoding from here."""
        if self._container.format.name == "avi":
            # B-frames of an AVI have no timestamps; FFmpeg's guesses (genpts) are out of order.
            self._container.flags &= ~av.container.Flags.gen_pts.value
        codec = self._stream.codec.name
        # Frame threads delay the picture by several frames, too much for live sources; with slice threads FFmpeg does
        # not conceal damage in H.264.
        self._stream.thread_type = "AUTO" if not self.live else "NONE" if codec == "h264" else "SLICE"
        if codec in _UNCONCEALED:  # else pictures that refer to a lost one are never output: without key frames, none
            self._stream.codec_context.flags |= Flags.output_corrupt
        self._upright = Upright(self._stream.sample_aspect_ratio)
        self._fps = frame_rate(self._stream)
        if not self.live and self._fps and self.config.filmed_fps:
            self._slowed, self._fps = self._fps / self.config.filmed_fps, self.config.filmed_fps
        # The start of an AVI is that of its first packet, and with B-frames the first picture comes later. That of a
        # live stream is where it was joined, which may be long before the first key frame.
        origin = None if self.live or self._container.format.name == "avi" else self._stream.start_time
        self._clock = MediaClock(self._tick_s, origin, self._fps, self.live)
        self._backlog, self._came_s = Backlog(), None
        conceals = codec not in _UNCONCEALED
        by_packets = self._loses_packets and not conceals
        self._spoilt = Spoilt(self._fps or FALLBACK_FPS, conceals=conceals, by_packets=by_packets)
        held_back = _HELD_BACK.get(self._container.format.name, 0) if codec in _WITHOUT_END else 0
        self._had_s: deque[float] = deque(maxlen=held_back + 1)
        self._packets_s: deque[tuple[int | None, float]] = deque(maxlen=_REORDERED)
        self._frames = self._decode()

    @property
    def behind_s(self) -> float:
        """See `Source.behind_s`."""
        return 0.0 if self._came_s is None else time.monotonic() - self._came_s

    @property
    def _tick_s(self) -> float:
        """The time base in seconds of the filmed scene."""
        return float(self._stream.time_base) * self._slowed

    def _opened(self) -> None:
        """Inspects the container that was just opened, before its stream is set up."""

    def _seekable(self) -> bool:
        # Without timestamps frames are counted, which must start at the first one. After a seek an MPEG program stream
        # begins within a picture, and the next pictures get wrong times.
        untimed = self._container.format.flags & av.format.Flags.no_timestamps.value
        return not (self.live or untimed or self._container.format.name in ("avi", "mpeg"))

    def _video_stream(self) -> Any:
        streams = self._container.streams
        if self._container.format.name in _TEXT_FORMATS:
            raise SourceError(f"{self.name} is text, not a video; .mp4, .mkv, .avi, .mov and the like are accepted")
        stream = main_video(self._container)
        if stream is None:
            what = "has sound but no pictures" if streams.audio else "has no video in it"
            if self.live:
                raise SourceAway(f"{self.name} {what} now; check that it sends video, and try again")
            raise SourceError(f"{self.name} {what}; use a file with a video stream")
        if stream.codec_context is None:
            raise SourceError(
                f"{self.name} has a video codec that this FFmpeg build does not know; "
                "convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"
            )
        return stream

    def _seek(self) -> None:
        """Seeks to a key frame before the start, from where decoding continues to exactly the start."""
        path, origin = self._local_path(), self._stream.start_time or 0
        damaged, self._seeking = self.faults.damaged, True
        try:
            if path is not None and (begins_s := first_picture_s(path)) is not None:
                origin = round(begins_s / self._stream.time_base)
                self._clock = MediaClock(self._tick_s, origin, self._fps, self.live)
            target = origin + int(self.config.start_s / self._tick_s)
            tried_s = _BACK_S if self._container.format.name == "mpegts" else _BACK_S[:1]
            places = [target - round(back_s / self._tick_s) for back_s in tried_s]
            if any(self._find_key_frame(place, target) for place in places if place > origin or place == target):
                return
        except (av.error.FFmpegError, OSError):
            pass
        finally:
            self._seeking = False
        # The container's index is wrong or missing: decode everything up to the start.
        self.faults.damaged = damaged
        self._close()
        self._connect()

    def _find_key_frame(self, place: int, target: int) -> bool:
        """Whether the first frame from `place` on is a key frame no later than `target`; if so, it is the next frame.

        After any other frame, some codecs draw the next ones on grey, and some containers give wrong times.
        """
        self._container.seek(place, stream=self._stream)
        self._frames = self._decode()
        found = next(self._frames, None)
        if found is None or found.pts is None or found.pts > target or not found.key_frame:
            return False
        self._ahead = found
        return True

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        path, duration_s = self._local_path(), self._length_s()
        count = self._frame_count()
        if self.live:
            count = duration_s = None
        return SourceInfo(
            self.name,
            self.kind,
            self.live,
            size_wh,
            path=path,
            audio=path is not None and self._slowed == 1 and bool(self._container.streams.audio),
            start_s=self.config.start_s,
            stem=self.stem,
            **self._kept(count, self._fps, duration_s),  # type: ignore[arg-type]
        )

    @property
    def _told_frames(self) -> int:
        """Number of frames in the index or header; 0 if neither has it."""
        return 0 if self._stream.frames == _UNKNOWN_FRAMES else self._stream.frames

    def _frame_count(self) -> int | None:
        """Number of frames that the container states; None if it does not."""
        length_s, frames = self._length_s(), self._told_frames
        by_time = round(length_s * self._fps) if length_s and self._fps else None
        if by_time and frames > by_time + 1:  # an edit list omits frames that the index counts
            return by_time
        return frames or by_time

    def _length_s(self, *, of_pictures: bool = False) -> float | None:
        """Duration that the container states: of its pictures, else of everything unless `of_pictures`."""
        if self._stream.frames == _UNKNOWN_FRAMES:
            return None
        if self._stream.duration:
            return self._stream.duration * self._tick_s
        if tagged_s := _parse_length(self._stream.metadata.get("DURATION", "")):  # Matroska's
            return tagged_s * self._slowed
        if of_pictures and len(self._container.streams) > 1:
            return None
        return self._container.duration / 1e6 * self._slowed if self._container.duration else None

    def _grab(self) -> float | None:
        if self._container is None:
            return None
        self._current, self._ahead = self._ahead, None
        if self._current is None:
            with interruptible(self._stop):
                self._current = next(self._frames, None)
        return None if self._current is None else self._clock.stamp(self._timestamp(self._current))

    def _timestamp(self, frame: Any) -> int | None:
        # Pictures that an AVI omits can only be recognised by the positions of its packets.
        return frame.dts if frame.pts is None and self._container.format.name == "avi" else frame.pts

    def _restart_clock(self) -> None:
        self._clock = MediaClock(self._tick_s, None, self._fps, self.live)

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        return self._upright(self._current, self._stream.codec_context.sample_aspect_ratio), ""

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = self._stream = self._ahead = self._current = None

    def _decode(self) -> Iterator[Any]:
        """Every frame that can be decoded, including those that the decoder delayed at the end.

        Up to `max_bad_frames` packets in a row may be bad. A packet's error leaves the demuxer usable but ends PyAV's
        generator, so a new one continues. Live streams are joined between two key frames: packets that cannot be
        decoded before the first one do not count as damage.
        """
        stream, packets, bad, overdue = self._stream, None, 0, False
        may_spoil = self.live or stream.codec.name in _UNCONCEALED
        began_s = gave_s = time.monotonic()
        joined_s = began_s if self.live else -math.inf
        while not self._stop.is_set():
            began_s, packet = began_s if overdue else time.monotonic(), None
            try:
                if overdue:  # the last packet was held back by FFmpeg; with RTSP it would wait once more
                    raise TimeoutError
                # Live streams: all packets are read, as the sound may continue when the pictures do not.
                packets = packets or self._container.demux(*([] if self.live else [stream]))
                packet = self._next_picture(packets, began_s)
                overdue = self._is_overdue(began_s)
                if packet is None or self._stop.is_set():  # an interruption truncates a packet
                    break
                if packet.has_sidedata("encryption_info"):
                    raise self._encrypted()
                if self._leaves_out(packet, began_s):
                    gave_s = time.monotonic()
                    continue
                self._spoilt.take(packet)
                frames = packet.decode()
                if self.live and self._decoded and not frames and self._is_overdue(gave_s + LONGEST_WAIT_S):
                    began_s = gave_s  # the stream has changed its codec, or lost its key frames
                    raise TimeoutError
            except SourceError:
                raise
            except (av.error.FFmpegError, OSError) as error:
                if self._stop.is_set():
                    return
                if isinstance(error, av.error.EOFError):
                    break
                self._check_lost(error, time.monotonic() - began_s)
                if packet is None or self._decoded or time.monotonic() - joined_s > LONGEST_WAIT_S:
                    bad += 1
                    self._count_damaged()
                if bad > self.config.max_bad_frames:
                    raise self._too_bad(bad, error) from None
                packets = packets if packet is not None else None
                continue
            for frame in frames:
                if may_spoil and self._spoilt(frame):
                    if self._decoded:
                        self._count_damaged()
                    continue
                bad = 0
                self._decoded += 1
                self._shown_s = (frame.duration or 0) * self._tick_s
                self._came_s = self._came(frame)
                yield frame
                if self._decoded == 1:  # the networks are loaded between this frame and the next
                    self._backlog.begin(time.monotonic())
                    self._had_s.clear()
                    self._packets_s.clear()
            if frames:
                gave_s = time.monotonic()
        if not self._stop.is_set():
            self._warn_of_faults()

    def _count_damaged(self) -> None:
        self.faults.damaged += 1
        if self.live and self.faults.damaged == 1:
            by_udp = self.name.startswith("rtsp") and self.config.rtsp_transport == "udp"
            log.warning(
                "%s: packets are lost or damaged on the way; the affected pictures are left out and counted (damaged); "
                "check the network%s", self.name, ", or try --rtsp-transport tcp" * by_udp,
            )  # fmt: skip

    def _next_picture(self, packets: Iterator[Any], asked_s: float) -> Any | None:
        """The next video packet; None at the end.

        Raises:
            TimeoutError: only other packets arrived until the read timeout.
        """
        for packet in packets:
            if packet.stream is self._stream:
                return packet
            if self._is_overdue(asked_s):
                raise TimeoutError
        return None

    def _is_overdue(self, asked_s: float) -> bool:
        limits_s = self._timeouts_s()
        return limits_s is not None and time.monotonic() - asked_s > limits_s[1]

    def _leaves_out(self, packet: Any, asked_s: float) -> bool:
        """Whether to skip a packet, because a live stream sends more than can be decoded and the backlog grows."""
        sent = packet.pts if packet.dts is None else packet.dts
        if not self._ages() or sent is None:
            return False
        backlog, before, had_s = self._backlog, self._backlog.skipping, time.monotonic()
        backlog.take(sent * self._tick_s, asked_s, had_s, key=packet.is_keyframe)
        self._had_s.append(had_s - backlog.seconds)
        self._packets_s.append((packet.pts, self._had_s[0]))  # when it arrived, not when its end was known
        if backlog.skipping:
            self.faults.left_out += 1
            if self.faults.left_out == 1:
                log.warning(
                    "%s sends more than can be decoded here: when it lags by more than %g s, it is skipped up to the "
                    "next key frame; let it send smaller or fewer ones, or try --hwaccel auto", self.name, LONGEST_S,
                )  # fmt: skip
        elif before:
            with contextlib.suppress(av.error.FFmpegError):  # the decoder's delayed frames are as old
                self.faults.left_out += len(self._stream.codec_context.decode(None))
            self._stream.codec_context.flush_buffers()
        return backlog.skipping

    def _came(self, frame: Any) -> float | None:
        """When the packet of a decoded picture arrived, or the last packet if none has its time; only if `_ages`."""
        packets = list(reversed(self._packets_s))
        return next((at_s for pts, at_s in packets if pts == frame.pts), packets[0][1] if packets else None)

    @property
    def _loses_packets(self) -> bool:
        """Whether the transport may lose single packets."""
        return False

    def _ages(self) -> bool:
        """Whether packets that are not decoded in time go out of date, and have the times of their sending."""
        return False

    def _encrypted(self) -> SourceError:
        """The error for encrypted video, which decodes to noise without any error."""
        since = f" after frame {self._decoded}" if self._decoded else ""
        return SourceError(
            f"{self.name} is encrypted{since}; use a decrypted copy: ffmpeg -decryption_key KEY -i IN -c copy OUT.mp4"
        )

    def _too_bad(self, bad: int, error: Exception) -> SourceError:
        reason = getattr(error, "strerror", None) or redact(str(error))  # PyAV's own text contains the whole address
        seen = f"{self.name}: {bad} undecodable frames in a row after frame {self._decoded} ({reason})"
        if self.live:
            other_way = ", or try another source.rtsp_transport" if self.name.startswith("rtsp") else ""
            return SourceLost(f"{seen}; check the network{other_way}")
        return SourceError(f"{seen}; the file is damaged from there on: use --end, or repair it")

    def _warn_of_faults(self) -> None:
        if self.live or self._seeking:
            return
        expected, length_s = self._told_frames, self._length_s(of_pictures=True)
        frame_s = 1 / (self._fps or FALLBACK_FPS)
        missing_s = math.inf if length_s is None else length_s - self._clock.last_s - max(0.0, self._shown_s - frame_s)
        if self.faults.damaged:
            if expected and not self.config.start_s and missing_s <= 2.5 * frame_s:
                # The decoder may omit pictures that refer to a damaged one, without an error.
                self.faults.damaged = max(self.faults.damaged, (self._frame_count() or 0) - self._decoded)
            log.warning("%s: frames that cannot be decoded and were left out: %d", self.name, self.faults.damaged)
        if expected:
            # Frames before a seek were not decoded, and an edit list omits some.
            short = self._decoded < expected and not self.config.start_s and missing_s > 2.5 * frame_s
            what = f"{self._decoded} of {expected} frames"
        elif length_s is None:  # no duration of the pictures is stated, and the total may be that of the sound
            return
        else:
            short = missing_s > 1.0 + 2 * frame_s
            what = f"{self._clock.last_s:.1f} of {length_s:.1f} s"
        if short:
            self.faults.cut_off = what
            log.warning("%s ends after %s: the file is cut off", self.name, what)

    def _check_lost(self, error: Exception, waited_s: float) -> None:
        """Raises if an error while reading means that the sender is gone; files have none."""

    def _raise_open(self, error: Exception, waited_s: float) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, PermissionError):
            hint = "you have no permission to read it; change its permissions"
        elif self.name.lower().endswith(".sdp"):
            hint = (
                "the streams that such a file describes can only be opened over HTTP; serve its folder with python -m "
                "http.server --bind 127.0.0.1 8000, and use http://127.0.0.1:8000/NAME.sdp"
            )
        elif isinstance(error, av.error.InvalidDataError):
            hint = (
                "it is not a video, or its index is missing because the recording or copy is incomplete; "
                "play it in a media player, or copy it again"
            )
        else:
            hint = "check that it plays in a media player"
        raise SourceError(f"{self.name} cannot be opened as a video ({reason}): {hint}") from None


def _parse_length(text: str) -> float | None:
    """Seconds of 'HH:MM:SS.fraction'; None if the text has another form."""
    hours, _, rest = text.partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


def file_address(path: str | Path) -> str:
    """A path for FFmpeg, which would read a name such as 'concat:x' or 'a:b.mp4' as a protocol."""
    return f"file:{path}"


def frame_rate(stream: Any) -> float | None:
    """Frames per second of a video stream; None if its container does not know."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return float(rate)
    return None


def main_video(container: Any) -> Any | None:
    """The largest video stream that is not a cover picture; None if there is none."""
    pictures = [s for s in container.streams.video if not s.disposition & s.disposition.__class__.attached_pic]

    def worth(stream: Any) -> tuple[bool, int]:
        # Motion photos have a second, larger track of a single picture.
        return stream.frames != 1, stream.width * stream.height if stream.codec_context else 0

    return max(pictures, key=worth, default=None)


def first_picture_s(path: str) -> float | None:
    """The time on a file's own clock at which its media time is 0, see `MediaClock`; None if unknown.

    Raises:
        FFmpegError, OSError: the file cannot be opened.
    """
    with av.open(file_address(path), metadata_errors="replace") as container:
        video, first = main_video(container), None
        if video is None or video.codec_context is None:
            return None
        with contextlib.suppress(av.error.FFmpegError):  # a damaged file has no time
            first = next(container.decode(video), None)
        times = [ticks for ticks in (video.start_time, first and first.pts) if ticks is not None]
        return float(min(times) * video.time_base) if times else None
