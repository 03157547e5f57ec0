"""`sharpose-rt collect`: the right frames with the right people, in forms that training here and elsewhere reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from media_clips import WALK_TIMES, numbered, read_number, write_walk

from sharpose_rt.cli import main
from sharpose_rt.collect import _held_out, _shared, collect, doubt
from sharpose_rt.config import SourceConfig
from sharpose_rt.errors import ConfigError, OutputError, SourceError, StreamError
from sharpose_rt.labels.coco import read_document, read_image
from sharpose_rt.skeleton import COCO17, MPII16, Skeleton
from sharpose_rt.skeletons import FrameRecord, Header, StreamWriter, encode
from sharpose_rt.training.datasets import read_people
from sharpose_rt.types import Poses, PoseStage

SIZE_WH = (160, 128)
UNSURE = (3, 10, 18)
"""Frames whose people have low scores."""
EMPTY = (0, 1, 2, 12)

pytestmark = pytest.mark.timeout(60)


def person(frame: int, *, score: float = 0.9, stage: PoseStage = PoseStage.FINE, joints: int = 17) -> Poses:
    """Somebody whose place tells the frame."""
    points = np.stack([np.full(joints, 20.0 + frame), np.linspace(20, 110, joints)], 1)[None]
    scores = np.full((1, joints), score)
    raw = np.zeros_like(scores) if stage is PoseStage.PREDICTED else scores
    box, one = np.array([[10.0 + frame, 10, 60, 120]]), np.ones(1)
    return Poses(box, one, np.array([1]), points, scores, points, raw, one, one * int(stage))  # type: ignore[arg-type]


def people_of(frame: int, joints: int = 17) -> Poses:
    poses = person(frame, score=0.5 if frame in UNSURE else 0.9, joints=joints)
    return poses.kept(np.array([frame not in EMPTY]))


def write_stream(
    path: Path, people=people_of, source: str = "walk.mp4", skeleton: Skeleton = COCO17, frames: int = 24,
    pictures: list[str] | None = None,
) -> Path:  # fmt: skip
    model = {"name": "tiny", "weights_sha256": None, "behaviour": "paper", "quality_threshold": None}
    header = Header(source, SIZE_WH, 10.0, skeleton, model, "full", "sharpose", "none", "0")
    with StreamWriter(path, header) as writer:
        for t in range(frames):
            record = FrameRecord(t, t / SourceConfig.image_fps if pictures else WALK_TIMES[t], people(t))
            writer.write_line(encode(replace(record, picture=pictures and pictures[t]).to_record()))
        writer.end("complete")
    return path


@pytest.fixture
def walk(tmp_path) -> tuple[Path, str]:
    write_walk(tmp_path / "walk.mp4")
    return write_stream(tmp_path / "walk.skeletons.jsonl"), str(tmp_path / "walk.mp4")


def numbers(document: dict, images: Path) -> list[int]:
    """The number that each picture shows, which is that of its name and of its people's places."""
    found = []
    for image in document["images"]:
        pixels = read_image(images / image["file_name"])
        assert pixels.shape[:2] == (image["height"], image["width"])
        found.append(read_number(pixels))
        assert image["file_name"] == f"walk_{found[-1]:06d}.jpg"
        (one,) = [record for record in document["annotations"] if record["image_id"] == image["id"]]
        assert one["keypoints"][0] == pytest.approx(20 + found[-1], abs=0.01)
    return found


def test_unsure_frames_are_taken_spread_over_the_video(walk, tmp_path):
    """Their pictures are those frames, of a video with uneven times, and their labels those people."""
    made = collect([walk], tmp_path / "set", pictures=3)
    assert (made.pictures, made.people, made.unseen) == ({"train": 3}, {"train": 3}, 0)
    document = json.loads((tmp_path / "set" / "annotations.json").read_text())
    assert numbers(document, tmp_path / "set" / "images") == list(UNSURE)
    assert document["licenses"] == []  # which Roboflow asks for, and CVAT for the outline
    assert all(record["segmentation"] == [] for record in document["annotations"])
    people = read_people(tmp_path / "set" / "annotations.json", tmp_path / "set" / "images")
    assert len(people) == 3
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"annotations.json", "images"}


def test_even_frames_and_more_than_there_are(walk, tmp_path):
    collect([walk], tmp_path / "even", pictures=4, choose="even")
    document = json.loads((tmp_path / "even" / "annotations.json").read_text())
    with_somebody = [t for t in range(24) if t not in EMPTY]
    assert numbers(document, tmp_path / "even" / "images") == [with_somebody[i] for i in (2, 7, 12, 17)]
    made = collect([walk], tmp_path / "all", pictures=1000)
    assert made.pictures == {"train": 24 - len(EMPTY)}


def test_who_was_not_found_again_is_doubted_most():
    assert doubt(person(1, score=0.9)) == pytest.approx(0.1)
    assert doubt(person(1, score=0.9, stage=PoseStage.PREDICTED)) == 1


def test_predicted_people_are_not_labelled(tmp_path):
    write_walk(tmp_path / "walk.mp4")

    def people(t: int) -> Poses:
        return person(t, stage=PoseStage.PREDICTED if t == 7 else PoseStage.FINE)

    path = write_stream(tmp_path / "walk.skeletons.jsonl", people)
    made = collect([(path, str(tmp_path / "walk.mp4"))], tmp_path / "set", pictures=1)
    assert (made.pictures, made.people) == ({"train": 1}, {"train": 0})
    assert [path.name for path in (tmp_path / "set" / "images").iterdir()] == ["walk_000007.jpg"]


def test_validation_is_the_end_of_each_video(walk, tmp_path):
    made = collect([walk], tmp_path / "set", pictures=10, choose="even", val_share=0.3)
    assert made.pictures == {"train": 7, "val": 3}
    parts = [json.loads((tmp_path / "set" / part / "annotations.json").read_text()) for part in ("train", "val")]
    train, val = (
        numbers(document, tmp_path / "set" / part / "images")
        for document, part in zip(parts, ("train", "val"), strict=True)
    )
    assert max(train) < min(val)


def test_ultralytics_takes_the_yolo_form(walk, tmp_path):
    from ultralytics.data.utils import check_det_dataset, verify_image_label

    folder = tmp_path / "set"
    assert collect([walk], folder, pictures=10, form="yolo").pictures == {"train": 8, "val": 2}
    told = check_det_dataset(str(folder / "data.yaml"))
    assert (told["nc"], told["kpt_shape"], told["flip_idx"][:3]) == (1, [17, 3], [0, 2, 1])
    for split, count in (("train", 8), ("val", 2)):
        pictures = sorted((folder / "images" / split).iterdir())
        assert (len(pictures), Path(told[split])) == (count, folder / "images" / split)
        for picture in pictures:
            text = folder / "labels" / split / f"{picture.stem}.txt"
            checked = verify_image_label((str(picture), str(text), "", True, 1, 17, 3, False))
            assert (checked[0], checked[-1], checked[1].shape) == (str(picture), "", (1, 5))
    document = read_document(folder / "labels" / "train")
    assert len(numbers(document, folder / "images" / "train")) == 8
    assert yaml.safe_load((folder / "data.yaml").read_text())["kpt_names"][0] == list(COCO17.keypoints)


def test_few_pictures_have_one_for_validation_and_one_alone_is_for_both(walk, tmp_path):
    from ultralytics.data.utils import check_det_dataset

    assert collect([walk], tmp_path / "two", pictures=2, form="yolo").pictures == {"train": 1, "val": 1}
    assert collect([walk], tmp_path / "one", pictures=1, form="yolo").pictures == {"train": 1, "val": 0}
    told = check_det_dataset(str(tmp_path / "one" / "data.yaml"))
    assert told["val"] == told["train"] == str(tmp_path / "one" / "images" / "train")


def test_pictures_keep_their_names_and_those_of_two_streams_stay_apart(tmp_path):
    streams = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        pictures = [f"shot{t}.png" for t in range(4)]
        for t, picture in enumerate(pictures):
            cv2.imwrite(str(folder / picture), numbered(t + 100 * (name == "b"), SIZE_WH))
        stream = write_stream(tmp_path / f"{name}.skeletons.jsonl", person, name, frames=4, pictures=pictures)
        streams.append((stream, str(folder)))
    made = collect(streams, tmp_path / "set", pictures=5)
    assert made.pictures == {"train": 5}
    files = {path.stem: read_number(read_image(path)) for path in (tmp_path / "set" / "images").iterdir()}
    assert len(files) == 5
    assert {stem.partition("-")[0] for stem in files} <= {f"shot{t}" for t in range(4)}
    assert all(int(stem[4]) == number % 100 for stem, number in files.items())
    assert {number // 100 for number in files.values()} == {0, 1}


def test_labels_that_may_have_been_corrected_are_never_replaced(walk, tmp_path):
    collect([walk], tmp_path / "set", pictures=2)
    before = (tmp_path / "set" / "annotations.json").read_bytes()
    with pytest.raises(OutputError, match="may have been corrected"):
        collect([walk], tmp_path / "set", pictures=3)
    assert (tmp_path / "set" / "annotations.json").read_bytes() == before
    (tmp_path / "empty").mkdir()
    assert collect([walk], tmp_path / "empty", pictures=2).pictures == {"train": 2}
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file exists already"):
        collect([walk], tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        collect([walk], tmp_path / "file" / "below")


def test_what_does_not_go_together_is_said_and_nothing_is_left(walk, tmp_path, caplog):
    stream, video = walk
    out = tmp_path / "set"
    with pytest.raises(ConfigError, match="0 pictures were requested"):
        collect([walk], out, pictures=0)
    with pytest.raises(ConfigError, match="validation share is 1;"):
        collect([walk], out, val_share=1)
    with pytest.raises(ConfigError, match="min_score is 2;"):
        collect([walk], out, min_score=2)
    with pytest.raises(ConfigError, match="give at least one"):
        collect([], out)
    nobody = write_stream(tmp_path / "nobody.skeletons.jsonl", lambda t: people_of(0))
    with pytest.raises(StreamError, match=r"nobody is in .*nobody.skeletons.jsonl"):
        collect([(nobody, video)], out)
    other = write_stream(tmp_path / "mpii.skeletons.jsonl", lambda t: people_of(t, 16), skeleton=MPII16)
    with pytest.raises(ConfigError, match=r"the 16 keypoints of mpii16, and .* the 17 of coco17"):
        collect([walk, (other, video)], out)
    with pytest.raises(SourceError, match=r"none\.mp4"):
        collect([(stream, str(tmp_path / "none.mp4"))], out)
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((128, 160, 3), np.uint8))
    late = write_stream(tmp_path / "late.skeletons.jsonl", lambda t: people_of(t if t > 20 else 0))
    with pytest.raises(StreamError, match="none of the 3 frames that were chosen has a picture at its time"):
        collect([(late, str(tmp_path / "small.png"))], out, pictures=3)
    assert not [path for path in tmp_path.iterdir() if "set" in path.name]


@given(st.integers(1, 60), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_shares_are_filled_and_fair(pictures, available):
    counts = _shared(pictures, available)
    assert sum(counts) == min(pictures, sum(available))
    assert all(got <= have for got, have in zip(counts, available, strict=True))
    some = [(got, have) for got, have in zip(counts, available, strict=True) if have]
    if pictures >= len(some):
        assert all(got for got, _ in some)
    for got, have in some:
        exact = pictures * have / sum(available)
        assert min(have, int(exact)) - len(available) <= got <= exact + len(available)


def test_the_command_turns_the_pictures_as_the_run_did_and_passes_its_options_on(walk, tmp_path, capsys):
    stream, video = walk
    stream.write_text(stream.read_text().replace('"frame_size_wh":[160,128]', '"frame_size_wh":[128,160]'))
    command = ["collect", str(stream), "--video", video, "--out", str(tmp_path / "set"), "--pictures", "4"]
    assert main([*command, "--choose", "even", "--val-share", "0.25", "--min-score", "0.95"]) == 2
    assert "is 160x128 px, but the skeletons" in capsys.readouterr().err
    assert main([*command, "--choose", "even", "--val-share", "0.25", "--min-score", "0.95", "--rotate", "90"]) == 0
    assert "4 pictures with 0 people, 3 in train, 1 in val" in capsys.readouterr().out  # all scores are lower
    shown = []
    for path in sorted((tmp_path / "set").glob("*/images/*.jpg")):
        shown.append(read_number(cv2.rotate(read_image(path), cv2.ROTATE_90_COUNTERCLOCKWISE)))
    with_somebody = [t for t in range(24) if t not in EMPTY]
    assert shown == [with_somebody[i] for i in (2, 7, 12, 17)]


def test_the_command_finds_videos_by_name_or_order(walk, tmp_path, capsys):
    stream, video = walk
    second = write_stream(tmp_path / "b.skeletons.jsonl", source="/elsewhere/other.mp4")
    other = Path(video).rename(tmp_path / "other.mp4")
    write_walk(Path(video))
    base = ["collect", str(stream), str(second), "--pictures", "6", "--video"]
    assert main([*base, str(other), video, "--out", str(tmp_path / "named")]) == 0
    assert f"{tmp_path / 'named'}: 6 pictures with 6 people" in capsys.readouterr().out
    document = json.loads((tmp_path / "named" / "annotations.json").read_text())
    assert [image["file_name"][:4] for image in document["images"]] == ["walk"] * 3 + ["othe"] * 3
    folder = ["collect", str(tmp_path / "*.skeletons.jsonl"), "--pictures", "6", "--video", str(tmp_path / "*.mp4")]
    assert main([*folder, "--out", str(tmp_path / "globs")]) == 0
    document = json.loads((tmp_path / "globs" / "annotations.json").read_text())
    assert [image["file_name"][:4] for image in document["images"]] == ["othe"] * 3 + ["walk"] * 3  # as they are named
    capsys.readouterr()
    renamed = other.rename(tmp_path / "third.mp4")
    assert main([*base, video, str(renamed), "--out", str(tmp_path / "order"), "--form", "yolo"]) == 0
    assert "6 pictures with 6 people, 5 in train, 1 in val" in capsys.readouterr().out
    assert main([*base, video, "--out", str(tmp_path / "less")]) == 2
    assert "2 streams and 1 videos were given, and cannot be matched by name (other.mp4)" in capsys.readouterr().err
    assert main(["collect", str(stream), str(stream), "--video", video, "--out", str(tmp_path / "twice")]) == 2
    assert "a stream is given twice" in capsys.readouterr().err


def test_videos_of_one_name_are_found_where_they_lay(tmp_path, capsys):
    for day in "abc":  # a camera's, which counts from 1 every day; of b nobody wants the stream
        (tmp_path / day).mkdir()
        write_walk(tmp_path / day / "1.mp4")
    for day in "ca":
        (tmp_path / "out" / day).mkdir(parents=True)
        write_stream(tmp_path / "out" / day / "1.skeletons.jsonl", source=str(tmp_path / day / "1.mp4"))
    asked = ["collect", f"{tmp_path}/out", "--video", f"{tmp_path}/?/1.mp4", "--out", f"{tmp_path}/set"]
    assert main([*asked, "--pictures", "4"]) == 0
    assert "4 pictures with 4 people" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("counts", "share", "held"),
    [
        ([1] * 5, 0.2, 1), ([2] * 5, 0.2, 2), ([3] * 5, 0.2, 3), ([10] * 5, 0.2, 10), ([10], 0.2, 2), ([2], 0.8, 1),
        ([5, 5], 0.0, 0), ([1], 0.5, 0), ([], 0.5, 0), ([0, 4, 0], 0.01, 1),
    ],
)  # fmt: skip
def test_the_share_for_validation_is_of_all_pictures(counts, share, held):
    """However few each video has."""
    found = _held_out(counts, share)
    assert sum(found) == held
    assert all(0 <= some <= count for some, count in zip(found, counts, strict=True))


@given(st.lists(st.integers(0, 40), max_size=30), st.floats(0, 0.99))
def test_no_share_for_validation_takes_all_or_more_than_there_is(counts, share):
    found = _held_out(counts, share)
    assert all(0 <= some <= count for some, count in zip(found, counts, strict=True))
    assert sum(found) < max(1, sum(counts))
    assert abs(sum(found) - share * sum(counts)) <= 1
