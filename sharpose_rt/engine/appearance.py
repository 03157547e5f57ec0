"""The appearance of people in boxes of a picture: vectors of the appearance network, by which they are recognised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.compute.threads import at_most_threads, use_networks
from sharpose_rt.geometry.affine import crop_affine, warp_crops
from sharpose_rt.models.appearance import CROP_HW, DIMENSIONS, PADDING, SHIPPED, load_appearance
from sharpose_rt.models.pixels import normalise


class Appearance:
    """The appearance network, on the CPU, as it is needed only for new people, and for each other person now and then.

    Args:
        weights: a file from `train-appearance`; default: the bundled one.

    Raises:
        WeightsError: they are missing or damaged.
        DeviceError: this process was forked from one that has used networks.
    """

    def __init__(self, weights: Path = SHIPPED) -> None:
        use_networks()
        self._network = load_appearance(weights).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def look(self, image_bgr: NDArray[np.uint8], bboxes_xyxy: ArrayLike) -> NDArray[np.float32]:
        """Unit vectors (N, D) of the people in boxes (N, 4) px of a picture (H, W, 3)."""
        size_wh = CROP_HW[1], CROP_HW[0]
        affines = crop_affine(bboxes_xyxy, size_wh, PADDING)
        if not len(affines):
            return np.zeros((0, DIMENSIONS), np.float32)
        crops = normalise(torch.from_numpy(warp_crops(image_bgr, affines, size_wh)))
        with at_most_threads(1):  # it is too small for more, and other threads have work to do
            return self._network(crops.contiguous(memory_format=torch.channels_last)).numpy()
