"""People with keypoints from label files in COCO's or MPII's form, read lazily and mixed.

Labels are stored as columns (a few arrays), so that loader processes share them; a picture is read when it is sampled.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
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
    people_records,
    picture_paths,
    put_in_order,
    read_document,
    read_image,
    wrong_record,
)
from sharpose_rt.labels.records import stated_size
from sharpose_rt.labels.yolo import set_files
from sharpose_rt.skeleton import COCO17, Skeleton
from sharpose_rt.training.config import SetConfig, TrainConfig


@dataclass(frozen=True)
class People:
    """Labelled people of one or more datasets, N people, K keypoints.

    Args:
        image_paths: of all M pictures.
        image_sizes_wh: (M, 2) int64 px, of each picture by its record; zeros if unknown.
        image_index: (N,) int64 into `image_paths`.
        bboxes_xyxy: (N, 4) float32 px.
        keypoints: (N, K, 2) float32 px.
        joint_weights: (N, K) float32 in 0..1; 0 for joints that are not labelled or not trusted.
        areas: (N,) float32 px², of the segment.
        draws: (N,) float32, how often the person is sampled per epoch.
    """

    image_paths: tuple[str, ...]
    image_sizes_wh: NDArray[np.int64]
    image_index: NDArray[np.int64]
    bboxes_xyxy: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    joint_weights: NDArray[np.float32]
    areas: NDArray[np.float32]
    draws: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.image_index)

    def take(self, indices: NDArray[np.int64]) -> People:
        """Only these people."""
        columns = {item.name: getattr(self, item.name)[indices] for item in fields(self)[2:]}
        return People(self.image_paths, self.image_sizes_wh, **columns)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """The picture of a person, see `read_image`."""
        image = self.image_index[index]
        width, height = self.image_sizes_wh[image].tolist()
        return read_image(self.image_paths[image], (width, height))

    def spread(self, count: int) -> People:
        """`count` people, evenly spread over the datasets; all of them if there are fewer."""
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
    """The people of a label file with at least one joint to learn from, without crowds.

    People are selected by `people_records`, keypoints are ordered by `put_in_order`, and missing boxes are added by
    `box_keypoints`.

    Args:
        annotations: see `read_document`; the third value of a keypoint is COCO's visibility (0, 1, 2) in a
            hand-labelled file, and a score (0..1) in a teacher's.
        images: folder of the pictures.
        labels: 'hand', 'teacher', or 'auto': a teacher's if any third value is strictly between 0 and 1.
        weight: how often each person is sampled per epoch.
        trust: factor on the joint weights.
        min_teacher_score: a teacher's joints below it have weight 0.
        hidden_weight: factor on the weights of joints with visibility 1 in a hand-labelled file.
        compare: a second label file for the same people; joints far from its positions have weight 0.
        compare_limit: the largest distance, see `_far_from`.
        skeleton: the keypoints of the network.
        say: receives the number of joints dropped, and messages of `put_in_order`.

    Raises:
        DatasetError: a file or a record is wrong, or the second file has none of these people; names them.
    """
    document = read_document(annotations)
    box_keypoints(document)
    found = put_in_order(document, annotations, skeleton, say)
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
        image_sizes_wh=np.array([stated_size(record) for record in document["images"]], np.int64).reshape(-1, 2),
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
    """All datasets as one."""
    offsets = np.cumsum([0, *(len(people.image_paths) for people in sets)])
    columns: dict[str, Any] = {
        item.name: np.concatenate([getattr(people, item.name) for people in sets]) for item in fields(People)[2:]
    }
    shifted = [people.image_index + offset for people, offset in zip(sets, offsets, strict=False)]
    columns["image_index"] = np.concatenate(shifted)
    sizes_wh = np.concatenate([people.image_sizes_wh for people in sets])
    return People(tuple(path for people in sets for path in people.image_paths), sizes_wh, **columns)


def load_people(
    config: TrainConfig, roots: Sequence[Path], skeleton: Skeleton, say: Callable[[str], None] = lambda _: None
) -> People:
    """The training sets of a configuration, mixed; `say` receives what is left out, see `read_people`.

    Raises:
        DatasetError: a set is missing or wrong.
        ConfigError: there is none, or all weights are 0.
    """
    if not config.data.sets:
        raise ConfigError("data.sets is empty; name at least one set to train on")
    people = mix([_read_set(item, config, roots, skeleton, say) for item in config.data.sets])
    people = people if config.data.max_people is None else people.spread(config.data.max_people)
    if not (people.draws > 0).any():
        raise ConfigError(
            f"data.sets: the weight of all {len(people)} people is 0, so that nobody is drawn; "
            "give a set a weight above 0"
        )
    return people


def _read_set(
    item: SetConfig, config: TrainConfig, roots: Sequence[Path], skeleton: Skeleton, say: Callable[[str], None]
) -> People:
    folder = find_set(item.name, roots)
    annotations, images = set_files(folder, item.annotations, item.images)
    return read_people(
        annotations,
        images,
        labels=item.labels,
        weight=item.weight,
        trust=item.trust,
        min_teacher_score=config.data.min_teacher_score,
        hidden_weight=config.data.hidden_weight,
        compare=folder / item.compare if item.compare else None,
        compare_limit=item.compare_limit,
        skeleton=skeleton,
        say=say,
    )


def find_set(name: str, roots: Sequence[Path]) -> Path:
    """The folder of a dataset below one of the data roots.

    Raises:
        DatasetError: there is none.
    """
    for root in roots:
        if (root / name).is_dir():
            return root / name
    places = ", ".join(map(str, roots))
    raise DatasetError(
        f"no set {name!r} below the data roots {places}; "
        "give its parent folder by --data-root (it may be repeated) or in SHARPOSE_DATA"
    )


def data_roots(given: Sequence[str] | None) -> list[Path]:
    """Data roots from the command line, otherwise from SHARPOSE_DATA, otherwise the current folder."""
    texts = list(given or ()) or [t for t in os.environ.get("SHARPOSE_DATA", "").split(os.pathsep) if t]
    return [Path(text) for text in texts] or [Path()]


def quiet_worker(_: int) -> None:
    """Sets up a loader process: it leaves Ctrl-C and SIGTERM, which may be sent to the whole process group, to the
    training process (which ends it, or whose end it notices), and uses one thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)


def epoch_order(draws: NDArray[np.float32], seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices for an epoch in random order: each person floor(draws) times, and once more with the remaining
    probability.

    It only depends on its arguments, so a resumed run samples what the first one would have sampled.
    """
    rng = np.random.default_rng((seed, epoch))
    counts = np.floor(draws + rng.random(len(draws), np.float32)).astype(np.int64)
    return rng.permutation(np.repeat(np.arange(len(draws)), counts))


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


def _joint_weights(
    third: NDArray[np.float32],
    labels: str,
    min_score: float,
    hidden_weight: float,
    annotations: Path,
    numbers: list[int],
) -> NDArray[np.float32]:
    """Weights (N, K) from third values (N, K), for records with these numbers."""
    if labels == "auto":
        labels = "teacher" if bool(((third > 0) & (third < 1)).any()) else "hand"
    check_thirds(third, labels, annotations, numbers)
    if labels == "teacher":
        # The peak of a heatmap, and so a teacher's score, may be slightly above 1.
        return np.where(third >= min_score, third.clip(max=1), 0).astype(np.float32)
    return np.where(third == 1, hidden_weight, third > 0).astype(np.float32)


def _read_second(compare: Path, ids: Sequence[int | str], min_score: float, skeleton: Skeleton) -> NDArray[np.float32]:
    """Positions (N, K, 2) of the joints of people `ids` (N) in a second label file; NaN if missing or uncertain.

    If records have `teacher_keypoints` in addition to those of an annotator, only these count. Keypoints are ordered by
    `put_in_order`.

    Raises:
        DatasetError: the file or a record is wrong, or none of the people is in it.
    """
    if not compare.is_file():
        raise DatasetError(
            f"the second label file {compare} is missing; have a teacher label the set, or take `compare` out"
        )
    document = read_document(compare)
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
    """Which joints (N, K) are further from `second` (N, K, 2; NaN if unknown) than `limit` times the unit of OKS.

    The unit is 2 sigma of the joint times the root of the person's area (N,): at a distance of `limit` units the
    joint's contribution to OKS is exp(-limit² / 2)."""
    measure = 2 * np.array(skeleton.sigmas) * np.sqrt(areas)[:, None]
    return np.linalg.norm(keypoints - second, axis=-1) > limit * measure


def _id_of(record: dict[str, Any], number: int, annotations: Path) -> int | str:
    """The id of a person in a second label file."""
    person = record.get("id")
    if not isinstance(person, (int, str)):
        raise wrong_record(annotations, number, f"id is {person!r:.80}; an integer or a name is wanted to compare by")
    return person
