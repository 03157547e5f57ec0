"""`--resume`: process only the files of a set that earlier runs have not finished and no other run is processing.

This is decided from the folders of results: a source whose summary says that it is complete is skipped, one that was
started is done again in its place. A lock file next to the results marks a source that is being processed, so that
several runs can share a set.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sharpose_rt.commands.turns import Job, Turn, Turns, lock
from sharpose_rt.config import RunConfig, to_dict
from sharpose_rt.errors import ConfigError, SourceError
from sharpose_rt.machine.paths import as_text
from sharpose_rt.media.redact import redact
from sharpose_rt.skeletons.earlier import Earlier, EarlierResults
from sharpose_rt.skeletons.plain import plain

log = logging.getLogger("sharpose_rt")

# Options that may differ between the runs of a set: where and how fast it is computed, and what is shown meanwhile.
_FREE = frozenset(
    f"{section}.{name}"
    for section, names in {
        "output": "directory overwrite",
        "pose": "device backend threads max_batch",
        "source": "open_timeout_s read_timeout_s reconnect_s rtsp_transport tls hwaccel",
    }.items()
    for name in names.split()
) | {"live", "queue_frames", "offline"}
_PART = re.compile(r"\.\d+h\d\dm\d\ds(-\d+)?$")  # the suffix of parts in names of results


class _State(NamedTuple):
    """Whether a source is done; otherwise the name of its unfinished results, if any, and whether it has changed since
    they were complete."""

    done: bool = False
    begun: str | None = None
    changed: bool = False


class Resumed(Turns):
    """What earlier and simultaneous runs have left of a set; each source is locked during its turn.

    Args:
        config, jobs: see `Turns`.

    Raises:
        ConfigError: a source is not a file, or has results that were made with other options.
    """

    def __init__(self, config: RunConfig, jobs: Sequence[Job]) -> None:
        super().__init__(config, jobs)
        if config.output.overwrite:
            raise ConfigError("--resume keeps finished results, --overwrite replaces them; leave out one of them")
        self._options = _compared(config)
        self._results: dict[Path, EarlierResults] = {}
        self._locked: list[Job] = []
        states = [(job, self._state(*job)) for job in jobs]
        self.left = [job for job, state in states if not state.done]
        self.changed = [spec for (spec, _), state in states if state.changed]

    def numbered(self) -> Iterator[tuple[int, Job]]:
        """See `Turns`; at the end it repeats the sources that other runs were processing, which may have been
        killed."""
        yield from super().numbered()
        locked, self._locked = self._locked, []
        yield from ((self.left.index(job) + 1, job) for job in locked)
        self.elsewhere += [spec for spec, _ in self._locked]

    @contextlib.contextmanager
    def turn(self, spec: str, folder: Path) -> Iterator[Turn | None]:
        """See `Turns`."""
        config, results = self._config.below(folder), self._in(folder)
        with lock(config, spec) as ours:
            if ours is False:
                self._locked.append((spec, folder))
                yield None
                return
            if ours is None:
                log.warning("%s does not support locks; do not start another run there", results.folder)
            results.look()
            done, begun, _ = self._state(spec, folder)
            if done:
                self.elsewhere.append(spec)
                yield None
                return
            if begun is not None:
                results.spoil(begun)
            output = replace(config.output, overwrite=begun is not None)
            yield Turn(replace(config, output=output), begun)

    def _state(self, spec: str, folder: Path) -> _State:
        from sharpose_rt.media import is_live, open_source

        source = self._config.source
        if spec == "-" or is_live(spec, source):
            raise ConfigError(f"--resume is for files; leave it out with {redact(spec)}")
        try:
            opened = open_source(spec, source)
        except SourceError:  # reported when it is its turn
            return _State()
        results = self._in(folder)
        earlier = results.of(as_text(opened.name))
        alike = [one for one in earlier if self._unlike(one) is None]
        if earlier and not alike:
            raise ConfigError(f"--resume: {results.folder / earlier[0].stem}.* was {self._unlike(earlier[0])}")
        whole = [one for one in alike if one.status == "complete" and results.has(one)]
        if any(one.stored in (None, opened.stored) for one in whole):
            return _State(done=True)
        if not alike:
            return _State()
        killed_in_parts = self._config.output.split_s and alike[0].status is None
        return _State(begun=_PART.sub("", alike[0].stem) if killed_in_parts else alike[0].stem, changed=bool(whole))

    def _in(self, folder: Path) -> EarlierResults:
        if folder not in self._results:
            self._results[folder] = EarlierResults(self._config.below(folder).output.directory)
        return self._results[folder]

    def _unlike(self, one: Earlier) -> str | None:
        """Which option the results were made with that differs now, since a set must not mix two kinds; None if
        none."""
        before = _flat(one.config)
        for key, value in self._options.items():
            if key in before and before[key] != value:  # an older version may not have known it
                return f"made with {key} {before[key]!r}, now {value!r}; use the same options or another --output"
        return None


def _compared(config: RunConfig) -> dict[str, Any]:
    """The options that affect results, by their full names, as in a summary."""
    options = _flat(orjson.loads(orjson.dumps(plain(to_dict(config)))))
    return {key: value for key, value in options.items() if key not in _FREE and key.partition(".")[0] not in _FREE}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, value in config.items():
        found |= (
            {f"{section}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {section: value}
        )
    return found
