"""Converters: each format read back, by the project's own reader where there is one; arrays for action recognition."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import math
import os
import pickle
import random
import re
import runpy
import shutil
import threading
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipelines import skeletons_to_action_array
from sharpose_rt.cli import main
from sharpose_rt.errors import ConfigError, OutputError, StreamError
from sharpose_rt.skeleton import COCO17, HALPE26, MPII16, WHOLEBODY133, Skeleton
from sharpose_rt.skeletons import (
    FrameRecord,
    Header,
    StreamReader,
    StreamWriter,
    action_array,
    angle_names,
    encode,
    joint_angles,
    windows,
)
from sharpose_rt.skeletons.convert import WRITERS, check_format, convert, convert_all, convert_set, options_of
from sharpose_rt.skeletons.convert.coco import people_labels
from sharpose_rt.skeletons.importers import import_stream
from sharpose_rt.skeletons.names import safe_stem
from sharpose_rt.training.datasets import read_people
from sharpose_rt.types import Poses, PoseStage
from tests.raising import raising

SIZE_WH = (640, 480)
# Frames of a clip by the ids of the people in them: 3 arrives and leaves, 1 has a gap, one frame is empty.
CLIP = [[1, 3], [3, 1], [], [1], [2, 1, 3], [2]]
NAMES = COCO17.keypoints
SAMPLE = Path(__file__).parents[2] / "samples/demo.skeletons.jsonl"


def point(track_id: int, t: int, joint: int) -> tuple[float, float]:
    """A place that tells who, when and which keypoint it is."""
    return track_id * 100 + t + joint / 4, 50 + joint * 10 + t / 2


def make_poses(ids, t: int = 0, k: int = 17, *, score: float = 0.75, tracked: bool = True) -> Poses:
    n = len(ids)
    keypoints = np.array([[point(i, t, j) for j in range(k)] for i in ids], np.float32).reshape(n, k, 2)
    boxes = np.array([[i * 100, 40, i * 100 + 20.5, 240] for i in ids], np.float32).reshape(n, 4)
    scores = np.full((n, k), score, np.float32)
    scores[:, 4] = 0  # the right ear is never found
    return Poses(
        boxes, np.full(n, 0.5), np.array(ids if tracked else [0] * n, np.int64), keypoints, scores,
        keypoints + 1000, scores, np.full(n, 0.5), np.zeros(n, np.int64),
    )  # fmt: skip


def write_clip(
    path: Path, clip=CLIP, skeleton: Skeleton = COCO17, fps: float | None = 25.0, source="walking.mp4", **poses
) -> Path:
    model = {"name": "tiny", "weights_sha256": None, "behaviour": "paper", "quality_threshold": 0.5}
    header = Header(source, SIZE_WH, fps, skeleton, model, "full", "sharpose", "none", "0.1.0")
    with StreamWriter(path, header) as writer:
        for t, ids in enumerate(clip):
            writer.write(t, t / 25, make_poses(ids, t, len(skeleton), **poses))
    return path


def twice_as_large(clip: Path, first: int) -> Path:
    """The same clip with frames of twice the header's size from frame `first` on, as of a camera that came back."""
    reader, path = StreamReader(clip), clip.with_name("grown.skeletons.jsonl")
    with StreamWriter(path, reader.header, overwrite=True) as writer:
        for record in reader:
            if record.frame_id >= first:
                points = {n: 2 * getattr(record.poses, n) for n in ("bboxes_xyxy", "keypoints", "raw_keypoints")}
                size_wh = (2 * SIZE_WH[0], 2 * SIZE_WH[1])
                record = replace(record, poses=replace(record.poses, **points), frame_size_wh=size_wh)
            writer.write_line(encode(record.to_record()))
    return path


def test_arrays_are_of_one_size(tmp_path):
    clip = write_clip(tmp_path / "a.skeletons.jsonl")
    grown = twice_as_large(clip, first=2)
    for raw in (False, True):
        np.testing.assert_allclose(action_array(grown, raw=raw).keypoints, action_array(clip, raw=raw).keypoints)


def of_pictures(clip: Path, names: Iterable[str], source: str = "shots") -> Path:
    """The same frames as a folder of pictures with these names; where those end, so do the frames."""
    reader, path = StreamReader(clip), clip.with_name(f"{source}.skeletons.jsonl")
    with StreamWriter(path, replace(reader.header, source=source), overwrite=True) as writer:
        for record, name in zip(reader, names, strict=False):
            writer.write_line(encode(replace(record, picture=name).to_record()))
    return path


def with_predicted(clip: Path, track_id: int) -> Path:
    """The same frames, in which nothing was seen of this person, whom the smoother alone has."""
    reader, path = StreamReader(clip), clip.with_name("predicted.skeletons.jsonl")
    with StreamWriter(path, reader.header, overwrite=True) as writer:
        for record in reader:
            poses, unseen = record.poses, record.poses.track_ids == track_id
            raw, scores, stage = (a.copy() for a in (poses.raw_keypoints, poses.raw_keypoint_scores, poses.stage))
            raw[unseen] = scores[unseen] = 0
            stage[unseen] = PoseStage.PREDICTED
            poses = replace(poses, raw_keypoints=raw, raw_keypoint_scores=scores, stage=stage)
            writer.write_line(encode(replace(record, poses=poses).to_record()))
    return path


def all_at_once(reader: StreamReader, out: Path, px_per_m: float | None) -> list[str]:
    """The text of each person's TRC file, by id."""
    frames = list(reader)
    seconds = frames[-1].pts_s - frames[0].pts_s
    rate = f"{reader.header.fps or (len(frames) - 1) / seconds:.6g}"
    names, scale, unit = reader.header.skeleton.keypoints, 1 / (px_per_m or 1), "m" if px_per_m else "px"
    texts = []
    for track_id in sorted({int(i) for frame in frames for i in frame.poses.track_ids}):
        there = [i for i, frame in enumerate(frames) if track_id in frame.poses.track_ids]
        within = frames[there[0] : there[-1] + 1]
        lines = [
            f"PathFileType\t4\t(X/Y/Z)\t{out.name}_person{track_id:02d}.trc",
            "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
            f"{rate}\t{rate}\t{len(within)}\t{len(names)}\t{unit}\t{rate}\t{within[0].frame_id + 1}\t{len(within)}",
            "Frame#\tTime\t" + "".join(f"{name}\t\t\t" for name in names),
            "\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(names) + 1)),
            "",
        ]
        for frame in within:
            cells = ["NaN\tNaN\tNaN"] * len(names)
            for row in np.flatnonzero(frame.poses.track_ids == track_id):
                points = np.round(frame.poses.keypoints[row].astype(float), 2)
                for k in np.flatnonzero(frame.poses.keypoint_scores[row] > 0):
                    x, y = points[k, 0], reader.header.frame_size_wh[1] - points[k, 1]
                    cells[k] = f"{x * scale:.5f}\t{y * scale:.5f}\t0"
            lines.append(f"{frame.frame_id + 1}\t{frame.pts_s:.6f}\t" + "\t".join(cells))
        texts.append("\n".join(lines) + "\n")
    return texts


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "walking.skeletons.jsonl")


class TestOpenPose:
    def test_every_frame_has_a_file_with_everything_of_version_1_3(self, clip):
        (folder,) = convert(clip, "openpose")
        files = sorted(folder.iterdir())
        assert [f.name for f in files] == [f"walking_{i:012d}_keypoints.json" for i in range(len(CLIP))]
        for file, ids in zip(files, CLIP, strict=True):
            record = json.loads(file.read_text())
            assert record["version"] == 1.3
            assert [p["person_id"] for p in record["people"]] == [[i] for i in ids]
            for person in record["people"]:
                assert list(person) == [
                    "person_id", "pose_keypoints_2d", "face_keypoints_2d", "hand_left_keypoints_2d",
                    "hand_right_keypoints_2d", "pose_keypoints_3d", "face_keypoints_3d", "hand_left_keypoints_3d",
                    "hand_right_keypoints_3d",
                ]  # fmt: skip

    # Index of nose, left shoulder, right ankle, left eye, right ear, neck in OpenPose's documentation of its output.
    @pytest.mark.parametrize(
        ("model", "count", "at"),
        [("COCO", 18, (0, 5, 10, 15, 16, 1)), ("BODY_25", 25, (0, 5, 11, 16, 17, 1))],
    )
    def test_order(self, clip, model, count, at):
        (folder,) = convert(clip, "openpose", model=model)
        person = json.loads((folder / "walking_000000000000_keypoints.json").read_text())["people"][0]
        points = np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
        assert len(points) == count
        nose, left_shoulder, right_ankle, left_eye, right_ear, neck = points[list(at)].tolist()
        assert nose == [*point(1, 0, 0), 0.75]
        assert left_shoulder == [*point(1, 0, NAMES.index("left_shoulder")), 0.75]
        assert right_ankle == [*point(1, 0, NAMES.index("right_ankle")), 0.75]
        assert left_eye == [*point(1, 0, NAMES.index("left_eye")), 0.75]
        assert right_ear == [0, 0, 0]
        middle = np.mean([point(1, 0, NAMES.index(f"{side}_shoulder")) for side in ("left", "right")], axis=0)
        np.testing.assert_allclose(neck, [*middle, 0.75], atol=0.0051)
        if model == "BODY_25":
            hips = np.mean([point(1, 0, NAMES.index(f"{side}_hip")) for side in ("left", "right")], axis=0)
            np.testing.assert_allclose(points[8], [*hips, 0.75], atol=0.0051)
            assert not points[19:].any()

    def test_other_skeletons_are_matched_by_name(self, tmp_path):
        path = write_clip(tmp_path / "a.jsonl", [[1]], MPII16)
        (folder,) = convert(path, "openpose", model="COCO")
        person = json.loads((folder / "a_000000000000_keypoints.json").read_text())["people"][0]
        points = np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
        assert points[10].tolist() == [*point(1, 0, 0), 0.75]  # right ankle
        assert points[1, 2] == 0.75  # the neck, from MPII's shoulders
        assert not points[[0, 14, 15, 16, 17]].any()  # no face

    @pytest.mark.parametrize("form", ["openpose", "kinetics"])
    def test_keypoints_of_which_a_format_has_none_are_refused(self, tmp_path, form):
        hand = Skeleton("custom", tuple(f"knuckle{i}" for i in range(21)), (), (), (), ())
        with pytest.raises(ConfigError, match=r"21 keypoints, knuckle0, knuckle1.* none of which this format has"):
            convert(write_clip(tmp_path / "a.skeletons.jsonl", skeleton=hand), form, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_hands_alone_are_somebody(self, tmp_path):
        poses, header = make_poses([1], k=133), StreamReader(write_clip(tmp_path / "a", skeleton=WHOLEBODY133)).header
        scores = np.where(np.arange(133) < WHOLEBODY133.body, 0, poses.keypoint_scores).astype(np.float32)
        with StreamWriter(tmp_path / "b", header) as writer:
            writer.write(0, 0.0, replace(poses, keypoint_scores=scores))
        (folder,) = convert(tmp_path / "b", "openpose")
        (person,) = json.loads((folder / "b_000000000000_keypoints.json").read_text())["people"]
        assert not any(person["pose_keypoints_2d"])
        assert person["hand_left_keypoints_2d"][:3] == [*np.round(point(1, 0, 91), 2), 0.75]

    def test_neck_needs_both_shoulders(self, tmp_path):
        poses = make_poses([1])
        scores = poses.keypoint_scores.copy()
        scores[0, NAMES.index("left_shoulder")] = 0.1
        header = StreamReader(write_clip(tmp_path / "a")).header
        with StreamWriter(tmp_path / "b", header) as writer:
            writer.write(0, 0.0, Poses(**{**vars(poses), "keypoint_scores": scores}))
        (folder,) = convert(tmp_path / "b", "openpose", min_score=0.2)
        person = json.loads((folder / "b_000000000000_keypoints.json").read_text())["people"][0]
        assert person["pose_keypoints_2d"][3:6] == [0, 0, 0]
        assert person["pose_keypoints_2d"][15:18] == [0, 0, 0]
        assert person["pose_keypoints_2d"][8] == 0.75

    def test_old_frames_go_and_other_files_stay_when_overwritten(self, clip):
        (folder,) = convert(clip, "openpose")
        (folder / "notes.txt").write_text("mine")
        write_clip(clip.with_name("short"), CLIP[:2]).replace(clip)
        convert(clip, "openpose", overwrite=True)
        names = sorted(f.name for f in folder.iterdir())
        assert names == ["notes.txt", *(f"walking_{i:012d}_keypoints.json" for i in range(2))]
        assert sorted(f.name for f in clip.parent.iterdir()) == ["walking.openpose", clip.name]

    def test_old_pictures_go_and_those_of_others_stay_when_overwritten(self, clip, caplog):
        (folder,) = convert(of_pictures(clip, (f"{n}.jpg" for n in "abcdef")), "openpose")
        assert not caplog.records
        more = of_pictures(clip, ["x.jpg", f"shots_{7:012d}.jpg"], "more")
        convert(more, "openpose", folder, overwrite=True)
        convert(clip, "openpose", folder, overwrite=True)
        (folder / "by_openpose_keypoints.json").write_text('{"version":1.3,"people":[]}')
        (folder / "d_keypoints.json").write_text("[]")  # somebody's own
        kept = {f.name for f in folder.iterdir()} - {f"{n}_keypoints.json" for n in "abcef"}
        caplog.clear()
        convert(of_pictures(clip, ["a.jpg", "f.jpg"]), "openpose", overwrite=True)
        assert {f.name for f in folder.iterdir()} == kept | {"a_keypoints.json", "f_keypoints.json"}
        assert f"has {len(kept)} more files, such as by_openpose_keypoints.json" in caplog.text
        convert(of_pictures(clip, ["y.jpg"], "more"), "openpose", folder, overwrite=True)
        kept -= {"x_keypoints.json", f"shots_{7:012d}_keypoints.json"}
        assert {f.name for f in folder.iterdir()} == kept | {f"{n}_keypoints.json" for n in "afy"}

    def test_pictures_of_another_set_of_the_same_name_stay(self, clip, tmp_path, caplog):
        (tmp_path / "y").mkdir()
        shutil.copy(clip, tmp_path / "y" / clip.name)
        (folder,) = convert(of_pictures(clip, ["1.jpg", "2.jpg"]), "openpose")
        convert(of_pictures(tmp_path / "y" / clip.name, ["2.jpg", "3.jpg"]), "openpose", folder, overwrite=True)
        assert {f.name for f in folder.iterdir()} == {f"{n}_keypoints.json" for n in "123"}
        assert "had 1 files of the same names, such as 2_keypoints.json" in caplog.text

    def test_untracked_people_have_openposes_minus_one(self, tmp_path):
        (folder,) = convert(write_clip(tmp_path / "a", [[1, 2]], tracked=False), "openpose")
        people = json.loads((folder / "a_000000000000_keypoints.json").read_text())["people"]
        assert [p["person_id"] for p in people] == [[-1], [-1]]


class TestLists:
    def test_alphapose(self, clip):
        (path,) = convert(clip, "alphapose")
        records = json.loads(path.read_text())
        assert [(r["image_id"], r["idx"]) for r in records] == [
            (f"{t}.jpg", i) for t, ids in enumerate(CLIP) for i in ids
        ]
        first = records[0]
        assert list(first) == ["image_id", "category_id", "keypoints", "score", "box", "idx"]
        assert first["keypoints"][:3] == [*point(1, 0, 0), 0.75]
        assert first["keypoints"][12:15] == [0, 0, 0]
        assert first["box"] == [100, 40, 20.5, 200]
        assert first["score"] == pytest.approx(0.75 * 16 / 17 + 0.5 + 1.25 * 0.75, abs=1e-4)

    def test_coco_results_are_perfect_to_pycocotools_against_themselves(self, clip):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        (path,) = convert(clip, "coco", first_image_id=1)
        results = json.loads(path.read_text())
        assert results[0]["score"] == pytest.approx(0.5 * 0.75 * 0.5)  # box, keypoints, quality
        assert [r["track_id"] for r in results] == [i for ids in CLIP for i in ids]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {
                "info": {},
                "images": [{"id": t + 1} for t in range(len(CLIP))],
                "categories": [{"id": 1, "name": "person", "keypoints": list(NAMES), "skeleton": []}],
                "annotations": [
                    {
                        "id": n, "image_id": r["image_id"], "category_id": 1, "iscrowd": 0, "num_keypoints": 16,
                        "area": 5000.0, "bbox": [0, 0, 50, 100],
                        "keypoints": [v if i % 3 < 2 else 2 * (v > 0) for i, v in enumerate(r["keypoints"])],
                    }
                    for n, r in enumerate(results, start=1)
                ],
            }  # fmt: skip
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(str(path)), "keypoints")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)

    def test_people_of_whom_nothing_was_found_are_in_no_format_of_keypoints(self, clip):
        path = with_predicted(clip, 1)
        (openpose,), *lists = (convert(path, to, raw=True) for to in ("openpose", "alphapose", "coco", "kinetics"))
        alphapose, coco, kinetics = (json.loads(written.read_text()) for (written,) in lists)
        left = [[i for i in ids if i != 1] for ids in CLIP]
        people = [json.loads(file.read_text())["people"] for file in sorted(openpose.iterdir())]
        assert [[person["person_id"] for person in frame] for frame in people] == [[[i] for i in ids] for ids in left]
        assert [(r["image_id"], r["idx"]) for r in alphapose] == [
            (f"{t}.jpg", i) for t, ids in enumerate(left) for i in ids
        ]
        assert [(r["image_id"], r["track_id"]) for r in coco] == [(t, i) for t, ids in enumerate(left) for i in ids]
        assert [len(frame["skeleton"]) for frame in kinetics["data"]] == [len(ids) for ids in left]
        rows = list(csv.DictReader(io.StringIO(convert(path, "csv", raw=True)[0].read_text())))
        assert [(row["left"], row["nose_x"]) for row in rows if row["track_id"] == "1"] == [("100.0", "")] * 4  # a box

    @pytest.mark.parametrize("to", ["alphapose", "coco"])
    def test_nobody_is_an_empty_list(self, tmp_path, to):
        (path,) = convert(write_clip(tmp_path / "a", [[], []]), to)
        assert json.loads(path.read_text()) == []


class TestActionFormats:
    def test_kinetics(self, clip):
        (path,) = convert(clip, "kinetics", label="walking", label_index=7, person_slots=2)
        video = json.loads(path.read_text())
        assert (video["label"], video["label_index"]) == ("walking", 7)
        assert [f["frame_index"] for f in video["data"]] == [1, 2, 3, 4, 5, 6]
        assert [len(f["skeleton"]) for f in video["data"]] == [2, 2, 0, 1, 2, 1]
        person = video["data"][0]["skeleton"][0]
        assert (len(person["pose"]), len(person["score"])) == (36, 18)
        np.testing.assert_allclose(person["pose"][:2], np.array(point(1, 0, 0)) / SIZE_WH, atol=5.1e-4)
        assert person["pose"][32:34] == [0, 0]  # right ear
        assert person["score"][16] == 0
        (path,) = convert(clip, "kinetics", clip.with_name("short.json"), max_frames=2)
        assert len(json.loads(path.read_text())["data"]) == 2

    def test_kinetics_of_an_empty_stream(self, tmp_path):
        (path,) = convert(write_clip(tmp_path / "a", []), "kinetics")
        assert json.loads(path.read_text()) == {"data": [], "label": "unknown", "label_index": -1}

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_pyskl(self, clip, dtype):
        (path,) = convert(clip, "pyskl", label=3, split="train", person_slots=4, dtype=dtype)
        video = pickle.loads(path.read_bytes())
        assert video["split"] == {"train": ["walking"], "val": []}
        (annotation,) = video["annotations"]
        assert {k: annotation[k] for k in ("frame_dir", "total_frames", "img_shape", "original_shape", "label")} == {
            "frame_dir": "walking", "total_frames": 6, "img_shape": (480, 640), "original_shape": (480, 640),
            "label": 3,
        }  # fmt: skip
        assert annotation["keypoint"].shape == (4, 6, 17, 2)
        assert annotation["keypoint_score"].shape == (4, 6, 17)
        assert annotation["keypoint"].dtype == annotation["keypoint_score"].dtype == np.dtype(dtype)
        np.testing.assert_allclose(annotation["keypoint"][0, 3, 0], point(1, 3, 0), rtol=1e-3)
        assert annotation["keypoint"].flags.writeable  # readers normalise in place
        assert b"numpy._core" not in path.read_bytes()  # which NumPy lacks before 1.26


class TestCocoLabels:
    def test_they_are_what_pycocotools_and_training_read(self, clip, tmp_path):
        from pycocotools.coco import COCO

        (path,) = convert(clip, "coco_labels")
        labels = COCO(str(path))
        assert [labels.imgs[t]["file_name"] for t in range(6)] == [f"walking_{t:06d}.jpg" for t in range(6)]
        assert labels.loadCats([1])[0]["keypoints"] == list(NAMES)
        assert min(min(limb) for limb in labels.loadCats([1])[0]["skeleton"]) == 1
        assert labels.dataset["licenses"] == []  # which Roboflow asks for, and CVAT for the outline
        assert all(record["segmentation"] == [] for record in labels.anns.values())
        for t, ids in enumerate(CLIP):
            people = labels.imgToAnns[t]
            assert [p["track_id"] for p in people] == ids
            for person, i in zip(people, ids, strict=True):
                table = np.array(person["keypoints"]).reshape(17, 3)
                assert table[4].tolist() == [0, 0, 0]  # the right ear
                assert (person["num_keypoints"], table[:, 2].max()) == (16, 2)
                np.testing.assert_allclose(table[0, :2], point(i, t, 0), atol=0.006)
                assert person["bbox"] == [i * 100, 40, 20.5, 200]
        for image in labels.imgs.values():
            cv2.imwrite(str(tmp_path / image["file_name"]), np.zeros((480, 640, 3), np.uint8))
        people = read_people(path, tmp_path)
        assert len(people) == sum(map(len, CLIP))
        assert people.joint_weights[0].tolist() == [1] * 4 + [0] + [1] * 12

    def test_back_again(self, clip, tmp_path):
        (path,) = convert(clip, "coco_labels")
        back = import_stream(path, "coco", tmp_path / "back.jsonl", frame_size_wh=SIZE_WH, fps=25)
        for frame, other in zip(StreamReader(clip), StreamReader(back), strict=True):
            np.testing.assert_array_equal(frame.poses.track_ids, other.poses.track_ids)
            np.testing.assert_array_equal(frame.poses.bboxes_xyxy, other.poses.bboxes_xyxy)
            np.testing.assert_allclose(frame.poses.keypoints[:, :4], other.poses.keypoints[:, :4], atol=0.006)

    @pytest.mark.parametrize("names", [[f"{581781 + t:012d}.jpg" for t in range(6)], list("abcdef"), None])
    @pytest.mark.parametrize("first", [0, 1])
    def test_results_fit_the_labels_of_the_same_stream(self, clip, names, first):
        """As pycocotools' loadRes asks."""
        from pycocotools.coco import COCO

        path = of_pictures(clip, names) if names else clip
        (labels,), (results,) = (convert(path, to, first_image_id=first) for to in ("coco_labels", "coco"))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(labels))
            found = truth.loadRes(str(results))
        assert [image["frame_id"] for image in truth.imgs.values()] == list(range(6))
        for image in truth.imgs:
            theirs, ours = (people.loadAnns(people.getAnnIds([image])) for people in (truth, found))
            assert [person["track_id"] for person in ours] == [person["track_id"] for person in theirs]
        assert found.getAnnIds()
        back = import_stream(labels, "coco", clip.with_name("back"), frame_size_wh=SIZE_WH, fps=25)
        assert [frame.poses.track_ids.tolist() for frame in StreamReader(back)] == CLIP

    @pytest.mark.parametrize("pictures", [False, True])
    @pytest.mark.parametrize("to", ["coco", "coco_labels"])
    def test_of_a_stream_that_grows_each_pass_sees_the_same(self, clip, to, pictures, monkeypatch):
        path = of_pictures(clip, (f"{t}.jpg" for t in range(6))) if pictures else clip
        *lines, last, _ = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines))
        read, late = StreamReader.__iter__, last.replace(b'"picture":"5.jpg"', b'"picture":"none.jpg"')

        def grow(self):
            yield from read(self)
            with path.open("ab") as file:
                file.write(late if path.read_bytes() == b"".join(lines) else b"")

        monkeypatch.setattr(StreamReader, "__iter__", grow)
        document = json.loads(convert(path, to)[0].read_text())
        assert late in path.read_bytes()
        records = document if to == "coco" else document["annotations"]
        if to == "coco_labels":
            assert [image["id"] for image in document["images"]] == list(range(5))
        assert [record["image_id"] for record in records] == [t for t, ids in enumerate(CLIP[:5]) for _ in ids]

    def test_people_whom_nobody_saw_are_left_out(self, clip):
        annotations = json.loads(convert(with_predicted(clip, 1), "coco_labels")[0].read_text())["annotations"]
        assert [(a["image_id"], a["track_id"]) for a in annotations] == [
            (t, i) for t, ids in enumerate(CLIP) for i in ids if i != 1
        ]
        assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))

    @pytest.mark.parametrize("box", [[-60, 10, -2, 200], [10, -90, 60, 0], [639, 10, 700, 200], [10, 479, 60, 500]])
    def test_who_stands_beyond_the_picture_is_left_out(self, box):
        """Their boxes would have no width or height, for which training refuses the whole set."""
        poses = replace(make_poses([1, 2]), bboxes_xyxy=np.array([box, [10, 10, 60, 200]], np.float32))
        assert [label["track_id"] for label in people_labels(poses, SIZE_WH, COCO17)] == [2]

    def test_what_lies_outside_the_picture_is_not_labelled(self, tmp_path):
        """A real clip; ultralytics drops a whole picture for one such point."""
        from ultralytics.data.converter import convert_coco
        from ultralytics.data.utils import verify_image_label

        boxes, points = [[-9, 400, 50, 500.5], [600, -3, 700, 100]], make_poses([1, 3]).keypoints.copy()
        points[:, :2] = [[[-0.2, 450], [10, 479.4]], [[639.2, 50], [639, 0]]]
        beyond = replace(make_poses([1, 3]), bboxes_xyxy=np.array(boxes, np.float32), keypoints=points)
        made = tmp_path / "made.skeletons.jsonl"
        with StreamWriter(made, StreamReader(write_clip(tmp_path / "a")).header) as writer:
            writer.write(0, 0.0, beyond)
        (tmp_path / "labels").mkdir()
        for clip in (SAMPLE, made):
            (path,) = convert(clip, "coco_labels", tmp_path / "labels" / f"{clip.name}.json")
            document = json.loads(path.read_text())
            outside = 0
            for frame, image in zip(StreamReader(clip), document["images"], strict=True):
                end = np.array([image["width"], image["height"]]) - 1
                people = [a for a in document["annotations"] if a["image_id"] == image["id"]]
                for i, person in enumerate(people):
                    points, sure = frame.poses.keypoints[i], frame.poses.keypoint_scores[i] >= 0.3
                    within, table = ((points >= 0) & (points <= end)).all(1), np.reshape(person["keypoints"], (17, 3))
                    outside += int((sure & ~within).sum())
                    assert table[:, 2].tolist() == np.where(sure & within, 2, 0).tolist()
                    assert person["num_keypoints"] == (table[:, 2] > 0).sum()
                    assert not table[table[:, 2] == 0].any()
            assert outside > 2
        boxes = [(a["bbox"], a["area"]) for a in document["annotations"]]
        assert boxes == [([0, 400, 50, 79], pytest.approx(0.53 * 50 * 79)), ([600, 0, 39, 100], pytest.approx(2067))]
        convert_coco(str(tmp_path / "labels"), str(tmp_path / "yolo"), use_keypoints=True, cls91to80=False)
        texts = sorted((tmp_path / "yolo").rglob("*.txt"))
        assert len(texts) == 26
        for text in texts:
            picture = text.with_suffix(".jpg")
            cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
            told = verify_image_label((str(picture), str(text), "", True, 1, 17, 3, False))
            assert (told[0], told[-1]) == (str(picture), "")

    def test_people_of_low_scores_are_left_out(self, tmp_path):
        (path,) = convert(write_clip(tmp_path / "a", score=0.25), "coco_labels")
        document = json.loads(path.read_text())
        assert (len(document["images"]), document["annotations"]) == (6, [])

    def test_texts_are_taken_as_they_are(self, clip, tmp_path):
        """Not as YAML, in which a brace begins a mapping and `no` is false."""
        base = ["convert", str(clip), "--overwrite", "--option"]
        assert main([*base, "file_name={frame:03d}.jpg", "--to", "coco_labels", "--out", str(tmp_path / "a")]) == 0
        assert json.loads((tmp_path / "a").read_text())["images"][5]["file_name"] == "005.jpg"
        assert main([*base, "label=no", "--to", "kinetics", "--out", str(tmp_path / "b")]) == 0
        assert json.loads((tmp_path / "b").read_text())["label"] == "no"
        written = convert_all(clip, ["kinetics", "pyskl"], **options_of(["label=3"]))  # a text and a number
        assert json.loads(written[0].read_text())["label"] == "3"
        assert pickle.loads(written[1].read_bytes())["annotations"][0]["label"] == 3

    def test_names_of_pictures(self, clip, tmp_path):
        (path,) = convert(clip, "coco_labels", tmp_path / "a.json", file_name="img/{frame:05d}.png")
        assert json.loads(path.read_text())["images"][3]["file_name"] == "img/00003.png"
        for pattern in ("{number}.png", "{frame[0]}.png", "{stem.x}.png"):
            with pytest.raises(ConfigError, match=r"fields \{stem\} and \{frame\} are accepted"):
                convert(clip, "coco_labels", tmp_path / "b.json", file_name=pattern)
        with pytest.raises(ConfigError, match="the same name for all frames"):
            convert(clip, "coco_labels", tmp_path / "b.json", file_name="{stem}.png")


class TestSets:
    """Many clips in the one pickle that an action network is trained from."""

    @pytest.fixture
    def clips(self, tmp_path) -> list[Path]:
        return [
            write_clip(tmp_path / f"{name}.skeletons.jsonl", CLIP[:n]) for name, n in (("a", 6), ("b", 4), ("c", 2))
        ]

    def test_labels_and_splits(self, clips, tmp_path, capsys):
        labels, out = tmp_path / "labels.csv", tmp_path / "sets" / "all.pkl"
        labels.write_text("clip,label,split\na.mp4,3,train\nvideos/b.skeletons.jsonl,0,train\nc,7\nd,1,test\n")
        arguments = ["convert", *map(str, clips), "--to", "pyskl", "--labels", str(labels), "--out", str(out)]
        assert main([*arguments, "--person-slots", "3", "--option", "split=test"]) == 0
        assert capsys.readouterr().out.strip() == str(out)
        document = pickle.loads(out.read_bytes())
        assert document["split"] == {"train": ["a", "b"], "val": [], "test": ["c"]}
        assert [(a["frame_dir"], a["label"], a["total_frames"]) for a in document["annotations"]] == [
            ("a", 3, 6), ("b", 0, 4), ("c", 7, 2),
        ]  # fmt: skip
        (alone,) = convert(clips[0], "pyskl", label=3, person_slots=3)
        np.testing.assert_array_equal(
            document["annotations"][0]["keypoint"], pickle.loads(alone.read_bytes())["annotations"][0]["keypoint"]
        )
        assert main(arguments) == 2
        assert "exists already" in capsys.readouterr().err

    def test_without_labels_all_are_of_one_class(self, clips, tmp_path):
        document = pickle.loads(convert_set(clips, tmp_path / "x.pkl", label=5, split="train").read_bytes())
        assert [a["label"] for a in document["annotations"]] == [5, 5, 5]
        assert document["split"]["train"] == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a,1\nb,2\n", "no label for 'c'"),
            ("", "there are no labels"),
            ("a,1\na.skeletons.jsonl,2\n", r"line 2: 'a' has a label already"),
            ("a,1\na.mp4,2\n", r"labels 'a' and 'a\.mp4' are both of the clip 'a', and differ"),
            (
                "x/-a.mpg,1,val\na.mpg,1,train\n",
                r"labels 'x/-a\.mpg' and 'a\.mpg' are both of the clip 'a', and differ",
            ),
            ("a,\n", "line 1 is 'a,'; name,label"),
            ("a,1\nb,walk\nc,2\n", "has the number 1 for 'a', and 'walk' for 'b'; labels are numbers of classes or"),
            ("a,1,train,x\n", "line 1 is 'a,1,train,x'"),
        ],
    )
    def test_labels_that_do_not_fit(self, clips, tmp_path, text, said):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(ConfigError, match=said):
            convert_set(clips, tmp_path / "x.pkl", tmp_path / "labels.csv")
        assert not (tmp_path / "x.pkl").exists()

    def test_classes_by_name_get_numbers_that_are_kept(self, clips, tmp_path, capsys, caplog):
        caplog.set_level(logging.INFO, "sharpose_rt")
        labels, out = tmp_path / "labels.csv", tmp_path / "train.pkl"
        labels.write_text('video,class,split\na.mp4,squat,train\nb,"jump, high",train\nc,walk 10,val\nd,walk 9\n')
        arguments = ["convert", *map(str, clips), "--to", "pyskl", "--labels", str(labels), "--out"]
        assert main([*arguments, str(out)]) == 0
        told = [a["label"] for a in pickle.loads(out.read_bytes())["annotations"]]
        classes = tmp_path / "train.classes.txt"
        assert classes.read_text().splitlines() == ["jump, high", "squat", "walk 9", "walk 10"]
        assert told == [1, 0, 3]
        assert f"4 classes, their numbers by {classes}: jump, high, squat, walk 9, walk 10" in caplog.messages
        assert main([*arguments, str(out)]) == 2  # neither is written over
        labels.write_text("a,squat\nb,squat\nc,squat\n")  # of another set, which has not all classes
        assert main([*arguments, str(tmp_path / "val.pkl"), "--classes", str(classes)]) == 0
        assert [a["label"] for a in pickle.loads((tmp_path / "val.pkl").read_bytes())["annotations"]] == [1, 1, 1]
        assert not (tmp_path / "val.classes.txt").exists()
        capsys.readouterr()
        labels.write_text("a,squat\nb,jump\nc,squat\n")
        assert main([*arguments, str(tmp_path / "x.pkl"), "--classes", str(classes)]) == 2
        assert "the label 'jump' is not one of the 4 classes: jump, high, squat" in capsys.readouterr().err
        labels.write_text("a,0\nb,4\nc,1\n")
        assert main([*arguments, str(tmp_path / "x.pkl"), "--classes", str(classes)]) == 2
        assert "the label 4 is not one of the 4 classes, which are numbered from 0" in capsys.readouterr().err
        classes.write_text("squat\njump\nsquat\n")
        assert main([*arguments, str(tmp_path / "x.pkl"), "--classes", str(classes)]) == 2
        assert "has the class 'squat' twice" in capsys.readouterr().err
        assert main(["convert", str(clips[0]), "--to", "pyskl", "--classes", str(classes)]) == 2
        assert "--classes names the classes of --labels" in capsys.readouterr().err
        assert not (tmp_path / "x.pkl").exists()

    def test_folders_of_videos_are_their_classes(self, tmp_path, capsys):
        names = [f"{split}/{name}/{n:03d}" for split in ("train", "val") for name in ("jump", "squat") for n in (1, 2)]
        self.of_videos(tmp_path / "out", {name: f"set/{name}.mp4" for name in names})
        asked = ["convert", str(tmp_path / "out"), "--to", "pyskl", "--labels", "folders", "--out"]
        assert main([*asked, str(tmp_path / "x.pkl")]) == 0
        document = pickle.loads((tmp_path / "x.pkl").read_bytes())
        told = {a["frame_dir"]: a["label"] for a in document["annotations"]}
        assert told == {name: int("squat" in name) for name in names}
        assert document["split"] == {split: [name for name in names if split in name] for split in ("train", "val")}
        assert (tmp_path / "x.classes.txt").read_text() == "jump\nsquat\n"
        for number, source in enumerate(("a.mp4", "../a.mp4", "/a.mp4")):
            self.of_videos(tmp_path / f"flat{number}", {"a": source})
            assert main(["convert", f"{tmp_path}/flat{number}", *asked[2:], str(tmp_path / "y.pkl")]) == 2
            assert f"is of {source}, whose path has no folder for the class" in capsys.readouterr().err

    def test_labels_by_the_names_of_videos(self, tmp_path):
        """Of which runs make safe names; the set keeps its own, by which its lists of splits go."""
        videos = ["-3B32lodo2M_000059_000069.avi", "#12_(_Nippers_)_brush hair&x.MPG", "v1.mts", "v1.2_a.b"]
        names = [safe_stem(name) for name in (*(Path(video).stem for video in videos[:3]), videos[3])]
        assert names[:2] == ["3B32lodo2M_000059_000069", "12___Nippers___brush_hair_x"]
        clips = [write_clip(tmp_path / f"{name}.skeletons.jsonl", CLIP[:2]) for name in [*names, "v1.2"]]
        rows = [(name, n) for n, name in enumerate([*videos, "v1.2"])]
        labels = tmp_path / "labels.csv"
        labels.write_text("".join(f"{name},{n},train\n" for name, n in [*rows, ("v1.mp4", 2), ("gone.avi", 9)]))
        document = pickle.loads(convert_set(clips, tmp_path / "x.pkl", labels).read_bytes())
        told = {a["frame_dir"]: a["label"] for a in document["annotations"]}
        assert told == {Path(videos[0]).stem: 0, Path(videos[1]).stem: 1, "v1": 2, "v1.2_a.b": 3, "v1.2": 4}
        assert document["split"]["train"] == list(told)

    @staticmethod
    def of_videos(folder: Path, videos: dict[str, str]) -> list[Path]:
        """Streams by their paths below the folder, of these videos."""
        paths = [folder / f"{path}.skeletons.jsonl" for path in videos]
        for path, video in zip(paths, videos.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(path, CLIP[:2], source=video)
        return paths

    @pytest.mark.parametrize(
        "streams",
        [
            ("001", "001-2", "001-3"),  # as a run lays them in one folder
            ("jump/001", "squat/001", "walk/001"),
            ("jump/001/001", "squat/001/001", "walk/001/001"),  # as the recipe for folders of videos does
        ],
    )
    @pytest.mark.parametrize("ending", [".mp4", ""])
    def test_labels_by_the_paths_of_videos(self, tmp_path, streams, ending):
        videos = [f"set/{name}/001.mp4" for name in ("jump", "squat", "walk")]
        clips = self.of_videos(tmp_path / "out", dict(zip(streams, videos, strict=True)))
        labels = tmp_path / "labels.csv"
        labels.write_text(f"jump/001{ending},0\nset/squat/001{ending},1\nsquat/001{ending},7\nwalk/001{ending},2\n")
        for paths in (clips, clips[::-1]):
            document = pickle.loads(convert_set(paths, tmp_path / "x.pkl", labels, overwrite=True).read_bytes())
            told = {a["frame_dir"]: a["label"] for a in document["annotations"]}
            assert told == {"jump/001": 0, "squat/001": 1, "walk/001": 2}
            assert document["split"]["val"] == list(told)

    @pytest.mark.parametrize("classes", [(0, 1), ("jump", "squat")])
    def test_the_lists_of_mmaction(self, tmp_path, classes):
        """Lines of 'path label', where a path may have blanks."""
        clips = self.of_videos(tmp_path, {"a": "set/some jumps/001.mp4", "b": "set/squats/001.mp4"})
        (tmp_path / "list.txt").write_text(f"some jumps/001.mp4 {classes[0]}\n\nsquats/001.mp4\t{classes[1]}\n")
        document = pickle.loads(convert_set(clips, tmp_path / "x.pkl", tmp_path / "list.txt").read_bytes())
        assert {a["frame_dir"]: a["label"] for a in document["annotations"]} == {"some jumps/001": 0, "squats/001": 1}

    def test_the_csv_of_kinetics(self, tmp_path):
        videos = {"a": "k400/-3B32lodo2M_000059_000069.mp4", "b": "k400/4nJ3Yy_000005_000015.mkv"}
        clips = self.of_videos(tmp_path, videos)
        (tmp_path / "k.csv").write_text(
            '"label","youtube_id","time_start","time_end","split","is_cc"\n'
            '"tickling","-3B32lodo2M",59,69,"validate",0\nabseiling,gone,0,10,train,0\n\n'
            '"riding, or walking with, horse",4nJ3Yy,5.0,15.0,train,1\n'
        )
        document = pickle.loads(convert_set(clips, tmp_path / "x.pkl", tmp_path / "k.csv").read_bytes())
        told = {a["frame_dir"]: a["label"] for a in document["annotations"]}
        assert told == {"-3B32lodo2M_000059_000069": 2, "4nJ3Yy_000005_000015": 1}
        assert document["split"] == {"train": ["4nJ3Yy_000005_000015"], "val": ["-3B32lodo2M_000059_000069"]}

    @pytest.mark.parametrize(
        ("first", "second", "label"),
        [
            ("jump", "squat", 0),
            (7, 1, 7),
            ({"label": "jump", "split": "train"}, {"label": "squat"}, 0),
            # Kinetics-skeleton's own file, whose numbers count
            ({"has_skeleton": True, "label": "jump", "label_index": 31}, {"label": "squat", "label_index": 4}, 31),
        ],
    )
    def test_labels_of_json(self, tmp_path, first, second, label):
        clips = self.of_videos(tmp_path, {"a": "set/jump/001.mp4", "b": "set/squat/001.mp4"})
        (tmp_path / "labels.json").write_text(json.dumps({"jump/001.mp4": first, "squat/001": second}))
        document = pickle.loads(convert_set(clips, tmp_path / "x.pkl", tmp_path / "labels.json").read_bytes())
        assert {a["frame_dir"]: a["label"] for a in document["annotations"]}["jump/001"] == label
        assert document["split"]["train"] == (["jump/001"] if isinstance(first, dict) and "split" in first else [])

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            (
                "k.csv",
                "youtube_id,time_start,time_end,split\na,0,10,test\n",
                "line 1 is the header of .* without 'label'",
            ),
            ("k.csv", "label,youtube_id,time_start,time_end\nx,a,0,soon\n", "line 2 is 'x,a,0,soon'; label,youtube_id"),
            ("k.csv", "label,youtube_id,time_start,time_end\nx,a\n", "line 2 is 'x,a'; label,youtube_id"),
            (
                "k.csv",
                "label,youtube_id,time_start,time_end\nx,a,0,1\ny,a,0,1\n",
                "line 3: 'a_000000_000001' has a label",
            ),
            ("x.json", '["a"]', r"x\.json is \['a'\]; an object of labels by name"),
            ("x.json", '{"a": 1', "cannot read the labels .*x.json.*an object of labels by name"),
            ("x.json", '{"a": true}', "has True for 'a'; the number or name of a class"),
            ("x.json", '{"a": {"split": "val"}}', "for 'a'; the number or name of a class"),
            ("x.json", '{"a": {"label": 1, "split": 2}}', "for 'a'; the number or name of a class"),
            ("x.json", '{"a": ""}', "at 'a' is 'a,,'; name,label"),
        ],
    )
    def test_labels_of_kinetics_and_json_that_do_not_fit(self, clips, tmp_path, name, text, said):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=said):
            convert_set(clips, tmp_path / "x.pkl", tmp_path / name)
        assert not (tmp_path / "x.pkl").exists()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("jump/001.mp4,0\n", r"no label for '001', of set/squat/001\.mp4"),
            ("jump/001.mp4,0\nwalk/001.mp4,1\n", r"no label for '001', of set/squat/001\.mp4"),  # of another class
            (
                "001.mp4,0\n",
                r"the label '001\.mp4' is of several clips, such as set/jump/001\.mp4 and set/squat/001\.mp4",
            ),
            ("jump/001.mp4,0\njump/001.mp4,1\n", r"line 2: 'jump/001\.mp4' has a label already"),
            ("jump/001.mp4,0\njump/001,1\n", r"labels 'jump/001\.mp4' and 'jump/001' are both of the clip '001'"),
            ("./,0\n", "line 1 is './,0'; name,label"),
            ("jump/001.mp4 0\nsquat/001.mp4\n", "line 2 is 'squat/001.mp4'; name,label"),
        ],
    )
    def test_labels_by_paths_that_do_not_fit(self, tmp_path, text, said):
        clips = self.of_videos(tmp_path, {f"{name}/001": f"set/{name}/001.mp4" for name in ("jump", "squat")})
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(ConfigError, match=said):
            convert_set(clips, tmp_path / "x.pkl", tmp_path / "labels.csv")
        assert not (tmp_path / "x.pkl").exists()

    def test_videos_that_differ_in_their_ending(self, tmp_path):
        clips = self.of_videos(tmp_path, {f"walk.{end}/walk": f"set/walk.{end}" for end in ("avi", "mp4")})
        (tmp_path / "labels.csv").write_text("walk.avi,3\nwalk.mp4,4\n")
        document = pickle.loads(convert_set(clips, tmp_path / "x.pkl", tmp_path / "labels.csv").read_bytes())
        assert {a["frame_dir"]: a["label"] for a in document["annotations"]} == {"walk.avi": 3, "walk.mp4": 4}

    def test_what_a_set_has_twice_or_nobody_in_it_is_told(self, tmp_path, caplog):
        clips = self.of_videos(tmp_path, {"j1": "set/j1.mp4", "j1-2": "set/j1.mp4", "j2": "set/j2.mp4"})
        live = self.of_videos(tmp_path, {"webcam0": "webcam:0", "webcam0-2": "webcam:0"})
        for path in live:  # one after another: each is of something else
            path.write_bytes(path.read_bytes().replace(b'"people"', b'"captured_at":"2026-01-31T12:00:00Z","people"'))
        clips[2].unlink()
        write_clip(clips[2], [[], []], source="set/j2.mp4")
        (tmp_path / "labels.csv").write_text("set/j1.mp4,0\nj2,1\nwebcam0,2\nwebcam0-2,2\n")
        document = pickle.loads(convert_set([*clips, *live], tmp_path / "x.pkl", tmp_path / "labels.csv").read_bytes())
        assert [a["frame_dir"] for a in document["annotations"]] == ["j1", "j1-2", "j2", "webcam0", "webcam0-2"]
        assert caplog.messages == [
            f"{clips[0]}, {clips[1]} are all of set/j1.mp4; leave out duplicates",
            f"{clips[2]} contains nobody, so its arrays are all zeros",
        ]

    def test_parts_of_one_run_are_nothing_twice(self, tmp_path, caplog):
        first, second = self.of_videos(tmp_path, {"walk.00h00m00s": "walk.mp4", "walk.00h00m10s": "walk.mp4"})
        reader = StreamReader(second)
        records = [replace(record, pts_s=10 + record.pts_s) for record in reader]
        with StreamWriter(second, reader.header, overwrite=True) as writer:
            for record in records:
                writer.write_line(encode(record.to_record()))
        document = pickle.loads(convert_set([second, first], tmp_path / "x.pkl").read_bytes())
        assert [a["frame_dir"] for a in document["annotations"]] == ["walk.00h00m10s", "walk.00h00m00s"]
        assert caplog.messages == []

    def test_clips_of_other_keypoints_are_no_set(self, tmp_path):
        coco, feet, mpii = (
            write_clip(tmp_path / f"{skeleton.name}.skeletons.jsonl", skeleton=skeleton, source=f"{skeleton.name}.mp4")
            for skeleton in (COCO17, HALPE26, MPII16)
        )
        document = pickle.loads(convert_set([coco, feet], tmp_path / "x.pkl").read_bytes())  # both begin with COCO's
        assert [a["keypoint"].shape[2] for a in document["annotations"]] == [17, 17]
        with pytest.raises(ConfigError, match=r"mpii16\.\S* has the 16 keypoints of mpii16, and \S* the 17 of coco17"):
            convert_set([coco, feet, mpii], tmp_path / "y.pkl")
        assert not (tmp_path / "y.pkl").exists()

    def test_two_clips_of_one_name(self, clips, tmp_path):
        (tmp_path / "more").mkdir()
        other = write_clip(tmp_path / "more" / "a.skeletons.jsonl")
        with pytest.raises(ConfigError, match="several clips are named 'a'") as error:
            convert_set([*clips, other], tmp_path / "x.pkl")
        assert f"{clips[0]}, {other}; leave out one, or rename it" in str(error.value)

    def test_clips_that_would_get_one_name(self, clips, tmp_path, capsys):
        other = write_clip(clips[0].with_name("a.jsonl"))
        for more in ([], ["--out", str(tmp_path / "t")]):
            assert main(["convert", str(clips[0]), str(other), "--to", "csv", *more]) == 2
            assert "several streams would be written to" in capsys.readouterr().err
        assert not list(tmp_path.rglob("*.csv"))

    @pytest.mark.parametrize("to", ["csv", "trc", "openpose"])
    def test_results_that_are_there_are_found_before_work_begins(self, to, clips, tmp_path, capsys):
        out = tmp_path / "t"
        convert(clips[1], to, out / f"b{WRITERS[to].suffix}")
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        arguments = ["convert", *map(str, clips), "--to", to, "--out", str(out)]
        assert main(arguments) == 2
        assert f"1 of 3 results exist already, such as {out}/b" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        assert main([*arguments, "--overwrite"]) == 0
        assert {path.name[0] for path in out.iterdir()} == {"a", "b", "c"}

    def test_clips_of_one_name_keep_their_folders(self, clips, tmp_path, capsys):
        (tmp_path / "more").mkdir()
        other = write_clip(tmp_path / "more" / "a.skeletons.jsonl")
        arguments = ["convert", str(clips[0]), str(other), "--to", "csv"]
        assert main([*arguments, "--out", str(tmp_path / "t")]) == 0
        assert main(arguments) == 0  # beside each
        found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv")}
        assert found == {"t/a.csv", "t/more/a.csv", "a.csv", "more/a.csv"}

    def test_a_folder_a_glob_and_a_list_stand_for_their_streams(self, tmp_path, capsys):
        names = ["jump/clip2", "jump/clip10", "walk/clip1"]
        clips = self.of_videos(tmp_path / "out", {name: f"set/{name}.mp4" for name in names})
        (tmp_path / "out/jump/.clip.skeletons.jsonl").write_bytes(b"under way")
        (tmp_path / "out/summary.json").write_bytes(b"{}")
        (tmp_path / "labels.csv").write_text("clip1,0\nclip2,1\nclip10,2\n")
        (tmp_path / "list.txt").write_text("".join(f"{clip}\n" for clip in clips))
        convert_set(clips, tmp_path / "by_name.pkl", tmp_path / "labels.csv")
        for given in (f"{tmp_path}/out", f"{tmp_path}/out/**/*.jsonl", f"@{tmp_path}/list.txt"):
            out = tmp_path / "x.pkl"
            asked = ["convert", given, "--to", "pyskl", "--labels", str(tmp_path / "labels.csv"), "--out", str(out)]
            assert main([*asked, "--overwrite"]) == 0
            assert out.read_bytes() == (tmp_path / "by_name.pkl").read_bytes()
        assert main(["convert", f"{tmp_path}/out", "--to", "csv", "--out", f"{tmp_path}/tables"]) == 0
        tables = {path.relative_to(tmp_path / "tables").as_posix() for path in (tmp_path / "tables").rglob("*")}
        assert tables == {"jump", "walk", *(f"{name}.csv" for name in names)}

    @pytest.mark.parametrize("given", ["{}/out", "{}/out/*.jsonl", "@{}/list.txt"])
    def test_a_folder_of_a_single_stream_has_its_results_in_a_folder_too(self, tmp_path, given):
        (tmp_path / "out").mkdir()
        clip = write_clip(tmp_path / "out" / "a.skeletons.jsonl")
        (tmp_path / "list.txt").write_text(f"{clip}\n")
        assert main(["convert", given.format(tmp_path), "--to", "csv", "--out", f"{tmp_path}/tables"]) == 0
        assert (tmp_path / "tables/a.csv").is_file()
        one = tmp_path / "one.pkl"
        assert main(["convert", given.format(tmp_path), "--to", "pyskl", "--out", str(one)]) == 0
        assert one.is_file()

    def test_one_that_cannot_be_read_costs_the_others_nothing(self, clips, tmp_path, capsys, caplog):
        (tmp_path / "aa.skeletons.jsonl").write_text("no stream\n")
        assert main(["convert", str(tmp_path), "--to", "csv"]) == 2
        assert {path.name for path in tmp_path.glob("*.csv")} == {f"{clip.name.split('.')[0]}.csv" for clip in clips}
        assert "continuing with the next one" in caplog.text
        assert f"1 failed: {tmp_path / 'aa.skeletons.jsonl'}" in caplog.text

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("{}", "has no *.skeletons.jsonl; a stream, a folder"),
            ("{}/*.jsonl", "has no *.skeletons.jsonl; a stream, a folder"),
            ("@{}/list.txt", "cannot read the list of streams"),
        ],
    )
    def test_where_there_is_no_stream_it_is_told(self, tmp_path, given, said, capsys):
        for command in (["convert", "--to", "csv"], ["replay", "--no-video"], ["validate"], ["collect", "--out", "x"]):
            asked = [command[0], given.format(tmp_path), *command[1:]]
            assert main(asked) == 2
            assert said in capsys.readouterr().err, asked

    @pytest.mark.parametrize("name", ["a[1].skeletons.jsonl", "b*.skeletons.jsonl", "c {x}?.jsonl"])
    def test_a_file_whose_name_looks_like_a_glob_is_itself(self, tmp_path, name, capsys):
        write_clip(tmp_path / name)
        write_clip(tmp_path / "a1.skeletons.jsonl")
        assert main(["validate", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}: valid\n"

    def test_a_set_is_not_written_over_what_it_is_made_of(self, clips):
        before = clips[0].read_bytes()
        with pytest.raises(OutputError, match="is an input"):
            convert_set(clips, clips[0], overwrite=True)
        assert clips[0].read_bytes() == before
        labels = clips[0].with_name("labels.csv")
        labels.write_text("a,1\nb,1\nc,2\n")
        with pytest.raises(OutputError, match="is an input"):
            convert_set(clips, labels, labels, overwrite=True)
        assert labels.read_text().startswith("a,1")

    def test_a_set_in_a_folder_has_no_name(self, clips, tmp_path):
        for out in (tmp_path, f"{tmp_path}/new/"):
            with pytest.raises(ConfigError, match=r"is a folder, and a dataset .* needs a name.*--out FILE"):
                convert_set(clips, out, overwrite=True)
        assert len(list(tmp_path.iterdir())) == len(clips)

    def test_other_formats_take_each_clip_for_itself(self, clips, tmp_path, capsys):
        assert main(["convert", *map(str, clips), "--to", "csv", "--out", str(tmp_path / "tables")]) == 0
        assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == ["a.csv", "b.csv", "c.csv"]
        capsys.readouterr()
        for arguments, said in (
            (["--to", "pyskl"], "a dataset of several clips needs a name"),
            (["--to", "csv", "--labels", "x"], "--labels goes with --to pyskl, not with csv"),
            (
                ["--from", "coco", "--fps", "25", "--frame-size", "9x9"],
                "--from accepts one IN, of one video; 3 were given",
            ),
        ):
            assert main(["convert", *map(str, clips), *arguments]) == 2
            assert said in capsys.readouterr().err


class TestTables:
    def test_mot(self, clip):
        (path,) = convert(clip, "mot")
        rows = np.loadtxt(path, delimiter=",")
        assert rows[:, :2].astype(int).tolist() == [[t + 1, i] for t, ids in enumerate(CLIP) for i in ids]
        assert rows[0].tolist() == [1, 1, 101, 41, 20.5, 200, 0.5, -1, -1, -1]  # pixels from 1

    def test_csv(self, clip):
        (path,) = convert(clip, "csv")
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        assert [(int(r["frame_id"]), int(r["track_id"])) for r in rows] == [
            (t, i) for t, ids in enumerate(CLIP) for i in ids
        ]
        row = rows[2]
        assert float(row["pts_s"]) == 0.04
        assert (float(row["left_hip_x"]), float(row["left_hip_y"])) == point(3, 1, NAMES.index("left_hip"))
        assert (row["right_ear_x"], row["right_ear_score"], row["stage"]) == ("", "", "coarse")

    @pytest.mark.parametrize("angles", [False, True])
    def test_parquet_is_the_csv_with_types(self, clip, angles):
        import pyarrow.parquet as pq

        (table_path,), (csv_path,) = (convert(clip, to, angles=angles) for to in ("parquet", "csv"))
        table = pq.read_table(table_path)
        rows = list(csv.DictReader(io.StringIO(csv_path.read_text())))
        assert table.column_names == list(rows[0])
        assert (str(table.schema.field("track_id").type), str(table.schema.field("nose_x").type)) == ("int64", "float")
        for got, wanted in zip(table.to_pylist(), rows, strict=True):
            for name, text in wanted.items():
                if name == "stage":
                    assert got[name] == text
                else:
                    assert got[name] == (pytest.approx(float(text)) if text else None)
        header = json.loads(table.schema.metadata[b"sharpose.header"])
        assert header == StreamReader(clip).header.to_record()

    def test_angles_of_a_table(self, clip):
        rows = list(csv.DictReader(io.StringIO(convert(clip, "csv", angles=True)[0].read_text())))
        frames = [frame.poses for frame in StreamReader(clip)]
        wanted = np.concatenate([joint_angles(p.keypoints, p.keypoint_scores, COCO17) for p in frames])
        got = [[float(row[f"{name}_deg"] or "nan") for name in angle_names(COCO17)] for row in rows]
        np.testing.assert_allclose(got, wanted, atol=0.06)
        assert np.isfinite(got).any()

    def test_rows_of_pictures_have_their_names(self, clip):
        import pyarrow.parquet as pq

        path = of_pictures(clip, (f"{t}.jpg" for t in range(99)))
        wanted = [f"{t}.jpg" for t, ids in enumerate(CLIP) for _ in ids]
        (table,) = convert(path, "csv")
        assert [row["picture"] for row in csv.DictReader(io.StringIO(table.read_text()))] == wanted
        assert pq.read_table(convert(path, "parquet")[0]).column("picture").to_pylist() == wanted
        assert "picture" not in convert(clip, "csv")[0].read_text().splitlines()[0]

    def test_parquet_of_nobody_and_of_many_frames(self, tmp_path):
        import pyarrow.parquet as pq

        (path,) = convert(write_clip(tmp_path / "a", [[], []]), "parquet")
        assert pq.read_table(path).num_rows == 0
        (path,) = convert(write_clip(tmp_path / "b", [[1, 2]] * 2500), "parquet")
        assert pq.read_table(path).column("frame_id").to_pylist()[-1] == 2499
        assert pq.ParquetFile(path).num_row_groups == 3

    def test_parquet_without_pyarrow_says_what_to_install(self, clip, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ConfigError, match=r"sharpose-rt\[parquet\]"):
            convert(clip, "parquet")
        assert [f.name for f in clip.parent.iterdir()] == [clip.name]

    def test_mot_opens_in_the_reader_of_trackers(self, clip):
        from trackers.io.mot import load_mot_file

        frames = load_mot_file(convert(clip, "mot")[0])
        assert {t: data.ids.tolist() for t, data in frames.items()} == {t + 1: ids for t, ids in enumerate(CLIP) if ids}
        np.testing.assert_allclose(frames[1].boxes[0], [101, 41, 20.5, 200])

    def test_who_was_only_predicted_is_left_out_where_that_is_wanted(self, clip):
        path = with_predicted(clip, 1)
        read = {
            "csv": lambda text: [int(row["track_id"]) for row in csv.DictReader(io.StringIO(text))],
            "alphapose": lambda text: [person["idx"] for person in json.loads(text)],
            "coco": lambda text: [person["track_id"] for person in json.loads(text)],
            "kinetics": lambda text: [p for frame in json.loads(text)["data"] for p in frame["skeleton"]],
        }
        for to, rows_of in read.items():
            everybody, seen = (
                rows_of(convert(path, to, overwrite=True, predicted=predicted)[0].read_text())
                for predicted in (True, False)
            )
            assert (len(everybody), len(seen)) == (9, 5), to
            assert to == "kinetics" or sorted(seen) == [2, 2, 3, 3, 3]
        import pyarrow.parquet as pq

        (table,) = convert(path, "parquet", predicted=False)
        assert set(pq.read_table(table).column("track_id").to_pylist()) == {2, 3}
        assert [p.name for p in convert(path, "trc", predicted=False)] == [
            f"{path.name.split('.')[0]}_person{i:02d}.trc" for i in (2, 3)
        ]
        (folder,) = convert(path, "openpose", predicted=False)
        people = [json.loads(file.read_text())["people"] for file in sorted(folder.iterdir())]
        assert [len(frame) for frame in people] == [1, 1, 0, 0, 2, 1]
        (pickled,) = convert(path, "pyskl", predicted=False, person_slots=3)
        scores = pickle.loads(pickled.read_bytes())["annotations"][0]["keypoint_score"]
        assert scores.any(axis=(1, 2)).tolist() == [True, True, False]

    def test_raw_points(self, clip):
        (path,) = convert(clip, "csv", raw=True)
        first = next(csv.DictReader(io.StringIO(path.read_text())))
        assert float(first["nose_x"]) == point(1, 0, 0)[0] + 1000

    @pytest.mark.parametrize(("px_per_m", "unit", "scale"), [(None, "px", 1), (100, "m", 0.01)])
    def test_trc(self, clip, px_per_m, unit, scale):
        paths = convert(clip, "trc", px_per_m=px_per_m)
        assert [p.name for p in paths] == [f"walking_person{i:02d}.trc" for i in (1, 2, 3)]
        lines = paths[0].read_text().split("\n")
        assert lines[0] == "PathFileType\t4\t(X/Y/Z)\twalking_person01.trc"
        assert dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=True)) == {
            "DataRate": "25", "CameraRate": "25", "NumFrames": "5", "NumMarkers": "17", "Units": unit,
            "OrigDataRate": "25", "OrigDataStartFrame": "1", "OrigNumFrames": "5",
        }  # fmt: skip
        assert lines[3].split("\t")[2::3][:-1] == list(NAMES)  # as Pose2Sim reads the names
        assert lines[4].split("\t")[-3:] == ["X17", "Y17", "Z17"]
        data = [line.split("\t") for line in lines[6:-1]]
        assert [row[0] for row in data] == ["1", "2", "3", "4", "5"]
        assert {len(row) for row in data} == {2 + 3 * 17}
        x, y = point(1, 1, 0)
        np.testing.assert_allclose([float(v) for v in data[1][2:5]], [x * scale, (480 - y) * scale, 0], atol=1e-5)
        assert data[1][2 + 12 : 2 + 15] == ["NaN"] * 3  # right ear
        assert set(data[2][2:]) == {"NaN"}  # the gap
        assert float(data[2][1]) == 0.08

    def test_trc_has_a_word_for_each_marker(self, tmp_path):
        odd = Skeleton("custom", ("left knee", "tail\ttip", "end\n", "c,d", "neck"), (), (), (), ())
        path, *_ = convert(write_clip(tmp_path / "a", skeleton=odd), "trc")
        lines = path.read_text().splitlines()
        assert lines[3].split() == ["Frame#", "Time", "left_knee", "tail_tip", "end", "c,d", "neck"]
        assert lines[4].split()[0] == "X1"

    def test_trc_without_a_rate_takes_the_mean(self, tmp_path):
        paths = convert(write_clip(tmp_path / "a", fps=None), "trc")
        assert paths[0].read_text().split("\n")[2].startswith("25\t25\t")

    @pytest.mark.parametrize("px_per_m", [None, 123.4])
    @pytest.mark.parametrize("clip", ["long", "sample"])
    def test_trc_has_each_persons_rows_as_if_all_were_held_at_once(self, tmp_path, clip, px_per_m):
        path = SAMPLE
        if clip == "long":  # people who come and go, and frames that were dropped
            path, chance = tmp_path / "long.skeletons.jsonl", random.Random(0)
            header = StreamReader(write_clip(tmp_path / "a", fps=None)).header
            with StreamWriter(path, header) as writer:
                for i in range(300):
                    ids = chance.sample(range(1, 7), chance.randrange(5)) if i > 270 else [9]
                    writer.write(2 * i, i / 31, make_poses(ids, i), dropped_before=min(i, 1))
        paths = convert(path, "trc", tmp_path / "out", px_per_m=px_per_m)
        assert len(paths) > 1
        assert [p.read_text() for p in paths] == all_at_once(StreamReader(path), tmp_path / "out", px_per_m)
        assert sorted(p for p in tmp_path.iterdir() if p.name.startswith((".", "out"))) == paths  # and nothing else

    def test_trc_of_a_long_clip_takes_no_more_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sharpose_rt.skeletons.convert.trc._FRAMES_AT_ONCE", 32)
        peaks = []
        for count in (40, 200):
            path = write_clip(tmp_path / f"{count}.skeletons.jsonl", [[1, 2, 3]] * count)
            tracemalloc.start()
            convert(path, "trc")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.5 * peaks[0]

    def test_trc_of_an_earlier_result_goes_with_its_people(self, tmp_path):
        path, other = write_clip(tmp_path / "a.skeletons.jsonl"), tmp_path / "a_person1.txt"
        other.write_text("kept")
        assert len(convert(path, "trc")) == 3
        path.unlink()
        write_clip(path, [[2]] * 3)
        with pytest.raises(OutputError, match="exists already"):
            convert(path, "trc")
        (left,) = convert(path, "trc", overwrite=True)
        assert sorted(tmp_path.iterdir()) == sorted((path, left, other))

    def test_trc_needs_ids(self, tmp_path):
        with pytest.raises(ConfigError, match="no track ids"):
            convert(write_clip(tmp_path / "a", tracked=False), "trc")


class TestConvert:
    @pytest.mark.parametrize("to", sorted(WRITERS))
    def test_never_over_an_old_result_unless_asked(self, clip, to):
        before = convert(clip, to)
        with pytest.raises(OutputError, match="exists already"):
            convert(clip, to)
        assert convert(clip, to, overwrite=True) == before
        assert all(path.exists() for path in before)

    @pytest.mark.parametrize("to", sorted(WRITERS))
    def test_same_stream_gives_the_same_bytes(self, clip, to, tmp_path):
        def content(name):
            paths = convert(clip, to, tmp_path / name / "x.trc")
            files = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
            return [f.read_bytes() for f in files]

        assert content("a") == content("b")

    @pytest.mark.parametrize("to", sorted(WRITERS))
    def test_broken_stream_leaves_no_half_result(self, clip, to):
        lines = clip.read_bytes().splitlines()
        clip.write_bytes(b"\n".join([*lines[:3], b"{}", b""]))
        with pytest.raises(StreamError, match="line 4"):
            convert(clip, to)
        assert [f.name for f in clip.parent.iterdir()] == [clip.name]

    @pytest.mark.parametrize(
        ("ending", "said"),
        [
            (
                b'{"type":"end","frames":6,"dropped":0,"status":"interrupted"}\n',
                "6 frames and the end status 'interrupted'",
            ),
            (b'{"type":"end","frames":6,"dropped":0,"status":"error"}\n', "6 frames and the end status 'error'"),
            (b"", "6 frames and no end line"),
            (b'{"type":"fra', "6 frames and no end line"),
        ],
    )
    def test_a_stream_that_is_not_complete_is_told_of_once(self, clip, ending, said, tmp_path, caplog):
        lines = clip.read_bytes().splitlines(keepends=True)
        clip.write_bytes(b"".join([*lines[:-1], ending]))
        wanted = f"{clip} has {said}, so it may be shorter than its source"
        for to in ("csv", "kinetics", "coco", "trc", "pyskl"):
            caplog.clear()
            convert(clip, to, **options_of(["max_frames=2"] if to == "kinetics" else []))
            assert [message for message in caplog.messages if "incomplete and ignored" not in message] == [wanted]
        caplog.clear()
        convert_set([clip], tmp_path / "x.pkl")
        assert caplog.messages[-1] == wanted
        caplog.clear()
        assert main(["convert", str(clip), "--to", "csv", "--overwrite"]) == 0
        assert caplog.messages[-1] == wanted
        caplog.clear()
        convert_all(clip, ["csv", "mot"], overwrite=True)  # at a run's end, which says so itself
        assert wanted not in caplog.messages

    def test_names_the_nearest(self, clip):
        with pytest.raises(ConfigError, match="did you mean 'openpose'"):
            convert(clip, "open-pose")
        with pytest.raises(ConfigError, match="did you mean 'min_score'"):
            convert(clip, "csv", minscore=0.2)
        with pytest.raises(ConfigError, match="one of COCO, BODY_25 is"):
            convert(clip, "openpose", model="HALPE")

    @pytest.mark.parametrize("pictures", [False, True])
    def test_paths_that_are_no_text(self, tmp_path, pictures):
        (folder := tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
        clip = write_clip(folder / os.fsdecode(b"w\xe4lk.skeletons.jsonl"))
        if pictures:
            clip = of_pictures(clip, [f"{'a' * 240}.jpg", *"bcdef"], os.fsdecode(b"sh\xf6ts"))
        written = convert_all(clip, WRITERS)
        assert convert_all(clip, WRITERS, overwrite=True) == written
        assert len(written) == len(WRITERS) + 2  # of TRC a file a person
        assert all(path.exists() for path in written)
        assert len(list(written[0].iterdir())) == len(CLIP)

    def test_where_one_fails_the_others_are_written(self, clip, monkeypatch):
        fail = raising(TypeError("a mistake of ours"))
        monkeypatch.setitem(WRITERS, "mot", WRITERS["mot"]._replace(write=fail, options_of=()))
        with pytest.raises(TypeError, match="a mistake of ours"):
            convert_all(clip, ["mot", "csv"])
        assert clip.with_name("walking.csv").exists()

    def test_unusable_output(self, clip):
        with pytest.raises(OutputError, match="cannot be written"):
            convert(clip, "csv", clip / "below.csv")

    def test_options_are_known(self):
        assert WRITERS["pyskl"].options == {
            "split": "val", "label": -1, "person_slots": 2, "fill": "none", "max_gap_s": None, "fps": None,
            "dtype": "float32", "raw": False, "min_score": 0.0, "predicted": True,
        }  # fmt: skip
        assert WRITERS["mot"].options == {"predicted": True}

    def test_the_help_lists_them(self):
        from sharpose_rt.commands.convert import OPTIONS

        listed = {}
        for line in filter(re.compile("  ").match, OPTIONS.splitlines()):
            name, options = line.split(maxsplit=1)
            plain = re.sub(r" \(.*?\)", "", options)
            listed[name] = {
                key: value if key == "file_name" else yaml.safe_load(value)
                for key, value in re.findall(r"(\w+)=([^,]+)", plain)
            }
        assert listed == {name: writer.options for name, writer in WRITERS.items() if writer.options}

    @pytest.mark.parametrize(
        ("to", "option", "said"),
        [
            ("csv", {"min_score": "abc"}, "'abc'; a number"),
            ("csv", {"min_score": 30}, "30; 0 to 1 is accepted"),
            ("coco", {"first_image_id": "one"}, "a whole number"),
            ("coco", {"first_image_id": 1.5}, "1.5; a whole number"),
            ("trc", {"px_per_m": "abc"}, "'abc'; a number"),
            ("trc", {"px_per_m": 0}, "0; a number above 0"),
            ("openpose", {"model": "body"}, "'body'; one of COCO, BODY_25"),
            ("kinetics", {"person_slots": 0}, "0; 1 to 10000"),
            ("pyskl", {"max_gap_s": math.nan}, "nan; a number above 0"),
            ("pyskl", {"person_slots": 0}, "0; 1 to 10000"),
            ("kinetics", {"max_frames": -3}, "-3; 1 or more"),
            ("pyskl", {"dtype": "int8"}, "one of float32, float16 is accepted"),
            ("pyskl", {"label": "walking"}, "a whole number"),
            ("csv", {"raw": "yes"}, "true or false"),
            ("csv", {"min_score": True}, "True; a number"),
            ("mot", {"raw": True}, "One of predicted is accepted"),
            (
                "csv",
                {"px_per_m": 200},
                "One of raw, min_score, predicted, angles is accepted ('px_per_m' is an option of trc)",
            ),
            ("mot", {"max_gap_s": 1}, "One of predicted is accepted ('max_gap_s' is an option of pyskl)"),
            ("csv", {"predicted": 0}, "0; true or false is accepted"),
        ],
    )
    def test_values_are_checked_before_anything_is_written(self, clip, to, option, said):
        with pytest.raises(ConfigError, match=re.escape(said)):
            convert(clip, to, **option)
        assert [path.name for path in clip.parent.iterdir()] == [clip.name]
        assert convert(clip, "pyskl", max_gap_s=1, fill="linear", label=0)

    def test_a_package_that_is_not_there_is_said_first(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"parquet needs pyarrow: pip install 'sharpose-rt\[parquet\]'"):
            check_format("parquet", {})

    def test_pictures_go_by_their_names(self, clip):
        names = ["000000581781.jpg", "a.jpg", "a.png", *[f"{n}x.jpg" for n in range(99)]]
        path, count = of_pictures(clip, names), len(CLIP)
        (coco,), (alphapose,), (openpose,) = (convert(path, to) for to in ("coco", "alphapose", "openpose"))
        # a.jpg has no number; 0 and up for all, or two pictures might be the same one
        assert {record["image_id"] for record in json.loads(coco.read_text())} == {0, 1, 3, 4, 5}
        assert {record["image_id"] for record in json.loads(alphapose.read_text())} <= set(names)
        assert {"000000581781_keypoints.json", "a_keypoints.json", "a.png_keypoints.json"} <= {
            file.name for file in openpose.iterdir()
        }
        assert len(list(openpose.iterdir())) == count

    def test_pictures_of_one_name_of_several_folders(self, clip):
        path = of_pictures(clip, ["0001.jpg"] * 99)
        (openpose,) = convert(path, "openpose")
        assert len(list(openpose.iterdir())) == len(CLIP)

    def test_they_have_an_id_each(self, clip, caplog):
        names = ["a/x.jpg", "x_000000000003.jpg", "x.jpg", "x.jpg", "b/x.jpg", "x.jpg"]
        path = of_pictures(clip, names)
        (alphapose,), (labels,) = convert(path, "alphapose"), convert(path, "coco_labels")
        wanted = [*names[:3], "x_000000000003_000000000003.jpg", "b/x.jpg", "x_000000000005.jpg"]
        assert [record["image_id"] for record in json.loads(alphapose.read_text())] == [
            name for name, ids in zip(wanted, CLIP, strict=True) for _ in ids
        ]
        images = json.loads(labels.read_text())["images"]
        assert len({image["id"] for image in images}) == len(CLIP)
        assert [image["file_name"] for image in images] == names
        assert "several pictures are named x.jpg" in caplog.text

    def test_names_that_are_larger_numbers_than_readers_take(self, clip):
        path = of_pictures(clip, (f"{20240131120000123456 + t}.jpg" for t in range(99)))
        (coco,) = convert(path, "coco")
        assert {record["image_id"] for record in json.loads(coco.read_text())} == {
            t for t, ids in enumerate(CLIP) if ids
        }

    def test_pictures_whose_names_are_numbers(self, clip):
        path = of_pictures(clip, (f"{581781 + t:012d}.jpg" for t in range(99)))
        (coco,) = convert(path, "coco")
        wanted = {581781 + t for t, ids in enumerate(CLIP) if ids}
        assert {record["image_id"] for record in json.loads(coco.read_text())} == wanted

    def test_a_name_that_is_no_text(self, clip):
        frame = next(iter(StreamReader(clip)))
        line = encode(replace(frame, picture="caf\udce9.png").to_record())
        assert b"caf\\\\udce9.png" in line

    def test_trc_keeps_to_its_own_files(self, clip, tmp_path):
        """Whatever the name that it is given looks like."""
        for name in ("take.1", "take.2", "take.1"):
            target, again = tmp_path / name, (tmp_path / f"{name}_person01.trc").exists()
            if again:
                with pytest.raises(OutputError, match=r"take\.1_person01\.trc exists already"):
                    convert(clip, "trc", target)
            else:
                convert(clip, "trc", target)
        (tmp_path / "notes").write_text("precious")
        convert(clip, "trc", tmp_path / "notes", overwrite=True)
        assert (tmp_path / "notes").read_text() == "precious"

    @pytest.mark.parametrize("to", ["csv", "trc", "openpose"])
    def test_what_is_read_is_not_written_over(self, clip, to):
        before = clip.read_bytes()
        with contextlib.suppress(OutputError):  # trc and its files have other names
            convert(clip, to, clip, overwrite=True)
        assert clip.read_bytes() == before

    def test_nobody_makes_no_trc(self, tmp_path, caplog):
        assert convert(write_clip(tmp_path / "empty", [[], []]), "trc") == []
        assert "contains nobody" in caplog.text

    def test_folders_without_a_name_of_their_own(self, clip, tmp_path, monkeypatch):
        folder = tmp_path / "empty"
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert len(convert(clip, "openpose", ".")) == 1
        assert len(list(folder.iterdir())) == len(CLIP)

    @pytest.mark.parametrize("to", sorted(WRITERS.keys() - {"openpose"}))
    def test_in_a_folder_a_result_has_its_own_name(self, clip, to, tmp_path, capsys):
        beside = convert(clip, to)
        (tmp_path / "there").mkdir()
        for folder in ("there", "new/"):
            out = f"{tmp_path}/{folder}"
            assert main(["convert", str(clip), "--to", to, "--out", out]) == 0
            written = [Path(line) for line in capsys.readouterr().out.splitlines()]
            assert written == [Path(out, path.name) for path in beside]
            assert [path.read_bytes() for path in written] == [path.read_bytes() for path in beside]
            assert main(["convert", str(clip), "--to", to, "--out", out]) == 2
            assert "exists already" in capsys.readouterr().err
            assert main(["convert", str(clip), "--to", to, "--out", out, "--overwrite"]) == 0
            assert sorted(Path(out).iterdir()) == sorted(written)
            capsys.readouterr()

    def test_a_second_clip_in_a_folder_of_openpose(self, clip, tmp_path):
        other = write_clip(tmp_path / "other.skeletons.jsonl", CLIP[:3])
        convert(clip, "openpose", tmp_path / "poses")
        convert(other, "openpose", tmp_path / "poses", overwrite=True)
        convert(clip, "openpose", tmp_path / "poses", overwrite=True)
        assert len(list((tmp_path / "poses").iterdir())) == len(CLIP) + 3

    def test_what_a_killed_conversion_left_goes(self, clip, tmp_path):
        old, new = (tmp_path / f".poses.{number}.tmp" for number in (4194304, 4194305))  # of no process
        for folder in (old, new):
            folder.mkdir()
            (folder / "a_000000000000_keypoints.json").write_text("{}")
        os.utime(old, (0, 0))
        convert(clip, "openpose", tmp_path / "poses")
        assert not old.exists()
        assert new.exists()  # somebody may be at it
        assert len(list((tmp_path / "poses").iterdir())) == len(CLIP)

    def test_a_stream_that_grows(self, clip, monkeypatch):
        """A frame that came after the first look is left for the next time."""
        whole = list(StreamReader(clip))
        passes = iter([whole[:-1], whole])
        monkeypatch.setattr(StreamReader, "__iter__", lambda self: iter(next(passes)))
        assert action_array(clip).pts_s.shape == (len(CLIP) - 1,)

    def test_kinetics_counts_as_its_reader_does(self, tmp_path, caplog):
        """By `frame_index`, which live streams with dropped frames go up faster in."""
        path = tmp_path / "live"
        header = StreamReader(write_clip(tmp_path / "a")).header
        with StreamWriter(path, header) as writer:
            for i in range(200):
                writer.write(2 * i, i / 12.5, make_poses([1]), dropped_before=min(i, 1))
        (cut,) = convert(path, "kinetics", max_frames=299)
        assert json.loads(cut.read_text())["data"][-1]["frame_index"] == 299
        assert not caplog.records
        convert(path, "kinetics", tmp_path / "whole.json")
        assert "has frames up to 399" in caplog.text

    def test_pipes_and_standard_input(self, clip, tmp_path, monkeypatch):
        rows = len(convert(clip, "csv")[0].read_text().splitlines())
        if hasattr(os, "mkfifo"):  # Windows has none
            fifo = tmp_path / "pipe"
            os.mkfifo(fifo)
            threading.Thread(target=lambda: fifo.write_bytes(clip.read_bytes()), daemon=True).start()
            (written,) = convert(fifo, "csv", tmp_path / "a.csv")
            assert len(written.read_text().splitlines()) == rows
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(clip.read_bytes())))
        with pytest.raises(ConfigError, match=r"as standard input has none; give one .--out"):
            convert("-", "csv")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(clip.read_bytes())))
        (written,) = convert("-", "csv", tmp_path / "b.csv")
        assert len(written.read_text().splitlines()) == rows
        with pytest.raises(OutputError, match=r"^[^:;]*b\.csv exists already; choose another name \(--out\), or r"):
            convert(clip, "csv", tmp_path / "b.csv")

    def test_files_of_another_clip_are_left_alone(self, clip):
        other = write_clip(clip.with_name("walking_personal.skeletons.jsonl"))
        theirs = convert(other, "trc")
        convert(clip, "trc")
        convert(clip, "trc", overwrite=True)
        assert all(path.exists() for path in theirs)

    def test_kinetics_of_a_long_clip_says_what_its_reader_cannot(self, tmp_path, caplog):
        convert(write_clip(tmp_path / "long", [[1]] * 299), "kinetics")
        assert not caplog.records
        convert(write_clip(tmp_path / "longer", [[1]] * 300), "kinetics")
        assert "max_frames=299" in caplog.text


class TestActionArray:
    def test_strongest_tracks_each_in_one_slot(self, clip):
        array = action_array(clip, person_slots=2)
        assert array.track_ids.tolist() == [1, 3]  # 1 is in four frames, 3 in three
        for slot, track_id in enumerate((1, 3)):
            for t, ids in enumerate(CLIP):
                there = track_id in ids
                assert (array.scores[slot, t, 0] > 0) == there
                expected = point(track_id, t, 16) if there else (0, 0)
                np.testing.assert_allclose(array.keypoints[slot, t, 16], expected, atol=0.006)
        assert not array.keypoints[:, :, 4].any()
        np.testing.assert_allclose(array.pts_s, np.arange(6) / 25)

    def test_more_slots_than_people(self, clip):
        array = action_array(clip, person_slots=5)
        assert array.track_ids.tolist() == [1, 3, 2, 0, 0]
        assert array.keypoints.shape == (5, 6, 17, 2)
        assert not array.scores[3:].any()

    def test_linear_fill_bridges_gaps_and_adds_nothing_outside(self, clip):
        array = action_array(clip, person_slots=2, fill="linear")
        np.testing.assert_allclose(array.keypoints[0, 2, 0], point(1, 2, 0), atol=0.006)  # the clip moves evenly
        assert array.scores[0, 2, 0] == pytest.approx(0.75)
        assert not array.scores[:, 5].any()
        assert not array.keypoints[:, :, 4].any()

    def test_hold_keeps_the_last_place_and_long_gaps_stay(self, clip):
        array = action_array(clip, fill="hold")
        np.testing.assert_allclose(array.keypoints[0, 2, 0], point(1, 1, 0), atol=0.006)
        assert not action_array(clip, fill="linear", max_gap_s=0.05).scores[0, 2].any()
        with pytest.raises(ConfigError, match="'none', 'hold' or 'linear'"):
            action_array(clip, fill="spline")  # type: ignore[arg-type]

    def test_without_a_tracker_the_place_in_the_frame_counts(self, tmp_path):
        array = action_array(write_clip(tmp_path / "a", [[5, 6], [5, 6]], tracked=False), person_slots=2)
        assert array.track_ids.tolist() == [0, 0]
        np.testing.assert_allclose(array.keypoints[:, 1, 0], [point(5, 1, 0), point(6, 1, 0)], atol=0.006)

    def test_people_who_may_be_mixed_are_told_of_once(self, clip, tmp_path, caplog):
        action_array(clip)
        action_array(write_clip(tmp_path / "one", [[5], [6]], tracked=False))
        list(windows(StreamReader(clip), length=2))
        assert not caplog.messages
        path = write_clip(tmp_path / "a", [[5], [5, 6], [5, 6]], tracked=False)
        for read in (
            action_array,
            lambda path: list(windows(StreamReader(path), length=2)),
            partial(convert, to="pyskl"),
        ):
            read(path)
            (message,) = caplog.messages
            assert message.startswith(
                f"{path}: people have no track ids and are only told apart by their position in the frame"
            )
            caplog.clear()

    def test_min_score_and_raw(self, clip):
        assert not action_array(clip, min_score=0.8).scores.any()
        np.testing.assert_allclose(
            action_array(clip, raw=True).keypoints[0, 0, 0], np.add(point(1, 0, 0), 1000), atol=0.006
        )

    def test_nobody_and_bad_slots(self, tmp_path):
        array = action_array(write_clip(tmp_path / "a", [[], []]))
        assert array.keypoints.shape == (2, 2, 17, 2)
        with pytest.raises(ValueError, match="person_slots is 0"):
            action_array(tmp_path / "a", 0)


def frames_of(clip) -> list[FrameRecord]:
    return [FrameRecord(t, t / 25, make_poses(ids, t)) for t, ids in enumerate(clip)]


def test_a_demonstration_for_coco_refuses_other_keypoints(tmp_path, capsys):
    recipe = runpy.run_path(str(SAMPLE.parents[1] / "pipelines/action_feed.py"))
    clip = write_clip(tmp_path / "a.skeletons.jsonl", skeleton=MPII16)
    for arguments in ([str(clip)], ["webcam", "--model", "base_mpii_256x256"]):
        with pytest.raises(SystemExit):
            recipe["main"](arguments)
        assert "has the 16 keypoints of mpii16; the 17 of COCO are accepted" in capsys.readouterr().err


class TestWindows:
    def test_shapes_times_and_places(self, clip):
        got = list(windows(StreamReader(clip), length=4, stride=2, normalize="none"))
        assert [w.data.shape for w in got] == [(1, 3, 4, 17, 2)] * 2
        assert all(w.data.dtype == np.float32 for w in got)
        np.testing.assert_allclose([w.pts_s[0] for w in got], [np.arange(4) / 25, np.arange(2, 6) / 25])
        assert got[0].track_ids.tolist() == [[1, 3]]
        np.testing.assert_allclose(got[0].data[0, :, 1, 5, 0], [*point(1, 1, 5), 0.75], atol=0.006)
        np.testing.assert_allclose(got[0].data[0, :, 1, 5, 1], [*point(3, 1, 5), 0.75], atol=0.006)
        assert not got[0].data[0, :, 2].any()  # the empty frame
        assert not got[0].data[0, :, :, 4].any()  # the right ear

    def test_a_path_is_read_as_its_reader_is(self, clip, tmp_path):
        wanted = list(windows(StreamReader(clip), length=4, stride=2))
        for path in (clip, str(clip)):
            got = list(windows(path, length=4, stride=2))
            assert len(got) == len(wanted) == 2
            for one, other in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(one.data, other.data)
                np.testing.assert_array_equal(one.track_ids, other.track_ids)
        with pytest.raises(StreamError, match=r"none\.jsonl"):
            windows(str(tmp_path / "none.jsonl"))

    def test_first_window_as_soon_as_there_are_frames_enough(self):
        seen = []

        def live():
            for frame in frames_of([[1]] * 10):
                seen.append(frame.frame_id)
                yield frame

        feed = windows(live(), length=3, stride=2, normalize="none")
        next(feed)
        assert seen == [0, 1, 2]
        next(feed)
        assert seen == [0, 1, 2, 3, 4]
        assert list(windows(frames_of([[1]] * 2), length=3, normalize="none")) == []

    def test_slots_stay_while_people_come_and_go(self):
        clip = [[1, 2]] * 3 + [[2]] * 3 + [[2, 4]] * 3
        ids = [w.track_ids[0].tolist() for w in windows(frames_of(clip), length=3, stride=1, normalize="none")]
        assert ids[0] == [1, 2]
        assert ids[3] == [0, 2]  # 2 keeps its slot when alone
        assert ids[-1] == [4, 2]

    def test_image_normalisation(self):
        (window,) = windows(frames_of([[1]]), length=1, frame_size_wh=SIZE_WH)
        np.testing.assert_allclose(window.data[0, :2, 0, 0, 0], np.array(point(1, 0, 0)) / SIZE_WH - 0.5, atol=1e-6)
        assert not window.data[0, :, 0, 4].any()
        with pytest.raises(ConfigError, match="frame_size_wh"):
            next(windows(frames_of([[1]]), length=1))

    @pytest.mark.parametrize(("scale", "shift"), [(1, (0, 0)), (2.5, (0, 0)), (1, (300, -40)), (0.5, (17, 5))])
    def test_body_normalisation_forgets_place_and_size_but_keeps_movement(self, scale, shift):
        def moved(frame):
            poses = frame.poses
            return FrameRecord(
                frame.frame_id,
                frame.pts_s,
                Poses(
                    **{
                        **vars(poses),
                        "keypoints": poses.keypoints * scale + np.float32(shift),
                        "bboxes_xyxy": poses.bboxes_xyxy * scale + np.float32(shift * 2),
                    }
                ),
            )

        frames = frames_of([[1], [1], [1]])
        (plain,) = windows(frames, length=3, normalize="body")
        (other,) = windows(map(moved, frames), length=3, normalize="body")
        np.testing.assert_allclose(other.data, plain.data, atol=1e-4)
        hips = plain.data[0, :2, :, 11:13, 0].mean(axis=-1).T
        np.testing.assert_allclose(hips, [[0, 0], [1 / 200, 0.5 / 200], [2 / 200, 1 / 200]], atol=1e-4)

    def test_body_normalisation_without_hips(self):
        skeleton = Skeleton("hand", ("a", "b", "c"), (), (), (), ())
        frames = [FrameRecord(0, 0.0, make_poses([1], k=17))]
        (window,) = windows(frames, length=1, normalize="body", skeleton=COCO17, min_score=0.9)
        assert not window.data.any()
        small = make_poses([1], k=17)
        three = Poses(
            small.bboxes_xyxy, small.bbox_scores, small.track_ids, small.keypoints[:, :3], small.keypoint_scores[:, :3],
            small.keypoints[:, :3], small.keypoint_scores[:, :3], small.quality, small.stage,
        )  # fmt: skip
        (window,) = windows([FrameRecord(0, 0.0, three)], length=1, normalize="body", skeleton=skeleton)
        np.testing.assert_allclose(window.data[0, :2, 0, :, 0].mean(axis=-1), 0, atol=1e-6)

    def test_bad_arguments_are_told_at_once(self):
        for options in ({"length": 0}, {"stride": 0}, {"person_slots": 0}, {"min_frames": 0}, {"batch": 0}):
            with pytest.raises(ConfigError, match="each must be 1 or more"):
                windows([], normalize="none", **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'image', 'body' or 'none'"):
            windows([], normalize="bone")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'none', 'hold' or 'linear'"):
            windows([], fill="cubic")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'numpy' or 'torch'"):
            windows([], framework="jax")  # type: ignore[arg-type]

    @pytest.mark.parametrize(("batch", "sizes"), [(None, [1] * 5), (2, [2, 2, 1]), (8, [5])])
    def test_batches_hold_the_windows_in_order(self, batch, sizes):
        clip = [[1, 2]] * 7
        got = list(windows(frames_of(clip), length=3, stride=1, normalize="none", batch=batch))
        assert [len(w.data) for w in got] == sizes
        ids, data, pts_s = (np.concatenate(column) for column in zip(*got, strict=True))
        assert ids.tolist() == [[1, 2]] * 5
        assert data.shape == (5, 3, 3, 17, 2)
        np.testing.assert_allclose(pts_s[:, 0], np.arange(5) / 25)
        np.testing.assert_allclose(data[4, :2, 0, 0, 1], point(2, 4, 0), atol=0.006)

    @pytest.mark.parametrize(
        ("frames", "ends"), [(0, []), (2, [1]), (3, [2]), (4, [2, 3]), (5, [2, 4]), (6, [2, 4, 5])]
    )
    def test_the_rest_comes_in_a_window_where_it_is_wanted(self, frames, ends):
        clip = [[1, 2]] * frames
        got = list(windows(frames_of(clip), length=3, stride=2, normalize="none", rest=True))
        assert [round(25 * float(np.nanmax(w.pts_s))) for w in got] == ends
        assert all(w.data.shape == (1, 3, 3, 17, 2) and w.pts_s.shape == (1, 3) for w in got)
        options = {"each_person": True, "normalize": "image", "frame_size_wh": SIZE_WH, "batch": 1000}
        alone = list(windows(frames_of(clip), length=3, stride=2, rest=True, **options))
        assert [w.data.shape for w in alone] == [(2 * len(ends), 3, 3, 17, 1)] * (frames > 0)
        if frames == 2:
            assert np.isnan(got[0].pts_s).tolist() == [[False, False, True]]
            assert got[0].track_ids.tolist() == [[1, 2]]
            np.testing.assert_allclose(got[0].data[0, :2, 1, 0, 1], point(2, 1, 0), atol=0.006)
            assert not got[0].data[0, :, 2].any()

    @pytest.mark.parametrize(("rest", "ends"), [(False, [2, 4, 9]), (True, [2, 4, 5, 6, 9, 10])])
    def test_a_window_keeps_within_its_scene_where_that_is_wanted(self, rest, ends):
        clip = [[1, 2]] * 6 + [[3]] + [[4, 5]] * 4  # six frames, one, and four
        frames = [replace(frame, new_scene=n in (0, 6, 7)) for n, frame in enumerate(frames_of(clip))]
        options = {"length": 3, "stride": 2, "normalize": "none", "rest": rest}
        got = list(windows(frames, **options, within_scenes=True))
        assert [round(25 * float(np.nanmax(w.pts_s))) for w in got] == ends
        scenes = [{n // 6 + n // 7 for n in np.round(25 * w.pts_s[~np.isnan(w.pts_s)]).astype(int)} for w in got]
        assert all(len(scene) == 1 for scene in scenes)
        assert got[-1].track_ids.tolist() == [[4, 5]]
        over = list(windows(frames, **options))
        assert [round(25 * float(w.pts_s.max())) for w in over] == [2, 4, 6, 8, 10]

    def test_each_person_is_a_window(self):
        clip = [[1, 2], [2, 1], [2], [2, 3]]
        (window,) = windows(frames_of(clip), length=4, normalize="none", each_person=True, min_frames=2)
        assert window.track_ids.tolist() == [[1], [2]]
        assert window.data.shape == (2, 3, 4, 17, 1)
        np.testing.assert_allclose(window.data[1, :2, 3, 0, 0], point(2, 3, 0), atol=0.006)
        assert list(windows(frames_of([[]] * 4), length=4, normalize="none", each_person=True)) == []

    def test_torch_shares_the_memory(self):
        import torch

        (window,) = windows(frames_of([[1]] * 2), length=2, normalize="none", framework="torch")
        assert window.data.dtype == torch.float32
        assert window.track_ids.tolist() == [[1, 0]]
        assert torch.nn.Conv2d(3, 4, (1, 1))(window.data[..., 0]).shape == (1, 4, 2, 17)

    def test_gaps_are_filled_within_the_window(self):
        clip = [[1], [], [], [1], [1]]
        options = {"length": 5, "normalize": "none", "person_slots": 1}
        (empty,) = windows(frames_of(clip), **options)
        assert not empty.data[0, :, 1:3].any()
        (line,) = windows(frames_of(clip), **options, fill="linear")
        np.testing.assert_allclose(line.data[0, :, 1, 5, 0], [*point(1, 1, 5), 0.75], atol=1e-4)
        (held,) = windows(frames_of(clip), **options, fill="hold")
        np.testing.assert_allclose(held.data[0, :, 2, 5, 0], [*point(1, 0, 5), 0.75], atol=1e-4)
        (long,) = windows(frames_of(clip), **options, fill="linear", max_gap_s=0.1)
        assert not long.data[0, :, 1:3].any()
        assert not line.data[0, :, :, 4].any()  # never found, so there is nothing between

    def test_frames_of_a_live_run_tell_their_size_and_are_not_kept(self):
        class Frame:
            def __init__(self, record):
                self.pts_s, self.poses = record.pts_s, record.poses
                self.image_bgr = np.zeros((480, 640, 3), np.uint8)

        kept = []

        def live():
            import weakref

            for record in frames_of([[1]] * 6):
                frame = Frame(record)
                kept.append(weakref.ref(frame))
                yield frame
                del frame

        got = list(windows(live(), length=4, stride=1))
        np.testing.assert_allclose(got[0].data[0, :2, 0, 0, 0], np.array(point(1, 0, 0)) / SIZE_WH - 0.5, atol=1e-6)
        assert not any(ref() for ref in kept)  # 64 full pictures would be 400 MB


class TestRecipe:
    def test_saves_the_arrays_and_prints_shapes(self, clip, capsys):
        out = clip.with_name("a.npz")
        assert skeletons_to_action_array.main([str(clip), str(out), "--person-slots", "3"]) == 0
        assert "keypoints (3, 6, 17, 2), scores (3, 6, 17), tracks [1, 3, 2]" in capsys.readouterr().out
        with np.load(out) as saved:
            np.testing.assert_array_equal(saved["keypoints"], action_array(clip, 3).keypoints)
            assert sorted(saved) == ["keypoint_names", "keypoints", "pts_s", "scores", "track_ids"]
            assert saved["keypoint_names"].tolist() == list(NAMES)

    def test_bad_stream_is_one_line(self, tmp_path, capsys):
        assert skeletons_to_action_array.main([str(tmp_path / "missing.jsonl")]) == 2
        assert capsys.readouterr().err.startswith("error: cannot read the skeleton stream")
