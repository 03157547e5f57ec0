"""`--serve` and `--publish` on whole runs: the same records as the file, whatever else is written."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from media_clips import write_clip
from people_set import SMALL
from websockets.sync.client import connect

from sharpose_rt.app import FileRun
from sharpose_rt.cli import build_parser, main
from sharpose_rt.commands.run_options import build_config
from sharpose_rt.commands.taps import open_taps
from sharpose_rt.config import load
from sharpose_rt.live import Hub, Listen, LiveServer, Publisher
from sharpose_rt.types import Packet

FRAMES = 12

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "walk.mp4"
    write_clip(path, FRAMES, size_wh=(160, 128))
    return path


def _options(out: Path) -> list[str]:
    network = ["--model", SMALL.name, "--weights", "random", "--precision", "fp32"]
    return [*network, "--boxes", "full", "--no-video", "--output", str(out)]


def test_stdout_and_the_file_are_the_same(
    clip: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["--source", str(clip), *_options(tmp_path), "--publish", "-", "--serve", "0"]) == 0
    said = capfdbinary.readouterr()
    assert said.out == (tmp_path / "walk.skeletons.jsonl").read_bytes()
    assert said.out.count(b"\n") == FRAMES + 2
    assert b"complete: 12 frames" in said.err


def test_a_run_is_served_while_it_goes_on(clip: Path, tmp_path: Path) -> None:
    config = load(None, [f"pose.model={SMALL.name}", "pose.weights=random", "detector.name=full"])
    outputs = ["output.video=false", "output.stream=false", f"output.directory={tmp_path}"]
    config = load(None, outputs, base=config)
    hub, latest = Hub(), []

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(server.url + path, timeout=10) as answer:
            return answer.read()

    def on_packet(packet: Packet) -> None:
        latest.append((packet.frame.frame_id, json.loads(ask("api/latest"))["frame_id"]))

    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        assert json.loads(ask("healthz")) == {"ok": True, "runs": {}}
        results = FileRun(str(clip), config, [hub]).run(on_packet)
        assert json.loads(ask("healthz")) == {"ok": True, "runs": {"walk": "ended"}}
        lines = ask("api/recent?seconds=100").splitlines()
    assert results.stream is None  # not asked for; the view has it all the same
    assert len(latest) == FRAMES
    assert all(shown >= written for written, shown in latest)
    assert len(lines) == FRAMES + 2
    assert json.loads(lines[-1])["status"] == "complete"


def _view_of(server: LiveServer) -> str:
    return f"{server.url.replace('http', 'ws')}view"


@pytest.mark.parametrize("hidden", [False, True])
def test_viewers_see_no_picture_where_skeletons_alone_are_drawn(hidden: bool, clip: Path, tmp_path: Path) -> None:
    arguments = ["track", "--source", str(clip), *_options(tmp_path), "--serve", "0"]
    args = build_parser().parse_args([*arguments, *(["--skeletons-only"] if hidden else [])])
    config = build_config(args)
    with open_taps(args, config, [str(clip)]) as taps:
        FileRun(str(clip), config, taps).run()
        (hub,) = taps
        assert isinstance(hub, Hub)
        with LiveServer(hub, Listen("127.0.0.1", 0)) as server, connect(_view_of(server), close_timeout=1) as viewer:
            viewer.send("next")
            while isinstance(message := viewer.recv(20), str):
                pass
    picture = cv2.imdecode(np.frombuffer(message, np.uint8, offset=12), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (128, 160, 3)
    assert (picture.max() < 5) == hidden


@pytest.mark.parametrize(
    ("specs", "options", "told"),
    [
        (["walk.mp4"], "", ("queue", 256, 1, True)),
        (["webcam"], "", ("newest", 256, 1, False)),
        (["webcam", "walk.mp4"], "", ("queue", 256, 2, True)),
        (["walk.mp4"], "--publish-policy newest", ("newest", 256, 1, True)),
        (["webcam"], "--publish-policy queue --set live.publish_queue=7", ("queue", 7, 1, False)),
    ],
)
def test_a_file_waits_for_whoever_listens_and_a_camera_for_nobody(
    specs: list[str], options: str, told: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[object, ...]] = []

    class Told(Publisher):
        def __init__(self, target: Any, *given: Any, patient: bool) -> None:
            made.append((*given, patient))
            super().__init__(target, *given, patient=patient)

    monkeypatch.setattr("sharpose_rt.live.Publisher", Told)
    args = build_parser().parse_args(["track", "--source", "x", "--publish", "udp://127.0.0.1:9", *options.split()])
    with open_taps(args, build_config(args), specs, len(specs)):
        pass
    assert made == [told]


@pytest.mark.parametrize(
    ("environment", "options", "token"),
    [
        ("correct horse", [], "correct horse"),
        ("correct horse", ["--token", "battery staple"], "battery staple"),
        ("", [], None),
    ],
)
def test_a_token_is_taken_from_the_environment_where_none_is_given(
    environment: str, options: list[str], token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens: list[Listen] = []

    class Listening(LiveServer):
        def __init__(self, hub: Hub, listen: Listen) -> None:
            listens.append(listen)
            super().__init__(hub, listen)

    monkeypatch.setattr("sharpose_rt.live.LiveServer", Listening)
    monkeypatch.setenv("SHARPOSE_TOKEN", environment)
    args = build_parser().parse_args(["track", "--source", "x", "--serve", "127.0.0.1:0", *options])
    with open_taps(args, build_config(args), ["x"]):
        pass
    assert [listen.token for listen in listens] == [token]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--serve", "0.0.0.0:0"], "--token"),
        (["--serve", "0.0.0.0:0", "--token", "short"], "8 or more"),
        (["--serve", "page"], "[HOST:]PORT"),
        (["--token", "correct horse"], "--serve"),
        (["--publish", "amqp://broker:5672"], "zmq+tcp://"),
        (["--publish", "mqtt://broker:1883"], "topic"),
        (["--publish", "udp://nowhere"], "host and a port"),
        (["--publish-policy", "newest"], "--publish"),
    ],
)
def test_bad_addresses_are_one_clear_line(
    arguments: list[str], said: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--source", str(clip), *_options(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("sharpose-rt: error: ")
    assert said in error
    assert not (tmp_path / "out").exists()
