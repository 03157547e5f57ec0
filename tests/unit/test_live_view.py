"""The browser view's server: who may come in, what each address gives, and viewers that do not keep up."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import signal
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from types import SimpleNamespace
from typing import Any
from weakref import ref

import av
import cv2
import numpy as np
import pytest
from live_world import Run, packet, until
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from sharpose_rt.commands.taps import open_taps
from sharpose_rt.config import DrawConfig, LiveConfig, load
from sharpose_rt.errors import ConfigError, OutputError
from sharpose_rt.live import Hub, Listen, LiveServer, Publisher, parse_listen, parse_target
from sharpose_rt.live.guard import _REFUSED, _is_spare
from sharpose_rt.live.hub import LiveRun, Moment
from sharpose_rt.live.picture import Drawn, Pictures
from sharpose_rt.live.routes import create_app
from sharpose_rt.live.thinned import Journey
from sharpose_rt.media import Painter
from sharpose_rt.media.faces import head_circles, hide_faces
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import validate
from sharpose_rt.types import Frame, Packet, Poses

pytestmark = pytest.mark.timeout(60)

TOKEN = "correct horse"
WS = "ws://127.0.0.1:8080"
_UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.fixture
def hub() -> Hub:
    return Hub(LiveConfig(picture_px=320))


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _client(hub: Hub, token: str | None = None, host: str = "127.0.0.1", origins: tuple[str, ...] = ()) -> TestClient:
    app = create_app(hub, Listen("127.0.0.1", 8080, token, origins), ThreadPoolExecutor(1))
    return TestClient(app, base_url=f"http://{host}:8080", follow_redirects=False)


@pytest.fixture
def server(hub: Hub) -> Iterator[LiveServer]:
    with LiveServer(hub, Listen("127.0.0.1", 0)) as running:
        yield running


def _port(server: LiveServer) -> int:
    return int(server.url.rstrip("/").rpartition(":")[2])


def _ask(server: LiveServer, timeout_s: float | None = None) -> socket.socket:
    """A connection to it that has not said a word."""
    return socket.create_connection(("127.0.0.1", _port(server)), timeout_s)


def _is_healthy(server: LiveServer, query: str = "") -> bool:
    with urllib.request.urlopen(f"{server.url}healthz{query}", timeout=20) as answer:
        return answer.status == 200


def _refused(client: TestClient, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Code and reason with which a socket is closed before anything came."""
    with (
        client.websocket_connect(f"{WS}{path}", headers=headers) as viewer,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        viewer.receive_text()
    return closed.value.code, closed.value.reason


def _status(hub: Hub) -> dict[str, Any]:
    (status,) = _client(hub).get("/api/status").json()["runs"]
    return status


def _follow(server: LiveServer, path: str, clients: ExitStack, **options: object) -> ClientConnection:
    url = server.url.replace("http", "ws").rstrip("/") + path
    return clients.enter_context(connect(url, close_timeout=1, compression=None, **options))  # type: ignore[arg-type]


# Addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("[::1]:99", "::1", 99),
        ("127.0.0.2:5", "127.0.0.2", 5),
    ],
)
def test_listen_addresses(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == Listen(host, port)


@pytest.mark.parametrize("text", ["", "http", ":8080", "70000", "::1:8080", "-1", "host:"])
def test_malformed_listen_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="--serve"):
        parse_listen(text)


@pytest.mark.parametrize("text", ["0.0.0.0:8080", "[::]:8080", "192.168.1.7:8080", "camera-box:8080"])
def test_other_machines_need_a_token(text: str) -> None:
    with pytest.raises(ConfigError, match="--token"):
        parse_listen(text)
    assert not parse_listen(text, TOKEN).loopback
    with pytest.raises(ConfigError, match="8 or more"):
        parse_listen(text, "short")


def test_a_port_in_use(server: LiveServer, hub: Hub) -> None:
    with pytest.raises(OutputError, match=f"port {_port(server)}"):
        LiveServer(hub, Listen("127.0.0.1", _port(server)))


def test_a_name_that_cannot_be_looked_up(hub: Hub) -> None:
    with pytest.raises(ConfigError, match=r"'192\.168\.1\.\.5' is not a host"):
        parse_listen("192.168.1..5:80", TOKEN)
    with pytest.raises(OutputError, match=r"a\.\.b port 80"):
        LiveServer(hub, Listen("a..b", 80))


# Who may come in

PATHS = [
    "/",
    "/wall",
    "/assets/view.js",
    "/healthz",
    "/metrics",
    "/api/latest",
    "/api/recent",
    "/api/status",
    "/picture.jpg",
    "/video.mjpg",
    "/nothing",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong horse"}, {"Cookie": "sharpose_8080=00"}])
def test_every_route_wants_the_token(hub: Hub, path: str, headers: dict[str, str]) -> None:
    Run(hub).step()
    for url in (path, f"{path}?token=wrong+horse", f"{path}?token="):
        answer = _client(hub, TOKEN).get(url, headers=headers)
        assert answer.status_code == 401
        assert "walk" not in answer.text
        assert "set-cookie" not in answer.headers
        assert len(answer.text) < 120


@pytest.mark.parametrize("path", ["/skeletons", "/view", "/nothing"])
def test_every_socket_wants_the_token(hub: Hub, path: str) -> None:
    Run(hub).step()
    assert _refused(_client(hub, TOKEN), f"{path}?token=wrong+horse", {})[0] == 4401


@pytest.mark.parametrize("page", ["/", "/wall"])
def test_three_ways_to_bring_the_token(hub: Hub, page: str) -> None:
    client = _client(hub, TOKEN)
    assert client.get("/healthz", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/healthz", params={"token": TOKEN}).status_code == 200
    welcome = client.get(page, params={"token": TOKEN, "source": "a"})
    assert (welcome.status_code, welcome.headers["location"]) == (303, f".{page}?source=a")
    assert "httponly" in welcome.headers["set-cookie"].lower()
    assert "samesite=lax" in welcome.headers["set-cookie"].lower()
    assert client.get("/").status_code == 200


def test_views_below_paths_of_one_proxy_have_cookies_of_their_own(hub: Hub) -> None:
    welcome = _client(hub, TOKEN).get("/", params={"token": TOKEN})
    assert welcome.headers["location"] == "./"
    assert "path" not in welcome.headers["set-cookie"].lower()  # that of the folder, as the browser knows it


def test_a_token_of_base64_is_taken_as_it_is_and_encoded(hub: Hub) -> None:
    client = _client(hub, "ab+c d/e==")
    for written in ("ab+c%20d/e==", "ab%2Bc+d%2Fe%3D%3D", "ab%2Bc%20d/e=="):
        assert client.get(f"/healthz?token={written}").status_code == 200
    assert client.get("/healthz?token=ab%20c%20d/e==").status_code == 401


@pytest.mark.parametrize("host", ["[2001:db8::5]", "example.org", "[::1"])
def test_the_token_comes_in_under_a_name_without_a_port(hub: Hub, host: str) -> None:
    client = _client(hub, TOKEN)
    welcome = client.get("/", params={"token": TOKEN}, headers={"Host": host})
    assert welcome.status_code == 303
    assert welcome.headers["set-cookie"].startswith("sharpose_80=")


def test_a_socket_takes_the_cookie_of_the_page(hub: Hub, clients: ExitStack) -> None:
    Run(hub).step()
    with LiveServer(hub, Listen("127.0.0.1", 0, TOKEN)) as server:
        cookie = {"Cookie": f"sharpose_{_port(server)}={TOKEN.encode().hex()}"}
        viewer = _follow(server, "/skeletons", clients, additional_headers=cookie)
        assert json.loads(viewer.recv(10))["type"] == "header"


@pytest.mark.parametrize(
    "others", ['prefs={"theme":"dark"}; ', "key[0]=1; ", "flag; a=b c; ", "foo@bar=x; theme=[1,2]; "]
)
def test_cookies_of_other_programs_do_not_matter(hub: Hub, others: str) -> None:
    client, ours = _client(hub, TOKEN), f"sharpose_8080={TOKEN.encode().hex()}"
    for cookies in (others + ours, f"{ours}; {others}"):
        assert client.get("/healthz", headers={"Cookie": cookies}).status_code == 200
    assert client.get("/healthz", headers={"Cookie": others + "sharpose_8080=zz"}).status_code == 401


def test_pages_of_other_sites_are_refused(hub: Hub) -> None:
    for token in (None, TOKEN):
        client = _client(hub, token)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        begin_alike = ("http://127.0.0.1:8080.evil.example", "http://127.0.0.1:80801")
        for origin in ("http://evil.example", "http://127.0.0.1:9090", *begin_alike, "null"):
            assert client.get("/api/status", headers={**bearer, "Origin": origin}).status_code == 403
            assert _refused(client, "/skeletons", {**bearer, "Origin": origin})[0] == 4403
        assert client.get("/api/status", headers={**bearer, "Origin": "http://127.0.0.1:8080"}).status_code == 200


PAGE = "http://localhost:5173"


@pytest.mark.parametrize(("origin", "port"), [("https://cam.example", 443), ("http://cam.example", 80)])
def test_a_proxy_may_name_the_usual_port(hub: Hub, origin: str, port: int) -> None:
    client = _client(hub, TOKEN)
    headers = {"Host": f"cam.example:{port}", "Origin": origin, "Authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/status", headers=headers).status_code == 200
    for host in ("cam.example:8443", "other.example:443", ":443", ""):
        assert client.get("/api/status", headers={**headers, "Host": host}).status_code == 403


def test_pages_of_an_allowed_site_use_the_skeletons(hub: Hub) -> None:
    Run(hub).step()
    for token, more in ((None, ""), (TOKEN, "?token=correct+horse")):
        client = _client(hub, token, origins=("https://a.example", PAGE))
        answer = client.get(f"/api/latest{more}", headers={"Origin": PAGE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "access-control-allow-credentials" not in answer.headers
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
        ahead = client.options("/api/latest", headers=asked | {"Access-Control-Request-Headers": "authorization"})
        assert (ahead.status_code, ahead.headers["access-control-allow-headers"]) == (204, "Authorization")
        picture = client.get(f"/picture.jpg{more}", headers={"Origin": PAGE})
        assert (picture.status_code, picture.headers["access-control-allow-origin"]) == (200, PAGE)
        for path in ("/", "/metrics", "/nothing"):
            refused = client.get(path + more, headers={"Origin": PAGE})
            assert refused.status_code == 403
            assert "may only request skeletons, pictures and /api" in refused.text
            assert "access-control-allow-origin" not in refused.headers
        for origin in ("http://localhost:5174", "https://localhost:5173", "http://evil.example", "null"):
            answer = client.get(f"/api/latest{more}", headers={"Origin": origin})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
            assert client.options("/api/latest", headers=asked | {"Origin": origin}).status_code == 403
        own = client.get(f"/api/latest{more}", headers={"Origin": "http://127.0.0.1:8080"})
        assert "access-control-allow-origin" not in own.headers
    without = client.get("/api/latest", headers={"Origin": PAGE})
    assert (without.status_code, without.headers["access-control-allow-origin"]) == (401, PAGE)
    assert _client(hub, host="rebound.example", origins=(PAGE,)).get("/api/latest", headers=asked).status_code == 403


def test_pages_of_an_allowed_site_use_the_sockets(hub: Hub, clients: ExitStack) -> None:
    Run(hub).step()
    with LiveServer(hub, Listen("127.0.0.1", 0, TOKEN, (PAGE,))) as server:
        for path, first in (("/skeletons", "header"), ("/view", "status")):
            viewer = _follow(server, f"{path}?token=correct+horse", clients, origin=PAGE)
            while not isinstance(line := viewer.recv(10), str):
                pass  # a picture may come first
            assert json.loads(line)["type"] == first
            for query, origin, code in (("", PAGE, 4401), ("?token=correct+horse", "http://localhost:5174", 4403)):
                viewer = _follow(server, path + query, clients, origin=origin)
                with pytest.raises(ConnectionClosed):
                    viewer.recv(10)
                assert viewer.close_code == code
                assert viewer.close_reason


def test_who_is_refused_is_told_why_and_the_log_says_it_once(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    client = _client(hub)

    def refused(headers: dict[str, str]) -> str:
        text = client.get("/api/latest", headers=headers).text.rstrip()
        assert _refused(client, "/skeletons", headers)[1] == text
        assert len(text.encode()) <= 123  # else the socket could not be closed with it
        return text

    assert refused({"Origin": PAGE}) == f"pages of other sites need --allow-origin {PAGE}"
    assert "from a file has no origin" in refused({"Origin": "null"})
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert f"--allow-origin {PAGE}" in caplog.text
    assert refused({"Host": "camera-box"}) == "camera-box is not a name of this machine, and there is no --token"
    assert refused({"Origin": f"http://{'x' * 5000}"}).endswith("xxx...")
    assert "xxx... is not a name" in refused({"Host": "x" * 5000})
    for number in range(100):
        client.get("/", headers={"Origin": f"http://{number}.example"})
    assert len(caplog.records) < 40
    assert refused({"Origin": "http://one.example"}) == "pages of other sites need --allow-origin http://one.example"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        (PAGE, PAGE),
        ("HTTPS://Lab.Example:443", "https://lab.example"),
        ("http://[::1]:80", "http://[::1]"),
        ("app://viewer", "app://viewer"),
    ],
)
def test_origins_are_taken_as_browsers_write_them(text: str, origin: str) -> None:
    assert parse_listen("0", None, [PAGE, text]).origins == (PAGE, origin)


BAD_ORIGINS = ["*", "null", "localhost:5173", f"{PAGE}/", "http://*.example", "http://a@b", "http://a:x", "file://", ""]


@pytest.mark.parametrize("text", BAD_ORIGINS)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--allow-origin is .*SCHEME://HOST\[:PORT\]"):
        parse_listen("0", None, [text])


def _arguments(**given: object) -> argparse.Namespace:
    none = {
        "token": None,
        "serve": None,
        "allow_origin": [],
        "publish": [],
        "publish_policy": None,
        "publish_video": [],
    }
    return argparse.Namespace(**none | given)


def test_an_allowed_origin_wants_a_server_and_beyond_this_machine_a_token() -> None:
    args = _arguments(allow_origin=[PAGE], publish=["-"])
    with pytest.raises(ConfigError, match="--allow-origin needs --serve"), open_taps(args, load(), ["clip.mp4"]):
        pass
    with pytest.raises(ConfigError, match="--token"):
        parse_listen("0.0.0.0:8080", None, [PAGE])


def test_a_foreign_name_for_this_machine_is_refused(hub: Hub) -> None:
    assert _client(hub, host="rebound.example").get("/").status_code == 403
    assert _client(hub, host="localhost").get("/").status_code == 200
    assert (
        _client(hub, TOKEN, host="camera-box").get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Host", "camera.example"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=203.0.113.9;proto=https"),
        ("X-Real-IP", ""),
        ("Via", "1.1 proxy"),
    ],
)
def test_what_a_proxy_passes_on_wants_a_token(hub: Hub, name: str, value: str) -> None:
    Run(hub).step()
    client, passed_on = _client(hub), {name: value}
    why = f"{name} shows that a proxy forwarded this request, and there is no --token"
    for path in ("/", "/api/latest", "/metrics"):
        answer = client.get(path, headers=passed_on)
        assert (answer.status_code, answer.text) == (403, f"{why}\n")
    for path in ("/view", "/skeletons"):
        assert _refused(client, path, passed_on) == (4403, why)
    assert _client(hub, TOKEN).get("/api/latest", params={"token": TOKEN}, headers=passed_on).status_code == 200


@pytest.mark.parametrize(
    ("scheme", "proto", "secure"),
    [("http", None, False), ("https", None, True), ("http", "https", True), ("http", "http", False)],
)
def test_a_cookie_that_came_by_https_stays_there(hub: Hub, scheme: str, proto: str | None, secure: bool) -> None:
    headers = {} if proto is None else {"X-Forwarded-Proto": proto}
    welcome = _client(hub, TOKEN).get(f"{scheme}://127.0.0.1:8080/", params={"token": TOKEN}, headers=headers)
    assert welcome.status_code == 303
    assert ("; secure" in welcome.headers["set-cookie"].lower()) == secure


def test_strict_headers_on_every_answer(hub: Hub) -> None:
    for path in PATHS:
        headers = _client(hub).get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_page_asks_nobody_else() -> None:
    page = Path(__file__).resolve().parents[2] / "sharpose_rt" / "live" / "page"
    for file in page.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert 'style="' not in text, f"{file}: its policy forbids style attributes"


# What each address gives


def test_before_the_first_frame(hub: Hub) -> None:
    client = _client(hub)
    assert client.get("/api/latest").status_code == 503
    assert client.get("/api/latest?source=nobody").status_code == 404
    assert client.get("/healthz").json() == {"ok": True, "runs": {}}
    assert client.get("/api/status").json()["runs"] == []
    assert "sharpose_viewers 0" in client.get("/metrics").text


def test_latest_status_and_health(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    client, run = _client(hub), Run(hub, live=True)
    run.step(3)
    latest = client.get("/api/latest").json()
    assert (latest["type"], latest["frame_id"], len(latest["people"])) == ("frame", 2, 3)
    status = _status(hub)
    assert (status["frames"], status["people"], status["ids"], status["state"]) == (3, 3, 3, "running")
    assert status["stages"] == {"coarse": 3, "fine": 3, "predicted": 3}
    assert status["latency_ms"]["p50"] >= 40
    monkeypatch.setattr(hub.runs[0], "_source_state", lambda: "lost")
    lost = client.get("/healthz")
    assert (lost.status_code, lost.json()["runs"]) == (503, {"walk": "lost"})
    monkeypatch.setattr(hub.runs[0], "_source_state", lambda: "live")
    monkeypatch.setattr("sharpose_rt.live.hub.STALLED_S", -1.0)
    assert client.get("/healthz").json() == {"ok": False, "runs": {"walk": "stalled"}}
    with monkeypatch.context() as patch:  # a file that is done while other sources go on
        patch.setattr(hub.runs[0], "_source_state", lambda: "ended")
        assert client.get("/healthz").json() == {"ok": True, "runs": {"walk": "ended"}}
        patch.setattr("sharpose_rt.live.hub.STALLED_S", 60.0)
        other = Run(hub, stem="door", live=True)
        assert hub.pick(None) is hub.runs[0]
        patch.setattr("sharpose_rt.live.hub.STALLED_S", -1.0)
        assert hub.pick(None) is hub.runs[1]
        other.end()
        hub.runs.pop()
    run.end()
    assert client.get("/healthz").json() == {"ok": True, "runs": {"walk": "ended"}}


def test_a_source_that_is_not_there_yet_is_listed(hub: Hub) -> None:
    state, client = ["connecting"], _client(hub)
    for stem in ("yard", "door"):
        hub.expect(stem, f"rtsp://{stem}/live", live=True, state=lambda: state[0])
    door = Run(hub, stem="door", live=True)
    door.step()
    shown = client.get("/api/status").json()["runs"]
    assert [(run["name"], run["source"], run["state"]) for run in shown] == [
        ("yard", "rtsp://yard/live", "waiting"),
        ("door", "door.mp4", "running"),
    ]
    assert client.get("/healthz").json() == {"ok": True, "runs": {"yard": "waiting", "door": "running"}}
    assert {'sharpose_up{source="yard"} 0', 'sharpose_up{source="door"} 1'} <= set(
        client.get("/metrics").text.splitlines()
    )
    assert client.get("/api/latest").json()["frame_id"] == 0  # of the one that is there
    for path in ("api/latest", "api/recent", "picture.jpg"):
        assert client.get(f"/{path}?source=yard").status_code == 503
    state[0] = "lost"  # it could not be had in its time, and is looked for
    assert client.get("/healthz").status_code == 503
    Run(hub, stem="yard", live=True).step()
    assert [(run.name, run.totals.frames) for run in hub.runs] == [("yard", 1), ("door", 1)]
    state[0] = "connecting"
    hub.expect("shed\udcff", "rtsp://\udcff/live", live=True, state=lambda: state[0])
    assert client.get("/api/status").json()["runs"][2]["name"] == "shed\\udcff"
    state[0] = "ended"  # without having come
    Run(hub, stem="hall")
    assert [run.name for run in hub.runs] == ["yard", "door", "hall"]
    Run(hub, stem="shed\\udcff")  # it came after all
    assert hub.runs[-1].name == "shed\\udcff"


def test_the_page_is_told_of_the_region(hub: Hub) -> None:
    config = load(None, ["detector.region=[[9,5],[99,50]]"])
    assert _client(hub).get("/api/status").json()["region"] == []
    with open_taps(_arguments(serve="0"), config, ["clip.mp4"]) as (tap,):
        assert isinstance(tap, Hub)
        assert _client(tap).get("/api/status").json()["region"] == [[9, 5], [99, 5], [99, 50], [9, 50]]


def test_metrics_are_what_prometheus_reads(hub: Hub) -> None:
    run = Run(hub, stem='a "b"\\')
    run.step(4)
    udp, osc = (Publisher(parse_target(f"{scheme}://127.0.0.1:9"), "newest") for scheme in ("udp", "osc"))
    hub.publishers = [udp.figures, osc.figures]
    Run(osc).step(2)  # its thread does not run: the second takes the place of the first
    answer = _client(hub).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert r'sharpose_frames_total{source="a \"b\"\\"} 4' in lines
    assert r'sharpose_poses_total{source="a \"b\"\\",stage="fine"} 4' in lines
    assert r'sharpose_latency_seconds_count{source="a \"b\"\\"} 4' in lines
    assert 'sharpose_published_sent_total{to="udp://127.0.0.1:9"} 0' in lines
    assert 'sharpose_published_dropped_total{to="osc://127.0.0.1:9"} 1' in lines
    named = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(named) == len(set(named))
    for line in lines:
        if not line.startswith("#"):
            float(line.rpartition(" ")[2])


def _samples(hub: Hub) -> dict[str, float]:
    """What `/metrics` says of a run named 'walk': value by name, and by quantile where there is one."""
    text = _client(hub).get("/metrics").text.replace('{source="walk"', "{").replace("{}", "").replace("{,", "{")
    samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_a_source_that_is_lost_has_neither_frame_rate_nor_people(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(hub, live=True).step(3)
    hub.runs[0].totals.left_s = deque(time.monotonic() - ago_s for ago_s in (120, 60, 0))
    status = _status(hub)
    assert (status["people"], _samples(hub)["sharpose_people"]) == (3, 3)
    assert min(status["fps"], _samples(hub)["sharpose_fps"]) > 0
    monkeypatch.setattr(hub.runs[0], "_source_state", lambda: "lost")
    status = _status(hub)
    assert (status["people"], status["fps"]) == (0, 0)
    assert (_samples(hub)["sharpose_people"], _samples(hub)["sharpose_fps"]) == (0, 0)


def test_losses_are_counted(hub: Hub) -> None:
    Run(hub, live=True).step(3)
    for lost_before_s in (2.5, 0.0, 0.5):
        back = packet(100)
        hub.runs[0].frame(b"{}\n", replace(back, frame=replace(back.frame, lost_before_s=lost_before_s)))
    assert _samples(hub)["sharpose_losses_total"] == 2
    assert _status(hub)["losses"] == 2


def test_latencies_of_long_ago_are_forgotten(hub: Hub) -> None:
    Run(hub, live=True)
    for number in range(500):
        late = packet(number)
        late = replace(late, frame=replace(late.frame, captured_at_s=late.frame.captured_at_s - 1000))
        hub.runs[0].frame(b"{}\n", late)
    assert _samples(hub)['sharpose_latency_seconds{quantile="0.5"}'] > 900
    hub.runs[0]._late = deque((begun_s - 180, histogram) for begun_s, histogram in hub.runs[0]._late)  # minutes go by
    status = _status(hub)
    assert status["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert math.isnan(_samples(hub)['sharpose_latency_seconds{quantile="0.5"}'])
    for number in range(500, 510):
        hub.runs[0].frame(b"{}\n", packet(number))
    status = _status(hub)
    assert 40 <= status["latency_ms"]["p50"] <= status["latency_ms"]["p99"] < 900_000
    samples = _samples(hub)
    assert samples['sharpose_latency_seconds{quantile="0.99"}'] < 900
    assert samples["sharpose_latency_seconds_count"] == 510  # sum and count are of the whole run
    assert samples["sharpose_latency_seconds_sum"] > 500 * 1000


def test_the_last_seconds_are_a_stream_of_their_own(hub: Hub, tmp_path: Path) -> None:
    client, run = _client(hub), Run(hub)
    run.step(60)
    answer = client.get("/api/recent?seconds=1")
    path = tmp_path / "last.skeletons.jsonl"
    path.write_bytes(answer.content)
    assert [str(p) for p in validate(path)] == []
    frames = [json.loads(line) for line in answer.text.splitlines()[1:-1]]
    assert [f["frame_id"] for f in frames] == list(range(34, 60))
    assert 'filename="walk.last.skeletons.jsonl"' in answer.headers["content-disposition"]
    for bad in ("0", "-1", "nan", "1e9", "x"):
        assert client.get(f"/api/recent?seconds={bad}").status_code == 400


def test_old_skeletons_are_forgotten(hub: Hub) -> None:
    hub.config = LiveConfig(history_s=1)
    run = Run(hub)
    run.step(80)
    assert b"".join(hub.runs[0].recent(1000)).count(b'"frame_id"') == 26


def test_skeletons_of_a_crowd_are_forgotten_earlier(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.live.hub._MAX_RECENT_BYTES", 50_000)
    run = Run(hub, people=20)
    run.step(10)
    lines = hub.runs[0].recent(1000)[1:-1]
    assert sum(map(len, lines)) <= 50_000 + len(b',"dropped_before":9')
    assert sum(map(len, lines)) > 50_000 - 2 * len(lines[-1])
    assert json.loads(lines[-1])["frame_id"] == 9


# Sockets, over a real server


def test_skeletons_over_a_socket(server: LiveServer, hub: Hub, clients: ExitStack, tmp_path: Path) -> None:
    early = _follow(server, "/skeletons", clients)
    run = Run(hub, live=True)
    got = [early.recv(10)]
    for _ in range(5):
        run.step()
        got.append(early.recv(10))
    late = _follow(server, "/skeletons", clients)
    joined = [late.recv(10), late.recv(10)]
    run.step()
    joined.append(late.recv(10))
    run.end()
    got += [early.recv(10), early.recv(10)]
    joined.append(late.recv(10))
    assert [json.loads(line).get("frame_id") for line in joined] == [None, 4, 5, None]
    assert json.loads(joined[1])["dropped_before"] == 4
    for lines in (got, joined):
        path = tmp_path / "got.jsonl"
        path.write_text("".join(str(line) for line in lines))
        assert [str(p) for p in validate(path)] == []


def test_the_next_file_follows_on_the_same_socket(server: LiveServer, hub: Hub, clients: ExitStack) -> None:
    viewer = _follow(server, "/skeletons", clients)
    kinds = []
    for stem in ("one", "two"):
        run = Run(hub, stem=stem)
        kinds.append(json.loads(viewer.recv(10)).get("source"))
        run.step()
        kinds.append(json.loads(viewer.recv(10))["frame_id"])
        run.end()
        kinds.append(json.loads(viewer.recv(10))["status"])
    assert kinds == ["one.mp4", 0, "complete", "two.mp4", 0, "complete"]


def test_sources_side_by_side(server: LiveServer, hub: Hub, clients: ExitStack) -> None:
    runs = [Run(hub, stem=stem) for stem in ("cam", "cam", "door")]
    for count, run in enumerate(runs, start=1):
        run.step(count)
    assert [run.name for run in hub.runs] == ["cam", "cam-2", "door"]
    for name, frame_id in (("cam", 0), ("cam-2", 1), ("door", 2)):
        viewer = _follow(server, f"/skeletons?source={name}", clients)
        viewer.recv(10)
        assert json.loads(viewer.recv(10))["frame_id"] == frame_id


def test_who_follows_a_source_that_comes_late_gets_all_of_it(server: LiveServer, hub: Hub, clients: ExitStack) -> None:
    hub.expect("yard", "rtsp://yard/live", live=True, state=lambda: "lost")
    viewer, view = (_follow(server, f"/{path}?source=yard", clients) for path in ("skeletons", "view"))
    status = json.loads(view.recv(10))
    assert (status["run"], status["runs"][0]["state"]) == ("yard", "lost")
    Run(hub, stem="yard", live=True).step()
    assert json.loads(viewer.recv(10))["source"] == "yard.mp4"
    assert json.loads(viewer.recv(10))["frame_id"] == 0


def test_a_source_that_comes_late_takes_its_place_before_one_that_goes_on(
    server: LiveServer, hub: Hub, clients: ExitStack
) -> None:
    """Who asks for none by name is shown the first that goes on; the other has no end that could be sent."""
    hub.expect("yard", "rtsp://yard/live", live=True, state=lambda: "lost")
    Run(hub, stem="door", live=True).step()
    viewer = _follow(server, "/skeletons", clients)
    assert [json.loads(viewer.recv(10)).get(key) for key in ("source", "frame_id")] == ["door.mp4", 0]
    Run(hub, stem="yard", live=True).step()
    assert [json.loads(viewer.recv(10)).get(key) for key in ("source", "frame_id")] == ["yard.mp4", 0]


def test_the_plots_are_told_once_what_came(
    server: LiveServer, hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose_rt.live.hub._TICK_S", 0.0)
    Run(hub).step()
    viewer, told = _follow(server, "/view", clients), []
    while len(told) < 2:
        if isinstance(message := viewer.recv(10), str):
            told.append(json.loads(message)["ticks"])
    ((tick,), again) = told
    assert (tick["people"], again) == (3, [])
    assert tick["p95"] >= tick["p50"] >= 40
    assert tick["fps"] > 0


def test_pictures_come_when_they_are_asked_for(server: LiveServer, hub: Hub, clients: ExitStack) -> None:
    viewer, run = _follow(server, "/view", clients), Run(hub)

    def picture() -> tuple[int, float, np.ndarray]:
        while isinstance(message := viewer.recv(10), str):
            assert json.loads(message)["type"] == "status"
        return *struct.unpack_from("!Id", message), _decoded(message[12:])

    for number in (0, 1):
        run.step()
        frame_id, pts_s, image = picture()
        assert (frame_id, pts_s) == (number, number / 25)
        assert image.shape == (180, 320, 3)  # shrunk to picture_px
    run.step(40)
    follower = _follow(server, "/skeletons", clients)  # by now the server has seen all of it
    follower.recv(10)
    assert json.loads(follower.recv(10))["frame_id"] == 41
    viewer.send(b"next")  # text or not
    assert picture()[0] == 41  # the newest, not the next in a queue


def test_pictures_can_be_black() -> None:
    frame = Frame(3, 0.5, np.full((90, 160, 3), 200, np.uint8))
    moment = Moment(Packet(frame, poses=Poses.empty(17)), b"", Journey().place)
    for blank, level in ((False, 200), (True, 0)):
        message = Pictures(COCO17, LiveConfig(), DrawConfig(picture=not blank)).message(moment)
        image = _decoded(message[12:])
        assert image.shape == (90, 160, 3)
        np.testing.assert_allclose(image, level, atol=2)


@pytest.mark.parametrize(
    ("asked", "shape"), [("", (180, 320, 3)), ("?small=1", (90, 160, 3)), ("?small=0", (180, 320, 3))]
)
def test_a_page_that_shows_many_gets_smaller_pictures(asked: str, shape: tuple[int, ...], clients: ExitStack) -> None:
    hub = Hub(LiveConfig(picture_px=320, wall_px=160))
    server = clients.enter_context(LiveServer(hub, Listen("127.0.0.1", 0)))
    Run(hub).step()
    viewer = _follow(server, f"/view{asked}", clients)
    while isinstance(message := viewer.recv(10), str):
        pass
    assert _decoded(message[12:]).shape == shape


def _decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_faces_are_hidden_in_every_picture() -> None:
    one = packet(7, people=1)
    height, width = one.frame.image_bgr.shape[:2]
    noise = (
        np.random.default_rng(0).integers(0, 256, (height, width, 1), np.uint8).repeat(3, 2)
    )  # grey: JPEG halves colour
    moment = Moment(replace(one, frame=replace(one.frame, image_bgr=noise)), b"", Journey().place)
    assert one.poses is not None
    config, draw = LiveConfig(picture_px=640, picture_quality=100), DrawConfig(faces=False, status=False)
    ((x, y, radius),) = head_circles(one.poses, COCO17).astype(int)
    half = radius * 2 // 3
    head = (slice(y - half, y - half // 4), slice(x - half, x + half))  # above eyes and nose
    wanted = noise.copy()
    hide_faces(wanted, one.poses, COCO17)
    for jpeg in (Pictures(COCO17, config, draw).message(moment)[12:], Drawn(COCO17, config, draw).jpeg(moment)):
        shown = _decoded(jpeg)[head].astype(int)
        assert np.abs(shown - wanted[head]).mean() < 12
        assert np.abs(shown - noise[head]).mean() > 40
    plain = _decoded(Pictures(COCO17, config, DrawConfig()).message(moment)[12:])[head].astype(int)
    assert np.abs(plain - noise[head]).mean() < 12


@pytest.mark.parametrize("picture", [True, False])
def test_a_drawn_picture_for_whoever_has_no_page(picture: bool) -> None:
    draw = DrawConfig(picture=picture, status=False)
    hub = Hub(LiveConfig(picture_px=320, picture_quality=95), draw)
    client = _client(hub)
    assert client.get("/picture.jpg").status_code == 503
    run = Run(hub)
    run.step(3)
    answer = client.get("/picture.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    wanted = cv2.resize(Painter(COCO17, draw).drawn(packet(2)), (320, 180), interpolation=cv2.INTER_LINEAR)
    assert np.abs(_decoded(answer.content).astype(int) - wanted).mean() < 2
    assert client.get("/picture.jpg").content == answer.content
    run.step()
    assert client.get("/picture.jpg").content != answer.content
    assert client.get("/picture.jpg?source=other").status_code == 404


def test_trails_of_drawn_pictures_go_by_what_the_camera_did_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def keep(self: Painter, one: Packet, status: str = "") -> np.ndarray:
        drawn.append(one)
        return one.frame.image_bgr

    monkeypatch.setattr(Painter, "drawn", keep)
    step = np.array([[1.0, 0, 3], [0, 1, -1]])
    journey, made = Journey(), Drawn(COCO17, LiveConfig(), DrawConfig())
    for number in range(8):
        one = replace(packet(number), camera=step, new_scene=number == 5)
        moment = Moment(one, b"", journey.go(one.camera, new_scene=one.new_scene))
        if number in (0, 3, 4, 6):
            made.jpeg(moment)
            made.jpeg(moment)
    assert [one.frame.frame_id for one in drawn] == [0, 3, 4, 6]
    assert drawn[0].camera is None
    np.testing.assert_allclose(drawn[1].camera[:, 2], (9, -3))
    np.testing.assert_allclose(drawn[2].camera[:, 2], (3, -1))
    assert [one.new_scene for one in drawn] == [False, False, False, True]


def test_a_drawn_video_for_whoever_has_no_page(server: LiveServer, hub: Hub) -> None:
    run, stop = Run(hub), threading.Event()
    run.step()

    def go_on() -> None:
        while not stop.wait(0.03):
            run.step()

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        try:
            with av.open(f"{server.url}video.mjpg", timeout=20) as camera:
                pictures = [frame.to_ndarray(format="bgr24") for frame in itertools.islice(camera.decode(video=0), 5)]
        finally:
            stop.set()
        going.result()
    assert {picture.shape for picture in pictures} == {(180, 320, 3)}
    assert all(np.abs(a.astype(int) - b).max() > 50 for a, b in itertools.pairwise(pictures))
    head = urllib.request.urlopen(urllib.request.Request(f"{server.url}video.mjpg", method="HEAD"), timeout=10)
    assert head.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
    assert head.read() == b""


def test_a_picture_that_none_follows_comes_once_more(server: LiveServer, hub: Hub) -> None:
    """Chromium shows each when the next one comes, so that it would never show the last one of a source."""
    run = Run(hub)
    run.step()
    with urllib.request.urlopen(f"{server.url}video.mjpg", timeout=10) as answer:

        def part() -> bytes:
            assert answer.readline() == b"--frame\r\n"
            headers = [answer.readline() for _ in range(3)]
            jpeg = answer.read(int(headers[1].split()[1]))
            assert answer.readline() == b"\r\n"
            return jpeg

        first = part()
        assert part() == first
        answer.fp.raw._sock.settimeout(1.0)
        with pytest.raises(TimeoutError):  # and no more
            part()
    run.end()


def _freeze(server: LiveServer, path: str, clients: ExitStack) -> None:
    """A viewer who asks for this, and takes nothing of it."""
    frozen = clients.enter_context(socket.socket())
    frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
    frozen.connect(("127.0.0.1", _port(server)))
    upgrade = b"" if "." in path or "api" in path else _UPGRADE
    frozen.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + upgrade + b"\r\n")


@pytest.mark.timeout(90)
def test_a_frozen_viewer_costs_nobody_anything(server: LiveServer, hub: Hub, clients: ExitStack) -> None:
    idle = clients.enter_context(_ask(server))
    idle.sendall(b"GET /video.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")  # and never reads
    awake = _follow(server, "/skeletons", clients)
    small = _ask(server)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    frozen = _follow(server, "/skeletons", clients, sock=small, max_queue=1)
    _follow(server, "/view", clients, max_queue=1)  # never says a word
    run = Run(hub, people=40)
    assert json.loads(awake.recv(10))["type"] == "header"
    for number in range(60):  # 4 MB of lines; none of these steps waits for anybody
        run.step()
        assert json.loads(awake.recv(10))["frame_id"] == number
    run.end()
    records = [json.loads(frozen.recv(10))]
    while records[-1]["type"] != "end":
        records.append(json.loads(frozen.recv(10)))
    ids = [r["frame_id"] for r in records if r["type"] == "frame"]
    assert len(ids) < 60
    assert ids[-1] == 59
    assert sum(r.get("dropped_before", 0) for r in records) == 60 - len(ids) == records[-1]["dropped"]


def test_a_program_that_asks_gets_the_newest_each_time(server: LiveServer, hub: Hub, clients: ExitStack) -> None:
    slow = _follow(server, "/skeletons?ask=1", clients)
    awake = _follow(server, "/skeletons", clients)
    run, got = Run(hub), []
    assert {json.loads(viewer.recv(10))["type"] for viewer in (slow, awake)} == {"header"}

    def step(count: int) -> None:
        for _ in range(count):
            run.step()
            awake.recv(10)

    step(1)
    got.append(json.loads(slow.recv(10)))
    step(20)  # without a word of its
    for steps in (0, 5, 1):
        step(steps)
        slow.send("next")
        got.append(json.loads(slow.recv(10)))
    slow.send("next")  # before there is one
    step(1)
    got.append(json.loads(slow.recv(10)))
    run.step()
    run.end()
    slow.send("next")
    records = [json.loads(slow.recv(10)) for _ in range(2)]
    assert [record["frame_id"] for record in got] == [0, 20, 25, 26, 27]
    assert [record.get("dropped_before", 0) for record in got] == [0, 19, 4, 0, 0]
    assert [(record["type"], record.get("frame_id")) for record in records] == [("frame", 28), ("end", None)]


def test_whoever_asks_for_nothing_gives_the_place_up(
    hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose_rt.live.guard._HEAD_S", 1.0)
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        viewer, run = _follow(server, "/skeletons", clients), Run(hub)
        idle = [clients.enter_context(_ask(server, 20)) for _ in range(130)]
        idle[0].sendall(b"GET / HTTP/1.1\r\nHost: ")
        for connection in idle:
            assert connection.recv(1) == b""
        assert _is_healthy(server)
        run.step()
        assert json.loads(viewer.recv(10))["type"] == "header"  # who did ask is still there
        run.end()


def test_of_too_many_connections_those_go_that_ask_for_nothing(
    server: LiveServer, hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose_rt.live.guard.MAX_CONNECTIONS", 3)
    Run(hub).step()
    viewer = _follow(server, "/skeletons", clients)

    def connection() -> socket.socket:
        return clients.enter_context(_ask(server, 20))

    def cut_off(idle: socket.socket) -> bool:
        with suppress(ConnectionResetError):
            while idle.recv(1000):  # what is left of its answer
                pass
        return True

    first = connection()
    first.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
    second, third, fourth = (connection() for _ in range(3))
    assert cut_off(first)  # it has its answer, and asks for nothing more
    assert cut_off(second)
    third.sendall(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    assert third.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert json.loads(viewer.recv(10))["type"] == "header"  # who does ask is still there
    fourth.close()
    viewers = [viewer, *(_follow(server, "/skeletons", clients) for _ in range(2))]
    assert [json.loads(each.recv(10))["type"] for each in viewers] == ["frame", "header", "header"]
    assert cut_off(connection())  # the others are being answered
    viewers[2].close()
    until(lambda: hub.viewers <= 2)
    assert _is_healthy(server)


_KEEPS_ITS_PLACE = {
    "a socket that does not answer its end": b"GET /view HTTP/1.1\r\nHost: 127.0.0.1\r\n" + _UPGRADE + b"\r\n",
    "a body that does not come": b"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("request_", _KEEPS_ITS_PLACE.values(), ids=_KEEPS_ITS_PLACE.keys())
def test_strangers_do_not_keep_out_who_has_the_token(
    hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    monkeypatch.setattr("sharpose_rt.live.guard.MAX_CONNECTIONS", 3)
    with LiveServer(hub, Listen("127.0.0.1", 0, TOKEN)) as server:
        viewer = _follow(server, "/skeletons?token=correct+horse", clients)
        for _ in range(4):
            stranger = clients.enter_context(_ask(server, 20))
            stranger.sendall(request_)
            while b"token" not in (said := stranger.recv(1000)):  # it is refused, and stays
                assert said
        assert _is_healthy(server, "?token=correct+horse")
        Run(hub).step()
        assert json.loads(viewer.recv(10))["type"] == "header"


class _Transport:
    def __init__(self, left: int, closing: bool) -> None:
        self._left, self._closing = left, closing

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self._left


@pytest.mark.parametrize(
    ("scope", "left", "closing", "spare"),
    [
        ({_REFUSED: False}, 0, False, False),
        ({_REFUSED: True}, 0, False, True),
        ({}, 0, False, True),  # nobody has decided yet
        (None, 0, False, True),  # it asks for nothing
        ({_REFUSED: True}, 53_000, True, True),  # it would take its answers never, and so never go
        ({}, 53_000, True, True),
        ({_REFUSED: True}, 0, True, False),  # it goes
        ({_REFUSED: False}, 53_000, True, False),
    ],
)
def test_who_gives_way_where_there_are_too_many(
    scope: dict[str, bool] | None, left: int, closing: bool, spare: bool
) -> None:
    connection = SimpleNamespace(transport=_Transport(left, closing), scope=scope)
    assert _is_spare(connection) is spare


_FEW_FILES = """
import resource, sys
from sharpose_rt.live import Hub, Listen, LiveServer, guard
guard.MAX_CONNECTIONS = 16
with LiveServer(Hub(), Listen("127.0.0.1", 0)) as server:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows neither limits open files nor stops a process")
def test_a_flood_of_connections_leaves_the_process_its_files(clients: ExitStack) -> None:
    command = [sys.executable, "-c", _FEW_FILES]
    process = clients.enter_context(Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True))
    clients.callback(process.kill)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    with urllib.request.urlopen(f"{url}healthz", timeout=10) as answer:  # it listens
        assert answer.status == 200
    process.send_signal(signal.SIGSTOP)  # so that they all wait when it looks
    with ExitStack() as flood:
        for _ in range(150):  # this process has its limit too: 256 on macOS
            idle = flood.enter_context(socket.socket())
            idle.setblocking(False)
            idle.connect_ex(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])))
        process.send_signal(signal.SIGCONT)
    with urllib.request.urlopen(f"{url}healthz", timeout=20) as answer:
        assert answer.status == 200
    _, said = process.communicate("", timeout=20)
    assert said == ""


def test_what_is_no_request_leaves_no_trace_in_the_log(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close, Upgrade\r\nUpgrade: "
    requests = {b"\0garbage\r\n\r\n": b"400", head + b"h2c\r\n\r\n": b"200", head + b"websocket\r\n\r\n": b"400"}
    for request, status in requests.items():
        with _ask(server, 20) as stranger:
            stranger.sendall(request)
            assert stranger.recv(1000).split()[1] == status
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone can be told so")
@pytest.mark.parametrize("request_", ["/skeletons", "/video.mjpg"])
def test_a_frozen_viewer_gives_its_place_up(
    hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    monkeypatch.setattr("sharpose_rt.live.server._GONE_MS", 500)
    run = Run(hub, people=60)  # before the viewer: who asks for the video of no run is sent away
    run.step()
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        _freeze(server, request_, clients)
        until(lambda: hub.viewers)
        until(lambda: not hub.viewers, run)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("path", ["/skeletons", "/view", "/video.mjpg"])
def test_a_frozen_viewer_keeps_no_picture(
    hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("sharpose_rt.live.server._SEND_BUFFER", 1 << 12)
    run, moments = Run(hub, people=60), []

    def kept() -> int:
        return sum(moment() is not None for moment in moments)

    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        for _ in range(6):
            _freeze(server, path, clients)
            for _ in range(25):
                run.step()
                moments.append(ref(hub.runs[0].newest))
                time.sleep(0.02)
        until(lambda: kept() <= 2)  # the newest, and that of the picture made last; some are still being drawn


def test_whoever_does_not_take_the_last_seconds_costs_no_memory(
    server: LiveServer, hub: Hub, clients: ExitStack
) -> None:
    run = Run(hub, people=60)
    run.step(200)
    assert sum(map(len, hub.runs[0].recent(100))) > 3 << 20
    _freeze(server, "/api/recent?seconds=100", clients)

    def waiting() -> int:
        connections = list(server._server.server_state.connections)
        return sum(each.transport.get_write_buffer_size() for each in connections if each.transport)

    until(waiting)
    time.sleep(0.2)
    assert 0 < waiting() < 1 << 20


def test_figures_are_made_once_for_all_who_follow_them(
    server: LiveServer, hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, begun_s = [], time.monotonic()
    status = LiveRun.status
    monkeypatch.setattr(LiveRun, "status", lambda run: (made.append(1), status(run))[1])
    Run(hub).step()
    pages = [_follow(server, "/view", clients) for _ in range(8)]
    for page in pages:
        for _ in range(3):
            while not isinstance(page.recv(10), str):
                pass
    assert len(made) <= 2 + 4 * (time.monotonic() - begun_s)


def test_what_a_viewer_says_that_is_no_text_leaves_no_trace_in_the_log(
    server: LiveServer, clients: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = _follow(server, "/view", clients)
    viewer.send(b"\xff\xfe", text=True)
    with suppress(ConnectionClosed):
        while True:
            viewer.recv(10)
    assert viewer.close_code == 1007
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_a_body_that_goes_on_after_the_answer_is_cut_off(hub: Hub, clients: ExitStack) -> None:
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        slow = clients.enter_context(_ask(server, 20))
        slow.sendall(b"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
        assert b" 405 " in slow.recv(1000)

        def goes_on() -> bool:
            time.sleep(0.05)
            try:
                slow.sendall(b"x")
            except OSError:
                return False
            return True

        assert not all(goes_on() for _ in range(100))


def test_too_many_sockets_leave_room_for_health_and_figures(
    server: LiveServer, hub: Hub, clients: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose_rt.live.routes._MAX_SOCKETS", 3)
    Run(hub).step()
    viewers = [_follow(server, "/skeletons", clients) for _ in range(3)]
    late = _follow(server, "/skeletons", clients)
    with pytest.raises(ConnectionClosed):
        late.recv(10)
    assert late.close_code == 1013
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(server.url + "video.mjpg", timeout=10)
    assert all(json.loads(viewer.recv(10))["type"] == "header" for viewer in viewers)
    assert _is_healthy(server)
    viewers[0].close()
    until(lambda: hub.viewers <= 2)
    assert json.loads(_follow(server, "/skeletons", clients).recv(10))["type"] == "header"


def test_who_takes_nothing_at_the_end_leaves_no_trace_in_the_log(
    hub: Hub, clients: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        small = _ask(server)
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        _follow(server, "/skeletons", clients, sock=small, max_queue=1)
        run = Run(hub, people=60)
        for _ in range(150):
            run.step()
            time.sleep(0.01)
        run.end()
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_closing_sends_everybody_away(hub: Hub, clients: ExitStack) -> None:
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        viewers = [_follow(server, path, clients) for path in ("/skeletons", "/view")]
        run = Run(hub)
        run.step()
        assert json.loads(viewers[0].recv(10))["type"] == "header"
        run.end()
    lines = []
    for viewer in viewers:
        with suppress(ConnectionClosed):
            while True:
                lines.append(viewer.recv(10))
        assert viewer.close_code in (1001, 1012)
    assert any(isinstance(line, str) and '"type":"end"' in line for line in lines)
    run = Run(hub)  # a run may go on after its server
    run.step()
