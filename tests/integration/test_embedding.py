"""A program that has a tracker within: its threads, its signals, its mistakes."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_servers import MjpegServer
from media_clips import write_clip
from people_set import SMALL

import sharpose_rt
from sharpose_rt.api import PoseTracker, SHaRPose
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import SourceError
from sharpose_rt.graph import Models
from sharpose_rt.media.given import wrong_picture
from sharpose_rt.types import Poses

pytestmark = pytest.mark.timeout(60)

OPTIONS: dict[str, Any] = {
    "pose": {"weights": "random", "precision": "fp32", "quality_threshold": -math.inf},
    "detector": {"name": "full"},
}
IMAGE = np.zeros((96, 96, 3), np.uint8)

HELD = """
import asyncio, os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import scipy.optimize
import sharpose_rt.stages, sharpose_rt.tracking
from sharpose_rt import PoseTracker

for case in sys.argv[1:]:  # each in a process of its own, which need not import all this again
    if child := os.fork():
        if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(f"{status}: {case}")
    else:
        signal.alarm(60)
        break
else:
    sys.exit()
pose = {"weights": "random", "precision": "fp32", "backend": "torch", "quality_threshold": -np.inf}
held = PoseTracker("tiny_256x192", pose=pose, detector={"name": "full"}).run([np.zeros((96, 96, 3), np.uint8)] * 500)
exec(case)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.timeout(240)
def test_a_program_ends_though_it_holds_a_run_whichever_thread_took_the_last_frame() -> None:
    cases = (
        "assert next(held).frame_id == 0",
        "thread = threading.Thread(target=next, args=(held,)); thread.start(); thread.join()",
        "threading.Thread(target=lambda: [next(held) for _ in range(3)]).start()",  # the main thread ends before it
        "pool = ThreadPoolExecutor(1); pool.submit(next, held).result()",  # its thread waits for work
        "asyncio.run(asyncio.to_thread(next, held))",
    )
    done = subprocess.run([sys.executable, "-c", HELD, *cases], capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stderr


def test_a_signal_handler_closes_the_tracker_within_update() -> None:
    tracker, nested = PoseTracker(SMALL.name, **OPTIONS), []

    def stop(*_: object) -> None:
        with pytest.raises(RuntimeError, match="during another update"):
            tracker.update(IMAGE)
        tracker.close()
        nested.append(True)

    tracker.update(IMAGE, 0.0)
    loop = tracker._loop
    assert loop is not None
    observe = loop._tracking.observe

    def pressed(packet: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        observe(packet)

    loop._tracking.observe = pressed  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, stop)
    try:
        assert tracker.update(IMAGE, 1.0).frame_id == 1  # goes through, as its stages are closed after it
    finally:
        signal.signal(signal.SIGTERM, before)
    assert nested
    assert tracker._loop is None
    assert tracker.update(IMAGE, 0.0).frame_id == 0
    tracker.close()
    assert tracker._loop is None


def in_a_thread_of(count: int, ask: Callable[[], object]) -> int:
    """How many threads a new thread that set `count` has for its loops after it asked for poses."""
    left: list[int] = []

    def work() -> None:
        torch.set_num_threads(count)
        ask()
        left.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    return left[0]


@pytest.mark.timeout(90)
def test_a_program_keeps_the_number_of_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its threads asks, and the networks have theirs meanwhile."""
    inside: list[int] = []
    whole, crops = PoseEngine.estimate_all, PoseEngine.estimate_crops
    seen = lambda real: lambda *a, **how: inside.append(torch.get_num_threads()) or real(*a, **how)  # noqa: E731
    monkeypatch.setattr(PoseEngine, "estimate_all", seen(whole))
    monkeypatch.setattr(PoseEngine, "estimate_crops", seen(crops))
    pose = {**OPTIONS["pose"], "backend": "torch", "threads": 2}
    with PoseTracker(SMALL.name, pose=pose, detector={"name": "full"}) as tracker:
        for number, count in enumerate((3, 4)):
            assert in_a_thread_of(count, lambda at_s=float(number): tracker.update(IMAGE, at_s)) == count
        assert in_a_thread_of(3, lambda: list(tracker.run([IMAGE]))) == 3
    made: list[SHaRPose] = []
    assert in_a_thread_of(3, lambda: made.append(SHaRPose(SMALL.name, **pose))) == 3
    assert in_a_thread_of(4, lambda: made[0](IMAGE)) == 4
    assert in_a_thread_of(3, lambda: made[0].crops(np.zeros((1, *SMALL.size_hw, 3), np.uint8))) == 3
    assert inside == [2] * 5


def test_a_program_whose_numpy_raises_gets_poses_and_keeps_its_ways() -> None:
    with np.errstate(all="raise"), PoseTracker(SMALL.name, **OPTIONS) as tracker:
        for at_s in (0.0, 0.1, 200.0):  # what the smoother has left of a joint fades to less than a number can be
            assert len(tracker.update(IMAGE, at_s).people) == 1
        assert set(np.geterr().values()) == {"raise"}


def test_a_program_with_a_default_device_and_numbers_of_its_own_gets_poses_and_keeps_them() -> None:
    torch.set_default_device("meta")  # any but the CPU, as "cuda" is
    torch.set_default_dtype(torch.float64)
    try:
        with PoseTracker(SMALL.name, pose=OPTIONS["pose"], detector={"name": "bundled"}) as tracker:
            tracker.update(IMAGE, 0.0)
            assert len(list(tracker.run([IMAGE]))) == 1
        assert len(SHaRPose(SMALL.name, **OPTIONS["pose"])(IMAGE)) == 1
        assert (torch.zeros(1).device.type, torch.zeros(1).dtype) == ("meta", torch.float64)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def test_the_collector_ends_a_run_within_update() -> None:
    tracker = PoseTracker(SMALL.name, **OPTIONS)
    tracker.update(IMAGE, 0.0)
    loop = tracker._loop
    assert loop is not None
    observe = loop._tracking.observe

    def collected(packet: Any) -> None:
        gc.collect()
        observe(packet)

    gc.disable()
    try:
        circle: list[Any] = [tracker.run([IMAGE] * 50)]
        circle.append(circle)
        next(circle[0])
        del circle
        loop._tracking.observe = collected  # type: ignore[method-assign]
        tracker.update(IMAGE, 1.0)
    finally:
        gc.enable()
    assert len(tracker._idle) == 1
    tracker.close()


@pytest.mark.timeout(90)
def test_another_thread_closes_a_run_of_a_camera_that_is_silent() -> None:
    tracker, seen, errors = PoseTracker(SMALL.name, **OPTIONS, source={"read_timeout_s": 60.0}), [], []
    first = threading.Event()

    def work() -> None:
        try:
            for frame in tracker.run(server.url):
                seen.append(frame.frame_id)
                first.set()
        except Exception as error:
            errors.append(error)

    with MjpegServer([((96, 96), None)], silent=True) as server:
        worker = threading.Thread(target=work)
        worker.start()
        assert first.wait(40)
        server.stopped.set()  # it says no more, and holds the connection
        tracker.close()
        tracker.close()  # as leaving `with` does after it
        worker.join(20)
        assert not worker.is_alive()
    assert not errors
    assert not tracker._idle
    assert not tracker._running


def test_a_closed_run_gives_what_is_under_way_and_takes_no_next_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, times_s=[n / 10 for n in range(100)], size_wh=(96, 96))
    closed: list[Models] = []
    close = Models.close
    monkeypatch.setattr(Models, "close", lambda self: (closed.append(self), close(self)))
    with PoseTracker(SMALL.name, **OPTIONS) as tracker:
        numbers, names = [], set()
        for frame in tracker.run(tmp_path):
            if not numbers:
                tracker.close()
                assert not closed  # they are at work yet
            numbers.append(frame.frame_id)
            names.add(frame.source)
        assert numbers == list(range(len(numbers)))
        assert 1 < len(numbers) < 100
        assert len(names) == 1
        assert len(closed) == 1
        assert len(list(tracker.run([IMAGE] * 2))) == 2  # anew


def test_what_a_camera_says_of_its_success_is_no_time() -> None:
    class Camera:
        left = 3

        def read(self) -> tuple[Any, Any]:
            self.left -= 1
            return (True, IMAGE) if self.left >= 0 else (False, None)

    tracker = PoseTracker(SMALL.name, **OPTIONS)
    success: Any
    for success in (True, np.bool_(True)):
        with pytest.raises(SourceError, match=r"frame 0 has the time .*True.*cap\.read\(\).* only the picture"):
            list(tracker.run([(success, IMAGE)]))
    with pytest.raises(SourceError, match=r"cap\.read\(\)"):
        list(tracker.run(iter(Camera().read, (False, None))))
    assert len(list(tracker.run(image for _, image in iter(Camera().read, (False, None))))) == 3
    with pytest.raises(ValueError, match="pts_s is True"):
        tracker.update(IMAGE, True)


def test_what_is_given_in_place_of_pictures_is_said() -> None:
    tracker = PoseTracker(SMALL.name, **OPTIONS)
    for source, said in (
        ([], r"the iterable is empty; was its camera or file opened\?"),
        (IMAGE, r"one picture, uint8 of shape \(96, 96, 3\).*`run\(\[image\]\)`, or `update\(image\)`"),
        (np.int64(77), "webcam:77"),
    ):
        with pytest.raises(SourceError, match=said):
            next(tracker.run(source))  # type: ignore[arg-type]
    trimmed = PoseTracker(SMALL.name, **OPTIONS, source={"start_s": 5.0})
    with pytest.raises(SourceError, match="no frame from 5 s on"):
        next(trimmed.run([IMAGE]))
    with pytest.raises(SourceError, match="frame 0 has the time 1000"):
        next(tracker.run([(10**400, IMAGE)]))
    for pts_s in ("x", timedelta(seconds=1), 10**400):
        with pytest.raises(
            ValueError, match=r"times in seconds are accepted \(for a timedelta its total_seconds\(\)\)"
        ):
            tracker.update(IMAGE, pts_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (np.zeros((4, 4), np.uint8), "cv2.COLOR_GRAY2BGR"),
        (np.zeros((4, 4, 1), np.uint8), "cv2.COLOR_GRAY2BGR"),
        (np.zeros((4, 4, 4), np.uint8), "cv2.COLOR_BGRA2BGR"),
        (np.zeros((4, 4, 3), np.float32), "(image * 255).astype(np.uint8)"),
    ],
)
def test_a_picture_of_another_form_is_told_how_it_becomes_one(image: Any, hint: str) -> None:
    assert f"(H, W, 3) uint8 BGR is accepted; {'for values' if 'astype' in hint else 'try'}" in wrong_picture(image)
    assert hint in wrong_picture(image)
    assert wrong_picture(IMAGE) == ""
    assert wrong_picture([]) == "a list; (H, W, 3) uint8 BGR is accepted"


def test_a_picture_of_pillow_is_told_how_it_becomes_one() -> None:
    image = pytest.importorskip("PIL.Image").new("RGBA", (4, 3), (1, 2, 3, 4))
    assert 'np.asarray(image.convert("RGB"))[..., ::-1]' in wrong_picture(image)
    assert wrong_picture(np.asarray(image.convert("RGB"))[..., ::-1]) == ""


@pytest.mark.skipif(shutil.which("pyright") is None, reason="needs pyright")
@pytest.mark.timeout(120)
def test_a_type_checker_knows_the_names_and_no_others(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sharpose_rt\nfrom sharpose_rt import PoseTracker, __version__\n"
        "for frame in PoseTracker().run(0):\n    for person in frame.poses:\n"
        "        print(person.track_id, __version__)\n"
        "sharpose_rt.PoseTraker()\n"
    )
    home = str(Path(sharpose_rt.__file__).parents[1])
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [home]}))
    command = ["pyright", "--pythonpath", sys.executable, str(program)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100).stdout
    assert '"PoseTraker" is not a known attribute' in said
    assert "1 error" in said, said


def test_people_of_poses_are_gone_through() -> None:
    assert list(Poses.empty(17)) == []
    with PoseTracker(SMALL.name, **OPTIONS) as tracker:
        frame = tracker.update(IMAGE)
    assert [p.track_id for p in frame.poses] == [p.track_id for p in frame.people] == [1]
