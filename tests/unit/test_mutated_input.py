"""Files that are nearly right: each is read, or refused with an error of ours, whatever was changed in it."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharpose_rt.config import load
from sharpose_rt.detection.boxes import read_coco
from sharpose_rt.errors import ConfigError, DatasetError, DetectorError, SharposeError, StreamError
from sharpose_rt.labels.coco import read_document
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import Header, StreamReader, StreamWriter
from sharpose_rt.skeletons.convert import convert
from sharpose_rt.skeletons.importers import import_stream
from sharpose_rt.skeletons.validation import validate
from sharpose_rt.types import Poses, PoseStage

pytestmark = pytest.mark.timeout(120)
house = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

ODD = st.sampled_from(
    [
        None,
        "",
        "x",
        "0",
        -1,
        0,
        3.5,
        1e308,
        -1e308,
        2**31,
        2**63,
        10**30,
        True,
        [],
        {},
        [[]],
        [1, 2],
        {"a": 1},
        "\x1b[31m",
    ]
)
"""What stands in the place of what is wanted."""
STEPS = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from(["odd", "gone", "twice"]), ODD), min_size=1, max_size=3
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that a tree of lists and mappings holds."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


def changed(tree: Any, steps: list[tuple[int, str, Any]]) -> Any:
    """A copy of the tree in which some values are odd, gone, or there twice."""
    tree = copy.deepcopy(tree)
    for number, how, odd in steps:
        found = list(places(tree))
        if not found:
            return odd
        *path, last = found[number % len(found)]
        home = tree
        for key in path:
            home = home[key]
        if how == "odd":
            home[last] = copy.deepcopy(odd)
        elif how == "gone":
            del home[last]
        elif isinstance(home, list):
            home.append(copy.deepcopy(home[last]))
    return tree


def refused(kind: type[SharposeError], work: Callable[[], object]) -> str | None:
    """What the error says that `work` raises, None where it raises none; an error of another kind goes on."""
    try:
        work()
    except kind as error:
        return str(error)
    return None


def poses_at(frame: int) -> Poses:
    """Two people, who walk."""
    points = np.arange(2 * 17 * 2, dtype=np.float32).reshape(2, 17, 2) + 3 * frame
    scores, sure = np.full((2, 17), 0.75, np.float32), np.array([0.9, 0.8], np.float32)
    boxes = np.array([[0, 0, 40, 80], [30, 10, 90, 200]], np.float32)
    stages = np.array([PoseStage.COARSE, PoseStage.FINE])
    return Poses(boxes, sure, np.array([1, 2]), points, scores, points + 1, scores, sure, stages)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mutated") / "a.skeletons.jsonl"
    header = Header("a.mp4", (640, 360), 25.0, COCO17, {"name": "t"}, "full", "sharpose", "none", "0")
    with StreamWriter(path, header) as writer:
        for frame in range(3):
            writer.write(frame, frame / 25, poses_at(frame))
    return path


@house
@given(
    line=st.integers(0, 4), steps=STEPS, to=st.sampled_from(["openpose", "alphapose", "coco", "coco_labels", "pyskl"])
)
def test_a_stream_is_converted_or_refused(stream, line, steps, to):
    lines = stream.read_text().splitlines()
    lines[line] = json.dumps(changed(json.loads(lines[line]), steps))
    path = stream.with_name("b.skeletons.jsonl")
    path.write_text("\n".join(lines) + "\n")
    problems = validate(path)
    said = refused(StreamError, lambda: convert(path, to, stream.with_name(f"out_{to}"), overwrite=True))
    if said is not None:
        assert said.startswith(str(path))
        assert any(problem.severity == "error" for problem in problems), said  # what is refused is not called valid


@house
@given(steps=STEPS, to=st.sampled_from(["coco", "coco_labels", "alphapose"]))
def test_results_of_others_are_imported_or_refused(stream, steps, to):
    right, path = stream.with_name(f"right_{to}.json"), stream.with_name("c.json")
    if not right.exists():
        convert(stream, to, right)
    path.write_text(json.dumps(changed(json.loads(right.read_text()), steps)))
    out = stream.with_name("d.skeletons.jsonl")
    options: dict[str, Any] = {"fps": 25.0, "frame_size_wh": (640, 360), "overwrite": True}
    said = refused(SharposeError, lambda: import_stream(path, to.removesuffix("_labels"), out, **options))
    if said is not None:
        assert str(path) in said
    else:
        assert not [problem for problem in validate(out) if problem.severity == "error"]


@house
@given(steps=STEPS, labels=st.booleans())
def test_boxes_and_labels_are_read_or_refused(stream, steps, labels):
    right, path = stream.with_name("labels.json"), stream.with_name("e.json")
    if not right.exists():
        convert(stream, "coco_labels", right)
    tree = json.loads(right.read_text())
    path.write_text(json.dumps(changed(tree if labels else tree["annotations"], steps)))
    assert str(path) in (refused(DetectorError, lambda: read_coco(path.read_text(), str(path))) or str(path))
    assert str(path) in (refused(DatasetError, lambda: read_document(path)) or str(path))


RIGHT = {
    "source": {"start_s": 0, "stride": 1, "max_frames": 2, "camera_size_wh": [640, 480]},
    "detector": {"name": "full", "region": [[0, 0], [30, 30]], "image_size": 352},
    "pose": {"quality_threshold": 0.5, "backend": "torch", "threads": 2},
    "output": {"formats": ["csv"], "crf": 20, "person_slots": 2},
    "queue_frames": 4,
}


@house
@given(steps=STEPS)
def test_a_configuration_is_taken_or_refused(stream, steps):
    path = stream.with_name("f.yaml")
    path.write_text(yaml.safe_dump(changed(RIGHT, steps)))
    assert str(path) in (refused(ConfigError, lambda: load(path)) or str(path))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("source.start_s=.inf", "at most 1e\\+09"),
        ("source.stride=1" + 30 * "0", "a number of 100 bits"),
        ("source.stride=1" + 5000 * "0", "the value is not YAML"),
        ("output.directory=2026-02-30", "the value is not YAML"),
        ("output.person_slots=20000", "at most 10000"),
        ("output.format=csv", r"unknown key 'output.format' \(did you mean 'formats'\?\)"),
        ("precision=int8", r"unknown key 'precision' \(did you mean 'pose.precision'\?\)"),
    ],
)
def test_numbers_beyond_all_use_are_refused(item, said):
    with pytest.raises(ConfigError, match=said):
        load(overrides=[item])


def test_a_line_that_is_refused_is_refused_for_its_field(stream, caplog):
    caplog.set_level(logging.ERROR)
    lines = stream.read_text().splitlines()
    record = json.loads(lines[2])
    record["people"][0]["keypoints"][3][0] = 1e300
    path = stream.with_name("g.skeletons.jsonl")
    path.write_text("\n".join([*lines[:2], json.dumps(record), *lines[3:]]) + "\n")
    with pytest.raises(StreamError, match=r"line 3 violates .*: people\[0\]\.keypoints\[3\]\[0\] is 1e\+300; at most"):
        list(StreamReader(path))
