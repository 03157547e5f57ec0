"""Kinetics-skeleton JSON, as read by ST-GCN's feeder: one file per video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sharpose_rt.skeletons.convert.common import found_points, new_file, with_points
from sharpose_rt.skeletons.convert.layouts import OPENPOSE_18, check_layout, to_layout
from sharpose_rt.skeletons.evenly import at_fps
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.skeletons.stream import StreamReader

log = logging.getLogger("sharpose_rt.skeletons")

_FEEDER_FRAMES = 299


def write_kinetics(
    reader: StreamReader,
    out: Path,
    *,
    label: str = "unknown",
    label_index: int = -1,
    person_slots: int = 5,
    max_frames: int | None = None,
    fps: float | None = None,
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
) -> None:
    """Writes {data: [{frame_index, skeleton: [{pose, score}]}], label, label_index}.

    `frame_index` counts from 1; `pose` has x, y divided by width and height of the frame (3 decimals) in the order of
    OpenPose's 18 keypoints, 0, 0 if one is missing. A frame has the `person_slots` people with the highest mean scores,
    without those who have no keypoint. `fps` resamples to this many frames per second of media time (`at_fps`).
    ST-GCN's feeder fails at a `frame_index` of 300: cut longer videos, or use `max_frames=299`, the last index that is
    written."""
    check_layout(reader, OPENPOSE_18)
    if not predicted:
        reader = reader.without_predicted()
    tail = {"label": plain(label), "label_index": label_index}
    with new_file(out) as file:
        file.write(b'{"data":[')
        last = 0
        for record in _frames(reader, fps, person_slots, raw, min_score):
            if max_frames is not None and record["frame_index"] > max_frames:
                break
            file.write((b",\n" if last else b"\n") + orjson.dumps(record))
            last = record["frame_index"]
        if last > _FEEDER_FRAMES:
            log.warning(
                "%s has frames up to %d, and ST-GCN's feeder fails beyond %d; `sharpose-rt convert --to kinetics "
                "--option max_frames=%d` leaves out the rest",
                out, last, _FEEDER_FRAMES, _FEEDER_FRAMES,
            )  # fmt: skip
        file.write(b"\n]," + orjson.dumps(tail)[1:] + b"\n")


def _frames(
    reader: StreamReader, fps: float | None, person_slots: int, raw: bool, min_score: float
) -> Iterator[dict[str, Any]]:
    for frame in reader if fps is None else at_fps(reader, fps):
        size = np.array(frame.frame_size_wh or reader.header.frame_size_wh, np.float64)
        table = found_points(frame.poses, raw=raw, min_score=min_score)
        table = to_layout(table, reader.header.skeleton, OPENPOSE_18)
        table = table[with_points(table)]
        strongest = np.sort(np.argsort(-table[..., 2].mean(axis=1), kind="stable")[:person_slots])
        poses, scores = np.round(table[..., :2] / size, 3) + 0.0, np.round(table[..., 2], 3)
        people = [{"pose": poses[i].ravel().tolist(), "score": scores[i].tolist()} for i in strongest]
        yield {"frame_index": frame.frame_id + 1, "skeleton": people}
