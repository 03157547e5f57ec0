"""Frames of an existing skeleton stream as a source, and stages that renumber, merge or select its people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import ConfigError, SourceError, StreamError
from sharpose_rt.geometry.affine import chain_motions
from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.machine.paths import is_file
from sharpose_rt.media import Source, SourceInfo, is_live, open_source
from sharpose_rt.media.files import Images
from sharpose_rt.media.source import FALLBACK_FPS, TICK_S
from sharpose_rt.media.writer import first_pts_s
from sharpose_rt.runtime import BaseStage
from sharpose_rt.skeletons import FrameRecord, StreamReader
from sharpose_rt.skeletons.convert.common import stem_of
from sharpose_rt.stages.detect import Scenes
from sharpose_rt.tracking import PeopleMotion, SceneCuts, rows
from sharpose_rt.tracking.camera import Camera, moved_box
from sharpose_rt.types import Detections, Frame, Packet, Poses, PoseStage, Tracks


@dataclass(frozen=True, repr=False, eq=False)
class StoredFrame(Frame):
    """A frame of a stream, with its record and its time in the stream, s, whichever round of a loop it is in.

    `pictured` if its picture was found; otherwise it is black.
    """

    record: FrameRecord = field(kw_only=True)
    stored_s: float = field(kw_only=True)
    pictured: bool = field(kw_only=True)


class StoredFrames(Source):
    """The frames of a stream, black or with the pictures of its video.

    A frame gets the video's picture nearest in time, at most half a video frame away, or, from a folder of pictures,
    the one with its name. `unseen` counts frames without a picture.

    Args:
        reader: of the stream.
        count: number of its frames.
        config: which part of it; `rotate` and other options of pictures apply to the video.
        video: a file, or a folder or glob of pictures; None leaves all frames black.
        loop: start again after the last frame, one frame's time later; each round is a new scene.

    Raises:
        ConfigError: the video is live, or only a part is to be looped.
        SourceError: there is no such video.
    """

    def __init__(
        self, reader: StreamReader, count: int, config: SourceConfig, video: str | None = None, *, loop: bool = False
    ) -> None:
        if loop and (config.start_s > 0 or config.end_s is not None):
            raise ConfigError("--loop repeats the whole stream; leave out --start and --end, or replay the part first")
        super().__init__(str(reader.path), replace(config, rotate=0))
        self.reader, self._count, self.unseen = reader, count, 0
        self.stem = stem_of(reader.path)
        self._video: Source | None = None
        self._video_from_s = 0.0  # in the stream's time, if the video is a part of the recording
        if video is not None:
            whole = replace(config, end_s=None, stride=1, max_frames=None, realtime=False)
            if is_live(video, whole) or video == "-":
                raise ConfigError(f"--video is {video!r}; give the file or pictures that the skeletons were made from")
            own = Path(reader.header.source).name == Path(video).name  # the stream was made from it and has its times
            self._video_from_s = first_pts_s(video) if is_file(video) and not own else 0.0
            whole = replace(whole, start_s=max(0.0, config.start_s - self._video_from_s))
            self._open_video = lambda: open_source(video, whole)
            self._video = self._open_video()
            if isinstance(self._video, Images):  # found by their names
                whole = replace(whole, start_s=0.0)
                self._video = self._open_video()
        self._records: Iterator[FrameRecord] = iter(())
        self._loop = loop
        self._new_scene, self._camera = False, None  # since the last frame that was returned
        self._first_s: float | None = None
        self._later_s = 0.0  # offset of this round's times from those in the stream
        self._record: FrameRecord | None = None
        self._last: Frame | None = None
        self._next_one: Frame | None = None
        self._reach_s = 0.0
        self._pictured = False

    @property
    def has_pictures(self) -> bool:
        """Whether it has a video."""
        return self._video is not None

    @property
    def read_to_its_end(self) -> bool:
        """Whether all frames of the stream were read."""
        return self._record is None

    def _open(self) -> None:
        self._records = iter(self.reader)
        if self._video is not None:
            self._video.open()
            if self._stop.is_set():  # before anything was known of the video, perhaps
                return
            self._reach_s = 0.5 / (self._video.info.fps or self.reader.header.fps or np.inf) + TICK_S
            self._next_one = self._video.read()

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        header, seen = self.reader.header, None if self._video is None else self._video.info
        pictures = seen is not None and seen.kind in ("image", "images")
        kept = self._kept(None if self._loop else self._count, header.fps, None)
        return SourceInfo(
            header.source,
            seen.kind if seen is not None and pictures else "video",
            False,
            header.frame_size_wh,
            path=seen and seen.path,
            audio=seen is not None and seen.audio,
            start_s=self.config.start_s,
            stem=self.stem,
            **kept,  # type: ignore[arg-type]
        )

    def _grab(self) -> float | None:
        last, self._record = self._record, next(self._records, None)
        if self._record is None and last is not None and self._loop:
            self._begin_round(last.pts_s)
            last, self._record = None, next(self._records, None)
        if self._record is None:
            return None
        self._first_s = self._record.pts_s if self._first_s is None else self._first_s
        if last is not None and self._record.pts_s < last.pts_s:
            raise StreamError(
                f"{self.name}: frame {self._record.frame_id} is at {self._record.pts_s} s, after one at {last.pts_s} "
                "s; times must never decrease"
            )
        self._new_scene |= self._record.new_scene
        self._camera = chain_motions(self._camera, self._record.camera)
        return self._later_s + self._record.pts_s

    def _begin_round(self, last_s: float) -> None:
        """Starts again at the first frame; the last one of the previous round was at `last_s` of the stream."""
        assert self._first_s is not None
        self._new_scene = True
        self._later_s += last_s - self._first_s + 1 / (self.reader.header.fps or FALLBACK_FPS)
        self._last = self._next_one = None
        if self._video is not None:
            self._video.close()
            self._video = self._open_video()
        self._open()

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        assert self._record is not None
        size_wh = self._record.frame_size_wh or self.reader.header.frame_size_wh
        found = self._picture(self._record)
        if self._stop.is_set():  # the search for its picture may have been cut short
            return None
        padded_wh = tuple(side + side % 2 for side in size_wh)  # our videos have even sizes
        fits = found is not None and found.size_wh in (size_wh, padded_wh)
        if self._record.frame_size_wh is not None and not fits:  # a video made from several sizes has only one
            found = None
        self._pictured = found is not None
        if found is None:
            self.unseen += self._video is not None
            black = np.broadcast_to(np.zeros(3, np.uint8), (size_wh[1], size_wh[0], 3))  # takes no memory
            return black, self._record.picture or ""
        if not fits:
            assert self._video is not None
            raise SourceError(
                f"{self._video.name} is {found.size_wh[0]}x{found.size_wh[1]} px, but the skeletons in {self.name} are "
                f"of {size_wh[0]}x{size_wh[1]}; give the video they were made from, and --rotate if that run had it"
            )
        return found.image_bgr[: size_wh[1], : size_wh[0]], self._record.picture or ""

    def _picture(self, record: FrameRecord) -> Frame | None:
        """The video's frame for this record."""
        if self._video is None:
            return None
        if record.picture is not None and isinstance(self._video, Images):
            return self._of_name(record.picture)
        at_s = record.pts_s - self._video_from_s
        while self._next_one is not None and self._next_one.pts_s <= at_s:
            self._last, self._next_one = self._next_one, self._video.read()
        near = [frame for frame in (self._last, self._next_one) if frame is not None]
        if not near:  # interrupted
            return None
        best = min(near, key=lambda frame: abs(frame.pts_s - at_s))
        return best if abs(best.pts_s - at_s) <= self._reach_s else None

    def _of_name(self, name: str) -> Frame | None:
        """The picture with this name, whatever its time: others may have been removed since, or the rate changed."""
        assert isinstance(self._video, Images)
        while self._next_one is not None and self._next_one.source != name and self._video.is_to_come(name):
            self._next_one = self._video.read()
        return self._next_one if self._next_one is not None and self._next_one.source == name else None

    def _next(self) -> StoredFrame | None:
        frame = super()._next()
        if frame is None:
            return None
        record = self._record
        assert record is not None
        parts = {part.name: getattr(frame, part.name) for part in fields(Frame)}
        parts["dropped_before"], parts["lost_before_s"] = record.dropped_before or 0, record.lost_before_s or 0.0
        camera = record.camera
        if frame.frame_id:  # skipped frames in between may have had camera motion or a new scene
            parts["new_scene"], camera = self._new_scene, None if self._new_scene else self._camera
        self._new_scene, self._camera = False, None
        shown = replace(record, pts_s=frame.pts_s, camera=camera)
        return StoredFrame(**parts, record=shown, stored_s=record.pts_s, pictured=self._pictured)

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        super().interrupt()
        if self._video is not None:
            self._video.interrupt()

    def _close(self) -> None:
        if self._video is not None:
            self._video.close()


class RecallStage(BaseStage[Frame, Packet]):
    """A stored frame as its original packet, with its people.

    Args:
        anew: people will be tracked or smoothed again, so predicted poses are left out.
        detect: pass on their boxes as detections.
        motion: finds camera motion from the people alone, until the stream itself contains camera motion.
        cuts: finds where a new scene begins, in frames that have pictures.
    """

    name = "recall"

    def __init__(
        self,
        *,
        anew: bool = False,
        detect: bool = False,
        motion: PeopleMotion | None = None,
        cuts: SceneCuts | None = None,
    ) -> None:
        self.anew, self.detect, self.motion, self._scenes = anew, detect, motion, Scenes(cuts)

    def process(self, item: Frame, /) -> Iterable[Packet]:
        """The packet."""
        assert isinstance(item, StoredFrame)
        poses = rows.estimated(item.record.poses) if self.anew else item.record.poses
        found = Detections(poses.bboxes_xyxy, poses.bbox_scores) if self.detect else None
        new_scene, camera = self._scenes.begins(item, pictured=item.pictured), item.record.camera
        if self.motion is not None:
            if camera is not None:
                self.motion = None
            else:
                if new_scene:
                    self.motion.forget()
                camera = self.motion.step(poses)
        packet = Packet(item, found, camera=camera, poses=poses, new_scene=new_scene)
        return (packet.left(self.name),)


class IdentifyStage(BaseStage[Packet, Packet]):
    """Gives each pose the id of its box's track; poses without a track are left out and counted (`left_out`).

    Trackers give new people an id only when they see them again, so a frame waits for the next one, in which a box with
    an overlap of at least `same` is the same person. `last_poses` are those of the frame before, for the tracker.
    """

    name = "identify"

    def __init__(self, same: float) -> None:
        self.same = same
        self.last_poses: Poses | None = None
        self.left_out = 0
        self._last_id = 0
        self._waiting: Packet | None = None

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The previous packet, with the poses of people who have an id."""
        poses, tracks = item.poses, item.tracks
        assert poses is not None
        assert tracks is not None
        boxes = [tuple(box) for box in poses.bboxes_xyxy.tolist()]
        ids = np.zeros(len(poses), np.int64)
        seen = tracks.take(np.flatnonzero(tracks.detected))
        for box, track_id in zip(seen.bboxes_xyxy.tolist(), seen.track_ids.tolist(), strict=True):
            place = boxes.index(tuple(box))  # a tracker returns the boxes of its detections unchanged
            ids[place], boxes[place] = track_id, ()
        poses = replace(poses, track_ids=ids)
        self.last_poses = poses.kept(ids > 0)
        new = Tracks.empty() if item.new_scene else seen.take(np.flatnonzero(seen.track_ids > self._last_id))
        self._last_id = max(self._last_id, int(ids.max(initial=0)))
        before, self._waiting = self._waiting, item.left(self.name, poses=poses, tracks=None)
        return () if before is None else (self._known(before, new, item.camera),)

    def flush(self) -> Iterable[Packet]:
        """The last packet."""
        last, self._waiting = self._waiting, None
        return () if last is None else (self._known(last, Tracks.empty()),)

    def _known(self, packet: Packet, new: Tracks, camera: Camera | None = None) -> Packet:
        """The packet with the people who have an id, or who are among the `new` tracks of the next frame."""
        poses = packet.poses
        assert poses is not None
        ids = poses.track_ids.copy()
        nobody = np.flatnonzero(ids == 0)
        boxes = [box if camera is None else moved_box(box, camera) for box in poses.bboxes_xyxy[nobody]]
        overlap = iou_matrix(boxes, new.bboxes_xyxy)
        while overlap.max(initial=0) >= self.same:
            row, column = np.unravel_index(overlap.argmax(), overlap.shape)
            ids[nobody[row]] = new.track_ids[column]
            overlap[row], overlap[:, column] = -1, -1
        self.left_out += int((ids == 0).sum())
        return replace(packet, poses=replace(poses, track_ids=ids).kept(ids > 0))


class Swap(NamedTuple):
    """Two ids that exchange people from a time in the stream on, s."""

    one: int
    other: int
    from_s: float


class ChoosePeopleStage(BaseStage[Packet, Packet]):
    """Undoes swaps of ids, merges ids of the same person, and keeps only the wanted people.

    Args:
        same: maps each id to be merged to the id that it becomes.
        wanted: ids that are kept, after merging; None keeps everybody.
        swaps: applied before merging, each from its time on, in order of time.
    """

    name = "choose"

    def __init__(
        self, same: Mapping[int, int], wanted: frozenset[int] | None = None, swaps: Iterable[Swap] = ()
    ) -> None:
        self.same, self.wanted = same, wanted
        self.swaps = sorted(swaps, key=lambda swap: swap.from_s)
        self.seen: set[int] = set()
        """Ids to be merged or kept that occurred."""
        self.made: set[Swap] = set()
        """Swaps that changed an id."""

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with the chosen people.

        Raises:
            ConfigError: two ids to be merged are both seen in one frame.
        """
        poses = item.poses
        assert poses is not None
        frame = item.frame
        now_s = frame.stored_s if isinstance(frame, StoredFrame) else frame.pts_s
        given = [self._swapped(number, now_s) for number in poses.track_ids.tolist()]
        ids = [self.same.get(number, number) for number in given]
        self.seen.update(number for number in (*given, *ids) if number in self.same or number in (self.wanted or ()))
        keep = np.array([self.wanted is None or number in self.wanted for number in ids], bool)
        for number in {self.same[i] for i in given if i in self.same}:
            keep &= self._one_of(number, ids, given, poses, frame)
        return (item.left(self.name, poses=replace(poses, track_ids=np.array(ids, np.int64)).kept(keep)),)

    def _swapped(self, number: int, now_s: float) -> int:
        """The id after all swaps up to now."""
        for swap in self.swaps:
            if now_s >= swap.from_s - TICK_S and number in (swap.one, swap.other):
                number = swap.other if number == swap.one else swap.one
                self.made.add(swap)
        return number

    def _one_of(self, number: int, ids: list[int], given: list[int], poses: Poses, frame: Frame) -> NDArray[np.bool_]:
        """A mask of the rows (N,) that leaves one of those with this id: one seen rather than one predicted."""
        places = [place for place, i in enumerate(ids) if i == number]
        seen = [place for place in places if poses.stage[place] != PoseStage.PREDICTED]
        if len(seen) > 1:
            both = " and ".join(str(given[place]) for place in seen[:2])
            raise ConfigError(
                f"--merge: {both} are both seen in frame {frame.frame_id}, at {frame.pts_s:g} s, so they are two "
                "people; remove one of them"
            )
        keep = np.ones(len(ids), bool)
        keep[places] = False
        keep[(seen or places)[:1]] = True
        return keep
