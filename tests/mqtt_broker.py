"""A broker of MQTT 3.1.1 on loopback, of what a publisher and its subscribers need: messages of quality of service 0,
retained ones, last wills, users."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable

_CONNECT, _CONNACK, _PUBLISH, _SUBSCRIBE, _SUBACK, _PINGREQ, _PINGRESP, _DISCONNECT = 1, 2, 3, 8, 9, 12, 13, 14


class MqttBroker:
    """Keeps every message it was given as (topic, payload, retained), and hands it on to who subscribed to the topic.

    With a `login` (user, password) it refuses everybody else. While `frozen` it reads nothing, as a broker whose
    machine hangs. With `tls` it speaks no other.
    """

    def __init__(self, login: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._login, self._tls = login, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.messages: list[tuple[str, bytes, bool]] = []
        self.came = threading.Condition()
        self.frozen = False
        self._retained: dict[str, bytes] = {}
        self._subscribers: list[tuple[str, socket.socket]] = []
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> MqttBroker:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()

    def cut(self) -> None:
        """Every connection breaks."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for(self, found: Callable[[list[tuple[str, bytes, bool]]], bool], timeout_s: float = 20.0) -> None:
        """Until the messages are as wanted."""
        with self.came:
            assert self.came.wait_for(lambda: found(self.messages), timeout_s), self.messages[-5:]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                if self.frozen:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        will: tuple[str, bytes] | None = None
        with contextlib.suppress(OSError, EOFError), self._secured(connection) as connection:
            stream = connection.makefile("rb")

            def read(count: int) -> bytes:
                data = stream.read(count)
                if len(data) < count:
                    raise EOFError
                return data

            while True:
                kind = read(1)[0]
                length = shift = 0
                while True:  # seven bits a byte, the lowest first
                    byte = read(1)[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = _Body(read(length))
                if kind >> 4 == _CONNECT:
                    will = self._greet(connection, body)
                elif kind >> 4 == _PUBLISH:
                    self._publish(body.text(), body.rest(), bool(kind & 1))
                elif kind >> 4 == _SUBSCRIBE:
                    self._subscribe(connection, body)
                elif kind >> 4 == _PINGREQ:
                    connection.sendall(bytes([_PINGRESP << 4, 0]))
                elif kind >> 4 == _DISCONNECT:
                    will = None
        if will is not None:
            self._publish(*will, True)

    def _secured(self, connection: socket.socket) -> socket.socket:
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()
            raise

    def _greet(self, connection: socket.socket, body: _Body) -> tuple[str, bytes] | None:
        assert body.text() == "MQTT"
        _level, flags = body.take(1)[0], body.take(1)[0]
        body.take(2)  # keep alive
        body.text()  # who it is
        will = (body.text(), body.field()) if flags & 4 else None
        login = (body.text() if flags & 128 else "", body.text() if flags & 64 else "")
        refused = self._login is not None and login != self._login
        connection.sendall(bytes([_CONNACK << 4, 2, 0, 5 if refused else 0]))
        if refused:
            raise EOFError
        while self.frozen:
            time.sleep(0.02)
        return will

    def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        with self.came:
            self.messages.append((topic, payload, retain))
            if retain:
                self._retained[topic] = payload
            for wanted, subscriber in self._subscribers:
                if wanted == topic:
                    with contextlib.suppress(OSError):
                        subscriber.sendall(_message(topic, payload))
            self.came.notify_all()

    def _subscribe(self, connection: socket.socket, body: _Body) -> None:
        number = body.take(2)
        topics = []
        while body.data:
            topics.append(body.text())
            body.take(1)
        with self.came:
            connection.sendall(bytes([_SUBACK << 4, 2 + len(topics)]) + number + bytes(len(topics)))
            for topic in topics:
                self._subscribers.append((topic, connection))
                if topic in self._retained:
                    connection.sendall(_message(topic, self._retained[topic]))


class _Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def field(self) -> bytes:
        return self.take(struct.unpack(">H", self.take(2))[0])

    def text(self) -> str:
        return self.field().decode()

    def rest(self) -> bytes:
        return self.take(len(self.data))


def _message(topic: str, payload: bytes) -> bytes:
    body = struct.pack(">H", len(topic.encode())) + topic.encode() + payload
    length, left = b"", len(body)
    while True:
        left, low = left >> 7, left & 127
        length += bytes([low | 128 * (left > 0)])
        if not left:
            return bytes([_PUBLISH << 4]) + length + body
