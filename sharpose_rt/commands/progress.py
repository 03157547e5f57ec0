"""Progress of a run: a bar on a terminal, otherwise a plain line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sharpose_rt.commands.printable import printable

if TYPE_CHECKING:
    from sharpose_rt.app import Run
    from sharpose_rt.types import Packet

_PLAIN_EVERY_S = 10.0
_SELDOM = 60
"""After this many plain lines the pauses between them grow, up to this many times as long, so that the log of a run of
weeks stays readable."""


class NowAndThen:
    """True if ten seconds have passed since it was last true; after ten minutes less and less often, at last every ten
    minutes."""

    def __init__(self) -> None:
        self._said_s, self._pause_s, self._count = time.monotonic(), _PLAIN_EVERY_S, 0

    def __call__(self) -> bool:
        """Whether it is time."""
        now_s = time.monotonic()
        if now_s - self._said_s < self._pause_s:
            return False
        self._said_s, self._count = now_s, self._count + 1
        if self._count >= _SELDOM:
            self._pause_s = min(2 * self._pause_s, _SELDOM * _PLAIN_EVERY_S)
        return True


def _say(line: str) -> None:
    """Writes it to standard error; a log on a full disk, or a closed terminal, does not end the run."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def every_few_seconds(line: Callable[[], str], *, quiet: bool) -> Callable[..., None]:
    """A function that, when called, writes `line()` to standard error now and then."""
    due = NowAndThen()

    def say(*_: object) -> None:
        if not quiet and due():
            _say(line())

    return say


class Progress:
    """Frames, fps, people, exit rate and, for files, the time left; written to standard error."""

    def __init__(self, job: Run, *, quiet: bool) -> None:
        self._job = job
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._due = NowAndThen()

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[line]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("preparing", total=None, line="")  # networks take a while to load
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):  # as in `_say`
                self._bar.stop()

    def update(self, packet: Packet) -> None:
        """Counts one more frame as written."""
        if self._quiet:
            return
        done, line = packet.frame.frame_id + 1, self._job.totals.status_line()
        if self._bar is not None:
            info = self._job.source.info
            name, total = printable(info.stem), info.frame_count
            self._bar.update(self._task, description=name, total=total, completed=done, line=line)
        elif self._due():
            total = self._job.source.info.frame_count
            _say(f"frame {done}{f' of {total}' if total else ''} | {line}")
