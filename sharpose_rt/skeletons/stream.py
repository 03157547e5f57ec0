"""Skeleton streams in files: written so that each line is on disk at once, read in constant memory. `records` says what
the lines are.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shutil
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from sharpose_rt.errors import OutputError, StreamError, writing
from sharpose_rt.machine.whole_files import whole
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons.records import END_STATUS, SCHEMA, FrameRecord, Header, encode, end_record
from sharpose_rt.skeletons.validation import validate
from sharpose_rt.types import Poses, PoseStage

log = logging.getLogger("sharpose_rt.skeletons")


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
