"""Makes a dataset of pictures from runs, with the people found in them, to correct by hand and train on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from sharpose_rt import __version__
from sharpose_rt.config import SourceConfig
from sharpose_rt.config.checks import within
from sharpose_rt.errors import ConfigError, OutputError, StreamError, writing
from sharpose_rt.labels.yolo import write_yolo
from sharpose_rt.media.writer import write_image
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.skeletons import StreamReader
from sharpose_rt.skeletons.convert.coco import people_labels, person_category
from sharpose_rt.skeletons.convert.common import check_one_skeleton, new_folder
from sharpose_rt.skeletons.names import safe_stem, unique_name
from sharpose_rt.stages import StoredFrame, StoredFrames
from sharpose_rt.tracking import rows
from sharpose_rt.types import Poses

Choice = Literal["unsure", "even"]
Form = Literal["coco", "yolo"]
Labelled = list[tuple[dict[str, Any], list[dict[str, Any]]]]
"""Pictures with their people, as records in COCO's form."""


@dataclass(frozen=True)
class Collected:
    """The contents of a dataset."""

    folder: Path
    pictures: dict[str, int]
    """By split ('train', 'val')."""
    people: dict[str, int]
    unseen: int
    """Chosen frames without a picture in the video."""


@dataclass
class _Stream:
    """A stream to take pictures from, and its frames with people: index in the stream, and uncertainty."""

    reader: StreamReader
    video: str
    count: int
    places: list[int] = field(default_factory=list)
    doubts: list[float] = field(default_factory=list)


def collect(
    streams: Sequence[tuple[str | Path, str]],
    out: str | Path,
    *,
    pictures: int = 100,
    choose: Choice = "unsure",
    form: Form = "coco",
    val_share: float | None = None,
    min_score: float = 0.3,
    config: SourceConfig | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Collected:
    """Makes the folder `out` with pictures from videos, labelled with the people of their skeleton streams.

    'coco' has `annotations.json` and `images/`, for `sharpose-rt train` and labelling programs, in `train/` and `val/`
    if there is a validation share; 'yolo' is for training with ultralytics. Labels are those of `write_coco_labels`.
    The frames with people are divided into as many spans of time as pictures are requested, and one is taken from each:
    'even' the middle one, 'unsure' the one where the network was least certain. Pictures are divided among several
    streams in proportion to their frames. The last pictures of a stream are for validation, so that hardly any
    resembles one for training.

    Args:
        streams: pairs of skeleton stream and video, as for `replay`.
        out: must be missing or empty: corrected labels are never replaced.
        pictures: how many, 1 or more; fewer if the streams have fewer frames with people.
        choose: which frame of each span.
        form: of the labels.
        val_share: share for validation, 0 or more and below 1; None: 0.2 for 'yolo', which needs one, otherwise 0.
        min_score: keypoints with lower scores are not labelled, nor people without any others.
        config: `rotate` and other options of pictures, for the videos.
        progress: called with the share that is done, 0..1.

    Raises:
        ConfigError: an option is out of range, or the streams have different keypoint sets.
        StreamError: a stream cannot be read, or none contains people.
        SourceError: a video is missing, or not that of its stream.
        OutputError: the folder exists and is not empty, or cannot be written.
    """
    out, config = Path(out), config or SourceConfig()
    share = (0.2 if form == "yolo" else 0.0) if val_share is None else val_share
    _check(streams, pictures, share, min_score)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists already, and its labels may have been corrected; choose another name")
    opened = [_read(path, video) for path, video in streams]
    skeleton = opened[0].reader.header.skeleton
    check_one_skeleton([stream.reader for stream in opened], "collect them apart")
    counts = _shared(pictures, [len(stream.places) for stream in opened])
    if not sum(counts):
        names = ", ".join(str(stream.reader.path) for stream in opened)
        raise StreamError(f"nobody is in {names}, so there is nothing to label")
    job = _Set(form, share, skeleton, min_score)
    frames, before = sum(stream.count for stream in opened), 0
    with writing(out, "choose another name"), new_folder(out, lambda _: False) as folder:
        for stream, count, held_out in zip(opened, counts, _held_out(counts, share), strict=True):
            at = partial(_say, progress, before, frames)
            for number, frame in enumerate(_frames(stream, set(_chosen(stream, count, choose)), config, at)):
                job.add(folder, stream, frame, "train" if number < count - held_out else "val")
            before += stream.count
        if not any(job.splits.values()):
            raise StreamError(
                f"none of the {job.unseen} frames that were chosen has a picture at its time in the video; give the "
                "video that the stream is of"
            )
        job.write_labels(folder)
    return Collected(
        out,
        {split: len(labelled) for split, labelled in job.splits.items()},
        {split: sum(len(people) for _, people in labelled) for split, labelled in job.splits.items()},
        job.unseen,
    )


class _Set:
    """A dataset that is being written."""

    def __init__(self, form: Form, share: float, skeleton: Skeleton, min_score: float) -> None:
        self._yolo, self._skeleton, self._min_score = form == "yolo", skeleton, min_score
        self.splits: dict[str, Labelled] = {"train": [], "val": []} if share > 0 else {"train": []}
        self._names: set[str] = set()
        self.unseen = 0

    def _images(self, folder: Path, split: str) -> Path:
        """The folder for the pictures of a split."""
        if self._yolo:
            return folder / "images" / split
        return folder / split / "images" if len(self.splits) > 1 else folder / "images"

    def add(self, folder: Path, stream: _Stream, frame: StoredFrame, split: str) -> None:
        """Writes the picture, and stores its people."""
        if not frame.pictured:
            self.unseen += 1
            return
        record, (width, height) = frame.record, frame.size_wh
        stem = Path(record.picture).stem if record.picture else f"{Path(stream.video).stem}_{record.frame_id:06d}"
        images, name = self._images(folder, split), f"{unique_name(safe_stem(stem), self._names)}.jpg"
        images.mkdir(parents=True, exist_ok=True)
        write_image(images / name, frame.image_bgr)
        seen = rows.estimated(record.poses)
        people = list(people_labels(seen, (width, height), self._skeleton, min_score=self._min_score))
        image = {"file_name": name, "width": width, "height": height}
        self.splits[split].append((image | {"frame_id": record.frame_id, "pts_s": record.pts_s}, people))

    def write_labels(self, folder: Path) -> None:
        """The labels of all pictures."""
        if self._yolo:
            write_yolo(folder, self.splits, self._skeleton)
            return
        for split, labelled in self.splits.items():
            images = self._images(folder, split)
            images.mkdir(parents=True, exist_ok=True)
            _write_coco(images.parent / "annotations.json", labelled, self._skeleton)


def _say(progress: Callable[[float], None], before: int, frames: int, place: int) -> None:
    progress((before + place) / frames)


def _check(streams: Sequence[Any], pictures: int, share: float, min_score: float) -> None:
    if not streams:
        raise ConfigError("no stream was given; give at least one")
    if pictures < 1:
        raise ConfigError(f"{pictures} pictures were requested; 1 or more are accepted")
    if not 0 <= share < 1:
        raise ConfigError(f"the validation share is {share:g}; 0 or more and below 1 is accepted")
    within("min_score", min_score, 0, 1)


def _read(path: str | Path, video: str) -> _Stream:
    reader = StreamReader(path)
    stream = _Stream(reader, video, reader.warn_unless_complete())
    for place, record in enumerate(itertools.islice(reader, stream.count)):
        if len(record.poses):
            stream.places.append(place)
            stream.doubts.append(doubt(record.poses))
    return stream


def doubt(poses: Poses) -> float:
    """How uncertain the network was about the people in a frame, 0..1: 1 minus the mean score of their keypoints.

    Predicted people have no scores: somebody was there before, but was not found.
    """
    return 1 - float(poses.raw_keypoint_scores.mean())


def _shared(pictures: int, available: Sequence[int]) -> list[int]:
    """How many pictures to take from each stream, in proportion to its frames, and at least one if possible."""
    counts = [0] * len(available)
    for _ in range(min(pictures, sum(available))):
        due = [(given < have, given == 0, have / (given + 1)) for given, have in zip(counts, available, strict=True)]
        counts[due.index(max(due))] += 1
    return counts


def _held_out(counts: Sequence[int], share: float) -> list[int]:
    """How many pictures of each stream are for validation: this share of the total, at least one, never all."""
    total = sum(counts)
    wanted = min(max(1, round(share * total)), total - 1) if share > 0 and total > 1 else 0
    ends = [round(wanted * given / max(1, total)) for given in itertools.accumulate(counts, initial=0)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def _chosen(stream: _Stream, count: int, choose: Choice) -> Iterator[int]:
    """Indices of `count` frames in the stream, one from each span."""
    for span in np.array_split(np.arange(len(stream.places)), count) if count else ():
        place = span[len(span) // 2] if choose == "even" else max(span, key=lambda at: stream.doubts[at])
        yield stream.places[place]


def _frames(
    stream: _Stream, chosen: set[int], config: SourceConfig, at: Callable[[int], None]
) -> Iterator[StoredFrame]:
    if not chosen:
        return
    last = max(chosen)
    with StoredFrames(stream.reader, stream.count, config, stream.video) as source:
        for place, frame in enumerate(source):
            at(place)
            if place in chosen:
                assert isinstance(frame, StoredFrame)
                yield frame
            if place == last:
                return


def _write_coco(path: Path, labelled: Labelled, skeleton: Skeleton) -> None:
    images = [{"id": number, **image} for number, (image, _) in enumerate(labelled, 1)]
    records = [{"image_id": number, **person} for number, (_, people) in enumerate(labelled, 1) for person in people]
    document = {
        "info": {"description": f"collected by sharpose-rt {__version__}"},
        "licenses": [],
        "categories": [person_category(skeleton)],
        "images": images,
        "annotations": [{"id": number, **record} for number, record in enumerate(records, 1)],
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
