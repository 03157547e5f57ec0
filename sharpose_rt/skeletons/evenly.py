"""Frames at even steps of media time, for networks that assume a constant frame rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from sharpose_rt.errors import ConfigError
from sharpose_rt.types import Poses

LONGEST_GAP_S = 0.5
"""In gaps longer than this, the movement of people is unknown."""
ROUNDED_S = 2e-6
"""Rounding error between two times of a stream, each rounded to 1e-6 s."""
_SAME = 1e-3  # of a gap: closer times are not interpolated


class Posed(Protocol):
    """A frame with people: a `FrameRecord` of a stream, or a `TrackedFrame` of `PoseTracker.run`."""

    @property
    def pts_s(self) -> float:
        """Media time in seconds."""
        ...

    @property
    def poses(self) -> Poses:
        """The people."""
        ...


@dataclass(frozen=True)
class EvenFrame:
    """A frame of `at_fps`; `frame_id` counts from 0 in each video, the rest is from the previous frame in time."""

    frame_id: int
    pts_s: float
    poses: Poses
    source: str = ""
    frame_size_wh: tuple[int, int] | None = None
    new_scene: bool = False


def at_fps(frames: Iterable[Posed], fps: float) -> Iterator[EvenFrame]:
    """Resamples frames to `fps` frames per second of media time, from the first frame on.

    People and keypoints in both neighbouring frames are interpolated; those in only one of them are as in the nearer
    one. Nobody is interpolated across a cut (`new_scene`) or a change of size: people stay where they were until then.
    In gaps longer than `LONGEST_GAP_S`, such as when a camera was away, there is nobody. Each video (a new `source`, or
    a time that decreases) has its own steps. Holds two frames.

    Raises:
        ConfigError: `fps` is not above 0, or above 1000.
    """
    if not 0 < fps <= 1000:
        raise ConfigError(f"fps is {fps!r}; above 0 and at most 1000 is accepted")
    return _steps(frames, fps)


def _steps(frames: Iterable[Posed], fps: float) -> Iterator[EvenFrame]:
    before: Posed | None = None
    start_s, count, cut = 0.0, 0, False

    def due_s() -> float:
        return start_s + count / fps

    def step(poses: Poses) -> EvenFrame:
        nonlocal count, cut
        made = EvenFrame(count, due_s(), poses, _source(before), _size_wh(before), cut)
        count, cut = count + 1, False
        return made

    for frame in frames:
        if before is None or _source(frame) != _source(before) or frame.pts_s < before.pts_s:
            if before is not None and due_s() <= before.pts_s + ROUNDED_S:
                yield step(before.poses)
            before, start_s, count = None, frame.pts_s, 0
        while before is not None and due_s() < frame.pts_s - ROUNDED_S:
            yield step(_between(before, frame, due_s(), fps))
        cut = cut or _new_scene(before, frame)
        before = frame
    if before is not None and due_s() <= before.pts_s + ROUNDED_S:
        yield step(before.poses)


def _between(before: Posed, after: Posed, time_s: float, fps: float) -> Poses:
    """The people at a time between two frames."""
    gap_s = after.pts_s - before.pts_s
    share = (time_s - before.pts_s) / gap_s
    if gap_s > LONGEST_GAP_S:
        near = before if share <= 0.5 else after
        if abs(near.pts_s - time_s) > 0.5 / fps:
            return Poses.empty(before.poses.keypoints.shape[1])
        return near.poses
    if _new_scene(before, after) or share < _SAME:
        return before.poses
    if share <= 0.5:
        return _moved(before.poses, after.poses, share)
    return after.poses if share > 1 - _SAME else _moved(after.poses, before.poses, 1 - share)


def _moved(near: Poses, far: Poses, weight: float) -> Poses:
    """The people of `near`, interpolated towards `far` by `weight`, 0 to 0.5."""
    place_of = {track_id: place for place, track_id in enumerate(far.track_ids.tolist()) if track_id}
    rows = [row for row, track_id in enumerate(near.track_ids.tolist()) if track_id in place_of]
    if not rows:
        return near
    places = [place_of[int(near.track_ids[row])] for row in rows]
    changed: dict[str, Any] = {"bboxes_xyxy": near.bboxes_xyxy.copy()}
    changed["bboxes_xyxy"][rows] += weight * (far.bboxes_xyxy[places] - near.bboxes_xyxy[rows])
    for kind in ("", "raw_"):
        names = f"{kind}keypoints", f"{kind}keypoint_scores"
        points, scores = (getattr(near, name).copy() for name in names)
        far_points, far_scores = (getattr(far, name)[places] for name in names)
        both = np.where((scores[rows] > 0) & (far_scores > 0), np.float32(weight), np.float32(0))
        points[rows] += both[..., None] * (far_points - points[rows])
        scores[rows] += both * (far_scores - scores[rows])
        changed |= zip(names, (points, scores), strict=True)
    return replace(near, **changed)


def _source(frame: Posed | None) -> str:
    return getattr(frame, "source", "")


def _size_wh(frame: Posed | None) -> tuple[int, int] | None:
    image = getattr(frame, "image_bgr", None)
    return getattr(frame, "frame_size_wh", None) if image is None else (image.shape[1], image.shape[0])


def _new_scene(before: Posed | None, frame: Posed) -> bool:
    return getattr(frame, "new_scene", False) or (before is not None and _size_wh(frame) != _size_wh(before))
