"""OpenPose JSON 1.3: a folder with one file per frame, `<stem>_<12 digits>_keypoints.json`."""

from __future__ import annotations

import logging
import os
import re
import zlib
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from sharpose_rt.skeletons.convert.common import (
    clear_folders,
    found_points,
    has_pictures,
    new_folder,
    rounded,
    stem_of,
    with_points,
)
from sharpose_rt.skeletons.convert.layouts import BODY_25, OPENPOSE_18, OPENPOSE_PARTS, check_layout, to_layout
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.skeletons.records import FrameRecord
from sharpose_rt.skeletons.stream import StreamReader

_END = "_keypoints.json"
_LONGEST_NAME = 255  # bytes, of most file systems

log = logging.getLogger("sharpose_rt.skeletons")

_LAYOUTS = {"COCO": OPENPOSE_18, "BODY_25": BODY_25}
_NOT_MADE = ("pose_keypoints_3d", "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d")


def write_openpose(
    reader: StreamReader,
    out: Path,
    *,
    model: Literal["COCO", "BODY_25"] = "BODY_25",
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
) -> None:
    """Writes the folder `out`; frames without people get a file with an empty list.

    People without a keypoint are left out, as in OpenPose.

    `model` is the order of `pose_keypoints_2d`, named as in OpenPose's --model_pose: 'BODY_25', its default and the
    only one that some readers accept, or 'COCO' (18 keypoints). Missing keypoints, such as feet if the set has none,
    are 0, 0, 0. Face and hands are written if the set has them, except for the pupils; otherwise their lists are empty.
    `person_id` is the track id, which is always -1 in OpenPose; -1 if no tracker ran. The number in a file's name is
    the `frame_id`. For pictures the name is `<picture's name>_keypoints.json`, as with OpenPose's --image_dir, and
    `stream` in it identifies the file it was converted from. Files of an earlier conversion of the same file, or of a
    clip with the same name, are removed from the folder."""
    check_layout(reader, (*_LAYOUTS[model], *chain.from_iterable(OPENPOSE_PARTS.values())))
    if not predicted:
        reader = reader.without_predicted()
    stream, others, replaced = _mark(reader.path), [], []
    of_clip = re.compile(re.escape(stem_of(reader.path)) + "_[0-9]{12}" + re.escape(_END))

    @cache  # reads the file, and is called before the folder changes and while it does
    def is_old(file: Path) -> bool:
        told = _stream_of(file)
        return told == stream if told else bool(of_clip.fullmatch(file.name))

    clear_folders(out)
    with new_folder(out, is_old) as folder:
        for frame in reader:
            _write_frame(folder, reader, frame, _LAYOUTS[model], raw, min_score)
        if has_pictures(reader):
            here = [file for file in out.glob(f"*{_END}") if not is_old(file)]
            replaced = [file.name for file in here if (folder / file.name).exists()]
            others = [file.name for file in here if file.name not in set(replaced)]
    if others:
        log.warning(
            "%s has %d more files, such as %s, that may not be from %s, so they are kept; remove those you do not need",
            out, len(others), min(others), reader.path.name,
        )  # fmt: skip
    if replaced:
        log.warning(
            "%s had %d files of the same names, such as %s, that may not be from %s; they were replaced",
            out, len(replaced), min(replaced), reader.path.name,
        )  # fmt: skip


def _mark(path: Path) -> str:
    """Distinguishes the file of a stream from others of the same name, without revealing its path."""
    return f"{plain(path.name)} {zlib.crc32(os.fsencode(path.resolve())):08x}"


def _stream_of(file: Path) -> str | None:
    """The mark of the stream in the file of a picture; None if it has none."""
    try:
        record = orjson.loads(file.read_bytes()) if file.name.endswith(_END) else None
    except (OSError, orjson.JSONDecodeError):
        return None
    return record.get("stream") if isinstance(record, dict) else None


def _write_frame(
    folder: Path, reader: StreamReader, frame: FrameRecord, layout: tuple[str, ...], raw: bool, min_score: float
) -> None:
    found, skeleton = found_points(frame.poses, raw=raw, min_score=min_score), reader.header.skeleton
    points, track_ids = rounded(to_layout(found, skeleton, layout)), frame.poses.track_ids.tolist()
    parts = {
        name: rounded(to_layout(found, skeleton, of_part))
        for name, of_part in OPENPOSE_PARTS.items()
        if of_part[0] in skeleton.keypoints
    }
    people = [
        {"person_id": [track_ids[i] or -1], "pose_keypoints_2d": points[i].ravel().tolist()}
        | {name: parts[name][i].ravel().tolist() if name in parts else [] for name in OPENPOSE_PARTS}
        | {name: [] for name in _NOT_MADE}
        for i in with_points(np.concatenate([points, *parts.values()], axis=1))
    ]
    record: dict[str, Any] = {"version": 1.3, "people": people}
    name = f"{stem_of(reader.path)}_{frame.frame_id:012d}"
    if frame.picture is not None:
        whole = Path(frame.picture).name  # where there is a.png beside a.jpg, or an a.jpg in several folders
        names = (Path(frame.picture).stem, whole, f"{whole}_{frame.frame_id:012d}", name)
        fit = (free for free in names if len(os.fsencode(f"{free}{_END}")) <= _LONGEST_NAME)
        name = next(free for free in fit if not (folder / f"{free}{_END}").exists())
        record["stream"] = _mark(reader.path)  # the name does not tell whose the file is, and a later run asks
    (folder / f"{name}{_END}").write_bytes(orjson.dumps(record))
