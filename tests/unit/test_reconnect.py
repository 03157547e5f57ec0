"""Live sources that are lost come back: from real servers on loopback that die, and from scripted ones."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_servers import MjpegServer, free_port, is_ball, rtsp_server, serving
from media_clips import numbered, read_number, write_clip
from numpy.typing import NDArray
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.cli import main
from sharpose_rt.config import SourceConfig, load
from sharpose_rt.errors import SourceError, SourceLost, SourceTimeout
from sharpose_rt.media import PacedSource, is_live, open_source, paced, reconnect
from sharpose_rt.media.clock import MediaClock
from sharpose_rt.media.live import Camera
from sharpose_rt.media.reconnect import Reconnecting, pauses_s
from sharpose_rt.media.source import Source, SourceInfo
from sharpose_rt.models import VARIANTS
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import StreamReader, validate
from sharpose_rt.tracking import create_tracker
from sharpose_rt.types import Detections, Frame, Packet


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(reconnect, "LONGEST_PAUSE_S", 0.1)


@given(st.floats(0.01, 10), st.floats(10, 100), st.lists(st.floats(0, 1), min_size=12, max_size=12))
def test_pauses_double_up_to_the_longest_with_jitter(first_s: float, longest_s: float, draws: list[float]) -> None:
    found = list(itertools.islice(pauses_s(first_s, longest_s, iter(draws).__next__), 12))
    whole = [min(longest_s, first_s * 2**n) for n in range(12)]
    assert all(0.5 * w <= f <= w * (1 + 1e-9) for f, w in zip(found, whole, strict=True))


def test_pauses_of_many_differ() -> None:
    import random

    firsts = {next(pauses_s(1, 10, random.Random(seed).random)) for seed in range(50)}
    assert len(firsts) == 50


# --- scripted connections


class Scripted(Source):
    """One connection: opens or fails, gives pictures of a size at given times, then ends as told."""

    live, finite = True, False

    def __init__(
        self, times_s: list[float], end: Exception | None, size_wh: tuple[int, int] = (160, 96), finite: bool = False
    ) -> None:
        super().__init__("scripted", SourceConfig())
        self._times, self._end, self._size_wh, self.finite = list(times_s), end, size_wh, finite
        self.closed = False

    def _open(self) -> None:
        if self._end is not None and not self._times:
            raise self._end

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        return SourceInfo(self.name, "network", True, size_wh)

    def _grab(self) -> float | None:
        if self._times:
            return self._times.pop(0)
        if self._end is not None:
            raise self._end
        return None

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        return numbered(1, self._size_wh), ""

    def _close(self) -> None:
        self.closed = True


def scripted(*connections: Scripted, **options: object) -> Reconnecting:
    left = iter(connections)

    def make() -> Source:
        try:
            return next(left)
        except StopIteration:
            raise SourceError("nobody answers") from None

    return Reconnecting("scripted", SourceConfig(**{"reconnect_s": 5.0, **options}), make)  # type: ignore[arg-type]


LOST = SourceLost("the cable is out;")


class Clock:
    """Stands for the `time` and the event that a `Reconnecting` waits with: a clock that is turned by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Reconnecting) -> None:
        self.now_s, self.waits_s = 1000.0, []
        for module in ("source", "reconnect"):
            monkeypatch.setattr(f"sharpose_rt.media.{module}.time", self)
        monkeypatch.setattr(source, "_stop", self)

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> None:
        self.waits_s.append(timeout_s)
        self.now_s += timeout_s

    def is_set(self) -> bool:
        return False


@pytest.mark.parametrize("held_s", [20, 40])
def test_a_connection_that_held_for_long_makes_pauses_short_again(
    monkeypatch: pytest.MonkeyPatch, held_s: float
) -> None:
    class Held(Scripted):
        """Its last picture comes when it has held for so long."""

        def _grab(self) -> float | None:
            clock.now_s += held_s if len(self._times) == 1 else 0
            return super()._grab()

    refused = [Scripted([], SourceTimeout("busy")) for _ in range(5)]
    found = iter([Held([0, 1], LOST), refused[0], refused[1], Held([0, 1], LOST), *refused[2:], Held([0, 1], None)])
    source = Reconnecting("scripted", SourceConfig(reconnect_s=5, max_frames=6), found.__next__, lambda: 1.0)
    clock = Clock(monkeypatch, source)
    with source:
        frames = list(source)
    grown = [0.02, 0.04, 0.08]
    assert clock.waits_s == pytest.approx(grown + ([*grown, 0.1] if held_s > reconnect.STEADY_S else 4 * [0.1]))
    for before, after in pairwise(frames):
        assert after.pts_s > before.pts_s
        if after.lost_before_s:
            assert after.pts_s - before.pts_s == pytest.approx(after.lost_before_s)
            assert after.captured_at_s - before.captured_at_s == pytest.approx(after.lost_before_s)
    assert [frame.lost_before_s > 0 for frame in frames] == [False, False, True, False, True, False]


def test_time_goes_on_by_the_clock_and_frames_are_counted_on() -> None:
    first, refused = Scripted([0, 0.04, 0.08], LOST), Scripted([], SourceTimeout("busy"))
    last = Scripted([50.0, 50.04, 150.0], None, (320, 192))
    with scripted(first, refused, last, end_s=50.0) as source:
        frames = list(source)
        assert source.state == "ended"
    assert [frame.frame_id for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.size_wh for frame in frames] == [(160, 96)] * 3 + [(320, 192)] * 2
    gap_s = frames[3].lost_before_s
    assert gap_s > 0
    assert [frame.lost_before_s for frame in frames] == [0, 0, 0, gap_s, 0]
    assert frames[3].pts_s == pytest.approx(0.08 + gap_s)
    assert frames[4].pts_s == pytest.approx(frames[3].pts_s + 0.04, rel=1e-3, abs=0.0021)  # see SLEW
    (loss,) = source.losses
    assert (loss.attempts, loss.back, loss.after_pts_s) == (2, True, 0.08)
    assert "cable" in loss.reason
    assert first.closed
    assert refused.closed
    assert last.closed


def test_media_time_does_not_run_away_from_the_clock_over_many_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now_s = 1000.0

        def monotonic(self) -> float:
            self.now_s += 1e-4
            return self.now_s

    clock = Clock()
    monkeypatch.setattr(reconnect, "time", clock)

    class Bursts(Scripted):
        """Two seconds of pictures come at once when it opens, the others in time."""

        def _grab(self) -> float | None:
            pts_s = super()._grab()
            if pts_s is not None and pts_s > 2:
                clock.now_s += 0.1
            return pts_s

    times = [n / 10 for n in range(600)]
    source = scripted(*(Bursts(times, LOST) for _ in range(5)), max_frames=2990)
    with source:
        frames = list(source)
    steps = np.diff([frame.pts_s for frame in frames if not frame.lost_before_s])
    assert steps.min() > 0.094  # never so much taken off that speeds are wrong
    assert frames[-1].pts_s == pytest.approx(clock.now_s - 1000 + 2, abs=0.3)  # 2 s ahead from the beginning


@pytest.mark.parametrize("there", [True, False])
def test_a_stream_that_is_back_is_in_the_present(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """As FFmpeg looks at a stream for seconds, and what came meanwhile waits."""

    class Looked(Scripted):
        def _open(self) -> None:
            super()._open()
            self._began_s = clock.now_s
            clock.now_s += 2.0

        def _grab(self) -> float | None:
            pts_s = super()._grab()
            assert pts_s is not None
            self._filmed_s = self._began_s + pts_s
            clock.now_s = max(clock.now_s, self._filmed_s)
            return pts_s

        def _retrieve(self) -> tuple[NDArray[np.uint8], str]:
            return numbered(1), str(self._filmed_s)

        def _is_of_the_present(self) -> bool:
            return True

    times = [n / 10 for n in range(40)]
    first = Looked(times, LOST) if there else Scripted([], SourceTimeout("not yet"))
    source = scripted(first, Looked(times, LOST), max_frames=25 if there else 15)
    source.keep_looking(lambda: True)
    clock = Clock(monkeypatch, source)
    with source:
        frames = list(source)
    assert len([frame for frame in frames if frame.lost_before_s]) == there
    assert all(frame.captured_at_s - float(frame.source) < 0.11 for frame in frames)


def test_stride_and_limits_hold_over_the_gap() -> None:
    connections = Scripted([0, 1, 2, 3], LOST), Scripted([0, 1, 2, 3], LOST)
    with scripted(*connections, stride=3, max_frames=3) as source:
        frames = list(source)
    assert [frame.frame_id for frame in frames] == [0, 1, 2]
    # The first pictures after the gap are left out by the stride; the gap is still told.
    assert frames[2].lost_before_s > 0
    assert [frame.lost_before_s for frame in frames[:2]] == [0, 0]


def test_the_first_connection_must_succeed() -> None:
    with pytest.raises(SourceTimeout, match="busy"):
        scripted(Scripted([], SourceTimeout("busy")), Scripted([0], None)).open()


def test_reconnecting_can_be_turned_off() -> None:
    with scripted(Scripted([0], LOST), Scripted([0], None), reconnect_s=0.0) as source:
        assert source.read() is not None
        with pytest.raises(SourceLost, match="cable"):
            source.read()


def test_what_never_comes_back_is_an_error_that_says_so() -> None:
    with scripted(Scripted([0, 1], LOST), reconnect_s=0.2) as source, pytest.raises(SourceLost) as caught:
        list(source)
    said = str(caught.value)
    assert "cable" in said
    assert "within 0.2 s" in said
    assert "nobody answers" in said
    assert "source.reconnect_s" in said
    assert not source.losses[-1].back


@pytest.mark.timeout(30)
def test_an_end_that_passes_while_it_is_lost_is_the_end() -> None:
    began_s = time.monotonic()
    with scripted(Scripted([0, 0.1], LOST), reconnect_s=60.0, end_s=0.4) as source:
        assert len(list(source)) == 2
    assert time.monotonic() - began_s < 20
    assert not source.losses[-1].back


@pytest.mark.parametrize("answers", [20, 2])
def test_a_recording_in_the_place_of_what_was_live_is_not_played(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answers: int
) -> None:
    recordings = [Scripted([7, 8, 9], None, (320, 192), finite=True) for _ in range(answers)]
    found = iter([Scripted([0, 1], None), *recordings, Scripted([0, 1], None)])
    source = Reconnecting("scripted", SourceConfig(reconnect_s=1, max_frames=4), found.__next__, lambda: 1.0)
    clock = Clock(monkeypatch, source)
    with source:
        frames = list(source)
    assert {frame.size_wh for frame in frames} == {(160, 96)}
    if answers == 2:
        assert len(frames) == 4
        assert source.losses[-1].back
    else:  # it is over in order, when its time is
        assert len(frames) == 2
        assert clock.now_s == pytest.approx(1001)
        assert not source.losses[-1].back
        assert "only a recording" in caplog.text


def test_an_attempt_is_told_where_it_fails_otherwise_than_before_and_each_hour(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> Iterator[Source]:
        yield Scripted([0, 1], LOST)
        for n in itertools.count():
            yield Scripted([], SourceError("it burns" if n == 4 else f"{n} failed reads in 0.{n} s"))

    monkeypatch.setattr(reconnect, "LONGEST_PAUSE_S", 15.0)
    source = Reconnecting("scripted", SourceConfig(reconnect_s=2.5 * 3600), refused().__next__, lambda: 1.0)
    Clock(monkeypatch, source)
    with caplog.at_level(logging.INFO), source, pytest.raises(SourceLost):
        list(source)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("attempt")]
    assert [text.endswith("it burns") for text in told] == [False, True, False, False, False]
    hours = [float(text.split("after ")[1].split(" s:")[0]) / 3600 for text in told]
    assert hours == pytest.approx([0, 0, 0, 1, 2], abs=0.02)


def test_a_recording_that_ends_is_over() -> None:
    with scripted(Scripted([0, 1], None, finite=True), Scripted([0], None)) as source:
        assert len(list(source)) == 2
    assert source.losses == ()


@pytest.mark.timeout(30)
def test_states_and_an_interrupt_while_it_is_lost() -> None:
    source = scripted(Scripted([0, 1], LOST), reconnect_s=float("inf"))
    assert source.state == "connecting"
    source.open()
    assert source.state == "live"
    result: list[Frame | None] = []
    reading = threading.Thread(target=lambda: result.extend([source.read(), source.read(), source.read()]))
    reading.start()
    _until(lambda: source.state == "lost")
    source.interrupt()
    reading.join(20)
    assert not reading.is_alive()
    assert result[2] is None
    source.close()
    assert source.state == "ended"


@pytest.mark.timeout(30)
def test_a_source_that_is_looked_for_is_lost_while_an_attempt_ends_too() -> None:
    """What cannot be opened closes itself; the page would let a source go that says it has ended."""
    states: list[str] = []

    class Away(Scripted):
        def _open(self) -> None:
            raise SourceError("it is away")

        def _close(self) -> None:
            states.append(source.state)

    source = Reconnecting("cam", SourceConfig(), lambda: Away([], None), draw=lambda: 0.5)
    source.keep_looking(lambda: True)
    looking = threading.Thread(target=source.open)
    looking.start()
    _until(lambda: len(states) > 12)
    source.interrupt()
    looking.join(20)
    assert not looking.is_alive()
    assert set(states[2:]) == {"lost"}


def _until(true: Callable[[], bool]) -> None:
    while not true():
        threading.Event().wait(0.005)


def test_a_clock_that_leaps_counts_as_set_anew_where_frames_are_live() -> None:
    live, stored = MediaClock(0.1, 0, 10.0, live=True), MediaClock(0.1, 0, 10.0)
    stamps = [0, 1, 2, 36_000, 36_001]
    assert [stored.stamp(pts) for pts in stamps][-1] == pytest.approx(3600.1)
    times = [live.stamp(pts) for pts in stamps]
    assert times[3] - times[2] < 1
    assert times[4] == pytest.approx(times[3] + 0.1, abs=1e-2)


class Plugged:
    """Stands where cv2.VideoCapture stands: so many pictures of a size, then none, as when it is pulled out."""

    def __init__(self, count: int, size_wh: tuple[int, int]) -> None:
        self.left, self.size_wh = count, size_wh
        self.asked: dict[int, float] = {}
        self.released = False

    def isOpened(self) -> bool:
        return self.left > 0

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self.left -= 1
        return (True, numbered(self.left, self.size_wh)) if self.left >= 0 else (False, None)

    def get(self, prop: int) -> float:
        return 30.0

    def set(self, prop: int, value: float) -> bool:
        self.asked[prop] = value
        return True

    def release(self) -> None:
        self.released = True


def test_a_camera_that_is_pulled_out_and_plugged_in_again() -> None:
    plugged = [Plugged(3, (160, 96)), Plugged(0, (0, 0)), Plugged(2, (320, 192))]
    captures = iter(plugged)
    config = SourceConfig(camera_format="yuyv", camera_size_wh=(640, 480), max_bad_frames=2, max_frames=5)
    source = Reconnecting("webcam:4", config, lambda: Camera("webcam:4", config, 4, lambda _: next(captures)))
    with source:
        frames = list(source)
        (loss,) = source.losses
    assert source.stem == source.info.stem == "webcam4"
    assert [frame.size_wh for frame in frames] == [(160, 96)] * 3 + [(320, 192)] * 2
    assert [frame.lost_before_s > 0 for frame in frames] == [False, False, False, True, False]
    assert (loss.attempts, loss.back) == (2, True)
    assert all(capture.released for capture in plugged)
    assert plugged[2].asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"YUYV")
    assert plugged[2].asked[cv2.CAP_PROP_FRAME_HEIGHT] == 480


# --- real servers


@pytest.mark.timeout(60)
def test_an_mjpeg_camera_dies_and_returns_with_another_size(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "STALE_S", 60.0)  # such short connections have no present
    programmes = [((160, 96), 12), ((160, 96), 0), ((320, 192), 14), ((200, 120), None)]
    config = SourceConfig(open_timeout_s=5, read_timeout_s=5)
    frames: list[Frame] = []
    began_s = time.monotonic()
    with caplog.at_level(logging.INFO), MjpegServer(programmes) as server, open_source(server.url, config) as source:
        asked_s = []
        while len({frame.size_wh for frame in frames}) < 3:
            asked_s.append(time.monotonic())
            frame = source.read()
            assert frame is not None
            frames.append(frame)
        elapsed_s = time.monotonic() - began_s
        losses = source.losses
    assert [size for size, _ in itertools.groupby(frame.size_wh for frame in frames)] == [
        (160, 96),
        (320, 192),
        (200, 120),
    ]
    numbers = [read_number(frame.image_bgr) for frame in frames]
    assert all(a < b for a, b in pairwise(numbers))  # every frame is a picture that was sent: none black, none twice
    assert len(losses) == 2
    assert losses[0].attempts == 2
    gaps = [frame for frame in frames if frame.lost_before_s]
    assert [frame.size_wh for frame in gaps] == [(320, 192), (200, 120)]
    for before, after in pairwise(frames):
        assert after.pts_s > before.pts_s
        if after.lost_before_s:
            assert after.pts_s - before.pts_s == pytest.approx(after.lost_before_s)
            # Of both frames the moment counts when they were had, which is before it is noted in them.
            longest_s = after.captured_at_s - asked_s[before.frame_id]
            assert asked_s[after.frame_id] - before.captured_at_s < after.lost_before_s <= longest_s
    assert frames[-1].pts_s <= elapsed_s
    assert "is back after" in caplog.text
    assert "hidden" not in caplog.text
    assert not any("hidden" in loss.reason for loss in losses)


@pytest.mark.timeout(60)
def test_a_camera_that_falls_silent_is_lost_and_found_again() -> None:
    config = SourceConfig(read_timeout_s=0.5, reconnect_s=20)
    with MjpegServer([((160, 96), 30), ((160, 96), None)], silent=True) as server:
        with open_source(server.url, config) as source:
            frame = next(frame for frame in source if frame.lost_before_s)
        assert frame.lost_before_s >= 0.5
        assert "sent no picture for 0.5 s" in source.losses[0].reason


@pytest.mark.timeout(90)
@pytest.mark.parametrize("silent", [False, True])
def test_an_rtsp_server_is_killed_or_falls_silent_and_returns_with_another_size(silent: bool) -> None:
    port = free_port()
    config = SourceConfig(open_timeout_s=10, read_timeout_s=2, reconnect_s=30)
    source = open_source(f"rtsp://me:hidden@127.0.0.1:{port}/live", config)
    frames: list[Frame] = []

    def look() -> None:
        with source:
            while len(frames) < 40 or frames[-1].size_wh != (480, 272):
                frame = source.read()
                assert frame is not None
                frames.append(frame)

    with ThreadPoolExecutor(1) as pool:
        with rtsp_server(port, (320, 240)) as process:
            looking = pool.submit(look)
            while len(frames) < 15 and not looking.done():
                time.sleep(0.01)
            if silent:
                process.send_signal(signal.SIGSTOP)
                time.sleep(4)  # it was waited for long enough, and is not once more
        with rtsp_server(port, (480, 272)):
            looking.result()
    assert all(is_ball(frame.image_bgr) for frame in frames)
    assert {frame.size_wh for frame in frames} == {(320, 240), (480, 272)}
    (after,) = [frame for frame in frames if frame.lost_before_s]
    before = frames[after.frame_id - 1]
    assert after.size_wh == (480, 272)
    assert after.pts_s - before.pts_s == pytest.approx(after.lost_before_s)
    assert after.captured_at_s - before.captured_at_s < after.lost_before_s + 0.2
    assert ("sent no picture for 2 s" in source.losses[0].reason) == silent
    assert all(b.pts_s > a.pts_s for a, b in pairwise(frames))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_over_both_transports(transport: str) -> None:
    port = free_port()
    config = SourceConfig(rtsp_transport=transport, max_frames=20)
    with rtsp_server(port, (320, 240)), open_source(f"rtsp://127.0.0.1:{port}/live", config) as source:
        frames = list(source)
    assert len(frames) == 20
    assert all(is_ball(frame.image_bgr) for frame in frames)
    steps = np.diff([frame.pts_s for frame in frames])
    np.testing.assert_allclose(np.median(steps), 0.04, atol=0.005)


# --- whole runs


@pytest.mark.timeout(90)
def test_a_run_outlives_its_camera_and_nobody_is_carried_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    options = [f"pose.model={SMALL.name}", "pose.weights=random", "pose.precision=fp32", "pose.backend=torch"]
    options.append("detector.name=full")
    limits = ["source.read_timeout_s=5", "output.preset=ultrafast", f"output.directory={tmp_path}"]
    with MjpegServer([((160, 96), 40), ((200, 120), None)]) as server:
        job = FileRun(server.url, load(None, [*options, *limits]))
        states = {job.source.state}
        after: list[Packet] = []

        def look(packet: Packet) -> None:
            states.add(job.source.state)
            if packet.frame.size_wh == (200, 120):
                after.append(packet)
            if len(after) == 5:
                job.stop()

        results = job.run(look)
    assert results.status == "interrupted"
    assert job.source.state == "ended"
    assert states >= {"connecting", "live"}
    assert results.stream is not None
    assert [p for p in validate(results.stream) if p.severity == "error"] == []
    records = list(StreamReader(results.stream))
    first = [r for r in records if r.frame_size_wh is None]
    second = [r for r in records if r.frame_size_wh == (200, 120)]
    assert len(first) + len(second) == len(records)
    assert [r.lost_before_s is not None for r in second] == [True] + [False] * (len(second) - 1)
    ids = [{int(i) for r in part for i in r.poses.track_ids} for part in (first, second)]
    assert ids == [{1}, {2}]
    for record in second:  # nor are keypoints of the other size held or faded
        assert len(record.poses) == 1
        assert record.poses.bboxes_xyxy[0].tolist() == pytest.approx([0, 0, 199, 119])
    assert all(r.stages_ms and sum(r.stages_ms.values()) <= (r.latency_ms or 0) + 1 for r in records)
    (loss,) = results.figures["losses"]
    assert loss["back"]
    assert results.figures["times_lost"] == 1
    assert "hidden" not in json.dumps(results.figures, default=str)
    assert "ms, p95" in job.totals.status_line()
    with av.open(str(results.video)) as video:
        assert {(f.width, f.height) for f in video.decode(video=0)} == {(160, 96)}


@pytest.mark.parametrize("name", ["sharpose", "bytetrack"])
def test_trackers_forget_people_but_not_their_ids(name: str) -> None:
    config = load(None, [f"tracker.name={name}"]).tracker
    tracker = create_tracker(config, COCO17)
    box = Detections(np.array([[10, 10, 50, 90]], np.float32), np.array([0.9], np.float32))
    seen = [tracker.update(box, n / 25).track_ids.tolist() for n in range(4)]
    assert seen[-1] == [1]
    tracker.forget()
    assert len(tracker.update(None, 0.2)) == 0
    after = [tracker.update(box, 0.24 + n / 25).track_ids.tolist() for n in range(4)]
    assert after[-1] == [2]
    assert all(ids in ([], [2]) for ids in after)


@pytest.mark.timeout(30)
def test_a_file_in_real_time_is_live_and_so_is_hls(tmp_path: Path) -> None:
    write_clip(tmp_path / "walk.mp4", 6, fps=50)
    with open_source(str(tmp_path / "walk.mp4"), SourceConfig(realtime=True)) as source:
        assert source.info.live
        frames = list(source)
    steps = np.diff([frame.captured_at_s for frame in frames])
    assert (steps >= 0.02 - 1e-6).all()
    assert is_live("walk.mp4", SourceConfig(realtime=True))
    assert isinstance(open_source("https://h/live/index.m3u8?key=1"), PacedSource)


@pytest.mark.timeout(30)
def test_a_frame_that_is_not_due_yet_is_not_handed_on_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "slow.mkv", times_s=[0.0, 0.04, 30.0], container="matroska")
    source = open_source(str(tmp_path / "slow.mkv"), SourceConfig(realtime=True))

    class Interrupted(threading.Event):
        """Somebody interrupts while the third frame is waited for."""

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            if timeout > 20:
                source.interrupt()
            return super().wait(timeout)

    monkeypatch.setattr(source, "_stop", Interrupted())
    with source:
        frames = list(source)
        assert source.state == "live"
    assert [frame.frame_id for frame in frames] == [0, 1]


class Played(Scripted):
    """Pictures that are there at a given time each, and take `decode_s` to decode, on a clock that is turned by hand.

    It also stands for the `time` and the event that a `PacedSource` waits with.
    """

    now_s = 1000.0

    def __init__(self, times_s: list[float], there_s: list[float], decode_s: float, *, live: bool) -> None:
        super().__init__(times_s, None)
        self._there, self._decode_s, self.live = [1000 + s for s in there_s], decode_s, live

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        return SourceInfo(self.name, "network", self.live, size_wh, fps=20)

    def _grab(self) -> float | None:
        self.now_s = max(self.now_s, self._there.pop(0)) if self._there else self.now_s
        return super()._grab()

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        self.now_s += self._decode_s
        return super()._retrieve()

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> None:
        self.now_s += timeout_s

    def is_set(self) -> bool:
        return False

    def play(self, monkeypatch: pytest.MonkeyPatch, first_asked_s: float = 0.0) -> list[tuple[Frame, float]]:
        """Frames, and when they were handed on; whoever takes them asks for the first so long after opening."""
        with monkeypatch.context() as patch:
            patch.setattr(paced, "time", self)
            with PacedSource(self) as source:
                patch.setattr(source, "_stop", self)
                self.now_s += first_asked_s
                return [(frame, self.now_s) for frame in source]


def test_frames_at_uneven_times_come_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [0.8 * burst + 0.01 * n for burst in range(4) for n in range(8)]
    played = Played(times, [0.0] * len(times), 0.005, live=False).play(monkeypatch)
    due = np.array([frame.captured_at_s for frame, _ in played])
    np.testing.assert_allclose(due - due[0], times, atol=1e-9)
    late = [at_s - frame.captured_at_s for frame, at_s in played]
    np.testing.assert_allclose(late[1:], 0.005, atol=1e-9)  # decoding, and nothing else


def test_a_broadcast_is_in_the_present_again_after_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [n / 20 for n in range(400)]
    there = [np.ceil((s + 1e-6) / 0.5) * 0.5 for s in times]  # in pieces of half a second
    there = [max(s, 4.5) if s >= 3 else s for s in there]  # nothing comes for 1.5 s
    played = Played(times, there, 0.0, live=True).play(monkeypatch)
    behind = np.array([at_s - 1000 - frame.pts_s for frame, at_s in played])
    assert behind[49] == pytest.approx(0.5, abs=0.01)
    assert behind.max() > 1.5
    assert behind[-1] == pytest.approx(0.5, abs=0.06)
    steps = np.diff([frame.captured_at_s for frame, _ in played])
    assert steps.min() >= (1 - paced.CATCH_UP - paced.DRIFT) / 20 - 1e-9  # a little faster, not all at once


def test_a_broadcast_is_in_the_present_some_time_after_the_networks_were_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = [n / 20 for n in range(800)]
    played = Played(times, times, 0.0, live=True).play(monkeypatch, first_asked_s=4.0)
    behind = [at_s - 1000 - frame.pts_s for frame, at_s in played]
    assert behind[0] == pytest.approx(4)
    assert behind[-1] == pytest.approx(0, abs=0.06)


def test_a_broadcast_that_paused_is_not_hurried_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its present is later from then on; there is nothing to catch up with, and what is not there yet is no stall."""
    times = [n / 20 for n in range(2400)]
    there = [np.ceil((s + 1e-6) / 2) * 2 + (8 if s >= 20 else 0) for s in times]
    played = Played(times, there, 0.0, live=True).play(monkeypatch)
    waits = np.diff([at_s for _, at_s in played])
    assert (waits > 0.3).sum() <= 3


@pytest.mark.parametrize("share", [0.0, 1e-4, -1e-4])  # a camera's clock is as far off
def test_a_broadcast_stays_in_the_present_for_hours(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [n / 2 for n in range(3 * 3600 * 2)]
    there = [(np.floor(s / 4) + 1) * 4 / (1 + share) for s in times]  # in pieces of four seconds
    played = Played(times, there, 0.0, live=True).play(monkeypatch)
    old = np.array([at_s - 1000 - frame.pts_s / (1 + share) for frame, at_s in played])
    assert old.max() < 4.6  # a piece, and a picture's time


@contextlib.contextmanager
def hls(folder: Path, pieces: int, frames: int, *, ended: bool) -> Iterator[str]:
    """The address of numbered frames in pieces of so many; unless it has ended, more of them may come."""
    playlist = folder / "live.m3u8"
    with av.open(str(playlist), "w", format="hls", options={"hls_time": str(frames / 25)}) as out:
        stream = out.add_stream("libx264", rate=25, options={"g": str(frames), "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for n in range(pieces * frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(n), format="bgr24")))
        out.mux(stream.encode(None))
    assert len(list(folder.glob("*.ts"))) == pieces
    if not ended:
        playlist.write_text(playlist.read_text().replace("#EXT-X-ENDLIST\n", ""))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_port}/live.m3u8"


@pytest.mark.timeout(60)
def test_hls_comes_at_its_own_pace(tmp_path: Path) -> None:
    with hls(tmp_path, 4, 12, ended=True) as address, open_source(address) as source:
        frames = list(source)
    assert [read_number(frame.image_bgr) for frame in frames] == list(range(48))
    captured = np.array([frame.captured_at_s for frame in frames])
    assert (np.diff(captured) >= np.diff([frame.pts_s for frame in frames]) - 1e-3).all()


@pytest.mark.timeout(60)
def test_hls_that_has_ended_is_looked_for_and_its_list_not_played_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hls(tmp_path, 3, 25, ended=False) as address, open_source(address, SourceConfig(reconnect_s=0.5)) as source:
        frame = source.read()
        assert frame is not None
        with (tmp_path / "live.m3u8").open("a") as playlist:
            playlist.write("#EXT-X-ENDLIST\n")  # as FFmpeg's muxer does at its end
        numbers = [read_number(frame.image_bgr), *(read_number(frame.image_bgr) for frame in source)]
    assert numbers == list(range(50, 75))
    assert not source.losses[-1].back
    assert "only a recording" in caplog.text


@pytest.mark.timeout(60)
def test_live_hls_begins_with_its_newest_piece(tmp_path: Path) -> None:
    with hls(tmp_path, 5, 50, ended=False) as address, open_source(address) as source:
        frame = source.read()
    assert frame is not None
    assert read_number(frame.image_bgr) == 200


@pytest.mark.parametrize("size", ["big", "1280", "1280x", "x720", "0x720", "-1x720"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["track", "--source", "webcam", f"--camera-size={size}"])
    assert f"'{size}' is not a size; WIDTHxHEIGHT is accepted" in capsys.readouterr().err
