"""What all peers' programs have in common; needs only numpy, since it runs in the peer's environment."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WARM_UP = 3


def run(make: Callable[[dict], Callable[[np.ndarray, np.ndarray], int | None]]) -> None:
    """Writes the times and people of a peer for the frames of a job; the job's folder is the program's argument.

    Args:
        make: builds the peer from the job's settings. The peer takes a frame (H, W, 3) uint8 BGR and boxes (N, 4) xyxy
            px, and returns the number of people with a pose, or None if that is meaningless.
    """
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    boxes = [np.array(rows, np.float32).reshape(-1, 4) for rows in job["boxes"]]
    peer = make(job)
    fullest = sorted(range(len(boxes)), key=lambda number: -len(boxes[number]))  # a clip may begin with nobody
    for number in fullest[:WARM_UP]:
        peer(np.array(frames[number]), boxes[number])
    seconds, people = [], []
    for frame, rows in zip(frames, boxes, strict=True):
        image = np.array(frame)
        began_s = time.perf_counter()
        people.append(peer(image, rows))
        seconds.append(time.perf_counter() - began_s)
    (folder / "result.json").write_text(json.dumps({"seconds": seconds, "people": people}), encoding="utf-8")


def crop(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of an image (H, W, 3) inside a box, at least one pixel."""
    left, top, right, bottom = (round(float(v)) for v in box)
    h, w = image.shape[:2]
    left, top = min(max(left, 0), w - 1), min(max(top, 0), h - 1)
    return image[top : max(top + 1, bottom), left : max(left + 1, right)]
