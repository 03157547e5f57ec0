"""TRC marker files (OpenSim, Pose2Sim, Sports2D): one file per person, because the format has no people."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.convert.common import found_points, rounded
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.skeletons.stream import StreamReader

log = logging.getLogger("sharpose_rt.skeletons")

_FRAMES_AT_ONCE = 256


def write_trc(
    reader: StreamReader,
    out: Path,
    *,
    px_per_m: float | None = None,
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
) -> list[Path]:
    """Writes `<out's stem>_person<track id>.trc` for each track, and returns the paths.

    X points right, Y up (the frame's height - y), Z is 0. Units are px, or m if `px_per_m` is given.
    Rows range from the track's first frame to its last, Frame# counts from 1, Time is the media time; keypoints that
    were not found are NaN. A clip with nobody in it has no file. A stream without a tracker is refused, as its people
    cannot be followed. The stream is read twice, because a file begins with the number of its rows; few frames are held
    at once."""
    if not predicted:
        reader = reader.without_predicted()
    tracks, frame_count, rate_fps = _survey(reader)
    if not tracks:
        log.warning("%s contains nobody, so there is no TRC file", reader.path)
    paths = {track_id: out.with_name(f"{out.stem}_person{track_id:02d}.trc") for track_id in sorted(tracks)}
    names = reader.header.skeleton.keypoints
    nothing = np.zeros((len(names), 3))
    scale, unit = (1.0, "px") if px_per_m is None else (1 / px_per_m, "m")
    frames = islice(_seen(reader, raw=raw, min_score=min_score), frame_count)  # the file may be growing
    with TemporaryDirectory(prefix=".sharpose-", dir=out.parent) as folder:
        parts = {track_id: Path(folder, path.name) for track_id, path in paths.items()}
        for track_id, part in parts.items():
            part.write_bytes(_head(plain(part.name), names, tracks[track_id], rate_fps, unit).encode())
        for begin in range(0, frame_count, _FRAMES_AT_ONCE):
            held = list(islice(frames, _FRAMES_AT_ONCE))
            for track_id, track in tracks.items():
                if within := held[max(0, track.first - begin) : max(0, track.last + 1 - begin)]:
                    rows = (_row(frame, frame.tables.get(track_id, nothing), scale) for frame in within)
                    with parts[track_id].open("ab") as file:  # not kept open: the number of open files is limited
                        file.write("".join(rows).encode())
        for track_id, path in paths.items():
            parts[track_id].replace(path)
    return list(paths.values())


@dataclass
class _Track:
    """Indices of a track's first and last frame in the stream, and the `frame_id` of the first."""

    first: int
    last: int
    first_id: int


def _survey(reader: StreamReader) -> tuple[dict[int, _Track], int, float]:
    """The tracks by id, the number of frames, and the frame rate from the header, else the mean rate, else 1."""
    tracks: dict[int, _Track] = {}
    count, first_s, last_s = 0, 0.0, 0.0
    for place, frame in enumerate(reader):
        count, last_s = place + 1, frame.pts_s
        first_s = first_s if place else last_s
        for track_id in frame.poses.track_ids.tolist():
            if track_id == 0:
                raise ConfigError(f"{reader.path} has no track ids, which TRC needs; run with a tracker")
            tracks.setdefault(track_id, _Track(place, place, frame.frame_id)).last = place
    return tracks, count, reader.header.fps or ((count - 1) / (last_s - first_s) if last_s > first_s else 1.0)


class _Seen(NamedTuple):
    """One frame with the keypoints of each track, (K, 3): x to the right, y up from the lower edge, and score."""

    frame_id: int
    pts_s: float
    tables: dict[int, NDArray[np.float64]]


def _seen(reader: StreamReader, *, raw: bool, min_score: float) -> Iterator[_Seen]:
    for frame in reader:
        height_px = (frame.frame_size_wh or reader.header.frame_size_wh)[1]
        points = rounded(found_points(frame.poses, raw=raw, min_score=min_score))
        points[..., 1] = height_px - points[..., 1]
        yield _Seen(frame.frame_id, frame.pts_s, dict(zip(frame.poses.track_ids.tolist(), points, strict=True)))


def _head(name: str, keypoints: Sequence[str], track: _Track, rate_fps: float, unit: str) -> str:
    rate, count = f"{rate_fps:.6g}", track.last - track.first + 1
    keypoints = ["_".join(keypoint.split()) for keypoint in keypoints]  # readers split the line at whitespace
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{count}\t{len(keypoints)}\t{unit}\t{rate}\t{track.first_id + 1}\t{count}",
        "Frame#\tTime\t" + "".join(f"{keypoint}\t\t\t" for keypoint in keypoints),
        "\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(keypoints) + 1)),
        "\n",
    ]
    return "\n".join(lines)


def _row(frame: _Seen, table: NDArray[np.float64], scale: float) -> str:
    # pandas would accept blank cells, but OpenSim refuses a row that ends with one, and others split at whitespace.
    cells = [f"{x * scale:.5f}\t{y * scale:.5f}\t0" if score > 0 else "NaN\tNaN\tNaN" for x, y, score in table.tolist()]
    return f"{frame.frame_id + 1}\t{frame.pts_s:.6f}\t" + "\t".join(cells) + "\n"
