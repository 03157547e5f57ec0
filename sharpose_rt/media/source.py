"""Where frames come from: one contract for files, pictures, cameras, network streams and standard input.

    with open_source("walking.mp4") as source:
        for frame in source:
            ...

`open_source` looks only at what is cheap to see, so that a wrong address fails before anything heavy is loaded.
The thread that calls `open` also calls `read` and `close`; `interrupt` may come from any thread.
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
"""Of a source that states no rate."""
SourceState = Literal["connecting", "live", "lost", "ended"]

# Media times are fractions in the container; half a tick of the finest usual clock (1/90000 s) forgives rounding.
TICK_S = 0.5 / 90_000
STALE_S = 0.5
"""Where the first frame took longer, as FFmpeg looks at a stream for seconds, or waited, while networks were loaded, a
live run does not begin with it."""
_EVEN_S = 0.2
"""No network delivers more evenly: a picture that is no older is of the present."""
_CATCH_UP_S = 3.0
"""A source that gives pictures faster than it films them for so long never has to be waited for."""


@dataclass(frozen=True)
class Loss:
    """A time without a live source: `after_pts_s` media time of the last frame before, `seconds` that it lasted.

    `attempts` counts the connections that were tried, `back` says whether one of them gave a frame.
    """

    reason: str
    after_pts_s: float
    seconds: float
    attempts: int
    back: bool


@dataclass
class Faults:
    """What is missing of a source so far; one object for a source and those that it reads from.

    `damaged` counts the frames that could not be decoded and were left out. `cut_off` says how much of it was there,
    such as '31 of 60 frames', where a file ends before its time. `left_out` counts the frames of a live stream that
    were not decoded, as more came than can be.
    """

    damaged: int = 0
    cut_off: str | None = None
    left_out: int = 0


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source once it is open.

    Args:
        name: the source as the user gave it, credentials masked.
        kind: 'video', 'image', 'images', 'camera', 'screen', 'network', 'stdin' or 'frames'.
        live: frames come at their own pace and are lost when nobody takes them.
        size_wh: width and height of the first upright frame, px.
        fps: frames handed on for each second of media time, after stride; None where unknown.
        frame_count: frames that will be handed on, after trimming and stride, an estimate; None where unknown.
        duration_s: media time that will be handed on; None where unknown.
        path: local file to take the audio from; None where there is none.
        audio: that file has sound.
        start_s: media time before which frames were left out. `Frame.pts_s` counts from the source's own beginning.
        stem: base of output names, such as 'walking', 'webcam0' or 'rtsp_host'.
        faults: what is missing of it so far, which alone changes as it is read.
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
        for name in ("name", "stem"):  # a file's name may be no UTF-8, which what is sent and written must be
            object.__setattr__(self, name, as_text(getattr(self, name)))


class Source:
    """Upright frames in media time, trimmed and thinned as `config` says; the base of every kind of source.

    A kind implements `_open`, `_grab`, `_retrieve` and `_close`: grabbing a picture tells its media time, retrieving
    it gives the pixels, so that pictures left out cost as little as they can.
    """

    live = False
    """Frames come at their own pace and are lost when nobody takes them."""
    finite = True
    """It ends by itself; a source that is not may come back after its end."""
    stills = False
    """Each of its pictures stands alone, as whoever made it says."""
    stored: dict[str, int] | None = None
    """How many `files` on disk it is read from, and their `bytes`, when the source was made; None of any other."""
    stem = "source"
    """See `SourceInfo`; of what can be lost it is known before it is open."""

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
        self._left_out = 0  # of `faults.left_out` those that a frame has told of
        self.faults = Faults()

    @property
    def state(self) -> SourceState:
        """'connecting' until the first frame was seen, 'live' while frames come, 'ended'; from any thread."""
        if self._ended:
            return "ended"
        return "connecting" if self._info is None else "live"

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The last times that a live source was gone, oldest first."""
        return ()

    @property
    def info(self) -> SourceInfo:
        """What is known of the source; SourceError before `open`."""
        if self._info is None:
            why = "was interrupted before it opened" if self._stop.is_set() else "is not open; call open() first"
            raise SourceError(f"{self.name} {why}, so nothing is known of it")
        return self._info

    @property
    def behind_s(self) -> float:
        """For how long the picture that was grabbed has waited for that, where it is known."""
        return 0.0

    def keep_looking(self, wanted: Callable[[], bool]) -> None:
        """Where it can be lost it is looked for beyond its time, and from its start on, as long as `wanted()`."""

    def open(self) -> None:
        """Opens the source and decodes the first frame, so that what cannot be read fails here.

        Returns without one, `info` still unknown, when `interrupt` was called.

        Raises:
            SourceTimeout: it did not answer within `open_timeout_s`.
            SourceError: it cannot be opened or understood, or trimming leaves nothing of it.
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
        """The next frame, or None when the source has ended or was interrupted.

        Where frames of the present come in, and the first was long in coming or in being asked for (`STALE_S`), what
        came meanwhile is left out, and media time and frames count from there.

        Raises:
            SourceLost: a live source is gone, or has sent nothing for `read_timeout_s`.
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

        From any thread, and from a signal's handler.
        """
        self._stop.set()

    def close(self) -> None:
        """Lets go of the file or device; may be called again."""
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
        """Moves on to the next picture and returns its media time in seconds; None at the end."""
        raise NotImplementedError

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        """The grabbed picture, (H, W, 3) uint8 BGR, and its own name or ''; None when it is to be skipped."""
        raise NotImplementedError

    def _close(self) -> None:
        pass

    @property
    def _rate_fps(self) -> float:
        """At which pictures are grabbed, of which every `stride`-th is handed on."""
        return (self.info.fps or FALLBACK_FPS) * self.config.stride

    def _is_of_the_present(self) -> bool:
        """What is not taken in time grows old, whoever waits."""
        return False

    def _restart_clock(self) -> None:
        """The next picture that is grabbed has the media time 0; of sources of the present."""

    def _begin_anew(self, first_pts_s: float, captured_at_s: float, rate_fps: float) -> bool:
        """Leaves out what has grown old since the first frame, and lets time begin; False where there is an end.

        What was buffered comes at once, or with times that are behind and run ahead of the clock. The present is where
        pictures have come no faster than time goes for one and a half of their periods.
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
        return f"{self.name} holds no frame that can be decoded; play it in a media player to see if it is whole"

    def _kept(self, count: int | None, fps: float | None, duration_s: float | None) -> dict[str, float | int | None]:
        """Rate, number and length of the frames that trimming and stride leave, for `SourceInfo`."""
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
    """Closes a source of which all is had; that it cannot be closed, as by a fault of a driver, is told and no more."""
    try:
        source.close()
    except Exception as error:
        log.warning("%s cannot be closed: %r", source.name, error)


class Device(Source):
    """Something of this machine that is looked at; media time is the monotonic clock since its first picture."""

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
        """Media time, always later, of a picture that was had at `now_s` of the monotonic clock."""
        self._began_s = now_s if self._began_s is None else self._began_s
        self._last_s = max(now_s - self._began_s, self._last_s + 1e-6)
        return self._last_s


def turned(image: NDArray[np.uint8], clockwise_deg: int) -> NDArray[np.uint8]:
    """The picture turned by a multiple of 90 degrees; itself where that is 0."""
    quarters = clockwise_deg // 90 % 4
    if not quarters:
        return image
    code = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[quarters - 1]
    return cv2.rotate(image, code)  # type: ignore[return-value]
