"""AP is pycocotools' AP, the gate is the network's gate, and what is written can be read."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy import stats

from sharpose_rt.cli import main
from sharpose_rt.config import DetectorConfig, PoseConfig
from sharpose_rt.detection.letterbox import Letterbox
from sharpose_rt.detection.postprocess import finish
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import ConfigError, DatasetError, OutputError
from sharpose_rt.evaluation.boxes import Boxes, choose_boxes, detector_boxes, file_boxes, truth_boxes
from sharpose_rt.evaluation.coco import oks_nms, quality_check, results, score
from sharpose_rt.evaluation.detector import box_ap, evaluate_detector, judge, read_box_labels
from sharpose_rt.evaluation.metrics import write_metrics
from sharpose_rt.evaluation.predict import Predictions, closer_padding, predict
from sharpose_rt.evaluation.reliability import reliability, score_gap, write_reliability
from sharpose_rt.evaluation.sweep import GAIN, HEIGHT, calibrated, sweep, write_sweep
from sharpose_rt.evaluation.truth import read_labels
from sharpose_rt.evaluation.worst import FALSE_ALARM, FOUND, MISSED, write_worst, write_worst_pictures
from sharpose_rt.geometry.affine import body_heights
from sharpose_rt.geometry.oks import pose_scores
from sharpose_rt.labels.coco import looked_at, read_image
from sharpose_rt.models import create_model
from sharpose_rt.models.cost import measure_cost
from sharpose_rt.models.gate import Gate
from sharpose_rt.models.variants import VARIANTS
from sharpose_rt.models.weights import load_model, save_weights
from sharpose_rt.skeleton import COCO17
from tests.people_set import COLOURS_BGR, SMALL, change, in_posetracks_order, measure, write_set

SIGMAS = np.array(COCO17.sigmas)


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "painted")


def truth(document):
    """Keypoints (N, K, 2), visibility (N, K) and areas (N,) of all people."""
    triples = np.array([a["keypoints"] for a in document["annotations"]]).reshape(-1, 17, 3)
    return triples[..., :2], triples[..., 2], np.array([a["area"] for a in document["annotations"]])


def perfect(document, coarse_oks=1.0, fine_oks=1.0, quality=0.5):
    """Predictions whose every joint lies off the label by what gives the asked OKS."""
    points, _, areas = truth(document)

    def moved(value):
        away = np.sqrt(-2 * np.log(value) * areas[:, None]) * (2 * SIGMAS)
        return points + np.stack([away, 0 * away], -1)

    n = len(points)
    ones = np.full((n, 17), 0.9)
    quality = np.broadcast_to(quality, n).astype(float)
    return Predictions(truth_boxes(document), moved(coarse_oks), ones, moved(fine_oks), ones, quality)


def test_labels_as_predictions_give_perfect_ap(shared_dir):
    document = read_labels(shared_dir / "data" / "coco_val_dev" / "annotations.json")
    metrics = score(perfect(document), document, Gate())
    assert len(truth_boxes(document)) == 188
    assert all(metrics[name] == pytest.approx(1) for name in ("AP", "AP50", "AP75", "APM", "APL", "AR"))
    assert metrics["oks_fine"] == pytest.approx(1)


def test_a_known_error_gives_the_known_ap(folder):
    document = read_labels(folder / "annotations.json")
    metrics = score(perfect(document, coarse_oks=0.63, fine_oks=0.88), document, Gate())
    # Thresholds 0.50, 0.55, ... 0.95: three lie below 0.63 and eight below 0.88.
    assert (metrics["AP_coarse"], metrics["AP_fine"], metrics["AP"]) == pytest.approx((0.3, 0.8, 0.8))
    assert (metrics["oks_coarse"], metrics["oks_fine"]) == pytest.approx((0.63, 0.88))
    coarse = score(perfect(document, coarse_oks=0.63, fine_oks=0.88), document, Gate(-math.inf))
    assert (coarse["AP"], coarse["AP50"], coarse["AP75"]) == pytest.approx((0.3, 1, 0))
    assert (coarse["exit_rate"], metrics["exit_rate"]) == (1, 0)


def test_who_is_never_refined_has_the_pose_of_the_closer_crop(folder):
    document = read_labels(folder / "annotations.json")
    far = perfect(document, coarse_oks=0.63, fine_oks=0.88, quality=0.5)
    near = replace(far, near_keypoints=perfect(document, coarse_oks=0.73).coarse_keypoints, near_scores=far.fine_scores)
    assert score(near, document, Gate(-math.inf))["AP"] == pytest.approx(
        0.5
    )  # nobody is: 0.50, 0.55, ... 0.70 lie below
    assert score(near, document, Gate(0.4))["AP"] == pytest.approx(0.3)  # all leave, but for their quality
    assert score(near, document, Gate())["AP"] == pytest.approx(0.8)
    assert score(near, document, Gate(refine_from_px=10_000))["AP"] == pytest.approx(0.5)
    heights = np.sort(body_heights(near.boxes.bboxes_xyxy))
    keypoints, _, refined = near.gated(Gate(refine_from_px=float(heights[4])))
    assert refined.sum() == 4
    np.testing.assert_array_equal(keypoints[refined], near.fine_keypoints[refined])
    np.testing.assert_array_equal(keypoints[~refined], near.near_keypoints[~refined])


def test_ap_is_that_of_pycocotools_on_the_written_file(folder, tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    document = read_labels(folder / "annotations.json")
    rng = np.random.default_rng(0)
    noisy = perfect(document, quality=rng.uniform(size=8))
    points = noisy.fine_keypoints + rng.normal(0, 6, noisy.fine_keypoints.shape)
    noisy = Predictions(noisy.boxes, points, noisy.coarse_scores, points, rng.uniform(0, 1, (8, 17)), noisy.quality)
    (tmp_path / "found.json").write_text(json.dumps(results(noisy, noisy.fine_keypoints, noisy.fine_scores)))
    labels = COCO(str(folder / "annotations.json"))
    reference = COCOeval(labels, labels.loadRes(str(tmp_path / "found.json")), "keypoints")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    metrics = score(noisy, document, Gate())
    found = [metrics[name] for name in ("AP", "AP50", "AP75", "APM", "APL", "AR")]
    assert 0.05 < metrics["AP"] < 0.95
    np.testing.assert_allclose(found, reference.stats[:6], atol=1e-9)
    assert "Average Precision" in capsys.readouterr().out


def test_ids_and_categories_of_labels_do_not_matter(folder):
    document = read_labels(folder / "annotations.json")
    wanted = score(perfect(document, coarse_oks=0.63, fine_oks=0.88), document, Gate())
    for record in document["annotations"]:
        record["id"] -= 1  # pycocotools takes 0 for nobody
        record["category_id"] = 7
    dogs = [{**record, "id": 100 + record["id"], "category_id": 8} for record in document["annotations"]]
    document["annotations"] += dogs
    document["categories"] = [{"id": 7, "name": "person"}, {"id": 8, "name": "dog"}]
    (folder / "annotations.json").write_text(json.dumps(document))
    document = read_labels(folder / "annotations.json")
    assert [record["id"] for record in document["annotations"]] == list(range(8))
    found = score(perfect(document, coarse_oks=0.63, fine_oks=0.88), document, Gate())
    assert found["AP"] == wanted["AP"] > 0.5
    assert found["oks_fine"] == pytest.approx(wanted["oks_fine"])


def test_labels_are_measured_by_the_names_of_their_keypoints(folder):
    exact = perfect(read_labels(folder / "annotations.json"), fine_oks=0.88)
    path = folder / "annotations.json"
    in_posetracks_order(path)
    document = read_labels(path)
    metrics = score(exact, document, Gate())
    assert (metrics["AP_coarse"], metrics["AP"], metrics["oks_fine"]) == pytest.approx((1, 0.8, 0.88))
    assert [record["num_keypoints"] for record in document["annotations"]] == [15] * 8
    assert document["categories"][0]["keypoints"] == list(COCO17.keypoints)
    triples = np.zeros((17, 3))
    triples[1:3] = 9, 9, 2  # whose head's ends alone are labelled has no keypoint of COCO's
    change(folder, 0, keypoints=triples.flatten().tolist())
    document = read_labels(path)
    assert document["annotations"][0]["num_keypoints"] == 0
    assert truth_boxes(document).annotation_ids.tolist() == list(range(2, 9))


def test_the_gate_picks_the_stage(folder):
    document = read_labels(folder / "annotations.json")
    quality = np.linspace(0.1, 0.8, 8)
    made = perfect(document, coarse_oks=0.63, fine_oks=0.88, quality=quality)
    keypoints, _, refined = made.gated(Gate(0.5))
    assert refined.tolist() == [True] * 4 + [False] * 4
    np.testing.assert_array_equal(keypoints[:4], made.fine_keypoints[:4])
    np.testing.assert_array_equal(keypoints[4:], made.coarse_keypoints[4:])
    assert made.gated(Gate())[2].all()
    assert not made.gated(Gate(-math.inf))[2].any()


def test_network_in_batches_agrees_with_its_own_gate(folder):
    torch.manual_seed(0)
    model = create_model(SMALL)
    document = read_labels(folder / "annotations.json")
    boxes = truth_boxes(document)
    whole = predict(model, document, folder / "images", boxes, batch=8)
    parts = predict(model, document, folder / "images", boxes, batch=3)
    np.testing.assert_allclose(whole.fine_keypoints, parts.fine_keypoints, atol=1e-3)
    assert len(whole) == 8
    threshold = float(np.median(whole.quality))
    metrics = score(whole, document, Gate(threshold), model)
    cost = measure_cost(model.variant, model.behaviour)
    assert metrics["exit_rate"] == 0.5
    assert metrics["gmacs_per_person"] == pytest.approx(cost.coarse_gmacs + 0.5 * cost.fine_gmacs)
    assert 0 <= metrics["oks_coarse"] < 0.5
    both = predict(model, document, folder / "images", boxes, batch=8, flip_test=True)
    assert score(both, document, Gate(threshold), model)["gmacs_per_person"] == 2 * metrics["gmacs_per_person"]
    assert sweep(both, document, model)[-1]["gmacs_per_person"] == pytest.approx(2 * cost.coarse_gmacs)


def test_what_is_measured_are_the_poses_of_a_run(tmp_path):
    folder = write_set(tmp_path / "painted", pictures=2)
    document = read_labels(folder / "annotations.json")
    boxes, (model, _) = truth_boxes(document), load_model("tiny_256x192")
    predictions = predict(
        model.eval(), document, folder / "images", boxes, near_padding=closer_padding(Gate(-math.inf))
    )
    middle = float(np.median(body_heights(boxes.bboxes_xyxy)))
    for gate in (
        (math.inf, 0.0),
        (math.inf, middle),
        (float(np.median(predictions.quality)), middle),
        (-math.inf, 0.0),
    ):
        config = PoseConfig(backend="torch", device="cpu", precision="fp32", refine_from_px=gate[1])
        engine = PoseEngine(replace(config, quality_threshold=gate[0]))
        assert (closer_padding(Gate(*gate)) is None) == (gate == (math.inf, 0.0))
        keypoints, scores, refined = predictions.gated(Gate(*gate))
        for image in document["images"]:
            rows = np.flatnonzero(boxes.image_ids == image["id"])
            found = engine.estimate(read_image(folder / "images" / image["file_name"]), boxes.bboxes_xyxy[rows])
            assert found.refined.tolist() == refined[rows].tolist()
            np.testing.assert_allclose(found.keypoints, keypoints[rows], atol=0.05)
            np.testing.assert_allclose(found.scores, scores[rows], atol=1e-3)


def test_flip_test_is_blind_to_mirroring(folder, tmp_path):
    """With the flip test a mirrored picture gives the mirrored pose."""
    import cv2

    torch.manual_seed(0)
    model = create_model(SMALL)
    document = read_labels(folder / "annotations.json")
    boxes = truth_boxes(document)
    plain = predict(model, document, folder / "images", boxes, flip_test=True, near_padding=1.0)
    (tmp_path / "mirror").mkdir()
    for path in (folder / "images").iterdir():
        cv2.imwrite(str(tmp_path / "mirror" / path.name), cv2.imread(str(path))[:, ::-1])
    turned = boxes.bboxes_xyxy[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + np.array([319, 0, 319, 0])
    mirrored_boxes = Boxes(boxes.image_ids, turned.astype(np.float32), boxes.scores, boxes.annotation_ids)
    mirrored = predict(model, document, tmp_path / "mirror", mirrored_boxes, flip_test=True, near_padding=1.0)
    order = list(COCO17.flip_order)
    np.testing.assert_allclose(mirrored.fine_scores[:, order], plain.fine_scores, atol=2e-3)
    np.testing.assert_allclose(mirrored.near_scores[:, order], plain.near_scores, atol=2e-3)


def test_any_estimator_can_be_measured(folder):
    document = read_labels(folder / "annotations.json")
    points, _, _ = truth(document)
    boxes = truth_boxes(document)

    def oracle(image, bboxes):
        assert image.shape == (240, 320, 3)
        rows = [int(np.abs(boxes.bboxes_xyxy - b).sum(1).argmin()) for b in bboxes]
        x, y = points[rows[0], 9].round().astype(int)
        assert np.abs(image[y, x].astype(int) - COLOURS_BGR[9]).max() < 20  # the picture that the boxes belong to
        return points[rows], np.ones((len(rows), 17))

    metrics = measure(oracle, document, folder / "images")
    assert metrics["AP"] == pytest.approx(1)
    assert math.isnan(metrics["gmacs_per_person"])


def test_detected_boxes_are_scored_and_thinned(folder, tmp_path):
    document = read_labels(folder / "annotations.json")
    people = document["annotations"]
    found = [{"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5} for a in people]
    found += [{**found[0], "score": 0.9}, {**found[1], "category_id": 3}]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    boxes = file_boxes(tmp_path / "boxes.json")
    assert len(boxes) == 9  # the other category is no person
    points = np.concatenate([truth(document)[0], truth(document)[0][:1]])
    ones = np.ones((9, 17))
    kept = oks_nms(boxes, points, boxes.scores)
    assert kept.tolist() == [False] + [True] * 8
    made = Predictions(boxes, points, ones, points, ones, np.array([math.nan, 1.2, *[0.8] * 7]))
    people = results(made, points, ones)
    # The quality counts where it is known, 1 at most.
    assert [p["score"] for p in people] == pytest.approx([0.5, *[0.5 * 0.8] * 6, 0.9 * 0.8])
    metrics = score(made, document, Gate())
    assert metrics["AP"] == pytest.approx(1)
    assert "quality_pearson" not in metrics
    assert oks_nms(boxes, points, boxes.scores, limit=1.0).all()
    for likeness, stays in ((0.89, True), (0.91, False)):
        points[8] = perfect(document, fine_oks=likeness).fine_keypoints[0]
        size = boxes.bboxes_xyxy[0, 2:] - boxes.bboxes_xyxy[0, :2]
        points[8] += (points[8] - points[0]) * (np.sqrt(size.prod() / document["annotations"][0]["area"]) - 1)
        assert oks_nms(boxes, points, boxes.scores)[0] == stays


def test_nobody_is_looked_for_in_pictures_that_nobody_labelled(folder, tmp_path):
    document = json.loads((folder / "annotations.json").read_text())
    told = {a["image_id"] for a in document["annotations"]}
    found = [{"image_id": i["id"], "bbox": [1, 1, 20, 40], "score": 0.5} for i in document["images"]]
    extra = {**document["images"][0], "id": 900, "is_labeled": False}
    document["images"] = [{**image, "is_labeled": False} for image in document["images"]] + [extra]
    (tmp_path / "set.json").write_text(json.dumps(document))
    (tmp_path / "boxes.json").write_text(json.dumps([*found, {**found[0], "image_id": 900}]))
    for labels in (read_labels(tmp_path / "set.json"), read_box_labels(tmp_path / "set.json")):
        boxes = choose_boxes(str(tmp_path / "boxes.json"), labels, folder / "images")
        assert set(boxes.image_ids.tolist()) == told  # who is recorded was labelled, whatever the flag says
        made = detector_boxes(labels, folder / "images", DetectorConfig(str(tmp_path / "boxes.json")))
        assert 900 not in made.image_ids
    labels = read_labels(tmp_path / "set.json")
    assert score(perfect(labels), labels, Gate())["images"] == len(told) == len(labels["images"]) - 1
    unlabelled = {**labels, "annotations": []}
    assert looked_at(unlabelled) == document["images"]  # a list of pictures alone


@pytest.mark.parametrize("form", ["results", "coco", "text"])
def test_the_boxes_of_a_file_are_measured_where_they_are(folder, tmp_path, form):
    """Pictures in another order, ids of their own, people at the border: labels against themselves are perfect."""
    document = json.loads((folder / "annotations.json").read_text())
    document["images"].reverse()
    w, h = (document["images"][0][key] for key in ("width", "height"))
    document["annotations"][0]["bbox"], document["annotations"][1]["bbox"] = [0, 0, 20, 20], [w - 20, h - 20, 20, 20]
    document["annotations"][0]["area"] = document["annotations"][1]["area"] = 400
    labels, path = tmp_path / "labels.json", tmp_path / ("boxes.txt" if form == "text" else "boxes.json")
    labels.write_text(json.dumps(document))
    people = [
        {**{k: a[k] for k in ("image_id", "bbox")}, "category_id": 1, "score": 0.9} for a in document["annotations"]
    ]
    place = {image["id"]: number for number, image in enumerate(document["images"], 1)}
    if form == "text":
        rows = [[place[p["image_id"]], -1, *np.add(p["bbox"], [1, 1, 0, 0]).tolist(), 0.9] for p in people]
        path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    else:
        other = {"images": document["images"][::-1], "annotations": people, "categories": [{"id": 1, "name": "person"}]}
        path.write_text(json.dumps(people if form == "results" else other))
    found = evaluate_detector(DetectorConfig(str(path), score_threshold=0.001), labels, folder / "images")
    assert (found["AP"], found["boxes"]) == (pytest.approx(1), len(people))


def test_boxes_of_a_file_have_the_labels_categories(folder, tmp_path):
    document = json.loads((folder / "annotations.json").read_text())
    names = [{"id": 1, "name": "bicycle"}, {"id": 2, "name": "person"}]
    people = [{**a, "category_id": 2} for a in document["annotations"]]
    (tmp_path / "labels.json").write_text(json.dumps({**document, "annotations": people, "categories": names}))
    record = {"image_id": people[0]["image_id"], "score": 0.5}
    boxes = [{**record, "category_id": 1, "bbox": [1, 1, 9, 9]}, {**record, "category_id": 2, "bbox": [2, 2, 9, 9]}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    found = choose_boxes(str(tmp_path / "boxes.json"), read_labels(tmp_path / "labels.json"), folder / "images")
    assert found.bboxes_xyxy.tolist() == [[2, 2, 11, 11]]


def test_person_scores_leave_out_unsure_keypoints():
    scores = np.zeros((3, 17))
    scores[0, [9, 10, 1]], scores[1, :3] = (0.8, 0.4, 0.1), (0.1, 0.2, 0.0)
    scores[2, [0, 11]] = 0.9, 0.3
    nose, hip = COCO17.sigmas[0], COCO17.sigmas[11]
    wanted = [0.6, 0, (0.9 * nose + 0.3 * hip) / (nose + hip)]  # a hip says more of a pose than a nose
    assert pose_scores(scores, COCO17.sigmas).tolist() == pytest.approx(wanted)


def test_quality_that_tells_the_truth_correlates(folder):
    document = read_labels(folder / "annotations.json")
    levels = np.linspace(0.3, 0.9, 8)
    made = perfect(document, coarse_oks=levels[:, None], quality=levels)
    check = quality_check(made, document)
    assert check["quality_pearson"] == pytest.approx(1)
    assert check["quality_spearman"] == pytest.approx(1)
    assert check["quality_mae"] == pytest.approx(0, abs=1e-6)
    unsure = np.linspace(0.3, 0.9, 8)[:, None] * np.ones(17)  # the better the less sure
    backwards = replace(perfect(document, fine_oks=levels[::-1, None], coarse_oks=levels[:, None]), fine_scores=unsure)
    assert quality_check(backwards, document)["score_spearman"] == pytest.approx(-1)
    alike = quality_check(
        perfect(document, coarse_oks=levels[:, None]), document
    )  # of a quality that is the same for all
    assert math.isnan(alike["quality_pearson"])
    assert math.isnan(alike["quality_spearman"])
    halves = quality_check(perfect(document, coarse_oks=levels[:, None], quality=np.repeat([0.2, 0.8], 4)), document)
    assert halves["quality_spearman"] == pytest.approx(stats.spearmanr(np.repeat([0, 1], 4), levels).statistic)


def test_nobody_found_is_an_ap_of_0(folder):
    document = read_labels(folder / "annotations.json")
    nobody = Boxes(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    for model in (create_model(SMALL), lambda image, boxes: (_ for _ in ()).throw(AssertionError)):
        metrics = score(predict(model, document, folder / "images", nobody), document, Gate())
        assert (metrics["AP"], metrics["APM"], metrics["AR"], metrics["people"]) == (0, 0, 0, 0)
        assert metrics["APL"] == -1  # nobody is of that size


def test_a_perfect_detector_has_an_ap_of_1():
    """Small people, where half a pixel tells, and some at the borders."""
    rng = np.random.default_rng(3)
    images = [{"id": i, "width": 640, "height": 427, "file_name": f"{i}.jpg"} for i in range(20)]
    labels, found = [], []
    letterbox = Letterbox.fit((640, 427), 352)
    scale, offset = np.tile(letterbox.scale_xy, 2), np.tile(letterbox.offset_xy, 2)
    for i in range(20):
        for x, y in [(0.0, 0.0), (631.0, 414.0), *rng.uniform(30, 380, (3, 2))]:
            w, h = (9.0, 13.0) if x > 600 or x == 0 else rng.uniform(12, 30, 2).tolist()
            labels.append({"id": len(labels) + 1, "image_id": i, "category_id": 1, "bbox": [x, y, w, h], "iscrowd": 0})
            labels[-1]["area"] = w * h
            inside = np.array([[x, y, x + w, y + h]]) * scale + offset  # as a network that is always right would say
            kept = finish(letterbox.to_frame(inside), [0.9], (640, 427), DetectorConfig(name="bundled"))
            found.append((i, kept.bboxes_xyxy[0]))
    boxes = Boxes(
        np.array([i for i, _ in found]),
        np.stack([box for _, box in found]),
        np.ones(100, np.float32),
        -np.ones(100, int),
    )
    document = {"images": images, "annotations": labels, "categories": [{"id": 1, "name": "person"}]}
    assert box_ap(boxes, document)["AP"] == pytest.approx(1)
    corners = np.array([label["bbox"] for label in labels], np.float32)
    corners[:, 2:] += corners[:, :2]
    of_a_file = replace(boxes, bboxes_xyxy=corners)  # which has them as labels have
    assert box_ap(of_a_file, document, as_labels=True)["AP"] == pytest.approx(1)
    assert box_ap(of_a_file, document)["AP"] < 0.95


def test_sweep_and_the_threshold_chosen_from_it(folder, tmp_path):
    document = read_labels(folder / "annotations.json")
    good = np.array([0.99, 0.97, 0.98, 0.96, 0.3, 0.2, 0.25, 0.35])  # the first four need no refining
    made = perfect(document, coarse_oks=good[:, None], quality=good)
    rows = sweep(made, document, None, steps=8)
    assert (rows[0]["exit_rate"], rows[-1]["exit_rate"]) == (0, 1)
    assert [row["exit_rate"] for row in rows] == sorted(row["exit_rate"] for row in rows)
    assert rows[0]["AP"] == pytest.approx(1)
    assert rows[-1]["AP"] < 0.6
    chosen = calibrated(rows)
    assert chosen["exit_rate"] == 0.5
    assert 0.35 < chosen["quality_threshold"] <= 0.96
    table, figure = write_sweep(rows, tmp_path / "figures" / "fig6")
    assert len(table.read_text().splitlines()) == 1 + len(rows)
    assert figure.read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_sweep(rows, tmp_path / "file" / "fig6")


def test_what_a_score_says_is_counted_by_hand(folder, tmp_path):
    document = read_labels(folder / "annotations.json")
    people = document["annotations"]
    for record in people[:2]:
        record["keypoints"][2::3] = [0] * 17  # without a label
    people[3]["keypoints"][2::3] = [1] * 17  # a hidden one has a label, too
    people[0]["id"] = 0
    made = perfect(document)
    scores = np.full((8, 17), 0.95)
    scores[:4] = 0.42
    far = made.fine_keypoints.copy()
    far[2, :5] += 1e4  # five of the 34 with a label are wrong
    made = replace(made, fine_keypoints=far, fine_scores=scores.astype(np.float32))
    low, high = reliability(made, document, Gate())
    assert (low["from"], low["to"], high["from"], high["to"]) == (0.4, 0.5, 0.9, 1.0)
    assert (low["labelled"], low["unlabelled"], high["labelled"], high["unlabelled"]) == (34, 34, 68, 0)
    assert (low["right_of_labelled"], low["right_of_all"]) == pytest.approx((29 / 34, 29 / 68))
    assert (high["right_of_labelled"], high["right_of_all"], high["similarity"]) == pytest.approx((1, 1, 1))
    assert score_gap([low, high]) == pytest.approx((abs(0.42 - 29 / 68) + 0.05) / 2, abs=1e-6)
    ends = replace(made, fine_scores=np.repeat([[0.0], [1.0]], [2, 6], 0) * np.ones(17))
    least, most = reliability(ends, document, Gate())
    assert (least["from"], least["labelled"], most["from"], most["labelled"]) == (0, 0, 0.9, 102)
    assert math.isnan(least["similarity"])
    (only,) = reliability(made, document, Gate(-math.inf))  # the coarse ones, all of a score of 0.9
    assert (only["from"], only["right_of_labelled"]) == (0.9, 1)
    table, figure = write_reliability([low, high], tmp_path / "figures" / "scores")
    assert len(table.read_text().splitlines()) == 3
    assert figure.read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_reliability([low, high], tmp_path / "file" / "scores")
    detected = replace(made, boxes=replace(made.boxes, annotation_ids=np.full(8, -1)))
    with pytest.raises(ConfigError, match="--boxes gt"):
        reliability(detected, document, Gate())


def test_sweep_by_height_lets_the_small_leave_first(folder, tmp_path):
    document = read_labels(folder / "annotations.json")
    for n, record in enumerate(document["annotations"]):
        record["bbox"][2:] = [10, 40.5] if n % 2 else [30, 100.5]
    good = np.array([0.3, 0.98] * 4)  # the small ones need no refining, whatever quality is predicted for them
    made = perfect(document, coarse_oks=good[:, None], quality=1 - good)
    rows = sweep(made, document, None, steps=8, by=HEIGHT)
    assert [row[HEIGHT] for row in rows] == [0, 40, 100, math.inf]
    assert [row["exit_rate"] for row in rows] == [0, 0, 0.5, 1]
    chosen = calibrated(rows)
    assert (chosen[HEIGHT], chosen["exit_rate"]) == (100, 0.5)
    table, figure = write_sweep(rows, tmp_path / "heights")
    assert table.read_text().splitlines()[0].startswith("refine_from_px,exit_rate,AP")
    assert figure.read_bytes()[:4] == b"\x89PNG"
    metrics = score(made, document, Gate(refine_from_px=chosen[HEIGHT]))
    assert (metrics["exit_rate"], metrics["refine_from_px"]) == (0.5, chosen[HEIGHT])
    assert metrics["AP"] == pytest.approx(rows[0]["AP"], abs=0.003)


def test_sweep_by_gain_lets_those_leave_first_who_gain_least(folder, tmp_path):
    document = read_labels(folder / "annotations.json")
    good = np.array([0.3, 0.98] * 4)
    made = replace(perfect(document, coarse_oks=good[:, None]), gain=(1 - good).astype(np.float32))
    rows = sweep(made, document, None, steps=4, by=GAIN)
    assert [row["exit_rate"] for row in rows] == pytest.approx([0, 0, 0.5, 1])
    chosen = calibrated(rows)
    assert (chosen[GAIN], chosen["exit_rate"]) == (pytest.approx(0.7), 0.5)
    table, figure = write_sweep(rows, tmp_path / "gains")
    assert table.read_text().splitlines()[0].startswith("refine_from_gain,exit_rate,AP")
    assert figure.is_file()
    metrics = score(made, document, Gate(refine_from_gain=chosen[GAIN]))
    assert metrics["AP"] == pytest.approx(rows[0]["AP"], abs=0.003)
    assert metrics["gain_pearson"] > 0.99
    assert "gain_pearson" not in score(replace(made, gain=None), document, Gate())


def test_what_is_not_swept_holds_in_every_row(folder):
    document = read_labels(folder / "annotations.json")
    for n, record in enumerate(document["annotations"]):
        record["bbox"][2:] = [10, 40.5] if n % 2 else [30, 100.5]
    made = perfect(document, quality=np.linspace(0.1, 0.8, 8))
    rates = [row["exit_rate"] for row in sweep(made, document, None, steps=8, gate=Gate(refine_from_px=50))]
    assert (min(rates), max(rates)) == (0.5, 1)  # the small ones leave, whatever their quality
    rows = sweep(made, document, None, steps=8, by=HEIGHT, gate=Gate(0.45, 99))
    assert [row["exit_rate"] for row in rows] == [0.5, 0.5, 0.75, 1]
    assert rows[0][HEIGHT] == 0


def test_a_sweeps_name_may_have_dots_or_say_what_is_written(tmp_path):
    rows = [{HEIGHT: 0.0, "exit_rate": 0.0, "AP": 0.5, "AP50": 0.5, "AP75": 0.5, "gmacs_per_person": 1.0}]
    for name in ("a.v1", "a.v2", "b.csv", "c.png"):
        assert all(path.is_file() for path in write_sweep(rows, tmp_path / name))
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [f"{stem}.{kind}" for stem in ("a.v1", "a.v2", "b", "c") for kind in ("csv", "png")]


def test_wrong_labels_and_boxes_are_named(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json"):
        read_labels(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match=r"odd\.json.*annotations"):
        read_labels(tmp_path / "odd.json")
    (tmp_path / "odd.json").write_text('[{"image_id": 1}]')
    with pytest.raises(DatasetError, match="COCO's result form"):
        file_boxes(tmp_path / "odd.json")
    model, document, images = create_model(SMALL), read_labels(folder / "annotations.json"), folder / "images"
    with pytest.raises(ConfigError, match="'gt', 'detector' or a file"):
        choose_boxes("truth", document, images)
    (tmp_path / "odd.json").write_text('[{"image_id": 99, "bbox": [1, 2, 3, 4], "score": 1}]')
    with pytest.raises(DatasetError, match="picture 99"):
        predict(model, document, images, choose_boxes(str(tmp_path / "odd.json"), document, images))
    with pytest.raises(DatasetError, match="is missing"):
        measure(model, document, tmp_path)
    taught = write_set(tmp_path / "taught", 1, 1, teacher=True)
    with pytest.raises(DatasetError, match="a teacher wrote it"):
        read_labels(taught / "annotations.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": None}, "id is None; an integer is wanted"),
        ({"id": 1}, "it repeats the id 1"),
        ({"image_id": "1"}, "image_id '1' is not among `images`"),
        ({"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, -4]}, r"bbox is \[1, 2, 3, -4\]"),
        ({"keypoints": [1.0, 1.0, 2] * 16}, "keypoints has 48 values; 51"),
        ({"area": "large"}, "area is 'large'"),
    ],
)
def test_a_wrong_label_is_named(folder, capsys, fields, message):
    change(folder, 2, **fields)
    with pytest.raises(DatasetError, match=rf"annotations\.json: annotations\[2\]: {message}"):
        read_labels(folder / "annotations.json")
    assert main(["eval", "--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]) == 2
    assert "annotations[2]: " in capsys.readouterr().err


def test_pictures_whose_ids_are_no_integers_and_files_without_people_are_named(folder):
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    document["images"][1]["id"] = "b"
    path.write_text(json.dumps(document))
    for reader in (read_labels, read_box_labels):
        with pytest.raises(DatasetError, match=r"annotations\.json: images\[1\] has the id 'b'; an integer"):
            reader(path)
    document["images"][1]["id"], document["categories"][0]["id"] = 2, 9
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="none of its 8 annotations has the category_id of people, 9"):
        read_labels(path)


def test_labels_of_boxes_alone_are_not_measured_as_if_nobody_was_found(folder, capsys):
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    for record in document["annotations"]:
        del record["keypoints"], record["num_keypoints"]
    path.write_text(json.dumps(document))
    assert main(["eval", "--annotations", str(path), "--images", str(folder / "images")]) == 2
    assert "nobody with a keypoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields", [{"bbox": [1, 2, -3, 4]}, {"bbox": [1, None, 3, 4]}, {"score": None}, {"score": math.nan}]
)
def test_a_wrong_box_of_a_file_is_named(tmp_path, fields):
    right = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 0, 4], "score": 0.5}
    (tmp_path / "boxes.json").write_text(json.dumps([right, {**right, "image_id": 7, **fields}]))
    with pytest.raises(DatasetError, match=r"boxes\.json: a record is {'image_id': 7, .*0 px or more"):
        file_boxes(tmp_path / "boxes.json")


def test_labels_of_boxes_name_a_wrong_area_and_a_picture_that_is_not_there(folder):
    for fields, message in (({"area": "large"}, "area is 'large'"), ({"image_id": 99}, "image_id 99 is not among")):
        change(folder, 2, **fields)
        with pytest.raises(DatasetError, match=rf"annotations\.json: annotations\[2\]: {message}"):
            read_box_labels(folder / "annotations.json")
        change(folder, 2, area=9.0)


def test_missing_fields_are_filled_in(folder):
    change(folder, 0, area=None, iscrowd=None, num_keypoints=None, bbox=[1, 2, 10, 20])
    record = read_labels(folder / "annotations.json")["annotations"][0]
    assert (record["area"], record["iscrowd"], record["num_keypoints"]) == (pytest.approx(106), 0, 17)


def test_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    torch.manual_seed(0)
    save_weights(create_model(SMALL), tmp_path / "w.safetensors", metadata={"quality_threshold": "0.4"})
    arguments = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    arguments += ["--model", SMALL.name, "--weights", str(tmp_path / "w.safetensors"), "--device", "cpu"]
    outputs = ["--json", str(tmp_path / "m.json"), "--results", str(tmp_path / "r.json")]
    tables = ["--sweep-threshold", str(tmp_path / "fig6"), "--reliability", str(tmp_path / "scores")]
    assert main(["eval", *arguments, *outputs, *tables]) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    for key in ("AP", "AP50", "AP75", "APM", "APL", "AR", "exit_rate", "gmacs_per_person"):
        assert isinstance(metrics[key], float), key
    assert metrics["quality_threshold"] == 0.4
    assert metrics["precision"] == "fp32"
    assert {"calibrated_threshold", "calibrated_exit_rate", "command"} <= set(metrics)
    assert len(json.loads((tmp_path / "r.json").read_text())) == 8
    assert (tmp_path / "fig6.csv").is_file()
    assert (tmp_path / "scores.csv").is_file()
    assert 0 <= metrics["score_gap"] <= 1
    assert main(["eval", *arguments, "--boxes", "detector", "--reliability", str(tmp_path / "other")]) == 2
    assert "--boxes gt" in capsys.readouterr().err
    sweeps = ["--sweep-height", str(tmp_path / "heights"), "--sweep-threshold", str(tmp_path / "small")]
    assert main(["eval", *arguments, "--refine-from-px", "1e6", *sweeps]) == 0
    assert (tmp_path / "heights.csv").is_file()
    assert {line.split(",")[1] for line in (tmp_path / "small.csv").read_text().splitlines()[1:]} == {"1"}
    assert "exit_rate              1.0000" in capsys.readouterr().out
    assert main(["eval", *arguments, *outputs]) == 0
    assert "exit_rate" in capsys.readouterr().out
    assert main(["eval", *arguments, "--batch", "0"]) == 2
    assert "--batch is 0" in capsys.readouterr().err
    assert main(["eval", *arguments, "--refine-from-px", "nan"]) == 2
    assert "--refine-from-px is nan" in capsys.readouterr().err
    assert main(["eval", *arguments, "--device", "cuda:x"]) == 2
    assert "device is 'cuda:x'; 'auto', 'cpu', 'cuda' or 'cuda:N' is accepted" in capsys.readouterr().err
    same = ["--sweep-threshold", str(tmp_path / "both.csv"), "--sweep-height", str(tmp_path / "both")]
    assert main(["eval", *arguments, *same]) == 2
    assert "several tables would be written to" in capsys.readouterr().err
    assert main(["eval", *arguments, "--sweep-gain", str(tmp_path / "gain")]) == 2
    assert "does not predict what the fine stage adds" in capsys.readouterr().err


def test_what_the_command_asks_for_is_what_is_measured(folder, tmp_path, monkeypatch):
    def choose(boxes, document, images, *detector, **options):
        told.append((boxes, *detector, options))
        return truth_boxes(document)

    told, out, found = [], tmp_path / "m.json", perfect(read_labels(folder / "annotations.json"), coarse_oks=0.5)
    monkeypatch.setattr("sharpose_rt.evaluation.boxes.choose_boxes", choose)
    monkeypatch.setattr("sharpose_rt.evaluation.predict.predict", lambda *_, **options: told.append(options) or found)
    monkeypatch.setattr("sharpose_rt.evaluation.worst.write_worst", lambda *worst: told.append(worst[2:4]))
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    labels = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    base = ["eval", *labels, "--model", SMALL.name, "--weights", "random", "--device", "cpu", "--json", str(out)]
    detector = ["--boxes", "detector", "--detector", "eyes", "--detector-size", "640", "--offline"]
    written = ["--results", str(tmp_path / "r.json")]
    assert main([*base, *detector, *written, "--flip-test", "--batch", "3", "--refine-from-px", "1e6"]) == 0
    assert told[0] == ("detector", "eyes", 640, {"offline": True})
    assert told[1] == {"flip_test": True, "near_padding": 1.0, "batch": 3}
    metrics, results = json.loads(out.read_text()), json.loads((tmp_path / "r.json").read_text())
    assert (metrics["exit_rate"], metrics["refine_from_px"], metrics["flip_test"]) == (1, 1e6, True)
    assert results[0]["keypoints"][:2] == pytest.approx(found.coarse_keypoints[0, 0], abs=1e-3)
    for plain, pictures in (([], folder / "images"), (["--worst-plain"], None)):
        assert main([*base, "--worst", str(tmp_path / "worst.png"), *plain, "--quality-threshold", "0.3"]) == 0
        assert told[-1] == (pictures, Gate(0.3))
    for sweep_of, near_padding in ([], None), (["--sweep-height", str(tmp_path / "heights")], 1.0):
        assert main([*base, *sweep_of]) == 0
        assert told[-2:] == [
            ("gt", "auto", None, {"offline": False}),
            {"flip_test": False, "near_padding": near_padding, "batch": 16},
        ]


def test_metrics_have_the_command_without_its_secrets(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sharpose-rt", "eval", "--images", "https://me:secret@host/a b?token=123"])
    write_metrics(tmp_path / "m.json", {"AP": 0.5})
    command = "sharpose-rt eval --images 'https://***@host/a b?token=***'"
    assert json.loads((tmp_path / "m.json").read_text()) == {"command": command, "AP": 0.5}


def test_pictures_without_labels_give_a_file_for_cocos_server(folder, tmp_path, monkeypatch, capsys):
    from pycocotools.coco import COCO

    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    labels = json.loads((folder / "annotations.json").read_text())
    people = labels["annotations"]
    boxes = [{"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.7} for a in people]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    info = {"info": {}, "images": labels["images"], "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "image_info.json").write_text(json.dumps(info))
    base = ["eval", "--annotations", str(tmp_path / "image_info.json"), "--images", str(folder / "images")]
    base += ["--model", SMALL.name, "--weights", "random", "--device", "cpu"]
    out = tmp_path / "person_keypoints_test-dev2017_sharpose_results.json"
    assert main([*base, "--boxes", str(tmp_path / "boxes.json"), "--results", str(out)]) == 0
    assert "8 people in" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert all(list(r) == ["image_id", "category_id", "keypoints", "score"] for r in results)
    assert {len(r["keypoints"]) for r in results} == {51}
    truth = COCO(str(tmp_path / "image_info.json"))
    assert len(truth.loadRes(str(out)).getAnnIds()) == len(results) > 0
    for options in (["--results", str(out)], ["--boxes", str(tmp_path / "boxes.json")]):
        assert main([*base, *options]) == 2
        assert "--results FILE with --boxes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_weights_run_through_the_development_set(shared_dir):
    torch.manual_seed(0)
    data = shared_dir / "data" / "coco_val_dev"
    metrics = measure(create_model("tiny_256x192"), read_labels(data / "annotations.json"), data / "images")
    assert (metrics["people"], metrics["images"]) == (188, 58)
    assert metrics["AP"] < 0.05
    assert metrics["exit_rate"] == 0


def test_the_worst_people_are_drawn_beside_their_labels(folder, tmp_path):
    document = read_labels(folder / "annotations.json")
    oks_wanted = np.full((len(document["annotations"]), 1), 0.95)
    oks_wanted[3], oks_wanted[5] = 0.1, 0.4
    predictions = perfect(document, coarse_oks=oks_wanted)
    sheet, plain = tmp_path / "worst.png", tmp_path / "plain.png"
    found = write_worst(predictions, document, folder / "images", Gate(-math.inf), COCO17, sheet, 3)
    assert found == pytest.approx([0.1, 0.4, 0.95], abs=1e-3)
    write_worst(predictions, document, None, Gate(-math.inf), COCO17, plain, 3)
    colours = [len(np.unique(cv2.imread(str(path)).reshape(-1, 3), axis=0)) for path in (sheet, plain)]
    assert colours[0] > colours[1] > 3  # the photograph is there, and is not
    other = tmp_path / os.fsdecode(b"caf\xe9.png")  # no text, at which OpenCV's way from Python crashes
    write_worst(predictions, document, None, Gate(-math.inf), COCO17, other, 3)
    assert other.read_bytes() == plain.read_bytes()
    with pytest.raises(OutputError, match=r"a picture file such as worst\.png"):
        write_worst(predictions, document, None, Gate(-math.inf), COCO17, other.with_suffix(os.fsdecode(b".\xe9")), 3)
    with pytest.raises(OutputError, match=r"worst\.png"):
        write_worst(predictions, document, None, Gate(-math.inf), COCO17, tmp_path / "no" / "worst.png", 3)
    unlabelled = {**document, "annotations": [{**a, "keypoints": [0] * 51} for a in document["annotations"]]}
    with pytest.raises(DatasetError, match="none of the people has a labelled keypoint"):
        write_worst(predictions, unlabelled, None, Gate(-math.inf), COCO17, plain, 3)


@pytest.fixture
def found_in_part(folder):
    """Labels of four pictures of two people and a crowd, and boxes: nobody of picture 3 is found and one of picture 2
    too weakly, picture 4 has a false alarm and a box in the crowd, and all is well in picture 1."""
    document = json.loads((folder / "annotations.json").read_text())
    people = [(record["image_id"], record["bbox"]) for record in document["annotations"]]
    crowd = {**document["annotations"][0], "id": 99, "image_id": 4, "bbox": [100, 200, 60, 40], "iscrowd": 1}
    (folder / "annotations.json").write_text(json.dumps({**document, "annotations": [*document["annotations"], crowd]}))
    found = [(*person, 0.9) for person in (*people[:3], *people[6:])]
    found += [(*people[3], 0.2), (4, [0, 0, 30, 20], 0.8), (4, [110, 205, 20, 30], 0.7), (3, [200, 5, 50, 30], 0.6)]
    xywh = np.array([box for _, box, _ in found], np.float32)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    boxes = Boxes(
        np.array([i for i, _, _ in found]),
        corners,
        np.array([s for *_, s in found], np.float32),
        -np.ones(len(found), int),
    )
    return read_box_labels(folder / "annotations.json"), boxes


def test_a_detectors_boxes_are_judged_as_ap_does(found_in_part):
    document, boxes = found_in_part
    verdicts = judge(boxes, document, as_labels=True)
    counts = [(v.image_id, len(v.missed_xyxy), len(v.found_xyxy), v.false_scores.round(2).tolist()) for v in verdicts]
    assert counts == [(1, 0, 2, []), (2, 1, 1, []), (3, 2, 0, [0.6]), (4, 0, 2, [0.8])]
    np.testing.assert_allclose(verdicts[3].false_xyxy, [[0, 0, 30, 20]])
    x, y, w, h = document["annotations"][3]["bbox"]
    np.testing.assert_allclose(verdicts[1].missed_xyxy, [[x, y, x + w, y + h]])
    assert len(judge(boxes, document, 0.1, as_labels=True)[1].missed_xyxy) == 0
    nothing = Boxes(
        *(values[:0] for values in (boxes.image_ids, boxes.bboxes_xyxy, boxes.scores, boxes.annotation_ids))
    )
    assert [len(v.missed_xyxy) for v in judge(nothing, document)] == [2, 2, 2, 2]
    metrics = box_ap(nothing, document)
    assert (metrics["AP"], metrics["AR"], metrics["APS"]) == (0, 0, -1)  # nobody is small


def test_the_pictures_of_most_missed_people_are_drawn(folder, found_in_part, tmp_path):
    document, boxes = found_in_part
    verdicts = judge(boxes, document, as_labels=True)
    names = "photo", "plain", "other_photo", "other_plain"
    for name in names:
        if name == "other_photo":
            for path in (folder / "images").iterdir():
                cv2.imwrite(str(path), np.full((240, 320, 3), (7, 99, 180), np.uint8))
        plain = name.endswith("plain")
        out = tmp_path / f"{name}.png"
        worst = write_worst_pictures(verdicts, document, folder / "images", out, plain=plain, pictures=3)
        assert worst == [3, 2, 4]  # most missed people, then the strongest false alarm
    sheets = {name: cv2.imread(str(tmp_path / f"{name}.png")) for name in names}
    np.testing.assert_array_equal(sheets["plain"], sheets["other_plain"])  # nothing of the photographs is in it
    assert (sheets["photo"] != sheets["other_photo"]).any()
    width = sheets["plain"].shape[1] // 3
    legend, tiles = sheets["plain"][:20], [sheets["plain"][40:, i * width : (i + 1) * width] for i in range(3)]

    def drawn(part):
        return [bool((part == colour).all(-1).any()) for colour in (MISSED, FALSE_ALARM, FOUND)]

    assert drawn(legend) == [True, True, True]
    assert [drawn(tile) for tile in tiles] == [[True, True, False], [True, False, True], [False, True, True]]
    for tile, verdict in zip(tiles[:2], (verdicts[2], verdicts[1]), strict=True):
        for left, top, right, bottom in (verdict.missed_xyxy * 384 / 320).round().astype(int).clip(0, (383, 287) * 2):
            assert tile[top, left].tolist() == tile[bottom, right].tolist() == list(MISSED)


def test_a_sheet_in_other_boxes_is_refused_before_anything_runs(folder, tmp_path, monkeypatch, capsys):
    def measured(*_, **__):
        raise AssertionError

    monkeypatch.setattr("sharpose_rt.models.weights.load_model", measured)
    base = ["eval", "--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    for boxes in ("detector", str(tmp_path / "boxes.json")):
        assert main([*base, "--boxes", boxes, "--worst", str(tmp_path / "worst.png")]) == 2
        assert "it needs --boxes gt" in capsys.readouterr().err


def test_what_was_measured_is_told_before_anything_is_drawn(folder, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OutputError("no space left")

    for name in ("worst.write_worst", "sweep.write_sweep", "detector.write_worst_pictures"):
        monkeypatch.setattr(f"sharpose_rt.evaluation.{name}", full)
    monkeypatch.setattr("sharpose_rt.evaluation.detector.detector_boxes", lambda *_, **__: nobody)
    nobody = Boxes(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    labels = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    network = ["eval", *labels, "--model", SMALL.name, "--weights", "random", "--device", "cpu"]
    sheet = ["--worst", str(tmp_path / "worst.png")]
    for n, command in enumerate(
        ([*network, *sheet], [*network, "--sweep-threshold", str(tmp_path / "s")], ["eval-detector", *labels, *sheet])
    ):
        assert main([*command, "--json", str(tmp_path / f"{n}.json")]) != 0
        told = capsys.readouterr()
        assert "no space left" in told.err
        assert "\nAP50 " in told.out
        assert json.loads((tmp_path / f"{n}.json").read_text())["AP"] >= 0


@pytest.mark.parametrize("command", ["eval", "eval-detector"])
def test_where_no_picture_can_be_written_nothing_is_measured(folder, tmp_path, monkeypatch, capsys, command):
    def measured(*_, **__):
        raise AssertionError

    monkeypatch.setattr("sharpose_rt.evaluation.detector.detector_boxes", measured)
    monkeypatch.setattr("sharpose_rt.evaluation.predict.predict", measured)
    base = [command, "--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    for name in ("no/worst.png", "worst.doc", "worst"):
        assert main([*base, "--worst", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert f"{name} cannot be written; give a picture file such as worst.png in a folder that exists" in said
    assert main([*base, "--worst-plain"]) == 2
    assert "give --worst OUT.png too" in capsys.readouterr().err


def test_a_detector_is_measured_in_int8_where_it_has_that(folder, tmp_path, capsys):
    base = ["eval-detector", "--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    (tmp_path / "boxes.txt").write_text("1,1,5,5,40,40,1\n")
    assert main([*base, "--precision", "int8", "--detector", str(tmp_path / "boxes.txt")]) == 2
    assert "has no int8; 'bundled' and files" in capsys.readouterr().err
    assert main([*base, "--precision", "int8"]) == 0
    assert "int8, simulated in torch" in capsys.readouterr().out


def test_a_measured_detector_draws_its_worst_pictures(folder, found_in_part, tmp_path, monkeypatch):
    document, boxes = found_in_part
    monkeypatch.setattr("sharpose_rt.evaluation.detector.detector_boxes", lambda *_, **__: boxes)
    arguments = DetectorConfig("boxes.json"), folder / "annotations.json", folder / "images"
    metrics = evaluate_detector(*arguments)
    for plain in (False, True):
        out, wanted = tmp_path / "worst.png", tmp_path / "wanted.png"
        assert evaluate_detector(*arguments, worst=out, worst_plain=plain) == metrics
        write_worst_pictures(judge(boxes, document, as_labels=True), document, folder / "images", wanted, plain=plain)
        assert out.read_bytes() == wanted.read_bytes()


def test_the_command_line_draws_a_detectors_worst_pictures(folder, found_in_part, tmp_path, monkeypatch, capsys):
    _, boxes = found_in_part
    monkeypatch.setattr("sharpose_rt.evaluation.detector.detector_boxes", lambda *_, **__: boxes)
    base = ["eval-detector", "--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    photo, plain = tmp_path / "photo.png", tmp_path / "plain.png"
    assert main([*base, "--worst", str(photo)]) == 0
    assert main([*base, "--worst", str(plain), "--worst-plain", "--json", str(tmp_path / "m.json")]) == 0
    written = json.loads((tmp_path / "m.json").read_text())
    assert written["command"].startswith("sharpose-rt")
    assert written["precision"] == "fp32"
    colours = [len(np.unique(cv2.imread(str(path)).reshape(-1, 3), axis=0)) for path in (photo, plain)]
    assert colours[0] > colours[1] > 3
