"""CUDA graphs: a stage is recorded once for each shape of its inputs and replayed: one launch for all its kernels."""

from __future__ import annotations

import gc
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sharpose_rt.errors import is_short_of_gpu_memory

log = logging.getLogger("sharpose_rt.compute.cuda_graphs")

_one_at_a_time = threading.Lock()
"""A recording begins by waiting for the whole device, which is an error while another thread records."""
Stage = Callable[..., tuple[Tensor, ...]]
TOLERANCE = 0.01
"""How far a replay may be from the stage itself, as a share of the largest value."""


@dataclass(frozen=True)
class Tape:
    """A recording: write `inputs`, `replay`, read `outputs`."""

    inputs: Sequence[Tensor]
    replay: Callable[[], object]
    outputs: Sequence[Tensor]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the stage gives for these tensors, in memory of its own."""
        for place, tensor in zip(self.inputs, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        self.replay()
        return tuple(output.clone() for output in self.outputs)


@cache
def _aside(ours: torch.cuda.Stream) -> torch.cuda.Stream:
    """The stream on which what is replayed on `ours`, a network's stream, is recorded.

    PyTorch hands out 32 streams of a priority in turn: one of the usual priority might be another thread's network's.
    The memory that cuBLAS works in belongs to the stream of a recording, and goes with the first one made there that
    goes, though others use it (pytorch#193402). So networks have a stream each for theirs, and all recordings of a
    network go together.
    """
    return torch.cuda.Stream(ours.device, priority=-1)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Python does not look for circles: a graph of somebody else that went meanwhile would break the recording."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def record(stage: Stage, tensors: Sequence[Tensor]) -> Tape:
    """The stage's kernels for inputs of these shapes, recorded on the device that they are on.

    Raises:
        RuntimeError: something in the stage cannot be recorded.
        torch.OutOfMemoryError: the memory does not suffice; all recordings of the network have to go, see `_aside`.
    """
    places = [tensor.clone() for tensor in tensors]
    device = tensors[0].device
    ours = torch.cuda.current_stream(device)
    # `ours` is entered once more, as a recording that fails leaves the thread on the other one.
    with _one_at_a_time, torch.cuda.device(device), torch.cuda.stream(ours):
        aside = _aside(ours)
        aside.wait_stream(ours)
        with torch.cuda.stream(aside):  # kernels are chosen and memory is taken before the recording
            for _ in range(3):
                stage(*places)
        ours.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on allocating meanwhile, which a recording that watches all threads would not survive.
        with _nothing_collected(), torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            outputs = stage(*places)
    return Tape(places, graph.replay, outputs)


class Recorded:
    """A stage that is recorded for each shape and type of its inputs when it first comes, and replayed from then on.

    A recording that fails, or does not give what the stage gives, is not used: the stage runs as it is.

    Args:
        name: for the log.
        stage: tensors in, tensors out; nothing in it may depend on values on the host.
        record: makes a recording; see `record`.
    """

    def __init__(self, name: str, stage: Stage, record: Callable[[Stage, Sequence[Tensor]], Tape] = record) -> None:
        self.name, self.stage, self._record = name, stage, record
        self._tapes: dict[tuple[tuple[torch.Size, torch.dtype], ...], Tape | None] = {}
        self._unused: list[Tape] = []  # to go with the others
        self._unrecorded_from: float = math.inf

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the stage gives.

        Raises:
            torch.OutOfMemoryError: see `record`; nothing is kept of it.
        """
        if len(tensors[0]) >= self._unrecorded_from:
            return self.stage(*tensors)
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self._tapes:
            self._tapes[key] = self._checked(tensors)
        tape = self._tapes[key]
        return self.stage(*tensors) if tape is None else tape(*tensors)

    def forget(self, rows: int) -> bool:
        """Let all recordings go, and make none for so many rows and more again; whether there might have been such.

        Each holds the memory that its stage works in. Those for fewer rows cannot stay, see `_aside`: they are made
        again when they come.
        """
        before, self._unrecorded_from = self._unrecorded_from, min(self._unrecorded_from, rows)
        self._tapes, self._unused = {}, []
        return rows < before

    def _checked(self, tensors: Sequence[Tensor]) -> Tape | None:
        try:
            tape = self._record(self.stage, tensors)
        except RuntimeError as error:
            if is_short_of_gpu_memory(error):
                raise
            # A recording that is broken off fails once more when it is ended, and does not say why.
            reason = str(error.__context__ or error).partition("\n")[0]
            log.warning("%s: no CUDA graph for %s, it runs unrecorded: %s", self.name, _text(tensors), reason)
            return None
        wanted = [output.clone() for output in self.stage(*tensors)]  # it might give the same memory each time
        for output in tape.outputs:
            output.zero_()  # else a replay that does nothing would give what the recording left there
        found = tape(*tensors)
        if all(map(_same, wanted, found)):
            return tape
        log.warning("%s: the CUDA graph for %s gives other results, it runs unrecorded", self.name, _text(tensors))
        self._unused.append(tape)
        return None


def _same(wanted: Tensor, found: Tensor) -> bool:
    """Whether they are near each other; NaN and infinities have to lie in the same places."""
    wanted, found = wanted.float(), found.float()
    sizes = wanted[wanted.isfinite()].abs()
    near = TOLERANCE * float(sizes.max()) if len(sizes) else 0.0
    return torch.allclose(found, wanted, rtol=0, atol=near + 1e-6, equal_nan=True)


def _text(tensors: Sequence[Tensor]) -> str:
    return " and ".join(str(list(tensor.shape)) for tensor in tensors[:1])
