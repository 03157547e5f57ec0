"""Compares with other packages on the same frames and boxes of people, each in a separate environment."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.bench.model import take_turns
from sharpose_rt.bench.record import machine, make_record, percentiles
from sharpose_rt.config import DetectorConfig, PoseConfig
from sharpose_rt.engine.choice import choose
from sharpose_rt.errors import ConfigError
from sharpose_rt.machine.cache import cache_dir
from sharpose_rt.media import open_source
from sharpose_rt.media.redact import redact
from sharpose_rt.types import Frame

SCRIPTS = Path(__file__).parent / "peers"
_OURS = (str(Path(__file__).resolve().parents[2]), sysconfig.get_path("purelib"))
INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 900.0, 600.0
ROUNDS = 3
"""Turns of each peer, so that other load on the machine affects all peers alike and shows as their spread."""


@dataclass(frozen=True)
class Peer:
    """One package in the comparison.

    Args:
        script: in `SCRIPTS`, or a path.
        packages: those that its environment needs from the registry; none: it runs in ours.
        what: what exactly is measured, for the report.
        with_ours: its program also needs our packages, such as torch to make a network of the same size.
    """

    script: str
    packages: tuple[str, ...]
    what: str
    with_ours: bool = False


PEERS = {
    "ours": Peer("ours.py", (), "all boxes in one batch, both stages as the gate decides"),
    "dense-loop": Peer("dense_loop.py", (), "dense ViT of the same width, person by person, torch fp32"),
    "mediapipe": Peer(
        "mediapipe_pose.py",
        ("mediapipe<0.10.22",),
        "Pose, complexity 1, once for each box, in which it searches for a person itself",
    ),
    "rtmlib": Peer(
        "rtmlib_onnx.py",
        ("rtmlib==0.0.15", "onnxruntime", "onnx"),
        "RTMPose class on ONNX Runtime, person by person; a dense network of the same size with random weights",
        with_ours=True,
    ),
    "ultralytics": Peer(
        "ultralytics_pose.py", (), "yolo11n-pose at 640 px over the whole frame, random weights, torch"
    ),
}


@dataclass(frozen=True)
class PeerBench:
    """What is measured.

    Args:
        source: a video.
        peers: names of `PEERS`.
        frames: number of frames from the start of the clip.
        people: number of boxes in every frame, with shifted copies if fewer were found; None: those found.
        pose: our network; its variant also sets the size of the other networks.
        detector: finds the boxes, or names a file of boxes.
    """

    source: str
    peers: tuple[str, ...] = tuple(PEERS)
    frames: int = 40
    people: int | None = None
    pose: PoseConfig = field(default_factory=PoseConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    offline: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.peers if name not in PEERS]
        if unknown:
            raise ConfigError(f"no peer {unknown[0]!r}; one of {', '.join(PEERS)} is accepted")
        if self.frames < 1:
            raise ConfigError(f"--frames is {self.frames}; 1 or more is accepted")
        if self.people is not None and self.people < 1:
            raise ConfigError(f"--people is {self.people}; numbers from 1 are accepted")


def run_peer_bench(bench: PeerBench, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The record (see `bench.record`) of all peers on the same frames and boxes; `say` is called with what comes next.

    A row is one peer: `fps` (median over the rounds), `latency_ms` of a frame's poses, `people_mean`, and `ratio` of
    its rate to ours within a round (`median`, `least`, `most`; None if ours did not run); or `error`: why it could not
    be run.

    Raises:
        SharposeError: the clip or the detector cannot be used.
        ConfigError: there is nobody in the frames.
    """
    began = machine()
    device = "cpu" if bench.pose.device == "auto" else bench.pose.device  # the others run on the CPU
    bench = replace(bench, pose=choose(replace(bench.pose, device=device)))
    frames, boxes = frames_and_boxes(bench)
    if not any(map(len, boxes)):
        raise ConfigError(
            f"detector {bench.detector.name} finds nobody in {len(frames)} frames of {redact(bench.source)}, so there "
            "is nothing to measure; use --people N for N boxes in each frame, or another clip"
        )
    with tempfile.TemporaryDirectory(prefix="sharpose_peers_") as folder:
        job = write_job(Path(folder), bench, frames, boxes)

        def turn(name: str) -> dict[str, Any]:
            say(f"{name}: {PEERS[name].what}")
            return run_peer(PEERS[name], name, job, bench.offline)

        turns = {name: [turn(name)] for name in bench.peers}
        runs = {name: partial(turn, name) for name, (first,) in turns.items() if first["error"] is None}
        for name, more in take_turns(runs, ROUNDS - 1).items():
            turns[name] += more
    ours = turns.get("ours", [])
    rows = [{"peer": name, "what": PEERS[name].what, **_figures(turns[name], ours)} for name in bench.peers]
    settings = {
        "source": Path(redact(bench.source)).name,
        "size_wh": [frames.shape[2], frames.shape[1]],
        "frames": len(frames),
        "rounds": ROUNDS,
        "boxes_mean": float(np.mean([len(rows) for rows in boxes])),
        "model": bench.pose.model,
        "ours": f"{bench.pose.backend}, {bench.pose.precision}, {bench.pose.device}",
        "detector": bench.detector.name,
    }
    return make_record("peers", settings, rows, began)


def frames_and_boxes(bench: PeerBench) -> tuple[NDArray[np.uint8], list[NDArray[np.float32]]]:
    """The first frames (N, H, W, 3) of the clip and the boxes of each (n, 4) xyxy px, as the detector finds them."""
    from sharpose_rt.detection import create_detector

    detector = create_detector(bench.detector, offline=bench.offline)
    detector.open()
    try:
        with open_source(bench.source) as source:
            frames: list[Frame] = []
            for frame in source:
                frames.append(frame)
                if len(frames) == bench.frames:
                    break
        boxes = [detector.detect(frame).bboxes_xyxy for frame in frames]
    finally:
        detector.close()
    if bench.people is not None:
        boxes = [_exactly(rows, bench.people, frame.size_wh) for rows, frame in zip(boxes, frames, strict=True)]
    return np.stack([frame.image_bgr for frame in frames]), boxes


def _exactly(boxes: NDArray[np.float32], people: int, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """`people` boxes: those found and shifted copies; if nobody was found, boxes in the middle of the frame."""
    if len(boxes) == 0:
        w, h = size_wh
        boxes = np.array([[0.4 * w, 0.2 * h, 0.6 * w, 0.9 * h]], np.float32)
    laps = np.arange(people) // len(boxes)
    return boxes[np.arange(people) % len(boxes)] + 4 * laps[:, None].astype(np.float32)


def write_job(folder: Path, bench: PeerBench, frames: NDArray[np.uint8], boxes: Sequence[NDArray[np.float32]]) -> Path:
    """Writes all that a peer's program reads; returns the folder."""
    job = {"boxes": [rows.tolist() for rows in boxes], "pose": asdict(bench.pose)}
    np.save(folder / "frames.npy", frames)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder


def run_peer(peer: Peer, name: str, job: Path, offline: bool) -> dict[str, Any]:
    """One turn of a peer: `seconds` and `people` of each frame, and `error` None; or {'error': why there are none}."""
    result = job / "result.json"
    result.unlink(missing_ok=True)
    try:
        python = environment(name, peer.packages, offline) if peer.packages else Path(sys.executable)
        ours = not peer.packages or peer.with_ours
        _call([str(python), str(SCRIPTS / peer.script), str(job)], RUN_TIMEOUT_S, _OURS if ours else ())
        return {**json.loads(result.read_text(encoding="utf-8")), "error": None}
    except (OSError, ValueError, subprocess.SubprocessError, RuntimeError) as error:
        return {"error": str(error)}


def _figures(turns: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A peer's figures from all its turns, and relative to those of `ours` in the same rounds."""
    failed = next((turn["error"] for turn in turns if turn["error"] is not None), None)
    if failed is not None:
        return {"fps": None, "latency_ms": None, "people_mean": None, "ratio": None, "error": failed}
    rates = [_rate(turn) for turn in turns]
    people = [count for turn in turns for count in turn["people"] if count is not None]
    ratio = None
    if ours and all(turn["error"] is None for turn in ours):
        ratios = [rate / _rate(turn) for rate, turn in zip(rates, ours, strict=True)]
        ratio = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return {
        "fps": statistics.median(rates),
        "latency_ms": percentiles([seconds for turn in turns for seconds in turn["seconds"]], 50, 95, scale=1e3),
        "people_mean": float(np.mean(people)) if people else None,
        "ratio": ratio,
        "error": None,
    }


def _rate(turn: Mapping[str, Any]) -> float:
    """Frames per second."""
    return len(turn["seconds"]) / sum(turn["seconds"])


def environment(name: str, packages: Sequence[str], offline: bool = False) -> Path:
    """The Python of a peer's environment in the user's cache, created if missing.

    Raises:
        RuntimeError: it cannot be created; with pip's message.
    """
    folder = cache_dir() / "peers" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / "installed.txt"
    if done.is_file() and done.read_text(encoding="utf-8").split() == list(packages):
        return python
    if offline:
        raise RuntimeError("its environment does not exist yet, and --offline forbids creating it")
    _call([sys.executable, "-m", "venv", "--clear", str(folder)], INSTALL_TIMEOUT_S)
    _call([str(python), "-m", "pip", "install", "--quiet", "numpy", *packages], INSTALL_TIMEOUT_S)
    done.write_text("\n".join(packages), encoding="utf-8")
    return python


def _call(command: Sequence[str], timeout_s: float, paths: Sequence[str] = ()) -> None:
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=variables)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"it did not end within {timeout_s:g} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1].strip()[:300])
