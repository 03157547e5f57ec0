"""COCO keypoint AP by pycocotools, at any quality threshold, with the work that the threshold saves.

A person's score is that of the box times the mean of keypoint scores above 0.2, as usual (Xiao et al. 2018), here
weighted by sigma, times the predicted quality; OKS-NMS at 0.9 is applied to detected people.
"""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError
from sharpose_rt.evaluation.boxes import Boxes
from sharpose_rt.evaluation.mpii import pckh_metrics
from sharpose_rt.evaluation.predict import Predictions
from sharpose_rt.evaluation.truth import by_pckh, label_triples, labels_of, skeleton_of
from sharpose_rt.geometry.oks import oks, person_scores
from sharpose_rt.labels.coco import looked_at
from sharpose_rt.models import SHaRPose
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeleton import COCO17, Skeleton
from sharpose_rt.types import Float32

NMS_OKS = 0.9
METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR")
AP_THRESHOLDS = np.arange(0.5, 0.96, 0.05)
"""The OKS thresholds over which AP is the mean."""


def score(
    predictions: Predictions,
    document: dict[str, Any],
    gate: Gate,
    model: object = None,
) -> dict[str, Any]:
    """All metrics of a run with this gate.

    Returns:
        AP, AP50, AP75, APM, APL, AR (0..1; -1 if nobody has this size); AP_coarse and AP_fine of each stage alone; for
        MPII's own labels the keys of `mpii.pckh_metrics` instead. exit_rate, the share of crops that are not refined;
        gmacs_per_person (NaN for estimators other than SHaRPose networks); people, images; quality_threshold,
        refine_from_px, refine_from_gain. For ground-truth boxes also oks_coarse and oks_fine (means); quality_pearson,
        quality_spearman and quality_mae against the true OKS of the coarse stage; score_spearman of people's scores
        against that of the fine stage; and, if predicted, gain_pearson against the gain in AP (NaN if it is constant).
    """
    keypoints, scores, refined = predictions.gated(gate)
    exit_rate = float(1 - refined.mean()) if len(refined) else 0.0
    result: dict[str, Any] = {}
    if by_pckh(document):
        result |= pckh_metrics(predictions, document, gate)
    else:
        skeleton = skeleton_of(document)
        result |= ap(results(predictions, keypoints, scores, skeleton), document)
        for name in ("coarse", "fine"):
            stage = getattr(predictions, f"{name}_keypoints"), getattr(predictions, f"{name}_scores")
            result[f"AP_{name}"] = ap(results(predictions, *stage, skeleton), document)["AP"]
    result |= {
        "exit_rate": exit_rate,
        "gmacs_per_person": gmacs(model, exit_rate, predictions.flip_test),
        "people": len(predictions),
        "images": len(looked_at(document)),
        **vars(gate),
    }
    return result | quality_check(predictions, document)


def gmacs(model: object, exit_rate: float, flip_test: bool = False) -> float:
    """Mean multiply-accumulates per person, in billions, including a mirrored crop; NaN for anything but a SHaRPose
    network."""
    from sharpose_rt.models.cost import measure_cost

    if not isinstance(model, SHaRPose):
        return math.nan
    crops = 2 if flip_test else 1  # refined people are refined in both
    return crops * measure_cost(model.variant, model.behaviour).gmacs_at(exit_rate)


def results(
    predictions: Predictions, keypoints: Float32, keypoint_scores: Float32, skeleton: Skeleton = COCO17
) -> list[dict[str, Any]]:
    """Poses in COCO's result form with scores; OKS-NMS is applied to detected boxes."""
    boxes = predictions.boxes
    if not len(boxes):
        return []
    sure = person_scores(boxes.scores, keypoint_scores, predictions.quality, skeleton.sigmas)
    kept = np.ones(len(boxes), bool)
    if (boxes.annotation_ids < 0).any():
        kept = oks_nms(boxes, keypoints, sure, skeleton)
    triples = np.concatenate([keypoints, keypoint_scores[..., None]], -1).reshape(len(boxes), -1)
    return [
        {
            "image_id": int(boxes.image_ids[i]),
            "category_id": 1,
            "keypoints": [round(float(v), 3) for v in triples[i]],
            "score": float(sure[i]),
        }
        for i in np.flatnonzero(kept)
    ]


def oks_nms(
    boxes: Boxes, keypoints: Float32, scores: NDArray[np.floating], skeleton: Skeleton = COCO17, limit: float = NMS_OKS
) -> NDArray[np.bool_]:
    """Who is kept (N,): in each picture the strongest pose removes all that are more similar to it than `limit`."""
    areas = np.prod(boxes.bboxes_xyxy[:, 2:] - boxes.bboxes_xyxy[:, :2], 1)
    kept = np.zeros(len(boxes), bool)
    for image_id in np.unique(boxes.image_ids):
        rows = np.flatnonzero(boxes.image_ids == image_id)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        while len(rows):
            first, rest = rows[0], rows[1:]
            kept[first] = True
            area = (areas[first] + areas[rest]) / 2
            counted = np.ones((len(rest), len(skeleton)))
            similar = oks(keypoints[rest], keypoints[first][None], counted, area, skeleton.sigmas)
            rows = rest[similar <= limit]
    return kept


def pycocotools() -> tuple[Any, Any]:
    """COCO and COCOeval of pycocotools.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ConfigError("AP needs pycocotools: pip install 'sharpose-rt[train]'") from error
    return COCO, COCOeval


def ap(people: list[dict[str, Any]], document: dict[str, Any]) -> dict[str, float]:
    """COCO's six keypoint metrics of results in COCO's form, by pycocotools with the sigmas of the labels' keypoint
    set."""
    labels_of_coco, evaluator = pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = labels_of_coco()
        # For pycocotools, id 0 means "not matched".
        people_there = [{**a, "category_id": 1, "id": n} for n, a in enumerate(document["annotations"], start=1)]
        truth.dataset = {"info": {}, **document, "annotations": people_there}  # type: ignore[reportAttributeAccessIssue]
        truth.createIndex()
        # A list is accepted as well.
        found = truth.loadRes(people) if people else labels_of_coco()  # type: ignore[reportArgumentType]
        evaluation = evaluator(truth, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(skeleton_of(document).sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats[: len(METRICS)]), strict=True))


def true_oks(predictions: Predictions, document: dict[str, Any], stage: str) -> NDArray[np.float64]:
    """OKS (N,) of a stage ('coarse' or 'fine') with the label of each box."""
    records = labels_of(predictions.boxes.annotation_ids, document)
    return oks_with_labels(getattr(predictions, f"{stage}_keypoints"), records, document)


def oks_with_labels(keypoints: Float32, records: list[dict[str, Any]], document: dict[str, Any]) -> NDArray[np.float64]:
    """OKS (N,) of keypoints (N, K, 2) with the labels of these records."""
    truth, areas = label_triples(records), np.array([record["area"] for record in records], np.float64)
    return oks(keypoints, truth[..., :2], truth[..., 2], areas, skeleton_of(document).sigmas)


def quality_check(predictions: Predictions, document: dict[str, Any]) -> dict[str, float]:
    """How well quality and score predict the true OKS of the coarse and fine stage; empty for detected boxes."""
    if not len(predictions) or (predictions.boxes.annotation_ids < 0).any():
        return {}
    from scipy.stats import rankdata  # takes half a second to import

    coarse, fine = true_oks(predictions, document, "coarse"), true_oks(predictions, document, "fine")
    given, sigmas = predictions.boxes.scores, skeleton_of(document).sigmas
    scores = person_scores(given, predictions.fine_scores, predictions.quality, sigmas)
    ranks = [rankdata(values) for values in (predictions.quality, coarse, scores, fine)]
    found = {
        "oks_coarse": float(coarse.mean()),
        "oks_fine": float(fine.mean()),
        "quality_pearson": _correlation(predictions.quality, coarse),
        "quality_spearman": _correlation(*ranks[:2]),
        "score_spearman": _correlation(*ranks[2:]),
        "quality_mae": float(np.abs(predictions.quality - coarse).mean()),
    }
    if predictions.gain is not None and np.isfinite(predictions.gain).all():
        found["gain_pearson"] = _correlation(predictions.gain, reached(fine) - reached(coarse))
    return found


def reached(similarity: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share (N,) of AP's thresholds (OKS 0.5, 0.55 ... 0.95) that poses with this similarity (N,) reach."""
    return (similarity[:, None] >= AP_THRESHOLDS).mean(1)


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    if np.std(a) == 0 or np.std(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
