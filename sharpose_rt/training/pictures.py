"""Pictures with boxes around people, from label files in COCO's form: what a detector learns from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.training.datasets import (
    box_of,
    check_picture,
    looked_at,
    number_of,
    people_records,
    picture_paths,
    read_json,
)

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

    Who is a person, says `datasets.people_records`.

    Args:
        folder: of the set.
        complete: whether everybody in its pictures has a box.
        min_score: a teacher's box below is unsure.

    Raises:
        DatasetError: the file or a record is wrong; names both.
    """
    annotations = folder / "annotations.json"
    document = read_json(annotations)
    index_of, paths = picture_paths(looked_at(document), annotations, folder / "images")
    rows: list[list[tuple[list[float], bool, bool]]] = [[] for _ in paths]
    for number, record in people_records(document, annotations):
        check_picture(record, number, annotations, index_of)
        x, y, w, h = box_of(record, number, annotations)
        score, keypoints, pose_score = (
            number_of(record, key, number, annotations, otherwise)
            for key, otherwise in (("score", 1), ("num_keypoints", 17), ("pose_score", 1))
        )
        sure = not record.get("iscrowd") and not record.get("ignore") and score >= min_score
        large = h >= MIN_HEIGHT_PX and w >= MIN_WIDTH_PX
        whole = sure and large and keypoints >= MIN_KEYPOINTS and pose_score >= MIN_POSE_SCORE
        rows[index_of[record["image_id"]]].append(([x, y, x + w, y + h], sure, whole))
    return [_picture(path, row, complete, folder.name) for path, row in zip(paths, rows, strict=True)]


def _picture(path: str, rows: list[tuple[list[float], bool, bool]], complete: bool, set_name: str) -> Picture:
    boxes = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    sure, whole = (np.array([row[i] for row in rows], bool) for i in (1, 2))
    return Picture(path, boxes[sure], whole[sure], boxes[~sure], complete, set_name)
