"""Results of other programs become valid streams; what we write in their formats comes back as it was."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

import numpy as np
import pytest
from media_clips import write_clip as write_video

from sharpose_rt.cli import main
from sharpose_rt.errors import ConfigError, OutputError, StreamError
from sharpose_rt.skeleton import COCO17, COCO_FEET23, HALPE26, MPII16, WHOLEBODY133
from sharpose_rt.skeletons import StreamReader, validate
from sharpose_rt.skeletons.convert import convert
from sharpose_rt.skeletons.convert.common import found_points
from sharpose_rt.skeletons.importers import READERS, import_stream
from sharpose_rt.skeletons.importers.lists import read_coco
from sharpose_rt.skeletons.importers.openpose import read_openpose
from tests.full_disk import file_size_limit
from tests.unit.test_convert import (
    CLIP,
    NAMES,
    SIZE_WH,
    make_poses,
    of_pictures,
    point,
    twice_as_large,
    write_clip,
)


def back(path: Path, source_format: str, **options) -> StreamReader:
    """The stream of the results at `path`; checked by the validator."""
    options = {"frame_size_wh": SIZE_WH, "fps": 25.0, "out": path.with_name("back.jsonl"), **options}
    out = import_stream(path, source_format, **options)
    assert [str(p) for p in validate(out) if p.severity == "error"] == []
    return StreamReader(out)


def saved(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def expect_clip(reader: StreamReader, clip=CLIP) -> None:
    """Ids, times and points are those of the clip that was written."""
    frames = list(reader)
    assert [f.frame_id for f in frames] == list(range(len(clip)))
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(len(clip)) / 25, atol=1e-6)
    for t, (frame, ids) in enumerate(zip(frames, clip, strict=True)):
        assert frame.poses.track_ids.tolist() == ids
        expected = make_poses(ids, t)
        found = expected.keypoint_scores > 0
        np.testing.assert_allclose(frame.poses.keypoint_scores, expected.keypoint_scores, atol=1e-4)
        np.testing.assert_allclose(frame.poses.keypoints[found], expected.keypoints[found], atol=0.006)
        assert not frame.poses.keypoints[~found].any()


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "walking.skeletons.jsonl")


class TestRoundTrips:
    @pytest.mark.parametrize("model", ["COCO", "BODY_25"])
    def test_openpose(self, clip, model):
        (folder,) = convert(clip, "openpose", model=model)
        reader = back(folder, "openpose")
        expect_clip(reader)
        assert (reader.header.tracker, reader.header.frame_size_wh, reader.header.fps) == ("openpose", SIZE_WH, 25)
        (again,) = convert(reader.path, "openpose", folder.with_name("again"), model=model)
        for file, other in zip(sorted(folder.iterdir()), sorted(again.iterdir()), strict=True):
            assert file.read_bytes() == other.read_bytes()

    @pytest.mark.parametrize("skeleton", [HALPE26, COCO_FEET23])
    @pytest.mark.parametrize("form", ["openpose", "alphapose", "coco_labels"])
    def test_feet(self, tmp_path, skeleton, form):
        clip = write_clip(tmp_path / "feet.skeletons.jsonl", [[1, 2], [2]], skeleton)
        (path,) = convert(clip, form)
        reader = back(path, form.removesuffix("_labels"))
        known = {"openpose": COCO_FEET23, "alphapose": HALPE26 if skeleton is HALPE26 else COCO17}
        assert reader.header.skeleton is known.get(form, skeleton)
        place = {name: j for j, name in enumerate(skeleton.keypoints)}
        for found, wanted in zip(reader, StreamReader(clip), strict=True):
            for j, name in enumerate(reader.header.skeleton.keypoints):
                np.testing.assert_allclose(
                    found.poses.keypoints[:, j],
                    np.where(
                        wanted.poses.keypoint_scores[:, [place[name]]] > 0, wanted.poses.keypoints[:, place[name]], 0
                    ),
                    atol=0.01,
                )

    @pytest.mark.parametrize(
        "form", ["openpose", "alphapose", "coco_labels", "csv", "trc", "pyskl", "kinetics", "mot", "deeplabcut"]
    )
    def test_faces_and_hands_and_frames_without_anybody(self, tmp_path, form):
        clip = write_clip(tmp_path / "whole.skeletons.jsonl", [[1, 2], [], [2]], WHOLEBODY133)
        (path, *_) = convert(clip, form)
        assert path.exists()
        if form in ("alphapose", "openpose"):
            reader = back(path, form)
            assert reader.header.skeleton is WHOLEBODY133
            expect_clip(reader.of_coco(), [[1, 2], [], [2]])
            for frame, wanted in zip(reader, StreamReader(clip), strict=True):
                seen = wanted.poses.keypoint_scores[..., None] > 0
                np.testing.assert_allclose(frame.poses.keypoints, np.where(seen, wanted.poses.keypoints, 0), atol=0.01)

    def test_openpose_of_hands_without_a_body(self, tmp_path):
        clip = write_clip(tmp_path / "whole.skeletons.jsonl", [[1]], WHOLEBODY133)
        (folder,) = convert(clip, "openpose")
        (file,) = folder.iterdir()
        record = json.loads(file.read_text())
        record["people"][0]["pose_keypoints_2d"] = []  # of --body 0
        file.write_text(json.dumps(record))
        (frame,) = back(folder, "openpose")
        assert (frame.poses.keypoint_scores[0] > 0).tolist() == 23 * [False] + 110 * [True]

    @pytest.mark.parametrize("skeleton", [COCO17, HALPE26, WHOLEBODY133])
    def test_openpose_as_pose2sim_writes_it(self, tmp_path, skeleton):
        clip, folder = write_clip(tmp_path / "a.skeletons.jsonl", [[1, 2], [], [2]], skeleton), tmp_path / "a_json"
        folder.mkdir()
        for frame in StreamReader(clip):
            tables = found_points(frame.poses, raw=False, min_score=0)
            people = [
                {"person_id": [-1], "pose_keypoints_2d": table.ravel().tolist(), "face_keypoints_2d": []}
                for table in tables
            ]
            (folder / f"a_{frame.frame_id:06d}.json").write_text(json.dumps({"version": 1.3, "people": people}))
        reader = back(folder, "openpose")
        assert reader.header.skeleton is skeleton
        for found, wanted in zip(reader, StreamReader(clip), strict=True):
            seen = wanted.poses.keypoint_scores[..., None] > 0
            np.testing.assert_allclose(found.poses.keypoints, np.where(seen, wanted.poses.keypoints, 0), atol=0.01)
        person = {"person_id": [-1], "pose_keypoints_2d": [9.0] * 75}
        (folder / "a_000003.json").write_text(json.dumps({"people": [person]}))
        if skeleton is HALPE26:
            with pytest.raises(StreamError, match="3 of 4 people have Halpe's 26 keypoints"):
                back(folder, "openpose", overwrite=True)

    def test_alphapose(self, tmp_path):
        clip = write_clip(tmp_path / "a", CLIP[:-1])
        (path,) = convert(clip, "alphapose")
        reader = back(path, "alphapose")
        expect_clip(reader, CLIP[:-1])
        poses = next(iter(reader)).poses
        np.testing.assert_allclose(poses.bboxes_xyxy, make_poses([1, 3]).bboxes_xyxy, atol=0.01)
        np.testing.assert_allclose(poses.bbox_scores, 0.5, atol=2e-4)
        again = json.loads(convert(reader.path, "alphapose")[0].read_text())
        for record, other in zip(json.loads(path.read_text()), again, strict=True):
            assert record.pop("score") == pytest.approx(other.pop("score"), abs=2e-4)
            assert record == other

    def test_untracked_people_stay_so(self, tmp_path):
        (folder,) = convert(write_clip(tmp_path / "a", [[1, 2]], tracked=False), "openpose")
        reader = back(folder, "openpose")
        assert next(iter(reader)).poses.track_ids.tolist() == [0, 0]
        assert reader.header.tracker == "none"


def ultralytics_results(ids, t: int):
    """What an ultralytics pose model hands over, made of its own classes."""
    import torch
    from ultralytics.engine.results import Results

    poses = make_poses(ids, t)
    points = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], -1)
    columns = [poses.bboxes_xyxy, poses.track_ids[:, None], poses.bbox_scores[:, None], np.zeros((len(ids), 1))]
    return Results(
        np.zeros((480, 640, 3), np.uint8),
        "frame.jpg",
        {0: "person"},
        boxes=torch.from_numpy(np.concatenate(columns, 1).astype(np.float32)),
        keypoints=torch.from_numpy(points.astype(np.float32)),
    )


class TestUltralytics:
    @pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
    @pytest.mark.parametrize("form", ["lists", "lines", "texts"])
    def test_its_own_summaries(self, tmp_path, form, mark):
        results = [ultralytics_results(ids, t) if ids else None for t, ids in enumerate(CLIP)]
        path = tmp_path / "results.json"
        if form == "lists":
            path.write_text(json.dumps([r.summary() if r else [] for r in results], indent=1))
        elif form == "lines":
            path.write_text("\n".join(json.dumps(r.summary() if r else []) for r in results))
        else:
            saved(path, [r.to_json() if r else "[]" for r in results])
        path.write_bytes(mark + path.read_bytes())
        reader = back(path, "ultralytics")
        expect_clip(reader)
        np.testing.assert_allclose(next(iter(reader)).poses.bbox_scores, 0.5)

    def test_boxes_turned_inside_out_are_refused(self, tmp_path):
        path, summary = tmp_path / "u.json", ultralytics_results([1], 0).summary()
        summary[0]["box"]["x2"] = 90
        saved(path, [summary])
        with pytest.raises(StreamError, match=r"\[0\]\[0\]: box has sides of -10 and 200 px; 0 or more is wanted"):
            back(path, "ultralytics")

    def test_one_picture(self, tmp_path):
        path = tmp_path / "picture.json"
        path.write_text(ultralytics_results([1, 3], 0).to_json())
        expect_clip(back(path, "ultralytics"), CLIP[:1])

    def test_normalised_boxes_are_refused(self, tmp_path):
        path = saved(tmp_path / "n.json", [ultralytics_results([1], 0).summary(normalize=True)])
        with pytest.raises(StreamError, match="is normalised; write summary"):
            back(path, "ultralytics")

    def test_boxes_alone_are_refused(self, tmp_path):
        path = tmp_path / "d.json"
        item = {"name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 0, "y1": 0, "x2": 9, "y2": 9}}
        saved(path, [[item]])
        with pytest.raises(StreamError, match=r"d\.json \[0\]\[0\] lacks keypoints"):
            back(path, "ultralytics")


def mmpose_instances(ids, t: int, order=range(17)) -> list[dict]:
    poses = make_poses(ids, t)
    return [
        {
            "keypoints": poses.keypoints[i, list(order)].tolist(),
            "keypoint_scores": poses.keypoint_scores[i, list(order)].tolist(),
            "bbox": [poses.bboxes_xyxy[i].tolist()],  # MMPose writes a box in a list of one
            "bbox_score": 0.5,
            "track_id": track_id,
        }
        for i, track_id in enumerate(ids)
    ]


class TestMMPose:
    def test_inferencer_counts_frames_from_0(self, tmp_path):
        path = saved(
            tmp_path / "p.json", [{"frame_id": t, "instances": mmpose_instances(i, t)} for t, i in enumerate(CLIP)]
        )
        reader = back(path, "mmpose")
        expect_clip(reader)
        np.testing.assert_allclose(next(iter(reader)).poses.bboxes_xyxy, make_poses([1, 3]).bboxes_xyxy)

    def test_a_demo_that_counts_from_0(self, tmp_path):
        path = tmp_path / "results.json"
        frames = [{"frame_id": t, "instances": mmpose_instances(ids, t)} for t, ids in enumerate(CLIP)]
        saved(path, {"meta_info": {}, "instance_info": frames})
        expect_clip(back(path, "mmpose"))

    def test_demo_counts_from_1_and_names_the_keypoints(self, tmp_path):
        order = list(reversed(range(17)))
        meta = {"keypoint_id2name": {str(n): NAMES[i] for n, i in enumerate(order)}}
        frames = [{"frame_id": t + 1, "instances": mmpose_instances(i, t, order)} for t, i in enumerate(CLIP)]
        path = saved(tmp_path / "results.json", {"meta_info": meta, "instance_info": frames})
        expect_clip(back(path, "mmpose"))

    def test_one_picture(self, tmp_path):
        path = saved(tmp_path / "picture.json", mmpose_instances([1, 3], 0))
        expect_clip(back(path, "mmpose"), CLIP[:1])

    @pytest.mark.parametrize(("count", "skeleton"), [(26, HALPE26), (136, HALPE26), (133, WHOLEBODY133)])
    def test_larger_sets_begin_with_coco_and_bring_the_feet(self, tmp_path, count, skeleton):
        (item,) = mmpose_instances([1], 0)
        item["keypoints"] += [[j, j + 0.5] for j in range(17, count)]
        item["keypoint_scores"] += [0.9] * (count - 17)
        path = saved(tmp_path / "wholebody.json", [{"frame_id": 0, "instances": [item]}])
        reader = back(path, "mmpose")
        assert reader.header.skeleton is skeleton
        expect_clip(reader.of_coco(), [[1]])
        (record,) = reader
        feet = record.poses.keypoints[0, 17:]
        assert feet.tolist() == [[j, j + 0.5] for j in range(17, len(skeleton))]


class TestAlphaPoseForms:
    @staticmethod
    def record(t: int, idx, **more):
        points = [v for j in range(17) for v in (*point(1, t, j), 0.8)]
        return {"image_id": f"{t}.jpg", "category_id": 1, "keypoints": points, "score": 2.3, "idx": idx, **more}

    def test_ids_may_be_lists_and_count_from_0(self, tmp_path):
        path = saved(tmp_path / "a.json", [self.record(0, [0]), self.record(0, 4.0), self.record(2, [[1]])])
        frames = list(back(path, "alphapose"))
        assert [f.poses.track_ids.tolist() for f in frames] == [[1, 5], [], [2]]
        np.testing.assert_allclose(frames[0].poses.bbox_scores, 2.3 - 0.8 - 1.25 * 0.8, atol=1e-4)

    def test_the_second_of_two_alike_ids_loses_it(self, tmp_path):
        path = saved(tmp_path / "a.json", [self.record(0, 3), self.record(0, 3)])
        assert next(iter(back(path, "alphapose"))).poses.track_ids.tolist() == [3, 0]

    def test_photographs_without_numbers_are_in_the_order_of_their_names(self, tmp_path):
        path, records = tmp_path / "alphapose-results.json", [self.record(t, t + 1) for t in range(3)]
        for record, name in zip(records, ("zidane.jpg", "street 10.png", "bus.jpg"), strict=True):
            record["image_id"] = name
        saved(path, records)
        found = [(frame.picture, frame.poses.track_ids.tolist()) for frame in back(path, "alphapose")]
        assert found == [("bus.jpg", [3]), ("street 10.png", [2]), ("zidane.jpg", [1])]
        person = {"pose_keypoints_2d": [5.0, 6.0, 0.5] * 18}
        saved(path, {name: {"people": [person]} for name in ("zidane.jpg", "bus.jpg")})
        again = back(path, "alphapose", overwrite=True)
        assert [frame.picture for frame in again] == ["bus.jpg", "zidane.jpg"]
        images = [{"id": n, "file_name": name} for n, name in enumerate(("zidane.jpg", "bus.jpg"))]
        saved(path, {"images": images, "annotations": [records[0] | {"image_id": 0}]})
        found = [(frame.picture, len(frame.poses)) for frame in back(path, "coco", overwrite=True)]
        assert found == [("bus.jpg", 0), ("zidane.jpg", 1)]

    def test_pictures_without_numbers_are_in_the_order_of_their_names(self, tmp_path):
        (folder := tmp_path / "poses").mkdir()
        for n, name in enumerate(("evening 25 deg", "a walk", "morning 25 deg")):
            person = {"person_id": [n + 1], "pose_keypoints_2d": [10.0 * n + 1, 5.0, 0.5] * 18}
            (folder / f"{name}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": [person]}))
        assert [frame.poses.track_ids.tolist() for frame in back(folder, "openpose")] == [[2], [1], [3]]
        (folder / "noon7_keypoints.json").write_text('{"people": []}')
        with pytest.raises(StreamError, match="no frame number in the name 'a walk_keypoints"):
            read_openpose(folder)

    @pytest.mark.parametrize(("people", "joints"), [("people", "pose_keypoints_2d"), ("bodies", "joints")])
    @pytest.mark.parametrize("apart", [False, True])
    def test_its_forms_of_openpose_and_cmu(self, tmp_path, people, joints, apart):
        """As its `write_json` makes them: all in one file, and a file each in `sep-json`."""
        document, path = {}, tmp_path / "alphapose-results.json"
        for t, ids in enumerate(CLIP):
            for i in ids:
                flat = [v for j in range(17) for v in (*point(i, t, j), 0.75)]
                flat += [(flat[15 + n] + flat[18 + n]) / 2 for n in range(3)]
                order = [0, 51, 18, 24, 30, 15, 21, 27, 36, 42, 48, 33, 39, 45, 6, 3, 12, 9]
                record = document.setdefault(f"{t}.jpg", {"version": "AlphaPose v0.3", people: []})
                record[people].append({joints: [v for at in order for v in flat[at : at + 3]]})
        saved(path, document)
        if apart:
            (path := tmp_path / "sep-json").mkdir()
            for name, record in document.items():
                (path / f"{name.split('.')[0]}.json").write_text(json.dumps(record))
        frames = list(back(path, "openpose" if apart else "alphapose"))
        assert [len(frame.poses) for frame in frames] == [len(ids) for ids in CLIP]
        for t, (frame, ids) in enumerate(zip(frames, CLIP, strict=True)):
            wanted = [[point(i, t, j) for j in range(17)] for i in ids]
            np.testing.assert_allclose(frame.poses.keypoints, np.reshape(wanted, (-1, 17, 2)), atol=0.006)

    def test_its_openpose_form(self, tmp_path, clip):
        (folder,) = convert(clip, "openpose")
        files = sorted(folder.iterdir())
        people = {f"{t}.jpg": json.loads(file.read_text()) for t, file in enumerate(files)}
        for person in (p for record in people.values() for p in record["people"]):
            del person["person_id"]
        path = saved(tmp_path / "a.json", people)
        frames = list(back(path, "alphapose"))
        assert [len(f.poses) for f in frames] == [len(ids) for ids in CLIP]
        assert frames[0].poses.keypoints[0, 5].tolist() == pytest.approx(point(1, 0, 5), abs=0.006)


class TestErrors:
    @pytest.mark.parametrize(
        ("source_format", "document", "message"),
        [
            ("alphapose", {"people": 3}, "no list 'people'"),
            ("alphapose", [{"image_id": "1.jpg"}], r"x\.json \[0\] lacks keypoints"),
            ("alphapose", [{"image_id": "1.jpg", "keypoints": [1, 2], "score": 1}], "x, y, score"),
            ("alphapose", [{"image_id": "1.jpg", "keypoints": [1] * 60, "score": 1}], "20 keypoints; 17"),
            ("alphapose", {"1.jpg": {"people": []}, "a1.jpg": {"people": []}}, "1.jpg and a1.jpg are of the same"),
            ("alphapose", [{"image_id": "1.jpg", "keypoints": ["a"] * 51, "score": 1}], "list of finite numbers"),
            ("mmpose", {"frames": []}, "lacks instance_info"),
            ("mmpose", [{"frame_id": 0, "instances": [{"keypoints": [[1, 2]]}]}], r"instances\[0\] lacks keypoint_sc"),
            ("mmpose", [{"frame_id": 0, "instances": 3}], r"\[0\] instances is 3"),
            ("ultralytics", {"a": 1}, "a list is wanted"),
            ("ultralytics", ["[]", "[{]"], "a text in it is not JSON"),
            (
                "alphapose",
                [{"image_id": "1.jpg", "keypoints": [1] * 51, "score": 1, "box": [9, 9, 5, -2]}],
                r"\[0\]: box has sides of 5 and -2 px; 0 or more is wanted",
            ),
            (
                "mmpose",
                [{"instances": [{"keypoints": [[1, 2]] * 17, "keypoint_scores": [1] * 17, "bbox": [9, 9, 5, 10]}]}],
                "bbox has sides of -4 and 1 px; 0 or more is wanted",
            ),
            (
                "coco",
                [{"image_id": 1, "keypoints": [1] * 51, "score": 1, "bbox": [9, 9, -4, 10]}],
                r"\[0\]: bbox has sides of -4 and 10 px; 0 or more is wanted",
            ),
            ("openpose", {"people": [{"pose_keypoints_2d": [1, 2, 3]}]}, r"people\[0\]: 3 numbers"),
            ("openpose", {"people": [{"pose_keypoints_2d": None}]}, "pose_keypoints_2d is None"),
            (
                "openpose",
                {"people": [{"pose_keypoints_2d": [9.0] * 75, "hand_left_keypoints_2d": [5.0] * 60}]},
                r"people\[0\]: 60 numbers in hand_left_keypoints_2d; 63 are accepted",
            ),
            ("openpose", {"bodies": [{"joints": [1, 2, 3]}]}, r"bodies\[0\]: 3 numbers in joints; 54"),
            ("alphapose", {"0.jpg": {"bodies": {}}}, r"x\.json 0\.jpg has no list 'bodies'"),
        ],
    )
    def test_a_wrong_record_is_named(self, tmp_path, source_format, document, message):
        path = saved(tmp_path / "x.json", document)
        with pytest.raises(StreamError, match=message):
            back(path, source_format)
        assert [f.name for f in tmp_path.iterdir()] == ["x.json"]

    @pytest.mark.parametrize("source_format", sorted(READERS))
    def test_missing_and_broken_files(self, tmp_path, source_format):
        with pytest.raises(StreamError, match="cannot read"):
            back(tmp_path / "none.json", source_format)
        (tmp_path / "x.json").write_text("{")
        with pytest.raises(StreamError, match="is not JSON"):
            back(tmp_path / "x.json", source_format)

    def test_empty_folder_unknown_format_and_no_times(self, tmp_path):
        with pytest.raises(StreamError, match=r"holds no \.json file"):
            back(tmp_path, "openpose")
        with pytest.raises(ConfigError, match="did you mean 'mmpose'"):
            back(tmp_path, "mmpos")
        with pytest.raises(ConfigError, match="give the frame rate"):
            back(tmp_path, "openpose", fps=None)

    def test_never_over_an_old_stream_unless_asked(self, clip):
        (folder,) = convert(clip, "openpose")
        with pytest.raises(OutputError, match=r"walking\.skeletons\.jsonl exists already"):
            import_stream(folder, "openpose", frame_size_wh=SIZE_WH, fps=25)
        assert import_stream(folder, "openpose", frame_size_wh=SIZE_WH, fps=25, overwrite=True) == clip

    def test_a_full_disk_is_told_of_the_result_and_the_old_one_stays(self, clip):
        (folder,) = convert(clip, "openpose")
        before = clip.read_bytes()
        message = rf"^{re.escape(str(clip))} cannot be written \(File too large\); choose another"
        with file_size_limit(1000), pytest.raises(OutputError, match=message):
            import_stream(folder, "openpose", frame_size_wh=SIZE_WH, fps=25, overwrite=True)
        assert clip.read_bytes() == before
        assert sorted(clip.parent.iterdir()) == sorted([clip, folder])

    def test_never_over_what_is_read(self, clip, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (labels,), (folder,) = convert(clip, "coco_labels"), convert(clip, "openpose")
        (file, *_) = folder.iterdir()
        for path, source_format, out in ((labels, "coco", labels.name), (folder, "openpose", file)):
            with pytest.raises(OutputError, match=r"is an input; choose another name \(--out\)"):
                back(path, source_format, out=out, overwrite=True)
        for out, name in ((f"{tmp_path}/", "walking.coco_labels.skeletons.jsonl"), (tmp_path / "new", "new")):
            written = import_stream(labels, "coco", out, frame_size_wh=SIZE_WH, fps=25, overwrite=True)
            assert written == tmp_path / name  # in a folder under its own name
        assert read_coco(labels).frames
        assert sorted(read_openpose(folder).frames) == list(range(len(CLIP)))


class TestWhatTheyMean:
    """What other programs write for whom or what they did not find."""

    def test_alphapose_without_tracking(self, tmp_path):
        path = tmp_path / "a.json"
        record = json.loads(
            convert(write_clip(tmp_path / "c", [[1]]), "alphapose", tmp_path / "r.json")[0].read_text()
        )[0]
        saved(path, [{**record, "image_id": f"{t}.jpg", "idx": [0.0]} for t in (0, 0, 1, 1)])
        reader = back(path, "alphapose")
        assert [f.poses.track_ids.tolist() for f in reader] == [[0, 0], [0, 0]]
        assert reader.header.tracker == "none"
        saved(path, [{**record, "image_id": f"{t}.jpg", "idx": 0} for t in (0, 1)])  # one person
        reader = back(path, "alphapose", overwrite=True)
        assert [f.poses.track_ids.tolist() for f in reader] == [[0], [0]]
        assert reader.header.tracker == "none"

    def test_pictures_of_one_number_are_two_clips(self, tmp_path):
        record = json.loads(
            convert(write_clip(tmp_path / "c", [[1]]), "alphapose", tmp_path / "r.json")[0].read_text()
        )[0]
        path = saved(tmp_path / "a.json", [{**record, "image_id": f"cam{c}_1.jpg"} for c in "AB"])
        with pytest.raises(StreamError, match=r"camA_1\.jpg and camB_1\.jpg are of the same frame"):
            back(path, "alphapose")

    def test_negative_ids_are_nobodys(self, tmp_path):
        people = mmpose_instances([1, 3], 0)
        people[0]["track_id"], people[1]["track_id"] = -1, 2
        path = saved(tmp_path / "p.json", [{"frame_id": t, "instances": people} for t in range(2)])
        assert [f.poses.track_ids.tolist() for f in back(path, "mmpose")] == [[0, 2], [0, 2]]

    def test_keypoints_of_another_set_are_refused(self, tmp_path):
        """H36M has 17, too."""
        names = [
            "root",
            "right_hip",
            "right_knee",
            "right_foot",
            "left_hip",
            "left_knee",
            "left_foot",
            "spine",
            "thorax",
        ]
        names += ["neck_base", "head", "left_shoulder", "left_elbow", "left_wrist"]
        names += ["right_shoulder", "right_elbow", "right_wrist"]
        path = tmp_path / "p.json"
        meta = {"keypoint_id2name": dict(enumerate(names))}
        frames = [{"frame_id": 1, "instances": mmpose_instances([1], 0)}]
        saved(path, {"meta_info": meta, "instance_info": frames})
        with pytest.raises(StreamError, match="named root, right_hip"):
            back(path, "mmpose")

    @pytest.mark.parametrize("shift", [0, 1])
    def test_normalised_keypoints_of_openpose_are_refused(self, clip, shift):
        """--keypoint_scale 3 gives 0..1, 4 gives -1..1; a missing one is 0, 0 in both."""
        (folder,) = convert(clip, "openpose")
        frames = {file: json.loads(file.read_text()) for file in sorted(folder.iterdir())}
        for record in frames.values():
            for person in record["people"]:
                table = np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
                table[table[:, 2] > 0, :2] *= (1 + shift) / np.array(SIZE_WH)
                table[table[:, 2] > 0, :2] -= shift
                person["pose_keypoints_2d"] = table.ravel().tolist()
        *most, last = frames
        text = last.read_text()
        for file, record in frames.items():
            file.write_text(json.dumps(record))
        found = 16 * sum(map(len, CLIP))
        with pytest.raises(StreamError, match=rf"all {found} keypoints lie within -1\.\.1.*with --keypoint_scale 0"):
            back(folder, "openpose")
        last.write_text(text)  # px in one file of them
        assert len(read_openpose(folder).frames) == len(most) + 1

    def test_of_nobody_no_scale_is_asked(self, tmp_path):
        path = tmp_path / "x.json"
        for people in ([], [{"pose_keypoints_2d": [0] * 75}], [{"pose_keypoints_2d": [0, 0, 0.5] * 25}]):
            saved(path, {"people": people})
            assert [len(frame.poses) for frame in back(path, "openpose", overwrite=True)] == [len(people)]

    def test_the_corner_is_nowhere(self, tmp_path):
        """ultralytics moved keypoints below 0.5 there and kept their confidence."""
        summary = ultralytics_results([1], 0).summary()
        summary[0]["keypoints"]["x"][7] = summary[0]["keypoints"]["y"][7] = 0.0
        summary[0]["keypoints"]["visible"][7] = 0.3
        path = saved(tmp_path / "u.json", [summary])
        assert next(iter(back(path, "ultralytics"))).poses.keypoint_scores[0, 7] == 0

    def test_mmpose_is_known_to_count_from_1(self, tmp_path):
        with pytest.raises(ConfigError, match="leave --first-frame away"):
            back(tmp_path / "p.json", "mmpose", first_frame=1)

    def test_a_racket_has_its_own_keypoints(self, tmp_path):
        """Before and behind the people's category, whatever has keypoints beside them is left out."""
        names = list(COCO17.keypoints)
        racket = {"id": 2, "name": "racket", "keypoints": ["top", "middle", "end"]}
        person = {"id": 1, "name": "person", "keypoints": names}
        table = [float(value) for n in range(17) for value in (10 + n, 20 + n, 2)]
        for categories in ([racket, person], [person, racket]):
            document = {
                "images": [{"id": 1, "file_name": "0.jpg", "width": 100, "height": 100}],
                "annotations": [
                    {"image_id": 1, "category_id": 2, "keypoints": [5, 5, 2] * 3},
                    {"image_id": 1, "category_id": 1, "keypoints": table},
                ],
                "categories": categories,
            }
            path = tmp_path / "labels.json"
            path.write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
            (people,) = read_coco(path).frames.values()
            assert len(people) == 1

    def test_dogs_are_no_people(self, tmp_path):
        summary = ultralytics_results([1, 3], 0).summary()
        summary[0]["name"] = "dog"
        path = saved(tmp_path / "u.json", [summary, []])
        assert [f.poses.track_ids.tolist() for f in back(path, "ultralytics")] == [[3], []]

    def test_posetrack_numbers_pictures_of_the_whole_set(self, tmp_path):
        document = coco_labels()
        for t, image in enumerate(document["images"]):
            image.update(id=10003420000 + t, frame_id=10003420000 + t, file_name=f"images/val/000342_mpii/{t:06d}.jpg")
        for annotation in document["annotations"]:
            annotation["image_id"] += 10003420000 - 1000
        path = saved(tmp_path / "posetrack.json", document)
        assert [f.poses.track_ids.tolist() for f in back(path, "coco")] == CLIP
        from sharpose_rt.evaluation.track_truth import read_truth

        assert sorted(read_truth(path).frames) == list(range(len(CLIP)))

    def test_names_of_results(self, tmp_path, monkeypatch):
        poses = tmp_path / "poses"
        convert(write_clip(tmp_path / "c"), "openpose", poses)
        monkeypatch.chdir(poses)
        written = import_stream(".", "openpose", frame_size_wh=SIZE_WH, fps=25)
        assert written == tmp_path / "poses.skeletons.jsonl"
        for camera in ("cam.1", "cam.2"):
            (path,) = convert(written, "coco", tmp_path / f"{camera}.json")
            assert import_stream(path, "coco", frame_size_wh=SIZE_WH, fps=25).name == f"{camera}.skeletons.jsonl"
        new = tmp_path / "a" / "b.skeletons.jsonl"
        assert import_stream(path, "coco", new, frame_size_wh=SIZE_WH, fps=25) == new


class TestCoco:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"bbox": [0, 0, 1e39, 5]}, "bbox is"),
            ({"track_id": 2**63}, "the id is 9223372036854775808; less than"),
            ({"score": 1e300}, "score"),
        ],
    )
    def test_numbers_that_nothing_can_hold_are_named(self, tmp_path, change, message):
        record = {"image_id": 0, "category_id": 1, "keypoints": [5, 5, 1] * 17, "score": 0.5} | change
        (tmp_path / "big.json").write_text(json.dumps([record]))
        with pytest.raises(StreamError, match=message):
            back(tmp_path / "big.json", "coco")

    @pytest.mark.parametrize("track_id", [2**53 + 1, 2**63 - 1])
    def test_large_ids_are_exact(self, tmp_path, track_id):
        flat = [5, 5, 1] * 17
        coco = {"image_id": 0, "keypoints": flat, "score": 0.5}
        documents = {
            "coco": [coco | {"track_id": [track_id]}],
            "alphapose": [coco | {"image_id": "0.jpg", "idx": [[track_id], 0.5]}],
            "openpose": {"people": [{"person_id": [track_id], "pose_keypoints_2d": [5, 5, 1] * 25}]},
            "easy_vitpose": {"keypoints": [{str(track_id): [[5, 5, 1]] * 17}], "skeleton": list(NAMES)},
        }
        path = tmp_path / "x.json"
        for source_format, document in documents.items():
            saved(path, document)
            (frame,) = back(path, source_format, overwrite=True)
            assert frame.poses.track_ids.tolist() == [track_id]

    def test_the_largest_id_has_none_above_it(self, tmp_path):
        records = [{"image_id": 0, "keypoints": [5, 5, 1] * 17, "track_id": i} for i in (0, 2**63 - 1)]
        (tmp_path / "x.json").write_text(json.dumps(records))
        with pytest.raises(StreamError, match="ids from 0 to 9223372036854775807"):
            back(tmp_path / "x.json", "coco")

    def test_null_is_nothing_in_the_other_forms_too(self, tmp_path):
        keypoints = [5, 5, 1] * 17
        alphapose = [{"image_id": "1.jpg", "keypoints": keypoints, "score": None, "idx": None, "box": None}]
        box, points = {"x1": 1, "y1": 2, "x2": 30, "y2": 40}, {"x": [5] * 17, "y": [5] * 17, "visible": None}
        ultralytics = [[{"box": box, "confidence": None, "keypoints": points}]]
        openpose = {"people": [{"person_id": None, "pose_keypoints_2d": [5, 5, 1] * 25}]}
        (tmp_path / "frames").mkdir()
        (tmp_path / "frames" / "clip_000000000000_keypoints.json").write_text(json.dumps(openpose))
        for form, document in (("alphapose", alphapose), ("ultralytics", ultralytics), ("openpose", None)):
            path = tmp_path / ("frames" if document is None else f"{form}.json")
            if document is not None:
                saved(path, document)
            poses = [poses for frame in back(path, form, overwrite=True) if len(poses := frame.poses)]
            assert [p.bbox_scores.tolist() for p in poses] == [[1.0]]  # the keypoints' mean
            assert poses[0].track_ids.tolist() == [0]

    def test_all_of_mpiis_names_are_mpiis(self, tmp_path):
        flat = [value for n in range(16) for value in (n, n, 2)]
        names = [name.upper() for name in reversed(MPII16.keypoints)]
        person = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": flat, "bbox": [0, 0, 15, 15]}
        document = {
            "images": [{"id": 1, "file_name": "0.jpg", "width": 20, "height": 20}],
            "annotations": [person],
            "categories": [{"id": 1, "name": "person", "keypoints": names}],
        }
        (tmp_path / "mpii.json").write_text(json.dumps(document))
        reader = back(tmp_path / "mpii.json", "coco")
        assert reader.header.skeleton == MPII16
        assert next(iter(reader)).poses.keypoints[0, :, 0].tolist() == list(range(15, -1, -1))

    def test_names_are_those_of_the_first_people_who_have_any(self, tmp_path):
        document = coco_labels()
        kinds = ([], list(reversed(NAMES)))
        document["categories"] = [{"id": i, "name": "person", "keypoints": names} for i, names in enumerate(kinds)]
        (tmp_path / "labels.json").write_text(json.dumps(document))
        points = next(iter(back(tmp_path / "labels.json", "coco"))).poses.keypoints[0]
        np.testing.assert_allclose(points[16], point(CLIP[0][0], 0, 0), atol=0.006)

    def test_results(self, clip):
        (path,) = convert(clip, "coco")
        reader = back(path, "coco")
        expect_clip(reader)
        found = next(iter(reader)).poses
        np.testing.assert_allclose(found.bbox_scores, 0.5 * 0.75 * 0.5, atol=1e-4)  # box, keypoints, quality
        (again,) = convert(reader.path, "coco", path.with_name("again.json"))
        for record, other in zip(json.loads(path.read_text()), json.loads(again.read_text()), strict=True):
            assert (record.pop("score"), other.pop("score")) == pytest.approx((0.1875, 0.1875 * 0.75), abs=1e-4)
            assert record == other

    @pytest.mark.parametrize("labelled", [True, False])
    def test_whole_bodies_have_their_parts_in_lists_of_their_own(self, tmp_path, labelled):
        numbers = [float(1 + i % 9) if i % 3 < 2 else 1.0 for i in range(3 * 133)]
        ends = {"keypoints": 51, "foot_kpts": 69, "face_kpts": 273, "lefthand_kpts": 336, "righthand_kpts": 399}
        begins = dict(zip(ends, [0, *ends.values()], strict=False))
        whole = {"image_id": 0, **{name: numbers[begins[name] : end] for name, end in ends.items()}}
        body = {"image_id": 1, "keypoints": numbers[:51], **dict.fromkeys([*ends][1:])}
        document: object = [whole, body]
        if labelled:
            images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(2)]
            category = {"id": 1, "name": "person", "keypoints": list(NAMES)}
            document = {"images": images, "annotations": [whole, body], "categories": [category]}
        (tmp_path / "whole.json").write_text(json.dumps(document))
        reader = back(tmp_path / "whole.json", "coco")
        assert reader.header.skeleton is WHOLEBODY133
        first, second = (frame.poses for frame in reader)
        np.testing.assert_allclose(first.keypoints[0], np.reshape(numbers, (-1, 3))[:, :2])
        assert (second.keypoint_scores[0] > 0).tolist() == 17 * [True] + 116 * [False]
        whole["face_kpts"] = whole["face_kpts"][:6]
        (tmp_path / "whole.json").write_text(json.dumps(document))
        with pytest.raises(StreamError, match=r"\[0\]: face_kpts is .*; 204 finite numbers"):
            back(tmp_path / "whole.json", "coco", overwrite=True)

    def test_results_that_count_from_1(self, clip):
        (path,) = convert(clip, "coco", first_image_id=1)
        expect_clip(back(path, "coco", first_frame=1))
        with pytest.raises(StreamError, match=r"has frame 1, but the first one is said to be 2"):
            back(path, "coco", first_frame=2, out=path.with_name("other.jsonl"))

    def test_pictures_keep_names_and_sizes(self, clip):
        names = ["b/shot_000000.jpg", "a.png", *(f"shot_{t:06d}.jpg" for t in range(2, 6))]
        shots = of_pictures(twice_as_large(clip, first=2), names)
        (labels,) = convert(shots, "coco_labels")
        reader = back(labels, "coco", frame_size_wh=None)
        assert reader.header.frame_size_wh == SIZE_WH
        told = [(frame.picture, frame.frame_size_wh) for frame in reader]
        assert told == [(frame.picture, frame.frame_size_wh) for frame in StreamReader(shots)]
        (again,) = convert(reader.path, "coco_labels", labels.with_name("again"))
        images, others = (json.loads(path.read_text())["images"] for path in (labels, again))
        assert images == others
        reader = back(labels, "coco", frame_size_wh=(1280, 960), overwrite=True)
        assert [frame.frame_size_wh for frame in reader] == [SIZE_WH] * 2 + [None] * 4

    def test_names_that_a_video_was_given_are_no_pictures(self, clip):
        (labels,) = convert(clip, "coco_labels")
        (results,) = convert(back(labels, "coco").path, "openpose", clip.with_name("walking"))
        assert results.joinpath("back_000000000005_keypoints.json").exists()
        document = json.loads(labels.read_text())
        del document["info"]  # as tools for labelling do, in which there were pictures of these names
        labels.write_text(json.dumps(document))
        reader = back(labels, "coco", overwrite=True)
        assert [frame.picture for frame in reader] == [f"walking_{t:06d}.jpg" for t in range(6)]

    @pytest.mark.parametrize("names", [["a.jpg"] * 6, [None, *"bcdef"], ["", *"bcdef"]])
    def test_of_names_that_tell_nothing_and_sizes_that_are_none(self, tmp_path, names):
        document, path = coco_labels(), tmp_path / "labels.json"
        sizes = (None, (0, 0), (None, 480), ("640", "480"), (1e300, 5), (320.0, 240))
        for image, name, size in zip(document["images"], names, sizes, strict=True):
            image.update({"file_name": name} | (dict(zip(("width", "height"), size, strict=True)) if size else {}))
        saved(path, document)
        told = [(frame.picture, frame.frame_size_wh) for frame in back(path, "coco")]
        assert told == [(None, None)] * 5 + [(None, (320, 240))]

    def test_pictures_are_counted_from_the_first_frame(self, tmp_path):
        path = saved(tmp_path / "labels.json", coco_labels(numbered=False))
        pictures = [frame.picture for frame in back(path, "coco", first_frame=7)]
        assert pictures == [f"walk/{t + 7:06d}.jpg" for t in range(6)]

    @pytest.mark.parametrize("categories", [5, "person", [5], None])
    def test_categories_that_are_none_leave_everybody_a_person(self, tmp_path, categories):
        path = saved(tmp_path / "labels.json", coco_labels() | {"categories": categories})
        assert [f.poses.track_ids.tolist() for f in back(path, "coco")] == CLIP

    def test_categories_that_no_record_is_of_are_said(self, tmp_path):
        """Their ids are texts here, and numbers in the records."""
        document = coco_labels() | {"categories": [{"id": "1", "name": "person"}]}
        for record in document["annotations"]:
            record["category_id"] = 1
        path, count = saved(tmp_path / "labels.json", document), len(document["annotations"])
        with pytest.raises(StreamError, match=rf"json: none of its {count} annotations has the category_id of .*, '1'"):
            back(path, "coco")

    @pytest.mark.parametrize("numbered", [True, False])
    def test_labels(self, tmp_path, numbered):
        path = saved(tmp_path / "labels.json", coco_labels(numbered=numbered))
        reader = back(path, "coco", first_frame=0 if numbered else 7)
        assert [f.poses.track_ids.tolist() for f in reader] == CLIP
        for t, (frame, ids) in enumerate(zip(reader, CLIP, strict=True)):
            if not ids:
                continue
            expected = make_poses(ids, t)
            np.testing.assert_allclose(frame.poses.bboxes_xyxy, expected.bboxes_xyxy, atol=0.01)
            found = expected.keypoint_scores > 0
            np.testing.assert_array_equal(frame.poses.keypoint_scores, found)
            np.testing.assert_allclose(frame.poses.keypoints[found], expected.keypoints[found], atol=0.006)

    @pytest.mark.parametrize("change", [lambda r: r.pop("score"), lambda r: r.update(score=None, bbox=None)])
    @pytest.mark.parametrize("form", ["results", "labels"])
    def test_null_is_nothing(self, tmp_path, form, change):
        person = {"image_id": 0, "keypoints": [5.0, 6.0, 1.0] * 17, "score": 0.5}
        change(person)
        document = [person] if form == "results" else {"images": [{"id": 0, "frame_id": 0}], "annotations": [person]}
        path = saved(tmp_path / "x.json", document)
        poses = next(iter(back(path, "coco"))).poses
        assert poses.bbox_scores.tolist() == [1]  # as of its keypoints
        assert poses.bboxes_xyxy.tolist() == [[5, 6, 5, 6]]

    def test_keypoints_are_found_by_their_names(self, tmp_path):
        """PoseTrack has the top of the head where COCO has eyes."""
        document = coco_labels()
        names = [*NAMES[:1], "head_bottom", "head_top", *NAMES[3:]]
        document["categories"] = [{"id": 1, "name": "person", "keypoints": names}]
        path = saved(tmp_path / "posetrack.json", document)
        poses = next(iter(back(path, "coco"))).poses
        assert not poses.keypoint_scores[:, 1:3].any()  # eyes
        np.testing.assert_allclose(poses.keypoints[:, 5:], make_poses(CLIP[0]).keypoints[:, 5:], atol=0.006)

    def test_boxes_and_crowds_have_no_pose(self, tmp_path):
        document = coco_labels()
        crowd = {**document["annotations"][0], "iscrowd": 1, "track_id": 9}
        document["annotations"] += [crowd, {"id": 99, "image_id": 5, "bbox": [1, 2, 3, 4]}]
        path = saved(tmp_path / "labels.json", document)
        assert [f.poses.track_ids.tolist() for f in back(path, "coco")] == CLIP

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d["annotations"][2].update(image_id=77), r"annotations\[2\]: image_id is 77, which no record"),
            (lambda d: d["annotations"][1].update(keypoints=[1, 2]), r"annotations\[1\]: keypoints has 2 numbers"),
            (
                lambda d: d["annotations"][1].update(bbox=[9, 9, 5, -2]),
                r"annotations\[1\]: bbox has sides of 5 and -2 px; 0 or more is wanted",
            ),
            (lambda d: d["annotations"][1].update(bbox=[1, 2]), r"annotations\[1\]: bbox is"),
            (lambda d: d["images"][3].update(frame_id=2), "several of its images have the same number"),
            (lambda d: d["images"][3].update(frame_id=-2), r"images\[3\]: frame_id is -2"),
            (lambda d: d.pop("images"), "lacks images"),
            (
                lambda d: d.update(categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]),
                r"labels\.json: its categories are 'cat', 'dog', and none is 'person'",
            ),
            (lambda d: d["images"][0].pop("id"), r"images\[0\] lacks id"),
            (lambda d: d["images"][0].update(id=[1]), r"images\[0\]: id is \[1\]; a number or a name"),
            (lambda d: d["images"][0].update(id="x", frame_id="x"), r"images\[0\]: frame_id is 'x'"),
            (lambda d: d["annotations"][0].update(image_id={}), r"annotations\[0\]: image_id is \{\}"),
        ],
    )
    def test_a_wrong_record_is_named(self, tmp_path, change, message):
        document = coco_labels()
        change(document)
        path = saved(tmp_path / "labels.json", document)
        with pytest.raises(StreamError, match=message):
            back(path, "coco")


def coco_labels(*, numbered: bool = True) -> dict:
    """The clip as hand-made labels would have it: a picture a frame, visibility 0 or 2."""
    images, annotations = [], []
    for t, ids in enumerate(CLIP):
        number = {"frame_id": t} if numbered else {}
        images.append({"id": 1000 + t, "file_name": f"walk/{t + 7:06d}.jpg", **number})
        poses = make_poses(ids, t)
        for i, track_id in enumerate(ids):
            points = [
                [round(float(x), 3), round(float(y), 3), 2] if score > 0 else [0, 0, 0]
                for (x, y), score in zip(poses.keypoints[i], poses.keypoint_scores[i], strict=True)
            ]
            left, top, right, bottom = poses.bboxes_xyxy[i].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1000 + t,
                    "keypoints": [value for point in points for value in point],
                    "bbox": [left, top, right - left, bottom - top],
                    "track_id": track_id,
                }
            )
    return {"images": images, "annotations": annotations}


class TestEasyViTPose:
    @pytest.mark.parametrize("by_ids", [True, False])
    def test_rows_before_columns(self, tmp_path, by_ids):
        frames = []
        for t, ids in enumerate(CLIP):
            poses = make_poses(ids, t)
            rows = np.concatenate([poses.keypoints[..., ::-1], poses.keypoint_scores[..., None]], -1).tolist()
            frames.append(dict(zip(map(str, ids), rows, strict=True)) if by_ids else rows)
        skeleton = {str(i): name for i, name in enumerate(NAMES)}
        path = saved(tmp_path / "walk_result.json", {"keypoints": frames, "skeleton": skeleton})
        reader = back(path, "easy_vitpose")
        if by_ids:
            expect_clip(reader)
        else:
            assert [f.poses.track_ids.tolist() for f in reader] == [[0] * len(ids) for ids in CLIP]
            np.testing.assert_allclose(next(iter(reader)).poses.keypoints[:, 0], make_poses(CLIP[0]).keypoints[:, 0])

    def test_its_25_keypoints_are_taken_by_name(self, tmp_path):
        more = [*NAMES[:5], "neck", *NAMES[5:], *(f"extra_{i}" for i in range(7))]
        points = [[10.0 + i, 20.0 + i, 0.5] for i in range(len(more))]
        path = saved(tmp_path / "r.json", {"keypoints": [{"4": points}], "skeleton": dict(enumerate(more))})
        poses = next(iter(back(path, "easy_vitpose"))).poses
        assert poses.keypoints[0, 5].tolist() == [26.0, 16.0]  # the left shoulder, behind the neck

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            (
                {"keypoints": [[[[1, 2, 3]]]], "skeleton": {"0": "withers"}},
                "named withers; at least 12 of COCO's",
            ),
            ({"keypoints": [{"0": [[1, 2]]}], "skeleton": dict(enumerate(NAMES))}, r"\[0\]\[0\]: keypoints is"),
            ({"keypoints": [7], "skeleton": dict(enumerate(NAMES))}, r"keypoints\[0\] is 7"),
            ({"keypoints": [], "skeleton": {"a": "nose"}}, "are no numbers"),
            ({"keypoints": [], "skeleton": 3}, "skeleton is 3"),
        ],
    )
    def test_a_wrong_record_is_named(self, tmp_path, document, message):
        path = saved(tmp_path / "r.json", document)
        with pytest.raises(StreamError, match=message):
            back(path, "easy_vitpose")


class TestCommand:
    def test_size_and_rate(self, clip, capsys):
        (path,) = convert(clip, "alphapose")
        out = clip.with_name("b.skeletons.jsonl")
        arguments = ["convert", str(path), "--from", "alphapose", "--out", str(out)]
        assert main([*arguments, "--fps", "25", "--frame-size", "640x480"]) == 0
        assert capsys.readouterr().out.strip() == str(out)
        expect_clip(StreamReader(out))
        counted = [*arguments, "--fps", "25", "--frame-size", "640x480", "--first-frame", "1", "--overwrite"]
        assert main(counted) == 2
        assert "has frame 0, but the first one is said to be 1" in capsys.readouterr().err
        assert main(arguments) == 2
        assert "give --video FILE, or --fps N and --frame-size WxH" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*arguments, "--fps", "25", "--frame-size", "640"])
        assert "640" in capsys.readouterr().err

    def test_the_video_tells_times_and_size(self, clip, tmp_path, capsys):
        video = tmp_path / "walking.mp4"
        write_video(video, len(CLIP), size_wh=(96, 64))
        (folder,) = convert(clip, "openpose", tmp_path / "poses")
        assert main(["convert", str(folder), "--from", "openpose", "--video", str(video)]) == 0
        reader = StreamReader(tmp_path / "poses.skeletons.jsonl")
        assert (reader.header.frame_size_wh, reader.header.source) == ((96, 64), str(video))
        from sharpose_rt import open_source

        with open_source(str(video)) as source:
            np.testing.assert_allclose([f.pts_s for f in reader], [f.pts_s for f in source], atol=1e-6)
        for more in (["--fps", "5"], ["--frame-size", "64x48"]):
            assert main(["convert", str(folder), "--from", "openpose", "--video", str(video), *more]) == 2
            assert f"--video already determines {more[0]}" in capsys.readouterr().err

    def test_the_video_is_not_written_over(self, clip, tmp_path, capsys):
        video = tmp_path / "walking.mp4"
        write_video(video, len(CLIP), size_wh=(96, 64))
        (path,), before = convert(clip, "coco"), video.read_bytes()
        arguments = ["convert", str(path), "--from", "coco", "--video", str(video), "--out", str(video), "--overwrite"]
        assert main(arguments) == 2
        assert "is an input; choose another name (--out)" in capsys.readouterr().err
        assert video.read_bytes() == before

    def test_labels_tell_the_size(self, clip, capsys):
        for to, status in (("coco_labels", 0), ("coco", 2)):
            (path,) = convert(clip, to)
            out = path.with_suffix(".skeletons.jsonl")
            assert main(["convert", str(path), "--from", "coco", "--fps", "25", "--out", str(out)]) == status
        assert "does not tell how large the frames are" in capsys.readouterr().err

    def test_another_video_is_found_out(self, clip, tmp_path, capsys):
        video = tmp_path / "short.mp4"
        write_video(video, 3, size_wh=(96, 64))
        (folder,) = convert(clip, "openpose")
        before = clip.read_bytes()
        assert main(["convert", str(folder), "--from", "openpose", "--video", str(video), "--overwrite"]) == 2
        assert "has frame 5, but the video has 3 frames" in capsys.readouterr().err
        assert clip.read_bytes() == before

    def test_gap_policy(self, clip):
        out = clip.with_name("a.pkl")
        arguments = ["convert", str(clip), "--to", "pyskl", "--out", str(out), "--person-slots", "1"]
        assert main([*arguments, "--fill", "linear", "--max-gap", "0.5"]) == 0
        import pickle

        (annotation,) = pickle.loads(out.read_bytes())["annotations"]
        assert annotation["keypoint"].shape == (1, len(CLIP), len(COCO17), 2)
        assert (annotation["keypoint_score"][0, :5, 0] > 0).all()


class TestWhatIsNoVideo:
    def test_two_clips_in_one_folder(self, tmp_path):
        folder = tmp_path / "json"
        folder.mkdir()
        for clip in ("walk", "zzz"):
            (folder / f"{clip}_000000000000_keypoints.json").write_text('{"people": []}')
        with pytest.raises(StreamError, match="two clips in one folder"):
            back(folder, "openpose")
        assert [path.name for path in tmp_path.iterdir()] == ["json"]

    def test_numbers_of_pictures(self, tmp_path):
        record = {"image_id": "000000581781.jpg", "keypoints": [1, 2, 0.5] * 17, "score": 1.5}
        (tmp_path / "alphapose-results.json").write_text(json.dumps([record]))
        with pytest.raises(StreamError, match="up to 581781: these are no frame numbers"):
            back(tmp_path / "alphapose-results.json", "alphapose")

    def test_labelled_photographs_are_frames_in_their_order(self, tmp_path, caplog):
        document, numbers = coco_labels(numbered=False), [581781, 139, 37988, 5001, 397133, 77]
        for image, number in zip(document["images"], numbers, strict=True):
            image |= {"file_name": f"{number:012d}.jpg", "width": number % 100 + 200, "height": 300}
        path = saved(tmp_path / "person_keypoints_val2017.json", document)
        frames = list(back(path, "coco", frame_size_wh=None))
        assert [frame.picture for frame in frames] == [f"{number:012d}.jpg" for number in sorted(numbers)]
        by_number = dict(zip(numbers, CLIP, strict=True))
        assert [frame.poses.track_ids.tolist() for frame in frames] == [by_number[n] for n in sorted(numbers)]
        assert [frame.frame_size_wh for frame in frames] == [None, *((n % 100 + 200, 300) for n in sorted(numbers)[1:])]
        assert "6 pictures with numbers up to 581781, which are no frame numbers" in caplog.text
        with pytest.raises(StreamError, match="these are no frame numbers"):
            back(path, "coco", first_frame=1, overwrite=True)

    @pytest.mark.parametrize(
        "arguments",
        [["--to", "csv", "--fps", "25"], ["--from", "openpose", "--fill", "linear", "--fps", "1"]],
    )
    def test_options_of_the_other_way(self, clip, arguments, capsys):
        assert main(["convert", str(clip), *arguments]) == 2
        assert "goes with" in capsys.readouterr().err
