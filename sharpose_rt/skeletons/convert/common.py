"""Shared by the converters: points with missing ones zeroed, and results that only appear when complete."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from sharpose_rt.errors import ConfigError
from sharpose_rt.machine.whole_files import whole
from sharpose_rt.skeletons.stream import StreamReader
from sharpose_rt.types import Poses

_UNUSED_S = 60.0


def found_points(poses: Poses, *, raw: bool, min_score: float) -> NDArray[np.float64]:
    """(N, K, 3) x, y in px and score; zeros where the score is 0 or below `min_score`. `raw`: before smoothing."""
    points, scores = poses.points(raw=raw)
    table = np.concatenate([points, scores[..., None]], axis=-1).astype(np.float64)
    table[(scores <= 0) | (scores < min_score)] = 0
    return table


def with_points(table: NDArray[np.float64]) -> list[int]:
    """Indices of people in (N, K, 3) with at least one keypoint: predicted people have no raw ones."""
    return np.flatnonzero((table[..., 2] > 0).any(axis=-1)).tolist()


def check_one_skeleton(readers: Sequence[StreamReader], advice: str) -> None:
    """Raises ConfigError with `advice` if the streams of a dataset have different keypoints."""
    for reader in readers:
        skeleton, first = reader.header.skeleton, readers[0].header.skeleton
        if skeleton.keypoints != first.keypoints:
            raise ConfigError(
                f"{reader.path} has the {len(skeleton)} keypoints of {skeleton.name}, and {readers[0].path} the "
                f"{len(first)} of {first.name}; {advice}"
            )


def has_pictures(reader: StreamReader) -> bool:
    """Whether the frames of the source are pictures with their own names."""
    first = next(iter(reader), None)
    return first is not None and first.picture is not None


def rounded(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) with coordinates rounded to 2 decimals and scores to 4, as in the stream."""
    scale = np.array([100.0, 100.0, 10000.0])
    return np.rint(table * scale) / scale + 0.0


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends without an error, and is deleted otherwise."""
    with whole(path) as part, part.open("wb") as file:
        yield file


@contextlib.contextmanager
def new_table(path: Path) -> Iterator[Callable[[Iterable[Any]], object]]:
    """A function that writes a row of a CSV file, see `new_file`; None is an empty cell."""
    with new_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        yield csv.writer(text, lineterminator="\n").writerow
        text.detach()


def cells_of(points: Iterable[Sequence[float]]) -> list[float | None]:
    """x, y and score of these keypoints in a row; None for those that were not found."""
    return [cell for point in points for cell in (point if point[2] > 0 else (None, None, None))]


@contextlib.contextmanager
def new_folder(path: Path, is_old: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder that gets its name when the block ends without an error.

    If a folder of that name exists, files for which `is_old` is true are replaced by the new ones; others stay.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if not path.is_dir():
            temporary.replace(path)
            return
        for old in [file for file in path.iterdir() if is_old(file)]:
            old.unlink()
        for new in temporary.iterdir():
            new.replace(path / new.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_folders(path: Path) -> None:
    """Removes temporary folders of `new_folder` left by killed processes: those without a new file for a while."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # deleted meanwhile
            if time.time() - left.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(left, ignore_errors=True)


def write_json_list(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON array, one record a line, without holding it in memory."""
    with new_file(path) as file:
        separator = b"[\n"
        for record in records:
            file.write(separator + orjson.dumps(record))
            separator = b",\n"
        file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def stem_of(path: PurePath) -> str:
    """'walking' of 'walking.skeletons.jsonl'."""
    return path.name.removesuffix(".jsonl").removesuffix(".skeletons")
