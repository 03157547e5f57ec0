"""Pictures with boxes around people, from label files in COCO's form: what a detector learns from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.training.datasets import is_numbers, picture_paths, read_json, wrong_record

MIN_HEIGHT_PX, MIN_WIDTH_PX = 60, 20
"""A smaller person has less detail than a shape is learnt from."""
MIN_LABEL_SCORE, MIN_POSE_SCORE, MIN_KEYPOINTS = 0.5, 0.45, 9
"""A teacher's box below the first is neither person nor background; below the others it may show a part of one."""
Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """A picture and what its labels say.

    Args:
        path: the file.
        people_xyxy: (N, 4) px, people for sure.
        whole: (N,), whether enough of a person shows to learn a shape from.
        unsure_xyxy: (M, 4) px, crowds and unsure labels: neither person nor background.
        complete: whether everybody in it is labelled; else it gives people, but no background and no calibration.
        set_name: the set that it is of.
    """

    path: str
    people_xyxy: Boxes
    whole: NDArray[np.bool_]
    unsure_xyxy: Boxes
    complete: bool
    set_name: str

    @property
    def labelled_xyxy(self) -> Boxes:
        """(N + M, 4) px, all that is no background."""
        return np.concatenate([self.people_xyxy, self.unsure_xyxy])


def read_pictures(folder: Path, *, complete: bool = True, min_score: float = MIN_LABEL_SCORE) -> list[Picture]:
    """The pictures of a set (`annotations.json` and `images/`, COCO form) with their people's boxes.

    Args:
        folder: of the set.
        complete: whether everybody in its pictures has a box.
        min_score: a teacher's box below is unsure.

    Raises:
        DatasetError: the file or a record is wrong; names both.
    """
    annotations = folder / "annotations.json"
    document = read_json(annotations)
    index_of, paths = picture_paths(document["images"], annotations, folder / "images")
    rows: list[list[tuple[list[float], bool, bool]]] = [[] for _ in paths]
    for number, record in enumerate(document["annotations"]):
        if not isinstance(record, dict) or record.get("image_id") not in index_of:
            raise wrong_record(annotations, number, f"it is {record!r:.80}; its `image_id` is not among `images`")
        box = record.get("bbox")
        if not is_numbers(box, 4) or min(box[2:]) <= 0:
            raise wrong_record(annotations, number, f"bbox is {box!r}; [x, y, width, height] in px above 0 is wanted")
        sure = not record.get("iscrowd") and not record.get("ignore") and record.get("score", 1) >= min_score
        x, y, w, h = box
        rows[index_of[record["image_id"]]].append(([x, y, x + w, y + h], sure, sure and _is_whole(record, w, h)))
    return [_picture(path, row, complete, folder.name) for path, row in zip(paths, rows, strict=True)]


def _is_whole(record: dict[str, Any], width_px: float, height_px: float) -> bool:
    return (
        height_px >= MIN_HEIGHT_PX
        and width_px >= MIN_WIDTH_PX
        and record.get("num_keypoints", 17) >= MIN_KEYPOINTS
        and record.get("pose_score", 1) >= MIN_POSE_SCORE
    )


def _picture(path: str, rows: list[tuple[list[float], bool, bool]], complete: bool, set_name: str) -> Picture:
    boxes = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    sure, whole = (np.array([row[i] for row in rows], bool) for i in (1, 2))
    return Picture(path, boxes[sure], whole[sure], boxes[~sure], complete, set_name)
