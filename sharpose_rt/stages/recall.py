"""People who are known already, from a skeleton stream: its frames as a source, and what may be done to its people."""

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
    """A frame of a stream, with its record and its time there, s, in whatever round of a loop.

    `pictured` where its picture is there, else it is black.
    """

    record: FrameRecord = field(kw_only=True)
    stored_s: float = field(kw_only=True)
    pictured: bool = field(kw_only=True)


class StoredFrames(Source):
    """The frames of a stream, black, or with the pictures of the video that it is of.

    A frame has that picture of the video whose time is nearest to its own, at most half a frame of the video away, or
    of a folder of pictures that of its name. `unseen` counts those that have none.

    Args:
        reader: of the stream.
        count: of its frames.
        config: which part of it; `rotate` and what else is of pictures holds for the video.
        video: a file, a folder or glob of pictures; None leaves all frames black.
        loop: after the last frame the first one follows, a frame's time later, and so on; each round is a new scene.

    Raises:
        ConfigError: the video is live, or a loop is to be of a part.
        SourceError: there is no such video.
    """

    def __init__(
        self, reader: StreamReader, count: int, config: SourceConfig, video: str | None = None, *, loop: bool = False
    ) -> None:
        if loop and (config.start_s > 0 or config.end_s is not None):
            raise ConfigError("--loop repeats the whole stream; leave --start and --end away, or replay the part first")
        super().__init__(str(reader.path), replace(config, rotate=0))
        self.reader, self._count, self.unseen = reader, count, 0
        self.stem = stem_of(reader.path)
        self._video: Source | None = None
        self._video_from_s = 0.0  # in the stream's time, where the video is of a part of it
        if video is not None:
            whole = replace(config, end_s=None, stride=1, max_frames=None, realtime=False)
            if is_live(video, whole) or video == "-":
                raise ConfigError(f"--video is {video!r}; the file or pictures that the skeletons are of are accepted")
            own = Path(reader.header.source).name == Path(video).name  # a run over it has its own times
            self._video_from_s = first_pts_s(video) if is_file(video) and not own else 0.0
            whole = replace(whole, start_s=max(0.0, config.start_s - self._video_from_s))
            self._open_video = lambda: open_source(video, whole)
            self._video = self._open_video()
            if isinstance(self._video, Images):  # they are known by their names
                whole = replace(whole, start_s=0.0)
                self._video = self._open_video()
        self._records: Iterator[FrameRecord] = iter(())
        self._loop = loop
        self._new_scene, self._camera = False, None  # since the frame that was handed on last
        self._first_s: float | None = None
        self._later_s = 0.0  # than in the stream are the times of this round
        self._record: FrameRecord | None = None
        self._last: Frame | None = None
        self._next_one: Frame | None = None
        self._reach_s = 0.0
        self._pictured = False

    @property
    def has_pictures(self) -> bool:
        """Whether there is a video."""
        return self._video is not None

    @property
    def read_to_its_end(self) -> bool:
        """Whether the stream has no frame behind those that were read."""
        return self._record is None

    def _open(self) -> None:
        self._records = iter(self.reader)
        if self._video is not None:
            self._video.open()
            if self._stop.is_set():  # then nothing may be known of it
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
                "s; times that never fall are wanted"
            )
        self._new_scene |= self._record.new_scene
        self._camera = chain_motions(self._camera, self._record.camera)
        return self._later_s + self._record.pts_s

    def _begin_round(self, last_s: float) -> None:
        """Goes back to the first frame, after the last one of the round before, at `last_s` of the stream."""
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
        if self._stop.is_set():  # its picture may not have been looked for to the end
            return None
        padded_wh = tuple(side + side % 2 for side in size_wh)  # as our videos are
        fits = found is not None and found.size_wh in (size_wh, padded_wh)
        if self._record.frame_size_wh is not None and not fits:  # a video that was written of several sizes has one
            found = None
        self._pictured = found is not None
        if found is None:
            self.unseen += self._video is not None
            black = np.broadcast_to(np.zeros(3, np.uint8), (size_wh[1], size_wh[0], 3))  # takes no memory
            return black, self._record.picture or ""
        if not fits:
            assert self._video is not None
            raise SourceError(
                f"{self._video.name} is {found.size_wh[0]}x{found.size_wh[1]} px, and the skeletons of {self.name} are "
                f"of {size_wh[0]}x{size_wh[1]}; give the video that they are of, and --rotate if that run had it"
            )
        return found.image_bgr[: size_wh[1], : size_wh[0]], self._record.picture or ""

    def _picture(self, record: FrameRecord) -> Frame | None:
        """The frame of the video that is this record's."""
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
        """The picture of that name, whatever its time: others may have gone since, or be thought of another rate."""
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
        if frame.frame_id:  # frames between, which are left out, may have been moved, or of another scene
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
    """A stored frame as the packet that it was, with its people.

    Args:
        anew: people will be followed or smoothed anew: whoever was predicted is left out.
        detect: their boxes are handed on as detections.
        motion: of the camera, found by people alone, until the stream itself says that it moved.
        cuts: where a new scene begins, of frames that have pictures.
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
    """Gives each pose the id of the track that its box belongs to; who has none is left out, and counted (`left_out`).

    Trackers give an id to whoever comes when they see them again, so a frame waits for the next one, where boxes that
    overlap at least by `same` are one person's. `last_poses` are those of the frame before, as trackers want them.
    """

    name = "identify"

    def __init__(self, same: float) -> None:
        self.same = same
        self.last_poses: Poses | None = None
        self.left_out = 0
        self._last_id = 0
        self._waiting: Packet | None = None

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet before, with the poses of who is known."""
        poses, tracks = item.poses, item.tracks
        assert poses is not None
        assert tracks is not None
        boxes = [tuple(box) for box in poses.bboxes_xyxy.tolist()]
        ids = np.zeros(len(poses), np.int64)
        seen = tracks.take(np.flatnonzero(tracks.detected))
        for box, track_id in zip(seen.bboxes_xyxy.tolist(), seen.track_ids.tolist(), strict=True):
            place = boxes.index(tuple(box))  # a tracker gives back the boxes of its detections
            ids[place], boxes[place] = track_id, ()
        poses = replace(poses, track_ids=ids)
        self.last_poses = poses.kept(ids > 0)
        new = Tracks.empty() if item.new_scene else seen.take(np.flatnonzero(seen.track_ids > self._last_id))
        self._last_id = max(self._last_id, int(ids.max(initial=0)))
        before, self._waiting = self._waiting, item.left(self.name, poses=poses, tracks=None)
        return () if before is None else (self._known(before, new, item.camera),)

    def flush(self) -> Iterable[Packet]:
        """The last one."""
        last, self._waiting = self._waiting, None
        return () if last is None else (self._known(last, Tracks.empty()),)

    def _known(self, packet: Packet, new: Tracks, camera: Camera | None = None) -> Packet:
        """The packet with those who are known, or are among the `new` ones of the next frame."""
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
    """Two ids of which each is the other one's person from a time of the stream on, s."""

    one: int
    other: int
    from_s: float


class ChoosePeopleStage(BaseStage[Packet, Packet]):
    """Gives back ids that were exchanged, joins those that are one person's, and keeps the wanted people.

    Args:
        same: the id that each of these becomes.
        wanted: ids that stay, after they were joined; None keeps everybody.
        swaps: before that, each from its time on, and in the order of these times.
    """

    name = "choose"

    def __init__(
        self, same: Mapping[int, int], wanted: frozenset[int] | None = None, swaps: Iterable[Swap] = ()
    ) -> None:
        self.same, self.wanted = same, wanted
        self.swaps = sorted(swaps, key=lambda swap: swap.from_s)
        self.seen: set[int] = set()
        """Of the ids that are joined or wanted, those that were there."""
        self.made: set[Swap] = set()
        """The swaps that changed an id."""

    def process(self, item: Packet, /) -> Iterable[Packet]:
        """The packet with those people.

        Raises:
            ConfigError: two who are joined are both seen in one frame.
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
        """Whose id this is, after the swaps up to now."""
        for swap in self.swaps:
            if now_s >= swap.from_s - TICK_S and number in (swap.one, swap.other):
                number = swap.other if number == swap.one else swap.one
                self.made.add(swap)
        return number

    def _one_of(self, number: int, ids: list[int], given: list[int], poses: Poses, frame: Frame) -> NDArray[np.bool_]:
        """All rows but those of an id that another row has too: somebody who is seen goes before who was predicted."""
        places = [place for place, i in enumerate(ids) if i == number]
        seen = [place for place in places if poses.stage[place] != PoseStage.PREDICTED]
        if len(seen) > 1:
            both = " and ".join(str(given[place]) for place in seen[:2])
            raise ConfigError(
                f"--merge: {both} are both seen in frame {frame.frame_id}, at {frame.pts_s:g} s, so they are two "
                "people; leave one of them out"
            )
        keep = np.ones(len(ids), bool)
        keep[places] = False
        keep[(seen or places)[:1]] = True
        return keep
