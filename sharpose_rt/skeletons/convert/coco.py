"""COCO keypoint results, for pycocotools' `loadRes`; and COCO labels, for labelling and training tools."""

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
    """Writes one record per person: image_id, category_id 1, keypoints, score, track_id.

    `image_id` is the number in the name of the picture (581781 for '000000581781.jpg') if all pictures have such names,
    without duplicates; otherwise `frame_id` + `first_image_id`.
    `score` is the score of the box times that of the pose (`geometry.oks.pose_scores`) and the quality, if known:
    `eval` ranks people like this, which was better than with fewer factors on all datasets tried. There is no 'bbox',
    with which pycocotools would take the results for boxes and compute another area. People without a keypoint are left
    out, and so are feet, which COCO's evaluation does not have."""
    reader = reader.of_coco()
    if not predicted:
        reader = reader.without_predicted()
    write_json_list(out, _records(_Images(reader, first_image_id), reader.header.skeleton.sigmas, raw, min_score))


class _Images:
    """The frames of a stream with their image ids, as `write_coco` numbers them.

    Each pass ends where the first one did, because the file may be growing.
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
    """Whether all names are numbers that JSON readers accept, without duplicates."""
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
    """Scores of people (N,) with points (N, K, 3), by which `eval` ranks them."""
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
    """Writes {info, licenses, categories, images, annotations}: each frame is a picture, each person a label.

    Pictures have the same ids as in `write_coco` with the same `first_image_id`, so its results fit these labels.
    Keypoints have visibility 2 if they are inside the picture with a score of at least `min_score`, otherwise 0; boxes
    end at the centres of the outer pixels. People without a keypoint are left out, and so are those of stage
    'predicted', who were not seen in the frame: labels are for correction and training.
    In addition to COCO's fields, people have `track_id` and `score` (as in results), and pictures `frame_id`.
    `file_name` is the pattern for names of frames, with `stem` of the stream's file and `frame` from 0; pictures keep
    their names. `info` has `of_video` if names are generated, so that they are not taken for those of pictures. The
    labels refer to upright frames with square pixels, one per frame of the video.

    Raises:
        ConfigError: the pattern has other fields, or the same name for all frames.
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
                number += 1  # for pycocotools, id 0 means no match
                yield {"id": number, "image_id": image_id, **label}

    info: dict[str, Any] = {"description": f"{reader.header.source}, by sharpose-rt {reader.header.version}"}
    info |= {} if has_pictures(reader) else {"of_video": True}
    if _named(file_name, stem, 0) == _named(file_name, stem, 1):
        raise ConfigError(f"file_name is {file_name!r}, the same name for all frames; include {{frame}}")
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
            "%s: several pictures are named %s, so their labels cannot be told apart; rename them and run again",
            out, twice[0],
        )  # fmt: skip


def person_category(skeleton: Skeleton) -> dict[str, Any]:
    """COCO's category of people with these keypoints, with id 1."""
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
    """The annotations of the people in a frame as in `write_coco_labels`, without ids of annotation and picture.

    People without a keypoint, or outside the picture, are left out.
    """
    points = rounded(found_points(poses, raw=raw, min_score=min_score))
    scores = _scores(poses, points, skeleton.sigmas)
    end = np.array(size_wh) - 1
    # Otherwise readers such as ultralytics refuse the picture, or learn from keypoints that cannot be seen.
    points[((points[..., :2] < 0) | (points[..., :2] > end)).any(axis=-1)] = 0
    boxes = np.round(np.clip(poses.bboxes_xyxy.astype(float), 0, np.tile(end, 2)), 2).tolist()
    for i in with_points(points):
        (left, top, right, bottom), found = boxes[i], points[i, :, 2] > 0
        if right <= left or bottom <= top:  # training programs refuse a whole dataset with such a box
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
            f"file_name is {pattern!r} ({error}); fields {{stem}} and {{frame}} are accepted, for example "
            "{stem}_{frame:06d}.jpg"
        ) from error
