"""Boxes that are given, not detected: the whole frame, or those in a file (MOT text, COCO JSON)."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.postprocess import finish
from sharpose_rt.detection.region import Region
from sharpose_rt.errors import DetectorError
from sharpose_rt.labels import mot
from sharpose_rt.labels.numbering import frame_ids
from sharpose_rt.machine.paths import expanded
from sharpose_rt.skeleton import is_person, person_categories
from sharpose_rt.types import Detections, Frame

logger = logging.getLogger("sharpose_rt.detection")

Box = tuple[float, float, float, float, float]
"""Left, top, right, bottom in px, and score in 0..1."""


class FullFrameDetector:
    """Treats the whole frame as one person with score 1, for pictures that are already cropped.

    Args:
        polygon: corners, x, y px each, of the person's region; none for the whole frame.
    """

    name = "full"
    closest = 0

    def __init__(self, polygon: Sequence[tuple[float, float]] = ()) -> None:
        self._polygon = polygon
        self._region = Region(polygon) if polygon else None

    def open(self) -> None:
        """Nothing to load; a new source begins."""
        self._region = Region(self._polygon) if self._polygon else None

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """One box from the centre of the first pixel to that of the last; for a region see `Region.within`."""
        width, height = frame.size_wh
        if self._region is None:
            return Detections([[0, 0, width - 1, height - 1]], [1.0])  # type: ignore[arg-type]
        corners = self._region.within(frame)
        return Detections.empty() if corners is None else Detections(np.concatenate(corners)[None], [1.0])  # type: ignore[arg-type]

    def close(self) -> None:
        """Nothing to release."""


class BoxFileDetector:
    """Returns the boxes of a MOT text file or a COCO JSON file; a frame that is not in it has none.

    A frame with its own picture name (from a folder of images) is looked up by that name if the file has names, any
    other by its `frame_id`.
    """

    closest = 0

    def __init__(self, name: str, config: DetectorConfig) -> None:
        self.name = name
        self.config = config
        self._by_frame: dict[int, list[Box]] = {}
        self._by_picture: dict[str, list[Box]] = {}
        self._alike: dict[str, list[str]] = {}  # picture names that differ only in folder or suffix
        self._by_id = False

    def open(self) -> None:
        """Read the whole file; raises DetectorError with the file and the line or record that is wrong."""
        path = expanded(self.name)
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DetectorError(
                f"boxes file '{path}' cannot be read: {error}; MOT text or COCO JSON is accepted"
            ) from error
        if path.suffix.lower() == ".json":
            self._by_frame, self._by_picture = read_coco(text, str(path))
            self._by_id = text.lstrip().startswith("[")  # a list of results has no picture names
        else:
            self._by_frame, self._by_picture = read_mot(text, str(path)), {}
        self._alike = defaultdict(list)
        for picture in self._by_picture:
            self._alike[_picture_key(picture)].append(picture)
        if not self._by_frame and not any(self._by_picture.values()):
            logger.warning("boxes file '%s' contains no boxes of people", path)

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """The file's boxes for this frame, strongest first."""
        found = self._lookup(frame)
        return finish([box[:4] for box in found], [box[4] for box in found], frame.size_wh, self.config)

    def of_picture(self, record: Mapping[str, Any], place: int) -> list[Box]:
        """The boxes for a picture of a label file, as they are in the boxes file.

        They are found by the picture's name, by its id if the file is a list of results, or by its position among the
        pictures if the file is text.
        """
        if not self._by_picture:
            return self._by_frame.get(place, [])
        name = record["id"] if self._by_id else record["file_name"]
        return self._of_name(str(name))

    def close(self) -> None:
        """Release the boxes."""
        self._by_frame, self._by_picture, self._alike = {}, {}, {}

    def _lookup(self, frame: Frame) -> list[Box]:
        if frame.source and self._by_picture:
            return self._of_name(frame.source)
        return self._by_frame.get(frame.frame_id, [])

    def _of_name(self, name: str) -> list[Box]:
        """The boxes of a picture; among several with similar names, of the one whose folders and suffix agree with it
        best.

        Raises:
            DetectorError: several agree equally well.
        """
        alike = self._alike.get(_picture_key(name), [])
        if not alike:
            return []
        agreed = [_agreement(name, picture) for picture in alike]
        best = [picture for picture, how in zip(alike, agreed, strict=True) if how == max(agreed)]
        if len(best) > 1:
            raise DetectorError(
                f"boxes file '{self.name}' has {best[0]} and {best[1]}, and it is unclear which of them {name} is; "
                "remove those of other folders, or run over all folders at once ('FOLDER/**/*.jpg'), which names them"
            )
        return self._by_picture[best[0]]


def read_mot(text: str, path: str) -> dict[int, list[Box]]:
    """Boxes by `frame_id` (from 0) from MOT text (`labels.mot`); the seventh column is the confidence.

    A missing confidence, or -1, counts as 1.
    """
    try:
        rows = mot.rows(text, f"boxes file '{path}'", 7)
    except ValueError as error:
        raise DetectorError(str(error)) from error
    boxes: dict[int, list[Box]] = defaultdict(list)
    for row in rows:
        score = row.more[0] if row.more and row.more[0] != -1 else 1.0
        boxes[row.frame_id].append(_box(list(row.xywh), score, row.where))
    return dict(boxes)


def read_coco(text: str, path: str) -> tuple[dict[int, list[Box]], dict[str, list[Box]]]:
    """Boxes by `frame_id` and by picture name from a COCO file: {"images", "annotations"}, or a list of results.

    With "images", the frame is an image's `frame_id`, else its position in the list (`labels.numbering`). A bare list
    has only `image_id`, which is both the frame counted from 0 and the number in a picture's name. Crowds and other
    classes are omitted: see `skeleton.person_categories`; in a bare list with several categories, category 1 is people,
    as in COCO.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DetectorError(f"boxes file '{path}' is not JSON: {error}") from error
    images = data.get("images") if isinstance(data, dict) else None
    records = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(records, list) or (isinstance(data, dict) and not isinstance(images, list)):
        raise DetectorError(
            f"boxes file '{path}' is not COCO: an object with the lists `images` and `annotations`, or a list of "
            "results, is accepted"
        )
    keys = _image_keys(images, path) if images is not None else None
    by_frame: dict[int, list[Box]] = defaultdict(list)
    by_picture: dict[str, list[Box]] = defaultdict(list)
    for _, picture in (keys or {}).values():  # one without boxes must not get those of another folder
        if picture:
            by_picture[picture] = []
    people = _person_categories(data, path)
    for number, record in enumerate(records):
        where = f"boxes file '{path}', record {number}"
        if not isinstance(record, dict) or "image_id" not in record or "bbox" not in record:
            raise DetectorError(f"{where}: must be an object with `image_id` and `bbox`")
        if record.get("iscrowd") or not is_person(record, people):
            continue
        image = record["image_id"]
        if keys is not None and (not isinstance(image, (int, float, str)) or image not in keys):
            raise DetectorError(f"{where}: image_id {image!r} is not among `images`")
        frame, picture = keys[image] if keys is not None else (_frame_of(image), str(image))
        if not isinstance(record["bbox"], list) or len(record["bbox"]) != 4:
            raise DetectorError(f"{where}: bbox is {record['bbox']!r}; [x, y, width, height] is accepted")
        box = _box(record["bbox"], record.get("score", 1.0), where)
        if frame is not None:
            by_frame[frame].append(box)
        if picture:
            by_picture[picture].append(box)
    return dict(by_frame), dict(by_picture)


def _image_keys(images: list[Any], path: str) -> dict[Any, tuple[int | None, str]]:
    """Frame and picture name of each image, by its id."""
    for number, image in enumerate(images):
        if not isinstance(image, dict) or not isinstance(image.get("id"), (int, str)):
            raise DetectorError(f"boxes file '{path}', image {number}: must be an object with an `id`")
    keys: dict[Any, tuple[int | None, str]] = {}
    frames = frame_ids(images) or range(len(images))
    for number, (frame, image) in enumerate(zip(frames, images, strict=True)):
        if not isinstance(frame, int) or frame < 0:
            raise DetectorError(
                f"boxes file '{path}', image {number}: frame_id is {frame!r}; whole numbers from 0 are accepted"
            )
        keys[image["id"]] = (frame, str(image.get("file_name", "")))
    return keys


def _person_categories(data: Any, path: str) -> tuple[Any, ...] | None:
    """Ids of the categories that are people; None takes every record."""
    if isinstance(data, list):
        present = {str(record.get("category_id")) for record in data if isinstance(record, dict)}
        return (1,) if len(present) > 1 else None  # 1 is 'person' in COCO
    try:
        return person_categories(data.get("categories")) if data["annotations"] else None
    except ValueError as error:
        raise DetectorError(f"boxes file '{path}': {error}") from error


def _frame_of(image_id: Any) -> int | None:
    """The frame that a result's `image_id` means: a number, or a name that consists of a number."""
    digits = Path(str(image_id)).stem
    return int(digits) if digits.isdecimal() else None


def _picture_key(name: str) -> str:
    """The part of a picture's name that is compared: without folder and suffix, and a number without leading zeros."""
    stem = Path(name).stem
    return str(int(stem)) if stem.isdecimal() else stem


def _agreement(name: str, other: str) -> tuple[int, bool]:
    """How many folders, from the last one up, two pictures have in common, and whether their suffixes agree."""
    one, two = Path(name), Path(other)
    pairs = zip(reversed(one.parent.parts), reversed(two.parent.parts), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))), one.suffix == two.suffix


def _box(xywh: list[Any], score: Any, where: str) -> Box:
    numbers = [*xywh, score]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        raise DetectorError(f"{where}: box {xywh} with score {score!r}; finite numbers are accepted")
    x, y, width, height = xywh
    if width < 0 or height < 0:
        raise DetectorError(f"{where}: width {width:g} and height {height:g}; 0 or more is accepted")
    return (x, y, x + width, y + height, min(max(score, 0.0), 1.0))
