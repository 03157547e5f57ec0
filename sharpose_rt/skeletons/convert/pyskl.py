"""The annotation pickle of PYSKL and MMAction2 (skeleton-based action recognition)."""

from __future__ import annotations

import csv
import pickle
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.action import Fill, action_array
from sharpose_rt.skeletons.convert.common import new_file, stem_of
from sharpose_rt.skeletons.names import safe_stem
from sharpose_rt.skeletons.stream import StreamReader

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
) -> dict[str, Any]:
    """One entry of `annotations`: keypoint (M, T, V, 2) px, keypoint_score (M, T, V), shapes as (height, width).

    A slot is one track for the whole video, or without track ids whoever has one place in the frames, see
    `action_array`. The projects' own files are float16, which rounds to a whole pixel beyond 1024 px; both read float32
    as well, so that is the default.
    """
    array = action_array(reader, person_slots, raw=raw, min_score=min_score, fill=fill, max_gap_s=max_gap_s)
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
        readers: of the streams; the names of the clips are those of their files, or as the labels have them.
        out: the pickle.
        labels: by the clips' names, or those of the videos; None gives all of them `label` and `split`.
        split: of clips whose label says none.
        label: of clips where there are no labels.
        options: those of `pyskl_annotation`.

    Raises:
        ConfigError: two clips have one name, or one has no label, or several that differ.
    """
    clips = [stem_of(reader.path) for reader in readers]
    if twice := [name for name, count in Counter(clips).items() if count > 1]:
        raise ConfigError(f"several clips are named {twice[0]!r}, by which the set tells them apart; rename one")
    told = {clip: _Told(clip, clip, ClipLabel(label)) for clip in clips} if labels is None else _told(clips, labels)
    rows = []
    for clip, reader in zip(clips, readers, strict=True):
        _, name, own = told[clip]
        annotation = pyskl_annotation(reader, label=own.label, **options) | {"frame_dir": name}
        rows.append((annotation, own.split or split))
    _write(out, rows)


class _Told(NamedTuple):
    """The label of a clip, by the name `given` with it; in the set the clip has this `name`."""

    given: str
    name: str
    label: ClipLabel


def _told(clips: Sequence[str], labels: Mapping[str, ClipLabel]) -> dict[str, _Told]:
    """Each clip's label: that of its own name, of its video's file, or of what a run made a safe name of.

    Raises:
        ConfigError: a clip has none, or two that differ.
    """
    known, told = set(clips), dict[str, _Told]()
    for given, label in labels.items():
        names = (given, _ENDING.sub("", given))  # as it is first: what looks like an ending may be a part of the name
        of_clips = ((clip, name) for name in names for clip in (name, safe_stem(name)))
        clip, name = next(((clip, name) for clip, name in of_clips if clip in known), ("", ""))
        if clip and told.setdefault(clip, _Told(given, name, label)).label != label:
            raise ConfigError(
                f"labels {told[clip].given!r} and {given!r} are both of the clip {clip!r}, and differ; leave one out"
            )
    if without := [clip for clip in clips if clip not in told]:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise ConfigError(f"no label for {without[0]!r}{more}; the labels are of {', '.join(list(labels)[:3])} ...")
    return told


def read_labels(path: Path) -> dict[str, ClipLabel]:
    """Labels of clips by their names, from lines of `name,label` or `name,label,split`; a first line may name columns.

    Names are without folders and the ending of a stream.

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
        if len(cells) not in (2, 3) or not cells[0] or not re.fullmatch(r"-?\d+", cells[1]):
            raise ConfigError(
                f"{path} line {number} is {','.join(row)!r:.80}; name,label[,split] is wanted, label a number"
            )
        name = Path(cells[0]).name
        name = stem_of(Path(name)) if name.endswith(".jsonl") else name
        if name in labels:
            raise ConfigError(f"{path} line {number}: {name!r} has a label already")
        labels[name] = ClipLabel(int(cells[1]), (cells[2] or None) if len(cells) == 3 else None)
    return labels


def _write(out: Path, rows: Sequence[tuple[dict[str, Any], str]]) -> None:
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for annotation, split in rows:
        splits.setdefault(split, []).append(annotation["frame_dir"])
    with new_file(out) as file:
        pickle.dump({"split": splits, "annotations": [annotation for annotation, _ in rows]}, file, protocol=4)
