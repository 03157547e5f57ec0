"""Two people in a photograph whose keypoints are known, on whom a network of a file is tried out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.engine.base import PoseEstimates
from sharpose_rt.geometry.oks import oks
from sharpose_rt.machine.photographs import photograph_path
from sharpose_rt.skeleton import COCO17

PHOTOGRAPH = "bus.jpg"
BOXES = np.array([[48, 399, 246, 904], [222, 405, 345, 862]], np.float32)
"""xyxy px."""
KEYPOINTS = np.array([
    141, 446, 147, 436, 131, 436, 152, 442, 107, 442, 160, 495, 82, 500, 184, 566, 116, 568, 173, 553, 173, 560,
    150, 648, 100, 651, 168, 757, 90, 762, 191, 862, 70, 861,
    294, 451, 300, 443, 284, 443, 306, 448, 266, 450, 322, 497, 248, 504, 330, 554, 250, 579, 284, 532, 262, 642,
    308, 637, 265, 638, 311, 728, 262, 735, 272, 787, 266, 823,
], np.float32).reshape(2, 17, 2)  # fmt: skip
"""COCO's, px, where two networks agreed."""
HIDDEN = 9
"""The first one's left wrist is in the pocket, and each network has it elsewhere."""
_AREA = 0.53
"""Of a person, in areas of the box."""


def photograph() -> NDArray[np.uint8] | None:
    """The photograph (H, W, 3) uint8 BGR; None where it is not there."""
    path = photograph_path(PHOTOGRAPH)
    try:
        image = None if path is None else cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    return None if image is None else np.asarray(image, np.uint8)


def similarity(found: PoseEstimates) -> float:
    """Mean OKS, 0..1, of estimates in `BOXES`, whose first 17 keypoints are COCO's."""
    counted = np.ones(KEYPOINTS.shape[:2])
    counted[0, HIDDEN] = 0
    areas = _AREA * np.prod(BOXES[:, 2:] - BOXES[:, :2], 1)
    return float(oks(found.keypoints[:, : len(COCO17)], KEYPOINTS, counted, areas, COCO17.sigmas).mean())
