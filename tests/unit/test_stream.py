"""The skeleton stream: written, read, cut off, checked; output names and summaries."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sharpose_rt.cli import main
from sharpose_rt.errors import OutputError, StreamError
from sharpose_rt.skeleton import COCO17, MPII16, Skeleton
from sharpose_rt.skeletons import (
    FrameRecord,
    Header,
    StreamReader,
    StreamWriter,
    format_problems,
    output_paths,
    plain,
    validate,
    versions,
    write_summary,
)
from sharpose_rt.skeletons.validation import is_well_formed_frame, schema_validator
from sharpose_rt.types import Poses, PoseStage
from tests.full_disk import file_size_limit

CREATED = "2026-01-31T12:00:00.000Z"
SLOW_MACHINE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
few = settings(max_examples=40, suppress_health_check=SLOW_MACHINE)


def make_header(skeleton: Skeleton = COCO17, **changes) -> Header:
    model = {"name": "tiny", "weights_sha256": "ab", "behaviour": "paper", "quality_threshold": 0.5}
    values = {
        "source": "walking.mp4", "frame_size_wh": (640, 480), "fps": 25.0, "skeleton": skeleton, "model": model,
        "detector": "full", "tracker": "sharpose", "smoothing": "kalman", "version": "0.1.0", "created": CREATED,
    }  # fmt: skip
    return Header(**(values | changes))


def make_poses(count: int, seed: int = 0, k: int = 17) -> Poses:
    r = np.random.default_rng(seed)
    corners = np.sort(r.uniform(0, 400, (count, 2, 2)), axis=1).reshape(count, 4)
    return Poses(
        corners, r.uniform(0, 1, count), np.arange(1, count + 1),
        r.uniform(0, 400, (count, k, 2)), r.uniform(0, 1, (count, k)),
        r.uniform(0, 400, (count, k, 2)), r.uniform(0, 1, (count, k)),
        r.uniform(0, 1, count), r.integers(0, 3, count),
    )  # fmt: skip


def write_clip(path: Path, counts=(2, 0, 1), **header) -> Path:
    with StreamWriter(path, make_header(**header)) as writer:
        for i, count in enumerate(counts):
            writer.write(i, i / 25, make_poses(count, seed=i))
        writer.end("complete", len(counts), 0)
    return path


def edit(path: Path, line: int, change) -> None:
    """Applies `change` to the record at `line` (from 1) in place."""
    lines = path.read_bytes().splitlines()
    record = orjson.loads(lines[line - 1])
    change(record)
    lines[line - 1] = orjson.dumps(record)
    path.write_bytes(b"\n".join(lines) + b"\n")


@st.composite
def any_poses(draw, k: int = 17) -> Poses:
    """Poses with every float32 within reason, NaN, infinities and scores out of range included."""
    n = draw(st.integers(0, 3))
    pixels = st.floats(-5e4, 5e4, width=32) | st.sampled_from([-0.0, math.nan, math.inf, -math.inf])
    scores = st.floats(-0.5, 1.5, width=32) | st.sampled_from([-0.0, math.nan])

    def array(*shape, of):
        return draw(hnp.arrays(np.float32, shape, elements=of))

    corners = array(n, 2, 2, of=st.floats(-5e4, 5e4, width=32))
    return Poses(
        np.sort(corners, axis=1).reshape(n, 4), array(n, of=st.floats(0, 1, width=32)),
        np.array(draw(st.lists(st.integers(1, 2**40), min_size=n, max_size=n, unique=True)), np.int64),
        array(n, k, 2, of=pixels), array(n, k, of=scores), array(n, k, 2, of=pixels), array(n, k, of=scores),
        array(n, of=scores), np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int64),
    )  # fmt: skip


def expected_points(points, scores):
    """What the format says is kept of (N, K, 2) points and (N, K) scores."""
    table = np.concatenate([points, scores[..., None]], axis=-1).astype(np.float64)
    table[~np.isfinite(table).all(axis=-1)] = 0
    xy, score = np.round(table[..., :2], 2), np.round(np.clip(table[..., 2], 0, 1), 4)
    return xy.astype(np.float32), score.astype(np.float32)


class TestRoundTrip:
    @few
    @given(poses=any_poses(), pts_s=st.floats(-10, 1e6), k=st.just(17))
    def test_values_survive_at_the_stated_rounding(self, tmp_path, poses, pts_s, k):
        path = tmp_path / "a.jsonl"
        with StreamWriter(path, make_header(), overwrite=True) as writer:
            writer.write(0, pts_s, poses, captured_at=CREATED, latency_ms=12.34567, dropped_before=0)
        (frame,) = StreamReader(path)
        assert frame.pts_s == pytest.approx(pts_s, abs=5.1e-7)
        assert (frame.captured_at, frame.latency_ms, frame.dropped_before) == (CREATED, 12.346, 0)
        got = frame.poses
        xy, score = expected_points(poses.keypoints, poses.keypoint_scores)
        raw_xy, raw_score = expected_points(poses.raw_keypoints, poses.raw_keypoint_scores)
        np.testing.assert_array_equal(got.keypoints, xy)
        np.testing.assert_array_equal(got.keypoint_scores, score)
        np.testing.assert_array_equal(got.raw_keypoints, raw_xy)
        np.testing.assert_array_equal(got.raw_keypoint_scores, raw_score)
        np.testing.assert_allclose(got.bboxes_xyxy, poses.bboxes_xyxy, atol=0.0051 + 0.004)  # + float32 at 5e4
        np.testing.assert_allclose(got.bbox_scores, poses.bbox_scores, atol=5.1e-5)
        np.testing.assert_allclose(got.quality, poses.quality, atol=5.1e-5)  # NaN stays NaN
        np.testing.assert_array_equal(got.track_ids, poses.track_ids)
        np.testing.assert_array_equal(got.stage, poses.stage)
        assert validate(path) == []

    @few
    @given(
        poses=any_poses(),
        camera=st.none() | hnp.arrays(np.float64, (2, 3), elements=st.floats(-1e4, 1e4)),
        new_scene=st.booleans(),
    )
    def test_writing_what_was_read_gives_the_same_bytes(self, poses, camera, new_scene):
        record = FrameRecord(3, 0.125, poses, camera=camera, new_scene=new_scene).to_record()
        assert ("new_scene" in record) == new_scene
        assert ("camera" in record) == (camera is not None)
        line = orjson.dumps(record)
        assert orjson.dumps(FrameRecord.from_record(orjson.loads(line), 17).to_record()) == line
        assert b"-0.0," not in line
        assert b"-0.0]" not in line

    def test_header_survives(self, tmp_path):
        path = write_clip(tmp_path / "a.jsonl", counts=())
        assert StreamReader(path).header == make_header()

    @pytest.mark.parametrize("threshold", [math.inf, -math.inf, 0.25, None])
    def test_infinite_threshold_survives(self, tmp_path, threshold):
        model = {"name": "tiny", "weights_sha256": None, "behaviour": "paper", "quality_threshold": threshold}
        model |= {"refine_from_px": threshold} if threshold == math.inf else {}
        path = write_clip(tmp_path / "a.jsonl", counts=(), model=model)
        assert StreamReader(path).header.model == model
        assert validate(path) == []

    def test_any_skeleton_survives(self, tmp_path):
        for skeleton in (MPII16, Skeleton("x", ("left_a", "b", "right_a"), ((0, 1),), ((0, 2),), (1, 1, 1), ())):
            path = tmp_path / f"{skeleton.name}.jsonl"
            StreamWriter(path, make_header(skeleton)).close()
            got = StreamReader(path).header.skeleton
            assert (got.keypoints, got.limbs, got.flip_pairs) == (
                skeleton.keypoints, skeleton.limbs, skeleton.flip_pairs,
            )  # fmt: skip
        assert StreamReader(tmp_path / "mpii16.jsonl").header.skeleton is MPII16

    @pytest.mark.parametrize(
        ("left", "right"),
        [("left_hip", "right_hip"), ("L_HIP", "R_HIP"), ("hip_l", "hip_r"), ("LHip", "RHip"), ("Left-1", "Right-1")],
    )
    def test_sides_of_other_names(self, tmp_path, left, right):
        skeleton = Skeleton("x", (left, "collar", right, "l_eye"), (), (), (), ())
        StreamWriter(tmp_path / "a.jsonl", make_header(skeleton)).close()
        got = StreamReader(tmp_path / "a.jsonl").header.skeleton
        assert got.flip_order == (2, 1, 0, 3)
        assert [got.side(k) for k in range(4)] == ["left", "centre", "right", "left"]

    def test_numpy_values_and_odd_names_are_written(self, tmp_path):
        path = tmp_path / "a.jsonl"
        header = make_header(source=os.fsdecode(b"caf\xe9.mp4"), frame_size_wh=np.array([64, 48]), fps=np.float32(25))
        with StreamWriter(path, header) as writer:
            writer.write(
                np.int64(0), np.float32(0.5), make_poses(1), latency_ms=np.float64(1), dropped_before=np.int32(0)
            )  # type: ignore[arg-type]
            writer.end("complete", np.int64(1), np.int64(0), seconds=np.float32(0.5), rate=math.nan)  # type: ignore[arg-type]
        assert validate(path) == []
        reader = StreamReader(path)
        assert reader.header.source == "caf\\udce9.mp4"
        assert [f.frame_id for f in reader] == [0]
        assert reader.end == {
            "type": "end", "frames": 1, "dropped": 0, "status": "complete", "seconds": 0.5, "rate": None,
        }  # fmt: skip

    def test_no_tracker_is_null(self, tmp_path):
        poses = make_poses(2)
        untracked = Poses(**{**poses.__dict__, "track_ids": np.zeros(2, np.int64)})
        path = tmp_path / "a.jsonl"
        with StreamWriter(path, make_header()) as writer:
            writer.write(0, 0.0, untracked)
        assert b'"track_id":null' in path.read_bytes()
        assert validate(path) == []
        assert [f.poses.track_ids.tolist() for f in StreamReader(path)] == [[0, 0]]


class TestWriter:
    def test_same_input_gives_the_same_bytes(self, tmp_path):
        assert write_clip(tmp_path / "a").read_bytes() == write_clip(tmp_path / "b").read_bytes()

    def test_keys_are_those_of_the_format_in_order(self, tmp_path):
        header, first, *_, end = map(orjson.loads, write_clip(tmp_path / "a").read_bytes().splitlines())
        assert list(header) == [
            "type", "schema", "source", "frame_size_wh", "fps", "keypoints", "limbs", "model", "detector", "tracker",
            "smoothing", "version", "created",
        ]  # fmt: skip
        assert header["schema"] == "sharpose.skeletons/1"
        assert list(first) == ["type", "frame_id", "pts_s", "people"]
        assert list(first["people"][0]) == [
            "track_id", "bbox_xyxy", "bbox_score", "keypoints", "raw_keypoints", "quality", "stage",
        ]  # fmt: skip
        assert end == {"type": "end", "frames": 3, "dropped": 0, "status": "complete"}

    def test_each_frame_is_on_disk_at_once(self, tmp_path):
        path = tmp_path / "a.jsonl"
        writer = StreamWriter(path, make_header())
        for i in range(3):
            writer.write(i, i / 25, make_poses(1))
            assert len(list(StreamReader(path))) == i + 1
        writer.close()
        writer.close()

    def test_refuses_an_existing_file_and_leaves_it(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text("mine")
        with pytest.raises(OutputError, match="exists already"):
            StreamWriter(path, make_header())
        assert path.read_text() == "mine"
        StreamWriter(path, make_header(), overwrite=True).close()
        assert len(path.read_bytes().splitlines()) == 1

    @pytest.mark.parametrize("where", ["missing/a.jsonl", "file/a.jsonl", "folder"])
    def test_unusable_path(self, tmp_path, where):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        with pytest.raises(OutputError, match=where.split("/")[0]):
            StreamWriter(tmp_path / where, make_header())

    @pytest.mark.parametrize("name", ["bboxes_xyxy", "bbox_scores"])
    def test_box_that_is_not_finite_is_refused_and_nothing_written(self, tmp_path, name):
        values = make_poses(2).__dict__ | {name: np.full_like(getattr(make_poses(2), name), np.nan)}
        with StreamWriter(tmp_path / "a", make_header()) as writer, pytest.raises(ValueError, match="not finite"):
            writer.write(0, 0.0, Poses(**values))
        with StreamWriter(tmp_path / "b", make_header()) as writer, pytest.raises(ValueError, match="pts_s"):
            writer.write(0, math.nan, make_poses(1))
        assert validate(tmp_path / "a") == validate(tmp_path / "b") == []

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (None, "complete"),
            (RuntimeError, "error"),
            (KeyboardInterrupt, "interrupted"),
            (GeneratorExit, "interrupted"),
        ],
    )
    def test_context_manager_writes_the_end(self, tmp_path, error, status):
        def run():
            with StreamWriter(tmp_path / "a", make_header()) as writer:
                writer.write(0, 0.0, make_poses(1))
                if error:
                    raise error

        with pytest.raises(error) if error else nullcontext():
            run()
        reader = StreamReader(tmp_path / "a")
        assert len(list(reader)) == 1
        assert reader.end is not None
        assert reader.end["status"] == status


def test_how_a_file_ends_is_told_without_its_frames(tmp_path):
    path = write_clip(tmp_path / "a.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    reader = StreamReader(path)
    for kept, torn, ending in (
        (5, b"", ("complete", 3)), (4, b"", (None, 3)), (4, b'{"type"', (None, 3)), (1, b"", (None, 0)),
    ):  # fmt: skip
        path.write_bytes(b"".join(lines[:kept]) + torn)
        assert reader.ending() == ending


def test_people_who_were_only_predicted_may_be_left_out(tmp_path, monkeypatch):
    poses = make_poses(3)
    poses = replace(poses, stage=np.array([PoseStage.FINE, PoseStage.PREDICTED, PoseStage.COARSE]))
    with StreamWriter(tmp_path / "a.jsonl", make_header()) as writer:
        writer.write(0, 0.0, poses)
        writer.write(1, 0.04, make_poses(0))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "a.jsonl").read_bytes())))
    reader = StreamReader("-").without_predicted()  # the reader of the pipe is gone, what it kept is not
    for _ in range(2):
        first, second = reader
        assert first.poses.stage.tolist() == [PoseStage.FINE, PoseStage.COARSE]
        np.testing.assert_allclose(first.poses.keypoints, poses.keypoints[[0, 2]], atol=0.006)
        assert len(second.poses) == 0


def write_many(writer: StreamWriter) -> None:
    for i in range(100):
        writer.write(i, i / 25, make_poses(2))


@pytest.mark.timeout(30)
class TestFullDisk:
    def test_what_was_written_stays_valid(self, tmp_path):
        path = tmp_path / "a.jsonl"
        writer = StreamWriter(path, make_header())
        with file_size_limit(10_000), pytest.raises(OutputError, match=r"a\.jsonl.*frames written so far are kept"):
            write_many(writer)
        written = writer.frames
        writer.end("error", written + 1, 0)  # the caller may have counted the frame that failed
        writer.close()
        assert 0 < written < 20
        reader = StreamReader(path)
        assert len(list(reader)) == written
        assert reader.end is not None
        assert reader.end["status"] == "error"
        assert validate(path) == []

    def test_end_and_close_after_the_failure_do_not_raise(self, tmp_path):
        path = tmp_path / "a.jsonl"
        with file_size_limit(10_000):
            with pytest.raises(OutputError), StreamWriter(path, make_header()) as writer:
                write_many(writer)
            with pytest.raises(OutputError, match="too large"):
                StreamWriter(tmp_path / "b", make_header(source="x" * 20_000))
        assert all(problem.severity == "warning" for problem in validate(path))
        assert len(list(StreamReader(path))) == writer.frames

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
    def test_device_without_space(self):
        with pytest.raises(OutputError, match="No space left"):
            StreamWriter("/dev/full", make_header())


class TestReader:
    def test_can_be_gone_through_twice_and_left_early(self, tmp_path):
        reader = StreamReader(write_clip(tmp_path / "a"))
        for _frame in reader:
            break
        assert reader.end is None
        assert [len(f.poses) for f in reader] == [2, 0, 1]
        assert [f.frame_id for f in reader] == [0, 1, 2]
        assert reader.end is not None

    @few
    @given(data=st.data())
    def test_cut_off_at_any_byte(self, tmp_path_factory, caplog, data):
        folder = tmp_path_factory.mktemp("cut")
        whole = write_clip(folder / "whole").read_bytes()
        header_size = whole.index(b"\n")
        size = data.draw(st.integers(header_size, len(whole) - 1))
        path = folder / "cut"
        path.write_bytes(whole[:size])
        # A record is whole from its closing brace on, with or without its newline.
        lines = whole[:size].split(b"\n")
        torn = bool(lines[-1]) and lines[-1] not in whole.split(b"\n")
        frames = sum(line.startswith(b'{"type":"frame"') for line in (lines[:-1] if torn else lines))
        reader = StreamReader(path)
        caplog.clear()
        assert len(list(reader)) == len(list(reader)) == frames
        assert caplog.messages == [f"{path} line {len(lines)} is incomplete and ignored"] * torn
        ended = size == len(whole) - 1
        assert (reader.end is not None) == ended
        problems = validate(path)
        assert [p.severity for p in problems] == ["warning"] * (torn + (not ended))
        assert [p.message.split(";")[0] for p in problems] == ["is incomplete"] * torn + [
            "the stream stops without an end line"
        ] * (not ended)

    @given(size=st.integers(0, 300))
    @few
    def test_cut_off_in_the_header(self, tmp_path, size):
        path = tmp_path / "a"
        path.unlink(missing_ok=True)
        path.write_bytes(write_clip(path).read_bytes()[:size])
        with pytest.raises(StreamError, match="line 1 is not a header"):
            StreamReader(path)
        assert validate(path)[0].severity == "error"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda r: r.pop("people"), "line 2.*: people is missing"),
            (lambda r: r["people"][0]["keypoints"].pop(), "line 2"),
            (lambda r: r["people"][0].update(stage="x"), "line 2.*'x'"),
            (lambda r: r.update(people=[3]), "line 2"),
            (lambda r: r.update(type="note"), "line 2.*'note'.*'frame' or 'end'"),
            (lambda r: [p["raw_keypoints"].pop() for p in r["people"]], "line 2.*raw_keypoints has 16 items; .* 17"),
            (
                lambda r: [p[name].pop() for p in r["people"] for name in ("keypoints", "raw_keypoints")],
                "line 2.*keypoints has 16 items; .* 17",
            ),
            (lambda r: r["people"][0].update(quality=1e39), r"line 2.*quality is 1e\+39"),
            (lambda r: r["people"][1].update(bbox_score=1e39), r"line 2.*bbox_score is 1e\+39"),
            (lambda r: r.update(frame_id=2**63), "line 2.*at most 9223372036854775807"),
            (lambda r: r.update(frame_id=1.5), "line 2.*frame_id is 1.5; integer"),
            (lambda r: r.update(frame_id=True), "line 2.*frame_id is True; integer"),
        ],
    )
    def test_names_the_broken_line(self, tmp_path, change, message):
        path = write_clip(tmp_path / "a")
        edit(path, 2, change)
        with pytest.raises(StreamError, match=message):
            list(StreamReader(path))

    def test_what_follows_the_end_is_refused(self, tmp_path):
        path = write_clip(tmp_path / "a")
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines, lines[-2]]))
        with pytest.raises(StreamError, match=f"line {len(lines) + 1}: nothing may follow the end line"):
            list(StreamReader(path))

    @pytest.mark.parametrize(
        ("limb", "message"), [([0, 17], "indices below 17 are accepted"), ([-1, 3], "-1; at least 0 is accepted")]
    )
    def test_limbs_of_no_keypoints_are_refused(self, tmp_path, limb, message):
        edit(write_clip(tmp_path / "a"), 1, lambda r: r["limbs"].append(limb))
        with pytest.raises(StreamError, match=f"line 1.*{message}"):
            StreamReader(tmp_path / "a")

    def test_other_files_are_refused(self, tmp_path):
        path = tmp_path / "a"
        with pytest.raises(StreamError, match="cannot read"):
            StreamReader(path)
        for text, message in [(b"[]\n", "line 1 is a list"), (b"\x00\x01\n", "not JSON"), (b"{}\n", "not a header")]:
            path.write_bytes(text)
            with pytest.raises(StreamError, match=message):
                StreamReader(path)
        write_clip(tmp_path / "b")
        edit(tmp_path / "b", 1, lambda r: r.update(schema="sharpose.skeletons/2"))
        with pytest.raises(StreamError, match=r"skeletons/2.*skeletons/1"):
            StreamReader(tmp_path / "b")


def _set(path: str, value):
    """A change that sets one field; `path` as in Problem.field."""
    keys = [int(k) if k.isdigit() else k for k in path.replace("[", ".").replace("]", "").split(".")]

    def change(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


class TestValidate:
    @pytest.mark.parametrize(
        ("line", "field", "value"),
        [
            (1, "fps", 0), (1, "fps", "25"), (1, "frame_size_wh", [640]), (1, "frame_size_wh[0]", 0),
            (1, "keypoints", ["nose"] * 17), (1, "limbs[3]", [0, 17]), (1, "model.quality_threshold", "high"),
            (1, "created", "yesterday"), (1, "schema", "sharpose.skeletons/2"), (1, "detector", None),
            (2, "frame_id", 1), (3, "frame_id", 0), (3, "frame_id", 5), (2, "frame_id", -1), (2, "frame_id", True),
            (3, "pts_s", -1.0), (2, "pts_s", None), (2, "people", {}), (2, "people[1]", 3),
            (2, "people[1].track_id", 1), (2, "people[0].track_id", 0), (2, "people[0].track_id", 1.5),
            (2, "people[1].bbox_xyxy", [5, 5, 4, 9]), (2, "people[1].bbox_xyxy", [5, 9, 6, 8]),
            (2, "people[0].bbox_xyxy", [1, 2, 3]), (2, "people[0].bbox_xyxy[2]", "3"),
            (2, "people[0].bbox_score", 1.01),
            (2, "people[0].keypoints[3][2]", -0.1), (2, "people[1].raw_keypoints[16][0]", None),
            (2, "people[0].keypoints[3]", [1, 2]), (2, "people[0].keypoints", [[1, 2, 0.5]] * 16),
            (2, "people[0].raw_keypoints", [[1, 2, 0.5]] * 18), (2, "people[0].quality", "good"),
            (2, "people[0].stage", "rough"), (4, "captured_at", "noon"), (4, "latency_ms", -1),
            (4, "dropped_before", 0.5),
            (5, "frames", 2), (5, "status", "done"), (5, "dropped", -1),
        ],
    )  # fmt: skip
    def test_names_line_and_field(self, tmp_path, line, field, value):
        path = write_clip(tmp_path / "a")
        edit(path, line, _set(field, value))
        problems = [p for p in validate(path) if p.severity == "error"]
        assert (problems[0].line, problems[0].field) == (line, field)
        assert len(problems[0].message) < 250

    @pytest.mark.parametrize(
        ("line", "field", "value", "accepted"),
        [
            (2, "people[0].bbox_xyxy[2]", 1e39, "at most 3.4028234663852886e+38"),
            (2, "people[1].keypoints[3][0]", -1e39, "at least -3.4028234663852886e+38"),
            (2, "people[0].raw_keypoints[16][1]", 2e300, "at most 3.4028234663852886e+38"),
            (2, "people[0].quality", 1e39, "at most 3.4028234663852886e+38"),
            (2, "people[1].track_id", 2**63, "at most 9223372036854775807"),
            (2, "frame_id", 2**64 - 1, "at most 9223372036854775807"),
            (4, "dropped_before", 1e20, "at most 9223372036854775807"),
            (4, "frame_size_wh[1]", 2**63, "at most 9223372036854775807"),
            (1, "frame_size_wh[0]", 1e20, "at most 9223372036854775807"),
            (5, "dropped", 2**63, "at most 9223372036854775807"),
        ],
    )
    def test_names_what_readers_cannot_hold(self, tmp_path, line, field, value, accepted):
        path = write_clip(tmp_path / "a")
        edit(path, 4, lambda record: record.update(dropped_before=0, frame_size_wh=[640, 480]))
        edit(path, line, _set(field, value))
        assert [(p.line, p.field, p.message) for p in validate(path) if p.severity == "error"] == [
            (line, field, f"is {value}; {accepted} is accepted")
        ]

    @pytest.mark.parametrize("value", [0.5, "0", True])
    def test_a_number_of_a_frame_that_is_none_is_not_read(self, tmp_path, value):
        path = write_clip(tmp_path / "a")
        edit(path, 2, _set("frame_id", value))
        with pytest.raises(StreamError, match=r"line 2.*frame_id"):
            list(StreamReader(path))

    def test_the_largest_that_readers_can_hold(self, tmp_path):
        path, largest = write_clip(tmp_path / "a", counts=(2,)), float(np.finfo(np.float32).max)
        edit(path, 2, _set("people[0].bbox_xyxy", [-largest, 0, 0, largest]))
        edit(path, 2, _set("people[1].keypoints[0][0]", largest))
        edit(path, 2, _set("people[1].track_id", 2**63 - 1))
        assert validate(path) == []
        (frame,) = StreamReader(path)
        assert frame.poses.bboxes_xyxy[0, 3] == largest
        assert frame.poses.track_ids[1] == 2**63 - 1

    @pytest.mark.parametrize(
        ("line", "field"), [(1, "fps"), (1, "model.name"), (2, "people"), (2, "people[1].stage"), (5, "status")]
    )
    def test_names_what_is_missing(self, tmp_path, line, field):
        def drop(record):
            *parents, name = field.replace("[1]", "").split(".")
            for key in parents:
                record = record[key]
            (record[1] if parents == ["people"] else record).pop(name)

        path = write_clip(tmp_path / "a")
        edit(path, line, drop)
        assert [(p.line, p.field, p.message) for p in validate(path)] == [(line, field, "is missing")]

    def test_from_standard_input(self, tmp_path, monkeypatch, capsys):
        path = write_clip(tmp_path / "a")
        for content, status, said in ((path.read_bytes(), 0, "-: valid"), (b"{}\n", 1, "-: error: line 1")):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
            assert main(["validate", "-"]) == status
            assert said in capsys.readouterr().out

    def test_order_of_lines(self, tmp_path):
        header, *frames, end = write_clip(tmp_path / "a").read_bytes().splitlines(keepends=True)

        def problems(*lines):
            (tmp_path / "b").write_bytes(b"".join(lines))
            return [(p.line, p.severity) for p in validate(tmp_path / "b")]

        assert problems(header, *frames, end) == []
        assert problems() == [(1, "error")]
        assert problems(*frames, end) == [(1, "error")]
        assert problems(header, header, *frames, end) == [(2, "error")]
        assert problems(header, *frames, end, end) == [(6, "error")]
        assert problems(header, *frames, end, b"{}\n")[0] == (6, "error")
        assert problems(header, *frames) == [(4, "warning")]
        assert problems(header, *frames, b'{"type":"note"}\n', end) == [(5, "error")]
        assert problems(header, b"\n", *frames, end) == [(2, "error")]
        assert problems(header, b"[1]\n", *frames, end) == [(2, "error")]

    def test_dropped_before_explains_holes(self, tmp_path):
        path = tmp_path / "a"
        with StreamWriter(path, make_header()) as writer:
            writer.write(2, 0.1, make_poses(1), dropped_before=2)
            writer.write(3, 0.1, make_poses(0), dropped_before=1)  # dropped before it was given an id
            writer.write(6, 0.2, make_poses(1), dropped_before=2)
            writer.end("complete", dropped=5)
        assert validate(path) == []
        edit(path, 4, _set("dropped_before", 1))
        assert [(p.line, p.field, p.severity) for p in validate(path)] == [(4, "frame_id", "error")]
        edit(path, 4, _set("dropped_before", 3))
        assert [(p.line, p.field, p.severity) for p in validate(path)] == [(5, "dropped", "warning")]

    def test_stops_after_enough(self, tmp_path):
        path = write_clip(tmp_path / "a", counts=(0,) * 50)
        lines = path.read_bytes().splitlines()
        path.write_bytes(b"\n".join([lines[0], *[b'{"type":"frame"}'] * 50]))
        *problems, stopped = validate(path, max_problems=7)
        assert [p.severity for p in problems] == ["error"] * 7
        assert (stopped.severity, stopped.line) == ("warning", problems[-1].line)
        assert "the rest was not checked" in stopped.message

    def test_a_picture_has_a_name(self, tmp_path):
        path = write_clip(tmp_path / "a", counts=(1,))
        header, frame, end = path.read_bytes().splitlines()
        path.write_bytes(b"\n".join([header, frame.replace(b'"people"', b'"picture":5,"people"'), end]))
        (problem,) = validate(path)
        assert (problem.field, problem.message) == ("picture", "is 5; string is wanted")

    def test_files_after_a_missing_one_are_looked_at(self, tmp_path, capsys):
        good = write_clip(tmp_path / "a")
        assert main(["validate", str(tmp_path / "none"), str(good)]) == 2
        told = capsys.readouterr()
        assert told.out == f"{good}: valid\n"
        assert "cannot read the skeleton stream" in told.err

    def test_text(self, tmp_path):
        path = write_clip(tmp_path / "a")
        assert format_problems([], path) == f"{path}: valid"
        edit(path, 2, _set("people[0].keypoints[3][2]", 1.5))
        edit(path, 5, _set("frames", 9))
        assert format_problems(validate(path), path).splitlines() == [
            f"{path}: error: line 2, people[0].keypoints[3][2]: is 1.5; at most 1 is accepted",
            f"{path}: error: line 5, frames: is 9; the stream has 3 frame lines",
            f"{path}: not valid, 2 errors",
        ]
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
        assert format_problems(validate(path), path).splitlines() == [
            f"{path}: warning: line 1: the stream stops without an end line", f"{path}: valid, 1 warning",
        ]  # fmt: skip

    def test_missing_file(self, tmp_path):
        with pytest.raises(StreamError, match="No such file"):
            validate(tmp_path / "a")

    def test_schema_is_a_schema_and_takes_whole_lines(self, tmp_path):
        from jsonschema import Draft202012Validator

        from sharpose_rt.skeletons.validation import SCHEMA_PATH

        schema = json.loads(SCHEMA_PATH.read_text())
        Draft202012Validator.check_schema(schema)
        lines = [json.loads(line) for line in write_clip(tmp_path / "a").read_text().splitlines()]
        assert all(Draft202012Validator(schema).is_valid(line) for line in lines)
        assert not Draft202012Validator(schema).is_valid({"type": "frame"})


JUNK = st.sampled_from(
    [
        None, True, False, -1, 0, 1, 2.0, 1.5, -0.5, "", "x", "fine", [], {}, [1, 2, 3], [[1, 2, 0.5]], [[1, 2]],
        2**63 - 1, 2**63, 1e39, -1e39, [2**63, 1],
    ]
)  # fmt: skip


MOVED = np.array([[1.0, -0.001, 12.5], [0.001, 1.0, -3.25]])
GOOD_FRAME = FrameRecord(0, 0.0, make_poses(2, k=2), CREATED, 3.5, 0, camera=MOVED, new_scene=True).to_record()


@st.composite
def mutated_frame(draw):
    """A frame record of the writer with some values replaced or removed, at any depth."""
    record = copy.deepcopy(GOOD_FRAME)
    for _ in range(draw(st.integers(0, 2))):
        node = record
        while True:
            key = draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
            child = node[key]
            if isinstance(child, (dict, list)) and child and draw(st.booleans()):
                node = child
                continue
            if draw(st.booleans()):
                node[key] = copy.deepcopy(draw(JUNK))  # a second change may go into it
            else:
                del node[key]
            break
        if not record:
            break
    return record


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(record=mutated_frame())
def test_quick_check_agrees_with_the_schema(record):
    if record.get("type") != "frame":
        return  # the checker chooses by type, so this line never gets here
    quick, fits = is_well_formed_frame(record), schema_validator("frame").is_valid(record)
    # A float that is a whole number is an integer to JSON Schema; the quick check leaves those to the schema.
    people = record["people"] if isinstance(record.get("people"), list) else []
    integers = [record.get("frame_id"), record.get("dropped_before")]
    integers += [person.get("track_id") for person in people if isinstance(person, dict)]
    assert quick == fits or (fits and any(type(value) is float for value in integers))


class TestOutputPaths:
    def test_numbers_all_files_alike_and_keeps_old_ones(self, tmp_path):
        first = output_paths(tmp_path / "new" / "out", "walking", overwrite=False)
        assert [p.name for p in (first.stream, first.video, first.image, first.summary)] == [
            "walking.skeletons.jsonl", "walking.annotated.mp4", "walking.annotated.png", "walking.summary.json",
        ]  # fmt: skip
        second = output_paths(tmp_path / "new" / "out", "walking", overwrite=False)
        assert [p.name for p in (second.stream, second.video, second.image, second.summary)] == [
            "walking-2.skeletons.jsonl", "walking-2.annotated.mp4", "walking-2.annotated.png", "walking-2.summary.json",
        ]  # fmt: skip
        write_clip(second.stream)  # a reserved name can be written

    def test_one_old_file_is_enough_for_a_number(self, tmp_path):
        (tmp_path / "walking.summary.json").write_text("{}")
        assert output_paths(tmp_path, "walking", overwrite=False).video.name == "walking-2.annotated.mp4"

    def test_overwrite_takes_the_name_and_touches_nothing(self, tmp_path):
        write_clip(tmp_path / "walking.skeletons.jsonl")
        before = (tmp_path / "walking.skeletons.jsonl").read_bytes()
        paths = output_paths(tmp_path, "walking", overwrite=True)
        assert paths.stream.name == "walking.skeletons.jsonl"
        paths.release()
        assert paths.stream.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1

    def test_release(self, tmp_path):
        paths = output_paths(tmp_path, "walking", overwrite=False)
        paths.release()
        paths.release()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.timeout(30)
    def test_runs_that_start_at_once_get_different_names(self, tmp_path):
        got, barrier = [], threading.Barrier(8)

        def start():
            barrier.wait()
            got.append(output_paths(tmp_path, "walking", overwrite=False).stream)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(got)) == 8

    @pytest.mark.parametrize("in_parts", [False, True])
    def test_a_name_that_a_run_in_parts_has_is_no_other_runs(self, tmp_path, in_parts):
        first = output_paths(tmp_path, "walking", overwrite=False, in_parts=True)
        assert not first.summary.exists()  # under its name it is whole
        assert not first.stream.exists()
        other = output_paths(tmp_path, "walking", overwrite=False, in_parts=in_parts)
        assert other.summary.name == "walking-2.summary.json"
        write_summary(first.summary, {})
        first.release()
        assert [p.name for p in sorted(tmp_path.glob("walking.*"))] == ["walking.summary.json"]
        other.release()
        assert output_paths(tmp_path, "walking", overwrite=False, in_parts=in_parts).summary == other.summary

    @given(
        stem=st.text() | st.sampled_from(["../../etc/passwd", ".", "..", "rtsp://host:554/a?b=c", "a" * 400, "\udce9"])
    )
    @few
    def test_any_stem_gives_a_file_in_the_folder(self, tmp_path_factory, stem):
        folder = tmp_path_factory.mktemp("out")
        paths = output_paths(folder, stem, overwrite=False)
        assert paths.stream.parent == folder
        assert [p.name for p in folder.iterdir()] == [paths.stream.name]

    def test_not_a_folder(self, tmp_path):
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OutputError, match=r"file.* is not a folder.*--output"):
                output_paths(folder, "a", overwrite=False)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere, and so may Windows")
    @pytest.mark.parametrize("overwrite", [True, False])
    def test_unwritable_folder(self, tmp_path, overwrite):
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match="Permission denied"):
            output_paths(tmp_path, "a", overwrite=overwrite)

    @pytest.mark.parametrize("overwrite", [True, False])
    def test_folder_that_no_one_may_write_to(self, overwrite):
        if not Path("/proc/self").is_dir():
            pytest.skip("no /proc on this system")
        with pytest.raises(OutputError, match=r"/proc.*--output"):
            output_paths("/proc/self", "a", overwrite=overwrite)


class TestSummary:
    def test_keeps_order_and_makes_values_plain(self, tmp_path):
        path = tmp_path / "a.summary.json"
        data = {"z": 1, "a": {"threshold": math.inf, "p50": np.float32(0.5), "rate": math.nan}, "path": Path("x")}
        write_summary(path, data)
        assert path.read_text().splitlines() == [
            "{", '  "z": 1,', '  "a": {', '    "threshold": "inf",', '    "p50": 0.5,', '    "rate": null', "  },",
            '  "path": "x"', "}",
        ]  # fmt: skip
        assert list(tmp_path.iterdir()) == [path]

    def test_replaces_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / "a.summary.json"
        write_summary(path, {"old": 1})
        write_summary(path, {"new": 2})
        with file_size_limit(10), pytest.raises(OutputError, match=r"a\.summary\.json"):
            write_summary(path, {"newer": list(range(100))})
        assert json.loads(path.read_text()) == {"new": 2}
        assert list(tmp_path.iterdir()) == [path]

    def test_folder_removed_meanwhile_is_made_again(self, tmp_path):
        write_summary(tmp_path / "no" / "a.json", {"a": 1})
        assert json.loads((tmp_path / "no" / "a.json").read_text()) == {"a": 1}

    def test_file_in_the_place_of_the_folder(self, tmp_path):
        (tmp_path / "no").touch()
        with pytest.raises(OutputError, match=r"Not a directory|File exists"):
            write_summary(tmp_path / "no" / "a.json", {})

    def test_configuration_is_plain(self):
        from sharpose_rt.config.schema import RunConfig

        got = plain({"config": RunConfig(), "tags": {"b", "a"}, "mask": np.array([True]), "text": "\udce9"})
        assert got["config"]["detector"]["name"] == "auto"
        assert got["tags"] == ["a", "b"]
        assert got["mask"] == [True]
        assert orjson.loads(orjson.dumps(got)) == got

    def test_versions(self):
        assert versions()["numpy"] == np.__version__
