"""Predicts what the fine stage adds to a pose from the output of the coarse stage; fitted on labelled people.

Letters: N people, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation.boxes import truth_boxes
from sharpose_rt.evaluation.coco import ap, reached, results, true_oks
from sharpose_rt.evaluation.predict import mixed, predict
from sharpose_rt.evaluation.truth import by_pckh, check_keypoints, read_labels, skeleton_of
from sharpose_rt.models import SHaRPose

RIDGE = 0.3
"""Ridge penalty for standardised features, per person. From 0.1 to 1 it made no difference."""
FOLDS = 5
LEAST_PEOPLE = 100
"""Fewest people for fitting D features."""


@dataclass(frozen=True)
class Fit:
    """A fitted predictor, and how well it predicts people who were left out of the fit.

    Args:
        predictor: from the normalised quality token (B, D) to the gain (B, 1).
        people: N.
        mean_gain: AP that the fine stage adds per person.
        correlation: of predicted and true gain, over people in pictures that were not used for the fit.
        lost_by_half: share of the total gain that is lost if the half with the least predicted gain is not refined.
        cost_of_half: the cost of this in AP, mean over the datasets weighted by their people.
    """

    predictor: nn.Linear
    people: int
    mean_gain: float
    correlation: float
    lost_by_half: float
    cost_of_half: float


def fit_gain(model: SHaRPose, sets: Sequence[tuple[Path, Path]]) -> Fit:
    """A linear predictor of the gain, by ridge regression on the quality token.

    The gain of a person is the difference between the stages in the share of AP's thresholds (OKS 0.5, 0.55 ... 0.95)
    that the pose reaches. The quality (Eq. 4) says how good a coarse pose is, which hardly correlates with the gain: a
    bad pose with hidden joints stays bad, and a body that extends out of the picture is large for its few keypoints.

    Args:
        model: in float32 on the CPU.
        sets: label files in COCO's keypoint form, hand labels, and folders of their pictures.

    Raises:
        ConfigError: the labels have other keypoints than the network.
        DatasetError: labels or a picture cannot be read, or there are too few people.
    """
    tokens, gains, pictures, measures = [], [], [], []
    for number, (labels, images) in enumerate(sets):
        document = read_labels(labels, first=model.variant.skeleton)
        if by_pckh(document):
            raise DatasetError(f"{labels} is MPII's own, of which PCKh is measured, not AP; COCO's form is wanted")
        check_keypoints(model.variant, document)
        token, gain, image_ids, ap_of = _known(model, document, images)
        tokens.append(token)
        gains.append(gain)
        measures.append(ap_of)
        pictures.append(np.stack([np.full(len(gain), number), image_ids], 1))
    x, y = np.concatenate(tokens).astype(np.float64), np.concatenate(gains)
    if len(y) < LEAST_PEOPLE:
        raise DatasetError(
            f"{len(y)} people with keypoints in {', '.join(str(labels) for labels, _ in sets)}; "
            f"{LEAST_PEOPLE} or more are wanted to predict a gain from {x.shape[1]} features"
        )
    if not y.std() or y.mean() <= 0:
        raise DatasetError(
            f"the fine stage adds {y.mean():.4f} AP to these {len(y)} people, so there is no gain to predict; weights "
            "of a trained network are wanted, and labels that both stages do not reach alike"
        )
    predicted = _left_out(x, y, np.concatenate(pictures))
    early = predicted <= np.median(predicted)
    weight, bias = _ridge(x, y)
    predictor = nn.Linear(x.shape[1], 1)
    with torch.no_grad():
        predictor.weight.copy_(torch.from_numpy(weight)[None])
        predictor.bias.fill_(bias)
    lost, correlation = float(y[early].sum() / y.sum()), float(np.corrcoef(predicted, y)[0, 1])
    ends = np.cumsum([len(gain) for gain in gains])[:-1]
    parts = zip(measures, np.split(early, ends), strict=True)
    costs = [len(leaves) * (ap_of(np.zeros_like(leaves)) - ap_of(leaves)) for ap_of, leaves in parts]
    return Fit(predictor, len(y), float(y.mean()), correlation, lost, float(sum(costs) / len(y)))


def _known(
    model: SHaRPose, document: dict[str, Any], images: Path
) -> tuple[Any, Any, Any, Callable[[NDArray[np.bool_]], float]]:
    """Quality tokens (N, D), gains (N,) and picture ids (N,) of the people in a dataset, and a function for its AP if
    some of them (N,) are not refined."""
    boxes = truth_boxes(document)
    order = np.argsort(boxes.image_ids, kind="stable")  # the order in which they go through the network
    boxes = boxes.take(order)
    tokens: list[Tensor] = []
    hook = model.quality_predictor.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].float()))
    try:
        predictions = predict(model, document, images, boxes)
    finally:
        hook.remove()
    coarse, fine = (reached(np.nan_to_num(true_oks(predictions, document, stage))) for stage in ("coarse", "fine"))
    width = model.variant.width

    def ap_of(early: NDArray[np.bool_]) -> float:
        coarse = predictions.coarse_keypoints, predictions.coarse_scores
        poses = mixed(early, coarse, (predictions.fine_keypoints, predictions.fine_scores))
        return ap(results(predictions, *poses, skeleton_of(document)), document)["AP"]

    return torch.cat([*tokens, torch.zeros(0, width)]).numpy(), fine - coarse, boxes.image_ids, ap_of


def _ridge(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weights (D,) and bias that predict y (N,) from x (N, D)."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / spread
    weight = np.linalg.solve(z.T @ z + RIDGE * len(y) * np.eye(x.shape[1]), z.T @ (y - y.mean())) / spread
    return weight, float(y.mean() - mean @ weight)


def _left_out(x: NDArray[np.float64], y: NDArray[np.float64], pictures: NDArray[np.int64]) -> NDArray[np.float64]:
    """Predictions (N,) for each person by a fit without a fifth of the pictures, including that of the person."""
    _, of = np.unique(pictures, axis=0, return_inverse=True)
    fold = np.random.default_rng(0).permutation(of.max() + 1)[of.ravel()] % FOLDS
    predicted = np.full(len(y), y.mean())
    for number in range(FOLDS):
        out = fold == number
        if out.any() and not out.all():
            weight, bias = _ridge(x[~out], y[~out])
            predicted[out] = x[out] @ weight + bias
    return predicted
