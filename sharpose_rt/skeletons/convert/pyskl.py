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
from sharpose_rt.skeletons.stream import StreamReader


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
        readers: of the streams; the names of the clips are those of their files.
        out: the pickle.
        labels: by the clips' names; None gives all of them `label` and `split`.
        split: of clips whose label says none.
        label: of clips where there are no labels.
        options: those of `pyskl_annotation`.

    Raises:
        ConfigError: two clips have one name, or one has no label.
    """
    names = [stem_of(reader.path) for reader in readers]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"several clips are named {twice[0]!r}, by which the set tells them apart; rename one")
    if labels is not None and (without := [name for name in names if name not in labels]):
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise ConfigError(f"no label for {without[0]!r}{more}; the labels are of {', '.join(list(labels)[:3])} ...")
    rows = []
    for name, reader in zip(names, readers, strict=True):
        told = ClipLabel(label) if labels is None else labels[name]
        rows.append((pyskl_annotation(reader, label=told.label, **options), told.split or split))
    _write(out, rows)


def read_labels(path: Path) -> dict[str, ClipLabel]:
    """Labels of clips by their names, from lines of `name,label` or `name,label,split`; a first line may name columns.

    A name may have the ending of a video or of a stream.

    Raises:
        ConfigError: the file cannot be read, or a line is of another form or of a clip that was there.
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
        name = _clip_name(cells[0])
        if name in labels:
            raise ConfigError(f"{path} line {number}: {name!r} has a label already")
        labels[name] = ClipLabel(int(cells[1]), (cells[2] or None) if len(cells) == 3 else None)
    return labels


def _clip_name(text: str) -> str:
    name = Path(text).name
    return (
        stem_of(Path(name)) if name.endswith(".jsonl") else re.sub(r"\.(mp4|avi|mov|mkv|webm)$", "", name, flags=re.I)
    )


def _write(out: Path, rows: Sequence[tuple[dict[str, Any], str]]) -> None:
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for annotation, split in rows:
        splits.setdefault(split, []).append(annotation["frame_dir"])
    with new_file(out) as file:
        pickle.dump({"split": splits, "annotations": [annotation for annotation, _ in rows]}, file, protocol=4)
