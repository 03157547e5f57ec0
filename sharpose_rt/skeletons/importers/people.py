"""People from other programs, checked, and converted to the order of our keypoint sets."""

from __future__ import annotations

import codecs
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sharpose_rt.errors import StreamError
from sharpose_rt.skeleton import COCO17, HALPE26, MPII16, WHOLEBODY133, Skeleton
from sharpose_rt.skeletons.validation import FLOAT32_MAX
from sharpose_rt.types import Poses, PoseStage

# By the number of keypoints; Halpe's 136 begin with its 26.
_SETS = {17: COCO17, 16: MPII16, 26: HALPE26, 136: HALPE26, 133: WHOLEBODY133}


@dataclass(frozen=True)
class ImportedPerson:
    """One person of one frame.

    Args:
        table: (K, 3) x, y in px and score in 0..1; zeros for keypoints that were not found.
        bbox_xyxy: px; None if the file has none: then the box of the keypoints.
        bbox_score: 0..1; None if the file has none: then the mean score of the keypoints.
        track_id: as in the file, from 0; None if not tracked.
    """

    table: NDArray[np.float64]
    bbox_xyxy: Sequence[float] | None = None
    bbox_score: float | None = None
    track_id: int | None = None


@dataclass(frozen=True)
class Imported:
    """A whole file: the keypoint set, and the people of each frame that has any, by frame from 0.

    If the file contains them, also by frame: `sizes_wh` in px, and the names of `pictures`.
    """

    skeleton: Skeleton
    frames: dict[int, list[ImportedPerson]]
    sizes_wh: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    pictures: Mapping[int, str] = field(default_factory=dict)


def without_ids(imported: Imported) -> Imported:
    """The same people without track ids."""
    frames = {t: [replace(person, track_id=None) for person in people] for t, people in imported.frames.items()}
    return replace(imported, frames=frames)


def read_text(path: Path) -> bytes:
    """The UTF-8 text of a file, without a byte-order mark. Raises StreamError if it cannot be read."""
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise StreamError(f"cannot read {path}: {error.strerror or error}; give a file that exists") from error


def read_json(path: Path) -> Any:
    """The contents of a JSON file. Raises StreamError if it cannot be read or is not JSON."""
    try:
        return orjson.loads(read_text(path))
    except orjson.JSONDecodeError as error:
        raise StreamError(f"{path} is not JSON: {error}") from error


def numbers(value: Any, where: str, name: str, count: int | None = None) -> NDArray[np.float64]:
    """(n,) finite numbers of a (nested) list, within the range of float32.

    Raises:
        StreamError: it is anything else; the message has `where` and `name`.
    """
    try:
        array = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError):
        array = None
    if array is None or not (np.abs(array) <= FLOAT32_MAX).all() or (count is not None and len(array) != count):
        wanted = "a list of finite numbers" if count is None else f"{count} finite numbers"
        wanted += f" within ±{FLOAT32_MAX:.3g}"
        raise StreamError(f"{where}: {name} is {value!r:.80}; {wanted} is wanted")
    return array


def given(record: dict[str, Any], where: str, name: str, count: int) -> list[float] | None:
    """The numbers of a field; None if it is missing or null. Raises StreamError like `numbers`."""
    value = record.get(name)
    return None if value is None else numbers(value, where, name, count).tolist()


def id_of(value: Any, where: str, name: str = "track_id") -> int | None:
    """The track id in `value`, a number or a list with only this number; None for null and for negative numbers, which
    several programs give to people that they did not track.

    Raises:
        StreamError: it is not a number, or does not fit int64; the message has `where` and `name`.
    """
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    if value is None:
        return None
    with contextlib.suppress(ValueError):  # keys of JSON objects are strings
        value = int(value) if isinstance(value, str) else value
    # Not through a float, which rounds integers above 2**53.
    number = value if isinstance(value, int) else int(numbers(value, where, name, 1)[0])
    if number >= 2**63:
        raise StreamError(f"{where}: the id is {number!s:.80}; less than {2**63} is accepted")
    return number if number >= 0 else None


def skeleton_of(count: int, where: str) -> Skeleton:
    """The keypoint set for `count` keypoints. Raises StreamError for a count that belongs to no known set."""
    if count in _SETS:
        return _SETS[count]
    raise StreamError(
        f"{where}: {count} keypoints; 17 (COCO), 16 (MPII), 26 or 136 (Halpe, of which the body's 26 are taken) or 133 "
        "(COCO-WholeBody) are accepted"
    )


def to_poses(people: list[ImportedPerson], skeleton: Skeleton, first_id: int) -> Poses:
    """The people of one frame. Ids are shifted so that `first_id` becomes 1; 0 if there is none.

    The quality is unknown (NaN), and `stage` is fine, because the pose is the final result of the program.
    """
    if not people:
        return Poses.empty(len(skeleton))
    tables = np.stack([person.table for person in people])
    found = found_of(tables)
    tables[~found] = 0
    tables[..., 2] = tables[..., 2].clip(0, 1)
    boxes = [_box(person, table[mask]) for person, table, mask in zip(people, tables, found, strict=True)]
    scores = [_score(person, table[mask]) for person, table, mask in zip(people, tables, found, strict=True)]
    ids = [0 if person.track_id is None else person.track_id + 1 - first_id for person in people]
    return Poses(
        bboxes_xyxy=np.array(boxes, np.float32),
        bbox_scores=np.clip(np.array(scores, np.float32), 0, 1),
        track_ids=np.array([i if i not in ids[:n] else 0 for n, i in enumerate(ids)], np.int64),
        keypoints=tables[..., :2].astype(np.float32),
        keypoint_scores=tables[..., 2].astype(np.float32),
        raw_keypoints=tables[..., :2].astype(np.float32),
        raw_keypoint_scores=tables[..., 2].astype(np.float32),
        quality=np.full(len(people), math.nan, np.float32),
        stage=np.full(len(people), PoseStage.FINE, np.int64),
    )


def found_of(tables: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which keypoints of (..., 3) were found, (...)."""
    # Most programs write (0, 0) for a keypoint that was not found; some with a score above 0.
    return (tables[..., 2] > 0) & (tables[..., :2] != 0).any(-1)


def _box(person: ImportedPerson, found: NDArray[np.float64]) -> Sequence[float]:
    if person.bbox_xyxy is not None:
        return person.bbox_xyxy
    return [*found[:, :2].min(axis=0), *found[:, :2].max(axis=0)] if len(found) else [0.0, 0.0, 0.0, 0.0]


def _score(person: ImportedPerson, found: NDArray[np.float64]) -> float:
    if person.bbox_score is not None:
        return person.bbox_score
    return float(found[:, 2].mean()) if len(found) else 0.0
