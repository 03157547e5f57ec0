"""COCO keypoint results, as pycocotools' `loadRes` takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpose_rt.skeletons.convert.common import found_points, rounded, write_json_list
from sharpose_rt.skeletons.stream import StreamReader


def write_coco(
    reader: StreamReader, out: Path, *, first_image_id: int = 0, raw: bool = False, min_score: float = 0.0
) -> None:
    """Writes one record a person: image_id, category_id 1, keypoints, score, track_id.

    `image_id` is the number that is the picture's name (581781 of '000000581781.jpg') where all pictures have such
    names, each its own; else `frame_id` + `first_image_id`.
    `score` is the box score times the mean score of the keypoints that were found. There is no 'bbox': with one,
    pycocotools takes the results for boxes and computes another area.
    """
    names = [Path(frame.picture or "").stem for frame in reader]
    numbers = {int(name) for name in names if name.isdecimal()}
    by_name = len(numbers) == len(names)
    write_json_list(out, _records(reader, by_name, first_image_id, raw, min_score))


def _records(
    reader: StreamReader, by_name: bool, first_image_id: int, raw: bool, min_score: float
) -> Iterator[dict[str, Any]]:
    for frame in reader:
        poses = frame.poses
        image_id = int(Path(frame.picture or "").stem) if by_name else frame.frame_id + first_image_id
        points = rounded(found_points(poses, raw=raw, min_score=min_score))
        for table, box_score, track_id in zip(
            points, poses.bbox_scores.tolist(), poses.track_ids.tolist(), strict=True
        ):
            found = table[table[:, 2] > 0, 2]
            yield {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": table.ravel().tolist(),
                "score": round(box_score * float(found.mean()) if len(found) else 0.0, 6),
                "track_id": track_id or None,
            }
