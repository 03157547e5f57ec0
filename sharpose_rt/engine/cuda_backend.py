"""The torch network on a GPU: crops are cut there from the uploaded picture, and each stage has a CUDA graph per
bucket."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpose_rt.compute.cuda_graphs import Recorded
from sharpose_rt.compute.streams import upload
from sharpose_rt.engine.backend import TorchBackend
from sharpose_rt.errors import is_short_of_gpu_memory
from sharpose_rt.geometry.device_warp import warp_on_device
from sharpose_rt.models.pixels import normalise
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import CoarseOutput, SHaRPose

log = logging.getLogger("sharpose_rt.engine")

WARMED = 32
"""The largest bucket recorded before the run; larger ones are recorded when needed."""


class CudaBackend(TorchBackend):
    """As `TorchBackend`, with crops made on the device, and stages and decoding recorded."""

    def __init__(self, network: SHaRPose, device: torch.device, dtype: torch.dtype, max_batch: int) -> None:
        super().__init__(network, device, dtype, max_batch)
        network = self.network  # a reference cycle through `self` would keep the graphs until garbage collection

        def coarse(crops_bgr: Tensor) -> tuple[Tensor, ...]:
            return network.coarse_stage(normalise(crops_bgr).to(dtype)).tensors

        def fine(crops_bgr: Tensor, selected: Tensor, low: Tensor, *tokens: Tensor) -> tuple[Tensor]:
            images = normalise(crops_bgr).to(dtype)
            return (network.fine_stage(images, CoarseOutput.of_tokens(*tokens), selected, low),)

        self._coarse = Recorded("coarse stage", coarse)
        self._fine = Recorded("fine stage", fine)
        self._decoded = Recorded("decoding", self._decode)

    @torch.inference_mode()
    def warm_up(self, crops: int, *, behind: bool) -> None:
        """Record stages and decoding for the buckets up to `WARMED`, which is quick, whatever the number of crops."""
        wanted = [bucket for bucket in self.buckets if bucket <= WARMED]
        while wanted and (failed := self._first_that_fails(wanted)) is not None:
            log.warning(
                "%d crops at once do not fit into the GPU's memory with CUDA graphs; they run without, or fewer at "
                "once",
                failed,
            )
            self.forget(failed)
            torch.cuda.empty_cache()
            wanted = [bucket for bucket in wanted if bucket < failed]  # whose recordings were dropped with it

    def _first_that_fails(self, buckets: Sequence[int]) -> int | None:
        """The first of ascending buckets that does not fit into memory; those before it are recorded."""
        h, w = self.network.variant.size_hw
        for bucket in buckets:
            try:
                images = self.prepare(torch.zeros(bucket, h, w, 3, dtype=torch.uint8))
                coarse = self.coarse(images)
                fine = self.fine(images, coarse, *split_cells(coarse.cell_scores, self.network.selected_count))
                self.decode(fine)
            except RuntimeError as error:
                if not is_short_of_gpu_memory(error):
                    raise
                return bucket  # the run's batcher finds out what fits without graphs
        return None

    def forget(self, rows: int) -> bool:
        """See `Backend`."""
        given_up = [stage.forget(rows) for stage in (self._coarse, self._fine, self._decoded)]
        return any(given_up)

    def cut(self, image_bgr: NDArray[np.uint8], affine: NDArray[np.float64], size_wh: tuple[int, int]) -> Tensor:
        """See `Backend`; only the picture is uploaded, once for all its people."""
        # Copied to memory that the GPU can read alongside other work; frames may be read-only, or have negative
        # strides.
        staged = torch.empty(image_bgr.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        np.copyto(staged.numpy(), image_bgr)
        return warp_on_device(staged.to(self.device, non_blocking=True), affine, size_wh)

    def prepare(self, crops_bgr: Tensor) -> Tensor:
        """The crops themselves: the graphs include the normalisation."""
        return upload(crops_bgr, self.device)

    def coarse(self, images: Tensor) -> CoarseOutput:
        """See `Backend`."""
        return CoarseOutput(*self._coarse(images))

    def fine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """See `Backend`."""
        return self._fine(images, selected, low, *coarse.tokens)[0]

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        keypoints, scores = self._decoded(heatmaps)
        return keypoints, scores
