"""Servers on loopback that send numbered pictures, and can be made to die and to come back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from media_clips import numbered

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


class MjpegServer:
    """A camera as many sell it: HTTP, one JPEG after the other, for one viewer after the other.

    Each connection takes the next of `programmes`, (size, number of pictures); a number of 0 closes the
    connection before any picture, None sends until the viewer or the server goes. After the last one it listens no
    more, unless that never ends. The pictures carry numbers from 0 on over all connections. A `silent` server does not
    close a connection after its pictures, but says no more. `kind` is the line of each picture that says what it is.
    """

    def __init__(
        self,
        programmes: Iterable[tuple[tuple[int, int], int | None]],
        period_s: float = 0.02,
        silent: bool = False,
        kind: bytes = b"Content-Type: image/jpeg\r\n",
    ) -> None:
        self._programmes, self._period_s, self._silent, self._kind = programmes, period_s, silent, kind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://viewer:hidden@127.0.0.1:{self.port}/video"
        self.sent = 0
        self._connections: list[socket.socket] = []
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> MjpegServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def _serve(self) -> None:
        for size_wh, count in self._programmes:
            connection = self._viewer()
            if connection is None:
                return
            self._connections.append(connection)
            with contextlib.suppress(OSError):
                self._send(connection, size_wh, count)
            if not self._silent:
                connection.close()
        self._listener.close()

    def _viewer(self) -> socket.socket | None:
        """Who comes next for pictures; a question about the address gets the answer of such cameras."""
        while True:
            try:
                connection, _ = self._listener.accept()
                request = connection.recv(4096)
            except OSError:
                return None
            if not request.startswith(b"HEAD "):
                return connection
            connection.sendall(b"HTTP/1.0 405 Method Not Allowed\r\n\r\n")
            connection.close()

    def _send(self, connection: socket.socket, size_wh: tuple[int, int], count: int | None) -> None:
        end = None if count is None else self.sent + count
        if count != 0:
            connection.sendall(HEAD)
        while self.sent != end and not self.stopped.is_set():
            jpeg = cv2.imencode(".jpg", numbered(self.sent % 1024, size_wh))[1].tobytes()
            part = b"--frame\r\n%sContent-Length: %d\r\n\r\n" % (self._kind, len(jpeg))
            connection.sendall(part + jpeg + b"\r\n")
            self.sent += 1
            self.stopped.wait(self._period_s)


_RTSP = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
port, width, height, pictures = sys.argv[1:5]
server = GstRtspServer.RTSPServer(service=port, address="127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory(shared=True)
ball = f"videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate=25/1 "
looped = (
    f"multifilesrc location={pictures}/%05d.jpg start-index=0 loop=true caps=image/jpeg,framerate=15/1 ! jpegdec "
    "! videoconvert ! videorate ! identity sync=true "
)
factory.set_launch(
    f"( {looped if pictures else ball}"
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=12 ! rtph264pay name=pay0 pt=96 )"
)
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


@contextmanager
def serving(server: Any) -> Iterator[None]:
    """A server of `socketserver` or websockets at work, in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def rtsp_server(port: int, size_wh: tuple[int, int], pictures: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """GStreamer's RTSP server with a ball in H.264, in a process that may be killed; skips where it is absent.

    With a folder of `pictures` (00000.jpg and on) it sends those instead, 15 a second, over and over.
    """
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    command = [python, "-c", _RTSP, str(port), *map(str, size_wh), str(pictures or "")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip(
                "no GStreamer RTSP server (Debian: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and -ugly): "
                + process.communicate()[1].strip().splitlines()[-1]
            )
        yield process
    finally:
        process.kill()
        process.communicate()


def is_ball(image: np.ndarray) -> bool:
    """Whether this is the test picture: a white ball on black."""
    return bool(image.max() > 200 and np.median(image) < 60)
