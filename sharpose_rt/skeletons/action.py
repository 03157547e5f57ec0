"""Arrays for action recognition over a whole stream; `window` yields windows of a stream while it is made.

Letters in shapes: M people (slots), T frames, V keypoints.
A slot belongs to one track, so that an action network never sees one person turn into another; a person who is not in
the frame is all zeros. If no tracker ran, people are only told apart by their position in the frame, so a slot may
contain several; a warning says so.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.checks import MOST_SLOTS
from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.evenly import ROUNDED_S, EvenFrame, at_fps
from sharpose_rt.skeletons.prominence import Prominence
from sharpose_rt.skeletons.records import FrameRecord
from sharpose_rt.skeletons.stream import StreamReader
from sharpose_rt.types import Poses

log = logging.getLogger("sharpose_rt.skeletons")

Fill = Literal["none", "hold", "linear"]


class ActionArray(NamedTuple):
    """A whole stream: `keypoints` (M, T, V, 2) float32 px, `scores` (M, T, V) float32, `track_ids` (M,) int64.

    The ids are 0 in slots without a person and if no tracker ran. `pts_s` (T,) float64 is the media time.
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    track_ids: NDArray[np.int64]
    pts_s: NDArray[np.float64]


def action_array(
    path: str | Path | StreamReader,
    person_slots: int = 2,
    *,
    raw: bool = False,
    min_score: float = 0.0,
    fill: Fill = "none",
    max_gap_s: float | None = None,
    fps: float | None = None,
) -> ActionArray:
    """The `person_slots` most prominent tracks of a stream, most prominent first, each in one slot for the whole
    stream.

    Actors come before bystanders: prominence is presence times movement, see `prominence`. Without track ids a slot is
    a position in the frame, whoever has it; if a frame has several such people, a warning is logged. Keypoints below
    `min_score` count as not found: zeros. Frames of another size than the header's are scaled to it. `fill` bridges
    gaps of a keypoint between its first and last frame: 'linear' interpolates in media time, 'hold' keeps the last
    position; gaps of more than `max_gap_s` stay. `raw` uses the keypoints before smoothing. `fps` resamples to this
    many frames per second of media time (`at_fps`).

    Raises:
        StreamError: the stream cannot be read.
        ConfigError: `person_slots` is not within 1 to `MOST_SLOTS`, `fill` is unknown, or `fps` is not above 0.
    """
    if not 1 <= person_slots <= MOST_SLOTS:
        raise ConfigError(f"person_slots is {person_slots}; 1 to {MOST_SLOTS} is accepted")
    check_fill(fill)
    reader = path if isinstance(path, StreamReader) else StreamReader(path)
    prominence = Prominence()
    pts: list[float] = []
    warned = False
    frames = partial(iter, reader) if fps is None else partial(at_fps, reader, fps)
    for frame in frames():
        warned = warned or warn_of_untracked(frame.poses, reader.path)
        pts.append(frame.pts_s)
        prominence.add(keys_of(frame.poses), frame.poses, raw=raw, scale=_scale(reader, frame))
    strengths = prominence.strengths()
    chosen = sorted(strengths, key=lambda key: (-strengths[key], abs(key)))[:person_slots]
    slot_of = {key: slot for slot, key in enumerate(chosen)}

    shape = (person_slots, len(pts), len(reader.header.skeleton))
    keypoints, scores = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    for t, frame in enumerate(islice(frames(), len(pts))):  # the file may be growing
        points, point_scores = frame.poses.points(raw=raw)
        points = points * _scale(reader, frame)
        for i, key in enumerate(keys_of(frame.poses)):
            if key in slot_of:
                found = (point_scores[i] > 0) & (point_scores[i] >= min_score)
                keypoints[slot_of[key], t, found] = points[i, found]
                scores[slot_of[key], t, found] = point_scores[i, found]
    times = np.array(pts, np.float64)
    for slot in range(person_slots):
        fill_gaps(keypoints[slot], scores[slot], times, fill, max_gap_s)
    track_ids = np.zeros(person_slots, np.int64)
    track_ids[: len(chosen)] = np.maximum(chosen, 0) if chosen else 0
    return ActionArray(keypoints, scores, track_ids, times)


def _scale(reader: StreamReader, frame: FrameRecord | EvenFrame) -> NDArray[np.float64] | float:
    """What brings px of a frame to the size of the header's."""
    own = frame.frame_size_wh
    return 1.0 if own is None else np.array(reader.header.frame_size_wh) / own


def keys_of(poses: Poses) -> list[int]:
    """What tells people apart: the track id, or if no tracker ran minus the position in the frame (from -1)."""
    return [track_id or -1 - i for i, track_id in enumerate(poses.track_ids.tolist())]


def warn_of_untracked(poses: Poses, source: object) -> bool:
    """Whether several people of a frame have no track id, so that `keys_of` may confuse them; logs a warning."""
    several = int((poses.track_ids == 0).sum()) > 1
    if several:
        log.warning(
            "%s: people have no track ids and are only told apart by their position in the frame, so a slot may "
            "contain several people; run with a tracker",
            source,
        )
    return several


def check_fill(fill: str) -> None:
    """Raises ConfigError if `fill` is unknown."""
    if fill not in ("none", "hold", "linear"):
        raise ConfigError(f"fill is {fill!r}; 'none', 'hold' or 'linear' is accepted")


def fill_gaps(
    keypoints: np.ndarray, scores: np.ndarray, pts_s: np.ndarray, fill: Fill, max_gap_s: float | None
) -> None:
    """Bridges gaps in one person's keypoints (T, V, 2) and scores (T, V) in place."""
    if fill == "none":
        return
    for joint in range(scores.shape[1]):
        found = np.flatnonzero(scores[:, joint] > 0)
        for before, after in pairwise(found.tolist()):
            if after == before + 1 or (max_gap_s is not None and pts_s[after] - pts_s[before] > max_gap_s + ROUNDED_S):
                continue
            gap = slice(before + 1, after)
            span_s = pts_s[after] - pts_s[before]
            share = (pts_s[gap] - pts_s[before]) / span_s if fill == "linear" and span_s > 0 else np.zeros(1)
            for values in (keypoints[:, joint, 0], keypoints[:, joint, 1], scores[:, joint]):
                values[gap] = values[before] + share * (values[after] - values[before])
