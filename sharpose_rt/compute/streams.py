"""CUDA streams: each network queues its work on its own, so that threads do not wait for each other's work. Also
transfers to a device and back that do not block until the data are needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpose_rt.compute.threads import use_networks


class OwnStream:
    """A context in which work for a CUDA device goes to a separate stream; on a CPU it changes nothing.

    Args:
        device: work already queued there, such as the upload of weights, is done before any work of this stream.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def __call__(self) -> AbstractContextManager[object]:
        """The context, for one thread at a time; raises DeviceError, see `use_networks`."""
        use_networks()
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def join(self) -> None:
        """Makes work that the caller queues on its own stream from now on wait for what is queued here."""
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a GPU from pinned memory, so that the CPU does not wait for the transfer."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensor: Tensor) -> Callable[[], Tensor]:
    """A function that returns `tensor` on the CPU. From a GPU the transfer starts now, and more work can be queued
    before the function is called."""
    if not tensor.is_cuda:
        return lambda: tensor
    place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    place.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))

    def arrived() -> Tensor:
        done.synchronize()
        return place

    return arrived


def numbers(*tensors: Tensor) -> list[NDArray[np.float32]]:
    """The values of the tensors, each in its shape, in one transfer from a GPU."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).float().cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).numpy() for part, tensor in zip(parts, tensors, strict=True)]
