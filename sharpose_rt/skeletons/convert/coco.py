"""COCO keypoint results, as pycocotools' `loadRes` takes them; and labels, as tools for labelling and training do."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError
from sharpose_rt.geometry.oks import person_scores
from sharpose_rt.skeleton import BOX_TO_AREA, Skeleton
from sharpose_rt.skeletons.convert.common import (
    found_points,
    has_pictures,
    new_file,
    rounded,
    stem_of,
    with_points,
    write_json_list,
)
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.skeletons.records import FrameRecord
from sharpose_rt.skeletons.stream import StreamReader
from sharpose_rt.types import Poses

log = logging.getLogger("sharpose_rt.skeletons")


def write_coco(
    reader: StreamReader,
    out: Path,
    *,
    first_image_id: int = 0,
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
) -> None:
    """Writes one record a person: image_id, category_id 1, keypoints, score, track_id.

    `image_id` is the number that is the picture's name (581781 of '000000581781.jpg') where all pictures have such
    names, each its own; else `frame_id` + `first_image_id`.
    `score` is that of the box times that of the pose (`geometry.oks.pose_scores`) and, where it is known, the quality:
    so `eval` ranks people, better than by less in all sets that it was tried on. There is no 'bbox': with one,
    pycocotools takes the results for boxes and computes another area. People without a keypoint are left out, and feet,
    of which COCO's evaluation knows nothing.
    """
    reader = reader.of_coco()
    if not predicted:
        reader = reader.without_predicted()
    write_json_list(out, _records(_Images(reader, first_image_id), reader.header.skeleton.sigmas, raw, min_score))


class _Images:
    """The frames of a stream with their image ids, as `write_coco` numbers them.

    Each pass ends where the first one did, as the file may be growing.
    """

    def __init__(self, reader: StreamReader, first_id: int) -> None:
        self._reader, self._first_id = reader, first_id
        self._count: int | None = None
        names = (Path(frame.picture or "").stem for frame in self._frames())
        self._by_name = has_pictures(reader) and _are_numbers(names)

    def __iter__(self) -> Iterator[tuple[int, FrameRecord]]:
        for frame in self._frames():
            yield int(Path(frame.picture or "").stem) if self._by_name else frame.frame_id + self._first_id, frame

    def _frames(self) -> Iterator[FrameRecord]:
        count = 0
        for frame in islice(self._reader, self._count):
            count += 1
            yield frame
        self._count = count


def _are_numbers(names: Iterable[str]) -> bool:
    """Each of the names is a number that JSON's readers take, and another one."""
    found = [int(name) if name.isdecimal() else -1 for name in names]
    return all(0 <= number < 2**63 for number in found) and len(set(found)) == len(found)


def _records(frames: _Images, sigmas: Sequence[float], raw: bool, min_score: float) -> Iterator[dict[str, Any]]:
    for image_id, frame in frames:
        poses = frame.poses
        points = rounded(found_points(poses, raw=raw, min_score=min_score))
        scores = _scores(poses, points, sigmas)
        for i in with_points(points):
            yield {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": points[i].ravel().tolist(),
                "score": scores[i],
                "track_id": int(poses.track_ids[i]) or None,
            }


def _scores(poses: Poses, points: NDArray[np.float64], sigmas: Sequence[float]) -> list[float]:
    """How sure each person (N) is whose points (N, K, 3) these are, as `eval` ranks them."""
    return np.round(person_scores(poses.bbox_scores, points[..., 2], poses.quality, sigmas), 6).tolist()


def write_coco_labels(
    reader: StreamReader,
    out: Path,
    *,
    file_name: str = "{stem}_{frame:06d}.jpg",
    first_image_id: int = 0,
    raw: bool = False,
    min_score: float = 0.3,
) -> None:
    """Writes {info, licenses, categories, images, annotations}: each frame a picture, each person a label.

    Pictures have the ids that `write_coco` gives them with the same `first_image_id`, so its results fit these labels.
    Keypoints have visibility 2 where they lie within the picture and their score is at least `min_score`, else 0; boxes
    end at the centres of the picture's outer pixels. People without a keypoint are left out, and those of stage
    'predicted': of them nothing was seen in this frame, and labels are for correcting and training.
    `track_id` and `score` (as in results) stand beside what COCO has, and `frame_id` in each picture.
    `file_name` is the pattern of the frames' names, with `stem` of the stream's file and `frame` from 0; pictures keep
    their own; `info` has `of_video` where names are made up, so that they are not taken for those of pictures. The
    labels are of upright frames with square pixels, each frame of the video one.

    Raises:
        ConfigError: the pattern has other fields, or gives all frames one name.
    """
    stem, skeleton = stem_of(reader.path), reader.header.skeleton
    frames, names = _Images(reader.without_predicted(), first_image_id), Counter[str]()

    def images() -> Iterator[dict[str, Any]]:
        for image_id, frame in frames:
            width, height = frame.frame_size_wh or reader.header.frame_size_wh
            name = frame.picture or _named(file_name, stem, frame.frame_id)
            if frame.picture:
                names[name] += 1
            yield {"id": image_id, "file_name": name, "width": width, "height": height, "frame_id": frame.frame_id}

    def annotations() -> Iterator[dict[str, Any]]:
        number = 0
        for image_id, frame in frames:
            size_wh = frame.frame_size_wh or reader.header.frame_size_wh
            for label in people_labels(frame.poses, size_wh, skeleton, raw=raw, min_score=min_score):
                number += 1  # pycocotools takes id 0 for no match
                yield {"id": number, "image_id": image_id, **label}

    info: dict[str, Any] = {"description": f"{reader.header.source}, by sharpose-rt {reader.header.version}"}
    info |= {} if has_pictures(reader) else {"of_video": True}
    if _named(file_name, stem, 0) == _named(file_name, stem, 1):
        raise ConfigError(f"file_name is {file_name!r}, one name for all frames; put {{frame}} into it")
    with new_file(out) as file:
        head = {"info": info, "licenses": [], "categories": [person_category(skeleton)]}
        file.write(orjson.dumps(head)[:-1])
        for name, records in (("images", images()), ("annotations", annotations())):
            file.write(b',\n"' + name.encode() + b'":[')
            for i, record in enumerate(records):
                file.write((b",\n" if i else b"\n") + orjson.dumps(record))
            file.write(b"]")
        file.write(b"}\n")
    if twice := [name for name, count in names.items() if count > 1]:
        log.warning(
            "%s: several pictures are named %s, which `file_name` cannot tell apart; rename them and run again",
            out, twice[0],
        )  # fmt: skip


def person_category(skeleton: Skeleton) -> dict[str, Any]:
    """COCO's category of people with these keypoints, of id 1."""
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],
    }


def people_labels(
    poses: Poses, size_wh: tuple[int, int], skeleton: Skeleton, *, raw: bool = False, min_score: float = 0.3
) -> Iterator[dict[str, Any]]:
    """The annotation of each person of a frame as `write_coco_labels` has it, but for its own id and the picture's.

    Who has no keypoint, or stands beyond the picture, has none.
    """
    points = rounded(found_points(poses, raw=raw, min_score=min_score))
    scores = _scores(poses, points, skeleton.sigmas)
    end = np.array(size_wh) - 1
    # Readers refuse the picture else, as ultralytics does, or learn from what nobody can see.
    points[((points[..., :2] < 0) | (points[..., :2] > end)).any(axis=-1)] = 0
    boxes = np.round(np.clip(poses.bboxes_xyxy.astype(float), 0, np.tile(end, 2)), 2).tolist()
    for i in with_points(points):
        (left, top, right, bottom), found = boxes[i], points[i, :, 2] > 0
        if right <= left or bottom <= top:  # whoever trains from a set refuses all of it for one such box
            continue
        yield {
            "category_id": 1,
            "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
            "area": round(BOX_TO_AREA * (right - left) * (bottom - top), 1),
            "segmentation": [],  # without it CVAT refuses the file, and without `licenses` Roboflow
            "iscrowd": 0,
            "keypoints": np.concatenate([points[i, :, :2], 2.0 * found[:, None]], 1).ravel().tolist(),
            "num_keypoints": int(found.sum()),
            "score": scores[i],
            "track_id": int(poses.track_ids[i]) or None,
        }


def _named(pattern: str, stem: str, frame: int) -> str:
    try:
        return plain(pattern.format(stem=stem, frame=frame))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"file_name is {pattern!r} ({error}); fields {{stem}} and {{frame}} are accepted, as in "
            "{stem}_{frame:06d}.jpg"
        ) from error
