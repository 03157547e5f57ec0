"""Both stages as OpenVINO graphs for the CPU, traced from the torch modules.

In bf16 OpenVINO rounds what goes into matrix products; softmax, moving average and layer norms stay in float32, and
the choice of cells is made between the two graphs, on float32 scores, and handed on as integer indices. Were the scores
rounded too, nearly tied cells would be picked otherwise than by the network as trained. In int8 the same stays in
float32, and layers without grids (see `models.int8`) multiply in the fastest floats of the processor.
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
# In crops. A batch of another size goes through another graph, whose threads wait for those of the last one to stop
# spinning: on two cores 4 crops and 1 took 28 ms through both stages, 6 took 24; 2 and 1 took 21, 4 took 18.
OVERHEAD = 2.0


class OpenVinoBackend(Backend):
    """A graph for each stage, the decoding and each bucket, compiled when it is first needed: most runs never see ten
    people.

    A graph takes the better part of a second of one core to compile, and 35 MB of memory for each thread.

    Args:
        network: in float32 on the CPU; it is traced, unless the cache has its graphs, and not changed.
        dtype: float32, bfloat16 for matrix products, or int8.
        threads: of each graph.
        max_batch: no bucket is larger.
        ranges: of the layers' inputs; int8 wants them.

    Raises:
        DeviceError: OpenVINO is not there.
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
        """The crops themselves: the graphs begin with the normalisation."""
        return crops_bgr

    def coarse(self, images: Tensor) -> CoarseOutput:
        """See `Backend`."""
        return CoarseOutput(*self._graph("coarse", len(images))(images))

    def fine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """See `Backend`."""
        run = self._graph("fine", len(images))
        return run(images, selected, low, *coarse.tokens)[0]

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backend`; torch's sixty short loops take four times as long as this one graph."""
        keypoints, scores = self._graph("decode", len(heatmaps))(heatmaps.float())
        return keypoints, scores

    def _graph(self, stage: str, bucket: int) -> Graph:
        if (stage, bucket) not in self._graphs:
            self._compile([bucket])
        return self._graphs[stage, bucket]

    def _compile(self, buckets: Iterable[int]) -> None:
        """All graphs of these sizes, where they are not there yet, side by side."""
        missing = [key for key in itertools.product(self._models, buckets) if key not in self._graphs]

        def compile_one(key: tuple[str, int]) -> None:
            stage, bucket = key
            dtype = torch.float32 if stage == "decode" else self.dtype
            self._graphs[key] = for_batch(self._models[stage], bucket, dtype, self.threads)

        with ThreadPoolExecutor(self.threads) as pool:  # a compilation keeps little more than one core busy
            list(pool.map(compile_one, missing))

    def _compile_behind(self, buckets: Iterable[int]) -> None:
        try:
            self._compile(buckets)
        except Exception as error:  # too little memory most likely; what works goes on
            largest = min(buckets) - 1
            self.buckets = tuple(bucket for bucket in self.buckets if bucket <= largest)
            log.warning("no graph for %s crops at once (%s); %d at most from now on", buckets, error, self.buckets[-1])


@torch.no_grad()
def _trace(network: SHaRPose) -> dict[str, Any]:
    crops = torch.zeros(2, *network.variant.size_hw, 3, dtype=torch.uint8)
    coarse_stage = CoarseStage(network).eval()
    coarse = CoarseOutput(*coarse_stage(crops))
    selected, low = split_cells(coarse.cell_scores, network.selected_count)
    decode = Decode(network.variant.size_hw, network.variant.skeleton.sigmas).eval()
    decode(coarse.heatmaps)  # makes its kernels, which the trace then takes for constants
    return {
        "coarse": traced(coarse_stage, (crops,)),
        "fine": traced(FineStage(network).eval(), (crops, selected, low, *coarse.tokens)),
        "decode": traced(decode, (coarse.heatmaps,)),
    }
