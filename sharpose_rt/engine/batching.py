"""Splits any number of crops into batches of a few sizes, as known shapes can be compiled and recorded in advance."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from sharpose_rt.errors import is_short_of_gpu_memory

log = logging.getLogger("sharpose_rt.engine")

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
Stage = Callable[..., tuple[Tensor, ...]]
"""Maps tensors with one bucket's rows to tensors with as many rows."""


@cache
def plan(count: int, buckets: tuple[int, ...], overhead: float) -> tuple[int, ...]:
    """The buckets (batch sizes), largest first, for `count` crops at the least cost; only the last is ever padded.

    A batch of b crops costs `overhead` + b, in crops: the overhead decides whether 5 crops become 4 and 1, or 8 with 3
    rows of padding.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for rows in range(1, count + 1):
        options = (
            (best[max(0, rows - bucket)][0] + bucket + overhead, (*best[max(0, rows - bucket)][1], bucket))
            for bucket in buckets
        )
        best.append(min(options, key=lambda option: (option[0], len(option[1]))))
    return tuple(sorted(best[count][1], reverse=True))


class Batcher:
    """Runs a stage over any number of rows, bucket by bucket.

    If the device's memory is too small, the bucket is halved, permanently, and the work continues.

    Args:
        buckets: sizes that the stage takes, ascending.
        overhead: what a batch costs besides its rows, in rows.
        sizes: returns the buckets that may be used now for a number of rows; by default all.
        forget: frees memory, permanently for batches of a number of rows or more; whether there may be any to free.
    """

    def __init__(
        self,
        buckets: Sequence[int],
        overhead: float,
        sizes: Callable[[int], tuple[int, ...]] | None = None,
        forget: Callable[[int], bool] = lambda rows: False,
    ) -> None:
        assert list(buckets) == sorted(set(buckets)), buckets
        assert buckets[0] == 1, buckets
        self.buckets, self.overhead, self._sizes, self._forget = tuple(buckets), overhead, sizes, forget

    def run(self, stage: Stage, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The results of `stage` for all rows of `tensors` (N, ...), N at least 1, in their order.

        Raises:
            RuntimeError: not even one row fits, see `is_short_of_gpu_memory`.
        """
        count, done, parts = len(tensors[0]), 0, []
        while done < count:
            bucket = plan(count - done, self._now(count - done), self.overhead)[0]
            rows = [tensor[done : done + bucket] for tensor in tensors]
            try:
                parts.append([out[: count - done] for out in stage(*(padded(r, bucket) for r in rows))])
            except RuntimeError as error:
                if not is_short_of_gpu_memory(error):
                    raise
                self._shrink(bucket, error)
            else:
                done += bucket
        return tuple(parts[0]) if len(parts) == 1 else tuple(torch.cat(outs) for outs in zip(*parts, strict=True))

    def _now(self, rows: int) -> tuple[int, ...]:
        if self._sizes is None:
            return self.buckets
        return tuple(size for size in self._sizes(rows) if size <= self.buckets[-1])

    def _shrink(self, failed: int, error: RuntimeError) -> None:
        forgotten = self._forget(failed)
        if failed > 1:
            self.buckets = tuple(bucket for bucket in self.buckets if bucket <= failed // 2)
            log.warning(
                "a batch of %d crops does not fit into memory; at most %d at once from now on", failed, self.buckets[-1]
            )
        elif forgotten:
            log.warning("a single crop does not fit into memory together with CUDA graphs; continuing without them")
        else:
            raise error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def padded(rows: Tensor, size: int) -> Tensor:
    """`rows` (n, ...) padded to `size` rows by repeating the last one; results of the repeats are discarded."""
    missing = size - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
