"""The annotation pickle of PYSKL and MMAction2 (skeleton-based action recognition)."""

from __future__ import annotations

import csv
import logging
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.action import Fill, action_array
from sharpose_rt.skeletons.convert.common import check_one_skeleton, new_file, stem_of
from sharpose_rt.skeletons.names import safe_stem
from sharpose_rt.skeletons.stream import StreamReader

log = logging.getLogger("sharpose_rt.skeletons")

_ENDING = re.compile(r"\.\w*[a-z]\w*$", re.I)  # of a video; a number alone is none


def pyskl_annotation(
    reader: StreamReader,
    *,
    label: int = -1,
    person_slots: int = 2,
    fill: Fill = "none",
    max_gap_s: float | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
) -> dict[str, Any]:
    """One entry of `annotations`: keypoint (M, T, V, 2) px, keypoint_score (M, T, V), shapes as (height, width).

    A slot is one track for the whole video, or without track ids whoever has one place in the frames, see
    `action_array`. The projects' own files are float16, which rounds to a whole pixel beyond 1024 px; both read float32
    as well, so that is the default. Feet are left out: the graphs of both projects are of COCO's 17 keypoints.
    """
    reader = reader.of_coco()
    if not predicted:
        reader = reader.without_predicted()
    array = action_array(reader, person_slots, raw=raw, min_score=min_score, fill=fill, max_gap_s=max_gap_s)
    if not array.scores.any():
        log.warning("%s has nobody in it, so its arrays are all zeros", reader.path)
    width, height = reader.header.frame_size_wh
    return {
        "frame_dir": stem_of(reader.path),
        "total_frames": len(array.pts_s),
        "img_shape": (height, width),
        "original_shape": (height, width),
        "label": label,
        "keypoint": array.keypoints.astype(dtype),
        "keypoint_score": array.scores.astype(dtype),
    }


def write_pyskl(reader: StreamReader, out: Path, *, split: str = "val", **options: Any) -> None:
    """Writes {split: {train: [..], val: [..]}, annotations: [..]} with one video in `split`.

    Options are those of `pyskl_annotation`; `write_pyskl_set` takes many videos.
    """
    _write(out, [(pyskl_annotation(reader, **options), split)])


class ClipLabel(NamedTuple):
    """What a clip shows, by the number of its class, and the split that it belongs to (None: the set's own)."""

    label: int
    split: str | None = None


def write_pyskl_set(
    readers: Sequence[StreamReader],
    out: Path,
    labels: Mapping[str, ClipLabel] | None = None,
    *,
    split: str = "val",
    label: int = -1,
    **options: Any,
) -> None:
    """Writes the videos of a set as one pickle, in their order.

    Args:
        readers: of the streams; the names of the clips are those of their files, or as the labels have them, with as
            many folders of their sources before them as tell them apart.
        out: the pickle.
        labels: by the clips' names, or those of the videos, or the ends of their paths; None gives all of them `label`
            and `split`.
        split: of clips whose label says none.
        label: of clips where there are no labels.
        options: those of `pyskl_annotation`.

    Raises:
        ConfigError: two clips have one name, or one has no label, or several that differ, or a label is of several; or
            they are of several sets of keypoints.
    """
    # COCO's are what clips of more have in common; a network would take one keypoint for another.
    check_one_skeleton([reader.of_coco() for reader in readers], "make a set of each")
    if labels is None:
        told = [_Told("", stem_of(reader.path), ClipLabel(label)) for reader in readers]
    else:
        told = _told(readers, labels)
    names = _names(readers, told)
    _warn_of_one_source(readers)
    rows = []
    for reader, name, own in zip(readers, names, told, strict=True):
        annotation = pyskl_annotation(reader, label=own.label.label, **options) | {"frame_dir": name}
        rows.append((annotation, own.label.split or split))
    _write(out, rows)


_Parts = tuple[str, ...]
"""A path's folders and name."""


class _Told(NamedTuple):
    """The label of a clip, by the name `given` with it; in the set the clip has this `name`."""

    given: str
    name: str
    label: ClipLabel


def _told(readers: Sequence[StreamReader], labels: Mapping[str, ClipLabel]) -> list[_Told]:
    """Each clip's label: of those with whose path the clip's own ends that with most folders.

    Raises:
        ConfigError: a clip has none, or two that differ, or one is of clips of several videos.
    """
    clips, parts = _Clips(readers), {given: PurePath(given).parts for given in labels}
    if not any(len(path) > 1 and clips.named(path)[0] for path in parts.values()):
        parts = {given: path[-1:] for given, path in parts.items()}  # folders of another place: names alone count
    told: dict[int, _Told] = {}
    for given in sorted(parts, key=lambda given: -len(parts[given])):
        places, name = clips.named(parts[given])
        for place in places:
            other = told.setdefault(place, _Told(given, name, labels[given]))
            if len(parts[other.given]) == len(parts[given]) and other.label != labels[given]:
                raise ConfigError(
                    f"labels {other.given!r} and {given!r} are both of the clip {stem_of(readers[place].path)!r}, and "
                    "differ; leave one out"
                )
    if without := [reader for place, reader in enumerate(readers) if place not in told]:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        said = f"the labels are of {', '.join(list(labels)[:3])} ..." if labels else "there is no label at all"
        raise ConfigError(f"no label for {stem_of(without[0].path)!r}, of {without[0].header.source}{more}; {said}")
    for given, places in _grouped((own.given, place) for place, own in told.items()).items():
        sources = sorted({readers[place].header.source for place in places})
        if len(sources) > 1:
            raise ConfigError(
                f"the label {given!r} is of several clips, as {sources[0]} and {sources[1]}; give each with as many of "
                "its folders as tell them apart"
            )
        if len(places) > 1:  # several runs over one video
            told |= {place: told[place]._replace(name=stem_of(readers[place].path)) for place in places}
    return [told[place] for place in range(len(readers))]


class _Clips:
    """The clips of a set by the ends of their paths."""

    def __init__(self, readers: Sequence[StreamReader]) -> None:
        sources = [_parts_of_source(reader) for reader in readers]
        self._sources = _by_ends(sources)
        self._streams = _by_ends([(*reader.path.parent.parts, stem_of(reader.path)) for reader in readers])
        self._bare = _by_ends([_without_ending(parts) for parts in sources])

    def named(self, parts: _Parts) -> tuple[list[int], str]:
        """The places of the clips that these parts mean, and the name that they have by it.

        That is whose video's path ends so, or whose stream's, as it is or as a run makes a safe name of it; what looks
        like an ending may be a part of the name.
        """
        bare = _without_ending(parts)
        tried = [(self._sources, parts, bare)]
        tried += [(self._streams, (*p[:-1], last), p) for p in (parts, bare) for last in (p[-1], safe_stem(p[-1]))]
        tried += [(self._bare, bare, bare)]
        return next(((ends[path], own[-1]) for ends, path, own in tried if path in ends), ([], ""))


def _by_ends(paths: Sequence[_Parts]) -> dict[_Parts, list[int]]:
    """The places of those paths that end in the same parts, by these."""
    return _grouped((path[start:], place) for place, path in enumerate(paths) for start in range(len(path)))


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _parts_of_source(reader: StreamReader) -> _Parts:
    return PurePath(reader.header.source).parts or ("",)


def _without_ending(parts: _Parts) -> _Parts:
    return (*parts[:-1], _ENDING.sub("", parts[-1]))


def _names(readers: Sequence[StreamReader], told: Sequence[_Told]) -> list[str]:
    """The clips' own names, with as many of their sources' folders before them as tell one from the others.

    Raises:
        ConfigError: two are the same.
    """
    sources = [_parts_of_source(reader) for reader in readers]
    paths = [(*source[:-1], own.name) for source, own in zip(sources, told, strict=True)]
    of_path, of_both = Counter(paths), Counter(zip(paths, sources, strict=True))
    paths = [  # walk.avi and walk.mp4 are told apart by their endings
        path if of_path[path] == of_both[path, source] else source for path, source in zip(paths, sources, strict=True)
    ]
    names, depth = [path[-1] for path in paths], 1
    while twice := {name for name, count in Counter(names).items() if count > 1}:
        if depth == max(map(len, paths)):
            name = next(name for name in names if name in twice)
            files = [str(reader.path) for reader, own in zip(readers, names, strict=True) if own == name]
            raise ConfigError(
                f"several clips are named {name!r}, by which the set tells them apart: {', '.join(files)}; leave "
                "out one, or rename it"
            )
        depth += 1
        names = [
            PurePath(*path[-depth:]).as_posix() if name in twice else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names


def _warn_of_one_source(readers: Sequence[StreamReader]) -> None:
    """Says where streams are of one time of a file; a camera, and standard input, give something else each time."""
    films = [reader for reader in readers if reader.header.source != "-" and not _is_live(reader)]
    for source, group in _grouped((reader.header.source, reader) for reader in films).items():
        if len(group) > 1 and _overlap(group):
            paths = ", ".join(str(reader.path) for reader in group)
            log.warning("%s are all of %s; leave out what is there twice", paths, source)


def _overlap(readers: Iterable[StreamReader]) -> bool:
    """Whether one stream begins before another has ended, as parts of one run do not."""
    times = ([frame.pts_s for frame in reader] for reader in readers)
    spans = sorted((pts_s[0], pts_s[-1]) for pts_s in times if pts_s)
    return any(later[0] <= earlier[1] for earlier, later in pairwise(spans))


def _is_live(reader: StreamReader) -> bool:
    first = next(iter(reader), None)
    return first is not None and first.captured_at is not None


def read_labels(path: Path) -> dict[str, ClipLabel]:
    """Labels of clips by their names, from lines of `name,label` or `name,label,split`; a first line may name columns.

    Names may have folders; the ending of a stream is left out.

    Raises:
        ConfigError: the file cannot be read, or a line is of another form or of a name that was there.
    """
    labels: dict[str, ClipLabel] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the labels {path}: {error}; lines of name,label[,split] are wanted") from error
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and len(cells) > 1 and cells[1].lower() == "label"):
            continue
        if len(cells) not in (2, 3) or not PurePath(cells[0]).name or not re.fullmatch(r"-?\d+", cells[1]):
            raise ConfigError(
                f"{path} line {number} is {','.join(row)!r:.80}; name,label[,split] is wanted, label a number"
            )
        clip = PurePath(cells[0])
        name = str(clip.parent / stem_of(clip) if clip.suffix == ".jsonl" else clip)
        if name in labels:
            raise ConfigError(f"{path} line {number}: {name!r} has a label already")
        labels[name] = ClipLabel(int(cells[1]), (cells[2] or None) if len(cells) == 3 else None)
    return labels


def _write(out: Path, rows: Sequence[tuple[dict[str, Any], str]]) -> None:
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for annotation, split in rows:
        splits.setdefault(split, []).append(annotation["frame_dir"])
    with new_file(out) as file:
        _Pickler(file, protocol=4).dump({"split": splits, "annotations": [annotation for annotation, _ in rows]})


class _Pickler(pickle.Pickler):
    """Writes arrays by names that every NumPy knows; by itself version 2 writes one that those before 1.26 lack, with
    which PYSKL and MMAction2 often run."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return np.ndarray, (0,), obj.__reduce__()[2]  # an empty one, and what it becomes
        return NotImplemented
