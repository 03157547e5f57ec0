"""A given number of people in every frame of a real clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sharpose_rt.tracking import Tracker
from sharpose_rt.tracking.camera import Camera
from sharpose_rt.tracking.memory import Look
from sharpose_rt.types import Detections, Poses, Tracks

COPY_ID = 1_000_000
"""The n-th copy of a person has the person's id plus n times this."""
SHIFT = 0.04
"""Copies are shifted sideways in steps of this share of the box width, so that no two crops are the same."""
STAND_IN_WH = (0.2, 0.6)
"""Size of the placeholder box while nobody has been found yet, as shares of the frame's height."""


class FixedPeople:
    """A tracker that returns exactly `people` boxes, however many are in the picture.

    Detector and tracker work as usual. Of the people they find, the first `people` are used; if there are fewer, their
    boxes are repeated with a small shift, so that every crop still shows a person (an empty crop would be refined more
    often, and cost more than one with a person). Ids are 1 to `people` in every frame: if they came and went like the
    tracker's, the smoother would also predict those who are gone.

    Args:
        inner: finds the people.
        people: 1 or more.
        size_wh: of the frames, px.
    """

    def __init__(self, inner: Tracker, people: int, size_wh: tuple[int, int]) -> None:
        assert people >= 1, people
        self.inner, self.people = inner, people
        self.name, self.uses_poses = f"{inner.name}, {people} boxes", inner.uses_poses
        self.frames = self.found = self.copies = 0
        width, height = size_wh
        centre = np.array([width / 2, height / 2], np.float32)
        half = np.array(STAND_IN_WH, np.float32) * height / 2
        self._found = Tracks(
            np.concatenate([centre - half, centre + half], dtype=np.float32)[None],
            np.ones(1, np.float32),
            np.array([COPY_ID]),
            np.zeros(1, np.bool_),
        )
        self._handed_on = repeat_to(self._found, people)

    @property
    def copy_share(self) -> float:
        """Share of the boxes, 0..1, that were copies or placeholders."""
        return self.copies / max(1, self.frames * self.people)

    @property
    def known_again(self) -> int:
        """See `Tracker.known_again`."""
        return self.inner.known_again

    @property
    def settled(self) -> bool:
        """See `Tracker.settled`."""
        return self.inner.settled

    def update(
        self,
        detections: Detections | None,
        pts_s: float,
        last_poses: Poses | None = None,
        camera: Camera | None = None,
        look: Look | None = None,
    ) -> Tracks:
        """The tracker's people, cut or repeated to `people`; see `Tracker.update`."""
        if last_poses is not None:  # back to the tracker's own ids
            last_poses = replace(last_poses, track_ids=self._handed_on.track_ids[last_poses.track_ids - 1])
        tracks = self.inner.update(detections, pts_s, last_poses, camera, look)
        self.frames, self.found = self.frames + 1, self.found + len(tracks)
        self.copies += max(0, self.people - len(tracks))
        if len(tracks):
            self._found = tracks
        self._handed_on = repeat_to(self._found, self.people)
        return replace(self._handed_on, track_ids=np.arange(1, self.people + 1))

    def forget(self) -> None:
        """See `Tracker.forget`."""
        self.inner.forget()


def repeat_to(tracks: Tracks, people: int) -> Tracks:
    """The first `people` of `tracks`; if there are fewer, repeated with growing shifts."""
    row, lap = np.arange(people) % len(tracks), np.arange(people) // len(tracks)
    boxes = tracks.bboxes_xyxy[row]
    aside = SHIFT * ((lap + 1) // 2) * np.where(lap % 2, 1, -1)  # right, left, further right, ...
    boxes = boxes + (aside * (boxes[:, 2] - boxes[:, 0]))[:, None] * np.array([1, 0, 1, 0], np.float32)
    return Tracks(
        boxes.astype(np.float32), tracks.bbox_scores[row], tracks.track_ids[row] + COPY_ID * lap, tracks.detected[row]
    )
