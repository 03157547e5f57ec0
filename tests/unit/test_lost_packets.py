"""Live streams of which packets are lost on their way: what is spoilt is left out and counted, what is good is not."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from media_clips import numbered, read_number

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceLost
from sharpose_rt.media import open_source, spoilt

FPS, PICTURES, GOP = 25, 80, 20
KEY, BETWEEN = 40, 45
SHOWN = range(PICTURES - 1)  # where the last picture ends is known by a next one
TEXTURE = np.random.default_rng(0).integers(0, 200, (24, 150), np.uint8).repeat(4, 0).repeat(4, 1)


def picture(number: int) -> np.ndarray:
    """A number above, and below something that a camera pans over."""
    image = numbered(number, (320, 192))
    image[96:] = TEXTURE[:, 3 * number : 3 * number + 320, None]
    image[96:] += np.random.default_rng(number).integers(0, 40, (96, 320, 1), np.uint8)
    return image


def packets_of(codec: str, options: str) -> list[list[bytes]]:
    """The packets of an MPEG-TS for each of its pictures."""
    written = io.BytesIO()
    kind = "x264-params" if codec == "libx264" else "x265-params"
    with av.open(written, "w", format="mpegts") as out:
        video = out.add_stream(codec, rate=FPS, options={"preset": "ultrafast", kind: options})
        video.width, video.height, video.pix_fmt = 320, 192, "yuv420p"
        for number in range(PICTURES):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture(number), format="bgr24")))
        out.mux(video.encode(None))
    data = written.getvalue()
    with av.open(io.BytesIO(data)) as stored:
        begins = [packet.pos for packet in stored.demux(video=0) if packet.pos is not None]
    return [[data[at : at + 188] for at in range(a, b, 188)] for a, b in pairwise([0, *begins[1:], len(data)])]


def received(packets: list[list[bytes]]) -> tuple[list[int], float, int]:
    """What comes by UDP: the numbers of the pictures, by how much one differs at most (grey levels) from what was sent,
    and how many are told as damaged."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("127.0.0.1", 0))
        port = out.getsockname()[1]
    ended, numbers, off = threading.Event(), [], []
    flat = [packet for part in packets for packet in part]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.connect(("127.0.0.1", port))
            while not ended.wait(0.05):
                with contextlib.suppress(ConnectionRefusedError):  # by which it is known that nobody listens yet
                    out.send(b"")
                    out.send(b"")
                    break
            for at in range(0, len(flat), 7):
                out.send(b"".join(flat[at : at + 7]))
                time.sleep(0.002)  # so that loopback loses nothing

    sender = threading.Thread(target=send)
    sender.start()
    config = SourceConfig(reconnect_s=0, read_timeout_s=1)
    try:
        with open_source(f"udp://127.0.0.1:{port}", config) as source, contextlib.suppress(SourceLost):  # at the end
            for frame in source:
                numbers.append(read_number(frame.image_bgr))
                off.append(float(abs(frame.image_bgr.astype(int) - picture(numbers[-1])).mean()))
    finally:
        ended.set()
        sender.join()
    return numbers, max(off), source.faults.damaged


@pytest.fixture(autouse=True)
def from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose_rt.media.source.STALE_S", 60.0)


def without(packets: list[list[bytes]], picture: int, *, whole: bool) -> list[list[bytes]]:
    """The packets without a datagram's worth of a picture, or all of it."""
    packets = [list(part) for part in packets]
    at = len(packets[picture]) // 2
    del packets[picture][slice(None) if whole else slice(at, at + 7)]
    return packets


H264 = ("libx264", f"keyint={GOP}:scenecut=0:bframes=0:rc-lookahead=0")
HEVC = ("libx265", f"{H264[1]}:log-level=none")
SLICES = ("libx264", f"{H264[1]}:slices=4")
REFRESHED = ("libx264", f"{H264[1]}:intra-refresh=1"), ("libx265", f"{HEVC[1]}:intra-refresh=1")
GROUP = set(range(KEY, KEY + GOP))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("encoder", [SLICES, HEVC])
def test_nothing_is_left_out_where_nothing_is_lost(encoder, caplog) -> None:
    numbers, off, told = received(packets_of(*encoder))
    assert (numbers, told) == (list(SHOWN), 0)
    assert off < 10
    assert not caplog.records


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("encoder", "damaged", "whole", "left_out"),
    [
        (H264, KEY, False, GROUP),
        (H264, BETWEEN, False, {BETWEEN}),
        (SLICES, BETWEEN, False, {BETWEEN}),
        (REFRESHED[0], KEY, False, {KEY}),
        (HEVC, KEY, False, GROUP),
        (HEVC, BETWEEN, False, GROUP - set(range(KEY, BETWEEN))),
        (HEVC, KEY, True, GROUP),
        (HEVC, BETWEEN, True, GROUP - set(range(KEY, BETWEEN))),
    ],
)
def test_what_lost_packets_have_spoilt_is_left_out_and_counted(encoder, damaged, whole, left_out, caplog) -> None:
    numbers, off, told = received(without(packets_of(*encoder), damaged, whole=whole))
    missing = set(SHOWN) - set(numbers)
    assert numbers == [number for number in SHOWN if number not in missing]
    assert left_out <= missing <= left_out | {damaged - 1}  # a gap is noticed with the packet after or before it
    assert told == len(missing) - whole  # nothing tells what never came
    assert off < 30
    assert caplog.text.count("lost or damaged on the way") == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("encoder", REFRESHED)
def test_a_stream_without_key_frames_is_shown_again_after_a_loss(encoder, monkeypatch) -> None:
    """FFmpeg gives no picture of HEVC any more then, unless it is asked to."""
    monkeypatch.setattr(spoilt, "LONGEST_WAIT_S", 15 / FPS)
    numbers, _, told = received(without(packets_of(*encoder), BETWEEN, whole=True))
    assert numbers == sorted(numbers)
    assert {*SHOWN[: BETWEEN - 1], *SHOWN[BETWEEN + 15 :]} <= set(numbers)
    assert told == len(SHOWN) - 1 - len(numbers)
    assert (told > 0) == (encoder[0] == "libx265")


def test_a_file_tells_what_hevc_lost_with_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "recorded.ts"
    path.write_bytes(b"".join(map(b"".join, without(packets_of(*HEVC), KEY, whole=True))))
    with open_source(path) as source:
        numbers = [read_number(frame.image_bgr) for frame in source]
        assert numbers == [number for number in range(PICTURES) if number not in GROUP]
        assert source.faults.damaged >= GOP - 1


def test_joined_recordings_of_hevc_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(2 * b"".join(map(b"".join, packets_of(*HEVC))))
    with open_source(path) as source:
        assert [read_number(frame.image_bgr) for frame in source] == [*range(PICTURES)] * 2
        assert source.faults.damaged == 0
