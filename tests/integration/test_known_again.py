"""Somebody who is gone for some seconds in a real video keeps their id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpose_rt.cli import main
from sharpose_rt.skeletons import StreamReader

GONE = range(50, 125)
"""Frames, of 25 a second, in which the detector is made to miss one person."""


def run(video: str, folder: Path, *options: str) -> tuple[list, dict]:
    cheap = ["--no-video", "--quiet", "--max-frames", "150", "--quality-threshold=-inf", "--output", str(folder)]
    assert main(["--source", video, *cheap, *options]) == 0
    (stream,) = folder.glob("*.skeletons.jsonl")
    (summary,) = folder.glob("*.summary.json")
    return list(StreamReader(stream)), json.loads(summary.read_text(encoding="utf-8"))


@pytest.mark.shared
@pytest.mark.timeout(300)
def test_who_is_gone_for_three_seconds_is_known_again(shared_dir: Path, tmp_path: Path) -> None:
    video = str(shared_dir / "video/supervision_walking.mp4")
    frames, _ = run(video, tmp_path / "all", "--detector", "bundled", "--set", "tracker.remember_s=0")

    def box(frame_number: int, track_id: int) -> list[float]:
        poses = frames[frame_number].poses
        return poses.bboxes_xyxy[poses.track_ids.tolist().index(track_id)].tolist()

    always = set.intersection(*(set(frame.poses.track_ids.tolist()) for frame in frames))
    tall = [i for i in sorted(always) if box(49, i)[3] - box(49, i)[1] > 80]
    assert len(tall) >= 4
    who = tall[0]

    lines = []
    for number, frame in enumerate(frames):
        for track_id, (x0, y0, x1, y1) in zip(frame.poses.track_ids, frame.poses.bboxes_xyxy, strict=True):
            if not (track_id == who and number in GONE):
                lines.append(f"{number + 1},-1,{x0 + 1},{y0 + 1},{x1 - x0},{y1 - y0},0.9,-1,-1,-1")
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("\n".join(lines) + "\n")

    def id_of(frames: list, number: int) -> int | None:
        """Of the row that has the box of that person."""
        for track_id, found in zip(frames[number].poses.track_ids, frames[number].poses.bboxes_xyxy, strict=True):
            if abs(found - box(number, who)).max() < 1:
                return int(track_id)
        return None

    with_memory, summary = run(video, tmp_path / "with", "--boxes", str(boxes))
    without, other_summary = run(video, tmp_path / "without", "--boxes", str(boxes), "--set", "tracker.remember_s=0")
    before, after = GONE.start - 1, GONE.stop + 10
    assert id_of(with_memory, before) == id_of(with_memory, after) is not None
    assert None is not id_of(without, before) != id_of(without, after) is not None
    assert summary["known_again"] >= 1
    assert other_summary["known_again"] == 0
