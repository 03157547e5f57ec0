"""Encrypted sources: who is trusted, and what is said and kept back where nobody is."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_servers import serving
from live_world import Run
from media_clips import write_clip
from mqtt_broker import MqttBroker
from websockets.sync.server import ServerConnection, serve

from sharpose_rt.cli import build_parser
from sharpose_rt.commands.run_options import build_config
from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import ConfigError, SourceAway, SourceError
from sharpose_rt.live import Publisher, parse_target
from sharpose_rt.media import certificates, is_live, open_source

pytestmark = pytest.mark.timeout(60)

QUICK = {"open_timeout_s": 10.0, "read_timeout_s": 10.0, "reconnect_s": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates with their keys, each signed by itself, and a clip."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls")
    for name, host in (("camera", "localhost"), ("stranger", "localhost"), ("elsewhere", "elsewhere.invalid")):
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        whose = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
        files = ["-keyout", str(path / f"{name}.key"), "-out", str(path / f"{name}.pem")]
        subprocess.run([openssl, "req", *kind, *whose, *files], check=True, capture_output=True)
    write_clip(path / "clip.mp4", 12, faststart=True)
    write_clip(path / "piece.ts", 12, container="mpegts")
    return path


@contextmanager
def tls_server(certificate: Path, answer: Callable[[bytes], bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """A server that shows `certificate` and gives one answer to a connection; its port, and what it was told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    listener, told = socket.create_server(("127.0.0.1", 0)), []

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as connection:
                connection.settimeout(10)
                if request := connection.recv(4096):
                    told.append(request)
                    connection.sendall(answer(request))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], told
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def file_of(folder: Path, *, asks: bool = False) -> Callable[[bytes], bytes]:
    """Answers with the file of the path, where it `asks` only to who says a password."""

    def answer(request: bytes) -> bytes:
        if asks and b"Authorization:" not in request:
            return b'HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
        body = (folder / request.split()[1].decode().strip("/")).read_bytes()
        return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + (b"" if request[:4] == b"HEAD" else body)

    return answer


@pytest.mark.parametrize(
    ("scheme", "first"), [("https", b"GET /live"), ("rtsps", b"OPTIONS rtsps://"), ("rtmps", b"\x03")]
)
def test_who_is_not_trusted_is_told_nothing(scheme: str, first: bytes, folder: Path) -> None:
    def ask(tls: str) -> str:
        source = open_source(f"{scheme}://me:hidden@localhost:{port}/live", SourceConfig(tls=tls, **QUICK))
        with pytest.raises(SourceError) as caught:
            source.open()
        return str(caught.value)

    refusal = b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n" if scheme == "rtsps" else b"HTTP/1.0 404 No\r\n\r\n"
    with tls_server(folder / "camera.pem", lambda _: refusal) as (port, told):
        for tls in ("verify", str(folder / "stranger.pem")):
            said = ask(tls)
            assert "not trusted (self-signed certificate)" in said.replace("self signed", "self-signed")
            assert "--tls FILE" in said
            assert "--tls any" in said
            assert "hidden" not in said
        assert told == []
        for tls in (str(folder / "camera.pem"), "any"):
            told.clear()
            assert "trusted" not in ask(tls)
            assert told[0].startswith(first)


@pytest.mark.parametrize("tls", ["camera.pem", "any", "verify"])
def test_who_is_trusted_is_read(tls: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if tls == "verify":  # what a system's administrator has added
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "camera.pem"))
    config = SourceConfig(tls=str(folder / tls) if "." in tls else tls, **QUICK)
    shutil.copy(folder / "clip.mp4", folder / "download")
    with tls_server(folder / "camera.pem", file_of(folder, asks=True)) as (port, told):
        with open_source(f"https://me:hidden@localhost:{port}/clip.mp4", config) as source:
            assert len(list(source)) == 12
        assert any(b"Authorization: Basic" in request for request in told)
        assert not is_live(f"https://me:hidden@localhost:{port}/download", config)  # asked in Python


def test_a_certificate_of_another_host_is_not_trusted(folder: Path) -> None:
    file = folder / "elsewhere.pem"
    with tls_server(file, file_of(folder)) as (port, told):
        source = open_source(f"https://localhost:{port}/clip.mp4", SourceConfig(tls=str(file), **QUICK))
        with pytest.raises(SourceError, match=r"not trusted \(Hostname mismatch, .* 'localhost'\);"):
            source.open()
        assert is_live(f"https://localhost:{port}/download", SourceConfig(tls=str(file)))
    assert told == []


def test_who_is_away_is_not_said_to_be_distrusted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for scheme in ("https", "rtsps"):
        with pytest.raises(SourceAway, match="Connection refused"):
            open_source(f"{scheme}://127.0.0.1:{port}/x.mp4").open()


def test_pieces_whose_servers_nobody_verifies(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """FFmpeg takes a list's user and password, and none of its trust, to the servers of the pieces."""
    trusting = SourceConfig(tls=str(folder / "camera.pem"), **QUICK)
    with (
        tls_server(folder / "stranger.pem", file_of(folder)) as (pieces, _),
        tls_server(folder / "camera.pem", file_of(folder)) as (port, _),
    ):
        piece = f"#EXTINF:0.48,\nhttps://localhost:{pieces}/piece.ts\n"
        head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"
        (folder / "list.m3u8").write_text(f"{head}{piece}#EXT-X-ENDLIST\n")
        address = f"https://localhost:{port}/list.m3u8"
        for config, told in ((trusting, 1), (trusting, 0), (SourceConfig(tls="any", **QUICK), 0)):
            caplog.clear()
            with open_source(address, config) as source:
                assert source.read() is not None
            assert caplog.text.count("FFmpeg verifies its server but not those of the segments") == told
    with pytest.raises(SourceError, match=r"get user and password; .*--tls any") as caught:
        open_source("https://me:hidden@localhost/list.m3u8", trusting)
    assert "hidden" not in str(caught.value)
    open_source("https://me:hidden@localhost/list.m3u8", SourceConfig(tls="any"))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_of_no_certificates_is_said(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "camera.pem"
    if content is not None:
        file.write_bytes(content)
    config = SourceConfig(tls=str(file))
    for use in (open_source, is_live):
        with pytest.raises(
            SourceError, match=r"camera\.pem is not a file of certificates \((No|none) .*'verify', 'any' or"
        ):
            use("https://localhost/live", config)
    open_source("rtsp://localhost/live", config)  # which shows no certificate
    with pytest.raises(ConfigError, match=r"source\.tls is empty"):
        SourceConfig(tls="")


def test_a_system_without_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    monkeypatch.setattr(certificates, "_STORES", ())
    certifi = pytest.importorskip("certifi")
    assert certificates.ffmpeg_options("verify") == {"tls_verify": "1", "ca_file": certifi.where()}
    monkeypatch.setitem(sys.modules, "certifi", None)
    with pytest.raises(SourceError, match=r"no certificate authorities .*--tls FILE"):
        open_source("rtsps://localhost/live")
    open_source("rtsps://localhost/live", SourceConfig(tls="any"))


def test_the_command_line_says_whom_to_trust() -> None:
    args = build_parser().parse_args(["track", "--source", "rtsps://camera/live", "--tls", "camera.pem"])
    assert build_config(args).source.tls == "camera.pem"
    assert SourceConfig().tls == "verify"


@contextmanager
def consumer(scheme: str, certificate: Path) -> Iterator[str]:
    """The address of who takes skeletons and shows that certificate."""
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(certificate, certificate.with_suffix(".key"))
    if scheme == "mqtts":
        with MqttBroker(tls=shown) as broker:
            yield f"mqtts://localhost:{broker.port}/poses"
        return

    def take(connection: ServerConnection) -> None:
        for _ in connection:
            pass

    with serve(take, "localhost", 0, ssl=shown) as server, serving(server):
        yield f"wss://localhost:{server.socket.getsockname()[1]}/poses"


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
@pytest.mark.parametrize(
    ("trusted", "reached"), [("camera.pem", True), ("any", True), ("stranger.pem", False), ("verify", False)]
)
def test_whom_skeletons_are_sent_to(
    scheme: str, trusted: str, reached: bool, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = str(folder / trusted) if trusted.endswith(".pem") else trusted
    with (
        consumer(scheme, folder / "camera.pem") as address,
        Publisher(parse_target(address, tls), "newest") as publisher,
    ):
        run = Run(publisher)
        while (state := publisher.figures()["state"]) == "connecting":
            run.step()
            time.sleep(0.01)  # the consumer is of this process, and answers in its turn
        run.end()
    assert state == ("connected" if reached else "lost")
    assert ("not trusted: self-signed certificate; trust it with --tls FILE" in caplog.text) == (not reached)


@pytest.mark.parametrize("address", ["mqtts://localhost/poses", "wss://localhost/poses"])
def test_a_file_of_no_certificate_is_told_before_anything_is_sent(address: str, folder: Path) -> None:
    with pytest.raises(SourceError, match="not a file of certificates"):
        parse_target(address, str(folder / "clip.mp4"))
