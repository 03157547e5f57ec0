"""A made-up run for the tests of the live view: people who walk to and fro in front of a still picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import cv2
import numpy as np

from sharpose_rt.media import SourceInfo
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import Header
from sharpose_rt.stages import StreamSink, Tap
from sharpose_rt.types import Frame, Packet, Poses

SIZE_WH = (640, 360)

# A standing figure of height 1: x to the person's left, y down from the top of the head.
_FIGURE = np.array(
    [
        *[(0, 0.08), (0.03, 0.06), (-0.03, 0.06), (0.06, 0.07), (-0.06, 0.07), (0.12, 0.2), (-0.12, 0.2)],
        *[(0.17, 0.35), (-0.17, 0.35), (0.18, 0.5), (-0.18, 0.5), (0.08, 0.52), (-0.08, 0.52)],
        *[(0.09, 0.75), (-0.09, 0.75), (0.09, 0.97), (-0.09, 0.97)],
    ],
    np.float32,
)


def info(stem: str = "walk", *, live: bool = False) -> SourceInfo:
    return SourceInfo(f"{stem}.mp4", "video", live, SIZE_WH, fps=25.0, frame_count=None, stem=stem)


def header(stem: str = "walk") -> Header:
    model = {"name": "tiny_256x192", "weights_sha256": None, "behaviour": "paper", "quality_threshold": 0.8}
    return Header(f"{stem}.mp4", SIZE_WH, 25.0, COCO17, model, "none", "sharpose", "kalman", "0")


def packet(frame_id: int, people: int = 3, size_wh: tuple[int, int] = SIZE_WH) -> Packet:
    """Frame `frame_id` at 25 fps, captured just now."""
    width, height = size_wh
    time_s = frame_id / 25
    image = np.full((height, width, 3), (58, 50, 46), np.uint8)
    image[height * 3 // 4 :] = (84, 78, 74)
    cv2.putText(image, str(frame_id), (width // 40, height // 8), 0, height / 300, (170, 180, 190), 2, cv2.LINE_AA)
    points = np.stack([_person(i, time_s, width, height) for i in range(people)] or [np.zeros((17, 2), np.float32)])
    points = points[:people]
    raw = points + np.random.default_rng(frame_id).normal(0, height / 250, points.shape).astype(np.float32)
    low, high = points.min(1, initial=1e9) - height / 40, points.max(1, initial=-1e9) + height / 40
    n = people
    scores = np.full((n, 17), 0.9, np.float32)
    poses = Poses(
        bboxes_xyxy=np.concatenate((low, high), 1) if n else np.zeros((0, 4), np.float32),
        bbox_scores=np.full(n, 0.9, np.float32),
        track_ids=np.arange(1, n + 1),
        keypoints=points,
        keypoint_scores=scores,
        raw_keypoints=raw,
        raw_keypoint_scores=scores,
        quality=np.linspace(0.6, 0.95, n, dtype=np.float32),
        stage=np.arange(n) % 3,
    )
    frame = Frame(frame_id, time_s, image, captured_at_s=time.monotonic() - 0.04)
    return Packet(frame, poses=poses)


def _person(index: int, time_s: float, width: int, height: int) -> np.ndarray:
    points = _FIGURE.copy()
    swing = math.sin(5 * time_s + index)
    points[[9, 7], 0] += 0.06 * swing
    points[[10, 8], 0] += 0.06 * swing
    points[[15, 13], 0] += np.array([0.1, 0.05]) * swing
    points[[16, 14], 0] -= np.array([0.1, 0.05]) * swing
    at = 0.5 + 0.35 * math.sin(0.5 * time_s + 2.1 * index)
    size = height * (0.55 + 0.08 * (index % 3))
    return (points * size + (at * width, height * 0.93 - size)).astype(np.float32)


class Run:
    """Feeds taps as the pipeline does, one frame each time it is asked to."""

    def __init__(self, *taps: Tap, stem: str = "walk", live: bool = False, people: int = 3) -> None:
        self.people, self.frames = people, 0
        self._sink = StreamSink(None, header(stem), info(stem, live=live), live=live, taps=taps)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self._sink.write(packet(self.frames, self.people), "")
            self.frames += 1

    def end(self) -> None:
        self._sink.close("complete", self.frames, 0)


def until(holds: Callable[[], object], run: Run | None = None, timeout_s: float = 50.0) -> None:
    """Wait for something, with a step of the run now and then where there is one."""
    until_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until_s
        if run is not None:
            run.step()
        time.sleep(0.02)


class Lines:
    """A tap that keeps what it is told of one run, and whether that is `live`."""

    live: bool | None = None

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def begin(self, info: SourceInfo, header: bytes, *, live: bool, state: Callable[[], str]) -> Lines:
        self.live = live
        self.lines.append(header)
        return self

    def frame(self, line: bytes, packet: Packet, status_line: str = "") -> None:
        self.lines.append(line)

    def end(self, line: bytes) -> None:
        self.lines.append(line)
