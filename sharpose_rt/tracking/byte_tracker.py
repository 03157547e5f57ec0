"""The tracker `bytetrack`: ByteTrack from the `trackers` package as a `Tracker`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import TrackerConfig
from sharpose_rt.tracking.base import ROUNDED_S, Clock, canonical
from sharpose_rt.tracking.camera import Camera
from sharpose_rt.tracking.memory import Look
from sharpose_rt.types import Detections, Float32, Poses, Tracks

LEAST_STEP_S = 1e-6
"""Shortest step; `trackers` warns if a timestamp repeats."""
REFERENCE_FPS = 30.0
"""The frame rate for which `trackers` defines its buffer and tunes its filter."""


@dataclass
class _Shown:
    """A track as last shown, and the velocity (2,) of its centre in px/s, for predicting it."""

    bbox_xyxy: Float32
    bbox_score: float
    pts_s: float
    velocity: NDArray[np.floating]


class ByteTrack:
    """Tracks people by boxes alone; see `Tracker` for the output.

    When a source starts, or continues after a jump in time, confident detections are confirmed at once. Otherwise the
    package confirms a track at its second detection at the earliest, even with `config.min_detections` 1.
    """

    name = "bytetrack"
    uses_poses = False
    known_again = 0  # boxes alone identify nobody
    settled = False  # the package does not say

    def __init__(self, config: TrackerConfig) -> None:
        from trackers import ByteTrackTracker  # takes 1 s to import

        self.config, self._lost_s = config, config.max_lost_s + ROUNDED_S
        self._tracker = ByteTrackTracker(
            lost_track_buffer=math.ceil(self._lost_s * REFERENCE_FPS),
            frame_rate=REFERENCE_FPS,
            track_activation_threshold=config.high_score,
            minimum_consecutive_frames=config.min_detections,
            minimum_iou_threshold=config.match_threshold,
            high_conf_det_threshold=config.high_score,
        )
        self._clock = Clock()
        self._shown: dict[int, _Shown] = {}
        self._detector_ran_s: float | None = None
        self._stamp_s, self._ahead_s = -np.inf, 0.0

    def update(
        self,
        detections: Detections | None,
        pts_s: float,
        last_poses: Poses | None = None,
        camera: Camera | None = None,
        look: Look | None = None,
    ) -> Tracks:
        """Confirmed people of this frame, in order of id; see `Tracker.update`. Only boxes and time are used."""
        self._clock.advance(pts_s)
        if detections is None:
            return self._carried(pts_s)
        found = canonical(detections)
        begins = self._detector_ran_s is None or pts_s - self._detector_ran_s > self._lost_s
        # Detections in a row confirm its tracks: pass it the first picture that often, a moment apart.
        for again in range(max(self.config.min_detections, 2) - 1 if begins else 0, 0, -1):
            self._run(found, pts_s - again * 1e-3)
        ids, rows = self._run(found, pts_s)
        self._detector_ran_s = pts_s
        order = np.argsort(ids)
        ids, rows = ids[order], rows[order]
        boxes, scores = found.bboxes_xyxy[rows], found.bbox_scores[rows]
        self._shown = {
            int(i): self._now(int(i), box, float(s), pts_s) for i, box, s in zip(ids, boxes, scores, strict=True)
        }
        return Tracks(boxes, scores, ids, np.ones(len(ids), bool))

    def forget(self) -> None:
        """See `Tracker.forget`."""
        # Its own reset() would reuse ids, so its clock is advanced until none of its tracks is left.
        self._ahead_s += 2 * self.config.max_lost_s + 1
        self._shown, self._detector_ran_s = {}, None

    def _run(self, found: Detections, pts_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Ids from 1 of the confirmed tracks, and the row of the detection of each."""
        import supervision as sv

        self._stamp_s = max(pts_s + self._ahead_s, self._stamp_s + LEAST_STEP_S)
        result = self._tracker.update(
            sv.Detections(
                xyxy=found.bboxes_xyxy.astype(np.float32),
                confidence=found.bbox_scores.astype(np.float32),
                data={"row": np.arange(len(found))},
            ),
            timestamp=self._stamp_s,
        )
        ids = np.zeros(0, np.int64) if result.tracker_id is None else result.tracker_id.astype(np.int64)
        rows = np.asarray(result.data.get("row", np.zeros(0)), np.int64)
        return ids[ids >= 0] + 1, rows[ids >= 0]

    def _now(self, track_id: int, box: Float32, score: float, pts_s: float) -> _Shown:
        before = self._shown.get(track_id)
        velocity = np.zeros(2)
        if before is not None and pts_s > before.pts_s:
            moved = (box - before.bbox_xyxy).reshape(2, 2).mean(0)
            velocity = (before.velocity + moved / (pts_s - before.pts_s)) / 2
        return _Shown(box, score, pts_s, velocity)

    def _carried(self, pts_s: float) -> Tracks:
        """The tracks that were last shown, moved at their last velocity."""
        self._shown = {i: t for i, t in self._shown.items() if pts_s - t.pts_s <= self._lost_s}
        if not self._shown:
            return Tracks.empty()
        shown = list(self._shown.values())
        return Tracks(
            np.stack([t.bbox_xyxy + np.tile((pts_s - t.pts_s) * t.velocity, 2) for t in shown]).astype(np.float32),
            np.array([track.bbox_score for track in shown], np.float32),
            np.array(list(self._shown), np.int64),
            np.zeros(len(shown), bool),
        )
