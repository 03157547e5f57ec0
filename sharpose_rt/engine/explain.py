"""What the network saw in each person: the data of the paper's Figure 5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.engine.engine import PoseEngine
from sharpose_rt.geometry.affine import warp_crops
from sharpose_rt.geometry.heatmap import decode


@dataclass(frozen=True)
class Explanation:
    """One person, in crop px (h, w); gh x gw coarse cells, K keypoints.

    Args:
        crop_bgr: (h, w, 3) uint8.
        attention: (gh, gw) float32, how much the keypoints attended to each cell, scaled to sum to 1 (Eq. 7).
        selected: (gh, gw) bool, the cells that the fine stage splits, or would split.
        coarse_heatmap: (h/4, w/4) float32, the highest value over keypoints.
        coarse_keypoints: (K, 2) px.
        coarse_scores: (K,) in 0..1.
        fine_heatmap: as the coarse one; None if the crop was not refined.
        fine_keypoints: None likewise.
        fine_scores: None likewise.
        quality: predicted OKS of the coarse pose (Eq. 4).
        gain: predicted AP that the fine stage adds; inf for weights that do not predict it.
    """

    crop_bgr: NDArray[np.uint8]
    attention: NDArray[np.float32]
    selected: NDArray[np.bool_]
    coarse_heatmap: NDArray[np.float32]
    coarse_keypoints: NDArray[np.float32]
    coarse_scores: NDArray[np.float32]
    fine_heatmap: NDArray[np.float32] | None
    fine_keypoints: NDArray[np.float32] | None
    fine_scores: NDArray[np.float32] | None
    quality: float
    gain: float

    @property
    def refined(self) -> bool:
        """Whether the crop went through the fine stage."""
        return self.fine_heatmap is not None


def explain(engine: PoseEngine, image_bgr: NDArray[np.uint8], bboxes_xyxy: ArrayLike) -> Iterator[Explanation]:
    """Each person in `bboxes_xyxy` (N, 4) px of a picture (H, W, 3), in order, as the engine sees them."""
    h, w = engine.crop_size_hw
    for crop in warp_crops(image_bgr, engine.affines(bboxes_xyxy), (w, h)):
        yield explain_crop(engine, crop)


def explain_crop(engine: PoseEngine, crop_bgr: NDArray[np.uint8]) -> Explanation:
    """One crop (h, w, 3) uint8 of the network's size."""
    output = engine.infer(crop_bgr[None])
    grid_hw = engine.network.variant.coarse_grid_hw
    scores = output.cell_scores[0].float().cpu().numpy()
    selected = np.zeros(scores.shape, bool)
    selected[output.selected_cells[0].cpu().numpy()] = True

    def read(heatmaps) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        keypoints, found = decode(heatmaps.float(), engine.crop_size_hw, engine.skeleton.sigmas)
        return heatmaps[0].float().amax(0).cpu().numpy(), keypoints[0].cpu().numpy(), found[0].cpu().numpy()

    coarse = read(output.coarse_heatmaps)
    fine = read(output.heatmaps) if bool(output.refined[0]) else (None, None, None)
    return Explanation(
        crop_bgr,
        (scores / scores.sum()).reshape(grid_hw),
        selected.reshape(grid_hw),
        *coarse,
        *fine,
        float(output.quality[0]),
        float(output.gain[0]),
    )
