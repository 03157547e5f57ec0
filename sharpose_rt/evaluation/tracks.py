"""How well people are tracked: HOTA, IDF1, MOTA against labels, and the jitter of keypoints, with or without labels.

HOTA (Luiten et al. 2021), IDF1 (Ristani et al. 2016) and CLEAR MOT (Bernardin et al. 2008) are computed by
`trackers.eval`, which follows TrackEval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sharpose_rt.errors import ConfigError, DatasetError
from sharpose_rt.evaluation.track_truth import TrackTruth, TruthFrame, milliseconds, read_truth
from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.geometry.oks import oks
from sharpose_rt.skeleton import SKELETONS, Skeleton
from sharpose_rt.skeletons import FrameRecord, StreamReader
from sharpose_rt.types import Person, Poses, PoseStage

Similarity = Literal["iou", "oks"]
_NAMES = {
    "HOTA": "HOTA", "DetA": "DetA", "AssA": "AssA", "LocA": "LocA", "IDF1": "IDF1", "IDP": "IDP", "IDR": "IDR",
    "MOTA": "MOTA", "MOTP": "MOTP", "IDSW": "id_switches", "Frag": "fragmentations", "CLR_FP": "false_positives",
    "CLR_FN": "misses", "MT": "mostly_tracked", "ML": "mostly_lost",
}  # fmt: skip


def evaluate_tracks(
    stream: Path,
    truth: Path | None = None,
    *,
    similarity: Similarity = "iou",
    threshold: float = 0.5,
    min_score: float = 0.3,
) -> dict[str, Any]:
    """Metrics of a skeleton stream: those of `track_metrics` if there are labels, and those of `jitter`.

    Args:
        stream: the skeleton stream.
        truth: labels, see `read_truth`; for another stream, frames with the same media time are compared, so either may
            lack frames (`--stride`, a live run) or start later.
        similarity: how people are matched with labels: overlap of boxes, or similarity of poses (of the first 17
            keypoints, if these are COCO's).
        threshold: least similarity, 0..1, for MOTA and IDF1 (HOTA uses all).
        min_score: keypoints below do not count for the jitter.

    Raises:
        StreamError, DatasetError: the stream or the labels are wrong, or do not match.
        ConfigError: the labels have no keypoints for OKS, or others than the stream.
    """
    reader = StreamReader(stream)
    frames, skeleton = list(reader), reader.of_coco().header.skeleton  # labels rarely have feet, hands and faces
    result: dict[str, Any] = {}
    if truth is not None:
        labels = read_truth(truth, skeleton if similarity == "oks" else None)
        compared = [replace(frame, poses=frame.poses.first(len(skeleton))) for frame in frames]
        if labels.frame_at is not None:
            compared = _renumbered(compared, labels.frame_at)
        _check_reach(compared, labels, stream, truth)
        result |= track_metrics(compared, labels, skeleton, similarity, threshold)
    return result | jitter(frames, min_score)


def _renumbered(frames: list[FrameRecord], frame_at: dict[int, int]) -> list[FrameRecord]:
    """The frames with the same media time as labels, with their numbers; a run may lack some."""
    numbers = [frame_at.get(milliseconds(frame.pts_s)) for frame in frames]
    return [replace(frame, frame_id=n) for frame, n in zip(frames, numbers, strict=True) if n is not None]


def _check_reach(frames: list[FrameRecord], labels: TrackTruth, stream: Path, truth: Path) -> None:
    """Refuses a stream that ends long before the labels: by more than its longest gap."""
    last = max((n for n, frame in labels.frames.items() if frame.ids), default=-1)
    numbers = [frame.frame_id for frame in frames]
    if not numbers or last >= numbers[-1] + max(np.diff(numbers), default=1):
        raise DatasetError(
            f"{truth} has people in frame {last} (from 0), but of its frames {stream} "
            f"{f'ends at {numbers[-1]}' if numbers else 'has none'}; are they of the same clip, read to its end?"
        )


def track_metrics(
    frames: list[FrameRecord],
    truth: TrackTruth,
    skeleton: Skeleton,
    similarity: Similarity = "iou",
    threshold: float = 0.5,
) -> dict[str, Any]:
    """HOTA, DetA, AssA, LocA, IDF1, IDP, IDR, MOTA, MOTP (0..1; MOTA may be negative), and counts of `id_switches`,
    `fragmentations`, `false_positives`, `misses`, `mostly_tracked`, `mostly_lost`, `people`, `frames` and
    `frames_missing`.

    Only labelled frames that are in the stream count; it lacks `frames_missing` of them, for example because a live run
    dropped frames. People without a track id do not count.

    Raises:
        ConfigError: `similarity` is unknown, the labels have no keypoints for OKS, or the set has no sigmas.
        DatasetError: nobody of the stream has a track id though there are people, or no labelled frame is in it.
    """
    from trackers.eval import compute_clear_metrics, compute_hota_metrics, compute_identity_metrics

    if similarity not in ("iou", "oks"):
        raise ConfigError(f"similarity is {similarity!r}; 'iou' or 'oks' is accepted")
    if similarity == "oks" and not truth.has_keypoints:
        raise ConfigError("the labels have no keypoints for OKS; similarity 'iou' compares boxes")
    if similarity == "oks" and not skeleton.sigmas:
        raise ConfigError(
            f"the keypoints of {skeleton.name} have no sigmas for OKS; those of {', '.join(SKELETONS)} have"
        )
    if all(not frame.poses.track_ids.any() for frame in frames) and any(len(frame.poses) for frame in frames):
        raise DatasetError("nobody in the stream has a track id; run with a tracker")
    rows = [
        _compare(frame.poses, truth.frames.get(frame.frame_id, TruthFrame()), skeleton, similarity)
        for frame in frames
        if truth.labelled is None or frame.frame_id in truth.labelled
    ]
    labelled = truth.labelled if truth.labelled is not None else range(max(truth.frames, default=-1) + 1)
    missing = len(set(labelled) - {frame.frame_id for frame in frames})
    if not rows:
        raise DatasetError(f"the stream has none of the {missing} labelled frames; are they of the same clip?")
    wanted, found, alike = ([row[i] for row in rows] for i in range(3))
    metrics = {
        **compute_hota_metrics(wanted, found, alike),
        **compute_identity_metrics(wanted, found, alike, threshold=threshold),
        **compute_clear_metrics(wanted, found, alike, threshold=threshold),
    }
    result: dict[str, Any] = {name: metrics[key] for key, name in _NAMES.items()}
    return result | {"people": len(np.unique(np.concatenate(wanted))), "frames": len(rows), "frames_missing": missing}


def _compare(
    poses: Poses, frame: TruthFrame, skeleton: Skeleton, similarity: Similarity
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Ids of the labels (N,) and of the tracks (M,), and their similarities (N, M)."""
    kept = np.flatnonzero(poses.track_ids > 0)
    boxes = np.array(frame.boxes, np.float64).reshape(-1, 4)
    if (frame.ignored or frame.crowds) and len(kept):
        kept = kept[~_on_ignored(boxes, frame, poses.bboxes_xyxy[kept])]
    ids, tracks = np.array(frame.ids, np.int64), poses.track_ids[kept]
    if similarity == "iou" or not len(ids):
        return ids, tracks, iou_matrix(boxes, poses.bboxes_xyxy[kept])
    truth = frame.table()
    areas = np.array(frame.areas)[:, None]
    alike = oks(poses.keypoints[kept][None], truth[:, None, :, :2], truth[:, None, :, 2], areas, skeleton.sigmas)
    return ids, tracks, alike


def _on_ignored(boxes: NDArray[np.float64], frame: TruthFrame, found: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(M,) which of `found` match an ignored box best, with an overlap of at least 0.5, as in TrackEval, or match
    nobody and are at least half in a crowd."""
    counted, ignored = (np.array(part, np.float64).reshape(-1, 4) for part in ([*boxes, *frame.others], frame.ignored))
    overlap = iou_matrix(np.concatenate([counted, ignored]), found)
    overlap[overlap < 0.5] = 0
    rows, columns = linear_sum_assignment(-overlap)
    fits, counts = overlap[rows, columns] > 0, rows < len(counted)
    result = np.zeros(len(found), bool)
    if frame.crowds:
        result = np.array([_share_inside(box, frame.crowds) >= 0.5 for box in found.astype(np.float64)])
    result[columns[fits]] = ~counts[fits]
    return result


def _share_inside(box_xyxy: NDArray[np.float64], regions: Sequence[NDArray[np.float64]], side: int = 64) -> float:
    """Share of a box covered by regions with corners (n, 2), on a grid of `side` by `side` cells."""
    size = np.maximum(box_xyxy[2:] - box_xyxy[:2], 1e-6)
    covered = np.zeros((side, side), np.uint8)
    for region in regions:
        cells = ((region - box_xyxy[:2]) / size * side - 0.5).clip(-1e4, 1e4)
        cv2.fillPoly(covered, [cells.round().astype(np.int32)], 1)
    return float(covered.mean())


def jitter(frames: list[FrameRecord], min_score: float = 0.3) -> dict[str, float]:
    """Mean acceleration of keypoints in px/s²: `jitter_raw_px_s2` and `jitter_smoothed_px_s2`; NaN if nobody stays.

    Both are over the same triples of consecutive frames in which a track was measured and a keypoint is certain, raw
    and smoothed, with the true times of the frames. Steady motion does not count, shaking counts much."""
    raw, smoothed = [np.zeros(0)], [np.zeros(0)]
    for three in zip(frames, frames[1:], frames[2:], strict=False):
        times_s = np.array([frame.pts_s for frame in three])
        if np.diff(times_s).min() <= 0:
            continue
        for people in _same_people(three):
            sure = np.minimum.reduce([(p.raw_keypoint_scores, p.keypoint_scores) for p in people]).min(0) >= min_score
            raw.append(_acceleration([p.raw_keypoints[sure] for p in people], times_s))
            smoothed.append(_acceleration([p.keypoints[sure] for p in people], times_s))
    columns = {"jitter_raw_px_s2": np.concatenate(raw), "jitter_smoothed_px_s2": np.concatenate(smoothed)}
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in columns.items()}


def _same_people(frames: tuple[FrameRecord, ...]) -> Iterator[list[Person]]:
    """Each track that was measured in all frames, as a list with its person in each."""
    people = [
        {p.track_id: p for p in map(f.poses.__getitem__, range(len(f.poses))) if p.stage != PoseStage.PREDICTED.label}
        for f in frames
    ]
    for track_id in people[0]:
        if track_id > 0 and all(track_id in found for found in people):
            yield [found[track_id] for found in people]


def _acceleration(points: Sequence[NDArray[np.float32]], times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K,) px/s² of points (K, 2) at three times: the second divided difference."""
    before, now, after = (np.asarray(p, np.float64) for p in points)
    first, second = times_s[1] - times_s[0], times_s[2] - times_s[1]
    return np.linalg.norm(2 * ((after - now) / second - (now - before) / first) / (first + second), axis=-1)
