"""Scene cuts: frames whose picture is unrelated to the one before."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE_WH = (48, 27)
"""Size at which frames are compared, where moving people are only a few pixels."""
SPREAD, LEAST = 0.7, 8.0
"""A cut changes at least the first, a share of the picture, by more than the second; a person stepping in, or an
overlay, does not."""
RECENT = 12
"""Number of frames whose changes define what is usual."""
AGAIN, REPEATS = 0.5, 3
"""A picture that changes by no more than the first repeats the last one, up to the second number of times: a film of 15
frames per second may be stored at 60. Repeats count towards what is usual only if there are more of them."""


class SceneCuts:
    """Finds the cuts in a source by a jump in hue, saturation and value, like the content detector of PySceneDetect.

    A pan or a flicker changes every frame; a cut changes one. So the change must also be several times that of the
    frames before it; in a fast pan only the first frame is mistaken for a cut. This does not apply to pictures that are
    far apart in time: in a folder of photographs all changes are large.

    Args:
        threshold: least mean change of hue, saturation and value, 0 to 255; 0 finds no cuts.
        ratio: least change, as a multiple of the median of the recent ones.
    """

    def __init__(self, threshold: float, ratio: float = 3.0) -> None:
        self.threshold, self.ratio = threshold, ratio
        self._last: NDArray[np.float32] | None = None
        self._changes: deque[float] = deque(maxlen=RECENT)
        self._repeats = 0

    def is_cut(self, image_bgr: NDArray[np.uint8], *, filmed: bool = True) -> bool:
        """Whether a frame (H, W, 3) begins another scene; the first frame does not. `filmed`: it follows the last frame
        as in a video."""
        if not self.threshold:
            return False
        step = max(1, min(image_bgr.shape[0] // (4 * SIZE_WH[1]), image_bgr.shape[1] // (4 * SIZE_WH[0])))
        small = cv2.resize(image_bgr[::step, ::step], SIZE_WH, interpolation=cv2.INTER_AREA)
        now = cv2.cvtColor(small, cv2.COLOR_BGR2HSV_FULL).astype(np.float32)
        last, self._last = self._last, now  # type: ignore[assignment]
        if last is None:
            return False
        apart = np.abs(now - last)
        apart[..., 0] = np.minimum(apart[..., 0], 256 - apart[..., 0])  # hue is a circle
        apart[..., 0] *= np.minimum(now[..., 1], last[..., 1]) / 255  # grey has no hue
        places = apart.mean(2)
        change = float(places.mean())
        usual = float(np.median(self._changes)) if self._changes else 0.0
        large = change >= self.threshold and (change >= self.ratio * usual or not filmed)
        cut = large and float((places > LEAST).mean()) >= SPREAD
        if cut:
            self._changes.clear()  # the new scene differs; but another change as large means a pan
        self._repeats = self._repeats + 1 if change <= AGAIN else 0
        if not 0 < self._repeats <= REPEATS:
            self._changes.extend([change] * (self._repeats if self._repeats == REPEATS + 1 else 1))
        return cut
