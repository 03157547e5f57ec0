"""How much faster several sources are in one run, with shared batches and threads, than one after another."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sharpose_rt.app import FileRun
from sharpose_rt.bench.alone import begin_ready
from sharpose_rt.bench.model import take_turns
from sharpose_rt.bench.pipeline import RunWatch, warm_up
from sharpose_rt.bench.record import machine, make_record
from sharpose_rt.config import RunConfig, to_dict
from sharpose_rt.errors import ConfigError
from sharpose_rt.media.redact import redact
from sharpose_rt.several import SeveralRun
from sharpose_rt.skeletons.plain import plain

APART, TOGETHER = "one after another", "together"


@dataclass(frozen=True)
class CamerasBench:
    """What is measured.

    Args:
        sources: two or more videos, processed as files: no frame is dropped.
        config: of the runs; outputs go into a temporary folder.
        rounds: turns of each way, in alternating order.
    """

    sources: tuple[str, ...]
    config: RunConfig
    rounds: int = 3

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise ConfigError(f"--source is given {len(self.sources)} times; two or more are needed")
        if self.rounds < 1:
            raise ConfigError(f"--rounds is {self.rounds}; 1 or more is accepted")


def run_cameras_bench(bench: CamerasBench, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The record (see `bench.record`): total frames per second of all sources in both ways, and their ratio.

    Loading, compiling and the first frames of each run are not counted. A row is one way: `way`, `frames` and `fps` of
    each round, and the `ratio` of its rate to that of "one after another" within a round (`median`, `least`, `most`).

    Raises:
        SharposeError: whatever a run raises.
    """
    began = machine()
    ways = {APART: _apart, TOGETHER: _together}

    def turn(way: str) -> Turn:
        say(f"{len(bench.sources)} sources {way}")
        with tempfile.TemporaryDirectory(prefix="sharpose_bench_") as folder:
            return ways[way](bench, folder)

    found = take_turns({way: partial(turn, way) for way in ways}, bench.rounds)
    rates = {way: [turn.frames / turn.seconds for turn in rounds] for way, rounds in found.items()}
    rows = []
    for way, rounds in found.items():
        ratios = [rate / base for rate, base in zip(rates[way], rates[APART], strict=True)]
        spread = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        rows.append({"way": way, "frames": [turn.frames for turn in rounds], "fps": rates[way], "ratio": spread})
    settings = {
        "sources": [Path(redact(source)).name for source in bench.sources],
        "ran": {key: found[TOGETHER][0].figures[key] for key in ("backend", "precision", "device")},
        "video": bench.config.output.video,
        "config": to_dict(bench.config),
    }
    return make_record("cameras", plain(settings), plain(rows), began)


class Turn(NamedTuple):
    """Frames and seconds of all sources in one way, and the figures of the last run."""

    frames: int
    seconds: float
    figures: dict[str, Any]


def _apart(bench: CamerasBench, folder: str) -> Turn:
    """One run per source."""
    parts, figures = [], {}
    for source in bench.sources:
        watch = RunWatch()
        run = FileRun(source, _into(bench.config, folder))
        begin_ready(run.tracking)
        figures = run.run(watch.see).figures
        parts.append(_counted(watch.left_s, 1))
    return Turn(sum(frames for frames, _ in parts), sum(seconds for _, seconds in parts), figures)


def _together(bench: CamerasBench, folder: str) -> Turn:
    """All sources in one run."""
    watch = RunWatch()
    run = SeveralRun(bench.sources, _into(bench.config, folder))
    for part in run.runs:
        begin_ready(part.tracking)
    *_, last = run.run(lambda _, packet: watch.see(packet))
    return Turn(*_counted(watch.left_s, len(bench.sources)), last.figures)


def _into(config: RunConfig, folder: str) -> RunConfig:
    return replace(config, output=replace(config.output, directory=folder, overwrite=True))


def _counted(left_s: Sequence[float], sources: int) -> tuple[int, float]:
    """The number of frames output after the warm-up, and the seconds they took.

    Raises:
        ConfigError: there are too few.
    """
    # The clock starts when a round of all sources has been output; that round's frames are not counted.
    counted_s = left_s[sources * (warm_up(len(left_s) // sources) + 1) - 1 :]
    frames = len(counted_s) - 1
    if frames < 1 or counted_s[-1] <= counted_s[0]:
        raise ConfigError(f"{len(left_s)} frames are too few to measure; use --frames 20 or more")
    return frames, counted_s[-1] - counted_s[0]
