"""Replaces the poses of a finished stream in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpose_rt.skeletons.records import encode
from sharpose_rt.skeletons.stream import StreamReader, whole_stream
from sharpose_rt.types import Poses


def rewrite_stream(path: Path, frames: Sequence[Poses], *, smoothing: str) -> None:
    """Gives frame i of the stream at `path` the poses `frames[i]`; the old stream stays until the new one is complete.

    `smoothing` is written to the new header.

    Raises:
        StreamError: the stream cannot be read.
        OutputError: the new one cannot be written.
    """
    reader = StreamReader(path)
    header = replace(reader.header, smoothing=smoothing)
    with whole_stream(path, header, "it stays as it was. Free some space") as writer:
        for record, poses in zip(reader, frames, strict=True):
            writer.write_line(encode(replace(record, poses=poses).to_record()))
        end: dict[str, Any] = dict(reader.end or {"status": "interrupted"})
        end.pop("type", None)
        writer.end(**end)
