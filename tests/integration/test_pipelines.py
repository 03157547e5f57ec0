"""Every recipe of `pipelines/` runs as its docstring says."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from media_clips import write_clip
from people_set import SMALL
from raising import raising

from sharpose_rt.api import TrackedFrame
from sharpose_rt.config import RunConfig
from sharpose_rt.models import VARIANTS
from sharpose_rt.skeleton import COCO17, MPII16
from sharpose_rt.skeletons import Header, StreamReader, StreamWriter, validate
from sharpose_rt.types import Frame, Poses, PoseStage

RECIPES = Path(__file__).resolve().parents[2] / "pipelines"
NETWORK = ["--set", f"pose.model={SMALL.name}", "--set", "pose.weights=random", "--set", "detector.name=full"]


def _recipe(name: str) -> ModuleType:
    return importlib.import_module(f"pipelines.{name}")


def test_every_recipe_is_tested() -> None:
    tested = {"live_camera", "action_feed", "video_to_skeletons", "skeletons_to_action_array", "cvat_skeleton"}
    tested.add("count_crossings")
    received = ("mqtt", "osc", "stdin", "udp", "websocket", "zmq")
    tested |= {f"receive_{name}" for name in received}  # test_receive_recipes.py
    tested.add("onnx_pose")  # tests/unit/test_onnx.py
    assert {path.stem for path in RECIPES.glob("*.py")} == tested


def test_cvat_skeleton(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What CVAT's label editor and canvas ask of a skeleton."""
    ours = Path(__file__).parents[1] / "label_programs" / "ours.json"
    assert _recipe("cvat_skeleton").main([str(ours)]) == 0
    (label,) = json.loads(capsys.readouterr().out)
    assert (label["name"], label["type"], label["attributes"]) == ("person", "skeleton", [])
    assert [part["name"] for part in label["sublabels"]] == list(COCO17.keypoints)
    assert all(part["type"] == "points" and part["attributes"] == [] for part in label["sublabels"])
    drawn = ElementTree.fromstring(f"<svg>{label['svg']}</svg>")
    nodes = drawn.findall("circle")
    assert [node.get("data-label-name") for node in nodes] == list(COCO17.keypoints)
    assert {node.get("data-type") for node in nodes} == {"element node"}
    numbers = [str(number) for number in range(1, 18)]
    assert [node.get("data-node-id") for node in nodes] == [node.get("data-element-id") for node in nodes] == numbers
    ends = [
        (int(line.get("data-node-from", 0)) - 1, int(line.get("data-node-to", 0)) - 1) for line in drawn.findall("line")
    ]
    assert ends == list(COCO17.limbs)
    places = np.array([[float(node.get(axis, -1)) for axis in ("cx", "cy")] for node in nodes])
    assert (places.min() >= 0, places.max() <= 100) == (True, True)
    assert places[COCO17.keypoints.index("nose"), 1] < places[COCO17.keypoints.index("left_ankle"), 1]
    (tmp_path / "none.json").write_text('{"categories": [], "annotations": []}')
    assert _recipe("cvat_skeleton").main([str(tmp_path / "none.json")]) == 2
    assert "none.json is not a label file in COCO's form with keypoints" in capsys.readouterr().err


def test_live_camera(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "small_mpii", replace(SMALL, name="small_mpii", skeleton=MPII16))
    clip = tmp_path / "a.mp4"
    write_clip(clip, 12, size_wh=(96, 64))
    arguments = [str(clip), "--weights", "random", "--detector", "full", "--frames", "5", "--model"]
    _recipe("live_camera").main([*arguments, SMALL.name])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all("id 1 nose" in line for line in lines)
    _recipe("live_camera").main([*arguments, "small_mpii"])
    assert "id 1 right_ankle" in capsys.readouterr().out  # which these have first


def test_video_to_skeletons_to_action_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for name in ("a", "b"):
        write_clip(videos / f"{name}.mp4", 6, size_wh=(96, 64))
    (videos / "broken.mp4").write_bytes(b"not a video" * 100)
    arguments = [str(videos), str(out), *NETWORK]
    recipe = _recipe("video_to_skeletons")
    assert recipe.main(arguments) == 1  # one of them is broken
    first = capsys.readouterr().out
    assert "broken.mp4: " in first
    assert "b.mp4: 6 frames, 1 people -> " in first
    for name in ("a", "b"):
        assert [p for p in validate(out / f"{name}.skeletons.jsonl") if p.severity == "error"] == []
    (videos / "more").mkdir()
    for name in ("more/a.mkv", "more/a.mp4"):
        write_clip(videos / name, 3, size_wh=(96, 64), container="matroska" if name.endswith("mkv") else "mp4")
    assert recipe.main([f"{videos}/*/*", *arguments[1:]]) == 0
    found = {path.relative_to(out).as_posix(): StreamReader(path).header.source for path in out.glob("more/*.jsonl")}
    assert found == {f"more/a{n}.skeletons.jsonl": f"{videos}/more/a.{end}" for n, end in (("", "mkv"), ("-2", "mp4"))}

    target = tmp_path / "a.npz"
    _recipe("skeletons_to_action_array").main([str(out / "a.skeletons.jsonl"), str(target)])
    assert "(2, 6, 17, 2)" in capsys.readouterr().out
    assert np.load(target)["keypoints"].shape == (2, 6, 17, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("live_camera", ["webcam:97"], "camera"),
        ("live_camera", ["nowhere.mp4"], "nowhere.mp4 does not exist"),
        ("live_camera", ["nowhere.mp4", "--model", "tyni"], "no model 'tyni'"),
        ("live_camera", ["nowhere.mp4", "--frames", "-1"], "source.max_frames is -1; at least 1 is accepted"),
        ("count_crossings", ["nowhere.mp4", "--line", "0,1 2,3"], "nowhere.mp4 does not exist"),
        ("video_to_skeletons", ["nofolder", "out"], "nofolder does not exist"),
        ("video_to_skeletons", [".", "out", "--set", "smoth.method=none"], "did you mean 'smooth'"),
        ("action_feed", ["no.skeletons.jsonl"], "no.skeletons.jsonl"),
        ("action_feed", ["webcam:97"], "camera"),
        ("action_feed", ["empty.mp4"], "empty.mp4 is empty"),
        ("action_feed", ["nowhere.mp4", "--model", "tyni"], "no model 'tyni'"),
        ("skeletons_to_action_array", ["no.skeletons.jsonl"], "no.skeletons.jsonl"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line_and_before_any_training(
    name: str,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = _recipe(name)
    monkeypatch.setattr(recipe, "train", lambda steps: pytest.fail("it trained"), raising=False)
    monkeypatch.chdir(tmp_path)
    Path("empty.mp4").touch()
    assert recipe.main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = (line for line in told.err.splitlines() if line.startswith("error: "))
    assert said in line


def test_action_feed_wants_a_step_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _recipe("action_feed").main(["clip.mp4", "--steps", "0"])
    assert "--steps is 0; 1 or more is accepted" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["live_camera", "action_feed"])
def test_ctrl_c_ends_a_live_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe(name)

    monkeypatch.setattr(recipe, "PoseTracker", raising(KeyboardInterrupt))
    assert recipe.main(["webcam"]) == 130


def test_ctrl_c_ends_a_folder_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe("video_to_skeletons")
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.mp4", 3, size_wh=(96, 64))

    class Interrupted:
        def __init__(self, video: str, *_: object, **__: object) -> None:
            assert Path(video).name == "a.mp4"  # and no next one

        def run(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "FileRun", Interrupted)
    assert recipe.main([str(tmp_path), str(tmp_path / "out"), *NETWORK]) == 130


def test_onnx_pose_takes_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'sharpose-rt[onnx]'")
    recipe, name = _recipe("onnx_pose"), os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    try:
        Path(name).touch()
    except (OSError, UnicodeError):
        pytest.skip("the file system takes no such names")
    assert recipe.read(name) is None  # it is empty yet
    recipe.save(picture, name)
    np.testing.assert_array_equal(recipe.read(name), picture)
    with pytest.raises(SystemExit, match=r"has no sharpose\.json"):  # which is looked for when the picture was read
        recipe.main([str(tmp_path), name])


def test_action_feed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe("action_feed")
    network = recipe.train()
    data, labels = recipe.make_set(80, seed=7)
    assert (network(data).argmax(1) == labels).float().mean() > 0.9
    monkeypatch.setattr(recipe, "train", lambda steps: network)

    model = {"name": "", "weights_sha256": None, "behaviour": "", "quality_threshold": None}
    header = Header("made", (1280, 960), 25.0, COCO17, model, "", "", "", "")
    with StreamWriter(tmp_path / "squat.skeletons.jsonl", header) as writer:
        for record in recipe.make_clip("squat", np.random.default_rng(3), frames=96):
            writer.write(record.frame_id, record.pts_s, record.poses)
    recipe.main([str(tmp_path / "squat.skeletons.jsonl")])
    first, second, *lines = capsys.readouterr().out.splitlines()
    assert "demonstration" in first
    assert "generated windows that it has not seen" in second
    assert [line.split(" s ")[0].strip() for line in lines] == ["1.880", "2.360", "2.840", "3.320", "3.800"]
    assert all("id 1  squat" in line for line in lines)

    video = tmp_path / "a.mp4"  # the same way from pictures; with random weights any gesture may come out
    write_clip(video, recipe.LENGTH + 2, size_wh=(96, 64))
    recipe.main([str(video), "--model", SMALL.name, "--weights", "random", "--detector", "full"])
    assert all(line.split()[2:4] == ["id", "1"] for line in capsys.readouterr().out.splitlines()[2:])


class _Walk:
    """A tracker whose people walk: 1 down over the line and back, 2 along it; 3 stands, their ankles unseen."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, source: str) -> Iterator[TrackedFrame]:
        assert source == "street.mp4"
        for n in range(60):
            down = 20 + 2 * min(n, 60 - n)
            feet = np.array([[50, down], [20 + 2 * n, 40], [160, 90]], np.float32)
            keypoints = np.repeat(feet[:, None], 17, 1) - np.float32([0, 30])
            keypoints[:2, -2:] = feet[:2, None]
            scores = np.ones((3, 17), np.float32)
            scores[2, -2:] = 0.1
            boxes = np.hstack([feet - np.float32([8, 40]), feet + np.float32([8, 0])])
            boxes[0, 3] += 30  # a shadow: the ankles are right
            stages = np.full(3, int(PoseStage.FINE))
            poses = Poses(boxes, np.ones(3), np.arange(1, 4), keypoints, scores, keypoints, scores, np.ones(3), stages)
            yield TrackedFrame(Frame(n, n / 10, np.zeros((120, 200, 3), np.uint8)), poses, COCO17)


def test_count_crossings(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe("count_crossings")
    monkeypatch.setattr(recipe, "PoseTracker", _Walk)
    video = tmp_path / "counted.mp4"
    asked = ["street.mp4", "--line", "0,60 200,60", "--zone", "100,20 199,20 199,119 100,119", "--video", str(video)]
    assert recipe.main(asked) == 0
    *events, totals = map(json.loads, capsys.readouterr().out.splitlines())
    told = [(event["track_id"], event["event"]) for event in events]
    assert told == [(3, "enter"), (1, "out"), (2, "enter"), (1, "in")]
    times = {(event["track_id"], event["event"]): event["pts_s"] for event in events}
    assert times[1, "out"] == pytest.approx(2.1 + 0.4, abs=0.11)  # y = 60 at frame 20, and five frames beyond
    assert times[1, "in"] == pytest.approx(4.1 + 0.4, abs=0.11)
    assert times[2, "enter"] == pytest.approx(4.0, abs=0.11)
    assert totals == {"in": 1, "out": 1, "in_zone": 2, "in_zone_at_the_end": 2}
    with av.open(str(video)) as container:
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(pictures) == 60
    yellow = (pictures[0][..., 1:].min(-1) > 150) & (pictures[0][..., 0] < 100)
    assert yellow[102:118, 100].all()  # the zone's edge, where nothing is written over it

    assert recipe.main(["street.mp4", "--line", "200,60 0,60"]) == 0  # the other way round
    *events, totals = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(event["track_id"], event["event"]) for event in events] == [(1, "in"), (1, "out")]
    assert totals == {"in": 1, "out": 1}

    class Stopped(_Walk):
        def run(self, source: str) -> Iterator[TrackedFrame]:
            yield from islice(super().run(source), 40)
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "PoseTracker", Stopped)
    assert recipe.main(asked) == 0  # a camera has no other end
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["out"] == 1
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) == 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is nothing to count"),
        (["--line", "1,2 3,4 5,6"], "--line has 3 points; two are accepted"),
        (["--zone", "1,2 3,4"], "--zone has 2 corners; three or more are accepted"),
        (["--line", "1,2 1,2"], "--line begins where it ends"),
        (["--line", "1,2 3"], "'1,2 3' is not a list of points"),
        (["--line", ""], "'' is not a list of points"),
    ],
)
def test_count_crossings_wants_something_to_count(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _recipe("count_crossings").main(["street.mp4", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
