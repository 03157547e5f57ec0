"""Shared by all training runs: samples, clock, stopping, and failures of loader and loss."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter  # type: ignore[reportPrivateUsage]

from sharpose_rt.config.checks import within
from sharpose_rt.errors import ConfigError, DatasetError, writing
from sharpose_rt.training.datasets import epoch_order
from sharpose_rt.training.world import World

T = TypeVar("T")


class SampleStream:
    """Endless batches of (person, sample number), epoch after epoch, starting after `skip` samples.

    Each process takes its own part of the batches.
    """

    def __init__(self, draws: np.ndarray, seed: int, batch: int, skip: int = 0, world: World | None = None) -> None:
        self.draws, self.seed, self.batch, self.skip = draws, seed, batch, skip
        self.world = world or World()

    def _samples(self) -> Iterator[tuple[int, int]]:
        first, epoch = 0, 0
        while True:
            order = epoch_order(self.draws, self.seed, epoch)
            if first + len(order) > self.skip:
                start = max(0, self.skip - first)
                yield from zip(order[start:].tolist(), range(first + start, first + len(order)), strict=True)
            first, epoch = first + len(order), epoch + 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        samples = self._samples()
        while True:
            together = [next(samples) for _ in range(self.batch * self.world.size)]
            yield together[self.world.rank :: self.world.size]


@dataclass
class Clock:
    """The progress of a run, by training time (including resumed parts) or by samples.

    Args:
        minutes: length of the run, if it is measured by time.
        samples: length of the run, if it is measured by samples; otherwise None.
        elapsed_before_s: training time of earlier parts.
    """

    minutes: float
    samples: float | None = None
    elapsed_before_s: float = 0.0

    def __post_init__(self) -> None:
        self._started_s = time.monotonic()

    @property
    def session_s(self) -> float:
        """Time since this process started to train."""
        return time.monotonic() - self._started_s

    @property
    def elapsed_s(self) -> float:
        """Training time of the whole run."""
        return self.elapsed_before_s + self.session_s

    def progress(self, samples: int = 0) -> float:
        """Fraction of the run that is done, 0 to 1 and above."""
        return self.elapsed_s / (60 * self.minutes) if self.samples is None else samples / self.samples


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """In the block, SIGINT and SIGTERM call `stop`; only the main thread can do this, so others change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {s: signal.signal(s, lambda *_: stop()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def run_folder(out: Path) -> Iterator[None]:
    """Creates the folder of a run; if the block fails and leaves it empty, it is removed again, with parents that were
    created.

    Raises:
        OutputError: it cannot be created.
    """
    made: list[Path] = []
    try:
        with writing(f"the folder {out}", "give another --out"):
            made += [folder for folder in (out, *out.parents) if not folder.exists()]
            out.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # missing, or not empty
                folder.rmdir()
        raise


def check_recipe(precision: str, seed: int, minutes: float, lr: float, threads: int, workers: int) -> None:
    """Checks these options of a recipe.

    Raises:
        ConfigError: one is not accepted; names it.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ConfigError(f"precision is {precision!r}; auto, bf16 or fp32 is accepted")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed}; 0 to {2**32 - 1} are accepted")
    within("minutes", minutes, 0, 1e6, above=True)  # a run of NaN minutes would never end
    within("lr", lr, 0, 1)
    within("threads", threads, 0)
    within("workers", workers, 0, 256)


def weights_file(text: str) -> Path:
    """The file for the network of a run with this --out.

    Raises:
        ConfigError: the name has another suffix.
    """
    if Path(text).suffix != ".safetensors":
        raise ConfigError(f"--out is {text!r}; a name that ends in .safetensors is accepted")
    return Path(text)


def check_loss(value: float, step: int, out: Path, rate: str = "--set optim.lr") -> None:
    """Checks that the loss at `step` of the run in the folder `out` is finite; `rate` is the option to lower.

    Raises:
        DatasetError: it is not, so continuing would destroy the weights.
    """
    if not math.isfinite(value):
        back = "--resume from the last checkpoint" if (out / "last.pt").is_file() else "begin anew"
        raise DatasetError(f"the loss is {value} at step {step}; {back} with a lower {rate}")


def all_of(loader: DataLoader[T]) -> Iterator[T]:
    """The batches of a loader, whose workers are ended with them.

    Workers ignore SIGTERM (`quiet_worker`), so a process that exits while the traceback of an error still references
    them would wait for ever.
    """
    batches = iter(loader)
    try:
        yield from batches
    finally:
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()  # type: ignore[reportPrivateUsage]


def batches_of(loader: DataLoader[T], save: Callable[[], None]) -> Iterator[T]:
    """`all_of` a loader; if a picture cannot be read, `save` is called first, to keep what was learnt before."""
    learnt = False
    try:
        for batch in all_of(loader):
            yield batch
            learnt = True
    except DatasetError:
        if learnt:
            save()
        raise


@contextmanager
def plain_errors() -> Iterator[None]:
    """Restores the message of a DatasetError in a loader's worker, which PyTorch wraps in a traceback; and raises
    ConfigError if the workers have too little shared memory, as in Docker containers."""
    try:
        yield
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise ConfigError(
            "the processes that read have too little shared memory (/dev/shm; Docker gives 64 MB); give the container "
            "more, as by `docker run --shm-size=8g`, or read in the training process: data.workers=0, or --workers 0"
        ) from error
    except DatasetError as error:
        text = str(error)
        if not text.startswith("Caught DatasetError"):
            raise
        raise DatasetError(text.rpartition(f"{DatasetError.__name__}: ")[2].strip()) from None
