"""Two people in a photograph with known keypoints, on whom a network from a file is tried."""

from __future__ import annotations

import numpy as np

from sharpose_rt.engine.base import PoseEstimates
from sharpose_rt.geometry.oks import oks
from sharpose_rt.machine.photographs import PEOPLE
from sharpose_rt.skeleton import BOX_TO_AREA, COCO17

PHOTOGRAPH = "bus.jpg"
BOXES = np.array(PEOPLE[PHOTOGRAPH][:2], np.float32)
"""xyxy px."""
KEYPOINTS = np.array([
    141, 446, 147, 436, 131, 436, 152, 442, 107, 442, 160, 495, 82, 500, 184, 566, 116, 568, 173, 553, 173, 560,
    150, 648, 100, 651, 168, 757, 90, 762, 191, 862, 70, 861,
    294, 451, 300, 443, 284, 443, 306, 448, 266, 450, 322, 497, 248, 504, 330, 554, 250, 579, 284, 532, 262, 642,
    308, 637, 265, 638, 311, 728, 262, 735, 272, 787, 266, 823,
], np.float32).reshape(2, 17, 2)  # fmt: skip
"""COCO's keypoints, px, where two networks agreed."""
HIDDEN = 9
"""The first person's left wrist is in a pocket, and each network places it elsewhere."""


def similarity(found: PoseEstimates) -> float:
    """Mean OKS, 0..1, of estimates in `BOXES` whose first 17 keypoints are COCO's."""
    counted = np.ones(KEYPOINTS.shape[:2])
    counted[0, HIDDEN] = 0
    areas = BOX_TO_AREA * np.prod(BOXES[:, 2:] - BOXES[:, :2], 1)
    return float(oks(found.keypoints[:, : len(COCO17)], KEYPOINTS, counted, areas, COCO17.sigmas).mean())
