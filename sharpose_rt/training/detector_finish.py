"""Turns a trained module into a detector file: weights, ranges for int8, and calibrated scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.bundled import BundledDetector
from sharpose_rt.detection.yolo import CLOSEST, Network, predict
from sharpose_rt.errors import DatasetError
from sharpose_rt.geometry.boxes import inside_matrix, iou_matrix
from sharpose_rt.models.int8 import Ranges, observe
from sharpose_rt.models.weights import RANGES, write_network
from sharpose_rt.training.detector_recipe import DetectorRecipe
from sharpose_rt.training.pictures import Picture
from sharpose_rt.types import Frame

MATCH_IOU = 0.5


def finish_detector(
    path: Path,
    module: Any,
    recipe: DetectorRecipe,
    facts: Mapping[str, str],
    held_out: Sequence[Picture],
    say: Callable[[str], None],
) -> None:
    """Writes a file like `save_detector`, with int8 ranges and the calibration of scores, measured on pictures not used
    for training; `say` receives the reason if scores cannot be calibrated.

    Raises:
        OutputError: it cannot be written.
    """
    save_detector(path, module, recipe, facts)  # for both measurements
    told = {RANGES: json.dumps(input_ranges(path, held_out))}
    try:
        slope, shift = calibrate(path, held_out)
        told |= {"score_slope": f"{slope:.6f}", "score_shift": f"{shift:.6f}"}
    except DatasetError as error:  # the training must not be lost for that
        say(f"scores are not calibrated: {error}")
    save_detector(path, module, recipe, {**facts, **told})


def save_detector(path: Path, module: Any, recipe: DetectorRecipe, facts: Mapping[str, str]) -> None:
    """Writes a float16 file for `detection.bundled.load_module`, in one step.

    `facts` are added to its metadata; the default `image_size` for its use is that of the training.

    Raises:
        OutputError: it cannot be written.
    """
    fixed = {"architecture": recipe.architecture, "names": "person"}
    facts = {"image_size": str(recipe.image_size), **facts}
    write_network(module, path, {**facts, **fixed})


def calibrate(weights: Path, pictures: Sequence[Picture]) -> tuple[float, float]:
    """Slope and offset for the logits of a detector's scores, such that a score is the share of such boxes that are
    right.

    A box is right if it overlaps a person with an IoU of 0.5 who is not matched by a stronger box, as in AP; boxes on
    uncertain labels do not count. The curve is Platt's (1999), with his smoothed targets.

    Raises:
        DatasetError: no box, or all boxes, are right, so there is nothing to fit.
    """
    detector = BundledDetector(DetectorConfig(score_threshold=0.0), weights=weights)
    detector.open()
    judged = [_judge(detector, picture) for picture in pictures]
    scores = np.concatenate([np.zeros(0), *(scores for scores, _ in judged)]).clip(1e-6, 1 - 1e-6)
    hits = np.concatenate([np.zeros(0, bool), *(hits for _, hits in judged)])
    right, wrong = int(hits.sum()), int((~hits).sum())
    if not right or not wrong:
        raise DatasetError(
            f"of {len(hits)} boxes in {len(pictures)} pictures {right} show a person; calibration needs both kinds, so "
            "train longer or hold out more pictures"
        )
    x = torch.from_numpy(np.log(scores / (1 - scores)))
    target = torch.from_numpy(np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2)))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(line[0] * x + line[1], target)
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[arg-type]  (a tensor serves as the loss)
    slope, shift = line.detach().tolist()
    if slope <= 0:
        raise DatasetError(f"strong boxes are no likelier to be right than weak ones (slope {slope:.2f}); train longer")
    return slope, shift


def input_ranges(weights: Path, pictures: Sequence[Picture]) -> Ranges:
    """The input ranges of the layers of a detector over the first 100 pictures, for int8 (`models.int8`).

    If it has a closer look, pictures are used in both sizes.
    """
    detector = BundledDetector(DetectorConfig(), weights=weights)
    network = detector.load()
    fused: Any = network.run
    return observe(fused, lambda: look_at(pictures[:100], detector, network))


def look_at(pictures: Sequence[Picture], detector: BundledDetector, network: Network) -> None:
    """Sends pictures through the network of a detector, in both sizes if it has a closer look."""
    for number, picture in enumerate(pictures):
        frame = Frame(number, 0.0, picture.read())
        for look in range(len(detector.sizes[:CLOSEST])):
            predict(network, detector.letterboxed(frame, network, look=look))


def _judge(detector: BundledDetector, picture: Picture) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (N,) of the boxes of a picture that count, strongest first, and which are right (N,)."""
    found = detector.detect(Frame(0, 0.0, picture.read()))
    overlap = iou_matrix(found.bboxes_xyxy, picture.people_xyxy)
    unsure = inside_matrix(found.bboxes_xyxy, picture.unsure_xyxy).max(1, initial=0) >= MATCH_IOU  # also in a crowd
    hits = np.zeros(len(overlap), bool)
    for i in range(len(hits)):
        if overlap.shape[1] and overlap[i].max() >= MATCH_IOU:
            hits[i] = True
            overlap[:, overlap[i].argmax()] = 0  # taken
    counts = hits | ~unsure
    return found.bbox_scores[counts].astype(np.float64), hits[counts]
