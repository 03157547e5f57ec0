"""Where the time goes inside the network: a trace by torch's profiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from sharpose_rt.bench.model import ModelBench, varied_crops
from sharpose_rt.config import PoseConfig
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import writing
from sharpose_rt.geometry.heatmap import decode
from sharpose_rt.models.selection import split_cells

REPEATS = 3
_ROWS = 12


@torch.inference_mode()
def write_trace(config: ModelBench, path: Path) -> str:
    """The operations that take most time, as a table; writes all to `path`, for chrome://tracing or Perfetto.

    In torch, a batch goes `REPEATS` times through prepare, coarse, select, fine and decode of the first model.

    Raises:
        OutputError: the trace cannot be written.
    """
    name, batch = config.models[0], max(config.batches)
    options: Any = {"behaviour": config.behaviour, "device": config.device, "precision": config.precision}
    engine = PoseEngine(PoseConfig(model=name, weights="random", backend="torch", max_batch=batch, **options))
    crops = varied_crops(batch, engine.crop_size_hw)
    _journey(engine, crops)  # first calls choose kernels and allocate memory
    on_gpu = engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(REPEATS):
            _journey(engine, crops)
    with writing(path, "give another path", RuntimeError):
        profiler.export_chrome_trace(str(path))
    by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=40)


def _journey(engine: PoseEngine, crops: np.ndarray) -> None:
    with record_function("prepare"):
        images = engine.backend.prepare(torch.from_numpy(crops))
    with record_function("coarse"):
        coarse = engine.coarse(images)
    with record_function("select"):
        selected, low = split_cells(coarse.cell_scores, engine.network.selected_count)
    with record_function("fine"):
        heatmaps = engine.fine(images, coarse, selected, low)
    with record_function("decode"):
        decode(heatmaps, engine.crop_size_hw, engine.skeleton.sigmas)
