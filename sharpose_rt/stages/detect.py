"""Frames in, frames with boxes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from sharpose_rt.detection import Detector, Looks
from sharpose_rt.detection.turned import Turned
from sharpose_rt.runtime import BaseStage, Status
from sharpose_rt.tracking import SceneCuts
from sharpose_rt.types import Frame, Packet

log = logging.getLogger("sharpose_rt")

STILLS_S = 0.5
"""Pictures in a folder that are at least this far apart in time are photographs; closer ones are frames of a video."""


class Scenes:
    """Where a new scene begins: where the frame says so, its size changes, or `cuts` finds a cut."""

    def __init__(self, cuts: SceneCuts | None) -> None:
        self._cuts = cuts
        self._last_wh: tuple[int, int] | None = None
        self._last_s = 0.0

    def begins(self, frame: Frame, *, pictured: bool = True) -> bool:
        """Whether a scene begins with this next frame; cuts are only looked for if the frame is `pictured`."""
        # Photographs, and pictures that are far apart, do not follow each other like the frames of a film.
        filmed = not frame.source or frame.pts_s - self._last_s < STILLS_S
        cut = self._cuts is not None and pictured and self._cuts.is_cut(frame.image_bgr, filmed=filmed)
        resized = self._last_wh not in (None, frame.size_wh)
        self._last_wh, self._last_s = frame.size_wh, frame.pts_s
        return frame.new_scene or resized or cut


class DetectStage(BaseStage[Frame, Packet]):
    """Runs the detector on every n-th frame and where a new scene begins; the other frames pass without boxes.

    `detected_frames` counts the frames that the detector saw; `looks` knows how closely.

    Args:
        every: n: a number, or a function that returns the current one.
        cuts: finds where a new scene begins.
        ready_for: returns the size (w, h) of coming frames, px, so that the detector prepares for it when opened.
        live: skip looks that are not essential.
        most: the most people that the detector keeps; warns once of a frame with that many.
        rotated: degrees by which the run rotates pictures; if given, warns once of pictures that are still turned.
        called: name of the source for these warnings.
        keep: keep the model for the next run.
    """

    name = "detect"

    def __init__(
        self,
        detector: Detector,
        every: int | Callable[[], int] = 1,
        cuts: SceneCuts | None = None,
        ready_for: Callable[[], tuple[int, int]] | None = None,
        *,
        live: bool = False,
        most: int | None = None,
        rotated: int | None = None,
        called: str = "",
        keep: bool = False,
    ) -> None:
        self.detector, self.ready_for, self._keep = detector, ready_for, keep
        self.looks = Looks(detector, live=live)
        self._scenes = Scenes(cuts)
        self._every = (lambda: every) if isinstance(every, int) else every
        self._most, self._rotated, self._turned = most, rotated, Turned(detector)
        self._called = called and f"{called}: "
        self.detected_frames = 0
        self._waiting: int | None = None  # frames since the last one that the detector saw, including dropped ones

    def open(self) -> None:
        """Loads the model."""
        self.detector.open()
        if self.ready_for is not None:
            self.looks.make_ready(self.ready_for())

    def process(self, item: Frame, /) -> Iterable[Packet]:
        """The frame with its detections, or with None if it was not this frame's turn."""
        self._waiting = None if self._waiting is None else self._waiting + 1 + item.dropped_before
        new_scene = self._scenes.begins(item)
        due = new_scene or self._waiting is None or self._waiting >= self._every()
        if due:
            self._waiting = 0
            self.detected_frames += 1
        detections = self.looks.detect(item, new_scene=new_scene) if due else None
        if detections is not None and self._most is not None and len(detections) >= self._most:
            log.warning(
                "%sframe %d: %d people are found, the most that are kept; --set detector.max_people=N keeps up to N",
                self._called, item.frame_id, self._most,
            )  # fmt: skip
            self._most = None  # warn once
        if detections is not None and self._rotated is not None and not item.source:
            turn = self._turned.turn(item, detections)
            if turn:
                log.warning(
                    "%smore people are found with the picture turned than as it is; is it %s? "
                    "--rotate %d turns it",
                    self._called, "upside down" if turn == 180 else "on its side", (self._rotated + turn) % 360,
                )  # fmt: skip
        return (Packet(item, new_scene=new_scene).left(self.name, detections=detections),)

    def close(self, status: Status, /) -> None:
        """Releases the model, unless it is kept."""
        if not self._keep:
            self.detector.close()
