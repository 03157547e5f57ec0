"""Labelled people for pycocotools and our metrics.

Letters: N people, K keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError, DatasetError
from sharpose_rt.labels.boxes import box_keypoints
from sharpose_rt.labels.coco import (
    area_of,
    box_of,
    check_picture,
    check_thirds,
    keypoints_of,
    number_of,
    people_ids,
    people_records,
    picture_paths,
    put_in_order,
    read_document,
    wrong_record,
)
from sharpose_rt.models import VARIANTS, Variant
from sharpose_rt.skeleton import COCO17, MPII16, Skeleton


def read_labels(
    path: Path,
    head_boxes: Path | None = None,
    first: Skeleton = COCO17,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The people of a label file for pycocotools, in category 1, with missing fields (area, crowd flag, count,
    keypoints) filled in.

    People are selected by `labels.coco.people_records`; keypoints are ordered by `put_in_order` with `first`, the
    network's keypoints, and `say`; missing boxes are added by `labels.boxes.box_keypoints`. MPII's files are read too,
    see `labels.coco.read_document`. A list of pictures without labels, as COCO publishes for its test sets, has an
    empty list of annotations. The original categories of people are kept as `people_ids`.

    Raises:
        DatasetError: the file or a record is wrong, or contains no person; names both.
    """
    document = read_document(path, head_boxes, labelled=False)
    box_keypoints(document)
    skeleton = put_in_order(document, path, first, say) or first
    index_of, people = picture_ids(document["images"], path), {}
    for number, record in people_records(document, path):
        check_picture(record, number, path, index_of)
        person = _filled_in(record, number, path, len(skeleton))
        if person["id"] in people:
            raise wrong_record(path, number, f"it repeats the id {person['id']}")
        people[person["id"]] = person
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.keypoints)}
    ids = people_ids(document, path) if people else None
    return {**document, "annotations": list(people.values()), "categories": [category], "people_ids": ids}


def _filled_in(record: dict[str, Any], number: int, path: Path, joints: int) -> dict[str, Any]:
    """A record with all fields that pycocotools reads; null is treated as missing."""
    person = {key: value for key, value in record.items() if value is not None}
    if not _is_int64(person.get("id")):
        raise wrong_record(path, number, f"id is {person.get('id')!r:.80}; an integer is wanted, of 64 bits at most")
    box = box_of(person, number, path, empty=True)
    person["keypoints"] = person.get("keypoints") or [0] * (3 * joints)
    person["keypoints"] = keypoints_of(person, number, path, joints)
    visibility = person["keypoints"][2::3]
    if any(0 < v < 1 for v in visibility):
        raise wrong_record(
            path,
            number,
            "it has keypoint scores, so a teacher wrote it; AP is measured on hand labels (visibility 0, 1, 2)",
        )
    check_thirds(np.array([visibility], np.float64), "hand", path, [number])
    numbers = {"num_keypoints": sum(v > 0 for v in visibility), "iscrowd": 0}
    checked = {key: number_of(person, key, number, path, value) for key, value in numbers.items()}
    return {**person, **checked, "area": area_of(person, box, number, path), "category_id": 1}


def picture_ids(images: list[Any], path: Path) -> dict[int, int]:
    """Index of each picture's id; raises DatasetError if a record is wrong or an id is not an integer, as in COCO."""
    index_of, _ = picture_paths(images, path, Path())
    for image_id, index in index_of.items():
        if not _is_int64(image_id):
            raise DatasetError(
                f"{path}: images[{index}] has the id {image_id!r:.80}; an integer is wanted, of 64 bits at most"
            )
    return index_of


def _is_int64(value: Any) -> bool:
    """Whether a value is an integer that fits arrays of ids."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and -(2**63) <= value < 2**63


def is_mpii(document: Mapping[str, Any]) -> bool:
    """Whether the labels of a document have MPII's keypoints."""
    categories = [item for item in document.get("categories") or () if isinstance(item, dict)]
    return any(item.get("keypoints") == list(MPII16.keypoints) for item in categories)


def by_pckh(document: Mapping[str, Any]) -> bool:
    """Whether the metric is PCKh: for MPII's own files, whose people have a head size (NaN if not given).

    People with MPII's keypoints in COCO's form have none, and their metric is AP.
    """
    return any("head_size_px" in record for record in document["annotations"])


def skeleton_of(document: Mapping[str, Any]) -> Skeleton:
    """The keypoint set of the labels of a document."""
    return MPII16 if is_mpii(document) else COCO17


def check_keypoints(variant: Variant, document: dict[str, Any]) -> None:
    """Checks that a network has the keypoints of the labels, if there are labels.

    Raises:
        ConfigError: it has others; names the variants that fit.
    """
    labelled = skeleton_of(document)
    if document["annotations"] and variant.skeleton.keypoints != labelled.keypoints:
        fitting = " or ".join(v.name for v in VARIANTS.values() if v.skeleton.keypoints == labelled.keypoints)
        raise ConfigError(
            f"the labels have the {len(labelled)} keypoints of {labelled.name}, but {variant.name} gives the "
            f"{len(variant.skeleton)} of {variant.skeleton.name}; --model {fitting} fits"
        )


def counted_people(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of people in a label file that are not a crowd and have a keypoint."""
    return [a for a in document["annotations"] if a.get("num_keypoints") and not a.get("iscrowd")]


def labels_of(ids: NDArray[np.int64], document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records with these ids (N,), such as the `annotation_ids` of ground-truth boxes."""
    by_id = {record["id"]: record for record in document["annotations"]}
    return [by_id[i] for i in ids.tolist()]


def label_triples(records: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Labelled x, y and visibility (N, K, 3)."""
    return np.array([record["keypoints"] for record in records], np.float64).reshape(len(records), -1, 3)
