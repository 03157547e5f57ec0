"""JSON lists of people: COCO's results and labels, AlphaPose's, MMPose's, ultralytics' and easy_ViTPose's results."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import StreamError
from sharpose_rt.labels.numbering import by_number, frame_ids, number_in, photographs
from sharpose_rt.labels.records import keypoint_names, nobody, of_people, stated_size
from sharpose_rt.skeleton import COCO17, WHOLEBODY133, Skeleton, is_person, order_by_name, person_categories
from sharpose_rt.skeletons.importers.openpose import read_openpose
from sharpose_rt.skeletons.importers.people import (
    Imported,
    ImportedPerson,
    given,
    id_of,
    numbers,
    read_json,
    read_text,
    skeleton_of,
    without_ids,
)

_PARTS = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
"""Further fields of COCO-WholeBody, in the order of its 133 keypoints, and their numbers of keypoints."""


def read_alphapose(path: Path) -> Imported:
    """AlphaPose's `alphapose-results.json`, in its default form or in those of `--format open` and `--format cmu`.

    The frame is the last number in `image_id`; if a name has none, they are photographs, which are numbered in order
    and keep their names. The box score is the part of `score` that does not come from keypoints. `idx` may be a number
    or, in some versions, a list of which the first item counts; if it is 0 in the whole file, nobody was tracked.

    Raises:
        StreamError: the file has another form; names the record.
    """
    document = read_json(path)
    if isinstance(document, dict):
        return read_openpose(path)
    rows = [_alphapose_person(r, f"{path} [{i}]") for i, r in enumerate(_list(document, str(path)))]
    names = dict.fromkeys(str(r["image_id"]) for r, _ in rows)
    pictures = photographs(names)
    numbers_of = {name: number for number, name in (pictures or by_number(names, str(path))).items()}
    found = _gather([(numbers_of[str(record["image_id"])], *person) for record, person in rows], path)
    found = replace(found, pictures=pictures)
    ids = {person.track_id for people in found.frames.values() for person in people}
    return without_ids(found) if ids == {0} else found  # without --pose_track it is 0 for everybody


def _alphapose_person(record: Any, where: str) -> tuple[dict[str, Any], tuple[Skeleton, ImportedPerson]]:
    _need(record, ("image_id", "keypoints"), where)
    table, skeleton = _triples(record["keypoints"], where)
    score, box = _maybe_score(record, where), _corners(record, where, "box")
    # AlphaPose: score = mean keypoint score + box score + 1.25 * best keypoint score, over all its keypoints.
    scores = numbers(record["keypoints"], where, "keypoints")[2::3]
    idx = record.get("idx")
    while isinstance(idx, list):
        idx = idx[0] if idx else None
    of_box = None if score is None else score - scores.mean() - 1.25 * scores.max()
    return record, (skeleton, ImportedPerson(table, box, of_box, id_of(idx, where, "idx")))


def read_mmpose(path: Path) -> Imported:
    """Predictions of MMPose 1.x, from its demos ({meta_info, instance_info}) or its inferencer (a list of frames).

    The demos count frames from 1 (if there is no frame 0), the inferencer from 0. Files without frames (a single
    picture) become one frame. Keypoints are matched by the names in `meta_info`, otherwise by their number. `track_id`
    is used if present.

    Raises:
        StreamError: the file has another form; names the record.
    """
    document = read_json(path)
    names: list[str] | None = None
    first = 0
    if isinstance(document, dict):
        _need(document, ("instance_info",), str(path))
        names, first = _names(document.get("meta_info")), 1
        document = document["instance_info"]
    frames = _list(document, str(path))
    if not all(isinstance(frame, dict) and "instances" in frame for frame in frames):
        frames = [{"frame_id": first, "instances": frames}]
    counted = [_frame(f.get("frame_id", i + first), f"{path} [{i}]", "frame_id") for i, f in enumerate(frames)]
    first = min([first, *counted])
    counted = [number - first for number in counted]
    rows = []
    for i, (number, frame) in enumerate(zip(counted, frames, strict=True)):
        for j, item in enumerate(_list(frame["instances"], f"{path} [{i}] instances")):
            rows.append((number, *_mmpose_person(item, names, f"{path} [{i}] instances[{j}]")))
    return _gather(rows, path, counted)


def _names(meta: Any) -> list[str] | None:
    """Keypoint names in order; in JSON the numbers of `keypoint_id2name` are strings."""
    table = meta.get("keypoint_id2name") if isinstance(meta, dict) else None
    return [str(table[key]) for key in sorted(table, key=int)] if isinstance(table, dict) and table else None


def _mmpose_person(item: Any, names: list[str] | None, where: str) -> tuple[Skeleton, ImportedPerson]:
    _need(item, ("keypoints", "keypoint_scores"), where)
    scores = numbers(item["keypoint_scores"], where, "keypoint_scores")
    points = numbers(item["keypoints"], where, "keypoints", 2 * len(scores)).reshape(-1, 2)
    table = np.concatenate([points, scores[:, None]], axis=1)
    if names is not None and len(names) == len(table):
        table, skeleton = _by_name(table, names, where)
    else:
        skeleton = skeleton_of(len(table), where)
        table = table[: len(skeleton)]
    corners = given(item, where, "bbox", 4)
    box = None if corners is None else _upright(corners, where, "bbox")
    return skeleton, ImportedPerson(table, box, _maybe_score(item, where, "bbox_score"), _maybe_id(item, where))


def read_ultralytics(path: Path) -> Imported:
    """Output of `Results.summary()` or `.to_json()`: a list with one list per frame, or the list of a single frame.

    A file with one JSON list per line (frame by frame) is read too. Boxes and points must be in px, not normalised.

    Raises:
        StreamError: the file has another form; names frame and record.
    """
    frames = _ultralytics_frames(path)
    rows = [
        (t, *_ultralytics_person(item, f"{path} [{t}][{i}]"))
        for t, frame in enumerate(frames)
        for i, item in enumerate(_list(frame, f"{path} [{t}]"))
        if not isinstance(item, dict) or item.get("name", "person") == "person"
    ]
    return _gather(rows, path, list(range(len(frames))))


def _ultralytics_frames(path: Path) -> list[Any]:
    import orjson

    lines = [line for line in read_text(path).splitlines() if line.strip()]
    try:
        documents = [orjson.loads(line) for line in lines]  # JSON Lines, or compact JSON as a single line
    except orjson.JSONDecodeError:
        documents = [read_json(path)]
    if not documents:
        raise StreamError(f"{path} is empty; a JSON list for each frame is wanted")
    if len(documents) != 1:
        return documents
    document = _list(documents[0], str(path))
    # Strings: the output of to_json() for each frame, in a list.
    try:
        frames = [orjson.loads(item) if isinstance(item, str) else item for item in document]
    except orjson.JSONDecodeError as error:
        raise StreamError(f"{path}: a text in it is not JSON, as to_json() would give: {error}") from error
    return [frames] if not frames or isinstance(frames[0], dict) else frames


def _ultralytics_person(item: Any, where: str) -> tuple[Skeleton, ImportedPerson]:
    _need(item, ("box", "keypoints"), where)
    _need(item["box"], ("x1", "y1", "x2", "y2"), f"{where} box")
    _need(item["keypoints"], ("x", "y"), f"{where} keypoints")
    x = numbers(item["keypoints"]["x"], where, "keypoints.x")
    y = numbers(item["keypoints"]["y"], where, "keypoints.y", len(x))
    given_visible = item["keypoints"].get("visible")
    visible = np.ones(len(x)) if given_visible is None else numbers(given_visible, where, "keypoints.visible", len(x))
    skeleton = skeleton_of(len(x), where)
    corners = numbers([item["box"][side] for side in ("x1", "y1", "x2", "y2")], where, "box", 4).tolist()
    box = _upright(corners, where, "box")
    score = _maybe_score(item, where, "confidence")
    table = np.stack([x, y, visible], axis=1)[: len(skeleton)]
    if max(*box, 2.0) <= 2.0:
        raise StreamError(f"{where}: the box is {box}, which is normalised; write summary(normalize=False), in px")
    return skeleton, ImportedPerson(table, box, score, _maybe_id(item, where))


def read_easy_vitpose(path: Path) -> Imported:
    """easy_ViTPose's `--save-json`: {keypoints: people of each frame, by their ids or in a list; skeleton: names}.

    It has y before x, and neither boxes nor box scores.

    Raises:
        StreamError: the file has another form; names frame and person.
    """
    document = read_json(path)
    _need(document, ("keypoints", "skeleton"), str(path))
    names = document["skeleton"]
    if not isinstance(names, (dict, list)) or not names:
        raise StreamError(f"{path}: skeleton is {names!r:.80}; the keypoints' names by their numbers are wanted")
    if isinstance(names, dict):
        try:
            names = [names[key] for key in sorted(names, key=int)]
        except ValueError as error:
            raise StreamError(f"{path}: the keys of skeleton are no numbers: {error}") from error
    rows = []
    frames = _list(document["keypoints"], f"{path} keypoints")
    for t, frame in enumerate(frames):
        if not isinstance(frame, (dict, list)):
            raise StreamError(f"{path} keypoints[{t}] is {frame!r:.60}; people by their ids, or a list, are wanted")
        for key, points in frame.items() if isinstance(frame, dict) else enumerate(frame):
            where = f"{path} keypoints[{t}][{key}]"
            table = numbers(points, where, "keypoints", 3 * len(names)).reshape(-1, 3)[:, [1, 0, 2]]
            track_id = id_of(key, where, "the id") if isinstance(frame, dict) else None
            table, skeleton = _by_name(table, names, where)
            rows.append((t, skeleton, ImportedPerson(table, track_id=track_id)))
    return _gather(rows, path, list(range(len(frames))))


def read_coco(path: Path) -> Imported:
    """People in COCO's form: results (a list of image_id, keypoints, score), or labels with `images` and `annotations`.

    In results the frame is `image_id`; in labels it is the picture's `frame_id`, otherwise the last number in its file
    name, or its position for photographs without such a number: see `labels.numbering`.
    Labels contain the sizes of pictures, and their names if they are distinct; names that our own labels of a video
    generated are left out. Labelled keypoints have score 1 if they are visible or covered. Boxes, scores and ids
    (`bbox`, `score`, `track_id`) are used if present and not null. Keypoints are ordered by the names in the category
    of people; other categories are left out. Feet, face and hands are read from the separate lists of COCO-WholeBody
    (`foot_kpts` and so on).

    Raises:
        StreamError: the file has another form; names the record.
    """
    document = read_json(path)
    if isinstance(document, list):
        rows = []
        for i, record in enumerate(document):
            where = f"{path} [{i}]"
            _need(record, ("image_id", "keypoints"), where)
            table, skeleton = _with_parts(record, *_triples(record["keypoints"], where), where)
            score = _maybe_score(record, where)
            person = ImportedPerson(table, _corners(record, where), score, _maybe_id(record, where))
            rows.append((_frame(record["image_id"], where, "image_id"), skeleton, person))
        return _gather(rows, path)
    _need(document, ("images", "annotations"), str(path))
    frames: dict[Any, int] = {}
    images = _list(document["images"], f"{path} images")
    for i, record in enumerate(images):
        where = f"{path} images[{i}]"
        _need(record, ("id",), where)
        _number_or_name(record["id"], where, "id")
    numbered = frame_ids(images)
    if numbered is None:
        for i, record in enumerate(images):
            _need(record, ("file_name",), f"{path} images[{i}]")
        names = [str(record["file_name"]) for record in images]
        places = {name: place for place, name in photographs(names).items()}
        numbered = [places[n] if places else number_in(n, f"{path} images[{i}]") for i, n in enumerate(names)]
    for i, record in enumerate(images):
        frames[record["id"]] = _frame(numbered[i], f"{path} images[{i}]", "frame_id")
    if len(set(frames.values())) < len(frames):
        raise StreamError(f"{path}: several of its images have the same number: two clips in one file; part them")
    try:
        people = person_categories(document.get("categories"))
    except ValueError as error:
        raise StreamError(f"{path}: {error}") from None
    names = keypoint_names(of_people(document.get("categories"), people))
    rows = []
    annotations = _list(document["annotations"], f"{path} annotations")
    for i, record in enumerate(annotations):
        where = f"{path} annotations[{i}]"
        _need(record, ("image_id",), where)
        if not is_person(record, people):
            continue
        _number_or_name(record["image_id"], where, "image_id")
        if not record.get("keypoints") or record.get("iscrowd"):
            continue  # only a box, or a crowd: no pose
        if record["image_id"] not in frames:
            raise StreamError(f"{where}: image_id is {record['image_id']!r}, which no record of images has")
        if names:
            flat = numbers(record["keypoints"], where, "keypoints", 3 * len(names))
            table, skeleton = _by_name(flat.reshape(-1, 3), names, where)
        else:
            table, skeleton = _triples(record["keypoints"], where)
        table, skeleton = _with_parts(record, table, skeleton, where)
        person = ImportedPerson(table, _corners(record, where), _maybe_score(record, where), _maybe_id(record, where))
        rows.append((frames[record["image_id"]], skeleton, person))
    if annotations and not any(is_person(record, people) for record in annotations):
        raise StreamError(f"{path}: {nobody(annotations, people)}")
    found = {frames[record["id"]]: record for record in images}
    return replace(
        _gather(rows, path, list(frames.values())),
        sizes_wh={frame: size_wh for frame, record in found.items() if any(size_wh := stated_size(record))},
        pictures={} if _is_of_a_video(document) else _pictures(found),
    )


def _with_parts(
    record: dict[str, Any], table: NDArray[np.float64], skeleton: Skeleton, where: str
) -> tuple[NDArray[np.float64], Skeleton]:
    """The body (17, 3) with the feet, face and hands of the record; itself if there are none."""
    if skeleton is not COCO17 or not any(name in record for name in _PARTS):
        return table, skeleton
    flat = [numbers(record.get(name) or np.zeros(3 * k), where, name, 3 * k) for name, k in _PARTS.items()]
    return np.concatenate([table, np.concatenate(flat).reshape(-1, 3)]), WHOLEBODY133


def _is_of_a_video(document: dict[str, Any]) -> bool:
    info = document.get("info")
    return isinstance(info, dict) and info.get("of_video") is True


def _pictures(images: dict[int, dict[str, Any]]) -> dict[int, str]:
    """The names of the pictures by frame; none if one has no name or the name of another."""
    names = {frame: name for frame, image in images.items() if isinstance(name := image.get("file_name"), str) and name}
    return names if len(set(names.values())) == len(images) else {}


def _by_name(table: NDArray[np.float64], names: list[Any], where: str) -> tuple[NDArray[np.float64], Skeleton]:
    """(K, 3) in the order of the set with these names; zeros for keypoints that are not named."""
    try:
        skeleton, order = order_by_name(names)
    except ValueError as error:
        raise StreamError(f"{where}: {error}") from error
    return np.array([np.zeros(3) if at is None else table[at] for at in order]), skeleton


def _corners(record: dict[str, Any], where: str, name: str = "bbox") -> list[float] | None:
    """The box as left, top, right, bottom px, from left, top, width, height in the record; None if there is none, or
    for COCO Annotator's box of 0 px."""
    box = given(record, where, name, 4)
    if box is None or not any(box[2:]):
        return None
    left, top, width, height = box
    return _upright([left, top, left + width, top + height], where, name)


def _upright(corners: list[float], where: str, name: str) -> list[float]:
    """The same box. Raises StreamError if its sides are negative."""
    left, top, right, bottom = corners
    if right < left or bottom < top:
        raise StreamError(f"{where}: {name} has sides of {right - left:g} and {bottom - top:g} px; 0 or more is wanted")
    return corners


def _number_or_name(value: Any, where: str, name: str) -> None:
    """Raises StreamError if an id is neither a number nor a name."""
    if not isinstance(value, (int, str)):
        raise StreamError(f"{where}: {name} is {value!r:.60}; a number or a name is wanted")


def _frame(value: Any, where: str, name: str) -> int:
    number = numbers(value, where, name, 1)[0]
    if number < 0 or number != int(number):
        raise StreamError(f"{where}: {name} is {value!r}; the number of a frame, from 0 on, is wanted")
    return int(number)


def _gather(rows: list[tuple[int, Skeleton, ImportedPerson]], path: Path, frames: list[int] | None = None) -> Imported:
    """People by frame; COCO-17 if there is nobody. Raises StreamError if keypoint sets differ."""
    skeletons = {skeleton.name: skeleton for _, skeleton, _ in rows}
    if len(skeletons) > 1:
        raise StreamError(
            f"{path}: people have the keypoints of {' and of '.join(skeletons)}; one set for a file is wanted"
        )
    people: defaultdict[int, list[ImportedPerson]] = defaultdict(list, {frame: [] for frame in frames or ()})
    for frame, _, person in rows:
        people[frame].append(person)
    return Imported(next(iter(skeletons.values()), COCO17), dict(people))


def _triples(flat: Any, where: str) -> tuple[NDArray[np.float64], Skeleton]:
    values = numbers(flat, where, "keypoints")
    if len(values) % 3:
        raise StreamError(f"{where}: keypoints has {len(values)} numbers; x, y, score for each is wanted")
    skeleton = skeleton_of(len(values) // 3, where)
    return values.reshape(-1, 3)[: len(skeleton)].copy(), skeleton


def _maybe_id(item: dict[str, Any], where: str) -> int | None:
    return id_of(item.get("track_id"), where)


def _maybe_score(item: dict[str, Any], where: str, name: str = "score") -> float | None:
    value = given(item, where, name, 1)
    return None if value is None else value[0]


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise StreamError(f"{where} is {value!r:.60}; a list is wanted")
    return value


def _need(record: Any, keys: tuple[str, ...], where: str) -> None:
    missing = [key for key in keys if not isinstance(record, dict) or key not in record]
    if missing:
        raise StreamError(f"{where} lacks {', '.join(missing)}: {record!r:.80}")
