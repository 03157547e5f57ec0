"""The networks alone: SHaRPose at given exit rates against the dense network of its size, in turn.

All contenders of a comparison run once in every round, so that other load on the machine affects all of them alike.
Ratios are taken within a round, and their spread over rounds shows how far they can be trusted.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpose_rt.bench.record import keeping, machine, make_record, percentiles
from sharpose_rt.config import PoseConfig
from sharpose_rt.engine import PoseEngine, choice, resolve_device, resolve_precision
from sharpose_rt.engine.backend import TorchBackend
from sharpose_rt.engine.device import DTYPES
from sharpose_rt.errors import ConfigError, DeviceError
from sharpose_rt.machine.threads import cores
from sharpose_rt.models import Variant, find_behaviour, find_variant
from sharpose_rt.models.baselines import create_dense
from sharpose_rt.models.cost import measure_cost, measure_dense_gmacs
from sharpose_rt.models.int8 import observe, quantized
from sharpose_rt.models.pixels import normalise
from sharpose_rt.models.sharpose import SHaRPoseOutput
from sharpose_rt.models.weights import RANGES, load_model, save_weights

T = TypeVar("T")

GEMM_SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Sides of square matrices; the fastest of their products is the machine's own rate."""

Crops = NDArray[np.uint8]
"""(B, h, w, 3) BGR."""
Run = Callable[[], list[float]]
"""Measures one contender once; returns seconds of each of its calls."""


@dataclass(frozen=True)
class ModelBench:
    """What is measured.

    Args:
        models: names of variants.
        batches: numbers of crops that go through the network at once.
        exit_rates: shares of crops, 0..1, that leave after the coarse stage: 0 is both stages, 1 the coarse one alone.
        rounds: how often all contenders take turns.
        turn_s: shortest duration of a turn, in seconds.
        backends: what runs the networks; empty: all that are installed.
    """

    models: tuple[str, ...]
    batches: tuple[int, ...] = (1, 8)
    exit_rates: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    rounds: int = 7
    turn_s: float = 0.1
    behaviour: str = "paper"
    device: str = "auto"
    precision: str = "auto"
    backends: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.models:
            find_variant(name)
        find_behaviour(self.behaviour)
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"--batch is {list(self.batches)}; numbers from 1 are accepted")
        if any(not 0 <= rate <= 1 for rate in self.exit_rates):
            raise ConfigError(f"exit rates are {list(self.exit_rates)}; shares from 0 to 1 are accepted")
        if self.rounds < 1:
            raise ConfigError(f"--rounds is {self.rounds}; 1 or more is accepted")


def run_model_bench(config: ModelBench, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The record (see `bench.record`) of all comparisons; `say` is called with what comes next.

    A row of its results is one contender: `backend`, `method` 'dense' or 'sharpose', `exit_rate_wanted` and the
    `exit_rate` that was reached, `crops_per_s` (median over rounds), `latency_ms` of a batch, `gmacs` of a crop,
    `gemm_percent` of the machine's own rate (that of torch; for int8 in float32), and `ratio` of its crops per second
    to those of the dense network in the same backend (median, p10 and p90 of the rounds).

    Raises:
        DeviceError: the device or the precision is not available.
    """
    began = machine()
    device = resolve_device(config.device)
    dtype = resolve_precision(config.precision, device)
    gemm = Gemm(device, torch.float32 if dtype == torch.int8 else dtype)
    possible = ("torch",) if device.type == "cuda" else ("openvino",) if dtype == torch.int8 else choice.installed()
    if dtype == torch.int8 and "torch" in config.backends:
        raise DeviceError("precision int8 needs OpenVINO; leave out backend torch, or use fp32 or bf16")
    rows: list[dict[str, Any]] = []
    with keeping(rows, say) as ended:
        for name, backend in itertools.product(config.models, config.backends or possible):
            comparison = Comparison(find_variant(name), config, dtype, gemm, backend)
            for batch in config.batches:
                say(f"{name}, {backend}, batch {batch}: {config.rounds} rounds of {2 + len(config.exit_rates)} turns")
                rows += comparison.rows(batch)
    settings = {
        **asdict(config),
        **ended,
        "device": str(device),
        "precision": str(dtype).removeprefix("torch."),
        "gemm_size": gemm.size,
        "backend": ", ".join(dict.fromkeys(row["backend"] for row in rows)),
        "weights": "random: they do not affect the speed, and the gate is set to the given exit rate",
    }
    return make_record("model", settings, rows, began)


class Comparison:
    """One variant and the dense network of its size, both in one backend on one device."""

    def __init__(self, variant: Variant, config: ModelBench, dtype: torch.dtype, gemm: Gemm, backend: str) -> None:
        self.variant, self.config, self.gemm = variant, config, gemm
        pose = PoseConfig(
            model=variant.name,
            weights="random",
            behaviour=config.behaviour,
            device=config.device,
            precision=next(name for name, d in DTYPES.items() if d == dtype),
            backend=backend,
            max_batch=max(config.batches),
            threads=cores(),  # nothing else runs here
        )
        torch.manual_seed(0)
        self.dense = create_dense(variant)
        if dtype == torch.int8:
            self.engine = _engine_in_int8(pose)
            self.dense = quantized(self.dense, observe(self.dense, lambda: self.dense(_images(variant.size_hw))))
        else:
            self.engine = PoseEngine(pose)
        if backend == "torch":
            self.dense.to(self.engine.device, dtype)
        self.cost = measure_cost(variant, find_behaviour(config.behaviour))
        self.dense_gmacs = measure_dense_gmacs(variant)

    @torch.inference_mode()
    def rows(self, batch: int) -> list[dict[str, Any]]:
        """The rows of all contenders at one batch size, the dense network first."""
        engine = self.engine
        # Enough whole batches for a quarter of the crops to be a whole number.
        count = math.lcm(batch, 4)
        crops = varied_crops(count, engine.crop_size_hw)
        batches = [crops[i : i + batch] for i in range(0, count, batch)]
        refined = {rate: who_is_refined(count, rate).reshape(-1, batch) for rate in self.config.exit_rates}
        dense = self._dense(batch)
        runs: dict[Any, Run] = {"gemm": self.gemm.run, "dense": self._turn([partial(dense, part) for part in batches])}
        for rate, masks in refined.items():
            runs[rate] = self._turn([partial(gated, engine, *pair) for pair in zip(batches, masks, strict=True)])
        seconds = take_turns(runs, self.config.rounds)

        gemm_flops = float(np.median([self.gemm.flops / min(turn) for turn in seconds["gemm"]]))
        dense_per_s = crops_per_s(seconds["dense"], batch)
        rows = []
        for key in ("dense", *refined):
            per_s = crops_per_s(seconds[key], batch)
            reached = None if key == "dense" else 1 - float(refined[key].mean())
            gmacs = self.dense_gmacs if reached is None else self.cost.gmacs_at(reached)
            ratio = percentiles(per_s / dense_per_s, 50, 10, 90)
            rows.append(
                {
                    "model": self.variant.name,
                    "backend": engine.backend.name,
                    "method": "dense" if reached is None else "sharpose",
                    "batch": batch,
                    "crops": batch * len(batches),
                    "exit_rate_wanted": None if reached is None else key,
                    "exit_rate": reached,
                    "crops_per_s": float(np.median(per_s)),
                    "latency_ms": percentiles(
                        np.concatenate([np.array(turn) for turn in seconds[key]]), 50, 95, scale=1e3
                    ),
                    "gmacs": gmacs,
                    "gemm_percent": 100 * float(np.median(per_s)) * 2e9 * gmacs / gemm_flops,
                    "gemm_gflops": gemm_flops / 1e9,
                    "ratio": {"median": ratio["p50"], "p10": ratio["p10"], "p90": ratio["p90"]},
                    "rounds": len(per_s),
                }
            )
        return rows

    def _dense(self, batch: int) -> Callable[[Crops], object]:
        """Runs the dense network on the engine's crops, in the engine's backend."""
        backend = self.engine.backend
        if backend.name == "torch":
            dense: Callable[[Tensor], object] = self.dense
            if backend.device.type == "cuda":  # launched like ours: as one graph
                from sharpose_rt.compute.cuda_graphs import Recorded

                dense = Recorded("dense network", lambda crops: (self.dense(normalise(crops).to(backend.dtype)),))

            def run(crops: Crops) -> object:
                assert isinstance(backend, TorchBackend)
                with backend.threads_for(len(crops)):  # as few as ours uses if fewer are faster
                    return dense(backend.prepare(torch.from_numpy(crops)))

            return run
        from sharpose_rt.compute.openvino_graphs import for_batch, traced
        from sharpose_rt.engine.traceable import Normalise

        module = nn.Sequential(Normalise(), self.dense).eval()
        example = torch.zeros(2, *self.variant.size_hw, 3, dtype=torch.uint8)
        with torch.inference_mode(False):
            model = traced(module, (example,))
        graph = for_batch(model, batch, backend.dtype, cores())
        return lambda crops: graph(backend.prepare(torch.from_numpy(crops)))

    def _turn(self, calls: Sequence[Callable[[], object]]) -> Run:
        """Measures the calls, one per batch, as often as the time of a turn allows; warms up first."""
        device = self.engine.device

        def once() -> list[float]:
            return [timed(call, device) for call in calls]

        once()
        repeats = max(1, math.ceil(self.config.turn_s / max(sum(once()), 1e-9)))
        return lambda: [seconds for _ in range(repeats) for seconds in once()]


def _engine_in_int8(config: PoseConfig) -> PoseEngine:
    """An engine with random weights and the ranges of its layers' inputs, which int8 needs."""
    network, _ = load_model(config.model, "random", config.behaviour)
    network.eval()
    ranges = observe(network, lambda: network(_images(network.variant.size_hw)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{config.model}.safetensors"
        save_weights(network, path, metadata={RANGES: json.dumps(ranges)})
        return PoseEngine(replace(config, weights=str(path)))


def _images(size_hw: tuple[int, int]) -> Tensor:
    """Some normalised crops."""
    return normalise(torch.from_numpy(varied_crops(4, size_hw)))


def gated(engine: PoseEngine, crops: Crops, refined: NDArray[np.bool_]) -> SHaRPoseOutput:
    """Runs both stages, where the gate selects the people to be `refined` (B,), whatever their quality."""
    return engine.infer(crops, lambda _: refined)


class Gemm:
    """The machine's own rate: the product of two square matrices, of the size that runs fastest."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        rates = {}
        for self.size in GEMM_SIDES[device.type]:
            self._weight = torch.randn(self.size, self.size, device=device).to(dtype)
            self._input = torch.randn(self.size, self.size, device=device).to(dtype)
            self.run()
            rates[self.size] = max(self.flops / min(self.run()) for _ in range(3))
        self.size = max(rates, key=rates.__getitem__)
        self._weight, self._input = (m[: self.size, : self.size].contiguous() for m in (self._weight, self._input))

    @property
    def flops(self) -> float:
        """Floating-point operations of one product: two per multiply-accumulate."""
        return 2.0 * self.size**3

    def run(self) -> list[float]:
        """Seconds of three products, laid out like the networks' linear layers."""
        with torch.inference_mode():
            return [timed(lambda: F.linear(self._input, self._weight), self.device) for _ in range(3)]


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds until `call()` is done, including work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began_s = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began_s


def take_turns(runs: Mapping[Any, Callable[[], T]], rounds: int) -> dict[Any, list[T]]:
    """The result of each run in each round: all take one turn per round, in reverse order every second round.

    Otherwise a machine that slows down steadily would favour the first.
    """
    found: dict[Any, list[T]] = {key: [] for key in runs}
    for number in range(rounds):
        for key in reversed(runs) if number % 2 else runs:  # type: ignore[call-overload]
            found[key].append(runs[key]())
    return found


def crops_per_s(turns: Sequence[Sequence[float]], batch: int) -> np.ndarray:
    """(rounds,) crops per second from the seconds of each call in each round."""
    return np.array([batch * len(turn) / sum(turn) for turn in turns])


# The gate at a given exit rate


def who_is_refined(count: int, exit_rate: float) -> NDArray[np.bool_]:
    """(count,) True for crops that stay when a share 0..1 leaves after the coarse stage, spread evenly.

    The qualities predicted by random weights are too similar to be separated by a threshold.
    """
    staying = count - round(exit_rate * count)
    return np.diff(np.arange(count + 1) * staying // count).astype(bool)


def varied_crops(count: int, size_hw: tuple[int, int]) -> Crops:
    """Pictures (count, H, W, 3) of coloured clouds, with different contrast and brightness."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = size_hw[0] // 32, size_hw[1] // 32
    clouds = F.interpolate(torch.randn(count, 3, rows, columns, generator=generator), size_hw, mode="bilinear")
    contrast = torch.rand(count, 1, 1, 1, generator=generator) * 1.5 + 0.2
    brightness = torch.randn(count, 1, 1, 1, generator=generator)
    grain = torch.randn(count, 3, *size_hw, generator=generator)
    pictures = 118 + 57 * (clouds * contrast + brightness + 0.1 * grain)
    return pictures.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
