"""Sources of frames, with one interface for files, pictures, cameras, network streams and standard input.

    with open_source("walking.mp4") as source:
        for frame in source:
            ...

`open_source` only makes cheap checks, so that a wrong address fails before anything heavy is loaded.
The thread that calls `open` must also call `read` and `close`; `interrupt` may be called from any thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceError
from sharpose_rt.machine.flag import Flag
from sharpose_rt.machine.paths import as_text
from sharpose_rt.media.redact import redact
from sharpose_rt.types import Frame

log = logging.getLogger("sharpose_rt.media")

FALLBACK_FPS = 25.0
"""Frame rate of a source that states none."""
SourceState = Literal["connecting", "live", "lost", "ended"]

# Containers store media times as fractions; half a tick of the finest usual clock (1/90000 s) allows for rounding.
TICK_S = 0.5 / 90_000
STALE_S = 0.5
"""A live run does not start with a first frame that took longer, because FFmpeg analysed the stream for seconds, or
that waited longer while networks were loaded."""
_EVEN_S = 0.2
"""A picture no older than this is current; no network delivers more evenly."""
_CATCH_UP_S = 3.0
"""Longest catching up: a source that is faster than real time for this long will go on being so."""


@dataclass(frozen=True)
class Loss:
    """A loss of a live source: the media time of the last frame before it (`after_pts_s`) and its duration (`seconds`).

    `attempts` is the number of connections tried, `back` whether one of them gave a frame.
    """

    reason: str
    after_pts_s: float
    seconds: float
    attempts: int
    back: bool


@dataclass
class Faults:
    """What is missing from a source so far; one object shared by a source and those that it reads from.

    `damaged` counts frames that could not be decoded and were left out. `cut_off` says how much of a truncated file was
    there, such as '31 of 60 frames'. `left_out` counts frames of a live stream that were skipped because more arrived
    than can be decoded.
    """

    damaged: int = 0
    cut_off: str | None = None
    left_out: int = 0


@dataclass(frozen=True)
class SourceInfo:
    """Properties of an open source.

    Args:
        name: the source as the user gave it, credentials masked.
        kind: 'video', 'image', 'images', 'camera', 'screen', 'network', 'stdin' or 'frames'.
        live: frames come at their own pace and are lost if not taken.
        size_wh: width and height of the first upright frame, px.
        fps: frames output per second of media time, after stride; None if unknown.
        frame_count: estimated number of frames to be output, after trimming and stride; None if unknown.
        duration_s: media time to be output; None if unknown.
        path: local file to take the audio from; None if there is none.
        audio: whether that file has sound.
        start_s: media time before which frames were left out. `Frame.pts_s` counts from the beginning of the source.
        stem: base of output names, such as 'walking', 'webcam0' or 'rtsp_host'.
        faults: what is missing so far; the only field that changes during reading.
    """

    name: str
    kind: str
    live: bool
    size_wh: tuple[int, int]
    fps: float | None = None
    frame_count: int | None = None
    duration_s: float | None = None
    path: str | None = None
    audio: bool = False
    start_s: float = 0.0
    stem: str = "source"
    faults: Faults = field(default_factory=Faults, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("name", "stem"):  # file names may not be UTF-8, but our outputs must be
            object.__setattr__(self, name, as_text(getattr(self, name)))


class Source:
    """Upright frames in media time, trimmed and thinned by `config`; the base class of all sources.

    Subclasses implement `_open`, `_grab`, `_retrieve` and `_close`. Grabbing a picture gives its media time, retrieving
    it the pixels, so that skipped pictures cost as little as possible.
    """

    live = False
    """Frames come at their own pace and are lost if not taken."""
    finite = True
    """Whether it ends for good; other sources may come back after their end."""
    stills = False
    """Whether its creator says that its pictures are unrelated."""
    stored: dict[str, int] | None = None
    """Number of `files` on disk, and their `bytes`, at creation; None if it is not read from files."""
    stem = "source"
    """See `SourceInfo`; for sources that can be lost, known before opening."""

    def __init__(self, spec: str, config: SourceConfig) -> None:
        self.name = redact(spec)
        self.config = config
        self._stop = Flag()
        self._info: SourceInfo | None = None
        self._waiting: Frame | None = None
        self._asked_s = 0.0
        self._grabbed = 0
        self._handed_on = 0
        self._ended = False
        self.lost_before_s = 0.0
        self._left_out = 0  # the part of `faults.left_out` that frames have reported
        self.faults = Faults()

    @property
    def state(self) -> SourceState:
        """'connecting' until the first frame, 'live' while frames come, then 'ended'; from any thread."""
        if self._ended:
            return "ended"
        return "connecting" if self._info is None else "live"

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The most recent losses of a live source, oldest first."""
        return ()

    @property
    def info(self) -> SourceInfo:
        """Properties of the source; SourceError before `open`."""
        if self._info is None:
            why = "was interrupted before it opened" if self._stop.is_set() else "is not open; call open() first"
            raise SourceError(f"{self.name} {why}, so nothing is known about it")
        return self._info

    @property
    def behind_s(self) -> float:
        """How long the grabbed picture had waited, if known."""
        return 0.0

    def keep_looking(self, wanted: Callable[[], bool]) -> None:
        """Makes a source that can be lost reconnect without time limit, also at its start, as long as `wanted()`."""

    def open(self) -> None:
        """Opens the source and decodes the first frame, so that unreadable sources fail here.

        Returns without a frame and without `info` if `interrupt` was called.

        Raises:
            SourceTimeout: it did not answer within `open_timeout_s`.
            SourceError: it cannot be opened or decoded, or trimming leaves nothing of it.
        """
        if self._info is not None:
            return
        self._asked_s = time.monotonic()
        try:
            self._open()
            first = self._next()
            if first is None and not self._stop.is_set():
                raise SourceError(self._nothing_left())
            if first is not None:
                self._waiting, self._info = first, replace(self._describe(first.size_wh), faults=self.faults)
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame | None:
        """The next frame; None if the source has ended or was interrupted.

        If frames are captured in real time and the first one was late in coming or being read (`STALE_S`), the frames
        that arrived meanwhile are left out, and media time and frame numbers start after them.

        Raises:
            SourceLost: a live source is gone, or sent nothing for `read_timeout_s`.
            SourceError: more than `max_bad_frames` in a row cannot be decoded.
        """
        assert self._info is not None or self._stop.is_set(), "read() before open()"
        if self._waiting is not None and not self._stop.is_set():
            frame, self._waiting = self._waiting, None
            took_long = time.monotonic() - self._asked_s > STALE_S and self.config.start_s == 0
            old = took_long and self._is_of_the_present()
            if not (old and self._begin_anew(frame.pts_s, frame.captured_at_s, self._rate_fps)):
                return None if self._stop.is_set() else frame
            self._grabbed = self._handed_on = self._left_out = self.faults.left_out = 0
        return self._next()

    def interrupt(self) -> None:
        """Makes a running `open` or `read` end soon, and every later `read` return None.

        May be called from any thread and from signal handlers.
        """
        self._stop.set()

    def close(self) -> None:
        """Releases the file or device; may be called repeatedly."""
        self._ended, self._waiting = True, None
        self._close()

    def __enter__(self) -> Source:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def _open(self) -> None:
        raise NotImplementedError

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        raise NotImplementedError

    def _grab(self) -> float | None:
        """Advances to the next picture and returns its media time in seconds; None at the end."""
        raise NotImplementedError

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        """The grabbed picture, (H, W, 3) uint8 BGR, and its own name or ''; None to skip it."""
        raise NotImplementedError

    def _close(self) -> None:
        pass

    @property
    def _rate_fps(self) -> float:
        """Rate at which pictures are grabbed, of which every `stride`-th is output."""
        return (self.info.fps or FALLBACK_FPS) * self.config.stride

    def _is_of_the_present(self) -> bool:
        """Whether frames are captured in real time, and become outdated if they are not taken."""
        return False

    def _restart_clock(self) -> None:
        """Gives the next grabbed picture the media time 0; for sources that are captured in real time."""

    def _begin_anew(self, first_pts_s: float, captured_at_s: float, rate_fps: float) -> bool:
        """Skips frames that have become outdated since the first one, and restarts the time; False at the end.

        Buffered frames come immediately, or have late times that gain on the clock. Reading is up to date when pictures
        have come no faster than real time for one and a half of their periods.
        """
        until_s, last_s, level_s = time.monotonic() + _CATCH_UP_S, first_pts_s, 0.0
        while not self._stop.is_set():
            began_s = time.monotonic()
            pts_s = self._grab()
            if pts_s is None:
                return False
            grabbed_s = time.monotonic()
            took_s, step_s, last_s = grabbed_s - began_s, pts_s - last_s, pts_s
            behind_s = (grabbed_s - captured_at_s) - (pts_s - first_pts_s)
            level_s = level_s + took_s if step_s < 2 * took_s and behind_s < _EVEN_S else 0.0
            if level_s >= 1.5 / rate_fps or grabbed_s > until_s:
                self._restart_clock()
                return True
        return False

    def _next(self) -> Frame | None:
        end_s, limit = self.config.end_s, self.config.max_frames
        while not self._ended and not self._stop.is_set() and (limit is None or self._handed_on < limit):
            pts_s = self._grab()
            waited_s = self.behind_s
            captured_at_s = time.monotonic() - waited_s
            if pts_s is None or (end_s is not None and pts_s >= end_s - TICK_S):
                self._ended = True
                return None
            if self.config.start_s > 0 and pts_s < self.config.start_s - TICK_S:
                continue
            self._grabbed += 1
            if (self._grabbed - 1) % self.config.stride:
                continue
            if (picture := self._retrieve()) is not None:
                image_bgr, name = turned(picture[0], self.config.rotate), picture[1]
                lost_s, self.lost_before_s = self.lost_before_s, 0.0
                dropped = (self.faults.left_out - self._left_out) // self.config.stride
                self._left_out = self.faults.left_out
                number = self._handed_on + dropped
                frame = Frame(number, pts_s, image_bgr, captured_at_s, name, dropped, lost_s, self.stills, waited_s)
                self._handed_on = number + 1
                return frame
        return None

    def _nothing_left(self) -> str:
        start_s, end_s = self.config.start_s, self.config.end_s
        if start_s > 0 or end_s is not None:
            span = f"from {start_s:g} s" + (f" to {end_s:g} s" if end_s is not None else " on")
            return f"{self.name} has no frame {span}; try an earlier --start or a later --end"
        return f"{self.name} has no frame that can be decoded; check in a media player that it is complete"

    def _kept(self, count: int | None, fps: float | None, duration_s: float | None) -> dict[str, float | int | None]:
        """Rate, number and duration of the frames left by trimming and stride, for `SourceInfo`."""
        config = self.config
        if duration_s is None and count is not None and fps:
            duration_s = count / fps
        if duration_s is None and config.end_s is not None:
            duration_s = config.end_s
        if duration_s is not None and (config.start_s > 0 or config.end_s is not None):
            duration_s = max(0.0, min(duration_s, config.end_s or math.inf) - config.start_s)
            count = math.ceil(duration_s * fps - 1e-6) if fps else None
        if count is not None:
            count = min(math.ceil(count / config.stride), config.max_frames or count)
        rate = fps / config.stride if fps else None
        if config.max_frames is not None and rate and duration_s is not None:
            duration_s = min(duration_s, config.max_frames / rate)
        return {"fps": rate, "frame_count": count, "duration_s": duration_s}


def let_go(source: Source) -> None:
    """Closes a source that is no longer needed; a failure to close, as by a driver fault, is only logged."""
    try:
        source.close()
    except Exception as error:
        log.warning("%s cannot be closed: %r", source.name, error)


class Device(Source):
    """A capture device of this machine; media time is the monotonic clock since the first picture."""

    live = True
    finite = False

    def __init__(self, spec: str, config: SourceConfig) -> None:
        super().__init__(spec, config)
        self._restart_clock()

    def _is_of_the_present(self) -> bool:
        return True

    def _restart_clock(self) -> None:
        self._began_s: float | None = None
        self._last_s = -1.0

    def _stamp(self, now_s: float) -> float:
        """Strictly increasing media time of a picture captured at `now_s` of the monotonic clock."""
        self._began_s = now_s if self._began_s is None else self._began_s
        self._last_s = max(now_s - self._began_s, self._last_s + 1e-6)
        return self._last_s


def turned(image: NDArray[np.uint8], clockwise_deg: int) -> NDArray[np.uint8]:
    """The picture rotated by a multiple of 90 degrees; the same object for 0."""
    quarters = clockwise_deg // 90 % 4
    if not quarters:
        return image
    code = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[quarters - 1]
    return cv2.rotate(image, code)  # type: ignore[return-value]
