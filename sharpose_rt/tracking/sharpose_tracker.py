"""The tracker `sharpose`: boxes and poses, in media time.

Detections are matched in two rounds, confident ones first, as in ByteTrack (Zhang et al. 2022). Boxes of lost people
are widened for matching, as in C-BIoU (Yang et al. 2023). Boxes move with the camera, as in BoT-SORT (Aharon et al.
2022). Our additions: motion is in seconds, lost people are also searched for where they were last seen, the last pose
must fit into the box matched to its person, poses move the boxes in frames without the detector, and two tracks whose
poses stay the same are shown as one. Appearance, as in DeepSORT (Wojke et al. 2017), helps where boxes are ambiguous
(`memory.likeness`) and recognises people who return (`memory.decide`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sharpose_rt.config import TrackerConfig
from sharpose_rt.geometry.boxes import area, inside_matrix, iou_matrix, keypoints_to_bbox
from sharpose_rt.geometry.oks import same_poses
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.tracking import kalman, motion
from sharpose_rt.tracking.base import ROUNDED_S, Clock, canonical
from sharpose_rt.tracking.camera import Camera, moved_box
from sharpose_rt.tracking.memory import (
    ENOUGH,
    WAIT_S,
    Left,
    Look,
    Looks,
    Memory,
    Newcomer,
    decide,
    likeness,
    mean_look,
)
from sharpose_rt.types import Detections, Float32, Poses, Tracks

SURE_SCORE = 0.3
"""Keypoints with lower scores do not move a box, nor count for or against a match."""
SURE_COUNT = 4
"""A pose with fewer sure keypoints is not used."""
POSE_WEIGHT = 0.3
"""Share of a similarity that depends on the pose."""
WIDEN = 0.15
"""Boxes are widened by this share of their size on each side to find lost people."""
DUPLICATE_IOU = 0.5
"""A detection that overlaps a better one by more starts no track: of those that overlap by 0.5 to 0.6, nine in ten are
a second box of the same person, or one between two people (49 boxes of the bundled detector on labelled
photographs)."""
DUPLICATE_S = 0.3
"""Two tracks whose poses are the same (`same_poses`) for longer are one person, ..."""
APART = 0.5
"""... until less than this share of the smaller box is in the other for as long. Frames that contradict this are
subtracted, so that no single frame decides."""
LOOK_S, LOOK_AGAIN_S = 0.2, 1.0
"""How often the appearance of tracked people is looked at; less often once they are known well enough."""
LOOKS_PER_S, LOOKS = 100, (2, 16)
"""How many of them are looked at per second, and as many contested ones; the least and most per frame."""
CONTESTED = 0.3
"""A match is contested if the similarity of another match of its track or detection is at least this share of its
own."""
LOOK_WEIGHT = 0.6
"""Share of a contested similarity that depends on appearance."""
SOON_S = 0.05
"""A box that overlaps another shows somebody else too, so its appearance counts less by the share in the other box.
This is halved for people last seen this long ago, and stronger for a shorter time, as they cannot have gone far."""
SELDOM_S, WALKS_PER_S = 0.1, 1.0
"""If a person was first seen at least this long ago and has no known speed yet, they may have moved sideways by this
many body heights per second."""
GONE_S = 0.2
"""People missing for less are searched for where they were, and not recognised elsewhere."""
ALONE = 0.2
"""People are alone if at most this share of their box is in another one."""
TALL_PX = 32
"""The appearance of people who are less tall is not used."""


@dataclass
class _Pose:
    """Sure keypoints of a person, and the box they belong to."""

    keypoints: Float32
    sure: NDArray[np.bool_]
    bbox_xyxy: Float32


@dataclass(eq=False)
class _Track:
    """State of one track; its motion is in the row of `SharposeTracker._motion` with the same index.

    `active`: matched when the detector last ran. `detected`: matched in the last frame. `anchor`: pose of the last
    detected box, from which the box is moved on. `shadow_of`: the track of the same person that is shown instead.
    `same_s`: for how long the two have been the same. `asked_since_s`: when it was first asked whether this is a person
    who had left.
    """

    bbox_xyxy: Float32
    bbox_score: float
    seen_s: float
    track_id: int = 0
    detections: int = 1
    active: bool = True
    detected: bool = True
    pose: _Pose | None = None
    anchor: _Pose | None = None
    same_s: float = 0.0
    shadow_of: int = 0
    looks: Looks = field(default_factory=Looks)
    asked_since_s: float = math.inf

    def left(self) -> Left:
        """This person as one who has left."""
        return Left(self.track_id, self.looks, self.bbox_xyxy, self.seen_s)

    @property
    def is_large(self) -> bool:
        """Whether this person is tall enough to look at."""
        return float(self.bbox_xyxy[3] - self.bbox_xyxy[1]) >= TALL_PX

    def is_due(self, pts_s: float) -> bool:
        """Whether it is time for another look at this person."""
        if not (self.track_id and self.detected and self.is_large) or self.shadow_of:
            return False
        return pts_s - self.looks.at_s >= (LOOK_S if self.looks.count < ENOUGH else LOOK_AGAIN_S)


class _Glances:
    """Looks at the people of one frame, at each box once; `most`: the limit for tracked people, and for contested ones.

    Args:
        look: at this frame's picture.
        dt_s: since the last frame.
    """

    def __init__(self, look: Look, dt_s: float) -> None:
        self.most = int(np.clip(LOOKS_PER_S * dt_s, *LOOKS))
        self._look, self._seen = look, dict[bytes, NDArray[np.float32]]()

    def __call__(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        new = [row for row, box in enumerate(boxes) if box.tobytes() not in self._seen]
        if new:
            self._seen |= {boxes[row].tobytes(): seen for row, seen in zip(new, self._look(boxes[new]), strict=True)}
        return np.stack([self._seen[box.tobytes()] for box in boxes])


class SharposeTracker:
    """Tracks people by boxes and the poses of the previous frame; see `Tracker` for the output.

    A track is confirmed by `config.min_detections` detections in a row that reach `config.high_score`. When a source
    starts, or continues after a jump in time, confident detections are confirmed at once: nothing before could have
    confirmed them, and a photograph has no second frame. If the detector has not run for longer than a newcomer is kept
    waiting, one detection fewer is enough, as the next one would come too late.
    """

    name = "sharpose"
    uses_poses = True

    def __init__(self, config: TrackerConfig, skeleton: Skeleton) -> None:
        self.config, self.skeleton = config, skeleton
        self._lost_s = config.max_lost_s + ROUNDED_S
        self._sigmas = skeleton.sigmas[: skeleton.body]
        self._clock = Clock()
        self._tracks: list[_Track] = []
        self._motion = motion.begin(np.zeros((0, 4)))
        self._last_id = 0
        self._detector_ran_s: float | None = None
        self._memory = Memory(config.remember_s)
        self.known_again = 0

    def update(
        self,
        detections: Detections | None,
        pts_s: float,
        last_poses: Poses | None = None,
        camera: Camera | None = None,
        look: Look | None = None,
    ) -> Tracks:
        """Confirmed people of this frame, in order of id; see `Tracker.update`."""
        last_s = self._clock.pts_s
        dt_s = self._clock.advance(pts_s)
        if last_poses is not None and last_s is not None:
            self._take_poses(last_poses, last_s, dt_s)
        self._keep([pts_s - track.seen_s <= self._lost_s for track in self._tracks])
        if camera is not None:
            self._follow(camera)
        self._memory.advance(pts_s, camera)
        seen = np.array([track.active for track in self._tracks], bool)
        self._motion = motion.predict(self._motion, dt_s, seen)
        if detections is None:
            for track, box in zip(self._tracks, motion.to_corners(self._motion.x), strict=True):
                track.detected = False
                if track.active:  # lost people are also searched for where they were last seen
                    track.bbox_xyxy = box.astype(np.float32)
        else:
            glances = _Glances(look, dt_s) if look is not None and self.config.remember_s > 0 else None
            self._associate(canonical(detections), pts_s, glances, self._enough(pts_s, last_s))
            self._detector_ran_s = pts_s
        self._part_shadows(dt_s)
        return self._shown()

    def _enough(self, pts_s: float, last_s: float | None) -> int:
        """How many detections confirm a track in this frame, on which the detector runs; `last_s`: time of the previous
        one."""
        ran_s = self._detector_ran_s
        if ran_s is None or pts_s - ran_s > self._lost_s:
            return 1
        rested = ran_s != last_s and pts_s - ran_s > WAIT_S + ROUNDED_S
        return self.config.min_detections - rested

    def _follow(self, camera: Camera) -> None:
        """Move all tracks with the camera."""
        self._motion = motion.moved(self._motion, camera)
        for track in self._tracks:
            track.bbox_xyxy = moved_box(track.bbox_xyxy, camera)

    @property
    def settled(self) -> bool:
        """See `Tracker.settled`."""
        return all(track.shadow_of or (track.track_id and track.active) for track in self._tracks)

    def forget(self) -> None:
        """See `Tracker.forget`."""
        self._keep([False] * len(self._tracks))
        self._memory.forget()
        self._detector_ran_s = None

    def _shown(self) -> Tracks:
        shown = sorted(
            (t for t in self._tracks if t.track_id and t.active and not t.shadow_of), key=lambda t: t.track_id
        )
        if not shown:
            return Tracks.empty()
        return Tracks(
            np.stack([track.bbox_xyxy for track in shown]),
            np.array([track.bbox_score for track in shown], np.float32),
            np.array([track.track_id for track in shown], np.int64),
            np.array([track.detected for track in shown], bool),
        )

    # Association

    def _associate(self, found: Detections, pts_s: float, look: _Glances | None, enough: int) -> None:
        """Match detections (best first) to tracks, begin and end tracks; `enough` detections confirm one."""
        boxes, scores = found.bboxes_xyxy, found.bbox_scores
        similarity = self._similarity(boxes)
        told_apart = self._told_apart(similarity, boxes, pts_s, look)
        high = scores >= self.config.high_score
        confirmed = np.array([track.track_id > 0 for track in self._tracks], bool)
        free = np.ones(len(boxes), bool)
        matches: dict[int, int] = {}

        def match(rows: NDArray[np.bool_], columns: NDArray[np.bool_], values: Float32) -> None:
            taken = np.zeros(len(rows), bool)
            taken[list(matches)] = True
            enough = np.where(values >= self.config.match_threshold, values * told_apart, 0)
            for row, column in _assign(enough, rows & ~taken, columns & free):
                matches[row], free[column] = column, False

        match(confirmed, high, similarity)
        match(confirmed, ~high, similarity)
        # People who walk in fast are soon fully visible: the predicted motion goes on where the last box has stopped.
        last = np.array([track.bbox_xyxy for track in self._tracks], np.float32).reshape(-1, 4)
        wide = _widened(boxes)
        widened = np.maximum(*(iou_matrix(_widened(at), wide) for at in (motion.to_corners(self._motion.x), last)))
        match(confirmed, high, widened)
        match(~confirmed, high, similarity)
        match(np.array([track.detections == 1 for track in self._tracks], bool), high, self._in_reach(boxes, pts_s))

        self._see(matches, found, pts_s)
        alone = iou_matrix(boxes, boxes[~free]).max(1, initial=0) <= DUPLICATE_IOU
        self._begin(found, np.flatnonzero(free & high & alone), pts_s)
        ready = [track for track in self._tracks if not track.track_id and track.detections >= enough]
        if look is not None:
            ready = self._know_again(ready, look, pts_s)
        for track in ready:
            self._last_id += 1
            track.track_id = self._last_id

    def _similarity(self, boxes: Float32) -> Float32:
        """Similarity (T, D) in 0..1 of tracks and detections: IoU, reduced if the pose does not fit into the box."""
        expected = motion.to_corners(self._motion.x)
        similarity = iou_matrix(expected, boxes).astype(np.float32)
        for row, track in enumerate(self._tracks):
            if track.pose is not None and similarity[row].any():
                points = _moved(track.pose.keypoints[track.pose.sure], track.pose.bbox_xyxy, expected[row])
                inside = (points[:, None] >= boxes[:, :2]) & (points[:, None] <= boxes[:, 2:])
                similarity[row] *= 1 - POSE_WEIGHT + POSE_WEIGHT * inside.all(-1).mean(0)
        return similarity

    def _in_reach(self, boxes: Float32, pts_s: float) -> Float32:
        """Similarity (T, D) of boxes to people seen once, both widened by how far people walk in that time: at low
        frame rates a walking newcomer has left their first box."""
        reach = np.zeros((len(self._tracks), len(boxes)), np.float32)
        for row, track in enumerate(self._tracks):
            if track.detections == 1 and pts_s - track.seen_s >= SELDOM_S:
                away = WALKS_PER_S * (pts_s - track.seen_s) * float(track.bbox_xyxy[3] - track.bbox_xyxy[1])
                aside = np.array([-away, 0, away, 0], np.float32)
                reach[row] = iou_matrix(track.bbox_xyxy[None] + aside, boxes + aside)[0]
        return reach

    def _told_apart(self, similarity: Float32, boxes: Float32, pts_s: float, look: _Glances | None) -> Float32:
        """Factors (T, D) on the similarities: below 1 for contested matches, by how different the two look."""
        factors = np.ones(similarity.shape, np.float32)
        if look is None or not self._memory.experience.tells:
            return factors
        known = [row for row, track in enumerate(self._tracks) if track.track_id and track.looks.count]
        contest = _contest(np.where(similarity >= self.config.match_threshold, similarity, 0))[known].max(0, initial=0)
        contest[boxes[:, 3] - boxes[:, 1] < TALL_PX] = 0
        columns = np.argsort(-contest, kind="stable")[: look.most]
        columns = columns[contest[columns] >= CONTESTED]
        if len(columns):
            people = [self._tracks[row].looks for row in known]
            likely = np.full((len(similarity), len(columns)), 0.5)  # for those whose appearance is unknown
            likely[known] = likeness(people, look(boxes[columns]), mean_look(people), self._memory.experience)
            since_s = np.array([[pts_s - track.seen_s] for track in self._tracks])
            mixed = _covered(boxes)[columns] * SOON_S / (SOON_S + since_s)
            factors[:, columns] = 1 - LOOK_WEIGHT * (1 - mixed) * (1 - likely)
        return factors

    def _see(self, matches: dict[int, int], found: Detections, pts_s: float) -> None:
        """Update tracks with their matched detections; end unconfirmed tracks without one."""
        rows, columns = list(matches), list(matches.values())
        boxes = found.bboxes_xyxy[columns]
        self._motion.replace_rows(rows, motion.update(self._motion[rows], boxes))
        for row, track in enumerate(self._tracks):
            track.active = track.detected = row in matches
            if track.detected:
                track.bbox_xyxy, track.bbox_score = (
                    found.bboxes_xyxy[matches[row]],
                    float(found.bbox_scores[matches[row]]),
                )
                track.seen_s, track.detections = pts_s, track.detections + 1
        self._keep([track.active or track.track_id > 0 for track in self._tracks])

    def _begin(self, found: Detections, columns: NDArray[np.int64], pts_s: float) -> None:
        """New tracks for the detections at `columns`, but only one for detections that overlap too much."""
        kept: list[int] = []
        for column in columns:
            box = found.bboxes_xyxy[column]
            if iou_matrix(box[None], found.bboxes_xyxy[kept]).max(initial=0) <= DUPLICATE_IOU:
                kept.append(int(column))
                self._tracks.append(_Track(box, float(found.bbox_scores[column]), pts_s))
        self._motion = kalman.concatenate([self._motion, motion.begin(found.bboxes_xyxy[kept])])

    def _keep(self, alive: list[bool]) -> None:
        if not all(alive):
            for track, stays in zip(self._tracks, alive, strict=True):
                if track.track_id and not stays and not track.shadow_of:
                    self._memory.keep(track.left())
            self._tracks = [track for track, stays in zip(self._tracks, alive, strict=True) if stays]
            self._motion = self._motion[np.array(alive, bool)]

    # Returning people

    def _know_again(self, ready: list[_Track], look: _Glances, pts_s: float) -> list[_Track]:
        """The `ready` tracks of new people; the others get the id of the person recognised, or wait.

        Looks at them, and at some tracked people so that they can be recognised later.
        """
        lost = [
            track
            for track in self._tracks
            if track.track_id and track.looks.count >= ENOUGH and pts_s - track.seen_s >= GONE_S
        ]
        gone = [*self._memory.gone, *(track.left() for track in lost)]
        asked = [track for track in ready if gone and track.is_large]
        present = [track.looks for track in self._tracks if track.track_id and track.active]
        if seen := [*asked, *self._due(pts_s)[: look.most]]:
            mean = mean_look(present)
            for track, vector in zip(seen, look(np.stack([track.bbox_xyxy for track in seen])), strict=True):
                if track.looks.count >= ENOUGH:
                    others = [looks for looks in present if looks is not track.looks and looks.count >= ENOUGH]
                    self._memory.experience.learn(vector, track.looks, others, mean)
                track.looks.add(vector, pts_s)
        for track in asked:
            track.asked_since_s = min(track.asked_since_s, pts_s)
        new = [Newcomer(track.looks, track.bbox_xyxy, pts_s - track.asked_since_s) for track in asked]
        answers = dict(zip(asked, decide(new, gone, present, pts_s, self._memory.experience), strict=True))
        back = {one.track_id: one.looks for one in gone if one.track_id in answers.values()}
        for track in lost:
            if track.track_id in back:
                track.track_id = 0  # continues as the other one
        self._keep([track.active or track.track_id > 0 for track in self._tracks])
        self._memory.take(back)
        self.known_again += len(back)
        for track, answer in answers.items():
            if answer:
                before = back[answer]
                before.add(track.looks.vector, pts_s)
                track.track_id, track.looks = answer, before
        return [track for track in ready if answers.get(track, 0) == 0]

    def _due(self, pts_s: float) -> list[_Track]:
        """The tracks to look at again, longest ago first, of people who have their box to themselves.

        Shadows do not count, as they are the same person.
        """
        due = [track for track in self._tracks if track.is_due(pts_s)]
        if not due:
            return []
        boxes = np.stack([track.bbox_xyxy for track in self._tracks if not track.shadow_of])
        shares = inside_matrix(np.stack([track.bbox_xyxy for track in due]), boxes)
        shares.sort(1)  # the last is that of their own box
        alone = [track for track, others in zip(due, shares, strict=True) if others[:-1].max(initial=0) <= ALONE]
        return sorted(alone, key=lambda track: (track.looks.at_s, track.track_id))

    # Poses

    def _take_poses(self, poses: Poses, pts_s: float, dt_s: float) -> None:
        """Learn from the poses of the last frame, at `pts_s`, before time advances by `dt_s`."""
        poses = poses.first(self.skeleton.body)
        row_of = {track_id: row for row, track_id in enumerate(poses.track_ids.tolist())}
        for index, track in enumerate(self._tracks):
            row = row_of.get(track.track_id) if track.active else None
            if row is None:
                continue
            sure = poses.raw_keypoint_scores[row] >= SURE_SCORE
            if sure.sum() < SURE_COUNT:
                track.pose = None
                continue
            track.pose = _Pose(poses.raw_keypoints[row], sure, track.bbox_xyxy)
            if track.detected or track.anchor is None:  # the detector's frame may have no pose if people take turns
                track.anchor, track.seen_s = track.pose, pts_s
            elif track.anchor is not None and (box := _carried(track.anchor, track.pose)) is not None:
                better = motion.update(self._motion[[index]], box[None], motion.POSE_NOISE)
                self._motion.replace_rows([index], better)
                track.pose.bbox_xyxy = motion.to_corners(better.x)[0].astype(np.float32)
                track.seen_s = pts_s
        self._find_duplicates(poses, row_of, dt_s)

    def _find_duplicates(self, poses: Poses, row_of: dict[int, int], dt_s: float) -> None:
        """Make the younger of two tracks whose poses stay the same a shadow of the older."""
        tracks = [t for t in self._tracks if t.track_id in row_of and t.active and not t.shadow_of]
        tracks.sort(key=lambda t: t.track_id)
        rows = [row_of[track.track_id] for track in tracks]
        points, scores = poses.raw_keypoints[rows], poses.raw_keypoint_scores[rows]
        alike = same_poses(points, scores, points, area(poses.bboxes_xyxy[rows]), self._sigmas, SURE_SCORE)
        for young, track in enumerate(tracks):
            if (scores[young] >= SURE_SCORE).sum() < SURE_COUNT:
                continue  # a part of a person without a pose says neither one person nor two
            same = np.flatnonzero(alike[:young, young])
            # A single frame is not enough, however long it was.
            track.same_s = max(track.same_s + (min(dt_s, DUPLICATE_S) if len(same) else -dt_s), 0)
            if len(same) and track.same_s > DUPLICATE_S:
                track.shadow_of, track.same_s = tracks[same[0]].track_id, DUPLICATE_S

    def _part_shadows(self, dt_s: float) -> None:
        """Show shadows again that have separated from their track."""
        shown = {track.track_id: track for track in self._tracks if track.active and not track.shadow_of}
        hidden = {track.track_id: track for track in self._tracks if not track.active and not track.shadow_of}
        for track in self._tracks:
            if track.shadow_of and track.active and (other := hidden.pop(track.shadow_of, None)) is not None:
                _change_places(track, other)  # they continue in this box
                shown[track.track_id] = track
            if track.shadow_of:
                other = shown.get(track.shadow_of)
                if other is not None:
                    same = _inside(track.bbox_xyxy, other.bbox_xyxy) >= APART
                    track.same_s = min(track.same_s + (dt_s if same else -dt_s), DUPLICATE_S)
                if other is None or track.same_s < 0:
                    track.shadow_of, track.same_s = 0, 0.0


def _change_places(shadow: _Track, leader: _Track) -> None:
    """Swaps the two: the shadow becomes the track that is shown, with its id, and the leader becomes the shadow."""
    shadow.track_id, leader.track_id = leader.track_id, shadow.track_id
    shadow.looks, leader.looks = leader.looks, shadow.looks
    leader.shadow_of, leader.same_s = shadow.track_id, shadow.same_s
    shadow.shadow_of, shadow.same_s = 0, 0.0


def _assign(similarity: Float32, rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of the selected `rows` and `columns` with the greatest total similarity; none have similarity 0."""
    row, column = np.flatnonzero(rows), np.flatnonzero(columns)
    values = similarity[np.ix_(row, column)]
    chosen = zip(*linear_sum_assignment(values, maximize=True), strict=True)
    return [(int(row[i]), int(column[j])) for i, j in chosen if values[i, j] > 0]


def _contest(similarity: Float32) -> Float32:
    """Ratio (T, D), 0..1, between each pair of `similarity` (T, D) and the best other one of its row or column, the
    smaller over the larger; 0 if there is no pair or no other."""
    rival = np.maximum(_best_other(similarity), _best_other(similarity.T).T)
    better = np.maximum(similarity, rival)
    return np.divide(np.minimum(similarity, rival), better, out=np.zeros_like(better), where=better > 0)


def _best_other(values: Float32) -> Float32:
    """The largest other value (T, D) in each one's row; 0 if there is no other."""
    if values.shape[1] < 2:
        return np.zeros_like(values)
    second, best = np.sort(values, 1)[:, -2:].T[..., None]
    return np.where(values < best, best, second)


def _covered(boxes: Float32) -> Float32:
    """The largest share (N,), 0..1, of each of `boxes` (N, 4) that is in another one."""
    shares = inside_matrix(boxes, boxes)
    np.fill_diagonal(shares, 0)
    return shares.max(1, initial=0)


def _carried(anchor: _Pose, pose: _Pose) -> NDArray[np.float64] | None:
    """The box (4,) of `anchor` with each edge moved like the same edge of the pose's bounds; None if unsure."""
    common = anchor.sure & pose.sure
    if common.sum() < SURE_COUNT:
        return None
    before, now = keypoints_to_bbox(np.stack([anchor.keypoints, pose.keypoints]), np.stack([common, common]), 0.5)
    return anchor.bbox_xyxy + now - before


def _moved(points: Float32, before_xyxy: Float32, now_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (P, 2) moved and scaled with their box."""
    size = np.maximum(before_xyxy[2:] - before_xyxy[:2], 1)
    return now_xyxy[:2] + (points - before_xyxy[:2]) / size * (now_xyxy[2:] - now_xyxy[:2])


def _widened(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    margin = WIDEN * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], -1)


def _inside(a: Float32, b: Float32) -> float:
    """Share of the smaller of two boxes (4,) that is in the other."""
    both = np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])])
    return float(area(both) / max(min(area(a), area(b)), 1e-9))
