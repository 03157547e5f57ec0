"""TRC marker files (OpenSim, Pose2Sim, Sports2D): one file a person, as the format has no people."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.convert.common import found_points, new_file, rounded
from sharpose_rt.skeletons.stream import StreamReader

log = logging.getLogger("sharpose_rt.skeletons")

_Row = tuple[int, float, np.ndarray]


def write_trc(
    reader: StreamReader, out: Path, *, px_per_m: float | None = None, raw: bool = False, min_score: float = 0.0
) -> list[Path]:
    """Writes `<out's stem>_person<track id>.trc` for each track, and returns the paths.

    X points right, Y up from the lower edge of the frame, Z is 0. Units are px, or m where `px_per_m` is given.
    Rows run from the track's first frame to its last, Frame# counts from 1, Time is the media time; what was not
    found is NaN. A clip with nobody in it has no file. Without a tracker everybody is in one frame only, so that is
    refused.
    """
    if px_per_m is not None and not px_per_m > 0:
        raise ConfigError(f"px_per_m is {px_per_m}; a number above 0 is accepted")
    people: defaultdict[int, list[_Row]] = defaultdict(list)
    times: dict[int, float] = {}
    for frame in reader:
        height_px = (frame.frame_size_wh or reader.header.frame_size_wh)[1]
        times[frame.frame_id] = frame.pts_s
        points = rounded(found_points(frame.poses, raw=raw, min_score=min_score))
        points[..., 1] = height_px - points[..., 1]
        for track_id, table in zip(frame.poses.track_ids.tolist(), points, strict=True):
            if track_id == 0:
                raise ConfigError(f"{reader.path} has no track ids, which TRC needs; run with a tracker")
            people[track_id].append((frame.frame_id, frame.pts_s, table))
    if not people:
        log.warning("%s has nobody in it, so there is no TRC file", reader.path)
    paths = []
    for track_id, rows in sorted(people.items()):
        paths.append(out.with_name(f"{out.stem}_person{track_id:02d}.trc"))
        _write_person(paths[-1], reader, rows, times, px_per_m)
    return paths


def _write_person(
    path: Path, reader: StreamReader, rows: list[_Row], times: dict[int, float], px_per_m: float | None
) -> None:
    names = reader.header.skeleton.keypoints
    found = {frame_id: table for frame_id, _, table in rows}
    frame_ids = [i for i in times if rows[0][0] <= i <= rows[-1][0]]
    rate = f"{_rate_fps(reader, times):.6g}"
    scale, unit = (1.0, "px") if px_per_m is None else (1 / px_per_m, "m")
    count = len(frame_ids)
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{path.name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{count}\t{len(names)}\t{unit}\t{rate}\t{frame_ids[0] + 1}\t{count}",
        "Frame#\tTime\t" + "".join(f"{name}\t\t\t" for name in names),
        "\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(names) + 1)),
        "",
    ]
    # Blank cells would do for pandas, but OpenSim refuses a row that ends in one and others split at any white space.
    nothing = np.zeros((len(names), 3))
    for frame_id in frame_ids:
        cells = [
            f"{x * scale:.5f}\t{y * scale:.5f}\t0" if score > 0 else "NaN\tNaN\tNaN"
            for x, y, score in found.get(frame_id, nothing).tolist()
        ]
        lines.append(f"{frame_id + 1}\t{times[frame_id]:.6f}\t" + "\t".join(cells))
    with new_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _rate_fps(reader: StreamReader, times: dict[int, float]) -> float:
    """The header's rate, else the mean rate of the frames, else 1."""
    if reader.header.fps:
        return reader.header.fps
    pts = list(times.values())
    return (len(pts) - 1) / (pts[-1] - pts[0]) if len(pts) > 1 and pts[-1] > pts[0] else 1.0
