"""Selects the coarse cells that the fine stage splits: pure functions from scores to indices, then gather.

Letters: B crops, Nc coarse cells, S selected cells, D width, r fine tokens along a cell's side.
"""

from __future__ import annotations

import torch
from torch import Tensor


class AttentionAverage:
    """Moving average of attention over layers (Eq. 6), reduced immediately to a score for each cell (Eq. 7).

    Eq. 7 averages over heads and keypoints, which commutes with Eq. 6, so a (B, Nc) average is enough where the paper
    keeps (B, heads, M, Nc).
    """

    def __init__(self, beta: float = 0.99, sum_rows: bool = False) -> None:
        self.beta, self.sum_rows = beta, sum_rows
        self.scores: Tensor | None = None

    def add(self, attention: Tensor) -> None:
        """Add one layer: (B, heads, M, Nc), rows of the keypoint tokens, columns of the image tokens."""
        layer = attention.mean(1)
        layer = layer.sum(1) if self.sum_rows else layer.mean(1)
        previous = torch.zeros_like(layer) if self.scores is None else self.scores
        self.scores = self.beta * previous + (1 - self.beta) * layer


def split_cells(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the `count` cells with the highest scores (B, S) and of all others (B, Nc - S), both ascending.

    Of equal scores the earlier cell wins, so the choice does not depend on the device.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, :count].sort(dim=1).values, order[:, count:].sort(dim=1).values


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, S, D) at `index` (B, S) of (B, N, D)."""
    # Whole rows of one table: `gather` needs an index for each number, which took a sixteenth of the fine stage.
    b, n, _ = tokens.shape
    first = torch.arange(b, device=index.device)[:, None] * n
    return tokens.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, (b, -1))


def fine_indices(cells: Tensor, coarse_grid_hw: tuple[int, int], split: int) -> Tensor:
    """Row-major fine-grid indices (B, S * r * r) of the tokens inside `cells` (B, S), cell by cell."""
    columns = coarse_grid_hw[1]
    row, column = cells // columns, cells % columns
    step = torch.arange(split, device=cells.device)
    rows = (row[:, :, None] * split + step)[:, :, :, None]  # (B, S, r, 1)
    cols = (column[:, :, None] * split + step)[:, :, None, :]  # (B, S, 1, r)
    return (rows * (columns * split) + cols).flatten(1)  # (B, S*r*r)
