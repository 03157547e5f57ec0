"""The skeleton stream, version 1: a header line, a line for every frame, an end line; UTF-8 JSON, flushed each frame.

Numbers: coordinates have 2 decimals (px), scores and quality 4, times 6 (s) or 3 (ms), so the same input gives the
same bytes, all but the header's `created`. No number is ever NaN or infinite: an infinite `quality_threshold` is
the string "inf" or "-inf", an unknown quality is null, a keypoint that was not found is [0, 0, 0], and `track_id` is
null where no tracker ran. `stream.schema.json` says the same to a machine.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import shutil
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from sharpose_rt.errors import OutputError, StreamError, writing
from sharpose_rt.machine.whole_files import whole
from sharpose_rt.skeleton import COCO17, SKELETONS, Skeleton, side_of
from sharpose_rt.skeletons.plain import plain
from sharpose_rt.skeletons.validation import validate
from sharpose_rt.types import Poses, PoseStage

log = logging.getLogger("sharpose_rt.skeletons")

SCHEMA = "sharpose.skeletons/1"
END_STATUS = ("complete", "interrupted", "error")

_STAGES = {int(stage): stage.label for stage in PoseStage}
_STAGE_NUMBERS = {label: number for number, label in _STAGES.items()}
_SECOND_DECIMALS, _MS_DECIMALS, _CAMERA_DECIMALS = 6, 3, 6
_BOX_SCALE, _SCORE_SCALE = 100.0, 10000.0  # 2 and 4 decimals
_POINT_SCALE = np.array([_BOX_SCALE, _BOX_SCALE, _SCORE_SCALE])


def utc_now() -> str:
    """The time now, ISO 8601 in UTC with milliseconds: '2026-01-31T12:00:00.123Z'."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Header:
    """What holds for the whole stream.

    Args:
        source: what was read; any credentials are masked by whoever opened it.
        frame_size_wh: size of the upright frames, px.
        fps: nominal frame rate; None where the source has none. `pts_s` of each frame is the truth.
        skeleton: the keypoint set.
        model: `name`, `weights_sha256` (None if unknown), `behaviour`, `quality_threshold` (a float, which may be
            infinite, or None if unknown); other keys are kept as they are.
        detector, tracker, smoothing: what was used, by name.
        version: of the program that wrote the stream.
        created: ISO 8601, UTC.
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

    def to_record(self) -> dict[str, Any]:
        """The header line as plain values, in the order of the file."""
        model = {"name": "", "weights_sha256": None, "behaviour": "", "quality_threshold": None, **self.model}
        fps = self.fps if self.fps and math.isfinite(self.fps) and self.fps > 0 else None
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
            }
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Header:
        """The header of a first line's values. Raises KeyError, TypeError or ValueError where it is malformed."""
        model = dict(record["model"])
        for name in ("quality_threshold", "refine_from_px"):
            if model.get(name) is not None:
                model[name] = float(model[name])  # also takes "inf"
        return cls(
            source=record["source"],
            frame_size_wh=_size_wh(record["frame_size_wh"]),
            fps=record["fps"],
            skeleton=_skeleton(record["keypoints"], record["limbs"]),
            model=model,
            **{key: record[key] for key in ("detector", "tracker", "smoothing", "version", "created")},
        )


def _size_wh(value: Any) -> tuple[int, int]:
    width, height = value
    return _whole_number(width, 1), _whole_number(height, 1)


def _whole_number(value: Any, least: int) -> int:
    """The number, at least that large, as writers can write it. Raises ValueError, TypeError or OverflowError."""
    number = int(value)
    if isinstance(value, bool) or number != value or not least <= number < 2**63:
        raise ValueError(f"{value!r:.40} is given; a whole number from {least} to {2**63 - 1} is accepted")
    return number


def _skeleton(keypoints: list[str], limbs: list[list[int]]) -> Skeleton:
    """The known skeleton with these keypoints, drawn by these limbs; else one named 'custom', without OKS sigmas."""
    names, pairs = tuple(keypoints), tuple((int(a), int(b)) for a, b in limbs)
    if not all(0 <= end < len(names) for pair in pairs for end in pair):
        raise ValueError(f"limbs name keypoints that are none of the {len(names)}")
    for known in SKELETONS.values():
        if known.keypoints == names:
            return known if known.limbs == pairs else replace(known, limbs=pairs)
    index = {side_of(name): i for i, name in enumerate(names)}
    flips = [(i, index.get(("right", part))) for (side, part), i in index.items() if side == "left"]
    return Skeleton("custom", names, pairs, tuple((a, b) for a, b in flips if b is not None), (), ())


@dataclass(frozen=True)
class FrameRecord:
    """One frame line.

    `frame_size_wh` is there where it is not the header's. `captured_at` (ISO 8601), `latency_ms`, its shares
    `stages_ms`, `dropped_before`, `lost_before_s` and `budget` (what the latency controller had set) are for live
    sources only. `picture` is the file's name where each frame is one. `camera` (2, 3) says where a point of the frame
    before is in this one, px, where the camera moved; `new_scene`, that the picture has nothing to do with that one.
    """

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

        Raises ValueError where `pts_s` is not finite, or as `people_of`.
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
        """The frame of a line's values. Raises KeyError, TypeError or ValueError where it is malformed."""
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
    """One dict a person, rounded and finite, as in a frame line.

    Scores are clipped to 0..1. A keypoint of which any number is not finite becomes [0, 0, 0].

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
    """(N, 2, K, 3) float64 x, y, score: smoothed and raw, rounded. One table, as numpy's cost here is its calls."""
    table = np.empty((len(poses), 2, poses.keypoint_scores.shape[1], 3))
    table[:, 0, :, :2], table[:, 0, :, 2] = poses.keypoints, poses.keypoint_scores
    table[:, 1, :, :2], table[:, 1, :, 2] = poses.raw_keypoints, poses.raw_keypoint_scores
    finite = np.isfinite(table)
    if not finite.all():
        table[~finite.all(axis=-1)] = 0
    table[..., 2] = np.clip(table[..., 2], 0, 1)
    return _rounded(table, _POINT_SCALE)


def _rounded(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """float64 `values` rounded in place to 1 / scale; in float32 digits would stay behind. No negative zero."""
    values *= scale
    np.rint(values, out=values)
    values /= scale
    values += 0.0
    return values


def poses_of(people: list[dict[str, Any]], keypoint_count: int) -> Poses:
    """The poses of a frame line's people; a null quality becomes NaN, a null track_id 0.

    Raises KeyError, TypeError or ValueError where the people are malformed.
    """
    if not people:
        return Poses.empty(keypoint_count)
    shape = (len(people), keypoint_count, 3)
    with np.errstate(over="ignore"):
        points = np.array([p["keypoints"] for p in people], np.float32)
        raw = np.array([p["raw_keypoints"] for p in people], np.float32)
        boxes = np.array([p["bbox_xyxy"] for p in people], np.float32)
        scores = np.array([p["bbox_score"] for p in people], np.float32)
        quality = np.array([p["quality"] for p in people], np.float32)  # numpy makes None a NaN
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
    """A record as one line of the stream, its newline included."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


class StreamWriter:
    """Writes a skeleton stream; what is on disk is valid after every call, also after a full disk.

    Used as a context manager it writes the end line itself where `end` was not called, with the status that the
    exception on its way out tells.

    Args:
        path: the new file. An existing one is refused unless it is empty (`output_paths` reserves names so).
        header: the first line, written at once.
        overwrite: replace an existing file.

    Raises:
        OutputError: the file exists with content, or cannot be written.
    """

    def __init__(self, path: str | Path, header: Header, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.header = header
        self.frames = 0
        self._size = 0
        self._ended = self._failed = False
        self._file = _open_new(self.path, overwrite)
        try:
            self._write_line(encode(header.to_record()))
        except BaseException:
            self.close()
            raise

    def write(self, frame_id: int, pts_s: float, poses: Poses, **more: Any) -> None:
        """Appends the line of a `FrameRecord`. Raises OutputError where the file cannot be written, ValueError as
        `FrameRecord.to_record`."""
        self.write_line(encode(FrameRecord(frame_id, pts_s, poses, **more).to_record()))

    def write_line(self, line: bytes) -> None:
        """Appends one frame line as `encode` gives it. Raises OutputError where the file cannot be written."""
        assert not self._ended, "write_line() after end()"
        self._write_line(line)
        self.frames += 1

    def end(self, status: str, frames: int | None = None, dropped: int = 0, **extra: Any) -> None:
        """Appends the end line; `frames` None takes the writer's own count.

        After a failed write this is tried once, with the writer's own count, and never raises: the first error is
        the one that counts.
        """
        assert status in END_STATUS, status
        if self._ended:
            return
        self._ended = True
        count = self.frames if frames is None or self._failed else int(frames)
        with contextlib.suppress(OutputError) if self._failed else contextlib.nullcontext():
            self._write_line(encode(end_record(status, count, dropped, **extra)))

    def close(self) -> None:
        """Closes the file; may be called again."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            stopped = kind is not None and not issubclass(kind, Exception)  # Ctrl-C, a generator left early
            self.end("complete" if kind is None else "interrupted" if stopped else "error")
        finally:
            self.close()

    def _write_line(self, line: bytes) -> None:
        try:
            rest = memoryview(line)
            while rest:  # an unbuffered write may take only a part
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._failed = True
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)  # no torn line stays behind
                self._file.seek(self._size)
            kept = f"the {self.frames} frames written so far are kept and valid"
            with writing(f"the skeleton stream {self.path}", f"{kept}. Free some space or choose another --output"):
                raise
        self._size += len(line)


def _open_new(path: Path, overwrite: bool) -> Any:
    with writing(f"the skeleton stream {path}", "give --output a folder that you may write to"):
        if overwrite:
            return path.open("wb", buffering=0)
        with contextlib.suppress(FileExistsError):
            return path.open("xb", buffering=0)
        if path.is_file() and path.stat().st_size > 0:
            raise OutputError(f"{path} is there already; choose another name or --output, or ask to overwrite")
        return path.open("r+b", buffering=0)


@contextlib.contextmanager
def whole_stream(path: Path, header: Header, advice: str) -> Iterator[StreamWriter]:
    """A writer of a stream that takes the place of `path` at the block's end: it is there whole, or what was before.

    Raises:
        OutputError: it cannot be written; `advice` is what to try next.
    """
    with writing(path, advice), whole(path) as part:
        try:
            with StreamWriter(part, header) as writer:
                yield writer
        except OutputError as error:  # the writer's own words are of the part, which goes
            raise error.__cause__ or error from None


class StreamReader:
    """Iterates over the frames of a skeleton stream in constant memory.

    Each iteration opens the file anew and closes it when done or left early, so a reader can be gone through more
    than once; what comes through a pipe, or with the path '-' from standard input, is kept in a temporary file for
    that. A torn last line, as a crash leaves it, ends the stream; a warning is logged once.

    Attributes:
        header: the first line.
        end: the end line as a dict after a whole iteration; None before, and where the file stops early.

    Raises:
        StreamError: the file cannot be read, has no header, or has a line that is wrong; names the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.end: dict[str, Any] | None = None
        self._told_torn = False
        self._whole: StreamReader | None = None  # what this one is a part of, and with it what came through a pipe
        self._seen_alone = False
        self._kept = self._keep_pipe()
        if str(path) == "-":
            self.path = Path("stdin")
        with self._open() as file:
            first = file.readline()
        record = self._parse(first, 1)
        if record is None or record.get("type") != "header":
            raise StreamError(f"{self.path} line 1 is no header; a skeleton stream ({SCHEMA}) begins with one")
        if record.get("schema") != SCHEMA:
            raise StreamError(f"{self.path} has schema {record.get('schema')!r}; {SCHEMA!r} is read by this version")
        with self._line(1):
            self.header = Header.from_record(record)
        self._keypoint_count = len(self.header.skeleton)

    def __iter__(self) -> Iterator[FrameRecord]:
        self.end = None
        with self._open() as file:
            file.readline()
            for number, line in enumerate(file, start=2):
                record = self._parse(line, number)
                if record is None:
                    if not self._told_torn:  # some formats take several passes
                        log.warning("%s line %d is torn and left out", self.path, number)
                    self._told_torn = True
                    return
                kind = record.get("type")
                if self.end is not None:
                    raise StreamError(f"{self.path} line {number}: nothing may follow the end line")
                if kind == "end":
                    self.end = record
                elif kind == "frame":
                    with self._line(number):
                        frame = FrameRecord.from_record(record, self._keypoint_count)
                    yield frame if self._whole is None else replace(frame, poses=self._part(frame.poses))
                else:
                    raise StreamError(f"{self.path} line {number}: type is {kind!r}; 'frame' or 'end' is accepted")

    def without_predicted(self) -> StreamReader:
        """A reader of the same frames without people of stage 'predicted', of whom nothing was seen in them."""
        reader = copy.copy(self)
        reader._whole, reader._seen_alone = self, True
        return reader

    def of_coco(self) -> StreamReader:
        """A reader of the same frames with COCO's 17 keypoints alone, where more come behind them; else itself."""
        names, wanted = self.header.skeleton.keypoints, COCO17.keypoints
        if names[: len(wanted)] != wanted or len(names) == len(wanted):
            return self
        reader = copy.copy(self)
        reader._whole, reader.header = self, replace(self.header, skeleton=COCO17)
        return reader

    def _part(self, poses: Poses) -> Poses:
        """What of a frame's poses this reader gives."""
        poses = poses.first(len(self.header.skeleton))
        return poses.kept(poses.stage != PoseStage.PREDICTED) if self._seen_alone else poses

    def ending(self) -> tuple[str | None, int]:
        """The end line's status, None where there is no such line, and the number of frames, which are not parsed."""
        with self._open() as file:
            frames, line = deque(enumerate(file), maxlen=1).pop()  # the header is line 0
        record = self._parse(line, frames + 1)
        if record is None:  # torn
            return None, frames - 1
        return (record.get("status"), frames - 1) if record.get("type") == "end" else (None, frames)

    def warn_unless_complete(self) -> int:
        """The number of frames; says in the log where there may have been more."""
        status, frames = self.ending()
        if status != "complete":
            ending = f"the end status '{status}'" if status else "no end line"
            log.warning("%s has %d frames and %s, so it may be shorter than its source", self.path, frames, ending)
        return frames

    def _keep_pipe(self) -> Path | None:
        """What can be read but once, in a file of its own, which goes with this reader."""
        from_stdin = str(self.path) == "-"
        with self._said():
            if not from_stdin and (not self.path.exists() or self.path.is_file() or self.path.is_dir()):
                return None
            number, name = tempfile.mkstemp(suffix=".skeletons.jsonl")
            weakref.finalize(self, os.unlink, name)
            source = contextlib.nullcontext(sys.stdin.buffer) if from_stdin else self.path.open("rb")
            with os.fdopen(number, "wb") as kept, source as pipe:
                shutil.copyfileobj(pipe, kept)
            return Path(name)

    def _open(self) -> BinaryIO:
        with self._said():
            return (self._kept or self.path).open("rb")

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StreamError(
                f"cannot read the skeleton stream {self.path}: {error.strerror or error}; "
                "give the path of a *.skeletons.jsonl file, or - for standard input"
            ) from error

    def _parse(self, line: bytes, number: int) -> dict[str, Any] | None:
        """The line's object; None where it is torn, that is not JSON and without its newline."""
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not line.endswith(b"\n"):
                return None
            hint = "; a *.skeletons.jsonl file is wanted" if number == 1 else ""
            raise StreamError(f"{self.path} line {number} is not JSON: {error}{hint}") from error
        if not isinstance(record, dict):
            raise StreamError(f"{self.path} line {number} is a {type(record).__name__}; an object is wanted")
        return record

    @contextlib.contextmanager
    def _line(self, number: int) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems = validate(self._kept or self.path, max_problems=sys.maxsize)
            problem = next((p for p in problems if p.line == number and p.severity == "error"), None)
            if problem:
                what = f"{problem.field or 'it'} {problem.message}"
            else:
                what = f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
            raise StreamError(
                f"{self.path} line {number} breaks {SCHEMA}: {what}; `sharpose-rt validate` names each wrong field"
            ) from error
