"""Sends the annotated video to a video server as it is made: one thread and one connection per run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import orjson

from sharpose_rt.config import RunConfig
from sharpose_rt.live.address import VideoTarget
from sharpose_rt.live.relay import Relay
from sharpose_rt.live.retry import Retry
from sharpose_rt.media import Painter, SourceInfo, redact
from sharpose_rt.media.source import FALLBACK_FPS
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.skeletons import Header
from sharpose_rt.skeletons.names import unique_name
from sharpose_rt.stages import count_dropped
from sharpose_rt.types import Packet

log = logging.getLogger("sharpose_rt")

_STEADY_S = 10.0  # a connection that lasts this long is real; a server may accept one and close it at once
_STUCK_S = 10.0  # a connection that takes no picture for this long is ended
_GRACE_S = 5.0


class VideoPublisher:
    """A tap that draws the people of every run on its pictures and sends these on, during its `with` block.

    A picture that comes while one is being sent replaces the one that waits: a slow server gets fewer and does not
    delay the run. A server that is not available, or goes away, is retried.

    Args:
        target: the server.
        config: how people are drawn, and the size and rate of the video.
    """

    def __init__(self, target: VideoTarget, config: RunConfig) -> None:
        self.target, self._config = target, config
        self._names: set[str] = set()
        self._senders: list[_Sender] = []

    def begin(self, info: SourceInfo, header: bytes, *, live: bool, state: Callable[[], str]) -> _Sender:
        """A run begins."""
        target = self.target.of(unique_name(info.stem, self._names))
        sender = _Sender(target, info, Header.from_record(orjson.loads(header)).skeleton, self._config)
        self._senders.append(sender)
        return sender

    def figures(self) -> dict[str, Any]:
        """State and counts, for the page and the metrics; 'lost' if one of several connections is."""
        states = [sender.state for sender in self._senders]
        open_ones = [state for state in states if state != "closed"] or states
        worst = next((s for s in ("lost", "connecting", "connected", "closed") if s in open_ones), "connecting")
        totals = {key: sum(getattr(s, key) for s in self._senders) for key in ("sent", "dropped", "reconnects")}
        return {"to": self.target.name, "policy": "newest", "state": worst, **totals}

    def __enter__(self) -> VideoPublisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for sender in self._senders:
            sender.finish()
        try:
            for sender in self._senders:
                sender.join()
        except BaseException:  # Ctrl-C ends the wait for all of them
            for sender in self._senders:
                sender.give_up()
            raise
        told = self.figures()
        log.info("publish-video: %(to)s: %(sent)d sent, %(dropped)d dropped, reconnected %(reconnects)d times", told)


class _Sender:
    """Sends the pictures of one run to its server."""

    def __init__(self, target: VideoTarget, info: SourceInfo, skeleton: Skeleton, config: RunConfig) -> None:
        self._target, self._info, self._config = target, info, config
        self._painter = Painter(skeleton, config.draw, config.detector.polygon)
        self._changed = threading.Condition()
        self._next: tuple[Packet, str] | None = None
        self._missed: Packet | None = None
        self._over = False
        self._stop, self._ended = threading.Event(), threading.Event()
        self._relay: Relay | None = None
        self._retry, self._again_s, self._since_s = Retry(), 0.0, 0.0
        self._early = 0
        self.state = "connecting"
        self.sent = self.dropped = self.reconnects = 0
        self._thread = threading.Thread(target=self._main, name="publish-video")
        self._thread.start()

    # --- the run's thread -------------------------------------------------------------------------------------

    def frame(self, line: bytes, packet: Packet, status_line: str = "") -> None:
        """One frame."""
        with self._changed:
            if self._next is not None:
                packet = count_dropped(self._next[0], packet)
                self.dropped += 1
            self._next = packet, status_line
            self._changed.notify()
        relay = self._relay
        if relay is not None and relay.stuck_s > _STUCK_S:
            relay.kill(f"took nothing for {_STUCK_S:g} s")

    def end(self, line: bytes) -> None:
        """The run is over."""
        self.finish()

    def finish(self) -> None:
        """Marks the end: nothing follows, but what waits is still sent."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def join(self) -> None:
        """Waits until the last picture has been sent, for a few seconds at most."""
        try:
            self._ended.wait(_GRACE_S + 2)  # a join() interrupted by Ctrl-C would mark the thread as stopped
        finally:  # Ctrl-C ends the wait, and must end the thread too: Python waits for it at exit
            self.give_up()
        self._thread.join()

    def give_up(self) -> None:
        """Ends the thread, whatever it waits for."""
        self._stop.set()
        if not self._ended.is_set() and (relay := self._relay) is not None:
            relay.kill()

    # --- the sender's thread ----------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while (item := self._take()) is not None and not self._stop.is_set():
                self._show(*item)
        finally:
            # A process that has just started may still send what was written to it; one that is retrying will not.
            self._let_go(1.0 if self.state == "lost" else _GRACE_S)
            self.state = "closed"
            self._next = self._missed = None  # the publisher keeps the senders of all runs, not their pictures
            self._ended.set()

    def _take(self) -> tuple[Packet, str] | None:
        """The newest picture, waiting for one; None when nothing follows."""
        with self._changed:
            self._changed.wait_for(lambda: self._next or self._over)
            item, self._next = self._next, None
            return item

    def _show(self, packet: Packet, status: str) -> None:
        if self._missed is not None:  # trails need the camera's motion in the meantime
            packet = count_dropped(self._missed, packet)
        if self._relay is None and time.monotonic() < self._again_s:
            self._missed = packet
            self.dropped += 1
            return
        self._missed = None
        image = self._painter.drawn(packet, status)
        try:
            if self._relay is None:
                self._relay = Relay(self._target, packet.frame.size_wh, self._info.fps or FALLBACK_FPS, self._config)
                if self._stop.is_set():  # give_up() ran before this relay existed
                    self._relay.kill()
            self._relay.write(image, packet.frame.pts_s)
        except OSError as error:
            self.dropped += 1
            self._lost(error)
            return
        self._early += 1
        if self._relay.connected:
            self._reached()

    def _reached(self) -> None:
        self.sent += self._early
        self._early = 0
        if self.state != "connected":
            again = self.state == "lost"
            self.reconnects += again
            log.info("publish-video: connected to %s%s", self._target.name, " again" if again else "")
            self.state, self._since_s = "connected", time.monotonic()
        elif time.monotonic() - self._since_s > _STEADY_S:
            self._retry.was_reached()

    def _lost(self, error: OSError) -> None:
        why = self._let_go() or str(error)
        self.state = "lost"
        self._again_s = time.monotonic() + self._retry.pause_s()
        if self._retry.is_new(why := redact(why)):
            log.warning("publish-video: %s cannot be reached (%s); retrying", self._target.name, why)

    def _let_go(self, grace_s: float = 0.5) -> str:
        """Closes the connection and returns why it ended, if known. What was never sent is counted as dropped."""
        relay, self._relay = self._relay, None
        if relay is None:
            return ""
        relay.close(grace_s)
        if relay.connected:
            self._reached()
        self.dropped += self._early
        self._early = 0
        return relay.reason
