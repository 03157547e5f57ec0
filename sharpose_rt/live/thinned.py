"""The lines of one run as one consumer gets them: whatever was left out for it is accounted for."""

from __future__ import annotations

import orjson

from sharpose_rt.skeletons import encode


class Thinned:
    """Makes what a consumer gets a valid stream: `dropped_before` explains each gap, the end line counts its frames.

    A line that follows the one before it is passed on as it is, byte for byte.
    """

    def __init__(self) -> None:
        self.last_id = -1
        self.frames = 0
        self.dropped = 0

    def frame(self, frame_id: int, line: bytes) -> bytes:
        """The frame line for this consumer."""
        missing = frame_id - self.last_id - 1
        self.last_id = frame_id
        self.frames += 1
        if missing == 0:
            return line
        self.dropped += missing
        return encode({**orjson.loads(line), "dropped_before": missing})

    def end(self, line: bytes) -> bytes:
        """The end line for this consumer."""
        return encode({**orjson.loads(line), "frames": self.frames, "dropped": self.dropped})
