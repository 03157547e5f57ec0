"""The sources of a run that are processed one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpose_rt.config import RunConfig
from sharpose_rt.errors import SourceError
from sharpose_rt.machine.paths import exists

Job = tuple[str, Path]
"""A source, and the subfolder of the output for its results."""


@dataclass(frozen=True)
class Turn:
    """How to run a source: the configuration, and the name of earlier results to write over, if any."""

    config: RunConfig
    in_place_of: str | None = None


class Turns:
    """Every source of a set in turn.

    Args:
        config: of the run.
        jobs: all sources requested.
    """

    def __init__(self, config: RunConfig, jobs: Sequence[Job]) -> None:
        self.left: Sequence[Job] = jobs
        """What remains to be done."""
        self.elsewhere: list[str] = []
        """Sources that another run was processing, or had finished, when it was their turn."""
        self.changed: list[str] = []
        """Sources that are done again because they have changed."""
        self._config = config

    def numbered(self) -> Iterator[tuple[int, Job]]:
        """What remains to be done, in order, numbered from 1."""
        yield from enumerate(self.left, start=1)

    @contextlib.contextmanager
    def turn(self, spec: str, folder: Path) -> Iterator[Turn | None]:
        """How to run a source, which is locked while the block runs; None if another run processes it."""
        config = self._config.below(folder)
        of_set = len(self.left) > 1 or _on_disk(spec, config)
        with lock(config, spec) if of_set else contextlib.nullcontext():  # against runs that resume the set
            yield Turn(config)


def _on_disk(spec: str, config: RunConfig) -> bool:
    from sharpose_rt.media import open_source

    try:
        return open_source(spec, config.source).stored is not None
    except SourceError:  # reported when it is run
        return False


@contextlib.contextmanager
def lock(config: RunConfig, spec: str) -> Iterator[bool | None]:
    """Locks a source against other runs while the block runs; yields whether that succeeded, None if the file system of
    the results has no locks.

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
    """Removes folders, each inside the next, that are empty, for example after a source that cannot be read."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
