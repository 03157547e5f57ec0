"""What makes a trained module a detector's file: its weights, the ranges for int8, and scores that are chances."""

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
    """Write a file as `save_detector`, with what pictures tell that the training never saw: the ranges for int8, and
    what its scores mean, or `say` is told why not.

    Raises:
        OutputError: it cannot be written.
    """
    save_detector(path, module, recipe, facts)  # which both are measured with
    told = {RANGES: json.dumps(input_ranges(path, held_out))}
    try:
        slope, shift = calibrate(path, held_out)
        told |= {"score_slope": f"{slope:.6f}", "score_shift": f"{shift:.6f}"}
    except DatasetError as error:  # the training is not lost for that
        say(f"scores are not calibrated: {error}")
    save_detector(path, module, recipe, {**facts, **told})


def save_detector(path: Path, module: Any, recipe: DetectorRecipe, facts: Mapping[str, str]) -> None:
    """Write a file in float16 that `detection.bundled.load_module` reads, at once or not at all.

    `facts` go into its metadata; the `image_size` it is used at is that of training unless they say otherwise.

    Raises:
        OutputError: it cannot be written.
    """
    fixed = {"architecture": recipe.architecture, "names": "person"}
    facts = {"image_size": str(recipe.image_size), **facts}
    write_network(module, path, {**facts, **fixed})


def calibrate(weights: Path, pictures: Sequence[Picture]) -> tuple[float, float]:
    """Slope and shift of the logits of a file's scores, such that a score is the share of such boxes that are right.

    A box is right where it overlaps a person by an IoU of 0.5 whom no stronger box has taken, as in AP; boxes that lie
    on unsure labels do not count. The curve is Platt's (1999), with his smoothed targets.

    Raises:
        DatasetError: no box, or all boxes, are right: there is nothing to fit.
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
    """The ranges of the layers' inputs of a file's network over the first 100 pictures, for int8 (`models.int8`).

    Where it can look closer, they are seen in both sizes.
    """
    detector = BundledDetector(DetectorConfig(), weights=weights)
    network = detector.load()
    fused: Any = network.run
    return observe(fused, lambda: look_at(pictures[:100], detector, network))


def look_at(pictures: Sequence[Picture], detector: BundledDetector, network: Network) -> None:
    """Sends pictures through a network of a detector, where it can look closer in both sizes."""
    for number, picture in enumerate(pictures):
        frame = Frame(number, 0.0, picture.read())
        for look in range(len(detector.sizes[:CLOSEST])):
            predict(network, detector.letterboxed(frame, network, look=look))


def _judge(detector: BundledDetector, picture: Picture) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (N,) and which are right (N,), strongest first, of the boxes of a picture that count."""
    found = detector.detect(Frame(0, 0.0, picture.read()))
    overlap = iou_matrix(found.bboxes_xyxy, picture.people_xyxy)
    unsure = inside_matrix(found.bboxes_xyxy, picture.unsure_xyxy).max(1, initial=0) >= MATCH_IOU  # in a crowd, too
    hits = np.zeros(len(overlap), bool)
    for i in range(len(hits)):
        if overlap.shape[1] and overlap[i].max() >= MATCH_IOU:
            hits[i] = True
            overlap[:, overlap[i].argmax()] = 0  # taken
    counts = hits | ~unsure
    return found.bbox_scores[counts].astype(np.float64), hits[counts]
