"""Labels for the clips of a dataset, from a file or the folders of their videos, and which clip each belongs to."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TextIO

from sharpose_rt.errors import ConfigError
from sharpose_rt.machine.natural import natural
from sharpose_rt.skeletons.convert.common import stem_of
from sharpose_rt.skeletons.names import safe_stem
from sharpose_rt.skeletons.stream import StreamReader

_ENDING = re.compile(r"\.\w*[a-z]\w*$", re.I)  # of a video; only digits are not a suffix
_SPLITS = ("train", "val", "test")
_COLUMN = ("label", "class", "category", "action")  # names of the second column in a header line
_KINETICS = ("label", "youtube_id", "time_start", "time_end")  # columns of its CSV; `split` and others may follow


class ClipLabel(NamedTuple):
    """The class of a clip, by number or name, and its split (None: that of the dataset)."""

    label: int | str
    split: str | None = None


def read_labels(path: Path) -> dict[str, ClipLabel]:
    """Labels of clips by name: numbers of classes or names, for all clips alike.

    Accepted are lines of `name,label` or `name,label,split`, with an optional header line; without any comma, lines of
    `name label`, as in the lists of PYSKL and MMAction2; the CSV of Kinetics, whose clips are named
    `<youtube_id>_<time_start>_<time_end>` with times of 6 digits, as by its downloaders; and JSON (`.json`), an object
    of labels by name, or of objects by name with `label` and optional `label_index`, which precedes it, and `split`.
    Names may have folders; the suffix of a stream is left out.

    Raises:
        ConfigError: the file cannot be read, or an entry has another form or a name that occurred before.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for place, cells in _rows_of_json(path) if path.suffix.lower() == ".json" else _rows_of_text(path):
        if len(cells) not in (2, 3) or not PurePath(cells[0]).name or not cells[1]:
            raise ConfigError(
                f"{place} is {','.join(cells)!r:.80}; name,label[,split] is accepted, where label is the "
                "number or name of a class"
            )
        clip = PurePath(cells[0])
        name = str(clip.parent / stem_of(clip) if clip.suffix == ".jsonl" else clip)
        if name in found:
            raise ConfigError(f"{place}: {name!r} has a label already")
        found[name] = cells[1], (cells[2] or None) if len(cells) == 3 else None
    numbers = {name: re.fullmatch(r"-?\d+", label) is not None for name, (label, _) in found.items()}
    if len(set(numbers.values())) > 1:
        one, other = (next(name for name in numbers if numbers[name] is kind) for kind in (True, False))
        raise ConfigError(
            f"{path} has the number {found[one][0]} for {one!r}, and {found[other][0]!r} for {other!r}; labels "
            "are numbers of classes or names, not both"
        )
    return {name: ClipLabel(int(label) if numbers[name] else label, split) for name, (label, split) in found.items()}


def _rows_of_text(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The place and the cells of each line."""
    with _reading(path, "labels", "lines of name,label[,split] are accepted") as file:
        lines = list(file)
        rows = list(csv.reader(lines)) if "," in "".join(lines) else [line.rsplit(maxsplit=1) for line in lines]
    columns: list[str] | None = None
    for number, row in enumerate(rows, start=1):
        place, cells = f"{path} line {number}", [cell.strip() for cell in row]
        if not any(cells):
            continue
        if number == 1 and "youtube_id" in cells:
            if lacking := [name for name in _KINETICS if name not in cells]:
                raise ConfigError(
                    f"{place} is the header of Kinetics' CSV without {lacking[0]!r}; {', '.join(_KINETICS)} are needed "
                    "(the file of its test split may have no labels)"
                )
            columns = cells
        elif columns is not None:
            yield place, _of_kinetics(place, dict(zip(columns, cells, strict=False)))
        elif number > 1 or len(cells) == 1 or cells[1].lower() not in _COLUMN:
            yield place, cells


def _of_kinetics(place: str, row: Mapping[str, str]) -> list[str]:
    """Name, label and split of a row of Kinetics' CSV."""
    try:
        label, clip, *times = (row[name] for name in _KINETICS)
        start, end = (int(float(time)) for time in times)
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(
            f"{place} is {','.join(row.values())!r:.80}; {','.join(_KINETICS)} are expected, times in s"
        ) from None
    split = row.get("split", "")
    return [f"{clip}_{start:06d}_{end:06d}", label, "val" if split == "validate" else split]


def _rows_of_json(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The place and the cells of each entry."""
    wanted = 'an object of labels by name is accepted, such as {"jump/001.mp4": "jump"}'
    with _reading(path, "labels", wanted) as file:
        document = json.load(file)
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is {document!r:.80}; {wanted}")
    for name, given in document.items():
        own = given if isinstance(given, dict) else {"label": given}
        label, split = own.get("label_index", own.get("label")), own.get("split") or ""
        if type(label) not in (int, str) or not isinstance(split, str):
            raise ConfigError(
                f"{path} has {given!r:.80} for {name!r}; the number or name of a class is accepted, or an object with "
                "label (or label_index) and split"
            )
        yield f"{path} at {name!r}", [name.strip(), str(label).strip(), split.strip()]


def labels_by_folder(readers: Iterable[StreamReader]) -> dict[str, ClipLabel]:
    """Labels by the sources of the streams: the folder of a video is its class, and the one above its split if that is
    train, val or test.

    Raises:
        ConfigError: a source has no folder.
    """
    labels: dict[str, ClipLabel] = {}
    for reader in readers:
        *above, _ = _parts_of_source(reader)
        if not above or above[-1] in ("..", PurePath(reader.header.source).anchor):
            raise ConfigError(
                f"{reader.path} is of {reader.header.source}, whose path has no folder for the class; run over "
                "the set from above its folders, or give a file of labels"
            )
        split = above[-2] if len(above) > 1 and above[-2] in _SPLITS else None
        labels[reader.header.source] = ClipLabel(above[-1], split)
    return labels


def read_classes(path: Path) -> list[str]:
    """The class names in the order of their numbers, one per line.

    Raises:
        ConfigError: the file cannot be read, or contains a name twice.
    """
    with _reading(path, "classes", "one name per line is accepted") as file:
        names = [line.strip() for line in file if line.strip()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{path} has the class {twice[0]!r} twice; each has one number")
    return names


def numbered(
    labels: Mapping[str, ClipLabel], classes: Sequence[str] | None
) -> tuple[dict[str, ClipLabel], Sequence[str]]:
    """The labels as numbers, and the class names in that order: as given, otherwise sorted; none if there are only
    numbers.

    Raises:
        ConfigError: a label is not one of the given classes.
    """
    wanted = {own.label for own in labels.values()}
    if all(isinstance(label, int) for label in wanted):
        if classes is not None and (odd := sorted(label for label in wanted if not 0 <= int(label) < len(classes))):
            raise ConfigError(f"the label {odd[0]} is not one of the {len(classes)} classes, which are numbered from 0")
        return dict(labels), classes or ()
    names = sorted(map(str, wanted), key=natural) if classes is None else classes
    numbers = {name: number for number, name in enumerate(names)}
    if odd := [name for name in map(str, wanted) if name not in numbers]:
        known = ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])])
        raise ConfigError(f"the label {min(odd)!r} is not one of the {len(names)} classes: {known}")
    return {name: own._replace(label=numbers[str(own.label)]) for name, own in labels.items()}, names


@contextlib.contextmanager
def _reading(path: Path, what: str, wanted: str) -> Iterator[TextIO]:
    """The file, opened as text; raises ConfigError if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot read the {what} {path}: {error}; {wanted}") from error


_Parts = tuple[str, ...]
"""Folders and name of a path."""


class Told(NamedTuple):
    """The label of a clip, the name `given` for it, and its `name` in the dataset."""

    given: str
    name: str
    label: ClipLabel


def labels_of(readers: Sequence[StreamReader], labels: Mapping[str, ClipLabel]) -> list[Told]:
    """The label of each clip: the one with most folders among those whose path is the end of the clip's.

    Raises:
        ConfigError: a clip has none, or two different ones, or a label belongs to clips of several videos.
    """
    clips, parts = _Clips(readers), {given: PurePath(given).parts for given in labels}
    if not any(len(path) > 1 and clips.named(path)[0] for path in parts.values()):
        parts = {given: path[-1:] for given, path in parts.items()}  # folders of another machine: only names count
    told: dict[int, Told] = {}
    for given in sorted(parts, key=lambda given: -len(parts[given])):
        places, name = clips.named(parts[given])
        for place in places:
            other = told.setdefault(place, Told(given, name, labels[given]))
            if len(parts[other.given]) == len(parts[given]) and other.label != labels[given]:
                raise ConfigError(
                    f"labels {other.given!r} and {given!r} are both of the clip {stem_of(readers[place].path)!r}, and "
                    "differ; remove one"
                )
    if without := [reader for place, reader in enumerate(readers) if place not in told]:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        said = f"the labels are for {', '.join(list(labels)[:3])} ..." if labels else "there are no labels"
        raise ConfigError(f"no label for {stem_of(without[0].path)!r}, of {without[0].header.source}{more}; {said}")
    for given, places in grouped((own.given, place) for place, own in told.items()).items():
        sources = sorted({readers[place].header.source for place in places})
        if len(sources) > 1:
            raise ConfigError(
                f"the label {given!r} is of several clips, such as {sources[0]} and {sources[1]}; include as many "
                "folders as needed to tell them apart"
            )
        if len(places) > 1:  # several runs over one video
            told |= {place: told[place]._replace(name=stem_of(readers[place].path)) for place in places}
    return [told[place] for place in range(len(readers))]


class _Clips:
    """The clips of a dataset by the ends of their paths."""

    def __init__(self, readers: Sequence[StreamReader]) -> None:
        sources = [_parts_of_source(reader) for reader in readers]
        self._sources = _by_ends(sources)
        self._streams = _by_ends([(*reader.path.parent.parts, stem_of(reader.path)) for reader in readers])
        self._bare = _by_ends([_without_ending(parts) for parts in sources])

    def named(self, parts: _Parts) -> tuple[list[int], str]:
        """Indices of the clips that a path refers to, and their name.

        Their video's path ends like this, or their stream's, as it is or as a safe name made by a run; what looks like
        a suffix may be part of the name."""
        bare = _without_ending(parts)
        tried = [(self._sources, parts, bare)]
        tried += [(self._streams, (*p[:-1], last), p) for p in (parts, bare) for last in (p[-1], safe_stem(p[-1]))]
        tried += [(self._bare, bare, bare)]
        return next(((ends[path], own[-1]) for ends, path, own in tried if path in ends), ([], ""))


def _by_ends(paths: Sequence[_Parts]) -> dict[_Parts, list[int]]:
    """Indices of paths by all of their ends."""
    return grouped((path[start:], place) for place, path in enumerate(paths) for start in range(len(path)))


def grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """Second items of pairs, grouped by the first."""
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _parts_of_source(reader: StreamReader) -> _Parts:
    return PurePath(reader.header.source).parts or ("",)


def _without_ending(parts: _Parts) -> _Parts:
    return (*parts[:-1], _ENDING.sub("", parts[-1]))


def clip_names(readers: Sequence[StreamReader], told: Sequence[Told]) -> list[str]:
    """The names of the clips, with as many folders of their sources as needed to tell them apart.

    Raises:
        ConfigError: two are the same.
    """
    sources = [_parts_of_source(reader) for reader in readers]
    paths = [(*source[:-1], own.name) for source, own in zip(sources, told, strict=True)]
    of_path, of_both = Counter(paths), Counter(zip(paths, sources, strict=True))
    paths = [  # walk.avi and walk.mp4 are told apart by their suffixes
        path if of_path[path] == of_both[path, source] else source for path, source in zip(paths, sources, strict=True)
    ]
    names, depth = [path[-1] for path in paths], 1
    while twice := {name for name, count in Counter(names).items() if count > 1}:
        if depth == max(map(len, paths)):
            name = next(name for name in names if name in twice)
            files = [str(reader.path) for reader, own in zip(readers, names, strict=True) if own == name]
            raise ConfigError(
                f"several clips are named {name!r}, but names must differ in a dataset: {', '.join(files)}; leave out "
                "one, or rename it"
            )
        depth += 1
        names = [
            PurePath(*path[-depth:]).as_posix() if name in twice else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names
