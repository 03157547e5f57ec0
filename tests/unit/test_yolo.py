"""Labels of YOLO's form: read as ultralytics reads them, on pixels as they are stored; wrong lines are named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharpose_rt.errors import DatasetError
from sharpose_rt.evaluation.detector import read_box_labels
from sharpose_rt.evaluation.truth import read_labels
from sharpose_rt.labels.coco import read_document
from sharpose_rt.labels.yolo import set_files, write_yolo
from sharpose_rt.skeleton import COCO17, HALPE26
from sharpose_rt.training.config import DataConfig, SetConfig, TrainConfig
from sharpose_rt.training.datasets import load_people, read_people
from sharpose_rt.training.pictures import read_pictures

SIZE_WH = (200, 100)


def picture(path: Path, orientation: int = 1) -> Path:
    """A grey picture with a white spot of 4 px around (40, 20), as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((SIZE_WH[1], SIZE_WH[0], 3), 60, np.uint8)
    pixels[18:22, 38:42] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


def label(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def line(points: np.ndarray, *, third: bool = True, number: int = 0) -> str:
    values = np.concatenate([points, np.full((len(points), 1), 2)], 1) if third else points
    return " ".join(map(str, [number, 0.5, 0.5, 0.4, 0.6, *values.ravel().round(6).tolist()]))


POINTS = np.stack([np.linspace(0.31, 0.69, 17), np.linspace(0.2, 0.8, 17)], 1)


@pytest.mark.parametrize("third", [True, False])
def test_people_lie_where_the_lines_say(tmp_path, third):
    picture(tmp_path / "images" / "train" / "deep" / "a.png")
    picture(tmp_path / "images" / "train" / "b.jpg")  # nobody is in it
    points = POINTS.copy()
    points[3] = 0
    text = line(points, third=third)
    labels = label(tmp_path / "labels" / "train" / "deep", "a.txt", text.replace(" 0.0 0.0 2.0", " 0 0 0")).parent
    document = read_document(labels)
    assert [(i["file_name"], i["width"], i["height"]) for i in document["images"]] == [
        ("b.jpg", *SIZE_WH), ("deep/a.png", *SIZE_WH),
    ]  # fmt: skip
    people = read_people(labels, tmp_path / "images" / "train")
    np.testing.assert_allclose(people.bboxes_xyxy, [[60, 20, 140, 80]], atol=1e-4)
    assert people.joint_weights[0].tolist() == [1] * 3 + [0] + [1] * 13
    seen = people.joint_weights[0] > 0
    np.testing.assert_allclose(people.keypoints[0][seen], (points * SIZE_WH)[seen], atol=1e-3)
    assert Path(people.image_paths[people.image_index[0]]).is_file()
    assert len(read_labels(labels)["annotations"]) == 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_points_of_a_turned_photograph_lie_on_the_stored_pixels(tmp_path, orientation):
    """Who labels sees it upright, as cv2 and ultralytics open it."""
    path = picture(tmp_path / "images" / "a.jpg", orientation)
    upright = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert upright is not None
    rows, columns = np.nonzero(upright > 150)
    spot = (np.array([columns.mean(), rows.mean()]) + 0.5) / upright.shape[::-1]
    labels = label(tmp_path / "labels", "a.txt", line(np.tile(spot, (17, 1))))
    (person,) = read_document(labels)["annotations"]
    np.testing.assert_allclose(np.reshape(person["keypoints"], (17, 3))[:, :2], [[40, 20]] * 17, atol=0.6)
    stored = (80, 60) if orientation in (1, 3) else (120, 40)  # the box is 0.4 x 0.6 of the upright picture
    np.testing.assert_allclose(person["bbox"][2:], stored, atol=1e-6)


def test_a_mirrored_photograph_is_refused(tmp_path):
    path = picture(tmp_path / "images" / "a.jpg", 2)
    labels = label(tmp_path / "labels", "a.txt", line(POINTS))
    with pytest.raises(DatasetError, match=rf"{path} is stored mirrored"):
        read_document(labels)


@given(
    places=st.lists(st.tuples(st.integers(0, 1999), st.integers(0, 999)), min_size=17, max_size=17),
    seen=st.lists(st.sampled_from([0, 1, 2]), min_size=17, max_size=17),
    box=st.tuples(st.integers(0, 900), st.integers(0, 400), st.integers(1, 900), st.integers(1, 500)),
)
@settings(max_examples=30)
def test_what_is_written_is_read_again(tmp_path_factory, places, seen, box):
    folder = tmp_path_factory.mktemp("set")
    picture(folder / "images" / "train" / "a.png")
    visible = np.array(seen)[:, None]
    points = np.concatenate([np.array(places) / 10 * (visible > 0), visible], 1)
    bbox = [value / 10 for value in box]
    person = {"bbox": bbox, "keypoints": points.ravel().tolist()}
    image = {"file_name": "a.png", "width": SIZE_WH[0], "height": SIZE_WH[1]}
    write_yolo(folder, {"train": [(image, [person])]}, COCO17)
    document = read_document(folder / "labels" / "train")
    assert document["categories"][0]["keypoints"] == list(COCO17.keypoints)
    (again,) = document["annotations"]
    np.testing.assert_allclose(again["bbox"], bbox, atol=1e-3)
    np.testing.assert_allclose(again["keypoints"], person["keypoints"], atol=1e-3)


def test_classes_and_keypoints_have_the_names_of_the_description(tmp_path):
    picture(tmp_path / "images" / "train" / "a.png")
    ball, dog = "0 0.5 0.5 0.1 0.1", "2 0.5 0.5 0.2 0.2"
    labels = label(tmp_path / "labels" / "train", "a.txt", ball, "", dog, line(POINTS, number=1))
    (tmp_path / "data.yaml").write_text(
        f"names: [ball, person, dog]\nkpt_shape: [17, 3]\nkpt_names: {{1: [{', '.join(COCO17.keypoints[::-1])}]}}\n"
    )
    people = read_people(labels, tmp_path / "images" / "train")
    assert len(people) == 1
    np.testing.assert_allclose(people.keypoints[0], POINTS[::-1] * SIZE_WH, atol=1e-3)
    (shown,) = read_pictures(labels, 0.4)
    np.testing.assert_allclose(shown.people_xyxy, [[60, 20, 140, 80]], atol=1e-4)
    assert len(read_box_labels(labels)["annotations"]) == 1


def test_other_keypoints_have_the_shape_of_the_description(tmp_path):
    picture(tmp_path / "images" / "a.png")
    labels = label(tmp_path / "labels", "a.txt", line(np.full((4, 2), 0.5)))
    with pytest.raises(DatasetError, match=r"a.txt line 1 has 12 values after the box; 17x3 or .* are accepted"):
        read_document(labels)
    (tmp_path / "data.yaml").write_text("kpt_shape: [4, 3]\n")
    (person,) = read_document(labels)["annotations"]
    assert len(person["keypoints"]) == 12
    with pytest.raises(DatasetError, match="12 values; 51 finite numbers are needed"):
        read_people(labels, tmp_path / "images")
    label(tmp_path / "labels", "a.txt", line(np.full((26, 2), 0.5)))
    with pytest.raises(DatasetError, match="78 values after the box; 4x3 are accepted, as stated by kpt_shape"):
        read_document(labels)
    (tmp_path / "data.yaml").unlink()
    assert len(read_people(labels, tmp_path / "images", skeleton=HALPE26)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.4", "a class from 0 is needed"),
        ("0 0.5 nine 0.4 0.6", "finite numbers are accepted"),
        ("0 0.5 nan 0.4 0.6", "finite numbers are accepted"),
        ("-1 0.5 0.5 0.4 0.6", "a class from 0 is needed"),
        ("0.5 0.5 0.5 0.4 0.6", "a class from 0 is needed"),
        ("0 0.5 0.5 0 0.6", "a class from 0 is needed"),
        ("0 0.5 0.5 40 60", "a class from 0 is needed"),
        ("0 100 50 80 60", "shares of the picture's sides"),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9", "outlines are not supported"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    picture(tmp_path / "images" / "a.png")
    labels = label(tmp_path / "labels", "a.txt", "0 0.5 0.5 0.4 0.6", text)
    with pytest.raises(DatasetError, match=message) as raised:
        read_document(labels)
    assert "a.txt line 2 " in str(raised.value)


def test_what_is_missing_or_broken_is_named(tmp_path):
    labels = label(tmp_path / "labels", "a.txt", line(POINTS))
    with pytest.raises(DatasetError, match="there are no pictures"):
        read_document(labels)
    with pytest.raises(DatasetError, match="no part of its path is named 'labels'"):
        read_document(label(tmp_path / "texts", "a.txt"))
    broken = tmp_path / "images" / "a.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(DatasetError, match=r"cannot read the picture .*a.jpg"):
        read_document(labels)
    picture(broken)
    for text, message in (("kpt_shape: [17]", "is accepted"), ("a: [", "cannot read")):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DatasetError, match=message) as raised:
            read_document(labels)
        assert "data.yaml" in str(raised.value)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe0 1")
    with pytest.raises(DatasetError, match=r"cannot read the labels .*a.txt"):
        read_document(labels)


def test_sets_are_known_by_their_folders(tmp_path):
    """Roboflow's train/images and train/labels, ultralytics' images/train and labels/train, and ours."""
    for images, labels, name in (
        ("a/train/images", "a/train/labels", "a/train"),
        ("b/images/train", "b/labels/train", "b/labels/train"),
    ):
        picture(tmp_path / images / "1.png")
        label(tmp_path / labels, "1.txt", line(POINTS))
        assert set_files(tmp_path / name) == (tmp_path / labels, tmp_path / images)
        config = TrainConfig(data=DataConfig(sets=(SetConfig(name=name),)))
        assert len(load_people(config, [tmp_path], COCO17)) == 1
    (tmp_path / "a/train/annotations.json").write_text("{}")
    ours = tmp_path / "a/train"
    assert set_files(ours) == (ours / "annotations.json", ours / "images")
    with pytest.raises(DatasetError, match=r"cannot read the labels .*c/annotations.json"):
        read_pictures(tmp_path / "c", 0.4)
