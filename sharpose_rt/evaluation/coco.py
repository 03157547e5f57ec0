"""COCO keypoint AP by pycocotools, at any quality threshold, with what the threshold saves.

A person's score is the box's times the mean of the keypoint scores above 0.2, as is usual (Xiao et al. 2018), here
weighted by sigma, times the predicted quality; detected people are thinned by OKS-NMS at 0.9.
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
"""Of OKS, those that AP is the mean over."""


def score(
    predictions: Predictions,
    document: dict[str, Any],
    gate: Gate,
    model: object = None,
) -> dict[str, Any]:
    """All metrics of a run with this gate.

    Returns:
        AP, AP50, AP75, APM, APL, AR (0..1; -1 where nobody is of that size); AP_coarse and AP_fine, of either stage
        alone; of MPII's own labels the keys of `mpii.pckh_metrics` instead. exit_rate, the share of crops that leave
        after the coarse stage; gmacs_per_person (NaN for an estimator that is no SHaRPose network); people, images;
        quality_threshold, refine_from_px, refine_from_gain; for ground-truth boxes also oks_coarse and oks_fine
        (means), quality_pearson, quality_spearman and quality_mae against the coarse stage's true OKS, score_spearman
        of the people's scores against the fine one's, and, where it is predicted, gain_pearson against the gain in AP
        (NaN where it does not vary).
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
    """Mean multiply-accumulates a person, in billions, the mirrored crop's too where there is one; NaN for anything but
    a SHaRPose network."""
    from sharpose_rt.models.cost import measure_cost

    if not isinstance(model, SHaRPose):
        return math.nan
    crops = 2 if flip_test else 1  # who is refined is refined in both
    return crops * measure_cost(model.variant, model.behaviour).gmacs_at(exit_rate)


def results(
    predictions: Predictions, keypoints: Float32, keypoint_scores: Float32, skeleton: Skeleton = COCO17
) -> list[dict[str, Any]]:
    """Poses in COCO's result form, scored and, where boxes were detected, thinned by OKS-NMS."""
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
    """Who stays (N,): in each picture the strongest pose removes all that are more similar to it than `limit`."""
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
    """Its COCO and COCOeval.

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
    """COCO's six keypoint metrics of results in COCO's form, by pycocotools with the sigmas of the labels' set."""
    labels_of_coco, evaluator = pycocotools()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = labels_of_coco()
        # pycocotools takes the id 0 for "matched with nobody".
        people_there = [{**a, "category_id": 1, "id": n} for n, a in enumerate(document["annotations"], start=1)]
        truth.dataset = {"info": {}, **document, "annotations": people_there}  # type: ignore[reportAttributeAccessIssue]
        truth.createIndex()
        # A list is taken as well.
        found = truth.loadRes(people) if people else labels_of_coco()  # type: ignore[reportArgumentType]
        evaluation = evaluator(truth, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(skeleton_of(document).sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats[: len(METRICS)]), strict=True))


def true_oks(predictions: Predictions, document: dict[str, Any], stage: str) -> NDArray[np.float64]:
    """OKS (N,) of a stage ('coarse' or 'fine') with the label whose box each pose was made in."""
    records = labels_of(predictions.boxes.annotation_ids, document)
    return oks_with_labels(getattr(predictions, f"{stage}_keypoints"), records, document)


def oks_with_labels(keypoints: Float32, records: list[dict[str, Any]], document: dict[str, Any]) -> NDArray[np.float64]:
    """OKS (N,) of keypoints (N, K, 2) with the labels of these records."""
    truth, areas = label_triples(records), np.array([record["area"] for record in records], np.float64)
    return oks(keypoints, truth[..., :2], truth[..., 2], areas, skeleton_of(document).sigmas)


def quality_check(predictions: Predictions, document: dict[str, Any]) -> dict[str, float]:
    """How well quality and score say the coarse and the fine stage's true OKS; empty for detected boxes."""
    if not len(predictions) or (predictions.boxes.annotation_ids < 0).any():
        return {}
    from scipy.stats import rankdata  # half a second

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
    """Share of AP's thresholds (OKS 0.5, 0.55 ... 0.95) that poses of such similarity (N,) reach, (N,)."""
    return (similarity[:, None] >= AP_THRESHOLDS).mean(1)


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    if np.std(a) == 0 or np.std(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
