"""Checks a skeleton stream against its schema, and what a schema cannot express.

Frame lines are first checked by hand-written code that is much faster than jsonschema; only a line that fails is passed
to jsonschema, which names the wrong fields. So the code may be stricter than the schema, but never less strict, which a
property test verifies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import orjson

from sharpose_rt.errors import StreamError

SCHEMA_PATH = Path(__file__).with_name("stream.schema.json")

_NUMBER_TYPES = {int, float}
FLOAT32_MAX = 3.4028234663852886e38  # the type of coordinates in readers,
_INT64_MAX = 2**63 - 1  # and ids
_STAGES = {"coarse", "fine", "predicted"}


@dataclass(frozen=True)
class Problem:
    """One problem: `line` counts from 1, `field` is a path such as people[0].keypoints[3][2], or ""."""

    line: int
    field: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = f"line {self.line}" + (f", {self.field}" if self.field else "")
        return f"{self.severity}: {where}: {self.message}"


def validate(path: str | Path, *, max_problems: int = 100) -> list[Problem]:
    """The problems of the stream at `path` ('-': standard input), in the order of its lines; empty if it is valid.

    Stops after `max_problems`, and says so. A truncated stream (no end line, or an incomplete last line) is readable,
    so that is a warning.

    Raises:
        StreamError: the file cannot be read.
    """
    checker = _Checker()
    problems: list[Problem] = []
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else Path(path).open("rb") as file:
            for line in file:
                problems += checker.check(line)
                if len(problems) >= max_problems:
                    stopped = Problem(checker.number, "", "stopped here; the rest was not checked", "warning")
                    return [*problems[:max_problems], stopped]
    except OSError as error:
        raise StreamError(
            f"cannot read the skeleton stream {path}: {error.strerror or error}; "
            "give the path of a *.skeletons.jsonl file"
        ) from error
    return problems + list(checker.finish())


def format_problems(problems: list[Problem], path: str | Path) -> str:
    """The problems as lines to print, one each, followed by a summary."""
    errors = sum(problem.severity == "error" for problem in problems)
    if errors:
        verdict = f"{path}: not valid, {_count(errors, 'error')}"
    else:
        verdict = f"{path}: valid" + (f", {_count(len(problems), 'warning')}" if problems else "")
    return "\n".join([*(f"{path}: {problem}" for problem in problems), verdict])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


@dataclass
class _Checker:
    """Checks a stream line by line, and keeps what later lines are checked against."""

    number: int = 0
    keypoint_count: int | None = None
    header_seen: bool = False
    frames: int = 0
    frame_id: int = -1
    pts_s: float | None = None
    dropped: int = 0
    end_line: int | None = None
    unreadable: bool = False  # the last line was invalid, so the order is unknown

    def check(self, line: bytes) -> Iterator[Problem]:
        """The problems of the next line."""
        self.number += 1
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            self.unreadable = True
            if line.endswith(b"\n") or self.number == 1:
                yield self._problem("", f"is not JSON: {error}")
            else:
                yield Problem(self.number, "", "is incomplete; readers ignore it", "warning")
            return
        if not isinstance(record, dict):
            yield self._problem("", f"is {_short(record)}; an object is wanted")
            return
        kind = record.get("type")
        if self.end_line is not None:
            yield self._problem("", f"follows the end line {self.end_line}; nothing may follow it")
        elif kind == "header":
            yield from self._header(record)
        elif not self.header_seen and self.number == 1:
            yield self._problem("type", f"is {_short(kind)}; the first line must be the 'header'")
        if kind == "frame":
            yield from self._frame(record)
        elif kind == "end":
            yield from self._end(record)
        elif kind != "header":
            yield self._problem("type", f"is {_short(kind)}; one of 'header', 'frame', 'end' is accepted")

    def finish(self) -> Iterator[Problem]:
        """The problems of the stream as a whole."""
        if self.number == 0:
            yield Problem(1, "", "the file is empty; it must start with a header")
        elif self.end_line is None:
            yield Problem(self.number, "", "the stream stops without an end line", "warning")

    def _header(self, record: dict[str, Any]) -> Iterator[Problem]:
        if self.header_seen or self.number > 1:
            yield self._problem("type", "is 'header'; the header is the first line and comes once")
            return
        self.header_seen = True
        problems = list(self._by_schema("header", record))
        yield from problems
        if problems:
            return
        self.keypoint_count = len(record["keypoints"])
        for i, limb in enumerate(record["limbs"]):
            if max(limb) >= self.keypoint_count:
                yield self._problem(f"limbs[{i}]", f"is {limb}; indices below {self.keypoint_count} are accepted")
        yield from self._time("created", record)

    def _frame(self, record: dict[str, Any]) -> Iterator[Problem]:
        self.frames += 1
        if not is_well_formed_frame(record):
            problems = list(self._by_schema("frame", record))
            if problems:
                self.unreadable = True
                yield from problems
                return
        yield from self._order(record)
        yield from self._people(record["people"])
        yield from self._time("captured_at", record)

    def _order(self, record: dict[str, Any]) -> Iterator[Problem]:
        frame_id, pts_s, dropped = record["frame_id"], record["pts_s"], record.get("dropped_before", 0)
        missing = frame_id - self.frame_id - 1
        unreadable, self.unreadable = self.unreadable, False
        if missing < 0:
            yield self._problem("frame_id", f"is {frame_id} after {self.frame_id}; it must increase")
        elif missing > dropped and not unreadable:
            yield self._problem(
                "frame_id",
                f"is {frame_id}; {self.frame_id + 1} is wanted, as dropped_before explains {dropped} of "
                f"{missing} missing",
            )
        if self.pts_s is not None and pts_s < self.pts_s:
            yield self._problem("pts_s", f"is {pts_s} after {self.pts_s}; it must not decrease")
        self.frame_id, self.pts_s = max(frame_id, self.frame_id), pts_s
        self.dropped += dropped

    def _people(self, people: list[dict[str, Any]]) -> Iterator[Problem]:
        seen: dict[int, int] = {}
        for i, person in enumerate(people):
            track_id = person["track_id"]
            if track_id is not None and seen.setdefault(track_id, i) != i:
                yield self._problem(f"people[{i}].track_id", f"is {track_id}, as people[{seen[track_id]}] has")
            left, top, right, bottom = person["bbox_xyxy"]
            if right < left or bottom < top:
                yield self._problem(
                    f"people[{i}].bbox_xyxy", f"is {person['bbox_xyxy']}; left <= right and top <= bottom are wanted"
                )
            for name in ("keypoints", "raw_keypoints"):
                if self.keypoint_count is not None and len(person[name]) != self.keypoint_count:
                    yield self._problem(
                        f"people[{i}].{name}",
                        f"has {_count(len(person[name]), 'item')}; the header names {self.keypoint_count}",
                    )

    def _end(self, record: dict[str, Any]) -> Iterator[Problem]:
        if self.end_line is None:
            self.end_line = self.number
        problems = list(self._by_schema("end", record))
        yield from problems
        if problems:
            return
        if record["frames"] != self.frames:
            yield self._problem("frames", f"is {record['frames']}; the stream has {_count(self.frames, 'frame line')}")
        if record["dropped"] < self.dropped:
            yield self._problem(
                "dropped", f"is {record['dropped']}; dropped_before adds up to {self.dropped}", "warning"
            )

    def _time(self, name: str, record: dict[str, Any]) -> Iterator[Problem]:
        if name in record:
            try:
                datetime.fromisoformat(record[name])
            except ValueError:
                yield self._problem(name, f"is {_short(record[name])}; an ISO 8601 time is wanted")

    def _by_schema(self, kind: str, record: dict[str, Any]) -> Iterator[Problem]:
        for error in sorted(schema_validator(kind).iter_errors(record), key=lambda e: e.json_path):
            yield self._problem(*_explain(error))

    def _problem(self, where: str, message: str, severity: Literal["error", "warning"] = "error") -> Problem:
        return Problem(self.number, where, message, severity)


@cache
def schema_validator(kind: Literal["header", "frame", "end"] | str) -> Any:
    """A jsonschema validator of one kind of line."""
    from jsonschema import Draft202012Validator

    schema = orjson.loads(SCHEMA_PATH.read_bytes())
    del schema["oneOf"]
    return Draft202012Validator(schema | {"$ref": f"#/$defs/{kind}"})


def _explain(error: Any) -> tuple[str, str]:
    """Field and message of a jsonschema error, reworded if that is clearer."""
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path).lstrip(".")
    value, wanted = error.instance, error.validator_value
    match error.validator:
        case "required":
            name = next(name for name in wanted if error.message.startswith(repr(name)))
            return f"{where}.{name}".lstrip("."), "is missing"
        case "type":
            types = [wanted] if isinstance(wanted, str) else wanted
            return where, f"is {_short(value)}; {' or '.join(types)} is wanted"
        case "const":
            return where, f"is {_short(value)}; {wanted!r} is accepted"
        case "enum":
            return where, f"is {_short(value)}; one of {', '.join(map(repr, wanted))} is accepted"
        case "minimum":
            return where, f"is {value}; at least {wanted} is accepted"
        case "exclusiveMinimum":
            return where, f"is {value}; above {wanted} is accepted"
        case "maximum":
            return where, f"is {value}; at most {wanted} is accepted"
        case "minItems" | "maxItems":
            return where, f"has {_count(len(value), 'item')}; {wanted} are wanted"
        case "pattern":
            return where, f"is {_short(value)}; 'inf', '-inf' or a number is accepted"
        case _:
            return where, error.message if len(error.message) < 200 else error.message[:200] + "..."


def _short(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_UNMOVED = [[1, 0, 0], [0, 1, 0]]


def is_well_formed_frame(record: dict[str, Any]) -> bool:
    """Whether a frame line certainly fits the schema; False if jsonschema must decide."""
    try:
        return (
            _is_count(record["frame_id"])
            and type(record["pts_s"]) in _NUMBER_TYPES
            and type(record["people"]) is list
            and all(map(_is_well_formed_person, record["people"]))
            and type(record.get("captured_at", "")) is str
            and _is_number(record.get("latency_ms", 0))
            and record.get("latency_ms", 0) >= 0
            and _is_count(record.get("dropped_before", 0))
            and _is_number(record.get("lost_before_s", 0))
            and record.get("lost_before_s", 0) >= 0
            and _is_size(record.get("frame_size_wh", [1, 1]))
            and type(record.get("budget", {})) is dict
            and type(record.get("picture", "")) is str
            and _is_camera(record.get("camera", _UNMOVED))
            and type(record.get("new_scene", False)) is bool
            and all(_is_number(ms) and ms >= 0 for ms in record.get("stages_ms", {}).values())
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _INT64_MAX


def _is_camera(value: Any) -> bool:
    rows = value if type(value) is list and len(value) == 2 else [None]
    return all(type(row) is list and len(row) == 3 and all(map(_is_number, row)) for row in rows)


def _is_size(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and all(_is_count(side) and side >= 1 for side in value)


def _is_well_formed_person(person: dict[str, Any]) -> bool:
    track_id, box, quality = person["track_id"], person["bbox_xyxy"], person["quality"]
    return (
        (track_id is None or (_is_count(track_id) and track_id >= 1))
        and type(box) is list
        and len(box) == 4
        and _are_coordinates(box)
        and _is_number(person["bbox_score"])
        and 0 <= person["bbox_score"] <= 1
        and _are_keypoints(person["keypoints"])
        and _are_keypoints(person["raw_keypoints"])
        and (quality is None or _are_coordinates([quality]))
        and person["stage"] in _STAGES
    )


def _are_keypoints(points: Any) -> bool:
    if type(points) is not list or not {list}.issuperset(map(type, points)) or not {3}.issuperset(map(len, points)):
        return False
    numbers = list(chain.from_iterable(points))
    scores = numbers[2::3]
    return not numbers or (_are_coordinates(numbers) and min(scores) >= 0 and max(scores) <= 1)


def _are_coordinates(numbers: list[Any]) -> bool:
    """Whether these are numbers that fit a float32, at least one."""
    if not _NUMBER_TYPES.issuperset(map(type, numbers)):
        return False
    return min(numbers) >= -FLOAT32_MAX and max(numbers) <= FLOAT32_MAX


def _is_number(value: Any) -> bool:
    return type(value) in _NUMBER_TYPES
