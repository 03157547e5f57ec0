"""The pose engine: crops of one picture through the network in batches, keypoints back in picture pixels.

Letters: N people, K keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sharpose_rt.config import PoseConfig
from sharpose_rt.engine.device import network_threads, resolve_device, resolve_precision
from sharpose_rt.geometry.affine import apply_affine, crop_affine, invert_affine, warp_crops
from sharpose_rt.geometry.heatmap import decode, flip_back
from sharpose_rt.models.sharpose import SHaRPose, SHaRPoseOutput
from sharpose_rt.models.weights import load_model

# Of ImageNet, as the authors train; in 0..255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class PoseEstimates:
    """Poses of N boxes: `keypoints` (N, K, 2) px, `scores` (N, K) 0..1, `quality` (N,), `refined` (N,) bool."""

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    quality: NDArray[np.float32]
    refined: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keypoints)


class PoseEngine:
    """A network on a device, ready for pictures. Belongs to the thread that made it.

    Args:
        config: which network, where, how.

    Raises:
        WeightsError: there are no weights, or they do not fit.
        DeviceError: the device or the precision cannot be had.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.dtype = resolve_precision(config.precision, self.device)
        if self.device.type == "cpu":
            torch.set_num_threads(network_threads(config.threads))  # holds for loops started by this thread
        network, self.weights = load_model(config.model, config.weights, config.behaviour)
        self.network: SHaRPose = network.to(self.device, self.dtype)
        self.skeleton = network.variant.skeleton
        self.crop_size_hw = network.variant.size_hw
        given = config.quality_threshold
        self.quality_threshold = self.weights.quality_threshold if given is None else given
        self._mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        self._scale = 1 / torch.tensor(STD, device=self.device).view(3, 1, 1)

    def estimate(self, image_bgr: NDArray[np.uint8], bboxes_xyxy: ArrayLike) -> PoseEstimates:
        """Poses of the people in `bboxes_xyxy` (N, 4) px of a picture (H, W, 3), in picture px."""
        h, w = self.crop_size_hw
        affine = crop_affine(bboxes_xyxy, (w, h), self.config.box_padding)
        crops = warp_crops(image_bgr, affine, (w, h))
        result = self.estimate_crops(crops)
        keypoints = apply_affine(result.keypoints, invert_affine(affine)).astype(np.float32)
        return PoseEstimates(keypoints, result.scores, result.quality, result.refined)

    def estimate_crops(self, crops_bgr: NDArray[np.uint8]) -> PoseEstimates:
        """Poses of crops (N, h, w, 3) uint8 of the network's size, in crop px.

        Raises:
            ValueError: crops of another size or type.
        """
        if crops_bgr.dtype != np.uint8 or crops_bgr.shape[1:] != (*self.crop_size_hw, 3):
            raise ValueError(
                f"crops are {crops_bgr.dtype}{list(crops_bgr.shape)}; "
                f"uint8 [N, {self.crop_size_hw[0]}, {self.crop_size_hw[1]}, 3] is wanted"
            )
        step = self.config.max_batch
        parts = [self._batch(crops_bgr[i : i + step]) for i in range(0, len(crops_bgr), step)]
        k = len(self.skeleton)
        if not parts:
            none = np.zeros(0, np.float32)
            return PoseEstimates(
                np.zeros((0, k, 2), np.float32), np.zeros((0, k), np.float32), none, np.zeros(0, np.bool_)
            )
        return PoseEstimates(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    @torch.inference_mode()
    def infer(self, crops_bgr: NDArray[np.uint8]) -> SHaRPoseOutput:
        """The network's whole output for crops (N, h, w, 3) uint8: what `explain` shows."""
        return self.network(self.normalise(crops_bgr), self.quality_threshold)

    @torch.inference_mode()
    def _batch(self, crops_bgr: NDArray[np.uint8]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        images = self.normalise(crops_bgr)
        output = self.network(images, self.quality_threshold)
        heatmaps, quality, refined = output.heatmaps, output.quality, output.refined
        if self.config.flip_test:
            mirrored = self.network(images.flip(-1), self.quality_threshold)
            heatmaps = (heatmaps.float() + flip_back(mirrored.heatmaps, self.skeleton.flip_order).float()) / 2
        keypoints, scores = decode(heatmaps, self.crop_size_hw)
        return keypoints.cpu().numpy(), scores.cpu().numpy(), quality.cpu().numpy(), refined.cpu().numpy()

    def normalise(self, crops_bgr: NDArray[np.uint8]) -> Tensor:
        """The network's input (N, 3, h, w) on its device, from crops (N, h, w, 3) uint8 BGR."""
        crops = torch.from_numpy(np.ascontiguousarray(crops_bgr)).to(self.device)
        rgb = crops.permute(0, 3, 1, 2).flip(1).float()
        return ((rgb - self._mean) * self._scale).to(self.dtype)
