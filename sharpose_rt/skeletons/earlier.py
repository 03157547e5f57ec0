"""What earlier runs left in a folder of results: of which sources, under which names, and whether it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sharpose_rt.errors import StreamError
from sharpose_rt.machine.paths import place_of
from sharpose_rt.skeletons.stream import StreamReader
from sharpose_rt.skeletons.summary import write_summary

_STREAM, _SUMMARY = ".skeletons.jsonl", ".summary.json"


@dataclass(frozen=True)
class Earlier:
    """Results of one run.

    Args:
        source: its name, as the run gave it; from the root on where the run has ended.
        place: the same by `place_beside`; empty where the run did not say.
        stem: what the names of its files begin with.
        status: how it ended; None where it was killed, or is under way.
        config: what it was run with, as plain values; empty where it was killed.
        files: names of what it wrote, but for the summary; empty where it was killed.
        stored: see `Source.stored`; None too where the run did not say.
    """

    source: str
    place: str
    stem: str
    status: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    stored: dict[str, int] | None = None


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
        the present folder; where source and results were moved together, those are found too."""
        places = place_of(source), place_beside(self.folder, source)
        found = {one.stem: one for place in places for one in self._found.get(place, ())}
        return sorted(found.values(), key=_whole_first)

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
                for place in _places(one):
                    found.setdefault(place, []).append(one)
        self._found = found


def _said(path: Path, stem: str) -> Earlier | None:
    """What a summary or the header of a stream says; None where it is something else of that name."""
    try:
        if path.name.endswith(_STREAM):
            header = StreamReader(path).header
            return None if header.place is None else Earlier(header.source, str(header.place), stem)
        record = orjson.loads(path.read_bytes())
        source, files = str(record["source"]), list(record.get("files", ()))
        if "://" not in source:
            source = os.path.join(record.get("folder", ""), os.path.expanduser(source))  # noqa: PTH111, PTH118
        for part in record.get("parts", ()):
            files += [part[what] for what in ("stream", "video", "recording") if part[what]] + part["formats"]
        what = dict(record["config"]), tuple(map(str, files)), record.get("stored")
        return Earlier(source, str(record.get("place") or ""), stem, str(record["status"]), *what)
    except (StreamError, OSError, ValueError, KeyError, TypeError):
        return None


def _whole_first(one: Earlier) -> tuple[bool, str]:
    return one.status != "complete", one.stem


def _places(one: Earlier) -> Iterator[str]:
    """What the source of earlier results is known by; of a run that was killed nobody knows where it was started."""
    if one.status is not None:
        yield place_of(one.source)
    yield one.place


def place_beside(folder: str | Path, source: str) -> str:
    """A checksum of where a source lies as seen from a folder: it tells sources of one name apart, stays the same where
    both are moved or reached by other ways, and does not tell others where anything is."""
    place = place_of(source)
    if "://" not in place:
        with contextlib.suppress(ValueError):  # on another drive
            beside = place_of(os.path.join(folder, "it"))  # noqa: PTH118
            place = Path(os.path.relpath(place, os.path.dirname(beside))).as_posix()  # noqa: PTH120
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
