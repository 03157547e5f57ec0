"""The outputs that packets end in: the skeleton stream, the annotated video, annotated pictures."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from sharpose_rt.config import OutputConfig
from sharpose_rt.media import Painter, SourceInfo, VideoWriter, write_image
from sharpose_rt.runtime import Status
from sharpose_rt.skeletons import FrameRecord, Header, OutputPaths, StreamWriter, encode, end_record
from sharpose_rt.skeletons.names import shortened
from sharpose_rt.stages.recall import StoredFrame
from sharpose_rt.types import Frame, Packet


class Sink(Protocol):
    """One output of a run. `path` is where it was written, or None if nothing was."""

    path: Path | None

    def write(self, packet: Packet, status_line: str) -> None:
        """Writes one frame."""
        ...

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Finishes the output so that it can be read, however the run ended."""
        ...


class Feed(Protocol):
    """What a tap keeps of one run."""

    def frame(self, line: bytes, packet: Packet, status_line: str = "") -> None:
        """One frame, as a line of the stream and as the packet it was made from, with the status line of the video."""
        ...

    def end(self, line: bytes) -> None:
        """The run is over."""
        ...


class Tap(Protocol):
    """Follows runs as they go: the browser view, a publisher. Called in the writing thread, so it must be quick."""

    def begin(self, info: SourceInfo, header: bytes, *, live: bool, state: Callable[[], str]) -> Feed:
        """A run begins, with the first line of its stream; `state` returns its source's state (`media.SourceState`)."""
        ...


def captured_at(frame: Frame) -> tuple[datetime, float]:
    """When a frame was captured, in wall-clock time (UTC), and how many seconds ago."""
    late_s = time.monotonic() - frame.captured_at_s
    return datetime.fromtimestamp(time.time() - late_s, UTC), late_s


class StreamSink:
    """The skeleton stream; for live sources with when a frame was captured, its latency, and what was dropped.

    The same lines go to the file and to every tap. With `path` None there is no file.
    """

    def __init__(
        self,
        path: Path | None,
        header: Header,
        info: SourceInfo,
        *,
        live: bool,
        overwrite: bool = False,
        taps: Sequence[Tap] = (),
        state: Callable[[], str] = lambda: "live",
    ) -> None:
        self.path = path
        self._live = live
        self._size_wh = header.frame_size_wh
        self._writer = None if path is None else StreamWriter(path, header, overwrite=overwrite)
        self._feeds = [tap.begin(info, encode(header.to_record()), live=live, state=state) for tap in taps]

    def write(self, packet: Packet, status_line: str) -> None:
        """Appends one line."""
        line = encode(self._record(packet).to_record())
        if self._writer is not None:
            self._writer.write_line(line)
        for feed in self._feeds:
            feed.frame(line, packet, status_line)

    def _record(self, packet: Packet) -> FrameRecord:
        frame, poses = packet.frame, packet.poses
        assert poses is not None
        moved = {"camera": packet.camera, "new_scene": packet.new_scene}
        if isinstance(frame, StoredFrame):  # keep what else was recorded
            return replace(frame.record, frame_id=frame.frame_id, poses=poses, **moved)
        size_wh = None if frame.size_wh == self._size_wh else frame.size_wh
        record = FrameRecord(
            frame.frame_id, frame.pts_s, poses, frame_size_wh=size_wh, picture=frame.source or None, **moved
        )
        if not self._live:
            return record
        captured, late_s = captured_at(frame)
        return replace(
            record,
            captured_at=captured.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            latency_ms=late_s * 1e3,
            dropped_before=frame.dropped_before,
            stages_ms=packet.spans_ms,
            lost_before_s=frame.lost_before_s or None,
            budget=packet.budget,
        )

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Appends the end line."""
        with contextlib.ExitStack() as stack:
            line = encode(end_record(status, frames, dropped))
            for feed in self._feeds:
                stack.callback(feed.end, line)
            if self._writer is not None:
                stack.callback(self._writer.close)
                self._writer.end(status, frames, dropped)


_SET_BACK_S = 1.0  # by which the clock may be set back within a part


class Part(NamedTuple):
    """A finished part of a run: its closed outputs, how many frames they hold, media times of the first and last."""

    sinks: Sequence[Sink]
    frames: int
    first_pts_s: float
    last_pts_s: float


class PartedSink:
    """Outputs in parts of `split_s`, each finished when the next begins; every frame is in exactly one part.

    Each part is complete in itself: its frames are numbered from 0, as in its video. Times and ids continue.

    Args:
        split_s: length of a part. For a file it is media time from the first frame on. For a live source, parts begin
            at multiples of it by the wall clock, so that parts of 3600 s are full hours, and also when the clock is set
            back to before the current part, as on a machine whose clock is wrong until it reaches a time server.
        begin: opens the outputs of the part that begins with this frame.
        end: called with each part after closing its outputs, even if that failed.
        live: see `split_s`.
    """

    def __init__(
        self,
        split_s: float,
        begin: Callable[[Frame], Iterable[Sink]],
        end: Callable[[Part], None],
        *,
        live: bool = False,
    ) -> None:
        self.path: Path | None = None
        self._split_s, self._begin, self._end, self._live = split_s, begin, end, live
        self._sinks: list[Sink] = []
        self._begun_s, self._due_s = -math.inf, -math.inf
        self._first = self._frames = self._dropped = 0
        self._first_s = self._last_s = 0.0

    def write(self, packet: Packet, status_line: str) -> None:
        """Writes the packet to the part that it belongs to."""
        frame = packet.frame
        now_s = captured_at(frame)[0].timestamp() if self._live else frame.pts_s
        if now_s >= self._due_s or now_s < self._begun_s - _SET_BACK_S:
            self._begun_s = now_s
            self._due_s = _next_on_clock(now_s, self._split_s) if self._live else self._next_due_s(now_s)
            self._finish("complete")
            self._first = frame.frame_id - frame.dropped_before
            self._first_s = self._last_s = frame.pts_s
            self._sinks.extend(self._begin(frame))
        self._last_s = frame.pts_s
        self._frames += 1
        self._dropped += frame.dropped_before
        packet = replace(packet, frame=replace(frame, frame_id=frame.frame_id - self._first))
        for sink in self._sinks:
            sink.write(packet, status_line)

    def _next_due_s(self, pts_s: float) -> float:
        """When the next part begins: at a whole multiple after the first frame, even after a gap longer than a part."""
        if self._due_s == -math.inf:
            return pts_s + self._split_s
        return self._due_s + self._split_s * (1 + (pts_s - self._due_s) // self._split_s)

    def _finish(self, status: Status) -> None:
        sinks, frames, dropped = self._sinks, self._frames, self._dropped
        self._sinks, self._frames, self._dropped = [], 0, 0
        if not sinks:
            return
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: self._end(Part(sinks, frames, self._first_s, self._last_s)))
            for sink in reversed(sinks):
                stack.callback(sink.close, status, frames, dropped)

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Finishes the last part, with the count of its own frames."""
        self._finish(status)


def _next_on_clock(now_s: float, step_s: float) -> float:
    """The next multiple of `step_s` on the local clock, both in seconds since 1970: full hours, midnights, Mondays.

    When the clocks change, an hour keeps its length, but a day lasts until midnight: 23 or 25 hours.
    """
    step, monday = timedelta(seconds=step_s), datetime.min
    now = datetime.fromtimestamp(now_s)
    due = now + step - (now - monday) % step
    if step_s <= 3600:
        return now_s + (due - now).total_seconds()
    return due.replace(fold=now.fold).timestamp()


class VideoSink:
    """The annotated video, opened at the first frame; without a painter, a `recording` of the original pictures."""

    def __init__(self, path: Path, info: SourceInfo, painter: Painter | None, output: OutputConfig) -> None:
        self.path: Path | None = None
        self.recording = painter is None
        self._painter = painter
        audio = info.path if info.audio else None
        self._writer = VideoWriter(path, info.size_wh, info.fps, output, audio_from=audio, live=info.live)

    def write(self, packet: Packet, status_line: str) -> None:
        """Encodes the frame, or a copy of it that was drawn on."""
        frame = packet.frame
        image = frame.image_bgr if self._painter is None else self._painter.drawn(packet, status_line)
        self._writer.write(image, frame.pts_s)

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Finishes the file and gives it its name."""
        self.path = self._writer.close(complete=status == "complete")


class ImageSink:
    """Annotated pictures: one file for a single picture, else a folder with a file for each."""

    def __init__(self, paths: OutputPaths, info: SourceInfo, painter: Painter) -> None:
        self.path: Path | None = None
        self._paths = paths
        self._single = info.kind == "image"
        self._painter = painter

    def write(self, packet: Packet, status_line: str) -> None:
        """Draws on a copy of the picture and saves it."""
        frame, image = packet.frame, self._painter.drawn(packet, status_line)
        target = self._paths.image
        if not self._single:
            if self.path is None:
                self._remove_earlier()
            name = shortened(f"{frame.frame_id:06d}_{Path(frame.source).stem}")
            target = self._paths.images / f"{name}{target.suffix}"
        write_image(target, image)
        self.path = target if self._single else self._paths.images

    def _remove_earlier(self) -> None:
        """Removes pictures of an overwritten run, which may have had more, or with other names."""
        for file in self._paths.images.glob(f"*{self._paths.image.suffix}"):
            if re.match(r"\d{6}_", file.name):
                file.unlink(missing_ok=True)

    def close(self, status: Status, frames: int, dropped: int) -> None:
        """Nothing to close."""
