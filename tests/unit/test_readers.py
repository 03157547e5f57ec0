"""Converted streams in the readers that other projects publish: the same people, frames and places come out.

Light readers come with the extra `test`; the others are tried where somebody has installed them.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import supervision as sv

from sharpose_rt.skeletons.convert import convert
from sharpose_rt.types import Poses
from tests.unit.test_convert import CLIP, NAMES, SIZE_WH, make_poses, point, write_clip

HEIGHT_PX = SIZE_WH[1]
ROWS = [(t, i) for t, ids in enumerate(CLIP) for i in ids]
# What is imported for the first time warns of its own source.
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::UserWarning")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "walking.skeletons.jsonl")


def reader(module: str, package: str) -> ModuleType:
    return pytest.importorskip(module, reason=f"{package} is not installed: pip install {package}")


def marker(track_id: int, t: int, joint: int) -> list[float]:
    """`point` as a marker of TRC: Y up, on the plane."""
    x, y = point(track_id, t, joint)
    return [x, HEIGHT_PX - y, 0.0]


def expect_markers(found: np.ndarray) -> None:
    """`found` (5, 17, 3) is person 1, whom frame 2 and all ears on the right lack."""
    wanted = np.array([[marker(1, t, joint) for joint in range(17)] for t in range(5)])
    wanted[2], wanted[:, NAMES.index("right_ear")] = np.nan, np.nan
    np.testing.assert_allclose(found, wanted, atol=0.006)


class TestMot:
    def test_motmetrics(self, clip):
        table = reader("motmetrics.io", "motmetrics").loadtxt(convert(clip, "mot")[0], fmt="mot16")
        assert table.index.tolist() == [(t + 1, i) for t, i in ROWS]
        assert table.loc[(5, 2), ["X", "Y", "Width", "Height"]].tolist() == [200, 40, 20.5, 200]
        assert set(table["Confidence"]) == {0.5}

    def test_trackeval(self, clip, tmp_path):
        trackeval = reader("trackeval", "trackeval")
        (path,) = convert(clip, "mot", tmp_path / "trackers" / "ours" / "data" / "walking.txt")
        truth = tmp_path / "truth" / "walking" / "gt" / "gt.txt"
        truth.parent.mkdir(parents=True)
        truth.write_text(path.read_text().replace(",0.5000,-1,-1,-1", ",1,1,1"))
        folders = {"GT_FOLDER": str(tmp_path / "truth"), "TRACKERS_FOLDER": str(tmp_path / "trackers")}
        plain = {"SEQ_INFO": {"walking": len(CLIP)}, "SKIP_SPLIT_FOL": True, "PRINT_CONFIG": False}
        data = trackeval.datasets.MotChallenge2DBox(folders | plain).get_raw_seq_data("ours", "walking")
        assert [ids.tolist() for ids in data["tracker_ids"]] == CLIP
        np.testing.assert_array_equal(data["tracker_dets"][4][0], [201, 41, 20.5, 200])  # pixels from 1
        np.testing.assert_allclose(np.diag(data["similarity_scores"][0]), 1)


class TestTables:
    def test_pandas(self, clip):
        pandas = reader("pandas", "pandas")
        of_csv = pandas.read_csv(convert(clip, "csv")[0])
        of_parquet = pandas.read_parquet(convert(clip, "parquet")[0])
        for table in (of_csv, of_parquet):
            assert list(zip(table["frame_id"], table["track_id"], strict=True)) == ROWS
            place = table[["left_hip_x", "left_hip_y"]].to_numpy()
            np.testing.assert_allclose(place, [point(i, t, NAMES.index("left_hip")) for t, i in ROWS], atol=0.006)
            assert table[["right_ear_x", "right_ear_y", "right_ear_score"]].isna().all(axis=None)
            assert set(table["stage"]) == {"coarse"}
        assert list(of_csv) == list(of_parquet)


class TestTrc:
    def test_trc_data_reader(self, clip):
        path, *_ = convert(clip, "trc")
        data = reader("trc", "trc-data-reader").TRCData()
        data.load(str(path))
        assert data["Markers"] == list(NAMES)
        assert (data["Frame#"], data["Time"]) == ([1, 2, 3, 4, 5], [0, 0.04, 0.08, 0.12, 0.16])
        assert (data["DataRate"], data["NumFrames"], data["Units"]) == (25, 5, "px")
        expect_markers(np.stack([data[name] for name in NAMES], axis=1))

    def test_opensim(self, clip, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # it writes a log where it is
        opensim = reader("opensim", "opensim")
        path, *_ = convert(clip, "trc", px_per_m=1)
        table = opensim.TimeSeriesTableVec3(str(path))
        assert table.getColumnLabels() == NAMES
        assert list(table.getIndependentColumn()) == [0, 0.04, 0.08, 0.12, 0.16]
        rows = [[table.getRowAtIndex(t)[j].to_numpy() for j in range(17)] for t in range(table.getNumRows())]
        expect_markers(np.array(rows))
        data = opensim.MarkerData(str(path))  # what OpenSim scales a model by
        frames = [[data.getFrame(t).getMarker(j).to_numpy() for j in range(17)] for t in range(data.getNumFrames())]
        expect_markers(np.array(frames))
        assert (data.getDataRate(), data.getUnits().getLabel()) == (25, "meters")

    def test_pose2sim(self, clip):
        common = reader("Pose2Sim.common", "pose2sim")
        path, *_ = convert(clip, "trc")
        table, frames, times, names, _ = common.read_trc(path)
        assert (names, frames.tolist(), times.tolist()[-1]) == (list(NAMES), [1, 2, 3, 4, 5], 0.16)
        expect_markers(table.to_numpy().reshape(5, 17, 3))
        expect_markers(common.extract_trc_data(path)[1][:, 1:].reshape(5, 17, 3))


class TestJson:
    def test_pose_format(self, clip):
        openpose = reader("pose_format.utils.openpose", "pose-format")
        (folder,) = convert(clip, "openpose")
        pose = openpose.load_openpose_directory(str(folder), fps=25, width=SIZE_WH[0], height=SIZE_WH[1])
        assert pose.body.data.shape == (len(CLIP), 3, 137, 2)
        body = pose.header.components[0].points
        for ours, theirs in [("nose", "Nose"), ("left_hip", "LHip"), ("right_ankle", "RAnkle"), ("left_ear", "LEar")]:
            for t, ids in enumerate(CLIP):
                place = pose.body.data[t, : len(ids), body.index(theirs)]
                np.testing.assert_allclose(place, [point(i, t, NAMES.index(ours)) for i in ids] or np.zeros((0, 2)))
        assert not pose.body.confidence[:, :, body.index("REar")].any()
        assert not pose.body.confidence[2].any()  # nobody is there
        assert (pose.body.confidence[0] > 0).sum(axis=1).tolist() == [18, 18, 0]  # with neck and middle of the hips

    def test_pose2sim(self, clip, tmp_path):
        alphapose = reader("Pose2Sim.Utilities.AlphaPose_to_OpenPose", "pose2sim")
        triangulation = reader("Pose2Sim.triangulation", "pose2sim")
        (path,), out = convert(clip, "alphapose"), tmp_path / "from_alphapose"
        alphapose.AlphaPose_to_OpenPose_func(str(path), str(out))
        x, y, score = triangulation.extract_files_frame_f([str(out / "00000.json")], [0, 5])
        wanted = np.array([[[point(i, 0, joint) for joint in (0, 5)]] for i in CLIP[0]])
        np.testing.assert_allclose(np.stack([x, y], axis=-1), wanted, atol=0.006)
        assert (score == 0.75).all()
        (folder,) = convert(clip, "openpose")
        x, y, score = triangulation.extract_files_frame_f([str(folder / "walking_000000000003_keypoints.json")], [12])
        np.testing.assert_allclose([x.item(), y.item()], point(1, 3, NAMES.index("left_hip")))


def test_mmaction(clip):
    datasets = reader("mmaction.datasets", "mmaction2")
    reader("mmengine.registry", "mmengine").init_default_scope("mmaction")
    (path,) = convert(clip, "pyskl", label=3, person_slots=2)
    steps = [
        {"type": "PreNormalize2D"}, {"type": "GenSkeFeat", "dataset": "coco", "feats": ["j"]},
        {"type": "UniformSampleFrames", "clip_len": 6, "num_clips": 1, "test_mode": True}, {"type": "PoseDecode"},
        {"type": "FormatGCNInput", "num_person": 2}, {"type": "PackActionInputs"},
    ]  # fmt: skip
    data = datasets.PoseDataset(ann_file=str(path), pipeline=steps, split="val", test_mode=True)
    assert len(data) == 1
    item = data[0]
    assert item["data_samples"].gt_label.tolist() == [3]
    (people,) = item["inputs"].numpy()  # (M, T, V, C): -1 to 1 across the picture
    place = (people[0, 3, NAMES.index("left_hip"), :2] + 1) / 2 * SIZE_WH
    np.testing.assert_allclose(place, point(1, 3, NAMES.index("left_hip")), atol=0.01)
    assert (people[..., 2] > 0).any(axis=2).tolist() == [[i in ids for ids in CLIP] for i in (1, 3)]


class TestSupervision:
    """What programs do with people that `supervision` has."""

    @pytest.mark.parametrize("ids", [[3, 1, 7], [5], []])
    @pytest.mark.parametrize("tracked", [True, False])
    def test_rows_are_the_same_people(self, ids, tracked):
        poses = make_poses(ids, 2, tracked=tracked)
        detections, key_points = poses.to_supervision(min_score=0.5)
        assert len(detections) == len(key_points) == len(ids)
        np.testing.assert_array_equal(detections.xyxy, poses.bboxes_xyxy)
        np.testing.assert_array_equal(detections.confidence, poses.bbox_scores)
        assert detections.tracker_id is None or detections.tracker_id.tolist() == ids
        assert (detections.tracker_id is None) == (not tracked and ids != [])
        np.testing.assert_array_equal(key_points.xy, poses.keypoints)
        np.testing.assert_array_equal(key_points.keypoint_confidence, poses.keypoint_scores)
        assert key_points.visible.tolist() == [[n != 4 for n in range(17)] for _ in ids]  # who has no right ear
        assert detections.data["stage"].tolist() == ["coarse"] * len(ids)
        detections.xyxy += 1  # a program's own copy
        assert len(ids) == 0 or (detections.xyxy != poses.bboxes_xyxy).all()

    def test_its_zones_and_annotators_take_them(self):
        picture = np.zeros((300, 400, 3), np.uint8)
        detections, key_points = make_poses([1, 2]).to_supervision()
        zone = sv.PolygonZone(np.array([[90, 200], [150, 200], [150, 299], [90, 299]]))
        assert zone.trigger(detections).tolist() == [True, False]
        drawn = sv.EdgeAnnotator().annotate(picture.copy(), key_points)
        assert drawn.any()
        drawn = sv.LabelAnnotator().annotate(picture.copy(), detections, [f"#{i}" for i in detections.tracker_id])
        assert drawn.any()
        kept = detections[detections.tracker_id == 2]
        assert kept.data["class_name"].tolist() == ["person"]
        nobody, none = Poses.empty(17).to_supervision()
        assert zone.trigger(nobody).tolist() == []
        for annotated in (sv.EdgeAnnotator().annotate(picture, none), sv.BoxAnnotator().annotate(picture, nobody)):
            assert not annotated.any()


class TestDeepLabCut:
    def test_pandas_as_its_own_programs_read_it(self, clip):
        pandas = reader("pandas", "pandas")
        table = pandas.read_csv(convert(clip, "deeplabcut")[0], header=[0, 1, 2, 3], index_col=0)
        assert table.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
        assert table.columns.get_level_values("scorer").unique().tolist() == ["tiny"]
        assert table.index.tolist() == list(range(len(CLIP)))
        ids = sorted({i for seen in CLIP for i in seen})
        assert table.columns.get_level_values("individuals").unique().tolist() == [f"person{i}" for i in ids]
        found = table.to_numpy(float).reshape(len(CLIP), len(ids), 17, 3)
        for t, seen in enumerate(CLIP):
            for row, i in enumerate(ids):
                wanted = np.array([[*point(i, t, j), 0.75] if j != 4 else [np.nan] * 3 for j in range(17)])
                np.testing.assert_allclose(found[t, row], wanted if i in seen else np.full((17, 3), np.nan), atol=0.006)

    def test_movement(self, clip):
        load = reader("movement.io.load_poses", "movement")
        dataset = load.from_dlc_file(convert(clip, "deeplabcut")[0], fps=25)
        places = dataset.position.transpose("time", "individuals", "keypoints", "space")
        assert list(places.keypoints.values) == list(NAMES)
        people = list(places.individuals.values)
        for t, seen in enumerate(CLIP):
            for i in seen:
                place = places[t, people.index(f"person{i}"), 0]
                np.testing.assert_allclose(place.values, point(i, t, 0), atol=0.006)
        assert dataset.time.values[-1] == pytest.approx((len(CLIP) - 1) / 25)
