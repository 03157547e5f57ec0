"""Somebody who is gone for some seconds in a real video keeps their id."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sharpose_rt.cli import main
from sharpose_rt.config import DetectorConfig, TrackerConfig
from sharpose_rt.detection import create_detector
from sharpose_rt.geometry.boxes import inside_matrix
from sharpose_rt.media import open_source
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import StreamReader
from sharpose_rt.tracking import create_tracker
from sharpose_rt.types import Detections

FRAMES, GONE = 100, range(30, 80)
"""Of 25 a second; in `GONE` the detector is made to miss one person."""


@pytest.fixture(scope="module")
def people(shared_dir: Path) -> dict[int, np.ndarray]:
    """Boxes (FRAMES, 4) of four people of a street who are there all the time, each alone when the others go."""
    detector, tracker = create_detector(DetectorConfig(name="bundled")), create_tracker(TrackerConfig(), COCO17)
    detector.open()
    found: list[dict[int, np.ndarray]] = []
    with open_source(str(shared_dir / "video/supervision_walking.mp4")) as source:
        for frame, _ in zip(source, range(FRAMES), strict=False):
            tracks = tracker.update(detector.detect(frame), frame.pts_s)
            found.append(dict(zip(tracks.track_ids.tolist(), tracks.bboxes_xyxy, strict=True)))
    always = {i: np.stack([boxes[i] for boxes in found]) for i in set.intersection(*map(set, found))}
    large = {i: boxes for i, boxes in always.items() if (boxes[:, 3] - boxes[:, 1]).min() > 80}
    before = np.stack([boxes[GONE.start - 1] for boxes in large.values()])
    shares = inside_matrix(before, before) - np.eye(len(before))
    alone = [i for i, share in zip(large, shares.max(1), strict=True) if share < 0.05]
    assert len(alone) >= 4
    return {i: large[i] for i in sorted(alone)[:4]}


def run(video: Path, boxes: Path, folder: Path) -> tuple[list, dict]:
    cheap = ["--no-video", "--quiet", "--max-frames", str(FRAMES), "--quality-threshold=-inf"]
    assert main(["--source", str(video), "--boxes", str(boxes), "--output", str(folder), *cheap]) == 0
    (stream,) = folder.glob("*.skeletons.jsonl")
    (summary,) = folder.glob("*.summary.json")
    return list(StreamReader(stream)), json.loads(summary.read_text(encoding="utf-8"))


@pytest.mark.shared
@pytest.mark.timeout(300)
def test_who_is_gone_for_two_seconds_is_known_again(shared_dir: Path, people: dict, tmp_path: Path) -> None:
    video, boxes = shared_dir / "video/supervision_walking.mp4", tmp_path / "boxes.txt"
    who = next(iter(people))
    lines = [
        f"{number + 1},-1,{x0 + 1},{y0 + 1},{x1 - x0},{y1 - y0},0.9,-1,-1,-1"
        for number in range(FRAMES)
        for person, (x0, y0, x1, y1) in ((person, found[number]) for person, found in people.items())
        if not (person == who and number in GONE)
    ]
    boxes.write_text("\n".join(lines) + "\n")

    def id_of(frames: list, number: int) -> int | None:
        """Of the row that has the box of that person."""
        for track_id, found in zip(frames[number].poses.track_ids, frames[number].poses.bboxes_xyxy, strict=True):
            if abs(found - people[who][number]).max() < 1:
                return int(track_id)
        return None

    frames, summary = run(video, boxes, tmp_path / "with")
    before, after = GONE.start - 1, GONE.stop + 10
    assert id_of(frames, before) == id_of(frames, after) is not None
    assert (summary["known_again"], summary["people"]["ids"]) == (1, 4)

    forgets = create_tracker(TrackerConfig(remember_s=0), COCO17)
    for number in range(FRAMES):
        there = np.stack([found[number] for person, found in people.items() if person != who or number not in GONE])
        ids = forgets.update(Detections(there, np.full(len(there), 0.9, np.float32)), number / 25).track_ids
    assert ids.max() == 5
