"""How well the appearance network recognises people, measured on a skeleton stream and its video.

No labels are needed: an id that continues through all frames is one person, and people in the same frame are different.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu

from sharpose_rt.errors import DatasetError
from sharpose_rt.skeletons import FrameRecord
from sharpose_rt.types import PoseStage

EVERY_S = 0.5
"""Time between looks at a person."""
GAPS_S = ((1.0, 3.0), (3.0, 8.0))
"""Times between two looks that are compared."""
TALL_PX = 60
"""Least height of people who are compared."""
FALSE_SHARE = 0.01

LookAt = Callable[[NDArray[np.uint8], ArrayLike], NDArray[np.float32]]
"""Unit vectors (N, D) of the people in boxes (N, 4) of a picture (H, W, 3)."""


def evaluate_appearance(frames: Iterable[tuple[NDArray[np.uint8], FrameRecord]], look: LookAt) -> dict[str, Any]:
    """How well pairs of looks at one person are distinguished from pairs of two people.

    For each of `GAPS_S`: `auc` (of the cosine), `known_again` (the share of pairs of one person that are more similar
    than all but `FALSE_SHARE` of the pairs of two), and the numbers of `same` and `other` pairs; also `looks`, `people`
    and `ms_a_look` (median over frames).

    Args:
        frames: pictures (H, W, 3) BGR and their people, from a run without re-identification (`--set
            tracker.remember_s=0`), so that each id is one unbroken track.
        look: the network.

    Raises:
        DatasetError: nobody was seen twice.
    """
    vectors, ids, times, took_ms = [], [], [], []
    last_s = -np.inf
    for image_bgr, record in frames:
        rows, poses = _large(record), record.poses
        if record.pts_s - last_s < EVERY_S or not len(rows):
            continue
        last_s = record.pts_s
        began_s = time.perf_counter()
        vectors.append(look(image_bgr, poses.bboxes_xyxy[rows]))
        took_ms.append(1e3 * (time.perf_counter() - began_s) / len(rows))
        ids.append(poses.track_ids[rows])
        times.append(np.full(len(rows), record.pts_s))
    if not vectors:
        raise DatasetError(f"the stream has nobody with an id who is {TALL_PX} px tall and has a picture")
    result = pairs(np.concatenate(vectors), np.concatenate(ids), np.concatenate(times))
    return result | {"ms_a_look": float(np.median(took_ms))}


def pairs(vectors: NDArray[np.float32], track_ids: NDArray[np.int64], times_s: NDArray[np.float64]) -> dict[str, Any]:
    """The metrics of `evaluate_appearance` from looks: unit vectors (N, D), ids (N,) and times (N,) s.

    The mean of all looks is subtracted first, as in the tracker.

    Raises:
        DatasetError: nobody was seen twice, or nobody else at the same time.
    """
    centred = vectors - vectors.mean(0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    alike = centred @ centred.T
    ahead_s = times_s[None] - times_s[:, None]
    same = track_ids[:, None] == track_ids[None]
    begins_s, ends_s = (np.array([end(times_s[track_ids == i]) for i in track_ids]) for end in (np.min, np.max))
    together = (begins_s[:, None] <= ends_s[None]) & (begins_s[None] <= ends_s[:, None])
    result: dict[str, Any] = {"looks": len(vectors), "people": len(np.unique(track_ids))}
    for low_s, high_s in GAPS_S:
        apart = (ahead_s >= low_s) & (ahead_s < high_s)
        of_one, of_two = alike[apart & same], alike[apart & ~same & together]
        if not len(of_one) or not len(of_two):
            raise DatasetError(
                f"{len(of_one)} pairs of looks, {low_s:g} to {high_s:g} s apart, are of one person and {len(of_two)} "
                "of two who are there together; both are wanted, so take a longer video with several people"
            )
        name = f"{low_s:g}_to_{high_s:g}_s"
        result |= {
            f"auc_{name}": float(mannwhitneyu(of_one, of_two, method="asymptotic").statistic)
            / (len(of_one) * len(of_two)),
            f"known_again_{name}": float((of_one > np.quantile(of_two, 1 - FALSE_SHARE)).mean()),
            f"same_{name}": len(of_one),
            f"other_{name}": len(of_two),
        }
    return result


def _large(record: FrameRecord) -> NDArray[np.int64]:
    poses = record.poses
    height = poses.bboxes_xyxy[:, 3] - poses.bboxes_xyxy[:, 1]
    return np.flatnonzero((poses.track_ids > 0) & (poses.stage != PoseStage.PREDICTED) & (height >= TALL_PX))
