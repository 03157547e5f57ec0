"""COCO keypoint AP by pycocotools, at any quality threshold, with what the threshold saves.

A person's score is the box's times the mean of the keypoint scores above 0.2, as is usual (Xiao et al. 2018), here
weighted by sigma, times the predicted quality; detected people are thinned by OKS-NMS at 0.9.
"""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.errors import ConfigError, DatasetError
from sharpose_rt.evaluation.mpii import check_pckh, is_mpii, pckh_metrics, skeleton_of
from sharpose_rt.evaluation.predict import (
    SCORE_THRESHOLD,
    Boxes,
    Estimate,
    Float32,
    Predictions,
    closer_padding,
    detector_boxes,
    file_boxes,
    predict,
    truth_boxes,
)
from sharpose_rt.geometry.oks import oks, person_scores
from sharpose_rt.labels.coco import (
    area_of,
    box_of,
    check_picture,
    check_thirds,
    keypoints_of,
    looked_at,
    number_of,
    people_ids,
    people_records,
    picture_paths,
    put_in_order,
    read_json,
    wrong_record,
)
from sharpose_rt.models import VARIANTS, SHaRPose, Variant
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeleton import COCO17, Skeleton

NMS_OKS = 0.9
METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR")
AP_THRESHOLDS = np.arange(0.5, 0.96, 0.05)
"""Of OKS, those that AP is the mean over."""


def evaluate(
    model: SHaRPose | Estimate,
    annotations: Path,
    images: Path,
    *,
    boxes: str = "gt",
    detector: DetectorConfig | None = None,
    gate: Gate | None = None,
    batch: int = 16,
    head_boxes: Path | None = None,
) -> dict[str, Any]:
    """Metrics of a model on a label file; see `score` for the keys.

    Args:
        model: a network, or any estimator of poses in boxes.
        annotations: hand-labelled people in COCO's keypoint form.
        images: folder of the pictures.
        boxes: 'gt', 'detector', or a file of detections in COCO's result form.
        detector: which detector, where it is asked for.
        gate: who takes the fine stage's pose; None: all.
        batch: crops at once.
        head_boxes: `mpii_gt_val.mat`, for MPII's common JSON.

    Raises:
        ConfigError: the labels are of other keypoints than the network's.
        DatasetError: labels, boxes or pictures are wrong.
        DetectorError: the detector cannot be had.
    """
    document = read_labels(annotations, head_boxes, model.variant.skeleton if isinstance(model, SHaRPose) else COCO17)
    if isinstance(model, SHaRPose):
        check_keypoints(model.variant, document)
    if document["annotations"]:
        check_pckh(document, in_truth=boxes == "gt")
    chosen, gate = choose_boxes(boxes, document, images, detector), gate or Gate()
    predictions = predict(model, document, images, chosen, near_padding=closer_padding(gate), batch=batch)
    return score(predictions, document, gate, model)


def read_labels(path: Path, head_boxes: Path | None = None, first: Skeleton = COCO17) -> dict[str, Any]:
    """The people of a label file as pycocotools wants them, category 1: what may be missing (area, crowd flag, count,
    keypoints) filled in.

    Who is a person, says `labels.coco.people_records`, and which keypoint is which, `put_in_order` there, with
    `first`, the network's keypoints. MPII's files are read too, see `labels.coco.read_json`. A list of pictures
    without labels, as COCO publishes it for its test sets, has an empty list of annotations. The people's categories in
    the file stay as `people_ids`.

    Raises:
        DatasetError: the file or a record is wrong, or nobody in it is a person; names both.
    """
    document = read_json(path, head_boxes, labelled=False)
    skeleton = put_in_order(document, path, first) or first
    index_of, people = picture_ids(document["images"], path), {}
    for number, record in people_records(document, path):
        check_picture(record, number, path, index_of)
        person = _filled_in(record, number, path, len(skeleton))
        if person["id"] in people:
            raise wrong_record(path, number, f"it repeats the id {person['id']}")
        people[person["id"]] = person
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.keypoints)}
    ids = people_ids(document, path) if people else None
    return {**document, "annotations": list(people.values()), "categories": [category], "people_ids": ids}


def _filled_in(record: dict[str, Any], number: int, path: Path, joints: int) -> dict[str, Any]:
    """A record with all that pycocotools reads; null is the same as missing."""
    person = {key: value for key, value in record.items() if value is not None}
    if not _is_int64(person.get("id")):
        raise wrong_record(path, number, f"id is {person.get('id')!r:.80}; an integer is wanted, of 64 bits at most")
    box = box_of(person, number, path, empty=True)
    person["keypoints"] = person.get("keypoints") or [0] * (3 * joints)
    person["keypoints"] = keypoints_of(person, number, path, joints)
    visibility = person["keypoints"][2::3]
    if any(0 < v < 1 for v in visibility):
        raise wrong_record(
            path,
            number,
            "it has keypoint scores, so a teacher wrote it; AP is measured on hand labels (visibility 0, 1, 2)",
        )
    check_thirds(np.array([visibility], np.float64), "hand", path, [number])
    numbers = {"num_keypoints": sum(v > 0 for v in visibility), "iscrowd": 0}
    checked = {key: number_of(person, key, number, path, value) for key, value in numbers.items()}
    return {**person, **checked, "area": area_of(person, box, number, path), "category_id": 1}


def picture_ids(images: list[Any], path: Path) -> dict[int, int]:
    """Index of each picture's id; raises DatasetError where a record is wrong or an id no integer, as COCO has it."""
    index_of, _ = picture_paths(images, path, Path())
    for image_id, index in index_of.items():
        if not _is_int64(image_id):
            raise DatasetError(
                f"{path}: images[{index}] has the id {image_id!r:.80}; an integer is wanted, of 64 bits at most"
            )
    return index_of


def _is_int64(value: Any) -> bool:
    """Whether a value is an integer that arrays of ids can hold."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and -(2**63) <= value < 2**63


def check_keypoints(variant: Variant, document: dict[str, Any]) -> None:
    """Nothing, where a network gives the keypoints that the labels have, or there are no labels.

    Raises:
        ConfigError: it gives others; names the variants that fit.
    """
    labelled = skeleton_of(document)
    if document["annotations"] and variant.skeleton.keypoints != labelled.keypoints:
        fitting = " or ".join(v.name for v in VARIANTS.values() if v.skeleton.keypoints == labelled.keypoints)
        raise ConfigError(
            f"the labels have the {len(labelled)} keypoints of {labelled.name}, but {variant.name} gives the "
            f"{len(variant.skeleton)} of {variant.skeleton.name}; --model {fitting} fits"
        )


def choose_boxes(boxes: str, document: dict[str, Any], images: Path, detector: DetectorConfig | None = None) -> Boxes:
    """Boxes by the word or the file that --boxes takes.

    Raises:
        ConfigError: it is neither.
        DatasetError: the file is wrong.
        DetectorError: the detector cannot be had.
    """
    if boxes == "gt":
        return truth_boxes(document)
    if boxes == "detector":
        return detector_boxes(document, images, detector or DetectorConfig(score_threshold=SCORE_THRESHOLD))
    if not Path(boxes).is_file():
        raise ConfigError(f"--boxes is {boxes!r}: no such file; 'gt', 'detector' or a file of detections is accepted")
    found = file_boxes(Path(boxes), document.get("people_ids"))
    unlabelled = {image["id"] for image in document["images"]} - {image["id"] for image in looked_at(document)}
    return found.take(~np.isin(found.image_ids, list(unlabelled)))


def score(
    predictions: Predictions,
    document: dict[str, Any],
    gate: Gate,
    model: object = None,
) -> dict[str, Any]:
    """All metrics of a run with this gate.

    Returns:
        AP, AP50, AP75, APM, APL, AR (0..1; -1 where nobody is of that size); AP_coarse and AP_fine, of either stage
        alone; on MPII instead of these the keys of `mpii.pckh_metrics`. exit_rate, the share of crops that leave after
        the coarse stage; gmacs_per_person (NaN for an estimator that is no SHaRPose network); people, images;
        quality_threshold, refine_from_px, refine_from_gain; for ground-truth boxes also oks_coarse and oks_fine
        (means), quality_pearson, quality_spearman and quality_mae against the coarse stage's true OKS, score_spearman
        of the people's scores against the fine one's, and, where it is predicted, gain_pearson against the gain in AP
        (NaN where it does not vary).
    """
    keypoints, scores, refined = predictions.gated(gate)
    exit_rate = float(1 - refined.mean()) if len(refined) else 0.0
    result: dict[str, Any] = {}
    if is_mpii(document):
        result |= pckh_metrics(predictions, document, gate)
    else:
        result |= ap(results(predictions, keypoints, scores), document)
        for name in ("coarse", "fine"):
            stage = getattr(predictions, f"{name}_keypoints"), getattr(predictions, f"{name}_scores")
            result[f"AP_{name}"] = ap(results(predictions, *stage), document)["AP"]
    result |= {
        "exit_rate": exit_rate,
        "gmacs_per_person": gmacs(model, exit_rate, predictions.flip_test),
        "people": len(predictions),
        "images": len(document["images"]),
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
    """COCO's six keypoint metrics of results in COCO's form, by pycocotools; all 0 where there is nobody."""
    labels_of_coco, evaluator = pycocotools()
    if not people:
        return dict.fromkeys(METRICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = labels_of_coco()
        # pycocotools takes the id 0 for "matched with nobody".
        people_there = [{**a, "category_id": 1, "id": n} for n, a in enumerate(document["annotations"], start=1)]
        truth.dataset = {"info": {}, **document, "annotations": people_there}  # type: ignore[reportAttributeAccessIssue]
        truth.createIndex()
        found = truth.loadRes(people)  # type: ignore[reportArgumentType]  (a list is taken as well)
        evaluation = evaluator(truth, found, "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats]
    return dict(zip(METRICS, [*stats[:5], stats[5]], strict=True))


def true_oks(predictions: Predictions, document: dict[str, Any], stage: str) -> NDArray[np.float64]:
    """OKS (N,) of a stage ('coarse' or 'fine') with the label whose box each pose was made in."""
    return oks_with_labels(getattr(predictions, f"{stage}_keypoints"), labels_of(predictions, document), document)


def labels_of(predictions: Predictions, document: dict[str, Any]) -> list[dict[str, Any]]:
    """The records (N) whose boxes the poses were made in; the boxes must be ground truth."""
    by_id = {record["id"]: record for record in document["annotations"]}
    return [by_id[i] for i in predictions.boxes.annotation_ids.tolist()]


def label_triples(records: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Labelled x, y and visibility (N, K, 3)."""
    return np.array([record["keypoints"] for record in records], np.float64).reshape(len(records), -1, 3)


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
