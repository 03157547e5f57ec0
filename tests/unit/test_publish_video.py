"""The annotated video to video servers: to FFmpeg's own, what a slow or missing one costs, reconnection."""

from __future__ import annotations

import io
import logging
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from live_servers import free_port
from live_world import Run, header, info, packet, until
from media_clips import write_clip

from sharpose_rt.cli import main
from sharpose_rt.config import LiveConfig, RunConfig
from sharpose_rt.errors import ConfigError, SourceError
from sharpose_rt.live import VideoPublisher, VideoTarget, parse_video_target
from sharpose_rt.live import video as video_module
from sharpose_rt.live.relay import Relay, _Pipe
from sharpose_rt.live.relay_process import _Silence
from sharpose_rt.media import Painter
from sharpose_rt.media.h264 import add_h264, as_frame
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import encode

pytestmark = pytest.mark.timeout(60)

SERVERS = {
    "rtsp": ("rtsp://127.0.0.1:{}/poses", "rtsp", {"rtsp_flags": "listen", "listen_timeout": "20"}),
    "rtmp": ("rtmp://127.0.0.1:{}/live/key", "flv", {"listen": "1"}),
    "tcp": ("tcp://127.0.0.1:{}", "mpegts", {"listen": "1"}),
    "udp": ("udp://127.0.0.1:{}", "mpegts", {"timeout": "1500000"}),
}


class Server(threading.Thread):
    """A video server of FFmpeg, which takes one stream to its end; or what came of it so far."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        address, self._format, self._options = SERVERS[kind]
        self.url = address.format(free_port())
        self.pictures: list[np.ndarray] = []
        self.times_s: list[float | None] = []
        self.sound: list[tuple[float, float, float]] = []
        """Begin and end, s, and loudest sample of each piece of sound."""
        self.start()

    def run(self) -> None:
        with (
            suppress(OSError, av.error.FFmpegError),  # how some of them end
            av.open(self.url, format=self._format, options=self._options, timeout=20) as container,
        ):
            for frame in container.decode():
                if isinstance(frame, av.AudioFrame):
                    begin_s = float(frame.time or 0)
                    loudest = float(np.abs(frame.to_ndarray()).max())
                    self.sound.append((begin_s, begin_s + frame.samples / frame.sample_rate, loudest))
                elif isinstance(frame, av.VideoFrame):
                    self.pictures.append(frame.to_ndarray(format="bgr24"))
                    self.times_s.append(frame.time)


def _send(run: Run, frames: int, period_s: float = 0.04) -> None:
    for _ in range(frames):
        run.step()
        time.sleep(period_s)


def _begin(publisher: VideoPublisher, stem: str = "walk") -> Any:
    return publisher.begin(info(stem, live=True), encode(header().to_record()), live=True, state=lambda: "live")


@contextmanager
def _listener() -> Iterator[tuple[socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, f"tcp://127.0.0.1:{listener.getsockname()[1]}"


# --- addresses


@pytest.mark.parametrize(
    ("text", "format_"),
    [
        ("rtsp://127.0.0.1:8554/poses", "rtsp"),
        ("rtsps://me:word@example.org/poses", "rtsp"),
        ("rtmp://example.org/live/key", "flv"),
        ("srt://10.0.0.5:9000?streamid=publish:poses", "mpegts"),
        ("udp://239.1.1.1:5000", "mpegts"),
        ("tcp://[::1]:5000", "mpegts"),
    ],
)
def test_targets(text: str, format_: str) -> None:
    assert parse_video_target(text).format == format_


def test_datagrams_are_whole_packets_at_an_even_pace() -> None:
    """A key frame sent at once was more than the buffers of receivers hold, and torn."""
    asked = {
        "udp://127.0.0.1:5000": "udp://127.0.0.1:5000?pkt_size=1316&bitrate=40000000",
        "udp://239.1.1.1:5000?ttl=2&bitrate=9000000": "udp://239.1.1.1:5000?ttl=2&bitrate=9000000&pkt_size=1316",
        "tcp://127.0.0.1:5000": "tcp://127.0.0.1:5000",
    }
    assert {text: parse_video_target(text).to_open(4000) for text in asked} == asked


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "are accepted"),
        ("http://a:1/x", "are accepted"),
        ("a:1", "are accepted"),
        ("udp://a", "host and a port"),
        ("tcp://:5", "host and a port"),
        ("rtsp://a:x/b", "port is a number"),
        ("rtsp://[::1:8554/b", "in brackets"),
        ("rtsp://a..b/c", "is not a host"),
        ("rtsp://camera:8554", "name is missing, as in rtsp://HOST/poses"),
        ("rtmp://example.org/", "name is missing"),
        ("rtmps://example.org/live/key", "--tls any"),
    ],
)
def test_bad_targets(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"--publish-video is .*{told}"):
        parse_video_target(text)


def test_whoever_answers_an_encrypted_address_is_verified(tmp_path: Path) -> None:
    assert parse_video_target("rtsps://example.org/poses").options["tls_verify"] == "1"
    assert parse_video_target("rtsps://example.org/poses", tls="any").options["tls_verify"] == "0"
    assert parse_video_target("rtmps://example.org/live/key", tls="any").format == "flv"
    with pytest.raises(SourceError, match=r"none\.pem"):
        parse_video_target("rtsps://example.org/poses", tls=str(tmp_path / "none.pem"))


def test_several_sources_need_an_address_each() -> None:
    with pytest.raises(ConfigError, match=r"3 sources; put \{source\}"):
        parse_video_target("rtsp://a:8554/poses", sources=3)
    target = parse_video_target("rtsp://a:8554/{source}", sources=3)
    assert target.of("front door").url == "rtsp://a:8554/front%20door"


def test_secrets_of_a_target_are_masked() -> None:
    assert parse_video_target("rtsp://me:word@host/a").name == "rtsp://***@host/a"
    assert "key" not in parse_video_target("rtmp://host/live/key").name
    for text in ("ftp://me:word@host:1", "rtsp://me:word@host", "rtmps://host/live/word", "tcp://me:word@host"):
        with pytest.raises(ConfigError) as error:
            parse_video_target(text)
        assert "word" not in str(error.value)


# --- servers


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_gets_every_picture_with_the_people_on_it(kind: str) -> None:
    server = Server(kind)
    with VideoPublisher(parse_video_target(server.url), RunConfig()) as publisher:
        run = Run(publisher, live=True)
        until(lambda: publisher.figures()["state"] == "connected", run)
        _send(run, 15, 0.02)
        run.end()
    figures, sent = publisher.figures(), run.frames
    assert figures["state"] == "closed"
    assert figures["sent"] + figures["dropped"] == sent
    server.join()
    # RTSP's server is found only when it listens, which is not at once: what came before is lost, and told so.
    assert len(server.pictures) >= figures["sent"] - (3 if kind == "udp" else 0)
    assert len(server.pictures) >= 5
    last = packet(sent - 1)
    drawn = Painter(COCO17).drawn(last)
    apart = np.abs(server.pictures[-1][80:].astype(int) - drawn[80:]).mean()  # below the status line
    plain = np.abs(server.pictures[-1][80:].astype(int) - last.frame.image_bgr[80:]).mean()
    assert apart < 4 < plain
    times_s = np.array([time_s for time_s in server.times_s if time_s is not None])
    assert np.allclose(np.diff(times_s), 0.04, atol=0.002) or figures["dropped"]
    if kind == "rtmp":  # services want sound
        begin_s, end_s, loudest = np.array(server.sound).T
        assert loudest.max() < 1e-3
        assert np.allclose(begin_s[1:], end_s[:-1], atol=0.002)  # FLV counts in milliseconds
        assert begin_s[0] <= times_s[0] + 0.03
        assert end_s[-1] >= times_s[-1] - 0.05  # a decoder keeps the last piece
    else:
        assert not server.sound


class Bytes(bytearray):
    """A file that PyAV writes to."""

    def write(self, data: bytes) -> int:
        self += data
        return len(data)

    def pictures(self) -> int:
        """Tags of FLV with a coded picture in them, so far."""
        at, count = 13, 0
        while at + 13 <= len(self):
            count += self[at] == 9 and self[at + 12] == 1
            at += 15 + int.from_bytes(self[at + 1 : at + 4], "big")
        return count


def test_no_picture_waits_for_its_silence() -> None:
    file = Bytes()
    with av.open(file, "w", format="flv", options={"flush_packets": "1"}) as out:  # type: ignore[call-overload]
        stream, silence = add_h264(out, (64, 48), 25, {"tune": "zerolatency", "bf": "0"}), _Silence(out)
        out.start_encoding()
        for number in range(30):
            frame = as_frame(np.zeros((48, 64, 3), np.uint8), (64, 48))
            frame.pts = 3600 * number
            for coded in stream.encode(frame):
                silence.go_on(number / 25)
                out.mux(coded)
            assert file.pictures() == number + 1


def test_each_source_goes_to_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(target: VideoTarget, *_: Any) -> Relay:
        asked.append(target.url)
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(video_module, "Relay", refuse)
    with VideoPublisher(parse_video_target("rtsp://127.0.0.1:9/{source}", sources=3), RunConfig()) as publisher:
        for stem in ("front door", "yard", "yard"):
            feed = _begin(publisher, stem)
            feed.frame(b"", packet(0))
        until(lambda: publisher.figures()["dropped"] == 3)
    assert sorted(asked) == [f"rtsp://127.0.0.1:9/{name}" for name in ("front%20door", "yard", "yard-2")]


def test_a_large_picture_is_shrunk_and_a_change_of_size_is_fitted_in() -> None:
    server = Server("tcp")
    config = replace(RunConfig(), live=LiveConfig(video_px=320))
    with VideoPublisher(parse_video_target(server.url), config) as publisher:
        feed = _begin(publisher)
        for number in range(30):
            feed.frame(b"", packet(number, size_wh=(639, 361) if number < 15 else (200, 300)))
            time.sleep(0.03)
        feed.end(b"")
    server.join()
    assert {picture.shape for picture in server.pictures} == {(182, 320, 3)}  # an odd side has a pixel more
    assert not server.pictures[-1][:, :60].max() > 40  # bars beside the upright one
    assert server.pictures[-1][:, 130:190].mean() > 40


def test_whoever_comes_late_waits_a_second_however_few_pictures_there_are() -> None:
    with _listener() as (listener, url):
        relay = Relay(parse_video_target(url), (64, 48), 25, RunConfig())
        for number in range(9):
            relay.write(np.zeros((48, 64, 3), np.uint8), number / 2)  # two a second, for four
        connection = listener.accept()[0]
        relay.close()
        with connection, connection.makefile("rb") as file, av.open(file, format="mpegts") as container:
            keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe and p.size]
    assert np.subtract(keys, keys[0]).tolist() == pytest.approx([0, 1, 2, 3, 4])


def test_a_connection_of_weeks_has_both_ends_of_its_pipe_remember_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, noise, write = Bytes(), np.random.default_rng(0), _Pipe.write
    monkeypatch.setattr(_Pipe, "write", lambda pipe, data: sent.write(write(pipe, data) and data))
    relay = Relay(replace(parse_video_target("tcp://127.0.0.1:9"), url=os.devnull), (320, 240), 25, RunConfig())
    del sent[:]  # the job
    times_s = [*np.arange(40) / 25, 7200.0, 7200.01, 1e6]  # its source is gone for hours, and for days
    for time_s in times_s:
        relay.write(noise.integers(0, 256, (240, 320, 3), np.uint8), time_s)
    relay.close()
    assert len(sent) > 300_000
    assert sent.count(bytes.fromhex("4E4BE4ADEECA4569")) == 1  # where one can begin, each of which is kept in memory
    with av.open(io.BytesIO(sent), format="nut") as container:
        told_s = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.size]
    assert told_s == pytest.approx(times_s, abs=1e-4)


def test_a_server_that_refuses_the_key_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Those of RTMP hang up, without a word."""
    with _listener() as (listener, url):

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = connection.recv(4096)  # C0 and C1; the answer to both is all that is said
                while len(asked) < 1537:
                    asked += connection.recv(4096)
                connection.sendall(b"\x03" + bytes(1536) + asked[1:1537])
                while (asked := connection.recv(4096)) and b"connect" not in asked:
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        with VideoPublisher(parse_video_target(f"rtmp{url.removeprefix('tcp')}/live/key"), RunConfig()) as publisher:
            run = Run(publisher, live=True)
            until(lambda: publisher.figures()["state"] == "lost", run)
            run.end()
        thread.join()
    assert "hung up, as servers do when they refuse a path or a key" in caplog.text


def test_a_server_that_goes_is_connected_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    got: queue.Queue[bytes] = queue.Queue()
    with _listener() as (listener, url):

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    data = b""
                    while len(data) < 20_000:
                        data += connection.recv(4096)
                got.put(data)

        thread = threading.Thread(target=serve)
        thread.start()
        with VideoPublisher(parse_video_target(url), RunConfig()) as publisher:
            run = Run(publisher, live=True)
            until(lambda: got.qsize() == 2, run)
        thread.join()
    assert publisher.figures()["reconnects"] >= 1
    assert "connected to tcp://" in caplog.text
    assert "cannot be reached" in caplog.text
    assert all(b"\x00\x00\x01\x67" in got.get() for _ in range(2))  # each connection begins with what a decoder needs


def test_nobody_there_is_told_once_and_costs_the_run_nothing(caplog: pytest.LogCaptureFixture) -> None:
    address = f"rtsp://me:hidden@127.0.0.1:{free_port()}/poses"
    with VideoPublisher(parse_video_target(address), RunConfig()) as publisher:
        run = Run(publisher, live=True)
        until(lambda: publisher.figures()["state"] == "lost", run)
        _send(run, 10)
        run.end()
    figures = publisher.figures()
    assert (figures["sent"], figures["dropped"]) == (0, run.frames)
    told = [record.getMessage() for record in caplog.records if "cannot be reached" in record.getMessage()]
    assert len(told) == 1
    assert "refused" in told[0]
    assert "hidden" not in caplog.text


def test_a_server_that_takes_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(video_module, "_STUCK_S", 0.5)
    with _listener() as (_, url):  # connections are taken by the system, and nobody reads
        config = replace(RunConfig(), live=LiveConfig(video_kbps=1_000_000))
        with VideoPublisher(parse_video_target(url), config) as publisher:
            feed = _begin(publisher)
            noise, number = np.random.default_rng(0), 0
            while publisher.figures()["state"] != "lost":
                one = packet(number)
                image = noise.integers(0, 255, one.frame.image_bgr.shape, np.uint8)
                feed.frame(b"", replace(one, frame=replace(one.frame, image_bgr=image)))
                number += 1
                time.sleep(0.005)
        assert publisher.figures()["dropped"] > 0
    assert "took nothing for 0.5 s" in caplog.text


def test_the_end_does_not_wait_for_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "_GRACE_S", 0.2)
    with _listener() as (listener, url):
        with VideoPublisher(
            parse_video_target(url.replace("tcp://", "rtmp://") + "/live/key"), RunConfig()
        ) as publisher:
            run = Run(publisher, live=True)
            run.step()
            with listener.accept()[0]:  # which says nothing
                run.end()
                publisher.__exit__(None, None, None)
        assert publisher.figures()["state"] == "closed"
        assert publisher.figures()["sent"] == 0


class Held:
    """A connection that takes nothing until it is ended."""

    connected, reason, stuck_s = False, "", 0.0

    def __init__(self, *_: Any) -> None:
        self.killed = threading.Event()

    def write(self, image: np.ndarray, pts_s: float) -> None:
        self.killed.wait()
        raise ConnectionError("ended")

    def kill(self, reason: str = "") -> None:
        self.killed.set()

    def close(self, grace_s: float = 1.0) -> None:
        self.killed.set()


class Interrupted(threading.Event):
    """Ctrl-C falls into the first wait for it."""

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and not getattr(self, "came", False):
            self.came = True
            raise KeyboardInterrupt
        return super().wait(timeout)


def test_ctrl_c_in_the_last_wait_ends_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sources; Python waits at its end for each thread that is left."""
    monkeypatch.setattr(video_module, "Relay", Held)
    publisher = VideoPublisher(parse_video_target("rtsp://127.0.0.1:9/{source}", sources=2), RunConfig())
    for stem in "ab":
        feed = _begin(publisher, stem)
        feed.frame(b"", packet(0))
        feed.frame(b"", packet(1))
        feed._ended = Interrupted()
    until(lambda: all(sender._relay is not None for sender in publisher._senders))
    with pytest.raises(KeyboardInterrupt):
        publisher.__exit__(None, None, None)
    for sender in publisher._senders:
        sender._thread.join(20)
        assert not sender._thread.is_alive()
        assert (sender.state, sender._next, sender._missed) == ("closed", None, None)


def test_a_connection_that_is_begun_while_the_wait_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Held:
        begun.set()
        go_on.wait()
        return Held(*arguments)

    monkeypatch.setattr(video_module, "Relay", slow)
    publisher = VideoPublisher(parse_video_target("rtsp://127.0.0.1:9/a"), RunConfig())
    feed = _begin(publisher)
    feed.frame(b"", packet(0))
    feed._ended = Interrupted()
    begun.wait()
    with pytest.raises(KeyboardInterrupt):
        publisher.__exit__(None, None, None)
    go_on.set()
    feed._thread.join(20)
    assert not feed._thread.is_alive()


def test_the_address_is_in_no_list_of_processes_and_no_process_is_left() -> None:
    with _listener() as (listener, _):
        port = listener.getsockname()[1]
        target = parse_video_target(f"rtmp://127.0.0.1:{port}/live/hidden")
        relay = Relay(target, (64, 48), 25, RunConfig())
        try:
            relay.write(np.zeros((48, 64, 3), np.uint8), 0.0)
            command = Path(f"/proc/{relay._process.pid}/cmdline")
            if command.exists():
                assert b"hidden" not in command.read_bytes()
            relay.kill()
            relay._process.wait()
            with pytest.raises(BrokenPipeError):
                relay.write(np.zeros((48, 64, 3), np.uint8), 1.0)
        finally:
            relay.kill()
            relay.close()
        assert relay._process.poll() is not None


def test_what_the_camera_did_over_pictures_that_are_not_sent_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    going, gone = threading.Event(), threading.Event()

    class Slow(Painter):
        def drawn(self, packet: Any, status: str = "") -> Any:
            drawn.append(packet)
            going.set()
            gone.wait()
            return super().drawn(packet, status)

    monkeypatch.setattr(video_module, "Painter", Slow)
    target = parse_video_target(f"tcp://127.0.0.1:{free_port()}")
    step = np.array([[1.0, 0, 3], [0, 1, -1]])
    with VideoPublisher(target, RunConfig()) as publisher:
        feed = _begin(publisher)
        feed.frame(b"", packet(0))
        going.wait()
        for number in range(1, 5):
            feed.frame(b"", replace(packet(number), camera=step, new_scene=False))
        gone.set()
        until(lambda: len(drawn) == 2)
    assert drawn[1].frame.frame_id == 4
    assert drawn[1].frame.dropped_before == 3
    np.testing.assert_allclose(drawn[1].camera[:, 2], (12, -4))


# --- from the command line


def test_a_run_sends_its_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clip = tmp_path / "clip.mp4"
    write_clip(clip, size_wh=(320, 240), frames=30, fps=20)
    server = Server("rtmp")
    arguments = ["--source", str(clip), "--output", str(tmp_path / "out"), "--quiet", "--offline", "--no-video"]
    arguments += ["--detector", "bundled", "--realtime", "--publish-video", server.url]
    assert main(arguments) == 0
    server.join()
    assert server.pictures  # how many depends on how busy the machine is
    assert "key" not in caplog.text


def test_a_replay_sends_its_video_at_its_own_pace(tmp_path: Path) -> None:
    stream, server = Path(__file__).parents[2] / "samples/demo.skeletons.jsonl", Server("tcp")
    arguments = ["replay", str(stream), "--output", str(tmp_path), "--no-video", "--quiet"]
    assert main([*arguments, "--publish-video", server.url]) == 0
    server.join()
    assert {picture.shape for picture in server.pictures} == {(720, 960, 3)}
    assert all(picture[100:].max() > 100 for picture in server.pictures)  # people on black
    assert np.median(server.pictures[-1]) < 20


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "add --realtime"),
        (["--realtime", "--source", "webcam"], r"2 sources; put \{source\}"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip, frames=3)
    given = ["--source", str(clip), "--output", str(tmp_path / "out"), "--publish-video", "rtsp://127.0.0.1:9/a"]
    assert main([*given, *arguments]) == 2
    assert re.search(told, capsys.readouterr().err)
