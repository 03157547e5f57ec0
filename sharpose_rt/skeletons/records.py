"""The lines of the skeleton stream, version 1: a header, every frame, the end; UTF-8 JSON.

Coordinates have 2 decimals (px), scores and quality 4, times 6 (s) or 3 (ms), so the same input gives the same bytes,
except for `created` in the header. No number is NaN or infinite: an infinite `quality_threshold` is the string "inf" or
"-inf", an unknown quality is null, a keypoint that was not found is [0, 0, 0], and `track_id` is null if no tracker
ran. `stream.schema.json` is the machine-readable description."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sharpose_rt.skeleton import SKELETONS, Skeleton, side_of
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.types import Poses, PoseStage

SCHEMA = "sharpose.skeletons/1"
END_STATUS = ("complete", "interrupted", "error")

_STAGES = {int(stage): stage.label for stage in PoseStage}
_STAGE_NUMBERS = {label: number for number, label in _STAGES.items()}
_SECOND_DECIMALS, _MS_DECIMALS, _CAMERA_DECIMALS = 6, 3, 6
_BOX_SCALE, _SCORE_SCALE = 100.0, 10000.0  # 2 and 4 decimals
_POINT_SCALE = np.array([_BOX_SCALE, _BOX_SCALE, _SCORE_SCALE])


def utc_now() -> str:
    """The current time, ISO 8601 in UTC with milliseconds: '2026-01-31T12:00:00.123Z'."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Header:
    """The facts about the whole stream.

    Args:
        source: what was read, with credentials masked.
        frame_size_wh: size of the upright frames, px.
        fps: nominal frame rate, None if the source has none; the actual times are the `pts_s` of the frames.
        skeleton: the keypoint set.
        model: `name`, `weights_sha256` (None if unknown), `behaviour`, `quality_threshold` (a float, which may be
            infinite, or None if unknown); other keys are kept.
        detector, tracker, smoothing: names of what was used.
        version: of the program that wrote the stream.
        created: ISO 8601, UTC.
        place: for a file, a checksum of its path relative to the folder of results, or of its address, by which
            `--resume` recognises it; None for other sources.
    """

    source: str
    frame_size_wh: tuple[int, int]
    fps: float | None
    skeleton: Skeleton
    model: dict[str, Any]
    detector: str
    tracker: str
    smoothing: str
    version: str
    created: str = field(default_factory=utc_now)
    place: str | None = None

    def to_record(self) -> dict[str, Any]:
        """The header line as plain values, in the order of the file."""
        model = {"name": "", "weights_sha256": None, "behaviour": "", "quality_threshold": None, **self.model}
        fps = self.fps if self.fps and math.isfinite(self.fps) and self.fps > 0 else None
        place = {} if self.place is None else {"place": self.place}
        return plain(
            {
                "type": "header",
                "schema": SCHEMA,
                "source": self.source,
                "frame_size_wh": self.frame_size_wh,
                "fps": None if fps is None else round(float(fps), 6),
                "keypoints": self.skeleton.keypoints,
                "limbs": self.skeleton.limbs,
                "model": model,
                "detector": self.detector,
                "tracker": self.tracker,
                "smoothing": self.smoothing,
                "version": self.version,
                "created": self.created,
                **place,
            }
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Header:
        """The header from the values of the first line. Raises KeyError, TypeError or ValueError if it is malformed."""
        model = dict(record["model"])
        for name in ("quality_threshold", "refine_from_px"):
            if model.get(name) is not None:
                model[name] = float(model[name])  # also accepts "inf"
        return cls(
            source=record["source"],
            frame_size_wh=_size_wh(record["frame_size_wh"]),
            fps=record["fps"],
            skeleton=_skeleton(record["keypoints"], record["limbs"]),
            model=model,
            place=record.get("place"),
            **{key: record[key] for key in ("detector", "tracker", "smoothing", "version", "created")},
        )


def _size_wh(value: Any) -> tuple[int, int]:
    width, height = value
    return _whole_number(width, 1), _whole_number(height, 1)


def _whole_number(value: Any, least: int) -> int:
    """A whole number of at least `least` that fits int64. Raises ValueError, TypeError or OverflowError."""
    number = int(value)
    if isinstance(value, bool) or number != value or not least <= number < 2**63:
        raise ValueError(f"{value!r:.40} is given; a whole number from {least} to {2**63 - 1} is accepted")
    return number


def _skeleton(keypoints: list[str], limbs: list[list[int]]) -> Skeleton:
    """The known skeleton with these keypoints, with these limbs; otherwise one named 'custom', without OKS sigmas."""
    names, pairs = tuple(keypoints), tuple((int(a), int(b)) for a, b in limbs)
    if not all(0 <= end < len(names) for pair in pairs for end in pair):
        raise ValueError(f"limbs refer to keypoints beyond the {len(names)} of the header")
    for known in SKELETONS.values():
        if known.keypoints == names:
            return known if known.limbs == pairs else replace(known, limbs=pairs)
    index = {side_of(name): i for i, name in enumerate(names)}
    flips = [(i, index.get(("right", part))) for (side, part), i in index.items() if side == "left"]
    return Skeleton("custom", names, pairs, tuple((a, b) for a, b in flips if b is not None), (), ())


@dataclass(frozen=True)
class FrameRecord:
    """One frame line.

    `frame_size_wh` is set if it differs from the header's. `captured_at` (ISO 8601), `latency_ms`, its parts
    `stages_ms`, `dropped_before`, `lost_before_s` and `budget` (the settings of the latency controller) are only for
    live sources. `picture` is the name of the file if each frame is one. `camera` (2, 3) maps points of the previous
    frame to this one, in px, if the camera moved; `new_scene` says that the picture has nothing in common with the
    previous one."""

    frame_id: int
    pts_s: float
    poses: Poses
    captured_at: str | None = None
    latency_ms: float | None = None
    dropped_before: int | None = None
    frame_size_wh: tuple[int, int] | None = None
    stages_ms: dict[str, float] | None = None
    lost_before_s: float | None = None
    budget: dict[str, Any] | None = None
    picture: str | None = None
    camera: NDArray[np.float64] | None = None
    new_scene: bool = False

    def to_record(self) -> dict[str, Any]:
        """The frame line as plain values, rounded, in the order of the file.

        Raises ValueError if `pts_s` is not finite, or like `people_of`.
        """
        if not math.isfinite(self.pts_s):
            raise ValueError(f"frame {self.frame_id}: pts_s is {self.pts_s}; a finite media time is wanted")
        record: dict[str, Any] = {
            "type": "frame",
            "frame_id": int(self.frame_id),
            "pts_s": round(float(self.pts_s), _SECOND_DECIMALS) + 0.0,
            "people": people_of(self.poses),
        }
        if self.picture is not None:
            record["picture"] = plain(self.picture)
        if self.captured_at is not None:
            record["captured_at"] = self.captured_at
        if self.latency_ms is not None:
            record["latency_ms"] = round(float(self.latency_ms), _MS_DECIMALS) + 0.0
        if self.dropped_before is not None:
            record["dropped_before"] = int(self.dropped_before)
        if self.frame_size_wh is not None:
            record["frame_size_wh"] = list(self.frame_size_wh)
        if self.stages_ms is not None:
            record["stages_ms"] = {name: round(float(ms), _MS_DECIMALS) + 0.0 for name, ms in self.stages_ms.items()}
        if self.lost_before_s is not None:
            record["lost_before_s"] = round(float(self.lost_before_s), _MS_DECIMALS) + 0.0
        if self.budget is not None:
            record["budget"] = plain(self.budget)
        if self.camera is not None:
            record["camera"] = (np.round(self.camera, _CAMERA_DECIMALS) + 0.0).tolist()
        if self.new_scene:
            record["new_scene"] = True
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any], keypoint_count: int) -> FrameRecord:
        """The frame from the values of a line. Raises KeyError, TypeError or ValueError if it is malformed."""
        return cls(
            frame_id=_whole_number(record["frame_id"], 0),
            pts_s=float(record["pts_s"]),
            poses=poses_of(record["people"], keypoint_count),
            captured_at=record.get("captured_at"),
            latency_ms=record.get("latency_ms"),
            dropped_before=record.get("dropped_before"),
            frame_size_wh=_size_wh(record["frame_size_wh"]) if "frame_size_wh" in record else None,
            stages_ms=record.get("stages_ms"),
            lost_before_s=record.get("lost_before_s"),
            budget=record.get("budget"),
            picture=record.get("picture"),
            camera=np.array(record["camera"], np.float64).reshape(2, 3) if "camera" in record else None,
            new_scene=bool(record.get("new_scene", False)),
        )


def people_of(poses: Poses) -> list[dict[str, Any]]:
    """One dict per person, rounded and finite, as in a frame line.

    Scores are clipped to 0..1. A keypoint with a number that is not finite becomes [0, 0, 0].

    Raises:
        ValueError: a box or its score is not finite.
    """
    if len(poses) == 0:
        return []
    boxes = _rounded(poses.bboxes_xyxy.astype(np.float64), _BOX_SCALE)
    box_scores = _rounded(np.clip(poses.bbox_scores.astype(np.float64), 0, 1), _SCORE_SCALE)
    if not (np.isfinite(boxes).all() and np.isfinite(box_scores).all()):
        raise ValueError(f"a box or its score is not finite: boxes {boxes.tolist()}, scores {box_scores.tolist()}")
    columns = zip(
        poses.track_ids.tolist(),
        boxes.tolist(),
        box_scores.tolist(),
        _point_table(poses).tolist(),
        _rounded(poses.quality.astype(np.float64), _SCORE_SCALE).tolist(),
        poses.stage.tolist(),
        strict=True,
    )
    return [
        {
            "track_id": track_id or None,
            "bbox_xyxy": box,
            "bbox_score": box_score,
            "keypoints": keypoints,
            "raw_keypoints": raw_keypoints,
            "quality": quality if math.isfinite(quality) else None,
            "stage": _STAGES[stage],
        }
        for track_id, box, box_score, (keypoints, raw_keypoints), quality, stage in columns
    ]


def _point_table(poses: Poses) -> np.ndarray:
    """(N, 2, K, 3) float64 x, y, score: smoothed and raw, rounded. One table, to save calls of numpy."""
    table = np.empty((len(poses), 2, poses.keypoint_scores.shape[1], 3))
    table[:, 0, :, :2], table[:, 0, :, 2] = poses.keypoints, poses.keypoint_scores
    table[:, 1, :, :2], table[:, 1, :, 2] = poses.raw_keypoints, poses.raw_keypoint_scores
    finite = np.isfinite(table)
    if not finite.all():
        table[~finite.all(axis=-1)] = 0
    table[..., 2] = np.clip(table[..., 2], 0, 1)
    return _rounded(table, _POINT_SCALE)


def _rounded(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """float64 `values` rounded in place to 1 / scale, without negative zero; float32 would not be exact."""
    values *= scale
    np.rint(values, out=values)
    values /= scale
    values += 0.0
    return values


def poses_of(people: list[dict[str, Any]], keypoint_count: int) -> Poses:
    """The poses of the people in a frame line; a null quality becomes NaN, a null track_id 0.

    Raises KeyError, TypeError or ValueError if the people are malformed.
    """
    if not people:
        return Poses.empty(keypoint_count)
    shape = (len(people), keypoint_count, 3)
    with np.errstate(over="ignore"):
        points = np.array([p["keypoints"] for p in people], np.float32)
        raw = np.array([p["raw_keypoints"] for p in people], np.float32)
        boxes = np.array([p["bbox_xyxy"] for p in people], np.float32)
        scores = np.array([p["bbox_score"] for p in people], np.float32)
        quality = np.array([p["quality"] for p in people], np.float32)  # numpy turns None into NaN
    if points.shape != shape:
        raise ValueError(f"keypoints have the shape {points.shape}; {shape} is wanted")
    if not all(np.isfinite(numbers).all() for numbers in (points, raw, boxes, scores)) or np.isinf(quality).any():
        raise ValueError("a number is beyond ±3.4e38")
    return Poses(
        bboxes_xyxy=boxes,
        bbox_scores=scores,
        track_ids=np.array([p["track_id"] or 0 for p in people], np.int64),
        keypoints=points[..., :2],
        keypoint_scores=points[..., 2],
        raw_keypoints=raw[..., :2],
        raw_keypoint_scores=raw[..., 2],
        quality=quality,
        stage=np.array([_STAGE_NUMBERS[p["stage"]] for p in people], np.int64),
    )


def end_record(status: str, frames: int, dropped: int, **extra: Any) -> dict[str, Any]:
    """The end line as plain values."""
    assert status in END_STATUS, status
    return {"type": "end", "frames": int(frames), "dropped": int(dropped), "status": status, **plain(extra)}


def encode(record: dict[str, Any]) -> bytes:
    """A record as one line of the stream, including the newline."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
