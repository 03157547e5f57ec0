"""People who walk, meet, hide each other and leave, seen by an imperfect detector: worlds with known identities.

A world is a list of `View`: what a tracker gets, and who each detection is. `score` counts what a tracker makes of it.
Run as a script it prints a table for both trackers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike
from trackers.eval import compute_identity_metrics

from sharpose_rt.config import TrackerConfig
from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.skeleton import COCO17
from sharpose_rt.tracking import Tracker, create_tracker
from sharpose_rt.tracking.memory import Look
from sharpose_rt.types import Detections, Poses, Tracks

# A standing person within the unit box, in the order of COCO17.
STANDING = np.array(
    [
        (0.5, 0.08), (0.54, 0.06), (0.46, 0.06), (0.58, 0.07), (0.42, 0.07), (0.7, 0.2), (0.3, 0.2), (0.8, 0.35),
        (0.2, 0.35), (0.85, 0.48), (0.15, 0.48), (0.62, 0.52), (0.38, 0.52), (0.63, 0.74), (0.37, 0.74), (0.64, 0.95),
        (0.36, 0.95),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """One frame: time, detections, who each is (-1 for a false one), and where everybody is (people, 4; nan: away).

    `camera`: how the picture moved since the frame before, as `CameraMotion` says it.
    """

    pts_s: float
    detections: Detections
    person: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray
    camera: np.ndarray | None = None


@dataclass
class Score:
    """`switches`: a person's id changed.

    `ids`: ids given. `people`: people who were there. `detected`, `tracked`: rows. `false`: rows shown that are nobody.
    """

    switches: int = 0
    ids: int = 0
    people: int = 0
    detected: int = 0
    tracked: int = 0
    false: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def walk(rng: np.random.Generator, times: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Boxes (frames, 4) of one person who walks, turns and stops; nan before coming and after leaving."""
    height = rng.uniform(0.22, 0.55) * size_wh[1]
    step = np.gradient(times)
    turns = np.cumsum(rng.normal(0, 1, len(times)) * np.sqrt(step))
    speed = (
        rng.uniform(0.25, 1.1) * height * rng.choice([-1, 1]) * (0.6 + 0.6 * np.cos(rng.uniform(0, 6) + 0.7 * turns))
    )
    start = rng.uniform(0.1, 0.9) * size_wh[0]
    x = start + np.cumsum(speed * step)
    foot = rng.uniform(0.7, 0.98) * size_wh[1] + np.cumsum(0.04 * height * rng.normal(0, 1, len(times)) * np.sqrt(step))
    stride = 0.06 * np.abs(np.sin(2 * np.pi * (times * rng.uniform(0.7, 1.0) + rng.uniform())))
    width = height * (0.3 + stride)
    boxes = np.stack([x - width / 2, foot - height, x + width / 2, foot], -1)
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, size_wh[0])
    come, go = times[0] - rng.exponential(2) + rng.uniform(0, 3), times[-1] * rng.uniform(0.6, 1.3)
    away = (times < come) | (times > go) | (boxes[:, 2] - boxes[:, 0] < 0.1 * height)
    boxes[away] = np.nan
    return boxes


def hidden(boxes: np.ndarray) -> np.ndarray:
    """Share (people,) of each box that nearer people (lower feet) cover, roughly."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    share = np.clip(high - low, 0, None).prod(-1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[:, None]
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    return 1 - np.prod(1 - np.where(nearer, np.nan_to_num(share), 0), axis=1)


def world(seed: int, people: int = 8, fps: float = 25.0, seconds: float = 8.0, vfr: bool = False) -> list[View]:
    """A world of `people` in a 1280x720 picture; with `vfr` frames come at uneven times, some long."""
    rng = np.random.default_rng(seed)
    size_wh = (1280, 720)
    steps = np.full(int(fps * seconds), 1 / fps)
    if vfr:
        steps *= rng.choice([0.5, 1, 1, 2, 5], len(steps), p=[0.25, 0.3, 0.3, 0.1, 0.05])
    times = np.cumsum(steps)
    paths = np.stack([walk(rng, times, size_wh) for _ in range(people)], 1)
    drift = np.zeros((people, 4))
    missing = np.zeros(people, bool)
    views = []
    for pts_s, boxes in zip(times, paths, strict=True):
        cover = hidden(boxes)
        here = ~np.isnan(boxes[:, 0])
        height = np.nan_to_num(boxes[:, 3] - boxes[:, 1], nan=1.0)
        # Misses come in runs; a covered person is missed more, and scored lower.
        missing = np.where(missing, rng.random(people) < 0.5, rng.random(people) < 0.03) | (cover > 0.75)
        missing |= rng.random(people) < np.clip(cover - 0.4, 0, 1)
        drift = 0.8 * drift + rng.normal(0, 0.6 * 0.02, (people, 4))
        noise = (drift + rng.normal(0, 0.012, (people, 4))) * height[:, None]
        scores = np.clip(0.85 - 0.75 * cover + rng.normal(0, 0.08, people), 0.1, 0.98)
        rows = np.flatnonzero(here & ~missing)
        found, who = (boxes + noise)[rows], rows
        count = rng.poisson(0.25)
        place = rng.uniform([0, 200], [1200, 500], (count, 2))
        false = np.concatenate([place, place + rng.uniform([30, 60], [90, 200], (count, 2))], -1)
        found, who = np.concatenate([found, false]), np.concatenate([who, np.full(count, -1)])
        scores = np.concatenate([scores[rows], rng.uniform(0.15, 0.65, count)])
        order = rng.permutation(len(found))
        found, who, scores = found[order], who[order], scores[order]
        views.append(View(float(pts_s), Detections(found, scores), who, boxes, 1 - cover))  # type: ignore[arg-type]
    return views


def shaken(views: list[View], seed: int, px: float = 15.0, hz: float = 2.0) -> list[View]:
    """The same world, filmed by a hand that moves by some `px` at about `hz`."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    moved, last = [], None
    for view in views:
        turn = 2 * np.pi * hz * view.pts_s
        shift = px * np.array([
            np.sin(turn + phase[0]) + 0.5 * np.sin(2.3 * turn + phase[1]), 0.7 * np.sin(1.3 * turn + phase[2])
        ])  # fmt: skip
        found = view.detections
        boxes = (found.bboxes_xyxy + np.tile(shift, 2)).astype(np.float32)
        camera = None if last is None else np.column_stack([np.eye(2), shift - last])
        last = shift
        detections = Detections(boxes, found.bbox_scores)
        moved.append(replace(view, detections=detections, boxes=view.boxes + np.tile(shift, 2), camera=camera))
    return moved


def leaving(views: list[View], seed: int, shortest_s: float = 2.0, longest_s: float = 8.0) -> list[View]:
    """The same world, in which each person is out of sight once, for so long."""
    rng, people, end_s = np.random.default_rng(seed), len(views[0].boxes), views[-1].pts_s
    away_s = rng.uniform(shortest_s, longest_s, people)
    begins_s = rng.uniform(1.5, end_s - away_s - 1.5)
    seen = []
    for view in views:
        away = (view.pts_s >= begins_s) & (view.pts_s < begins_s + away_s)
        kept = (view.person < 0) | ~away[view.person]
        found, boxes = view.detections, view.boxes.copy()
        boxes[away] = np.nan
        detections = Detections(found.bboxes_xyxy[kept], found.bbox_scores[kept])
        seen.append(replace(view, detections=detections, person=view.person[kept], boxes=boxes))
    return seen


def looks(seed: int, people: int, noise: float = 0.75, dimensions: int = 64) -> Callable[[View], Look]:
    """Gives what an appearance network would say of a view's boxes: each person's own direction, a part that all of a
    scene share, and noise, so that two looks at one person are less alike the more of it there is."""
    rng = np.random.default_rng(seed)
    scene, own = rng.normal(0, 1, dimensions) * 0.7, rng.normal(0, 1, (people, dimensions))

    def of(view: View) -> Look:
        who = {tuple(box): int(p) for box, p in zip(view.detections.bboxes_xyxy, view.person, strict=True)}

        def look(boxes: ArrayLike) -> np.ndarray:
            ids = [who[tuple(box)] for box in np.asarray(boxes, np.float32)]
            means = np.stack([own[i] if i >= 0 else rng.normal(0, 1, dimensions) for i in ids])
            vectors = scene + means + noise * rng.normal(0, 1, means.shape)
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

        return look

    return of


def pose(view: View, tracks: Tracks, rng: np.random.Generator) -> Poses:
    """What a pose network would see in the boxes of `tracks`: the person who fills the box best, with noise."""
    n, k = len(tracks), len(COCO17)
    points, scores = np.zeros((n, k, 2)), np.full((n, k), 0.1)
    here = np.flatnonzero(~np.isnan(view.boxes[:, 0]))
    fit = iou_matrix(tracks.bboxes_xyxy, view.boxes[here]) * (0.5 + 0.5 * view.visible[here])
    for row in range(n):
        if len(here) and fit[row].max() > 0.2:
            box = view.boxes[here[fit[row].argmax()]]
            height = box[3] - box[1]
            points[row] = box[:2] + STANDING * (box[2:] - box[:2]) + rng.normal(0, 0.01 * height, (k, 2))
            scores[row] = rng.uniform(0.5, 0.95, k) * (0.4 + 0.6 * view.visible[here[fit[row].argmax()]])
    box, one = tracks.bboxes_xyxy, np.ones(n)
    stage = np.zeros(n)
    return Poses(box, one, tracks.track_ids, points, scores, points, scores, one, stage)  # type: ignore[arg-type]


def follow(
    views: list[View],
    tracker: Tracker,
    every: int = 1,
    seed: int = 0,
    look_at: Callable[[View], Look] | None = None,
) -> list[Tracks]:
    """What `tracker` shows of each view; the detector runs on every `every`-th. `look_at`: see `looks`."""
    rng = np.random.default_rng(seed)
    shown, last = [], None
    for index, view in enumerate(views):
        found, look = view.detections if index % every == 0 else None, look_at and look_at(view)
        tracks = tracker.update(found, view.pts_s, last, view.camera, look)
        last = pose(view, tracks, rng) if tracker.uses_poses else None
        shown.append(tracks)
    return shown


def score(views: list[View], shown: list[Tracks]) -> Score:
    """Count over the frames in which the detector ran, by the detection that each row must have kept."""
    result, last_id, ids, people = Score(), {}, set(), set()
    for view, tracks in zip(views, shown, strict=True):
        ids.update(tracks.track_ids.tolist())
        if not tracks.detected.any():
            continue
        who = {tuple(box): int(p) for box, p in zip(view.detections.bboxes_xyxy, view.person, strict=True)}
        id_of = {who[tuple(box)]: int(i) for box, i in zip(tracks.bboxes_xyxy, tracks.track_ids, strict=True)}
        result.false += sum(who[tuple(box)] < 0 for box in tracks.bboxes_xyxy)
        for person in {int(p) for p in view.person if p >= 0}:
            people.add(person)
            result.detected += 1
            if person not in id_of:
                continue
            result.tracked += 1
            if person in last_id:
                result.switches += last_id[person] != id_of[person]
            last_id[person] = id_of[person]
    result.ids, result.people = len(ids), len(people)
    return result


def idf1(views: list[View], shown: list[Tracks]) -> float:
    """IDF1 (Ristani et al. 2016), 0..1, of what a tracker shows against who each detection is."""
    wanted = [(view.person[view.person >= 0], view.detections.bboxes_xyxy[view.person >= 0]) for view in views]
    ids = [who for who, _ in wanted], [tracks.track_ids for tracks in shown]
    alike = [iou_matrix(at, tracks.bboxes_xyxy) for (_, at), tracks in zip(wanted, shown, strict=True)]
    return float(compute_identity_metrics(*ids, alike, threshold=0.5)["IDF1"])


WORLDS: dict[str, list[dict[str, float]]] = {
    "sparse": [{"seed": seed, "people": 4} for seed in range(3)],
    "busy": [{"seed": seed, "people": 8} for seed in range(10, 13)],
    "crowd": [{"seed": seed, "people": 16} for seed in range(20, 22)],
    "10 fps": [{"seed": seed, "people": 8, "fps": 10.0, "seconds": 15.0} for seed in range(30, 33)],
    "uneven": [{"seed": seed, "people": 8, "vfr": True} for seed in range(40, 43)],
    "shaken": [{"seed": seed, "people": 16} for seed in range(20, 22)],
}


def compare(kind: str, every: int = 1, offset: int = 0, first: int | None = None) -> tuple[Score, Score]:
    """Scores of our tracker and of ByteTrack over the (`first` so many) worlds of a kind; an `offset` of the seeds
    makes other worlds."""
    made = []
    for options in WORLDS[kind][:first]:
        seed = int(options["seed"]) + offset
        views = world(**{**options, "seed": seed})  # type: ignore[arg-type]
        made.append(shaken(views, seed) if kind == "shaken" else views)
    totals = []
    for name in ("sharpose", "bytetrack"):
        trackers = [create_tracker(TrackerConfig(name=name), COCO17) for _ in made]
        counts = [score(views, follow(views, one, every)) for views, one in zip(made, trackers, strict=True)]
        totals.append(sum(counts, Score()))
    return totals[0], totals[1]


if __name__ == "__main__":
    for every in (1, 3):
        for kind in WORLDS:
            for name, total in zip(("sharpose", "bytetrack"), compare(kind, every), strict=True):
                print(f"detector every {every}: {kind:8} {name:10} {total}")
