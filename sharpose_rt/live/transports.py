"""How lines get to a consumer: WebSocket, ZeroMQ, MQTT, UDP, OSC, standard output.

A transport belongs to one thread, but for `abort`, which frees a `send` that a frozen consumer holds up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import select
import socket
import ssl
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import orjson

from sharpose_rt.errors import ConfigError
from sharpose_rt.live import osc
from sharpose_rt.live.address import Target
from sharpose_rt.live.outbox import Policy
from sharpose_rt.skeletons import encode

if sys.platform == "linux":
    import fcntl

_PACKAGES = {"ws": "websockets", "wss": "websockets", "zmq+tcp": "zmq", "mqtt": "paho.mqtt", "mqtts": "paho.mqtt"}
_OPEN_S = 5.0
_MAX_DATAGRAM = 9000 if sys.platform == "darwin" else 60_000  # bytes; UDP carries 65,507, macOS sends up to 9216
_PIPE_BYTES = 4096  # a pipe that is ready takes so many without making the writer wait (PIPE_BUF)
_POLL_S = 0.2
_LOOK_UP_EVERY_S = 30.0
_NEWEST_AHEAD = 4  # messages
_ON_THE_WAY_S = 0.25  # a consumer that takes no longer to answer is not waited for
_SEND_BUFFER = 64 << 10  # bytes; what the system holds for a slow consumer is old when it arrives
_KEEP_ALIVE_S = 15  # a broker takes us for gone after one and a half of it
# The publisher tells what goes wrong; websockets would tell it again, with a traceback.
_SILENT = logging.Logger("websockets", logging.CRITICAL + 1)


class Transport(Protocol):
    """One way to a consumer. `repeats_header`: whoever comes late or loses a message needs it again and again."""

    repeats_header: bool

    def open(self) -> None:
        """Makes send() possible; raises OSError where the consumer cannot be reached."""
        ...

    def send(self, line: bytes, source: str) -> None:
        """Hands on one line (of `source`, where there are several); raises OSError where the consumer is gone."""
        ...

    def close(self) -> None:
        """Lets go; may be called again, and before open()."""
        ...

    def abort(self) -> None:
        """Ends a send() that is under way; from any thread."""
        ...


def create_transport(target: Target, policy: Policy) -> Transport:
    """The transport of a target, not yet open.

    Raises:
        ConfigError: what it needs is not installed.
    """
    needs = _PACKAGES.get(target.scheme)
    if needs:
        try:
            __import__(needs)
        except ImportError as error:
            raise ConfigError(
                f"--publish {target.name} needs {needs}, which is not here; pip install 'sharpose-rt[publish]'"
            ) from error
    match target.scheme:
        case "ws" | "wss":
            return WebSocketTransport(target, policy)
        case "zmq+tcp":
            return ZmqTransport(target, policy)
        case "mqtt" | "mqtts":
            return MqttTransport(target)
        case "udp":
            return UdpTransport(target)
        case "osc":
            return OscTransport(target)
        case _:
            return StdoutTransport(policy)


@contextlib.contextmanager
def _trusting() -> Iterator[None]:
    """Who connects in the block is told what to do where the other's certificate is not trusted."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ConnectionError(
            f"its certificate is not trusted: {error.verify_message.rstrip('.')}; name it by --tls FILE, or --tls any"
        ) from error


class WebSocketTransport:
    """A client that sends each line as a text message, and throws away what the consumer says.

    With 'newest' a ping follows each: what waits in the systems' buffers for a slow consumer would be old when it is
    read, and they hold seconds of it.
    """

    repeats_header = False

    def __init__(self, target: Target, policy: Policy) -> None:
        self._target, self._policy = target, policy
        self._connection: Any = None
        self._unanswered: deque[tuple[float, threading.Event]] = deque()  # when they were sent

    def open(self) -> None:
        """Connects and shakes hands."""
        from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
        from websockets.sync.client import connect

        limits: dict[str, Any] = {"open_timeout": _OPEN_S, "close_timeout": 1, "max_size": 1 << 16}
        try:
            with _trusting():
                self._connection = connect(
                    self._target.url, ssl=self._target.trusted, compression=None, logger=_SILENT, **limits
                )
            self._connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        except InvalidURI as error:
            raise ConnectionError(f"{error}; a user needs a password beside it, or leave both away") from error
        except InvalidStatus as error:
            refused = error.response.status_code in (401, 403)
            advice = "; look at user and password, or the token, in the address" if refused else ""
            raise ConnectionError(f"{error}{advice}") from error
        except ImportError as error:  # by way of a SOCKS proxy, which https_proxy or the system names
            raise ConnectionError(f"{error}; pip install it, or name the consumer in no_proxy") from error
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error

    def send(self, line: bytes, source: str) -> None:
        """One text message, without the newline; with 'newest' comes back when it is time for another."""
        from websockets.exceptions import WebSocketException

        try:
            self._throw_away()
            self._connection.send(tagged(line, source).rstrip(b"\n").decode())
            if self._policy == "newest":
                self._unanswered.append((time.monotonic(), self._connection.ping()))
                self._wait()
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error

    def _throw_away(self) -> None:
        """What the consumer said: answers that nobody takes would in the end keep its pongs out, too."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._connection.recv(timeout=0)

    def _wait(self) -> None:
        """Until all that was sent before `_ON_THE_WAY_S` is answered."""
        while self._unanswered:
            sent_s, answered = self._unanswered[0]
            late = time.monotonic() - sent_s > _ON_THE_WAY_S
            if answered.wait(_POLL_S if late else 0):
                self._unanswered.popleft()
            elif late:
                self._throw_away()
            else:
                return

    def close(self) -> None:
        """Says goodbye, waiting a second at most."""
        self._unanswered.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Cuts the connection."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)


class ZmqTransport:
    """A PUB socket: connected to where the consumer binds its SUB socket, or bound (zmq+tcp://@...) itself."""

    repeats_header = True

    def __init__(self, target: Target, policy: Policy) -> None:
        self._target, self._policy = target, policy
        self._socket: Any = None

    def open(self) -> None:
        """Binds, or begins to connect; ZeroMQ reconnects by itself."""
        import zmq

        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.linger = 500
        if self._policy == "newest":
            self._socket.sndhwm = _NEWEST_AHEAD  # `conflate` would also let a frame push out the header before it
            self._socket.sndbuf = _SEND_BUFFER
        host = f"[{self._target.host}]" if ":" in self._target.host else self._target.host
        self._socket.ipv6 = ":" in self._target.host
        address = f"tcp://{host}:{self._target.port}"
        try:
            self._socket.bind(address) if self._target.bind else self._socket.connect(address)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"{error.strerror} ({address})") from error

    def send(self, line: bytes, source: str) -> None:
        """One message of one part; a subscriber that is not there or too slow misses it."""
        self._socket.send(tagged(line, source).rstrip(b"\n"))

    def close(self) -> None:
        """Closes the socket; what was just sent has half a second to leave."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """Nothing to do: a PUB socket never makes its sender wait."""


class MqttTransport:
    """A client of an MQTT broker: each line a message on the topic, at most once (quality of service 0).

    Beside it, on `TOPIC/status` and retained, stands `online`, or `offline` when we are gone, by the broker's word
    where we can no longer say so.
    """

    repeats_header = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._client: Any = None
        self._gone = threading.Event()

    def open(self) -> None:
        """Connects, and waits for the broker's answer."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        gone = self._gone = threading.Event()
        client = self._client = Client(
            CallbackAPIVersion.VERSION2, f"sharpose-{uuid.uuid4().hex[:12]}", reconnect_on_failure=False
        )

        def left(*_: object) -> None:
            gone.set()
            answers.put(None)

        client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.put(reason)
        client.on_disconnect = left
        client.will_set(self._status, b"offline", retain=True)
        parts = urlsplit(self._target.url)
        if parts.username is not None:
            client.username_pw_set(unquote(parts.username), parts.password and unquote(parts.password))
        if self._target.trusted is not None:
            self._target.trusted.sslsocket_class = _ClosesItself
            client.tls_set_context(self._target.trusted)
        client.connect_timeout = _OPEN_S
        with _trusting():
            client.connect(self._target.host, self._target.port, _KEEP_ALIVE_S)
        # A line is sent as soon as it is there, and one that waits in the system is old when it arrives.
        connection: Any = client.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        client.loop_start()
        try:
            reason = answers.get(timeout=_OPEN_S)
        except queue.Empty:
            raise TimeoutError("the broker does not answer; is it one of MQTT?") from None
        if reason is None:
            raise ConnectionError("the broker closed the connection; does it want TLS (mqtts://), or a password?")
        if reason.is_failure:
            raise ConnectionError(f"the broker refuses: {reason}; look at user and password in the address")
        client.publish(self._status, b"online", retain=True)

    @property
    def _status(self) -> str:
        return f"{self._target.topic}/status"

    def send(self, line: bytes, source: str) -> None:
        """One message, without the newline; comes back when the system has it."""
        message = self._client.publish(self._target.topic, tagged(line, source).rstrip(b"\n"))
        while message.rc == 0 and not message.is_published():
            if self._gone.is_set():
                raise ConnectionError("the broker closed the connection")
            message.wait_for_publish(_POLL_S)
        if message.rc:
            raise ConnectionError("the connection to the broker is lost")

    def close(self) -> None:
        """Says goodbye, waiting a second at most."""
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected():
            client.publish(self._status, b"offline", retain=True)
            client.disconnect()
            self._gone.wait(1)
        _cut(client)
        client.loop_stop()

    def abort(self) -> None:
        """Cuts the connection."""
        self._gone.set()
        client = self._client
        if client is not None:
            _cut(client)


class _ClosesItself(ssl.SSLSocket):
    """paho-mqtt leaves one open whose handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _cut(client: Any) -> None:
    """End the connection of an MQTT client, whose own thread then ends."""
    connection = client.socket()
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class UdpTransport:
    """A datagram a line. A frame that does not fit is sent in several, each a valid line with some of the people.

    The consumer's name is looked up again now and then: no answer tells that it has moved to another address.
    """

    repeats_header = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: socket.socket | None = None
        self._found: Any = None  # an entry of getaddrinfo
        self._looked_s = 0.0
        self._looking: threading.Thread | None = None

    def open(self) -> None:
        """Finds the address, to which the first datagram opens a socket."""
        self._look_up()
        self._looked_s = time.monotonic()

    def _look_up(self) -> None:
        """Keeps to an address that still is one; of the two of `localhost` takes 127.0.0.1, where most listen."""
        found = socket.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_DGRAM)
        if self._target.host == "localhost":
            found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        if self._found not in found:
            self._found = found[0]

    def _look_up_again(self) -> None:
        """Beside the sending, since it may take long; where it fails the address stays."""

        def look() -> None:
            with contextlib.suppress(OSError, ValueError):
                self._look_up()

        if time.monotonic() - self._looked_s < _LOOK_UP_EVERY_S or (self._looking and self._looking.is_alive()):
            return
        self._looked_s = time.monotonic()
        self._looking = threading.Thread(target=look, name="look-up", daemon=True)
        self._looking.start()

    def send(self, line: bytes, source: str) -> None:
        """One datagram, or several."""
        for part in split(tagged(line, source), _MAX_DATAGRAM):
            self._send(part.rstrip(b"\n"))

    def _send(self, data: bytes) -> None:
        self._look_up_again()
        family, kind, protocol, _, address = self._found
        if self._socket is None or self._socket.family != family:
            self.close()
            self._socket = socket.socket(family, kind, protocol)
            if family == socket.AF_INET:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        # Not connected: the answer "nobody there" of a port must not stop the next datagram.
        self._socket.sendto(data, address)

    def close(self) -> None:
        """Closes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """Nothing to do: a datagram never waits for its reader."""


class OscTransport(UdpTransport):
    """Open Sound Control over UDP; `live.osc` lists the messages."""

    def send(self, line: bytes, source: str) -> None:
        """The messages of one record."""
        # OSC allows none of these in a part of an address.
        prefix = "/sharpose/" + re.sub(r"[\s#*,/?\[\]{}]", "_", source) if source else "/sharpose"
        for packet in osc.packets(orjson.loads(line), prefix):
            self._send(packet)


class StdoutTransport:
    """The stream as it is, on standard output."""

    repeats_header = False

    def __init__(self, policy: Policy) -> None:
        self._policy, self._stop = policy, False

    def open(self) -> None:
        """Nothing may be left in front of the first line; with 'newest' a pipe of Linux holds a page, not seconds."""
        sys.stdout.flush()
        if self._policy == "newest" and sys.platform == "linux":
            with contextlib.suppress(OSError):  # it is no pipe
                fcntl.fcntl(sys.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def send(self, line: bytes, source: str) -> None:
        """Writes the line, whole or, after `abort`, in part."""
        rest, file = memoryview(tagged(line, source)), sys.stdout.fileno()
        while rest and not self._stop:
            if sys.platform == "win32" or select.select([], [file], [], _POLL_S)[1]:
                rest = rest[os.write(file, rest[:_PIPE_BYTES]) :]

    def close(self) -> None:
        """Leaves standard output open: it belongs to the program."""

    def abort(self) -> None:
        """Ends a write that nobody reads."""
        self._stop = True


def tagged(line: bytes, source: str) -> bytes:
    """The line with `"stream": source` as its first key, where there are several sources to tell apart."""
    return b'{"stream":' + orjson.dumps(source) + b"," + line[1:] if source else line


def split(line: bytes, limit: int) -> list[bytes]:
    """The line, or where it is longer than `limit` bytes, lines of the same frame with some of the people each.

    They carry `"part": [i, n]`.
    """
    if len(line) <= limit:
        return [line]
    record = orjson.loads(line)
    groups, size = [[]], 0
    for person in record.get("people", ()):
        length = len(orjson.dumps(person)) + 1
        if groups[-1] and size + length > limit - 512:
            groups.append([])
            size = 0
        groups[-1].append(person)
        size += length
    return [encode({**record, "people": group, "part": [i, len(groups)]}) for i, group in enumerate(groups)]
