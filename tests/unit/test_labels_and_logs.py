"""Labels are taken alike by whatever reads them, and a run loses nothing to wrong ones, a torn log or a lost start."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from sharpose_rt.cli import main
from sharpose_rt.commands import train
from sharpose_rt.errors import DatasetError, OutputError
from sharpose_rt.evaluation import quantize
from sharpose_rt.evaluation.boxes import file_boxes
from sharpose_rt.evaluation.detector import read_box_labels
from sharpose_rt.evaluation.truth import read_labels
from sharpose_rt.models import create_model
from sharpose_rt.models.create import attention_scale_of, set_attention_scale
from sharpose_rt.models.variants import VARIANTS
from sharpose_rt.models.weights import save_weights
from sharpose_rt.skeleton import COCO17, MPII16
from sharpose_rt.training.config import DataConfig, SetConfig
from sharpose_rt.training.datasets import read_people
from sharpose_rt.training.log import COLUMNS, read_log, write_log
from sharpose_rt.training.pictures import read_pictures
from tests.movenet_file import write_movenet
from tests.people_set import SMALL, change, measure, train_config, trainer, write_set

CONV = replace(SMALL, name="small_conv", size_hw=(128, 64), stem="mobile", decoder="pixels")
SMALL_MPII = replace(SMALL, name="small_mpii", skeleton=MPII16)


@pytest.fixture(autouse=True)
def small_variants(monkeypatch):
    for variant in (SMALL, CONV, SMALL_MPII):
        monkeypatch.setitem(VARIANTS, variant.name, variant)


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "painted")


config = partial(train_config, epochs=2)  # 4 steps


def rewrite(folder, edit):
    """Change the label file of a set by a function of its document."""
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


# --- labels -------------------------------------------------------------------------------------------------------


def for_training(folder):
    return read_people(folder / "annotations.json", folder / "images")


def for_eval(folder):
    return read_labels(folder / "annotations.json")


def for_detectors(folder):
    return read_box_labels(folder / "annotations.json")


def of_a_detector_set(folder):
    return read_pictures(folder, 0.4)


ALL = (for_training, for_eval, for_detectors, of_a_detector_set)
POSES = (for_training, for_eval)
POINTS = [5.0, 5.0, 2] * 17


@pytest.mark.parametrize(
    ("readers", "fields", "message"),
    [
        (ALL[:3], {"area": -3}, r"area is -3; 0 px² or more is accepted, or no area"),
        (ALL, {"image_id": [1]}, r"image_id \[1\] is not among"),
        (ALL, {"image_id": {}}, r"image_id \{\} is not among"),
        (ALL, {"bbox": [10**400, 2, 30, 40]}, r"bbox is \[10000.*; \[x, y, width, height\] in px"),
        (ALL, {"iscrowd": "0"}, r"iscrowd is '0'; a finite number is accepted, or no iscrowd"),
        (POSES, {"keypoints": [*POINTS[:-3], 10**400, 5, 2]}, r"keypoints\[48\] is 1000.*; a finite number is needed"),
        (POSES, {"keypoints": [*POINTS[:-2], float("nan"), 2]}, r"keypoints\[49\] is nan; a finite number is needed"),
        (POSES, {"keypoints": [*POINTS[:-3], 1e300, 5, 2]}, r"keypoints\[48\] is 1e\+300; a finite number is needed"),
        (POSES, {"keypoints": [*POINTS[:-1], 3]}, r"keypoint 16 has third value 3; visibility 0, 1 or 2 is accepted"),
        ((for_eval,), {"id": 2**63}, r"id is 9223372036854775808; an integer is wanted, of 64 bits at most"),
    ],
)
def test_all_readers_refuse_a_wrong_record_alike(folder, readers, fields, message):
    change(folder, 2, **fields)
    for reader in readers:
        with pytest.raises(DatasetError, match=rf"annotations\.json: annotations\[2\]: {message}"):
            reader(folder)


@pytest.mark.parametrize("wrong", [[1], {}, None])
def test_the_id_of_a_picture_is_a_number_or_a_name(folder, wrong):
    rewrite(folder, lambda document: document["images"][1].update(id=wrong))
    for reader in ALL:
        with pytest.raises(DatasetError, match=r"images\[1\] is {.*; `id` \(a number or a name\) and `file_name`"):
            reader(folder)


def test_ids_that_no_array_holds_are_refused_where_arrays_hold_them(folder, tmp_path):
    rewrite(folder, lambda document: document["images"][1].update(id=10**30))
    for reader in (for_eval, for_detectors):
        with pytest.raises(DatasetError, match=r"images\[1\] has the id 1000.*; an integer is wanted, of 64 bits"):
            reader(folder)
    record = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    for fields in ({"image_id": 10**400}, {"bbox": [10**400, 2, 3, 4]}):
        (tmp_path / "boxes.json").write_text(json.dumps([record | fields]))
        with pytest.raises(DatasetError, match=r"cannot read boxes from .*boxes\.json: OverflowError"):
            file_boxes(tmp_path / "boxes.json")


def test_an_area_of_0_is_none_for_all_readers(folder):
    def areas():
        records = [document["annotations"] for document in (for_eval(folder), for_detectors(folder))]
        return [for_training(folder).areas.tolist(), *([a["area"] for a in found] for found in records)]

    model = create_model(SMALL)
    rewrite(folder, lambda document: [record.pop("area") for record in document["annotations"]])
    without, scores = areas(), measure(model, for_eval(folder), folder / "images")
    rewrite(folder, lambda document: [record.update(area=0) for record in document["annotations"]])
    assert areas() == without
    assert without[1] == without[2] == pytest.approx(without[0])
    assert min(without[0]) > 1000
    assert measure(model, for_eval(folder), folder / "images")["oks_fine"] == scores["oks_fine"]


@pytest.mark.parametrize("named", [True, False])
def test_what_trains_a_network_can_be_evaluated_by_it(folder, named):
    """Without pelvis and thorax, labels have 14 of MPII's names, and 12 of COCO's."""
    names = [name for name in MPII16.keypoints if not named or name not in ("pelvis", "thorax")]

    def as_mpii(document):
        document["categories"][0] |= {"keypoints": names} if named else {}
        for record in document["annotations"]:
            place = dict(zip(COCO17.keypoints, np.reshape(record["keypoints"], (17, 3)).tolist(), strict=True))
            record["keypoints"] = [v for name in names for v in place.get(name, place["nose"])]
            record |= {"num_keypoints": len(names), "head_size_px": 20.0}

    rewrite(folder, as_mpii)
    path, images, model = folder / "annotations.json", folder / "images", create_model(SMALL_MPII)
    people = read_people(path, images, skeleton=MPII16)
    document = read_labels(path, first=MPII16)
    triples = np.array([record["keypoints"] for record in document["annotations"]]).reshape(-1, 16, 3)
    np.testing.assert_allclose(triples[..., :2], people.keypoints, rtol=1e-6)
    assert measure(model, document, images)["PCKh"] >= 0
    assert quantize.quantize(model, path, images, 2)[1]["PCKh"] >= 0
    plan = config(model=SMALL_MPII.name, data=DataConfig(sets=(SetConfig("painted"),), validation=SetConfig("painted")))
    validate = train._validation(plan, [folder.parent])
    assert validate is not None
    path.unlink()  # read once
    assert validate(model)["val_ap"] >= 0


@pytest.mark.parametrize(
    ("people", "hint"), [("200", "The file has no more people; try another with more"), ("3", "--people")]
)
def test_quantize_does_not_ask_for_more_people_than_there_are(folder, tmp_path, monkeypatch, capsys, people, hint):
    torch.manual_seed(0)
    save_weights(create_model(SMALL), tmp_path / "in.safetensors")
    aps = iter((0.5, 0.4))
    monkeypatch.setattr(quantize, "score", lambda *_: {"AP": next(aps)})
    files = [str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")]
    labels = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    assert main(["weights", "quantize", *files, *labels, "--people", people]) == 2
    message = capsys.readouterr().err
    assert message.strip().endswith(hint)
    assert ("--people" in message) == (hint == "--people")


# --- validation ---------------------------------------------------------------------------------------------------


def with_names_for_ids(document):
    for image in document["images"]:
        image["id"] = str(image["id"])
    for record in document["annotations"]:
        record["image_id"] = str(record["image_id"])


def with_a_picture_that_is_missing(document):
    document["images"][2]["file_name"] = "elsewhere.png"


def of_mpii(document):
    document["categories"][0]["keypoints"] = list(MPII16.keypoints)
    for record in document["annotations"]:
        record["keypoints"] = record["keypoints"][:48]


def with_nobody(document):
    document["annotations"] = []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (with_names_for_ids, "images[0] has the id '1'; an integer"),
        (with_a_picture_that_is_missing, "elsewhere.png is missing"),
        (of_mpii, "the 16 keypoints of mpii16, but test_128x96 gives the 17"),
        (with_nobody, "nobody with keypoints"),
    ],
)
def test_a_wrong_validation_set_is_named_before_training(tmp_path, folder, capsys, edit, message):
    rewrite(write_set(tmp_path / "measured"), edit)
    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 4\nepochs: 1\ndevice: cpu\n"
        "data: {sets: [painted], validation: measured, workers: 0}\n"
    )
    arguments = ["--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "log.csv").exists()


def test_what_was_learnt_before_a_validation_that_fails_is_kept(tmp_path, folder):
    measured = write_set(tmp_path / "measured", seed=1)
    data = replace(config().data, validation=SetConfig("measured"))
    plan = config(data=data, epochs=4, validate_minutes=1e-6)
    run = trainer(plan, folder, tmp_path / "run", validate=train._validation(plan, [tmp_path]))

    def break_after_the_second_step(row):
        if row["step"] == 2:
            (measured / "images" / "3.png").write_bytes(b"no picture")

    with pytest.raises(DatasetError, match=r"3\.png cannot be decoded"):
        run.run(progress=break_after_the_second_step)
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == run.step == 2


# --- logs ---------------------------------------------------------------------------------------------------------


def row(step):
    return {"step": float(step), "samples": 4.0 * step, "loss": 0.5, "val_ap_coarse": 0.51234}


def test_a_log_has_all_digits_of_a_long_run(tmp_path):
    path, last = tmp_path / "log.csv", {"step": 1234567.0, "samples": 19753072.0}
    write_log([last], path)
    assert read_log(path, 1234567) == [last]


def test_a_torn_log_is_read_as_far_as_it_is_whole(tmp_path):
    path = tmp_path / "log.csv"
    write_log([row(step) for step in (1, 2, 3)], path)
    whole = path.read_bytes()
    assert read_log(path) == [row(1), row(2), row(3)]
    for cut in range(whole.index(b"\n"), len(whole)):
        path.write_bytes(whole[:cut])
        assert read_log(path) == [row(1), row(2), row(3)][: max(0, whole[:cut].count(b"\n") - 1)], cut
    lines = whole.splitlines(keepends=True)
    for torn in (b"2,8,0.", b"2,8,x\r\n", b"2,8," + lines[3], bytes(99) + b"\xff\r\n"):  # a line is then added to it
        path.write_bytes(lines[0] + lines[1] + torn + lines[3])
        assert read_log(path)[0] == row(1)
        assert all(found in (row(1), row(3)) for found in read_log(path))
    path.write_text("nothing of a log\n1\n")
    assert read_log(path) == []


def test_a_run_goes_on_from_a_torn_log(tmp_path, folder):
    run = trainer(config(epochs=1), folder, tmp_path / "run")
    run.run()
    log = tmp_path / "run" / "log.csv"
    log.write_bytes(log.read_bytes() + b"3,12,0.")
    again = trainer(config(epochs=2), folder, tmp_path / "run", resume=True)
    again.run()
    assert [found["step"] for found in read_log(log)] == [1, 2, 3, 4]
    with log.open(newline="") as file:
        assert {len(line) for line in csv.reader(file)} == {len(COLUMNS)}


def test_a_log_that_cannot_be_written_is_said_and_the_old_one_stays(tmp_path, folder, monkeypatch):
    path = tmp_path / "log.csv"
    write_log([row(1), row(2)], path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", full)
        with pytest.raises(
            OutputError, match=r"the log .*log\.csv cannot be written \(no space left\); is the disk full\?"
        ):
            write_log([row(1)], path)
        with pytest.raises(OutputError, match="is the disk full"):
            write_log([row(3)], path, append=True)
    assert path.read_bytes() == before
    assert {item.name for item in tmp_path.iterdir()} == {"log.csv", "painted"}
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the log .* cannot be written"):
        trainer(config(), folder, tmp_path / "file" / "run").run()


# --- resuming -----------------------------------------------------------------------------------------------------


def test_a_run_is_resumed_exactly_without_what_it_started_from(tmp_path, folder, capsys):
    start = tmp_path / "start.safetensors"
    model = create_model(SMALL)
    set_attention_scale(model, 0.21)
    save_weights(model, start)
    plan = config(init=str(start), optim=replace(config().optim, layer_decay=0.8))
    whole = trainer(plan, folder, tmp_path / "whole")
    assert whole.run() == "finished"
    first = trainer(plan, folder, tmp_path / "parts")
    assert first.run(progress=lambda row: first.stop() if row["step"] == 2 else None) == "stopped"
    start.unlink()
    second = trainer(plan, folder, tmp_path / "parts", resume=True)
    assert (second.step, attention_scale_of(second.model)) == (2, pytest.approx(0.21))
    assert second.run() == "finished"

    ends = [torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("whole", "parts")]
    for part in ("model", "ema"):
        for name, value in ends[0][part].items():
            assert torch.equal(value, ends[1][part][name]), (part, name)
    assert ends[0]["attention_scale"] == ends[1]["attention_scale"]
    assert torch.equal(ends[0]["rng"], ends[1]["rng"])
    assert [r["loss"] for r in whole.rows] == pytest.approx([r["loss"] for r in second.rows], rel=1e-5)

    (tmp_path / "plan.yaml").write_text(
        f"model: {SMALL.name}\nbatch: 4\nepochs: 3\ndevice: cpu\ninit: {start}\ndrop_path: 0.2\n"
        "optim: {lr: 2.0e-3, warmup_steps: 2, ema: 0.9, schedule: cosine, layer_decay: 0.8}\n"
        "data: {sets: [painted], workers: 0}\n"
    )
    arguments = ["--config", str(tmp_path / "plan.yaml"), "--data-root", str(tmp_path), "--out"]
    assert main(["train", *arguments, str(tmp_path / "parts"), "--resume"]) == 0
    assert "resumed at step 4" in capsys.readouterr().out
    assert main(["train", *arguments, str(tmp_path / "new")]) == 2  # a new one wants it
    assert "start.safetensors" in capsys.readouterr().err


def test_a_stem_is_not_fetched_again_to_resume(tmp_path, folder):
    path = write_movenet(tmp_path / "stem")
    plan = config(model=CONV.name, init_stem=str(path), frozen_stem_blocks=2)
    run = trainer(plan, folder, tmp_path / "run")
    run.out.mkdir()
    run.save()
    path.unlink()
    again = trainer(plan, folder, tmp_path / "run", resume=True)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    frozen = [[p.requires_grad for p in model.parameters()] for model in (run.model, again.model)]
    assert frozen[0] == frozen[1]
