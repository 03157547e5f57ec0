"""Tests everything that a run needs and reports what works, one line each. Downloads nothing.

The exit status is 0 if `sharpose-rt track` can run with its defaults, otherwise 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpose_rt.errors import SharposeError, library_report
from sharpose_rt.machine.paths import exists

if TYPE_CHECKING:
    from sharpose_rt.config import PoseConfig

HELP = "check what is installed and works: torch, CUDA, codecs, detector, weights, camera, window"

_WINDOW_TIMEOUT_S = 15.0
_PUBLISHING = "--publish ws://, zmq+tcp:// and mqtt://", ("websockets", "zmq", "paho.mqtt")


@dataclass(frozen=True)
class Check:
    """One line: `status` is 'ok', 'absent' or 'broken'; no run is possible without a `required` one."""

    name: str
    status: str
    detail: str
    advice: str = ""
    required: bool = False


Finding = tuple[str, str, str]
"""Status, detail, advice."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--output", default="sharpose_out", metavar="DIR", help="folder for the results of a run")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints every check; returns 0 if everything required works."""
    checks = []
    for name, probe, required in probes(Path(args.output)):
        check = examine(name, probe, required)
        checks.append(check)
        if not args.json:
            _print_line(check)
    ready = all(check.status == "ok" for check in checks if check.required)
    if args.json:
        print(json.dumps({"ready": ready, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        print("\nReady: try `sharpose-rt demo`." if ready else "\nNot ready: a required line above is not ok.")
    return 0 if ready else 1


def probes(output: Path) -> list[tuple[str, Callable[[], Finding], bool]]:
    """Name, probe and whether a run requires it, in the order in which they are run."""
    return [
        ("python", check_python, True),
        ("torch", check_torch, True),
        ("cuda", check_cuda, False),
        ("openvino", check_openvino, False),
        ("opencv", check_opencv, True),
        ("video encoder", check_encoder, True),
        ("video decoders", check_decoders, True),
        ("ultralytics", check_ultralytics, False),
        ("detector", check_detector, True),
        ("weights", check_weights, True),
        ("pose network", check_network, True),
        ("camera", check_cameras, False),
        ("window", check_window, False),
        ("browser view", lambda: check_extra("serve", "--serve", ("starlette", "uvicorn", "websockets")), False),
        ("publishing", lambda: check_extra("publish", *_PUBLISHING), False),
        ("screen", lambda: check_extra("screen", "--source screen", ("mss",)), False),
        ("onnx", lambda: check_extra("onnx", "weights onnx", ("onnx", "onnxscript", "onnxruntime")), False),
        ("parquet", lambda: check_extra("parquet", "convert --to parquet", ("pyarrow",)), False),
        ("training", lambda: check_extra("train", "train and eval", ("pycocotools",)), False),
        ("output folder", lambda: check_output(output), True),
    ]


def examine(name: str, probe: Callable[[], Finding], required: bool) -> Check:
    """The result of a probe; whatever it raises or prints goes no further."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            status, detail, advice = probe()
    except ImportError as error:
        status, detail, advice = "absent", _one_line(error), library_report(error) or "install sharpose-rt again"
    except SharposeError as error:  # its message says what to do
        status, detail, advice = "broken", _one_line(error), ""
    except Exception as error:  # one broken probe must not stop the others
        status, detail, advice = "broken", f"{type(error).__name__}: {_one_line(error)}", "install the package again"
    return Check(name, status, detail, advice, required)


def _print_line(check: Check) -> None:
    mark = " (required)" if check.required and check.status != "ok" else ""
    advice = f"\n{'':23}-> {check.advice}" if check.advice else ""
    print(f"{check.status:<7} {check.name:<14} {check.detail}{mark}{advice}", flush=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_python() -> Finding:
    """Versions of Python and of this package."""
    system = f"Python {platform.python_version()}, {platform.platform(terse=True)}"
    try:
        return "ok", f"sharpose-rt {metadata.version('sharpose-rt')}, {system}", ""
    except metadata.PackageNotFoundError:
        return "ok", f"sharpose-rt from a checkout, not installed; {system}", ""


def check_torch() -> Finding:
    """Multiplies matrices on the CPU, and reports the fastest precision there."""
    import torch

    from sharpose_rt.engine import resolve_precision

    ones = torch.ones(16, 16)
    if float((ones @ ones).sum()) != 4096:
        return "broken", f"{torch.__version__} multiplies wrongly", "pip install --force-reinstall torch"
    precision = str(resolve_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return "ok", f"{torch.__version__}, CPU {capability}, {threads} threads, {precision} on the CPU", ""


def check_cuda() -> Finding:
    """Multiplies small matrices on each CUDA device."""
    import torch

    from sharpose_rt.engine.device import cuda_problem

    if not torch.cuda.is_available():
        problem = str(cuda_problem())
        if _nvidia_driver():
            return "broken", f"there is an NVIDIA driver, but {problem}", "install the CUDA build from pytorch.org"
        return "absent", f"{problem}; the CPU is used", ""
    names = []
    for index in range(torch.cuda.device_count()):
        problem = cuda_problem(index)
        if problem is not None:
            return (
                "broken",
                f"cuda:{index}: {problem}",
                "update the NVIDIA driver, or install a torch build that matches it",
            )
        memory_gib = torch.cuda.get_device_properties(index).total_memory / 2**30
        names.append(f"cuda:{index} {torch.cuda.get_device_name(index)}, {memory_gib:.0f} GiB")
    return "ok", f"{'; '.join(names)}; CUDA {torch.version.cuda}", ""


def _nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path(r"C:\Windows\System32\nvcuda.dll").exists()


def check_openvino() -> Finding:
    """Compiles and runs a tiny graph on OpenVINO's CPU device."""
    import numpy as np

    try:
        ov: Any = importlib.import_module("openvino")
        ops: Any = importlib.import_module("openvino.opset13")
    except ImportError:
        return ("absent", "optional: not installed", "pip install 'sharpose-rt[cpu]' is faster on a CPU")
    data = ops.parameter([2], np.float32)
    core = ov.Core()
    compiled = core.compile_model(ov.Model([ops.add(data, ops.constant(np.ones(2, np.float32)))], [data]), "CPU")
    if compiled([np.ones(2, np.float32)])[0].tolist() != [2, 2]:
        return "broken", "optional: it adds wrongly", "pip install --force-reinstall openvino"
    return "ok", f"optional: {ov.__version__.split('-')[0]}, devices {', '.join(core.available_devices)}", ""


def check_opencv() -> Finding:
    """Warps a picture, and checks that only one OpenCV package is installed: two overwrite each other's files."""
    import cv2
    import numpy as np

    cv2.warpAffine(np.zeros((8, 8, 3), np.uint8), np.eye(2, 3), (4, 4))
    packages = {"opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"}
    names = {(d.metadata["Name"] or "").lower() for d in metadata.distributions()} & packages
    if len(names) > 1:
        return "broken", f"{' and '.join(sorted(names))} are both installed", "uninstall both, install opencv-python"
    return "ok", f"{cv2.__version__}, {cv2.getNumThreads()} threads", ""


def check_encoder() -> Finding:
    """Encodes ten frames with x264 into an mp4 in memory, and decodes them."""
    import av

    try:
        count = _round_trip("libx264")
    except (ValueError, OSError) as error:
        detail = f"H.264 cannot be written ({_one_line(error)})"
        return "broken", detail, "pip install --force-reinstall av (its wheels bring x264)"
    if count != 10:
        return "broken", f"10 frames were encoded in H.264, {count} were decoded", "pip install --force-reinstall av"
    return "ok", f"PyAV {av.__version__}: H.264 written and read back", ""


def _round_trip(encoder: str) -> int:
    """How many of ten frames can be decoded after encoding them into an mp4 in memory."""
    import av
    import numpy as np

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream: Any = out.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for i in range(10):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((128, 128, 3), 20 * i, np.uint8), format="bgr24")))
        out.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        return sum(1 for _ in container.decode(video=0))


# Format, its decoders in order of preference, and the encoder for a sample. FFmpeg's own `av1` decoder only works with
# hardware, so its presence says nothing.
_DECODERS = (
    ("H.264", ("h264",), "libx264"),
    ("HEVC", ("hevc",), "libx265"),
    ("VP9", ("vp9", "libvpx-vp9"), "libvpx-vp9"),
    ("AV1", ("libdav1d", "libaom-av1"), "libsvtav1"),
)


def check_decoders() -> Finding:
    """Decodes a sample of each format if this build can encode one; otherwise checks that the decoder is present."""
    works, present, missing = [], [], []
    with _quiet_libraries():
        for name, decoders, encoder in _DECODERS:
            if not any(_codec(decoder, "r") for decoder in decoders):
                missing.append(name)
            elif not _codec(encoder, "w"):
                present.append(name)
            else:
                (works if _decodes(encoder) else missing).append(name)
    detail = f"decoded {', '.join(works) or 'nothing'}"
    detail += f"; present, not tried: {', '.join(present)}" if present else ""
    if "H.264" in missing:
        return "broken", f"{detail}; no {', '.join(missing)}", "pip install --force-reinstall av"
    if missing:
        return "ok", f"{detail}; no {', '.join(missing)}", "convert such videos first, for example with ffmpeg"
    return "ok", detail, ""


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Discards what x265 and SVT-AV1 write directly to the standard error of the process."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (no path)
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _decodes(encoder: str) -> bool:
    try:
        return _round_trip(encoder) == 10
    except (ValueError, OSError):
        return False


def _codec(name: str, mode: Any) -> bool:
    from av.codec import Codec

    try:
        Codec(name, mode)
    except ValueError:
        return False
    return True


def check_ultralytics() -> Finding:
    """Imports ultralytics, and checks whether the model that `--detector auto` prefers is available."""
    from sharpose_rt.detection.assets import cache_dir, find_model, import_ultralytics
    from sharpose_rt.detection.factory import DEFAULT_MODEL
    from sharpose_rt.errors import DetectorError

    version = import_ultralytics().__version__
    try:
        return "ok", f"{version}; {find_model(DEFAULT_MODEL, offline=True)}", ""
    except DetectorError:
        place = cache_dir() / "models"
        detail = f"{version}; {DEFAULT_MODEL} is not here"
        return "ok", detail, f"the first run downloads it to {place}; without a network connection, copy it there"


def check_detector() -> Finding:
    """Runs the bundled detector on an empty picture, as a run would."""
    import numpy as np

    from sharpose_rt.config import DetectorConfig
    from sharpose_rt.detection import Runtime, create_detector
    from sharpose_rt.engine import choose, resolve_device
    from sharpose_rt.types import Frame

    pose = choose(_default_pose())
    device, runtime = str(resolve_device(pose.device)), Runtime.beside(pose)
    detector = create_detector(DetectorConfig(name="bundled"), device=device, offline=True, runtime=runtime)
    detector.open()
    try:
        detector.detect(Frame(0, 0.0, np.full((480, 640, 3), 127, np.uint8)))
        detail = f"'{detector.name}' ran on {device} by {runtime.backend}"
        return "ok", f"{detail}; it is used if no ultralytics model is available", ""
    finally:
        detector.close()


def check_weights() -> Finding:
    """Checks the hash of all included weights, and that the default model has some."""
    from sharpose_rt.config import PoseConfig
    from sharpose_rt.models.weights import BUNDLED, file_sha256

    model, found, damaged = PoseConfig().model, [], []
    for path in sorted(BUNDLED.glob("*.safetensors")):
        card, sha256 = path.with_suffix(".json"), file_sha256(path)
        shipped = json.loads(card.read_text(encoding="utf-8"))["sha256"] if card.is_file() else ""
        (found if sha256 == shipped else damaged).append(f"{path.stem} sha256 {sha256[:12]}")
    if damaged:
        return "broken", f"damaged: {'; '.join(damaged)}", "install sharpose-rt again"
    if not (BUNDLED / f"{model}.safetensors").is_file():
        detail = f"none are included for the default model {model}" + (f"; {'; '.join(found)}" if found else "")
        return "absent", detail, "give --weights FILE; `sharpose-rt weights import` converts a released checkpoint"
    return "ok", "; ".join(found), ""


def check_network() -> Finding:
    """Runs one crop through both stages of the default network, on the device and in the precision of a run."""
    import numpy as np

    from sharpose_rt.engine import PoseEngine

    config = _default_pose()
    model, shipped = config.model, config.weights == "auto"
    engine = PoseEngine(replace(config, quality_threshold=float("inf")))
    result = engine.estimate_crops(np.zeros((1, *engine.crop_size_hw, 3), np.uint8))
    where = f"{engine.device} in {str(engine.dtype).removeprefix('torch.')} by {engine.backend.name}"
    if not np.isfinite(result.keypoints).all():
        return "broken", f"{model} on {where} returned values that are not finite", "try --precision fp32"
    return "ok", f"{model} ran on {where}" + ("" if shipped else ", with random weights"), ""


def _default_pose() -> PoseConfig:
    """The pose network of a run without options; with random weights if none are included for it."""
    from sharpose_rt.config import PoseConfig
    from sharpose_rt.models.weights import BUNDLED

    config = PoseConfig()
    return config if (BUNDLED / f"{config.model}.safetensors").is_file() else replace(config, weights="random")


def check_cameras() -> Finding:
    """Lists cameras that can capture video; none is opened for reading, which could block."""
    if not sys.platform.startswith("linux"):
        return "absent", f"not checked on {sys.platform}, where that would switch it on", "try --source webcam"
    nodes = sorted(Path("/dev").glob("video*"))
    if not nodes:
        return (
            "absent",
            "no /dev/video*",
            "connect a camera for --source webcam; in a container, pass its device through",
        )
    cameras, refused = [], []
    for node in nodes:
        try:
            name = _v4l2_name(node)
        except PermissionError:
            refused.append(str(node))
        except OSError:
            continue
        else:
            cameras += [f"{node} {name}"] if name else []
    if cameras:
        return "ok", "; ".join(cameras), ""
    if refused:
        return "broken", f"no permission for {', '.join(refused)}", "add yourself to the group `video`, log in again"
    return "absent", f"{', '.join(map(str, nodes))} capture no video", "connect a camera for --source webcam"


def _v4l2_name(node: Path) -> str | None:
    """The camera's name, or None where the node captures no video (VIDIOC_QUERYCAP of Linux's videodev2.h)."""
    import fcntl
    import struct

    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = fcntl.ioctl(fd, 0x80685600, bytes(104))
    finally:
        os.close(fd)
    card, device_caps = answer[16:48], struct.unpack_from("=I", answer, 88)[0]
    captures = device_caps & 0x1001  # single- or multi-planar capture
    return card.split(b"\0")[0].decode("utf-8", "replace") if captures else None


def check_window() -> Finding:
    """A window opened and closed in a process of its own: OpenCV ends the process where there is no display."""
    import cv2

    gui = next((line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")), "")
    if "NONE" in gui:
        return "absent", "this OpenCV is built without windows", "pip install opencv-python, without -headless"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "absent", "no display (DISPLAY and WAYLAND_DISPLAY are not set)", "only --show needs one"
    code = "import cv2; cv2.namedWindow('sharpose-rt'); cv2.waitKey(1); cv2.destroyAllWindows()"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=_WINDOW_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return "broken", f"a window did not open within {_WINDOW_TIMEOUT_S:g} s", "--show cannot be used here"
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
        return "broken", f"a window cannot be opened: {said[-1][:200]}", "--show cannot be used here"
    return "ok", "a window was opened and closed", ""


def check_extra(extra: str, what: str, modules: Sequence[str]) -> Finding:
    """Checks that the packages of an extra can be imported."""
    missing = []
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        advice = f"pip install 'sharpose-rt[{extra}]' for {what}"
        return "absent", f"optional: {', '.join(missing)} not installed", advice
    return "ok", f"optional: {', '.join(modules)}", ""


def check_output(folder: Path) -> Finding:
    """Writes a file to the folder for results, or where that would be created, and checks the free space."""
    import shutil

    place = folder.absolute()
    while not exists(place):
        if place == place.parent:  # a drive of Windows
            return "broken", f"{folder}: there is no {place}", "choose an --output on a drive that exists"
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".sharpose-") as file:
            file.write(b"x")
    except OSError as error:
        return "broken", f"{folder}: {error.strerror or error}", "choose an --output that you may write to"
    free_gib = shutil.disk_usage(place).free / 2**30
    advice = "free some space before long videos" if free_gib < 1 else ""
    return "ok", f"{folder.absolute()} is writable, {free_gib:.1f} GiB free", advice
