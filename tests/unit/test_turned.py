"""A picture that lies on its side or its head is told of, with the option that turns it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sharpose_rt.cli import main
from sharpose_rt.config import DetectorConfig
from sharpose_rt.config.schema import OutputConfig
from sharpose_rt.detection import Detector, create_detector
from sharpose_rt.detection.turned import LONGEST_S, Turned
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.media.writer import VideoWriter
from sharpose_rt.stages import DetectStage
from sharpose_rt.types import Detections, Frame


@pytest.fixture(scope="module")
def detector() -> Detector:
    detector = create_detector(DetectorConfig("bundled"))
    detector.open()
    return detector


@pytest.mark.parametrize(("degrees", "rotated"), [(0, 0), (90, 0), (180, 0), (270, 90)])
def test_people_on_their_side_or_their_head_are_told_of_once(detector, degrees, rotated, caplog):
    """Filmed so; --rotate was given already, or not."""
    image = np.ascontiguousarray(np.rot90(read_photograph("bus.jpg"), degrees // 90))
    stage = DetectStage(detector, rotated=rotated, called="door")
    for number in range(4):
        list(stage.process(Frame(number, float(number), image)))
    told = [f"--rotate {(rotated + degrees) % 360} turns it" in message for message in caplog.messages]
    assert told == [True] * (degrees > 0)
    assert all(message.startswith("door: more people are found with") for message in caplog.messages)
    assert ("upside down" in caplog.text) == (degrees == 180)


def test_a_folder_of_photographs_is_not_turned_as_one(detector, caplog):
    image = np.ascontiguousarray(np.rot90(read_photograph("bus.jpg")))
    stage = DetectStage(detector, rotated=0)
    for number in range(3):
        list(stage.process(Frame(number, float(number), image, source=f"{number}.jpg")))
    assert not caplog.messages


def test_a_run_says_which_option_helps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = cv2.resize(np.rot90(read_photograph("bus.jpg")), (720, 540))
    clip = tmp_path / "side.mp4"
    writer = VideoWriter(clip, (720, 540), 1.0, OutputConfig(audio=False))
    for number in range(3):
        writer.write(image, float(number))
    writer.close()
    run = ["--source", str(clip), "--detector", "bundled", "--no-video", "--quality-threshold=-inf"]
    for options, told in (((), 1), (("--rotate", "90"), 0), (("--region", "0,0 719,539"), 0)):
        caplog.clear()
        assert main([*run, *options, "--output", str(tmp_path / "-".join(("out", *options[:1])))]) == 0
        assert sum("--rotate 90 turns it" in message for message in caplog.messages) == told


class Scene:
    """Finds people by how far the picture, whose first pixel tells that, is turned; counts its looks."""

    name, closest = "scene", 0

    def __init__(self, *scores: float) -> None:
        self.scores, self.looks = scores, 0

    def open(self) -> None: ...
    def close(self) -> None: ...

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        self.looks += 1
        corners = frame.image_bgr[[0, 0, -1, -1], [0, -1, -1, 0], 0]  # clockwise, from the left above
        score = self.scores[int(corners.argmax())]
        scores = np.array([score] if score else [], np.float32)
        return Detections(np.tile(np.array([[2, 2, 9, 9]], np.float32), (len(scores), 1)), scores)


def gone_through(scene: Scene, seconds: int) -> list[int]:
    image = np.zeros((20, 30, 3), np.uint8)
    image[0, 0] = 255
    turned, told = Turned(scene), []
    for number in range(4 * seconds):
        frame = Frame(number, number / 4, image)
        told.append(turned.turn(frame, scene.detect(frame)))
    return told


def test_who_stands_upright_costs_no_look():
    scene = Scene(0.95, 0.99, 0.99, 0.99)
    assert gone_through(scene, 30) == [0] * 120
    assert scene.looks == 120


@pytest.mark.parametrize(
    ("scores", "degrees"),
    [((0, 0, 0.85, 0), 180), ((0.3, 0.1, 0.2, 0.9), 270), ((0.3, 0.9, 0.85, 0.9), 90), ((0.55, 0.9, 0.9, 0.9), 0)],
)
def test_it_is_the_turn_that_shows_somebody_surely(scores, degrees):
    told = gone_through(Scene(*scores), 10)
    assert [degree for degree in told if degree] == [degrees] * (degrees > 0)


def test_where_nobody_is_it_looks_the_more_seldom():
    scene = Scene(0, 0.3, 0.7, 0)
    assert gone_through(scene, 240) == [0] * 960
    assert scene.looks == 960 + 3 * 8  # after 0, 2, 6, 14, 30, 62, 122 and 182 s
    assert LONGEST_S == 60
