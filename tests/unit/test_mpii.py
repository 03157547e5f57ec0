"""MPII's two label forms are read alike, and PCKh is what its definition says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from sharpose_rt.cli import main
from sharpose_rt.errors import ConfigError, DatasetError
from sharpose_rt.evaluation.gain import fit_gain
from sharpose_rt.evaluation.mpii import GROUPS, check_pckh, pckh
from sharpose_rt.evaluation.quantize import quantize
from sharpose_rt.evaluation.truth import check_keypoints, is_mpii, read_labels
from sharpose_rt.labels.coco import read_document
from sharpose_rt.models import create_model
from sharpose_rt.models.variants import VARIANTS
from sharpose_rt.skeleton import MPII16
from sharpose_rt.training.datasets import read_people
from tests.people_set import SMALL, measure

# Two people of two pictures in MPII's pixels, which count from 1; the second lacks its ankles.
SCALES, CENTRES = (1.0, 0.5), ((120.0, 140.0), (60.0, 70.0))
HEADS = ((100.0, 40.0, 130.0, 80.0), (50.0, 20.0, 65.0, 40.0))
NAMES = ("a.jpg", "b.jpg")


def joints(person: int) -> np.ndarray:
    return np.array([[CENTRES[person][0] + i, 50.0 + 4 * i] for i in range(16)])


def labelled(person: int) -> np.ndarray:
    return np.ones(16) if person == 0 else np.where(np.isin(np.arange(16), (0, 5)), 0, 1)


def records() -> list[dict]:
    return [
        {
            "image": NAMES[i], "joints": np.where(labelled(i)[:, None] > 0, joints(i), -1).tolist(),
            "joints_vis": labelled(i).astype(int).tolist(), "center": CENTRES[i], "scale": SCALES[i],
        }
        for i in range(2)
    ]  # fmt: skip


def structs(items: list[dict]) -> np.ndarray:
    """What MATLAB calls a struct array."""
    table = np.empty(len(items), [(name, object) for name in items[0]])
    for row, item in enumerate(items):
        table[row] = tuple(item.values())
    return table


def write_release(path, change=lambda rects: None) -> None:
    rects = []
    for i in range(2):
        points = [
            {"x": x, "y": y, "id": n, "is_visible": "0" if n == 3 else "1"}
            for n, (x, y) in enumerate(joints(i).tolist())
            if labelled(i)[n]
        ]
        rects.append(
            {
                "x1": HEADS[i][0], "y1": HEADS[i][1], "x2": HEADS[i][2], "y2": HEADS[i][3],
                "annopoints": {"point": structs(points)}, "scale": SCALES[i],
                "objpos": {"x": CENTRES[i][0], "y": CENTRES[i][1]},
            }
        )  # fmt: skip
    change(rects)
    pictures = [{"image": {"name": n}, "annorect": structs([r])} for n, r in zip(NAMES, rects, strict=True)]
    # A picture of the test part, whose people have no points, and one without anybody.
    pictures.append({"image": {"name": "test.jpg"}, "annorect": structs([{"x1": 1, "y1": 1, "x2": 2, "y2": 2}])})
    pictures.append({"image": {"name": "empty.jpg"}, "annorect": np.zeros((0, 0))})
    savemat(path, {"RELEASE": {"annolist": structs(pictures), "img_train": np.array([1, 1, 0, 1])}})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in NAMES:
        cv2.imwrite(str(tmp_path / "images" / name), np.full((240, 320, 3), 90, np.uint8))
    (tmp_path / "train.json").write_text(json.dumps(records()))
    boxes = np.array([[[h[0] for h in HEADS], [h[1] for h in HEADS]], [[h[2] for h in HEADS], [h[3] for h in HEADS]]])
    savemat(tmp_path / "gt.mat", {"headboxes_src": boxes})
    write_release(tmp_path / "release.mat")
    return tmp_path


def test_both_forms_are_the_same_people(folder):
    common, release = read_document(folder / "train.json", folder / "gt.mat"), read_document(folder / "release.mat")
    assert is_mpii(common)
    assert is_mpii(release)
    assert release["images"] == common["images"]
    for a, b in zip(common["annotations"], release["annotations"], strict=True):
        points, other = (np.array(r.pop("keypoints")).reshape(16, 3) for r in (a, b))
        np.testing.assert_array_equal(points[:, :2], other[:, :2])
        np.testing.assert_array_equal(points[:, 2] > 0, other[:, 2] > 0)
        assert other[3, 2] == 1  # the .mat knows what is hidden
        assert a.pop("head_size_px") == pytest.approx(b.pop("head_size_px"))
        assert a == b
    first = read_document(folder / "train.json", folder / "gt.mat")["annotations"][0]
    assert first["keypoints"][:3] == [119, 49, 2]  # from 0
    assert first["bbox"] == [19, 54, 200, 200]  # 200 px a scale, 15 px below the centre
    assert first["head_size_px"] == pytest.approx(0.6 * 50)


def test_what_mpii_calls_hidden_may_weigh_less(folder):
    weights = read_people(folder / "release.mat", folder / "images", skeleton=MPII16, hidden_weight=0.5).joint_weights
    assert weights[0].tolist() == [1, 1, 1, 0.5, *[1] * 12]
    common = read_people(folder / "train.json", folder / "images", skeleton=MPII16, hidden_weight=0.5)
    assert common.joint_weights[0].tolist() == [1] * 16  # it does not say


def test_people_to_train_on(folder):
    people = read_people(folder / "train.json", folder / "images", skeleton=MPII16)
    assert people.keypoints.shape == (2, 16, 2)
    assert people.joint_weights[1].tolist() == labelled(1).tolist()
    assert people.image_paths[1] == str(folder / "images" / "b.jpg")
    with pytest.raises(DatasetError, match=r"16 keypoints of mpii16 by their names, the network the 17 of coco17"):
        read_people(folder / "train.json", folder / "images")


class TestPCKh:
    truth = np.stack([joints(0), joints(1)])
    seen = np.stack([labelled(0), labelled(1)])
    heads = np.array([30.0, 15.0])

    def test_half_a_head_is_the_limit(self):
        for distance, share in ((0.0, 1), (7.4, 1), (7.6, 16 / 30), (14.9, 16 / 30), (15.1, 0)):
            found = pckh(self.truth + np.array([distance, 0]), self.truth, self.seen, self.heads)
            counted = self.seen[:, [i for i in range(16) if i not in (6, 7)]].sum(1)
            wanted = {1: 1, 16 / 30: counted[0] / counted.sum(), 0: 0}[share]
            assert found["PCKh"] == pytest.approx(wanted)

    def test_pelvis_and_thorax_do_not_count(self):
        moved = self.truth.copy()
        moved[:, 6:8] += 500
        assert pckh(moved, self.truth, self.seen, self.heads)["PCKh"] == 1

    def test_groups_are_means_of_their_joints(self):
        moved = self.truth.copy()
        moved[0, MPII16.keypoints.index("right_wrist")] += 100
        moved[:, MPII16.keypoints.index("head_top")] += 100
        found = pckh(moved, self.truth, self.seen, self.heads)
        assert (found["PCKh_wrists"], found["PCKh_head"], found["PCKh_knees"]) == (0.75, 0, 1)
        assert set(found) == {"PCKh", *(f"PCKh_{group}" for group in GROUPS)}

    def test_unlabelled_joints_are_left_out(self):
        moved = self.truth.copy()
        moved[1, [0, 5]] += 500
        assert pckh(moved, self.truth, self.seen, self.heads)["PCKh_ankles"] == 1
        assert math.isnan(pckh(moved[1:], self.truth[1:], 0 * self.seen[1:], self.heads[1:])["PCKh"])


def test_a_perfect_estimator_and_one_that_is_off(folder):
    document = read_labels(folder / "train.json", folder / "gt.mat")
    truth = {int(r["bbox"][0]): np.array(r["keypoints"]).reshape(1, 16, 3)[..., :2] for r in document["annotations"]}

    def estimate(shift):
        return lambda image, boxes: (truth[int(boxes[0, 0])].astype(np.float32) + shift, np.ones((1, 16), np.float32))

    metrics = measure(estimate(0), document, folder / "images")
    assert (metrics["PCKh"], metrics["PCKh@0.1"], metrics["PCKh_coarse"], metrics["people"]) == (1, 1, 1, 2)
    assert metrics["oks_coarse"] == pytest.approx(1)
    metrics = measure(estimate(10), read_labels(folder / "release.mat"), folder / "images")
    assert 0 < metrics["PCKh"] < 1
    assert metrics["PCKh@0.1"] == 0
    assert measure(estimate(2.5), document, folder / "images")["PCKh@0.1"] == 0  # 0.12 of the larger head
    with pytest.raises(DatasetError, match="--head-boxes mpii_gt_val"):
        measure(estimate(0), read_labels(folder / "train.json"), folder / "images")


def test_command(folder, monkeypatch, capsys):
    small = replace(SMALL, name="small_mpii", skeleton=MPII16)
    monkeypatch.setitem(VARIANTS, small.name, small)
    base = ["eval", "--annotations", str(folder / "release.mat"), "--images", str(folder / "images"), "--device", "cpu"]
    base += ["--model", small.name, "--weights", "random", "--json", str(folder / "m.json")]
    assert main(base) == 0
    metrics = json.loads((folder / "m.json").read_text())
    assert 0 <= metrics["PCKh"] <= 1
    assert "AP" not in metrics
    assert main([*base, "--sweep-threshold", str(folder / "s")]) == 2
    assert "MPII does not have" in capsys.readouterr().err


def test_what_pckh_cannot_be_measured_of_is_refused_before_anything_runs(folder, monkeypatch, capsys):
    def measured(*_, **__):
        raise AssertionError

    small = replace(SMALL, name="small_mpii", skeleton=MPII16)
    monkeypatch.setitem(VARIANTS, small.name, small)
    monkeypatch.setattr("sharpose_rt.models.weights.load_model", measured)
    base = ["eval", "--images", str(folder / "images"), "--model", small.name, "--weights", "random"]
    assert main([*base, "--annotations", str(folder / "train.json")]) != 0
    assert "give --head-boxes mpii_gt_val.mat" in capsys.readouterr().err
    assert main([*base, "--annotations", str(folder / "release.mat"), "--boxes", "detector"]) != 0
    assert "as MPII says which person is meant; --boxes gt" in capsys.readouterr().err
    for labels, in_truth in (("train.json", True), ("release.mat", False)):
        with pytest.raises(DatasetError, match="PCKh"):
            check_pckh(read_labels(folder / labels), in_truth=in_truth)


def test_a_network_of_other_keypoints_is_refused_before_anything_runs(folder, capsys):
    labels = ["--annotations", str(folder / "train.json"), "--head-boxes", str(folder / "gt.mat")]
    assert main(["eval", *labels, "--images", str(folder / "none"), "--device", "cpu"]) == 2
    message = capsys.readouterr().err
    assert "the 16 keypoints of mpii16, but tiny_256x192 gives the 17 of coco17; --model base_mpii_256x256" in message
    model = create_model(SMALL)
    with pytest.raises(ConfigError, match="--model base_mpii_256x256 fits"):
        check_keypoints(model.variant, read_labels(folder / "release.mat"))
    with pytest.raises(ConfigError, match="--model base_mpii_256x256 fits"):
        quantize(model, folder / "release.mat", folder / "none", 2)


def test_what_int8_costs_is_measured_by_pckh(folder):
    model = create_model(replace(SMALL, name="small_mpii", skeleton=MPII16))
    ranges, costs = quantize(model, folder / "release.mat", folder / "images", 2)
    assert ranges
    assert set(costs) == {"people", "PCKh", "PCKh_int8"}
    assert costs["people"] == 2
    assert 0 <= costs["PCKh_int8"] <= 1
    exact = measure(model, read_labels(folder / "release.mat"), folder / "images")
    assert costs["PCKh"] == exact["PCKh"]
    _, common = quantize(model, folder / "train.json", folder / "images", 2, folder / "gt.mat")
    assert common == costs
    with pytest.raises(DatasetError, match=r"--head-boxes mpii_gt_val\.mat, or MPII's own \.mat"):
        quantize(model, folder / "train.json", folder / "none", 2)


def test_mpiis_keypoints_in_cocos_form_are_measured_by_ap(folder):
    document, path = read_document(folder / "train.json"), folder / "coco.json"
    for record in document["annotations"]:
        del record["head_size_px"]
    path.write_text(json.dumps(document))
    document = read_labels(path, first=MPII16)
    truth = {int(r["bbox"][0]): np.array(r["keypoints"]).reshape(1, 16, 3)[..., :2] for r in document["annotations"]}

    def estimate(image, boxes):
        shift_px = 0.085 * math.sqrt(0.21) * (boxes[0, 2] - boxes[0, 0])  # of the root of the area
        return truth[int(boxes[0, 0])].astype(np.float32) + np.array([shift_px, 0]), np.ones((1, 16), np.float32)

    metrics = measure(estimate, document, folder / "images")
    similar = np.exp(-((0.085 / np.array(MPII16.sigmas)) ** 2) / 8)  # of each joint
    assert 0.7 < similar[labelled(1) > 0].mean() < similar.mean() < 0.75  # of five of AP's ten thresholds
    assert metrics["AP"] == pytest.approx(0.5)
    assert "PCKh" not in metrics
    model = create_model(replace(SMALL, name="small_mpii", skeleton=MPII16))
    _, costs = quantize(model, path, folder / "images", 2)
    assert set(costs) == {"people", "AP", "AP_int8"}
    with pytest.raises(DatasetError, match=r"2 people with keypoints in .*coco\.json; "):  # too few, and nothing else
        fit_gain(model, [(path, folder / "images")])
    with pytest.raises(DatasetError, match="of which PCKh is measured, not AP"):
        fit_gain(model, [(folder / "release.mat", folder / "images")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, r"record\[1\] is"),
        ({"joints": [[1, 2]] * 15}, r"train\.json: record\[1\]: joints is .* 16 x 2 finite numbers"),
        ({"joints_vis": "yes"}, r"record\[1\]: joints_vis is 'yes'"),
        ({"center": [1, float("nan")]}, r"record\[1\]: center"),
        ({"scale": [1, 2]}, r"record\[1\]: scale is \[1, 2\]; a finite number"),
        ({"scale": -1}, r"record\[1\]: scale is -1"),
    ],
)
def test_a_wrong_record_is_named(folder, change, message):
    wrong = records()
    wrong[1].update(change)
    (folder / "train.json").write_text(json.dumps(wrong))
    with pytest.raises(DatasetError, match=message):
        read_document(folder / "train.json")


def test_wrong_mat_files_are_named(folder):
    (folder / "bad.mat").write_bytes(b"no matrix")
    with pytest.raises(DatasetError, match=r"bad\.mat"):
        read_document(folder / "bad.mat")
    with pytest.raises(DatasetError, match="no RELEASE"):
        read_document(folder / "gt.mat")
    savemat(folder / "number.mat", {"RELEASE": 1})
    with pytest.raises(DatasetError, match=r"number\.mat has no RELEASE\.annolist"):
        read_document(folder / "number.mat")
    with pytest.raises(DatasetError, match=r"headboxes_src of shape \(0,\)"):
        read_document(folder / "train.json", folder / "release.mat")
    for scale in (0.0, math.inf):
        write_release(folder / "r.mat", lambda rects, scale=scale: rects[1].update(scale=scale))
        with pytest.raises(DatasetError, match=rf"annolist\[1\] \(b\.jpg\) annorect\[0\]: scale is {scale}"):
            read_document(folder / "r.mat")
    write_release(folder / "r.mat", lambda rects: rects[0].pop("objpos"))
    with pytest.raises(DatasetError, match=r"annolist\[0\] \(a\.jpg\) annorect\[0\] lacks head box, objpos or scale"):
        read_document(folder / "r.mat")
