"""Several sources read in parallel, each in its own thread; their newest frames are passed on together."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence

from sharpose_rt.errors import SharposeError
from sharpose_rt.media.source import Source, let_go
from sharpose_rt.types import Frame

log = logging.getLogger("sharpose_rt.media")

Round = tuple[tuple[int, Frame], ...]
"""At most one frame per source, in ascending order of the source's index in the group."""
_LOOK_S = 0.1
"""Longest wait without checking: Windows does not deliver Ctrl-C to a wait without a timeout."""


class SourceGroup:
    """Feeds a pipeline with rounds: at most one frame of each source, so that no source delays the others.

    A round has what is available, without sources that are slow, lost or finished. Sources that are not live wait until
    their frame is taken, and rounds wait for them, so that the rounds of files do not depend on timing. If a live
    source is faster than the rounds, its older frames are folded into newer ones.

    A lost live source is reconnected as long as others continue, and so is one that cannot be opened if another one
    can. Any other source that fails ends alone, with its error in `errors` by index. If all have failed, the first
    failure is raised.

    No source is read before the first round is requested, so that frames that arrive while networks are loaded count as
    they do for a single source (`Source.read`).

    Args:
        sources: not yet open. The thread that opens one also reads and closes it.
        live: whether each is live.
        fold: `fold(dropped, kept)` returns the frame to keep in place of `kept` after a dropped one.
    """

    def __init__(self, sources: Sequence[Source], live: Sequence[bool], fold: Callable[[Frame, Frame], Frame]) -> None:
        self.sources, self._live, self._fold = tuple(sources), tuple(live), fold
        self.name = ", ".join(source.name for source in sources)
        self.errors: dict[int, Exception] = {}
        self._frames: dict[int, Frame] = {}
        self._opened: set[int] = set()
        self._overdue: set[int] = set()  # live sources that were not available in time
        self._ended: set[int] = set()
        self._stop = self._wanted = False
        self._changed = threading.Condition(threading.RLock())
        self._threads = [
            threading.Thread(target=self._capture, args=(i,), name=f"capture-{i + 1}") for i in range(len(sources))
        ]
        for i, source in enumerate(self.sources):
            if live[i]:
                source.keep_looking(functools.partial(self._go_on_without, i))

    @property
    def opened(self) -> list[int]:
        """Indices of the sources opened so far, ascending; at least one after `open`."""
        with self._changed:
            return sorted(self._opened)

    def open(self) -> None:
        """Opens all in parallel; if one cannot be opened, the others are closed and its failure is raised.

        Live sources may be opened later if at least one other source could be opened.
        """
        for thread in self._threads:
            thread.start()
        self._wait(lambda: self._stop or bool(self.errors) or self._can_begin())
        if self.errors:
            self.interrupt()
            raise self.errors[min(self.errors)]

    def read(self) -> Round | None:
        """The next round; None if all sources have ended or were interrupted.

        Raises:
            SharposeError: all sources have failed.
        """
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            self._wait(self._is_due)
            if self._stop or not self._frames:
                if self.errors and len(self.errors) == len(self.sources):
                    raise self.errors[min(self.errors)]
                return None
            found, self._frames = sorted(self._frames.items()), {}
            self._changed.notify_all()
            return tuple(found)

    def interrupt(self) -> None:
        """Makes a running `open` or `read` and all sources end soon; from any thread."""
        self._stop = True
        for source in self.sources:
            source.interrupt()

    def close(self) -> None:
        """Ends and joins all threads."""
        self.interrupt()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _can_begin(self) -> bool:
        """Whether each source was opened or postponed, and at least one was opened."""
        return bool(self._opened) and len(self._opened | self._overdue) == len(self.sources)

    def _go_on_without(self, index: int) -> bool:
        """Whether others continue now that this one was not available in time: they run, or still have time left."""
        with self._changed:
            self._mark(self._overdue, index)
            return len(self._overdue | self._ended) < len(self.sources)

    def _is_due(self) -> bool:
        """Whether a round is ready: it has a frame, and one of every file that still runs."""
        if self._stop or len(self._ended) == len(self.sources):
            return True
        waits = (i for i, live in enumerate(self._live) if not live and i not in self._ended)
        return bool(self._frames) and all(i in self._frames for i in waits)

    def _capture(self, index: int) -> None:
        source = self.sources[index]
        try:
            source.open()
            if not self._stop:  # else it may have been interrupted
                self._mark(self._opened, index)
            self._wait(lambda: self._stop or self._wanted)
            while not self._stop and (frame := source.read()) is not None:
                self._put(index, frame)
        except Exception as error:
            if not self._stop:
                self._failed(index, error)
        finally:
            let_go(source)
            self._mark(self._ended, index)

    def _put(self, index: int, frame: Frame) -> None:
        with self._changed:
            self._overdue.discard(index)
            if not self._live[index]:
                self._wait(lambda: self._stop or index not in self._frames)
            before = self._frames.get(index)
            self._frames[index] = frame if before is None else self._fold(before, frame)
            self._changed.notify_all()

    def _failed(self, index: int, error: Exception) -> None:
        error.add_note(f"in source {self.sources[index].name!r}")
        self.errors[index] = error
        if self._wanted:  # else `open` raises it
            log.error("%s; the other sources continue", error if isinstance(error, SharposeError) else repr(error))

    def _mark(self, what: set[int], index: int) -> None:
        with self._changed:
            what.add(index)
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            while not ready():
                self._changed.wait(_LOOK_S)
