"""Frame in, frame with boxes out."""

from __future__ import annotations

from collections.abc import Iterable

from sharpose_rt.detection import Detector
from sharpose_rt.runtime import BaseStage, Status
from sharpose_rt.types import Frame, Packet


class DetectStage(BaseStage[Frame, Packet]):
    """Runs the detector on every `every`-th frame; the others go on without boxes."""

    name = "detect"

    def __init__(self, detector: Detector, every: int = 1) -> None:
        self.detector, self.every = detector, every

    def open(self) -> None:
        """Load the model."""
        self.detector.open()

    def process(self, item: Frame, /) -> Iterable[Packet]:
        """The frame with its detections, or with None where it was not this frame's turn."""
        due = item.frame_id % self.every == 0
        return (Packet(item, self.detector.detect(item) if due else None),)

    def close(self, status: Status, /) -> None:
        """Let the model go."""
        self.detector.close()
