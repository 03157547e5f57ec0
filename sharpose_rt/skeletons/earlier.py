"""What earlier runs left in a folder of results: of which sources, under which names, and whether it is whole."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sharpose_rt.errors import StreamError
from sharpose_rt.skeletons.stream import StreamReader
from sharpose_rt.skeletons.summary import write_summary

_STREAM, _SUMMARY = ".skeletons.jsonl", ".summary.json"


@dataclass(frozen=True)
class Earlier:
    """Results of one run.

    Args:
        source: its name, as the run gave it; from the root on where the run has ended.
        stem: what the names of its files begin with.
        status: how it ended; None where it was killed, or is under way.
        config: what it was run with, as plain values; empty where it was killed.
        files: names of what it wrote, but for the summary; empty where it was killed.
    """

    source: str
    stem: str
    status: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


class EarlierResults:
    """The results in a folder, as they were when it was last looked at.

    Args:
        folder: of results, which may not be there yet; those in folders below are others.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._names: frozenset[str] = frozenset()
        self._read: dict[str, tuple[int, Earlier | None]] = {}  # by name: when it was written, and what it says
        self._found: dict[str, list[Earlier]] = {}
        self.look()

    def of(self, source: str) -> list[Earlier]:
        """Those of the source of that name, complete ones first, then by name. A relative path means what it means from
        the present folder."""
        return sorted(self._found.get(_place(source), []), key=_whole_first)

    def has(self, one: Earlier) -> bool:
        """Whether all that the run wrote is still there: who wants some of it made again removes it."""
        return self._names.issuperset(one.files)

    def spoil(self, stem: str) -> None:
        """Lets the summary of that name, if any, say that its results are not whole: they are written over, by a run
        that may be killed.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.folder / f"{stem}{_SUMMARY}"
        with contextlib.suppress(OSError, ValueError, TypeError):
            write_summary(path, {**orjson.loads(path.read_bytes()), "status": "interrupted"})

    def look(self) -> None:
        """Looks again; what has not changed since is not read twice."""
        try:
            entries = {entry.name: entry for entry in os.scandir(self.folder)}
        except OSError:
            entries = {}
        self._names = frozenset(entries)
        ended = {name.removesuffix(_SUMMARY) for name in entries if name.endswith(_SUMMARY)}
        found: dict[str, list[Earlier]] = {}
        for name, entry in entries.items():
            stem = name.removesuffix(_STREAM if name.endswith(_STREAM) else _SUMMARY)
            if stem == name or (name.endswith(_STREAM) and stem in ended):
                continue
            with contextlib.suppress(OSError):  # gone since
                written = entry.stat().st_mtime_ns
                if self._read.get(name, (None,))[0] != written:
                    self._read[name] = written, _said(self.folder / name, stem)
            one = self._read.get(name, (0, None))[1]
            if one is not None:
                found.setdefault(_place(one.source), []).append(one)
        self._found = found


def _said(path: Path, stem: str) -> Earlier | None:
    """What a summary or the header of a stream says; None where it is something else of that name."""
    try:
        if path.name.endswith(_STREAM):
            return Earlier(StreamReader(path).header.source, stem)
        record = orjson.loads(path.read_bytes())
        source, files = str(record["source"]), list(record.get("files", ()))
        if "://" not in source:
            source = os.path.join(record.get("folder", ""), os.path.expanduser(source))  # noqa: PTH111, PTH118
        for part in record.get("parts", ()):
            files += [part[what] for what in ("stream", "video", "recording") if part[what]] + part["formats"]
        return Earlier(source, stem, str(record["status"]), dict(record["config"]), tuple(map(str, files)))
    except (StreamError, OSError, ValueError, KeyError, TypeError):
        return None


def _whole_first(one: Earlier) -> tuple[bool, str]:
    return one.status != "complete", one.stem


def _place(source: str) -> str:
    """Where a source is, whatever leads there; links of one folder to one file are several sources."""
    if "://" in source:
        return source
    folder, name = os.path.split(os.path.expanduser(source.rstrip(f"/{os.sep}")))  # noqa: PTH111
    return os.path.join(_real(os.path.join(os.getcwd(), folder)), name)  # noqa: PTH109, PTH118 - it is called often


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
