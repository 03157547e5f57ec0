"""Windows for action recognition, taken from a stream while it is made.

Letters in shapes: N windows, C channels (x, y, score), T frames, V keypoints, M people (slots).
A slot belongs to one track for as long as it holds it, so that an action network never sees one person turn into
another; a person who is not in the frame is all zeros. If no tracker ran, people are only told apart by their position
in the frame, so a slot may contain several; a warning says so.
"""

from __future__ import annotations

import importlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeleton import SKELETONS, Skeleton
from sharpose_rt.skeletons.action import Fill, check_fill, fill_gaps, keys_of, warn_of_untracked
from sharpose_rt.skeletons.evenly import Posed, at_fps
from sharpose_rt.skeletons.prominence import Prominence
from sharpose_rt.skeletons.stream import StreamReader
from sharpose_rt.types import Poses

Normalize = Literal["image", "body", "none"]


class Window(NamedTuple):
    """N windows of T frames for an action network: `track_ids, data, pts_s = window`.

    `track_ids` (N, M) int64: the person in each slot; 0 for nobody, or for somebody without an id. `data`
    (N, C, T, V, M) float32: zeros for keypoints that were not found. `pts_s` (N, T) float64: media times. All are numpy
    arrays, or all torch tensors.
    """

    track_ids: Any
    data: Any
    pts_s: Any


@dataclass(frozen=True)
class _Cut:
    """The arguments of `windows`."""

    length: int
    stride: int
    normalize: Normalize
    person_slots: int
    each_person: bool
    min_score: float
    min_frames: int
    fill: Fill
    max_gap_s: float | None
    raw: bool
    rest: bool
    within_scenes: bool


def windows(
    source: str | Path | StreamReader | Iterable[Posed],
    length: int = 64,
    stride: int = 16,
    *,
    fps: float | None = None,
    normalize: Normalize = "image",
    person_slots: int = 2,
    each_person: bool = False,
    min_score: float = 0.0,
    min_frames: int = 1,
    fill: Fill = "none",
    max_gap_s: float | None = None,
    raw: bool = False,
    rest: bool = False,
    within_scenes: bool = False,
    batch: int | None = None,
    framework: Literal["numpy", "torch"] = "numpy",
    skeleton: Skeleton | None = None,
    frame_size_wh: tuple[int, int] | None = None,
) -> Iterator[Window]:
    """Yields a window over the last `length` frames once there are as many, then every `stride` frames.

        for track_ids, data, pts_s in windows(PoseTracker().run("webcam"), 48, 8, each_person=True): ...

    Takes a stream's path or reader, or the frames of a live run; holds `length` frames of poses in memory, no pictures.
    Slots go to the people who are in most frames of the window, then to the most prominent (presence times movement,
    see `prominence`); people who had a slot in the last window and are still among them keep it. Without track ids a
    slot is a position in the frame, whoever has it. No window extends from one video into the next: from one `source`
    to another, or where times decrease.

    Args:
        source: the frames; a stream also provides `skeleton` and `frame_size_wh`, frames of a live run the latter.
        length: frames in a window (T).
        stride: frames from one window to the next.
        fps: resample to this many frames per second of media time (`at_fps`), as in the clips that the network was
            trained on; None: frames as they come.
        normalize: 'image': x and y over width and height of the frame, minus 0.5; 'body': each person's hip centre
            in the first frame of the window that has both their hips is the origin (the mean keypoint where none has)
            and the median height of their box the unit, so movement through the picture is kept; 'none': px.
        person_slots: people in a window (M).
        each_person: one window per person: N people, M is 1, and `person_slots` is ignored.
        min_score: keypoints below count as not found.
        min_frames: people in fewer frames of the window are left out.
        fill, max_gap_s, raw: as for `action_array`, within the window.
        rest: at the end, also a window over the last `length` frames if some of them were in none; if a source has
            fewer frames, the rest of the window is zeros, with NaN for media times.
        within_scenes: no window crosses a cut (`new_scene` of a frame): the first window of a scene comes when it has
            `length` frames, nobody keeps a slot across a cut, and `rest` applies to the end of each scene.
        batch: None yields windows when they are complete; a number collects this many (N), fewer at the end.
        framework: 'numpy', or 'torch' for CPU tensors that share the memory of the arrays.
        skeleton: keypoint set of a live source; default: the known one with as many keypoints.
        frame_size_wh: frame size of a live source, for 'image', if its frames do not provide it.

    Raises:
        ConfigError: an argument is out of range, or 'image' lacks the frame size (then at the first window).
        StreamError: the file cannot be read, or is not a stream.
    """
    if isinstance(source, (str, Path)):
        source = StreamReader(source)
    if isinstance(source, StreamReader):
        skeleton, frame_size_wh = skeleton or source.header.skeleton, frame_size_wh or source.header.frame_size_wh
    if min(length, stride, person_slots, min_frames, batch or 1) < 1 or batch == 0:
        raise ConfigError(
            f"length {length}, stride {stride}, person_slots {person_slots}, min_frames {min_frames}, batch {batch}: "
            "each must be 1 or more"
        )
    if normalize not in ("image", "body", "none"):
        raise ConfigError(f"normalize is {normalize!r}; 'image', 'body' or 'none' is accepted")
    if framework not in ("numpy", "torch"):
        raise ConfigError(f"framework is {framework!r}; 'numpy' or 'torch' is accepted")
    check_fill(fill)
    slots = 1 if each_person else person_slots
    cut = _Cut(
        length, stride, normalize, slots, each_person, min_score, min_frames, fill, max_gap_s, raw, rest, within_scenes
    )
    name = getattr(source, "path", "the source")
    frames = source if fps is None else at_fps(source, fps)
    rows = _rows(frames, name, cut, skeleton, frame_size_wh)
    return (_as_window(group, framework) for group in _grouped(rows, batch))


_Recent = tuple[float, Poses, tuple[int, int]]
"""Media time, people and size of a frame."""
_Row = tuple[list[int], np.ndarray, np.ndarray]
"""Track ids (M,), data (C, T, V, M), media times (T,)."""


def _grouped(rows: Iterator[list[_Row]], batch: int | None) -> Iterator[list[_Row]]:
    waiting: list[_Row] = []
    for found in rows:
        if batch is None:
            if found:
                yield found
            continue
        waiting += found
        while len(waiting) >= batch:
            yield waiting[:batch]
            waiting = waiting[batch:]
    if waiting:
        yield waiting


def _as_window(rows: Sequence[_Row], framework: str) -> Window:
    ids, data, pts_s = zip(*rows, strict=True)
    window = Window(np.maximum(np.array(ids, np.int64), 0), np.stack(data), np.stack(pts_s))
    if framework == "numpy":
        return window
    # By name: torch is only needed for tensors, and `skeletons` stays fast to import.
    torch = importlib.import_module("torch")
    return Window(*(torch.from_numpy(array) for array in window))


def _rows(
    frames: Iterable[Posed], name: object, cut: _Cut, skeleton: Skeleton | None, frame_size_wh: tuple[int, int] | None
) -> Iterator[list[_Row]]:
    """The windows that end at a frame, one list each time one is due."""
    recent: deque[_Recent] = deque(maxlen=index(cut.length))  # which accepts no numpy integers
    slots = [0] * cut.person_slots

    def cut_one() -> list[_Row]:
        nonlocal slots
        joints = recent[-1][1].keypoints.shape[1]
        hips = _hips(skeleton or next((s for s in SKELETONS.values() if len(s) == joints), None))
        present = _present(recent, cut)
        pts_s = np.array([time_s for time_s, _, _ in recent], np.float64)
        if cut.each_person:
            groups = [[key] for key in sorted(present, key=abs)]
        else:
            slots = _assign_slots(slots, present)
            groups = [slots]
        return [_lengthened((group, _data(group, recent, pts_s, cut, hips), pts_s), cut.length) for group in groups]

    until_next, unseen, warned = cut.length, 0, False
    video = None
    for frame in frames:
        before, video = video, getattr(frame, "source", "")  # each has its own ids and times
        warned = warned or warn_of_untracked(frame.poses, name)
        size_wh = getattr(frame, "frame_size_wh", None) or frame_size_wh or _size_wh(frame, cut)
        falls = bool(recent) and frame.pts_s < recent[-1][0]  # a second run over frames without a source, or streams
        begins = video != before or falls or (cut.within_scenes and getattr(frame, "new_scene", False))
        if begins:
            if cut.rest and unseen:
                yield cut_one()
            recent.clear()
            slots, until_next, unseen = [0] * cut.person_slots, cut.length, 0
        recent.append((frame.pts_s, frame.poses, size_wh))
        until_next, unseen = until_next - 1, unseen + 1
        if until_next == 0:
            until_next, unseen = cut.stride, 0
            yield cut_one()
    if cut.rest and unseen:
        yield cut_one()


def _lengthened(row: _Row, length: int) -> _Row:
    """The row, padded with empty frames if it is shorter than `length`."""
    keys, data, pts_s = row
    lacking = length - len(pts_s)
    if not lacking:
        return row
    return (
        keys,
        np.pad(data, ((0, 0), (0, lacking), (0, 0), (0, 0))),
        np.pad(pts_s, (0, lacking), constant_values=np.nan),
    )


def _size_wh(frame: Posed, cut: _Cut) -> tuple[int, int]:
    image = getattr(frame, "image_bgr", None)
    if image is not None:
        return image.shape[1], image.shape[0]
    if cut.normalize == "image":
        raise ConfigError("normalize='image' needs frame_size_wh, which the source does not provide")
    return 1, 1


def _hips(skeleton: Skeleton | None) -> list[int]:
    names = skeleton.keypoints if skeleton else ()
    return [i for i, name in enumerate(names) if name in ("left_hip", "right_hip")]


def _present(frames: Iterable[_Recent], cut: _Cut) -> dict[int, tuple[int, float]]:
    """Number of frames and prominence of everybody who is in enough frames."""
    count, prominence = Counter[int](), Prominence()
    for _, poses, _ in frames:
        keys = keys_of(poses)
        count.update(keys)
        prominence.add(keys, poses, raw=cut.raw)
    strengths = prominence.strengths()
    return {key: (frames_of, strengths[key]) for key, frames_of in count.items() if frames_of >= cut.min_frames}


def _assign_slots(previous: list[int], present: dict[int, tuple[int, float]]) -> list[int]:
    """The key of each slot (0: nobody): the people in most frames, each in the slot they had before."""
    best = sorted(present, key=lambda key: (-present[key][0], -present[key][1], abs(key)))[: len(previous)]
    slots = [key if key in best else 0 for key in previous]
    newcomers = iter([key for key in best if key not in slots])
    return [key or next(newcomers, 0) for key in slots]


def _data(keys: list[int], frames: deque[_Recent], pts_s: np.ndarray, cut: _Cut, hips: list[int]) -> np.ndarray:
    """(C, T, V, M) of the people in the slots."""
    joints = frames[0][1].keypoints.shape[1]
    data = np.zeros((3, len(frames), joints, len(keys)), np.float32)
    for m, key in enumerate(keys):
        if key:
            data[..., m] = _person(key, frames, pts_s, cut, hips)
    return data


def _person(key: int, frames: deque[_Recent], pts_s: np.ndarray, cut: _Cut, hips: list[int]) -> np.ndarray:
    """(C, T, V) of one person."""
    table = np.zeros((len(frames), frames[0][1].keypoints.shape[1], 3), np.float32)  # (T, V, C)
    heights_px = []
    for t, (_, poses, _) in enumerate(frames):
        keys = keys_of(poses)
        if key in keys:
            i = keys.index(key)
            points, scores = poses.points(raw=cut.raw)
            table[t, :, :2], table[t, :, 2] = points[i], scores[i]
            heights_px.append(poses.bboxes_xyxy[i, 3] - poses.bboxes_xyxy[i, 1])
    table[(table[..., 2] <= 0) | (table[..., 2] < cut.min_score)] = 0
    fill_gaps(table[..., :2], table[..., 2], pts_s, cut.fill, cut.max_gap_s)
    missing = table[..., 2] <= 0
    if cut.normalize == "image":
        sizes = np.array([size_wh for _, _, size_wh in frames], np.float32)
        table[..., :2] = table[..., :2] / sizes[:, None] - 0.5
    elif cut.normalize == "body" and not missing.all():
        table[..., :2] = (table[..., :2] - _origin(table, missing, hips)) / max(float(np.median(heights_px)), 1.0)
    table[missing] = 0
    return table.transpose(2, 0, 1)


def _origin(table: np.ndarray, missing: np.ndarray, hips: list[int]) -> np.ndarray:
    """(2,) px: the hip centre in the first frame with both hips, otherwise the mean of all found keypoints."""
    if len(hips) == 2:
        whole = np.flatnonzero(~missing[:, hips].any(axis=1))
        if len(whole):
            return table[whole[0], hips, :2].mean(axis=0)
    return table[~missing][:, :2].mean(axis=0)
