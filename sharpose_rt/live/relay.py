"""One connection to a video server: an encoder here, and a process that passes on its output."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import Any

import av
import av.error
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from sharpose_rt.config import RunConfig
from sharpose_rt.live import relay_process
from sharpose_rt.live.address import VideoTarget
from sharpose_rt.media.h264 import TIME_BASE, add_h264, as_frame

_KEYFRAME_S = 1.0  # a new viewer waits half as long on average
# Otherwise both ends of the pipe record every sync point, many a second, until the connection ends: half a gigabyte a
# day. A pipe is only read from its start, so they are useless. FFmpeg calls the option experimental.
_NO_PLACES = {"syncpoints": "none", "write_index": "0", "strict": "experimental"}


class Relay:
    """Sends pictures to one video server, until it or the connection fails; then a new Relay is needed.

    Args:
        target: the server.
        size_wh: of the pictures, px; those of another size are fitted in.
        fps: of the source; for the encoder's rate control.
        config: size, bit rate and encoding of the video.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, target: VideoTarget, size_wh: tuple[int, int], fps: float, config: RunConfig) -> None:
        shrink = min(1.0, config.live.video_px / max(size_wh))
        self._size_wh = (max(2, round(size_wh[0] * shrink)), max(2, round(size_wh[1] * shrink)))
        self._first_s, self._last_tick, self._key_tick = 0.0, -1, 0
        self.written = 0
        self.connected = False
        self.reason = ""
        """Why it ended, if the process could tell."""
        self._busy_since_s: float | None = None
        group = {} if sys.platform != "win32" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._process = subprocess.Popen(
            [sys.executable, "-P", relay_process.__file__],  # by path: importing the package is slow
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **group,
        )
        assert self._process.stdin is not None
        self._pipe = _Pipe(self._process.stdin)
        self._listener = threading.Thread(target=self._listen, name="relay", daemon=True)
        self._listener.start()
        kbits = f"{config.live.video_kbps}k"
        encoder = {"preset": config.output.preset, "crf": str(config.output.crf), "maxrate": kbits, "bufsize": kbits}
        encoder |= {"tune": "zerolatency", "bf": "0", "g": "1000", "forced-idr": "1"}  # by time, see `write`
        # Not in the command line, which others can see: the address may contain a password.
        job = {"url": target.to_open(config.live.video_kbps), "format": target.format, "options": target.options}
        try:
            self._pipe.write(json.dumps(job).encode() + b"\n")
            options = {"flush_packets": "1", **_NO_PLACES}
            self._container: Any = av.open(self._pipe, "w", format="nut", options=options)
            self._stream = add_h264(self._container, self._size_wh, fps, encoder)
        except BaseException:
            self.kill()
            self._process.wait()
            raise

    def write(self, image_bgr: NDArray[np.uint8], pts_s: float) -> None:
        """Sends one picture (H, W, 3) uint8 at a media time in seconds; blocks while the server takes nothing.

        Raises:
            OSError: the connection is gone.
        """
        frame = as_frame(image_bgr, self._size_wh)
        if not self.written:
            self._first_s = pts_s
        self._last_tick = max(round((pts_s - self._first_s) / TIME_BASE), self._last_tick + 1)
        frame.pts = self._last_tick
        if self._last_tick >= self._key_tick:  # frames may come far more slowly than at the source's stated rate
            frame.pict_type = PictureType.I
            self._key_tick = self._last_tick + round(_KEYFRAME_S / TIME_BASE)
        self._mux(frame)
        self.written += 1

    def _mux(self, frame: av.VideoFrame | None) -> None:
        self._busy_since_s = time.monotonic()
        try:
            self._container.mux(self._stream.encode(frame))
        except av.error.FFmpegError as error:  # most are OSErrors themselves
            raise OSError(str(error)) from error
        finally:
            self._busy_since_s = None

    @property
    def stuck_s(self) -> float:
        """Seconds for which the current `write` has been blocked; from any thread."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def kill(self, reason: str = "") -> None:
        """Ends the connection, and a blocked `write`; from any thread."""
        self.reason = self.reason or reason
        self._process.kill()

    def close(self, grace_s: float = 1.0) -> None:
        """Ends the stream as the server expects, within `grace_s`, and releases everything; may be called again."""
        ended = threading.Timer(grace_s, self.kill)
        ended.daemon = True
        ended.start()
        with contextlib.suppress(OSError, av.error.FFmpegError):
            if self.written and not self._pipe.broken:
                self._mux(None)
                self._container.close()
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.wait()
        ended.cancel()
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                text = line.decode(errors="replace").strip()
                if text == "connected":
                    self.connected = True
                else:
                    self.reason = text


class _Pipe:
    """The file that PyAV writes to: each piece is flushed at once, and in full even if the pipe takes only a part."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.broken = False

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:
            self.broken = True
            raise
        return len(data)

    def close(self) -> None:
        self._file.close()
