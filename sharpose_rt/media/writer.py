"""The annotated video or picture on disk.

While it runs, the video is a fragmented mp4 (`NAME.part.mp4`), which plays whenever the run is cut off. Closing copies
its packets, without encoding again, with the source's audio into an mp4 that starts at once over a network
(faststart), and puts that under the final name in one step. A live source's video is not copied, as a day of it has
gigabytes, and a stop may allow but seconds: it is given one index behind the pictures, which makes it an ordinary mp4.
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
"""Before the media time of the first picture in the comment of a video, whose own times begin at 0."""
_KEYFRAME_S = 2.0
_FRAGMENT_S = 1.0
_LONGEST_STEP = round(3 * 3600 / TIME_BASE)  # ticks; two steps, which B-frames make one, stay below mp4's limit of 2^31


class VideoWriter:
    """H.264 yuv420p in mp4, each frame at its media time (the first at 0), with the source's sound.

    Args:
        path: final name; the folder is made when missing.
        size_wh: of the frames that will come, px. An odd side is padded by one pixel; a frame of another size is
            fitted into this one with bars (letterbox), never distorted.
        fps: of the source; rates the encoder and gives the last frame its length. None where unknown.
        config: encoder settings, and whether audio is wanted.
        audio_from: local file whose first audio stream is copied, cut to the span that was written; None for none.
        live: of a source that may go on for days: closing is quick, without audio, with the index behind the pictures.

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
        with writing(self.part, "give another --output", av.error.FFmpegError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._finished.unlink(missing_ok=True)  # of a run that was killed while it closed
            self._container: Any = self._open(config, fps or FALLBACK_FPS)

    def _open(self, config: OutputConfig, fps: float) -> Any:
        # A trailer would be the table of a file that is copied anyway, and hides that the last fragment found no room.
        closing = "hybrid_fragmented" if self._live else "skip_trailer"
        movflags = f"frag_keyframe+delay_moov+default_base_moof+{closing}"
        options = {"movflags": movflags, "frag_duration": str(round(_FRAGMENT_S * 1e6)), "flush_packets": "1"}
        container = av.open(file_address(self.part), "w", format="mp4", options=options)
        gop = max(1, round(_KEYFRAME_S * fps))
        encoder = {"crf": str(config.crf), "preset": config.preset, "g": str(gop)}
        # B-frames: to choose among more takes long, for pictures no better; `ultrafast` has none. After a last one that
        # begins a fragment, the index written at the end leaves out the picture that is shown after it.
        encoder["bf"] = "0" if self._live or config.preset == "ultrafast" else "1"
        self._stream: Any = add_h264(container, self._size_wh, fps, encoder)
        return container

    def write(self, image_bgr: NDArray[np.uint8], pts_s: float) -> None:
        """Encodes one picture, (H, W, 3) uint8, at a media time in seconds that does not decrease.

        In a gap of more than three hours the picture before it comes again every three: an mp4 cannot hold any gap.
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
        """Finishes the file and returns its path, or None when no frame was written; may be called again.

        With `complete` false (the run was interrupted or failed) the same is tried, but where it fails the part file
        is kept, a warning is logged and its path returned, so that the run's own error is the one that is seen.

        Raises:
            OutputError: the file cannot be finished; the part file stays.
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
            on_disk(finished)  # before what it was made of goes
            finished.replace(self.path)
        except (av.error.FFmpegError, OSError) as error:
            self._finished.unlink(missing_ok=True)
            raise OutputError(
                f"{self.path} cannot be finished ({_reason(error)}); the whole video without audio is in {self.part}"
            ) from error
        self.part.unlink(missing_ok=True)

    def _remux_with_audio(self, target: Path) -> None:
        """As `_remux`, without the audio where that cannot be had: no sound is worth the pictures."""
        try:
            self._remux(target)
        except (av.error.FFmpegError, OSError) as error:
            if self._audio_from is None:
                raise
            log.warning("the audio of %s cannot be kept (%s); the video has none", self._audio_from, _reason(error))
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
            hint = "make room on the disk" if full else "give another --output"
            kept = f". What is on the disk can be played: {self.part}" if _can_be_played(self.part) else ""
            self._failed = OutputError(
                f"{self.path} cannot be written on after {self.frames} frames ({_reason(error)}); {hint}{kept}"
            )

    def _remux(self, target: Path) -> None:
        """Copies the part file's packets, and the audio that goes with them, into `target`."""
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
            # The demuxer's is the way to the next packet: over a gap that is long, and is taken for the film's length.
            packet.duration = frame_ticks
            yield float(packet.dts * packet.time_base), packet


def first_pts_s(path: str) -> float:
    """The media time, s, at which a video of `VideoWriter` begins; 0 for any other path."""
    try:
        with av.open(file_address(Path(path))) as container:
            told, name, value = container.metadata.get("comment", "").partition(FIRST_S)
            return float(value) if name and not told else 0.0
    except (av.error.FFmpegError, OSError, ValueError):
        return 0.0


def _can_be_played(path: Path) -> bool:
    """Whether a picture can be got out of a video, which of one that broke off need not be on the disk yet."""
    try:
        with av.open(file_address(path)) as container:
            return next(container.decode(video=0), None) is not None
    except (av.error.FFmpegError, OSError, IndexError):
        return False


def write_image(path: Path, image_bgr: NDArray[np.uint8]) -> Path:
    """Writes a picture, (H, W, 3) uint8, in one step in the format of the suffix (.jpg, .png, ...); returns the path.

    Raises OutputError when the suffix is unknown or the file cannot be written.
    """
    path = Path(path)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        # As bytes: OpenCV's way from Python crashes at a text that is not UTF-8.
        encoded, data = cv2.imencode(os.fsencode(path.suffix), image_bgr, options)  # type: ignore[arg-type]
        if not encoded:
            raise OSError("the encoder refused the picture")
        with whole(path) as part:
            part.write_bytes(data.tobytes())
    except (OSError, cv2.error) as error:
        raise OutputError(
            f"{path} cannot be written ({_reason(error)}); give a .jpg or .png in a writable folder"
        ) from error
    return path


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or getattr(error, "err", None) or str(error)
