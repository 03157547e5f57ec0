"""The sources of a run that come one after another, each in its turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpose_rt.config import RunConfig
from sharpose_rt.errors import SourceError
from sharpose_rt.machine.paths import exists

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
        self.changed: list[str] = []
        """Sources that are done once more, as they are not what they were."""
        self._config = config

    def numbered(self) -> Iterator[tuple[int, Job]]:
        """What is to be done, in order, with its number from 1."""
        yield from enumerate(self.left, start=1)

    @contextlib.contextmanager
    def turn(self, spec: str, folder: Path) -> Iterator[Turn | None]:
        """How to run a source while the block runs; None where that is another run's."""
        config = self._config.below(folder)
        of_set = len(self.left) > 1 or _on_disk(spec, config)
        with lock(config, spec) if of_set else contextlib.nullcontext():  # from those that resume the set
            yield Turn(config)


def _on_disk(spec: str, config: RunConfig) -> bool:
    from sharpose_rt.media import open_source

    try:
        return open_source(spec, config.source).stored is not None
    except SourceError:  # said when it is run
        return False


@contextlib.contextmanager
def lock(config: RunConfig, spec: str) -> Iterator[bool | None]:
    """Whether the block has the source for itself, among the runs that lock what they are at work on; None where the
    file system of the results knows no locks.

    Raises:
        OutputError: the folder of the results cannot be made.
    """
    from filelock import FileLock, Timeout

    from sharpose_rt.media import redact
    from sharpose_rt.skeletons.earlier import place_beside
    from sharpose_rt.skeletons.names import made, shortened

    folder, name = Path(config.output.directory), redact(spec)
    new = [one for one in (folder, *folder.parents) if not exists(one)]
    path = made(folder) / f".{shortened(Path(name).name)}.{place_beside(folder, name)}.lock"
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, new)
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


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, each below the next, that hold nothing, as after a source that cannot be read."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
