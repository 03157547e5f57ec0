"""Which backend `auto` takes: of those installed the one that a short measurement finds faster on this machine."""

from __future__ import annotations

import copy
import logging
import platform
import time
from importlib import metadata

import torch

from sharpose_rt import graphs
from sharpose_rt.config import PoseConfig
from sharpose_rt.config.places import cache_dir
from sharpose_rt.config.remembered import recall, remember
from sharpose_rt.config.threads import network_threads
from sharpose_rt.engine.backend import Backend, TorchBackend
from sharpose_rt.engine.device import resolve_device, resolve_precision
from sharpose_rt.errors import DeviceError
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.weights import load_model

log = logging.getLogger("sharpose_rt.engine")

MEASURE_S = 2.0
"""How long the candidates take turns, compiling not counted."""
_BATCH = 4


def installed() -> tuple[str, ...]:
    """Backends that can be tried, the surest first."""
    return ("torch", "openvino") if graphs.installed() else ("torch",)


def create_backend(network: SHaRPose, config: PoseConfig) -> Backend:
    """The backend that `config` names, for a network in float32 on the CPU.

    Raises:
        DeviceError: the device, the precision or the backend cannot be had.
    """
    name = _without_measuring(config) or _measured_or_cached(config, network)
    return _build(name, network, config)


def choose_backend(config: PoseConfig) -> str:
    """'torch' or 'openvino': as named, or what `auto` means on this machine; measured once, then remembered.

    Raises:
        DeviceError: the device or the precision cannot be had.
        WeightsError: a measurement is due and the network cannot be loaded.
    """
    return _without_measuring(config) or _measured_or_cached(config)


def _without_measuring(config: PoseConfig) -> str | None:
    on_gpu = resolve_device(config.device).type == "cuda"
    if config.backend == "openvino" and on_gpu:
        raise DeviceError("backend openvino runs on the CPU; give --device cpu, or --backend torch")
    if config.backend != "auto":
        return config.backend
    return installed()[0] if on_gpu or len(installed()) == 1 else None


def _build(name: str, network: SHaRPose, config: PoseConfig) -> Backend:
    device = resolve_device(config.device)
    dtype = resolve_precision(config.precision, device)
    if name == "torch" and device.type == "cuda":
        from sharpose_rt.engine.cuda_backend import CudaBackend

        return CudaBackend(network, device, dtype, config.max_batch)
    if name == "torch":
        return TorchBackend(network, device, dtype, config.max_batch)
    from sharpose_rt.engine.openvino_backend import OpenVinoBackend

    return OpenVinoBackend(network, dtype, network_threads(config.threads), config.max_batch)


def _measured_or_cached(config: PoseConfig, network: SHaRPose | None = None) -> str:
    path, key = cache_dir() / "backends.json", _key(config)
    known = recall(path)
    if isinstance(known.get(key), dict) and known[key].get("backend") in installed():
        return known[key]["backend"]
    network = network or load_model(config.model, config.weights, config.behaviour)[0]
    rates = measure(network, config)
    best = max(rates, key=rates.__getitem__)
    figures = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    log.info("backend: %s, the faster one here (crops/s: %s); remembered in %s", best, figures, path)
    remember(path, key, {"backend": best, "crops_per_s": rates})
    return best


def measure(network: SHaRPose, config: PoseConfig) -> dict[str, float]:
    """Crops a second of each installed backend, half of them refined; they take turns for `MEASURE_S`.

    A backend that does not come up is left out, and said in the log.
    """
    candidates: dict[str, Backend] = {}
    for name in installed():
        try:
            candidates[name] = _build(name, copy.deepcopy(network), config)
            _turn(candidates[name], network)
        except Exception as error:
            if name == "torch":
                raise
            candidates.pop(name, None)
            log.warning("backend %s does not work here: %s", name, error)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    began_s = time.perf_counter()
    while not seconds["torch"] or time.perf_counter() - began_s < MEASURE_S:
        for name, backend in candidates.items():
            seconds[name].append(_turn(backend, network))
    # The least time is what the machine can do; the others say what else it had to do.
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


def _key(config: PoseConfig) -> str:
    """All that decides which one is faster."""
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "openvino")]
    precision = str(resolve_precision(config.precision, torch.device("cpu"))).removeprefix("torch.")
    capability = torch.backends.cpu.get_cpu_capability()
    threads = f"{network_threads(config.threads)} threads"
    return ", ".join([platform.node(), capability, threads, config.model, precision, *versions])
