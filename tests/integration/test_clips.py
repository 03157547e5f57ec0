"""Real clips of people from end to end: no frame lost, every stream valid, the video decodes, the sound is there."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.config import load
from sharpose_rt.skeletons import StreamReader, validate
from sharpose_rt.types import Packet

CLIPS = {
    "openpose_video.avi": True,
    "supervision_walking.mp4": True,
    "pose2sim_multi_cam01.mp4": False,
    "pyskl_ntu_sample.avi": False,
    "sports2d_demo.mp4": True,
    "sports2d_demo_old.mp4": True,
    "sam2_juggle.mp4": False,
    "romp_sample_video2.mp4": True,
    "intel_one_by_one_person.mp4": False,
    "tfjs_pose_squats.mp4": False,
}


def _decoded(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


def _check(clip: Path, sound: bool, tmp_path: Path, expected: int, *options: str) -> None:
    options = (f"pose.model={SMALL.name}", "pose.weights=random", "output.preset=ultrafast", "offline=true", *options)
    config = load(None, [f"output.directory={tmp_path}", *options])
    results = FileRun(str(clip), config).run()
    assert results.stream is not None
    assert results.video is not None
    problems = [p for p in validate(results.stream) if p.severity == "error"]
    assert problems == []
    reader = StreamReader(results.stream)
    times = [record.pts_s for record in reader]
    assert reader.end is not None
    assert reader.end["status"] == "complete"
    assert len(times) == expected
    assert times == sorted(times)
    written = _decoded(results.video)
    assert len(written) == expected
    assert max(abs((a - times[0]) - b) for a, b in zip(times, written, strict=True)) < 0.002
    with av.open(str(results.video)) as video:
        assert bool(video.streams.audio) == sound
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        width, height = reader.header.frame_size_wh
        assert (stream.width, stream.height) == (width + width % 2, height + height % 2)


@pytest.mark.shared
@pytest.mark.parametrize("name", CLIPS)
def test_the_beginning_of_each_clip(name: str, shared_dir: Path, tmp_path: Path) -> None:
    _check(
        shared_dir / "video" / name, CLIPS[name], tmp_path, 8, "source.max_frames=8", "detector.every=4",
        "detector.name=bundled", "detector.max_people=3",
    )  # fmt: skip


@pytest.mark.shared
def test_who_walks_in_is_shown_from_the_first_look_that_finds_them(shared_dir: Path, tmp_path: Path) -> None:
    options = ["detector.name=bundled", "detector.every=18", "source.max_frames=60", "pose.quality_threshold=-inf"]
    config = load(None, [*options, f"output.directory={tmp_path}", "output.video=false", "offline=true"])
    packets: list[Packet] = []
    FileRun(str(shared_dir / "video/sports2d_demo.mp4"), config).run(packets.append)
    found = {p.frame.frame_id: int((p.detections.bbox_scores >= 0.5).sum()) for p in packets if p.detections}
    shown = [0 if p.poses is None else len(p.poses) for p in packets]
    assert found == {0: 1, 18: 1, 36: 1, 54: 2}
    assert shown == [1] * 54 + [2] * 6


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CLIPS)
def test_each_clip_whole(name: str, shared_dir: Path, tmp_path: Path) -> None:
    clip = shared_dir / "video" / name
    with av.open(str(clip)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    _check(clip, CLIPS[name], tmp_path, frames, "detector.name=full", "pose.quality_threshold=-inf")
