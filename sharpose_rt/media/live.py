"""Sources that arrive over time: a camera, a network address, a video on standard input."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import re
import select
import shutil
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceAway, SourceError, SourceLost, SourceTimeout
from sharpose_rt.machine.flag import Flag
from sharpose_rt.media import certificates
from sharpose_rt.media.container import ContainerSource
from sharpose_rt.media.http import LONGEST_WAIT_S, in_pieces, split_address
from sharpose_rt.media.source import Device, SourceInfo

log = logging.getLogger("sharpose_rt.media")

# Schemes of streams that continue whether anybody reads them or not.
_LIVE_SCHEMES = frozenset(("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp"))
_SCHEMES = _LIVE_SCHEMES | {"http", "https"}
# Formats without timestamps: FFmpeg assumes 25 frames per second, so the time of arrival is used.
_UNTIMED_FORMATS = frozenset(("mpjpeg", "mjpeg"))
# Over HTTP, these formats list other addresses or never end, so the content length means nothing.
_BY_REFERENCE = frozenset(("mpjpeg", "hls", "dash", "sdp", "webm_dash_manifest"))
_OF_PIECES = frozenset(("hls", "dash"))
_RETRY_S = 0.02
_AWAY = {getattr(errno, name) for name in ("EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "EHOSTDOWN", "EIO")}
"""FFmpeg's error codes for an absent server besides connection errors; EIO is a host name that cannot be resolved."""
# The names that cameras use. Raw pictures at full size and rate exceed USB 2; motion JPEG does not.
_CAMERA_FORMATS = {"mjpeg": "MJPG", "yuyv": "YUYV"}


class NetworkVideo(ContainerSource):
    """A stream or a file at an address. HTTP(S) is live only if it does not state a length."""

    kind = "network"

    def __init__(self, spec: str, config: SourceConfig) -> None:
        super().__init__(spec, config)
        parts = split_address(spec)
        self._url, self._parts, self._scheme = spec, parts, parts.scheme.lower()
        if self._scheme not in _SCHEMES:
            raise SourceError(
                f"{self.name} begins with {parts.scheme!r}://, which is unknown; {', '.join(sorted(_SCHEMES))} are "
                "accepted"
            )
        if self._scheme not in ("udp", "rtp", "srt") and not parts.hostname:
            raise SourceError(f"{self.name} has no host; {self._scheme}://HOST/PATH is accepted")
        self._tls = certificates.ffmpeg_options(config.tls) if self._scheme in certificates.PORTS else {}
        self._verified = bool(self._tls) and config.tls != "any"
        if self._verified and in_pieces(spec) and parts.username is not None:
            raise SourceError(
                f"{self.name} is a playlist: FFmpeg verifies its server but not those of the segments, which would "
                "also get user and password; use an address without them, or --tls any on your own network"
            )
        self.live = self._scheme in _LIVE_SCHEMES
        self.finite = False
        file = Path(parts.path)
        named = self._scheme in ("http", "https") and file.suffix and file.stem
        self.stem = re.sub(r"[^\w.-]+", "_", file.stem if named else f"{self._scheme}_{parts.hostname or 'any'}")

    def _target(self) -> str:
        return self._url

    def _options(self) -> dict[str, str]:
        options = dict(self._tls)
        if self._scheme in ("rtsp", "rtsps"):
            options["rtsp_transport"] = self.config.rtsp_transport
        elif in_pieces(self._url):
            options["live_start_index"] = "-1"  # the newest segment; FFmpeg's default is two segments earlier
        elif self._format:
            options["analyzeduration"] = "1"  # else it reads seconds of pictures to find their rate
        return options

    def _connect(self) -> None:
        super()._connect()
        # FFmpeg refuses parts not declared as image/jpeg, but finds the pictures if told to expect bare JPEGs.
        if self._container is not None and self._container.format.name == "mpjpeg" and not self._stream.width:
            self._close()
            self._format = "mjpeg"
            super()._connect()

    def _timeouts_s(self) -> tuple[float, float]:
        return self.config.open_timeout_s, self.config.read_timeout_s

    def _is_of_the_present(self) -> bool:
        # Any other HTTP stream may be a recording that waits for us, as does one that states its length.
        return not self.finite and (
            self._scheme in _LIVE_SCHEMES or self._container.format.name == "mpjpeg" or bool(self._format)
        )

    def _opened(self) -> None:
        sized = self._scheme in ("http", "https") and self._container.format.name not in _BY_REFERENCE
        self.finite = bool(self._container.duration) or (sized and (self._container.size or 0) > 0)
        self.live = self._scheme in _LIVE_SCHEMES or not self.finite
        if self._verified and self._container.format.name in _OF_PIECES:
            _tell_of_pieces(self.name)

    def _timestamp(self, frame: Any) -> int | None:
        return None if self.live and self._untimed else frame.pts

    def _ages(self) -> bool:
        return self.live and not self._untimed and self._container.format.name not in _OF_PIECES

    @property
    def _loses_packets(self) -> bool:
        return self._scheme == "udp"

    @property
    def _untimed(self) -> bool:
        return self._container.format.name in _UNTIMED_FORMATS

    def _check_lost(self, error: Exception, waited_s: float) -> None:
        reason = getattr(error, "strerror", None) or type(error).__name__
        # The time limit may first truncate a packet; the next read then fails immediately with the same code.
        if isinstance(error, av.error.ExitError) or waited_s >= 0.95 * self.config.read_timeout_s:
            kind = SourceLost if self.live else SourceTimeout
            raise kind(
                f"{self.name} sent no picture for {self.config.read_timeout_s:g} s after {self._decoded} frames; "
                "check that it is still there, or raise source.read_timeout_s"
            ) from None
        if not isinstance(error, av.error.InvalidDataError):
            raise SourceLost(
                f"{self.name} broke off after {self._decoded} frames: {reason}; check that it runs"
            ) from None

    def _raise_open(self, error: Exception, waited_s: float) -> NoReturn:
        reason = getattr(error, "strerror", None) or type(error).__name__
        # FFmpeg has several codes for a wait that was ended, so the time decides.
        if waited_s >= 0.95 * self.config.open_timeout_s:
            raise SourceTimeout(
                f"{self.name} did not answer within {self.config.open_timeout_s:g} s; "
                "check that it runs and can be reached, or raise source.open_timeout_s"
            ) from None
        hint = "check that the address is right and that the server runs"
        if isinstance(error, av.error.ProtocolNotFoundError):
            hint = f"the FFmpeg inside PyAV {av.__version__} was built without {self._scheme}; use rtsp or http"
        elif self._scheme.startswith("rtsp") and getattr(error, "errno", None) == errno.EPROTONOSUPPORT:
            tried = self.config.rtsp_transport
            hint = f"it does not send over {tried}; try --rtsp-transport {'udp' if tried == 'tcp' else 'tcp'}"
        elif isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
            hint = f"give user and password: {self._scheme}://USER:PASSWORD@HOST/..."
        elif self._scheme == "rtp":
            hint = "an RTP stream is described by an .sdp file; use its address, such as http://HOST/NAME.sdp"
        elif isinstance(error, av.error.InvalidDataError):
            hint = (
                "it answers, but not with a video; check the path (for the video on a web page, use a program such as "
                "yt-dlp: yt-dlp -o - PAGE | sharpose-rt --source -)"
            )
        elif self._verified and (why := certificates.distrust(self._parts, self.config.tls, LONGEST_WAIT_S)):
            raise SourceError(
                f"{self.name} has a certificate that is not trusted ({why}); --tls FILE trusts the certificate in a "
                "file and those that it has signed; --tls any trusts any server, for use on your own network"
            ) from None
        elif isinstance(error, (ConnectionError, av.error.HTTPServerError)) or getattr(error, "errno", None) in _AWAY:
            raise SourceAway(f"{self.name} cannot be opened ({reason}): {hint}") from None
        raise SourceError(f"{self.name} cannot be opened ({reason}): {hint}") from None


@functools.lru_cache(maxsize=64)  # once for each, no matter how often it is connected to
def _tell_of_pieces(name: str) -> None:
    log.warning("%s is a playlist: FFmpeg verifies its server but not those of the segments", name)


class StdinVideo(ContainerSource):
    """A video on standard input, from a pipe or a redirected file."""

    kind = "stdin"
    stem = "stdin"

    def __init__(self, config: SourceConfig, stream: BinaryIO | None = None) -> None:
        super().__init__("-", config)
        self.name = "standard input"
        self._stream_in = stream or sys.stdin.buffer
        self._file: Any = None

    def _target(self) -> BinaryIO:
        if self._file is None:
            self._file = self._readable()
        if self._file.seekable():
            self._file.seek(0)
        return self._file

    def _seekable(self) -> bool:
        return self._file.seekable() and super()._seekable()

    def _readable(self) -> Any:
        if self._stream_in.isatty():
            raise SourceError(
                "standard input is the keyboard; pipe a video into it: cat VIDEO | sharpose-rt --source -"
            )
        if stat.S_ISREG(os.fstat(self._stream_in.fileno()).st_mode):
            return self._stream_in
        pipe = _Pipe(self._stream_in, self._stop)
        head = pipe.peek(1 << 16)
        if not head and not self._stop.is_set():
            raise SourceError("standard input is empty; pipe a video into it: cat VIDEO | sharpose-rt --source -")
        if not index_is_last(head):
            return pipe
        # An mp4 with its index at the end cannot be decoded while it arrives.
        spool = tempfile.TemporaryFile(prefix="sharpose-stdin-")  # noqa: SIM115 - closed by _close
        try:
            shutil.copyfileobj(pipe, spool, 1 << 20)
        except OSError as error:
            spool.close()
            raise SourceError(
                f"standard input has its index at the end and cannot be stored in {tempfile.gettempdir()} "
                f"({error.strerror}); make room there, or use a folder with room: TMPDIR=DIR sharpose-rt --source -"
            ) from None
        spool.seek(0)
        return spool

    def _close(self) -> None:
        super()._close()
        if self._file is not None and not isinstance(self._file, _Pipe) and self._file is not self._stream_in:
            self._file.close()
            self._file = None


class _Pipe(io.RawIOBase):
    """The bytes of a pipe, not seekable; they end when `stop` is set."""

    def __init__(self, stream: BinaryIO, stop: Flag) -> None:
        self._fd, self._stop, self._head = stream.fileno(), stop, b""

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer if the pipe ends; they stay to be read."""
        while len(self._head) < size and (more := self._wait(size - len(self._head))):
            self._head += more
        return self._head

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        if self._head:
            size = len(self._head) if size < 0 else size
            taken, self._head = self._head[:size], self._head[size:]
            return taken
        return self._wait(1 << 16 if size < 0 else size)

    def _wait(self, size: int) -> bytes:
        # Windows cannot wait for a pipe with a time limit, so an interruption takes effect with the next bytes.
        while os.name == "posix" and not select.select([self._fd], [], [], 0.1)[0]:
            if self._stop.is_set():
                return b""
        return b"" if self._stop.is_set() else os.read(self._fd, size)


def index_is_last(head: bytes) -> bool:
    """Whether these first bytes are of an mp4 or mov with its 'mdat' box before its 'moov' box."""
    at = 0
    while at + 8 <= len(head):
        size, kind = struct.unpack_from(">I4s", head, at)
        if at == 0 and kind not in (b"ftyp", b"wide", b"free", b"skip", b"mdat"):
            return False
        if kind in (b"mdat", b"moov"):
            return kind == b"mdat"
        if size < 8:
            return False
        at += size
    return False


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that a camera needs."""

    def isOpened(self) -> bool: ...  # noqa: D102, N802
    def read(self) -> tuple[bool, Any]: ...  # noqa: D102
    def get(self, propId: int, /) -> float: ...  # noqa: D102, N803
    def set(self, propId: int, value: float, /) -> bool: ...  # noqa: D102, N803
    def release(self) -> None: ...  # noqa: D102


def open_capture(device: int | str) -> Capture:
    """OpenCV's capture of a device through the system's own interface, without warnings on standard error."""
    backends = {"linux": (cv2.CAP_V4L2,), "win32": (cv2.CAP_DSHOW, cv2.CAP_MSMF), "darwin": (cv2.CAP_AVFOUNDATION,)}
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture()
        for backend in backends.get(sys.platform, (cv2.CAP_ANY,)):
            if capture.open(device, backend):
                break
        return capture
    finally:
        logging.setLogLevel(level)


class Camera(Device):
    """A camera of this machine."""

    def __init__(
        self,
        spec: str,
        config: SourceConfig,
        device: int | str,
        factory: Callable[[int | str], Capture] | None = None,
    ) -> None:
        super().__init__(spec, config)
        self._device, self._factory = device, factory or open_capture
        self.stem = "webcam" + re.sub(r"\D", "", str(device))
        self._capture: Capture | None = None
        self._image: Any = None

    def _open(self) -> None:
        if self._factory is open_capture and sys.platform.startswith("linux"):
            path = Path(f"/dev/video{self._device}" if isinstance(self._device, int) else self._device)
            if not path.exists():  # OpenCV would only say that it does not open
                raise SourceAway(self._no_camera(f"{path} does not exist"))
        self._capture = capture = self._factory(self._device)
        if not capture.isOpened():
            raise SourceAway(self._no_camera("it does not open; another program may be using it"))
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*_CAMERA_FORMATS[self.config.camera_format]))
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        capture.set(cv2.CAP_PROP_READ_TIMEOUT_MSEC, 1e3 * self.config.read_timeout_s)
        if self.config.camera_size_wh is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self.config.camera_size_wh[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self.config.camera_size_wh[1])
        if self.config.camera_fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self.config.camera_fps)

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        assert self._capture is not None
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        kept = self._kept(None, fps if 0 < fps <= 1000 else None, None)
        return SourceInfo(self.name, "camera", True, size_wh, start_s=self.config.start_s, stem=self.stem, **kept)  # type: ignore[arg-type]

    def _grab(self) -> float | None:
        if self._capture is None:
            return None
        began_s, bad = time.monotonic(), 0
        while not self._stop.is_set():
            good, self._image = self._capture.read()
            now_s = time.monotonic()
            if good and self._image is not None:
                return self._stamp(now_s)
            bad += 1
            if now_s - began_s > self.config.read_timeout_s or bad > self.config.max_bad_frames:
                raise SourceLost(
                    f"{self.name} sends no more pictures ({bad} failed reads in {now_s - began_s:.1f} s); "
                    "check that it is plugged in and that no other program uses it"
                )
            self._stop.wait(_RETRY_S)
        return None

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        image, self._image = self._image, None
        # Copied, as captures may reuse their buffer for the next picture.
        return np.array(image, np.uint8, order="C"), ""

    def _close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _no_camera(self, why: str) -> str:
        if sys.platform == "darwin":
            seen = "; allow the terminal to use the camera in System Settings, Privacy & Security, Camera"
        elif sys.platform.startswith("linux"):
            devices = cameras()
            seen = f"; cameras here: {', '.join(devices)}" if devices else "; no camera was found on this machine"
        else:  # nothing lists them
            seen = ""
        return f"camera {self.name} cannot be opened: {why}{seen}"


def camera_device(spec: str) -> int | str | None:
    """The device that 'webcam', 'webcam:N' or a device path names; None if `spec` is something else.

    Raises SourceError if 'webcam:' is not followed by a number.
    """
    if spec == "webcam":
        return 0
    if spec.startswith("webcam:"):
        number = spec.removeprefix("webcam:")
        if not number.isdecimal():
            raise SourceError(f"camera {spec!r} has no number; 'webcam' or 'webcam:N' is accepted, N from 0")
        return int(number)
    return spec if re.fullmatch(r"/dev/(video\d+|v4l/.+)", spec) else None


def cameras() -> list[str]:
    """Specs of the cameras that the system lists; empty if there are none or no list (Windows, macOS)."""
    found = sorted(Path("/dev").glob("video[0-9]*"), key=lambda p: int(re.sub(r"\D", "", p.name) or 0))
    return [f"webcam:{p.name.removeprefix('video')}" for p in found]
