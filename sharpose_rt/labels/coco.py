"""Reads label files in COCO's form and checks each record; errors name the file and the number of the record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import DatasetError
from sharpose_rt.labels import mpii, yolo
from sharpose_rt.labels.records import is_id, keypoint_names, nobody, of_people, stated_size
from sharpose_rt.media import files
from sharpose_rt.skeleton import BOX_TO_AREA, COCO17, Skeleton, is_person, order_by_name, person_categories


def read_document(path: Path, head_boxes: Path | None = None, *, labelled: bool = True) -> dict[str, list[Any]]:
    """The content, in COCO's form, of a label file of COCO or MPII (its .mat, or the common JSON with `head_boxes`), or
    of a folder of YOLO's text files.

    If it need not be `labelled`, a list of pictures is enough, as COCO publishes for its test sets.

    Raises:
        DatasetError: it cannot be read, or has no lists `images` and `annotations`.
    """
    if path.is_dir():
        return yolo.read_yolo(path)
    if path.suffix == ".mat":
        return mpii.read_mat(path)
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read the labels {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    if isinstance(document, list):
        return mpii.from_records(document, path, head_boxes)
    if not labelled and isinstance(document, dict) and document.get("images"):
        document.setdefault("annotations", [])
    for key in ("images", "annotations"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DatasetError(f"{path} has no list `{key}`; COCO's keypoint form is accepted")
    return document


def looked_at(document: dict[str, list[Any]]) -> list[Any]:
    """The pictures of a label file except those that nobody labelled (PoseTrack's `is_labeled` is false).

    Such pictures may show people although none is recorded. If no people are recorded in any picture, all pictures.
    """
    told = {repr(record.get("image_id")) for record in document["annotations"] if isinstance(record, dict)}

    def unlabelled(image: Any) -> bool:
        return isinstance(image, dict) and image.get("is_labeled") is False and repr(image.get("id")) not in told

    return [image for image in document["images"] if not (told and unlabelled(image))]


def picture_paths(records: list[Any], annotations: Path, images: Path) -> tuple[dict[Any, int], list[str]]:
    """The index of each picture by its id, and the files; raises DatasetError for a wrong or repeated record."""
    index_of: dict[Any, int] = {}
    paths = []
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not is_id(record.get("id")) or not isinstance(record.get("file_name"), str):
            raise DatasetError(
                f"{annotations}: images[{number}] is {record!r:.120}; `id` (a number or a name) and `file_name` are "
                "needed"
            )
        if record["id"] in index_of:
            raise DatasetError(f"{annotations}: images[{number}] repeats the id {record['id']!r}")
        index_of[record["id"]] = len(paths)
        paths.append(str(_picture(images, record["file_name"])))
    return index_of, paths


def read_image(path: str | Path, stated_wh: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 BGR, in the orientation of its labels.

    COCO's labels refer to the pixels as stored, whatever EXIF says. Programs that rotate pictures upright, as a run
    does, state the size of the upright picture.

    Args:
        path: the file.
        stated_wh: see `labels.records.stated_size`.

    Raises:
        DatasetError: the picture is missing or cannot be decoded.
    """
    image = files.read_image(path, upright=False)
    if image is not None and image.shape[:2] == tuple(stated_wh) and stated_wh[0] != stated_wh[1]:
        image = files.read_image(path)
    if image is None:
        reason = "cannot be decoded" if Path(path).is_file() else "is missing"
        raise DatasetError(f"the picture {path} {reason}; fetch the dataset again or remove the picture's labels")
    return image


def read_picture(record: dict[str, Any], images: Path) -> NDArray[np.uint8]:
    """The picture of a record in the folder `images`, see `read_image`."""
    return read_image(_picture(images, record["file_name"]), stated_size(record))


def _picture(images: Path, name: str) -> Path:
    """The file with this name in a folder; labels written on Windows have `\\` between folders."""
    path = images / name
    return images / name.replace("\\", "/") if "\\" in name and not path.exists() else path


def people_records(document: dict[str, list[Any]], annotations: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of each annotation of a person, including crowds.

    These are the records of categories named 'person' or similar, whatever their ids, and records without
    `category_id`. If the file has no categories, or a single one with another name, these are all records: see
    `skeleton.person_categories`.

    Raises:
        DatasetError: a record is not a mapping, its `iscrowd` is not a number, none of several categories is of people,
            or no record is.
    """
    if not document["annotations"]:
        return
    people = people_ids(document, annotations)
    seen = 0
    for number, record in enumerate(document["annotations"]):
        if not isinstance(record, dict):
            raise wrong_record(annotations, number, f"it is {record!r:.80}; a mapping is accepted")
        if is_person(record, people):
            number_of(record, "iscrowd", number, annotations, 0)  # the text "0" would silently leave a person out
            seen += 1
            yield number, record
    if not seen:
        raise DatasetError(f"{annotations}: {nobody(document['annotations'], people)}")


def people_ids(document: dict[str, list[Any]], annotations: Path) -> tuple[Any, ...] | None:
    """`skeleton.person_categories` of a file; raises DatasetError with the file's name."""
    try:
        return person_categories(document.get("categories"))
    except ValueError as error:
        raise DatasetError(f"{annotations}: {error}") from error


def put_in_order(
    document: dict[str, list[Any]],
    annotations: Path,
    first: Skeleton = COCO17,
    say: Callable[[str], None] = lambda _: None,
) -> Skeleton | None:
    """Finds the skeleton that matches the keypoint names of a file, and puts its keypoints into the skeleton's order.

    Keypoints that the file lacks become unlabelled, and `num_keypoints` counts the rest; so for `teacher_keypoints`.
    Without names, the file stays as it is and the result is None. See `skeleton.order_by_name` for the choice of the
    skeleton and for `first`. `say` is called if the skeleton lacks keypoints of the file, or if a folder in YOLO's form
    has no names.

    Raises:
        DatasetError: no skeleton matches, or a record has another number of keypoints; names the file or record.
    """
    if not document["annotations"]:
        return None
    categories = of_people(document.get("categories"), people_ids(document, annotations))
    names = keypoint_names(categories)
    if names is None:
        # CVAT's and Label Studio's files in this form have no names.
        if annotations.is_dir() and any(record.get("keypoints") for record in document["annotations"]):
            order = f"{first.name}, {', '.join(first.keypoints[:4])}, ..."
            say(f"{annotations}: no data.yaml has kpt_names, so the keypoints are taken in the order of {order}")
        return None
    try:
        skeleton, order = order_by_name(names, first)
    except ValueError as error:
        raise DatasetError(f"{annotations}: {error}") from error
    if order == list(range(len(names))):
        return skeleton
    if others := [str(name) for place, name in enumerate(names) if place not in order]:
        say(f"{annotations}: {skeleton.name} has no {', '.join(others)}: left out")
    for number, record in people_records(document, annotations):
        for key in ("keypoints", "teacher_keypoints"):
            if record.get(key):
                flat = keypoints_of(record, number, annotations, len(names), key)
                triples = [[0, 0, 0] if at is None else flat[3 * at : 3 * at + 3] for at in order]
                record[key] = [value for triple in triples for value in triple]
        if record.get("keypoints") and record.get("num_keypoints") != 0:  # 0 excludes a person
            record["num_keypoints"] = sum(v > 0 for v in record["keypoints"][2::3])
    for item in categories:
        item["keypoints"] = list(skeleton.keypoints)
    return skeleton


def box_of(record: dict[str, Any], number: int, annotations: Path, *, empty: bool = False) -> list[float]:
    """[x, y, width, height] px of a record; sides of 0 px are only accepted if the box may be `empty`."""
    box = record.get("bbox")
    if not is_numbers(box, 4) or min(box[2:]) < 0 or (not empty and min(box[2:]) == 0):
        wanted = "[x, y, width, height] in px" + (" above 0" if not empty else "")
        raise wrong_record(annotations, number, f"bbox is {box!r:.80}; {wanted} is accepted")
    return box


def area_of(record: dict[str, Any], box: Sequence[float], number: int, annotations: Path) -> float:
    """Area of a record's segment in px²; if missing or 0, the share of its `box` that people fill on average."""
    area = number_of(record, "area", number, annotations, 0)
    if area < 0:
        raise wrong_record(annotations, number, f"area is {area!r:.80}; 0 px² or more is accepted, or no area")
    return area or BOX_TO_AREA * box[2] * box[3]


def keypoints_of(
    record: dict[str, Any], number: int, annotations: Path, joints: int, key: str = "keypoints"
) -> list[float]:
    """The 3K keypoint values of a record; a keypoint with a null value becomes unlabelled."""
    keypoints = record.get(key)
    if isinstance(keypoints, list) and None in keypoints:
        triples = (keypoints[at : at + 3] for at in range(0, len(keypoints), 3))
        keypoints = [value for triple in triples for value in ([0] * len(triple) if None in triple else triple)]
    if not is_numbers(keypoints, 3 * joints):
        if isinstance(keypoints, list) and len(keypoints) == 3 * joints:
            at = next(at for at, value in enumerate(keypoints) if not is_numbers([value], 1))
            raise wrong_record(annotations, number, f"{key}[{at}] is {keypoints[at]!r:.80}; a finite number is needed")
        seen = f"{len(keypoints)} values" if isinstance(keypoints, list) else repr(keypoints)[:80]
        raise wrong_record(annotations, number, f"{key} has {seen}; {3 * joints} finite numbers are needed")
    return keypoints


def number_of(record: dict[str, Any], key: str, number: int, annotations: Path, otherwise: float) -> float:
    """The optional number of a record under `key`; `otherwise` if missing or null."""
    value = record.get(key)
    value = otherwise if value is None else value
    if not is_numbers([value], 1):
        raise wrong_record(annotations, number, f"{key} is {value!r:.80}; a finite number is accepted, or no {key}")
    return value


def check_picture(record: dict[str, Any], number: int, annotations: Path, index_of: dict[Any, int]) -> None:
    """Raises DatasetError if a record's picture is not among those of the file."""
    image_id = record.get("image_id")
    if not is_id(image_id) or image_id not in index_of:
        raise wrong_record(annotations, number, f"image_id {image_id!r:.80} is not among `images`")


def check_thirds(third: NDArray[np.floating], labels: str, annotations: Path, numbers: Sequence[int]) -> None:
    """Raises DatasetError if a third value (N, K) is not a score ('teacher'), or not a visibility ('hand')."""
    accepted = (third >= 0) & (third <= 1.5) if labels == "teacher" else np.isin(third, (0, 1, 2))
    if not accepted.all():
        row, joint = np.argwhere(~accepted)[0]
        wanted = "a score 0..1" if labels == "teacher" else "visibility 0, 1 or 2"
        seen = f"keypoint {joint} has third value {third[row, joint]:g}"
        raise wrong_record(annotations, numbers[row], f"{seen}; {wanted} is accepted")


def is_numbers(value: Any, count: int) -> TypeGuard[list[float]]:
    """Whether a value of a label file is a list of `count` finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, (int, float)) and abs(v) <= _LARGEST for v in value)
    )


_LARGEST = float(np.finfo(np.float32).max)
"""Larger numbers become infinite in the float32 arrays of labels."""


def wrong_record(annotations: Path, number: int, what: str) -> DatasetError:
    """The error that names a label file and one of its records."""
    return DatasetError(f"{annotations}: annotations[{number}]: {what}")
