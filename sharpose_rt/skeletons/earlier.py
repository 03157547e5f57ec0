"""Results of earlier runs in a folder: their sources, their names, and whether they are complete."""

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
        source: the name of the source; an absolute path if the run has ended.
        place: see `place_beside`; empty if unknown.
        stem: what the names of the files begin with.
        status: how the run ended; None if it was killed, or is still running.
        config: its options, as plain values; empty if it was killed.
        files: names of the files it wrote, except for the summary; empty if it was killed.
        stored: see `Source.stored`; None if unknown.
    """

    source: str
    place: str
    stem: str
    status: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    stored: dict[str, int] | None = None


class EarlierResults:
    """The results in a folder, as of the last call of `look`.

    Args:
        folder: of results, which may not exist yet; subfolders are not included.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._names: frozenset[str] = frozenset()
        self._read: dict[str, tuple[int, Earlier | None]] = {}  # by name: modification time and content
        self._found: dict[str, list[Earlier]] = {}
        self.look()

    def of(self, source: str) -> list[Earlier]:
        """Results of a source, complete ones first, then by name. A relative path refers to the current folder; results
        that were moved together with their source are found too."""
        places = place_of(source), place_beside(self.folder, source)
        found = {one.stem: one for place in places for one in self._found.get(place, ())}
        return sorted(found.values(), key=_whole_first)

    def has(self, one: Earlier) -> bool:
        """Whether everything that the run wrote still exists: users remove what they want to have made again."""
        return self._names.issuperset(one.files)

    def spoil(self, stem: str) -> None:
        """Marks the results of that name as incomplete in their summary, if any: they are overwritten by a run, which
        may be killed.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.folder / f"{stem}{_SUMMARY}"
        with contextlib.suppress(OSError, ValueError, TypeError):
            write_summary(path, {**orjson.loads(path.read_bytes()), "status": "interrupted"})

    def look(self) -> None:
        """Reads the folder again; unchanged files are not read twice."""
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
            with contextlib.suppress(OSError):  # deleted meanwhile
                written = entry.stat().st_mtime_ns
                if self._read.get(name, (None,))[0] != written:
                    self._read[name] = written, _said(self.folder / name, stem)
            one = self._read.get(name, (0, None))[1]
            if one is not None:
                for place in _places(one):
                    found.setdefault(place, []).append(one)
        self._found = found


def _said(path: Path, stem: str) -> Earlier | None:
    """Results from a summary or the header of a stream; None if it is another kind of file."""
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
    """The keys of the source of earlier results; for a killed run it is unknown where it was started."""
    if one.status is not None:
        yield place_of(one.source)
    yield one.place


def place_beside(folder: str | Path, source: str) -> str:
    """A checksum of a source's path relative to a folder: it distinguishes sources of the same name, stays the same if
    both are moved or reached by other paths, and reveals no path."""
    place = place_of(source)
    if "://" not in place:
        with contextlib.suppress(ValueError):  # on another drive
            beside = place_of(os.path.join(folder, "it"))  # noqa: PTH118
            place = Path(os.path.relpath(place, os.path.dirname(beside))).as_posix()  # noqa: PTH120
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
