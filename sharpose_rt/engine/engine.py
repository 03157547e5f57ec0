"""The engine of a SHaRPose network: runs crops through both stages in batches. Letters: B crops, R refined, K
keypoints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpose_rt.compute.streams import OwnStream, fetch, numbers, upload
from sharpose_rt.config import PoseConfig
from sharpose_rt.engine.base import ChooseRows, Engine, as_tensor
from sharpose_rt.engine.batching import Batcher
from sharpose_rt.engine.choice import create_backend
from sharpose_rt.engine.device import resolve_device
from sharpose_rt.geometry.heatmap import flip_back
from sharpose_rt.models.gate import Outlook
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import CoarseOutput, SHaRPose, SHaRPoseOutput
from sharpose_rt.models.weights import load_model
from sharpose_rt.types import Float32


class PoseEngine(Engine):
    """A network that is one of our variants.

    Args:
        config: which network, where, how.

    Raises:
        WeightsError: there are no weights, or they do not fit.
        DeviceError: the device or the precision is not available.
    """

    two_stages = True

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.move_here()
        self.network: SHaRPose
        self.network, self.weights = load_model(config.model, config.weights, config.behaviour)
        self.backend = create_backend(self.network, config, self.weights.ranges)
        self.dtype, self.backend_name = self.backend.dtype, self.backend.name
        self.behaviour = self.network.behaviour.name
        self.skeleton = self.network.variant.skeleton
        self.crop_size_hw = self.network.variant.size_hw
        self.gate = self.weights.gate(config.quality_threshold, config.refine_from_px, config.refine_from_gain)
        self.box_padding = self.network.box_padding if config.box_padding is None else config.box_padding
        backend = self.backend
        self._batcher = Batcher(backend.buckets, backend.overhead, backend.sizes, backend.forget)
        self._stream = OwnStream(self.device)

    def warm_up(self, people: int | None = None, *, behind: bool = False) -> None:
        """See `Engine`."""
        with self._stream():
            self.backend.warm_up(self.backend.buckets[-1] if people is None else people, behind=behind)

    def infer(self, crops_bgr: NDArray[np.uint8], choose: ChooseRows | None = None) -> SHaRPoseOutput:
        """The network's whole output for crops (N, h, w, 3) uint8, N at least 1: what `explain` shows."""
        with self._stream():
            output = self._infer(as_tensor(crops_bgr), choose)
        self._stream.join()
        return output

    @torch.inference_mode()
    def _infer(self, crops_bgr: Tensor, choose: ChooseRows | None) -> SHaRPoseOutput:
        images = self.backend.prepare(crops_bgr)
        coarse = self.coarse(images)
        asked = self.ask_gate(coarse, choose)
        selected, low = split_cells(coarse.cell_scores, self.network.selected_count)  # queued during the copy
        refined = asked()
        which = refined.nonzero().squeeze(1)  # (R,)
        heatmaps = self.refine(images, coarse, selected, low, which) if len(which) else coarse.heatmaps
        scores = coarse.quality, coarse.gain, coarse.cell_scores
        return SHaRPoseOutput(coarse.heatmaps, heatmaps, *scores, selected, refined)

    def coarse(self, images: Tensor) -> CoarseOutput:
        """The coarse stage of any number of prepared crops, in the backend's buckets."""
        return CoarseOutput(*self._batcher.run(lambda rows: self.backend.coarse(rows).tensors, images))

    def fine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """Fine heatmaps (R, K, h, w) of any number of prepared crops, in the backend's buckets."""

        def stage(images: Tensor, selected: Tensor, low: Tensor, *tokens: Tensor) -> tuple[Tensor]:
            return (self.backend.fine(images, CoarseOutput.of_tokens(*tokens), selected, low),)

        return self._batcher.run(stage, images, selected, low, *coarse.tokens)[0]

    def ask_gate(self, coarse: CoarseOutput, choose: ChooseRows | None) -> Callable[[], Tensor]:
        """A function that returns which crops go on to the fine stage: (B,) bool on the CPU.

        Until it is called, the coarse stage's predictions are copied to the CPU, unless all crops are refined anyway.
        The coarse poses are decoded if `choose` needs them.
        """
        if choose is None and not self.gate.asks_network:
            return lambda: torch.ones(len(coarse.quality), dtype=torch.bool)
        arrived, decide = fetch(torch.stack([coarse.quality, coarse.gain])), choose or self.gate.refined

        def poses() -> tuple[Float32, Float32]:
            keypoints, scores = numbers(*self.decode(coarse.heatmaps))
            return keypoints, scores

        def decided() -> Tensor:
            quality, gain = arrived().numpy()
            return torch.from_numpy(decide(Outlook(quality, gain, poses)))

        return decided

    def refine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor, which: Tensor) -> Tensor:
        """Heatmaps (B, K, h, w) of prepared crops: fine ones of rows `which` (R,), R at least 1, coarse ones of the
        rest."""
        if len(which) == len(images):  # no rows to select and put back
            return self.fine(images, coarse, selected, low)
        which = upload(which, images.device)
        # Copies whole rows; indexing with brackets copies number by number, which for bytes takes five times as long.
        images, selected, low, *tokens = (t.index_select(0, which) for t in (images, selected, low, *coarse.tokens))
        fine = self.fine(images, CoarseOutput.of_tokens(*tokens), selected, low)
        return coarse.heatmaps.index_copy(0, which, fine.to(coarse.heatmaps.dtype))

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (B, K, 2) in crop px and scores (B, K) of any number of heatmaps (B, K, h, w)."""
        keypoints, scores = self._batcher.run(self.backend.decode, heatmaps)
        return keypoints, scores

    def _on_device(self) -> AbstractContextManager[object]:
        return self._stream()

    def _cut(self, image_bgr: NDArray[np.uint8], affine: NDArray[np.float64]) -> Tensor:
        h, w = self.crop_size_hw
        return self.backend.cut(image_bgr, affine, (w, h))

    @torch.inference_mode()
    def _batch(
        self, crops_bgr: Tensor, choose: ChooseRows | None, corrected: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        output = self._infer(crops_bgr, choose)
        refined, (b, k) = output.refined.numpy(), output.heatmaps.shape[:2]
        keypoints, scores = np.zeros((b, k, 2), np.float32), np.zeros((b, k), np.float32)
        rows = np.flatnonzero(refined) if corrected else np.arange(b)
        if not len(rows):
            return keypoints, scores, numbers(output.quality)[0], refined

        def picked(tensor: Tensor) -> Tensor:
            if len(rows) == b:
                return tensor
            return tensor.index_select(0, upload(torch.from_numpy(rows), tensor.device))

        heatmaps = picked(output.heatmaps)
        if self.config.flip_test:
            mirrored = self._infer(picked(crops_bgr).flip(2), lambda _: refined[rows])  # the same people
            back = flip_back(mirrored.heatmaps, self.skeleton.flip_order)
            heatmaps = (heatmaps.float() + back.float()) / 2
        keypoints[rows], scores[rows], quality = numbers(*self.decode(heatmaps), output.quality)
        return keypoints, scores, quality, refined
