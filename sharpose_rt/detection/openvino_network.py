"""A detector's torch module as OpenVINO graphs, one for each input size."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sharpose_rt.compute.openvino_graphs import Graph, traced
from sharpose_rt.compute.precision import fastest_dtype
from sharpose_rt.detection.first_output import FirstOutput

KEPT = 6
"""Most compiled graphs kept, at about 50 MB each: cameras take photographs of two shapes, portrait and landscape."""


class GraphPerSize:
    """Runs a module on the CPU, traced and compiled when a size is first seen; a video has one size.

    Its heads lay out their anchors for the input size, so each graph is for one size only. Photographs have many: the
    last `KEPT` are kept, others are read from the cache again.

    Args:
        module: in evaluation mode, on the CPU, in float32; takes (1, 3, H, W).
        threads: of each graph.
        int8: the module rounds to 8 bits; what it does not round stays in float32.
        bf16: see `Runtime`.
    """

    def __init__(self, module: nn.Module, threads: int, *, int8: bool = False, bf16: bool | None = None) -> None:
        self.module, self.threads = FirstOutput(module).eval(), threads
        if bf16 is None:
            bf16 = fastest_dtype() == torch.bfloat16
        self.dtype = torch.bfloat16 if bf16 and not int8 else torch.float32
        self._graphs: OrderedDict[tuple[int, ...], Graph] = OrderedDict()

    def __call__(self, pixels: Tensor) -> Tensor:
        """The module's first output for pictures (1, 3, H, W) in 0..1."""
        size = tuple(pixels.shape)
        if size not in self._graphs:
            with torch.inference_mode(False), torch.no_grad():
                model = traced(self.module, (torch.zeros(size, dtype=torch.float32),), dynamic_batch=False)
            self._graphs[size] = Graph(model, self.dtype, self.threads)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(size)
        return self._graphs[size](pixels)[0]
