"""Labels are read, checked and cropped without moving a joint."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from sharpose_rt.detection.boxes import read_coco
from sharpose_rt.errors import DatasetError, DetectorError
from sharpose_rt.evaluation.detector import read_box_labels
from sharpose_rt.evaluation.truth import read_labels
from sharpose_rt.geometry.affine import apply_affine, fit_aspect, invert_affine
from sharpose_rt.labels.coco import read_image, read_picture
from sharpose_rt.media import open_source
from sharpose_rt.models.pixels import normalise
from sharpose_rt.skeleton import COCO17, MPII16, order_by_name
from sharpose_rt.training.config import AugmentConfig
from sharpose_rt.training.datasets import data_roots, epoch_order, find_set, mix, read_people
from sharpose_rt.training.device_crops import DeviceCrops, DrawDataset
from sharpose_rt.training.pictures import read_pictures
from sharpose_rt.training.running import SampleStream
from sharpose_rt.training.transforms import (
    MIN_KEPT_JOINTS,
    NO_AUGMENT,
    CropDataset,
    Sampler,
    _half_body_box,
    beyond,
    coarsen,
    draw_mask,
    draw_patch,
    jitter_colour,
    paste_patch,
    vary,
)
from tests.people_set import COLOURS_BGR, POSETRACK, change, in_posetracks_order, write_set


def read(folder, **options):
    return read_people(folder / "annotations.json", folder / "images", **options)


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "set")


def test_columns_hold_what_the_file_says(folder):
    people = read(folder)
    record = json.loads((folder / "annotations.json").read_text())["annotations"][3]
    assert len(people) == 8
    assert people.keypoints.shape == (8, 17, 2)
    x, y, w, h = record["bbox"]
    np.testing.assert_allclose(people.bboxes_xyxy[3], [x, y, x + w, y + h], rtol=1e-5)
    np.testing.assert_allclose(people.keypoints[3].flatten(), np.delete(record["keypoints"], np.s_[2::3]), rtol=1e-5)
    assert people.areas[3] == pytest.approx(record["area"])
    assert people.image_paths[people.image_index[3]].endswith("2.png")


def test_visibility_and_teacher_scores_become_weights(tmp_path):
    hand, taught = write_set(tmp_path / "hand", 1, 1), write_set(tmp_path / "taught", 1, 1, teacher=True)
    triples = np.array(json.loads((hand / "annotations.json").read_text())["annotations"][0]["keypoints"]).reshape(
        17, 3
    )
    triples[0, 2], triples[1, 2] = 0, 1
    change(hand, 0, keypoints=triples.flatten().tolist())
    assert read(hand).joint_weights[0, :3].tolist() == [0, 1, 1]
    triples[:, 2] = 0.6
    triples[0, 2], triples[1, 2] = 0.29, 1.04
    change(taught, 0, keypoints=triples.flatten().tolist())
    np.testing.assert_allclose(read(taught).joint_weights[0, :3], [0, 1, 0.6], rtol=1e-6)
    np.testing.assert_allclose(read(taught, trust=0.5, min_teacher_score=0.2).joint_weights[0, 0], 0.145, rtol=1e-6)


def name_keypoints(folder, names):
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    document["categories"] = [{"id": 1, "name": "person", "keypoints": list(names)}]
    path.write_text(json.dumps(document))


def test_keypoints_are_read_by_their_names(folder):
    whole = read(folder)
    seen = [0, *range(3, 17)]
    in_posetracks_order(folder / "annotations.json")
    people = read(folder)
    np.testing.assert_array_equal(people.keypoints[:, seen], whole.keypoints[:, seen])
    assert people.joint_weights.tolist() == [[1, 0, 0, *[1] * 14]] * 8
    np.testing.assert_array_equal(people.areas, whole.areas)
    triples = np.zeros((17, 3))
    triples[1:3] = 9, 9, 2
    change(folder, 0, keypoints=triples.flatten().tolist())
    assert len(read(folder)) == 7  # of whom the head's ends alone are labelled, there is nothing to learn
    change(folder, 1, keypoints=None, num_keypoints=None)  # a box alone
    change(folder, 2, num_keypoints=0)  # who is left out
    assert len(read(folder)) == 5
    document = read_labels(folder / "annotations.json")
    assert [record["num_keypoints"] for record in document["annotations"]] == [0, 0, 0, *[15] * 5]


def test_a_list_of_pictures_alone_has_nobody_to_learn_from(folder):
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": json.loads(path.read_text())["images"]}))
    with pytest.raises(DatasetError, match=r"annotations\.json has no list `annotations`"):
        read(folder)


def test_names_may_be_written_otherwise_and_be_more(folder):
    whole = read(folder)
    name_keypoints(folder, [name.replace("_", " ").title() for name in COCO17.keypoints])
    np.testing.assert_array_equal(read(folder).keypoints, whole.keypoints)
    for index in range(8):
        record = json.loads((folder / "annotations.json").read_text())["annotations"][index]
        change(folder, index, keypoints=[7, 7, 2] * 9 + record["keypoints"])
    name_keypoints(folder, [*(f"toe-{n}" for n in range(9)), *COCO17.keypoints])
    np.testing.assert_array_equal(read(folder).keypoints, whole.keypoints)
    assert (read(folder).joint_weights == 1).all()


def test_some_keypoints_of_a_set_are_enough_where_there_are_no_others(folder):
    whole, legs = read(folder), [11, 12, 13, 14, 15, 16]
    for index, record in enumerate(json.loads((folder / "annotations.json").read_text())["annotations"]):
        change(folder, index, keypoints=record["keypoints"][33:])
    name_keypoints(folder, [COCO17.keypoints[joint] for joint in legs])
    people = read(folder)
    np.testing.assert_array_equal(people.keypoints[:, legs], whole.keypoints[:, legs])
    assert people.joint_weights.tolist() == [[0] * 11 + [1] * 6] * 8
    assert {a["num_keypoints"] for a in read_labels(folder / "annotations.json")["annotations"]} == {6}
    name_keypoints(folder, ["left_hip", "right_hip", "tail", "left_ear_tip", "right_ear_tip", "hock"])
    with pytest.raises(DatasetError, match=r"tail, .* at least 12 of .*, or fewer and no others; rename them$"):
        read(folder)  # no set has so many: without the names it would be refused, too


def test_keypoints_that_the_network_lacks_are_said_to_be_left_out(folder):
    lines = []
    for index, record in enumerate(json.loads((folder / "annotations.json").read_text())["annotations"]):
        change(folder, index, keypoints=[7, 7, 2, *record["keypoints"]])
    name_keypoints(folder, ["left_heel", *COCO17.keypoints])
    assert len(read(folder, say=lines.append)) == 8
    assert lines == [f"{folder / 'annotations.json'}: coco17 has no left_heel: left out"]
    in_their_order = [*COCO17.keypoints[1:], "nose"]
    for index, record in enumerate(json.loads((folder / "annotations.json").read_text())["annotations"]):
        change(folder, index, keypoints=record["keypoints"][3:])
    name_keypoints(folder, in_their_order)
    read(folder, say=lines.append)
    assert len(lines) == 1


def test_a_second_files_keypoints_are_read_by_their_names(folder):
    moved = np.zeros(17)
    moved[[3, 9]] = 9
    teacher = compare_file(folder, moved)
    in_posetracks_order(teacher)
    assert np.flatnonzero(read(folder, compare=teacher).joint_weights[0] == 0).tolist() == [3, 9]


@pytest.mark.parametrize("reader", [read_labels, lambda path: read(path.parent)])
def test_keypoints_of_unknown_names_are_named(folder, reader):
    name_keypoints(folder, [f"marker_{n}" for n in range(17)])
    message = r"annotations\.json: its keypoints are named marker_0, .* at least 12 of .*, such as nose, left_eye"
    with pytest.raises(DatasetError, match=message):
        reader(folder / "annotations.json")
    assert len(read_pictures(folder, 0.4)) == 4  # whom boxes are enough
    name_keypoints(folder, [*COCO17.keypoints, "tail"])
    with pytest.raises(DatasetError, match=r"annotations\.json: annotations\[0\]: keypoints has 51 values; 54"):
        reader(folder / "annotations.json")


def test_whose_names_they_are():
    assert order_by_name(COCO17.keypoints) == (COCO17, list(range(17)))
    assert order_by_name(MPII16.keypoints) == (MPII16, list(range(16)))  # twelve of them are COCO's too
    joints = ["head_top", "neck", *COCO17.keypoints[5:]]  # AI Challenger's and LSP's
    assert order_by_name(joints) == (COCO17, [None] * 5 + list(range(2, 14)))
    assert order_by_name(joints, MPII16)[0] == MPII16
    assert order_by_name(POSETRACK) == (COCO17, [0, None, None, *range(3, 17)])
    assert order_by_name(["nose"]) == (COCO17, [0, *[None] * 16])
    assert order_by_name(["pelvis", "left_hip"])[0] == order_by_name(["left_hip"], MPII16)[0] == MPII16
    with pytest.raises(ValueError, match="are named a, b;"):
        order_by_name(["a", "b"])
    with pytest.raises(ValueError, match="several of its keypoints are named left_eye; give each its own name"):
        order_by_name(["nose", "left_eye", "Left Eye", *COCO17.keypoints[3:]])


def test_a_keypoint_with_a_null_is_not_labelled(folder):
    whole = json.loads((folder / "annotations.json").read_text())["annotations"][0]["keypoints"]
    change(folder, 0, keypoints=[*whole[:3], None, None, None, *whole[6:8], None, *whole[9:]])
    assert read(folder).joint_weights[0].tolist() == [1, 0, 0, *[1] * 14]
    assert read_labels(folder / "annotations.json")["annotations"][0]["keypoints"][3:9] == [0] * 6


def with_third(folder, *values):
    """Give the first joints of the first person these third values."""
    record = json.loads((folder / "annotations.json").read_text())["annotations"][0]
    triples = np.array(record["keypoints"]).reshape(17, 3)
    triples[: len(values), 2] = values
    change(folder, 0, keypoints=triples.flatten().tolist())


def test_hidden_joints_may_weigh_less(tmp_path):
    hand, taught = write_set(tmp_path / "hand", 1, 1), write_set(tmp_path / "taught", 1, 1, teacher=True)
    with_third(hand, 0, 1)
    with_third(taught, 0, 1)
    np.testing.assert_allclose(read(hand, hidden_weight=0.25).joint_weights[0, :3], [0, 0.25, 1])
    np.testing.assert_allclose(read(hand, hidden_weight=0.25, trust=0.5).joint_weights[0, :3], [0, 0.125, 0.5])
    assert read(hand, hidden_weight=0).joint_weights[0, :3].tolist() == [0, 0, 1]
    np.testing.assert_allclose(read(taught, hidden_weight=0.25).joint_weights[0, :3], [0, 1, 0.8], rtol=1e-6)


def compare_file(folder, moved, scores=None, **fields):
    """Write `teacher.json`: the set's joints, the first person's `moved` (17,) OKS measures to the right; its path."""
    document = json.loads((folder / "annotations.json").read_text())
    for record in document["annotations"]:
        record["teacher_keypoints"] = [0.9 if n % 3 == 2 else v for n, v in enumerate(record["keypoints"])]
    first = document["annotations"][0]
    triples = np.array(first["teacher_keypoints"]).reshape(17, 3)
    triples[:, 0] += moved * 2 * np.array(COCO17.sigmas) * np.sqrt(first["area"])
    triples[:, 2] = 0.9 if scores is None else scores
    first["teacher_keypoints"] = triples.flatten().tolist()
    first.update(fields)
    path = folder / "teacher.json"
    path.write_text(json.dumps(document))
    return path


def test_joints_far_from_a_second_files_are_dropped_and_no_others(folder):
    moved, scores, said = np.zeros(17), np.full(17, 0.9), []
    moved[:5] = 1.9, 2.1, 9, 9, -2.1
    scores[2:4] = 0.29, 0  # one it is unsure of, one it lacks
    with_third(folder, 2, 2, 2, 2, 1)
    teacher = compare_file(folder, moved, scores)
    people = read(folder, compare=teacher, hidden_weight=0.5, say=said.append)
    assert people.joint_weights[0].tolist() == [1, 0, 1, 1, 0, *[1] * 12]
    assert (people.joint_weights[1:] == 1).all()
    assert said == [f"{folder / 'annotations.json'}: 2 of 136 joints lie far from those of teacher.json: dropped"]
    assert read(folder, compare=teacher, compare_limit=1.8).joint_weights[0, :5].tolist() == [0, 0, 1, 1, 0]
    assert read(folder, compare=teacher, min_teacher_score=0.2).joint_weights[0, :5].tolist() == [1, 0, 0, 1, 0]


def test_far_is_the_same_for_somebody_of_any_size(folder):
    far = np.linspace(1.5, 2.5, 16).tolist()
    teacher = compare_file(folder, np.array([*far, 0]))
    before = read(folder, compare=teacher).joint_weights[0]
    assert before.tolist() == [1] * 8 + [0] * 8 + [1]
    for path in (folder / "annotations.json", teacher):
        document = json.loads(path.read_text())
        for record in document["annotations"]:
            for key in {"keypoints", "teacher_keypoints"} & set(record):
                record[key] = (np.array(record[key]).reshape(17, 3) * (0.2, 0.2, 1)).flatten().tolist()
            record["area"] *= 0.04
        path.write_text(json.dumps(document))
    np.testing.assert_array_equal(read(folder, compare=teacher).joint_weights[0], before)


def test_who_is_not_in_the_second_file_stays_and_who_is_left_without_joints_goes(folder):
    teacher = compare_file(folder, np.full(17, 9.0))
    assert len(read(folder, compare=teacher)) == 7
    assert len(read(folder, compare=compare_file(folder, np.full(17, 9.0), id=77))) == 8
    # A teacher that found somebody not at all leaves the annotator's joints alone in the record.
    assert len(read(folder, compare=compare_file(folder, np.full(17, 9.0), teacher_keypoints=None))) == 8


def test_a_second_annotators_file_is_compared_too(folder, tmp_path):
    other = write_set(tmp_path / "other")
    triples = np.array(json.loads((other / "annotations.json").read_text())["annotations"][0]["keypoints"])
    triples[:6] = 0, 0, 0, 999, 999, 1
    change(other, 0, keypoints=triples.tolist())
    people = read(folder, compare=other / "annotations.json", min_teacher_score=0)
    assert people.joint_weights[0].tolist() == [1, 0, *[1] * 15]


def test_a_wrong_second_file_is_said(folder):
    with pytest.raises(DatasetError, match=r"second label file .*none\.json is missing; .* take `compare` out"):
        read(folder, compare=folder / "none.json")
    near, far = np.zeros(17), np.full(17, 9.0)
    for fields, message in (
        ({"teacher_keypoints": [1.0] * 50}, r"teacher\.json: annotations\[0\]: teacher_keypoints has 50 values; 51"),
        ({"id": None}, r"teacher\.json: annotations\[0\]: id is None; an integer or a name"),
        ({"id": 2}, r"teacher\.json: annotations\[1\]: it repeats the id 2"),
    ):
        with pytest.raises(DatasetError, match=message):
            read(folder, compare=compare_file(folder, near, **fields))
    teacher = compare_file(folder, near)
    change(folder, 0, id=None)
    with pytest.raises(DatasetError, match=r"annotations\.json: annotations\[0\]: id is None"):
        read(folder, compare=teacher)
    change(folder, 0, id=1)
    document = json.loads((folder / "annotations.json").read_text())
    for record in document["annotations"]:
        record["id"] += 100
    (folder / "shifted.json").write_text(json.dumps(document))
    message = r"shifted\.json: none of the 8 people .* \(the first there is 101, here 1\)"
    with pytest.raises(DatasetError, match=message):
        read(folder, compare=folder / "shifted.json")
    document["annotations"] = document["annotations"][:1]
    (folder / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"near teacher\.json's; is that of the same pictures\?"):
        read(folder, compare=compare_file(folder, far))


def test_crowds_and_unlabelled_people_are_left_out(folder):
    change(folder, 0, iscrowd=1)
    change(folder, 1, num_keypoints=0)
    change(folder, 2, keypoints=None)
    change(folder, 3, keypoints=[0.0] * 51)
    assert len(read(folder)) == 4


def test_missing_area_is_estimated_from_the_box(folder):
    change(folder, 0, area=None, bbox=[10, 10, 50, 100])
    assert read(folder).areas[0] == pytest.approx(0.53 * 5000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[2\]: bbox is \[1, 2, 3\]"),
        ({"bbox": [1, 2, 0, 5]}, r"annotations\[2\]: bbox"),
        ({"bbox": [1, 2, -9, 5]}, r"annotations\[2\]: bbox"),
        ({"area": "large"}, r"annotations\[2\]: area is 'large'; a finite number is accepted"),
        ({"bbox": None}, r"annotations\[2\]: bbox is None"),
        ({"keypoints": [1.0] * 50}, r"annotations\[2\]: keypoints has 50 values; 51"),
        ({"keypoints": [float("nan")] * 51}, r"annotations\[2\]: keypoints"),
        ({"image_id": 99}, r"annotations\[2\]: image_id 99 is not among"),
        ({"keypoints": [5.0, 5.0, 3.0] * 17}, r"annotations\[2\]: keypoint 0 has third value 3"),
    ],
)
def test_a_wrong_record_is_named(folder, fields, message):
    change(folder, 2, **fields)
    with pytest.raises(DatasetError, match=message) as caught:
        read(folder)
    assert str(folder / "annotations.json") in str(caught.value)


def categorise(folder, *names):
    """Name the categories 3, 4, ..., and give the first two people the ids of the first two and no id."""
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    document["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=3)]
    for record in document["annotations"]:
        record["category_id"] = 3
    document["annotations"][0]["category_id"] = 4
    del document["annotations"][1]["category_id"]
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("names", "left"), [(["person", "dog"], 7), (["Person"], 7), (["human"], 7), (["skier"], 8), ([], 8)]
)
def test_who_is_of_another_category_is_no_person(folder, names, left):
    categorise(folder, *names)
    assert len(read(folder)) == left
    assert sum(len(picture.people_xyxy) for picture in read_pictures(folder, 0.4)) == left
    assert len(read_box_labels(folder / "annotations.json")["annotations"]) == left
    assert len(read_labels(folder / "annotations.json")["annotations"]) == left
    by_frame, _ = read_coco((folder / "annotations.json").read_text(), "boxes.json")
    assert sum(len(boxes) for boxes in by_frame.values()) == left


READERS = [read_labels, read_box_labels, lambda path: read_pictures(path.parent, 0.4), lambda path: read(path.parent)]


@pytest.mark.parametrize("reader", READERS)
def test_records_none_of_which_are_of_the_category_of_people_are_said(folder, reader):
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    document["categories"] = [{"id": 1, "name": "person"}]
    for record in document["annotations"]:
        record["category_id"] = 0  # counted from 0 there, from 1 here
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"json: none of its 8 annotations has the category_id of people, 1"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_categories_none_of_which_are_people_are_named(folder, reader):
    categorise(folder, "cat", "dog")
    with pytest.raises(DatasetError, match=r"annotations\.json: its categories are 'cat', 'dog', and none is 'person'"):
        reader(folder / "annotations.json")
    with pytest.raises(DetectorError, match=r"'boxes\.json': its categories are 'cat', 'dog', and none is 'person'"):
        read_coco((folder / "annotations.json").read_text(), "boxes.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": []}'])
def test_a_wrong_file_is_named(tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"labels\.json"):
        read_people(path, tmp_path)


def test_missing_and_broken_pictures_are_named(folder):
    with pytest.raises(DatasetError, match=r"none\.png is missing"):
        read_image(folder / "none.png")
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"bad\.png cannot be decoded"):
        read_image(folder / "bad.png")


def test_names_that_were_written_on_windows_are_found(folder):
    """Their folders end in a backslash; where a file has one in its name, that is meant."""
    labels = folder / "annotations.json"
    document = json.loads(labels.read_text())
    record = document["images"][0]
    (folder / "images" / "2026" / "spring").mkdir(parents=True)
    moved = (folder / "images" / record["file_name"]).rename(folder / "images" / "2026" / "spring" / "a.png")
    record["file_name"] = "2026\\spring\\a.png"
    labels.write_text(json.dumps(document))
    assert read(folder).image_paths[0] == str(moved)
    assert read_picture(record, folder / "images").shape == read_image(moved).shape
    if os.name == "posix":
        shutil.copy(moved, folder / "images" / record["file_name"])
        assert read(folder).image_paths[0].endswith(record["file_name"])


@pytest.mark.parametrize(
    "name", [b"\xc3\xa9.jpg", b"caf\xe9.jpg", b"caf\xe9.data"], ids=["UTF-8", "no text", "no suffix"]
)
def test_a_picture_of_any_name_is_read_as_stored_or_upright(tmp_path, name):
    from PIL import Image

    path = tmp_path / os.fsdecode(name)
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(path, "JPEG", exif=exif)
    assert read_image(path).shape == (20, 30, 3)
    with open_source(str(path)) as source:
        assert (source.info.kind, source.info.size_wh) == ("image", (20, 30))


def test_sets_are_found_below_the_roots(tmp_path, monkeypatch):
    (tmp_path / "b" / "set").mkdir(parents=True)
    assert find_set("set", [tmp_path / "a", tmp_path / "b"]) == tmp_path / "b" / "set"
    with pytest.raises(DatasetError, match="--data-root"):
        find_set("other", [tmp_path / "b"])
    monkeypatch.setenv("SHARPOSE_DATA", str(tmp_path / "b"))
    assert data_roots(None) == [tmp_path / "b"]
    assert data_roots(["x", "y"])[1].name == "y"


def test_mixed_sets_keep_their_pictures_and_rates(tmp_path):
    a = read(write_set(tmp_path / "a", 2, 1), weight=2)
    b = read(write_set(tmp_path / "b", 3, 1, seed=1), weight=0.5)
    both = mix([a, b])
    assert len(both) == 5
    for i, source in ((1, a), (4, b)):
        j = i if source is a else i - 2
        assert both.image_paths[both.image_index[i]] == source.image_paths[source.image_index[j]]
    counts = sum(np.bincount(epoch_order(both.draws, 0, epoch), minlength=5) for epoch in range(200))
    assert (counts[:2] == 400).all()
    np.testing.assert_allclose(counts[2:], 100, atol=35)  # five standard deviations of 200 fair draws


def test_a_stream_goes_on_where_another_stopped():
    draws = np.ones(10, np.float32)
    whole = iter(SampleStream(draws, seed=3, batch=4))
    first = [next(whole) for _ in range(9)]
    rest = iter(SampleStream(draws, seed=3, batch=4, skip=24))
    assert [next(rest) for _ in range(3)] == first[6:9]
    assert sorted(i for batch in first[:5] for i, _ in batch) == sorted([*range(10)] * 2)
    assert len({number for batch in first for _, number in batch}) == 36


def test_joints_stay_on_their_pixels_through_every_variation(folder):
    config = AugmentConfig(scale=0.3, rotation_p=1, flip_p=0.5, half_body_p=0.3, shift_p=1)
    people = read(folder)
    dataset = CropDataset(Sampler(people, (96, 128), config, COCO17, seed=1))
    seen = {False: [], True: []}
    for draw in range(32):
        index = draw % 8
        item = dataset[index, draw]
        rng = np.random.default_rng((1, index, draw))  # the same chance as the data set's
        person = (people.bboxes_xyxy[index], people.keypoints[index], people.joint_weights[index])
        flipped = vary(*person, (96, 128), config, COCO17, rng).flipped
        crop = item["crop"].numpy().astype(int)
        for k, (x, y) in enumerate(item["keypoints"].round().int().tolist()):
            if 2 <= x < 94 and 2 <= y < 126:
                painted = COLOURS_BGR[COCO17.flip_order[k] if flipped else k]
                seen[flipped].append(np.abs(crop[y - 1 : y + 2, x - 1 : x + 2] - painted).sum(-1).min() < 60)
    for hits in seen.values():  # dots of neighbours cover some of the face
        assert len(hits) > 100
        assert np.mean(hits) > 0.85


def test_variations_go_as_far_as_they_are_asked_to():
    """By turns, shifts and sizes of 500 crops of one box, which is as wide and high as the crop's aspect makes it."""
    config = replace(NO_AUGMENT, rotation_p=1, rotation_deg=20, shift_p=1, shift=0.1, scale=0.3, padding=1.0)
    box, joints, rng = np.array([10, 20, 70, 100], np.float32), np.zeros((17, 2)), np.random.default_rng(0)
    affines = [vary(box, joints, joints[:, 0], (96, 128), config, COCO17, rng).affine for _ in range(500)]
    turns = np.rad2deg([np.arctan2(affine[1, 0], affine[1, 1]) for affine in affines])
    assert np.abs(turns).max() == pytest.approx(40)
    assert turns.std() == pytest.approx(20, rel=0.1)
    middles = np.array([apply_affine([[47.5, 63.5]], invert_affine(affine))[0] for affine in affines])
    np.testing.assert_allclose(np.abs(middles - [40, 60]).max(0), [6, 8], rtol=0.02)  # of 60 and 80 px
    sizes = np.array([127 / 80 / np.linalg.norm(affine[1, :2]) for affine in affines])
    np.testing.assert_allclose([sizes.min(), sizes.max()], [0.7, 1.3])


def test_a_crop_depends_on_person_and_draw_alone(folder):
    dataset = CropDataset(Sampler(read(folder), (96, 128), AugmentConfig(colour=0.3, occlusion_p=0.5), COCO17, seed=1))
    first = dataset[3, 7]
    _ = dataset[1, 1]
    again = dataset[3, 7]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["crop"], dataset[3, 8]["crop"])


def test_without_variation_the_person_fills_the_crop(folder):
    item = CropDataset(Sampler(read(folder), (96, 128), NO_AUGMENT, COCO17))[0, 0]
    centre = (item["keypoints"].amax(0) + item["keypoints"].amin(0)) / 2
    assert torch.allclose(centre, torch.tensor([47.5, 63.5]), atol=1)
    extent = (item["keypoints"].amax(0) - item["keypoints"].amin(0)) / torch.tensor([95, 127])
    assert 0.6 < float(extent.max()) < 0.8  # 1 / 1.25, less the box's margin


def test_joints_outside_the_crop_have_no_weight(folder):
    config = replace(NO_AUGMENT, padding=0.5)
    item = CropDataset(Sampler(read(folder), (96, 128), config, COCO17))[0, 0]
    x, y = item["keypoints"].T
    far = (x < -8) | (y < -8) | (x > 103) | (y > 135)
    assert far.any()
    assert (item["joint_weights"][far] == 0).all()
    assert (item["joint_weights"][~far] == 1).all()


def test_colour_and_patches_change_pixels_in_range():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (64, 48, 3), np.uint8)
    grey = np.full((8, 8, 3), 90, np.uint8)
    assert np.ptp(jitter_colour(grey, 0.4, rng)) <= 2  # grey stays grey, whatever the saturation
    assert not np.array_equal(jitter_colour(crop, 0.4, rng), crop)
    covered = crop.copy()
    paste_patch(covered, draw_patch(covered.shape[:2], rng))
    share = (covered != crop).any(-1).mean()
    assert 0.005 < share < 0.15


@given(factor=st.floats(1, 16), seed=st.integers(0, 99))
def test_a_coarser_crop_keeps_its_means_and_loses_its_detail(factor, seed):
    fine = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(seed)) * 255
    coarse = coarsen(fine, factor)
    assert coarse.shape == fine.shape
    assert torch.allclose(coarse.mean((1, 2)), fine.mean((1, 2)), atol=6)
    assert coarse.var() <= fine.var() * min(1, 2 / factor) + 1e-2
    for axis in (1, 2):
        assert coarse.diff(dim=axis).var() <= fine.diff(dim=axis).var() * min(1, 2 / factor) + 1e-2


def test_who_is_cut_off_is_shown_up_to_the_border_and_known_so_far(folder):
    people = read(folder)
    sampler = Sampler(people, (96, 128), replace(NO_AUGMENT, cut_p=1.0, flip_p=0.5, rotation_p=0.5), COCO17, seed=5)
    lost, black, ways, uncut = [], [], set(), 0
    for draw in range(60):
        index = draw % 8
        sample, item = sampler.draw(index, draw), CropDataset(sampler)[index, draw]
        if not sample.border.any():
            uncut += 1
            continue
        outside = beyond(torch.from_numpy(sample.border), (128, 96)).numpy()
        black.append(float(outside.mean()))
        ways.add(tuple(sample.variation.border[:2].tolist()))
        assert not item["crop"].numpy()[outside].any()
        x, y, c = sample.border
        sides = item["keypoints"].numpy() @ (x, y) + c
        known = item["joint_weights"].numpy() > 0
        assert (sides[known] >= -1e-3).all()  # labels ended with the picture
        assert known.sum() >= MIN_KEPT_JOINTS
        lost.append(17 - known.sum())
        assert 0.3 < sample.variation.share < 0.9
        # The area, against which errors are measured, is that of what is left of the person.
        low, high = np.split(people.bboxes_xyxy[index], 2)
        places = low + (np.stack(np.mgrid[:100, :100], -1).reshape(-1, 2) + 0.5) / 100 * (high - low)
        in_crop = apply_affine(places, sample.variation.affine)
        left = (in_crop @ (x, y) + c >= 0).mean() * people.areas[index]
        assert sample.area / abs(np.linalg.det(sample.variation.affine[:, :2])) == pytest.approx(left, rel=0.02)
    assert uncut < 30
    assert ways == {(0, -1), (0, 1), (-1, 0), (1, 0)}  # the legs, the head, the right and the left are cut off
    assert max(lost) > 5
    assert 0.03 < np.mean(black) < 0.5


def test_low_resolution_changes_pixels_only_and_at_its_probability(folder):
    people = read(folder)
    sharp = CropDataset(Sampler(people, (96, 128), AugmentConfig(), COCO17, seed=3))
    config = AugmentConfig(low_resolution=4, low_resolution_p=0.5)
    coarse = CropDataset(Sampler(people, (96, 128), config, COCO17, seed=3))
    changed = 0
    for draw in range(60):
        one, other = sharp[draw % 8, draw], coarse[draw % 8, draw]
        assert torch.equal(one["keypoints"], other["keypoints"])
        changed += not torch.equal(one["crop"], other["crop"])
    assert 18 <= changed <= 42


def test_normalise_gives_imagenet_rgb():
    crop = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    crop[..., 2] = 255  # red in BGR
    out = normalise(crop)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rel=1e-5)


ALL_AUGMENT = AugmentConfig(scale=0.25, colour=0.3, occlusion_p=0.5, person_p=0.7, cut_p=0.7, low_resolution_p=0.7)


@pytest.mark.parametrize(
    ("stated_wh", "turned"),
    [((300, 400), True), ((300.0, 400.0), True), ((400, 300), False), ((2**64, 400), False), (None, False)],
)
def test_labels_on_the_upright_picture_are_read_with_it(tmp_path, stated_wh, turned):
    """A phone's photograph: a run, and many a labelling tool, sees it upright, COCO as it is stored."""
    upright = np.zeros((400, 300, 3), np.uint8)
    upright[35:45, 95:105] = 255  # the nose
    from PIL import Image

    stored, exif = Image.fromarray(np.rot90(upright)), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    (tmp_path / "images").mkdir()
    stored.save(tmp_path / "images" / "a.jpg", exif=exif)
    nose = (100, 40) if turned else (40, 199)
    record = {"id": 1, "file_name": "a.jpg"} | (
        dict(zip(("width", "height"), stated_wh, strict=True)) if stated_wh else {}
    )
    person = {"id": 1, "image_id": 1, "bbox": [0, 0, 300, 200], "keypoints": [*nose, 2, *[0] * 48]}
    (tmp_path / "annotations.json").write_text(json.dumps({"images": [record], "annotations": [person]}))
    people = mix([read_people(tmp_path / "annotations.json", tmp_path / "images")] * 2)
    (picture,) = read_pictures(tmp_path, 0.3)
    for image in (people.picture(1), picture.read(), read_picture(record, tmp_path / "images")):
        x, y = people.keypoints[1, 0].astype(int)
        assert image[y, x].min() > 200


@pytest.mark.parametrize("config", [NO_AUGMENT, ALL_AUGMENT])
def test_crops_made_on_the_device_are_those_made_by_the_workers(folder, config):
    sampler = Sampler(read(folder), (96, 128), config, COCO17, seed=3)
    held = DeviceCrops(sampler, torch.device("cpu"))
    items = [(index % 8, draw) for index, draw in enumerate(range(24))]
    batch = default_collate([DrawDataset(sampler)[item] for item in items])
    wanted = default_collate([CropDataset(sampler)[item] for item in items])
    for key in ("keypoints", "joint_weights", "area"):
        assert torch.equal(batch[key], wanted[key])
    difference = (held.warp(batch).int() - wanted["crop"].int()).abs().float()
    # What is held has been resampled once more, and ends at a margin around the person.
    assert difference.mean() < 6
    assert difference.quantile(0.9) < 16


def test_reading_the_crops_to_hold_leaves_the_runs_chance_alone(folder):
    before = torch.get_rng_state()
    DeviceCrops(Sampler(read(folder), (96, 128), NO_AUGMENT, COCO17, seed=3), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("padding", [1.0, 1.25])
def test_half_bodies_are_half_as_large_again_as_their_joints(padding):
    keypoints = np.zeros((17, 2), np.float32)
    keypoints[:, 1] = np.linspace(0, 160, 17)  # ears at 30 and 40, ankles at 150 and 160
    keypoints[:, 0] = np.tile([0, 10], 9)[:17]
    config, rng, whole = AugmentConfig(padding=padding), np.random.default_rng(0), np.zeros(4, np.float32)
    heights = set()
    for _ in range(20):
        box = _half_body_box(keypoints, np.ones(17, np.float32), config, COCO17, rng, whole)
        heights.add(round(float(fit_aspect(box, (96, 128), padding)[0, 3]), 3))
    upper, lower = sorted(COCO17.upper_body), sorted(set(range(17)) - set(COCO17.upper_body))
    assert heights == {round(1.5 * float(np.ptp(keypoints[half, 1])), 3) for half in (upper, lower)}


def test_a_pasted_person_covers_a_part_of_the_crop(folder):
    people = read(folder)
    alone = Sampler(people, (96, 128), AugmentConfig(), COCO17, seed=3)
    behind = Sampler(people, (96, 128), AugmentConfig(person_p=1.0), COCO17, seed=3)
    shares = []
    for draw in range(16):
        item = (draw % 8, draw)
        passer = behind.draw(*item).passer
        changed = (CropDataset(behind)[item]["crop"] != CropDataset(alone)[item]["crop"]).any(-1).float().mean()
        assert (changed > 0) == (passer is not None and passer.mask.any())
        shares.append(float(changed))
    assert 0.02 < np.mean(shares) < 0.7


def test_a_pasted_person_is_cut_out_with_their_trunk_however_they_hold_their_arms():
    raised = np.array(
        [[50, 40], [48, 38], [52, 38], [45, 40], [55, 40], [38, 60], [62, 60], [34, 35], [66, 35], [32, 10], [68, 10],
         [41, 110], [59, 110], [40, 150], [60, 150], [40, 190], [60, 190]], float,
    )  # fmt: skip
    mask = draw_mask(raised, np.ones(17, bool), 60.0, (200, 100), COCO17)
    assert (mask[60:111, 50] == 255).all()
    assert mask[10, 50] < 100  # between the hands
