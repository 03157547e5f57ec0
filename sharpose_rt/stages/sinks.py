"""Where packets end: the skeleton stream, the annotated video, annotated pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sharpose_rt.config import DrawConfig, OutputConfig
from sharpose_rt.media import Painter, SourceInfo, VideoWriter, write_image
from sharpose_rt.runtime import Status
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.skeletons import Header, StreamWriter
from sharpose_rt.types import Packet


class Sink(Protocol):
    """One output of a run. `path` is where it is, or None where nothing was written."""

    path: Path | None

    def write(self, packet: Packet, status_line: str) -> None:
        """Take one frame."""
        ...

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Finish the output so that it can be read, however the run ended."""
        ...


class StreamSink:
    """The skeleton stream; live sources add when a frame was captured, how late it is, and what was dropped."""

    def __init__(self, path: Path, make_header: Callable[[], Header], *, live: bool, overwrite: bool) -> None:
        self.path: Path | None = path
        self._live = live
        self._writer = StreamWriter(path, make_header(), overwrite=overwrite)

    def write(self, packet: Packet, status_line: str) -> None:
        """Append one line."""
        frame, poses = packet.frame, packet.poses
        assert poses is not None
        if not self._live:
            self._writer.write(frame.frame_id, frame.pts_s, poses)
            return
        late_s = time.monotonic() - frame.captured_at_s
        captured = datetime.fromtimestamp(time.time() - late_s, UTC).isoformat(timespec="milliseconds")
        self._writer.write(
            frame.frame_id,
            frame.pts_s,
            poses,
            captured_at=captured.replace("+00:00", "Z"),
            latency_ms=late_s * 1e3,
            dropped_before=frame.dropped_before,
        )

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Append the end line."""
        try:
            self._writer.end(status, frames, dropped)
        finally:
            self._writer.close()


class VideoSink:
    """The annotated video, opened at the first frame."""

    def __init__(
        self, path: Path, info: SourceInfo, skeleton: Skeleton, draw: DrawConfig, output: OutputConfig
    ) -> None:
        self.path: Path | None = None
        self._painter = Painter(skeleton, draw)
        audio = info.path if info.audio and output.audio else None
        self._writer = VideoWriter(path, info.size_wh, info.fps, output, audio_from=audio)

    def write(self, packet: Packet, status_line: str) -> None:
        """Draw on a copy of the frame and encode it."""
        frame, poses = packet.frame, packet.poses
        assert poses is not None
        image = self._painter.draw(frame.image_bgr.copy(), poses, frame.pts_s, status_line)
        self._writer.write(image, frame.pts_s)

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Finish the file and put it under its name."""
        self.path = self._writer.close(complete=status == "complete")


class ImageSink:
    """Annotated pictures: one file for a single picture, else a folder with a file for each."""

    def __init__(self, path: Path, info: SourceInfo, skeleton: Skeleton, draw: DrawConfig) -> None:
        self.path: Path | None = None
        self._target = path
        self._single = info.kind == "image"
        self._painter = Painter(skeleton, draw)

    def write(self, packet: Packet, status_line: str) -> None:
        """Draw on a copy of the picture and save it."""
        frame, poses = packet.frame, packet.poses
        assert poses is not None
        image = self._painter.draw(frame.image_bgr.copy(), poses, frame.pts_s, status_line)
        target = self._target
        if not self._single:
            target = target.with_suffix("") / f"{frame.frame_id:06d}_{Path(frame.source).stem}{target.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
        write_image(target, image)
        self.path = target if self._single else target.parent

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Nothing is left open."""
