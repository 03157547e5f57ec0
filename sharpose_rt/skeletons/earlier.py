"""What earlier runs left in a folder of results: of which sources, under which names, and whether it is whole."""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from sharpose_rt.errors import StreamError
from sharpose_rt.skeletons.stream import StreamReader

STREAM, _SUMMARY, _CLAIM = ".skeletons.jsonl", ".summary.json", ".summary.part"


@dataclass(frozen=True)
class Earlier:
    """Results of one run.

    Args:
        source: its name, as the run gave it.
        stem: what the names of its files begin with.
        status: how it ended; None where it was killed, or is under way.
        config: what it was run with, as plain values; empty where it was killed.
    """

    source: str
    stem: str
    status: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


class EarlierResults:
    """The results in a folder, as they were when it was last looked at.

    Args:
        folder: of results, which may not be there yet; those in folders below are others.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._names: list[str] = []
        self._read: dict[str, tuple[int, Earlier | None]] = {}  # by name: when it was written, and what it says
        self._found: dict[str, list[Earlier]] = {}
        self.look()

    def of(self, source: str) -> list[Earlier]:
        """Those of the source of that name, complete ones first, then by name. A relative path means what it means from
        the present folder."""
        return self._found.get(_place(source), [])

    def has(self, beginning: str) -> bool:
        """Whether there is a file, or a folder, whose name begins so."""
        place = bisect.bisect_left(self._names, beginning)
        return self._names[place : place + 1] != [] and self._names[place].startswith(beginning)

    def look(self) -> None:
        """Looks again; what has not changed since is not read twice."""
        try:
            entries = {entry.name: entry for entry in os.scandir(self.folder)}
        except OSError:
            entries = {}
        self._names = sorted(entries)
        ended = {name.removesuffix(_SUMMARY) for name in entries if name.endswith(_SUMMARY)}
        claims = [name.removesuffix(_CLAIM) for name in entries if name.endswith(_CLAIM)]
        found: dict[str, dict[str, Earlier]] = {}
        for name, entry in entries.items():
            stem = name.removesuffix(STREAM if name.endswith(STREAM) else _SUMMARY)
            if stem == name or (name.endswith(STREAM) and stem in ended):
                continue
            with contextlib.suppress(OSError):  # gone since
                written = entry.stat().st_mtime_ns
                if self._read.get(name, (None,))[0] != written:
                    self._read[name] = written, _said(self.folder / name, stem)
            one = self._read.get(name, (0, None))[1]
            if one is None:
                continue
            if one.status is None:  # a run in parts has named them by its name, and a time
                stem = next((claim for claim in claims if stem.startswith(f"{claim}.")), stem)
                one = replace(one, stem=stem)
            found.setdefault(_place(one.source), {}).setdefault(one.stem, one)
        self._found = {place: sorted(those.values(), key=_whole_first) for place, those in found.items()}


def _said(path: Path, stem: str) -> Earlier | None:
    """What a summary or the header of a stream says; None where it is something else of that name."""
    try:
        if path.name.endswith(STREAM):
            return Earlier(StreamReader(path).header.source, stem)
        record = orjson.loads(path.read_bytes())
        return Earlier(str(record["source"]), stem, str(record["status"]), dict(record["config"]))
    except (StreamError, OSError, ValueError, KeyError, TypeError):
        return None


def _whole_first(one: Earlier) -> tuple[bool, str]:
    return one.status != "complete", one.stem


def _place(source: str) -> str:
    """Where a source is, whatever leads there; links of one folder to one file are several sources."""
    if "://" in source:
        return source
    folder, name = os.path.split(os.path.expanduser(source))  # noqa: PTH111
    return os.path.join(_real(os.path.join(os.getcwd(), folder)), name)  # noqa: PTH109, PTH118 - it is called often


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
