"""Smoothing of keypoints over media time: causal (`KeypointSmoother`) or with a backward pass (`rts_smooth`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import SmoothConfig
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.tracking.kalman import Float64
from sharpose_rt.tracking.keypoint_filter import FilterStep, KeypointFilter, box_size, fade
from sharpose_rt.types import Poses, PoseStage


@dataclass(frozen=True)
class _Seen:
    """What a track last looked like: for the rows of people who are missing."""

    pts_s: float
    bbox_xyxy: Float64
    bbox_score: float
    quality: float
    keypoints: Float64


class KeypointSmoother:
    """Smooths the keypoints of each track, causally, by constant-velocity Kalman filters in media time.

    Raw keypoints and their scores stay as they are. A keypoint that is not measured (its score is below
    `config.min_score`, or it is an outlier) is predicted; its score is held for `config.hold_s` and then fades to 0
    within `config.fade_s`. A keypoint of which nothing is known has its raw position and score 0. A person who is
    missing is carried on as a row of stage `predicted` for as long. Nothing is smoothed across a change of id.

    Args:
        config: with method 'none' keypoints are the raw ones, and gaps stay gaps; 'rts' is smoothed as 'kalman'
            here, see `rts_smooth`.
        skeleton: gives the number of keypoints.
    """

    def __init__(self, config: SmoothConfig, skeleton: Skeleton) -> None:
        self.config = config
        self._filter = KeypointFilter(config, len(skeleton))
        self._seen: dict[int, _Seen] = {}

    def update(self, poses: Poses, pts_s: float) -> Poses:
        """The people of `poses` smoothed, in their order, then those who are missing, by id.

        Rows without a track (id 0) come back with raw keypoints.

        Raises:
            ValueError: time goes backwards, or an id is there twice.
        """
        if self.config.method == "none":
            return _raw(poses)
        step = _step(self._filter, poses, pts_s)
        points, scores = step.motion.x, step.score * fade(self.config, pts_s - step.seen_s) * step.known
        row_of = {int(track_id): row for row, track_id in enumerate(step.track_ids)}
        smoothed = _with_keypoints(poses, row_of, points, scores)
        missing = []
        for track_id in sorted(set(row_of) - {int(i) for i in poses.track_ids}):
            row = row_of[track_id]
            if scores[row].any():
                missing.append(self._missing(track_id, points[row], scores[row], step.known[row], pts_s))
        self._remember(smoothed, pts_s, set(row_of))
        return _join([smoothed, *missing])

    def _missing(self, track_id: int, points: Float64, scores: Float64, known: Float64, pts_s: float) -> Poses:
        """A row for a missing person: the last box, moved as the known keypoints have moved."""
        seen = self._seen[track_id]
        shift = (points - seen.keypoints)[known.astype(bool)].mean(0)
        return predicted_row(
            track_id,
            seen.bbox_xyxy + np.tile(shift, 2),
            seen.bbox_score * float(fade(self.config, np.array(pts_s - seen.pts_s))),
            points,
            scores,
            seen.quality,
        )

    def _remember(self, poses: Poses, pts_s: float, alive: set[int]) -> None:
        self._seen = {track_id: seen for track_id, seen in self._seen.items() if track_id in alive}
        for row, track_id in enumerate(poses.track_ids):
            self._seen[int(track_id)] = _Seen(
                pts_s,
                poses.bboxes_xyxy[row].astype(np.float64),
                float(poses.bbox_scores[row]),
                float(poses.quality[row]),
                poses.keypoints[row].astype(np.float64),
            )
