"""The annotated video to a video server while it happens: a thread and a connection for each run."""

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

_STEADY_S = 10.0  # a connection that lasts so long is one; a server may take one and close it at once
_STUCK_S = 10.0  # without room for a single picture the connection is given up
_GRACE_S = 5.0


class VideoPublisher:
    """A tap that draws the people of every run on its pictures and sends them on, from `with` to the end of its block.

    A picture that comes while one is being sent takes the place of the one that waits: a slow server sees fewer, and
    costs the run nothing. One that is not there, or gone for a while, is tried again.

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
        """How it is going, for the page and the metrics; 'lost' where one of several is."""
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
        log.info(
            "publish-video: %(to)s: %(sent)d sent, %(dropped)d dropped, %(reconnects)d times connected again", told
        )


class _Sender:
    """The pictures of one run to their server."""

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
        """Nothing follows; what waits is still sent."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def join(self) -> None:
        """Waits until the last picture has left, for some seconds at most."""
        try:
            self._ended.wait(_GRACE_S + 2)  # a join() that Ctrl-C ends would call the thread stopped
        finally:  # Ctrl-C too ends the wait, and the thread with it: Python waits for it at its end
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
            # A process that has but begun may still send what was written to it; one that tries again will not.
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
        if self._missed is not None:  # trails go by what the camera did meanwhile
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
                if self._stop.is_set():  # who gave up has not seen it
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
            log.warning("publish-video: %s is out of reach (%s); trying again", self._target.name, why)

    def _let_go(self, grace_s: float = 0.5) -> str:
        """Closes the connection; why it ended, where that is known. What was never sent is counted as dropped."""
        relay, self._relay = self._relay, None
        if relay is None:
            return ""
        relay.close(grace_s)
        if relay.connected:
            self._reached()
        self.dropped += self._early
        self._early = 0
        return relay.reason
