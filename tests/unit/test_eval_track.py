"""Tracks are measured as TrackEval does, and jitter is the acceleration that keypoints have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sharpose_rt.cli import main
from sharpose_rt.detection.boxes import read_mot
from sharpose_rt.errors import ConfigError, DatasetError, StreamError
from sharpose_rt.evaluation.track_truth import read_truth
from sharpose_rt.evaluation.tracks import evaluate_tracks, jitter
from sharpose_rt.skeleton import COCO17, COCO_FEET23, HALPE26, MPII16, WHOLEBODY133
from sharpose_rt.skeletons import FrameRecord, StreamReader, StreamWriter, encode
from sharpose_rt.skeletons.convert import convert
from sharpose_rt.skeletons.importers import import_stream
from sharpose_rt.types import Poses, PoseStage
from tests.people_set import in_posetracks_order
from tests.unit.test_convert import make_poses, write_clip

TWO = [[1, 2]] * 10
SWITCHED = [[1, 2]] * 5 + [[1, 3]] * 5  # the second person is given another id half way


def stream(path: Path, clip=TWO) -> Path:
    return write_clip(path / "a.skeletons.jsonl", clip)


def boxes(ids, renamed: dict[int, int] | None = None) -> list[tuple[int, list[float]]]:
    """Id and xywh of the people of `make_poses`, whose place tells their id."""
    names = renamed or {}
    return [(i, [names.get(i, i) * 100.0, 40.0, 20.5, 200.0]) for i in ids]


def mot(path: Path, clip=TWO, tail: str = ",1,1,1") -> Path:
    lines = [
        f"{t + 1},{i},{left + 1},{top + 1},{width},{height}{tail}"  # frames and pixels count from 1
        for t, ids in enumerate(clip)
        for i, (left, top, width, height) in boxes(ids)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def coco(path: Path, clip=TWO, frame_ids=None, **fields) -> Path:
    numbers = list(frame_ids or range(len(clip)))
    images = [{"id": 100 + t, "frame_id": t, "file_name": f"{t}.jpg"} for t in numbers]
    people = [
        {"id": 1000 * t + i, "image_id": 100 + t, "track_id": i, "bbox": b, **keypoints_of(i, t), **fields}
        for t in numbers
        for i, b in boxes(clip[t])
    ]
    path.write_text(json.dumps({"images": images, "annotations": people}))
    return path


def keypoints_of(i: int, t: int) -> dict:
    poses = make_poses([i], t)
    triples = np.concatenate([poses.keypoints[0], 2 * (poses.keypoint_scores[0] > 0)[:, None]], -1)
    return {"keypoints": triples.ravel().tolist(), "area": 4100.0}


@pytest.fixture(params=[mot, coco])
def write_truth(request):
    return lambda folder, *a, **k: request.param(folder / ("gt.txt" if request.param is mot else "gt.json"), *a, **k)


def test_perfect_tracks(tmp_path, write_truth):
    found = evaluate_tracks(stream(tmp_path), write_truth(tmp_path))
    assert [found[k] for k in ("HOTA", "DetA", "AssA", "IDF1", "MOTA")] == pytest.approx([1] * 5)
    assert (found["id_switches"], found["false_positives"], found["misses"]) == (0, 0, 0)
    assert (found["people"], found["frames"]) == (2, 10)


def test_a_switched_id_is_counted(tmp_path, write_truth):
    """By hand: 15 of 20 rows keep one id for one person; association halves for the second of two people."""
    truth = write_truth(tmp_path)
    records = [FrameRecord(t, t / 25, renamed(ids)) for t, ids in enumerate(SWITCHED)]
    path = rewritten(stream(tmp_path), records)
    found = evaluate_tracks(path, truth)
    assert found["id_switches"] == 1
    assert found["MOTA"] == pytest.approx(1 - 1 / 20)
    assert found["IDF1"] == pytest.approx(15 / 20)
    assert found["DetA"] == pytest.approx(1)
    assert found["AssA"] == pytest.approx((10 * 1 + 10 * 0.5) / 20)
    assert found["HOTA"] == pytest.approx(np.sqrt(0.75))


def renamed(ids) -> Poses:
    """Person 3 stands where 2 stood."""
    poses = make_poses([min(i, 2) for i in ids])
    return Poses(**{**vars(poses), "track_ids": np.array(ids, np.int64)})


def rewritten(path: Path, records) -> Path:
    from sharpose_rt.skeletons import StreamWriter

    header = StreamReader(path).header
    with StreamWriter(path, header, overwrite=True) as writer:
        for record in records:
            writer.write(record.frame_id, record.pts_s, record.poses)
    return path


def test_missed_and_surplus_people(tmp_path, write_truth):
    found = evaluate_tracks(stream(tmp_path, [[1, 4]] * 10), write_truth(tmp_path))
    assert (found["misses"], found["false_positives"], found["mostly_tracked"], found["mostly_lost"]) == (10, 10, 1, 1)
    assert found["MOTA"] == pytest.approx(0)
    assert found["DetA"] == pytest.approx(10 / 30)


def test_nobody_found_and_frames_without_people(tmp_path, write_truth):
    found = evaluate_tracks(stream(tmp_path, [[]] * 10), write_truth(tmp_path))
    assert (found["HOTA"], found["MOTA"], found["misses"]) == (0, 0, 20)
    half = write_clip(tmp_path / "half.jsonl", [[1, 2]] * 5 + [[]] * 5)
    found = evaluate_tracks(half, write_truth(tmp_path, [[1, 2]] * 5 + [[]] * 4))
    assert found["MOTA"] == 1


def test_the_same_as_trackers_own_evaluation_of_files(tmp_path):
    from trackers.eval import evaluate_mot_sequence

    rng = np.random.default_rng(0)
    clip = [sorted(rng.choice(6, 3, replace=False) + 1) for _ in range(30)]
    path = rewritten(stream(tmp_path), [FrameRecord(t, t / 25, make_poses(ids, t)) for t, ids in enumerate(clip)])
    (ours,) = convert(path, "mot", tmp_path / "ours.txt")
    other = [sorted(rng.choice(6, 4, replace=False) + 1) for _ in range(30)]
    truth = mot(tmp_path / "gt.txt", other)
    theirs = evaluate_mot_sequence(truth, ours, ["CLEAR", "HOTA", "Identity"])
    found = evaluate_tracks(path, truth)
    assert theirs.CLEAR is not None
    assert theirs.HOTA is not None
    assert theirs.Identity is not None
    assert 0 < found["HOTA"] < 1
    assert (found["HOTA"], found["AssA"]) == pytest.approx((theirs.HOTA.HOTA, theirs.HOTA.AssA), abs=1e-6)
    assert (found["IDF1"], found["MOTA"]) == pytest.approx((theirs.Identity.IDF1, theirs.CLEAR.MOTA), abs=1e-6)
    assert found["id_switches"] == theirs.CLEAR.IDSW


class TestTruth:
    def test_uncounted_rows_and_distractors(self, tmp_path):
        truth = mot(tmp_path / "gt.txt", TWO)
        with truth.open("a") as file:
            for t in range(10):
                file.write(f"{t + 1},7,401,41,20.5,200,0,8,1\n")  # somebody's reflection, where track 4 is
                file.write(f"{t + 1},8,901,41,20.5,200,0,1,1\n")  # not to be counted, and not found
        found = evaluate_tracks(stream(tmp_path, [[1, 2, 4]] * 10), truth)
        assert (found["MOTA"], found["false_positives"], found["people"]) == (1, 0, 2)
        with truth.open("a") as file:
            file.writelines(f"{t + 1},9,402,41,20.5,200,0,3,1\n" for t in range(10))  # a car, which it fits less
        assert evaluate_tracks(tmp_path / "a.skeletons.jsonl", truth)["false_positives"] == 0
        truth.write_text(truth.read_text().replace(",7,401,", ",7,404,"))  # more
        assert evaluate_tracks(tmp_path / "a.skeletons.jsonl", truth)["false_positives"] == 10

    def test_who_is_half_beside_an_ignored_box_is_a_false_positive(self, tmp_path):
        for off_px, wrong in ((3, 0), (10, 10)):  # overlaps of 0.74 and 0.34
            truth = mot(tmp_path / "gt.txt", TWO)
            with truth.open("a") as file:
                file.writelines(f"{t + 1},7,{401 + off_px},41,20.5,200,0,8,1\n" for t in range(10))
            path = write_clip(tmp_path / f"{off_px}.jsonl", [[1, 2, 4]] * 10)
            assert evaluate_tracks(path, truth)["false_positives"] == wrong

    def test_ignored_regions_of_json(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        for image in document["images"]:
            document["annotations"].append({"image_id": image["id"], "iscrowd": 1, "bbox": [400, 40, 20.5, 200]})
        truth.write_text(json.dumps(document))
        assert evaluate_tracks(stream(tmp_path, [[1, 2, 4]] * 10), truth)["false_positives"] == 0

    def test_everybody_in_a_crowd_is_neither_right_nor_wrong(self, tmp_path):
        """Three who lie in it, and one who is labelled and lies in it too."""
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        path, labels = stream(tmp_path, [[1, 2, 4, 5, 6]] * 10), document["annotations"]
        crowd = [{"image_id": image["id"], "iscrowd": 1, "bbox": [190, 0, 500, 300]} for image in document["images"]]
        truth.write_text(json.dumps({**document, "annotations": labels + crowd}))
        found = evaluate_tracks(path, truth)
        assert (found["MOTA"], found["false_positives"], found["misses"]) == (1, 0, 0)
        for corners in ([[390, 700, 390]], [390, 700, 390]):  # half of a square; one region may stand by itself
            several = isinstance(corners[0], list)
            ys = [[0, 0, 310]] if several else [0, 0, 310]
            regions = {"ignore_regions_x": corners, "ignore_regions_y": ys}
            truth.write_text(json.dumps({**document, "images": [image | regions for image in document["images"]]}))
            # Of tracks 4, 5 and 6 the first lies in the triangle, and more than half of the second.
            assert evaluate_tracks(path, truth)["false_positives"] == 10
        truth.write_text(
            json.dumps({**document, "images": [i | {"ignore_regions_x": [[1]]} for i in document["images"]]})
        )
        with pytest.raises(DatasetError, match=r"images\[0\] has ignore_regions_x and _y that are no lists"):
            evaluate_tracks(path, truth)

    def test_people_without_box_or_visible_keypoints(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        path, labels = stream(tmp_path), document["annotations"]
        hidden = [{**a, "keypoints": [0] * 51} if a["track_id"] == 2 else a for a in labels]
        truth.write_text(json.dumps({**document, "annotations": hidden}))
        found = evaluate_tracks(path, truth, similarity="oks")
        assert (found["MOTA"], found["false_positives"], found["misses"], found["people"]) == (1, 0, 0, 1)
        boxless = [{key: value for key, value in a.items() if key != "bbox"} for a in hidden]
        truth.write_text(json.dumps({**document, "annotations": boxless}))
        read = read_truth(truth, COCO17).frames[0]
        assert read.ids == [1]
        points = read.table()[0]
        seen = points[points[:, 2] > 0, :2]
        np.testing.assert_allclose(read.boxes[0], [*seen.min(0), *seen.max(0)])
        assert read_truth(truth).frames[0].boxes == read.boxes  # for boxes too, where no keypoints are compared

    def test_two_clips_in_one_file(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        document["images"][3]["frame_id"] = 2
        truth.write_text(json.dumps(document))
        with pytest.raises(DatasetError, match=r"2\.jpg and 3\.jpg are both frame 2: two clips in one file; part them"):
            read_truth(truth)

    def test_the_flag_of_seven_columns(self, tmp_path):
        truth = mot(tmp_path / "gt.txt", tail=",1")
        with truth.open("a") as file:
            file.writelines(f"{t + 1},8,901,41,20.5,200,0\n" for t in range(10))
        assert evaluate_tracks(stream(tmp_path), truth)["misses"] == 0

    def test_plain_rows_and_what_convert_writes(self, tmp_path):
        path = stream(tmp_path)
        assert evaluate_tracks(path, mot(tmp_path / "gt.txt", tail=""))["MOTA"] == 1
        assert evaluate_tracks(path, convert(path, "mot")[0])["MOTA"] == 1

    def test_the_form_of_2015_has_places_in_the_world(self, tmp_path):
        path, truth = stream(tmp_path), mot(tmp_path / "gt.txt", tail=",1,8,1.5,0")
        assert evaluate_tracks(path, truth)["MOTA"] == 1
        truth.write_bytes(b"\xef\xbb\xbf" + truth.read_bytes())
        assert evaluate_tracks(path, truth)["MOTA"] == 1

    @pytest.mark.parametrize("separator", [",", ";", ", ", " ", "\t"])
    def test_boxes_and_labels_are_read_from_the_same_text(self, tmp_path, separator):
        lines = [
            "frame id x y w h conf",
            "",
            "2 7 11 21 30 40.5 1",
            "# 3 people",
            "2 8 1 1 5 6 1 -1 -1 nan",
            "4 7 1 1 5 6",
        ]
        path = tmp_path / "gt.txt"
        path.write_text("".join(line.replace(" ", separator) + "\n" for line in lines))
        wanted = {1: [[10, 20, 40, 60.5], [0, 0, 5, 6]], 3: [[0, 0, 5, 6]]}
        assert {t: frame.boxes for t, frame in read_truth(path).frames.items()} == wanted
        given = read_mot(path.read_text(), str(path))
        assert {t: [list(box[:4]) for box in boxes] for t, boxes in given.items()} == wanted

    def test_every_fifth_frame_labelled(self, tmp_path):
        found = evaluate_tracks(stream(tmp_path), coco(tmp_path / "gt.json", frame_ids=[0, 5]))
        assert (found["frames"], found["MOTA"], found["false_positives"]) == (2, 1, 0)
        assert found["frames_missing"] == 0

    def test_frames_that_the_stream_dropped(self, tmp_path):
        path = tmp_path / "live.jsonl"
        whole = StreamReader(stream(tmp_path))
        with StreamWriter(path, whole.header) as writer:
            for record in whole:
                if record.frame_id in (0, 4, 9):
                    writer.write_line(encode(record.to_record()))
        found = evaluate_tracks(path, mot(tmp_path / "gt.txt"))
        assert (found["frames"], found["frames_missing"]) == (3, 7)
        with pytest.raises(DatasetError, match="none of the 1 labelled frames"):
            evaluate_tracks(path, coco(tmp_path / "gt.json", frame_ids=[5]))

    def test_frames_by_file_names(self, tmp_path, caplog):
        truth = coco(tmp_path / "gt.json", [[i] for i in (1, 2, 3)])
        document = json.loads(truth.read_text())
        for image in document["images"]:
            image["file_name"] = f"clip_{image.pop('frame_id') + 17:04d}.jpg"
        document["images"].reverse()
        truth.write_text(json.dumps(document))
        assert {t: f.ids for t, f in read_truth(truth).frames.items()} == {0: [1], 1: [2], 2: [3]}
        assert not caplog.text

    @pytest.mark.parametrize("form", ["frame_id", "names", "one without", "numbers of a set"])
    def test_labels_are_the_same_frames_for_convert_and_eval_track(self, tmp_path, form):
        truth = coco(tmp_path / "gt.json", [[1], [2], [1, 2]])
        document = json.loads(truth.read_text())
        for t, image in enumerate(document["images"]):
            image |= {"width": 640, "height": 480, "file_name": f"walk/{t + 7:06d}.jpg"}
            image["frame_id"] += 10003420000 if form == "numbers of a set" else 0
            if form == "names" or (form == "one without" and t == 1):
                del image["frame_id"]
        document["images"].reverse()
        truth.write_text(json.dumps(document))
        read = {t: f.ids for t, f in read_truth(truth).frames.items()}
        back = StreamReader(import_stream(truth, "coco", fps=25, first_frame=0 if form == "frame_id" else 7))
        assert {frame.frame_id: frame.poses.track_ids.tolist() for frame in back} == read
        assert read == {0: [1], 1: [2], 2: [1, 2]}

    def test_gaps_in_the_numbers_of_names_are_told(self, tmp_path, caplog):
        truth = coco(tmp_path / "gt.json", [[1], [2], [1, 2]])
        document = json.loads(truth.read_text())
        for image in document["images"]:
            image["file_name"] = f"{5 * image.pop('frame_id'):06d}.jpg"
        truth.write_text(json.dumps(document))
        assert list(read_truth(truth).frames) == [0, 1, 2]
        assert "no frame_id, and their numbers go from 0 to 10 with gaps: they are taken for the frames 0 to 2" in (
            caplog.text
        )
        document["images"][2]["file_name"] = "other/000005.jpg"
        truth.write_text(json.dumps(document))
        with pytest.raises(StreamError, match=r"000005\.jpg and other/000005\.jpg are of the same frame: two clips"):
            read_truth(truth)

    @pytest.mark.parametrize(
        ("key", "wrong", "message"),
        [("frame_id", wrong, f"has the frame_id {wrong!r}; a whole number from 0") for wrong in (-1, "x", 1.5)]
        + [("id", wrong, r"is {.*; `id` \(a number or a name\) is wanted") for wrong in (None, [4])],
    )
    def test_a_wrong_number_of_a_picture_is_named(self, tmp_path, key, wrong, message):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        document["images"][3][key] = wrong
        truth.write_text(json.dumps(document))
        with pytest.raises(DatasetError, match=rf"images\[3\] {message}"):
            read_truth(truth)

    def test_frames_that_posetrack_says_nobody_labelled(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        for t, image in enumerate(document["images"]):
            image.update(
                frame_id=10003420000 + t, file_name=f"images/val/000342_mpii/{t:06d}.jpg", is_labeled=t % 5 == 0
            )
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] % 10 in (0, 1)]
        truth.write_text(json.dumps(document))
        assert {t: f.ids for t, f in read_truth(truth).frames.items()} == {0: [1, 2], 5: []}
        found = evaluate_tracks(stream(tmp_path), truth)
        assert (found["frames"], found["frames_missing"]) == (2, 0)
        assert (found["misses"], found["false_positives"]) == (0, 2)  # in frame 5 nobody is, by its labels

    def test_a_stream_whose_people_have_no_ids_is_no_truth(self, tmp_path):
        other = rewritten(stream(tmp_path), [FrameRecord(t, t / 25, make_poses([0, 2], t)) for t in range(10)])
        with pytest.raises(
            DatasetError, match=r"a\.skeletons\.jsonl: 10 of its 20 people.* no track id.* with a tracker"
        ):
            evaluate_tracks(write_clip(tmp_path / "b.jsonl", TWO), other)

    def test_a_stream_against_another(self, tmp_path):
        clip = [[], *TWO]  # nobody is there at first
        other = write_clip(tmp_path / "b.jsonl", clip)
        found = evaluate_tracks(stream(tmp_path, clip), other, similarity="oks")
        assert (found["HOTA"], found["MOTP"]) == pytest.approx((1, 1))

    @pytest.mark.parametrize(("first", "stride"), [(0, 4), (3, 1), (2, 3)])
    def test_a_stream_of_some_of_the_frames(self, tmp_path, first, stride):
        """As `--start` and `--stride` make it: its frames count from 0, their times are those of the video."""
        part = stream(tmp_path)
        kept = [replace(r, frame_id=n) for n, r in enumerate(list(StreamReader(part))[first::stride])]
        rewritten(part, kept)
        found = evaluate_tracks(part, write_clip(tmp_path / "b.jsonl", TWO), similarity="oks")
        assert (found["HOTA"], found["MOTP"]) == pytest.approx((1, 1))
        assert (found["frames"], found["frames_missing"]) == (len(kept), 10 - len(kept))
        other = evaluate_tracks(write_clip(tmp_path / "c.jsonl", TWO), part)  # and the other way round
        assert (other["HOTA"], other["false_positives"], other["frames"]) == pytest.approx((1, 0, len(kept)))

    def test_a_stream_that_was_cut_off_is_refused(self, tmp_path):
        path = stream(tmp_path)
        whole = list(StreamReader(path))
        short = rewritten(path, whole[:8:2])
        with pytest.raises(DatasetError, match=r"people in frame 9 .*ends at 6; are they of the same clip"):
            evaluate_tracks(short, write_clip(tmp_path / "b.jsonl", TWO))
        later = rewritten(path, [replace(record, pts_s=record.pts_s + 100) for record in whole])
        with pytest.raises(DatasetError, match=r"has none; are they of the same clip"):
            evaluate_tracks(later, write_clip(tmp_path / "c.jsonl", TWO))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1,2,3\n", r"gt\.txt, line 1: 3 values in '1,2,3'"),
            ("1.5,1,0,0,5,5\n", "line 1: frame is 1.5; whole numbers from 1"),
            ("1,1,0,0,5,5,1,person\n", "line 1: column 8 is 'person'; finite numbers"),
            ("1,1,0,0,5,0\n", "line 1: box width 5 and height 0; above 0"),
            ("1,1,0,0,5,5\n0,1,0,0,5,5\n", "line 2"),
            ("1,1,0,0,5,-5\n", "line 1"),
            ("1,1,0,0,5,5\n1,1,9,9,5,5\n", "frame 0 .* has one id twice"),
            ("", "nobody in it"),
            ("999,1,0,0,5,5\n", "has people in frame 998 .* ends at 9"),
        ],
    )
    def test_wrong_text_is_named(self, tmp_path, text, message):
        (tmp_path / "gt.txt").write_text(text)
        with pytest.raises(DatasetError, match=message):
            evaluate_tracks(stream(tmp_path), tmp_path / "gt.txt")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"track_id": "a"}, r"annotations\[0\]: track_id is 'a'"),
            ({"bbox": [1, 2, 3]}, r"annotations\[0\]: bbox"),
            ({"image_id": 1}, r"annotations\[0\]: image_id 1 is not among"),
            ({"bbox": [1, 2, 3, -4]}, r"annotations\[0\]: bbox"),
            ({"area": "large"}, r"annotations\[0\]: area is 'large'"),
        ],
    )
    def test_wrong_json_is_named(self, tmp_path, fields, message):
        with pytest.raises(DatasetError, match=message):
            evaluate_tracks(stream(tmp_path), coco(tmp_path / "gt.json", **fields))


class TestSimilarity:
    def test_the_threshold_decides_who_is_found(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        for record in document["annotations"]:
            record["bbox"][0] += 5  # of 20.5 px: an overlap of 0.61
        truth.write_text(json.dumps(document))
        path = stream(tmp_path)
        found = [evaluate_tracks(path, truth, threshold=threshold) for threshold in (0.6, 0.62)]
        assert [f["MOTA"] for f in found] == [1, -1]
        assert [f["IDF1"] for f in found] == [1, 0]
        assert found[0]["HOTA"] == found[1]["HOTA"]
        for record in document["annotations"]:
            record["bbox"] = [record["bbox"][0] - 5, *record["bbox"][1:3], 140]  # of 200 px: an overlap of 0.7
        truth.write_text(json.dumps(document))
        found = evaluate_tracks(path, truth, threshold=0.7)
        assert (found["MOTA"], found["DetA"]) == (1, pytest.approx(14 / 19))  # of HOTA's 0.05, 0.1, ... 0.95

    def test_poses_tell_people_apart_whom_boxes_do_not(self, tmp_path):
        truth = coco(tmp_path / "gt.json", bbox=[0, 0, 640, 480])
        path = stream(tmp_path)
        assert evaluate_tracks(path, truth)["MOTA"] < 0
        assert evaluate_tracks(path, truth, similarity="oks")["MOTA"] == 1

    def test_labels_without_keypoints(self, tmp_path):
        with pytest.raises(ConfigError, match="no keypoints for OKS"):
            evaluate_tracks(stream(tmp_path), mot(tmp_path / "gt.txt"), similarity="oks")

    @pytest.mark.parametrize(("of_stream", "area"), [(False, None), (False, 4100.0), (True, None)])
    def test_areas_are_those_of_people_not_of_boxes(self, tmp_path, of_stream, area):
        path = stream(tmp_path)
        truth = write_clip(tmp_path / "b.jsonl", TWO) if of_stream else coco(tmp_path / "gt.json", area=area)
        away = np.array(COCO17.sigmas)[:, None] * [2 * np.sqrt(-2 * np.log(0.8) * (area or 0.53 * 20.5 * 200)), 0]
        moved = [make_poses(ids, t) for t, ids in enumerate(TWO)]
        moved = [Poses(**{**vars(p), "keypoints": p.keypoints + away}) for p in moved]
        path = rewritten(path, [FrameRecord(t, t / 25, poses) for t, poses in enumerate(moved)])
        assert evaluate_tracks(path, truth, similarity="oks")["MOTP"] == pytest.approx(0.8, abs=2e-3)

    def test_keypoints_are_compared_by_their_names(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        in_posetracks_order(truth)
        path = stream(tmp_path)
        assert evaluate_tracks(path, truth, similarity="oks")["MOTP"] == pytest.approx(1)
        in_posetracks_order(truth, named=False)  # names that nobody knows
        document = json.loads(truth.read_text())
        document["categories"][0]["keypoints"] = [f"marker_{n}" for n in range(17)]
        truth.write_text(json.dumps(document))
        with pytest.raises(DatasetError, match=r"gt\.json: its keypoints are named marker_0, "):
            evaluate_tracks(path, truth, similarity="oks")
        assert evaluate_tracks(path, truth)["MOTA"] == 1

    def test_keypoints_of_differing_number_are_named(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        document["annotations"][3]["keypoints"] = [1, 1, 2] * 14
        truth.write_text(json.dumps(document))
        with pytest.raises(DatasetError, match=r"gt\.json: annotations\[3\]: keypoints has 42 values; 51"):
            evaluate_tracks(stream(tmp_path), truth, similarity="oks")
        assert evaluate_tracks(write_clip(tmp_path / "b.jsonl", TWO), truth)["MOTA"] == 1

    @pytest.mark.parametrize("skeleton", [COCO_FEET23, HALPE26, WHOLEBODY133], ids=lambda skeleton: skeleton.name)
    def test_sets_that_begin_with_cocos_are_compared_by_those(self, tmp_path, skeleton):
        path = write_clip(tmp_path / "more.skeletons.jsonl", TWO, skeleton)
        for truth in (coco(tmp_path / "gt.json"), stream(tmp_path), path):
            assert evaluate_tracks(path, truth, similarity="oks")["MOTP"] == pytest.approx(1)
        assert evaluate_tracks(write_clip(tmp_path / "c.jsonl", TWO), path, similarity="oks")["MOTA"] == 1

    def test_a_stream_with_somebody_of_no_keypoint_is_like_itself(self, tmp_path):
        poses = make_poses([1, 2])
        hidden = Poses(**{**vars(poses), "keypoint_scores": poses.keypoint_scores * np.array([[1], [0]], np.float32)})
        records = [FrameRecord(t, t / 25, hidden if t == 5 else poses) for t in range(10)]
        path = rewritten(stream(tmp_path), records)
        for similarity in ("oks", "iou"):
            found = evaluate_tracks(path, path, similarity=similarity)
            assert (found["HOTA"], found["MOTA"], found["people"]) == (pytest.approx(1), 1, 2)

    def test_a_stream_of_other_keypoints(self, tmp_path):
        other = write_clip(tmp_path / "b.jsonl", TWO, MPII16)
        with pytest.raises(ConfigError, match=r"b\.jsonl has the 16 keypoints of mpii16, the stream the 17 of coco17"):
            evaluate_tracks(stream(tmp_path), other, similarity="oks")
        markers = replace(MPII16, name="custom", keypoints=tuple(f"marker_{n}" for n in range(16)), sigmas=())
        unknown = write_clip(tmp_path / "c.jsonl", TWO, markers)
        with pytest.raises(ConfigError, match="keypoints of custom have no sigmas for OKS; those of coco17, "):
            evaluate_tracks(unknown, unknown, similarity="oks")
        assert evaluate_tracks(unknown, unknown)["MOTA"] == 1

    def test_one_person_without_keypoints(self, tmp_path):
        truth = coco(tmp_path / "gt.json")
        document = json.loads(truth.read_text())
        document["annotations"][0]["keypoints"] = []
        truth.write_text(json.dumps(document))
        path = stream(tmp_path)
        assert evaluate_tracks(path, truth)["MOTA"] == 1
        with pytest.raises(ConfigError, match="no keypoints for OKS"):
            evaluate_tracks(path, truth, similarity="oks")

    def test_a_stream_without_ids(self, tmp_path):
        path = write_clip(tmp_path / "u.jsonl", TWO, tracked=False)
        with pytest.raises(DatasetError, match="run with a tracker"):
            evaluate_tracks(path, mot(tmp_path / "gt.txt"))


class TestJitter:
    @staticmethod
    def frames(times_s, path_px, smooth_px, stage=PoseStage.FINE):
        records = []
        for t, (time_s, x, y) in enumerate(zip(times_s, path_px, smooth_px, strict=True)):
            poses = make_poses([1], 0)
            changed = {
                "raw_keypoints": poses.keypoints + np.array([x, 0]),
                "keypoints": poses.keypoints + np.array([0, y]),
            }
            records.append(FrameRecord(t, time_s, Poses(**{**vars(poses), **changed, "stage": np.array([stage])})))
        return records

    def test_uniform_acceleration_at_uneven_times(self):
        times = np.array([0, 0.04, 0.06, 0.11, 0.2])
        found = jitter(self.frames(times, 0.5 * 800 * times**2, 100 + 30 * times))
        assert found["jitter_raw_px_s2"] == pytest.approx(800, rel=1e-3)
        assert found["jitter_smoothed_px_s2"] == pytest.approx(0, abs=0.2)

    def test_who_is_not_measured_does_not_count(self):
        assert np.isnan(jitter(self.frames([0, 1, 2], [0, 9, 0], [0, 9, 0], PoseStage.PREDICTED))["jitter_raw_px_s2"])
        assert np.isnan(jitter(self.frames([0, 1, 2], [0, 9, 0], [0, 9, 0]), min_score=0.9)["jitter_raw_px_s2"])
        assert np.isnan(jitter([])["jitter_raw_px_s2"])
        for times_s, path_px in (([0, 1, 2], [0, 9, 0]), ([0, 0, 1, 2], [5, 0, 9, 0])):  # a time that is repeated
            assert jitter(self.frames(times_s, path_px, path_px))["jitter_raw_px_s2"] == pytest.approx(18)


def test_command(tmp_path, capsys):
    path, out = stream(tmp_path), tmp_path / "m.json"
    assert main(["eval-track", str(path), "--truth", str(mot(tmp_path / "gt.txt")), "--json", str(out)]) == 0
    assert "HOTA" in capsys.readouterr().out
    metrics = json.loads(out.read_text())
    keys = {"HOTA", "IDF1", "MOTA", "id_switches", "jitter_raw_px_s2", "jitter_smoothed_px_s2", "command"}
    assert keys <= set(metrics)
    assert main(["eval-track", str(path)]) == 0
    assert "jitter_raw_px_s2" in capsys.readouterr().out
    assert main(["eval-track", str(path), "--threshold", "2"]) == 2
    assert "--threshold is 2.0" in capsys.readouterr().err
