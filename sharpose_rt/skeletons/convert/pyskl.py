"""The annotation pickle of PYSKL and MMAction2 (skeleton-based action recognition)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

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

    A slot is one track for the whole video, see `action_array`. The projects' own files are float16, which rounds
    to a whole pixel beyond 1024 px; both read float32 as well, so that is the default.
    """
    array = action_array(reader.path, person_slots, raw=raw, min_score=min_score, fill=fill, max_gap_s=max_gap_s)
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

    Options are those of `pyskl_annotation`. For a set of videos gather the annotations and pickle them alike.
    """
    annotation = pyskl_annotation(reader, **options)
    splits: dict[str, list[str]] = {"train": [], "val": []}
    splits.setdefault(split, []).append(annotation["frame_dir"])
    with new_file(out) as file:
        pickle.dump({"split": splits, "annotations": [annotation]}, file, protocol=4)
