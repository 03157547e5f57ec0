"""Conversion of results of other programs to a skeleton stream, version 1.

coco         keypoint results (a list), or labels with images and annotations, also PoseTrack's
openpose     folder of OpenPose's --write_json (COCO or BODY_25)
alphapose    alphapose-results.json
mmpose       predictions of MMPose's demos or inferencer
easy_vitpose the JSON of its --save-json
ultralytics  Results.summary() or to_json() of each frame, in a list or one per line

None of them contains times, and only COCO labels contain the frame size and the names of pictures; the caller provides
what is missing.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpose_rt import __version__
from sharpose_rt.errors import ConfigError, StreamError
from sharpose_rt.skeletons.convert.common import stem_of
from sharpose_rt.skeletons.importers.lists import (
    read_alphapose,
    read_coco,
    read_easy_vitpose,
    read_mmpose,
    read_ultralytics,
)
from sharpose_rt.skeletons.importers.openpose import read_openpose
from sharpose_rt.skeletons.importers.people import Imported, to_poses
from sharpose_rt.skeletons.names import check_target, named, target_of
from sharpose_rt.skeletons.records import FrameRecord, Header, encode
from sharpose_rt.skeletons.stream import whole_stream

log = logging.getLogger("sharpose_rt.skeletons")

__all__ = ["READERS", "Imported", "import_stream"]

READERS: dict[str, Callable[[Path], Imported]] = {
    "openpose": read_openpose,
    "alphapose": read_alphapose,
    "coco": read_coco,
    "easy_vitpose": read_easy_vitpose,
    "mmpose": read_mmpose,
    "ultralytics": read_ultralytics,
}


def _stem(path: Path) -> str:
    """The name without the suffix of a format: 'cam.1' for 'cam.1.json', 'walk' for 'walk.openpose'."""
    name = stem_of(path)
    for suffix in (".json", ".jsonl", *(f".{source_format}" for source_format in READERS)):
        name = name.removesuffix(suffix)
    return name or path.name


def _counted_from(first: int, imported: Imported, path: Path) -> Imported:
    """With frames counted from 0, for a file that counts from `first`."""
    if imported.frames and min(imported.frames) < first:
        raise StreamError(f"{path} has frame {min(imported.frames)}, but the first one is said to be {first}")
    return _numbered(imported, lambda number: number - first)


def _in_order(imported: Imported) -> Imported:
    """With frames counted from 0 without gaps, in the order of their numbers."""
    places = {number: place for place, number in enumerate(sorted(imported.frames))}
    return _numbered(imported, places.__getitem__)


def _numbered(imported: Imported, new: Callable[[int], int]) -> Imported:
    def moved(by_frame: Mapping[int, Any]) -> dict[int, Any]:
        return {new(number): value for number, value in by_frame.items()}

    frames, sizes_wh, pictures = moved(imported.frames), moved(imported.sizes_wh), moved(imported.pictures)
    return replace(imported, frames=frames, sizes_wh=sizes_wh, pictures=pictures)


_SPARSE = 100_000
"""A frame number this far above the number of frames is a date, or the number of a picture in a dataset."""


def import_stream(
    path: str | Path,
    source_format: str,
    out: str | Path | None = None,
    *,
    frame_size_wh: tuple[int, int] | None = None,
    fps: float | None = None,
    times_s: Sequence[float] | None = None,
    source: str | None = None,
    first_frame: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes the results at `path` as a skeleton stream and returns its path.

    Every frame from 0 to the last one (the last of `times_s` if given) gets a line, even without people. Ids are kept,
    increased by one if the file counts from 0; a second person with the same id in a frame loses it. Sizes and names of
    pictures are kept if the results contain them. Labelled photographs, whose numbers are from a large dataset, become
    consecutive frames; a warning says so.

    Args:
        path: file or folder.
        source_format: a key of `READERS`.
        out: default `<stem>.skeletons.jsonl` next to `path`; can be a folder.
        frame_size_wh: size of the upright frames, px; None uses that of the first frame if the results contain it.
        fps: frame rate; media times are frame number / fps unless `times_s` is given.
        times_s: media time of each frame in s; more frames than these are an error.
        source: name of the video for the header; default `path`. An existing file of this name is never overwritten.
        first_frame: number of the first frame of the video in the results.
        overwrite: replace an existing stream.

    Raises:
        ConfigError: an unknown format, neither `fps` nor `times_s`, or the frame size is unknown.
        StreamError: the results have another form; names file and record.
        OutputError: the stream exists already, would replace the results, or cannot be written.
    """
    if source_format not in READERS:
        close = difflib.get_close_matches(source_format, READERS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"unknown format {source_format!r}; {hint}One of {', '.join(READERS)} is accepted")
    if times_s is None and not (fps and fps > 0):
        raise ConfigError(f"{source_format} files tell no times; give the frame rate (above 0), or the video")
    if source_format == "mmpose" and first_frame:
        raise ConfigError("MMPose's files are known to count from 1 or from 0; leave --first-frame away")
    path = Path(path)
    target = target_of(path, f"{_stem(named(path))}.skeletons.jsonl", out)
    check_target(target, (path, *path.glob("*.json"), Path(source or path)), overwrite)
    imported = _counted_from(first_frame, READERS[source_format](path), path)
    first, last = min(imported.frames, default=0), max(imported.frames, default=-1)
    sparse = times_s is None and last > _SPARSE + 100 * len(imported.frames)
    if sparse and imported.pictures and not first_frame:
        log.warning(
            "%s has %d pictures with numbers up to %d, which are no frame numbers of a video; each becomes a frame, in "
            "this order. If they are, give the first one's number (--first-frame %d)",
            path, len(imported.frames), last, first,
        )  # fmt: skip
        imported, last, sparse = _in_order(imported), len(imported.frames) - 1, False
    if times_s is not None and last >= len(times_s):
        raise StreamError(
            f"{path} has frame {last}, but the video has {len(times_s)} frames; is it the right one, "
            "and are its frames counted from --first-frame?"
        )
    if sparse:
        raise StreamError(
            f"{path} has {len(imported.frames)} frames with numbers up to {last}: these are no frame numbers of a "
            "video; name the results as its frames, or give the first one's number "
            f"(--first-frame {first_frame + first})"
        )
    ids = [p.track_id for people in imported.frames.values() for p in people if p.track_id is not None]
    first_id = min(1, min(ids, default=1))
    if max(ids, default=0) - first_id >= 2**63 - 1:
        raise StreamError(
            f"{path} has ids from 0 to {max(ids)}, which a stream counts from 1; {2**63} is too large an id"
        )
    size_wh = frame_size_wh or min(imported.sizes_wh.items(), default=(0, None))[1]
    if size_wh is None:
        raise ConfigError(
            f"{path} does not tell how large the frames are; give their size (--frame-size WxH), or the video"
        )
    header = Header(
        source=source or str(path),
        frame_size_wh=size_wh,
        fps=fps,
        skeleton=imported.skeleton,
        model={"name": source_format},
        detector=source_format,
        tracker=source_format if ids else "none",
        smoothing="none",
        version=__version__,
    )
    count = len(times_s) if times_s is not None else last + 1
    with whole_stream(target, header, "choose another place") as writer:
        for frame_id in range(count):
            pts_s = times_s[frame_id] if times_s is not None else frame_id / (fps or 1)
            poses = to_poses(imported.frames.get(frame_id, []), imported.skeleton, first_id)
            own_wh, picture = imported.sizes_wh.get(frame_id, size_wh), imported.pictures.get(frame_id)
            size = None if own_wh == size_wh else own_wh
            record = FrameRecord(frame_id, pts_s, poses, frame_size_wh=size, picture=picture)
            writer.write_line(encode(record.to_record()))
    return target
