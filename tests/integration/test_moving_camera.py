"""A clip from a moving hand, from the file to the stream, the summary and the video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from people_set import SMALL

from sharpose_rt import PoseTracker
from sharpose_rt.app import FileRun
from sharpose_rt.config import load
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.skeletons import StreamReader

FRAMES, STEP_PX = 24, 6


@pytest.fixture(scope="module")
def panned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A window that goes over a photograph, and the box of one of the people in it."""
    folder = tmp_path_factory.mktemp("panned")
    photograph = read_photograph("bus.jpg")
    with av.open(str(folder / "hand.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        boxes = []
        for n in range(FRAMES):
            x = STEP_PX * n
            window = np.ascontiguousarray(photograph[380:860, x : x + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="bgr24")))
            boxes.append(f"{n + 1},1,{222 - x},25,123,455,0.9,-1,-1,-1")
        container.mux(stream.encode())
    (folder / "boxes.txt").write_text("\n".join(boxes))
    return folder / "hand.mp4", folder / "boxes.txt"


def run(panned: tuple[Path, Path], out: Path, *more: str) -> tuple[list[Any], dict[str, Any]]:
    clip, boxes = panned
    options = [f"pose.model={SMALL.name}", "pose.weights=random", "pose.precision=fp32", "pose.quality_threshold=-inf"]
    options += ["output.preset=ultrafast"]
    found = FileRun(str(clip), load(None, [*options, f"detector.name={boxes}", f"output.directory={out}", *more])).run()
    assert found.stream is not None
    assert found.video is not None
    return list(StreamReader(found.stream)), json.loads(Path(str(found.summary)).read_text())


@pytest.mark.parametrize("smoothing", ["kalman", "rts"])
def test_the_stream_says_how_the_camera_moved(panned: tuple[Path, Path], tmp_path: Path, smoothing: str) -> None:
    frames, summary = run(panned, tmp_path, f"smooth.method={smoothing}")
    cameras = [frame.camera for frame in frames]
    assert summary["moved_frames"] == sum(camera is not None for camera in cameras) == FRAMES - 2
    for camera in cameras[2:]:
        assert camera is not None
        middle = camera[:, :2] @ [320, 240] + camera[:, 2]
        np.testing.assert_allclose(middle, [320 - STEP_PX, 240], atol=1)
    assert {person for frame in frames for person in frame.poses.track_ids.tolist()} == {1}


def test_a_program_is_told_too(panned: tuple[Path, Path]) -> None:
    clip, boxes = panned
    pose = {"weights": "random", "precision": "fp32", "quality_threshold": -np.inf}
    with PoseTracker(SMALL.name, pose=pose, detector={"name": str(boxes)}) as tracker:
        cameras = [frame.camera for frame in tracker.run(str(clip))]
    assert [camera is not None for camera in cameras] == [False] * 2 + [True] * (FRAMES - 2)


def test_nobody_looks_where_it_is_not_wanted(panned: tuple[Path, Path], tmp_path: Path) -> None:
    frames, summary = run(panned, tmp_path, "tracker.camera_motion=false")
    assert summary["moved_frames"] == 0
    assert all(frame.camera is None for frame in frames)
