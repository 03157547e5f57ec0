"""`sharpose-rt track`: the main job. A source in, tracked skeletons and an annotated video out."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from sharpose_rt.config import RunConfig, load, merge
from sharpose_rt.errors import ConfigError

if TYPE_CHECKING:
    from sharpose_rt.app import FileRun, Results
    from sharpose_rt.types import Packet

HELP = "track people and their keypoints through a video, pictures, a camera or a stream (the default command)"

# Options of the command line and the configuration key each one sets.
_KEYS = {
    "output": "output.directory",
    "overwrite": "output.overwrite",
    "model": "pose.model",
    "weights": "pose.weights",
    "behaviour": "pose.behaviour",
    "quality_threshold": "pose.quality_threshold",
    "flip_test": "pose.flip_test",
    "device": "pose.device",
    "precision": "pose.precision",
    "detector": "detector.name",
    "boxes": "detector.name",
    "detect_every": "detector.every",
    "tracker": "tracker.name",
    "smooth": "smooth.method",
    "start": "source.start_s",
    "end": "source.end_s",
    "stride": "source.stride",
    "max_frames": "source.max_frames",
    "rtsp_transport": "source.rtsp_transport",
    "offline": "offline",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of a run; each that is not given keeps its value of the configuration."""
    parser.add_argument(
        "--source",
        required=True,
        metavar="X",
        help="video, picture, folder or 'glob' of either, webcam, webcam:N, rtsp://..., http://..., or - for stdin",
    )
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `track` but for the source."""
    out = parser.add_argument_group("output")
    out.add_argument("--output", metavar="DIR", help="folder of the results (default: sharpose_out)")
    out.add_argument("--no-video", action="store_true", help="write no annotated video")
    out.add_argument("--overwrite", action="store_true", default=None, help="replace results of an earlier run")
    out.add_argument("--show", action="store_true", help="show the annotated frames in a window; q ends the run")
    out.add_argument("--quiet", action="store_true", help="print nothing but errors")

    pose = parser.add_argument_group("pose network")
    pose.add_argument("--model", help="a variant; `sharpose-rt models` lists them")
    pose.add_argument("--weights", metavar="FILE", help="auto, a .safetensors or released .pth file, or random")
    pose.add_argument("--behaviour", choices=("auto", "paper", "released"), help="which text the network follows")
    pose.add_argument(
        "--quality-threshold", type=_number, metavar="Q", help="crops of lower predicted quality are refined (inf: all)"
    )
    pose.add_argument("--flip-test", action="store_true", default=None, help="average with the mirrored crop")
    pose.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    pose.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), help="number format of the network")

    people = parser.add_argument_group("finding and following people")
    people.add_argument("--detector", metavar="NAME", help="auto, bundled, or an ultralytics model by name or path")
    people.add_argument("--boxes", metavar="full|FILE", help="instead of a detector: the whole frame, or a boxes file")
    people.add_argument("--detect-every", type=int, metavar="N", help="run the detector on every n-th frame")
    people.add_argument("--tracker", choices=("sharpose", "bytetrack"), help="how boxes become identities")
    people.add_argument("--smooth", choices=("kalman", "rts", "none"), help="how keypoints are smoothed over time")

    part = parser.add_argument_group("part of the source")
    part.add_argument("--start", type=float, metavar="S", help="first media time in seconds")
    part.add_argument("--end", type=float, metavar="S", help="media time to end at")
    part.add_argument("--stride", type=int, metavar="N", help="use every n-th frame")
    part.add_argument("--max-frames", type=int, metavar="N", help="stop after so many frames")
    part.add_argument("--rtsp-transport", choices=("tcp", "udp"), help="for rtsp:// addresses")

    general = parser.add_argument_group("configuration")
    general.add_argument("--config", metavar="FILE|NAME", help="a preset (file, live) or a YAML file")
    general.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any option, as in --set smooth.hold_s=0.5"
    )
    general.add_argument("--offline", action="store_true", default=None, help="download nothing")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; as in 0.9, inf or -inf") from None


def build_config(args: argparse.Namespace) -> RunConfig:
    """The run's configuration: defaults, `--config`, `--set`, then the options of the command line.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    if args.boxes and args.detector:
        raise ConfigError("--boxes takes the place of a detector; give --boxes or --detector, not both")
    config = load(args.config, args.set)
    changes: dict[str, Any] = {"output": {"video": False}} if args.no_video else {}
    for option, key in _KEYS.items():
        value = getattr(args, option, None)
        if value is None:
            continue
        section, _, name = key.rpartition(".")
        target = changes.setdefault(section, {}) if section else changes
        target[name] = value
    return merge(config, changes, where="command line")


def run(args: argparse.Namespace) -> int:
    """Runs each source in turn; 0 when all were complete, 130 after Ctrl-C."""
    from sharpose_rt.app import FileRun
    from sharpose_rt.media import expand_sources

    config = build_config(args)
    for spec in expand_sources(args.source):
        job = FileRun(spec, config)
        with stopped_by_signals(job) as signals, _display(args, job) as on_packet:
            results = job.run(on_packet)
        if not args.quiet:
            _print_results(results)
        if signals:
            return 128 + signals[0]
    return 0


@contextmanager
def stopped_by_signals(job: FileRun) -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM end the run in order, a second one at once; gives the signals that came."""
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        job.stop()

    kept = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _display(args: argparse.Namespace, job: FileRun) -> Iterator[Any]:
    """What to call for each packet: progress, and the window where it is wanted."""
    from sharpose_rt.commands.progress import Progress

    with Progress(job, quiet=args.quiet) as progress:
        if not args.show:
            yield progress.update
            return
        from sharpose_rt.media import Painter
        from sharpose_rt.media.window import Window

        painter = Painter(job.tracking.skeleton, job.config.draw)
        with Window(f"sharpose-rt: {job.source.name}") as window:

            def show(packet: Packet) -> None:
                progress.update(packet)
                frame, poses = packet.frame, packet.poses
                assert poses is not None
                status = job.totals.status_line()
                if not window.show(painter.draw(frame.image_bgr.copy(), poses, frame.pts_s, status)):
                    job.stop()

            yield show


def _print_results(results: Results) -> None:
    figures = results.figures
    fps = figures["frames_per_s"]
    exit_rate = figures["exit_rate"]
    exits = "" if exit_rate is None else f", {100 * exit_rate:.0f} % of poses left after the coarse stage"
    speed = "" if fps is None else f" at {fps:.1f} fps"
    print(f"{results.status}: {figures['frames']} frames{speed}, {figures['people']['ids']} ids{exits}")
    for name, path in (("skeletons", results.stream), ("video", results.video), ("summary", results.summary)):
        if path is not None:
            print(f"  {name:<10} {path}")
    sys.stdout.flush()
