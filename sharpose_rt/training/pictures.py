"""Pictures with boxes of people from label files, for training a detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import DatasetError
from sharpose_rt.labels.boxes import box_keypoints
from sharpose_rt.labels.coco import (
    box_of,
    check_picture,
    looked_at,
    number_of,
    people_records,
    picture_paths,
    read_document,
    read_image,
)
from sharpose_rt.labels.records import stated_size
from sharpose_rt.labels.yolo import set_files
from sharpose_rt.media.files import IMAGE_SUFFIXES

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """A picture and its labels.

    Args:
        path: the file.
        people_xyxy: (N, 4) px, certain people.
        unsure_xyxy: (M, 4) px, crowds and uncertain labels: neither person nor background.
        stated_wh: see `labels.records.stated_size`.
    """

    path: str
    people_xyxy: Boxes
    unsure_xyxy: Boxes
    stated_wh: tuple[int, int] = (0, 0)

    def read(self) -> NDArray[np.uint8]:
        """The pixels, see `labels.coco.read_image`."""
        return read_image(self.path, self.stated_wh)


def read_pictures(folder: Path, min_score: float) -> list[Picture]:
    """The pictures of a dataset with boxes of people: `annotations.json` and `images/`, or YOLO's form, see
    `set_files`.

    People are selected by `labels.coco.people_records`.

    Args:
        folder: of the dataset, in which everybody must have a box.
        min_score: a teacher's box below is uncertain: neither person nor background.

    Raises:
        DatasetError: the file or a record is wrong; names both.
    """
    annotations, images = set_files(folder)
    document = read_document(annotations)
    box_keypoints(document)
    records = looked_at(document)
    index_of, paths = picture_paths(records, annotations, images)
    people: list[list[list[float]]] = [[] for _ in paths]
    unsure: list[list[list[float]]] = [[] for _ in paths]
    for number, record in people_records(document, annotations):
        check_picture(record, number, annotations, index_of)
        x, y, w, h = box_of(record, number, annotations)
        score = number_of(record, "score", number, annotations, 1)
        sure = not record.get("iscrowd") and not record.get("ignore") and score >= min_score
        (people if sure else unsure)[index_of[record["image_id"]]].append([x, y, x + w, y + h])
    sizes_wh = map(stated_size, records)
    columns = zip(paths, people, unsure, sizes_wh, strict=True)
    return [Picture(path, _boxes(a), _boxes(b), stated_wh) for path, a, b, stated_wh in columns]


def pictures_in(folder: Path) -> list[Picture]:
    """The pictures of a folder by name, without labels.

    Raises:
        DatasetError: it is not a folder, or contains no picture.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DatasetError(f"{folder} is not a folder with pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Picture(str(path), _boxes([]), _boxes([])) for path in found]


def _boxes(rows: list[list[float]]) -> Boxes:
    return np.array(rows, np.float64).reshape(-1, 4)
