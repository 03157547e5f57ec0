"""Several sources read at once: each in a thread of its own, their newest frames handed on together."""

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
"""At most one frame of each source, by the source's place in the group, ascending."""
_LOOK_S = 0.1
"""Every wait looks again so often: Windows does not deliver Ctrl-C to a wait without a timeout."""


class SourceGroup:
    """Feeds a pipeline with rounds: at most one frame of each source, so that none can keep the others waiting.

    A round has what there is: one that is slow, lost, or over, is left out. Sources that are not live wait until their
    frame was taken, and are waited for, so that the rounds of files do not depend on timing. A live source that is
    faster than the rounds has its older frames folded away.

    A live source that is lost is looked for as long as others go on, and so is one that cannot be opened where another
    one can. What else fails while the others go on ends for itself: `errors` has why, by its place. Where all have
    failed the first failure is raised.

    None is read before the first round is asked for, so that what comes while networks are loaded counts as a source
    of its own has it count (`Source.read`).

    Args:
        sources: not yet open. The thread that opens one also reads and closes it.
        live: whether each is live.
        fold: `fold(dropped, kept)` gives the frame to keep for the one after a dropped one.
    """

    def __init__(self, sources: Sequence[Source], live: Sequence[bool], fold: Callable[[Frame, Frame], Frame]) -> None:
        self.sources, self._live, self._fold = tuple(sources), tuple(live), fold
        self.name = ", ".join(source.name for source in sources)
        self.errors: dict[int, Exception] = {}
        self._frames: dict[int, Frame] = {}
        self._opened: set[int] = set()
        self._overdue: set[int] = set()  # live ones that could not be had in their time
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
        """Places of the sources that could be opened so far, ascending; there is one when `open` is over."""
        with self._changed:
            return sorted(self._opened)

    def open(self) -> None:
        """Opens all at once; when one cannot be opened the others are let go and its failure is raised.

        A live one is left to come later where at least one other could be opened.
        """
        for thread in self._threads:
            thread.start()
        self._wait(lambda: self._stop or bool(self.errors) or self._can_begin())
        if self.errors:
            self.interrupt()
            raise self.errors[min(self.errors)]

    def read(self) -> Round | None:
        """The next round; None when all sources have ended or were interrupted.

        Raises:
            SharposeError: all that is left has failed.
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
        """Makes a running `open` or `read` end soon, and each source; from any thread."""
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
        """Whether each has been opened or has to come later, but not all of them."""
        return bool(self._opened) and len(self._opened | self._overdue) == len(self.sources)

    def _go_on_without(self, index: int) -> bool:
        """Whether others go on, now that this one could not be had in its time: run, or have some of theirs left."""
        with self._changed:
            self._mark(self._overdue, index)
            return len(self._overdue | self._ended) < len(self.sources)

    def _is_due(self) -> bool:
        """Whether a round can go: something has come, and every file that still runs has its frame in it."""
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
            log.error("%s; the other sources go on", error if isinstance(error, SharposeError) else repr(error))

    def _mark(self, what: set[int], index: int) -> None:
        with self._changed:
            what.add(index)
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            while not ready():
                self._changed.wait(_LOOK_S)
