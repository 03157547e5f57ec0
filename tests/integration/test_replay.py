"""`sharpose-rt replay`: a skeleton stream over its video, smoothed and followed anew, its ids corrected."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_world import Lines
from media_clips import WALK_TIMES, numbered, read_number
from people_set import SMALL
from tracking_worlds import View, follow, score, shaken, world

from sharpose_rt import __version__
from sharpose_rt.cli import main
from sharpose_rt.config import DrawConfig, OutputConfig, RunConfig, SourceConfig, TrackerConfig
from sharpose_rt.errors import ConfigError
from sharpose_rt.geometry.affine import chain_affines
from sharpose_rt.replay import Changes, ReplayRun
from sharpose_rt.skeleton import COCO17, Skeleton
from sharpose_rt.skeletons import FrameRecord, Header, StreamReader, StreamWriter, encode
from sharpose_rt.stages import ChoosePeopleStage, StoredFrames, Swap
from sharpose_rt.tracking import create_tracker
from sharpose_rt.types import Frame, Packet, Poses, PoseStage, Tracks

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "demo.skeletons.jsonl"
SIZE_WH = (160, 128)
NETWORK = ["--model", SMALL.name, "--weights", "random"]
TIMEOUT_S = 60

pytestmark = pytest.mark.timeout(TIMEOUT_S)


def header(**changes: object) -> Header:
    model = {"name": "tiny", "weights_sha256": None, "behaviour": "paper", "quality_threshold": None}
    values = {
        "source": "walk.mp4", "frame_size_wh": SIZE_WH, "fps": 10.0, "skeleton": COCO17, "model": model,
        "detector": "full", "tracker": "none", "smoothing": "none", "version": "0",
    }  # fmt: skip
    return Header(**(values | changes))  # type: ignore[arg-type]


def people(*ids: int, x: float = 0.0, stage: PoseStage = PoseStage.FINE) -> Poses:
    """Somebody of each id, side by side, all moved by `x` px."""
    n = len(ids)
    left = x + 40.0 * np.arange(n)
    boxes = np.stack([left, np.full(n, 20.0), left + 30, np.full(n, 100.0)], 1)
    grid = np.stack(np.meshgrid(np.arange(17) / 17 * 30, [50.0]), -1).reshape(1, 17, 2)
    points, scores, one = grid + boxes[:, None, :2] * [1, 0], np.full((n, 17), 0.9), np.ones(n)
    return Poses(boxes, one, np.array(ids), points, scores, points, scores, one, one * int(stage))  # type: ignore[arg-type]


def config_of(folder: Path, **output: bool) -> RunConfig:
    return RunConfig(output=OutputConfig(directory=str(folder), **output))  # type: ignore[arg-type]


def write_stream(path: Path, records: list[FrameRecord], status: str = "complete", **changes: object) -> Path:
    with StreamWriter(path, header(**changes)) as writer:
        for record in records:
            writer.write_line(encode(record.to_record()))
        writer.end(status)
    return path


def read(path: Path) -> list[FrameRecord]:
    return list(StreamReader(path))


def replayed(path: Path, tmp_path: Path, *arguments: str) -> Path:
    """The stream that `replay` makes of the one at `path`."""
    assert main(["replay", str(path), "--output", str(tmp_path / "new"), "--no-video", "--quiet", *arguments]) == 0
    return tmp_path / "new" / path.name


def test_what_is_replayed_is_what_was_stored(tmp_path: Path) -> None:
    tap = Lines()
    config = config_of(tmp_path)
    results = ReplayRun(str(SAMPLE), config, taps=[tap], paced=False).run()
    stored = SAMPLE.read_bytes().splitlines(keepends=True)
    assert tap.live is False
    assert tap.lines[1:] == stored[1:]
    told, kept = json.loads(tap.lines[0]), json.loads(stored[0])
    assert {**told, "created": "", "version": ""} == {**kept, "created": "", "version": ""}
    assert told["created"] > kept["created"]
    assert results.stream is None  # nothing changed, so there is nothing to write
    assert results.video == tmp_path / "demo.annotated.mp4"
    with av.open(str(results.video)) as video:
        assert sum(1 for _ in video.decode(video=0)) == len(stored) - 2


def test_what_a_live_stream_says_besides_stays(tmp_path: Path) -> None:
    camera = np.array([[1, 0, 2.5], [0, 1, -1]])
    live = [
        FrameRecord(0, 0.0, people(3), "2026-01-31T08:00:00.000Z", 12.5, 0, stages_ms={"pose": 3.0}),
        FrameRecord(1, 4.5, people(3, x=1), "2026-01-31T08:00:04.500Z", 20.0, 7, lost_before_s=4.0, camera=camera),
        FrameRecord(2, 4.6, people(3, x=2), "2026-01-31T08:00:04.600Z", 9.0, 0, (320, 240), budget={"refined": 2}),
    ]
    live[2] = replace(live[2], new_scene=True)
    path = write_stream(tmp_path / "cam.skeletons.jsonl", live)
    new = replayed(path, tmp_path, "--merge", "8=3")
    before, after = read(path), read(new)
    for was, now in zip(before, after, strict=True):
        assert now.poses.track_ids.tolist() == [8]
        assert {**now.to_record(), "people": 0} == {**was.to_record(), "people": 0}
    end = json.loads(new.read_bytes().splitlines()[-1])
    assert (end["frames"], end["dropped"], end["status"]) == (3, 7, "complete")
    assert json.loads((tmp_path / "new" / "cam.summary.json").read_text())["times_lost"] == 1


@pytest.mark.parametrize(("stride", "most"), [(1, None), (2, None), (3, None), (3, 4)])
def test_each_frame_has_its_own_picture(tmp_path: Path, clip: Path, stride: int, most: int | None) -> None:
    """Of a video with uneven times, also where the stream is of every n-th frame, and of so many of the stream."""
    numbers = range(0, len(WALK_TIMES), stride)
    records = [FrameRecord(i, WALK_TIMES[n] + 0.001, people(1)) for i, n in enumerate(numbers)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records)
    seen: list[int] = []
    config = replace(config_of(tmp_path), draw=DrawConfig(ids=False, status=False))
    config = replace(config, source=SourceConfig(max_frames=most))
    results = ReplayRun(str(path), config, video=str(clip)).run(
        lambda packet: seen.append(read_number(packet.frame.image_bgr))
    )
    assert seen == list(numbers[:most])
    assert results.figures["unseen"] == 0
    assert results.video is not None
    with av.open(str(results.video)) as video:
        assert video.streams.audio
        assert len(list(video.decode(video=0))) == len(seen)


def test_frames_without_a_picture_are_black_and_counted(
    tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = [-5.0, WALK_TIMES[3], WALK_TIMES[-1] + 5]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", [FrameRecord(i, t, people(1)) for i, t in enumerate(times)])
    pictures: list[np.ndarray] = []
    scenes: list[bool] = []
    config = replace(config_of(tmp_path, video=False), tracker=TrackerConfig(remember_s=0))
    results = ReplayRun(str(path), config, Changes(track=True), str(clip)).run(
        lambda packet: (pictures.append(packet.frame.image_bgr), scenes.append(packet.new_scene))
    )
    assert [bool(image.any()) for image in pictures] == [False, True, False]
    assert not any(scenes)  # that nothing is seen is no cut
    assert read_number(pictures[1]) == 3
    assert results.figures["unseen"] == 2
    assert "2 of 3 frames" in caplog.text


def test_pictures_of_a_folder_are_known_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), numbered(number, SIZE_WH))
    names = ["0.png", "2.png", "gone.png"]
    records = [FrameRecord(i, (0.0, 2.0, 3.0)[i], people(1), picture=name) for i, name in enumerate(names)]
    path = write_stream(tmp_path / "set.skeletons.jsonl", records, fps=1.0)
    seen: list[bool] = []
    config = config_of(tmp_path / "out")
    ReplayRun(str(path), config, video=str(folder)).run(lambda packet: seen.append(bool(packet.frame.image_bgr.any())))
    assert seen == [True, True, False]
    assert len(list((tmp_path / "out" / "set.annotated").iterdir())) == 3


def test_pictures_of_a_video_are_cut_as_the_run_cuts_them(tmp_path: Path) -> None:
    (folder := tmp_path / "pictures").mkdir()
    coarse = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    picture = cv2.resize(coarse, SIZE_WH)
    for number in range(12):  # a fast pan
        cv2.imwrite(str(folder / f"{number}.png"), np.roll(picture, 20 * number, 1))
    cuts: dict[float, list[bool]] = {}
    for fps in (25.0, 1.0):
        records = [FrameRecord(i, i / fps, people(1), picture=f"{i}.png") for i in range(12)]
        path = write_stream(tmp_path / f"at{fps}.skeletons.jsonl", records, fps=fps)
        config = replace(config_of(tmp_path / "out", video=False), tracker=TrackerConfig(remember_s=0))
        found = cuts[fps] = []
        run = ReplayRun(str(path), config, Changes(track=True), str(folder))
        run.run(lambda packet, found=found: found.append(packet.new_scene))
    assert sum(cuts[25.0]) <= 1  # of a fast pan the first frame alone
    assert cuts[1.0] == [False] + [True] * 11  # photographs


def test_pictures_whose_names_are_no_utf8_are_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), numbered(1, SIZE_WH))
    try:
        (folder / "a.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    except (OSError, UnicodeEncodeError):
        pytest.skip("names are Unicode here")
    run = ["--source", str(folder), *NETWORK, "--boxes", "full", "--no-video", "--quiet"]
    assert main([*run, "--output", str(tmp_path / "out")]) == 0
    seen: list[int] = []
    job = ReplayRun(
        str(tmp_path / "out" / "pictures.skeletons.jsonl"), config_of(tmp_path / "again"), video=str(folder)
    )
    job.run(lambda packet: seen.append(read_number(packet.frame.image_bgr)))
    assert seen == [1]


@pytest.mark.parametrize("method", ["kalman", "rts", "none"])
def test_smoothing_anew_is_what_the_run_would_have_done(tmp_path: Path, clip: Path, method: str) -> None:
    base = ["--source", str(clip), *NETWORK, "--boxes", "full", "--no-video", "--quiet"]
    for other in ("none", method):
        assert main([*base, "--smooth", other, "--output", str(tmp_path / other)]) == 0
    new = replayed(tmp_path / "none" / "walk.skeletons.jsonl", tmp_path, "--smooth", method)
    assert StreamReader(new).header.smoothing == method
    wanted, found = read(tmp_path / method / "walk.skeletons.jsonl"), read(new)
    for was, now in zip(wanted, found, strict=True):
        assert now.poses.stage.tolist() == was.poses.stage.tolist()
        np.testing.assert_allclose(now.poses.keypoints, was.poses.keypoints, atol=0.03)  # the stream has 2 decimals
        np.testing.assert_allclose(now.poses.keypoint_scores, was.poses.keypoint_scores, atol=2e-3)


def test_smoothing_both_ways_draws_what_it_writes(tmp_path: Path, clip: Path) -> None:
    records = [FrameRecord(i, t, people(1, x=2.0 * i)) for i, t in enumerate(WALK_TIMES)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records)
    out = tmp_path / "new"
    arguments = ["replay", str(path), "--video", str(clip), "--smooth", "rts", "--format", "csv", "--output", str(out)]
    assert main([*arguments, "--quiet"]) == 0
    assert StreamReader(out / "walk.skeletons.jsonl").header.smoothing == "rts"
    assert (out / "walk.csv").stat().st_size > 0
    with av.open(str(out / "walk.annotated.mp4")) as video:
        assert len(list(video.decode(video=0))) == len(records)


def views_as_stream(views: list[View], path: Path) -> tuple[Path, list[Tracks]]:
    """A world's detections with their poses and nobody's id, and what the tracker makes of them by itself."""
    tracker = create_tracker(replace(TrackerConfig(), high_score=0.0), COCO17)
    own = follow(views, tracker)
    records = []
    for index, view in enumerate(views):
        found = view.detections
        n, k = len(found), len(COCO17)
        box, at = found.bboxes_xyxy, np.linspace(0.1, 0.9, k)
        points = box[:, None, :2] + at[None, :, None] * (box[:, None, 2:] - box[:, None, :2])
        scores = np.full((n, k), 0.9)
        zero = np.zeros(n)
        poses = Poses(box, found.bbox_scores, zero, points, scores, points, scores, zero, zero + 1)  # type: ignore[arg-type]
        records.append(FrameRecord(index, view.pts_s, poses, camera=view.camera))
    return write_stream(path, records, frame_size_wh=(1280, 720), fps=25.0), own


def shown(view: View, record: FrameRecord) -> Tracks:
    """Who is seen in a frame, in the detections of the view that it is of."""
    seen = record.poses.stage != PoseStage.PREDICTED
    # The stream has two decimals: the boxes as they were, by the nearest.
    place = np.abs(record.poses.bboxes_xyxy[seen][:, None] - view.detections.bboxes_xyxy).sum(2).argmin(1)
    ids = record.poses.track_ids[seen]
    return Tracks(view.detections.bboxes_xyxy[place], np.ones(len(ids)), ids, np.ones(len(ids), bool))  # type: ignore[arg-type]


def test_people_without_ids_are_followed(tmp_path: Path) -> None:
    views = world(seed=10, people=8)
    path, own = views_as_stream(views, tmp_path / "busy.skeletons.jsonl")
    new = replayed(path, tmp_path, "--track")
    found = read(new)
    made = StreamReader(new).header
    assert (made.tracker, made.version) == ("sharpose", __version__)
    ours, theirs = (
        score(views, [shown(view, record) for view, record in zip(views, found, strict=True)]),
        score(views, own),
    )
    assert ours.switches <= theirs.switches + 3  # poses of a world differ from those of the stream
    assert ours.tracked >= 0.95 * theirs.tracked
    assert ours.people == theirs.people


def test_a_camera_that_nobody_saw_is_found_by_its_people(tmp_path: Path) -> None:
    views = [replace(view, camera=None) for view in shaken(world(seed=20, people=16), seed=20)]
    path, _ = views_as_stream(views, tmp_path / "crowd.skeletons.jsonl")
    switches = []
    for options in ((), ("--set", "tracker.camera_motion=false")):
        found = read(replayed(path, tmp_path / str(len(options)), "--track", "--smooth", "none", *options))
        switches.append(score(views, [shown(view, record) for view, record in zip(views, found, strict=True)]).switches)
    assert switches[0] < 0.7 * switches[1]  # 17 and 32, by boxes that shake by themselves


def test_who_has_no_track_is_left_out_and_counted(tmp_path: Path) -> None:
    records = [FrameRecord(i, i / 10, people(0)) for i in range(5)]
    records[3] = replace(records[3], poses=people(0, 0))  # somebody for one frame
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records)
    new = replayed(path, tmp_path, "--track", "--smooth", "none")
    assert [record.poses.track_ids.tolist() for record in read(new)] == [[1]] * 5
    assert json.loads((tmp_path / "new" / "walk.summary.json").read_text())["left_out"] == 1
    every = replayed(path, tmp_path / "all", "--track", "--smooth", "none", "--set", "tracker.min_detections=1")
    assert [len(record.poses) for record in read(every)] == [1, 1, 1, 2, 1]


def test_who_comes_later_is_known_from_their_first_frame_on(tmp_path: Path) -> None:
    camera = np.array([[1, 0, 60], [0, 1, 0]], float)  # it turns away as somebody has just come
    alone, both = [FrameRecord(i, i / 10, people(0)) for i in range(2)], FrameRecord(2, 0.2, people(0, 0))
    turned = [FrameRecord(i, i / 10, people(0, 0, x=60), camera=camera if i == 3 else None) for i in (3, 4)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", [*alone, both, *turned])
    new = replayed(path, tmp_path, "--track", "--smooth", "none")
    assert [record.poses.track_ids.tolist() for record in read(new)] == [[1]] * 2 + [[1, 2]] * 3
    assert json.loads((tmp_path / "new" / "walk.summary.json").read_text())["left_out"] == 0


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("method", ["kalman", "rts"])
def test_nobody_goes_on_in_a_scene_that_is_new_or_of_another_size(tmp_path: Path, method: str, sized: bool) -> None:
    records = [FrameRecord(i, i / 10, people(7, x=i if i < 5 else i + 8)) for i in range(10)]
    for i in range(5, 10) if sized else [5]:
        records[i] = replace(records[i], **{"frame_size_wh": (200, 140)} if sized else {"new_scene": True})
    whole = write_stream(tmp_path / "walk.skeletons.jsonl", records)
    found = read(replayed(whole, tmp_path, "--track", "--smooth", method))
    assert [record.poses.track_ids.tolist() for record in found] == [[1]] * 5 + [[2]] * 5
    assert [record.new_scene for record in found] == [False] * 5 + [True] + [False] * 4
    # Their own ids stay, and nothing of the scene before is in what is smoothed.
    smoothed = read(replayed(whole, tmp_path / "own", "--smooth", method))
    parts = []
    for part in (records[:5], records[5:]):
        records_of = [replace(record, frame_id=i, new_scene=False) for i, record in enumerate(part)]
        (tmp_path / f"{len(parts)}").mkdir()
        path = write_stream(tmp_path / f"{len(parts)}" / "walk.skeletons.jsonl", records_of)
        parts += read(replayed(path, tmp_path / f"part{len(parts)}", "--smooth", method))
    for now, alone in zip(smoothed, parts, strict=True):
        assert now.poses.track_ids.tolist() == [7]
        np.testing.assert_array_equal(now.poses.keypoints, alone.poses.keypoints)


def test_ids_of_one_person_are_joined(tmp_path: Path) -> None:
    frames = [people(3, 5), people(7, 5), people(12), people(3)]
    path = write_stream(
        tmp_path / "walk.skeletons.jsonl", [FrameRecord(i, i / 10, poses) for i, poses in enumerate(frames)]
    )
    joined = replayed(path, tmp_path, "--merge", "3=7,12")
    assert [record.poses.track_ids.tolist() for record in read(joined)] == [[3, 5], [3, 5], [3], [3]]
    alone = replayed(path, tmp_path / "alone", "--merge", "3=7,12", "--people", "3")
    assert [record.poses.track_ids.tolist() for record in read(alone)] == [[3]] * 4
    assert json.loads((tmp_path / "new" / "walk.summary.json").read_text())["changes"]["merge"] == {"7": 3, "12": 3}


def test_exchanged_ids_are_given_back_and_smoothed_anew(tmp_path: Path) -> None:
    """Two cross, and each takes on the other's id; behind that a third takes on an id of somebody who has left."""
    left, right = np.arange(12.0) * 4, 100 - np.arange(12.0) * 4
    frames = []
    for i in range(12):
        where = {3: left[i], 5: right[i]} if i < 6 else {5: left[i], 3: right[i]}
        rows = [people(number, x=x) for number, x in sorted(where.items())]
        both = Poses(*(np.concatenate([getattr(row, name) for row in rows]) for name in Poses.__dataclass_fields__))
        frames.append(FrameRecord(i, i / 10, both))
    path = write_stream(tmp_path / "walk.skeletons.jsonl", frames)
    new = read(replayed(path, tmp_path, "--swap", "3,5@0.6", "--swap", "5,99@0.9"))
    for i, (was, now) in enumerate(zip(frames, new, strict=True)):
        at = dict(zip(now.poses.track_ids.tolist(), now.poses.raw_keypoints[:, 0, 0].tolist(), strict=True))
        first = people(3, x=left[i]).raw_keypoints[0, 0, 0], people(3, x=right[i]).raw_keypoints[0, 0, 0]
        assert at == pytest.approx({3: first[0], 5 if i < 9 else 99: first[1]})
        assert len(now.poses) == len(was.poses) == 2
        own = now.poses.track_ids.tolist().index(3)  # who goes evenly is smoothed to where they are
        assert np.abs(now.poses.keypoints[own] - now.poses.raw_keypoints[own]).max() < 3
    changes = json.loads((tmp_path / "new" / "walk.summary.json").read_text())["changes"]
    assert (changes["swap"], changes["smooth"]) == ([[3, 5, 0.6], [5, 99, 0.9]], True)


def test_a_swap_counts_from_its_time_in_each_round_of_a_loop(tmp_path: Path) -> None:
    records = [FrameRecord(i, i / 10, people(3, 5)) for i in range(4)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records, fps=None)
    tap = Lines()
    changes = Changes(swaps=[Swap(3, 8, 0.2)])
    job = ReplayRun(str(path), config_of(tmp_path / "new", video=False), changes, None, [tap], loop=True)
    job.run(lambda packet: job.stop() if packet.frame.frame_id == 9 else None)
    assert tap.live is False
    ids = [[person["track_id"] for person in json.loads(line)["people"]] for line in tap.lines[1:11]]
    assert ids == [[3, 5], [3, 5], [8, 5], [8, 5]] * 2 + [[3, 5], [3, 5]]


def test_a_swap_of_nobody_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_stream(tmp_path / "walk.skeletons.jsonl", [FrameRecord(i, i / 10, people(3)) for i in range(4)])
    replayed(path, tmp_path, "--swap", "3,5@0.1", "--swap", "3,8@7", "--swap", "6,7@0")
    said = [record.getMessage() for record in caplog.records if "nobody" in record.getMessage()]
    assert said == [
        f"nobody in {path} has the id 3 or 8 from 7 s on",
        f"nobody in {path} has the id 6 or 7 from 0 s on",
    ]


def test_two_who_are_seen_at_once_are_not_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_stream(
        tmp_path / "walk.skeletons.jsonl", [FrameRecord(0, 0.0, people(3)), FrameRecord(1, 0.1, people(3, 7))]
    )
    assert main(["replay", str(path), "--output", str(tmp_path / "new"), "--no-video", "--merge", "3=7"]) == 2
    assert "3 and 7 are both seen in frame 1, at 0.1 s, so they are two people" in capsys.readouterr().err


def test_who_was_only_predicted_gives_way_to_who_is_seen() -> None:
    seen, gone = people(7), people(3, x=50, stage=PoseStage.PREDICTED)
    both = Poses(*(np.concatenate([getattr(gone, name), getattr(seen, name)]) for name in Poses.__dataclass_fields__))
    frame = Frame(0, 0.0, np.zeros((8, 8, 3), np.uint8))
    stage = ChoosePeopleStage({7: 3})
    (packet,) = stage.process(Packet(frame, poses=both))
    assert packet.poses is not None
    assert packet.poses.track_ids.tolist() == [3]
    assert packet.poses.stage.tolist() == [PoseStage.FINE]
    assert stage.seen == {7}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_choosing_keeps_the_wanted_and_touches_nobody_else(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(1, 9), min_size=0, max_size=5, unique=True))
    wanted = data.draw(st.none() | st.frozensets(st.integers(1, 9)))
    frame, poses = Frame(0, 0.0, np.zeros((8, 8, 3), np.uint8)), people(*ids)
    (packet,) = ChoosePeopleStage({20: 21}, wanted).process(Packet(frame, poses=poses))
    assert packet.poses is not None
    rows = [row for row, number in enumerate(ids) if wanted is None or number in wanted]
    for name in Poses.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(packet.poses, name), getattr(poses, name)[rows])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_swaps_change_ids_alone_and_undo_each_other(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(1, 9), max_size=5, unique=True))
    pairs = st.lists(st.integers(1, 12), min_size=2, max_size=2, unique=True)
    swaps = [Swap(*pair, at_s) for pair, at_s in data.draw(st.lists(st.tuples(pairs, st.floats(0, 2)), max_size=4))]
    frame, poses = Frame(0, 1.0, np.zeros((8, 8, 3), np.uint8)), people(*ids)
    (packet,) = ChoosePeopleStage({}, None, swaps).process(Packet(frame, poses=poses))
    assert packet.poses is not None
    assert len(set(packet.poses.track_ids.tolist())) == len(ids)
    for name in set(Poses.__dataclass_fields__) - {"track_ids"}:
        np.testing.assert_array_equal(getattr(packet.poses, name), getattr(poses, name))
    back = [Swap(*swap[:2], 0.0) for swap in sorted(swaps, key=lambda swap: swap.from_s)[::-1] if swap.from_s <= 1]
    (packet,) = ChoosePeopleStage({}, None, back).process(packet)
    assert packet.poses is not None
    assert packet.poses.track_ids.tolist() == ids


@pytest.mark.parametrize(
    ("options", "kept", "status"),
    [
        ("--start 0.3 --end 0.7", range(3, 7), "complete"),  # the part is whole
        ("--end 0.2", range(2), "complete"),
        ("--max-frames 2", range(2), "complete"),
        ("--start 0.8", range(8, 10), "interrupted"),
        ("--stride 4", range(0, 10, 4), "interrupted"),
        ("--end 7", range(10), "interrupted"),
        ("--max-frames 70", range(10), "interrupted"),
    ],
)
def test_a_part_is_written_with_its_own_numbers(tmp_path: Path, options: str, kept: range, status: str) -> None:
    records = [FrameRecord(i, i / 10, people(1, x=i)) for i in range(10)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records, status="interrupted")
    new = read(made := replayed(path, tmp_path, *options.split()))
    assert [(record.frame_id, record.pts_s) for record in new] == [(n, i / 10) for n, i in enumerate(kept)]
    assert json.loads(made.read_bytes().splitlines()[-1])["status"] == status


def test_a_stream_of_pictures_that_nobody_could_hold_is_read(tmp_path: Path) -> None:
    path = write_stream(
        tmp_path / "huge.skeletons.jsonl", [FrameRecord(0, 0.0, people(1))], frame_size_wh=(10**6, 10**6)
    )
    assert len(read(replayed(path, tmp_path, "--smooth", "rts"))) == 1


def test_what_happens_in_frames_that_are_left_out_is_not_lost(tmp_path: Path) -> None:
    """Whose picture moved, or was another's: every third frame is kept."""
    moved, turned = np.array([[1, 0, 2.5], [0, 1, -1.0]]), np.array([[0, -1, 5], [1, 0, 7.0]])
    cameras: dict[int, np.ndarray] = {1: moved, 3: turned, 6: moved, 8: turned}
    records = [FrameRecord(i, i / 10, people(1), camera=cameras.get(i), new_scene=i == 7) for i in range(13)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records)
    new = read(replayed(path, tmp_path, "--set", "source.stride=3"))
    assert [record.new_scene for record in new] == [False, False, False, True, False]
    assert [record.camera is None for record in new] == [True, False, False, True, True]
    np.testing.assert_allclose(new[1].camera, chain_affines(moved, turned))  # type: ignore[arg-type]
    np.testing.assert_allclose(new[2].camera, moved)  # type: ignore[arg-type]


def test_what_is_not_whole_stays_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = SAMPLE.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "torn.skeletons.jsonl"
    torn.write_bytes(b"".join(lines[:12]) + lines[12][:100])
    new = replayed(torn, tmp_path, "--smooth", "rts")
    assert "13 frames" not in caplog.text
    assert "11 frames and no end line" in caplog.text
    end = json.loads(new.read_bytes().splitlines()[-1])
    assert (end["frames"], end["status"]) == (11, "interrupted")


def test_formats_are_made_of_a_stream_that_nothing_changes(tmp_path: Path) -> None:
    new = replayed(SAMPLE, tmp_path, "--format", "csv")
    assert [record.to_record() for record in read(new)] == [record.to_record() for record in read(SAMPLE)]
    assert new.with_name("demo.csv").read_text().count("\n") == 1 + sum(len(record.poses) for record in read(SAMPLE))


def test_nothing_that_is_read_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "walk.skeletons.jsonl"
    shutil.copy(SAMPLE, path)
    arguments = ["replay", str(path), "--output", str(tmp_path), "--no-video", "--smooth", "none"]
    assert main([*arguments, "--overwrite"]) == 2
    assert "is an input; choose another folder" in capsys.readouterr().err
    assert path.read_bytes() == SAMPLE.read_bytes()
    assert main(arguments) == 0  # another name
    assert (tmp_path / "walk-2.skeletons.jsonl").is_file()
    assert path.read_bytes() == SAMPLE.read_bytes()


def bad_uses() -> Iterator[tuple[list[str], str]]:
    yield ["--tracker", "bytetrack"], "--tracker needs --track"
    yield ["--merge", "3=7", "--merge", "4=7"], "--merge gives 7 two ids"
    yield ["--merge", "3=3"], "--merge gives 3 two ids"
    yield ["--merge", "3=7", "--merge", "7=8"], "--merge gives 7 another id, and its id to others"
    yield ["--merge", "3=7", "--people", "7"], "--people keeps 7, which --merge changes to 3"
    yield ["--video", "rtsp://camera/x"], "give the file or pictures that the skeletons were made from"
    yield ["--video", "none.mp4"], "none.mp4"
    yield ["--start", "99"], "has no frame from 99 s on"
    yield ["--smooth", "rts", "--set", "output.split_s=1"], "rts needs the whole video, which --split divides"
    yield ["--loop"], "--loop needs --serve"
    yield ["--loop", "--publish", "-", "--format", "csv"], "--loop never ends, so nothing can be written"
    yield ["--loop", "--publish", "-", "--smooth", "rts"], "--loop never ends; replay it first"
    yield ["--loop", "--publish", "-", "--start", "0.2"], "--loop repeats the whole stream"


@pytest.mark.parametrize(("arguments", "said"), bad_uses(), ids=lambda value: " ".join(value)[:40])
def test_wrong_uses_are_told(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    assert main(["replay", str(SAMPLE), "--output", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("text", ["3", "3=", "=4", "a=b", "3=0", "3,4=5"])
def test_ids_that_are_none_are_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", str(SAMPLE), "--merge", text])
    assert "accepted" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["3,5", "3@1", "3,3@1", "0,2@1", "3,5@", "3,5@-1", "3,5@nan", "3,5@inf", "3,5,7@1"])
def test_exchanges_that_are_none_are_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", str(SAMPLE), f"--swap={text}"])
    assert "does not exchange ids; ID,ID@SECONDS is accepted" in capsys.readouterr().err


def test_another_video_is_refused(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(SAMPLE), "--video", str(clip), "--output", str(tmp_path)]) == 2
    assert "walk.mp4 is 160x128 px, but the skeletons in" in capsys.readouterr().err


def test_several_come_one_after_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("jump", "run"):
        (tmp_path / folder).mkdir()
        write_stream(tmp_path / folder / "01.skeletons.jsonl", [FrameRecord(i, i / 10, people(1)) for i in range(3)])
    (tmp_path / "run" / "02.skeletons.jsonl").write_text("{}\n")
    streams = sorted(str(path) for path in tmp_path.rglob("*.jsonl"))
    out = tmp_path / "new"
    assert main(["replay", *streams, "--output", str(out), "--no-video", "--smooth", "rts", "--format", "csv"]) == 2
    assert "2 of 3 done; 1 failed" in capsys.readouterr().out
    for folder in ("jump", "run"):
        assert StreamReader(out / folder / "01.skeletons.jsonl").header.smoothing == "rts"
        assert (out / folder / "01.csv").is_file()
    assert main(["replay", *streams, "--output", str(out), "--people", "1"]) == 2
    assert "--people is for a single stream, and 3 were given" in capsys.readouterr().err
    for number, meant in enumerate((tmp_path / "run", tmp_path / "run/*.jsonl")):  # as by a shell that knows no globs
        again = tmp_path / f"again{number}"
        assert main(["replay", str(meant), "--output", str(again), "--no-video", "--smooth", "rts"]) == 2
        assert {path.name for path in again.glob("*.jsonl")} == {"01.skeletons.jsonl"}


def test_times_that_fall_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_stream(
        tmp_path / "walk.skeletons.jsonl", [FrameRecord(0, 1.0, people(1)), FrameRecord(1, 0.5, people(1))]
    )
    assert main(["replay", str(path), "--output", str(tmp_path / "new"), "--no-video"]) == 2
    assert "frame 1 is at 0.5 s, after one at 1.0 s" in capsys.readouterr().err


def test_keypoints_of_no_known_set_are_shown_but_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Skeleton("custom", tuple(f"k{i}" for i in range(17)), ((0, 1),), (), (), ())
    path = write_stream(tmp_path / "odd.skeletons.jsonl", [FrameRecord(0, 0.0, people(1))], skeleton=odd)
    assert main(["replay", str(path), "--output", str(tmp_path / "new"), "--quiet"]) == 0
    assert main(["replay", str(path), "--output", str(tmp_path / "new"), "--smooth", "kalman"]) == 2
    assert "17 keypoints that belong to no known set, so poses cannot be compared; give --smooth none\n" in (
        capsys.readouterr().err
    )
    assert main(["replay", str(path), "--output", str(tmp_path / "new"), "--track"]) == 2
    assert "use --tracker bytetrack and give --smooth none" in capsys.readouterr().err


def test_what_compares_no_poses_is_done_with_any_keypoints(tmp_path: Path) -> None:
    odd = Skeleton("custom", tuple(f"k{i}" for i in range(17)), ((0, 1),), (), (), ())
    records = [FrameRecord(i, i / 25, people(1, 2)) for i in range(5)]
    path = write_stream(tmp_path / "odd.skeletons.jsonl", records, skeleton=odd)
    swapped = read(replayed(path, tmp_path / "one", "--swap", "1,2@0.1", "--smooth", "none"))
    assert [frame.poses.track_ids.tolist() for frame in swapped] == 3 * [[1, 2]] + 2 * [[2, 1]]
    followed = read(replayed(path, tmp_path / "two", "--track", "--tracker", "bytetrack", "--smooth", "none"))
    assert [len(frame.poses) for frame in followed] == 5 * [2]


def test_known_keypoints_are_compared_however_they_are_drawn(tmp_path: Path) -> None:
    drawn = replace(COCO17, limbs=((5, 6), (11, 12)))
    path = write_stream(tmp_path / "own.skeletons.jsonl", [FrameRecord(0, 0.0, people(1))], skeleton=drawn)
    assert read(replayed(path, tmp_path, "--smooth", "kalman"))[0].poses.track_ids.tolist() == [1]
    assert StreamReader(path).header.skeleton == drawn


def test_an_id_that_nobody_has_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_stream(tmp_path / "walk.skeletons.jsonl", [FrameRecord(0, 0.0, people(1))])
    assert read(replayed(path, tmp_path, "--people", "1,44"))[0].poses.track_ids.tolist() == [1]
    assert "has the id 44" in caplog.text


def test_at_its_own_pace_no_frame_is_lost(tmp_path: Path, clip: Path) -> None:
    """However slow whoever looks is."""
    records = [FrameRecord(i, i / 50, people(1)) for i in range(20)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records, fps=50.0)
    seen: list[int] = []
    config = config_of(tmp_path, video=False)
    job = ReplayRun(str(path), config, Changes(smooth=True), paced=True)
    results = job.run(lambda packet: (seen.append(packet.frame.frame_id), time.sleep(0.03)))
    assert seen == list(range(20))
    assert results.figures["status"] == "complete"
    assert not job.source.info.live


@pytest.mark.parametrize(
    ("options", "paced", "video"),
    [
        ("", False, True),
        ("--pace video", True, True),
        ("--publish udp://127.0.0.1:9", True, True),
        ("--serve 127.0.0.1:0", True, True),
        ("--show", True, True),
        ("--show --pace fastest", False, True),
        ("--show --loop", True, False),
    ],
)
def test_who_looks_or_listens_has_the_pace_of_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, paced: bool, video: bool
) -> None:
    asked: list[tuple[bool, bool, bool]] = []

    def run(_: str, config: RunConfig, *__: object, paced: bool, loop: bool) -> None:
        asked.append((paced, config.output.video, loop))
        raise ConfigError("that was all")

    monkeypatch.setattr("sharpose_rt.replay.ReplayRun", run)
    assert main(["replay", str(SAMPLE), "--output", str(tmp_path), *options.split()]) == 2
    assert asked == [(paced, video, "--loop" in options)]


def test_what_is_stopped_while_its_picture_is_looked_for_is_left_out(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [FrameRecord(i, t, people(1)) for i, t in enumerate(WALK_TIMES)]
    reader = StreamReader(write_stream(tmp_path / "walk.skeletons.jsonl", records))
    with StoredFrames(reader, len(records), SourceConfig(), str(clip)) as frames:
        assert frames.read() is not None
        assert frames._video is not None
        read = frames._video.read
        monkeypatch.setattr(frames._video, "read", lambda: frames.interrupt() or read())
        assert frames.read() is None
        assert frames.unseen == 0


def test_over_and_over_time_goes_on(tmp_path: Path, clip: Path) -> None:
    records = [FrameRecord(i, t, people(1, x=i)) for i, t in enumerate(WALK_TIMES)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records)
    tap, pictures, count = Lines(), [], len(records)
    config = config_of(tmp_path / "new", video=False)
    job = ReplayRun(str(path), config, Changes(smooth=True), str(clip), [tap], loop=True)

    def take(packet: Packet) -> None:
        pictures.append(read_number(packet.frame.image_bgr))
        if len(pictures) == 2 * count + 5:
            job.stop()

    results = job.run(take)
    assert tap.live is False
    frames = [json.loads(line) for line in tap.lines[1:-1]]
    assert [frame["frame_id"] for frame in frames] == list(range(len(frames)))
    assert len(frames) >= 2 * count + 5
    assert pictures == [i % count for i in range(len(pictures))]
    times = [frame["pts_s"] for frame in frames]
    round_s = WALK_TIMES[-1] - WALK_TIMES[0] + 0.1
    for i, time_s in enumerate(times):
        assert time_s == pytest.approx(WALK_TIMES[i % count] + i // count * round_s, abs=2e-6)
    assert [i for i, frame in enumerate(frames) if "new_scene" in frame] == [*range(count, len(frames), count)]
    # Nobody is carried over from the last frame to the first: that is where they were again.
    first, again = (frames[i]["people"][0]["keypoints"] for i in (0, count))
    assert first == again
    assert results.stream is None
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["walk.summary.json"]


def test_stopped_it_ends_in_order(tmp_path: Path) -> None:
    records = [FrameRecord(i, i / 10, people(1)) for i in range(300)]
    path = write_stream(tmp_path / "walk.skeletons.jsonl", records)
    config = config_of(tmp_path / "new", video=False)
    job = ReplayRun(str(path), config, Changes(smooth=True), paced=True)
    results = job.run(lambda packet: job.stop() if packet.frame.frame_id == 3 else None)
    assert results.status == "interrupted"
    assert results.stream is not None
    end = json.loads(results.stream.read_bytes().splitlines()[-1])
    assert end["status"] == "interrupted"
    assert 4 <= end["frames"] < 300
