"""CUDA graphs: a stage is recorded once for each shape of its inputs and replayed with one launch for all kernels."""

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
"""A recording starts by waiting for the whole device, which is an error while another thread records."""
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
        """The stage's outputs for these tensors, in separate memory."""
        for place, tensor in zip(self.inputs, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        self.replay()
        return tuple(output.clone() for output in self.outputs)


@cache
def _aside(ours: torch.cuda.Stream) -> torch.cuda.Stream:
    """The stream on which recordings are made that are replayed on `ours`, a network's stream.

    PyTorch hands out 32 streams per priority in turn, so one of the usual priority might belong to a network of another
    thread. The cuBLAS workspace belongs to the stream of a recording and is freed with the first recording freed there,
    even if others use it (pytorch#193402). So each network records on its own stream, and all recordings of a network
    are freed together.
    """
    return torch.cuda.Stream(ours.device, priority=-1)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Suspends garbage collection: another CUDA graph that is freed meanwhile would break the recording."""
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
        torch.OutOfMemoryError: out of memory; all recordings of the network must be freed, see `_aside`.
    """
    places = [tensor.clone() for tensor in tensors]
    device = tensors[0].device
    ours = torch.cuda.current_stream(device)
    # `ours` is entered again because a recording that fails leaves the thread on the other stream.
    with _one_at_a_time, torch.cuda.device(device), torch.cuda.stream(ours):
        aside = _aside(ours)
        aside.wait_stream(ours)
        with torch.cuda.stream(aside):  # choose kernels and allocate memory before the recording
            for _ in range(3):
                stage(*places)
        ours.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads continue to allocate, which would break a recording in a mode that watches all threads.
        with _nothing_collected(), torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            outputs = stage(*places)
    return Tape(places, graph.replay, outputs)


class Recorded:
    """A stage that is recorded when a shape and type of its inputs first comes, and replayed from then on.

    If a recording fails, or its results differ from the stage's, the stage runs unrecorded.

    Args:
        name: for the log.
        stage: tensors in, tensors out; must not depend on values on the host.
        record: makes a recording; see `record`.
    """

    def __init__(self, name: str, stage: Stage, record: Callable[[Stage, Sequence[Tensor]], Tape] = record) -> None:
        self.name, self.stage, self._record = name, stage, record
        self._tapes: dict[tuple[tuple[torch.Size, torch.dtype], ...], Tape | None] = {}
        self._unused: list[Tape] = []  # kept to be freed with the others
        self._unrecorded_from: float = math.inf

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The stage's outputs.

        Raises:
            torch.OutOfMemoryError: see `record`; nothing of the recording is kept.
        """
        if len(tensors[0]) >= self._unrecorded_from:
            return self.stage(*tensors)
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self._tapes:
            self._tapes[key] = self._checked(tensors)
        tape = self._tapes[key]
        return self.stage(*tensors) if tape is None else tape(*tensors)

    def forget(self, rows: int) -> bool:
        """Frees all recordings and makes none for `rows` rows or more from now on; whether such may have existed.

        Each recording holds its stage's working memory. Those for fewer rows cannot stay, see `_aside`; they are made
        again when needed.
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
            # An aborted recording fails again when it is ended, without saying why.
            reason = str(error.__context__ or error).partition("\n")[0]
            log.warning("%s: no CUDA graph for %s, it runs unrecorded: %s", self.name, _text(tensors), reason)
            return None
        wanted = [output.clone() for output in self.stage(*tensors)]  # it might return the same memory each time
        for output in tape.outputs:
            output.zero_()  # otherwise a replay that does nothing would return what the recording left there
        found = tape(*tensors)
        if all(map(_same, wanted, found)):
            return tape
        log.warning("%s: the CUDA graph for %s gives other results, it runs unrecorded", self.name, _text(tensors))
        self._unused.append(tape)
        return None


def _same(wanted: Tensor, found: Tensor) -> bool:
    """Whether they are close; NaN and infinities must be in the same places."""
    wanted, found = wanted.float(), found.float()
    sizes = wanted[wanted.isfinite()].abs()
    near = TOLERANCE * float(sizes.max()) if len(sizes) else 0.0
    return torch.allclose(found, wanted, rtol=0, atol=near + 1e-6, equal_nan=True)


def _text(tensors: Sequence[Tensor]) -> str:
    return " and ".join(str(list(tensor.shape)) for tensor in tensors[:1])
