"""DeepLabCut's tables of several individuals, read by programs for behaviour (movement, SimBA, Keypoint-MoSeq)."""

from __future__ import annotations

import logging
from pathlib import Path

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.convert.common import cells_of, found_points, new_table, rounded
from sharpose_rt.skeletons.stream import StreamReader

log = logging.getLogger("sharpose_rt.skeletons")


def write_deeplabcut(
    reader: StreamReader, out: Path, *, raw: bool = False, min_score: float = 0.0, predicted: bool = True
) -> None:
    """Writes four header rows (scorer, individuals, bodyparts, coords), then one row per frame with its number.

    Each track, `person<track id>`, has x, y (px) and likelihood of all keypoints; cells are empty if the keypoint was
    not found or the person is not in the frame. Readers assume evenly spaced frames. A stream without a tracker is
    refused, as columns need ids. The stream is read twice, because the columns come first.
    """
    if not predicted:
        reader = reader.without_predicted()
    ids = sorted({track_id for frame in reader for track_id in frame.poses.track_ids.tolist()})
    if ids[:1] == [0]:
        raise ConfigError(f"{reader.path} has no track ids, which DeepLabCut's columns need; run with a tracker")
    if not ids:
        log.warning("%s contains nobody, so its table has no columns", reader.path)
    names = reader.header.skeleton.keypoints
    columns = [(f"person{i}", name, part) for i in ids for name in names for part in ("x", "y", "likelihood")]
    places = {track_id: 3 * len(names) * place for place, track_id in enumerate(ids)}
    with new_table(out) as write:
        write(["scorer", *[reader.header.model.get("name") or "sharpose_rt"] * len(columns)])
        for level, title in enumerate(("individuals", "bodyparts", "coords")):
            write([title, *(column[level] for column in columns)])
        for frame in reader:
            cells: list[float | None] = [None] * len(columns)
            points = rounded(found_points(frame.poses, raw=raw, min_score=min_score)).tolist()
            for track_id, found in zip(frame.poses.track_ids.tolist(), points, strict=True):
                if track_id in places:  # the file may be growing
                    cells[places[track_id] : places[track_id] + 3 * len(names)] = cells_of(found)
            write([frame.frame_id, *cells])
