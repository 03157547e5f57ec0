"""What a program of ours asks of its process, each in a process of its own."""

from __future__ import annotations

import errno
import io
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import zlib
from types import SimpleNamespace

import pytest
from raising import raising

from sharpose_rt.cli import main
from sharpose_rt.commands import progress
from sharpose_rt.commands.progress import NowAndThen
from sharpose_rt.machine import threads

LARGE = """
import resource, sys
import numpy as np
from sharpose_rt.machine.process import prepare
prepare(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(3 << 20, np.uint8), np.ones(1 << 20, np.uint8)
before = faults()
for _ in range(50):
    frame, crop = np.ones(3 << 20, np.uint8), np.ones(1 << 20, np.uint8)
    del frame, crop
print(faults() - before)
"""


def run(code: str, **environment: str) -> str:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "OMP_", "OPENCV_", "LD_PRELOAD"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_waits_for_the_next_tensor_unless_the_user_has_settings_of_their_own():
    pages = 50 * (4 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert int(run(LARGE)) < pages / 10
    assert int(run(LARGE, MALLOC_MMAP_THRESHOLD_="131072")) > pages / 2


def test_waiting_threads_sleep_and_opencv_leaves_the_cores_to_the_networks_unless_the_user_wants_otherwise():
    code = (
        "import os; from sharpose_rt.cli import main; from sharpose_rt.machine.threads import media_threads; "
        "main([]); import cv2; print(os.environ['OMP_WAIT_POLICY'], cv2.getNumThreads() - media_threads())"
    )
    assert run(code).endswith("\npassive 0")
    wishes = {"OMP_WAIT_POLICY": "ACTIVE", "OPENCV_FOR_THREADS_NUM": str(threads.media_threads() + 3)}
    assert run(code, **wishes).endswith("\nACTIVE 3")


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors in a POSIX shell")
@pytest.mark.parametrize("closed", ["<&- 2>&-", "<&-", "2>&-"])
def test_no_file_takes_the_place_of_what_the_caller_closed(tmp_path, closed):
    program = (
        "from pathlib import Path; from sharpose_rt.machine.process import prepare; prepare(1); import os, sys; "
        f"file = Path({str(tmp_path / 'out.txt')!r}).open('w'); os.write(2, b'a library speaks'); "
        "print(file.fileno() > 2, sys.stdin.buffer.read())"
    )
    command = f'"{sys.executable}" -c "{program}" {closed}'
    done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True b''\n"
    assert not (tmp_path / "out.txt").read_text()


def test_waiting_threads_sleep_in_a_programs_own_process_too():
    code = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            sys.exit()
sys.meta_path.insert(0, Watch())
from sharpose_rt import PoseTracker
"""
    assert run(code) == "passive"
    assert run(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


FORKS = """
import os, sys
import numpy as np
from sharpose_rt import PoseTracker, SHaRPose
from sharpose_rt.errors import DeviceError

options = {"weights": "random", "backend": "torch", "precision": "fp32", "device": "cpu"}
image = np.zeros((256, 192, 3), np.uint8)
tracker = PoseTracker(pose=options, detector={"name": "full"})

def in_a_fork(job):
    sys.stdout.flush()
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        print(len(job()))
    except DeviceError as error:
        print("spawn" in str(error))
    sys.stdout.flush()
    os._exit(0)

in_a_fork(lambda: SHaRPose(**options)(image))
used = SHaRPose(**options)
for job in (lambda: used(image), lambda: SHaRPose(**options), lambda: tracker.update(image)):
    in_a_fork(job)
print(len(used(image)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.timeout(120)
def test_a_fork_of_a_process_that_used_networks_says_so_and_one_from_before_works():
    assert run(FORKS).split() == ["1", "True", "True", "True", "1"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc for the peak of memory")
def test_a_small_picture_that_says_it_is_larger_than_memory_is_left_alone(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    wide, high = 18_000, 16_000  # one bit a pixel, all black
    rows = zlib.compress(bytes((1 + wide // 8) * high))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", wide, high, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(data) < 50_000
    (tmp_path / "bomb.png").write_bytes(data)
    code = (
        "from sharpose_rt.cli import main; main([]); from sharpose_rt.media.files import read_image; "
        f"print(read_image({str(tmp_path / 'bomb.png')!r})); print(open('/proc/self/status').read())"
    )
    said = run(code)
    assert "\nNone\nName:" in said
    assert int(re.search(r"VmHWM:\s+(\d+) kB", said)[1]) < 700 << 10


def test_elsewhere_nothing_is_asked_for(monkeypatch):
    from sharpose_rt.machine import process

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not process.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(process.ctypes, "CDLL", lambda _: object())  # a C library without mallopt
    assert not process.keep_freed_memory()


def test_a_source_that_is_not_there_has_an_exit_status_of_its_own(tmp_path, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = ["--weights", "random", "--boxes", "full", "--no-video", "--output", str(tmp_path)]
    assert main(["--source", f"http://127.0.0.1:{port}/video", *options]) == 75
    assert "Connection refused" in capsys.readouterr().err
    assert main(["--source", "webcam:63", *options]) == 75
    assert main(["--source", str(tmp_path / "none.mp4"), *options]) == 2


def test_a_terminal_says_that_something_is_prepared_until_the_first_frame(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    job = SimpleNamespace(
        totals=SimpleNamespace(status_line=lambda: "9 fps"),
        source=SimpleNamespace(info=SimpleNamespace(stem="walk[door]\x1b[2J", frame_count=20)),
    )
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress.Progress(job, quiet=False) as bar:
        bar._bar.refresh()
        assert "preparing" in terminal.getvalue()
        terminal.seek(0)
        terminal.truncate()
        bar.update(SimpleNamespace(frame=SimpleNamespace(frame_id=4)))
        bar._bar.refresh()
        assert r"walk[door]\x1b[2J" in terminal.getvalue()  # no markup, and nothing that steers it
        assert "5/20" in terminal.getvalue()
        assert "preparing" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("total", "quiet", "said"), [(20, False, "frame 5 of 20"), (None, False, "frame 5"), (20, True, "")]
)
def test_a_log_is_told_now_and_then_how_far_it_is(total, quiet, said, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.0)
    job = SimpleNamespace(
        totals=SimpleNamespace(status_line=lambda: "9 fps"),
        source=SimpleNamespace(info=SimpleNamespace(frame_count=total)),
    )
    with progress.Progress(job, quiet=quiet) as plain:
        plain.update(SimpleNamespace(frame=SimpleNamespace(frame_id=4)))
    progress.every_few_seconds(job.totals.status_line, quiet=quiet)(0, "whatever it is told")
    assert capsys.readouterr().err == ("" if quiet else f"{said} | 9 fps\n9 fps\n")


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    class Terminal(io.StringIO):
        gone = False

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if self.gone:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress.Progress(SimpleNamespace(), quiet=False):
        terminal.gone = True
    assert sys.stderr is terminal  # nothing of the bar's stays in its place


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (MemoryError("[Errno 12] Cannot allocate memory"), "memory left ([Errno 12] Cannot allocate memory"),
        (MemoryError(), "memory left (MemoryError"),
        (
            RuntimeError("unable to mmap 19335222 bytes: Cannot allocate memory (12)\n\n"),
            "memory left (unable to mmap 19335222 bytes: ",
        ),
        (
            RuntimeError(
                "Exception from src/cpp/core.cpp:117:\nException from src/dev/plugin.cpp:54:\nResource "
                "temporarily unavailable\n\n"
            ),
            "memory, or room for threads, left (Resource temporarily unavailable)",
        ),
        (RuntimeError("can't start new thread"), "memory, or room for threads, left (can't start new thread)"),
    ],
)
def test_too_little_memory_is_told_in_a_line(monkeypatch, capsys, error, lack):
    monkeypatch.setattr("sharpose_rt.commands.models.run", raising(error))
    assert main(["models"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sharpose-rt: error: this machine has too little {lack}")
    assert "--set pose.max_batch=2" in said
    assert said.count("\n") == 1


def test_what_is_no_lack_of_memory_stays_what_it_is(monkeypatch):
    monkeypatch.setattr("sharpose_rt.commands.models.run", raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["models"])


def test_plain_lines_become_seldom(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr("sharpose_rt.commands.progress.time.monotonic", lambda: now_s)
    due, said = NowAndThen(), []
    while now_s < 86_400:
        now_s += 1.0
        if due():
            said.append(now_s)
    assert said[:60] == [10.0 * n for n in range(1, 61)]
    assert 150 < len(said) < 250  # of a day
    assert said[-1] - said[-2] == 600
