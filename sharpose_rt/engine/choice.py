"""Chooses backend and precision for `auto`: of those possible, the ones that a short measurement finds fastest here."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeGuard

import torch

import sharpose_rt
from sharpose_rt.compute import openvino_graphs
from sharpose_rt.compute.precision import WORTH_IT, multiplies_integers, this_machine
from sharpose_rt.compute.threads import at_most_threads, use_networks
from sharpose_rt.config import PoseConfig
from sharpose_rt.config.checks import is_network_file
from sharpose_rt.engine.backend import Backend, TorchBackend
from sharpose_rt.engine.device import DTYPES, resolve_device, resolve_precision
from sharpose_rt.errors import ConfigError, DeviceError, WeightsError
from sharpose_rt.machine.cache import cache_dir, recall, remember
from sharpose_rt.machine.packages import version
from sharpose_rt.machine.threads import network_threads
from sharpose_rt.models.int8 import Ranges
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.weights import load_model, read_ranges

log = logging.getLogger("sharpose_rt.engine")

MEASURE_S = 2.0
"""How long the candidates take turns, excluding compilation."""
_BATCH = 4


def installed() -> tuple[str, ...]:
    """Backends that can be tried, the most reliable first."""
    return ("torch", "openvino") if openvino_graphs.installed() else ("torch",)


@dataclass(frozen=True)
class Way:
    """How to run the network: the backend and the number format."""

    backend: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.backend} {str(self.dtype).removeprefix('torch.')}"


def create_backend(network: SHaRPose, config: PoseConfig, ranges: Ranges | None = None) -> Backend:
    """The backend that `config` names, for a network in float32 on the CPU; `ranges` are stored with its weights.

    Raises:
        DeviceError: the device, the precision or the backend is not available.
        WeightsError: int8 is requested, but the weights are not prepared for it.
    """
    return _build(_choose(config, ranges, network), network, config, ranges)


def choose(config: PoseConfig) -> PoseConfig:
    """`config` with its backend and precision named: what `auto` means for its weights on this machine.

    It is measured once, then remembered. A network from a file runs on the CPU, and so does the detector of its run.

    Raises:
        DeviceError: the device, the precision or the backend is not available.
        WeightsError: there are no weights, or int8 is requested and they are not prepared for it.
        ConfigError: an option is given that a network from a file does not have.
    """
    if is_network_file(config.model):
        check_file_options(config)
        config = replace(config, device="cpu")
        way = Way("openvino", resolve_precision(config.precision, torch.device("cpu")))
    else:
        way = _choose(config, read_ranges(config.model, config.weights))
    precision = next(name for name, dtype in DTYPES.items() if dtype == way.dtype)
    return replace(config, backend=way.backend, precision=precision)


def check_file_options(config: PoseConfig) -> None:
    """Raises ConfigError or DeviceError for options that another project's network does not have."""
    for name, given in (
        ("quality_threshold", config.quality_threshold is not None),
        ("refine_from_gain", config.refine_from_gain is not None),
        ("refine_from_px", config.refine_from_px > 0),
        ("refine_every", config.refined_every > 1),
        ("behaviour", config.behaviour != "auto"),
    ):
        if given:
            raise ConfigError(
                f"{name} applies only to SHaRPose's two-stage networks, but {config.model} has one stage; omit it"
            )
    if config.weights != "auto":
        raise ConfigError(f"{config.model} contains its weights, but weights are {config.weights!r}; omit them")
    if config.precision in ("int8", "fp16"):
        raise DeviceError(f"{config.model} runs in fp32 or bf16; a file in int8 keeps its integers automatically")
    if config.backend == "torch" or config.device.startswith("cuda"):
        raise DeviceError(f"{config.model} runs with OpenVINO on the CPU; omit --backend and --device")


def ways(config: PoseConfig, ranges: Ranges | None) -> tuple[Way, ...]:
    """The ways that `config` leaves open, the most reliable first; int8 last, if the weights are prepared for it.

    Raises:
        DeviceError: the device, the precision or the backend is not available.
        WeightsError: int8 is requested, but the weights are not prepared for it.
    """
    device = resolve_device(config.device)
    dtype = resolve_precision(config.precision, device)
    if config.backend == "openvino" and device.type == "cuda":
        raise DeviceError("backend openvino runs on the CPU; use --device cpu, or --backend torch")
    if config.backend == "openvino" or (dtype == torch.int8 and config.backend == "auto"):
        openvino_graphs.openvino()  # says what to install if it is missing
    if dtype == torch.int8:
        if config.backend == "torch":
            raise DeviceError("precision int8 needs OpenVINO; use --backend openvino, or --precision fp32 or bf16")
        if ranges is None:
            raise WeightsError(
                f"the weights {config.weights!r} of {config.model} do not state the ranges of their layers' inputs, "
                "which int8 needs; add them with `sharpose-rt weights quantize`, or use another --precision"
            )
        if not multiplies_integers():
            _warn_of_int8()
        return (Way("openvino", dtype),)
    if device.type == "cuda":
        return (Way("torch", dtype),)
    backends = installed() if config.backend == "auto" else (config.backend,)
    found = tuple(Way(backend, dtype) for backend in backends)
    with_int8 = config.precision == "auto" and ranges is not None and "openvino" in backends and multiplies_integers()
    return (*found, Way("openvino", torch.int8)) if with_int8 else found


@cache  # a run gets its ways more than once
def _warn_of_int8() -> None:
    log.warning("this processor has no VNNI: int8 is less accurate on it, and hardly faster than --precision fp32")


def _build(way: Way, network: SHaRPose, config: PoseConfig, ranges: Ranges | None) -> Backend:
    device = resolve_device(config.device)
    if way.backend == "torch" and device.type == "cuda":
        from sharpose_rt.engine.cuda_backend import CudaBackend

        return CudaBackend(network, device, way.dtype, config.max_batch)
    if way.backend == "torch":
        return TorchBackend(network, device, way.dtype, config.max_batch)
    from sharpose_rt.engine.openvino_backend import OpenVinoBackend

    return OpenVinoBackend(network, way.dtype, network_threads(config.threads), config.max_batch, ranges)


def _choose(config: PoseConfig, ranges: Ranges | None, network: SHaRPose | None = None) -> Way:
    open_ways = {str(way): way for way in ways(config, ranges)}
    if config.backend == "auto" and "openvino" not in installed() and resolve_device(config.device).type == "cpu":
        log.info(
            "on a CPU OpenVINO is up to three times as fast as torch, and more in int8: pip install 'sharpose-rt[cpu]'"
        )
    if len(open_ways) == 1:
        return next(iter(open_ways.values()))
    path, key = cache_dir() / "backends.json", _key(config, open_ways)
    rates = recall(path).get(key)
    if _are_rates(rates, open_ways):
        return open_ways[_best(rates, open_ways)]
    network = network or load_model(config.model, config.weights, config.behaviour)[0]
    log.info("measuring which is fastest here, for this and later runs: %s", ", ".join(open_ways))
    rates = measure(network, config, ranges)
    best = _best(rates, open_ways)
    figures = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    if len(rates) < len(open_ways):  # what fails now may work next time
        where = "measured again next time"
    elif remember(path, key, rates):
        where = f"remembered in {path}"
    else:
        where = f"{path} cannot be written, so each start measures again; set XDG_CACHE_HOME to another folder"
    log.info("backend: %s, the fastest here (crops/s: %s); %s", best, figures, where)
    return open_ways[best]


def _are_rates(known: object, open_ways: Mapping[str, Way]) -> TypeGuard[dict[str, float]]:
    """Whether the remembered rates are a number for each way."""
    if not isinstance(known, dict) or known.keys() != open_ways.keys():
        return False
    return all(isinstance(rate, (int, float)) for rate in known.values())


def _best(rates: Mapping[str, float], open_ways: Mapping[str, Way]) -> str:
    """The best way. Int8 must beat float32 by a margin, as it is less accurate, but not bfloat16, which is no more
    accurate."""
    margin = WORTH_IT if any(way.dtype == torch.float32 for way in open_ways.values()) else 1
    return max(rates, key=lambda name: rates[name] / (margin if open_ways[name].dtype == torch.int8 else 1))


def measure(network: SHaRPose, config: PoseConfig, ranges: Ranges | None = None) -> dict[str, float]:
    """Crops per second of each open way, half of them refined; they take turns for `MEASURE_S`.

    A way that does not work is omitted and logged.
    """
    use_networks()
    with at_most_threads(network_threads(config.threads)):  # as in the run
        return _measure(network, config, ranges)


def _measure(network: SHaRPose, config: PoseConfig, ranges: Ranges | None) -> dict[str, float]:
    candidates: dict[str, Backend] = {}
    for way in ways(config, ranges):
        try:
            candidates[str(way)] = _build(way, copy.deepcopy(network), config, ranges)
            _turn(candidates[str(way)], network)
        except Exception as error:
            if way.backend == "torch":
                raise
            candidates.pop(str(way), None)
            log.warning("backend %s does not work here: %s", way, error)
    if not candidates:
        raise DeviceError(f"backend {config.backend} does not work here; see the log, or use --backend torch")
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    began_s = time.perf_counter()
    while not all(seconds.values()) or time.perf_counter() - began_s < MEASURE_S:
        for name, backend in candidates.items():
            seconds[name].append(_turn(backend, network))
    # The shortest time is what the machine can do; the others include its other load.
    return {name: round(_BATCH / min(turns), 1) for name, turns in seconds.items()}


@torch.inference_mode()
def _turn(backend: Backend, network: SHaRPose) -> float:
    crops = torch.zeros(_BATCH, *network.variant.size_hw, 3, dtype=torch.uint8)
    began_s = time.perf_counter()
    images = backend.prepare(crops)
    coarse = backend.coarse(images)
    half = torch.arange(_BATCH // 2, device=backend.device)
    selected, low = split_cells(coarse.cell_scores[half], network.selected_count)
    backend.fine(images[half], coarse[half], selected, low)
    return time.perf_counter() - began_s


def _key(config: PoseConfig, names: Iterable[str]) -> str:
    """Everything that affects which way is fastest."""
    versions = [f"sharpose-rt {sharpose_rt.__version__}", f"openvino {version('openvino')}"]
    # Threads that spin while waiting take the core that the other backend's threads need.
    threads = f"{network_threads(config.threads)} threads {os.environ.get('OMP_WAIT_POLICY', '')}".rstrip()
    return ", ".join([this_machine(), threads, config.model, " or ".join(names), *versions])
