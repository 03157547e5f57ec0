"""The sources of a run that come one after another, each in its turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpose_rt.config import RunConfig

Job = tuple[str, Path]
"""A source, and the folder below the output's that its results go to."""


@dataclass(frozen=True)
class Turn:
    """How a source is run: the configuration, and the name of results that its own are written over."""

    config: RunConfig
    in_place_of: str | None = None


class Turns:
    """Every source of a set in turn.

    Args:
        config: of the run.
        jobs: all that is asked for.
    """

    def __init__(self, config: RunConfig, jobs: Sequence[Job]) -> None:
        self.left: Sequence[Job] = jobs
        """What is to be done."""
        self.elsewhere: list[str] = []
        """Sources of those that another run was at work on, or had done, when it was their turn."""
        self._config = config

    def numbered(self) -> Iterator[tuple[int, Job]]:
        """What is to be done, in order, with its number from 1."""
        yield from enumerate(self.left, start=1)

    @contextlib.contextmanager
    def turn(self, spec: str, folder: Path) -> Iterator[Turn | None]:
        """How to run a source while the block runs; None where that is another run's."""
        config = self._config.below(folder)
        with lock(config, spec) if len(self.left) > 1 else contextlib.nullcontext():  # from those that resume the set
            yield Turn(config)


@contextlib.contextmanager
def lock(config: RunConfig, spec: str) -> Iterator[bool | None]:
    """Whether the block has the source for itself, among the runs that lock what they are at work on; None where the
    file system of the results knows no locks.

    Raises:
        OutputError: the folder of the results cannot be made.
    """
    from filelock import FileLock, Timeout

    from sharpose_rt.skeletons.names import made, shortened

    path = made(config.output.directory) / f".{shortened(Path(spec).name)}.lock"
    with contextlib.ExitStack() as stack:
        ours: bool | None = True
        try:
            stack.enter_context(FileLock(path, timeout=0))
        except Timeout:
            ours = False
        except (OSError, NotImplementedError):
            ours = None
        try:
            yield ours
        finally:
            if ours:
                with contextlib.suppress(OSError):  # Windows: the lock removes it
                    path.unlink()
