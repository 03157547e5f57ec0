"""Detectors: what they find, what they refuse, and what they leave behind."""

from __future__ import annotations

import http.server
import json
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_servers import serving

from sharpose_rt.compute import openvino_graphs
from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection import Detector, Runtime, assets, create_detector, factory
from sharpose_rt.detection.bundled import WEIGHTS, BundledDetector, build_module, load_module
from sharpose_rt.detection.letterbox import Letterbox
from sharpose_rt.detection.postprocess import each_person_once, finish, suppress
from sharpose_rt.detection.region import RegionDetector
from sharpose_rt.detection.ultralytics_model import load_export
from sharpose_rt.detection.yolo import (
    Network,
    YoloDetector,
    people_from_predictions,
    person_classes,
    predict,
    with_runtime,
)
from sharpose_rt.errors import ConfigError, DetectorError, WeightsError
from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.machine import downloads
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.types import Detections, Frame

sides = st.integers(2, 4000)

NEEDS_OPENVINO = pytest.mark.skipif(
    not openvino_graphs.installed(), reason="openvino is not installed (the extra `cpu`)"
)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or leaves models in the user's cache, nor in the folder it was started in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(factory.AutoDetector, "_unreachable", "")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path / "cache"


def frame(size_wh: tuple[int, int] = (320, 240), frame_id: int = 0, source: str = "") -> Frame:
    rng = np.random.default_rng(frame_id)
    image = rng.integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    return Frame(frame_id=frame_id, pts_s=frame_id / 25, image_bgr=image, source=source)


def photo(name: str) -> Frame:
    """A photograph of people that comes with ultralytics."""
    return Frame(frame_id=0, pts_s=0.0, image_bgr=read_photograph(name), source=name)


def opened(config: DetectorConfig) -> Detector:
    detector = create_detector(config)
    detector.open()
    return detector


def detect_once(detector: Detector, picture: Frame) -> Detections:
    detector.open()
    try:
        return detector.detect(picture)
    finally:
        detector.close()


def check_contract(found: Detections, picture: Frame, config: DetectorConfig) -> None:
    boxes, scores = found.bboxes_xyxy, found.bbox_scores
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes <= np.tile(np.array(picture.size_wh) - 1, 2)).all()
    assert ((scores >= config.score_threshold) & (scores <= 1)).all()
    assert (np.diff(scores) <= 0).all()
    assert len(found) <= config.max_people


def check_same(
    found: Detections, wanted: Detections, off_px: float = 0.1, off_score: float = 1e-3, share: float = 0.9
) -> None:
    """Both hold the same boxes with the same scores; a box at the edge of being dropped may be missing."""
    assert len(wanted) > 5
    assert abs(len(found) - len(wanted)) <= (1.05 - share) * len(wanted)
    for one, other in ((found, wanted), (wanted, found)):
        apart = np.abs(one.bboxes_xyxy[:, None] - other.bboxes_xyxy[None]).max(-1)
        apart = np.maximum(apart / off_px, np.abs(one.bbox_scores[:, None] - other.bbox_scores[None]) / off_score)
        assert (apart.min(1) < 1).mean() > share


# --- what all share ---------------------------------------------------------------------------------------------


@given(sides, sides, st.integers(32, 1280), st.booleans())
def test_the_picture_in_a_letterbox_is_the_whole_frame(width: int, height: int, image_size: int, fixed: bool) -> None:
    fit = Letterbox.fit((width, height), image_size, fixed_wh=(416, 256) if fixed else None)
    low = np.array(fit.offset_xy)
    high = low + fit.resized_wh
    assert np.allclose(fit.to_frame([[*low, *high]]), [[-0.5, -0.5, width - 0.5, height - 0.5]], atol=1e-6)
    assert (low >= 0).all()
    assert (high <= fit.input_wh).all()
    assert fixed or all(side % 32 == 0 for side in fit.input_wh)


def test_letterbox_puts_pixels_where_it_puts_boxes() -> None:
    image = np.zeros((300, 500, 3), np.uint8)
    image[100:200, 50:150] = 255
    fit = Letterbox.fit((500, 300), 640)
    canvas = fit.apply(image)
    assert canvas.shape == (fit.input_wh[1], fit.input_wh[0], 3)
    rows, columns = np.nonzero(canvas[..., 0] > 200)
    white = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]  # outer edges
    assert np.allclose(fit.to_frame([white]), [[49.5, 99.5, 149.5, 199.5]], atol=1 / max(fit.scale_xy))


def test_finish_clips_drops_and_orders() -> None:
    config = DetectorConfig(score_threshold=0.3, max_people=3)
    boxes = [
        [-20, -20, 50, 50],
        [90, 90, 500, 500],
        [10, 10, 10, 40],  # no width
        [200, 200, 260, 260],  # outside
        [np.nan, 0, 5, 5],
        [5, 5, 30, 30],
        [4, 5, 30, 30],  # as sure as the one before, further left
        [0, 0, 40, 40],  # too weak
    ]
    scores = [0.5, 0.9, 0.99, 0.99, 0.99, 0.5, 0.5, 0.2]
    found = finish(boxes, scores, (100, 100), config)
    assert found.bboxes_xyxy.tolist() == [[90, 90, 99, 99], [0, 0, 50, 50], [4, 5, 30, 30]]
    assert found.bbox_scores.tolist() == pytest.approx([0.9, 0.5, 0.5])


@pytest.mark.parametrize("end2end", [True, False])
def test_who_is_as_sure_as_the_threshold_is_kept(end2end: bool) -> None:
    import torch

    network = Network(lambda x: x, 1, (0,), end2end, torch.device("cpu"))
    rows = np.array([[0, 0, 9, 9, 0.5, 0], [30, 30, 9, 9, np.nextafter(0.5, 0), 0]])
    _, scores = people_from_predictions(rows if end2end else rows[:, :5].T, network, 0.5, 0.7)
    assert scores.tolist() == [0.5]
    found = finish([[0, 0, 9, 9], [0, 0, 8, 8]], [0.5, 0.499], (99, 99), DetectorConfig(score_threshold=0.5))
    assert found.bbox_scores.tolist() == [0.5]


@given(st.permutations(range(6)))
def test_order_of_raw_boxes_does_not_matter(order: list[int]) -> None:
    boxes = np.array([[0, 0, 20, 20], [1, 1, 21, 21], [50, 50, 70, 70], [0, 0, 20, 21], [51, 50, 70, 70], [5, 5, 9, 9]])
    scores = np.array([0.5, 0.5, 0.9, 0.5, 0.9, 0.5])

    kept, means = suppress(boxes[order], scores[order], 0.5)
    assert boxes[order][kept].tolist() == boxes[[2, 0, 5]].tolist()
    np.testing.assert_allclose(means, suppress(boxes, scores, 0.5)[1], rtol=1e-12)


def test_a_person_is_where_their_boxes_agree() -> None:
    """The mean of twenty boxes that are each some pixels off is nearer to the person than one of them."""
    rng, people = np.random.default_rng(0), 50
    corner = np.stack([100.0 * np.arange(people), np.full(people, 40.0)], 1)
    true = np.concatenate([corner, corner + np.array([60, 160])], 1)
    boxes = (true[:, None] + rng.normal(0, 2, (people, 20, 4))).reshape(-1, 4)
    scores = rng.uniform(0.5, 0.9, 20 * people)
    found, sure = each_person_once(boxes, scores, 0.6)
    found = found[np.argsort(found[:, 0])]
    assert np.abs(found - true).mean() < 0.4 * np.abs(boxes - true.repeat(20, 0)).mean()
    assert np.allclose(np.sort(sure), np.sort(scores.reshape(people, 20).max(1)))  # nobody overlaps anybody


def test_who_overlaps_somebody_surer_is_less_sure() -> None:
    for shift, share in ((60, 1.0), (45, 0.985), (34, 0.66), (30, 0.49)):  # overlaps of 0.25, 0.38, 0.49 and 0.54
        boxes = np.array([[0, 0, 100, 200], [shift, 0, 100 + shift, 200.0]])
        found, scores = each_person_once(boxes, np.array([0.8, 0.6]), 0.6)
        np.testing.assert_allclose(found, boxes, atol=1e-9)
        assert scores.tolist() == [0.8, pytest.approx(0.6 * share, abs=0.01)]


def test_boxes_that_say_nothing_are_kept_as_they_are() -> None:
    """A threshold of 1 keeps all; those without extent or score agree with nobody."""
    boxes, scores = (
        np.array([[0, 0, 9, 9], [1, 0, 9, 9], [5, 5, 5, 5], [20, 20, 30, 30.0]]),
        np.array([0.5, 0.9, 0.3, 0]),
    )
    assert each_person_once(boxes, scores, 1.0)[0].tolist() == boxes.tolist()
    found, sure = each_person_once(boxes, scores, 0.6)
    assert found[1:].tolist() == boxes[2:].tolist()
    assert sure.tolist() == [0.9, 0.3, 0]
    assert [len(part) for part in each_person_once(np.zeros((0, 4)), np.zeros(0), 0.6)] == [0, 0]


def test_a_crowd_is_suppressed_as_few_people_are() -> None:
    """Each of 200 people has twenty boxes, which together are many more than a network gives for a few."""
    rng, people = np.random.default_rng(0), np.arange(200)
    corner = np.stack([30.0 * (people % 20), 60.0 * (people // 20)], 1).repeat(20, 0) + rng.uniform(0, 2, (4000, 2))
    boxes, scores = np.concatenate([corner, corner + np.array([25, 50])], 1), rng.uniform(0.3, 0.9, 4000)
    kept, _ = suppress(boxes, scores, 0.6)
    assert sorted((kept // 20).tolist()) == people.tolist()
    assert all(scores[i] == scores[20 * (i // 20) : 20 * (i // 20) + 20].max() for i in kept)


def test_suppression_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 60, (80, 2))
    boxes, scores = np.concatenate([corner, corner + rng.uniform(10, 40, (80, 2))], 1), rng.random(80)
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(iou_matrix(boxes[[i]], boxes[[j]])[0, 0] <= 0.45 for j in kept):
            kept.append(int(i))
    assert suppress(boxes, scores, 0.45)[0].tolist() == kept


# --- given boxes --------------------------------------------------------------------------------------------------


def test_full_is_the_whole_frame() -> None:
    found = detect_once(create_detector(DetectorConfig(name="full")), frame((64, 48)))
    assert found.bboxes_xyxy.tolist() == [[0, 0, 63, 47]]
    assert found.bbox_scores.tolist() == [1]


@pytest.mark.parametrize("separator", [",", " ", ", ", "\t"])
def test_mot_file(tmp_path: Path, separator: str) -> None:
    lines = [["1", "-1", "11", "21", "30", "40", "0.6"], ["1", "2", "101", "6", "20.5", "60", "-1", "-1"]]
    lines += [["3", "1", "-9", "1", "50", "50"]]
    path = tmp_path / "det.txt"
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n\n")
    detector = opened(DetectorConfig(name=str(path)))
    first = detector.detect(frame(frame_id=0))
    assert first.bboxes_xyxy.tolist() == [[100, 5, 120.5, 65], [10, 20, 40, 60]]
    assert first.bbox_scores.tolist() == pytest.approx([1.0, 0.6])
    assert len(detector.detect(frame(frame_id=1))) == 0
    assert detector.detect(frame(frame_id=2)).bboxes_xyxy.tolist() == [[0, 0, 40, 50]]


def test_csv_with_column_names(tmp_path: Path) -> None:
    path = tmp_path / "det.csv"
    path.write_text("frame,id,x,y,w,h,conf\n2,1,0,0,50,50,0.9\n")
    detector = opened(DetectorConfig(name=str(path)))
    assert [len(detector.detect(frame(frame_id=i))) for i in range(3)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,0,0,5\n", "line 1: 5 values"),
        ("1,1,0,0,5,5\n2,1,zero,0,5,5\n", "line 2.*'zero'"),
        ("0,1,0,0,5,5\n", "line 1: frame is 0"),
        ("1.5,1,0,0,5,5\n", "line 1: frame is 1.5"),
        ("1,1,0,0,5,5\ninf,1,0,0,5,5\n", "line 2: frame is inf"),
        ("1,1,0,0,5,5\nnan,1,0,0,5,5\n", "line 2: frame is nan"),
        ("1,1,0,0,-5,5\n", "line 1: width -5"),
        ("1,1,0,0,nan,5\n", "line 1: box.*finite"),
        ("1,1,0,0,5,5,inf\n", "line 1: column 7 is 'inf'; finite"),
        ("1,,0,0,5,5,0.9\n", "line 1: id is ''; finite"),
    ],
)
def test_bad_mot_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "det.txt"
    path.write_text(text)
    with pytest.raises(DetectorError, match=message) as raised:
        create_detector(DetectorConfig(name=str(path))).open()
    assert str(path) in str(raised.value)


def coco(tmp_path: Path, data: object) -> Detector:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(data))
    return opened(DetectorConfig(name=str(path)))


def test_coco_by_picture_name_and_by_frame(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "train/b.jpg"}, {"id": 3, "file_name": "a.jpg"}]
    records = [
        {"image_id": 3, "bbox": [1, 2, 30, 40], "category_id": 1},
        {"image_id": 7, "bbox": [5, 6, 10, 10], "category_id": 1, "score": 0.5},
        {"image_id": 7, "bbox": [0, 0, 99, 99], "category_id": 2},
        {"image_id": 7, "bbox": [0, 0, 99, 99], "category_id": 1, "iscrowd": 1},
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    detector = coco(tmp_path, {"images": images, "annotations": records, "categories": categories})
    assert detector.detect(frame(source="/data/a.jpg")).bboxes_xyxy.tolist() == [[1, 2, 31, 42]]
    assert detector.detect(frame(frame_id=1, source="b.jpg")).bboxes_xyxy.tolist() == [[5, 6, 15, 16]]
    assert len(detector.detect(frame(source="c.jpg"))) == 0
    assert detector.detect(frame(frame_id=0)).bbox_scores.tolist() == [0.5]
    assert detector.detect(frame(frame_id=1)).bboxes_xyxy.tolist() == [[1, 2, 31, 42]]


def test_pictures_of_one_name_are_told_apart_by_folder_and_ending(tmp_path: Path) -> None:
    names = ["a/x.jpg", "b/x.jpg", "b/c/x.jpg", "empty/x.jpg", "y.jpg", "y.png", "0012.jpg"]
    records = [{"image_id": n, "bbox": [n, 0, 30, 40], "category_id": 1} for n in range(len(names)) if n != 3]
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    detector = coco(tmp_path, {"images": images, "annotations": records})
    for n, name in enumerate(names):
        assert detector.detect(frame(source=name)).bboxes_xyxy[:, 0].tolist() == ([] if n == 3 else [n])
        assert [box[0] for box in detector.of_picture(images[n], n)] == ([] if n == 3 else [n])
    assert len(detector.detect(frame(source="set/a/x.jpg"))) == len(detector.detect(frame(source="12.png"))) == 1
    with pytest.raises(DetectorError, match=r"has a/x\.jpg and b/x\.jpg, and it is unclear which of them x\.jpg is"):
        detector.detect(frame(source="x.jpg"))


def test_who_is_a_person_where_no_category_says_so(tmp_path: Path) -> None:
    records = [{"image_id": 1, "bbox": [20 * n, 0, 9, 9], **({"category_id": n} if n else {})} for n in range(4)]
    document = {"images": [{"id": 1}], "annotations": records}
    names = [{"id": 2, "name": "Pedestrian"}, {"id": 3, "name": "dog"}]
    assert len(coco(tmp_path, document | {"categories": names}).detect(frame())) == 2
    assert len(coco(tmp_path, document | {"categories": names[1:]}).detect(frame())) == 4
    assert len(coco(tmp_path, document).detect(frame())) == 4
    assert len(coco(tmp_path, records).detect(frame(frame_id=1))) == 2  # results: 1 is a person in COCO
    assert len(coco(tmp_path, records[2:3]).detect(frame(frame_id=1))) == 1


def test_pictures_without_names_go_by_their_frames(tmp_path: Path) -> None:
    records = [{"image_id": 7, "bbox": [5, 5, 50, 50], "category_id": 1}]
    detector = coco(tmp_path, {"images": [{"id": 6}, {"id": 7}], "annotations": records})
    assert len(detector.detect(frame(frame_id=1, source="pictures/b.jpg"))) == 1
    assert len(detector.detect(frame(frame_id=0, source="pictures/a.jpg"))) == 0


def test_numbers_of_a_whole_set_are_no_frames(tmp_path: Path) -> None:
    images = [{"id": 10_000_010_000 + n, "frame_id": 10_000_010_000 + n, "file_name": f"c/{n}.jpg"} for n in range(3)]
    records = [{"image_id": 10_000_010_002, "bbox": [5, 5, 50, 50], "category_id": 1}]
    detector = coco(tmp_path, {"images": images, "annotations": records})  # as PoseTrack's
    assert [len(detector.detect(frame(frame_id=n))) for n in range(3)] == [0, 0, 1]


def test_coco_results_list(tmp_path: Path) -> None:
    records = [{"image_id": 12, "bbox": [1, 2, 30, 40], "category_id": 1, "score": 0.75}]
    detector = coco(tmp_path, records)
    assert len(detector.detect(frame(frame_id=12))) == 1
    assert len(detector.detect(frame(frame_id=11))) == 0
    assert len(detector.detect(frame(frame_id=3, source="000000000012.jpg"))) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"annotations": []}, "not COCO"),
        (3, "not COCO"),
        ([{"image_id": 1}], "record 0"),
        ([{"image_id": 1, "bbox": [0, 0, 5, 5]}, {"image_id": 1, "bbox": [0, 0, 5]}], "record 1: bbox"),
        ([{"image_id": 1, "bbox": [0, 0, "5", 5]}], "record 0: box"),
        ({"images": [{"file_name": "a"}], "annotations": []}, "image 0"),
        ({"images": [{"id": 1}], "annotations": [{"image_id": 2, "bbox": [0, 0, 1, 1]}]}, "record 0: image_id 2"),
        (
            {"images": [{"id": 1}], "annotations": [{}], "categories": [{"id": 1, "name": "cat"}, {"name": "dog"}]},
            "its categories are 'cat', 'dog', and none is 'person'",
        ),
    ],
)
def test_bad_coco_record_is_named(tmp_path: Path, data: object, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        coco(tmp_path, data)


def test_unreadable_boxes_file(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"images": [')
    for name, message in (("half.json", "not JSON"), ("missing.txt", "cannot be read")):
        with pytest.raises(DetectorError, match=message):
            create_detector(DetectorConfig(name=str(tmp_path / name))).open()


# --- networks ------------------------------------------------------------------------------------------------------


def test_predictions_of_both_kinds_of_heads() -> None:
    import torch

    plain = Network(run=lambda x: x, class_count=2, person_classes=(1,), end2end=False, device=torch.device("cpu"))
    rows = np.array([[50, 50, 20, 40, 0.1, 0.8], [50, 50, 20, 40, 0.1, 0.7], [9, 9, 4, 4, 0.9, 0.8]]).T
    boxes, scores = people_from_predictions(rows, plain, 0.25, 0.7)
    np.testing.assert_allclose(boxes, [[40, 30, 60, 70]])  # the second is the same, the third is rather of class 0
    assert scores.tolist() == [0.8]
    once = replace(plain, end2end=True)
    rows = np.array([[40, 30, 60, 70, 0.8, 1], [0, 0, 9, 9, 0.9, 0], [0, 0, 9, 9, 0.1, 1]])
    boxes, scores = people_from_predictions(rows, once, 0.25, 0.7)
    assert boxes.tolist() == [[40, 30, 60, 70]]


def test_person_classes() -> None:
    assert person_classes({0: "dog", 1: "Pedestrian", 2: "person"}, "x") == (1, 2)
    assert person_classes({0: "player"}, "x") == (0,)
    with pytest.raises(DetectorError, match=r"no class for people.*dog"):
        person_classes({0: "dog", 1: "cat"}, "x")


@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolo11n.yaml", "yolo11n-pose.yaml", "yolo26n-pose.yaml"])
def test_architectures_run_without_compiled_operators(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = DetectorConfig(name=name, score_threshold=0.0, image_size=160, max_people=20)
    picture = frame((200, 120))
    with caplog.at_level(logging.WARNING, "sharpose_rt.detection"):
        found = detect_once(create_detector(config), picture)
    assert "random" in caplog.text
    assert len(found) > 0
    check_contract(found, picture, config)


def stir(model: Any) -> None:
    """Make an untrained network's answers differ from place to place, as a trained one's do."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, torch.nn.Conv2d) and module.out_channels == model.model[-1].nc:
            torch.nn.init.normal_(module.weight, std=0.3)
    if hasattr(model.model[-1], "one2one_cv2"):
        model.end2end = True
    model.train()
    with torch.no_grad():
        model(torch.rand(4, 3, 96, 96))
    model.eval()


def save_checkpoint(path: Path, name: str = "yolo26n.yaml", classes: int = 3) -> None:
    """A `.pt` as ultralytics' trainer writes it: the pickled module in half precision."""
    import torch

    assets.import_ultralytics()
    from ultralytics.nn.tasks import DetectionModel, PoseModel

    torch.manual_seed(0)
    kind = PoseModel if "pose" in name else DetectionModel
    classes = 1 if "pose" in name else classes
    model = kind(name, nc=classes, verbose=False)
    stir(model)
    model.names = {0: "person"} if classes == 1 else {0: "bicycle", 1: "person", 2: "car"}
    torch.save({"model": None, "ema": model.half(), "train_args": {}}, path)


@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolo11n.yaml", "yolo11n-pose.yaml"])
def test_checkpoint_finds_what_its_module_finds(tmp_path: Path, name: str) -> None:
    import torch

    path = tmp_path / "mine.pt"
    save_checkpoint(path, name)
    config, picture = everything(path), frame((96, 96))
    found = detect_once(create_detector(config), picture)

    checkpoint = torch.load(path, weights_only=False)
    module = checkpoint["ema"].float().eval()
    once = hasattr(module.model[-1], "one2one_cv2")
    if once:
        module.model[-1].end2end = True
    with torch.no_grad():
        rows = module(rgb_tensor(picture))[0][0].numpy()
    classes, person = (1, 0) if "pose" in name else (3, 1)
    check_same(found, by_hand(rows, once, classes, person, config))


def rgb_tensor(picture: Frame) -> Any:
    """A network's input (1, 3, H, W) of a picture that needs no letterbox."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(picture.image_bgr[..., ::-1])).permute(2, 0, 1)[None] / 255


def by_hand(rows: np.ndarray, once: bool, classes: int, person: int, config: DetectorConfig) -> Detections:
    """Raw predictions of a 96 px picture as detections, without suppression."""
    if once:
        rows = rows[rows[:, 5] == person]
        boxes, scores = rows[:, :4], rows[:, 4]
    else:
        rows = rows[:, rows[4 : 4 + classes].argmax(0) == person].T
        boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
        scores = rows[:, 4 + person]
    return finish(boxes - 0.5, scores, (96, 96), config)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    import torch

    proof, path = tmp_path / "proof", tmp_path / "evil.pt"
    torch.save({"model": Bomb(proof)}, path)
    with pytest.raises(DetectorError, match="cannot be read"):
        create_detector(DetectorConfig(name=str(path))).open()
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"model": Bomb(proof)}))
    with pytest.raises(DetectorError, match="cannot be read"):
        create_detector(DetectorConfig(name=str(tmp_path / "plain.pt"))).open()
    assert not proof.exists()


@pytest.mark.parametrize("activation", ["print(open({proof!r}, 'w'))", "nn.SiLU() or nn.ReLU(open({proof!r}, 'w'))"])
def test_model_files_cannot_run_code(tmp_path: Path, activation: str) -> None:
    import torch
    from safetensors.torch import save_file

    shipped = Path(assets.import_ultralytics().__file__).parent / "cfg/models/26/yolo26.yaml"
    proof, plan = tmp_path / "proof", shipped.read_text(encoding="utf-8")
    (tmp_path / "yolo26n.yaml").write_text(plan + f'\nactivation: "{activation.format(proof=str(proof))}"\n')
    with pytest.raises(DetectorError, match=r"its activation is .*; only a layer such as nn.SiLU\(\) is accepted"):
        create_detector(DetectorConfig(name=str(tmp_path / "yolo26n.yaml"))).open()
    path = tmp_path / "mine.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"architecture": "yolo26n.yaml"})
    with pytest.raises(WeightsError, match="its activation is"):
        create_detector(DetectorConfig(name=str(path))).open()
    assert not proof.exists()
    (tmp_path / "yolo26n.yaml").write_text(plan + "\nactivation: torch.nn.ReLU()\n")
    create_detector(DetectorConfig(name=str(tmp_path / "yolo26n.yaml"))).open()


def test_a_model_that_is_a_program_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.torchscript").write_bytes(b"no")
    with pytest.raises(DetectorError, match="mine"):
        create_detector(DetectorConfig(name=str(tmp_path / "mine.torchscript"))).open()
    assert "can do anything that a program can" in caplog.text


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    for name, content in (("cut.pt", b"PK\x03\x04"), ("empty.pt", b""), ("text.torchscript", b"no"), ("x.onnx", b"?")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DetectorError, match=name):
            create_detector(DetectorConfig(name=str(tmp_path / name))).open()


@pytest.mark.parametrize("name", ["yolo26n-cls.yaml", "rtdetr-l.yaml", "nothing-like-this.yaml"])
def test_models_that_find_no_boxes_are_refused(name: str) -> None:
    with pytest.raises(DetectorError, match=r"model for|cannot be built"):
        create_detector(DetectorConfig(name=name)).open()


def export(tmp_path: Path, architecture: str, form: str, **options: Any) -> tuple[Path, Path]:
    """A checkpoint and what ultralytics exports from it, for pictures of 96 px."""
    path = tmp_path / "mine.pt"
    save_checkpoint(path, architecture, classes=1)
    return path, Path(
        assets.import_ultralytics().YOLO(str(path)).export(format=form, imgsz=96, verbose=False, **options)
    )


def everything(path: Path) -> DetectorConfig:
    return DetectorConfig(name=str(path), score_threshold=0.0, iou_threshold=1.0, image_size=96, max_people=10**6)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["yolo26n.yaml", "yolo11n.yaml"])
@pytest.mark.filterwarnings("ignore")
def test_torchscript_finds_what_the_checkpoint_finds(tmp_path: Path, architecture: str) -> None:
    path, exported = export(tmp_path, architecture, "torchscript", nms=False)  # nms=False keeps the end-to-end head
    picture = frame((96, 96))
    wanted = detect_once(create_detector(everything(path)), picture)
    check_same(detect_once(create_detector(everything(exported)), picture), wanted)


def test_a_cache_that_cannot_be_used_leaves_the_bundled_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(downloads, "_answer", lambda url: pytest.fail("the folder comes first"))
    detector = create_detector(DetectorConfig(name="auto"))
    with caplog.at_level(logging.INFO):
        detector.open()
    assert "bundled" in detector.name


def test_an_exported_model_is_asked_for_each_picture_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics' AutoBackend is a torch module, but what it runs is not to be traced."""
    import torch

    pytest.importorskip("openvino")

    class Backend(torch.nn.Module):
        task, metadata, names, imgsz = "detect", {"names": {0: "person"}}, {0: "person"}, [64, 64]
        dynamic, end2end, stride, fp16, device = False, True, 32, False, torch.device("cpu")

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

        def forward(self, pixels: Any) -> Any:
            side = float(pixels.numpy().mean()) * 64  # as a runtime that knows nothing of torch
            return torch.tensor([[[0.0, 0.0, side, side, 0.9, 0.0]]])

    monkeypatch.setattr("ultralytics.nn.autobackend.AutoBackend", Backend)
    network = with_runtime(load_export(tmp_path / "a.onnx", "cpu"), Runtime("openvino", 1))
    sides = [predict(network, np.full((64, 64, 3), level, np.uint8))[0, 2] for level in (51, 204)]
    assert sides == pytest.approx([12.8, 51.2])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["openvino", "onnx"])
@pytest.mark.parametrize("options", [{}, {"nms": False}, {"dynamic": True}])
@pytest.mark.filterwarnings("ignore")
def test_exported_forms_find_what_their_runtime_finds(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    """Against the runtime's own answer: it may compute in bfloat16, so a checkpoint's boxes would differ."""
    pytest.importorskip(form, reason=f"{form} is not installed")
    _, exported = export(tmp_path, "yolo26n.yaml", form, **options)
    from ultralytics.nn.autobackend import AutoBackend

    picture, config = frame((96, 96)), everything(exported)
    rows = AutoBackend(str(exported), verbose=False)(rgb_tensor(picture))
    rows = (rows if hasattr(rows, "numpy") else rows[0])[0].numpy()
    wanted = by_hand(rows, options.get("nms") is False, 1, 0, config)
    check_same(detect_once(create_detector(config), picture), wanted)


# --- the bundled detector -------------------------------------------------------------------------------------------


def save_bundled(path: Path, architecture: str = "yolo26n.yaml", **metadata: str) -> Any:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    module = build_module(architecture, path.parent)
    stir(module)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    save_file(state, path, {"architecture": architecture, "names": "person", "image_size": "64", **metadata})
    return module


@pytest.mark.parametrize("architecture", ["mobile150", "yolo26n.yaml"])
def test_bundled_weights_give_the_module_they_came_from(tmp_path: Path, architecture: str) -> None:
    import torch

    path = tmp_path / "person_detector.safetensors"
    module = save_bundled(path, architecture)
    config = DetectorConfig(name=str(path), score_threshold=0.0, iou_threshold=1.0, max_people=10**6)
    detector, picture = create_detector(config), frame((64, 64))
    assert isinstance(detector, BundledDetector)
    found = detect_once(detector, picture)
    assert detector.sizes[0] == 64
    module.eval().model[-1].end2end = architecture != "mobile150"
    with torch.no_grad():
        rows = module(rgb_tensor(picture))[0][0].double().numpy()
    boxes, scores = rows[:, :4], rows[:, 4]
    if architecture == "mobile150":
        boxes, scores = np.concatenate([rows[:2] - rows[2:4] / 2, rows[:2] + rows[2:4] / 2]).T, rows[4]
    check_same(found, finish(boxes - 0.5, scores, (64, 64), config))


@pytest.mark.parametrize(
    ("name", "stated"), [("image_size", "large"), ("image_size", "-1"), ("score_slope", "null"), ("score_shift", "nan")]
)
def test_a_detectors_metadata_that_is_no_number_is_told(tmp_path: Path, name: str, stated: str) -> None:
    path = tmp_path / "person_detector.safetensors"
    save_bundled(path, "mobile150", **{name: stated})
    with pytest.raises(WeightsError, match=f"states a {name} of '{stated}'; .* is accepted"):
        create_detector(DetectorConfig(name=str(path))).open()


@NEEDS_OPENVINO
@pytest.mark.parametrize("architecture", ["mobile150", "yolo26n.yaml"])
def test_openvino_finds_what_torch_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    import torch

    monkeypatch.setattr("sharpose_rt.detection.openvino_network.fastest_dtype", lambda: torch.float32)
    path = tmp_path / "person_detector.safetensors"
    save_bundled(path, architecture)
    config = DetectorConfig(name="bundled", score_threshold=0.0, max_people=10**6)
    ours, theirs = (BundledDetector(config, weights=path, runtime=Runtime(name, 1)) for name in ("torch", "openvino"))
    sizes_wh = [(64, 64), (64, 32)] if architecture == "mobile150" else [(64, 32)]
    for size_wh in sizes_wh:  # each has a graph of its own
        picture = frame(size_wh)
        check_same(detect_once(theirs, picture), detect_once(ours, picture))
    assert len(list((tmp_path / "cache/sharpose-rt/graphs_of_one_size").glob("*.xml"))) == len(sizes_wh)


@NEEDS_OPENVINO
def test_a_graph_that_was_made_before_is_had_without_running_the_network(tmp_path: Path) -> None:
    import torch

    from sharpose_rt.detection.openvino_network import GraphPerSize

    path = tmp_path / "person_detector.safetensors"
    save_bundled(path, "mobile150")
    torch.manual_seed(0)
    pictures = [torch.rand(1, 3, 64, width) for width in (64, 32)]
    module, _ = load_module(path)
    run = GraphPerSize(module.eval(), 1, bf16=False)
    made = [run(picture) for picture in pictures]
    again, _ = load_module(path)
    again.eval().register_forward_pre_hook(lambda *_: pytest.fail("it was run"))
    run = GraphPerSize(again, 1, bf16=False)
    for picture, before in zip(pictures[::-1], made[::-1], strict=True):  # in whatever order sizes come
        torch.testing.assert_close(run(picture), before, rtol=0, atol=0)


@NEEDS_OPENVINO
def test_graphs_of_many_sizes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sharpose_rt.detection import openvino_network

    monkeypatch.setattr(openvino_network, "KEPT", 2)
    traced, made = openvino_network.traced, []
    monkeypatch.setattr(openvino_network, "traced", lambda *a, **k: made.append(a[1][0].shape[3]) or traced(*a, **k))
    run = openvino_network.GraphPerSize(torch.nn.Conv2d(3, 1, 1), 1)
    for width in (8, 16, 8, 24, 8, 16):
        assert run(torch.ones(1, 3, 8, width)).shape == (1, 1, 8, width)
    assert made == [8, 16, 24, 16]  # the one that was not used for the longest makes room
    assert len(run._graphs) == 2


@NEEDS_OPENVINO
def test_a_detector_multiplies_in_what_the_run_does_and_in_the_fastest_where_it_has_no_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from sharpose_rt.detection.openvino_network import GraphPerSize

    monkeypatch.setattr("sharpose_rt.detection.openvino_network.fastest_dtype", lambda: torch.bfloat16)
    path = tmp_path / "person_detector.safetensors"
    save_bundled(path, "mobile150")  # without ranges

    def dtype(weights: Path, **runtime: bool | None) -> Any:
        detector = BundledDetector(DetectorConfig(), weights=weights, runtime=Runtime("openvino", 1, **runtime))  # type: ignore[arg-type]
        run = with_runtime(detector.load(), detector.runtime).run
        assert isinstance(run, GraphPerSize)
        return run.dtype

    assert dtype(path) == torch.bfloat16
    assert dtype(path, bf16=False) == torch.float32
    assert dtype(path, bf16=True) == torch.bfloat16
    assert dtype(path, int8=True) == torch.bfloat16
    assert dtype(WEIGHTS, int8=True) == torch.float32  # between what it rounds to 8 bits


def test_bundled_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "person_detector.safetensors"
    open_ = BundledDetector(DetectorConfig(), weights=path).open
    with pytest.raises(WeightsError, match=r"cannot read .*person_detector"):
        open_()
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="no `architecture`"):
        open_()
    save_file({"x": torch.zeros(1)}, path, {"architecture": "yolo26n.yaml"})
    with pytest.raises(WeightsError, match="does not fit"):
        open_()
    save_file({"x": torch.zeros(1)}, path, {"architecture": "yolo99.yaml"})
    with pytest.raises(WeightsError, match="cannot be built"):
        open_()
    save_file({"x": torch.zeros(1)}, path, {"architecture": "lite0"})  # which shipped once
    with pytest.raises(
        WeightsError, match=r"architecture 'lite0' is unknown to this version; 'mobile150' .*train-detector"
    ):
        open_()


def test_bundled_finds_people_in_a_photograph() -> None:
    config, picture = DetectorConfig(name="bundled"), photo("bus.jpg")
    found = detect_once(create_detector(config), picture)
    check_contract(found, picture, config)
    by_eye = [[48, 398, 245, 903], [222, 405, 345, 861], [669, 392, 809, 880]]
    overlap = iou_matrix(by_eye, found.bboxes_xyxy)
    assert (overlap.max(1) > 0.5).any()
    assert overlap[:, 0].max() > 0.5  # the surest box is a person


def test_a_region_is_looked_at_closer_and_alone() -> None:
    config, picture = DetectorConfig(name="bundled"), photo("bus.jpg")
    everybody = detect_once(create_detector(config), picture)
    right = replace(config, region=((560, 1000), (809, 300)))  # any two opposite corners
    found = detect_once(create_detector(right), picture)
    check_contract(found, picture, right)
    assert len(found) == 1
    assert iou_matrix([[669, 392, 809, 880]], found.bboxes_xyxy).max() > 0.5  # by eye
    assert (found.bboxes_xyxy[:, 0] >= 560).all()
    # The feet of the man on the left: all of him is looked at, and his middle is not in it.
    feet = detect_once(create_detector(replace(config, region=((0, 760), (300, 900)))), picture)
    assert len(feet) == 0
    most = replace(config, region=((90, 560), (250, 700)))
    (box,) = detect_once(create_detector(most), picture).bboxes_xyxy
    assert iou_matrix([[48, 398, 245, 903]], box[None]).max() > 0.7  # by eye: not cut off at the region's margin
    whole = replace(config, region=((-50, -50), (5000, 5000)))
    same = detect_once(create_detector(whole), picture)
    np.testing.assert_array_equal(same.bboxes_xyxy, everybody.bboxes_xyxy)
    assert create_detector(right).name.startswith("bundled:")


def test_a_region_with_corners_and_boxes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("1,-1,11,11,20,20\n1,-1,71,11,20,20\n1,-1,71,71,20,20\n")  # middles: 20,20; 80,20; 80,80
    triangle = ((0.0, 0.0), (100.0, 0.0), (0.0, 100.0))
    for region, kept in ((triangle, [[10, 10, 30, 30], [70, 10, 90, 30]]), (triangle[:2], None)):
        if kept is None:
            with pytest.raises(ConfigError, match="two opposite corners"):  # of a line
                DetectorConfig(region=region)
            continue
        found = detect_once(create_detector(DetectorConfig(name=str(path), region=region)), frame((100, 100)))
        assert sorted(found.bboxes_xyxy.tolist()) == kept


def test_a_region_is_looked_at_wider_only_while_somebody_reaches_out_of_it() -> None:
    shown: list[tuple[int, int]] = []
    there = [[50.0, 50.0, 60.0, 60.0]]

    class Fixed(factory.FullFrameDetector):
        """Finds the boxes that are `there` in a picture whose pixels hold their own places, cut off at its edges."""

        def detect(self, frame: Frame, *, look: int = 0) -> Detections:
            shown.append(frame.size_wh)
            x, y = frame.image_bgr[0, 0, :2].astype(int)
            boxes = np.array(there, np.float32) - [x, y, x, y]
            return Detections(boxes.clip(0, np.tile(frame.size_wh, 2) - 1), np.ones(len(boxes)))

    places = np.zeros((200, 200, 3), np.uint8)
    places[..., 0], places[..., 1] = np.arange(200), np.arange(200)[:, None]
    detector = RegionDetector(Fixed(), DetectorConfig(region=((40, 40), (80, 80))).polygon, 9)
    look = partial(detector.detect, Frame(0, 0.0, places))
    assert look().bboxes_xyxy.tolist() == there
    assert shown == [(53, 53)]  # 40 px and 0.15 of that around
    there[0] = [50, 5, 60, 110]  # taller than the margins
    assert look().bboxes_xyxy.tolist() == there
    assert shown[1:] == [(53, 53), (81, 81), (200, 200)]
    there[0] = [50, 50, 60, 60]
    sizes = []
    for _ in range(80):
        shown.clear()
        assert look().bboxes_xyxy.tolist() == there
        sizes += shown
    assert sizes == [(200, 200)] * 9 + [(81, 81)] * 10 + [(53, 53)] * 61


def test_the_strongest_in_a_region_are_kept_whoever_is_outside(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("".join(f"1,-1,{x},11,20,20,0.{9 - n}\n" for n, x in enumerate((11, 12, 13, 71, 72, 73))))
    config = DetectorConfig(name=str(path), region=((50, 0), (99, 99)), max_people=2)
    found = detect_once(create_detector(config), frame((100, 100)))
    assert found.bboxes_xyxy[:, 0].tolist() == [70, 71]


def test_a_region_outside_of_the_picture_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path := tmp_path / "boxes.txt").write_text("1,-1,211,11,20,20\n2,-1,11,11,20,20\n3,-1,211,11,20,20\n")
    config = DetectorConfig(name=str(path), region=((200, 0), (300, 90)))
    said = "200,0 to 300,90 is outside the picture, which is 160x96 px"
    with pytest.raises(DetectorError, match=said):
        detect_once(create_detector(config), frame((160, 96)))
    with pytest.raises(DetectorError, match=said):
        detect_once(create_detector(replace(config, name="full")), frame((160, 96)))
    detector = opened(config)
    sizes = [(400, 96), (160, 96), (400, 96), (160, 96)]  # as in a folder of pictures
    assert [len(detector.detect(frame(size, n))) for n, size in enumerate(sizes)] == [1, 0, 1, 0]
    (warning,) = [record.getMessage() for record in caplog.records if said in record.getMessage()]
    assert warning.startswith("frame 1: the region from")
    assert warning.endswith("; nobody is detected in it")


def test_of_full_the_region_is_the_one_person() -> None:
    for region, box in (((200, 0), (300, 90)), [200, 0, 300, 90]), (((0, 0), (900, 0), (0, 70)), [0, 0, 399, 70]):
        detector = create_detector(DetectorConfig(name="full", region=region))
        np.testing.assert_array_equal(detect_once(detector, frame((400, 96))).bboxes_xyxy, [box])
    assert len(create_detector(DetectorConfig(name="full")).detect(frame((4, 4)))) == 1
    detector = create_detector(DetectorConfig(name="full", region=((200, 0), (300, 90))))
    assert [len(detector.detect(frame(size))) for size in ((400, 96), (160, 96))] == [1, 0]


@pytest.mark.parametrize(
    "region", [((0, 0),), ((0, 0), (0, 9)), "left", ((0, 0, 9, 9),), ((0, 0), (math.inf, 9)), ((0, 0), (5, 5), (9, 9))]
)
def test_a_region_that_spans_nothing_is_refused(region: Any) -> None:
    with pytest.raises(ConfigError, match="two opposite corners of a rectangle"):
        DetectorConfig(region=region)


@pytest.mark.parametrize("backend", ["torch", pytest.param("openvino", marks=NEEDS_OPENVINO)])
def test_in_int8_the_bundled_one_finds_the_same_people(backend: str) -> None:
    config, picture = DetectorConfig(name="bundled", score_threshold=0.2), photo("bus.jpg")  # no score is near it
    wanted = detect_once(create_detector(config), picture)
    found = detect_once(create_detector(config, runtime=Runtime(backend, 1, int8=True)), picture)
    assert len(found) == len(wanted) >= 3
    assert (iou_matrix(wanted.bboxes_xyxy, found.bboxes_xyxy).max(1) > 0.85).all()
    assert not np.array_equal(found.bboxes_xyxy, wanted.bboxes_xyxy)  # it does round


def test_a_model_of_ultralytics_built_before_changes_nothing() -> None:
    """Their parser sets a switch on the class of the head, another in version 8 than in 11."""
    config, picture, found = DetectorConfig(name="bundled"), photo("bus.jpg"), []
    for name in ("yolo11n.yaml", "yolov8n.yaml"):
        build_module(name, Path())
        found.append(detect_once(create_detector(config), picture))
    assert len(found[0]) >= 3
    np.testing.assert_array_equal(found[0].bboxes_xyxy, found[1].bboxes_xyxy)
    np.testing.assert_array_equal(found[0].bbox_scores, found[1].bbox_scores)


def test_weights_without_ranges_stay_in_floats(tmp_path: Path) -> None:
    path = tmp_path / "person_detector.safetensors"
    save_bundled(path, "mobile150")
    config = DetectorConfig(name="bundled", score_threshold=0.0)
    plain, asked = (BundledDetector(config, weights=path, runtime=Runtime(int8=int8)) for int8 in (False, True))
    check_same(detect_once(asked, frame((64, 64))), detect_once(plain, frame((64, 64))))


def test_the_bundled_one_looks_as_closely_as_it_was_trained_to_unless_told_otherwise() -> None:
    sizes = []
    for wanted in (None, 512):
        sizes.append(opened(DetectorConfig(name="bundled", image_size=wanted)).sizes[0])  # type: ignore[attr-defined]
    assert sizes == [320, 512]


def test_bundled_finds_nobody_in_an_empty_picture() -> None:
    picture = Frame(frame_id=0, pts_s=0.0, image_bgr=np.full((240, 320, 3), 128, np.uint8))
    assert len(detect_once(create_detector(DetectorConfig(name="bundled")), picture)) == 0


@pytest.mark.parametrize("size_wh", [(1, 1), (3, 500), (700, 5), (64, 64)])
def test_odd_sizes(size_wh: tuple[int, int]) -> None:
    for name in ("bundled", "yolo26n.yaml"):
        config = DetectorConfig(name=name, image_size=64, score_threshold=0.01)
        check_contract(detect_once(create_detector(config), frame(size_wh)), frame(size_wh), config)


# --- names, files, downloads -----------------------------------------------------------------------------------------


def run_python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the package where this one does."""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment | path, capture_output=True, text=True, check=True)


def test_creating_is_cheap_and_imports_no_network_library() -> None:
    code = (
        "import sys; from sharpose_rt.detection import create_detector; from sharpose_rt.config import DetectorConfig;"
        "[create_detector(DetectorConfig(name=n)) for n in ('auto', 'bundled', 'full', 'yolo26n.pt', 'a.txt')];"
        "print([m for m in ('torch', 'ultralytics') if m in sys.modules])"
    )
    done = run_python(code, dict(os.environ))
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["video.mp4", "model.pth"])
def test_unknown_kind_of_name_is_refused_at_once(name: str) -> None:
    with pytest.raises(DetectorError, match="no known kind"):
        create_detector(DetectorConfig(name=name))


def test_missing_model_lists_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"my\.pt.*models/my\.pt.*--detector bundled"):
        create_detector(DetectorConfig(name="my.pt")).open()
    with pytest.raises(DetectorError, match=r"folder/yolo26n\.pt"):
        create_detector(DetectorConfig(name=str(tmp_path / "folder/yolo26n.pt"))).open()


def test_offline_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "download", lambda url, path: pytest.fail(f"asked for {url}"))
    with pytest.raises(DetectorError, match="--offline forbids"):
        create_detector(DetectorConfig(name="yolo26n.pt"), offline=True).open()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves /whole (10 bytes), /half (promises 10, sends 5), /silent (never answers), else 404."""

    release = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/silent"):
            self.release.wait(60)
            return
        found = self.path.startswith(("/whole", "/half"))
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "10" if found else "0")
        self.end_headers()
        if found:
            self.wfile.write(b"0123456789"[: 10 if "whole" in self.path else 5])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.release.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running, serving(running):
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        Server.release.set()


@pytest.mark.timeout(30)
def test_download_is_whole_or_not_at_all(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "ANSWER_TIMEOUT_S", 0.3)
    target = tmp_path / "models" / "m.pt"
    for path, message in (("half", "5 of 10"), ("missing", "404"), ("silent", "no answer")):
        with pytest.raises(DetectorError, match=message) as raised:
            assets.download(server + path, target)
        assert "--detector bundled" in str(raised.value)
        assert "--offline" in str(raised.value)
        assert list(target.parent.iterdir()) == []
    monkeypatch.setattr(downloads, "ANSWER_TIMEOUT_S", 10)
    assets.download(server + "whole", target)
    assert target.read_bytes() == b"0123456789"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.timeout(30)
def test_unreachable_server(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="cannot be downloaded"):
        assets.download("http://127.0.0.1:9/m.pt", tmp_path / "m.pt")
    assert list(tmp_path.glob("*.pt*")) == []


def test_auto_takes_a_local_model(caplog: pytest.LogCaptureFixture) -> None:
    save_checkpoint(Path("yolo26n.pt"))
    detector = create_detector(DetectorConfig(image_size=64), offline=True)
    assert detector.name == "auto"
    with caplog.at_level(logging.INFO, "sharpose_rt.detection"):
        detector.open()
    assert detector.name == "yolo26n.pt"
    assert "yolo26n.pt" in caplog.text
    detector.close()


def test_auto_takes_a_cached_model(private_cache: Path) -> None:
    models = private_cache / "sharpose-rt" / "models"
    models.mkdir(parents=True)
    save_checkpoint(models / "yolo26n.pt")
    detector = create_detector(DetectorConfig(image_size=64), offline=True)
    detector.open()
    assert detector.name == "yolo26n.pt"


def test_auto_falls_back_and_asks_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def fail(url: str, path: Path) -> None:
        asked.append(url)
        raise DetectorError("no network")

    monkeypatch.setattr(assets, "download", fail)
    for _ in range(2):
        detector = create_detector(DetectorConfig())
        with caplog.at_level(logging.INFO, "sharpose_rt.detection"):
            detector.open()
        assert detector.name.startswith("bundled")
        assert detector.detect(frame()) is not None
        detector.close()
        detector.close()
    assert len(asked) == 1
    assert "no network" in caplog.text


def test_detect_before_open_is_an_error() -> None:
    for name in ("auto", "bundled", "yolo26n.pt"):
        with pytest.raises(DetectorError, match="not open"):
            create_detector(DetectorConfig(name=name)).detect(frame())


@pytest.mark.timeout(60)
def test_ultralytics_leaves_the_process_and_the_home_folder_as_they_were(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = """
import os, warnings, cv2, numpy as np, torch
cv2.setNumThreads(2)
def state():
    prints = np.get_printoptions(), str(torch.arange(60.0))
    return dict(os.environ), prints, list(warnings.filters), cv2.getNumThreads(), torch.save
before = state()
from sharpose_rt.detection.assets import import_ultralytics
import_ultralytics()
after = state()
after[0].pop("YOLO_CONFIG_DIR"), before[0].pop("YOLO_CONFIG_DIR", None)
print(before == after)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "XDG_"))} | {"HOME": str(home)}
    assert run_python(code, environment).stdout.strip() == "True"
    assert {path.name for path in home.iterdir()} <= {".cache"}
    assert (home / ".cache" / "sharpose-rt" / "ultralytics").is_dir()


# --- real clips ---


@pytest.mark.shared
@pytest.mark.parametrize("clip", ["sports2d_demo.mp4", "intel_one_by_one_person.mp4"])
def test_bundled_on_clips(shared_dir: Path, clip: str) -> None:
    import av

    # The score is calibrated to the share of right boxes, so at the default of 0.25 most of the weakest are wrong.
    config = DetectorConfig(name="bundled", score_threshold=0.4)
    detector = opened(config)
    counts = []
    with av.open(str(shared_dir / "video" / clip)) as container:
        for i, decoded in enumerate(container.decode(video=0)):
            if i > 200:
                break
            if i % 25 == 0:
                picture = Frame(i, float(decoded.time or 0), decoded.to_ndarray(format="bgr24"))  # type: ignore[arg-type]
                found = detector.detect(picture)
                check_contract(found, picture, config)
                counts.append(len(found))
    detector.close()
    assert sum(counts) > 0
    assert max(counts) <= 8


def test_base_class_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError):
        YoloDetector("x", DetectorConfig()).open()


def test_a_score_curve_keeps_the_order_and_is_applied_before_the_threshold():
    torch = pytest.importorskip("torch")
    network = Network(lambda x: x, 1, (0,), True, torch.device("cpu"), score_curve=(0.8, 1.5))
    rows = np.array([[0, 0, 10, 10, s, 0] for s in (0.9, 0.5, 0.2, 0.05, 0.0, 1.0)], float)
    logit = np.log(0.2 / 0.8) * 0.8 + 1.5
    _, scores = people_from_predictions(rows, network, 0.0, 0.7)
    assert scores[2] == pytest.approx(1 / (1 + np.exp(-logit)))
    assert (np.argsort(scores) == np.argsort(rows[:, 4])).all()
    assert np.isfinite(scores).all()
    _, kept = people_from_predictions(rows, network, 0.5, 0.7)
    assert (kept >= 0.5).all()
    assert len(kept) == (scores >= 0.5).sum() > (rows[:, 4] > 0.5).sum()


@pytest.mark.parametrize(
    ("name", "said"), [("~nobody-here/x.txt", "cannot be read"), ("~nobody-here/x.pt", "was not found")]
)
def test_a_home_that_nobody_has_is_told(name: str, said: str) -> None:
    with pytest.raises(DetectorError, match=said):
        create_detector(DetectorConfig(name=name), device="cpu", offline=True).open()
