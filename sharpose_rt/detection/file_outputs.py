"""Interprets the outputs of other projects' detectors: boxes, scores and classes of one picture.

Letters: N boxes, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

STRIDES = (8, 16, 32)
"""Strides of the cells, with one box each, in networks like YOLO; some also have 64."""
MOST_ROWS = 1000
"""Most boxes of a network that outputs each object once."""
MOST_CLASSES = 10_000
"""A larger number is not a class."""
_ANCHORS = 3
"""Boxes per cell in networks like YOLOv5."""


@dataclass(frozen=True)
class Raw:
    """Boxes (N, 4) xyxy and scores (N, C) as a network outputs them.

    Args:
        distinct: each object occurs once: suppression has been done, or is not needed.
    """

    boxes: Array
    scores: Array
    distinct: bool


@dataclass(frozen=True)
class Reading:
    """How to interpret a network's numbers where their shapes are ambiguous.

    Args:
        in_cells: centres are offsets within cells and sizes logarithms, in units of the stride (YOLOX, as trained).
        shares: coordinates are shares of the picture's sides, not px.
    """

    in_cells: bool = False
    shares: bool = False

    def boxes(self, raw: Raw, input_wh: tuple[int, int]) -> Array:
        """Boxes (N, 4) xyxy in px of the input."""
        boxes = raw.boxes
        if self.in_cells:
            centres, strides = _cells(input_wh)
            middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            half = np.exp(np.minimum(size, 20)) * strides / 2  # if these are not logarithms, the boxes match nobody
            middle = (middle + centres) * strides
            boxes = np.concatenate([middle - half, middle + half], 1)
        return boxes * np.tile(np.array(input_wh, np.float32), 2) if self.shares else boxes


def readings(raw: Raw, input_wh: tuple[int, int]) -> list[Reading]:
    """All readings that the shapes allow, the likeliest first."""
    plain = [Reading(), Reading(shares=True)]
    return [*plain, Reading(in_cells=True)] if len(raw.boxes) == _cell_count(input_wh) else plain


def parse(outputs: Sequence[NDArray[np.generic]], input_wh: tuple[int, int], classes: int | None = None) -> Raw | None:
    """A network's outputs for one picture; None if they are in no known form.

    Args:
        outputs: with a batch of one as their first axis. (1, N, 5) corners and scores, and (1, N) classes (MMDeploy:
            RTMDet, YOLOX), or without classes; (1, N, 4) corners, and scores (1, N, C) or (1, C, N) (PicoDet,
            YOLO-NAS); (1, N, 4) corners, (1, N) scores and (1, N) classes (RT-DETR, batches of YOLO-NAS); (1, N, 6)
            corners, score, class (YOLOv10, YOLO26); (1, 4 + C, N) centres, sizes, scores (YOLOv8, YOLO11);
            (1, N, 5 + C) with an objectness score before the classes (YOLOX, YOLOv5). Columns after the scores are
            ignored, and so are outputs with more axes.
        input_wh: size of the network's input, px.
        classes: how many scores a table of cells has, as known from an earlier picture; None: scores, and class
            numbers, are recognised by their values.
    """
    arrays = [array[0] for array in outputs if array.ndim in (2, 3) and len(array) == 1]
    tables = [array.astype(np.float32, copy=False) for array in arrays if array.ndim == 2]
    rows = len(tables[0]) if tables else 0
    lines = [array for array in arrays if array.ndim == 1 and len(array) == rows]
    columns = [table.shape[1] for table in tables]
    if columns == [5] and len(lines) <= 1:
        return Raw(tables[0][:, :4], _one_hot(tables[0][:, 4], *lines), distinct=True)
    if columns == [4] and len(lines) >= 2:  # a third one is the number of boxes
        numbers = [line for line in lines if np.issubdtype(line.dtype, np.integer)] or [lines[-1]]
        scores = next((line for line in lines if line is not numbers[-1] and line.dtype.kind == "f"), None)
        return (
            None if scores is None else Raw(tables[0], _one_hot(scores.astype(np.float32), numbers[-1]), distinct=True)
        )
    if len(tables) == 2 and 4 in columns:
        boxes, scores = tables if columns[0] == 4 else tables[::-1]
        scores = scores if len(scores) == len(boxes) else scores.T
        fits = len(scores) == len(boxes) and (classes is not None or _are_scores(scores).all())
        return Raw(boxes, scores, distinct=False) if fits else None
    return _of_one(tables[0], input_wh, classes) if len(tables) == 1 and not lines else None


def _of_one(table: Array, input_wh: tuple[int, int], classes: int | None) -> Raw | None:
    strides = (STRIDES, (*STRIDES, 64))
    counts = {each * _cell_count(input_wh, some) for each in (1, _ANCHORS) for some in strides}
    rows, columns = table.shape
    if columns in counts and rows > 4:
        return Raw(_corners(table[:4].T), _leading(table[4:].T, classes), distinct=False)
    if rows in counts and columns > 5:
        return Raw(_corners(table[:, :4]), table[:, 4:5] * _leading(table[:, 5:], classes), distinct=False)
    if columns < 6 or rows > MOST_ROWS:
        return None
    scores, numbers = table[:, 4], table[:, 5]  # any after them are keypoints or mask coefficients
    if classes is None and not (_are_scores(scores[:, None]).all() and (np.mod(numbers, 1) == 0).all()):
        return None
    return Raw(table[:, :4], _one_hot(scores, numbers), distinct=True)


def _leading(columns: Array, classes: int | None) -> Array:
    """The scores: the first `classes` columns, or those before the first that is out of the range of scores."""
    others = np.flatnonzero(~_are_scores(columns)) if classes is None else [classes]
    return columns[:, : others[0]] if len(others) else columns


def _are_scores(columns: Array) -> NDArray[np.bool_]:
    """Which columns (N, C) are within 0..1."""
    return np.asarray(((columns >= -1e-3) & (columns <= 1 + 1e-3)).all(0))


def _corners(boxes: Array) -> Array:
    """xyxy of centres and sizes."""
    half = boxes[:, 2:] / np.float32(2)
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1, dtype=np.float32)


def _one_hot(scores: Array, classes: NDArray[np.generic] | None = None) -> Array:
    """Scores (N, C) of boxes that have one class each."""
    numbers = np.zeros(len(scores)) if classes is None else classes.astype(np.float64)
    known = np.flatnonzero((numbers >= 0) & (numbers < MOST_CLASSES))
    numbers = numbers[known].astype(int)
    table = np.zeros((len(scores), int(numbers.max(initial=0)) + 1), np.float32)
    table[known, numbers] = scores[known]
    return table


def _cell_count(input_wh: tuple[int, int], strides: Sequence[int] = STRIDES) -> int:
    return sum((input_wh[0] // stride) * (input_wh[1] // stride) for stride in strides)


def _cells(input_wh: tuple[int, int]) -> tuple[Array, Array]:
    """Column and row (N, 2) of each cell, and its stride (N, 1), finest first."""
    places, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: input_wh[1] // stride, : input_wh[0] // stride]
        places.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(strides).astype(np.float32)
