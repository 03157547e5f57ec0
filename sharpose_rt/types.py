"""The values that pass between stages: small, frozen, checked when built, printed as shapes instead of pixels.

Letters in shapes: N people, K keypoints. Coordinates are pixels of the upright source frame; (0, 0) is the centre of
the top left pixel. A stage never changes its input: arrays are read-only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import supervision as sv

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class PoseStage(IntEnum):
    """Where a pose comes from; its lower-case name is written to the skeleton stream."""

    COARSE = 0
    FINE = 1
    PREDICTED = 2

    @property
    def label(self) -> str:
        """'coarse', 'fine' or 'predicted'."""
        return self.name.lower()


def quality_factor(quality: ArrayLike) -> NDArray[np.float64]:
    """Predicted qualities as factors in 0..1 of a person's score; 1 where unknown (NaN)."""
    return np.clip(np.nan_to_num(np.asarray(quality, np.float64), nan=1), 0, 1)


def _array(owner: str, name: str, value: object, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """A read-only contiguous array of `dtype`; otherwise raises ValueError with the field and both shapes."""
    array = np.ascontiguousarray(np.asarray(value), dtype=dtype)
    if array.ndim != len(shape) or any(w is not None and w != g for w, g in zip(shape, array.shape, strict=True)):
        want = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise ValueError(f"{owner}.{name} has shape {array.shape}; {want} is wanted")
    if array.base is not None or array is value:
        array = array.copy() if array.flags.writeable else array
    array.flags.writeable = False
    return array


class _Shaped:
    """Prints arrays as dtype and shape."""

    def _check(self, **wanted: tuple[type, tuple[int | None, ...]]) -> None:
        """Converts these fields to read-only arrays of a dtype and shape; raises ValueError if one does not fit."""
        for name, (dtype, shape) in wanted.items():
            object.__setattr__(self, name, _array(type(self).__name__, name, getattr(self, name), dtype, shape))

    def __repr__(self) -> str:
        parts = []
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                value = f"{value.dtype}{list(value.shape)}"
            parts.append(f"{item.name}={value}")
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, repr=False, eq=False)
class Frame(_Shaped):
    """One upright picture of a source.

    Args:
        frame_id: counts the frames delivered by the source, from 0.
        pts_s: media time of the frame in seconds; never decreases within a source.
        image_bgr: (H, W, 3) uint8, read-only; copy it before drawing.
        captured_at_s: monotonic clock in seconds when the frame arrived.
        source: name of the picture if each frame has its own (a folder of images), else "".
        dropped_before: frames that a live source dropped between the previous frame and this one.
        lost_before_s: seconds for which a live source was away between the previous frame and this one.
        new_scene: the provider of the frame says that it has nothing in common with the previous one.
        waited_s: time in seconds that it waited after it arrived, in buffers and in the decoder of a stream.
    """

    frame_id: int
    pts_s: float
    image_bgr: NDArray[np.uint8]
    captured_at_s: float = 0.0
    source: str = ""
    dropped_before: int = 0
    lost_before_s: float = 0.0
    new_scene: bool = False
    waited_s: float = 0.0

    def __post_init__(self) -> None:
        image = self.image_bgr
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"Frame.image_bgr is {image.dtype}{list(image.shape)}; uint8 (H, W, 3) is wanted")
        if self.frame_id < 0:
            raise ValueError(f"Frame.frame_id is {self.frame_id}; 0 or more is wanted")
        image.flags.writeable = False

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image_bgr.shape[1], self.image_bgr.shape[0]


@dataclass(frozen=True, repr=False, eq=False)
class Detections(_Shaped):
    """Boxes of people in one frame: `bboxes_xyxy` (N, 4) float32 px, `bbox_scores` (N,) float32 in 0..1.

    `look` is how closely the detector needs to look to find people as small as the smallest of these, see `Detector`.
    """

    bboxes_xyxy: Float32
    bbox_scores: Float32
    look: int = 0

    def __post_init__(self) -> None:
        self._check(bboxes_xyxy=(np.float32, (None, 4)))
        self._check(bbox_scores=(np.float32, (len(self),)))

    def __len__(self) -> int:
        return len(self.bboxes_xyxy)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Detections:
        """The people of these rows."""
        return Detections(self.bboxes_xyxy[rows], self.bbox_scores[rows], self.look)

    @classmethod
    def empty(cls) -> Detections:
        """No people."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True, repr=False, eq=False)
class Tracks(_Shaped):
    """Boxes with identities: `track_ids` (N,) int64, positive, unique in a frame; see `Tracker.update`.

    `detected` (N,) bool is False for boxes that were continued by motion or by the last pose, without a detection.
    """

    bboxes_xyxy: Float32
    bbox_scores: Float32
    track_ids: Int64
    detected: NDArray[np.bool_]

    def __post_init__(self) -> None:
        self._check(bboxes_xyxy=(np.float32, (None, 4)))
        n = len(self)
        self._check(bbox_scores=(np.float32, (n,)), track_ids=(np.int64, (n,)), detected=(np.bool_, (n,)))
        ids = self.track_ids
        if n and (ids.min() < 1 or len(np.unique(ids)) != n):
            raise ValueError(f"Tracks.track_ids are {ids.tolist()}; positive and unique ids are wanted")

    def __len__(self) -> int:
        return len(self.bboxes_xyxy)

    def take(self, rows: Int64) -> Tracks:
        """The people of these rows."""
        return Tracks(self.bboxes_xyxy[rows], self.bbox_scores[rows], self.track_ids[rows], self.detected[rows])

    @classmethod
    def empty(cls) -> Tracks:
        """Nobody."""
        none = np.zeros(0)
        return cls(np.zeros((0, 4)), none, none, none)  # type: ignore[arg-type]


@dataclass(frozen=True, repr=False, eq=False)
class Poses(_Shaped):
    """People of one frame with their keypoints.

    Args:
        bboxes_xyxy: (N, 4) float32 px.
        bbox_scores: (N,) float32 in 0..1.
        track_ids: (N,) int64, positive; 0 if no tracker ran.
        keypoints: (N, K, 2) float32 px, smoothed if a smoother ran.
        keypoint_scores: (N, K) float32 in 0..1.
        raw_keypoints: (N, K, 2) float32 px from the network; for people who are not refined see `stages.refinement`.
        raw_keypoint_scores: (N, K) float32 in 0..1.
        quality: (N,) float32, the predicted OKS of the coarse stage (Eq. 4).
        stage: (N,) int64 of PoseStage.
    """

    bboxes_xyxy: Float32
    bbox_scores: Float32
    track_ids: Int64
    keypoints: Float32
    keypoint_scores: Float32
    raw_keypoints: Float32
    raw_keypoint_scores: Float32
    quality: Float32
    stage: Int64

    def __post_init__(self) -> None:
        self._check(bboxes_xyxy=(np.float32, (None, 4)))
        n, k = len(self), np.shape(self.keypoints)[1] if np.ndim(self.keypoints) == 3 else None
        self._check(
            bbox_scores=(np.float32, (n,)),
            track_ids=(np.int64, (n,)),
            keypoints=(np.float32, (n, k, 2)),
            keypoint_scores=(np.float32, (n, k)),
            raw_keypoints=(np.float32, (n, k, 2)),
            raw_keypoint_scores=(np.float32, (n, k)),
            quality=(np.float32, (n,)),
            stage=(np.int64, (n,)),
        )

    def __len__(self) -> int:
        return len(self.bboxes_xyxy)

    def __iter__(self) -> Iterator[Person]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Person:
        return Person(
            track_id=int(self.track_ids[index]),
            bbox_xyxy=self.bboxes_xyxy[index],
            bbox_score=float(self.bbox_scores[index]),
            keypoints=self.keypoints[index],
            keypoint_scores=self.keypoint_scores[index],
            raw_keypoints=self.raw_keypoints[index],
            raw_keypoint_scores=self.raw_keypoint_scores[index],
            quality=float(self.quality[index]),
            stage=PoseStage(int(self.stage[index])).label,
        )

    def kept(self, keep: NDArray[np.bool_]) -> Poses:
        """The people for whom `keep` (N,) is true; returns itself if that is everybody."""
        return self if keep.all() else Poses(*(getattr(self, item.name)[keep] for item in fields(self)))

    def points(self, *, raw: bool) -> tuple[Float32, Float32]:
        """Keypoints (N, K, 2) float32 px and scores (N, K) float32: smoothed, or as estimated if `raw`."""
        if raw:
            return self.raw_keypoints, self.raw_keypoint_scores
        return self.keypoints, self.keypoint_scores

    def first(self, count: int) -> Poses:
        """The same people with only the first `count` keypoints."""
        if count >= self.keypoints.shape[1]:
            return self
        names = ("keypoints", "keypoint_scores", "raw_keypoints", "raw_keypoint_scores")
        return replace(self, **{name: getattr(self, name)[:, :count] for name in names})

    def to_supervision(self, min_score: float = 0.3) -> tuple[sv.Detections, sv.KeyPoints]:
        """The people in the types of the `supervision` package, for its zones, counters and annotators; in the same
        rows.

        Detections have `tracker_id` (track ids; None if no tracker ran), class 0 and `data["stage"]`; keypoints with a
        score of at least `min_score` are `visible`.
        """
        import supervision as sv

        n = len(self)
        classes = np.zeros(n, int)
        stages = np.array([PoseStage(int(stage)).label for stage in self.stage], str)
        detections = sv.Detections(
            xyxy=self.bboxes_xyxy.copy(),
            confidence=self.bbox_scores.copy(),
            class_id=classes,
            tracker_id=self.track_ids.astype(int) if (self.track_ids > 0).all() else None,
            data={"class_name": np.full(n, "person"), "stage": stages},
        )
        key_points = sv.KeyPoints(
            xy=self.keypoints.copy(),
            class_id=classes.copy(),
            keypoint_confidence=self.keypoint_scores.copy(),
            detection_confidence=self.bbox_scores.copy(),
            visible=self.keypoint_scores >= min_score,
            data={"class_name": np.full(n, "person")},
        )
        return detections, key_points

    @classmethod
    def empty(cls, keypoint_count: int) -> Poses:
        """Nobody, for a skeleton of `keypoint_count` keypoints."""
        none = np.zeros(0)
        points, scores = np.zeros((0, keypoint_count, 2)), np.zeros((0, keypoint_count))
        return cls(np.zeros((0, 4)), none, none, points, scores, points, scores, none, none)  # type: ignore[arg-type]


@dataclass(frozen=True, repr=False, eq=False)
class Person(_Shaped):
    """One row of `Poses`; arrays without their first axis."""

    track_id: int
    bbox_xyxy: Float32
    bbox_score: float
    keypoints: Float32
    keypoint_scores: Float32
    raw_keypoints: Float32
    raw_keypoint_scores: Float32
    quality: float
    stage: str


@dataclass(frozen=True)
class Packet:
    """One frame on its way through the stages; each stage passes on a copy with its own part filled in.

    `detections` is None if the detector did not run on this frame. `camera` (2, 3) maps points of the previous frame to
    this one, in px, if the camera moved. `left_s` has the monotonic times in seconds at which the frame left each
    stage, by stage name, in order. `budget` has the settings of the latency controller for this frame.
    `new_scene`: the picture has nothing in common with the previous one, after a cut or a change of size.
    """

    frame: Frame
    detections: Detections | None = None
    tracks: Tracks | None = None
    camera: NDArray[np.float64] | None = None
    poses: Poses | None = None
    left_s: dict[str, float] = field(default_factory=dict)
    budget: dict[str, Any] | None = None
    new_scene: bool = False

    def left(self, stage: str, **parts: object) -> Packet:
        """A copy with `parts` filled in, leaving `stage` now."""
        return replace(self, left_s={**self.left_s, stage: time.monotonic()}, **parts)  # type: ignore[arg-type]

    @property
    def spans_ms(self) -> dict[str, float]:
        """Milliseconds in each stage, from leaving the previous one (or from its capture), waiting included.

        If the frame waited before it was captured, that is the first entry, `capture`.
        """
        waited_s = self.frame.waited_s
        times = [self.frame.captured_at_s + waited_s, *self.left_s.values()]
        spans = {stage: 1e3 * max(0.0, b - a) for stage, a, b in zip(self.left_s, times, times[1:], strict=False)}
        return {"capture": 1e3 * waited_s, **spans} if waited_s else spans
