"""Trains and calibrates the linear filters of `detection.hog` from pictures with boxes around people.

The recipe is that of Dalal and Triggs 2005, "Histograms of Oriented Gradients for Human Detection", section 6: fit on
people and random background, search background for what looks like people, fit again with it. Calibration is that of
Platt 1999: a logistic curve a shape, from answers to the share of boxes that show a person, on pictures held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.hog import (
    CELL_PX,
    INSIDE_THRESHOLD,
    IOU_THRESHOLD,
    MARGIN_CELLS,
    WORKING_SCALE,
    HogFilters,
    hog_features,
    pyramid_sizes,
    search,
)
from sharpose_rt.detection.postprocess import suppress
from sharpose_rt.errors import DatasetError, OutputError
from sharpose_rt.geometry.boxes import area, clip, iou_matrix
from sharpose_rt.training.datasets import is_numbers, picture_paths, read_image, read_json, wrong_record

if TYPE_CHECKING:
    import torch

SHAPES_HW_CELLS = ((12, 5), (9, 6), (7, 7))
"""Upright, seated and wide people, without the filter's margin."""
MIN_EXAMPLES = 8
"""A shape with fewer people has no filter."""
MIN_HEIGHT_PX, MIN_WIDTH_PX = 60, 20
"""A smaller person has less detail than the filter looks at."""
MIN_LABEL_SCORE, MIN_POSE_SCORE, MIN_KEYPOINTS = 0.5, 0.45, 9
"""A teacher's box below the first is neither person nor background; below the others it may show a part of one."""
MAX_BACKGROUND_IOU = 0.25
MATCH_IOU = 0.5
CANDIDATE_SCORE = 0.02
CANDIDATES = 40
"""The strongest so many boxes of a picture take part in calibration."""
MINING_LONGEST_PX = 560
Boxes = NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Picture:
    """A picture and what its labels say.

    Args:
        path: the file.
        people_xyxy: (N, 4) px, people for sure.
        whole: (N,), whether enough of a person shows to learn a shape from.
        unsure_xyxy: (M, 4) px, crowds and unsure labels: neither person nor background.
        complete: whether everybody in it is labelled; else it gives people, but no background and no calibration.
        set_name: the set that it is of.
    """

    path: str
    people_xyxy: Boxes
    whole: NDArray[np.bool_]
    unsure_xyxy: Boxes
    complete: bool
    set_name: str

    @property
    def labelled_xyxy(self) -> Boxes:
        """(N + M, 4) px, all that is no background."""
        return np.concatenate([self.people_xyxy, self.unsure_xyxy])


@dataclass(frozen=True)
class Recipe:
    """How much is learnt from.

    Args:
        seed: of every choice.
        rounds: searches for background that looks like people, each with a fit after it.
        people_per_set: people at most of each set, so that a large one does not outweigh the others.
        people_per_shape: people at most of each shape.
        background_pictures: pictures that random background is cut from, five windows a shape.
        mining_pictures: pictures searched in each round.
    """

    seed: int = 0
    rounds: int = 1
    people_per_set: int = 3000
    people_per_shape: int = 5000
    background_pictures: int = 2000
    mining_pictures: int = 500


@dataclass(frozen=True)
class Calibration:
    """What calibration saw: pictures by set, boxes, and how many of them show a person."""

    pictures: dict[str, int]
    boxes: int
    hits: int


def read_pictures(folder: Path, *, complete: bool = True) -> list[Picture]:
    """The pictures of a set (`annotations.json` and `images/`, COCO form) with their people's boxes.

    Raises:
        DatasetError: the file or a record is wrong; names both.
    """
    annotations = folder / "annotations.json"
    document = read_json(annotations)
    index_of, paths = picture_paths(document["images"], annotations, folder / "images")
    rows: list[list[tuple[list[float], bool, bool]]] = [[] for _ in paths]
    for number, record in enumerate(document["annotations"]):
        if not isinstance(record, dict) or record.get("image_id") not in index_of:
            raise wrong_record(annotations, number, f"it is {record!r:.80}; its `image_id` is not among `images`")
        box = record.get("bbox")
        if not is_numbers(box, 4) or min(box[2:]) <= 0:
            raise wrong_record(annotations, number, f"bbox is {box!r}; [x, y, width, height] in px above 0 is wanted")
        sure = not record.get("iscrowd") and not record.get("ignore") and record.get("score", 1) >= MIN_LABEL_SCORE
        x, y, w, h = box
        rows[index_of[record["image_id"]]].append(([x, y, x + w, y + h], sure, sure and _is_whole(record, w, h)))
    return [_picture(path, row, complete, folder.name) for path, row in zip(paths, rows, strict=True)]


def hold_out(pictures: Sequence[Picture], share: float, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Pictures to learn from, and `share` of the completely labelled ones to calibrate on; no picture is in both.

    Raises:
        DatasetError: nothing would be left on one side.
    """
    complete = [i for i, picture in enumerate(pictures) if picture.complete]
    count = max(1, round(share * len(complete)))
    if count >= len(pictures) or not complete:
        raise DatasetError(
            f"{len(pictures)} pictures, {len(complete)} of them with everybody labelled, cannot be parted into "
            "training and calibration; give more sets"
        )
    chosen = set(np.random.default_rng((seed, 1)).permutation(complete)[:count].tolist())
    kept = [picture for i, picture in enumerate(pictures) if i not in chosen]
    return kept, [pictures[i] for i in sorted(chosen)]


def train_filters(pictures: Sequence[Picture], recipe: Recipe, say: Say = lambda _: None) -> HogFilters:
    """Filters whose answers are margins, not yet calibrated (scale 1, offset the fit's bias).

    Raises:
        DatasetError: there are too few people, no background, or a picture cannot be read.
    """
    rng = np.random.default_rng((recipe.seed, 2))
    shapes, people = _people_windows(pictures, recipe, rng)
    complete = [picture for picture in pictures if picture.complete]
    order = [complete[i] for i in rng.permutation(len(complete))]
    background = _background_windows(order[: recipe.background_pictures], shapes, rng)
    for shape, seen, other in zip(shapes, people, background, strict=True):
        say(f"shape {shape[0]}x{shape[1]}: {len(seen)} people, {len(other)} windows of background")
    filters = _fit_all(people, background, None)
    # Pictures whose background the fit has not seen come first.
    order = order[recipe.background_pictures :] + order[: recipe.background_pictures]
    for number in range(recipe.rounds):
        start = number * recipe.mining_pictures
        searched = [order[(start + i) % len(order)] for i in range(min(recipe.mining_pictures, len(order)))]
        mined = _mine(searched, filters, rng)
        background = [np.concatenate(pair) for pair in zip(background, mined, strict=True)]
        say(f"round {number + 1}: {sum(map(len, mined))} windows of background look like people")
        filters = _fit_all(people, background, filters)
    return filters


def calibrate(filters: HogFilters, pictures: Sequence[Picture]) -> tuple[HogFilters, Calibration]:
    """The filters with scale and offset such that a score is the share of boxes like it that show a person.

    A box shows a person where it overlaps one by an IoU of 0.5 that no stronger box has taken, as in AP; boxes that lie
    on unsure labels do not count. A shape with too few hits or misses of its own takes the curve of all shapes.

    Raises:
        DatasetError: nobody is found, or strong answers are no likelier to be right than weak ones.
    """
    shapes = [shape_hw_cells(weight) for weight in filters.weights]
    rows = [_judge(picture, filters) for picture in pictures if picture.complete]
    boxes = np.concatenate([np.zeros((0, 4)), *(row[0] for row in rows)])
    logits = np.concatenate([np.zeros(0), *(row[1] for row in rows)])
    hits = np.concatenate([np.zeros(0, bool), *(row[2] for row in rows)])
    if not hits.any() or hits.all():
        raise DatasetError(
            f"of {len(hits)} boxes in {len(rows)} pictures {int(hits.sum())} show a person; calibration needs both "
            "kinds, so give more pictures with everybody labelled"
        )
    shape_of = _nearest_shape(boxes, shapes)
    pooled = _logistic(logits, hits)
    scale, offset = [], []
    for i in range(len(shapes)):
        mine = shape_of == i
        enough = min(hits[mine].sum(), (~hits[mine]).sum()) >= MIN_EXAMPLES
        slope, shift = _logistic(logits[mine], hits[mine]) if enough else pooled
        scale.append(filters.scale[i] * slope)
        offset.append(filters.offset[i] * slope + shift)
    if min(scale) <= 0:
        raise DatasetError(f"scales came out as {scale}: the filters do not tell people from background here")
    names = [picture.set_name for picture in pictures if picture.complete]
    facts = Calibration({name: names.count(name) for name in sorted(set(names))}, len(hits), int(hits.sum()))
    return replace(filters, scale=tuple(scale), offset=tuple(offset)), facts


def save_filters(path: Path, filters: HogFilters, facts: dict[str, str]) -> None:
    """Write a file that `detection.hog.load_filters` reads, at once or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {f"filter{i}": weight.float().cpu().contiguous() for i, weight in enumerate(filters.weights)}
    tensors |= {"scale": torch.tensor(filters.scale), "offset": torch.tensor(filters.offset)}
    fixed = {"format": "sharpose_rt.detection.hog", "cell_px": str(CELL_PX), "margin_cells": str(MARGIN_CELLS)}
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, {**fixed, **facts})
        part.chmod(0o644)  # safetensors writes for the owner alone
        part.replace(path)
    except Exception as error:  # safetensors raises its own kind where the disk fails
        raise OutputError(f"cannot write the filters {path}: {error}") from error


def shape_hw_cells(weight: torch.Tensor) -> tuple[int, int]:
    """The person's height and width in cells that a filter (31, h, w) is made for."""
    return weight.shape[1] - 2 * MARGIN_CELLS, weight.shape[2] - 2 * MARGIN_CELLS


def window_features(
    image_bgr: NDArray[np.uint8], box_xyxy: NDArray[np.floating], shape_hw: tuple[int, int], *, mirrored: bool = False
) -> NDArray[np.float16]:
    """Features (31, h + 2, w + 2) of a box as a filter of `shape_hw` cells sees it, margin included.

    The box keeps its centre, area and proportions; its area becomes that of the shape.
    """
    rows, columns = (cells + 2 * MARGIN_CELLS + 2 for cells in shape_hw)  # one more cell, so that blocks are whole
    scale = float(np.sqrt(shape_hw[0] * shape_hw[1] * CELL_PX**2 / max(float(area(box_xyxy)), 1.0)))
    centre_x, centre_y = (box_xyxy[:2] + box_xyxy[2:]) / 2
    shrink = max(1, int(1 / scale))
    if shrink > 1:  # linear sampling alone would alias
        image_bgr = cv2.resize(image_bgr, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    width, height = columns * CELL_PX, rows * CELL_PX
    to_window = np.array([[scale, 0, width / 2 - centre_x * scale], [0, scale, height / 2 - centre_y * scale]])
    to_window[:, :2] *= shrink
    to_window[:, 2] += (to_window[:, :2].sum(1) - 1) / 2  # labels count from a pixel's corner, warps from its centre
    window = cv2.warpAffine(image_bgr, to_window, (width, height), borderMode=cv2.BORDER_REPLICATE)
    if mirrored:
        window = window[:, ::-1]
    return hog_features(np.ascontiguousarray(window, np.uint8))[:, 1:-1, 1:-1].astype(np.float16)


def _is_whole(record: dict[str, Any], width_px: float, height_px: float) -> bool:
    return (
        height_px >= MIN_HEIGHT_PX
        and width_px >= MIN_WIDTH_PX
        and record.get("num_keypoints", 17) >= MIN_KEYPOINTS
        and record.get("pose_score", 1) >= MIN_POSE_SCORE
    )


def _picture(path: str, rows: list[tuple[list[float], bool, bool]], complete: bool, set_name: str) -> Picture:
    boxes = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    sure, whole = (np.array([row[i] for row in rows], bool) for i in (1, 2))
    return Picture(path, boxes[sure], whole[sure], boxes[~sure], complete, set_name)


def _people_windows(
    pictures: Sequence[Picture], recipe: Recipe, rng: np.random.Generator
) -> tuple[list[tuple[int, int]], list[NDArray[np.float16]]]:
    """The shapes that enough people have, and the features of their people, half of them mirrored."""
    count_of: dict[str, int] = {}
    chosen: list[tuple[int, Boxes, NDArray[np.intp]]] = []
    for i in rng.permutation(len(pictures)):
        picture = pictures[i]
        room = max(0, recipe.people_per_set - count_of.get(picture.set_name, 0))
        boxes = picture.people_xyxy[picture.whole][:room]
        count_of[picture.set_name] = count_of.get(picture.set_name, 0) + len(boxes)
        if len(boxes):
            chosen.append((int(i), boxes, _nearest_shape(boxes, SHAPES_HW_CELLS)))
    windows: list[list[NDArray[np.float16]]] = [[] for _ in SHAPES_HW_CELLS]
    for i, boxes, shape_of in chosen:
        wanted = [n for n, k in enumerate(shape_of) if len(windows[k]) < recipe.people_per_shape]
        image = read_image(pictures[i].path) if wanted else None
        for n in wanted:
            assert image is not None
            k, mirrored = shape_of[n], bool(rng.random() < 0.5)
            windows[k].append(window_features(image, boxes[n], SHAPES_HW_CELLS[k], mirrored=mirrored))
    kept = [k for k, found in enumerate(windows) if len(found) >= MIN_EXAMPLES]
    if not kept:
        raise DatasetError(
            f"{sum(map(len, windows))} people are whole and at least {MIN_HEIGHT_PX} px tall; "
            f"{MIN_EXAMPLES} of one shape are wanted at the least, so give more sets"
        )
    return [SHAPES_HW_CELLS[k] for k in kept], [np.stack(windows[k]) for k in kept]


def _background_windows(
    pictures: Iterable[Picture], shapes: Sequence[tuple[int, int]], rng: np.random.Generator
) -> list[NDArray[np.float16]]:
    """Features of random places that show no labelled person, five a shape and picture where they fit."""
    windows: list[list[NDArray[np.float16]]] = [[] for _ in shapes]
    for picture in pictures:
        image = read_image(picture.path)
        height, width = image.shape[:2]
        for found, (rows, columns) in zip(windows, shapes, strict=True):
            for _ in range(5):
                h = rng.uniform(min(MIN_HEIGHT_PX, height / 2), height * 0.95)
                w = h * columns / rows
                if w > width:
                    continue
                x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
                box = np.array([x, y, x + w, y + h])
                if iou_matrix(box, picture.labelled_xyxy).max(initial=0) <= MAX_BACKGROUND_IOU:
                    found.append(window_features(image, box, (rows, columns)))
    if not all(windows):
        raise DatasetError("no background: people fill all pictures that are labelled completely; give more sets")
    return [np.stack(found) for found in windows]


def _mine(pictures: Iterable[Picture], filters: HogFilters, rng: np.random.Generator) -> list[NDArray[np.float16]]:
    """Features of background that the filters take for people, or nearly so, at most 30 places a picture."""
    shapes = [shape_hw_cells(weight) for weight in filters.weights]
    windows: list[list[NDArray[np.float16]]] = [[] for _ in shapes]
    for picture in pictures:
        image = read_image(picture.path)
        sizes = pyramid_sizes((image.shape[1], image.shape[0]), MINING_LONGEST_PX)[::2]
        boxes, scores = search(image, filters, sizes, 1 / (1 + np.exp(0.5)))
        boxes = boxes[suppress(boxes, scores, 0.5)[:60]] + 0.5  # search counts from a pixel's centre
        labelled = picture.labelled_xyxy
        near = iou_matrix(boxes, labelled).max(1, initial=0) >= MAX_BACKGROUND_IOU
        # A limb is background too, but the background is mostly elsewhere.
        part = (_share_inside(boxes, labelled) > 0.6) & (rng.random(len(boxes)) > 0.3)
        boxes = boxes[~(near | part)][:30]
        for box, k in zip(boxes, _nearest_shape(boxes, shapes), strict=True):
            windows[k].append(window_features(image, box, shapes[k]))
    empty = [np.zeros((0, *weight.shape), np.float16) for weight in filters.weights]
    return [np.stack(found) if found else none for found, none in zip(windows, empty, strict=True)]


def _share_inside(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """The largest share (N,) of each box that lies inside one of the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1).max(1, initial=0)
    return inside / np.maximum(area(boxes), 1e-9)


def _nearest_shape(boxes: Boxes, shapes: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """Which shape (N,) each box is closest to by proportions."""
    boxes = boxes.reshape(-1, 4)
    ratios = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    wanted = np.log([columns / rows for rows, columns in shapes])
    return np.abs(ratios[:, None] - wanted).argmin(1)


def _fit_all(
    people: Sequence[NDArray[np.float16]], background: Sequence[NDArray[np.float16]], start: HogFilters | None
) -> HogFilters:
    fits = [
        _fit(seen, other, None if start is None else start.weights[k])
        for k, (seen, other) in enumerate(zip(people, background, strict=True))
    ]
    return HogFilters(tuple(fit[0] for fit in fits), (1.0,) * len(fits), tuple(fit[1] for fit in fits))


def _fit(
    people: NDArray[np.float16], background: NDArray[np.float16], start: torch.Tensor | None, decay: float = 3e-3
) -> tuple[torch.Tensor, float]:
    """Weights (31, h, w) and bias with the least squared hinge loss; people and background weigh the same in all."""
    import torch

    x = torch.from_numpy(np.concatenate([people, background])).flatten(1).float()
    sign = torch.cat([torch.ones(len(people)), -torch.ones(len(background))])
    share = torch.cat([torch.full((len(n),), 1 / len(n)) for n in (people, background)])
    mean = x.mean(0)
    x -= mean  # the bias settles at once
    weight = torch.zeros(x.shape[1]) if start is None else start.flatten().clone()
    bias = torch.zeros(1)
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimiser = torch.optim.LBFGS(parameters, max_iter=45, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = (share * torch.relu(1 - sign * (x @ weight + bias)).square()).sum() + decay * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[arg-type]  (a tensor serves as the loss)
    weight, bias = weight.detach(), bias.detach()
    return weight.reshape(people.shape[1:]), (bias - mean @ weight).item()


def _judge(picture: Picture, filters: HogFilters) -> tuple[Boxes, NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes (N, 4), logits (N,) and hits (N,) of what the detector finds in a picture at its own settings."""
    image = read_image(picture.path)
    size_wh = image.shape[1], image.shape[0]
    boxes, scores = search(
        image, filters, pyramid_sizes(size_wh, DetectorConfig().image_size * WORKING_SCALE), CANDIDATE_SCORE
    )
    kept = suppress(boxes, scores, IOU_THRESHOLD, INSIDE_THRESHOLD)[:CANDIDATES]
    boxes, scores = boxes[kept], scores[kept].clip(1e-6, 1 - 1e-6)
    visible = np.asarray(clip(boxes + 0.5, size_wh), np.float64)
    overlap = iou_matrix(visible, picture.people_xyxy)
    hits = np.zeros(len(boxes), bool)
    for i in range(len(boxes)):
        if overlap.shape[1] and overlap[i].max() >= MATCH_IOU:
            hits[i] = True
            overlap[:, overlap[i].argmax()] = 0  # taken
    counts = hits | (_share_inside(visible, picture.unsure_xyxy) < MATCH_IOU)
    return boxes[counts], np.log(scores / (1 - scores))[counts], hits[counts]


def _logistic(logits: NDArray[np.float64], hits: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift of the likeliest logistic curve through hits (N,), with Platt's smoothed targets."""
    import torch

    x = torch.from_numpy(logits)
    right, wrong = int(hits.sum()), int((~hits).sum())
    target = torch.from_numpy(np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2)))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(line[0] * x + line[1], target)
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[arg-type]
    slope, shift = line.detach().tolist()
    return slope, shift
