"""Both stages as OpenVINO graphs for the CPU, traced from the torch modules.

In bf16 OpenVINO rounds the inputs of matrix products; softmax, moving average and layer norms stay in float32. The
cells are selected between the two graphs, from float32 scores, and passed on as integer indices. If the scores were
rounded too, nearly tied cells would be selected differently from the network as trained. In int8 the same parts stay in
float32, and layers without grids (see `models.int8`) multiply in the processor's fastest floats.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from sharpose_rt.compute.openvino_graphs import Graph, for_batch, traced
from sharpose_rt.engine.backend import Backend
from sharpose_rt.engine.batching import plan
from sharpose_rt.engine.traceable import CoarseStage, FineStage
from sharpose_rt.geometry.heatmap import Decode
from sharpose_rt.models.int8 import Ranges, quantized
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import CoarseOutput, SHaRPose

log = logging.getLogger("sharpose_rt.engine")

BUCKETS = (1, 2, 4, 6, 8, 10)
# In crops. A batch of another size uses another graph, whose threads wait for those of the last one to stop spinning:
# on two cores 4 crops and 1 took 28 ms through both stages, 6 took 24; 2 and 1 took 21, 4 took 18.
OVERHEAD = 2.0


class OpenVinoBackend(Backend):
    """A graph for each bucket (batch size) of each stage and the decoding, compiled when first needed: most runs never
    see ten people.

    A graph takes most of a second of one core to compile, and 35 MB of memory per thread.

    Args:
        network: in float32 on the CPU; traced unless the cache has its graphs, and not modified.
        dtype: float32, bfloat16 for matrix products, or int8.
        threads: of each graph.
        max_batch: largest bucket.
        ranges: of the layers' inputs; needed for int8.

    Raises:
        DeviceError: OpenVINO is not installed.
        WeightsError: the ranges do not fit the network.
    """

    name = "openvino"
    overhead = OVERHEAD

    def __init__(
        self, network: SHaRPose, dtype: torch.dtype, threads: int, max_batch: int, ranges: Ranges | None = None
    ) -> None:
        self.device, self.dtype, self.threads = torch.device("cpu"), dtype, threads
        self.buckets = tuple(bucket for bucket in BUCKETS if bucket <= max_batch)
        if dtype == torch.int8:
            assert ranges is not None
            network = quantized(network, ranges)
        self._models = _trace(network)
        self._graphs: dict[tuple[str, int], Graph] = {}
        self._behind: ThreadPoolExecutor | None = None
        self._compiling: Future[None] | None = None

    def warm_up(self, crops: int, *, behind: bool) -> None:
        """See `Backend`."""
        self._compile({size for count in range(1, crops + 1) for size in plan(count, self.buckets, self.overhead)})
        self._behind = (self._behind or ThreadPoolExecutor(1, "compile")) if behind else None

    def sizes(self, crops: int) -> tuple[int, ...]:
        """See `Backend`."""
        if self._behind is None:
            return self.buckets
        ready = tuple(b for b in self.buckets if all((stage, b) in self._graphs for stage in self._models))
        missing = set(plan(crops, self.buckets, self.overhead)) - set(ready)
        if missing and (self._compiling is None or self._compiling.done()):
            self._compiling = self._behind.submit(self._compile_behind, missing)
        return ready

    def prepare(self, crops_bgr: Tensor) -> Tensor:
        """The crops themselves: the graphs include the normalisation."""
        return crops_bgr

    def coarse(self, images: Tensor) -> CoarseOutput:
        """See `Backend`."""
        return CoarseOutput(*self._graph("coarse", len(images))(images))

    def fine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """See `Backend`."""
        run = self._graph("fine", len(images))
        return run(images, selected, low, *coarse.tokens)[0]

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backend`; torch's sixty short loops take four times as long as this graph."""
        keypoints, scores = self._graph("decode", len(heatmaps))(heatmaps.float())
        return keypoints, scores

    def _graph(self, stage: str, bucket: int) -> Graph:
        if (stage, bucket) not in self._graphs:
            self._compile([bucket])
        return self._graphs[stage, bucket]

    def _compile(self, buckets: Iterable[int]) -> None:
        """Compile all missing graphs of these sizes, in parallel."""
        missing = [key for key in itertools.product(self._models, buckets) if key not in self._graphs]

        def compile_one(key: tuple[str, int]) -> None:
            stage, bucket = key
            dtype = torch.float32 if stage == "decode" else self.dtype
            self._graphs[key] = for_batch(self._models[stage], bucket, dtype, self.threads)

        with ThreadPoolExecutor(self.threads) as pool:  # a compilation uses little more than one core
            list(pool.map(compile_one, missing))

    def _compile_behind(self, buckets: Iterable[int]) -> None:
        try:
            self._compile(buckets)
        except Exception as error:  # most likely too little memory; what works continues
            largest = min(buckets) - 1
            self.buckets = tuple(bucket for bucket in self.buckets if bucket <= largest)
            log.warning("no graph for %s crops at once (%s); at most %d from now on", buckets, error, self.buckets[-1])


@torch.no_grad()
def _trace(network: SHaRPose) -> dict[str, Any]:
    crops = torch.zeros(2, *network.variant.size_hw, 3, dtype=torch.uint8)
    coarse_stage = CoarseStage(network).eval()
    coarse = CoarseOutput(*coarse_stage(crops))
    selected, low = split_cells(coarse.cell_scores, network.selected_count)
    decode = Decode(network.variant.size_hw, network.variant.skeleton.sigmas).eval()
    decode(coarse.heatmaps)  # creates its kernels, which become constants in the trace
    return {
        "coarse": traced(coarse_stage, (crops,)),
        "fine": traced(FineStage(network).eval(), (crops, selected, low, *coarse.tokens)),
        "decode": traced(decode, (coarse.heatmaps,)),
    }
