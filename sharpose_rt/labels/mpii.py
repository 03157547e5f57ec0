"""Reads MPII Human Pose (Andriluka et al. 2014) into COCO's form, so that all other code has one form of labels.

Accepted are the dataset's own `mpii_human_pose_v1_u12_1.mat` and the common JSON of pose projects: a list of
{image, joints (16 x 2), joints_vis (16), center, scale}, with head boxes in a separate `mpii_gt_val.mat`. MPII counts
pixels from 1, this package from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sharpose_rt.errors import DatasetError
from sharpose_rt.skeleton import MPII16

SCALE_PX = 200.0  # MPII's unit: a person with scale 1 is 200 px tall
_BELOW_CENTRE = 15.0  # px at scale 1; moves the box down to include the feet, as all pose projects do
_AREA_OF_BOX = 0.21  # a person's segment over the square box: 0.53 of the tight box, which is 0.4 times as wide as high
_HEAD = 0.6  # PCKh's head size over the diagonal of the head box, from MPII's own evaluation


def from_records(records: list[Any], path: Path, head_boxes: Path | None = None) -> dict[str, list[Any]]:
    """The common JSON in COCO's form; `head_size_px` of people is NaN without head boxes.

    Args:
        records: the list.
        path: its file, for messages.
        head_boxes: `mpii_gt_val.mat`, with a head box for each record.

    Raises:
        DatasetError: a record is wrong (names it), or the head boxes do not match the records.
    """
    sizes = _head_sizes(head_boxes, len(records)) if head_boxes else [math.nan] * len(records)
    people = []
    for number, (record, size) in enumerate(zip(records, sizes, strict=True)):
        where = f"{path}: record[{number}]"
        if not isinstance(record, dict) or not isinstance(record.get("image"), str):
            raise DatasetError(f"{where} is {record!r:.80}; a mapping with `image` is accepted")
        joints = _array(record, "joints", (len(MPII16), 2), where)
        labelled = _array(record, "joints_vis", (len(MPII16),), where) > 0
        centre = _array(record, "center", (2,), where)
        scale = float(_array(record, "scale", (), where))
        people.append((record["image"], _person(joints, 2.0 * labelled, centre, scale, size, where)))
    return _document(people)


def read_mat(path: Path) -> dict[str, list[Any]]:
    """MPII's .mat in COCO's form: the labelled people of its training pictures, with head sizes.

    Raises:
        DatasetError: it cannot be read, or a record is wrong; names picture and person.
    """
    release = _load(path).get("RELEASE")
    if release is None or not hasattr(release, "annolist"):
        raise DatasetError(f"{path} has no RELEASE.annolist; mpii_human_pose_v1_u12_1.mat is accepted")
    trained = np.atleast_1d(release.img_train)
    people: list[tuple[str, dict[str, Any]]] = []
    for number, entry in enumerate(np.atleast_1d(release.annolist)):
        if not trained[number]:
            continue
        name = str(entry.image.name)
        for index, rect in enumerate(np.atleast_1d(getattr(entry, "annorect", []))):
            points = list(_points(rect))
            if points:
                people.append((name, _rect(rect, points, f"{path}: annolist[{number}] ({name}) annorect[{index}]")))
    return _document(people)


def _points(rect: Any) -> Iterator[Any]:
    """The labelled points of a person; none if MPII has none, which its file shows in several ways."""
    holder = getattr(rect, "annopoints", None)
    for point in np.atleast_1d(getattr(holder, "point", [])):
        if hasattr(point, "id"):
            yield point


def _rect(rect: Any, points: list[Any], where: str) -> dict[str, Any]:
    joints, visibility = np.ones((len(MPII16), 2)), np.zeros(len(MPII16))
    for point in points:
        if not 0 <= int(point.id) < len(MPII16):
            raise DatasetError(f"{where}: a point has id {point.id}; 0 to {len(MPII16) - 1} is accepted")
        joints[int(point.id)] = point.x, point.y
        # Head and neck have no flag; they are visible.
        visibility[int(point.id)] = 1 if str(getattr(point, "is_visible", "1")).strip() in ("0", "0.0") else 2
    try:
        centre, scale = np.array([rect.objpos.x, rect.objpos.y], np.float64), float(rect.scale)
        head = np.array([[rect.x1, rect.y1], [rect.x2, rect.y2]], np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f"{where} lacks head box, objpos or scale: {error}") from error
    return _person(joints, visibility, centre, scale, _HEAD * float(np.linalg.norm(head[1] - head[0])), where)


def _person(
    joints: np.ndarray, visibility: np.ndarray, centre: np.ndarray, scale: float, head_px: float, where: str
) -> dict[str, Any]:
    """A COCO record without ids; px from 0."""
    if not (scale > 0 and math.isfinite(scale)):
        raise DatasetError(f"{where}: scale is {scale}; a number above 0 is accepted")
    if head_px <= 0:
        raise DatasetError(f"{where}: the head box has the size {head_px}; above 0 px is accepted")
    side = SCALE_PX * scale
    left, top = centre - 1 + (0, _BELOW_CENTRE * scale) - side / 2
    triples = np.concatenate([joints - 1, visibility[:, None]], axis=1)
    triples[visibility == 0] = 0
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [float(left), float(top), side, side],
        "area": _AREA_OF_BOX * side * side,
        "keypoints": triples.ravel().tolist(),
        "num_keypoints": int((visibility > 0).sum()),
        "head_size_px": head_px,
    }


def _document(people: list[tuple[str, dict[str, Any]]]) -> dict[str, list[Any]]:
    names = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in people))}
    return {
        "images": [{"id": i, "file_name": name} for name, i in names.items()],
        "annotations": [{"id": i, "image_id": names[name]} | record for i, (name, record) in enumerate(people)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(MPII16.keypoints)}],
    }


def _array(record: dict[str, Any], key: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        array = np.asarray(record[key], np.float64)
    except (KeyError, TypeError, ValueError):
        array = np.zeros((0, 0, 0))
    if array.shape != shape or not np.isfinite(array).all():
        wanted = " x ".join(map(str, shape)) + " finite numbers" if shape else "a finite number"
        raise DatasetError(f"{where}: {key} is {record.get(key)!r:.60}; {wanted} is accepted")
    return array


def _head_sizes(path: Path, count: int) -> list[float]:
    boxes = np.asarray(_load(path).get("headboxes_src", np.zeros(0)), np.float64)
    if boxes.size != 4 * count:  # scipy squeezes the axis of a single record
        raise DatasetError(
            f"{path} has headboxes_src of shape {boxes.shape}; (2, 2, {count}) is needed, a head box for each record"
        )
    boxes = boxes.reshape(2, 2, count)
    return (_HEAD * np.linalg.norm(boxes[1] - boxes[0], axis=0)).tolist()


def _load(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        return loadmat(str(path), squeeze_me=True, struct_as_record=False)
    except Exception as error:  # scipy raises many kinds for other files
        raise DatasetError(f"cannot read {path}: {error}; a MATLAB file up to version 7.2 is accepted") from error
