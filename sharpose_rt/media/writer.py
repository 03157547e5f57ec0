"""The annotated video or picture on disk.

During the run, the video is a fragmented mp4 (`NAME.part.mp4`), which stays playable if the run is cut off. Closing
copies its packets, without re-encoding, together with the source's audio into an mp4 that starts quickly over a network
(faststart), and gives that the final name in one step. The video of a live source is not copied, as a day of it has
gigabytes and a stop may allow only seconds: an index after the pictures makes it an ordinary mp4.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import OutputConfig
from sharpose_rt.errors import OutputError, writing
from sharpose_rt.machine.whole_files import on_disk, whole
from sharpose_rt.media.audio import audio_packets
from sharpose_rt.media.container import file_address
from sharpose_rt.media.h264 import TIME_BASE, add_h264, as_frame
from sharpose_rt.media.source import FALLBACK_FPS

log = logging.getLogger("sharpose_rt.media")

FIRST_S = "sharpose-rt first_pts_s="
"""Prefix of the media time of the first picture in a video's comment, as the video's own times begin at 0."""
_KEYFRAME_S = 2.0
_FRAGMENT_S = 1.0
_LONGEST_STEP = round(3 * 3600 / TIME_BASE)  # ticks; two steps, which B-frames may join, stay below mp4's limit of 2^31


class VideoWriter:
    """H.264 yuv420p in mp4, each frame at its media time (the first at 0), with the source's sound.

    Args:
        path: final name; the folder is created if missing.
        size_wh: of the frames, px. An odd side is padded by one pixel; a frame of another size is fitted in with bars
            (letterbox), never distorted.
        fps: of the source, for the encoder and the duration of the last frame; None if unknown.
        config: encoder settings, and whether to include audio.
        audio_from: local file whose first audio stream is copied, cut to the span that was written; None: no audio.
        live: the source may run for days, so closing is quick: no audio, and the index after the pictures.

    Raises:
        OutputError: the file cannot be written; what was written stays in the part file.
    """

    def __init__(
        self,
        path: Path,
        size_wh: tuple[int, int],
        fps: float | None,
        config: OutputConfig | None = None,
        audio_from: str | None = None,
        live: bool = False,
    ) -> None:
        config = config or OutputConfig()
        self.path = Path(path)
        self.part = self.path.with_suffix(".part.mp4")
        self.frames = 0
        self._finished = self.path.with_suffix(".finished.mp4")
        self._live = live
        self._size_wh = size_wh
        self._frame_ticks = round(1 / ((fps or FALLBACK_FPS) * TIME_BASE))
        self._audio_from = audio_from if config.audio else None
        self._first_s, self._last_tick = 0.0, -1
        self._failed: OutputError | None = None
        with writing(self.part, "use another --output", av.error.FFmpegError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._finished.unlink(missing_ok=True)  # of a run that was killed while closing
            self._container: Any = self._open(config, fps or FALLBACK_FPS)

    def _open(self, config: OutputConfig, fps: float) -> Any:
        # The file is copied anyway and needs no trailer, which would hide that the disk was full at the last fragment.
        closing = "hybrid_fragmented" if self._live else "skip_trailer"
        movflags = f"frag_keyframe+delay_moov+default_base_moof+{closing}"
        options = {"movflags": movflags, "frag_duration": str(round(_FRAGMENT_S * 1e6)), "flush_packets": "1"}
        container = av.open(file_address(self.part), "w", format="mp4", options=options)
        gop = max(1, round(_KEYFRAME_S * fps))
        encoder = {"crf": str(config.crf), "preset": config.preset, "g": str(gop)}
        # B-frames: more than one is slow and no better; `ultrafast` has none. If the last one begins a fragment, the
        # index written at the end omits the picture that is shown after it.
        encoder["bf"] = "0" if self._live or config.preset == "ultrafast" else "1"
        self._stream: Any = add_h264(container, self._size_wh, fps, encoder)
        return container

    def write(self, image_bgr: NDArray[np.uint8], pts_s: float) -> None:
        """Encodes one picture, (H, W, 3) uint8, at a media time in seconds that does not decrease.

        In gaps of more than three hours, the last picture is repeated every three, as gaps in mp4 are limited.
        """
        if self._failed is not None:
            raise self._failed
        frame = as_frame(image_bgr, self._size_wh)
        if not self.frames:
            self._first_s = pts_s
            self._container.metadata["comment"] = f"{FIRST_S}{pts_s:.6f}"
        tick = max(round((pts_s - self._first_s) / TIME_BASE), self._last_tick + 1)
        while tick - self._last_tick > _LONGEST_STEP:
            self._encode(self._last, self._last_tick + _LONGEST_STEP)
        self._encode(frame, tick)
        self.frames += 1

    def _encode(self, frame: av.VideoFrame, tick: int) -> None:
        self._last, self._last_tick = frame, tick
        frame.pts = tick
        self._mux(frame)

    def close(self, complete: bool = True) -> Path | None:
        """Finishes the file and returns its path, or None if no frame was written; may be called repeatedly.

        If not `complete` (the run was interrupted or failed), a failure here is only logged, and the path of the part
        file is returned, so that the run's own error is the one that is reported.

        Raises:
            OutputError: the file cannot be finished; the part file is kept.
        """
        if self._container is None:
            return self._result()
        try:
            self._finish()
        except OutputError as error:
            if complete:
                raise
            log.warning("%s", error)
        return self._result()

    def _result(self) -> Path | None:
        return next((path for path in (self.path, self.part) if self.frames and path.exists()), None)

    def _finish(self) -> None:
        if self.frames and self._failed is None:
            with contextlib.suppress(OutputError):  # kept in self._failed
                self._mux(None)
        container, self._container = self._container, None
        try:
            container.close()
        except (av.error.FFmpegError, OSError) as error:
            self._fail(error)
        if self._failed is not None:
            raise self._failed
        if not self.frames:
            self.part.unlink(missing_ok=True)
            return
        finished = self.part if self._live else self._finished
        try:
            if not self._live:
                self._remux_with_audio(finished)
            on_disk(finished)  # before its origin is deleted
            finished.replace(self.path)
        except (av.error.FFmpegError, OSError) as error:
            self._finished.unlink(missing_ok=True)
            raise OutputError(
                f"{self.path} cannot be finished ({_reason(error)}); the complete video without audio is {self.part}"
            ) from error
        self.part.unlink(missing_ok=True)

    def _remux_with_audio(self, target: Path) -> None:
        """Like `_remux`, but without audio if that fails: the pictures matter more than the sound."""
        try:
            self._remux(target)
        except (av.error.FFmpegError, OSError) as error:
            if self._audio_from is None:
                raise
            log.warning("the audio of %s cannot be kept (%s); the video has no sound", self._audio_from, _reason(error))
            self._audio_from = None
            self._remux(target)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            self._fail(error)
            raise self._failed from error  # type: ignore[misc]

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            hint = "make room on the disk" if full else "use another --output"
            kept = f". The part on the disk can be played: {self.part}" if _can_be_played(self.part) else ""
            self._failed = OutputError(
                f"{self.path} cannot be written further after {self.frames} frames ({_reason(error)}); {hint}{kept}"
            )

    def _remux(self, target: Path) -> None:
        """Copies the part file's packets and the matching audio into `target`."""
        end_s = (self._last_tick + self._frame_ticks) * float(TIME_BASE)
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(av.open(file_address(self.part)))
            options = {"movflags": "faststart"}
            out = stack.enter_context(av.open(file_address(target), "w", format="mp4", options=options))
            out.metadata["comment"] = part.metadata.get("comment", "")
            video = out.add_stream_from_template(part.streams.video[0])
            streams = [_video_packets(part, video, self._frame_ticks)]
            if self._audio_from is not None:
                streams.append(audio_packets(self._audio_from, out, self._first_s, end_s, stack))
            for _, packet in heapq.merge(*streams, key=lambda item: item[0]):
                out.mux(packet)


def _video_packets(part: Any, stream: Any, frame_ticks: int) -> Iterator[tuple[float, Any]]:
    for packet in part.demux(video=0):
        if packet.dts is not None:
            packet.stream = stream
            # The demuxer's duration extends to the next packet: over a gap, it would count as the length of the film.
            packet.duration = frame_ticks
            yield float(packet.dts * packet.time_base), packet


def first_pts_s(path: str) -> float:
    """Media time, s, of the beginning of a video by `VideoWriter`; 0 for any other path."""
    try:
        with av.open(file_address(Path(path))) as container:
            told, name, value = container.metadata.get("comment", "").partition(FIRST_S)
            return float(value) if name and not told else 0.0
    except (av.error.FFmpegError, OSError, ValueError):
        return 0.0


def _can_be_played(path: Path) -> bool:
    """Whether a video has a decodable picture; in one that broke off, none may be on the disk yet."""
    try:
        with av.open(file_address(path)) as container:
            return next(container.decode(video=0), None) is not None
    except (av.error.FFmpegError, OSError, IndexError):
        return False


def write_image(path: Path, image_bgr: NDArray[np.uint8]) -> Path:
    """Writes a picture, (H, W, 3) uint8, in one step in the format of the suffix (.jpg, .png, ...); returns the path.

    Raises OutputError if the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        # As bytes, because OpenCV's binding crashes on text that is not UTF-8.
        encoded, data = cv2.imencode(os.fsencode(path.suffix), image_bgr, options)  # type: ignore[arg-type]
        if not encoded:
            raise OSError("the encoder refused the picture")
        with whole(path) as part:
            part.write_bytes(data.tobytes())
    except (OSError, cv2.error) as error:
        raise OutputError(
            f"{path} cannot be written ({_reason(error)}); use a .jpg or .png in a writable folder"
        ) from error
    return path


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or getattr(error, "err", None) or str(error)
