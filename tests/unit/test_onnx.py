"""The networks as ONNX files: what they compute, the sheet beside them, the recipe that runs them, and errors."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from sharpose_rt.cli import main
from sharpose_rt.config import DetectorConfig, PoseConfig
from sharpose_rt.detection.assets import import_ultralytics
from sharpose_rt.detection.bundled import WEIGHTS, BundledDetector
from sharpose_rt.engine.engine import PoseEngine
from sharpose_rt.errors import ConfigError, OutputError, WeightsError
from sharpose_rt.export import folder as export
from sharpose_rt.export.folder import FILES, export_folder
from sharpose_rt.export.graphs import pose_plans
from sharpose_rt.export.onnx import OPSETS, check_can_write, differences, write_onnx
from sharpose_rt.geometry.affine import crop_affine, warp_crops
from sharpose_rt.models import VARIANTS, Variant, create_model
from sharpose_rt.models.variants import RELEASED
from sharpose_rt.models.weights import bundled_weights, file_sha256
from sharpose_rt.types import Frame

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "pipelines" / "onnx_pose.py"
BOXES = {
    "bus.jpg": [[48, 399, 246, 904], [222, 405, 345, 862], [669, 392, 810, 879], [0, 550, 78, 874]],
    "zidane.jpg": [[123, 197, 1112, 711], [742, 43, 1149, 711]],
}
MINI = Variant("mini", (128, 96), width=48, heads=3, alpha=0.5, sigma_cells=2, depth=2)


def _photograph(name: str) -> np.ndarray:
    image = cv2.imread(str(Path(import_ultralytics().__file__).parent / "assets" / name))
    assert image is not None
    return np.asarray(image, np.uint8)


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, said: io.StringIO) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "new" / "networks"
    with contextlib.redirect_stdout(said):
        assert main(["weights", "onnx", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def engine() -> PoseEngine:
    return PoseEngine(PoseConfig(device="cpu", precision="fp32", backend="torch"))


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onnx_pose", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Arguments of an export of a small network; writing a graph leaves a word in its file."""
    monkeypatch.setitem(VARIANTS, "mini", MINI)
    monkeypatch.setattr(export, "write_onnx", lambda plan, examples, path, opset: path.write_text(plan.file))
    monkeypatch.setattr(export, "differences", lambda plan, values, path: dict.fromkeys(plan.outputs, 0.0))
    return {
        "name": "mini",
        "weights": "random",
        "behaviour": "auto",
        "detector": DetectorConfig("bundled", image_size=50),  # rounded up to 64
        "opset": 20,
        "overwrite": False,
        "say": lambda line: None,
    }


def test_the_command_says_how_far_from_torch_the_files_are(networks: Path, said: io.StringIO) -> None:
    assert sorted(path.name for path in networks.iterdir()) == sorted(FILES)  # and nothing half done
    lines = said.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == list(FILES[:3])
    assert all(" from torch at most" in line for line in lines[:3])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_keypoints_are_those_of_the_engine(batch: int, networks: Path, engine: PoseEngine, recipe: ModuleType) -> None:
    h, w = engine.crop_size_hw
    pictures = [(_photograph(name), crop_affine(boxes, (w, h))) for name, boxes in BOXES.items()]
    crops = np.concatenate([warp_crops(image, affine, (w, h)) for image, affine in pictures])[-batch:]
    graphs = recipe.Networks(networks)
    coarse = graphs.run("coarse.onnx", {"crops": crops})
    fine = graphs.run("fine.onnx", {"crops": crops, **coarse})
    whole = engine.infer(crops)
    np.testing.assert_array_equal(coarse["selected"], whole.selected_cells.numpy())
    cells = np.sort(np.concatenate([coarse["selected"], coarse["low"]], 1))
    np.testing.assert_array_equal(cells, np.tile(np.arange(cells.shape[1]), (batch, 1)))
    for found, refine in ((coarse, False), (fine, True)):
        wanted = engine.estimate_crops(crops, lambda _, quality, refine=refine: np.full(len(quality), refine))
        np.testing.assert_allclose(found["keypoints"], wanted.keypoints, atol=0.01)
        np.testing.assert_allclose(found["scores"], wanted.scores, atol=1e-4)
        np.testing.assert_allclose(coarse["quality"], wanted.quality, atol=1e-4)
    np.testing.assert_allclose(fine["heatmaps"], whole.heatmaps.numpy(), atol=1e-4)


def test_the_behaviour_of_the_released_code(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = create_model(MINI, replace(RELEASED, first_scored_layer=0.5))
    example, *trials = ({"crops": torch.randint(0, 256, (b, 128, 96, 3), dtype=torch.uint8)} for b in (2, 1, 5))
    coarse, fine = pose_plans(network)
    assert fine.inputs == ("crops", "selected", "low", "image_inputs", "image_outputs")
    for plan, opset in ((coarse, OPSETS[0]), (fine, OPSETS[-1])):
        for values in (example, *trials):
            values |= plan.run(values)
        write_onnx(plan, example, tmp_path / plan.file, opset)
        for values in trials:
            off = differences(plan, values, tmp_path / plan.file)
            assert off["heatmaps"] < 1e-5
            assert off["keypoints"] < 0.1
            assert off.get("selected", 0) == 0


def test_the_sheet_says_what_is_in_the_files(networks: Path) -> None:
    text = (networks / "sharpose.json").read_text(encoding="utf-8")
    sheet = json.loads(text, parse_constant=pytest.fail)  # NaN and infinities are no JSON
    assert list(sheet["graphs"]) == list(FILES[:3])
    types = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}
    for file, ports in sheet["graphs"].items():
        assert ports["sha256"] == file_sha256(networks / file)
        assert str(ROOT).encode() not in (networks / file).read_bytes()  # where it was made is nobody's business
        session = onnxruntime.InferenceSession(networks / file)
        for side, real in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            given = [(port["name"], port["type"], port["shape"]) for port in ports[side]]
            assert given == [(port.name, types[port.type], port.shape) for port in real]
            assert all(port["meaning"] for port in ports[side])
    weights = bundled_weights("tiny_256x192")
    assert weights is not None
    assert sheet["model"] == {"name": "tiny_256x192", "behaviour": "paper", "weights_sha256": file_sha256(weights)}
    assert sheet["detect"]["weights_sha256"] == file_sha256(WEIGHTS)
    assert sheet["gate"]["quality_threshold"] > 1e38  # all are refined
    assert len(sheet["skeleton"]["keypoints"]) == 17
    assert sheet["licence"].startswith("AGPL-3.0-only")


def test_the_recipe_finds_the_people_of_the_detector(networks: Path, recipe: ModuleType) -> None:
    graphs = recipe.Networks(networks)
    size = graphs.sheet["detect"]["size"]
    detector = BundledDetector(DetectorConfig("bundled"))
    detector.open()
    assert detector._network is not None
    detector._network = replace(detector._network, fixed_wh=(size, size))
    for name in BOXES:
        picture = _photograph(name)
        boxes, scores = graphs.people(picture)
        wanted = detector.detect(Frame(frame_id=0, pts_s=0.0, image_bgr=picture, source=name))
        assert len(boxes) >= 2
        np.testing.assert_allclose(boxes, wanted.bboxes_xyxy, atol=0.05)
        np.testing.assert_allclose(scores, wanted.bbox_scores, atol=1e-4)


def test_the_recipe_needs_nothing_of_this_package(networks: Path, engine: PoseEngine, tmp_path: Path) -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(RECIPE.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "cv2", "onnxruntime"}

    picture, drawn = _photograph("bus.jpg"), tmp_path / "drawn.png"
    photo = tmp_path / "bus.png"
    cv2.imwrite(str(photo), picture)
    command = [sys.executable, str(RECIPE), str(networks), str(photo), "--draw", str(drawn)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    people = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(people) >= 3
    boxes = [person["bbox_xyxy"] for person in people]
    wanted = engine.estimate(picture, boxes)
    for person, keypoints, scores in zip(people, wanted.keypoints, wanted.scores, strict=True):
        assert person["stage"] == "fine"
        assert tuple(person["keypoints"]) == engine.skeleton.keypoints
        rows = np.array(list(person["keypoints"].values()))
        sure = scores > 0.3
        np.testing.assert_allclose(rows[sure, :2], keypoints[sure], atol=0.2)
    after = cv2.imread(str(drawn))
    assert after is not None
    assert 100 < (after != picture).any(2).sum() < picture.shape[0] * picture.shape[1] / 4

    cv2.imwrite(str(photo), np.full((64, 96, 3), 90, np.uint8))
    done = subprocess.run(command[:-2], capture_output=True, text=True, check=True)
    assert done.stdout == "nobody\n"


def test_the_recipe_refines_those_whom_the_gate_keeps(networks: Path, engine: PoseEngine, recipe: ModuleType) -> None:
    picture, boxes = _photograph("bus.jpg"), np.array(BOXES["bus.jpg"], float)
    graphs = recipe.Networks(networks)
    threshold = float(np.median(engine.estimate(picture, boxes).quality))
    graphs.sheet["gate"]["quality_threshold"] = threshold
    found = graphs.poses(picture, boxes)
    wanted = engine.estimate(picture, boxes, lambda _, quality: ~(quality >= threshold))
    assert found["refined"].tolist() == wanted.refined.tolist()
    assert 0 < found["refined"].sum() < len(boxes)
    np.testing.assert_allclose(found["scores"], wanted.scores, atol=0.02)
    sure = wanted.scores > 0.3
    np.testing.assert_allclose(found["keypoints"][sure], wanted.keypoints[sure], atol=0.1)


def test_files_are_replaced_only_when_asked_and_all_at_once(
    mini: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_folder(tmp_path, **mini)
    assert (tmp_path / "fine.onnx").read_text() == "fine.onnx"
    assert json.loads((tmp_path / "sharpose.json").read_text())["detect"]["size"] == 64
    (tmp_path / "fine.onnx").write_text("old")
    with pytest.raises(OutputError, match=r"has person_detector.onnx, coarse.onnx, .*--overwrite"):
        export_folder(tmp_path, **mini)

    def full(plan: Any, examples: object, path: Path, opset: int) -> None:
        path.write_text("half")
        if plan.file == "fine.onnx":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_onnx", full)
        with pytest.raises(OutputError, match=r"cannot be written .No space left on device.; give another folder"):
            export_folder(tmp_path, **mini | {"overwrite": True})
    assert (tmp_path / "coarse.onnx").read_text() == "coarse.onnx"
    assert (tmp_path / "fine.onnx").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)

    export_folder(tmp_path, **mini | {"overwrite": True})
    assert (tmp_path / "fine.onnx").read_text() == "fine.onnx"


def test_a_graph_that_computes_something_else_is_refused(
    mini: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "differences", lambda plan, values, path: dict.fromkeys(plan.outputs, 1e4))
    with pytest.raises(OutputError, match=r"gives other .* than torch.* nothing was written.*--opset"):
        export_folder(tmp_path, **mini)
    assert list(tmp_path.iterdir()) == []
    lines: list[str] = []
    monkeypatch.setattr(export, "can_run", lambda: False)
    export_folder(tmp_path, **mini | {"say": lines.append})
    assert all("not compared with torch" in line for line in lines)


def test_wrong_use_says_what_is_accepted(mini: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, error, message in (
        ({"opset": 17}, ConfigError, "opset 17 .* 18 to 23 are accepted"),
        ({"name": "huge"}, ConfigError, "no model 'huge'; one of tiny_256x192, "),
        ({"weights": "auto"}, WeightsError, "no weights for mini"),
        ({"weights": str(tmp_path / "none.safetensors")}, WeightsError, "no weights at"),
    ):
        with pytest.raises(error, match=message):
            export_folder(tmp_path / "out", **mini | changes)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file cannot be written .*give another folder"):
        export_folder(tmp_path / "file", **mini)
    assert main(["weights", "onnx", str(tmp_path / "out"), "--detector-size", "5"]) == 2
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnx and onnxscript, not installed: pip install 'sharpose-rt\[onnx\]'"):
        check_can_write(20)
