"""Plain tables of text: MOTChallenge tracks, and CSV with a row for each person of each frame."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from sharpose_rt.skeletons.convert.common import (
    angle_columns,
    angles_of,
    found_points,
    has_pictures,
    new_file,
    rounded,
)
from sharpose_rt.skeletons.stream import StreamReader, people_of


def write_mot(reader: StreamReader, out: Path) -> None:
    """Writes MOTChallenge lines: frame (from 1), id, left, top, width, height, score, -1, -1, -1.

    The id is -1 where no tracker ran. Boxes are px as in the stream, but counted from 1 as MOTChallenge counts them:
    the centre of the top left pixel is 1, 1.
    """
    with new_file(out) as file:
        for frame in reader:
            for person in people_of(frame.poses):
                left, top, right, bottom = person["bbox_xyxy"]
                line = (
                    f"{frame.frame_id + 1},{person['track_id'] or -1},{left + 1:.2f},{top + 1:.2f},"
                    f"{right - left:.2f},{bottom - top:.2f},{person['bbox_score']:.4f},-1,-1,-1\n"
                )
                file.write(line.encode())


def write_csv(
    reader: StreamReader,
    out: Path,
    *,
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
    angles: bool = False,
) -> None:
    """Writes a header row, then a row for each person: frame, time, id, box, quality, stage, keypoints.

    Each keypoint has three columns: x, y, score. Cells of a keypoint that was not found are empty, all of them where
    there is but a box; a frame without people has no row. With `angles` columns of `joint_angles` follow, in degrees.
    Of pictures the last column is the name of each.
    """
    if not predicted:
        reader = reader.without_predicted()
    columns = ["frame_id", "pts_s", "track_id", "left", "top", "right", "bottom", "bbox_score", "quality", "stage"]
    columns += [f"{name}_{part}" for name in reader.header.skeleton.keypoints for part in ("x", "y", "score")]
    columns += angle_columns(reader) if angles else []
    pictures = has_pictures(reader)
    columns += ["picture"] if pictures else []
    with new_file(out) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(columns)
        for frame in reader:
            points = rounded(found_points(frame.poses, raw=raw, min_score=min_score))
            turned = angles_of(points, reader) if angles else [[]] * len(points)
            for person, table, bends in zip(people_of(frame.poses), points.tolist(), turned, strict=True):
                cells = [cell for point in table for cell in (point if point[2] > 0 else ("", "", ""))]
                cells += ["" if bend is None else bend for bend in bends]
                box, track_id = person["bbox_xyxy"], person["track_id"]
                facts = [track_id, *box, person["bbox_score"], person["quality"], person["stage"]]
                name = [frame.picture] if pictures else []
                rows.writerow([frame.frame_id, f"{frame.pts_s:.6f}", *facts, *cells, *name])
        text.detach()
