"""The options of a run, shared by all commands that run something, and the configuration made from them."""

from __future__ import annotations

import argparse
from typing import Any

from sharpose_rt.commands.taps import add_tap_arguments
from sharpose_rt.config import RunConfig, load
from sharpose_rt.config.schema import HWACCELS
from sharpose_rt.errors import ConfigError

# Options of the command line and the configuration key, or keys, that each sets. The keys of --hide-faces and
# --skeletons-only say what is drawn, so giving these options sets them to False.
KEYS = {
    "output": "output.directory",
    "overwrite": "output.overwrite",
    "record": "output.record",
    "split": "output.split_s",
    "format": "output.formats",
    "option": "output.format_options",
    "person_slots": "output.person_slots",
    "fill": "output.fill",
    "model": "pose.model",
    "weights": "pose.weights",
    "behaviour": "pose.behaviour",
    "quality_threshold": "pose.quality_threshold",
    "refine_from_px": "pose.refine_from_px",
    "refine_from_gain": "pose.refine_from_gain",
    "refine_every": "pose.refine_every",
    "region": "detector.region",
    "rotate": "source.rotate",
    "filmed_fps": "source.filmed_fps",
    "skeletons_only": "draw.picture",
    "hide_faces": "draw.faces",
    "flip_test": "pose.flip_test",
    "device": "pose.device",
    "backend": "pose.backend",
    "precision": "pose.precision",
    "detector": "detector.name",
    "boxes": "detector.name",
    "detector_size": "detector.image_size",
    "min_person_score": "detector.score_threshold tracker.high_score",
    "detect_every": "detector.every",
    "detect_every_if_sure": "detector.every_if_sure",
    "tracker": "tracker.name",
    "smooth": "smooth.method",
    "start": "source.start_s",
    "end": "source.end_s",
    "stride": "source.stride",
    "max_frames": "source.max_frames",
    "rtsp_transport": "source.rtsp_transport",
    "tls": "source.tls",
    "hwaccel": "source.hwaccel",
    "camera_size": "source.camera_size_wh",
    "camera_fps": "source.camera_fps",
    "camera_format": "source.camera_format",
    "realtime": "source.realtime",
    "latency_budget_ms": "budget.latency_ms",
    "target_fps": "budget.target_fps",
    "open_timeout": "source.open_timeout_s",
    "read_timeout": "source.read_timeout_s",
    "reconnect": "source.reconnect_s",
    "offline": "offline",
}


def add_output_arguments(parser: argparse.ArgumentParser) -> Any:
    """Adds the options for what is written and shown; returns the group, so that more can be added."""
    out = parser.add_argument_group("output")
    out.add_argument("--output", metavar="DIR", help="folder for the results (default: sharpose_out)")
    out.add_argument("--no-video", action="store_true", help="write no annotated video")
    out.add_argument(
        "--format",
        type=_names,
        metavar="A,B",
        help="also write the skeletons as openpose, alphapose, coco, coco_labels, kinetics, pyskl, mot, csv, parquet, "
        "trc or deeplabcut",
    )
    out.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        help="an option of --format, such as min_score=0.3; `convert --help` lists them",
    )
    out.add_argument("--person-slots", type=int, metavar="N", help="number of people for --format pyskl, kinetics")
    out.add_argument(
        "--fill", choices=("none", "hold", "linear"), help="how gaps in a track are filled for --format pyskl"
    )
    out.add_argument("--overwrite", action="store_true", default=None, help="replace the results of an earlier run")
    out.add_argument(
        "--skeletons-only",
        action="store_false",
        default=None,
        help="draw on black, so that video, window and browser show no faces",
    )
    out.add_argument(
        "--hide-faces",
        action="store_false",
        default=None,
        help="pixelate the heads of everybody found: in video, window and browser",
    )
    out.add_argument("--show", action="store_true", help="show the annotated frames in a window; q ends the run")
    out.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    return out


def add_config_arguments(parser: argparse.ArgumentParser) -> Any:
    """Adds presets and single options; returns the group, so that more can be added."""
    general = parser.add_argument_group("configuration")
    general.add_argument("--config", metavar="FILE|NAME", help="a preset (file, live) or a YAML file")
    general.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set any option, for example smooth.hold_s=0.5"
    )
    return general


def add_part_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds which part of the source is used, and how its pictures are read."""
    part = parser.add_argument_group("part of the source")
    part.add_argument("--start", type=float, metavar="S", help="start at this media time, in seconds")
    part.add_argument("--end", type=float, metavar="S", help="end at this media time, in seconds")
    part.add_argument("--stride", type=int, metavar="N", help="use every n-th frame")
    part.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    part.add_argument(
        "--filmed-fps",
        type=float,
        metavar="F",
        help="slow motion: the frame rate at which it was filmed, if stored at another; times are then the scene's",
    )
    part.add_argument(
        "--rotate",
        type=int,
        choices=(0, 90, 180, 270),
        help="turn the picture clockwise; coordinates refer to the turned picture",
    )
    part.add_argument("--hwaccel", metavar="KIND", help=f"decode video in hardware: none, auto, {', '.join(HWACCELS)}")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `track`, except for the source."""
    out = add_output_arguments(parser)
    out.add_argument(
        "--split",
        type=float,
        metavar="SECONDS",
        help="start new files after this many seconds; for a live source at multiples of it on the clock",
    )
    out.add_argument(
        "--record",
        action="store_true",
        default=None,
        help="also keep the original pictures, in a separate video",
    )

    pose = parser.add_argument_group("pose network")
    pose.add_argument(
        "--model",
        help="a variant (`sharpose-rt models` lists them), or the .onnx or .xml file of another top-down network",
    )
    pose.add_argument("--weights", metavar="FILE", help="auto, a .safetensors or released .pth file, or random")
    pose.add_argument(
        "--behaviour", choices=("auto", "paper", "released"), help="as in the paper, or in the released code"
    )
    pose.add_argument(
        "--quality-threshold",
        type=_number,
        metavar="Q",
        help="refine people of lower predicted quality (inf: all)",
    )
    pose.add_argument("--refine-from-px", type=float, metavar="PX", help="do not refine people less tall than this")
    pose.add_argument(
        "--refine-from-gain",
        type=float,
        metavar="AP",
        help="do not refine people for whom refinement is predicted to add less AP than this, such as 0.05",
    )
    pose.add_argument(
        "--refine-every",
        type=int,
        metavar="N",
        help="refine people who move as expected only on every N-th frame, and apply the last correction in between",
    )
    pose.add_argument("--flip-test", action="store_true", default=None, help="average with the mirrored crop")
    pose.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    pose.add_argument("--backend", choices=("auto", "torch", "openvino"), help="what runs the networks on a CPU")
    pose.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16", "int8"), help="number format of the network"
    )

    people = parser.add_argument_group("detection and tracking")
    people.add_argument(
        "--detector",
        metavar="NAME",
        help="auto, bundled, a .safetensors file of train-detector, an ultralytics model, or an .onnx or .xml file",
    )
    people.add_argument("--boxes", metavar="full|FILE", help="no detector: the whole frame, or a file of boxes")
    people.add_argument(
        "--detector-size",
        type=int,
        metavar="PX",
        help="longer side of its input: larger finds smaller people",
    )
    people.add_argument(
        "--min-person-score",
        type=float,
        metavar="S",
        help="ignore people with a detector score below S, 0 to 1 (default: 0.5 for new people, 0.25 for tracked ones; "
        "0 with --boxes FILE)",
    )
    people.add_argument(
        "--region",
        type=_points,
        metavar="'X,Y X,Y ...'",
        help="look for people only here: two corners of a rectangle, or the corners of a polygon, px",
    )
    people.add_argument("--detect-every", type=int, metavar="N", help="run the detector on every N-th frame")
    people.add_argument(
        "--detect-every-if-sure", type=int, metavar="N", help="on every N-th frame while all poses are certain"
    )
    people.add_argument("--tracker", choices=("sharpose", "bytetrack"), help="how boxes become identities")
    people.add_argument("--smooth", choices=("kalman", "rts", "none"), help="how keypoints are smoothed over time")

    add_tap_arguments(parser)

    add_part_arguments(parser)

    live = parser.add_argument_group("cameras and streams")
    live.add_argument("--camera-size", type=size, metavar="WxH", help="requested from the camera, for example 1280x720")
    live.add_argument("--camera-fps", type=float, metavar="N", help="requested from the camera, or of a screen (30)")
    live.add_argument("--camera-format", choices=("mjpeg", "yuyv"), help="requested from the camera (default: mjpeg)")
    live.add_argument("--rtsp-transport", choices=("tcp", "udp"), help="for rtsp:// addresses (default: tcp)")
    live.add_argument(
        "--tls",
        metavar="verify|any|FILE",
        help="for https, rtsps, wss, ...: trust what the system trusts (default), any server, or a certificate",
    )
    live.add_argument("--open-timeout", type=float, metavar="S", help="how long to wait for a connection (default: 10)")
    live.add_argument("--read-timeout", type=float, metavar="S", help="after such a silence it is lost (default: 10)")
    live.add_argument(
        "--reconnect",
        type=_number,
        metavar="S",
        help="how long to retry a lost source (default: 300; 0: not at all)",
    )
    live.add_argument(
        "--realtime", action="store_true", default=None, help="play a file at its own pace, like a camera"
    )
    live.add_argument(
        "--latency-budget-ms", type=float, metavar="N", help="keep 95 %% of frames within N ms of their capture"
    )
    live.add_argument("--target-fps", type=float, metavar="N", help="aim for N frames per second")

    general = add_config_arguments(parser)
    general.add_argument("--offline", action="store_true", default=None, help="download nothing")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def size(text: str) -> tuple[int, int]:
    """Width and height in px from 'WIDTHxHEIGHT'."""
    width, sign, height = text.lower().partition("x")
    if not (sign and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; WIDTHxHEIGHT is accepted, as in 1280x720")
    return int(width), int(height)


def _points(text: str) -> tuple[tuple[float, ...], ...]:
    try:
        points = tuple(tuple(float(value) for value in point.split(",")) for point in text.split())
    except ValueError:
        points = ()
    if not points or any(len(point) != 2 for point in points):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of points; 'X,Y X,Y ...' in px is accepted, as in '0,90 640,360'"
        )
    return points


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 0.9, inf or -inf") from None


def build_config(args: argparse.Namespace) -> RunConfig:
    """The run's configuration: defaults, `--config`, `--set`, then the options of the command line.

    Raises:
        ConfigError: an unknown key or a bad value; names the option that was used.
    """
    if getattr(args, "boxes", None):
        if args.detector:
            raise ConfigError("--boxes replaces the detector; give --boxes or --detector, not both")
        if args.detector_size:
            raise ConfigError("--detector-size is for a detector, which --boxes replaces; leave one of them out")
    changes: dict[str, Any] = {"output": {"video": False}} if args.no_video else {}
    given: dict[str, str] = {}
    for option, keys in KEYS.items():
        value = getattr(args, option, None)
        if value is None:
            continue
        for key in keys.split():
            given[key] = f"--{option.replace('_', '-')}"
            section, _, name = key.rpartition(".")
            target = changes.setdefault(section, {}) if section else changes
            target[name] = value
    try:
        return load(args.config, args.set, options=changes)
    except ConfigError as error:
        where, _, said = str(error).partition(": ")
        option = given.get(said.partition(" ")[0])
        if where != "command line" or option is None:
            raise
        raise ConfigError(f"{option}: {said}") from None
