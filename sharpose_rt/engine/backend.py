"""What runs the two stages of the network: an interface, and its implementation in torch.

Letters as in `models.sharpose`: B crops, R crops that are refined, S selected cells.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpose_rt.compute.streams import upload
from sharpose_rt.compute.threads import at_most_threads
from sharpose_rt.engine.batching import BUCKETS
from sharpose_rt.geometry.affine import warp_crops
from sharpose_rt.geometry.heatmap import Decode
from sharpose_rt.models.pixels import normalise
from sharpose_rt.models.sharpose import CoarseOutput, SHaRPose


class Backend(Protocol):
    """Both stages and the decoding on one device. The gate and the selection of cells are outside, in float32.

    Methods with a body here suit a backend on the CPU that needs no warm-up.

    Args:
        name: 'torch' or 'openvino'.
        device: where its tensors are.
        dtype: number format of the network's products.
        buckets: batch sizes of its stages, in crops, ascending from 1.
        overhead: what a batch costs besides its crops, in crops.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    buckets: tuple[int, ...]
    overhead: float

    def warm_up(self, crops: int, *, behind: bool) -> None:
        """Do now what would delay the first batches of up to `crops` crops.

        Larger batches are prepared when they come: they wait for it, or, with `behind`, are split into smaller ones
        until it is done.
        """

    def sizes(self, crops: int) -> tuple[int, ...]:
        """The buckets that this many crops may be split into now, ascending from 1."""
        return self.buckets

    def forget(self, rows: int) -> bool:
        """Free memory by dropping recordings, permanently those for this many crops or more; whether any could be left
        to drop."""
        return False

    def cut(self, image_bgr: NDArray[np.uint8], affine: NDArray[np.float64], size_wh: tuple[int, int]) -> Tensor:
        """Crops (N, h, w, 3) uint8 of a picture (H, W, 3) by maps (N, 2, 3), on the device that the backend needs."""
        return torch.from_numpy(warp_crops(image_bgr, affine, size_wh))

    def prepare(self, crops_bgr: Tensor) -> Tensor:
        """The input of both stages, (B, ...) on the device, from crops (B, h, w, 3) uint8."""
        ...

    def coarse(self, images: Tensor) -> CoarseOutput:
        """The coarse stage; `cell_scores`, `quality` and `gain` as float32, the latter two in its own precision."""
        ...

    def fine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """Fine heatmaps (R, K, h, w); of `coarse` only the tokens are used; cells are int64 indices."""
        ...

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """`geometry.heatmap.decode` of heatmaps (B, K, h, w), in float32."""
        ...


NARROW = 256
"""Width from which a layer takes longer than waking up a second thread."""


class TorchBackend(Backend):
    """The torch modules run eagerly, with weights in the precision of the run.

    On a CPU a narrow network uses one of torch's threads for every two crops. Its layers are hundreds of short loops,
    and waiting threads sleep (see `cli.main`): one crop of `tiny_256x192` took 44 ms with one thread and 72 with two,
    and meanwhile the detector has the other core.
    """

    name = "torch"

    def __init__(self, network: SHaRPose, device: torch.device, dtype: torch.dtype, max_batch: int) -> None:
        self.device, self.dtype = device, dtype
        self.network = network.to(device, dtype)
        on_cpu = device.type == "cpu"
        # Eager torch takes any number of crops. On a GPU, few sizes mean few choices of kernels and few memory blocks.
        self.buckets = tuple(range(1, max_batch + 1)) if on_cpu else tuple(b for b in BUCKETS if b <= max_batch)
        self.overhead = 0.3 if on_cpu else 16.0
        self._decode = Decode(network.variant.size_hw, network.variant.skeleton.sigmas)
        self._short_loops = on_cpu and network.variant.width < NARROW

    def prepare(self, crops_bgr: Tensor) -> Tensor:
        """Normalised images (B, 3, h, w)."""
        return normalise(upload(crops_bgr, self.device)).to(self.dtype)

    def coarse(self, images: Tensor) -> CoarseOutput:
        """See `Backend`."""
        with self.threads_for(len(images)):
            return self.network.coarse_stage(images)

    def fine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """See `Backend`."""
        with self.threads_for(len(images)):
            return self.network.fine_stage(images, coarse, selected, low)

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        with at_most_threads(1):  # a second one gains nothing in a run, and the detector needs the other core
            return self._decode(heatmaps)

    def threads_for(self, crops: int) -> contextlib.AbstractContextManager[None]:
        """Context with the number of threads that is fastest for a stage with this many crops."""
        return at_most_threads(max(1, crops // 2)) if self._short_loops else contextlib.nullcontext()
