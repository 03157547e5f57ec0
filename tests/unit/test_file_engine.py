"""Networks of other projects in a file: what is taken, and that their keypoints come back to where they are."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sharpose_rt import PoseTracker, SHaRPose
from sharpose_rt.cli import main
from sharpose_rt.compute import openvino_graphs
from sharpose_rt.config import BudgetConfig, PoseConfig
from sharpose_rt.engine import FileEngine, choose, create_engine, file_engine, known_people, skeleton_of
from sharpose_rt.errors import ConfigError, DeviceError, WeightsError
from sharpose_rt.geometry.affine import crop_affine
from sharpose_rt.geometry.simcc import decode_simcc, flip_simcc_back, from_udp
from sharpose_rt.machine.photographs import load_photograph
from sharpose_rt.models.pixel_forms import ALL
from sharpose_rt.models.variants import find_variant
from sharpose_rt.skeleton import COCO17, HALPE26, WHOLEBODY133
from sharpose_rt.skeletons import StreamReader
from sharpose_rt.stages import BudgetController, EstimateStage
from sharpose_rt.types import Frame, Packet, Tracks

pytestmark = [
    pytest.mark.skipif(not openvino_graphs.installed(), reason="openvino is not installed (the extra `cpu`)"),
    pytest.mark.timeout(120),
]

H, W = 96, 72
COLOURS = np.array([(k + 1) // 2 % 3 for k in range(17)])
"""Which colour each keypoint is: 0 red, 1 green, 2 blue; a pair has one."""


def write_network(
    path: Path,
    form: str = "heatmaps",
    *,
    batch: int | str = "batch",
    keypoints: int = 17,
    size_hw: tuple[int | str, int | str] = (H, W),
    reverse: bool = False,
    pixels: str = "rgb_imagenet",
) -> Path:
    """A pose network of one convolution: a keypoint is where its colour is, and the others are not."""
    mix = np.full((keypoints, 3), -0.5, np.float32)
    mix[np.arange(keypoints), np.resize(COLOURS, keypoints)] = 1
    # Undoes the normalisation, so that a pure colour gives 1.
    wanted = ALL[pixels]
    mix = mix if wanted.rgb else mix[:, ::-1]
    weight = mix * np.array(wanted.ordered(wanted.scale), np.float32) / 255
    bias = mix @ np.array(wanted.ordered(wanted.mean), np.float32) / 255
    constants = {"weight": weight[:, :, None, None], "bias": bias}
    nodes = [helper.make_node("Conv", ["image", "weight", "bias"], ["response"])]
    if form == "heatmaps":
        nodes.append(helper.make_node("AveragePool", ["response"], ["maps"], kernel_shape=[1, 1], strides=[1, 1]))
        outputs = {"maps": [batch, keypoints, *size_hw]}
    else:
        constants |= {"rows": np.array([2]), "columns": np.array([3]), "none": np.zeros(0, np.float32)}
        constants["twice"] = np.array([1, 1, 2], np.float32)
        outputs = {}
        for name, axis, size in (("simcc_x", "rows", size_hw[1]), ("simcc_y", "columns", size_hw[0])):
            options = {"coordinate_transformation_mode": "asymmetric", "mode": "linear"}
            nodes += [
                helper.make_node("ReduceMax", ["response", axis], [f"{name}_line"], keepdims=0),
                helper.make_node("Resize", [f"{name}_line", "none", "twice"], [name], **options),
            ]
            outputs[name] = [batch, keypoints, 2 * size if isinstance(size, int) else "bins"]
    described = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, *size_hw])
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "pose", [image], described[::-1] if reverse else described, kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def dotted(points: np.ndarray, size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A black picture with a red, a green and a blue dot at these places (3, 2)."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    dots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 6.0**2)) for px, py in points]
    return np.rint(255 * np.stack(dots[::-1], -1)).astype(np.uint8)  # BGR


POINTS = np.array([[120.3, 60.8], [160.7, 110.2], [200.1, 170.6]])
BOX = np.array([[100, 40, 220, 200]], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize("form", ["heatmaps", "simcc"])
@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("flip", [False, True])
def test_keypoints_are_where_the_network_sees_them(folder, form, batch, flip):
    path = write_network(folder / f"{form}_{batch}.onnx", form, batch=batch)
    engine = create_engine(PoseConfig(model=str(path), flip_test=flip, threads=2))
    assert isinstance(engine, FileEngine)
    boxes = np.concatenate([BOX, BOX + 10, BOX - [20, 10, -30, -20]])
    found = engine.estimate(dotted(POINTS), boxes)
    wanted = np.broadcast_to(POINTS[COLOURS], (3, 17, 2))
    px_per_bin = (boxes[:, 3] - boxes[:, 1]).max() * 1.25 / H / 2
    assert np.abs(found.keypoints - wanted).max() < (1.3 * px_per_bin if form == "simcc" else 0.35)
    assert (found.scores > 0.9).all()
    assert (found.scores <= 1).all()
    assert np.isnan(found.quality).all()
    assert found.refined.all()
    assert len(engine.estimate(dotted(POINTS), np.zeros((0, 4)))) == 0


@pytest.mark.parametrize("pixels", sorted(ALL))
def test_how_it_wants_its_pixels_is_tried_out(folder, pixels, monkeypatch, caplog):
    path = str(write_network(folder / f"in_{pixels}.onnx", pixels=pixels))
    told = FileEngine(PoseConfig(model=path, pixels=pixels)).estimate(dotted(POINTS), BOX)
    assert np.abs(told.keypoints - POINTS[COLOURS]).max() < 0.35
    assert (told.scores > 0.9).all()

    boxes = np.concatenate([BOX, BOX + 1])  # two people with keypoints of three colours
    monkeypatch.setattr(file_engine, "load_photograph", lambda name: dotted(POINTS))
    monkeypatch.setattr(known_people, "BOXES", boxes)
    monkeypatch.setattr(known_people, "KEYPOINTS", np.repeat(POINTS[COLOURS][None], 2, 0))
    found = FileEngine(PoseConfig(model=path))
    if pixels.startswith("rgb"):  # one that takes colours in another order knows two of three
        assert found.pixels.startswith("rgb")
    assert np.abs(found.estimate(dotted(POINTS), BOX).keypoints - POINTS[COLOURS]).max() < 0.35
    assert not caplog.records


@pytest.mark.shared
def test_a_real_network_that_wants_blue_first_is_found_out(shared_dir, folder):
    """PP-TinyPose with its colours exchanged: it knows people in the wrong order too, only not as well."""
    ov, core = openvino_graphs.openvino()
    model = core.read_model(shared_dir / "teachers" / "tinypose_256_192_fp16.xml")
    picture = model.get_parameters()[0]
    readers = list(picture.output(0).get_target_inputs())
    exchanged = ov.opset13.gather(picture, np.array([2, 1, 0]), np.int64(1))
    for reader in readers:
        reader.replace_source_output(exchanged.output(0))
    ov.save_model(model, folder / "blue_first.xml", compress_to_fp16=False)
    assert FileEngine(PoseConfig(model=str(folder / "blue_first.xml"))).pixels == "bgr_imagenet"


def test_who_knows_nobody_is_taken_to_want_what_is_usual(folder, monkeypatch, caplog):
    path = str(write_network(folder / "nobody.onnx"))
    monkeypatch.setattr(known_people, "KEYPOINTS", known_people.KEYPOINTS + 5000)
    assert FileEngine(PoseConfig(model=path)).pixels == "rgb_imagenet"
    assert "hardly finds the keypoints of two people in a photograph (0 % of them)" in caplog.text
    caplog.clear()
    monkeypatch.setattr(file_engine, "load_photograph", lambda name: None)
    assert FileEngine(PoseConfig(model=path)).pixels == "rgb_imagenet"
    assert not caplog.records
    with pytest.raises(ConfigError, match=r"pose\.pixels is 'bgr', but the model 'tiny_256x192' is not a file"):
        create_engine(PoseConfig(pixels="bgr"))


def test_the_people_that_are_known_are_where_we_find_them():
    image = load_photograph(known_people.PHOTOGRAPH)
    assert image is not None
    found = create_engine(PoseConfig(device="cpu", precision="fp32")).estimate(image, known_people.BOXES)
    assert known_people.similarity(found) > 0.85


def test_simcc_has_no_bias(folder):
    """Half a pixel of the crop, 1 px here, is what both conventions differ by; one dot cannot tell, their mean can."""
    engine = FileEngine(PoseConfig(model=str(write_network(folder / "bias.onnx", "simcc"))))
    both = FileEngine(replace(engine.config, flip_test=True))
    chance = np.random.default_rng(0)
    for how in (engine, both):
        errors = []
        for _ in range(100):
            points = chance.uniform([110, 50], [210, 190], (3, 2))
            errors.append(how.estimate(dotted(points), BOX).keypoints[0] - points[COLOURS])
        assert np.abs(np.mean(errors, (0, 1))).max() < 0.3


@pytest.mark.parametrize(("count", "skeleton"), [(17, COCO17), (26, HALPE26), (133, WHOLEBODY133)])
def test_larger_sets_come_whole(folder, count, skeleton):
    path = write_network(folder / f"of_{count}.onnx", "simcc", keypoints=count, reverse=True)
    engine = FileEngine(PoseConfig(model=str(path)))
    assert engine.skeleton is skeleton is skeleton_of(str(path)) is PoseTracker(str(path)).skeleton
    found = engine.estimate(dotted(POINTS), BOX)
    assert found.keypoints.shape == (1, len(skeleton), 2)
    wanted = POINTS[np.resize(COLOURS, count)[: len(skeleton)]]
    assert np.abs(found.keypoints[0] - wanted).max() < 1.5


def test_feet_fill_openposes_body_25(folder):
    path, picture = write_network(folder / "feet.onnx", keypoints=26), folder / "feet.png"
    cv2.imwrite(str(picture), dotted(POINTS))
    out = folder / "feet"
    options = [
        "--boxes",
        "full",
        "--smooth",
        "none",
        "--no-video",
        "--format",
        "openpose,trc,coco_labels,coco,pyskl,csv",
    ]
    assert main(["--source", str(picture), "--model", str(path), "--output", str(out), *options]) == 0
    assert main(["validate", str(out / "feet.skeletons.jsonl")]) == 0
    assert StreamReader(out / "feet.skeletons.jsonl").header.skeleton is HALPE26
    (person,) = json.loads(next((out / "feet.openpose").glob("*.json")).read_text())["people"]
    points = np.array(person["pose_keypoints_2d"]).reshape(25, 3)
    assert (points[19:, 2] > 0.8).all()
    for row, name in ((19, "left_big_toe"), (21, "left_heel"), (23, "right_small_toe")):
        place = HALPE26.keypoints.index(name)
        assert np.abs(points[row, :2] - POINTS[np.resize(COLOURS, 26)[place]]).max() < 1
    assert "left_heel" in next(out.glob("*.trc")).read_text()
    (category,) = json.loads((out / "feet.coco_labels.json").read_text())["categories"]
    assert category["keypoints"] == list(HALPE26.keypoints)
    assert "right_heel_x" in (out / "feet.csv").read_text()
    # What others read has the 17 that they know.
    (result,) = json.loads((out / "feet.coco.json").read_text())
    assert len(result["keypoints"]) == 3 * 17
    assert np.abs(np.reshape(result["keypoints"], (17, 3))[:, :2] - POINTS[COLOURS]).max() < 1
    (clip,) = pickle.loads((out / "feet.pyskl.pkl").read_bytes())["annotations"]
    assert clip["keypoint"].shape[2:] == (17, 2)


@given(
    st.tuples(st.floats(0, 71.4), st.floats(0, 95.4)).map(lambda at: np.array(at)),
    st.integers(1, 3),
)
def test_simcc_decodes_to_the_nearest_bin_and_mirrors_exactly(at, bins):
    x, y = (torch.arange(size * bins) / bins for size in (W, H))
    lines = [torch.exp(-((line - place) ** 2) / 18).expand(1, 17, -1) for line, place in ((x, at[0]), (y, at[1]))]
    found, scores = decode_simcc(lines[0], lines[1], (H, W))
    assert np.abs(found.numpy() - at).max() <= 0.5 / bins + 1e-4
    assert (scores > 0.98).all()
    mirrored = torch.exp(-((x - (W - 1 - at[0])) ** 2) / 18).expand(1, 17, -1)
    back = flip_simcc_back([mirrored, lines[1]], COCO17.flip_order, W)
    length = W * bins - (bins - 1)
    assert torch.allclose(back[0][..., :length], lines[0][..., :length], atol=1e-5)
    assert torch.equal(back[1], lines[1])


def test_the_crop_of_simcc_maps_a_box_onto_all_of_its_pixels():
    box = np.array([[10.0, 20.0, 10 + 72, 20 + 96]])
    maps = from_udp((H, W)) @ crop_affine(box, (W, H), 1.0)
    corners = np.array([[10, 20], [82, 116]])
    assert np.allclose(corners @ maps[0, :, :2].T + maps[0, :, 2], [[0, 0], [W, H]])


def test_face_and_hands_fill_openposes(folder):
    path, picture = write_network(folder / "whole.onnx", keypoints=133), folder / "whole.png"
    cv2.imwrite(str(picture), dotted(POINTS))
    out = folder / "whole"
    options = ["--boxes", "full", "--smooth", "none", "--format", "openpose,alphapose"]
    assert main(["--source", str(picture), "--model", str(path), "--output", str(out), *options]) == 0
    assert main(["validate", str(out / "whole.skeletons.jsonl")]) == 0
    (person,) = json.loads(next((out / "whole.openpose").glob("*.json")).read_text())["people"]
    colours = np.resize(COLOURS, 133)
    for key, count, begin, missing in (
        ("face_keypoints_2d", 70, 23, 2), ("hand_left_keypoints_2d", 21, 91, 0), ("hand_right_keypoints_2d", 21, 112, 0)
    ):  # fmt: skip
        points = np.array(person[key]).reshape(count, 3)
        found = points[: count - missing]
        assert np.abs(found[:, :2] - POINTS[colours[begin : begin + len(found)]]).max() < 1
        assert not points[count - missing :].any()  # pupils
    (result,) = json.loads((out / "whole.alphapose.json").read_text())
    assert len(result["keypoints"]) == 3 * 133
    assert cv2.imread(str(out / "whole.annotated.png")) is not None


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"quality_threshold": 0.9}, ConfigError, "quality_threshold applies only to SHaRPose's two-stage networks"),
        ({"refine_from_gain": 0.05}, ConfigError, "refine_from_gain"),
        ({"refine_from_px": 100}, ConfigError, "refine_from_px"),
        ({"refine_every": 3}, ConfigError, "refine_every"),
        ({"behaviour": "paper"}, ConfigError, "behaviour"),
        ({"weights": "x.pth"}, ConfigError, "contains its weights"),
        ({"precision": "int8"}, DeviceError, "fp32 or bf16"),
        ({"backend": "torch"}, DeviceError, "with OpenVINO on the CPU"),
    ],
)
def test_options_that_it_does_not_have_are_refused(folder, options, kind, said):
    path = write_network(folder / "options.onnx")
    with pytest.raises(kind, match=said):
        SHaRPose(str(path), **options)
    with pytest.raises(kind, match=said):
        next(PoseTracker(str(path), pose=options, detector={"name": "full"}).run([dotted(POINTS)]))


def test_the_detector_beside_it_is_on_the_cpu_too(folder):
    chosen = choose(PoseConfig(model=str(write_network(folder / "beside.onnx"))))
    assert (chosen.device, chosen.backend) == ("cpu", "openvino")
    assert chosen.precision in ("fp32", "bf16")


def test_files_that_are_no_such_network_are_refused(folder):
    def refused(path: Path, said: str) -> None:
        with pytest.raises(WeightsError, match=said) as caught:
            FileEngine(PoseConfig(model=str(path)))
        assert str(path) in str(caught.value)

    refused(folder / "missing.onnx", "there is no file")
    for name in ("text.onnx", "text.xml"):
        (folder / name).write_text("not a network")
        refused(folder / name, "cannot be read")
    whole = write_network(folder / "cut.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    refused(folder / "cut.onnx", "cannot be read")
    (folder / "named.onnx").write_bytes(whole.replace(b"Conv", b"\x95onv", 1))  # quoted in the report
    refused(folder / "named.onnx", "cannot be read")
    refused(
        write_network(folder / "hands.onnx", keypoints=21), r"outputs \[\?, 21, 96, 72\].* K one of 17 \(coco17\), 26"
    )
    baked = onnx.load(write_network(folder / "baked.onnx"))
    baked.graph.initializer.append(numpy_helper.from_array(np.array([4, 17, H, W]), "four"))
    (pool,) = (node for node in baked.graph.node if node.op_type == "AveragePool")
    pool.CopyFrom(helper.make_node("Reshape", ["response", "four"], ["maps"]))
    onnx.save(baked, folder / "baked.onnx")
    refused(folder / "baked.onnx", "batches of one fixed size")
    refused(write_network(folder / "any.onnx", size_hw=("h", "w")), r"takes \[\?, 3, \?, \?\].* with fixed height")


def test_a_variant_is_asked_for_where_only_one_will_do(folder):
    with pytest.raises(ConfigError, match=r"a file, but one of .* is needed here"):
        find_variant("x.onnx")
    with pytest.raises(ConfigError, match=r"or the path of a \.onnx or \.xml file"):
        find_variant("rtmpose-m")


def test_a_run_writes_what_others_write(folder, capsys):
    path = write_network(folder / "run.onnx", "simcc")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(3):
        cv2.imwrite(str(pictures / f"{number}.png"), dotted(POINTS + 2 * number))
    out = folder / "out"
    options = ["--boxes", "full", "--smooth", "none", "--set", "source.image_fps=25", "--no-video", "--format", "coco"]
    assert main(["--source", str(pictures), "--model", str(path), "--output", str(out), *options]) == 0
    assert main(["validate", str(out / "pictures.skeletons.jsonl")]) == 0
    header, *frames, _ = map(json.loads, (out / "pictures.skeletons.jsonl").read_text().splitlines())
    assert header["model"]["name"] == path.name
    assert header["model"]["behaviour"] == "file"
    assert header["model"]["quality_threshold"] is None
    assert len(header["model"]["weights_sha256"]) == 64
    for number, frame in enumerate(frames):
        (person,) = frame["people"]
        assert person["stage"] == "fine"
        assert person["quality"] is None
        found = np.array(person["keypoints"])[:, :2]
        assert np.abs(found - (POINTS + 2 * number)[COLOURS]).max() < 3
    summary = json.loads((out / "pictures.summary.json").read_text())
    assert summary["exit_rate"] is None
    assert summary["backend"] == "openvino"
    assert "without refinement" not in capsys.readouterr().out
    assert (out / "pictures.coco.json").is_file()


def test_frame_by_frame_as_any_model(folder):
    path = write_network(folder / "update.onnx")
    with PoseTracker(str(path), detector={"name": "full"}, smooth={"method": "none"}) as tracker:
        (person,) = tracker.update(dotted(POINTS)).people
        assert np.abs(person.keypoints - POINTS[COLOURS]).max() < 1
    poses = SHaRPose(str(path))(dotted(POINTS), BOX)
    assert np.abs(poses.keypoints[0] - POINTS[COLOURS]).max() < 0.35


def test_a_budget_does_not_try_to_spare_a_stage_that_is_not_there(folder):
    """All poses are `fine`, but nobody was refined: the controller goes on to what helps at once."""
    engine = FileEngine(PoseConfig(model=str(write_network(folder / "budget.onnx"))))
    stage = EstimateStage(lambda: engine, BudgetController(BudgetConfig(latency_ms=100), 1, predict=True), live=True)
    stage.open()
    tracks = Tracks(BOX, np.ones(1, np.float32), np.ones(1, np.int64), np.ones(1, bool))
    (packet,) = stage.process(Packet(Frame(0, 0.0, dotted(POINTS), 0.0), tracks=tracks))
    assert packet.poses is not None
    assert packet.poses.stage.tolist() == [1]
    assert packet.budget is not None
    assert (packet.budget["estimated"], packet.budget["refined"]) == (1, 0)


def test_eval_measures_it(folder, shared_dir, capsys, caplog):
    """The teacher of the shared data, on its labelled people: the same command that measures ours."""
    labels = json.loads((shared_dir / "data" / "coco_val_dev" / "annotations.json").read_text())
    kept = {record["id"] for record in labels["images"][:5]}
    labels["images"] = [record for record in labels["images"] if record["id"] in kept]
    labels["annotations"] = [record for record in labels["annotations"] if record["image_id"] in kept]
    (folder / "some.json").write_text(json.dumps(labels))
    teacher = shared_dir / "teachers" / "tinypose_256_192_fp16"
    for suffix in (".xml", ".bin"):
        shutil.copy(teacher.with_suffix(suffix), folder)
    images = shared_dir / "data" / "coco_val_dev" / "images"
    command = ["eval", "--annotations", str(folder / "some.json"), "--images", str(images), "--json"]
    model = str(folder / f"{teacher.name}.xml")
    assert main([*command, str(folder / "file.json"), "--model", model]) == 0
    found = json.loads((folder / "file.json").read_text())
    assert found["people"] == len(labels["annotations"])
    assert found["precision"] == "fp32"
    assert found["oks_fine"] > 0.75
    engine = FileEngine(PoseConfig(model=model))
    assert engine.pixels == "rgb_imagenet"
    assert not caplog.records  # it finds the people that are known
    assert engine.weights.sha256 == hashlib.sha256((folder / f"{teacher.name}.bin").read_bytes()).hexdigest()
    (folder / "alone.xml").write_bytes((folder / f"{teacher.name}.xml").read_bytes())
    with pytest.raises(WeightsError, match=r"alone\.xml cannot be read"):
        FileEngine(PoseConfig(model=str(folder / "alone.xml")))
    capsys.readouterr()
    assert main([*command, str(folder / "no.json"), "--model", model, "--sweep-threshold", "x"]) == 2
    assert "sweeps need a network with two stages" in capsys.readouterr().err
