"""A camera on the network for ten minutes: nothing drifts, memory stays flat, a loss in the middle is survived.

pytest -n 0 -s -m slow tests/integration/test_rtsp_for_long.py      # SHARPOSE_LONG_MINUTES=4 is the least
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from live_servers import free_port, rtsp_server

MINUTES = float(os.environ.get("SHARPOSE_LONG_MINUTES", "10"))
SIZE_WH = (640, 360)
GAP_S = 8.0


def write_pictures(clip: Path, folder: Path, count: int = 150) -> Path:
    """Every third picture of a clip, small, forward and then backward so that the loop has no jump."""
    folder.mkdir()
    capture = cv2.VideoCapture(str(clip))
    pictures = []
    while len(pictures) < count // 2:
        for _ in range(3):
            capture.grab()
        there, image = capture.retrieve()
        if not there:
            break
        pictures.append(cv2.resize(image, SIZE_WH, interpolation=cv2.INTER_AREA))
    for number, image in enumerate([*pictures, *pictures[::-1]]):
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), image)
    return folder


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(60 * MINUTES + 120)
def test_ten_minutes_of_rtsp(shared_dir: Path, tmp_path: Path) -> None:
    pictures = write_pictures(shared_dir / "video" / "romp_sample_video2.mp4", tmp_path / "pictures")
    port, out = free_port(), tmp_path / "out"
    options = f"--source rtsp://127.0.0.1:{port}/live --detector bundled --offline --no-video --quiet --read-timeout 3"
    command = [sys.executable, "-m", "sharpose_rt", *options.split(), "--output", str(out)]
    half_s = 30 * MINUTES
    memory: list[tuple[float, float]] = []

    def watch(run: subprocess.Popen[bytes], seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            assert run.poll() is None, "the run ended by itself"
            memory.append((time.monotonic(), psutil.Process(run.pid).memory_info().rss / 1e6))
            time.sleep(1)

    with rtsp_server(port, SIZE_WH, pictures):
        run = subprocess.Popen(command)
        try:
            watch(run, half_s)
        except BaseException:
            run.kill()
            raise
    try:
        watch(run, GAP_S)
        with rtsp_server(port, SIZE_WH, pictures):
            watch(run, half_s)
            run.send_signal(signal.SIGINT)
            assert run.wait(60) == 130
    finally:
        run.kill()

    (stream,) = out.glob("*.skeletons.jsonl")
    lines = [json.loads(line) for line in stream.read_text().splitlines()]
    frames = [line for line in lines if line["type"] == "frame"]
    assert lines[-1]["status"] == "interrupted"
    captured_s = np.array([datetime.fromisoformat(frame["captured_at"]).timestamp() for frame in frames])
    age_s = captured_s - captured_s[0]
    pts_s = np.array([frame["pts_s"] for frame in frames])
    late_ms = np.array([frame["latency_ms"] for frame in frames])
    lost = [(frame["pts_s"], frame["lost_before_s"]) for frame in frames if frame.get("lost_before_s")]
    summary = json.loads(next(out.glob("*.summary.json")).read_text())

    minute = (age_s // 60).astype(int)
    times_s, rss_mb = np.array(memory).T
    print(f"\n{'minute':>6} {'frames':>6} {'late p50':>9} {'p95 ms':>7} {'media-clock ms':>15} {'RSS MB':>7}")
    clock_ms, resident = [], []
    for n in range(minute[-1] + 1):
        here = minute == n
        clock_ms.append(1e3 * float(np.median((pts_s - age_s)[here])))
        resident.append(float(np.median(rss_mb[((times_s - times_s[0]) // 60).astype(int) == n])))
        p50, p95 = np.percentile(late_ms[here], [50, 95])
        print(f"{n:>6} {here.sum():>6} {p50:>9.0f} {p95:>7.0f} {clock_ms[-1]:>15.0f} {resident[-1]:>7.0f}")
    print(f"lost: {lost}; dropped: {summary['dropped']}; losses: {summary['losses']}")

    assert len(lost) == 1
    assert GAP_S - 1 < lost[0][1] < GAP_S + 30
    assert sum(bool(frame["people"]) for frame in frames) > 0.5 * len(frames)
    whole = [n for n in range(1, minute[-1]) if (minute == n).any()]  # the first minute warms up, the last is a part
    first, last = whole[0], whole[-1]
    late = [float(np.median(late_ms[minute == n])) for n in (first, last)]
    assert late[1] < late[0] + 50, "frames come out later and later"
    assert abs(clock_ms[last] - clock_ms[first]) < 500, "media time leaves the clock"
    assert resident[last] < resident[first] + 30, "memory grows"
