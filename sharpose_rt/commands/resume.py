"""`--resume`: of a set of files what earlier runs have not done, and others that are under way leave.

What tells is what lies in the folders of results: a source whose summary says that it is complete is left out, one that
was begun is done again in its place. A lock beside the results says who is at work on a source, so that several runs
may share a set.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout

from sharpose_rt.commands.turns import Job, Turn, Turns, below
from sharpose_rt.config import RunConfig, to_dict
from sharpose_rt.errors import ConfigError, SourceError, writing
from sharpose_rt.machine.paths import as_text
from sharpose_rt.media.redact import redact
from sharpose_rt.skeletons.earlier import STREAM, Earlier, EarlierResults
from sharpose_rt.skeletons.names import shortened
from sharpose_rt.skeletons.plain import plain

log = logging.getLogger("sharpose_rt")

# What may change between the runs of one set: where and how fast it is computed, and what is shown meanwhile.
_FREE = frozenset(
    f"{section}.{name}"
    for section, names in {
        "output": "directory overwrite",
        "pose": "device backend threads max_batch",
        "source": "open_timeout_s read_timeout_s reconnect_s rtsp_transport tls hwaccel",
    }.items()
    for name in names.split()
) | {"live", "queue_frames", "offline"}


class Resumed(Turns):
    """What is left of a set by earlier runs, and by others beside this one, which are kept from it during its turn.

    Args:
        config, jobs: see `Turns`.

    Raises:
        ConfigError: a source has no end to come to, or has results that were made with other options.
    """

    def __init__(self, config: RunConfig, jobs: Sequence[Job]) -> None:
        super().__init__(config, jobs)
        if config.output.overwrite:
            raise ConfigError("--resume keeps what is done, --overwrite does it again; leave one of them away")
        self._options = _compared(config)
        self._results: dict[Path, EarlierResults] = {}
        self.left = [job for job in jobs if not self._state(*job)[0]]

    @contextlib.contextmanager
    def turn(self, spec: str, folder: Path) -> Iterator[Turn | None]:
        """See `Turns`."""
        config = below(self._config, folder)
        with _lock(Path(config.output.directory), spec) as ours:
            self._in(folder).look()
            done, begun = self._state(spec, folder) if ours else (True, None)
            if done:
                self.elsewhere.append(spec)
                yield None
            else:
                output = replace(config.output, overwrite=begun is not None)
                yield Turn(replace(config, output=output), begun)

    def _state(self, spec: str, folder: Path) -> tuple[bool, str | None]:
        """Whether a source is done, and the name of results that were begun, if any."""
        from sharpose_rt.media import is_live, open_source

        source = self._config.source
        if spec == "-" or is_live(spec, source):
            raise ConfigError(f"--resume is for files, which end; leave it away with {redact(spec)}")
        try:
            name = as_text(open_source(spec, source).name)
        except SourceError:  # said when it is its turn
            return False, None
        results = self._in(folder)
        for one in (earlier := results.of(name)):
            if one.status == "complete" and self._is_there(one.stem, results):
                self._check_alike(one, results.folder)
                return True, None
        if not earlier:
            return False, None
        self._check_alike(earlier[0], results.folder)
        return False, earlier[0].stem

    def _in(self, folder: Path) -> EarlierResults:
        if folder not in self._results:
            self._results[folder] = EarlierResults(below(self._config, folder).output.directory)
        return self._results[folder]

    def _is_there(self, stem: str, results: EarlierResults) -> bool:
        """Whether what the run wrote is still there: who wants some of it made again removes it."""
        from sharpose_rt.skeletons.convert import WRITERS

        output = self._config.output
        if output.split_s:
            return True
        suffixes = [".annotated"] * output.video + [STREAM] * output.stream
        suffixes += [WRITERS[name].suffix for name in output.formats if name != "trc"]  # files of people, if any
        return all(results.has(stem + suffix) for suffix in suffixes)

    def _check_alike(self, one: Earlier, folder: Path) -> None:
        """Raises ConfigError where the results were made with other options, so that no set mixes two kinds."""
        before = _flat(one.config)
        for key, value in self._options.items():
            if key in before and before[key] != value:  # an older version may not have known it
                raise ConfigError(
                    f"--resume: {folder / one.stem}.* was made with {key} {before[key]!r}, and now it is {value!r}; "
                    "say what was said then, or give another --output"
                )


@contextlib.contextmanager
def _lock(folder: Path, spec: str) -> Iterator[bool]:
    """Whether the block has the source for itself; on a file system that knows no locks it always has."""
    path = folder / f".{shortened(Path(spec).name)}.lock"
    with writing(f"the folder {folder}", "give --output a folder that you may write to"):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path, timeout=0))
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError) as error:
            log.warning("%s cannot be locked (%s); let no other run work in its folder", path, error)
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):  # Windows: the lock removes it
                path.unlink()


def _compared(config: RunConfig) -> dict[str, Any]:
    """The options that decide what results are, by their whole names, as a summary states them."""
    options = _flat(orjson.loads(orjson.dumps(plain(to_dict(config)))))
    return {key: value for key, value in options.items() if key not in _FREE and key.partition(".")[0] not in _FREE}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, value in config.items():
        found |= (
            {f"{section}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {section: value}
        )
    return found
