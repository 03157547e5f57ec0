"""How lines get to a consumer: WebSocket, ZeroMQ, MQTT, UDP, OSC, standard output.

A transport belongs to one thread, except for `abort`, which ends a `send` that a frozen consumer blocks.
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
_PIPE_BYTES = 4096  # a pipe that is ready takes this many without blocking the writer (PIPE_BUF)
_POLL_S = 0.2
_LOOK_UP_EVERY_S = 30.0
_NEWEST_AHEAD = 4  # messages
_ON_THE_WAY_S = 0.25  # sending goes on while answers are no older than this
_SEND_BUFFER = 64 << 10  # bytes; what the system holds for a slow consumer is old when it arrives
_KEEP_ALIVE_S = 15  # a broker considers us gone after one and a half times this
# The publisher logs failures; websockets would log them again, with a traceback.
_SILENT = logging.Logger("websockets", logging.CRITICAL + 1)


class Transport(Protocol):
    """One way to a consumer. `repeats_header`: send it regularly, for consumers that come late or lose messages."""

    repeats_header: bool

    def open(self) -> None:
        """Makes send() possible; raises OSError if the consumer cannot be reached."""
        ...

    def send(self, line: bytes, source: str) -> None:
        """Sends one line (of `source`, if there are several); raises OSError if the consumer is gone."""
        ...

    def close(self) -> None:
        """Releases everything; may be called again, and before open()."""
        ...

    def abort(self) -> None:
        """Ends a send() in progress; from any thread."""
        ...


def create_transport(target: Target, policy: Policy) -> Transport:
    """The transport of a target, not yet open.

    Raises:
        ConfigError: a package that it needs is not installed.
    """
    needs = _PACKAGES.get(target.scheme)
    if needs:
        try:
            __import__(needs)
        except ImportError as error:
            raise ConfigError(
                f"--publish {target.name} needs {needs}, which is not installed; pip install 'sharpose-rt[publish]'"
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
    """Adds advice to the error when a server's certificate is not trusted."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ConnectionError(
            f"its certificate is not trusted: {error.verify_message.rstrip('.')}; trust it with --tls FILE or --tls any"
        ) from error


class WebSocketTransport:
    """A client that sends each line as a text message, and discards what the consumer sends.

    With 'newest' each is followed by a ping, whose answers limit what waits for a slow consumer in system buffers:
    they can hold several seconds, which would be old when read.
    """

    repeats_header = False

    def __init__(self, target: Target, policy: Policy) -> None:
        self._target, self._policy = target, policy
        self._connection: Any = None
        self._unanswered: deque[tuple[float, threading.Event]] = deque()  # when they were sent

    def open(self) -> None:
        """Connects and does the handshake."""
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
            raise ConnectionError(f"{error}; give a password with the user, or leave both out") from error
        except InvalidStatus as error:
            refused = error.response.status_code in (401, 403)
            advice = "; check the user and password, or the token, in the address" if refused else ""
            raise ConnectionError(f"{error}{advice}") from error
        except ImportError as error:  # for a SOCKS proxy set by https_proxy or the system
            raise ConnectionError(f"{error}; pip install it, or add the consumer to no_proxy") from error
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error

    def send(self, line: bytes, source: str) -> None:
        """Sends one text message, without the newline; with 'newest', returns when it is time for another."""
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
        """Discards what the consumer sent: unread messages would eventually block its pongs, too."""
        with contextlib.suppress(TimeoutError):
            while True:
                self._connection.recv(timeout=0)

    def _wait(self) -> None:
        """Waits until every ping older than `_ON_THE_WAY_S` is answered."""
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
        """Closes the connection properly, waiting a second at most."""
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
    """A PUB socket: connected to where the consumer binds its SUB socket, or itself bound (zmq+tcp://@...)."""

    repeats_header = True

    def __init__(self, target: Target, policy: Policy) -> None:
        self._target, self._policy = target, policy
        self._socket: Any = None

    def open(self) -> None:
        """Binds, or starts to connect; ZeroMQ reconnects automatically."""
        import zmq

        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.linger = 500
        if self._policy == "newest":
            self._socket.sndhwm = _NEWEST_AHEAD  # with `conflate` a frame could replace the header before it
            self._socket.sndbuf = _SEND_BUFFER
        host = f"[{self._target.host}]" if ":" in self._target.host else self._target.host
        self._socket.ipv6 = ":" in self._target.host
        address = f"tcp://{host}:{self._target.port}"
        try:
            self._socket.bind(address) if self._target.bind else self._socket.connect(address)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"{error.strerror} ({address})") from error

    def send(self, line: bytes, source: str) -> None:
        """Sends one single-part message; a subscriber that is absent or too slow misses it."""
        self._socket.send(tagged(line, source).rstrip(b"\n"))

    def close(self) -> None:
        """Closes the socket; what was just sent has half a second to go out."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """Nothing to do: a PUB socket never blocks its sender."""


class MqttTransport:
    """A client of an MQTT broker: each line is a message on the topic, delivered at most once (quality of service 0).

    A retained message on `TOPIC/status` says `online`, or `offline` when we are gone, sent by the broker if we cannot.
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
        # Send each line immediately, as one that waits in the system's buffers is old when it arrives.
        connection: Any = client.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        client.loop_start()
        try:
            reason = answers.get(timeout=_OPEN_S)
        except queue.Empty:
            raise TimeoutError("the broker does not answer; is it an MQTT broker?") from None
        if reason is None:
            raise ConnectionError("the broker closed the connection; does it need TLS (mqtts://) or a password?")
        if reason.is_failure:
            raise ConnectionError(f"the broker refuses: {reason}; check user and password in the address")
        client.publish(self._status, b"online", retain=True)

    @property
    def _status(self) -> str:
        return f"{self._target.topic}/status"

    def send(self, line: bytes, source: str) -> None:
        """Sends one message, without the newline; returns when the system has it."""
        message = self._client.publish(self._target.topic, tagged(line, source).rstrip(b"\n"))
        while message.rc == 0 and not message.is_published():
            if self._gone.is_set():
                raise ConnectionError("the broker closed the connection")
            message.wait_for_publish(_POLL_S)
        if message.rc:
            raise ConnectionError("the connection to the broker is lost")

    def close(self) -> None:
        """Disconnects properly, waiting a second at most."""
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
    """A socket that closes if the handshake fails: paho-mqtt would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _cut(client: Any) -> None:
    """Ends the connection of an MQTT client, whose thread then ends."""
    connection = client.socket()
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class UdpTransport:
    """One datagram per line. A frame that does not fit is sent in several, each a valid line with some of the people.

    The consumer's name is looked up again regularly: nothing else would reveal that it has moved to another address.
    """

    repeats_header = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: socket.socket | None = None
        self._found: Any = None  # an entry of getaddrinfo
        self._looked_s = 0.0
        self._looking: threading.Thread | None = None

    def open(self) -> None:
        """Looks up the address; the first datagram opens the socket."""
        self._look_up()
        self._looked_s = time.monotonic()

    def _look_up(self) -> None:
        """Keeps the current address while it is valid; for `localhost` prefers 127.0.0.1, where most listen."""
        found = socket.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_DGRAM)
        if self._target.host == "localhost":
            found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        if self._found not in found:
            self._found = found[0]

    def _look_up_again(self) -> None:
        """Looks up in another thread, since it may take long; if it fails, the address stays."""

        def look() -> None:
            with contextlib.suppress(OSError, ValueError):
                self._look_up()

        if time.monotonic() - self._looked_s < _LOOK_UP_EVERY_S or (self._looking and self._looking.is_alive()):
            return
        self._looked_s = time.monotonic()
        self._looking = threading.Thread(target=look, name="look-up", daemon=True)
        self._looking.start()

    def send(self, line: bytes, source: str) -> None:
        """Sends one or more datagrams."""
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
        # Not connected: the reply that a port is unreachable must not make the next datagram fail.
        self._socket.sendto(data, address)

    def close(self) -> None:
        """Closes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """Nothing to do: sending a datagram never waits for its reader."""


class OscTransport(UdpTransport):
    """Open Sound Control over UDP; see `live.osc` for the messages."""

    def send(self, line: bytes, source: str) -> None:
        """Sends the messages of one record."""
        # OSC allows none of these characters in a part of an address.
        prefix = "/sharpose/" + re.sub(r"[\s#*,/?\[\]{}]", "_", source) if source else "/sharpose"
        for packet in osc.packets(orjson.loads(line), prefix):
            self._send(packet)


class StdoutTransport:
    """The stream, unchanged, on standard output."""

    repeats_header = False

    def __init__(self, policy: Policy) -> None:
        self._policy, self._stop = policy, False

    def open(self) -> None:
        """Flushes what precedes the first line; with 'newest', limits a Linux pipe to one page instead of seconds."""
        sys.stdout.flush()
        if self._policy == "newest" and sys.platform == "linux":
            with contextlib.suppress(OSError):  # not a pipe
                fcntl.fcntl(sys.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def send(self, line: bytes, source: str) -> None:
        """Writes the line, completely or, after `abort`, in part."""
        rest, file = memoryview(tagged(line, source)), sys.stdout.fileno()
        while rest and not self._stop:
            if sys.platform == "win32" or select.select([], [file], [], _POLL_S)[1]:
                rest = rest[os.write(file, rest[:_PIPE_BYTES]) :]

    def close(self) -> None:
        """Leaves standard output open: it belongs to the program."""

    def abort(self) -> None:
        """Ends a write that nobody reads from."""
        self._stop = True


def tagged(line: bytes, source: str) -> bytes:
    """The line with `"stream": source` as its first key; unchanged without a source name."""
    return b'{"stream":' + orjson.dumps(source) + b"," + line[1:] if source else line


def split(line: bytes, limit: int) -> list[bytes]:
    """The line, or if it is longer than `limit` bytes, several lines of the same frame with some of the people each.

    They have `"part": [i, n]`.
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
