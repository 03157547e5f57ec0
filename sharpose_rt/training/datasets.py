"""People with keypoints from COCO-form or MPII label files, read lazily and mixed.

Labels are held as columns (a few arrays), so that loader processes share them; a picture is read when it is drawn.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import DatasetError
from sharpose_rt.media import files
from sharpose_rt.skeleton import BOX_TO_AREA, COCO17, Skeleton, is_person, order_by_name, person_categories
from sharpose_rt.training import mpii


@dataclass(frozen=True)
class People:
    """Labelled people of one or more sets, N people, K keypoints.

    Args:
        image_paths: one for each picture.
        image_index: (N,) int64 into `image_paths`.
        bboxes_xyxy: (N, 4) float32 px.
        keypoints: (N, K, 2) float32 px.
        joint_weights: (N, K) float32 in 0..1; 0 where a joint is not labelled or not to be trusted.
        areas: (N,) float32 px², of the segment.
        draws: (N,) float32, how often the person is drawn in an epoch.
    """

    image_paths: tuple[str, ...]
    image_index: NDArray[np.int64]
    bboxes_xyxy: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    joint_weights: NDArray[np.float32]
    areas: NDArray[np.float32]
    draws: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.image_index)

    def take(self, indices: NDArray[np.int64]) -> People:
        """Those people alone."""
        columns = {item.name: getattr(self, item.name)[indices] for item in fields(self)[1:]}
        return People(self.image_paths, **columns)

    def spread(self, count: int) -> People:
        """`count` people, evenly spread over the sets; all of them where there are fewer."""
        if count >= len(self):
            return self
        return self.take(np.linspace(0, len(self) - 1, count).round().astype(np.int64))


def read_people(
    annotations: Path,
    images: Path,
    *,
    labels: str = "auto",
    weight: float = 1.0,
    trust: float = 1.0,
    min_teacher_score: float = 0.3,
    hidden_weight: float = 1.0,
    compare: Path | None = None,
    compare_limit: float = 2.0,
    skeleton: Skeleton = COCO17,
    say: Callable[[str], None] = lambda _: None,
) -> People:
    """The people of a COCO-form file that have at least one joint to learn from; crowds are left out.

    Who is a person, says `people_records`, and which keypoint is which, `put_in_order`.

    Args:
        annotations: as `read_json` takes it; a keypoint's third value is COCO's visibility (0, 1, 2) in a
            hand-labelled file and a score (0..1) in a teacher's.
        images: folder of the pictures.
        labels: 'hand', 'teacher', or 'auto': any third value strictly between 0 and 1 says teacher.
        weight: how often each person is drawn in an epoch.
        trust: factor on the joint weights.
        min_teacher_score: a teacher's joint below it has weight 0.
        hidden_weight: factor on the weights of joints of visibility 1 in a hand-labelled file.
        compare: a second label file of the same people; joints that lie far from where it has them have weight 0.
        compare_limit: how far, see `_far_from`.
        skeleton: the keypoints that are wanted.
        say: told how many joints are dropped so.

    Raises:
        DatasetError: a file or a record is wrong, or the second file has none of these people; names them.
    """
    document = read_json(annotations)
    found = put_in_order(document, annotations, skeleton)
    if found is not None and found.keypoints != skeleton.keypoints:
        raise DatasetError(
            f"{annotations} has the {len(found)} keypoints of {found.name} by their names, the network the "
            f"{len(skeleton)} of {skeleton.name}; train a variant of that set, see `sharpose-rt models`"
        )
    index_of, paths = picture_paths(document["images"], annotations, images)
    rows = [
        (number, record)
        for number, record in people_records(document, annotations)
        if record.get("keypoints") and not record.get("iscrowd") and record.get("num_keypoints") != 0
    ]
    boxes, points, areas, image_index = [], [], [], []
    for number, record in rows:
        box, keypoints, area = _person(record, number, annotations, len(skeleton))
        check_picture(record, number, annotations, index_of)
        image_index.append(index_of[record["image_id"]])
        boxes.append(box)
        points.append(keypoints)
        areas.append(area)
    triples = np.array(points, np.float32).reshape(-1, len(skeleton), 3)
    numbers = [number for number, _ in rows]
    weights = _joint_weights(triples[..., 2], labels, min_teacher_score, hidden_weight, annotations, numbers)
    if compare is not None and rows:
        ids = [_id_of(record, number, annotations) for number, record in rows]
        second = _read_second(compare, ids, min_teacher_score, skeleton)
        far = _far_from(second, triples[..., :2], areas, compare_limit, skeleton) & (weights > 0)
        say(f"{annotations}: {far.sum()} of {(weights > 0).sum()} joints lie far from those of {compare.name}: dropped")
        weights[far] = 0
    people = People(
        image_paths=tuple(paths),
        image_index=np.array(image_index, np.int64),
        bboxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        keypoints=np.ascontiguousarray(triples[..., :2]),
        joint_weights=weights * np.float32(trust),
        areas=np.array(areas, np.float32),
        draws=np.full(len(rows), weight, np.float32),
    )
    people = people.take(np.flatnonzero((people.joint_weights > 0).any(1)))
    if not len(people):
        hint = f" near {compare.name}'s; is that of the same pictures?" if compare else "; is it a keypoint file?"
        raise DatasetError(f"{annotations}: nobody in it has a labelled keypoint{hint}")
    return people


def mix(sets: Sequence[People]) -> People:
    """All sets as one."""
    offsets = np.cumsum([0, *(len(people.image_paths) for people in sets)])
    columns: dict[str, Any] = {
        item.name: np.concatenate([getattr(people, item.name) for people in sets]) for item in fields(People)[1:]
    }
    shifted = [people.image_index + offset for people, offset in zip(sets, offsets, strict=False)]
    columns["image_index"] = np.concatenate(shifted)
    return People(tuple(path for people in sets for path in people.image_paths), **columns)


def find_set(name: str, roots: Iterable[Path]) -> Path:
    """The folder of a set below one of the data roots.

    Raises:
        DatasetError: none has it.
    """
    roots = list(roots)
    for root in roots:
        if (root / name).is_dir():
            return root / name
    places = ", ".join(str(root) for root in roots) or "(none given)"
    raise DatasetError(
        f"no set {name!r} below the data roots {places}; "
        "give its parent folder by --data-root (it may be repeated) or in SHARPOSE_DATA"
    )


def data_roots(given: Sequence[str] | None) -> list[Path]:
    """Data roots from the command line, else from the environment's SHARPOSE_DATA, else the current folder."""
    texts = list(given or ()) or [t for t in os.environ.get("SHARPOSE_DATA", "").split(os.pathsep) if t]
    return [Path(text) for text in texts] or [Path()]


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 BGR, upright as stored (no EXIF rotation: labels lie on the stored pixels).

    Raises:
        DatasetError: it is missing or cannot be decoded.
    """
    image = files.read_image(path, upright=False)
    if image is None:
        reason = "cannot be decoded" if Path(path).is_file() else "is missing"
        raise DatasetError(f"the picture {path} {reason}; fetch the set again or take its labels out")
    return image


def quiet_worker(_: int) -> None:
    """For loader processes: they leave Ctrl-C and SIGTERM, which a whole process group may be sent, to the training
    process (which ends them, or whose end they notice), and do not multiply threads."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)


def epoch_order(draws: NDArray[np.float32], seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of an epoch in random order, each person floor(draws) times and once more by the remainder's chance.

    A function of its arguments alone, so a resumed run draws what the first one would have drawn.
    """
    rng = np.random.default_rng((seed, epoch))
    counts = np.floor(draws + rng.random(len(draws), np.float32)).astype(np.int64)
    return rng.permutation(np.repeat(np.arange(len(draws)), counts))


def read_json(path: Path, head_boxes: Path | None = None, *, labelled: bool = True) -> dict[str, list[Any]]:
    """A label file of COCO's form, or one of MPII's (its .mat, or the common JSON with `head_boxes`) in that form.

    Unless it is to be `labelled`, a list of pictures alone, as COCO publishes it for its test sets, will do.

    Raises:
        DatasetError: it cannot be read, or has no lists `images` and `annotations`.
    """
    if path.suffix == ".mat":
        return mpii.read_mat(path)
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read the labels {path}: {error.strerror or error}") from error
    except ValueError as error:
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
        if not isinstance(record, dict) or not _is_id(record.get("id")) or not isinstance(record.get("file_name"), str):
            raise DatasetError(
                f"{annotations}: images[{number}] is {record!r:.120}; `id` (a number or a name) and `file_name` are "
                "wanted"
            )
        if record["id"] in index_of:
            raise DatasetError(f"{annotations}: images[{number}] repeats the id {record['id']!r}")
        index_of[record["id"]] = len(paths)
        paths.append(str(images / record["file_name"]))
    return index_of, paths


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
        raise DatasetError(
            f"{annotations}: none of its {len(document['annotations'])} annotations has the category_id of people, "
            f"{' or '.join(map(repr, people or ()))}; is `categories` of another file?"
        )


def people_ids(document: dict[str, list[Any]], annotations: Path) -> tuple[Any, ...] | None:
    """`skeleton.person_categories` of a file, which its DatasetError names."""
    try:
        return person_categories(document.get("categories"))
    except ValueError as error:
        raise DatasetError(f"{annotations}: {error}") from error


def put_in_order(document: dict[str, list[Any]], annotations: Path, first: Skeleton = COCO17) -> Skeleton | None:
    """The set that the names in the category of a file's people tell; its keypoints are put into that set's order.

    What the file lacks of the set is not labelled, and `num_keypoints` counts the rest; `teacher_keypoints` go the same
    way. A file without names stays as it is: None. Which set it is, says `skeleton.order_by_name`, `first` as there.

    Raises:
        DatasetError: the names are of no such set, or a record has another number of keypoints; names file or record.
    """
    categories = _people_categories(document, annotations)
    names = next((names for item in categories if isinstance(names := item.get("keypoints"), list) and names), None)
    if names is None:
        return None
    try:
        skeleton, order = order_by_name(names, first)
    except ValueError as error:
        raise DatasetError(f"{annotations}: {error}") from error
    if order == list(range(len(names))):
        return skeleton
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


def _people_categories(document: dict[str, list[Any]], annotations: Path) -> list[dict[str, Any]]:
    """The categories of people of a file that has any; raises DatasetError where there are others alone."""
    listed = document.get("categories")
    if not document["annotations"] or not isinstance(listed, list):
        return []
    people = people_ids(document, annotations)
    return [item for item in listed if isinstance(item, dict) and (people is None or item.get("id") in people)]


def _person(
    record: dict[str, Any], number: int, annotations: Path, joints: int
) -> tuple[list[float], list[float], float]:
    """Box xyxy, 3K keypoint values and area of a record."""
    x, y, w, h = box = box_of(record, number, annotations)
    return (
        [x, y, x + w, y + h],
        keypoints_of(record, number, annotations, joints),
        area_of(record, box, number, annotations),
    )


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
    if not _is_id(image_id) or image_id not in index_of:
        raise wrong_record(annotations, number, f"image_id {image_id!r:.80} is not among `images`")


def _is_id(value: Any) -> bool:
    """Whether a value of a label file may name a picture: lists and mappings have no place in a table."""
    return isinstance(value, (int, float, str))


def is_numbers(value: Any, count: int) -> TypeGuard[list[float]]:
    """Whether a value of a label file is a list of so many finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, (int, float)) and abs(v) <= _LARGEST for v in value)
    )


_LARGEST = float(np.finfo(np.float32).max)
"""Beyond it a number is infinite where labels are held."""


def _joint_weights(
    third: NDArray[np.float32],
    labels: str,
    min_score: float,
    hidden_weight: float,
    annotations: Path,
    numbers: list[int],
) -> NDArray[np.float32]:
    """Weights (N, K) by third values (N, K) of records of these numbers."""
    if labels == "auto":
        labels = "teacher" if bool(((third > 0) & (third < 1)).any()) else "hand"
    check_thirds(third, labels, annotations, numbers)
    if labels == "teacher":
        # A heatmap, and so a teacher's score, may peak a little above 1.
        return np.where(third >= min_score, third.clip(max=1), 0).astype(np.float32)
    return np.where(third == 1, hidden_weight, third > 0).astype(np.float32)


def check_thirds(third: NDArray[np.floating], labels: str, annotations: Path, numbers: Sequence[int]) -> None:
    """Raises DatasetError where a third value (N, K) is no score ('teacher'), or no visibility ('hand')."""
    accepted = (third >= 0) & (third <= 1.5) if labels == "teacher" else np.isin(third, (0, 1, 2))
    if not accepted.all():
        row, joint = np.argwhere(~accepted)[0]
        wanted = "a score 0..1" if labels == "teacher" else "visibility 0, 1 or 2"
        seen = f"keypoint {joint} has third value {third[row, joint]:g}"
        raise wrong_record(annotations, numbers[row], f"{seen}; {wanted} is wanted")


def _read_second(compare: Path, ids: Sequence[int | str], min_score: float, skeleton: Skeleton) -> NDArray[np.float32]:
    """Where a second label file has the joints (N, K, 2) of the people `ids` (N); NaN where it lacks or doubts them.

    Where records have `teacher_keypoints` beside those of an annotator, they alone count. Which keypoint is which, says
    `put_in_order`.

    Raises:
        DatasetError: the file or a record is wrong, or none of the people is in it.
    """
    if not compare.is_file():
        raise DatasetError(
            f"the second label file {compare} is missing; have a teacher label the set, or take `compare` out"
        )
    document = read_json(compare)
    put_in_order(document, compare, skeleton)
    records = list(people_records(document, compare))
    key = "teacher_keypoints" if any(record.get("teacher_keypoints") for _, record in records) else "keypoints"
    rows = [(number, record) for number, record in records if record.get(key)]
    points, place = [], {}
    for number, record in rows:
        person = _id_of(record, number, compare)
        if person in place:
            raise wrong_record(compare, number, f"it repeats the id {person!r}")
        place[person] = len(points)
        points.append(keypoints_of(record, number, compare, len(skeleton), key))
    if place.keys().isdisjoint(ids):
        there = f"the first there is {next(iter(place))!r}" if place else "nobody there has keypoints"
        raise DatasetError(
            f"{compare}: none of the {len(ids)} people to compare is in it ({there}, here {ids[0]!r}); a second label "
            "file wants the annotation ids of the first"
        )
    triples = np.array(points, np.float32).reshape(-1, len(skeleton), 3)
    known = _joint_weights(triples[..., 2], "auto", min_score, 1.0, compare, [number for number, _ in rows]) > 0
    theirs = np.where(known[..., None], triples[..., :2], np.nan)
    nowhere = np.full((1, *theirs.shape[1:]), np.nan, np.float32)
    return np.concatenate([theirs, nowhere])[[place.get(person, -1) for person in ids]]


def _far_from(
    second: NDArray[np.float32],
    keypoints: NDArray[np.float32],
    areas: Sequence[float],
    limit: float,
    skeleton: Skeleton,
) -> NDArray[np.bool_]:
    """Which joints (N, K) lie further from `second` (N, K, 2), NaN where unknown, than `limit` times OKS's measure.

    That is 2 sigma of the joint times the root of the person's area (N,): at a distance of `limit` measures the joint's
    part of OKS is exp(-limit² / 2).
    """
    measure = 2 * np.array(skeleton.sigmas) * np.sqrt(areas)[:, None]
    return np.linalg.norm(keypoints - second, axis=-1) > limit * measure


def _id_of(record: dict[str, Any], number: int, annotations: Path) -> int | str:
    """The id by which a second label file knows a person."""
    person = record.get("id")
    if not isinstance(person, (int, str)):
        raise wrong_record(annotations, number, f"id is {person!r:.80}; an integer or a name is wanted to compare by")
    return person


def wrong_record(annotations: Path, number: int, what: str) -> DatasetError:
    """The error that names a label file and one of its records."""
    return DatasetError(f"{annotations}: annotations[{number}]: {what}")
