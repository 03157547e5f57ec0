"""Closer looks: when a source gets them, and that the detector that ships finds more by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection import Looks, create_detector
from sharpose_rt.detection.boxes import FullFrameDetector
from sharpose_rt.detection.bundled import WEIGHTS, BundledDetector
from sharpose_rt.detection.region import RegionDetector
from sharpose_rt.errors import WeightsError
from sharpose_rt.evaluation.boxes import choose_boxes, detector_boxes
from sharpose_rt.evaluation.truth import read_labels
from sharpose_rt.geometry.boxes import longer_side
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.stages import DetectStage
from sharpose_rt.types import Detections, Frame
from tests.people_set import write_set

NEAR, FAR = [[10, 10, 60, 110]], [[10, 10, 14, 20]]


class Eyes:
    """Finds who is `there`; somebody lower than 20 px is small to it, and three of them a crowd. `seen` says how it
    looked: as usual, closer, closest at a crowd."""

    name, closest = "eyes", 2

    def __init__(self) -> None:
        self.there, self.seen = NEAR, ""
        self.there_closer: list[list[int]] | None = None  # than in the usual look
        self.only_closer = False
        self.score = self.closer_score = 0.9

    def open(self) -> None: ...
    def close(self) -> None: ...

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        self.seen += "uCX"[look]
        there = [] if self.only_closer and not look else self.there
        boxes = np.array(self.there_closer if self.there_closer and look else there, np.float32).reshape(-1, 4)
        small = int((boxes[:, 3] - boxes[:, 1] < 20).sum())
        score = self.closer_score if look else self.score
        return Detections(boxes, np.full(len(boxes), score, np.float32), min(small, 1) + (small >= 3))


def at(time_s: float, seed: int = 0) -> Frame:
    image = np.full((120, 160, 3), seed * 40, np.uint8)
    return Frame(round(time_s * 10), time_s, image)


def looked(looks: Looks, eyes: Eyes, *times_s: float, new_scene: bool = False) -> str:
    eyes.seen = ""
    for time_s in times_s:
        looks.detect(at(time_s), new_scene=new_scene)
    return eyes.seen


def test_a_source_is_looked_at_closer_while_somebody_is_small_and_a_second_longer() -> None:
    eyes = Eyes()
    looks = Looks(eyes, live=True)
    assert looked(looks, eyes, 0.0, 0.1) == "uu"
    eyes.there = FAR
    assert looked(looks, eyes, 0.2, 0.3, 0.4) == "uCCC"  # the frame that shows it is looked at again
    eyes.there = NEAR
    assert looked(looks, eyes, 0.5, 1.0, 1.3, 1.4, 1.5) == "CCCuu"
    assert looks.closer == 6


def test_where_nobody_is_found_one_frame_a_second_is_looked_at_closer() -> None:
    eyes = Eyes()
    looks = Looks(eyes, live=True)
    assert looked(looks, eyes, 0.0) == "u"
    eyes.there = []
    assert looked(looks, eyes, 0.1, 0.2, 0.9, 1.0, 1.1, 1.2, 3.0, 3.1) == "uCuuuuCuuCu"
    assert looks.closer == 3
    eyes.there, eyes.score = NEAR, 0.4
    assert looked(looks, eyes, 4.0, 4.1) == "uCu"  # who is unsure may be nobody
    eyes.closest = 0
    assert looked(looks, eyes, 9.0, 9.1) == "uu"


def test_in_a_file_one_frame_a_second_is_looked_at_closer_whoever_is_found() -> None:
    eyes = Eyes()
    looks = Looks(eyes)
    assert looked(looks, eyes, 0.0, 0.1, 0.9, 1.0, 1.1) == "uuuuCu"
    assert looks.closer == 1
    eyes.there = []
    assert looked(looks, eyes, 1.2, 1.3) == "uCu"  # where nobody is, no such frame is waited for
    eyes.there = NEAR
    eyes.there_closer = [*NEAR, *FAR]
    assert looked(looks, eyes, 1.9, 2.0, 2.1, 2.9, 3.0) == "uuCCCC"
    assert len(looks.detect(at(3.1))) == 2


def test_people_who_are_too_small_to_be_found_are_found_closer() -> None:
    eyes = Eyes()
    looks = Looks(eyes)
    eyes.there, eyes.only_closer = FAR, True
    assert len(looks.detect(at(0.0))) == 1
    assert looked(looks, eyes, 0.1, 0.2, 0.9) == "CCC"
    eyes.there = []
    assert looked(looks, eyes, 1.8, 1.9, 2.0, 2.1) == "CuCuu"  # the probe waits for its second, and shows nobody


def test_a_probe_that_finds_nobody_small_leaves_what_was_found() -> None:
    eyes = Eyes()
    looks = Looks(eyes)
    eyes.score = 0.3
    eyes.closer_score = 0.2
    assert looks.detect(at(0.0)).bbox_scores.tolist() == pytest.approx([0.3])


def test_a_new_scene_is_looked_at_as_usual_first() -> None:
    eyes = Eyes()
    looks = Looks(eyes, live=True)
    eyes.there = FAR
    assert looked(looks, eyes, 0.0) == "uC"
    assert looked(looks, eyes, 0.1, new_scene=True) == "uC"
    eyes.there = NEAR
    assert looked(looks, eyes, 0.2, new_scene=True) == "u"
    assert looked(looks, eyes, 0.3) == "u"


CROWD = [*NEAR, *FAR * 3]


def test_crowds_are_looked_at_closest_but_in_live_sources() -> None:
    eyes = Eyes()
    looks = Looks(eyes)
    assert looked(looks, eyes, 0.0) == "u"
    eyes.there = CROWD
    assert looked(looks, eyes, 0.1, 0.2) == "uXX"
    eyes.there = FAR
    assert looked(looks, eyes, 0.3, 1.1) == "XX"
    assert looked(looks, eyes, 1.3, 1.4) == "uCC"  # as close as is wanted now
    eyes.there = CROWD
    assert looked(looks, eyes, 1.5, 1.6) == "CXX"
    eyes.there = NEAR
    assert looked(looks, eyes, 2.5, 2.7, 2.8) == "XuCu"
    eyes.there, eyes.only_closer = CROWD, True
    assert looked(looks, eyes, 4.0) == "uCX"  # a look for people who are too small shows a crowd
    assert looks.closer == 11
    live = DetectStage(eyes, live=True)
    eyes.only_closer, eyes.seen = False, ""
    for time_s in (0.0, 0.1):
        live.process(at(time_s))
    assert eyes.seen == "uCC"


def test_sources_that_share_a_detector_are_looked_at_each_in_its_way() -> None:
    eyes = Eyes()
    street, room = DetectStage(eyes, live=True), DetectStage(eyes, live=True)
    ways = []
    for time_s in (0.0, 0.1, 0.2):
        for stage, there in ((street, FAR), (room, NEAR)):
            eyes.there, eyes.seen = there, ""
            (packet,) = stage.process(at(time_s))
            assert packet.detections is not None
            assert packet.detections.bboxes_xyxy.tolist() == there
            ways.append(eyes.seen)
    assert ways == ["uC", "u", "C", "u", "C", "u"]
    assert (street.looks.closer, room.looks.closer) == (3, 0)


def test_a_live_source_waits_for_neither_look() -> None:
    eyes = Eyes()
    DetectStage(eyes, ready_for=lambda: (64, 48), live=True).open()
    assert eyes.seen == "uC"
    eyes.closest, eyes.seen = 0, ""
    DetectStage(eyes, ready_for=lambda: (64, 48)).open()
    assert eyes.seen == "u"


def test_a_region_is_looked_at_closer_too() -> None:
    eyes = Eyes()
    eyes.there = FAR
    region = RegionDetector(eyes, ((5, 5), (60, 5), (60, 60), (5, 60)), 9)
    assert region.closest == 2
    assert looked(Looks(region), eyes, 0.0, 0.1) == "uCC"


def test_boxes_that_are_given_are_the_same_closer() -> None:
    whole = FullFrameDetector()
    assert whole.closest == whole.detect(at(0)).look == 0
    assert whole.detect(at(0), look=1).bboxes_xyxy.tolist() == whole.detect(at(0)).bboxes_xyxy.tolist()


def resized(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    return cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def crowd(share: float = 0.2) -> Frame:
    """A photograph of four people, small in a wide picture, eight times."""
    image = np.full((720, 1280, 3), 114, np.uint8)
    small = resized(read_photograph("bus.jpg"), share)
    h, w = small.shape[:2]
    for x in (60, 400, 740, 1060):
        for y in (10, 370):
            image[y : y + h, x : x + w] = small
    return Frame(0, 0.0, image, source="crowd")


def test_the_detector_that_ships_finds_more_of_small_people() -> None:
    picture = crowd()
    detector = create_detector(DetectorConfig("bundled"))
    detector.open()
    assert detector.closest == 2
    usual, closer = detector.detect(picture), Looks(detector, live=True).detect(picture)
    assert usual.look == closer.look == 2
    assert (closer.bbox_scores >= 0.5).sum() > 1.2 * (usual.bbox_scores >= 0.5).sum() > 0
    in_a_file, closest = Looks(detector).detect(picture), detector.detect(picture, look=2)
    assert in_a_file.bboxes_xyxy.tolist() == closest.bboxes_xyxy.tolist()
    assert (closest.bbox_scores >= 0.5).sum() >= (closer.bbox_scores >= 0.5).sum()
    near = replace(picture, image_bgr=np.ascontiguousarray(picture.image_bgr[10:226, 60:222]))
    assert not detector.detect(near).look  # nor is a picture looked at closer that has no more pixels
    far = crowd(0.14)
    assert not (detector.detect(far).bbox_scores >= 0.5).any()
    assert (Looks(detector).detect(far).bbox_scores >= 0.5).sum() >= 8
    detector.close()


def test_in_a_crowd_it_finds_more_and_those_who_are_near_as_before() -> None:
    """A photograph of four people as it is, and beside it as many of it as there is room, small."""
    image = np.full((1080, 1920, 3), 114, np.uint8)
    bus = read_photograph("bus.jpg")
    image[:, :810] = bus
    small = resized(bus, 0.185)
    h, w = small.shape[:2]
    for x in range(900, 1920 - w, w + 30):
        for y in range(10, 1080 - h, h + 30):
            image[y : y + h, x : x + w] = small
    detector = create_detector(DetectorConfig("bundled"))
    detector.open()
    closer, closest = (detector.detect(Frame(0, 0.0, image), look=look) for look in (1, 2))
    detector.close()

    def sure(found: Detections, *, large: bool) -> list[list[float]]:
        sides = longer_side(found.bboxes_xyxy)
        return found.bboxes_xyxy[(found.bbox_scores >= 0.5) & ((sides >= 1920 / 8) == large)].tolist()

    assert closer.look == closest.look == 2
    assert len(sure(closest, large=False)) > 2 * len(sure(closer, large=False)) > 40
    assert sure(closest, large=True) == sure(closer, large=True)
    assert len(sure(closer, large=True)) == 3


def test_a_size_that_was_asked_for_is_kept_to() -> None:
    detector = create_detector(DetectorConfig("bundled", image_size=320))
    detector.open()
    assert detector.closest == detector.detect(crowd()).look == 0


@pytest.mark.parametrize("stated", ["288", "x", "9000"])
def test_weights_with_a_closer_size_out_of_range_are_refused(stated: str, tmp_path: Path) -> None:
    with safe_open(str(WEIGHTS), framework="pt") as file:
        facts = dict(file.metadata())
    path = tmp_path / "changed.safetensors"
    save_file(load_file(WEIGHTS), path, {**facts, "closer_size": stated})
    with pytest.raises(WeightsError, match="closer_size"):
        BundledDetector(DetectorConfig(), weights=path).open()


def test_pictures_that_are_measured_are_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is looked at as if it were the only one, and not at one in a second closer."""
    eyes, folder, asked = Eyes(), write_set(tmp_path / "painted", people=1), []
    monkeypatch.setattr("sharpose_rt.detection.create_detector", lambda config, **_: asked.append(config) or eyes)
    found = detector_boxes(read_labels(folder / "annotations.json"), folder / "images", DetectorConfig())
    assert (eyes.seen, found.image_ids.tolist()) == ("uuuu", [1, 2, 3, 4])
    eyes.seen = ""
    choose_boxes("detector", read_labels(folder / "annotations.json"), folder / "images", "eyes", 640)
    assert eyes.seen == "uuuu"
    assert asked[1] == DetectorConfig("eyes", score_threshold=0.001, image_size=640)  # AP wants the weak boxes, too
