"""Smoothing of keypoints over media time: causal (`KeypointSmoother`) or with a backward pass (`rts_smooth`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import SmoothConfig
from sharpose_rt.geometry.affine import apply_affine, invert_affine
from sharpose_rt.geometry.boxes import area
from sharpose_rt.geometry.oks import same_poses
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.tracking import kalman, rows
from sharpose_rt.tracking.camera import Camera, moved_box
from sharpose_rt.tracking.kalman import Float64, Motion
from sharpose_rt.tracking.keypoint_filter import TICKS_S, Bool, FilterStep, KeypointFilter, box_size, choose, fade
from sharpose_rt.types import Float32, Poses

LEAST_SHOWN = 1e-3
"""A missing person is shown while any keypoint score is above this."""


@dataclass(frozen=True)
class _Seen:
    """A track as last seen in a frame, and since when it had been there (backwards: as next seen, and until when)."""

    pts_s: float
    since_s: float
    bbox_xyxy: Float32
    bbox_score: float
    quality: float
    keypoints: Float32

    def moved(self, camera: Camera | None) -> _Seen:
        """The same at its place in the next picture."""
        if camera is None:
            return self
        keypoints = apply_affine(self.keypoints, camera).astype(np.float32)
        return replace(self, bbox_xyxy=moved_box(self.bbox_xyxy, camera), keypoints=keypoints)


class KeypointSmoother:
    """Smooths the keypoints of each track, causally, by constant-velocity Kalman filters in media time.

    Raw keypoints and their scores stay as they are. A keypoint that is not measured (its score is below
    `config.min_score`, or it is an outlier) is predicted; its score is held for `config.hold_s` and then fades to 0
    within `config.fade_s`. A keypoint about which nothing is known has its raw position and score 0. A missing person
    is continued for the same time as a row of stage `predicted` and comes to rest, but no longer than that person had
    been present, and not in the pose of somebody present. Nothing is smoothed across a change of id.

    Args:
        config: with method 'none' keypoints are the raw ones, and gaps stay gaps; 'rts' (see `rts_smooth`) is the same
            as 'kalman' here.
        skeleton: gives the number of keypoints.
    """

    def __init__(self, config: SmoothConfig, skeleton: Skeleton) -> None:
        self.config, self.skeleton = config, skeleton
        self._filter = KeypointFilter(config, len(skeleton))
        self._seen: dict[int, _Seen] = {}

    def update(
        self,
        poses: Poses,
        pts_s: float,
        tracked: Sequence[int] | NDArray[np.int64] = (),
        camera: Camera | None = None,
    ) -> Poses:
        """The people of `poses` smoothed, in their order, then those who are missing, in order of id.

        Rows without a track (id 0) keep their raw keypoints. Missing people whose ids are in `tracked` are only waiting
        for their turn to be estimated: they keep moving, and are continued wherever and however new they are. The
        `camera` motion since the last frame does not count as theirs.

        Raises:
            ValueError: time goes backwards, or an id occurs twice.
        """
        if self.config.method == "none":
            return rows.raw(poses)
        step = _advance(self._filter, poses, pts_s, tracked, camera)
        points, scores = step.motion.x, step.score * fade(self.config, pts_s - step.seen_s) * step.known
        row_of = _row_of(step.track_ids)
        smoothed = rows.with_keypoints(poses, row_of, points, scores)
        missing: list[Poses] = []
        for track_id, row in sorted(row_of.items()):
            if step.present[row] or scores[row].max() <= LEAST_SHOWN:
                continue
            one, seen = self._missing(track_id, points[row], scores[row], step.known[row], pts_s), self._seen[track_id]
            if track_id in tracked or _goes_on(one, seen, pts_s - seen.pts_s, smoothed, self.skeleton):
                missing.append(one)
        live = {i: seen for i, seen in self._seen.items() if i in row_of}
        self._seen = live | _looks(smoothed, pts_s, live)
        return rows.join([smoothed, *missing])

    def forget(self) -> None:
        """Forgets all people, for pictures unrelated to those before."""
        self._filter, self._seen = KeypointFilter(self.config, len(self.skeleton)), {}

    def _missing(self, track_id: int, points: Float64, scores: Float64, known: Bool, pts_s: float) -> Poses:
        """A row for a missing person: the last box, moved with the known keypoints."""
        seen = self._seen[track_id]
        shift = (points - seen.keypoints)[known].mean(0)
        score = seen.bbox_score * float(fade(self.config, np.array(pts_s - seen.pts_s)))
        return rows.predicted(track_id, seen.bbox_xyxy + np.tile(shift, 2), score, points, scores, seen.quality)


def rts_smooth(
    frames: Sequence[tuple[float, Poses]],
    config: SmoothConfig,
    skeleton: Skeleton,
    cameras: Sequence[Camera | None] | None = None,
) -> list[Poses]:
    """The people of each frame smoothed by the frames before and after it, so without lag.

    A forward Kalman filter, then the backward pass of Rauch, Tung and Striebel (1965). People who are missing within
    their track for less than `hold_s` + `fade_s`, and no longer than they had been present, are filled in as rows of
    stage `predicted`, in order of id after those present, but not in the pose of somebody present. Keypoints that are
    not measured are interpolated; their score is held and fades on both sides. Those that are never measured again
    continue as in causal smoothing, since nothing later corrects them.

    Args:
        frames: media time in seconds and people of each frame, in order; predicted rows are ignored, as they would
            remain after a track has ended.
        config: noise, hold and fade; its `method` is ignored.
        skeleton: gives the number of keypoints.
        cameras: how the picture moved before each frame, from `CameraMotion`; None if it did not.

    Raises:
        ValueError: time goes backwards, or an id occurs twice in a frame.
    """
    frames = [(pts_s, rows.estimated(poses)) for pts_s, poses in frames]
    moves = [None] * len(frames) if cameras is None else cameras
    forward = KeypointFilter(config, len(skeleton), coast=False)
    steps = [_advance(forward, poses, at_s, (), move) for (at_s, poses), move in zip(frames, moves, strict=True)]
    causal = KeypointFilter(config, len(skeleton))
    ends = [_advance(causal, poses, at_s, (), move).motion.x for (at_s, poses), move in zip(frames, moves, strict=True)]
    before = _looks_before(frames, moves, forward.life_s)
    smoothed: list[Poses] = []
    later: _Later | None = None
    after: dict[int, _Seen] = {}
    for (pts_s, poses), step, end, seen in zip(*map(reversed, (frames, steps, ends, before)), strict=True):
        back = None if later is None or later.step.camera is None else invert_affine(later.step.camera)
        after = {i: look.moved(back) for i, look in after.items()}
        later = _step_back(step, later, config)
        points, scores = np.where(np.isinf(later.seen_s)[..., None], end, later.motion.x), later.scores
        row_of = _row_of(step.track_ids)
        parts = [rows.with_keypoints(poses, row_of, points, scores)]
        for track_id, row in sorted(row_of.items()):
            if not later.inside[row] or step.present[row] or scores[row].max() <= LEAST_SHOWN:
                continue
            gap_s = after[track_id].pts_s - seen[track_id].pts_s
            one = _between(track_id, seen[track_id], after[track_id], pts_s, points[row], scores[row])
            short = gap_s < config.hold_s + config.fade_s - TICKS_S
            if short and _goes_on(one, seen[track_id], gap_s, parts[0], skeleton):
                parts.append(one)
        after |= _looks(poses, pts_s, after)
        smoothed.append(rows.join(parts))
    return smoothed[::-1]


@dataclass(frozen=True)
class _Later:
    """Smoothed tracks of one frame, as the previous frame needs them; rows as in the `step`.

    `scores` (T, K) are those to show; `seen_s` and `score` (T, K) are time and score of the next measurement; the time
    is infinite if there is none. `inside` (T,): the person is present or comes back.
    """

    step: FilterStep
    motion: Motion
    scores: Float64
    seen_s: Float64
    score: Float64
    inside: Bool


def _step_back(step: FilterStep, later: _Later | None, config: SmoothConfig) -> _Later:
    """The tracks of `step` smoothed by those of the frame `later`; None for the last frame."""
    motion = step.motion
    seen_s = np.where(step.measured, step.pts_s, np.inf)
    score, inside = np.where(step.measured, step.score, 0.0), step.present.copy()
    if later is not None:
        next_row = _row_of(later.step.track_ids)
        pairs = [(row, next_row[i]) for row, i in enumerate(step.track_ids.tolist()) if i in next_row]
        pairs = [(row, other) for row, other in pairs if not later.step.born[other]]
        here, there = np.array(pairs, np.int64).reshape(-1, 2).T
        linked, known, goal = later.step.linked[there], motion[here], later.motion[there]
        goal = replace(goal, x=goal.x - later.step.shift(known.x))
        back = kalman.smooth_back(known, goal, later.step.pts_s - step.pts_s, later.step.density[there])
        motion = Motion(*(array.copy() for array in motion.arrays()))
        motion.replace_rows(here, choose(linked, back, known))
        ahead = linked & ~step.measured[here]
        seen_s[here] = np.where(ahead, later.seen_s[there], seen_s[here])
        score[here] = np.where(ahead, later.score[there], score[here])
        inside[here] |= later.inside[there] & linked.any(1)
    held = np.maximum(step.score * fade(config, step.pts_s - step.seen_s), score * fade(config, seen_s - step.pts_s))
    return _Later(step, motion, held * step.known, seen_s, score, inside)


def _between(track_id: int, before: _Seen, after: _Seen, pts_s: float, points: Float64, scores: Float64) -> Poses:
    """A row for a person who is missing between two frames: box, score and quality are interpolated."""
    share = (pts_s - before.pts_s) / max(after.pts_s - before.pts_s, 1e-9)
    box = before.bbox_xyxy + share * (after.bbox_xyxy - before.bbox_xyxy)
    score = before.bbox_score + share * (after.bbox_score - before.bbox_score)
    return rows.predicted(
        track_id, box, score, points, scores, before.quality + share * (after.quality - before.quality)
    )


def _goes_on(one: Poses, seen: _Seen, gap_s: float, present: Poses, skeleton: Skeleton) -> bool:
    """Whether the missing `one` may be continued for `gap_s`.

    Not for longer than they had been present, nor in the pose of somebody `present`, who is the same person, nor if no
    keypoint is left to show.
    """
    shown = bool(one.keypoint_scores.max() > LEAST_SHOWN)
    one, present, sigmas = one.first(skeleton.body), present.first(skeleton.body), skeleton.sigmas[: skeleton.body]
    whom, size = present.keypoints, area(one.bboxes_xyxy)
    alike = same_poses(one.keypoints, one.keypoint_scores, whom, size, sigmas, LEAST_SHOWN)
    return shown and gap_s <= seen.pts_s - seen.since_s + TICKS_S and not alike.any()


def _advance(
    keypoints: KeypointFilter,
    poses: Poses,
    pts_s: float,
    tracked: Sequence[int] | NDArray[np.int64] = (),
    camera: Camera | None = None,
) -> FilterStep:
    """Step the filter with the people of `poses` who have a track; those `tracked` (ids) are present even if not in
    `poses`."""
    own = poses.track_ids > 0
    ids = poses.track_ids[own]
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"track ids are {ids.tolist()}; each may occur only once in a frame")
    size_px = box_size(poses.bboxes_xyxy[own])
    points, scores = poses.raw_keypoints[own], poses.raw_keypoint_scores[own]
    return keypoints.step(pts_s, ids, points, scores, size_px, np.asarray(tracked, np.int64), camera)


def _row_of(track_ids: NDArray[np.int64]) -> dict[int, int]:
    return {track_id: row for row, track_id in enumerate(track_ids.tolist())}


def _looks(poses: Poses, pts_s: float, known: Mapping[int, _Seen]) -> dict[int, _Seen]:
    """Each person of a frame by track id; those who are `known` keep the time since when they have been there."""
    return {
        int(track_id): _Seen(
            pts_s,
            known[int(track_id)].since_s if int(track_id) in known else pts_s,
            poses.bboxes_xyxy[row],
            float(poses.bbox_scores[row]),
            float(poses.quality[row]),
            poses.keypoints[row],
        )
        for row, track_id in enumerate(poses.track_ids)
    }


def _looks_before(
    frames: Iterable[tuple[float, Poses]], moves: Iterable[Camera | None], life_s: float
) -> list[dict[int, _Seen]]:
    """For each frame, each person as last seen up to `life_s` ago, at their place in this frame."""
    looks: list[dict[int, _Seen]] = []
    last: dict[int, _Seen] = {}
    for (pts_s, poses), camera in zip(frames, moves, strict=True):
        live = {i: seen.moved(camera) for i, seen in last.items() if pts_s - seen.pts_s <= life_s}
        last = live | _looks(poses, pts_s, live)
        looks.append(last)
    return looks
