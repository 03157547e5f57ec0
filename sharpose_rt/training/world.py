"""The processes that train together, as started by `torchrun`; a single process is a world of size 1.

Gradients are averaged here instead of by DistributedDataParallel: the loss calls the stages of the network separately,
and which of them are used changes within a run.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sharpose_rt.compute.precision import fastest_dtype
from sharpose_rt.engine.device import resolve_device
from sharpose_rt.errors import ConfigError


@dataclass(frozen=True)
class World:
    """The number of processes that train together, and the `rank` of this one: 0 writes files and validates."""

    size: int = 1
    rank: int = 0
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients over all processes; parameters that none of them used keep none."""
        if self.size == 1:
            return
        used = [p for p in parameters if p.requires_grad]
        # A gradient of zeros is not the same as none: the optimiser would decay the weights and count the step.
        has = torch.tensor([float(p.grad is not None) for p in used], device=used[0].device)
        flat = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used), has])
        dist.all_reduce(flat)
        *parts, has = flat.split([*(p.numel() for p in used), len(used)])
        for p, part, processes in zip(used, parts, has.tolist(), strict=True):
            p.grad = (part / self.size).view_as(p) if processes else None

    def add_up(self, tensor: Tensor) -> None:
        """Replaces the tensor by the sum over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replaces the tensors by those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def agree(self, value: float) -> float:
        """The largest value over all processes, so that a stop or a clock is the same everywhere."""
        if self.size == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return float(tensor)

    def leave(self) -> None:
        """Waits until all are done, and ends the threads that talk to the others: exiting earlier may abort this or
        other processes."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


def join_world(device: str) -> World:
    """Joins the world described by torchrun's environment; NCCL between GPUs, Gloo between CPUs.

    Raises:
        ConfigError, DeviceError: see `pick_device`.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    world = World(size, int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0")))
    place = pick_device(device, world)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        # Imported with the first optimiser, it would keep the group alive: Gloo's threads would then not end with
        # `leave`, but at the exit of Python, where they may abort the process.
        importlib.import_module("torch._dynamo")
        # One process validates while the others wait, which on a large set takes longer than NCCL's ten minutes.
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return world


def pick_device(name: str, world: World = World()) -> torch.device:
    """The device of this name, see `resolve_device`; with torchrun, 'auto' and 'cuda' are the one of this process.

    Raises:
        ConfigError: it is not the name of a device.
        DeviceError: it does not exist or does not work.
    """
    if name == "auto" and world.size > 1 and torch.cuda.is_available():
        name = "cuda"  # a single process on the CPU would keep the others waiting
    if name.startswith("cuda:") and world.size > 1:
        raise ConfigError(
            f"device is {name!r}, and torchrun has started {world.size} processes, of which each wants a GPU of "
            "its own; 'cuda' gives it one, or start one process"
        )
    return resolve_device(name, world.local_rank)


def quicker_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether a run with this precision multiplies in bfloat16: 'bf16', or 'auto' if the device is faster in it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).major >= 8  # torch's own function asks the current device
    return fastest_dtype() == torch.bfloat16
