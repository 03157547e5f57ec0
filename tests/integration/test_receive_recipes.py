"""The recipes that receive skeletons: each as a program of its own, fed as `--publish` and `--serve` feed it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_world import Run, header
from mqtt_broker import MqttBroker
from websockets.sync.server import ServerConnection, serve

from sharpose_rt.live import Hub, Listen, LiveServer, Publisher, parse_target
from sharpose_rt.skeleton import MPII16
from sharpose_rt.stages import Tap

RECIPES = Path(__file__).resolve().parents[2] / "pipelines"

pytestmark = pytest.mark.timeout(60)


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _started(recipe: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-u", str(RECIPES / f"{recipe}.py"), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _feed_until_it_prints(process: subprocess.Popen[str], mark: str, *taps: Tap) -> list[str]:
    """What the recipe printed, of a run that goes on until it has printed `mark`."""
    printed, lines = threading.Event(), []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if mark in line:
                printed.set()

    reader = threading.Thread(target=read)
    reader.start()
    run = Run(*taps, live=True, people=2)
    while not printed.wait(0.02):
        run.step()
        assert process.poll() is None
    run.end()
    assert process.wait(20) == 0
    reader.join()
    return lines


def _feed(recipe: str, address: str, *arguments: str, mark: str = "frame") -> list[str]:
    with _started(recipe, *arguments) as process, Publisher(parse_target(address), "newest") as publisher:
        return _feed_until_it_prints(process, mark, publisher)


def test_receive_udp() -> None:
    port = _free_port(socket.SOCK_DGRAM)
    lines = _feed("receive_udp", f"udp://127.0.0.1:{port}", str(port), mark="id 2")
    assert any("id 1  nose (" in line for line in lines)


def test_receive_osc() -> None:
    port = _free_port(socket.SOCK_DGRAM)
    lines = _feed("receive_osc", f"osc://127.0.0.1:{port}", str(port), mark="id 2")
    assert any("id 1  coarse  right wrist" in line for line in lines)


@pytest.mark.parametrize("bind", [False, True])
def test_receive_zmq(bind: bool) -> None:
    port = _free_port(socket.SOCK_STREAM)
    address = f"zmq+tcp://{'@' if bind else ''}127.0.0.1:{port}"
    lines = _feed("receive_zmq", address, str(port), *(["--connect"] if bind else []))
    assert "boxes {1: [" in lines[0]


def test_receive_mqtt() -> None:
    with MqttBroker() as broker:
        address = f"mqtt://127.0.0.1:{broker.port}/home/hall/poses"
        lines = _feed("receive_mqtt", address, "home/hall/poses", "--port", str(broker.port))
    assert "the tracker is online" in lines[:2]
    assert any("boxes {1: [" in line for line in lines)


def test_receive_mqtt_where_no_broker_is() -> None:
    command = [sys.executable, str(RECIPES / "receive_mqtt.py"), "poses", "--port", str(_free_port(socket.SOCK_STREAM))]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (told.returncode, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    assert line.startswith("error: ")


def test_receive_websocket_that_listens() -> None:
    port = _free_port(socket.SOCK_STREAM)
    lines = _feed("receive_websocket", f"ws://127.0.0.1:{port}", "--listen", str(port))
    assert lines[0] == "walk.mp4: 17 keypoints, model tiny_256x192"
    assert "ids [1, 2]" in lines[1]
    assert lines[-1] == "end: complete"


@pytest.mark.parametrize("asking", ["", "?ask=1"])
def test_receive_websocket_that_connects(asking: str) -> None:
    hub = Hub()
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        url = server.url.replace("http", "ws") + "skeletons" + asking
        with _started("receive_websocket", url) as process:
            lines = _feed_until_it_prints(process, "frame", hub)
    assert lines[0] == "walk.mp4: 17 keypoints, model tiny_256x192"
    assert "ids [1, 2]" in lines[-2]
    assert lines[-1] == "end: complete"


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("recipe", ["receive_udp", "receive_osc", "receive_zmq", "receive_websocket"])
def test_ctrl_c_ends_a_receiver_and_a_taken_port_is_told(recipe: str) -> None:
    kind = socket.SOCK_DGRAM if recipe in ("receive_udp", "receive_osc") else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = ["--listen"] * (recipe == "receive_websocket") + [str(taken.getsockname()[1])]
        command = [sys.executable, str(RECIPES / f"{recipe}.py"), *port]
        told = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30)
    assert told.returncode == 1
    (line,) = told.stderr.splitlines()
    assert line.startswith("error: ")
    assert "in use" in line
    listening = f"""
import runpy, signal, sys, threading
runpy.run_path({command[1]!r})  # what it imports is there then
me = threading.main_thread().ident
threading.Timer(0.5, lambda: signal.pthread_kill(me, signal.SIGINT)).start()
sys.argv = {command[1:]!r}
runpy.run_path({command[1]!r}, run_name="__main__")
"""
    told = subprocess.run([sys.executable, "-c", listening], stderr=subprocess.PIPE, text=True, timeout=30)
    assert (told.returncode, told.stderr) == (130, "")


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        ("receive_udp", ["99999"]),
        ("receive_osc", ["99999"]),
        ("receive_zmq", ["99999"]),
        ("receive_mqtt", ["poses", "--port", "99999"]),
        ("receive_zmq", ["0", "--connect"]),
        ("receive_websocket", ["--listen", "99999"]),
        ("receive_websocket", ["ws://127.0.0.1:99999"]),
        ("receive_websocket", ["http://127.0.0.1:8080"]),
    ],
)
def test_a_port_or_an_address_that_cannot_be_is_told_in_a_line(recipe: str, arguments: list[str]) -> None:
    command = [sys.executable, str(RECIPES / f"{recipe}.py"), *arguments]
    told = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30)
    assert told.returncode == 1
    (line,) = told.stderr.splitlines()
    assert line.startswith("error: ")


def test_a_tracker_that_falls_away_is_told_in_a_line() -> None:
    def cut(connection: ServerConnection) -> None:
        connection.send(json.dumps(header().to_record()))
        connection.socket.shutdown(socket.SHUT_RDWR)

    with serve(cut, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        command = [sys.executable, str(RECIPES / "receive_websocket.py"), url]
        told = subprocess.run(command, capture_output=True, text=True, timeout=30)
        server.shutdown()
    assert told.stdout == "walk.mp4: 17 keypoints, model tiny_256x192\n"
    assert told.stderr.startswith("lost: ")
    assert len(told.stderr.splitlines()) == 1
    told = subprocess.run(command, capture_output=True, text=True, timeout=30)  # nobody is there any more
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("error: ")
    proxy = os.environ | {"socks_proxy": "socks5://127.0.0.1:1", "no_proxy": ""}  # it needs a package, and is not there
    told = subprocess.run(command, env=proxy, capture_output=True, text=True, timeout=30)
    assert told.returncode == 1
    assert told.stderr.startswith("error: ")


def test_receive_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    with _started("receive_stdin") as process:
        assert process.stdin is not None
        with os.fdopen(os.dup(process.stdin.fileno()), "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            with Publisher(parse_target("-"), "queue", patient=True) as publisher:
                run = Run(publisher, people=1)
                run.step(3)
                run.end()
        process.stdin.close()
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert len(lines) == 3
    assert all("hands up: none" in line for line in lines)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_ends_receive_stdin() -> None:
    frame = {"type": "frame", "frame_id": 0, "pts_s": 0.0, "people": []}
    with _started("receive_stdin") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(frame) + "\n")
        process.stdin.flush()
        assert "hands up: none" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_receive_stdin_says_what_it_cannot_tell() -> None:
    header = json.dumps({"type": "header", "keypoints": list(MPII16.keypoints)})
    command = [sys.executable, str(RECIPES / "receive_stdin.py")]
    ended = subprocess.run(command, input=header, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("the keypoints right_ankle, right_knee, ")
    assert ended.stderr.endswith(" have no nose and wrists\n")


def test_receive_udp_takes_any_keypoints() -> None:
    port = _free_port(socket.SOCK_DGRAM)
    header = {"type": "header", "keypoints": list(MPII16.keypoints)}
    frame = {"type": "frame", "frame_id": 3, "people": [{"track_id": 1, "keypoints": 16 * [[5, 6, 0.5]]}]}
    with _started("receive_udp", str(port)) as process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while process.poll() is None:  # until it listens
            for record in (header, frame, {"type": "end"}):
                sender.sendto(json.dumps(record).encode(), ("127.0.0.1", port))
            time.sleep(0.1)
        assert process.stdout is not None
        assert process.stdout.readline() == "frame 3  id 1  right_ankle (5, 6) 0.50\n"
