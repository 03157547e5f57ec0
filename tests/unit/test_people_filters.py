"""The bundled detector's filters: trained, calibrated and measured on painted figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sharpose_rt.cli import main
from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection import hog
from sharpose_rt.errors import DatasetError, WeightsError
from sharpose_rt.evaluation.detector import box_ap, evaluate_detector, read_box_labels
from sharpose_rt.evaluation.predict import Boxes
from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.training import people_filters
from sharpose_rt.training.people_filters import Recipe, calibrate, hold_out, read_pictures, train_filters
from sharpose_rt.types import Frame

RECIPE = Recipe(seed=1, rounds=1, mining_pictures=4)


def paint_set(folder: Path, pictures: int = 14, seed: int = 0) -> Path:
    """Grey pictures with one upright figure each, among beams and discs that are none; gives the folder."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, pictures + 1):
        image = rng.integers(95, 105, (160, 240, 3), np.uint8)
        height = int(rng.uniform(95, 120))
        width, x, y = round(height * 5 / 12), int(rng.uniform(5, 60)), int(rng.uniform(5, 35))
        cv2.rectangle(image, (x + 130, 10), (x + 160, 150), (200, 200, 200), -1)
        cv2.circle(image, (x + 110, 120), 14, (200, 200, 200), -1)
        _paint_figure(image, x, y, width, height)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 240, "height": 160})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, width, height]})
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


def _mark(folder: Path, field: str, value: float) -> Path:
    """Set a field of all labels of a set; gives the folder."""
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    for record in document["annotations"]:
        record[field] = value
    path.write_text(json.dumps(document))
    return folder


def _paint_figure(image: np.ndarray, x: int, y: int, width: int, height: int) -> None:
    middle, unit = x + width // 2, height // 12
    white = (200, 200, 200)
    cv2.circle(image, (middle, y + unit), unit, white, -1)
    cv2.rectangle(image, (middle - unit, y + 2 * unit), (middle + unit, y + 7 * unit), white, -1)
    for side in (-1, 1):
        foot, hand = (middle + side * 2 * unit, y + height), (middle + side * width // 2, y + 6 * unit)
        cv2.line(image, (middle, y + 6 * unit), foot, white, unit)
        cv2.line(image, (middle, y + 3 * unit), hand, white, max(2, unit // 2))


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_set(tmp_path_factory.mktemp("data") / "painted")


@pytest.fixture(scope="module")
def trained(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filters") / "filters.safetensors"
    command = ["train-detector", "--data-root", str(painted.parent), "--set", "painted", "--held-out", "0.3"]
    assert main([*command, "--rounds", "1", "--out", str(out)]) == 0
    return out


def test_trained_filters_find_figures_they_have_not_seen(trained: Path, tmp_path: Path) -> None:
    folder = paint_set(tmp_path / "others", pictures=4, seed=9)
    detector = hog.HogDetector(DetectorConfig(image_size=240, score_threshold=0.01), weights=trained)
    detector.open()
    for picture in read_pictures(folder):
        found = detector.detect(Frame(0, 0.0, cv2.imread(picture.path)))  # type: ignore[arg-type]
        assert len(found)
        assert iou_matrix(found.bboxes_xyxy[:1], picture.people_xyxy)[0, 0] > 0.5


def test_the_file_says_what_it_was_made_of(trained: Path) -> None:
    from safetensors import safe_open

    with safe_open(trained, "np") as file:
        facts = file.metadata()
    assert facts["format"] == "sharpose_rt.detection.hog"
    assert (facts["seed"], facts["rounds"], facts["trained_on"]) == ("0", "1", "painted")
    assert facts["calibrated_on"] == "painted (4 pictures)"


def test_the_same_seed_trains_the_same_filters(painted: Path) -> None:
    pictures = read_pictures(painted)
    one, other = (train_filters(pictures, RECIPE) for _ in range(2))
    for a, b in zip(one.weights, other.weights, strict=True):
        assert np.allclose(a, b, atol=1e-6)


def test_training_and_calibration_read_their_own_pictures_alone(painted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint_set(painted.parent / "not_given", pictures=2)
    read: list[str] = []
    original = people_filters.read_image
    monkeypatch.setattr(people_filters, "read_image", lambda path: read.append(str(path)) or original(path))
    kept, held_out = hold_out(read_pictures(painted), 0.3, seed=3)
    filters = train_filters(kept, RECIPE)
    assert set(read) == {picture.path for picture in kept}
    read.clear()
    calibrate(filters, held_out)
    assert set(read) == {picture.path for picture in held_out}
    assert not set(read) & {picture.path for picture in kept}


def test_calibrated_scores_say_how_many_boxes_are_right(painted: Path) -> None:
    pictures = read_pictures(painted)[:10]
    filters, seen = calibrate(train_filters(pictures, RECIPE), pictures)
    boxes, logits, hits = zip(*(people_filters._judge(picture, filters) for picture in pictures), strict=True)
    expected = (1 / (1 + np.exp(-np.concatenate(logits)))).sum()
    assert seen.hits == len(pictures)
    assert expected == pytest.approx(np.concatenate(hits).sum(), rel=0.35)
    assert sum(map(len, boxes))


def test_calibration_keeps_the_filters(painted: Path, trained: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw.safetensors", tmp_path / "calibrated.safetensors"
    filters = hog.load_filters(trained)
    loose = replace(filters, offset=tuple(offset + 3 for offset in filters.offset))  # answers to more than people
    people_filters.save_filters(raw, loose, {"trained_on": "painted"})
    command = ["train-detector", "--data-root", str(painted.parent), "--set", "painted", "--calibrate", str(raw)]
    assert main([*command, "--out", str(out)]) == 0
    before, after = hog.load_filters(raw), hog.load_filters(out)
    assert all(bool((a == b).all()) for a, b in zip(before.weights, after.weights, strict=True))
    assert before.offset != after.offset


def test_unsure_labels_are_neither_people_nor_background(tmp_path: Path) -> None:
    for field, value in (("iscrowd", 1), ("ignore", 1), ("score", 0.3)):
        for picture in read_pictures(_mark(paint_set(tmp_path / field, pictures=2), field, value)):
            assert (len(picture.people_xyxy), len(picture.unsure_xyxy), len(picture.labelled_xyxy)) == (0, 1, 1)


def test_incomplete_sets_give_people_alone(painted: Path, trained: Path) -> None:
    incomplete = read_pictures(painted, complete=False)
    with pytest.raises(DatasetError, match="everybody labelled"):
        hold_out(incomplete, 0.3, seed=0)
    with pytest.raises(DatasetError, match="no background"):
        train_filters(incomplete, RECIPE)
    with pytest.raises(DatasetError, match="calibration needs both"):
        calibrate(hog.load_filters(trained), incomplete)


def test_held_out_pictures_are_chosen_by_the_seed(painted: Path) -> None:
    pictures = read_pictures(painted)
    (kept, first), (_, same), (_, other) = (hold_out(pictures, 0.3, seed) for seed in (0, 0, 1))
    assert [p.path for p in first] == [p.path for p in same] != [p.path for p in other]
    assert len(kept) + len(first) == len(pictures)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "x.safetensors"], "--set names no set"),
        (["--set", "painted", "--out", "x.pt"], "ends in .safetensors"),
        (["--set", "painted", "--out", "x.safetensors", "--held-out", "1"], "--held-out is 1.0"),
        (["--set", "painted", "--out", "x.safetensors", "--rounds", "-1"], "--rounds is -1"),
        (["--set", "nowhere", "--out", "x.safetensors"], "no set 'nowhere'"),
    ],
)
def test_wrong_use_is_explained(
    painted: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-detector", "--data-root", str(painted.parent), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_changed_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hog_people.safetensors"
    path.write_bytes(hog.WEIGHTS.read_bytes())
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))
    assert hog.load_filters(path).weights  # a file of the user's own is not compared
    monkeypatch.setattr(hog, "WEIGHTS", path)
    with pytest.raises(WeightsError, match="was shipped"):
        hog.load_filters(path)


# --- box AP ---------------------------------------------------------------------------------------------------------


def perfect(document: dict[str, Any]) -> Boxes:
    xywh = np.array([record["bbox"] for record in document["annotations"]], np.float32)
    ids = np.array([record["image_id"] for record in document["annotations"]])
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    return Boxes(ids, corners, np.ones(len(ids), np.float32), np.full(len(ids), -1))


def shifted(boxes: Boxes, pixels: float) -> Boxes:
    return Boxes(boxes.image_ids, boxes.bboxes_xyxy + np.float32(pixels), boxes.scores, boxes.annotation_ids)


def test_perfect_boxes_have_ap_1_and_wrong_ones_0(painted: Path) -> None:
    document = read_box_labels(painted / "annotations.json", painted / "images")
    metrics = box_ap(perfect(document), document)
    assert (metrics["AP"], metrics["AP50"], metrics["AR"]) == pytest.approx((1.0, 1.0, 1.0))
    assert box_ap(shifted(perfect(document), 500), document)["AP"] == 0.0
    near = box_ap(shifted(perfect(document), 4), document)
    assert near["AP50"] == pytest.approx(1.0)
    assert near["AP"] < 0.9


@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
def test_boxes_on_ignored_regions_do_not_harm(painted: Path, tmp_path: Path, mark: str) -> None:
    labels = json.loads((painted / "annotations.json").read_text())
    boxes = perfect(labels)
    labels["annotations"][0][mark] = 1
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(labels))
    assert box_ap(boxes, read_box_labels(path, painted / "images"))["AP"] == pytest.approx(1.0)
    del labels["annotations"][0]
    path.write_text(json.dumps(labels))
    assert box_ap(boxes, read_box_labels(path, painted / "images"))["AP"] < 1.0


def test_the_command_measures_any_detector(painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "metrics.json"
    given = ["--annotations", str(painted / "annotations.json"), "--images", str(painted / "images"), "--offline"]
    assert main(["eval-detector", *given, "--detector", "full", "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())
    assert (metrics["images"], metrics["people"], metrics["boxes"], metrics["AP50"]) == (14, 14, 14, 0.0)
    assert "AP50" in capsys.readouterr().out


def test_the_bundled_detector_can_be_measured(painted: Path) -> None:
    metrics = evaluate_detector("bundled", painted / "annotations.json", painted / "images", offline=True)
    assert 0 <= metrics["AP"] <= metrics["AP50"] <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[0\]: bbox"),
        ({"image_id": 99}, "not among `images`"),
        ({"iscrowd": 1}, "no person"),
    ],
)
def test_wrong_box_labels_are_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    folder = paint_set(tmp_path / "one", pictures=1)
    labels = json.loads((folder / "annotations.json").read_text())
    labels["annotations"][0] |= change
    (folder / "annotations.json").write_text(json.dumps(labels))
    with pytest.raises(DatasetError, match=said):
        read_box_labels(folder / "annotations.json", folder / "images")
