"""Other projects' detectors in a file: the bundled network in the forms of theirs finds whom it finds as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from raising import raising

from sharpose_rt.cli import main
from sharpose_rt.compute import openvino_graphs
from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection import create_detector, file_outputs, postprocess
from sharpose_rt.detection.bundled import WEIGHTS, load_module
from sharpose_rt.detection.file_detector import FileDetector, is_ultralytics_export, share_found
from sharpose_rt.detection.file_outputs import MOST_CLASSES, Reading, parse, readings
from sharpose_rt.detection.first_output import FirstOutput
from sharpose_rt.detection.ultralytics_model import UltralyticsDetector
from sharpose_rt.errors import ConfigError, DetectorError
from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.machine.photographs import PEOPLE, photograph_path
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.models.pixel_forms import ALL
from sharpose_rt.skeletons import StreamReader
from sharpose_rt.types import Detections, Frame

pytestmark = [
    pytest.mark.skipif(not openvino_graphs.installed(), reason="openvino is not installed (the extra `cpu`)"),
    pytest.mark.timeout(120),
]

SIDE = 320
"""Of the network's input, px."""


def as_it_is(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    """Centres, sizes and a score [1, 5, N], as ultralytics'."""
    return {"output0": ov.transpose(ov.transpose(table, np.array([0, 2, 1])), np.array([0, 2, 1]))}


def of_mmdeploy(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    boxes, scores = _once(ov, table)
    rows = ov.concat([boxes, ov.unsqueeze(scores, _int(ov, 2))], 2)
    return {"dets": rows, "labels": ov.convert(ov.multiply(scores, np.float32(0)), "i64")}


def of_rtmo(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    boxes, scores = _once(ov, table)
    rows = ov.concat([boxes, ov.unsqueeze(scores, _int(ov, 2))], 2)
    return {"keypoints": ov.unsqueeze(boxes, _int(ov, 3)), "dets": rows}


def of_yolox(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    """Offsets in cells, logarithms of sizes, a score of there being anything and one of its being a person."""
    cells, strides = file_outputs._cells((SIDE, SIDE))
    rows = ov.transpose(table, np.array([0, 2, 1]))
    centre, extent, score = (_columns(ov, rows, *span) for span in ((0, 2), (2, 4), (4, 5)))
    offset = ov.subtract(ov.divide(centre, strides[None]), cells[None])
    half = ov.sqrt(score)
    return {"output": ov.concat([offset, ov.log(ov.divide(extent, strides[None])), half, half], 2)}


def of_yolov5(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    """Boxes, how sure it is of anything, and of each class, which are multiplied: nothing, and people."""
    rows = ov.transpose(table, np.array([0, 2, 1]))
    boxes, part = _columns(ov, rows, 0, 4), ov.sqrt(_columns(ov, rows, 4, 5))
    return {"output": ov.concat([boxes, part, ov.multiply(part, np.float32(0)), part], 2)}


def of_picodet(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    """Corners, and scores of a class of nothing and of people, the classes first."""
    boxes, scores = _corners(ov, table)
    line = ov.unsqueeze(scores, _int(ov, 1))
    return {"boxes": boxes, "scores": ov.concat([ov.multiply(line, np.float32(0.5)), line], 1)}


def of_shares(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    boxes, scores = _corners(ov, table)
    return {"scores": ov.unsqueeze(scores, _int(ov, 2)), "boxes": ov.divide(boxes, np.float32(SIDE))}


def of_rtdetr(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    """In px of the size that it is told."""
    boxes, scores = _once(ov, table)
    sides = ov.concat([ov.convert(size, "f32")] * 2, 1)
    labels = ov.convert(ov.add(ov.multiply(scores, np.float32(0)), np.float32(3)), "i64")
    return {"labels": labels, "boxes": ov.multiply(ov.divide(boxes, np.float32(SIDE)), sides), "scores": scores}


def of_yolo_nas_batches(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    boxes, scores = _once(ov, table)
    classes = ov.convert(ov.multiply(scores, np.float32(0)), "i32")
    count = ov.convert(ov.reduce_sum(ov.add(classes, np.int32(1)), _int(ov, 1), True), "i32")
    return {"num_dets": count, "det_boxes": boxes, "det_scores": scores, "det_classes": classes}


def of_yolov10(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    boxes, scores = _once(ov, table)
    score = ov.unsqueeze(scores, _int(ov, 2))
    return {"output0": ov.concat([boxes, score, ov.multiply(score, np.float32(0))], 2)}


FORMS = [
    (as_it_is, "rgb_unit", 0),
    (of_mmdeploy, "bgr_imagenet", 0),
    (of_rtmo, "bgr", 0),
    (of_yolox, "bgr", 0),
    (of_yolov5, "rgb_unit", 1),
    (of_picodet, "rgb_imagenet", 1),
    (of_shares, "bgr_unit", 0),
    (of_rtdetr, "rgb_unit", 3),
    (of_yolo_nas_batches, "rgb_unit", 0),
    (of_yolov10, "rgb", 0),
]

ONCE = (of_mmdeploy, of_rtmo, of_rtdetr, of_yolo_nas_batches, of_yolov10)
"""Of these the network itself takes the strongest of a person's boxes."""


def _int(ov: Any, *values: int) -> Any:
    return ov.constant(np.array(values, np.int64))


def _columns(ov: Any, rows: Any, first: int, last: int) -> Any:
    return ov.slice(rows, _int(ov, first), _int(ov, last), _int(ov, 1), _int(ov, 2))


def _corners(ov: Any, table: Any) -> tuple[Any, Any]:
    """Corners (1, N, 4) and scores (1, N)."""
    rows = ov.transpose(table, np.array([0, 2, 1]))
    centre, half = _columns(ov, rows, 0, 2), ov.multiply(_columns(ov, rows, 2, 4), np.float32(0.5))
    boxes = ov.concat([ov.subtract(centre, half), ov.add(centre, half)], 2)
    return boxes, ov.squeeze(_columns(ov, rows, 4, 5), _int(ov, 2))


def _once(ov: Any, table: Any) -> tuple[Any, Any]:
    """The same with everybody there once, however many they are."""
    boxes, scores = _corners(ov, table)
    lines = ov.unsqueeze(scores, _int(ov, 1))
    chosen = ov.non_max_suppression(
        boxes,
        lines,
        max_output_boxes_per_class=np.int64(50),
        iou_threshold=np.float32(DetectorConfig.iou_threshold),
        score_threshold=np.float32(0.05),
        box_encoding="corner",
        output_type="i64",
    )
    numbers = ov.squeeze(ov.slice(chosen.output(0), _int(ov, 2), _int(ov, 3), _int(ov, 1), _int(ov, 1)), _int(ov, 1))
    return ov.gather(boxes, numbers, np.int64(1)), ov.gather(scores, numbers, np.int64(1))


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the bundled network, which takes RGB in 0..1, so that it takes another form and gives another."""
    ov, _ = openvino_graphs.openvino()
    module, example = FirstOutput(load_module(WEIGHTS)[0]).eval(), torch.zeros(1, 3, SIDE, SIDE)
    with torch.no_grad():
        module(example)  # lays out the anchors
    plain = openvino_graphs.traced(module, (example,), dynamic_batch=False)
    folder = tmp_path_factory.mktemp("detectors")

    def write(
        form: Callable[..., dict[str, Any]], pixels: str = "rgb_unit", name: str = "", dtype: str = "f32"
    ) -> Path:
        ops, model = ov.opset13, plain.clone()
        wanted = ALL[pixels]
        picture = ops.parameter([1, 3, SIDE, SIDE], ov.Type.f32 if dtype == "f32" else ov.Type.f16, "images")
        size = ops.parameter([1, 2], ov.Type.i64, "orig_target_sizes")
        mean, scale = (
            np.array(wanted.ordered(v), np.float32)[None, :, None, None] for v in (wanted.mean, wanted.scale)
        )
        values = ops.divide(ops.add(ops.multiply(ops.convert(picture, "f32"), scale), mean), np.float32(255))
        if not wanted.rgb:
            values = ops.gather(values, np.array([2, 1, 0]), np.int64(1))
        first = model.get_parameters()[0]
        for target in list(first.output(0).get_target_inputs()):
            target.replace_source_output(values.output(0))
        table = model.outputs[0].get_node().input_value(0)
        outputs = form(ops, table, size)
        results = []
        for key, node in outputs.items():
            node.output(0).get_tensor().set_names({key})
            results.append(ops.result(node))
        given = [picture, size] if form is of_rtdetr else [picture]
        path = folder / f"{form.__name__}_{pixels}_{dtype}.xml"
        ov.save_model(ov.Model(results, given, "detector"), path, compress_to_fp16=False)
        return path

    return write


def found(config: DetectorConfig) -> Detections:
    """Who is in a photograph, made as square as the network's input, so that nothing differs but the form."""
    detector = create_detector(config)
    detector.open()
    image = np.full((1080, 1080, 3), 114, np.uint8)
    image[:, 135:945] = read_photograph("bus.jpg")
    return detector.detect(Frame(0, 0.0, image))


@pytest.fixture(scope="module")
def people() -> Detections:
    return found(DetectorConfig("bundled", image_size=SIDE))


@pytest.fixture(scope="module")
def people_once() -> Detections:
    """The same where of several boxes of a person the strongest is taken for all, as the networks themselves do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postprocess, "AGREES_IOU", 1.0)
        return found(DetectorConfig("bundled", image_size=SIDE))


@pytest.mark.parametrize(("form", "pixels", "person"), FORMS, ids=[form.__name__ for form, *_ in FORMS])
def test_every_form_finds_the_same_people(write, people, people_once, form, pixels, person):
    path = str(write(form, pixels))
    detector = create_detector(DetectorConfig(path))
    assert isinstance(detector, FileDetector)
    detector.open()
    assert detector._ready is not None
    assert detector._ready.manner.pixels[3:] == pixels[3:]  # the bundled one hardly minds which colour comes first
    assert detector._ready.manner.person == person
    again = found(DetectorConfig(path, pixels=pixels))
    wanted = people_once if form in ONCE else people
    assert len(again) == len(wanted) >= 3
    np.testing.assert_allclose(again.bboxes_xyxy, wanted.bboxes_xyxy, atol=2)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "size", "pixels"),
    [
        ("rtmdet_nano_person_end2end.onnx", 320, "bgr_imagenet"),
        ("picodet_s_320_pedestrian_fp16.xml", None, "rgb_imagenet"),
    ],
)
def test_real_ones_say_by_what_they_find_what_they_take(shared_dir, name, size, pixels):
    """MMDeploy's and PaddleDetection's own files: what they take is stated where they come from."""
    detector = FileDetector(str(shared_dir / "teachers" / name), DetectorConfig(image_size=size))
    detector.open()
    assert detector._ready is not None
    assert (detector._ready.manner.pixels, detector._ready.manner.person) == (pixels, 0)
    for photograph, people in PEOPLE.items():
        seen = detector.detect(Frame(0, 0.0, read_photograph(photograph)))
        overlaps = iou_matrix(np.array(people, np.float32), seen.bboxes_xyxy[seen.bbox_scores > 0.3])
        assert (overlaps.max(1) > 0.6).sum() >= len(people) - 1


def test_a_network_made_for_halves_is_given_them(write, people):
    again = found(DetectorConfig(str(write(of_picodet, "rgb_imagenet", dtype="f16")), pixels="rgb_imagenet"))
    assert len(again) == len(people)
    np.testing.assert_allclose(again.bboxes_xyxy, people.bboxes_xyxy, atol=4)


def test_a_run_takes_it_and_names_it(write, tmp_path):
    path = write(of_mmdeploy, "bgr_imagenet")
    photograph = photograph_path("bus.jpg")
    assert main(["--source", str(photograph), "--detector", str(path), "--output", str(tmp_path), "--no-video"]) == 0
    stream = StreamReader(tmp_path / "bus.skeletons.jsonl")
    assert stream.header.detector == str(path)
    assert len(next(iter(stream)).poses) >= 3


def nobody(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    return {"output0": ov.multiply(table, np.float32([1, 1, 1, 1, 1e-3])[None, :, None])}


def test_who_finds_nobody_is_refused_unless_it_is_told_what_it_takes(write, caplog):
    path = str(write(nobody))
    with pytest.raises(
        DetectorError, match=r"hardly finds the people of two photographs \(0 % of them; 15 %.*detector.pixels="
    ):
        found(DetectorConfig(path))
    with caplog.at_level(logging.WARNING):
        assert len(found(DetectorConfig(path, pixels="rgb_unit", person_class=2))) == 0
    assert "hardly finds the people" in caplog.text


def test_the_class_that_is_asked_for_is_taken(write, people):
    path = str(write(of_picodet, "rgb_unit"))
    assert len(found(DetectorConfig(path, pixels="rgb_unit", person_class=1))) == len(people)
    # Nothing is surer to be of class 0 than to be a person.
    assert len(found(DetectorConfig(path, pixels="rgb_unit", person_class=0))) == 0
    with pytest.raises(DetectorError, match=r"\(0 % of them as class 7, \d\d % as class 1; 15 % are needed\)"):
        found(DetectorConfig(path, person_class=7))
    with pytest.raises(ConfigError, match=r"detector.pixels is 'bgr_imagnet'; one of auto, rgb_imagenet"):
        DetectorConfig(path, pixels="bgr_imagnet")
    with pytest.raises(ConfigError, match=r"another project's network \(.onnx, .xml\), but the detector is 'bundled'"):
        create_detector(DetectorConfig("bundled", person_class=1))


def of_a_segmenter(ov: Any, table: Any, size: Any) -> dict[str, Any]:
    return {"masks": ov.unsqueeze(table, _int(ov, 1))}


def test_what_is_no_detector_is_told_by_its_shapes(write, tmp_path):
    with pytest.raises(
        DetectorError, match=r"outputs \[1, 1, 5, 2100\]; expected the boxes of one picture .*rt help networks`"
    ):
        found(DetectorConfig(str(write(of_a_segmenter))))
    with pytest.raises(DetectorError, match=r"there is no file .*none.onnx"):
        found(DetectorConfig(str(tmp_path / "none.onnx")))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\x08" * 300)
    with pytest.raises(DetectorError, match="cannot be read"):
        found(DetectorConfig(str(damaged)))
    crops = _one_layer(tmp_path / "grey.onnx", [1, 1, 64, 64])
    with pytest.raises(DetectorError, match=r"takes \[1, 1, 64, 64\]; expected a picture \[1, 3, height, width\], "):
        found(DetectorConfig(str(crops)))


def test_a_size_that_cannot_be_run_is_told_in_a_line(write, monkeypatch):
    detector = FileDetector(str(write(as_it_is)), DetectorConfig())
    detector.open()

    monkeypatch.setattr(detector, "_compiled", raising(RuntimeError("Check 'TRShape::merge_into' failed")))
    with pytest.raises(DetectorError, match=r"cannot run on pictures of 320x320; try another --detector-size: Check"):
        detector.detect(Frame(0, 0.0, read_photograph("bus.jpg")))


def test_ultralytics_exports_go_their_own_way(tmp_path):
    plain = _one_layer(tmp_path / "plain.onnx", [1, 3, 64, 64])
    assert not is_ultralytics_export(str(plain))
    model = onnx.load(plain)
    words = "namespace, strided_slice, multitask: names, stride, task"
    model.metadata_props.add(key="notes", value=words)
    onnx.save(model, plain)
    assert not is_ultralytics_export(str(plain))
    for key, value in {"stride": "32", "task": "detect", "names": "{0: 'person'}"}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "theirs.onnx")
    assert is_ultralytics_export(str(tmp_path / "theirs.onnx"))
    assert isinstance(create_detector(DetectorConfig(str(tmp_path / "theirs.onnx"))), UltralyticsDetector)
    assert isinstance(create_detector(DetectorConfig(str(tmp_path / "theirs.onnx"), pixels="bgr")), FileDetector)
    assert not is_ultralytics_export(str(tmp_path / "missing.onnx"))
    onnx.save(model, tmp_path / "THEIRS.ONNX")  # whose ending ultralytics does not know
    assert isinstance(create_detector(DetectorConfig(str(tmp_path / "THEIRS.ONNX"))), FileDetector)


def _one_layer(path: Path, shape: list[int]) -> Path:
    made = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["image"], ["boxes"])
    ends = [made(name, onnx.TensorProto.FLOAT, shape) for name in ("image", "boxes")]
    graph = onnx.helper.make_graph([node], "one", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_closing_lets_all_go_and_opening_again_reads_it_again(write, monkeypatch):
    detector = FileDetector(str(write(as_it_is)), DetectorConfig())
    frame = Frame(0, 0.0, read_photograph("bus.jpg"))
    with pytest.raises(DetectorError, match="is not open"):
        detector.detect(frame)
    detector.open()
    ready = detector._ready
    with monkeypatch.context() as patch:
        patch.setattr(openvino_graphs, "read_graph", None)
        detector.open()  # for another source: nothing is read
    assert detector._ready is ready
    first = detector.detect(frame)
    detector.close()
    detector.close()
    assert detector._ready is None
    detector.open()
    np.testing.assert_array_equal(first.bboxes_xyxy, detector.detect(frame).bboxes_xyxy)


# What the outputs say.

BOXES = np.array([[10, 20, 50, 90], [100, 30, 180, 200.5]], np.float32)
SCORES = np.array([0.9, 0.4], np.float32)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.float32])
def test_lines_of_classes_may_be_of_any_type(kind):
    classes = np.array([[2, 0]], kind)
    for outputs in ([SCORES[None], BOXES[None], classes], [BOXES[None], SCORES[None], classes]):
        raw = parse(outputs, (320, 320))
        assert raw is not None
        assert raw.distinct
        np.testing.assert_array_equal(raw.boxes, BOXES)
        np.testing.assert_array_equal(raw.scores, np.float32([[0, 0, 0.9], [0.4, 0, 0]]))


def test_a_class_of_nonsense_is_none():
    rows = np.concatenate([BOXES, SCORES[:, None], np.array([[1e9], [np.nan]], np.float32)], 1)[None]
    assert parse([rows], (320, 320)) is None
    raw = parse([rows], (320, 320), classes=1)  # once it is known
    assert raw is not None
    assert raw.scores.shape[1] < MOST_CLASSES
    assert raw.scores.max() == 0


def test_what_lies_behind_the_scores_is_none():
    """Keypoints in px, what masks are made of, and tables of a layout that nobody knows."""
    cells = 40 * 40 + 20 * 20 + 10 * 10
    chance = np.random.default_rng(0)
    boxes, scores = chance.uniform(10, 90, (4, cells)), chance.uniform(0, 1, (2, cells))
    for behind in (chance.uniform(-1, 320, (51, cells)), chance.uniform(-1, 1, (32, cells))):
        table = np.concatenate([boxes, scores, behind])[None].astype(np.float32)
        for outputs in ([table], [table.transpose(0, 2, 1)]):
            raw = parse(outputs, (320, 320))
            assert raw is not None
            objectness = 1 if outputs[0] is table else scores[:1].T
            wanted = scores.T if outputs[0] is table else scores[1:].T
            np.testing.assert_allclose(raw.scores, objectness * wanted, rtol=1e-5)
            again = parse(outputs, (320, 320), classes=raw.scores.shape[1])
            assert again is not None
            np.testing.assert_array_equal(again.scores, raw.scores)
    for shape in ((1, 8500, 85), (1, 84, 34000), (1, 300, 84)):
        assert parse([chance.uniform(-1, 300, shape).astype(np.float32)], (320, 320)) is None
    logits = [BOXES[None], chance.normal(size=(1, 2, 5)).astype(np.float32)]
    assert parse(logits, (320, 320)) is None


@pytest.mark.parametrize("width", [32, 64, 320])
def test_a_fourth_stride_has_more_cells(width):
    cells = sum((width // stride) * (width // stride) for stride in (8, 16, 32, 64))
    raw = parse([np.full((1, 5, cells), 0.5, np.float32)], (width, width))
    assert raw is not None
    assert raw.scores.shape == (cells, 1)


@given(
    st.lists(
        arrays.arrays(
            st.sampled_from([np.float32, np.int64]),
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7),
            elements=st.integers(-3, 90),
        ),
        max_size=4,
    )
)
def test_outputs_of_any_shape_are_boxes_or_nothing(outputs):
    raw = parse(outputs, (32, 32))
    if raw is not None:
        assert raw.boxes.shape == (len(raw.scores), 4)
        assert raw.scores.ndim == 2
        for reading in readings(raw, (32, 32)):
            assert reading.boxes(raw, (32, 32)).shape == raw.boxes.shape


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_boxes_in_cells_come_back(columns, rows, seed):
    """YOLOX's own way of writing them, undone."""
    size = columns * 32, rows * 32
    places, strides = file_outputs._cells(size)
    chance = np.random.default_rng(seed)
    centre, extent = chance.uniform(0, 96, (len(places), 2)), chance.uniform(2, 200, (len(places), 2))
    written = np.concatenate([centre / strides - places, np.log(extent / strides), np.ones((len(places), 2))], 1)
    raw = parse([written[None].astype(np.float32)], size)
    assert raw is not None
    assert Reading(in_cells=True) in readings(raw, size)
    boxes = Reading(in_cells=True).boxes(raw, size)
    np.testing.assert_allclose(
        boxes, np.concatenate([centre - extent / 2, centre + extent / 2], 1), rtol=1e-3, atol=0.05
    )


def test_the_share_that_is_found_is_of_scores_and_overlaps():
    people = np.array([[0, 0, 100, 100], [200, 0, 300, 100]], np.float64)
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 80], [500, 0, 600, 90], [np.nan, 0, 1, 1]], np.float64)
    scores = np.array([[0.5, 0.1], [0.2, 0.9], [1, 1], [1, 1]])
    np.testing.assert_allclose(share_found(boxes, scores, people), [0.25, 0.36], atol=1e-6)
    np.testing.assert_array_equal(share_found(boxes[:0], scores[:0], people), [0, 0])


@settings(max_examples=24)  # each is compiled
@given(arrays.arrays(np.uint8, (1, 4, 5, 3)), st.sampled_from(sorted(ALL)))
def test_a_form_of_pixels_is_the_same_inside_a_graph(images, name):
    ov, core = openvino_graphs.openvino()
    ops = ov.opset13
    picture = ops.parameter([1, 3, 4, 5], ov.Type.f32)
    model = ALL[name].before(ov.Model([ops.result(ops.multiply(picture, np.float32(1)))], [picture], "same"))
    inside = next(iter(core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([images]).values()))
    np.testing.assert_allclose(inside, ALL[name].apply(images), atol=1e-4)
