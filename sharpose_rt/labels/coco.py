"""Label files of COCO's form, read and checked record by record: a wrong one is named with its file and number."""

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
    """A label file of COCO's form, or one of MPII's (its .mat, or the common JSON with `head_boxes`) in that form, or a
    folder of YOLO's text files.

    Unless it is to be `labelled`, a list of pictures alone, as COCO publishes it for its test sets, will do.

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
            raise DatasetError(f"{path} has no list `{key}`; COCO's keypoint form is wanted")
    return document


def looked_at(document: dict[str, list[Any]]) -> list[Any]:
    """The pictures of a label file but those that nobody labelled (PoseTrack's `is_labeled` is false).

    That no person is recorded of one does not say that nobody is there. Where nobody is recorded at all, all pictures.
    """
    told = {repr(record.get("image_id")) for record in document["annotations"] if isinstance(record, dict)}

    def unlabelled(image: Any) -> bool:
        return isinstance(image, dict) and image.get("is_labeled") is False and repr(image.get("id")) not in told

    return [image for image in document["images"] if not (told and unlabelled(image))]


def picture_paths(records: list[Any], annotations: Path, images: Path) -> tuple[dict[Any, int], list[str]]:
    """Index of each picture's id, and the pictures' files; raises DatasetError at a wrong or repeated record."""
    index_of: dict[Any, int] = {}
    paths = []
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not is_id(record.get("id")) or not isinstance(record.get("file_name"), str):
            raise DatasetError(
                f"{annotations}: images[{number}] is {record!r:.120}; `id` (a number or a name) and `file_name` are "
                "wanted"
            )
        if record["id"] in index_of:
            raise DatasetError(f"{annotations}: images[{number}] repeats the id {record['id']!r}")
        index_of[record["id"]] = len(paths)
        paths.append(str(_picture(images, record["file_name"])))
    return index_of, paths


def read_image(path: str | Path, stated_wh: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 BGR, as its labels have it.

    COCO's lie on the stored pixels, whatever EXIF says. Those of a program that turns pictures upright, as a run does,
    state the size of the upright one.

    Args:
        path: the file.
        stated_wh: see `labels.records.stated_size`.

    Raises:
        DatasetError: it is missing or cannot be decoded.
    """
    image = files.read_image(path, upright=False)
    if image is not None and image.shape[:2] == tuple(stated_wh) and stated_wh[0] != stated_wh[1]:
        image = files.read_image(path)
    if image is None:
        reason = "cannot be decoded" if Path(path).is_file() else "is missing"
        raise DatasetError(f"the picture {path} {reason}; fetch the set again or take its labels out")
    return image


def read_picture(record: dict[str, Any], images: Path) -> NDArray[np.uint8]:
    """The picture of a record in the folder `images`, see `read_image`."""
    return read_image(_picture(images, record["file_name"]), stated_size(record))


def _picture(images: Path, name: str) -> Path:
    """The file of that name in a folder; where labels were written on Windows, folders end in `\\` in it."""
    path = images / name
    return images / name.replace("\\", "/") if "\\" in name and not path.exists() else path


def people_records(document: dict[str, list[Any]], annotations: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of each annotation of a person, crowds too.

    Those are the records of the categories named 'person' or the like, whatever their ids. Where the file has no
    categories, or one alone of another name, all are; so is a record that has no `category_id`: see
    `skeleton.person_categories`.

    Raises:
        DatasetError: a record is no mapping, its `iscrowd` is no number, there are several categories and none is of
            people, or no record is.
    """
    if not document["annotations"]:
        return
    people = people_ids(document, annotations)
    seen = 0
    for number, record in enumerate(document["annotations"]):
        if not isinstance(record, dict):
            raise wrong_record(annotations, number, f"it is {record!r:.80}; a mapping is wanted")
        if is_person(record, people):
            number_of(record, "iscrowd", number, annotations, 0)  # who is left out by "0" would be so unawares
            seen += 1
            yield number, record
    if not seen:
        raise DatasetError(f"{annotations}: {nobody(document['annotations'], people)}")


def people_ids(document: dict[str, list[Any]], annotations: Path) -> tuple[Any, ...] | None:
    """`skeleton.person_categories` of a file, which its DatasetError names."""
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
    """The set that the names in the category of a file's people tell; its keypoints are put into that set's order.

    What the file lacks of the set is not labelled, and `num_keypoints` counts the rest; `teacher_keypoints` go the same
    way. A file without names stays as it is: None. Which set it is, says `skeleton.order_by_name`, `first` as there.
    `say` is told which keypoints of the file the set lacks, and where a folder of YOLO's form has no names.

    Raises:
        DatasetError: the names are of no such set, or a record has another number of keypoints; names file or record.
    """
    if not document["annotations"]:
        return None
    categories = of_people(document.get("categories"), people_ids(document, annotations))
    names = keypoint_names(categories)
    if names is None:
        # CVAT's and Label Studio's files of this form have none.
        if annotations.is_dir() and any(record.get("keypoints") for record in document["annotations"]):
            order = f"{first.name}, {', '.join(first.keypoints[:4])}, ..."
            say(f"{annotations}: no kpt_names in a data.yaml name the keypoints: taken in the order of {order}")
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
        if record.get("keypoints") and record.get("num_keypoints") != 0:  # 0 leaves a person out
            record["num_keypoints"] = sum(v > 0 for v in record["keypoints"][2::3])
    for item in categories:
        item["keypoints"] = list(skeleton.keypoints)
    return skeleton


def box_of(record: dict[str, Any], number: int, annotations: Path, *, empty: bool = False) -> list[float]:
    """[x, y, width, height] px of a record; sides of 0 px only where an `empty` box is no harm."""
    box = record.get("bbox")
    if not is_numbers(box, 4) or min(box[2:]) < 0 or (not empty and min(box[2:]) == 0):
        wanted = "[x, y, width, height] in px" + (" above 0" if not empty else "")
        raise wrong_record(annotations, number, f"bbox is {box!r:.80}; {wanted} is wanted")
    return box


def area_of(record: dict[str, Any], box: Sequence[float], number: int, annotations: Path) -> float:
    """Area of a record's segment in px²; of its `box`, as people fill it on average, where it has none, or 0."""
    area = number_of(record, "area", number, annotations, 0)
    if area < 0:
        raise wrong_record(annotations, number, f"area is {area!r:.80}; 0 px² or more is wanted, or no area")
    return area or BOX_TO_AREA * box[2] * box[3]


def keypoints_of(
    record: dict[str, Any], number: int, annotations: Path, joints: int, key: str = "keypoints"
) -> list[float]:
    """The 3K keypoint values of a record; a keypoint of which one is null is not labelled."""
    keypoints = record.get(key)
    if isinstance(keypoints, list) and None in keypoints:
        triples = (keypoints[at : at + 3] for at in range(0, len(keypoints), 3))
        keypoints = [value for triple in triples for value in ([0] * len(triple) if None in triple else triple)]
    if not is_numbers(keypoints, 3 * joints):
        if isinstance(keypoints, list) and len(keypoints) == 3 * joints:
            at = next(at for at, value in enumerate(keypoints) if not is_numbers([value], 1))
            raise wrong_record(annotations, number, f"{key}[{at}] is {keypoints[at]!r:.80}; a finite number is wanted")
        seen = f"{len(keypoints)} values" if isinstance(keypoints, list) else repr(keypoints)[:80]
        raise wrong_record(annotations, number, f"{key} has {seen}; {3 * joints} finite numbers are wanted")
    return keypoints


def number_of(record: dict[str, Any], key: str, number: int, annotations: Path, otherwise: float) -> float:
    """A number that a record may have under `key`, else, and for null, `otherwise`."""
    value = record.get(key)
    value = otherwise if value is None else value
    if not is_numbers([value], 1):
        raise wrong_record(annotations, number, f"{key} is {value!r:.80}; a finite number is wanted, or no {key}")
    return value


def check_picture(record: dict[str, Any], number: int, annotations: Path, index_of: dict[Any, int]) -> None:
    """Raises DatasetError where a record's picture is not among those of the file."""
    image_id = record.get("image_id")
    if not is_id(image_id) or image_id not in index_of:
        raise wrong_record(annotations, number, f"image_id {image_id!r:.80} is not among `images`")


def check_thirds(third: NDArray[np.floating], labels: str, annotations: Path, numbers: Sequence[int]) -> None:
    """Raises DatasetError where a third value (N, K) is no score ('teacher'), or no visibility ('hand')."""
    accepted = (third >= 0) & (third <= 1.5) if labels == "teacher" else np.isin(third, (0, 1, 2))
    if not accepted.all():
        row, joint = np.argwhere(~accepted)[0]
        wanted = "a score 0..1" if labels == "teacher" else "visibility 0, 1 or 2"
        seen = f"keypoint {joint} has third value {third[row, joint]:g}"
        raise wrong_record(annotations, numbers[row], f"{seen}; {wanted} is wanted")


def is_numbers(value: Any, count: int) -> TypeGuard[list[float]]:
    """Whether a value of a label file is a list of so many finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, (int, float)) and abs(v) <= _LARGEST for v in value)
    )


_LARGEST = float(np.finfo(np.float32).max)
"""Beyond it a number is infinite where labels are held."""


def wrong_record(annotations: Path, number: int, what: str) -> DatasetError:
    """The error that names a label file and one of its records."""
    return DatasetError(f"{annotations}: annotations[{number}]: {what}")
