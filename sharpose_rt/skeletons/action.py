"""Arrays for action recognition: a whole stream at once, or windows over it while it is made.

Letters in shapes: N windows (always 1), C channels (x, y, score), T frames, V keypoints, M people (slots).
A slot belongs to one track for as long as it holds it, so that an action network never sees one person turn into
another; a person who is not there is all zeros.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.skeleton import COCO17, Skeleton
from sharpose_rt.skeletons.stream import FrameRecord, StreamReader
from sharpose_rt.types import Poses

Normalize = Literal["image", "body", "none"]
Fill = Literal["none", "linear"]


class ActionArray(NamedTuple):
    """A whole stream: `keypoints` (M, T, V, 2) float32 px, `scores` (M, T, V) float32, `track_ids` (M,) int64.

    The ids are 0 in slots that nobody took and where no tracker ran. `pts_s` (T,) float64 is the media time.
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    track_ids: NDArray[np.int64]
    pts_s: NDArray[np.float64]


def action_array(
    path: str | Path, person_slots: int = 2, *, raw: bool = False, min_score: float = 0.0, fill: Fill = "none"
) -> ActionArray:
    """The strongest `person_slots` tracks of a stream, strongest first, a slot each for the whole stream.

    A track's strength is the sum of its mean keypoint scores over its frames. Keypoints below `min_score` are taken
    as not found: zeros. `fill="linear"` bridges the gaps between a track's first and last frame, for each keypoint,
    by linear interpolation in media time; `raw` takes the keypoints before smoothing.

    Raises:
        StreamError: the stream cannot be read.
        ValueError: `person_slots` is below 1.
    """
    if person_slots < 1:
        raise ValueError(f"person_slots is {person_slots}; 1 or more is wanted")
    reader = StreamReader(path)
    strength: defaultdict[int, float] = defaultdict(float)
    pts: list[float] = []
    for frame in reader:
        pts.append(frame.pts_s)
        for key, score in zip(_keys(frame.poses), _points(frame.poses, raw)[1].mean(axis=1), strict=True):
            strength[key] += float(score)
    chosen = [key for key, _ in sorted(strength.items(), key=lambda item: (-item[1], abs(item[0])))[:person_slots]]
    slot_of = {key: slot for slot, key in enumerate(chosen)}

    shape = (person_slots, len(pts), len(reader.header.skeleton))
    keypoints, scores = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    for t, frame in enumerate(reader):
        points, point_scores = _points(frame.poses, raw)
        for i, key in enumerate(_keys(frame.poses)):
            if key in slot_of:
                found = (point_scores[i] > 0) & (point_scores[i] >= min_score)
                keypoints[slot_of[key], t, found] = points[i, found]
                scores[slot_of[key], t, found] = point_scores[i, found]
    times = np.array(pts, np.float64)
    if fill == "linear":
        _fill_gaps(keypoints, scores, times)
    track_ids = np.zeros(person_slots, np.int64)
    track_ids[: len(chosen)] = np.maximum(chosen, 0) if chosen else 0
    return ActionArray(keypoints, scores, track_ids, times)


def _keys(poses: Poses) -> list[int]:
    """What tells people apart: the track id, or where no tracker ran minus the place in the frame (from -1)."""
    return [track_id or -1 - i for i, track_id in enumerate(poses.track_ids.tolist())]


def _points(poses: Poses, raw: bool) -> tuple[np.ndarray, np.ndarray]:
    if raw:
        return poses.raw_keypoints, poses.raw_keypoint_scores
    return poses.keypoints, poses.keypoint_scores


def _fill_gaps(keypoints: np.ndarray, scores: np.ndarray, pts_s: np.ndarray) -> None:
    slots, _, joints = scores.shape
    for slot in range(slots):
        for joint in range(joints):
            found = np.flatnonzero(scores[slot, :, joint] > 0)
            if len(found) < 2:
                continue
            gap = slice(found[0], found[-1] + 1)
            for values in (keypoints[slot, :, joint, 0], keypoints[slot, :, joint, 1], scores[slot, :, joint]):
                values[gap] = np.interp(pts_s[gap], pts_s[found], values[found])


@dataclass(frozen=True)
class Window:
    """A stretch of frames for an action network.

    Args:
        track_ids: (M,) whose slot it is; 0 where nobody has it.
        data: (1, C, T, V, M) float32; zeros where a keypoint was not found. `torch.from_numpy` takes it as it is.
        pts_s: (T,) float64 media times.
    """

    track_ids: NDArray[np.int64]
    data: NDArray[np.float32]
    pts_s: NDArray[np.float64]


def windows(
    source: StreamReader | Iterable[FrameRecord],
    length: int = 64,
    stride: int = 16,
    *,
    normalize: Normalize = "image",
    person_slots: int = 2,
    min_score: float = 0.0,
    skeleton: Skeleton | None = None,
    frame_size_wh: tuple[int, int] | None = None,
) -> Iterator[Window]:
    """A window of the last `length` frames as soon as they are there, then every `stride` frames.

    Takes a reader, or any iterable of frames of a live run; holds `length` frames in memory. Slots go to the people
    who are there in most frames of the window (then by summed score); who had a slot in the last window and is still
    among them keeps it.

    Args:
        source: the frames; a reader also tells `skeleton` and `frame_size_wh`.
        length: frames in a window (T).
        stride: frames from one window to the next.
        normalize: 'image': x and y over width and height of the frame, minus 0.5; 'body': each person's hip centre
            in their first frame of the window is the origin (the mean keypoint where hips are not found) and the
            median height of their box the unit, so movement through the picture is kept; 'none': px.
        person_slots: people in a window (M).
        min_score: keypoints below are taken as not found.
        skeleton: keypoint set of a live source; COCO-17 unless given.
        frame_size_wh: frame size of a live source; needed by 'image'.

    Raises:
        ValueError: an argument is out of range, or 'image' lacks the frame size.
    """
    if isinstance(source, StreamReader):
        skeleton, frame_size_wh = skeleton or source.header.skeleton, frame_size_wh or source.header.frame_size_wh
    if min(length, stride, person_slots) < 1:
        raise ValueError(f"length {length}, stride {stride}, person_slots {person_slots}: each must be 1 or more")
    if normalize not in ("image", "body", "none"):
        raise ValueError(f"normalize is {normalize!r}; 'image', 'body' or 'none' is accepted")
    if normalize == "image" and frame_size_wh is None:
        raise ValueError("normalize='image' needs frame_size_wh, as the source does not tell it")
    return _windows(
        source, length, stride, normalize, person_slots, min_score, skeleton or COCO17, frame_size_wh or (1, 1)
    )


def _windows(
    source: Iterable[FrameRecord],
    length: int,
    stride: int,
    normalize: Normalize,
    person_slots: int,
    min_score: float,
    skeleton: Skeleton,
    frame_size_wh: tuple[int, int],
) -> Iterator[Window]:
    recent: deque[FrameRecord] = deque(maxlen=length)
    slots: list[int] = [0] * person_slots
    hips = [i for i, name in enumerate(skeleton.keypoints) if name in ("left_hip", "right_hip")]
    until_next = length
    for frame in source:
        recent.append(frame)
        until_next -= 1
        if until_next > 0:
            continue
        until_next = stride
        slots = _assign_slots(slots, recent)
        data = np.zeros((3, length, len(skeleton), person_slots), np.float32)
        for m, key in enumerate(slots):
            if key:
                data[..., m] = _person(key, recent, min_score, normalize, frame_size_wh, hips)
        yield Window(
            np.maximum(np.array(slots, np.int64), 0), data[None], np.array([f.pts_s for f in recent], np.float64)
        )


def _assign_slots(previous: list[int], frames: Iterable[FrameRecord]) -> list[int]:
    """The key of each slot (0: nobody): the most present people, each in the slot that they had."""
    present: Counter[int] = Counter()
    score: defaultdict[int, float] = defaultdict(float)
    for frame in frames:
        for key, mean in zip(_keys(frame.poses), frame.poses.keypoint_scores.mean(axis=1).tolist(), strict=True):
            present[key] += 1
            score[key] += mean
    best = sorted(present, key=lambda key: (-present[key], -score[key], abs(key)))[: len(previous)]
    slots = [key if key in best else 0 for key in previous]
    newcomers = iter([key for key in best if key not in slots])
    return [key or next(newcomers, 0) for key in slots]


def _person(
    key: int,
    frames: deque[FrameRecord],
    min_score: float,
    normalize: Normalize,
    frame_size_wh: tuple[int, int],
    hips: list[int],
) -> np.ndarray:
    """(3, T, V) of one person."""
    table = np.zeros((len(frames), frames[0].poses.keypoints.shape[1], 3), np.float32)  # (T, V, C)
    heights_px = []
    for t, frame in enumerate(frames):
        keys = _keys(frame.poses)
        if key in keys:
            i = keys.index(key)
            table[t, :, :2], table[t, :, 2] = frame.poses.keypoints[i], frame.poses.keypoint_scores[i]
            heights_px.append(frame.poses.bboxes_xyxy[i, 3] - frame.poses.bboxes_xyxy[i, 1])
    missing = (table[..., 2] <= 0) | (table[..., 2] < min_score)
    if normalize == "image":
        table[..., :2] = table[..., :2] / np.array(frame_size_wh, np.float32) - 0.5
    elif normalize == "body" and not missing.all():
        table[..., :2] = (table[..., :2] - _origin(table, missing, hips)) / max(float(np.median(heights_px)), 1.0)
    table[missing] = 0
    return table.transpose(2, 0, 1)


def _origin(table: np.ndarray, missing: np.ndarray, hips: list[int]) -> np.ndarray:
    """(2,) px: the hip centre in the first frame that has both hips, else the mean of all keypoints that are found."""
    if len(hips) == 2:
        whole = np.flatnonzero(~missing[:, hips].any(axis=1))
        if len(whole):
            return table[whole[0], hips, :2].mean(axis=0)
    return table[~missing][:, :2].mean(axis=0)
