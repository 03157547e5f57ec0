"""Labels for evaluating tracks: boxes and identities in each frame."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError, DatasetError
from sharpose_rt.labels import mot
from sharpose_rt.labels.coco import (
    area_of,
    box_of,
    check_picture,
    keypoints_of,
    people_records,
    put_in_order,
    read_document,
    wrong_record,
)
from sharpose_rt.labels.numbering import by_number, frame_ids
from sharpose_rt.labels.records import is_id
from sharpose_rt.skeleton import BOX_TO_AREA, Skeleton
from sharpose_rt.skeletons import StreamReader

log = logging.getLogger("sharpose_rt.evaluation")

_DISTRACTORS = (2, 7, 8, 12)  # MOTChallenge: person on vehicle, static person, distractor, reflection


@dataclass
class TruthFrame:
    """People of one frame: each with an id, a box (xyxy px), and optionally keypoints (K, 3).

    `ignored` are boxes where neither hits nor misses count; `crowds` are corners (n, 2) of regions with people who were
    not labelled individually; `others` are boxes of other things, such as cars: a detection that matches one best is
    wrong, even if an ignored box is near.
    """

    ids: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    keypoints: list[list[float]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    ignored: list[list[float]] = field(default_factory=list)
    others: list[list[float]] = field(default_factory=list)
    crowds: list[NDArray[np.float64]] = field(default_factory=list)

    def table(self) -> NDArray[np.float64]:
        """(N, K, 3) x, y in px and visibility."""
        return np.array(self.keypoints, np.float64).reshape(len(self.ids), -1, 3)


@dataclass(frozen=True)
class TrackTruth:
    """Labels of a clip by `frame_id`, from 0. `labelled` are the labelled frames; None: all of them.

    `frame_at` maps media times in whole milliseconds to frames, if the labels have times.
    """

    frames: dict[int, TruthFrame]
    labelled: frozenset[int] | None
    has_keypoints: bool
    frame_at: dict[int, int] | None = None


def read_truth(path: Path, skeleton: Skeleton | None = None) -> TrackTruth:
    """Labels of a clip from MOTChallenge text, COCO-form JSON with `track_id`, or another skeleton stream.

    Text: frame (from 1), id, left, top (px from 1), width, height, and optionally flag (0: not counted), class (1:
    person; detections on the distractors of the benchmark do not count), visibility. JSON: each of `images` is a
    labelled frame (unless `is_labeled` is false, as in PoseTrack), with its number in the clip as `frame_id` (from 0),
    otherwise by the order of numbers in the file names; each of `annotations` has `bbox`, `track_id` and, for OKS,
    `keypoints`. Detections on an `ignore` box, or at least half in a box of `iscrowd` or in PoseTrack's
    `ignore_regions_x` and `_y`, do not count; nor, for OKS, people without a visible keypoint. A person without `bbox`
    gets that of the keypoints; one without either is left out.

    Args:
        path: the labels; text, unless the name ends in .json or .jsonl (a stream).
        skeleton: the keypoints to compare by OKS; None reads only boxes.

    Raises:
        DatasetError: the file is wrong; names line or record.
        StreamError: the stream is wrong.
        ConfigError: the labels have other keypoints.
    """
    if path.suffix == ".jsonl":
        truth = _from_stream(path, skeleton)
    elif path.suffix == ".json":
        truth = _from_json(path, skeleton)
    else:
        truth = _from_text(path)
    if not any(frame.ids for frame in truth.frames.values()):
        raise DatasetError(f"{path} has nobody in it to be tracked; is it the right file?")
    return truth


def _from_text(path: Path) -> TrackTruth:
    try:
        rows = mot.rows(path.read_text(encoding="utf-8-sig"), str(path), 8)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the labels {path}: {error}") from error
    except ValueError as error:
        raise DatasetError(str(error)) from error
    frames: defaultdict[int, TruthFrame] = defaultdict(TruthFrame)
    for row in rows:
        left, top, width, height = row.xywh
        if min(width, height) <= 0:
            raise DatasetError(f"{row.where}: box width {width:g} and height {height:g}; above 0 is accepted")
        # With ten columns, as in the benchmark of 2015, the last three are world coordinates.
        flag, kind = row.more[0] if row.more else 1.0, row.more[1] if row.columns in (8, 9) else -1.0
        frame, box = frames[row.frame_id], [left, top, left + width, top + height]
        if kind in _DISTRACTORS:
            frame.ignored.append(box)
        elif flag != 0 and kind in (1, -1):
            frame.ids.append(row.person)
            frame.boxes.append(box)
        else:
            frame.others.append(box)
    _check_unique(frames, path)
    return TrackTruth(dict(frames), None, False)


def _from_json(path: Path, skeleton: Skeleton | None) -> TrackTruth:
    document = read_document(path)
    if skeleton:
        _check_same(put_in_order(document, path, skeleton) or skeleton, skeleton, path)
    number_of = _frame_numbers(document["images"], path)
    labelled = [image["id"] for image in document["images"] if image.get("is_labeled") is not False]
    frames = {number_of[image_id]: TruthFrame() for image_id in labelled}
    for number, image in enumerate(document["images"]):
        if number_of[image["id"]] in frames:
            frames[number_of[image["id"]]].crowds += _ignore_regions(image, number, path)
    for number, record in people_records(document, path):
        check_picture(record, number, path, number_of)
        frame = frames.get(number_of[record["image_id"]])
        if frame is None:
            continue
        points = np.zeros((0, 3))
        if record.get("keypoints") and (skeleton or record.get("bbox") is None):
            joints = len(skeleton) if skeleton else len(record["keypoints"]) // 3
            points = np.array(keypoints_of(record, number, path, joints)).reshape(-1, 3)
        seen = points[points[:, 2] > 0, :2]
        if record.get("bbox") is None:
            if not len(seen):
                continue
            record = {**record, "bbox": [*seen.min(0).tolist(), *np.ptp(seen, axis=0).tolist()]}
        box = box_of(record, number, path)
        corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        if record.get("iscrowd"):
            frame.crowds.append(np.array(corners)[[[0, 1], [2, 1], [2, 3], [0, 3]]])
            continue
        if record.get("ignore") or (len(points) and not len(seen)):
            frame.ignored.append(corners)
            continue
        if not isinstance(record.get("track_id"), int):
            raise wrong_record(path, number, f"track_id is {record.get('track_id')!r}; an integer is wanted")
        frame.ids.append(record["track_id"])
        frame.boxes.append(corners)
        frame.areas.append(area_of(record, box, number, path))
        if skeleton and len(points):
            frame.keypoints.append(points.ravel().tolist())
    _check_unique(frames, path)
    return TrackTruth(frames, frozenset(frames), _all_have_keypoints(frames))


def _ignore_regions(image: dict[str, Any], number: int, path: Path) -> list[NDArray[np.float64]]:
    """Corners (n, 2) of a picture's regions in PoseTrack: lists of x and y for each, or for the only one."""
    sides = [image.get(f"ignore_regions_{axis}") or [] for axis in "xy"]
    try:
        xs, ys = ([side] if side and not isinstance(side[0], list) else side for side in sides)
        regions = [np.array([x, y], np.float64).T for x, y in zip(xs, ys, strict=True)]
    except (TypeError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{path}: images[{number}] has ignore_regions_x and _y that are no lists of as many numbers: {error}"
        ) from error
    return [region for region in regions if len(region)]


def _frame_numbers(images: list[Any], path: Path) -> dict[Any, int]:
    """The frame in the clip for each picture id."""
    for number, image in enumerate(images):
        if not isinstance(image, dict) or not is_id(image.get("id")):
            raise DatasetError(f"{path}: images[{number}] is {image!r:.80}; `id` (a number or a name) is wanted")
    numbers = frame_ids(images)
    if numbers is not None:
        first: dict[int, Any] = {}
        for place, (number, image) in enumerate(zip(numbers, images, strict=True)):
            if not isinstance(number, int) or number < 0:
                raise DatasetError(
                    f"{path}: images[{place}] has the frame_id {number!r:.60}; a whole number from 0 on is wanted"
                )
            name = image.get("file_name", image["id"])
            other = first.setdefault(number, name)
            if other != name:
                raise DatasetError(
                    f"{path}: {other} and {name} are both frame {number}: two clips in one file; part them"
                )
        return {image["id"]: number for number, image in zip(numbers, images, strict=True)}
    names = {image["id"]: str(image.get("file_name", image["id"])) for image in images}
    named = by_number(names.values(), str(path))
    places = {named[number]: place for place, number in enumerate(sorted(named))}
    if max(named) - min(named) >= len(named):
        log.warning(
            "%s: its pictures have no frame_id, and their numbers go from %d to %d with gaps: they are taken for the "
            "frames 0 to %d. Where the stream has those between them too, give each picture its frame_id",
            path, min(named), max(named), len(named) - 1,
        )  # fmt: skip
    return {image_id: places[name] for image_id, name in names.items()}


def _from_stream(path: Path, skeleton: Skeleton | None) -> TrackTruth:
    reader = StreamReader(path)
    if skeleton:
        reader = reader.of_coco()
        _check_same(reader.header.skeleton, skeleton, path)
    frames: dict[int, TruthFrame] = {}
    frame_at: dict[int, int] = {}
    unknown = 0
    for record in reader:
        frame_at[milliseconds(record.pts_s)] = record.frame_id
        poses = record.poses
        unknown += int((poses.track_ids <= 0).sum())
        # People without keypoints are not similar to anybody by keypoints, not even to themselves.
        counts = np.count_nonzero(poses.keypoint_scores, 1) > 0 if skeleton else np.ones(len(poses), bool)
        ignored, poses = poses.bboxes_xyxy[~counts].astype(np.float64).tolist(), poses.kept(counts)
        table = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], -1)
        boxes = poses.bboxes_xyxy.astype(np.float64)
        areas = (BOX_TO_AREA * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist()
        frames[record.frame_id] = TruthFrame(
            poses.track_ids.tolist(), boxes.tolist(), [person.ravel().tolist() for person in table], areas, ignored
        )
    if unknown:
        people = sum(len(frame.ids) for frame in frames.values())
        raise DatasetError(
            f"{path}: {unknown} of its {people} people, over all frames, have no track id, so that nobody knows who is "
            "the same; give a stream of a run with a tracker, or write the ids into it"
        )
    _check_unique(frames, path)
    return TrackTruth(frames, frozenset(frames), _all_have_keypoints(frames), frame_at)


def milliseconds(pts_s: float) -> int:
    """Media time to the nearest millisecond."""
    return round(1000 * pts_s)


def _check_same(labelled: Skeleton, wanted: Skeleton, path: Path) -> None:
    if labelled.keypoints != wanted.keypoints:
        raise ConfigError(
            f"{path} has the {len(labelled)} keypoints of {labelled.name}, the stream the {len(wanted)} of "
            f"{wanted.name}; OKS needs the same set, similarity 'iou' compares boxes"
        )


def _all_have_keypoints(frames: dict[int, TruthFrame]) -> bool:
    return all(len(frame.keypoints) == len(frame.ids) for frame in frames.values())


def _check_unique(frames: dict[int, TruthFrame], path: Path) -> None:
    for number, frame in frames.items():
        if len(set(frame.ids)) != len(frame.ids):
            raise DatasetError(f"{path}: frame {number} (from 0) has one id twice: {sorted(frame.ids)}")
