"""Boxes for people who only have keypoints in a label file, as written by several labelling programs."""

from __future__ import annotations

from typing import Any

from sharpose_rt.labels.coco import is_numbers
from sharpose_rt.labels.records import stated_size

_LEFT, _TOP, _RIGHT, _BOTTOM = 0.07, 0.14, 0.07, 0.1
"""How far COCO's boxes extend beyond the keypoints, as a fraction of the longer side that these span: medians over 256
people with 8 or more keypoints."""
_SAME_PX = 0.05
"""Programs round to 0.01 px, or to six digits relative to the sides of the picture."""


def box_keypoints(document: dict[str, list[Any]]) -> None:
    """Gives people who only have keypoints a box around these, with a margin as in COCO, in place.

    CVAT and Supervisely write the smallest box around the keypoints, COCO Annotator one of 0 px, FiftyOne no boxes in
    the whole file. People with one keypoint or none have no known size, and become a crowd of 1 px, which is ignored in
    training and evaluation. A box that is missing while others have one stays missing, which code that needs it
    reports.
    """
    people = [(record, flat) for record in document["annotations"] if (flat := _keypoints(record))]
    nobody_has_one = all(record.get("bbox") is None for record, _ in people)
    images = [image for image in document["images"] if isinstance(image, dict)]
    sizes_wh = {repr(image.get("id")): stated_size(image) for image in images}
    for record, flat in people:
        xs, ys = ([value for value, v in zip(flat[axis::3], flat[2::3], strict=True) if v > 0] for axis in (0, 1))
        left, top, right, bottom = (min(xs), min(ys), max(xs), max(ys)) if xs else (0.0, 0.0, 0.0, 0.0)
        box = record.get("bbox")
        if not (nobody_has_one if box is None else _tells_nothing(box, (left, top, right - left, bottom - top))):
            continue
        longer = max(right - left, bottom - top)
        width, height = sizes_wh.get(repr(record.get("image_id"))) or (0, 0)
        left, top = max(left - _LEFT * longer, 0), max(top - _TOP * longer, 0)
        right, bottom = right + _RIGHT * longer, bottom + _BOTTOM * longer
        sides = [min(right, width or right) - left, min(bottom, height or bottom) - top]
        known = min(sides) > 0
        record |= {"bbox": [left, top, *sides]} if known else {"bbox": [left, top, 1, 1], "iscrowd": 1}


def _keypoints(record: Any) -> list[float] | None:
    """The keypoint values of a record, three each; None if they are missing or wrong."""
    flat = record.get("keypoints") if isinstance(record, dict) else None
    return flat if isinstance(flat, list) and is_numbers(flat, len(flat) // 3 * 3) else None


def _tells_nothing(box: Any, spanned: tuple[float, float, float, float]) -> bool:
    """Whether a box has 0 px, or is the one spanned by its keypoints."""
    if not is_numbers(box, 4):
        return False
    off = [a - b for a, b in zip(box, spanned, strict=True)]
    # Supervisely includes both the first and the last pixel, one more than their distance.
    likely = ((0, 0, 0, 0), (0, 0, 1, 1))
    return not any(box[2:]) or any(all(abs(a - b) < _SAME_PX for a, b in zip(off, by, strict=True)) for by in likely)
