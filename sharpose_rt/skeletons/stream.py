"""Reading and writing skeleton streams: each line is written to disk at once, and files are read in constant memory.

`records` defines the lines.
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
    """Writes a skeleton stream; the file is valid after every call, even if the disk is full.

    As a context manager it writes the end line if `end` was not called, with a status that depends on the exception.

    Args:
        path: the new file. An existing one is refused unless it is empty (`output_paths` reserves names with those).
        header: the first line, written at once.
        overwrite: replace an existing file.

    Raises:
        OutputError: the file exists and is not empty, or cannot be written.
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
        """Appends the line of a `FrameRecord`. Raises OutputError if the file cannot be written, and ValueError like
        `FrameRecord.to_record`."""
        self.write_line(encode(FrameRecord(frame_id, pts_s, poses, **more).to_record()))

    def write_line(self, line: bytes) -> None:
        """Appends one frame line from `encode`. Raises OutputError if the file cannot be written."""
        assert not self._ended, "write_line() after end()"
        self._write_line(line)
        self.frames += 1

    def end(self, status: str, frames: int | None = None, dropped: int = 0, **extra: Any) -> None:
        """Appends the end line; `frames` None uses the writer's own count.

        After a failed write this is tried once, with the writer's own count, and never raises: only the first error
        matters.
        """
        assert status in END_STATUS, status
        if self._ended:
            return
        self._ended = True
        count = self.frames if frames is None or self._failed else int(frames)
        with contextlib.suppress(OutputError) if self._failed else contextlib.nullcontext():
            self._write_line(encode(end_record(status, count, dropped, **extra)))

    def close(self) -> None:
        """Closes the file; may be called more than once."""
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
            while rest:  # an unbuffered write may be partial
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._failed = True
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)  # leave no partial line
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
            raise OutputError(f"{path} exists already; choose another name or --output, or --overwrite")
        return path.open("r+b", buffering=0)


@contextlib.contextmanager
def whole_stream(path: Path, header: Header, advice: str) -> Iterator[StreamWriter]:
    """A writer of a stream that replaces `path` when the block ends, and only if it is complete.

    Raises:
        OutputError: it cannot be written; `advice` says what to try next.
    """
    with writing(path, advice), whole(path) as part:
        try:
            with StreamWriter(part, header) as writer:
                yield writer
        except OutputError as error:  # the writer's message names the temporary file
            raise error.__cause__ or error from None


class StreamReader:
    """Iterates over the frames of a skeleton stream in constant memory.

    Each iteration opens the file, and closes it when done or left early, so a reader can be iterated more than once;
    input from a pipe, or from standard input (path '-'), is kept in a temporary file for this. A partial last line, as
    after a crash, ends the stream; a warning is logged once.

    Attributes:
        header: the first line.
        end: the end line as a dict after a full iteration; None before, and if the file has none.

    Raises:
        StreamError: the file cannot be read, has no header, or has an invalid line; names the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.end: dict[str, Any] | None = None
        self._told_torn = False
        self._whole: StreamReader | None = None  # the reader of which this is a view; it keeps the input of a pipe
        self._seen_alone = False
        self._kept = self._keep_pipe()
        if str(path) == "-":
            self.path = Path("stdin")
        with self._open() as file:
            first = file.readline()
        record = self._parse(first, 1)
        if record is None or record.get("type") != "header":
            raise StreamError(f"{self.path} line 1 is not a header; a skeleton stream ({SCHEMA}) starts with one")
        if record.get("schema") != SCHEMA:
            raise StreamError(f"{self.path} has schema {record.get('schema')!r}; this version reads {SCHEMA!r}")
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
                    if not self._told_torn:  # some formats need several passes
                        log.warning("%s line %d is incomplete and ignored", self.path, number)
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
        """A reader of the same frames without people of stage 'predicted', who were not seen in the frame."""
        reader = copy.copy(self)
        reader._whole, reader._seen_alone = self, True
        return reader

    def of_coco(self) -> StreamReader:
        """A reader of the same frames with only COCO's 17 keypoints, if more follow them; otherwise itself."""
        names, wanted = self.header.skeleton.keypoints, COCO17.keypoints
        if names[: len(wanted)] != wanted or len(names) == len(wanted):
            return self
        reader = copy.copy(self)
        reader._whole, reader.header = self, replace(self.header, skeleton=COCO17)
        return reader

    def _part(self, poses: Poses) -> Poses:
        """The part of a frame's poses that this reader yields."""
        poses = poses.first(len(self.header.skeleton))
        return poses.kept(poses.stage != PoseStage.PREDICTED) if self._seen_alone else poses

    def ending(self) -> tuple[str | None, int]:
        """The status of the end line, None if there is none, and the number of frames, without parsing them."""
        with self._open() as file:
            frames, line = deque(enumerate(file), maxlen=1).pop()  # the header is line 0
        record = self._parse(line, frames + 1)
        if record is None:  # torn
            return None, frames - 1
        return (record.get("status"), frames - 1) if record.get("type") == "end" else (None, frames)

    def warn_unless_complete(self) -> int:
        """The number of frames; logs a warning if there may have been more."""
        status, frames = self.ending()
        if status != "complete":
            ending = f"the end status '{status}'" if status else "no end line"
            log.warning("%s has %d frames and %s, so it may be shorter than its source", self.path, frames, ending)
        return frames

    def _keep_pipe(self) -> Path | None:
        """A temporary copy of input that can only be read once, deleted together with this reader; None for files."""
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
        """The object of a line; None if it is incomplete, that is not JSON and without a newline."""
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not line.endswith(b"\n"):
                return None
            hint = "; a *.skeletons.jsonl file is accepted" if number == 1 else ""
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
                f"{self.path} line {number} violates {SCHEMA}: {what}; `sharpose-rt validate` names each wrong field"
            ) from error
