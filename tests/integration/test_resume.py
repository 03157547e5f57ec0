"""`--resume`: a set is gone on with where it ended; what is done stays as it is, and no result is there twice."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from live_servers import serving
from media_clips import write_clip
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.cli import main
from sharpose_rt.errors import OutputError
from sharpose_rt.skeletons import StreamReader
from sharpose_rt.skeletons.convert import WRITERS
from sharpose_rt.skeletons.earlier import EarlierResults, place_beside
from sharpose_rt.types import Packet

OPTIONS = ["--model", SMALL.name, "--weights", "random", "--precision", "fp32", "--quality-threshold=-inf"]
OPTIONS += ["--boxes", "full", "--no-video"]
NAMES = ("a/one", "a/two", "b/one")
PROCESS = """
import sys
from people_set import SMALL
from sharpose_rt.cli import main
from sharpose_rt.models.variants import VARIANTS
VARIANTS[SMALL.name] = SMALL
"""
KILLED_AT_FRAME_5 = """
import os, signal
from sharpose_rt.stages import StreamSink
write = StreamSink.write
def killed(self, packet, *more):
    if packet.frame.frame_id == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, packet, *more)
StreamSink.write = killed
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def clips(clip: Path, tmp_path: Path) -> Path:
    """A folder of three short clips, two of one name."""
    for name in NAMES:
        path = tmp_path / "set" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)
    return tmp_path / "set"


def _run(clips: Path, out: Path, *more: str) -> int:
    return main(["--source", f"{clips}/**/*.mp4", "--output", str(out), *OPTIONS, *more])


def _start(clips: Path, out: Path, *more: str, before: str = "") -> subprocess.Popen[str]:
    """The same in a process of its own, which runs `before` first."""
    return _start_of(f"{clips}/**/*.mp4", out, *more, before=before)


def _start_of(source: str, out: Path, *more: str, before: str = "") -> subprocess.Popen[str]:
    asked = ["--source", source, "--output", str(out), *OPTIONS, *more]
    code = f"{PROCESS}{before}\nsys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code, *asked], env=environment, stdout=subprocess.PIPE, text=True)


def _files(out: Path) -> dict[str, tuple[bytes, int]]:
    """Contents, and when they were written, of all files by their names."""
    found = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def _frames(path: Path) -> list[bytes]:
    """The lines of a stream but for the first, which says when it was made."""
    return path.read_bytes().splitlines()[1:]


def _names(out: Path) -> set[str]:
    return set(_files(out))


def _at_frame_5(monkeypatch: pytest.MonkeyPatch, resume: Callable[[], None]) -> None:
    """Calls `resume`, like a run in another process, when the next run has come to frame 5."""
    run = FileRun.run

    def beside(self: FileRun, on_packet: Callable[[Packet], None]) -> object:
        monkeypatch.setattr(FileRun, "run", run)

        def other(packet: Packet) -> None:
            if packet.frame.frame_id == 5:
                resume()
            on_packet(packet)

        return run(self, other)

    monkeypatch.setattr(FileRun, "run", beside)


def test_what_is_done_stays_as_it_is(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert _run(clips, out, "--resume", "--format", "csv,openpose") == 0
    before = _files(out)
    assert {name for name in before if name.endswith(".skeletons.jsonl")} == {f"{n}.skeletons.jsonl" for n in NAMES}
    capsys.readouterr()
    assert _run(clips, out, "--resume", "--format", "csv,openpose") == 0
    assert _files(out) == before
    assert "3 of 3 done before" in capsys.readouterr().out

    write_clip(clips / "b/three.mp4", 4)  # somebody has recorded one more, and removed a result
    (out / "a/two.csv").unlink()
    assert _run(clips, out, "--resume", "--format", "csv,openpose") == 0
    after = _files(out)
    assert {name.partition("/")[2].split(".")[0] for name in after.keys() - before.keys()} == {"three"}
    written = {name.split(".")[0] for name, (_, written) in after.items() if before.get(name, ("", 0))[1] != written}
    assert written == {"a/two", "b/three", *(name for name in written if name.startswith("a/two_"))}
    assert after["a/two.csv"][0] == before["a/two.csv"][0]


def test_a_run_that_was_killed_is_gone_on_with(clips: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert _run(clips, whole) == 0
    with _start(clips, out, before=KILLED_AT_FRAME_5) as run:
        run.communicate(timeout=100)
    assert run.returncode == -signal.SIGKILL
    assert list(StreamReader(out / "a/one.skeletons.jsonl"))  # some of it is there
    assert _run(clips, out, "--resume") == 0
    assert _files(out).keys() == _files(whole).keys()
    for name in NAMES:
        assert _frames(out / f"{name}.skeletons.jsonl") == _frames(whole / f"{name}.skeletons.jsonl")


def test_a_run_in_parts_that_was_killed_is_gone_on_with(clips: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert _run(clips, whole, "--split", "1") == 0
    shutil.copytree(whole, out)
    (out / "a/one.summary.json").rename(out / "a/one.summary.part")  # as a killed one leaves it
    (out / "a/one.summary.part").write_bytes(b"")
    (out / "a/one.00h00m02s.skeletons.jsonl").unlink()
    for _ in range(2):
        assert _run(clips, out, "--split", "1", "--resume") == 0
        assert _files(out).keys() == _files(whole).keys()


def test_names_of_parts_do_not_grow_where_the_summary_is_gone(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _run(clips, out, "--split", "1", "--format", "csv") == 0
    before = _names(out)
    (out / "a/two.summary.json").unlink()
    for lost in ("a/two.summary.json", "b/one.00h00m00s.csv", "a/one.00h00m00s.skeletons.jsonl"):
        (out / lost).unlink(missing_ok=True)
        assert _run(clips, out, "--split", "1", "--format", "csv", "--resume") == 0
        assert _names(out) == before


@pytest.mark.parametrize(
    "lost", ["trc", *(pytest.param(lost, marks=pytest.mark.slow) for lost in ("skeletons.jsonl", "recording.mp4"))]
)
def test_what_was_removed_is_made_again_though_a_run_was_killed_at_it(
    lost: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out, more = tmp_path / "whole", tmp_path / "out", ("--record", "--format", "trc")
    assert _run(clips, whole, *more) == 0
    shutil.copytree(whole, out)
    next((out / "a").glob(f"two*{lost}")).unlink()
    with _start(clips, out, *more, "--resume", before=KILLED_AT_FRAME_5) as run:
        run.communicate(timeout=100)
    assert run.returncode == -signal.SIGKILL
    for said in ("2 of 3 done before", "3 of 3 done before"):
        capsys.readouterr()
        assert _run(clips, out, *more, "--resume") == 0
        assert said in capsys.readouterr().out
        assert _names(out) == _names(whole)
        for name in NAMES:
            assert _frames(out / f"{name}.skeletons.jsonl") == _frames(whole / f"{name}.skeletons.jsonl")


def test_a_format_that_cannot_be_written_leaves_a_run_undone(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--format", "trc")

    def full(*_: object, **__: object) -> None:
        raise OutputError("cannot write it: No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(WRITERS, "trc", WRITERS["trc"]._replace(write=full))
        assert _run(clips, tmp_path, *more) == 2
    assert json.loads((tmp_path / "a/one.summary.json").read_text())["status"] == "error"
    assert _run(clips, tmp_path, *more, "--resume") == 0
    assert json.loads((tmp_path / "a/one.summary.json").read_text())["status"] == "complete"
    assert list(tmp_path.glob("a/one_*.trc"))


def test_a_run_that_was_stopped_is_done_again_in_its_place(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        run = FileRun.run

        def stopped(self: FileRun, on_packet: object) -> object:
            def stop(packet: Packet) -> None:
                if packet.frame.frame_id == 3:
                    signal.raise_signal(signal.SIGINT)

            return run(self, stop)

        patch.setattr(FileRun, "run", stopped)
        assert _run(clips, out, "--resume") == 130
    assert json.loads((out / "a/one.summary.json").read_text())["status"] == "interrupted"
    assert _run(clips, out, "--resume") == 0
    assert {json.loads(path.read_text())["status"] for path in out.rglob("*.summary.json")} == {"complete"}
    assert {name for name in _files(out) if name.endswith(".summary.json")} == {f"{n}.summary.json" for n in NAMES}


def test_results_of_other_options_are_not_mixed(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _run(clips, out) == 0
    before = _files(out)
    assert _run(clips, out, "--resume", "--stride", "2") == 2
    said = capsys.readouterr().err
    assert "one.* was made with source.stride 1, now 2" in said
    assert "another --output" in said
    assert _files(out) == before
    assert _run(clips, out, "--resume", "--device", "cpu", "--set", "queue_frames=4", "--offline") == 0
    assert _files(out) == before


def test_a_file_of_the_same_name_from_elsewhere_is_another(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["--source", str(clips / "a/one.mp4"), "--output", str(out), *OPTIONS]) == 0
    before = _files(out)
    for _ in range(2):
        assert main(["--source", str(clips / "b/one.mp4"), "--output", str(out), *OPTIONS, "--resume"]) == 0
    after = _files(out)
    assert after.keys() - before.keys() == {"one-2.skeletons.jsonl", "one-2.summary.json"}
    assert {name: after[name] for name in before} == before


def test_what_another_run_is_at_work_on_is_left_to_it(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    place = place_beside(out / "a", f"{clips}/a/two.mp4")
    with FileLock(out / f"a/.two.mp4.{place}.lock"):  # as that of another process
        assert _run(clips, out, "--resume") == 0
        assert not (out / "a/two.skeletons.jsonl").exists()
        said = capsys.readouterr().out
        other = (clips / "b/one.mp4").rename(clips / "b/two.mp4")
        for name, done in ((clips / "a/two.mp4", False), (other, True)):
            one = ["--source", str(name), "--output", str(out / "a"), *OPTIONS, "--resume"]
            assert main(one) == 0
            assert ("0 of 1 done; 1 left to another run: " in capsys.readouterr().out) is not done
        assert StreamReader(out / "a/two.skeletons.jsonl").header.source == str(other)
        (out / "a/two.skeletons.jsonl").unlink()
        (out / "a/two.summary.json").unlink()
        other.rename(clips / "b/one.mp4")
    assert "2 of 3 done; 1 left to another run: " in said
    assert "a/two.mp4" in said
    assert _run(clips, out, "--resume") == 0
    assert {name for name in _files(out) if name.endswith(".skeletons.jsonl")} == {
        f"{n}.skeletons.jsonl" for n in NAMES
    }
    assert not list(out.rglob("*.lock"))


def test_what_another_run_was_stopped_at_is_done_in_the_end(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, said = tmp_path / "out", list[str]()

    def resume() -> None:
        capsys.readouterr()
        assert _run(clips, out, "--resume") == 0
        said.append(capsys.readouterr().out)

    _at_frame_5(monkeypatch, resume)
    assert _run(clips, out) == 0
    assert "2 of 3 done; 1 left to another run: " in said[0]
    assert "a/one.mp4" in said[0].splitlines()[-1]
    assert StreamReader(out / "a/one.skeletons.jsonl").ending()[0] == "complete"


def test_a_name_is_meant_from_the_folder_of_its_run(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for folder in ("a", "b"):  # of cameras that number from 1 every day
        monkeypatch.chdir(clips / folder)
        assert main(["--source", "one.mp4", "--output", str(out), *OPTIONS, "--resume"]) == 0
    names = {f"{stem}.{end}" for stem in ("one", "one-2") for end in ("skeletons.jsonl", "summary.json")}
    assert _names(out) == names
    before = _files(out)
    monkeypatch.chdir(clips)
    for name in ("a/one.mp4", "../set/b/one.mp4"):
        assert main(["--source", name, "--output", str(out), *OPTIONS, "--resume"]) == 0
    assert _files(out) == before


@pytest.mark.slow
def test_two_runs_share_a_set(clips: Path, tmp_path: Path) -> None:
    for number in range(6):
        shutil.copy(clips / "a/one.mp4", clips / f"a/more{number}.mp4")
    out = tmp_path / "out"
    both = [_start(clips, out, "--resume") for _ in range(2)]
    said = [run.communicate(timeout=100)[0] for run in both]
    assert [run.returncode for run in both] == [0, 0]
    done = [text.count("complete: ") for text in said]
    assert sum(done) == 9, said
    names = {path.relative_to(clips).with_suffix("").as_posix() for path in clips.rglob("*.mp4")}
    assert set(_files(out)) == {f"{name}.{end}" for name in names for end in ("skeletons.jsonl", "summary.json")}


def test_a_file_that_has_changed_is_done_again(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    whole = (clips / "a/two.mp4").read_bytes()
    write_clip(clips / "a/two.mp4", 4)
    assert _run(clips, out, "--resume") == 0
    before = _files(out)
    shutil.copytree(clips, tmp_path / "copied", copy_function=shutil.copyfile)  # at another time
    shutil.rmtree(clips)
    (tmp_path / "copied").rename(clips)
    assert _run(clips, out, "--resume") == 0
    assert _files(out) == before

    (clips / "a/two.mp4").write_bytes(whole)
    capsys.readouterr()
    assert _run(clips, out, "--resume") == 0
    said = capsys.readouterr().out
    assert f"2 of 3 done before, with the same options; 1 changed since then and done again: {clips}/a/two.mp4" in said
    after = _files(out)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"a/two.skeletons.jsonl", "a/two.summary.json"}
    assert _frames(out / "a/two.skeletons.jsonl") == _frames(out / "a/one.skeletons.jsonl")
    assert _run(clips, out, "--resume") == 0
    assert _files(out) == after


def test_a_folder_of_pictures_that_has_grown_is_done_again(tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    asked = ["--source", str(pictures), "--output", str(out), *OPTIONS, "--resume"]
    pictures.mkdir()
    for count in (2, 2, 3):
        cv2.imwrite(str(pictures / f"{count}.png"), np.zeros((96, 160, 3), np.uint8))
        cv2.imwrite(str(pictures / "1.png"), np.zeros((96, 160, 3), np.uint8))
        assert main(asked) == 0
        assert _names(out) == {"pictures.skeletons.jsonl", "pictures.summary.json"}
        assert StreamReader(out / "pictures.skeletons.jsonl").ending() == ("complete", count)


def test_results_that_state_no_size_count_as_done(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _run(clips, out) == 0
    for path in out.rglob("*.summary.json"):
        record = json.loads(path.read_text())
        assert record.pop("stored") == {"files": 1, "bytes": (clips / "a/one.mp4").stat().st_size}
        del record["place"]
        path.write_text(json.dumps(record))
    before = _files(out)
    write_clip(clips / "a/two.mp4", 4)
    assert _run(clips, out, "--resume") == 0
    assert _files(out) == before


def test_a_file_that_a_list_names_twice_is_done_once(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out, listed = tmp_path / "out", tmp_path / "list.txt"
    one, two, other = (clips / f"{name}.mp4" for name in NAMES)
    listed.write_text(f"{one}\n{two}\n{clips}/b/../a/one.mp4\n{other}\n{one}\n")
    for more in ([], ["--resume"]):
        capsys.readouterr()
        assert main(["--source", f"@{listed}", "--output", str(out), *OPTIONS, *more]) == 0
        said = capsys.readouterr().out
        assert ("3 of 3 done before" if more else "3 of 3 done\n") in said
        assert "another run" not in said
    assert caplog.text.count("2 of 5 sources are duplicates; each is processed once") == 2
    assert _names(out) == {f"{name}.{end}" for name in NAMES for end in ("skeletons.jsonl", "summary.json")}


def test_what_was_killed_is_not_taken_for_a_file_of_its_name_elsewhere(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.chdir(clips / "a")
    with _start_of("one.mp4", out, before=KILLED_AT_FRAME_5) as run:
        run.communicate(timeout=100)
    begun = (out / "one.skeletons.jsonl").read_bytes()
    assert StreamReader(out / "one.skeletons.jsonl").header.source == "one.mp4"
    monkeypatch.chdir(clips / "b")
    assert main(["--source", "one.mp4", "--output", str(out), *OPTIONS, "--resume"]) == 0
    assert (out / "one.skeletons.jsonl").read_bytes() == begun
    assert StreamReader(out / "one-2.skeletons.jsonl").ending()[0] == "complete"
    monkeypatch.chdir(clips)  # where its run was not
    assert main(["--source", "a/one.mp4", "--output", str(out), *OPTIONS, "--resume"]) == 0
    assert StreamReader(out / "one.skeletons.jsonl").ending()[0] == "complete"
    assert _names(out) == {f"{stem}.{end}" for stem in ("one", "one-2") for end in ("skeletons.jsonl", "summary.json")}


def test_a_file_of_a_server_that_a_run_was_killed_at_is_done_again_in_its_place(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(clips))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, serving(server):
        source = f"http://127.0.0.1:{server.server_address[1]}/a/one.mp4"
        with _start_of(source, out, before=KILLED_AT_FRAME_5) as run:
            run.communicate(timeout=100)
        (stream,) = out.glob("*.skeletons.jsonl")
        assert StreamReader(stream).ending() == (None, 5)
        assert main(["--source", source, "--output", str(out), *OPTIONS, "--resume"]) == 0
        assert StreamReader(stream).ending()[0] == "complete"
        assert len(_names(out)) == 2


def test_a_stream_that_no_run_was_killed_at_is_not_written_over(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(["--source", str(clips / "a/one.mp4"), "--output", str(out), *OPTIONS, "--format", "alphapose"]) == 0
    theirs, stream = out / "one.alphapose.json", out / "one.skeletons.jsonl"
    stream.unlink()
    (out / "one.summary.json").unlink()
    asked = ["convert", str(theirs), "--from", "alphapose", "--video", str(clips / "a/one.mp4"), "--out", str(stream)]
    assert main(asked) == 0
    imported = stream.read_bytes()
    assert main(["--source", str(clips / "a/one.mp4"), "--output", str(out), *OPTIONS, "--resume"]) == 0
    assert stream.read_bytes() == imported


def test_a_set_that_was_moved_with_its_results_is_done(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = clips / "out"
    assert _run(clips, out) == 0
    (out / "a/two.summary.json").unlink()  # as one that was killed in the end
    names = _names(out)
    moved = tmp_path / "moved"  # or what another machine that shares the folder calls it
    clips.rename(moved)
    before = _files(moved / "out")
    assert _run(moved, moved / "out", "--resume") == 0
    assert _names(moved / "out") == names | {"a/two.summary.json"}
    after = _files(moved / "out")
    assert {name for name in before if before[name] != after[name]} == {"a/two.skeletons.jsonl"}
    monkeypatch.chdir(moved)
    assert _run(Path(), Path("out"), "--resume") == 0
    assert _files(moved / "out") == after


@pytest.mark.parametrize("output", ["set/out", "set"])
def test_what_a_run_has_written_is_no_part_of_the_set(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = [option for option in OPTIONS if option != "--no-video"]
    shutil.copy(clips / "a/one.mp4", tmp_path / "mine.annotated.mp4")  # by somebody else
    asked = ["--source", "**/*.mp4", *drawn, "--record", "--output"]
    assert main([*asked, output]) == 0
    (tmp_path / output / "under_way.annotated.part.mp4").write_bytes(b"moov")
    before = _files(tmp_path)
    capsys.readouterr()
    assert main([*asked, output, "--resume"]) == 0
    assert _files(tmp_path) == before
    assert "4 of 4 done before" in capsys.readouterr().out
    written = tmp_path / output / "set/a/*.mp4"
    assert main(["--source", str(written), *OPTIONS, "--output", output]) == 0  # where nothing else is meant
    assert "4 of 4 done" in capsys.readouterr().out


def test_of_two_sets_in_a_folder_the_one_that_fits_is_gone_on_with(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _run(clips, out) == 0
    assert _run(clips, out, "--stride", "2") == 0  # as one-2 and so on
    before = _files(out)
    assert len(before) == 4 * len(NAMES)
    for options in ((), ("--stride", "2")):
        assert _run(clips, out, "--resume", *options) == 0
        assert _files(out) == before
    assert _run(clips, out, "--resume", "--stride", "3") == 2
    (out / "a/one.skeletons.jsonl").unlink()
    (out / "a/one-2.skeletons.jsonl").unlink()
    assert _run(clips, out, "--resume", "--stride", "2") == 0
    assert before.keys() - _files(out).keys() == {"a/one.skeletons.jsonl"}


def test_what_a_run_of_one_file_is_at_work_on_is_left_to_it(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def resume() -> None:
        assert _run(clips, out, "--resume") == 0

    _at_frame_5(monkeypatch, resume)
    assert main(["--source", str(clips / "a/one.mp4"), "--output", str(out / "a"), *OPTIONS]) == 0
    assert "2 of 3 done; 1 left to another run: " in capsys.readouterr().out
    assert StreamReader(out / "a/one.skeletons.jsonl").ending()[0] == "complete"
    assert _frames(out / "a/one.skeletons.jsonl") == _frames(out / "a/two.skeletons.jsonl")


def test_a_loop_of_links_is_gone_through_once(clips: Path, tmp_path: Path) -> None:
    try:
        for name in ("here", "again"):
            (clips / f"a/{name}").symlink_to(clips, target_is_directory=True)
    except OSError:
        pytest.skip("Windows wants to be asked for links")
    assert _run(clips, tmp_path / "out") == 0
    assert {name for name in _names(tmp_path / "out") if name.endswith(".json")} == {
        f"{name}.summary.json" for name in NAMES
    }
    assert main(["validate", f"{tmp_path}/out/**/*.skeletons.jsonl"]) == 0


def test_what_has_no_end_is_refused(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = str(clips / "a/one.mp4"), str(clips / "a/two.mp4")
    for wrong, says in {
        ("--source", "webcam"): "--resume is for files; leave it out",
        ("--source", "-"): "--resume is for files; leave it out",
        ("--source", one, "--realtime"): "--resume is for files; leave it out",
        ("--source", one, "--source", two): "these sources are read at once",
        ("--source", one, "--overwrite"): "leave out one of them",
    }.items():
        assert main([*wrong, "--output", str(tmp_path / "out"), *OPTIONS, "--resume"]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_that_cannot_be_read_is_tried_again(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, good = tmp_path / "out", (clips / "a/two.mp4").read_bytes()
    (clips / "a/two.mp4").write_bytes(good[:1000])
    for _ in range(2):
        assert _run(clips, out, "--resume") == 2
    assert caplog.text.count("continuing with the next one") == 2
    (clips / "a/two.mp4").write_bytes(good)
    assert _run(clips, out, "--resume") == 0
    assert {name for name in _files(out) if name.endswith(".skeletons.jsonl")} == {
        f"{n}.skeletons.jsonl" for n in NAMES
    }


class TestEarlierResults:
    def test_names_mean_what_they_mean_from_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        record = {"source": "set/one.mp4", "status": "complete", "config": {"offline": True}}
        (tmp_path / "one.summary.json").write_text(json.dumps(record))
        found = EarlierResults(tmp_path)
        for same in ("set/one.mp4", "./set/one.mp4", "set/../set/one.mp4", str(tmp_path / "set/one.mp4")):
            (one,) = found.of(same)
            assert (one.stem, one.status, one.config) == ("one", "complete", {"offline": True})
        assert found.of("one.mp4") == found.of("https://host/set/one.mp4") == []
        with contextlib.suppress(OSError):  # Windows wants to be asked for links
            (tmp_path / "set").mkdir()
            (tmp_path / "link").symlink_to("set")
            (tmp_path / "set/other.mp4").symlink_to("one.mp4")
            assert [one.stem for one in found.of("link/one.mp4")] == ["one"]
            assert [one.stem for one in found.of("link/one.mp4/")] == ["one"]  # as a folder of pictures may be given
            assert found.of("set/other.mp4") == []  # which has results of its own

    def test_what_is_said_of_place_and_size_may_be_anything(self, tmp_path: Path) -> None:
        record = {"source": "/one.mp4", "status": "complete", "config": {}, "place": [1], "stored": [2]}
        (tmp_path / "one.summary.json").write_text(json.dumps(record))
        assert [one.stem for one in EarlierResults(tmp_path).of("/one.mp4")] == ["one"]

    def test_a_place_is_the_same_by_all_ways(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("set", "out/deep", "moved/set", "moved/out/deep"):
            (tmp_path / name).mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        place = place_beside("out/deep", "set/one.mp4")
        assert place == place_beside(tmp_path / "out/deep/", str(tmp_path / "set/../set/one.mp4"))
        assert place == place_beside("moved/out/deep", "moved/set/one.mp4")
        others = {place_beside("out", "set/one.mp4"), place_beside("out/deep", "set/two.mp4")}
        addresses = {place_beside(folder, "https://host/set/one.mp4") for folder in ("out", "out/deep")}
        assert len({place} | others | addresses) == 4
        assert "set" not in place

    def test_a_complete_one_comes_first(self, tmp_path: Path) -> None:
        for name, status in (("one", "interrupted"), ("one-2", "complete"), ("one-3", "error")):
            record = {"source": "/one.mp4", "status": status, "config": {}}
            (tmp_path / f"{name}.summary.json").write_text(json.dumps(record))
        found = EarlierResults(tmp_path)
        assert [one.stem for one in found.of("/one.mp4")] == ["one-2", "one", "one-3"]

    def test_what_changes_is_read_again(self, tmp_path: Path) -> None:
        found = EarlierResults(tmp_path / "later")
        assert found.of("/one.mp4") == []
        (tmp_path / "later").mkdir()
        for status in ("interrupted", "complete"):
            record = {"source": "/one.mp4", "status": status, "config": {}}
            (tmp_path / "later/one.summary.json").write_text(json.dumps(record))
            found.look()
            assert [one.status for one in found.of("/one.mp4")] == [status]

    @given(
        content=st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b"{}", b"[]", b"null", b'{"source": 1}', b'{"place": []}']),
            st.sampled_from([b'"folder": 1', b'"files": 1', b'"parts": [1]', b'"parts": [{}]', b'"config": 1']).map(
                lambda wrong: b'{"source": "/one.mp4", "status": "complete", "config": {}, %s}' % wrong
            ),
        )
    )
    def test_whatever_else_has_such_a_name_is_passed_over(
        self, content: bytes, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("other")
        (folder / "one.summary.json").write_bytes(content)
        (folder / "two.skeletons.jsonl").write_bytes(content)
        (folder / "three.summary.json").mkdir()
        assert EarlierResults(folder).of("/one.mp4") == []
