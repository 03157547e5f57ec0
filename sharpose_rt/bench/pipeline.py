"""Whole runs over a real clip: frames per second, capture-to-output latency, memory, and where the time goes."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharpose_rt.app import FileRun
from sharpose_rt.bench.alone import PARTS, begin_ready, measure_alone
from sharpose_rt.bench.people import FixedPeople
from sharpose_rt.bench.record import keeping, machine, make_record, percentiles
from sharpose_rt.config import RunConfig, to_dict
from sharpose_rt.engine import resolve_device, skeleton_of
from sharpose_rt.errors import ConfigError
from sharpose_rt.media import PacedSource, SourceInfo, open_source
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.tracking import create_tracker
from sharpose_rt.types import Packet

MB = 1e6
ALONE_FRAMES = 40
"""Frames over which each part is measured alone; few, since without overlap a frame takes the sum of all parts."""
WARM_UP = 20
"""Frames at the start that are not counted, at most a fifth of all."""
FEW = 10
"""Fewer frames than this are not used for a rate if there are others."""


@dataclass(frozen=True)
class PipelineBench:
    """What is measured.

    Args:
        source: a video.
        config: of the run; its outputs go into a temporary folder.
        people: numbers of people that each frame is made to have, one run each; None: those found.
        paced: read the file at its own rate and drop frames that come too late, as from a camera.
    """

    source: str
    config: RunConfig
    people: tuple[int | None, ...] = (None, 1, 5, 10, 20)
    paced: bool = False

    def __post_init__(self) -> None:
        if any(people is not None and people < 1 for people in self.people):
            raise ConfigError(f"--people is {self.people}; numbers from 1 are accepted")
        if self.config.smooth.method == "rts":
            raise ConfigError("smooth.method rts goes over the file twice; kalman or none is accepted here")
        if self.config.pose.flip_test:
            raise ConfigError("the parts are measured for one pass over each crop; leave out pose.flip_test")


def run_pipeline_bench(bench: PipelineBench, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The record (see `bench.record`) of a run for each number of people; `say` is called with what comes next.

    A row of its results is one run: `people` asked for (None: as found), `fps`, `latency_ms` from capture to output,
    `dropped`, `people_mean`, `exit_rate`, memory, `stages` of the run itself, and `alone`, its parts while nothing
    else runs.

    Raises:
        SharposeError: whatever a run raises.
    """
    began = machine()
    info = probe(bench)
    rows = []
    with keeping(rows, say) as ended:
        for people in bench.people:
            say(f"{info.name}, {'people as found' if people is None else f'{people} people in each frame'}")
            gc.collect()  # frees the networks of the previous run
            with tempfile.TemporaryDirectory(prefix="sharpose_bench_") as folder:
                rows.append(measure(bench, people, info, Path(folder)))
    settings = {
        "source": Path(info.name).name,
        "size_wh": list(info.size_wh),
        "fps": info.fps,
        "mode": "paced" if bench.paced else "live" if info.live else "file",
        "video": bench.config.output.video,
        "config": to_dict(bench.config),
        **ended,
    }
    return make_record("pipeline", plain(settings), plain(rows), began)


def probe(bench: PipelineBench) -> SourceInfo:
    """The facts of the source.

    Raises:
        SourceError: it cannot be opened.
        ConfigError: it is not a video.
    """
    with open_source(bench.source, bench.config.source) as source:
        info = source.info
    if info.kind in ("image", "images", "stdin"):
        raise ConfigError(f"{info.name} is of the kind {info.kind!r}; a video that can be read twice is accepted")
    return info


def measure(bench: PipelineBench, people: int | None, info: SourceInfo, folder: Path) -> dict[str, Any]:
    """The row of one run, and of its parts alone over the same frames."""
    import torch

    output = replace(bench.config.output, directory=str(folder), overwrite=True)
    config = replace(bench.config, output=output)
    counter = fixed_people(config, people, info)
    paced = replace(config, source=replace(config.source, realtime=bench.paced or config.source.realtime))
    job = FileRun(bench.source, paced, tracker=counter)
    begin_ready(job.tracking)
    device = resolve_device(config.pose.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # left by the previous run
        torch.cuda.reset_peak_memory_stats(device)
    watch = RunWatch()
    results = job.run(watch.see)
    figures = results.figures
    # The working memory of CUDA graphs does not count as allocated.
    gpu = torch.cuda.max_memory_reserved(device) / MB if device.type == "cuda" else None
    row = {
        "people": people,
        "people_mean": job.totals.people / max(1, job.totals.frames),
        "copies": None if counter is None else counter.copy_share,
        "found_mean": None if counter is None else counter.found / max(1, counter.frames),
        **watch.figures(),
        "dropped": figures["dropped"],
        "slipped_s": job.source.slipped_s if isinstance(job.source, PacedSource) else None,
        "exit_rate": job.totals.exit_rate,
        "gpu_memory_mb": gpu,
        "bottleneck": figures["pipeline"]["bottleneck"],
        "stages": stage_rows(figures["pipeline"]),
        "detector": figures["detector"],
        "device": figures["device"],
        "backend": figures["backend"],
        "precision": figures["precision"],
    }
    return {**row, **alone_rows(bench.source, config, people, info, folder)}


def fixed_people(config: RunConfig, people: int | None, info: SourceInfo) -> FixedPeople | None:
    """A tracker that returns exactly `people` people; None if `people` is None."""
    if people is None:
        return None
    tracker = create_tracker(config.tracker, skeleton_of(config.pose.model))
    return FixedPeople(tracker, people, info.size_wh)


@dataclass
class RunWatch:
    """When each frame was output, its latency, and how much memory was in use."""

    left_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        import psutil

        self._process = psutil.Process()

    def see(self, packet: Packet) -> None:
        """Records that a frame was written."""
        now_s = time.monotonic()
        self.left_s.append(now_s)
        self.late_s.append(now_s - packet.frame.captured_at_s)
        self.rss.append(self._process.memory_info().rss)

    def figures(self) -> dict[str, Any]:
        """Rate, latency and memory after the warm-up; None for a figure with too few frames."""
        skip = warm_up(len(self.left_s))
        left, late, rss = self.left_s[skip:], self.late_s[skip:], np.array(self.rss[skip:], np.float64) / MB
        rated = self._beside_all(left)
        tenth = max(1, len(rss) // 10)
        return {
            "frames": len(self.left_s),
            "warm_up_frames": skip,
            "fps": (len(rated) - 1) / (rated[-1] - rated[0]) if len(rated) > 1 else None,
            "latency_ms": percentiles(late, 50, 95, 99, 100, scale=1e3) if late else None,
            "rss_peak_mb": float(rss.max()) if len(rss) else None,
            "rss_growth_mb": float(rss[-tenth:].mean() - rss[:tenth].mean()) if len(rss) else None,
        }

    def _beside_all(self, left_s: list[float]) -> list[float]:
        """Times of frames output before the source ended, or all if these are few.

        Frames still in queues then are already detected, and have the cores to themselves for the rest.
        """
        ended_s = self.left_s[-1] - self.late_s[-1] if self.late_s else 0.0
        before = [when_s for when_s in left_s if when_s <= ended_s]
        return before if len(before) >= FEW else left_s


def stage_rows(pipeline: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, times and share of the run's time of each stage, with chains split into their parts."""
    rows = []
    for stage in pipeline["stages"]:
        for part in stage["parts"] or [stage]:
            rows.append({key: part[key] for key in ("name", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "busy_share")})
    return rows


def alone_rows(
    source: str, config: RunConfig, people: int | None, info: SourceInfo, folder: Path
) -> dict[str, list[dict[str, Any]] | float]:
    """Times of each part alone, and their sum: the time of a frame without any overlap."""
    frames = min(config.source.max_frames or ALONE_FRAMES, ALONE_FRAMES)
    config = replace(config, source=replace(config.source, max_frames=frames))
    watch = measure_alone(source, config, folder, fixed_people(config, people, info))
    skip = warm_up(len(watch))
    rows = []
    for part in PARTS:
        seconds = watch.seconds(part, skip)
        p = percentiles(seconds, 50, 95, 99, scale=1e3)
        rows.append({"name": part, "mean_ms": 1e3 * float(seconds.mean()), **{f"{k}_ms": v for k, v in p.items()}})
    return {"alone": rows, "alone_ms": sum(row["mean_ms"] for row in rows)}


def warm_up(frames: int) -> int:
    """How many frames at the start of `frames` are not counted."""
    return min(WARM_UP, frames // 5)
