"""AlphaPose's result list (`alphapose-results.json`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from sharpose_rt.skeleton import HALPE26, WHOLEBODY133
from sharpose_rt.skeletons.convert.common import found_points, rounded, with_points, write_json_list
from sharpose_rt.skeletons.records import people_of
from sharpose_rt.skeletons.stream import StreamReader


def write_alphapose(
    reader: StreamReader, out: Path, *, raw: bool = False, min_score: float = 0.0, predicted: bool = True
) -> None:
    """Writes one record per person: image_id, category_id, keypoints, score, box (x, y, w, h), idx.

    `image_id` is the name of the picture, or '<frame_id>.jpg', as AlphaPose names the frames of a video; if the name is
    taken, for example by a picture in another folder, the frame number is added. `idx` is the track id. `score` is
    AlphaPose's: mean keypoint score + box score + 1.25 * best keypoint score, so it can exceed 1. Frames without people
    and people without a keypoint have no record.
    """
    own = (HALPE26.keypoints, WHOLEBODY133.keypoints)
    if reader.header.skeleton.keypoints not in own:  # AlphaPose has no other feet
        reader = reader.of_coco()
    if not predicted:
        reader = reader.without_predicted()
    write_json_list(out, _records(reader, raw, min_score))


def _records(reader: StreamReader, raw: bool, min_score: float) -> Iterator[dict[str, Any]]:
    taken: set[str] = set()
    for frame in reader:
        image_id = _free(frame.picture, frame.frame_id, taken) if frame.picture else f"{frame.frame_id}.jpg"
        points = rounded(found_points(frame.poses, raw=raw, min_score=min_score))
        people = people_of(frame.poses)
        for person, table in ((people[i], points[i]) for i in with_points(points)):
            left, top, right, bottom = person["bbox_xyxy"]
            score = table[:, 2].mean() + person["bbox_score"] + 1.25 * table[:, 2].max()
            record = {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": table.ravel().tolist(),
                "score": round(float(score), 4),
                "box": [left, top, round(right - left, 2), round(bottom - top, 2)],
            }
            yield record | ({"idx": person["track_id"]} if person["track_id"] else {})


def _free(picture: str, frame_id: int, taken: set[str]) -> str:
    """The name of the picture, with the frame number before its suffix if it is in `taken`; adds it to `taken`."""
    ending = PurePath(picture).suffix
    stem = picture.removesuffix(ending)
    while (name := stem + ending) in taken:
        stem += f"_{frame_id:012d}"
    taken.add(name)
    return name
