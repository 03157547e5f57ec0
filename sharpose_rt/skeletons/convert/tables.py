"""Text tables: MOTChallenge tracks, and CSV with one row for each person in each frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpose_rt.geometry.angles import angle_names, joint_angles
from sharpose_rt.skeletons.convert.common import cells_of, found_points, has_pictures, new_file, new_table, rounded
from sharpose_rt.skeletons.records import FrameRecord, people_of
from sharpose_rt.skeletons.stream import StreamReader


def write_mot(reader: StreamReader, out: Path, *, predicted: bool = True) -> None:
    """Writes MOTChallenge lines: frame (from 1), id, left, top, width, height, score, -1, -1, -1.

    The id is -1 if no tracker ran. Boxes are in px as in the stream, but counted from 1 as in MOTChallenge: the centre
    of the top left pixel is 1, 1."""
    if not predicted:
        reader = reader.without_predicted()
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
    """Writes a header row, then one row per person: frame, time, id, box, quality, stage, keypoints.

    Each keypoint has three columns: x, y, score. Cells of keypoints that were not found are empty; a frame without
    people has no row. With `angles`, columns of `joint_angles` follow, in degrees. For pictures the last column is
    their name."""
    table = PeopleTable(reader, raw=raw, min_score=min_score, predicted=predicted, angles=angles)
    with new_table(out) as write:
        write(table.columns)
        for frame in table.reader:
            for frame_id, pts_s, *rest in table.rows(frame):
                write([frame_id, f"{pts_s:.6f}", *rest])


class PeopleTable:
    """A stream as a table with one row for each person in each frame; arguments and columns as in `write_csv`."""

    def __init__(self, reader: StreamReader, *, raw: bool, min_score: float, predicted: bool, angles: bool) -> None:
        self.reader = reader if predicted else reader.without_predicted()
        self._raw, self._min_score, self._angles = raw, min_score, angles
        self._pictures = has_pictures(self.reader)
        skeleton = reader.header.skeleton
        self.columns = ["frame_id", "pts_s", "track_id", "left", "top", "right", "bottom"]
        self.columns += ["bbox_score", "quality", "stage"]
        self.columns += [f"{name}_{part}" for name in skeleton.keypoints for part in ("x", "y", "score")]
        self.columns += [f"{name}_deg" for name in (angle_names(skeleton) if angles else ())]
        self.columns += ["picture"] if self._pictures else []

    def rows(self, frame: FrameRecord) -> Iterator[list[Any]]:
        """The rows of a frame; None stands where nothing was found."""
        points = rounded(found_points(frame.poses, raw=self._raw, min_score=self._min_score))
        bends = [[]] * len(points)
        if self._angles:
            angles = joint_angles(points[..., :2], points[..., 2], self.reader.header.skeleton).round(1) + 0.0
            bends = [[None if angle != angle else angle for angle in row] for row in angles.tolist()]
        for person, places, bent in zip(people_of(frame.poses), points.tolist(), bends, strict=True):
            facts = [frame.frame_id, frame.pts_s, person["track_id"], *person["bbox_xyxy"], person["bbox_score"]]
            picture = [frame.picture] if self._pictures else []
            yield [*facts, person["quality"], person["stage"], *cells_of(places), *bent, *picture]
