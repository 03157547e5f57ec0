"""The networks as ONNX files: what they compute, the sheet beside them, the recipe that runs them, and errors."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipelines import onnx_pose as recipe
from sharpose_rt import __version__
from sharpose_rt.cli import main
from sharpose_rt.config import DetectorConfig, PoseConfig
from sharpose_rt.detection.bundled import WEIGHTS, BundledDetector
from sharpose_rt.engine.engine import PoseEngine
from sharpose_rt.errors import ConfigError, OutputError, WeightsError
from sharpose_rt.export import folder as export
from sharpose_rt.export.folder import FILES, SHEET, export_folder
from sharpose_rt.export.graphs import pose_plans
from sharpose_rt.export.onnx import OPSETS, check_can_write, run_onnx, write_onnx
from sharpose_rt.export.sheet import LICENCE
from sharpose_rt.geometry.affine import crop_affine, warp_crops
from sharpose_rt.machine.photographs import PEOPLE
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.models import VARIANTS, Variant, create_model
from sharpose_rt.models.variants import RELEASED
from sharpose_rt.models.weights import bundled_weights, file_sha256
from sharpose_rt.types import Frame

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "pipelines" / "onnx_pose.py"
MINI = Variant("mini", (128, 96), width=48, heads=3, alpha=0.5, sigma_cells=2, depth=2)


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module", params=["mini", pytest.param("tiny_256x192", marks=pytest.mark.slow)])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, said: io.StringIO
) -> Iterator[tuple[Path, PoseEngine]]:
    """A real export, by the command, and what runs the same network: a small one, where the shipped takes too long."""
    folder = tmp_path_factory.mktemp("onnx") / "new" / "networks"
    weights, behaviour, opset = ("random", "released", 18) if request.param == "mini" else ("auto", "paper", 20)
    command = ["weights", "onnx", str(folder), "--model", request.param, "--weights", weights]
    said.truncate(said.seek(0))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setitem(VARIANTS, "mini", MINI)
        assert main([*command, "--behaviour", behaviour, "--opset", str(opset)]) == 0
        config = PoseConfig(
            model=request.param, weights=weights, behaviour=behaviour, device="cpu", precision="fp32", backend="torch"
        )
        yield folder, PoseEngine(config)


@pytest.fixture(scope="module")
def networks(exported: tuple[Path, PoseEngine]) -> Path:
    return exported[0]


@pytest.fixture(scope="module")
def engine(exported: tuple[Path, PoseEngine]) -> PoseEngine:
    return exported[1]


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of an export of a small network; a graph is a word in a file, and runs as torch does."""
    monkeypatch.setitem(VARIANTS, "mini", MINI)
    monkeypatch.setattr(export, "write_onnx", lambda plan, examples, path, opset: path.write_text(plan.file))
    monkeypatch.setattr(export, "run_onnx", lambda plan, values, path: {name: values[name] for name in plan.outputs})
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
    assert all(" from torch (" in line for line in lines[:3])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_keypoints_are_those_of_the_engine(batch: int, networks: Path, engine: PoseEngine) -> None:
    h, w = engine.crop_size_hw
    pictures = [(read_photograph(name), crop_affine(boxes, (w, h))) for name, boxes in PEOPLE.items()]
    crops = np.concatenate([warp_crops(image, affine, (w, h)) for image, affine in pictures])[-batch:]
    graphs = recipe.Networks(networks)
    coarse = graphs.run("coarse.onnx", {"crops": crops})
    fine = graphs.run("fine.onnx", {"crops": crops, **coarse})
    whole = engine.infer(crops)
    np.testing.assert_array_equal(coarse["selected"], whole.selected_cells.numpy())
    cells = np.sort(np.concatenate([coarse["selected"], coarse["low"]], 1))
    np.testing.assert_array_equal(cells, np.tile(np.arange(cells.shape[1]), (batch, 1)))
    for found, refine in ((coarse, False), (fine, True)):
        wanted = engine.estimate_crops(crops, lambda _, outlook, refine=refine: np.full(len(outlook.quality), refine))
        np.testing.assert_allclose(found["keypoints"], wanted.keypoints, atol=0.01)
        np.testing.assert_allclose(found["scores"], wanted.scores, atol=1e-4)
        np.testing.assert_allclose(coarse["quality"], wanted.quality, atol=1e-4)
    assert ("gain" in coarse) == engine.weights.predicts_gain
    np.testing.assert_allclose(coarse.get("gain", np.full(batch, np.inf)), whole.gain.numpy(), atol=1e-4)
    np.testing.assert_allclose(fine["heatmaps"], whole.heatmaps.numpy(), atol=1e-4)


@pytest.mark.slow
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
            for name, found in run_onnx(plan, values, tmp_path / plan.file).items():
                torch.testing.assert_close(found, values[name], rtol=0, atol=0.1 if name == "keypoints" else 1e-5)


def test_the_sheet_says_what_is_in_the_files(networks: Path) -> None:
    text = (networks / "sharpose.json").read_text(encoding="utf-8")
    sheet = json.loads(text, parse_constant=pytest.fail)  # NaN and infinities are no JSON
    assert list(sheet["graphs"]) == list(FILES[:3])
    types = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}
    for file, ports in sheet["graphs"].items():
        assert ports["sha256"] == file_sha256(networks / file)
        assert str(ROOT).encode() not in (networks / file).read_bytes()  # where it was made is nobody's business
        lowest = {18: 8, 20: 9}[sheet["made_by"]["opset"]]  # runtimes that know the opset know no format above
        assert onnx.load(networks / file).ir_version == lowest
        session = onnxruntime.InferenceSession(networks / file)
        for side, real in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            given = [(port["name"], port["type"], port["shape"]) for port in ports[side]]
            assert given == [(port.name, types[port.type], port.shape) for port in real]
            assert all(port["meaning"] for port in ports[side])
    assert sheet["gate"]["quality_threshold"] > 1e38  # all are refined
    assert sheet["detect"]["max_people"] == 100
    assert len(sheet["skeleton"]["keypoints"]) == 17


def test_the_sheet_of_the_shipped_weights(mini: dict[str, Any], tmp_path: Path) -> None:
    export_folder(tmp_path, **mini | {"name": "tiny_256x192", "weights": "auto"})
    sheet = json.loads((tmp_path / SHEET).read_text(encoding="utf-8"))
    weights = bundled_weights("tiny_256x192")
    assert weights is not None
    assert sheet["model"] == {"name": "tiny_256x192", "behaviour": "paper", "weights_sha256": file_sha256(weights)}
    assert sheet["crop"]["box_padding"] == 1.1
    assert sheet["crop"]["coarse_box_padding"] == PoseConfig.coarse_padding
    assert sheet["detect"]["weights_sha256"] == file_sha256(WEIGHTS)
    assert sheet["licence"] == "AGPL-3.0-only, for the graphs as for the program"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == LICENCE


def test_the_sheet_of_other_weights_in_a_checkout_that_is_not_installed(
    mini: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = importlib.metadata.Distribution.from_name

    def found(name: str) -> Any:
        if name == "sharpose-rt":
            raise importlib.metadata.PackageNotFoundError(name)
        return of(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", found)
    export_folder(tmp_path, **mini)
    sheet = json.loads((tmp_path / SHEET).read_text(encoding="utf-8"))
    assert sheet["made_by"]["sharpose-rt"] == __version__
    assert sheet["licence"].endswith("the pose graphs are under the licence of their weights")


def test_the_recipe_finds_the_people_of_the_detector(networks: Path) -> None:
    graphs = recipe.Networks(networks)
    size = graphs.sheet["detect"]["size"]
    detector = BundledDetector(DetectorConfig("bundled"))
    detector.open()
    assert detector._network is not None
    detector._network = replace(detector._network, fixed_wh=(size, size))
    for name in PEOPLE:
        picture = read_photograph(name)
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

    picture, drawn = read_photograph("bus.jpg"), tmp_path / "drawn.png"
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
        sure = scores >= min(0.3, np.median(scores))  # of random weights, none is above
        np.testing.assert_allclose(rows[sure, :2], keypoints[sure], atol=0.2)
    after = cv2.imread(str(drawn))
    assert after is not None
    changed = (after != picture).any(2).mean()
    assert 1e-4 < changed < 0.25 if (wanted.scores > 0.35).any() else changed == 0


def test_the_recipe_draws_limbs_between_sure_keypoints() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    poses = {"keypoints": np.array([[[5.0, 5], [50, 5], [50, 30]]]), "scores": np.array([[0.9, 0.3, 0.2]])}
    recipe.draw(picture, poses, [[0, 1], [1, 2]])
    assert picture[5, 5:51].any(1).all()
    assert not picture[10:].any()


def test_the_recipe_says_what_it_cannot_do(networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, drawn = tmp_path / "grey.png", tmp_path / "drawn.png"
    grey = np.full((64, 96, 3), 90, np.uint8)
    cv2.imwrite(str(photo), grey)
    recipe.main([str(networks), str(photo), "--draw", str(drawn)])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"{photo} shows nobody\n"
    np.testing.assert_array_equal(cv2.imread(str(drawn)), grey)
    for wrong in (tmp_path / "none" / "drawn.png", tmp_path / "drawn", tmp_path / "drawn.mp3"):
        with pytest.raises(SystemExit, match=r"cannot be written; .*drawn\.png"):
            recipe.save(grey, str(wrong))
    with pytest.raises(SystemExit, match=r"has no sharpose\.json; .*weights onnx .* --overwrite"):
        recipe.main([str(tmp_path), str(photo)])
    with pytest.raises(SystemExit, match="cannot be read"):
        recipe.main([str(networks), str(tmp_path / "none.png")])


def test_the_recipe_refines_those_whom_the_gate_keeps(networks: Path, engine: PoseEngine) -> None:
    picture, boxes = read_photograph("bus.jpg"), np.array(PEOPLE["bus.jpg"], float)
    graphs = recipe.Networks(networks)
    threshold = float(np.median(engine.estimate(picture, boxes).quality))
    graphs.sheet["gate"]["quality_threshold"] = threshold
    found = graphs.poses(picture, boxes)
    wanted = engine.estimate(picture, boxes, lambda _, outlook: ~(outlook.quality >= threshold))
    assert found["refined"].tolist() == wanted.refined.tolist()
    assert 0 < found["refined"].sum() < len(boxes)
    gain = found.get("gain", found["quality"])
    graphs.sheet["gate"] |= {"quality_threshold": 3e38, "refine_from_gain": float(np.median(gain))}
    by_gain = (gain >= np.median(gain)) | (not engine.weights.predicts_gain)
    assert graphs.poses(picture, boxes)["refined"].tolist() == by_gain.tolist()
    np.testing.assert_allclose(found["scores"], wanted.scores, atol=0.02)
    sure = wanted.scores >= min(0.3, np.median(wanted.scores))
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


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(
    mini: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    out, there = tmp_path / "new", []

    def stopped(plan: Any, examples: object, path: Path, opset: int) -> None:
        path.write_text("half")
        there.append(len(list(out.iterdir())))
        if plan.file == "coarse.onnx":
            signal.raise_signal(number)

    monkeypatch.setattr(export, "write_onnx", stopped)
    before = signal.getsignal(signal.SIGTERM)
    try:
        status = main(["weights", "onnx", str(out), "--model", "mini", "--weights", "random"])
    except SystemExit as end:
        status = end.code
    assert status == 128 + number
    assert signal.getsignal(signal.SIGTERM) is before
    assert there == [1, 2]
    assert not out.exists()


def test_a_folder_with_graphs_of_two_exports_has_no_sheet(
    mini: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in FILES:
        (tmp_path / file).write_text("old")
    put = Path.replace

    def stuck(part: Path, target: Path) -> Path:
        if target.name == "fine.onnx":
            raise PermissionError(13, "Permission denied")
        return put(part, target)

    monkeypatch.setattr(Path, "replace", stuck)
    with pytest.raises(OutputError, match=r"cannot be written .Permission denied."):
        export_folder(tmp_path, **mini | {"overwrite": True})
    assert [(tmp_path / file).read_text() for file in ("coarse.onnx", "fine.onnx")] == ["coarse.onnx", "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(FILES) - {SHEET})


def test_a_folder_in_the_place_of_a_file_is_refused_first(mini: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "fine.onnx").mkdir()
    (tmp_path / SHEET).write_text("old")
    with pytest.raises(OutputError, match=r"fine\.onnx is not a file.*give another folder"):
        export_folder(tmp_path, **mini | {"overwrite": True, "weights": "not looked at"})
    assert (tmp_path / SHEET).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("spoilt", "spoil", "share"),
    [
        ("boxes", lambda numbers: numbers + 1e4, r".* of the largest, "),
        ("quality", lambda numbers: numbers * torch.nan, "nan of the largest, "),
        ("heatmaps", lambda numbers: numbers.index_fill(0, torch.tensor([2]), torch.nan), "nan of the largest, "),
        ("keypoints", lambda numbers: numbers + 0.2, r"1\.0e\+00 of them differ"),
        ("keypoints", lambda numbers: numbers * torch.nan, r"1\.0e\+00 of them differ"),
        ("selected", torch.zeros_like, r".* of them differ"),
        ("low", torch.zeros_like, r".* of them differ"),
    ],
)
def test_a_graph_that_computes_something_else_is_refused(
    spoilt: str,
    spoil: Callable[[torch.Tensor], torch.Tensor],
    share: str,
    mini: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(plan: Any, values: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
        return {name: spoil(values[name]) if name == spoilt else values[name] for name in plan.outputs}

    monkeypatch.setattr(export, "run_onnx", run)
    with pytest.raises(OutputError, match=rf"differs from torch in {spoilt}: {share}.*nothing was written.*--opset"):
        export_folder(tmp_path / "new" / "networks", **mini)
    assert list(tmp_path.iterdir()) == []


def test_graphs_may_be_rounded_otherwise_and_need_not_be_compared(
    mini: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(plan: Any, values: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
        found = {name: values[name].clone() for name in plan.outputs}
        if "keypoints" in found:
            found["keypoints"][0, 0] += 50  # one jumps
        return found

    lines: list[str] = []
    monkeypatch.setattr(export, "run_onnx", run)
    export_folder(tmp_path / "compared", **mini | {"say": lines.append})
    assert lines[-1].endswith("s; at most 0e+00 from torch (scores), keypoints 50.0000 px")
    monkeypatch.setattr(export, "can_run", lambda: False)
    export_folder(tmp_path / "other", **mini | {"say": lines.append})
    assert all("not compared with torch" in line for line in lines[3:])


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
