"""What labelling programs make of a set comes back as that set, and what they mix up is refused.

`tests/label_programs/ours.json` is a set of two pictures in the form that `collect` writes. The rest is what programs
exported after they had read it: cvat and cvat_yolo by CVAT's datumaro of October 2024, with the keypoints of the
skeleton in the order of the alphabet; fiftyone by fiftyone 1.22.1; label_studio, YOLO's form and COCO's, by
label-studio-sdk 2.1.2.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from sharpose_rt.errors import DatasetError, StreamError
from sharpose_rt.evaluation.boxes import truth_boxes
from sharpose_rt.evaluation.detector import read_box_labels
from sharpose_rt.evaluation.truth import counted_people, read_labels
from sharpose_rt.geometry.boxes import iou_matrix, xywh_to_xyxy
from sharpose_rt.labels.coco import read_document
from sharpose_rt.labels.yolo import set_files
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons.importers.lists import read_coco
from sharpose_rt.training.config import DataConfig, SetConfig, TrainConfig
from sharpose_rt.training.datasets import People, load_people, read_people
from sharpose_rt.training.pictures import read_pictures

EXPORTS = Path(__file__).parents[1] / "label_programs"
OURS = json.loads((EXPORTS / "ours.json").read_text())
TRIPLES = np.array([record["keypoints"] for record in OURS["annotations"]]).reshape(-1, 17, 3)
BOXES = xywh_to_xyxy(np.array([record["bbox"] for record in OURS["annotations"]]))
SIZED = 3
"""The fourth person has one keypoint, which tells no size where a program keeps no boxes."""
PICTURES = {"cvat": "images/default", "fiftyone": "data", "label_studio": "images", "roboflow": "", "ours": "images"}


def unpacked(folder: Path, program: str) -> Path:
    """An export as it is unpacked, with its pictures."""
    if program == "roboflow":  # as its exports are: the pictures beside, and a category above that nobody is of
        skier = {**OURS["categories"][0], "name": "skier", "supercategory": "slope"}
        document = {**OURS, "categories": [{"id": 0, "name": "slope", "supercategory": "none"}, skier]}
        folder.mkdir()
        (folder / "_annotations.coco.json").write_text(json.dumps(document))
    elif program == "ours":
        folder.mkdir()
        (folder / "annotations.json").write_text(json.dumps(OURS))
    else:
        shutil.copytree(EXPORTS / program, folder)
    paint(folder / PICTURES[program])
    return folder


def paint(images: Path) -> None:
    images.mkdir(parents=True, exist_ok=True)
    for image in OURS["images"]:
        cv2.imwrite(str(images / image["file_name"]), np.zeros((image["height"], image["width"], 3), np.uint8))


def learnt(folder: Path, said: list[str] | None = None) -> People:
    config = TrainConfig(data=DataConfig(sets=(SetConfig(folder.name),)))
    return load_people(config, [folder.parent], COCO17, [].append if said is None else said.append)


@pytest.mark.parametrize(
    ("program", "count", "off_px", "overlap"),
    [
        ("ours", 4, 0.01, 0.99),
        ("roboflow", 4, 0.01, 0.99),
        ("cvat", SIZED, 0.01, 0.75),
        ("fiftyone", SIZED, 1.01, 0.75),  # which cuts px off to whole ones
        ("label_studio", SIZED, 0.01, 0.99),
    ],
)
def test_an_exported_folder_is_the_set_that_was_labelled(tmp_path, program, count, off_px, overlap):
    folder = unpacked(tmp_path / "set", program)
    people = learnt(folder)
    shown_in = [Path(people.image_paths[i]).name for i in people.image_index]
    assert shown_in == ["1.png", "1.png", "2.png", "2.png"][:count]
    assert all(Path(path).is_file() for path in people.image_paths)
    labelled = TRIPLES[:count, :, 2] > 0
    np.testing.assert_array_equal(people.joint_weights > 0, labelled)
    assert np.abs(people.keypoints - TRIPLES[:count, :, :2])[labelled].max() < off_px
    assert np.diag(iou_matrix(people.bboxes_xyxy, BOXES[:count])).min() > overlap

    annotations, _ = set_files(folder)
    measured = read_labels(annotations)
    assert len(counted_people(measured)) == count
    np.testing.assert_allclose(truth_boxes(measured).bboxes_xyxy, people.bboxes_xyxy, atol=0.01)
    assert min(person["area"] for person in counted_people(measured)) > 1000
    shown = [picture.people_xyxy for picture in read_pictures(folder, 0.4)]
    np.testing.assert_allclose(np.concatenate(shown), people.bboxes_xyxy, atol=0.01)
    assert sum(not record["iscrowd"] for record in read_box_labels(annotations)["annotations"]) == count


def test_boxes_of_0_px_are_those_of_the_keypoints(tmp_path):
    """COCO Annotator has no other of whom it was given keypoints."""
    folder = unpacked(tmp_path / "set", "ours")
    document = {**OURS, "annotations": [{**record, "bbox": [0, 0, 0, 0], "area": 0} for record in OURS["annotations"]]}
    (folder / "annotations.json").write_text(json.dumps(document))
    people = learnt(folder)
    assert len(people) == SIZED
    assert np.diag(iou_matrix(people.bboxes_xyxy, BOXES[:SIZED])).min() > 0.75
    assert min(person["area"] for person in counted_people(read_labels(folder / "annotations.json"))) > 1000
    first = read_coco(folder / "annotations.json").frames[1][0]
    assert first.bbox_xyxy is None  # a stream has that of its keypoints


def test_superviselys_boxes_are_those_of_the_keypoints(tmp_path):
    """In whole px, from the first keypoint's to the last one's; a hidden one is as any."""
    folder = tmp_path / "set"
    (folder / "annotations").mkdir(parents=True)
    records = []
    for record, table in zip(OURS["annotations"], TRIPLES.round(), strict=True):
        seen = table[table[:, 2] > 0, :2]
        box = [*seen.min(0).tolist(), *(np.ptp(seen, axis=0) + 1).tolist()]
        records.append({**record, "keypoints": table.ravel().tolist(), "bbox": box, "num_keypoints": 17})
    (folder / "annotations" / "instances.json").write_text(json.dumps({**OURS, "annotations": records}))
    paint(folder / "images")
    people = learnt(folder)
    assert len(people) == SIZED
    assert np.diag(iou_matrix(people.bboxes_xyxy, BOXES[:SIZED])).min() > 0.75


def test_a_box_ends_with_the_picture(tmp_path):
    folder = unpacked(tmp_path / "set", "cvat")
    path, _ = set_files(folder)
    document = json.loads(path.read_text())
    for image in document["images"]:
        image["height"] = 180
    path.write_text(json.dumps(document))
    assert learnt(folder).bboxes_xyxy[:, 3].tolist() == [180, 180, 180]


def test_keypoints_without_names_are_said_to_be_taken_in_our_order(tmp_path):
    """CVAT's pose form of YOLO leaves the names out."""
    folder = tmp_path / "cvat_yolo"
    shutil.copytree(EXPORTS / "cvat_yolo", folder)
    paint(folder / "images" / "train")
    said = []
    people = read_people(folder / "labels" / "train", folder / "images" / "train", say=said.append)
    assert len(people) == SIZED  # and the line of a box of 0 px is read
    read_labels(folder / "labels", say=said.append)
    assert said[1].replace("labels:", "labels/train:") == said.pop(0)
    (told,) = said
    assert "no data.yaml has kpt_names, so the keypoints are taken in the order of coco17, nose, left_eye, " in told
    names = [str(name) for name in json.loads(set_files(EXPORTS / "cvat")[0].read_text())["categories"][0]["keypoints"]]
    with (folder / "data.yaml").open("a") as file:
        file.write(f"kpt_names: {{0: {json.dumps(names)}}}\n")
    named = read_people(folder / "labels" / "train", folder / "images" / "train", say=said.append)
    assert said == [told]
    labelled = TRIPLES[:SIZED, :, 2] > 0
    assert np.abs(named.keypoints - TRIPLES[:SIZED, :, :2])[labelled].max() < 0.01


def test_label_studios_coco_form_is_refused():
    """It has the keypoints of two people as one person's."""
    path = EXPORTS / "label_studio" / "result.json"
    for reader in (read_labels, read_box_labels, lambda path: read_people(path, path.parent)):
        with pytest.raises(DatasetError, match=r"result\.json: Label Studio's COCO form .* export 'YOLO with images'"):
            reader(path)
    with pytest.raises(StreamError, match=r"result\.json: Label Studio's COCO form"):
        read_coco(path)


def test_label_studios_classes_have_their_names(tmp_path):
    folder = unpacked(tmp_path / "set", "label_studio")
    (folder / "classes.txt").write_text("ball\nperson\n")
    (person,) = read_box_labels(folder / "labels")["annotations"]
    assert person["image_id"] == 2
    assert {item["name"] for item in read_document(folder / "labels")["categories"]} == {"ball", "person"}


@pytest.mark.parametrize("program", ["cvat", "fiftyone"])
def test_exports_are_read_as_streams(program):
    annotations, _ = set_files(EXPORTS / program)
    found = read_coco(annotations)
    assert {frame: len(people) for frame, people in found.frames.items()} == {1: 2, 2: 2}
    seen = TRIPLES[0, :, 2] > 0
    assert np.abs(found.frames[1][0].table[:, :2] - TRIPLES[0, :, :2])[seen].max() < 1.01
