"""Skeletons to other programs: every transport to a real consumer, what a slow or missing one gets, reconnection."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from live_servers import free_port, serving
from live_world import Run, header, packet, until
from mqtt_broker import MqttBroker
from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_message import OscMessage
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from sharpose_rt.errors import ConfigError
from sharpose_rt.geometry.affine import apply_affine
from sharpose_rt.live import Publisher, parse_target, publish
from sharpose_rt.live.address import Target
from sharpose_rt.live.osc import MAX_BUNDLE, message, packets
from sharpose_rt.live.outbox import Outbox, Record
from sharpose_rt.live.thinned import Journey, Thinned
from sharpose_rt.live.transports import UdpTransport, WebSocketTransport, split, tagged
from sharpose_rt.skeletons import FrameRecord, encode, end_record, validate
from sharpose_rt.skeletons.validation import schema_validator
from sharpose_rt.types import Poses

pytestmark = pytest.mark.timeout(60)


def _frame(frame_id: int, people: int = 3) -> dict[str, Any]:
    made = packet(frame_id, people)
    assert made.poses is not None
    return FrameRecord(frame_id, made.frame.pts_s, made.poses).to_record()


def _record(frame_id: int | None, run: int = 0) -> Record:
    return Record(run, "", b"", b"", frame_id)


def _is_valid(lines: list[str], tmp_path: Path) -> bool:
    path = tmp_path / "got.jsonl"
    path.write_text("\n".join(line.rstrip("\n") for line in lines) + "\n")
    return [str(p) for p in validate(path)] == []


# Addresses


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "bind"),
    [
        ("-", "-", "", 0, False),
        ("ws://10.0.0.5:9000/in", "ws", "10.0.0.5", 9000, False),
        ("wss://example.org/in", "wss", "example.org", 443, False),
        ("zmq+tcp://127.0.0.1:5556", "zmq+tcp", "127.0.0.1", 5556, False),
        ("zmq+tcp://@127.0.0.1:5556", "zmq+tcp", "127.0.0.1", 5556, True),
        ("mqtt://broker/home/hall/poses", "mqtt", "broker", 1883, False),
        ("mqtts://me:secret@broker.example/poses", "mqtts", "broker.example", 8883, False),
        ("udp://[::1]:7000", "udp", "::1", 7000, False),
        ("osc://localhost:9000", "osc", "localhost", 9000, False),
    ],
)
def test_targets(text: str, scheme: str, host: str, port: int, bind: bool) -> None:
    target = parse_target(text)
    assert (target.scheme, target.host, target.port, target.bind) == (scheme, host, port, bind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://a:1",
        "a:1",
        "udp://a",
        "udp://:5",
        "osc://a:x",
        "udp://a:99999",
        "zmq+tcp://*:5",
        "zmq+tcp://@0.0.0.0:5",
        "udp://192.168.1..5:9000",
        "mqtt://broker",
        "mqtt://broker/",
        "mqtt://broker/poses/#",
        "mqtt://broker/+/poses",
        "mqtt://broker/poses%23",
        "mqtt://broker/poses?qos=1",
        f"ws://{'a' * 64}.example:9000",
        "ws://[::1:9000",
    ],
)
def test_bad_targets(text: str) -> None:
    with pytest.raises(ConfigError, match="--publish"):
        parse_target(text)


def test_secrets_of_a_target_are_masked() -> None:
    assert parse_target("ws://me:pass@host:1/a?token=abc").name == "ws://***@host:1/a?token=***"
    for text in ("ftp://me:pass@host:1", "ws://me:pass@[::1:1", "ws://me:pass/word@host:1"):
        with pytest.raises(ConfigError) as error:
            parse_target(text)
        assert "pass" not in str(error.value)


# What waits


def test_newest_takes_the_place_of_the_one_before() -> None:
    box = Outbox(1)
    for number in range(5):
        box.put(_record(number))
    box.put(_record(None))
    box.close()
    assert [box.take(), box.take(), box.take()] == [_record(4), _record(None), None]
    assert box.dropped == 4


def test_runs_take_turns_in_an_outbox() -> None:
    box = Outbox(2)
    for number in range(2):
        for run in (7, 8):
            box.put(_record(number, run))
    box.close()
    taken = [record for _ in range(4) if (record := box.take()) is not None]
    assert [(r.run, r.frame_id) for r in taken] == [(7, 0), (8, 0), (7, 1), (8, 1)]


def test_a_full_queue_waits_for_its_consumer() -> None:
    box, taken = Outbox(3, patience_s=30), []

    def consume() -> None:
        while (record := box.take()) is not None:
            taken.append(record.frame_id)

    consumer = threading.Thread(target=consume)
    consumer.start()
    for number in range(200):
        box.put(_record(number))
    box.close()
    consumer.join()
    assert taken == list(range(200))


def test_patience_ends_until_something_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    box, waits = Outbox(1, patience_s=0.01), []
    wait_for = box._changed.wait_for

    def counted(ready: Any, timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait_for(ready, timeout)

    monkeypatch.setattr(box._changed, "wait_for", counted)
    for number in range(10):
        box.put(_record(number))
    assert len(waits) == 1
    assert box.take() == _record(9)
    box.put(_record(10))
    box.put(_record(11))
    assert len(waits) == 3  # take() waits too
    assert box.dropped == 10


def test_a_thinned_stream_accounts_for_everything(tmp_path: Path) -> None:
    thinned, lines = Thinned(), [encode(header().to_record())]
    for number in (2, 3, 7, 8, 20):
        lines.append(thinned.frame(number, encode(_frame(number))))
    lines.append(thinned.end(encode(end_record("complete", 21, 0))))
    assert _is_valid([line.decode() for line in lines], tmp_path)
    assert lines[2] == encode(_frame(3))  # byte for byte where nothing is missing
    assert json.loads(lines[-1])["dropped"] == 16


# OSC


def test_osc_is_what_python_osc_reads() -> None:
    read = OscMessage(message("/a/b", "isfd", -5, "müde", 0.25, 1e-9))
    assert (read.address, read.params) == ("/a/b", [-5, "müde", 0.25, 1e-9])
    (bundle,) = (OscBundle(data) for data in packets(_frame(4, people=2)))
    first, second, third = bundle
    assert (first.address, first.params) == ("/sharpose/frame", [4, 0.16, 2])
    for read, person in zip((second, third), _frame(4, 2)["people"], strict=True):
        assert read.address == "/sharpose/person"
        assert read.params[:3] == [4, person["track_id"], person["stage"]]
        assert read.params[4:8] == pytest.approx(person["bbox_xyxy"], abs=1e-3)
        assert read.params[8:] == pytest.approx([v for point in person["keypoints"] for v in point], abs=1e-3)
    names, size = (OscMessage(data) for data in packets(header().to_record()))
    assert names.params == list(header().skeleton.keypoints)
    assert size.params == [640, 360]


def test_osc_of_a_crowd_stays_below_what_receivers_take() -> None:
    sent = list(packets(_frame(0, people=100), "/sharpose/door"))
    assert max(map(len, sent)) <= MAX_BUNDLE
    read = [content for data in sent for content in OscBundle(data)]
    assert [r.address for r in read] == ["/sharpose/door/frame", *["/sharpose/door/person"] * 100]
    assert [r.params[1] for r in read[1:]] == list(range(1, 101))


def test_lines_that_do_not_fit_are_split_into_valid_ones() -> None:
    whole = _frame(3, people=50)
    parts = split(encode(whole), 10_000)
    assert max(map(len, parts)) <= 10_000
    records = [json.loads(part) for part in parts]
    assert [r["part"] for r in records] == [[i, len(parts)] for i in range(len(parts))]
    assert [person for r in records for person in r["people"]] == whole["people"]
    assert split(encode(whole), 1_000_000) == [encode(whole)]


def test_lines_of_several_sources_say_whose_they_are() -> None:
    line = encode(_frame(0))
    assert tagged(line, "") == line
    assert json.loads(tagged(line, "döör")) == {"stream": "döör", **json.loads(line)}


# Real consumers


@contextmanager
def _websocket_consumer(port: int = 0, frames: int | None = None) -> Iterator[tuple[int, queue.Queue[str], Server]]:
    """A server that puts what it gets into a queue; after `frames` messages it hangs up."""
    got: queue.Queue[str] = queue.Queue()

    def talk(connection: ServerConnection) -> None:
        for count, text in enumerate(connection, start=1):
            got.put(str(text))
            if count == frames:
                return

    with serve(talk, "127.0.0.1", port, compression=None) as server, serving(server):
        yield _port(server), got, server


def test_websocket(tmp_path: Path) -> None:
    with _websocket_consumer() as (port, got, _):
        with Publisher(parse_target(f"ws://127.0.0.1:{port}/in"), "queue", patient=True) as publisher:
            run = Run(publisher)
            run.step(300)
            run.end()
        lines = [got.get(timeout=10) for _ in range(302)]
        assert publisher.figures()["sent"] == 301
        assert publisher.figures()["dropped"] == 0
    assert [json.loads(line).get("frame_id") for line in lines[1:-1]] == list(range(300))
    assert _is_valid(lines, tmp_path)


def test_websocket_consumer_that_dies_and_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.retry._LONGEST_PAUSE_S", 0.05)
    with Publisher(parse_target("ws://127.0.0.1:1"), "newest"):
        pass  # nobody there and nothing to say
    with _websocket_consumer(frames=3) as (port, got, _):
        publisher = Publisher(parse_target(f"ws://127.0.0.1:{port}"), "newest")
        with publisher:
            run = Run(publisher, live=True)
            headers = 0
            while headers < 3:  # it hangs up after each second frame
                run.step()
                with_header = not got.empty() and json.loads(got.get())["type"] == "header"
                headers += with_header
            run.end()
        assert publisher.figures()["reconnects"] >= 2
        assert publisher.figures()["state"] == "closed"


def test_websocket_consumer_that_answers() -> None:
    """What it says is read, and so is its ping: else one of both would take the other for dead."""
    alive: queue.Queue[bool] = queue.Queue()

    def talk(connection: ServerConnection) -> None:
        for count, _ in enumerate(connection, start=1):
            connection.send("got it")
            if count == 60:
                alive.put(connection.ping().wait(10))

    with serve(talk, "127.0.0.1", 0, compression=None, max_queue=None) as server, serving(server):
        target = parse_target(f"ws://127.0.0.1:{_port(server)}")
        with Publisher(target, "queue", patient=True) as publisher:
            run = Run(publisher)
            while alive.empty():
                run.step()
                threading.Event().wait(0.002)
            run.end()
    assert alive.get()
    assert publisher.figures()["reconnects"] == 0


def test_websocket_consumer_that_is_slow_gets_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent what would wait in the systems' buffers until it is old."""
    monkeypatch.setattr("sharpose_rt.live.transports._ON_THE_WAY_S", 0)
    goes_on, got = threading.Event(), list[dict[str, Any]]()

    def take(connection: ServerConnection) -> None:
        for text in connection:
            got.append(json.loads(text))
            goes_on.wait(20)

    with (
        serve(take, "127.0.0.1", 0, compression=None, max_queue=1) as server,
        serving(server),
        Publisher(parse_target(f"ws://127.0.0.1:{_port(server)}"), "newest") as publisher,
    ):
        run = Run(publisher)
        for _ in range(100):
            run.step()
            time.sleep(0.01)
        goes_on.set()
        run.end()
    frames = [record["frame_id"] for record in got if record["type"] == "frame"]
    assert len(frames) < 20
    assert frames[-1] == 99
    assert got[-1]["type"] == "end"


def test_what_websockets_says_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with _websocket_consumer() as (port, _, _), caplog.at_level(logging.DEBUG):
        transport = WebSocketTransport(parse_target(f"ws://127.0.0.1:{port}"), "newest")
        transport.open()
        transport._connection.logger.error("keepalive ping failed", exc_info=True)
        transport.close()
    assert "keepalive" not in caplog.text
    assert not [record for record in caplog.records if record.name == "websockets.client"]


def test_a_name_that_cannot_be_looked_up_is_out_of_reach(caplog: pytest.LogCaptureFixture) -> None:
    with Publisher(Target("udp", "udp://a..b:9000", "a..b", 9000), "newest") as publisher:
        run = Run(publisher)
        until(lambda: publisher.state == "lost", run)
    assert "cannot be reached" in caplog.text
    assert publisher.figures()["sent"] == 0


def test_a_proxy_that_cannot_be_used_is_told_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    with Publisher(parse_target("ws://127.0.0.1:9/"), "newest") as publisher:
        run = Run(publisher)
        until(lambda: publisher.failed >= 2, run)  # it goes on trying
        assert publisher.state == "lost"
    assert "cannot be reached" in caplog.text


def test_secrets_of_an_address_are_not_in_what_is_told_of_its_consumer(caplog: pytest.LogCaptureFixture) -> None:
    # A user without a password is more than `websockets` takes; it says so with the whole address.
    with Publisher(parse_target("ws://hidden@127.0.0.1:1/in?token=secret"), "newest") as publisher:
        run = Run(publisher)
        until(lambda: publisher.state == "lost", run)
    assert "127.0.0.1:1/in?token=*** cannot be reached (ws://***@127.0.0.1:1/in?token=*** " in caplog.text
    assert "username provided without password; give a password with the user" in caplog.text
    assert "hidden" not in caplog.text
    assert "secret" not in caplog.text


def test_a_consumer_that_is_not_there_costs_the_run_nothing() -> None:
    with Publisher(parse_target(f"ws://127.0.0.1:{free_port()}"), "newest") as publisher:
        Run(publisher).step(50)
    figures = publisher.figures()
    assert figures["sent"] == 0
    assert figures["dropped"] >= 48


def test_ctrl_c_while_the_end_is_waited_for_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(parse_target(f"ws://127.0.0.1:{free_port()}"), "newest")
    thread = publisher._thread
    with pytest.raises(KeyboardInterrupt), publisher:
        monkeypatch.setattr(thread, "join", lambda timeout=None: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.undo()
    thread.join(10)
    assert not thread.is_alive()


def test_a_frozen_consumer_is_left_behind_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.publish._GRACE_S", 0.2)
    release, pings = threading.Event(), {"ping_interval": None}  # unanswered, they would end the connection in 40 s
    monkeypatch.setattr("websockets.sync.client.connect", partial(connect, **pings))
    options: dict[str, Any] = {"max_queue": 1, "compression": None, "close_timeout": 0.2, **pings}
    with serve(lambda connection: release.wait(), "127.0.0.1", 0, **options) as server, serving(server):
        with Publisher(parse_target(f"ws://127.0.0.1:{_port(server)}"), "newest") as publisher:
            run = Run(publisher, people=60)
            run.step(150)  # 16 MB
            run.end()
        release.set()
    assert publisher.figures()["dropped"] > 0


@contextmanager
def _udp_consumer(host: str = "127.0.0.1", timeout_s: float = 10.0) -> Iterator[tuple[socket.socket, Any]]:
    """A socket, and what looking up its name gives."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as consumer:
        try:
            consumer.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        consumer.settimeout(timeout_s)
        yield consumer, (family, socket.SOCK_DGRAM, socket.IPPROTO_UDP, "", consumer.getsockname())


def _port(consumer: socket.socket | Server) -> int:
    return (consumer.socket if isinstance(consumer, Server) else consumer).getsockname()[1]


def test_udp(tmp_path: Path) -> None:
    with _udp_consumer() as (consumer, _):
        lines = []
        with Publisher(parse_target(f"udp://127.0.0.1:{_port(consumer)}"), "newest") as publisher:
            run = Run(publisher)
            for count in range(6):
                run.step()
                lines += [consumer.recv(65536).decode() for _ in range(1 + (count == 0))]
            run.end()
            lines.append(consumer.recv(65536).decode())
    assert _is_valid(lines, tmp_path)
    assert [json.loads(line).get("frame_id") for line in lines] == [None, 0, 1, 2, 3, 4, 5, None]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="loopback has no broadcast address elsewhere")
def test_udp_to_everybody() -> None:
    with (
        _udp_consumer("0.0.0.0") as (consumer, _),
        Publisher(parse_target(f"udp://127.255.255.255:{_port(consumer)}"), "newest") as publisher,
    ):
        Run(publisher).step()
        assert json.loads(consumer.recv(65536))["type"] == "header"


def test_udp_to_localhost_goes_where_programs_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    with _udp_consumer() as (consumer, _):
        port = _port(consumer)
        both = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
        found = [(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP, "", address) for family, address in both]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with Publisher(parse_target(f"udp://localhost:{port}"), "newest") as publisher:
            Run(publisher).step()
            assert json.loads(consumer.recv(65536))["type"] == "header"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_consumer_that_moves_is_found_again(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.transports._LOOK_UP_EVERY_S", 0.0)
    failed = threading.Event()

    def look_up(*_: object, **__: object) -> list[Any]:
        if found:
            return found[:]
        failed.set()
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    def comes_to(consumer: socket.socket) -> None:
        got = b""
        while not got:
            run.step()
            with suppress(TimeoutError):
                got = consumer.recv(65536)

    with _udp_consumer(timeout_s=0.05) as (old, at_old), _udp_consumer(host, 0.05) as (new, at_new):
        found = [at_old]
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with Publisher(Target("udp", "udp://lights:9000", "lights", 9000), "newest") as publisher:
            run = Run(publisher)
            comes_to(old)
            found[:] = [at_new]
            comes_to(new)
            found.clear()
            until(failed.is_set, run)
            comes_to(new)
        assert publisher.figures()["reconnects"] == 0


def test_of_several_addresses_the_one_in_use_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with _udp_consumer() as (first, at_first), _udp_consumer() as (_, at_second):
        found = [at_first, at_second]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        transport = UdpTransport(Target("udp", "udp://lights:9000", "lights", 9000))
        for order in (1, -1):
            found = [at_first, at_second][::order]
            transport.open()
            transport.send(b"{}\n", "")
            assert first.recv(100) == b"{}"
            transport.close()


def test_without_a_network_nothing_is_said_to_be_connected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sharpose_rt.live.retry._LONGEST_PAUSE_S", 0.01)
    caplog.set_level(logging.INFO)
    send, tries = UdpTransport._send, itertools.count()

    def without_network(self: UdpTransport, data: bytes) -> None:
        if next(tries) < 8:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        send(self, data)

    monkeypatch.setattr(UdpTransport, "_send", without_network)
    with _udp_consumer() as (consumer, _):
        port = _port(consumer)
        with Publisher(parse_target(f"udp://127.0.0.1:{port}"), "newest") as publisher:
            run = Run(publisher)
            until(lambda: publisher.state == "connected", run)
        assert publisher.figures()["reconnects"] == 1
    assert caplog.text.count("cannot be reached") == 1
    assert caplog.text.count(f"connected to udp://127.0.0.1:{port} again") == 1


def test_a_server_that_refuses_is_told_of_even_after_it_was_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sharpose_rt.live.retry._LONGEST_PAUSE_S", 0.05)
    refused, port = threading.Semaphore(0), free_port()

    def refuse(connection: ServerConnection, request: object) -> Any:
        refused.release()
        return connection.respond(401, "who are you?")

    with Publisher(parse_target(f"ws://me:secret@127.0.0.1:{port}"), "newest") as publisher:
        run = Run(publisher)
        until(lambda: publisher.state == "lost", run)
        with serve(lambda connection: None, "127.0.0.1", port, process_request=refuse) as server, serving(server):
            tried = 0
            while tried < 3:
                run.step()
                tried += refused.acquire(timeout=0.05)
    assert caplog.text.count("HTTP 401; check the user and password") == 1
    assert "secret" not in caplog.text


def test_the_header_comes_again_for_whoever_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.publish._HEADER_EVERY_S", 0.0)
    with (
        _udp_consumer() as (consumer, _),
        Publisher(parse_target(f"udp://127.0.0.1:{_port(consumer)}"), "newest") as publisher,
    ):
        run = Run(publisher)
        for _ in range(3):
            run.step()
            kinds = [json.loads(consumer.recv(65536))["type"] for _ in range(2)]
            assert kinds == ["header", "frame"]


def test_several_sources_on_one_socket(tmp_path: Path) -> None:
    with _udp_consumer() as (consumer, _):
        target, got = parse_target(f"udp://127.0.0.1:{_port(consumer)}"), {}
        with Publisher(target, "queue", sources=3) as publisher:
            runs = [Run(publisher, stem=stem) for stem in ("cam", "cam", "door")]
            for _ in range(4):
                for run in runs:
                    run.step()
            for run in runs:
                run.end()
            for _ in range(18):
                line = consumer.recv(65536).decode()
                got.setdefault(json.loads(line)["stream"], []).append(line)
    assert sorted(got) == ["cam", "cam-2", "door"]
    assert all(_is_valid(lines, tmp_path) for lines in got.values())


def test_osc_over_udp() -> None:
    with (
        _udp_consumer() as (consumer, _),
        Publisher(parse_target(f"osc://127.0.0.1:{_port(consumer)}"), "newest") as publisher,
    ):
        run = Run(publisher)
        run.step()
        names, size = OscMessage(consumer.recv(65536)), OscMessage(consumer.recv(65536))
        bundle = list(OscBundle(consumer.recv(65536)))
        run.end()
        end = OscMessage(consumer.recv(65536))
    assert (names.address, size.params) == ("/sharpose/keypoints", [640, 360])
    assert [m.address for m in bundle] == ["/sharpose/frame", *["/sharpose/person"] * 3]
    assert (end.address, end.params) == ("/sharpose/end", ["complete"])


@pytest.mark.parametrize("bind", [False, True])
def test_zmq(bind: bool) -> None:
    context = zmq.Context()
    consumer = context.socket(zmq.SUB)
    consumer.setsockopt(zmq.RCVTIMEO, 100)
    consumer.subscribe(b"")
    if bind:
        port = free_port()
        consumer.connect(f"tcp://127.0.0.1:{port}")
    else:
        port = consumer.bind_to_random_port("tcp://127.0.0.1")
    try:
        with Publisher(
            parse_target(f"zmq+tcp://{'@' if bind else ''}127.0.0.1:{port}"), "queue", patient=True
        ) as publisher:
            run, kinds = Run(publisher), set()
            while not {"header", "frame"} <= kinds:  # what is sent before both have found each other is lost
                run.step()
                try:
                    kinds.add(json.loads(consumer.recv())["type"])
                except zmq.Again:
                    continue
            run.end()
            while "end" not in kinds:
                kinds.add(json.loads(consumer.recv())["type"])
    finally:
        consumer.close()
        context.term()


def test_zmq_keeps_little_for_a_consumer_that_takes_nothing() -> None:
    context = zmq.Context()
    consumer = context.socket(zmq.SUB)
    consumer.rcvhwm, consumer.rcvbuf, consumer.rcvtimeo = 1, 4096, 1000
    consumer.subscribe(b"")
    port = consumer.bind_to_random_port("tcp://127.0.0.1")
    try:
        with Publisher(parse_target(f"zmq+tcp://127.0.0.1:{port}"), "newest") as publisher:
            run = Run(publisher, people=60)
            while not consumer.poll(50):  # they have not found each other
                run.step()
            began = run.frames
            while publisher.figures()["sent"] < began + 300:  # the system holds some, too
                run.step()
        got = 0
        with suppress(zmq.Again):
            while consumer.recv():
                got += 1
    finally:
        consumer.close()
        context.term()
    assert got < began + 200


def _records(broker: MqttBroker, topic: str = "home/poses") -> list[dict[str, Any]]:
    return [json.loads(payload) for name, payload, _ in broker.messages if name == topic]


def _told(broker: MqttBroker) -> list[bytes]:
    return [payload for name, payload, kept in broker.messages if name == "home/poses/status" and kept]


def test_mqtt(tmp_path: Path) -> None:
    login = ("me", "p@ss/word")
    with MqttBroker(login) as broker:
        target = parse_target(f"mqtt://me:p%40ss%2Fword@127.0.0.1:{broker.port}/home/poses")
        with Publisher(target, "queue", patient=True) as publisher:
            run = Run(publisher, people=40)  # a frame of more than one packet
            run.step(20)
            run.end()
        broker.wait_for(lambda _: len(_told(broker)) == 2)
    assert "word" not in publisher.figures()["to"]
    lines = [encode(record).decode() for record in _records(broker)]
    assert len(lines) == 22
    assert _is_valid(lines, tmp_path)
    assert not any(kept for name, _, kept in broker.messages if name == "home/poses")
    assert _told(broker) == [b"online", b"offline"]


def test_mqtt_comes_back_to_a_broker_that_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.retry._LONGEST_PAUSE_S", 0.05)
    with MqttBroker() as broker:
        with Publisher(parse_target(f"mqtt://127.0.0.1:{broker.port}/home/poses"), "newest") as publisher:
            run = Run(publisher)
            until(lambda: publisher.state == "connected", run)
            broker.wait_for(lambda _: len(_records(broker)) > 1)
            broker.cut()
            broker.wait_for(lambda _: _told(broker) == [b"online", b"offline"])  # its last will
            until(lambda: publisher.figures()["reconnects"] >= 1, run)
            run.end()
        broker.wait_for(lambda _: _told(broker)[-1] == b"offline")
    assert _told(broker) == [b"online", b"offline"] * 2
    kinds = [record["type"] for record in _records(broker)]
    assert kinds.count("header") == 2
    assert kinds[-1] == "end"


def test_a_broker_that_refuses_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with (
        MqttBroker(("me", "secret")) as broker,
        Publisher(parse_target(f"mqtt://me:hidden@127.0.0.1:{broker.port}/poses"), "newest") as publisher,
    ):
        run = Run(publisher)
        until(lambda: publisher.state == "lost", run)
    assert "refuses: Not authorized; check user and password" in caplog.text
    assert "hidden" not in caplog.text


def test_a_server_that_is_no_broker_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sharpose_rt.live.transports._OPEN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = parse_target(f"mqtt://127.0.0.1:{_port(silent)}/poses")
        with Publisher(target, "newest") as publisher:
            run = Run(publisher)
            until(lambda: publisher.state == "lost", run)
    assert "is it an MQTT broker?" in caplog.text


def test_a_server_that_hangs_up_on_mqtt_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.recv(1024)
                    connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with Publisher(parse_target(f"mqtt://127.0.0.1:{_port(server)}/poses"), "newest") as publisher:
            run = Run(publisher)
            until(lambda: publisher.state == "lost", run)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "closed the connection; does it need TLS" in caplog.text


def test_a_broker_that_freezes_does_not_hold_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.publish._GRACE_S", 0.3)
    with MqttBroker() as broker:
        broker.frozen = True
        with Publisher(parse_target(f"mqtt://127.0.0.1:{broker.port}/poses"), "newest") as publisher:
            run = Run(publisher, people=60)
            while publisher.figures()["dropped"] < 100:  # what the system still holds is full
                run.step()
        sent = publisher.figures()["sent"]
        broker.frozen = False
    assert sent < 100


@contextmanager
def _stdout_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Puts a pipe in the place of standard output and gives the end to read from."""
    reading, writing = os.pipe()
    with monkeypatch.context() as patch, os.fdopen(writing, "w") as file:
        patch.setattr(sys, "stdout", file)
        yield reading


def test_stdout_is_the_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got: list[str] = []

    def read(file: int) -> None:
        with os.fdopen(file) as lines:
            got.extend(lines)

    with _stdout_pipe(monkeypatch) as reading:
        reader = threading.Thread(target=read, args=(reading,))
        reader.start()
        with Publisher(parse_target("-"), "queue", capacity=8, patient=True) as publisher:
            run = Run(publisher)
            run.step(200)
            run.end()
    reader.join()
    assert len(got) == 202
    assert _is_valid(got, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="pipes that close are another matter on Windows")
def test_a_reader_of_stdout_that_leaves(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with _stdout_pipe(monkeypatch) as reading:
        os.close(reading)
        with Publisher(parse_target("-"), "queue", capacity=8, patient=True) as publisher:
            run = Run(publisher)
            run.step(30)
            run.end()
    assert "standard output was closed" in caplog.text
    assert (publisher.figures()["sent"], publisher.figures()["dropped"]) == (0, 30)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe's size is the system's")
def test_a_reader_of_stdout_that_is_slow_gets_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, got = threading.Event(), list[dict[str, Any]]()

    def read(file: int) -> None:
        goes_on.wait(20)
        with os.fdopen(file) as lines:
            got.extend(map(json.loads, lines))

    with _stdout_pipe(monkeypatch) as reading:
        reader = threading.Thread(target=read, args=(reading,))
        reader.start()
        with Publisher(parse_target("-"), "newest") as publisher:
            run = Run(publisher)
            for _ in range(30):
                run.step()
                time.sleep(0.01)
            goes_on.set()
            run.end()
    reader.join()
    assert 2 < len(got) < 10
    assert got[-2]["frame_id"] == 29


@pytest.mark.skipif(os.name == "nt", reason="pipes cannot be waited for on Windows")
def test_a_reader_of_stdout_that_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.publish._GRACE_S", 0.1)
    with _stdout_pipe(monkeypatch) as reading:
        with Publisher(parse_target("-"), "newest") as publisher:
            run = Run(publisher, people=40)
            run.step(20)  # more than a pipe holds
            run.end()
        os.close(reading)
    assert publisher.figures()["state"] == "closed"
    assert publisher.figures()["dropped"] > 0


@given(data=st.data(), count=st.integers(2, 40), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_whoever_misses_frames_is_told_what_the_camera_did_meanwhile(
    data: st.DataObject, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    taken = data.draw(st.lists(st.integers(0, count - 1), min_size=2, unique=True).map(sorted))
    journey, thinned, points = Journey(), Thinned(), rng.uniform(0, 1000, (4, 2))
    here, theirs, scenes, told = points, points, 0, 0
    for number in range(count):
        angle, size = rng.normal(0, 0.02), 1 + rng.normal(0, 0.02)
        turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        new_scene = number > 0 and rng.random() < 0.05
        scenes += new_scene
        moves = number > 0 and not new_scene and rng.random() < 0.6
        camera = np.round(np.hstack([turn, rng.normal(0, 9, (2, 1))]), 6) if moves else None
        here = here if camera is None else apply_affine(here, camera)
        place = journey.go(camera, new_scene=new_scene)
        if number not in taken:
            continue
        line = encode(FrameRecord(number, number / 25, Poses.empty(17), camera=camera, new_scene=new_scene).to_record())
        record = json.loads(thinned.frame(number, line, place))
        if number != taken[0]:
            assert record.get("new_scene", False) == (scenes > told)
        told = scenes
        if number == taken[0] or "new_scene" in record:
            theirs = here
            assert number == taken[0] or "camera" not in record
        elif "camera" in record:
            theirs = apply_affine(theirs, record["camera"])
        np.testing.assert_allclose(theirs, here, atol=0.1)
        missed = number - 1 - (taken[taken.index(number) - 1] if taken.index(number) else -1)
        assert record.get("dropped_before", 0) == missed
        assert not list(schema_validator("frame").iter_errors(record))


def test_a_camera_that_pans_for_ever_stays_exact() -> None:
    journey, thinned = Journey(), Thinned()
    pan = np.array([[1.0, 0, 1e5], [0, 1, 0]])
    for number in range(1001):
        place = journey.go(pan if number else None)
        if number % 2 == 0:
            line = encode(FrameRecord(number, float(number), Poses.empty(17), camera=pan).to_record())
            record = json.loads(thinned.frame(number, line, place))
            if number and "camera" in record:  # not where a part ends
                np.testing.assert_allclose(record["camera"], [[1, 0, 2e5], [0, 1, 0]], rtol=1e-6)
    assert journey.place.part > 5
    assert np.abs(journey.place.at).max() < 1e7


def test_ctrl_c_in_the_last_wait_ends_a_consumer_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen:
        repeats_header = False

        def __init__(self) -> None:
            self.sending, self.aborted = threading.Event(), threading.Event()

        def open(self) -> None: ...

        def send(self, line: bytes, source: str) -> None:
            self.sending.set()
            self.aborted.wait()
            raise ConnectionError("cut")

        def close(self) -> None: ...

        def abort(self) -> None:
            self.aborted.set()

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    frozen = Frozen()
    monkeypatch.setattr(publish, "create_transport", lambda *_: frozen)
    publisher = Publisher(parse_target("ws://127.0.0.1:9/"), "newest")
    publisher._ended = Interrupted()
    publisher.__enter__()
    Run(publisher, live=True).step()
    frozen.sending.wait()
    with pytest.raises(KeyboardInterrupt):
        publisher.__exit__(None, None, None)
    assert frozen.aborted.is_set()
    publisher._thread.join(20)
    assert publisher.state == "closed"
