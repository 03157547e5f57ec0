"""Sends skeletons to other programs as they are made: one thread per consumer, for which the run never waits long."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sharpose_rt.live.address import Target
from sharpose_rt.live.outbox import Outbox, Policy, Record
from sharpose_rt.live.retry import Retry
from sharpose_rt.live.thinned import Journey, Thinned
from sharpose_rt.live.transports import Transport, create_transport
from sharpose_rt.media import SourceInfo
from sharpose_rt.media.redact import redact
from sharpose_rt.skeletons.names import unique_name
from sharpose_rt.types import Packet

log = logging.getLogger("sharpose_rt")

_PATIENCE_S = 5.0  # for which a file waits for a consumer that takes nothing
_HEADER_EVERY_S = 1.0
_GRACE_S = 3.0  # without progress on what still waits when the run is over


class Publisher:
    """A tap that sends the lines of every run to one consumer during its `with` block.

    The consumer gets the header first, again after each reconnection, and with ZeroMQ, MQTT, UDP and OSC once a second.

    Args:
        target: where to send.
        policy: 'newest' (one frame of each run waits and is replaced by a newer one) or 'queue' (`capacity` wait).
        capacity: of the queue.
        sources: number of simultaneous sources; with more than one, each line names its source.
        patient: a full queue makes the run wait, which suits a file; otherwise the oldest record is dropped.

    Raises:
        ConfigError: a package that the transport needs is not installed.
    """

    def __init__(
        self, target: Target, policy: Policy, capacity: int = 256, sources: int = 1, *, patient: bool = False
    ) -> None:
        self.target, self.policy = target, policy
        self._transport: Transport = create_transport(target, policy)
        self._outbox = Outbox(capacity if policy == "queue" else 1, _PATIENCE_S if patient else 0.0)
        self._several = sources > 1
        self._runs = itertools.count()
        self._names: set[str] = set()
        self._streams: dict[int, Thinned] = {}
        self._header_s: dict[int, float] = {}
        self._stop, self._ended = threading.Event(), threading.Event()
        self._retry = Retry()
        self._thread = threading.Thread(target=self._main, name=f"publish {target.scheme}")
        self.state = "connecting"
        self.sent = self.failed = self.reconnects = 0

    def begin(self, info: SourceInfo, header: bytes, *, live: bool, state: Callable[[], str]) -> _Feed:
        """A run begins."""
        name = unique_name(info.stem, self._names)
        return _Feed(self._outbox, next(self._runs), name if self._several else "", header)

    def figures(self) -> dict[str, Any]:
        """State and counts, for the page and the summary."""
        return {
            "to": self.target.name,
            "policy": self.policy,
            "state": self.state,
            "sent": self.sent,
            "dropped": self._outbox.dropped + self.failed + (self._outbox.frames if self.state == "closed" else 0),
            "reconnects": self.reconnects,
        }

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._outbox.close()
        before = -1
        try:
            while not self._ended.is_set() and self.sent > before:  # while the consumer takes what waits
                before = self.sent
                self._ended.wait(_GRACE_S)  # a join() interrupted by Ctrl-C would mark the thread as stopped
        finally:  # Ctrl-C ends the wait, and must end the thread too: Python waits for it at exit
            if not self._ended.is_set():
                self._stop.set()
                self._transport.abort()
        self._thread.join()
        told = self.figures()
        log.info("publish: %(to)s: %(sent)d sent, %(dropped)d dropped, reconnected %(reconnects)d times", told)

    def _main(self) -> None:
        try:
            while not self._stop.is_set() and (record := self._outbox.take()) is not None:
                self._deliver(record)
        finally:
            self._transport.close()
            self.state = "closed"
            self._ended.set()

    def _deliver(self, record: Record) -> None:
        """Sends a record, reconnecting as often as needed; with 'newest' it is dropped for a newer one instead."""
        while not self._stop.is_set():
            try:
                if self.state != "connected":
                    self._transport.open()
                    self._streams.clear()
                self._send(record)
                self._reached()
                return
            except (OSError, ValueError) as error:  # a name that cannot be looked up is a UnicodeError
                self._lost(error)
                self._stop.wait(self._retry.pause_s())
                if self.policy == "newest" and record.frame_id is not None:
                    break
        self.failed += record.frame_id is not None

    def _reached(self) -> None:
        """Notes that something was sent: opening alone does not prove that the consumer can be reached."""
        if self.state == "lost":
            self.reconnects += 1
            log.info("publish: connected to %s again", self.target.name)
        self.state = "connected"
        self._retry.was_reached()

    def _lost(self, error: OSError | ValueError) -> None:
        self._transport.close()
        if self.target.scheme == "-":
            why = "was closed" if isinstance(error, BrokenPipeError) else f"failed ({error})"
            log.warning("publish: standard output %s; nothing more is published", why)
            self._stop.set()
            self._outbox.close()
        elif self._retry.is_new(why := redact(str(error))):
            log.warning("publish: %s cannot be reached (%s); retrying", self.target.name, why)
        self.state = "lost"

    def _send(self, record: Record) -> None:
        stream, now_s = self._streams.get(record.run), time.monotonic()
        again = self._transport.repeats_header and now_s - self._header_s.get(record.run, now_s) >= _HEADER_EVERY_S
        if stream is None or again:
            self._transport.send(record.header, record.name)
            self._header_s[record.run] = now_s
        if stream is None:
            stream = self._streams[record.run] = Thinned()
        if record.frame_id is None:
            line = stream.end(record.line)
        else:
            line = stream.frame(record.frame_id, record.line, record.place)
        self._transport.send(line, record.name)
        if record.frame_id is None:
            del self._streams[record.run]
        self.sent += 1


class _Feed:
    """Puts the lines of one run into the outbox."""

    def __init__(self, outbox: Outbox, run: int, name: str, header: bytes) -> None:
        self._outbox, self._run, self._name, self._header = outbox, run, name, header
        self._journey = Journey()

    def frame(self, line: bytes, packet: Packet, status_line: str = "") -> None:
        """One frame."""
        place = self._journey.go(packet.camera, new_scene=packet.new_scene, lost_s=packet.frame.lost_before_s)
        self._outbox.put(Record(self._run, self._name, self._header, line, packet.frame.frame_id, place))

    def end(self, line: bytes) -> None:
        """The run is over."""
        self._outbox.put(Record(self._run, self._name, self._header, line, None))
