"""Several sources at once: each as if it were alone, none waits for another, one that fails ends for itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_servers import MjpegServer
from media_clips import read_number, write_clip
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.cli import main
from sharpose_rt.config import SourceConfig, load
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import ConfigError, SourceError, SourceLost, StreamError
from sharpose_rt.live import Hub
from sharpose_rt.media import Source, SourceGroup, SourceInfo, open_source, reconnect
from sharpose_rt.models import VARIANTS
from sharpose_rt.several import SeveralRun, fold_rounds
from sharpose_rt.skeletons import StreamReader, validate
from sharpose_rt.stages import SmoothStage
from sharpose_rt.types import Frame, Packet

pytestmark = pytest.mark.timeout(60)

PLAIN = [
    f"pose.model={SMALL.name}",
    "pose.weights=random",
    "pose.precision=fp32",
    "pose.backend=torch",
    "detector.name=full",
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(reconnect, "LONGEST_PAUSE_S", 0.1)


def fold(old: Frame, new: Frame) -> Frame:
    return Frame(new.frame_id, new.pts_s, new.image_bgr, dropped_before=old.dropped_before + 1)


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"]
    for path, frames, size_wh in zip(paths, (12, 5, 9), ((160, 96), (200, 120), (96, 160)), strict=True):
        write_clip(path, frames, size_wh=size_wh)
    return paths


# --- the group


def test_rounds_of_files_have_a_frame_of_each_that_still_runs(clips: list[Path]) -> None:
    group = SourceGroup([open_source(str(path)) for path in clips], [False] * 3, fold)
    group.open()
    rounds = []
    while (found := group.read()) is not None:
        rounds.append([(place, read_number(frame.image_bgr)) for place, frame in found])
    group.close()
    expected = [[(place, n) for place, count in enumerate((12, 5, 9)) if n < count] for n in range(12)]
    assert rounds == expected
    assert all(source.state == "ended" for source in group.sources)


def test_a_silent_camera_holds_nobody_up(clips: list[Path]) -> None:
    with MjpegServer([((160, 96), 3)], silent=True) as server:
        config = SourceConfig(read_timeout_s=60)
        sources = [open_source(server.url, config), open_source(str(clips[0]))]
        group = SourceGroup(sources, [True, False], fold)
        group.open()
        seen: dict[int, list[int]] = {0: [], 1: []}
        while len(seen[1]) < 12:
            for place, frame in group.read() or ():
                seen[place].append(frame.frame_id)
        group.close()
    assert seen[1] == list(range(12))
    assert len(seen[0]) <= 3


def test_frames_that_nobody_took_are_folded() -> None:
    with MjpegServer([((160, 96), 10)], period_s=0.001) as server:
        source = open_source(server.url, SourceConfig(reconnect_s=0))
        group = SourceGroup([source], [True], fold)
        group.open()
        rounds = [group.read()]
        group._threads[0].join()
        with contextlib.suppress(SourceLost):  # where all had come before the first was taken
            rounds.append(group.read())
        group.close()
    frames = [frame for found in rounds if found is not None for _, frame in found]
    assert frames[-1].frame_id >= 8  # the very last may be lost with the connection
    assert sum(frame.dropped_before for frame in frames) == frames[-1].frame_id + 1 - len(frames)


def test_each_live_source_begins_in_the_present_when_the_first_round_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sharpose_rt.media.source.STALE_S", 0.05)
    with MjpegServer([((160, 96), None)]) as one, MjpegServer([((160, 96), None)]) as other:
        group = SourceGroup([open_source(one.url), open_source(other.url)], [True, True], fold)
        group.open()
        while min(one.sent, other.sent) < 60:  # as long as networks take to load
            time.sleep(0.02)
        first: dict[int, Frame] = {}
        asked_s = time.monotonic()
        while len(first) < 2:
            for place, frame in group.read() or ():
                first.setdefault(place, frame)
        took_s = time.monotonic() - asked_s
        group.close()
    for frame in first.values():
        assert read_number(frame.image_bgr) > 40
        assert (frame.frame_id, frame.pts_s) == (0, 0) or frame.dropped_before == frame.frame_id
        assert frame.pts_s <= took_s  # time begins when they are asked for


def test_one_that_does_not_open_is_an_error_and_all_threads_end(clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all" * 100)
    before = set(threading.enumerate())
    group = SourceGroup([open_source(str(clips[0])), open_source(str(tmp_path / "bad.mp4"))], [False] * 2, fold)
    with pytest.raises(SourceError, match=r"bad\.mp4"):
        group.open()
    group.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("pictures", [3, 0])
def test_a_camera_that_is_away_is_looked_for_until_the_others_have_ended(clips: list[Path], pictures: int) -> None:
    with MjpegServer([((160, 96), pictures)]) as server:
        camera = open_source(server.url, SourceConfig(reconnect_s=0.1))
        group = SourceGroup([camera, open_source(str(clips[0]))], [True, False], fold)
        group.open()
        frames = [frame for place, frame in group.read() or () if place == 1]
        while camera.state != "lost":
            time.sleep(0.005)
        time.sleep(0.3)  # for longer than it would be looked for alone
        assert (camera.state, group.errors) == ("lost", {})
        while (found := group.read()) is not None:
            frames += [frame for place, frame in found if place == 1]
        group.close()
    assert len(frames) == 12
    assert list(group.errors) == [0]
    assert "did not come back" in str(group.errors[0])


def test_a_broadcast_that_is_not_there_yet_is_looked_for(clips: list[Path]) -> None:
    group = SourceGroup([open_source("http://127.0.0.1:9/x.m3u8"), open_source(str(clips[0]))], [True, False], fold)
    group.open()
    assert group.opened == [1]
    assert group.sources[0].stem == "x"
    while group.sources[0].state != "lost":
        time.sleep(0.005)
    group.close()
    assert group.errors == {}


@pytest.mark.usefixtures("short_pauses")
def test_cameras_of_which_none_can_be_opened_are_an_error() -> None:
    with MjpegServer([((160, 96), 0)]) as one, MjpegServer([((160, 96), 0)]) as other:
        group = SourceGroup([open_source(one.url), open_source(other.url)], [True, True], fold)
        with pytest.raises(SourceError, match="cannot be opened"):
            group.open()
        group.close()


def test_one_that_fails_at_its_first_frame_leaves_one_alone_that_opened_late(clips: list[Path]) -> None:
    opening = threading.Event()

    class Late(Source):
        def open(self) -> None:
            opening.wait()

        def read(self) -> None:
            return None

    class Fails(Source):
        def open(self) -> None:
            pass

        def read(self) -> Frame | None:
            raise SourceError("unplugged")

    group = SourceGroup([Fails("a", SourceConfig()), Late("b", SourceConfig())], [True, True], fold)
    threading.Timer(0.3, opening.set).start()
    group.open()
    assert opening.is_set()
    assert group.errors == {}
    assert group.read() is None
    assert list(group.errors) == [0]
    group.close()


def test_folded_rounds_keep_what_only_the_dropped_one_had() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    frames = [Frame(n, n / 10, image) for n in range(4)]
    folded = fold_rounds(((0, frames[0]), (1, frames[1])), ((1, frames[2]), (2, frames[3])))
    assert [(place, frame.frame_id, frame.dropped_before) for place, frame in folded] == [
        (0, 0, 0),
        (1, 2, 1),
        (2, 3, 0),
    ]
    packets = fold_rounds(((0, Packet(frames[0])),), ((0, Packet(frames[1])),))
    assert packets[0][1].frame.dropped_before == 1


# --- the network


def test_people_of_all_pictures_share_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PoseEngine(load(None, PLAIN).pose)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (100 + 40 * n, 200, 3), np.uint8) for n in range(3)]
    boxes = [np.array([[10, 10, 60, 90], [50, 5, 120, 95]], np.float32), np.zeros((0, 4), np.float32)]
    boxes.append(np.array([[20, 20, 90, 150]], np.float32))
    alone = [engine.estimate(image, box) for image, box in zip(pictures, boxes, strict=True)]
    sizes: list[int] = []
    infer = PoseEngine._infer
    monkeypatch.setattr(
        PoseEngine, "_infer", lambda self, crops, *a: (sizes.append(len(crops)), infer(self, crops, *a))[1]
    )
    together = engine.estimate_all(list(zip(pictures, boxes, strict=True)))
    assert sizes == [3]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-2)
        np.testing.assert_allclose(one.quality, other.quality, atol=1e-4)
        assert one.refined.tolist() == other.refined.tolist()


# --- whole runs


def test_each_source_has_its_skeletons_in_the_formats_that_are_wanted(clips: list[Path], tmp_path: Path) -> None:
    options = [*PLAIN, "output.video=false", f"output.directory={tmp_path / 'all'}"]
    run = SeveralRun([str(p) for p in clips], load(None, [*options, "output.formats=[openpose, csv]"]))
    for path, frames, results in zip(clips, (12, 5, 9), run.run(), strict=True):
        openpose, csv = results.formats
        assert openpose.parent == csv.parent == tmp_path / "all" / path.stem
        assert len(list(openpose.glob("*_keypoints.json"))) == frames
        rows = csv.read_text().splitlines()
        assert len({row.split(",")[0] for row in rows[1:]}) == frames


@pytest.mark.timeout(90)
def test_each_source_comes_out_as_if_it_were_alone(clips: list[Path], tmp_path: Path) -> None:
    options = [*PLAIN, "output.preset=ultrafast"]
    found = SeveralRun([str(p) for p in clips], load(None, [*options, f"output.directory={tmp_path / 'all'}"])).run()
    for path, results in zip(clips, found, strict=True):
        alone = FileRun(str(path), load(None, [*options, f"output.directory={tmp_path / 'one'}"])).run()
        assert results.status == "complete"
        assert results.stream is not None
        assert alone.stream is not None
        assert results.stream == tmp_path / "all" / path.stem / f"{path.stem}.skeletons.jsonl"
        assert results.video is not None
        assert [p for p in validate(results.stream) if p.severity == "error"] == []
        together, single = (list(StreamReader(r.stream)) for r in (results, alone) if r.stream)
        assert [r.frame_id for r in together] == [r.frame_id for r in single]
        assert [r.pts_s for r in together] == [r.pts_s for r in single]
        for one, other in zip(together, single, strict=True):
            assert one.poses.track_ids.tolist() == other.poses.track_ids.tolist() == [1]
            np.testing.assert_allclose(one.poses.keypoints, other.poses.keypoints, atol=0.05)
        assert results.figures["frames"] == len(single)
        assert results.figures["source"] == str(path)


def test_sources_of_one_name_are_told_apart_alike_by_folders_and_taps(clips: list[Path], tmp_path: Path) -> None:
    told: dict[str, str] = {}

    class Feed:
        def frame(self, line: bytes, packet: Packet, status_line: str = "") -> None: ...
        def end(self, line: bytes) -> None: ...

    class Tap:
        def begin(self, info: SourceInfo, header: bytes, **_: object) -> Feed:
            told[info.name] = info.stem
            return Feed()

    same = [tmp_path / str(n) / "door.mp4" for n in range(3)]
    for clip, path in zip(clips, same, strict=True):
        path.parent.mkdir()
        clip.rename(path)
    options = [*PLAIN, "output.video=false", f"output.directory={tmp_path / 'out'}"]
    found = SeveralRun([str(p) for p in same], load(None, options), [Tap()]).run()
    folders = {r.figures["source"]: r.stream.parent.name for r in found if r.stream}
    assert told == folders
    assert len(set(told.values())) == 3


def test_a_camera_beside_a_file_does_not_grow_old_in_queues(clips: list[Path]) -> None:
    camera, options = "http://127.0.0.1:9/video", load(None, [*PLAIN, "queue_frames=8"])
    files = [str(path) for path in clips]
    for specs, wanted in (([camera, files[0]], (1, False)), (files, (8, False)), ([camera, camera + "2"], (1, True))):
        job = SeveralRun(specs, options)
        (capacity,) = {channel.capacity for channel in job._pipeline._channels}
        assert (capacity, job.runs[0].tracking.estimate.live) == wanted  # a file's frames wait for larger batches


@pytest.mark.timeout(90)
def test_cameras_share_the_turns_and_one_that_fails_ends_for_itself(tmp_path: Path) -> None:
    options = [*PLAIN, "output.video=false", "source.reconnect_s=0", "source.read_timeout_s=2"]
    fast, slow, dying = ([((160, 96), None)], [((200, 120), None)], [((96, 96), 4)])
    with (
        MjpegServer(fast, 0.01) as a,
        MjpegServer(slow, 0.05) as b,
        MjpegServer(dying, 0.05, silent=True) as c,  # type: ignore[arg-type]
    ):
        job = SeveralRun([a.url, b.url, c.url], load(None, [*options, f"output.directory={tmp_path}"]))
        counts = [0, 0, 0]

        def look(place: int, packet: Packet) -> None:
            counts[place] += 1
            if min(counts[:2]) >= 12 and job.runs[2].status == "error":
                job.stop()

        results = job.run(look)
    assert [r.status for r in results] == ["interrupted", "interrupted", "error"]
    assert len({r.stream.parent for r in results if r.stream}) == 3  # three folders, though one host
    for found in results:
        assert found.stream is not None
        end = json.loads(found.stream.read_bytes().splitlines()[-1])
        assert (end["status"], end["dropped"]) == (found.status, sum(found.figures["dropped"].values()))
        assert [p for p in validate(found.stream) if p.severity == "error"] == []
    assert "sent no picture for 2 s" in results[2].figures["error"]
    assert results[0].figures["frames"] >= 12
    # A camera that is five times as fast has no more than its turns: what is too much is dropped, not queued.
    assert results[1].figures["frames"] >= 12
    summary = json.loads(Path(str(results[2].summary)).read_text())
    assert summary["status"] == "error"
    assert "hidden" not in json.dumps(summary)


@pytest.mark.timeout(90)
@pytest.mark.usefixtures("short_pauses")
def test_cameras_that_are_away_at_the_start_or_for_long_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = [*PLAIN, "source.reconnect_s=0.1", "source.read_timeout_s=5", "output.preset=ultrafast"]
    there = threading.Event()

    def camera(size_wh: tuple[int, int], *, first: int | None) -> Iterator[tuple[tuple[int, int], int | None]]:
        """So many pictures, then none at all until it is there again."""
        yield size_wh, first
        while not there.is_set():
            yield size_wh, 0
        yield size_wh, None

    late, lost, steady = camera((200, 120), first=0), camera((96, 96), first=4), camera((160, 96), first=None)
    with MjpegServer(late) as a, MjpegServer(lost) as b, MjpegServer(steady) as c:
        job = SeveralRun([a.url, b.url, c.url], load(None, [*options, f"output.directory={tmp_path}"]))
        seen = [0, 0, 0]
        states: list[str] = []
        began_s: list[float] = []

        def look(place: int, packet: Packet) -> None:
            states[:] = states or [run.source_state for run in job.runs]
            seen[place] += bool(place != 1 or packet.frame.lost_before_s or seen[1])
            if seen[2] >= 3 and job.source._overdue >= {0, 1}:  # longer than they would be looked for alone
                began_s.append(time.monotonic())
                there.set()
            if place == 0:  # its time begins when it is there
                assert packet.frame.pts_s <= time.monotonic() - began_s[0]
            if min(seen) >= 3:
                job.stop()

        results = job.run(look)
    assert [found.status for found in results] == ["interrupted"] * 3
    assert states[0] == "lost"
    assert states[2] == "live"
    for found in results:
        assert found.stream is not None
        assert found.video is not None
        assert [p for p in validate(found.stream) if p.severity == "error"] == []
    # By their places, not by who came first.
    assert [r.stream.parent.name.removeprefix("http_127.0.0.1") for r in results if r.stream] == ["", "-2", "-3"]
    for found in results[:2]:
        (loss,) = found.figures["losses"]
        assert loss["back"]
        assert loss["seconds"] > 0.1
    assert "the others continue without it" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras are files there alone")
def test_a_camera_that_is_not_plugged_in_stops_no_other(
    clips: list[Path], tmp_path: Path, short_pauses: None, caplog: pytest.LogCaptureFixture
) -> None:
    config = load(
        None, [*PLAIN, f"output.directory={tmp_path / 'out'}", "output.video=false", "source.reconnect_s=0.1"]
    )
    missing, there = SeveralRun(["webcam:63", str(clips[0])], config).run()
    assert (missing.status, there.status) == ("error", "complete")
    assert there.figures["frames"] == 12
    assert "/dev/video63 does not exist" in caplog.text
    assert "the others continue without it" in caplog.text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras are files there alone")
def test_the_view_lists_a_camera_that_is_not_there(clips: list[Path], tmp_path: Path, short_pauses: None) -> None:
    config = load(
        None, [*PLAIN, f"output.directory={tmp_path / 'out'}", "output.video=false", "source.reconnect_s=0.1"]
    )
    hub, seen = Hub(), []
    job = SeveralRun(["webcam:63", str(clips[0])], config, [hub])
    job.run(lambda place, packet: seen.append([(run.name, run.state) for run in hub.runs]))
    assert [name for name, _ in seen[0]] == ["webcam63", "a"]
    assert seen[0][0][1] in ("waiting", "lost")
    assert [(run.name, run.state) for run in hub.runs] == [("webcam63", "ended"), ("a", "ended")]


def test_what_a_stage_raises_reaches_the_caller_and_every_summary(
    clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, boom = SmoothStage.process, RuntimeError("here")

    def fail(stage: SmoothStage, item: Packet) -> object:
        if item.frame.frame_id == 7:
            raise boom
        return process(stage, item)

    monkeypatch.setattr(SmoothStage, "process", fail)
    # With short queues: else the failure may outrun the first frame.
    config = load(None, [*PLAIN, "output.video=false", "queue_frames=1", f"output.directory={tmp_path / 'out'}"])
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError) as caught:
        SeveralRun([str(path) for path in clips], config).run()
    assert caught.value is boom
    assert set(threading.enumerate()) <= before
    for path in clips:
        made = tmp_path / "out" / path.stem / path.stem
        assert json.loads(made.with_suffix(".summary.json").read_text())["status"] == "error"
        reader = StreamReader(made.with_suffix(".skeletons.jsonl"))
        assert len(list(reader)) <= 7
        assert reader.end is not None
        assert reader.end["status"] == "error"


def test_one_whose_formats_fail_costs_the_others_nothing(clips: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = load(None, [*PLAIN, f"output.directory={out}", "output.video=false", "output.formats=[csv]"])
    job = SeveralRun([str(path) for path in clips[:2]], config)

    def remove(place: int, packet: Packet) -> None:
        (out / "a" / "a.skeletons.jsonl").unlink(missing_ok=True)

    with pytest.raises(StreamError, match=r"a\.skeletons\.jsonl"):
        job.run(remove)
    assert sorted(path.name for path in (out / "b").iterdir()) == ["b.csv", "b.skeletons.jsonl", "b.summary.json"]


@pytest.mark.timeout(90)
def test_several_from_the_command_line(clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cameras.txt").write_text(f"\ufeff{clips[0]}\n# doors\n\n{clips[1]}\n", "utf-8")
    options = ["--model", SMALL.name, "--weights", "random", "--boxes", "full", "--no-video"]
    options += ["--set", "pose.backend=torch"]
    out = ["--output", str(tmp_path / "out")]
    assert main(["--source", f"@{tmp_path / 'cameras.txt'}", "--source", str(clips[2]), *options, *out]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b", "c"]
    said = capsys.readouterr().out
    assert all(str(path) in said for path in clips)
    (tmp_path / "none.txt").write_text("# nothing\n")
    assert main(["--source", f"@{tmp_path / 'none.txt'}", *options, *out]) == 2
    assert main(["--source", str(clips[0]), "--source", str(tmp_path / "*.mp4"), *options, *out]) == 2
    assert "one after another" in capsys.readouterr().err


def test_folders_of_several_have_safe_names(clips: list[Path], tmp_path: Path) -> None:
    odd = [tmp_path / "...mp4", tmp_path / "a b%20#.mp4", tmp_path / os.fsdecode(b"c\xff.mp4")]
    for clip, path in zip(clips, odd, strict=True):
        shutil.copy(clip, path)
    out = tmp_path / "in" / "out"
    results = SeveralRun([str(p) for p in odd], load(None, [*PLAIN, f"output.directory={out}"])).run()
    assert all(found.stream is not None and found.stream.parent.parent == out for found in results)
    assert sorted(p.name for p in out.iterdir()) == ["a_b_20", "c_udcff", "output"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("smooth.method=rts", "one file at a time"),
        ("detector.name=boxes.txt", "belong to one source"),
        ("budget.latency_ms=90", "waits until each frame is done; add --realtime"),
        ("detector.every_if_sure=4", "it needs a single source and the tracker"),
    ],
)
def test_what_does_not_go_with_several_is_said(clips: list[Path], tmp_path: Path, option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SeveralRun([str(p) for p in clips], load(None, [*PLAIN, option, f"output.directory={tmp_path / 'out'}"]))


@pytest.mark.parametrize("count", [1, 2])
def test_few_large_pictures_wait_between_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("sharpose_rt.graph.QUEUE_BYTES", 3 * 160 * 96 * 3 + 1)  # as of three small ones
    clips = [tmp_path / f"{name}.mp4" for name in "ab"[:count]]
    for path in clips:
        write_clip(path, 10, size_wh=(160, 96))
    config = load(None, [*PLAIN, "output.video=false", "queue_frames=8", f"output.directory={tmp_path / 'out'}"])
    run = FileRun(str(clips[0]), config) if count == 1 else SeveralRun([str(path) for path in clips], config)
    run.run(lambda *_: time.sleep(0.02))  # slower than reading
    assert run._pipeline is not None
    fills = [channel.max_fill for channel in run._pipeline.stats().channels]
    assert max(fills) == 3 // count
