"""Frame in, frame with boxes out."""

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
"""Pictures of a folder that lie so far apart are photographs; closer ones are frames of a video."""


class Scenes:
    """Where a new scene begins: as the frame says, in another size than before, or at a cut that `cuts` finds."""

    def __init__(self, cuts: SceneCuts | None) -> None:
        self._cuts = cuts
        self._last_wh: tuple[int, int] | None = None
        self._last_s = 0.0

    def begins(self, frame: Frame, *, pictured: bool = True) -> bool:
        """Whether one begins with this frame, the next one; cuts are looked for where it is `pictured`."""
        # A photograph, or one of pictures that lie apart, does not follow the one before as film does.
        filmed = not frame.source or frame.pts_s - self._last_s < STILLS_S
        cut = self._cuts is not None and pictured and self._cuts.is_cut(frame.image_bgr, filmed=filmed)
        resized = self._last_wh not in (None, frame.size_wh)
        self._last_wh, self._last_s = frame.size_wh, frame.pts_s
        return frame.new_scene or resized or cut


class DetectStage(BaseStage[Frame, Packet]):
    """Runs the detector on every n-th frame and where a new scene begins; the others go on without boxes.

    `every` is n: a number, or what gives it as it is now. `cuts` says where a new scene begins. `detected_frames`
    counts those that the detector saw, `looks` knows how closely. `ready_for` gives the size of the frames that will
    come, px, where the first one should not wait for what a detector makes ready for a size. A `live` source gets no
    look that can be done without. A frame of as many people as the detector keeps at `most` is told of once, and so is
    a picture that lies on its side or its head, where it is known by how many degrees a run has `rotated` it; both with
    what the source is `called`. With `keep` the model stays for the next run.
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
        self._waiting: int | None = None  # frames since the last one that the detector saw, dropped ones too

    def open(self) -> None:
        """Load the model."""
        self.detector.open()
        if self.ready_for is not None:
            self.looks.make_ready(self.ready_for())

    def process(self, item: Frame, /) -> Iterable[Packet]:
        """The frame with its detections, or with None where it was not this frame's turn."""
        self._waiting = None if self._waiting is None else self._waiting + 1 + item.dropped_before
        new_scene = self._scenes.begins(item)
        due = new_scene or self._waiting is None or self._waiting >= self._every()
        if due:
            self._waiting = 0
            self.detected_frames += 1
        detections = self.looks.detect(item, new_scene=new_scene) if due else None
        if detections is not None and self._most is not None and len(detections) >= self._most:
            log.warning(
                "%sframe %d: %d people are found, and more are not kept; --set detector.max_people=N keeps N",
                self._called, item.frame_id, self._most,
            )  # fmt: skip
            self._most = None  # said once
        if detections is not None and self._rotated is not None and not item.source:
            turn = self._turned.turn(item, detections)
            if turn:
                log.warning(
                    "%speople are found where the picture is turned, and few as it is; does it lie on its %s? "
                    "--rotate %d turns it",
                    self._called, "head" if turn == 180 else "side", (self._rotated + turn) % 360,
                )  # fmt: skip
        return (Packet(item, new_scene=new_scene).left(self.name, detections=detections),)

    def close(self, status: Status, /) -> None:
        """Let the model go, unless it is kept."""
        if not self._keep:
            self.detector.close()
