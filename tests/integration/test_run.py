"""The whole run on small clips: nothing lost, the same bytes each time, and every fault ends in order."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from media_clips import WALK_TIMES as TIMES
from media_clips import read_number, write_clip
from people_set import SMALL
from raising import raising

from sharpose_rt.api import PoseTracker, SHaRPose
from sharpose_rt.app import FileRun
from sharpose_rt.cli import main
from sharpose_rt.commands import given, track
from sharpose_rt.commands.track import stopped_by_signals
from sharpose_rt.config import DetectorConfig, DrawConfig, RunConfig, load
from sharpose_rt.detection.boxes import FullFrameDetector
from sharpose_rt.detection.bundled import BundledDetector
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import ConfigError, OutputError, SourceError, WeightsError
from sharpose_rt.graph import Models, Tracking
from sharpose_rt.live import Hub
from sharpose_rt.live.metrics import render
from sharpose_rt.media import Painter, open_source
from sharpose_rt.media.container import ContainerSource
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.outputs import Results
from sharpose_rt.several import SeveralRun
from sharpose_rt.skeleton import COCO17, MPII16
from sharpose_rt.skeletons import StreamReader, validate
from sharpose_rt.stages import DetectStage, EstimateStage, SmoothStage, TrackStage, VideoSink, WriteStage
from sharpose_rt.tracking import rts_smooth
from sharpose_rt.types import Detections, Frame, Packet, PoseStage

FRAMES = len(TIMES)
SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "demo.skeletons.jsonl"
QUICK = {"model": SMALL.name, "weights": "random", "precision": "fp32", "quality_threshold": -math.inf}
"""A network where what lies around it is tested: a small one, and nobody goes through its fine stage."""
TRACKER: dict[str, Any] = {"pose": QUICK, "detector": {"name": "full"}}
RANDOM = ["--model", SMALL.name, "--weights", "random"]


def _config(out: Path, *more: str) -> RunConfig:
    options = [f"pose.model={SMALL.name}", "pose.weights=random", "pose.precision=fp32", "pose.quality_threshold=-inf"]
    options += ["detector.name=full", f"output.directory={out}"]
    return load(None, [*options, "output.preset=ultrafast", *more])


def _decoded(path: Path) -> tuple[list[float], list[int], int]:
    """Times and drawn numbers of all frames, and how many audio packets there are."""
    with av.open(str(path)) as container:
        frames = [(float(f.time), read_number(f.to_ndarray(format="bgr24"))) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = sum(p.dts is not None for p in container.demux(audio=0)) if container.streams.audio else 0
    return [t for t, _ in frames], [n for _, n in frames], sound


def _stream(results: Results) -> Path:
    assert results.stream is not None
    return results.stream


def _errors(path: Path) -> list[str]:
    return [str(p) for p in validate(path) if p.severity == "error"]


def test_a_file_loses_no_frame(clip: Path, tmp_path: Path) -> None:
    config = _config(tmp_path, "draw.boxes=false", "draw.ids=false", "draw.status=false", "draw.min_score=1")
    results = FileRun(str(clip), config).run()
    assert results.status == "complete"
    assert results.video is not None
    assert results.summary is not None
    assert _errors(_stream(results)) == []

    reader = StreamReader(_stream(results))
    records = list(reader)
    assert [r.frame_id for r in records] == list(range(FRAMES))
    np.testing.assert_allclose([r.pts_s for r in records], TIMES, atol=2e-3)
    assert reader.end is not None
    assert (reader.end["status"], reader.end["frames"], reader.end["dropped"]) == ("complete", FRAMES, 0)
    assert reader.header.frame_size_wh == (160, 128)
    assert [len(r.poses) for r in records] == [1] * FRAMES
    assert {int(i) for r in records for i in r.poses.track_ids} == {1}

    times, numbers, sound = _decoded(results.video)
    np.testing.assert_allclose(times, TIMES, atol=2e-3)
    assert numbers == list(range(FRAMES))
    assert sound > 0

    summary = json.loads(results.summary.read_text())
    assert summary["frames"] == FRAMES
    assert summary["config"]["detector"]["name"] == "full"
    assert set(summary["latency_ms"]["capture_to_output"]) == {"p50", "p95", "p99"}
    assert list(summary["latency_ms"]["stages"]) == ["detect", "track", "pose", "smooth", "write"]
    assert sum(stage["share"] for stage in summary["latency_ms"]["stages"].values()) == pytest.approx(1)
    assert {s["name"] for s in summary["pipeline"]["stages"]} >= {"capture", "detect", "write"}


def _slowed(process: Callable[..., object], pattern: list[float]) -> Callable[..., object]:
    calls = iter(pattern * 1000)

    def slow(self: object, item: object) -> object:
        time.sleep(next(calls))
        return process(self, item)

    return slow


def test_thread_timing_does_not_change_a_byte(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = []
    for run, pauses in enumerate(([0.0], [0.004, 0.0, 0.0], [0.0, 0.006])):
        with monkeypatch.context() as patch:
            for stage in (DetectStage, EstimateStage, WriteStage):
                patch.setattr(stage, "process", _slowed(stage.process, pauses))
            results = FileRun(str(clip), _config(tmp_path / str(run), "queue_frames=2", "detector.every=3")).run()
        head, *lines = _stream(results).read_bytes().splitlines()
        streams.append(({**json.loads(head), "created": ""}, lines))
    assert streams[0] == streams[1] == streams[2]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("stage", [DetectStage, TrackStage, EstimateStage, SmoothStage, WriteStage])
def test_an_error_in_any_stage_reaches_the_caller(
    stage: type, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boom(RuntimeError):
        pass

    original, boom = stage.process, Boom("here")

    def process(self: object, item: object) -> object:
        frame = getattr(item, "frame", item)
        if frame.frame_id == 9:
            raise boom
        return original(self, item)

    monkeypatch.setattr(stage, "process", process)
    before = set(threading.enumerate())
    with pytest.raises(Boom) as caught:
        FileRun(str(clip), _config(tmp_path)).run()
    assert caught.value is boom
    assert set(threading.enumerate()) <= before

    stream = next(tmp_path.glob("*.skeletons.jsonl"), None)
    if stream is None:  # the failure outran the first frame
        assert list(tmp_path.iterdir()) == []
        return
    reader = StreamReader(stream)
    written = len(list(reader))
    assert written <= 9
    assert reader.end is not None
    assert reader.end["status"] == "error"
    assert json.loads(next(tmp_path.glob("*.summary.json")).read_text())["status"] == "error"
    if written:
        assert len(_decoded(next(tmp_path.glob("*.mp4")))[0]) == written


def test_a_full_disk_keeps_what_was_written(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = VideoSink.write

    def write(self: VideoSink, packet: object, status_line: str) -> None:
        if packet.frame.frame_id == 5:  # type: ignore[attr-defined]
            raise OutputError("a.jsonl cannot be written (No space left on device)")
        original(self, packet, status_line)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoSink, "write", write)
    with pytest.raises(OutputError, match="No space left"):
        FileRun(str(clip), _config(tmp_path)).run()
    reader = StreamReader(next(tmp_path.glob("*.skeletons.jsonl")))
    assert len(list(reader)) == 6  # the stream is written before the video
    assert reader.end is not None
    assert reader.end["status"] == "error"


def test_a_second_run_does_not_touch_the_first(clip: Path, tmp_path: Path) -> None:
    config = _config(tmp_path, "source.max_frames=2", "output.video=false")
    first = FileRun(str(clip), config).run()
    kept = _stream(first).read_bytes()
    second = FileRun(str(clip), config).run()
    assert _stream(second).name == "walk-2.skeletons.jsonl"
    assert _stream(first).read_bytes() == kept


def test_rts_that_is_interrupted_before_its_video_says_so(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = FileRun(str(clip), _config(tmp_path, "smooth.method=rts"))

    def interrupted(*given: Any) -> Any:
        run.stop()
        return rts_smooth(*given)

    monkeypatch.setattr("sharpose_rt.tracking.rts_smooth", interrupted)
    found = run.run()
    assert (found.status, found.video) == ("interrupted", None)
    assert "but not the video, which rts writes afterwards" in caplog.text
    assert json.loads(Path(str(found.summary)).read_text())["status"] == "interrupted"
    assert StreamReader(_stream(found)).header.smoothing == "rts"


def test_rts_of_which_frames_were_thrown_away_leaves_what_was_smoothed_forwards(clip: Path, tmp_path: Path) -> None:
    run = FileRun(str(clip), _config(tmp_path, "smooth.method=rts", "queue_frames=2"))
    taken: list[int] = []

    def stop_twice(packet: Packet) -> None:
        taken.append(packet.frame.frame_id)
        while run.totals.frames < 4:  # more than are taken
            time.sleep(0.005)
        run.stop()
        run.stop()

    found = run.run(stop_twice)
    assert (found.status, found.video) == ("interrupted", None)
    reader = StreamReader(_stream(found))
    assert len(list(reader)) == found.figures["frames"] > len(taken)
    assert reader.header.smoothing == "kalman"


@pytest.mark.parametrize("method", ["kalman", "rts"])
def test_a_run_that_is_stopped_before_it_begins_makes_nothing(clip: Path, tmp_path: Path, method: str) -> None:
    run = FileRun(str(clip), _config(tmp_path / "out", f"smooth.method={method}"))
    run.stop()
    found = run.run()
    assert (found.status, found.figures["frames"], found.stream) == ("interrupted", 0, None)
    assert not (tmp_path / "out").exists()


def test_sound_is_left_out_where_it_is_not_wanted(clip: Path, tmp_path: Path) -> None:
    found = FileRun(str(clip), _config(tmp_path, "output.audio=false", "output.record=true")).run()
    for path in (found.video, found.recording):
        assert path is not None
        with av.open(str(path)) as container:
            assert (len(container.streams.video), len(container.streams.audio)) == (1, 0)


def test_rts_that_is_interrupted_in_its_second_pass_tells_what_was_damaged(tmp_path: Path) -> None:
    _damage(tmp_path / "in.avi", range(14, 22))
    run = FileRun(str(tmp_path / "in.avi"), _config(tmp_path / "out", "smooth.method=rts", "queue_frames=1"))
    seen: list[int] = []

    def stop(packet: Packet) -> None:
        seen.append(packet.frame.frame_id)
        if seen.count(0) == 2:
            run.stop()

    figures = run.run(stop).figures
    assert (figures["status"], figures["frames"] + figures["damaged"]) == ("interrupted", FRAMES)


def test_a_summary_has_what_the_weights_are_without_their_ranges(clip: Path, tmp_path: Path) -> None:
    found = FileRun(
        str(clip), _config(tmp_path, "pose.model=tiny_256x192", "pose.weights=auto", "output.video=false")
    ).run()
    text = Path(str(found.summary)).read_text()
    weights = json.loads(text)["weights"]
    assert weights["metadata"]["model"] == "tiny_256x192"
    assert len(weights["sha256"]) == 64
    assert len(text) < 30_000


def test_the_networks_of_one_video_serve_the_next_and_go_with_the_last(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, engines, alive = tmp_path / "clips", [], []
    folder.mkdir()
    for name in "abc":
        shutil.copy(clip, folder / f"{name}.mp4")
    opened, made = EstimateStage.open, FileRun.__init__

    def opening(stage: EstimateStage) -> None:
        opened(stage)
        engines.append(weakref.ref(stage.engine))

    def making(run: FileRun, *args: Any, **options: Any) -> None:
        alive.append(sum(engine() is not None for engine in engines))
        made(run, *args, **options)

    monkeypatch.setattr(EstimateStage, "open", opening)
    monkeypatch.setattr(FileRun, "__init__", making)
    options = [*RANDOM, "--boxes", "full", "--no-video", "--output", str(tmp_path / "out"), "--quiet"]
    assert main(["--source", str(folder), *options, "--precision", "fp32", "--quality-threshold=-inf"]) == 0
    assert alive == [0, 1, 2]  # references to one
    gc.collect()
    assert [engine() for engine in engines] == [None] * 3


def test_pictures_of_an_earlier_run_and_long_names(tmp_path: Path) -> None:
    pictures, out = tmp_path / "p", tmp_path / "out"
    pictures.mkdir()
    names = ["a", "b", "\u8d70" * 82, "d"]
    for name in names:
        cv2.imwrite(str(tmp_path / "x.png"), np.zeros((90, 120, 3), np.uint8))
        (tmp_path / "x.png").rename(pictures / f"{name}.png")
    first = FileRun(str(pictures), _config(out, "output.formats=[openpose]")).run()
    assert (first.status, first.figures["frames"]) == ("complete", 4)
    assert first.video == out / "p.annotated"
    assert len(list((out / "p.annotated").iterdir())) == len(list((out / "p.openpose").iterdir())) == 4
    (out / "p.annotated" / "mine.png").write_bytes(b"kept")
    (pictures / "a.png").unlink()
    again = FileRun(str(pictures), _config(out, "output.overwrite=true")).run()
    found = sorted(path.name for path in (out / "p.annotated").iterdir())
    assert [name[:8] for name in found] == ["000000_b", "000001_d", f"000002_{names[2][0]}", "mine.png"]
    assert again.figures["frames"] == 3
    for path in out.glob("p.*"):
        if path.is_file():
            path.unlink()
    third = FileRun(str(pictures), _config(out)).run()
    assert third.video == out / "p-2.annotated"  # a folder of pictures is an earlier result too


def test_pictures_keep_their_names_where_they_are_played(tmp_path: Path) -> None:
    for name in ("left", "right"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((90, 120, 3), np.uint8))
    found = FileRun(str(tmp_path), _config(tmp_path / "out", "source.realtime=true", "output.video=false")).run()
    assert [frame.picture for frame in StreamReader(_stream(found))] == ["left.png", "right.png"]


def test_rts_reads_twice_and_replaces_the_stream(clip: Path, tmp_path: Path) -> None:
    all_count = "smooth.min_score=0"  # random weights give low scores
    causal = FileRun(str(clip), _config(tmp_path / "a", "output.video=false", all_count)).run()
    both = FileRun(str(clip), _config(tmp_path / "b", "smooth.method=rts", all_count)).run()
    assert both.video is not None
    assert _errors(_stream(both)) == []
    a, b = list(StreamReader(_stream(causal))), list(StreamReader(_stream(both)))
    assert StreamReader(_stream(both)).header.smoothing == "rts"
    assert len(a) == len(b) == FRAMES == len(_decoded(both.video)[0])
    for found, frames in ((causal, a), (both, b)):
        predicted = sum((frame.poses.stage == PoseStage.PREDICTED).sum() for frame in frames)
        assert found.figures["people"]["rows"] == sum(len(frame.poses) for frame in frames)
        assert found.figures["stages"]["predicted"] == predicted
    stages = [stage["name"] for stage in both.figures["pipeline"]["stages"]]
    assert stages == [stage["name"] for stage in causal.figures["pipeline"]["stages"]]  # those that took the time
    raw_a = np.stack([r.poses.raw_keypoints for r in a])
    raw_b = np.stack([r.poses.raw_keypoints for r in b])
    np.testing.assert_array_equal(raw_a, raw_b)
    jerk = [np.abs(np.diff(np.stack([r.poses.keypoints for r in s]), n=2, axis=0)).mean() for s in (a, b)]
    assert jerk[1] < jerk[0]


def test_only_skeletons_of_who_is_in_the_region_are_drawn(clip: Path, tmp_path: Path) -> None:
    arguments = ["--source", str(clip), "--output", str(tmp_path), *RANDOM, "--boxes", "full"]
    more = ["--region", "40,32 120,96", "--rotate", "180", "--skeletons-only", "--quiet", "--set", "draw.status=false"]
    assert main(["track", *arguments, *more, "--set", "output.preset=ultrafast"]) == 0
    reader = StreamReader(tmp_path / "walk.skeletons.jsonl")
    boxes = [record.poses.bboxes_xyxy.tolist() for record in reader]
    assert boxes == [[[40.0, 32.0, 120.0, 96.0]]] * FRAMES
    with av.open(str(tmp_path / "walk.annotated.mp4")) as container:
        images = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(images) == FRAMES
    for image in images:
        assert image[:8].max() < 40  # the clip's picture is gone ...
        assert image.max() > 100  # ... and somebody is drawn


def test_trimming_and_stride(clip: Path, tmp_path: Path) -> None:
    config = _config(tmp_path, "source.start_s=0.5", "source.end_s=1.5", "source.stride=2", "output.video=false")
    results = FileRun(str(clip), config).run()
    expected = [t for t in TIMES if 0.5 <= t < 1.5][::2]
    np.testing.assert_allclose([r.pts_s for r in StreamReader(_stream(results))], expected, atol=2e-3)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_order(number: int, tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    write_clip(clip, 1000, size_wh=(96, 64), gop=30)
    command = [sys.executable, "-m", "sharpose_rt", "--source", str(clip), "--weights", "random", "--boxes", "full"]
    command += ["--quality-threshold=-inf", "--set", "output.preset=ultrafast", "--output", str(tmp_path / "out")]
    run = subprocess.Popen(
        [*command, "--backend", "torch", "--precision", "fp32"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stream = tmp_path / "out" / "long.skeletons.jsonl"
    while not (stream.exists() and stream.read_bytes().count(b"\n") > 3):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    os.kill(run.pid, number)
    out, error = run.communicate()
    assert run.returncode == 128 + number, error
    assert "interrupted" in out
    reader = StreamReader(stream)
    frames = len(list(reader))
    assert 3 <= frames < 1000
    assert reader.end is not None
    assert reader.end["status"] == "interrupted"
    assert len(_decoded(tmp_path / "out" / "long.annotated.mp4")[0]) == frames


def test_ctrl_c_again_and_again_ends_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    stops = []

    class Hangs:
        def stop(self) -> None:
            stops.append(1)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(track, "_TWICE_S", 0)
    with stopped_by_signals(Hangs()) as came:  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # the next one ends the program wherever it is
    assert (len(stops), came) == (2, [signal.SIGINT] * 2)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_is_sent_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """GNU `timeout` sends its own to the program and to the program's group; another signal is another one."""
    stops: list[int] = []
    monkeypatch.setattr(track, "_TWICE_S", 60)
    with stopped_by_signals(SimpleNamespace(stop=lambda: stops.append(1))) as came:  # type: ignore[arg-type]
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert (len(stops), came) == (2, [signal.SIGTERM, signal.SIGINT])


@pytest.mark.timeout(90)
def test_videos_in_folders_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("jump", "squat"):
        (tmp_path / kind).mkdir()
        write_clip(tmp_path / kind / "001.mp4", 4, size_wh=(96, 64))
    (tmp_path / "jump" / "000.mp4").write_bytes(b"no video at all" * 100)
    options = [*RANDOM, "--boxes", "full", "--no-video", "--format", "csv", "--overwrite"]
    pattern, out = str(tmp_path / "**" / "*.mp4"), tmp_path / "out"
    assert main(["--source", pattern, *options, "--output", str(out)]) == 2
    assert "continuing with the next one" in caplog.text
    said = capsys.readouterr().out
    bad, good = tmp_path / "jump" / "000.mp4", tmp_path / "jump" / "001.mp4"
    assert f"1 of 3: {bad}\n2 of 3: {good}\ncomplete: 4 frames" in said
    assert said.endswith(f"2 of 3 done; 1 failed: {bad}\n")
    names = {str(path.relative_to(out)) for path in out.rglob("*.jsonl")}
    assert names == {f"{kind}/001.skeletons.jsonl" for kind in ("jump", "squat")}
    assert [len(list(StreamReader(out / name))) for name in names] == [4, 4]
    assert len(list(out.rglob("*.csv"))) == 2

    caplog.clear()
    given = [tmp_path / "squat" / "001.mp4", tmp_path / "none.mp4", tmp_path / "jump" / "001.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, given)))
    arguments = ["--source", f"@{tmp_path / 'list.txt'}", *options, "--quiet"]
    assert main([*arguments, "--output", str(tmp_path / "again")]) == 2
    assert {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.jsonl")} == names
    assert f"2 of 3 done; 1 failed: {tmp_path / 'none.mp4'}" in caplog.text


@pytest.mark.timeout(90)
def test_a_folder_with_two_videos_of_one_name(tmp_path: Path) -> None:
    for name in ("cam.mp4", "cam.mkv"):
        write_clip(tmp_path / name, 4, size_wh=(96, 64), container="matroska" if name.endswith("mkv") else "mp4")
    options = [*RANDOM, "--boxes", "full", "--no-video", "--overwrite", "--output", str(tmp_path / "out")]
    assert main(["--source", str(tmp_path), *options]) == 0
    streams = sorted((tmp_path / "out").glob("*.skeletons.jsonl"))
    assert [path.name for path in streams] == ["cam-2.skeletons.jsonl", "cam.skeletons.jsonl"]
    assert [len(list(StreamReader(path))) for path in streams] == [4, 4]
    assert main(["--source", str(tmp_path / "cam.mp4"), *options]) == 0  # replaces its own, of another command
    assert len(list((tmp_path / "out").glob("*.skeletons.jsonl"))) == 2


def _counted(function: Callable[..., Any], calls: list[str], name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        calls.append(name)
        return function(*args)

    return call


def test_models_are_loaded_once_for_all_that_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(PoseEngine, "__init__", _counted(PoseEngine.__init__, loaded, "pose"))
    monkeypatch.setattr(BundledDetector, "load", _counted(BundledDetector.load, loaded, "detector"))
    photograph = read_photograph("bus.jpg")
    video = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (405, 540))
    for _ in range(3):
        video.write(cv2.resize(photograph, (405, 540)))
    video.release()
    shutil.copy(tmp_path / "a.mp4", tmp_path / "c.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no video at all")
    found = []
    for source in ("*.mp4", "a.mp4"):
        out = tmp_path / f"out{len(found)}"
        options = ["--detector", "bundled", "--region", "10,10 390,520", "--no-video", "--precision", "fp32"]
        main(["--source", str(tmp_path / source), *options, "--output", str(out)])
        found.append([[record.to_record() for record in StreamReader(path)] for path in sorted(out.glob("*.jsonl"))])
    assert sorted(loaded) == ["detector"] * 2 + ["pose"] * 2
    (first, last), (alone,) = found
    assert first == last == alone
    assert len(alone[-1]["people"]) > 1


def test_python_tracker_keeps_its_models_for_the_next_run(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(PoseEngine, "__init__", _counted(PoseEngine.__init__, loaded, "pose"))
    with PoseTracker(**TRACKER) as tracker:
        whole = list(tracker.run(clip))
        for _ in tracker.run(clip):
            break
        again = list(tracker.run(clip))
        assert loaded == ["pose"]
        for left, right in zip(whole, again, strict=True):
            np.testing.assert_array_equal(left.poses.keypoints, right.poses.keypoints)
        outer, inner = tracker.run(clip), tracker.run(clip)
        next(outer)
        next(inner)  # at the same time: each has its own
        assert loaded == ["pose"] * 2
        outer.close()
        inner.close()
        with pytest.raises(SourceError):
            list(tracker.run([np.zeros((3, 3))]))
        list(tracker.run(clip))
        assert len(loaded) == 3  # something went wrong with what was kept


def _damage(path: Path, which: range) -> None:
    """Makes a video some of whose frames cannot be decoded."""
    write_clip(path, FRAMES, codec="mpeg4", container="avi", gop=1, bframes=0)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for at, size in places[which.start : which.stop]:
        data[at + 8 : at + size] = bytes(size - 8)  # past the header of the chunk
    path.write_bytes(data)


def test_damaged_packets_are_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _damage(tmp_path / "in.avi", range(5, 15))
    hub = Hub()
    results = FileRun(str(tmp_path / "in.avi"), _config(tmp_path / "out"), [hub]).run()
    assert results.figures["frames"] + results.figures["damaged"] == FRAMES
    assert f'sharpose_frames_damaged_total{{source="in"}} {results.figures["damaged"]}' in render(hub).splitlines()
    assert hub.runs[0].status()["damaged"] == results.figures["damaged"]
    assert results.figures["damaged"] >= 9
    assert f"left out: {results.figures['damaged']}" in caplog.text


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_is_not_decoded_in_time_is_counted_as_dropped(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets: Counter[ContainerSource] = Counter()

    def leaves_out(source: ContainerSource, _: Any, __: float) -> bool:
        old = packets[source] in range(10, 20)
        packets[source] += 1
        source.faults.left_out += old
        return old

    monkeypatch.setattr(ContainerSource, "_leaves_out", leaves_out)
    # A codec whose decoder holds no frames back, as those of live sources do not.
    write_clip(tmp_path / "in.avi", FRAMES, fps=25, container="avi", codec="rawvideo", bframes=0)
    config = _config(tmp_path / "out")
    sources = [str(tmp_path / "in.avi")] * at_once
    runs = SeveralRun(sources, config).run() if at_once > 1 else [FileRun(sources[0], config).run()]
    for results in runs:
        assert results.figures["dropped"] == {"decoder slower than source": 10}
        assert results.figures["frames"] == FRAMES - 10
        records = list(reader := StreamReader(_stream(results)))
        assert reader.end is not None
        assert [record.frame_id for record in records] == [*range(10), *range(20, FRAMES)]
        assert reader.end["dropped"] == 10


def test_what_a_decoder_leaves_out_behind_damage_is_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    write_clip(path, 80, size_wh=(160, 96), faststart=True)
    data = bytearray(path.read_bytes())
    begin, length = data.find(b"mdat"), len(data) - data.find(b"mdat")
    for at in range(begin + int(0.6 * length), begin + int(0.9 * length), 37):
        data[at] ^= 0xFF
    path.write_bytes(data)
    with open_source(str(path)) as source:
        frames = len(list(source))
        assert 0 < frames < 80
        assert frames + source.faults.damaged == 80


def test_a_file_that_is_cut_off_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "whole.mp4", 60, faststart=True)
    data = (tmp_path / "whole.mp4").read_bytes()
    (half := tmp_path / "half.mp4").write_bytes(data[: int(0.8 * len(data))])
    options = [*RANDOM, "--boxes", "full", "--no-video", "--output", str(tmp_path / "out")]
    assert main(["--source", str(tmp_path / "*.mp4"), *options]) == 0
    assert capsys.readouterr().out.endswith(f"2 of 2 done; 1 cut off: {half}\n")
    figures = {name: json.loads((tmp_path / "out" / f"{name}.summary.json").read_text()) for name in ("half", "whole")}
    assert figures["half"]["cut_off"] == f"{figures['half']['frames']} of 60 frames"
    assert figures["whole"]["cut_off"] is None


def test_of_many_names_the_first_are_told() -> None:
    names = [f"{n}.mp4" for n in range(21)]
    assert given.named("failed", names[:20]) == f"; 20 failed: {', '.join(names[:20])}"
    assert given.named("failed", names) == f"; 21 failed: {', '.join(names[:20])}, ..."
    assert given.named("failed", []) == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_results_and_progress_that_cannot_be_printed_end_nothing(
    name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = [*RANDOM, "--boxes", "full", "--no-video", "--output", str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sharpose_rt.commands.progress._PLAIN_EVERY_S", 0.0)
        monkeypatch.setattr(sys, name, full)
        assert main(["--source", str(clip), *options]) == 0
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert json.loads((tmp_path / "walk.summary.json").read_text())["status"] == "complete"
    if name == "stdout":
        assert "cannot print the results (No space left on device)" in caplog.text


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_standard_stream_ends_nothing(closed: str) -> None:
    said = f"main(['validate', {str(SAMPLE)!r}])"
    code = f"import sys; sys.{closed} = None; from sharpose_rt.cli import main; sys.exit({said})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


def test_a_closed_terminal_ends_in_order() -> None:
    came: list[int] = []
    given = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` ignores it
    before = signal.getsignal(signal.SIGHUP)
    with stopped_by_signals(SimpleNamespace(stop=lambda: came.append(1))) as signals:  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGHUP)
    assert (came, signals) == ([1], [signal.SIGHUP])
    assert signal.getsignal(signal.SIGHUP) is before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with stopped_by_signals(SimpleNamespace(stop=lambda: came.append(1))):  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, given)
    assert came == [1]


@pytest.mark.parametrize("error", [MemoryError("too many frames"), OutputError("no room")])
def test_a_backward_pass_that_fails_leaves_what_was_smoothed_forwards(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    owner = "tracking.rts_smooth" if isinstance(error, MemoryError) else "skeletons.rewrite_stream"
    monkeypatch.setattr(f"sharpose_rt.{owner}", raising(error))
    job = FileRun(str(clip), _config(tmp_path, "smooth.method=rts", "output.video=false", "output.formats=[csv]"))
    with pytest.raises(type(error), match=str(error)):
        job.run()
    summary = json.loads((tmp_path / "walk.summary.json").read_text())
    assert summary["status"] == "error"
    reader = StreamReader(tmp_path / "walk.skeletons.jsonl")
    assert len(list(reader)) == FRAMES
    assert reader.header.smoothing == "kalman"


def test_a_source_that_cannot_be_closed_costs_no_output(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = FileRun(str(clip), _config(tmp_path, "output.video=false", "output.formats=[csv]"))
    close, calls = job.source.close, iter(range(9))

    def fail() -> None:
        close()
        if next(calls):  # not where the pipeline closes it
            raise RuntimeError("the driver is gone")

    monkeypatch.setattr(job.source, "close", fail)
    results = job.run()
    assert results.formats
    assert "the driver is gone" in caplog.text


def test_pictures_come_out_as_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (90, 120, 3)), ("b.jpg", (120, 90, 3))):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, size, np.uint8))
    results = FileRun(str(folder), _config(tmp_path / "out")).run()
    assert results.video is not None
    assert sorted(p.name for p in results.video.iterdir()) == ["000000_a.png", "000001_b.png"]
    assert [record.picture for record in StreamReader(_stream(results))] == ["a.png", "b.jpg"]
    assert _errors(_stream(results)) == []
    single = FileRun(str(folder / "a.png"), _config(tmp_path / "out")).run()
    assert single.video is not None
    assert cv2.imread(str(single.video)).shape == (90, 120, 3)


def test_python_tracker_closes_when_left_early(clip: Path) -> None:
    before = set(threading.enumerate())
    for seen, frame in enumerate(PoseTracker(**TRACKER).run(clip), start=1):
        assert frame.people[0].keypoints.shape == (17, 2)
        assert frame.people[0].track_id == 1
        assert frame.image_bgr.shape == (128, 160, 3)
        if seen == 3:
            break
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConfigError, match="did you mean 'smooth'"):
        PoseTracker(smoth={})


def test_frames_that_the_program_has(clip: Path) -> None:
    wanted = list(PoseTracker(**TRACKER).run(clip))
    pairs = [(frame.pts_s, frame.image_bgr) for frame in wanted]
    given = list(PoseTracker(**TRACKER).run(pairs))
    before_zero = [(pts_s - 0.3, image) for pts_s, image in pairs[::4]]
    assert [frame.pts_s for frame in PoseTracker(**TRACKER).run(before_zero)] == [pts_s for pts_s, _ in before_zero]
    reused, asked = np.empty_like(pairs[0][1]), []
    with PoseTracker(**TRACKER) as tracker:
        for pts_s, image in pairs:
            reused[:] = image  # as a capture loop does
            asked.append(tracker.update(reused, pts_s))
        assert reused.flags.writeable
        reused[:] = 0
        for time_s in (0.5, math.nan, math.inf):
            with pytest.raises(ValueError, match="increasing, finite times"):
                tracker.update(reused, time_s)
        with pytest.raises(ValueError, match=r"float64 of shape \(3, 3\); \(H, W, 3\) uint8 BGR"):
            tracker.update(np.zeros((3, 3)), 99)  # type: ignore[arg-type]
        tracker.close()
        assert tracker.update(reused).frame_id == 0  # anew, by the clock
    for frames in (given, asked):
        assert [f.pts_s for f in frames] == [f.pts_s for f in wanted]
        assert [f.people[0].track_id for f in frames] == [1] * FRAMES
        np.testing.assert_allclose(
            [f.poses.keypoints for f in frames], [f.poses.keypoints for f in wanted], rtol=1e-4, atol=1e-2
        )
        np.testing.assert_array_equal(frames[5].image_bgr, wanted[5].image_bgr)
    alone = list(PoseTracker(**TRACKER).run([image for _, image in pairs[:3]], stills=True))
    assert [f.people[0].track_id for f in alone] == [1, 2, 3]  # nobody goes on from picture to picture
    for frame in alone:
        np.testing.assert_array_equal(frame.people[0].raw_keypoints, frame.people[0].keypoints)
    with PoseTracker(**TRACKER) as tracker:
        cuts = [tracker.update(image, pts_s, new_scene=n == 2) for n, (pts_s, image) in enumerate(pairs[:4])]
        assert [f.people[0].track_id for f in cuts] == [1, 1, 2, 2]
        assert [f.new_scene for f in cuts] == [False, False, True, False]
    by_rate = PoseTracker(**TRACKER).run((image for _, image in pairs[:3]), fps=10)
    assert [f.pts_s for f in by_rate] == pytest.approx([0, 0.1, 0.2])
    with pytest.raises(ConfigError, match="fps is '30'"):
        list(PoseTracker(**TRACKER).run([], fps="30"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fps is 0"):
        list(PoseTracker(**TRACKER).run([], fps=0))
    for frames, said in (
        ([[1, 2]], "a list"),
        ([(math.inf, reused)], "finite times"),
        ([(1, reused), (0, reused)], "times that never decrease"),
        ([], "no frame"),
        ([reused, None, reused], "frame 1 is a NoneType"),
        ([(None, reused)], "finite times"),
        ([(0, reused, 1)], "a tuple of 3"),
    ):
        with pytest.raises(SourceError, match=said):
            list(PoseTracker(**TRACKER).run(frames))


@pytest.mark.timeout(60)
def test_frames_that_the_program_has_are_played_at_their_own_pace_where_asked() -> None:
    options = {"pose": QUICK, "detector": {"name": "full"}, "source": {"realtime": True}}
    frames = PoseTracker(**options).run((np.zeros((96, 96, 3), np.uint8) for _ in range(30)), fps=20)
    times = [(frame.pts_s, time.monotonic()) for frame in frames]
    assert times[-1][0] == pytest.approx(29 / 20)
    assert times[-1][1] - times[0][1] > 0.9 * (times[-1][0] - times[0][0])


def test_results_are_compared_by_identity() -> None:
    with PoseTracker(**TRACKER) as tracker:
        frame = tracker.update(np.zeros((96, 96, 3), np.uint8))
    people = frame.people
    assert people.index(people[0]) == 0
    assert len({frame, frame.frame, frame.poses, *people}) == 4
    assert frame != tracker


def test_what_is_no_source_is_said_and_a_number_is_a_camera(clip: Path) -> None:
    tracker = PoseTracker(**TRACKER)
    for source, said in (
        (77, "webcam:77"),
        (-1, "N from 0"),
        (True, "the source is True; a file, folder"),
        (None, "the source is None; a file, folder"),
        ([str(clip)], rf"a list of names, the first '.*{clip.name}'; .* For files give a folder or 'glob'"),
        ((clip, clip), "a tuple of names"),
    ):
        with pytest.raises(SourceError, match=said):
            next(tracker.run(source))  # type: ignore[arg-type]


def test_python_tracker_says_which_video_a_frame_is_of_and_leaves_out_what_is_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(PoseEngine, "__init__", _counted(PoseEngine.__init__, loaded, "pose"))
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("2", "4"):
        write_clip(clips / f"{name}.mp4", 3, size_wh=(96, 64))
    for name in ("1", "3", "5"):
        (clips / f"{name}.mp4").write_bytes(b"no video at all" * 100)
    with PoseTracker(**TRACKER) as tracker:
        frames = list(tracker.run(clips))
        assert [frame.source for frame in frames] == [str(clips / "2.mp4")] * 3 + [str(clips / "4.mp4")] * 3
        assert [frame.frame_id for frame in frames] == [0, 1, 2] * 2
        told = [record.getMessage() for record in caplog.records if "mp4" in record.getMessage()]
        assert [name in line for name, line in zip(("1.mp4", "3.mp4", "5.mp4"), told, strict=True)] == [True] * 3
        assert [line.endswith("; continuing with the next one") for line in told] == [True, True, False]
        assert loaded == ["pose"]  # what is broken costs the others no networks
        assert [frame.source for frame in tracker.run([frames[0].image_bgr])] == [""]
        for name in ("2", "4"):
            (clips / f"{name}.mp4").unlink()
        with pytest.raises(SourceError, match=r"5\.mp4"):
            list(tracker.run(clips))
        with pytest.raises(SourceError, match=r"3\.mp4"):
            list(tracker.run(clips / "3.mp4"))


@pytest.mark.parametrize("options", [{"output": {"directory": "out"}}, {"live": {"picture_px": 640}}])
def test_options_of_what_a_tracker_does_not_do_are_refused(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=re.escape(f"writes and serves nothing, but {name} is {value!r}")) as error:
        PoseTracker(**options)
    assert "sharpose_rt.app.FileRun" in str(error.value)
    PoseTracker(config="live")  # the command's presets have such sections


def test_a_frame_can_be_drawn(clip: Path) -> None:
    options = {"pose": QUICK, "detector": {"name": "full"}, "draw": {"min_score": 0.0}}
    tracker = PoseTracker(**options)
    assert tracker.skeleton is COCO17
    assert PoseTracker("base_mpii_256x256").skeleton is MPII16
    first = next(frames := tracker.run(clip))
    frames.close()
    with tracker:
        again = tracker.update(first.image_bgr, 0.0)
    for frame in (first, again):
        before = frame.image_bgr.copy()
        drawn, wanted = frame.drawn(), before.copy()
        Painter(COCO17, DrawConfig(min_score=0.0)).draw(wanted, frame.poses, frame.pts_s)
        np.testing.assert_array_equal(drawn, wanted)
        assert (drawn.dtype, drawn.flags.writeable) == (np.uint8, True)
        assert (drawn != before).any()
        np.testing.assert_array_equal(frame.image_bgr, before)
        assert frame.skeleton is tracker.skeleton
    black = PoseTracker(**{**options, "draw": {"picture": False, "boxes": False, "ids": False, "min_score": 1.0}})
    assert not black.update(first.image_bgr).drawn().any()
    black.close()


def test_a_loops_own_clock_begins_with_its_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    opened = EstimateStage.open
    monkeypatch.setattr(EstimateStage, "open", lambda stage: (time.sleep(0.3), opened(stage)))
    seen: list[float] = []
    followed = TrackStage.process
    monkeypatch.setattr(
        TrackStage, "process", lambda stage, item: (seen.append(item.frame.pts_s), followed(stage, item))[1]
    )
    with PoseTracker(**TRACKER) as tracker:
        tracker.update(image)
        now_s = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now_s)  # a clock that ticks seldom
        tracker.update(image)
        tracker.update(image)
    assert seen[0] == 0
    assert 0 < seen[1] < seen[2] < 60


def test_a_loop_is_ready_for_its_first_picture_before_its_clock_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s, sizes = [50.0], set[tuple[int, int]]()
    detect = FullFrameDetector.detect

    def once_a_size(self: FullFrameDetector, frame: Frame, *, look: int = 0) -> Detections:
        if frame.size_wh not in sizes:  # as a graph is compiled
            sizes.add(frame.size_wh)
            clock_s[0] += 100
        return detect(self, frame, look=look)

    monkeypatch.setattr(FullFrameDetector, "detect", once_a_size)
    monkeypatch.setattr("sharpose_rt.api.time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    image = np.zeros((120, 160, 3), np.uint8)
    with PoseTracker(**TRACKER) as tracker:
        first = tracker.update(image)
        clock_s[0] += 0.1
        second = tracker.update(image)
    assert sizes == {(160, 120)}
    assert [first.pts_s, second.pts_s] == pytest.approx([0, 0.1])
    assert [frame.people[0].track_id for frame in (first, second)] == [1, 1]


def test_a_loops_clock_goes_on_from_the_last_time_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [50.0]
    monkeypatch.setattr("sharpose_rt.api.time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    seen = []
    with PoseTracker(**TRACKER) as tracker:
        for pts_s in (None, 1000.0, None, None, 1000.5, None):
            seen.append(tracker.update(np.zeros((120, 160, 3), np.uint8), pts_s).pts_s)
            clock_s[0] += 0.04
    assert seen == pytest.approx([0, 1000, 1000.04, 1000.08, 1000.5, 1000.54])


def test_a_closed_tracker_holds_no_models() -> None:
    """At once, not when Python happens to look for circles."""
    image = np.zeros((120, 160, 3), np.uint8)
    gc.collect()
    gc.disable()
    try:
        with PoseTracker(**TRACKER) as tracker:
            tracker.update(image)
            assert tracker._loop is not None
            engine = weakref.ref(tracker._loop._tracking.engine)
        assert engine() is None
        seen = []
        for _ in (run := PoseTracker(**TRACKER).run([image] * 3)):
            assert run.gi_yieldfrom is not None
            seen.append(weakref.ref(run.gi_yieldfrom.gi_frame.f_locals["tracking"].engine))
        del run
        assert [engine() for engine in seen] == [None] * 3
    finally:
        gc.enable()


def test_a_budget_holds_in_a_programs_own_loop() -> None:
    with PoseTracker(**TRACKER, budget={"latency_ms": 1.0}) as tracker:
        for i in range(40):
            tracker.update(np.zeros((120, 160, 3), np.uint8), i / 10)
        assert tracker._loop is not None
        budget = tracker._loop._tracking.budget
        assert budget is not None
        assert budget.plan.relief > 0


def test_threads_make_one_tracker_and_close_it_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    made, closed_within = [], []

    class SlowLoop:
        def __init__(self, config: RunConfig, shape: tuple[int, ...]) -> None:
            made.append(self)
            self.busy = False
            time.sleep(0.05)

        def step(self, image: Any, pts_s: Any, new_scene: bool) -> int:
            self.busy = True
            time.sleep(0.05)
            self.busy = False
            return len(made)

        def close(self) -> None:
            closed_within.append(self.busy)

    monkeypatch.setattr("sharpose_rt.api._Loop", SlowLoop)
    tracker, image = PoseTracker(), np.zeros((4, 4, 3), np.uint8)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: tracker.update(image), range(6))) == {1}
        working = pool.submit(tracker.update, image)
        pool.submit(tracker.close).result()
        working.result()
    assert closed_within == [False]


def test_a_programs_own_loop_waits_for_nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, bool]] = []
    monkeypatch.setattr(PoseEngine, "warm_up", lambda self, people=None, *, behind: asked.append((people, behind)))
    with PoseTracker(**TRACKER) as tracker:
        tracker.update(np.zeros((120, 160, 3), np.uint8))
    assert asked == [(2, True)]  # what more people need is prepared when they come, while the loop goes on


def test_threads_take_turns() -> None:
    network = SHaRPose(SMALL.name, weights="random", precision="fp32")
    image = np.random.default_rng(0).integers(0, 255, (200, 150, 3), np.uint8)
    wanted = network(image).keypoints
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: network(image).keypoints, range(8)):
            np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_network_alone() -> None:
    network = SHaRPose("tiny_256x192", weights="random", precision="fp32")
    image = np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)
    poses = network(image, [[10, 20, 90, 280], [50, 10, 180, 290]])
    assert poses.keypoints.shape == (2, 17, 2)
    assert network(image).bboxes_xyxy.tolist() == [[0, 0, 199, 299]]
    assert len(network.crops(np.zeros((3, 256, 192, 3), np.uint8))) == 3
    for picture, boxes, said in (
        (image / 255.0, None, "float64"),
        (image[..., 0], None, r"\(300, 200\)"),
        (image, [[0, 0, math.nan, 9]], "finite"),
        (image, [[50, 90, 10, 10]], "x0 <= x1"),
        (image, [[10, 10, 50, 90, 0.9]] * 4, r"shape \(4, 5\)"),
        (image, [1.0, 2.0, 3.0], r"shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            network(picture, boxes)  # type: ignore[arg-type]
    assert len(network(image, [10, 20, 90, 280])) == 1
    assert len(network(image, [])) == 0
    for crops in (np.zeros((256, 192), np.uint8), np.zeros((1, 9, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match="is needed"):
            network.crops(crops)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source", "nowhere.mp4"], "nowhere.mp4"),
        (["--source", "{folder}"], "{folder}"),
        (["--source", "{empty}"], "empty"),
        (["--source", "{text}"], "video"),
        (["--source", "{clip}", "--weights", "nowhere.pth"], "no weights at"),
        (["--source", "{clip}", "--weights", "{clip}"], ".safetensors"),
        (["--source", "{clip}", "--model", "huge"], "tiny_256x192"),
        (["--source", "{clip}", "--output", "{clip}"], "not a folder"),
        (["--source", "{clip}", "--set", "smoth.method=x"], "did you mean"),
        (["--source", "{clip}", "--config", "fille"], "did you mean 'file'"),
        (["--source", "{clip}", "--quality-threshold", "nan"], "nan"),
        (
            ["--source", "{clip}", "--format", "csv", "--person-slots", "3"],
            "unknown option 'person_slots' of format csv",
        ),
        (
            ["--source", "{clip}", "--format", "kinetics", "--fill", "linear"],
            "unknown option 'fill' of format kinetics",
        ),
        (["--source", "{clip}", "--fill", "linear"], "output.fill needs output.formats"),
        (["--source", "{clip}", "--boxes", "full", "--detector", "bundled"], "not both"),
        (["--source", "{clip}", "--boxes", "full", "--detector-size", "640"], "which --boxes replaces"),
        (["--source", "{clip}", "--boxes", "nowhere.json"], "nowhere.json"),
        (["--source", "{clip}", "--smooth", "none", "--start", "99"], "no frame"),
        (["--source", "webcam:77"], "webcam:77"),
        (["--source", "gopher://x/y"], "gopher"),
        (["--source", "-", "--smooth", "rts"], "standard input"),
        (["--source", "-", "--source", "-"], "'-' is given more than once"),
        (
            ["--source", "@{folder}/none"],
            "sources {folder}/none: No such file or directory; @FILE is a text file",
        ),
        (["--source", "@{clip}"], "cannot read the list of sources {clip}: 'utf-8' codec"),
        (["--source", "@{empty}"], "the list of sources {empty} is empty; it needs one source per line"),
        (["--source", "{clip}", "--source", "{clip}", "--show"], "--show is for a single source"),
        (["--source", "{clip}", "--region", "900,0 950,90"], "is outside the picture, which is 160x128 px"),
        (["--source", "{clip}", "--source", "{clip}", "--region", "0,0 90,90"], "is for the picture of one source"),
        (["--source", "{clip}", "--boxes", "boxes.txt", "--stride", "2"], "leave out --start and --stride"),
    ],
)
@pytest.mark.timeout(60)
def test_bad_input_is_one_clear_line(
    arguments: list[str], said: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video, whatever its name says " * 50)
    places = {"folder": tmp_path / "folder", "empty": tmp_path / "empty.mp4", "text": tmp_path / "text.mp4"}
    filled = [a.format(clip=clip, **places) for a in arguments]
    defaults = {"--weights": "random", "--boxes": "full", "--output": str(tmp_path / "out")}
    for option, value in defaults.items():
        if option not in filled and not (option == "--boxes" and "--detector" in filled):
            filled += [option, value]
    assert main(["track", *filled]) == (75 if "webcam:77" in filled else 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("sharpose-rt: error: ")
    assert said.format(clip=clip, **places) in error
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("tracker", ["sharpose", "bytetrack"])
@pytest.mark.parametrize("score", [0.3, 0.1])
def test_boxes_of_a_file_are_people_whatever_their_score(
    score: float, tracker: str, clip: Path, tmp_path: Path
) -> None:
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("".join(f"{frame},-1,20,10,80,100,{score}\n" for frame in range(1, FRAMES + 1)))
    command = ["--source", str(clip), "--boxes", str(boxes), "--tracker", tracker, *RANDOM, "--quiet"]
    command += ["--no-video", "--output"]
    assert main([*command, str(tmp_path / "all")]) == 0
    records = list(StreamReader(tmp_path / "all" / "walk.skeletons.jsonl"))
    np.testing.assert_allclose([r.poses.bbox_scores.tolist() for r in records], [[score]] * FRAMES, atol=1e-4)
    assert {int(i) for r in records for i in r.poses.track_ids} == {1}
    assert main([*command, str(tmp_path / "set"), "--set", "tracker.high_score=0.5"]) == 0
    assert not any(len(r.poses) for r in StreamReader(tmp_path / "set" / "walk.skeletons.jsonl"))


def test_the_least_score_of_a_person_holds_for_the_detector_and_the_tracker(clip: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("1,-1,0,0,60,100,0.35\n1,-1,90,0,60,100,0.29\n")
    command = ["--source", str(clip), "--boxes", str(boxes), *RANDOM, "--quiet", "--no-video"]
    command += ["--max-frames", "1", "--output", str(tmp_path / "out"), "--min-person-score", "0.3"]
    assert main(command) == 0
    (record,) = StreamReader(tmp_path / "out" / "walk.skeletons.jsonl")
    assert record.poses.bbox_scores.tolist() == pytest.approx([0.35], abs=1e-4)
    summary = json.loads((tmp_path / "out" / "walk.summary.json").read_text())
    assert summary["config"]["detector"]["score_threshold"] == summary["config"]["tracker"]["high_score"] == 0.3


def test_without_weights_it_refuses_and_says_why(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--weights random"):
        FileRun(str(clip), _config(tmp_path, "pose.weights=auto", "pose.model=base_256x192")).run()


def test_six_threads_or_a_loop(clip: Path) -> None:
    names = {}
    for tracker in ("sharpose", "bytetrack"):
        tracking = Tracking(open_source(str(clip)), load(None, [f"tracker.name={tracker}"]))
        names[tracker] = [stage.name for stage in tracking.stages]
    assert names["sharpose"] == ["detect", "track+pose+smooth"]
    assert names["bytetrack"] == ["detect", "track", "pose", "smooth"]
    live = Tracking(open_source(str(clip)), load(None, ["tracker.name=bytetrack"]), live=True)
    assert [stage.name for stage in live.stages] == names["sharpose"]  # nothing grows old between them


@pytest.mark.parametrize("offline", [True, False])
def test_a_run_that_may_download_nothing_says_so_to_its_detector(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("sharpose_rt.detection.create_detector", lambda config, **given: asked.append(given))
    Models(load(None, [f"offline={offline}", "pose.device=cpu"]))
    assert [(given["offline"], given["device"]) for given in asked] == [(offline, "cpu")]


@pytest.mark.parametrize("ended_by", ["q", "Esc", "closed", "nobody"])
def test_a_window_shows_what_is_drawn_until_it_is_left(
    ended_by: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[np.ndarray] = []
    calls: list[tuple[Any, ...]] = []
    left = lambda: ended_by != "nobody" and len(shown) == 3  # noqa: E731
    key = {"q": ord("q"), "Esc": 27}.get(ended_by, -1)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda title, _: calls.append(("open", title)))
    monkeypatch.setattr(cv2, "resizeWindow", lambda title, *size_wh: calls.append(size_wh))
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(image.copy()))
    monkeypatch.setattr(cv2, "waitKey", lambda _: key if left() else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: float(not (ended_by == "closed" and left())))
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: calls.append(("close", title)))
    options = [*RANDOM, "--boxes", "full", "--no-video", "--show", "--output", str(tmp_path)]
    options += ["--set", "queue_frames=1", "--set", "draw.status=false"]
    assert main(["--source", str(clip), *options]) == 0
    title = f"sharpose-rt: {clip}"
    assert calls == [("open", title), (160, 128), ("close", title)]
    said, end = capsys.readouterr().out, json.loads((tmp_path / "walk.summary.json").read_text())["status"]
    assert (said.partition(":")[0], end) == (("complete",) * 2 if ended_by == "nobody" else ("interrupted",) * 2)
    assert len(shown) == FRAMES if ended_by == "nobody" else 3 <= len(shown) < FRAMES
    with av.open(str(clip)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="bgr24")
    assert (shown[0] != first).any()  # a box around who is there ...
    assert read_number(shown[2]) == 2  # ... in their picture


def test_without_a_screen_a_window_is_refused(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    options = [*RANDOM, "--boxes", "full", "--show", "--output", str(tmp_path / "out")]
    assert main(["--source", str(clip), *options]) == 2
    assert "--show needs a screen, but DISPLAY and WAYLAND_DISPLAY are empty; --serve" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_who_did_not_set_how_many_people_are_kept_is_told_when_there_are_more(clip: Path) -> None:
    for options, told_at in (([], DetectorConfig.max_people), (["detector.max_people=5"], None)):
        assert Tracking(open_source(str(clip)), load(None, options)).detect._most == told_at


def test_the_detector_rests_while_all_poses_are_sure(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sure poses carry the boxes on; unsure ones call the detector; either way nobody's frame is lost."""
    seen: list[int] = []
    process = DetectStage.process

    def watched(self: DetectStage, item: Any) -> Any:
        packets = list(process(self, item))
        seen.extend(p.frame.frame_id for p in packets if p.detections is not None)
        return packets

    monkeypatch.setattr(DetectStage, "process", watched)
    for sure in (True, False):
        monkeypatch.setattr("sharpose_rt.stages.needs.SURE_SHARE", 0.0 if sure else 1.1)
        seen.clear()
        results = FileRun(str(clip), _config(tmp_path / str(sure), "detector.every_if_sure=8")).run()
        assert len(list(StreamReader(_stream(results)))) == FRAMES
        assert seen == list(range(0, FRAMES, 8 if sure else 1))
        assert results.figures["detected_frames"] == len(seen)


def test_the_detector_looks_again_for_whom_it_missed(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def detect(self: FullFrameDetector, frame: Frame, *, look: int = 0) -> Detections:
        seen.append(frame.frame_id)
        boxes = np.array([[0, 0, 60, 120], [90, 0, 150, 120]], np.float32)
        found = boxes[:1] if frame.frame_id in (4, 5) else boxes
        return Detections(found, np.full(len(found), 0.9, np.float32))

    monkeypatch.setattr(FullFrameDetector, "detect", detect)
    monkeypatch.setattr("sharpose_rt.stages.needs.SURE_SHARE", 0.0)
    monkeypatch.setattr("sharpose_rt.tracking.sharpose_tracker.SURE_SCORE", 2.0)  # random poses carry no boxes
    FileRun(str(clip), _config(tmp_path, "detector.every_if_sure=4")).run()
    assert seen == [0, 4, 5, 6, 10, 14, 18, 22]


def test_detection_by_need_wants_poses_and_one_source(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--detect-every N"):
        FileRun(str(clip), _config(tmp_path, "detector.every_if_sure=8", "tracker.name=bytetrack"))
