"""A finished stream with other poses, put in the old one's place in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpose_rt.errors import OutputError
from sharpose_rt.machine.whole_files import whole
from sharpose_rt.skeletons.stream import StreamReader, StreamWriter, encode
from sharpose_rt.types import Poses


def rewrite_stream(path: Path, frames: Sequence[Poses], *, smoothing: str) -> None:
    """Gives frame i of the stream at `path` the poses `frames[i]`; the old stream stays until the new one is whole.

    `smoothing` is what the new header says.

    Raises:
        StreamError: the stream cannot be read.
        OutputError: the new one cannot be written.
    """
    reader = StreamReader(path)
    header = replace(reader.header, smoothing=smoothing)
    try:
        with whole(path) as part, StreamWriter(part, header) as writer:
            for record, poses in zip(reader, frames, strict=True):
                writer.write_line(encode(replace(record, poses=poses).to_record()))
            end: dict[str, Any] = dict(reader.end or {"status": "interrupted"})
            end.pop("type", None)
            writer.end(**end)
    except OSError as error:  # the writer's own words are of the part, which goes
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        raise OutputError(f"{path} stays as it was, since another cannot be written in its place: {reason}") from error
