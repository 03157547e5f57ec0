"""The lines of one run as one consumer gets them, in which whatever it did not get is accounted for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from sharpose_rt.geometry.affine import chain_affines, invert_affine
from sharpose_rt.skeletons import encode

_FARTHEST_PX, _LARGEST = 1e7, 1e3


class Place(NamedTuple):
    """Where a camera has got to: `at` (2, 3) maps points of the picture in which `part` began to those now, px.

    `scene` counts the scenes; each begins a part.
    """

    part: int
    at: NDArray[np.float64]
    scene: int = 0
    lost_s: float = 0.0
    """Total time for which the source has been lost so far."""

    def since(self, earlier: Place | None) -> tuple[NDArray[np.float64] | None, bool]:
        """The camera's motion from an earlier place to this one, (2, 3) or None, and whether a scene began."""
        if earlier is None or earlier.scene != self.scene:
            return None, earlier is not None
        moved = earlier.part == self.part and earlier.at is not self.at
        return (chain_affines(invert_affine(earlier.at), self.at) if moved else None), False


class Journey:
    """The accumulated camera motion of one run.

    A new part begins with each scene, and before numbers grow too large to resolve the motion of one frame.
    """

    def __init__(self) -> None:
        self.place = Place(0, np.eye(2, 3))

    def go(self, camera: NDArray[np.float64] | None, *, new_scene: bool = False, lost_s: float = 0.0) -> Place:
        """The place after one more frame, given the camera motion and the time that the source was lost before it."""
        if lost_s:
            self.place = self.place._replace(lost_s=self.place.lost_s + lost_s)
        if new_scene:
            self.place = self.place._replace(part=self.place.part + 1, at=np.eye(2, 3), scene=self.place.scene + 1)
        elif camera is not None:
            part, at = self.place.part, chain_affines(self.place.at, camera)
            size = np.sqrt(abs(np.linalg.det(at[:, :2])))
            if not (1 / _LARGEST < size < _LARGEST and np.abs(at[:, 2]).max() < _FARTHEST_PX):
                part, at = part + 1, np.eye(2, 3)
            self.place = self.place._replace(part=part, at=at)
        return self.place


class Thinned:
    """Makes what a consumer gets a valid stream: after a gap, `dropped_before` gives its length, `camera` the motion
    over it, and `new_scene` whether a scene began in it; the end line counts this consumer's frames.

    A line without a gap before it is passed on unchanged, byte for byte.
    """

    def __init__(self) -> None:
        self.last_id = -1
        self.frames = 0
        self.dropped = 0
        self._last: Place | None = None

    def frame(self, frame_id: int, line: bytes, place: Place | None = None) -> bytes:
        """The frame line for this consumer; `place` is the camera's."""
        missing, last = frame_id - self.last_id - 1, self._last
        self.last_id, self._last = frame_id, place
        self.frames += 1
        if missing == 0:
            return line
        self.dropped += missing
        record: dict[str, Any] = {**orjson.loads(line), "dropped_before": missing}
        if last is not None and place is not None:
            record.pop("camera", None)
            camera, new_scene = place.since(last)
            if camera is not None:
                record["camera"] = (np.round(camera, 6) + 0.0).tolist()
            if new_scene:
                record["new_scene"] = True
            if (lost_s := round(place.lost_s - last.lost_s, 3)) > 0:
                record["lost_before_s"] = lost_s
        return encode(record)

    def end(self, line: bytes) -> bytes:
        """The end line for this consumer."""
        return encode({**orjson.loads(line), "frames": self.frames, "dropped": self.dropped})
