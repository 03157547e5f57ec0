"""Frames at even steps of media time, for networks that take each frame as equally long after the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from sharpose_rt.errors import ConfigError
from sharpose_rt.types import Poses

LONGEST_GAP_S = 0.5
"""Between frames that lie further apart nobody knows how people moved."""
ROUNDED_S = 2e-6
"""By so much two times of a stream may differ as each is rounded to 1e-6 s."""
_SAME = 1e-3  # of a gap: no interpolation is worth its rounding


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
    """A frame of `at_fps`; `frame_id` counts from 0 in each video, the rest is as of the frame before it in time."""

    frame_id: int
    pts_s: float
    poses: Poses
    source: str = ""
    frame_size_wh: tuple[int, int] | None = None
    new_scene: bool = False


def at_fps(frames: Iterable[Posed], fps: float) -> Iterator[EvenFrame]:
    """So many frames for each second of media time, from the first frame on, whatever times the frames have.

    Whoever is in the frames before and after is between them in proportion, keypoints that both have likewise; whoever
    is in one alone is where the nearer one has them. Nobody moves across a cut (`new_scene`) or a change of size: until
    then people stay where they were. Between frames further apart than `LONGEST_GAP_S`, as where a camera was away,
    there is nobody. Each video (`source`, or where times fall) has steps of its own. Holds two frames.

    Raises:
        ConfigError: `fps` is not above 0, or above 1000.
    """
    if not 0 < fps <= 1000:
        raise ConfigError(f"fps is {fps!r}; above 0, up to 1000, is accepted")
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
    """The people of `near`, on their way to where they are in `far` by `weight` of it, 0 to 0.5."""
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
