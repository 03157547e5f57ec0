"""The annotation pickle of PYSKL and MMAction2 (skeleton-based action recognition)."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sharpose_rt.skeletons.action import Fill, action_array
from sharpose_rt.skeletons.convert.clip_labels import ClipLabel, Told, clip_names, grouped, labels_of
from sharpose_rt.skeletons.convert.common import check_one_skeleton, new_file, stem_of
from sharpose_rt.skeletons.stream import StreamReader

log = logging.getLogger("sharpose_rt.skeletons")


def pyskl_annotation(
    reader: StreamReader,
    *,
    label: int = -1,
    person_slots: int = 2,
    fill: Fill = "none",
    max_gap_s: float | None = None,
    fps: float | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
) -> dict[str, Any]:
    """One entry of `annotations`: keypoint (M, T, V, 2) px, keypoint_score (M, T, V), shapes as (height, width).

    A slot is one track for the whole video; see `action_array` for how they are chosen, for people without track ids,
    and for `fps`. The projects' own files are float16, which rounds to whole pixels beyond 1024 px; both also read
    float32, which is the default here. Feet are left out: the graphs of both projects use COCO's 17 keypoints."""
    reader = reader.of_coco()
    if not predicted:
        reader = reader.without_predicted()
    array = action_array(reader, person_slots, raw=raw, min_score=min_score, fill=fill, max_gap_s=max_gap_s, fps=fps)
    if not array.scores.any():
        log.warning("%s contains nobody, so its arrays are all zeros", reader.path)
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

    Options are those of `pyskl_annotation`; use `write_pyskl_set` for several videos.
    """
    _write(out, [(pyskl_annotation(reader, **options), split)])


def write_pyskl_set(
    readers: Sequence[StreamReader],
    out: Path,
    labels: Mapping[str, ClipLabel] | None = None,
    *,
    split: str = "val",
    label: int = -1,
    **options: Any,
) -> None:
    """Writes the videos of a dataset as one pickle, in their order.

    Args:
        readers: of the streams; clips are named as their files, or as in the labels, with as many folders of their
            sources as needed to tell them apart.
        out: the pickle.
        labels: numbers, by the names of clips or videos, or the ends of their paths; None gives all clips `label` and
            `split`.
        split: for clips whose label has none.
        label: for clips if there are no labels.
        options: those of `pyskl_annotation`.

    Raises:
        ConfigError: two clips have the same name, a clip has no label or contradictory ones, a label belongs to several
            clips, or their keypoint sets differ.
    """
    # Sets with more keypoints have COCO's in common; a network would confuse keypoints of different sets.
    check_one_skeleton([reader.of_coco() for reader in readers], "make a dataset of each")
    if labels is None:
        told = [Told("", stem_of(reader.path), ClipLabel(label)) for reader in readers]
    else:
        told = labels_of(readers, labels)
    names = clip_names(readers, told)
    _warn_of_one_source(readers)
    rows = []
    for reader, name, own in zip(readers, names, told, strict=True):
        annotation = pyskl_annotation(reader, label=int(own.label.label), **options) | {"frame_dir": name}
        rows.append((annotation, own.label.split or split))
    _write(out, rows)


def _warn_of_one_source(readers: Sequence[StreamReader]) -> None:
    """Warns if streams are of the same part of a file; cameras and standard input differ each time."""
    films = [reader for reader in readers if reader.header.source != "-" and not _is_live(reader)]
    for source, group in grouped((reader.header.source, reader) for reader in films).items():
        if len(group) > 1 and _overlap(group):
            paths = ", ".join(str(reader.path) for reader in group)
            log.warning("%s are all of %s; leave out duplicates", paths, source)


def _overlap(readers: Iterable[StreamReader]) -> bool:
    """Whether one stream begins before another has ended, unlike the parts of a run."""
    times = ([frame.pts_s for frame in reader] for reader in readers)
    spans = sorted((pts_s[0], pts_s[-1]) for pts_s in times if pts_s)
    return any(later[0] <= earlier[1] for earlier, later in pairwise(spans))


def _is_live(reader: StreamReader) -> bool:
    first = next(iter(reader), None)
    return first is not None and first.captured_at is not None


def _write(out: Path, rows: Sequence[tuple[dict[str, Any], str]]) -> None:
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for annotation, split in rows:
        splits.setdefault(split, []).append(annotation["frame_dir"])
    with new_file(out) as file:
        _Pickler(file, protocol=4).dump({"split": splits, "annotations": [annotation for annotation, _ in rows]})


class _Pickler(pickle.Pickler):
    """Writes arrays with names that every NumPy has; NumPy 2 would write one that versions before 1.26 lack, with which
    PYSKL and MMAction2 often run."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return np.ndarray, (0,), obj.__reduce__()[2]  # an empty array, and its state
        return NotImplemented
