"""`sharpose-rt track`: the main job. A source in, tracked skeletons and an annotated video out."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sharpose_rt.commands.printable import printable_lines
from sharpose_rt.commands.taps import add_tap_arguments, open_taps
from sharpose_rt.config import RunConfig, load
from sharpose_rt.config.schema import HWACCELS
from sharpose_rt.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from sharpose_rt.app import Run
    from sharpose_rt.graph import Models
    from sharpose_rt.outputs import Results
    from sharpose_rt.several import SeveralRun
    from sharpose_rt.stages import Tap
    from sharpose_rt.types import Packet

log = logging.getLogger("sharpose_rt")

_TWICE_S = 0.2  # a signal that comes again within is the same one
HELP = "track people and their keypoints through a video, pictures, a camera or a stream (the default command)"

# Options of the command line and the configuration keys, one mostly, that each sets.
_KEYS = {
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of a run; each that is not given keeps its value of the configuration."""
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="X",
        help="video, picture, folder or 'glob' of either, webcam[:N], screen[:N], screen:WxH+X+Y, rtsp://..., "
        "http://..., or - for stdin; given more than once, or as @FILE with one a line, all are read at once",
    )
    add_run_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> Any:
    """What is written and shown; gives the group, for more of the kind."""
    out = parser.add_argument_group("output")
    out.add_argument("--output", metavar="DIR", help="folder of the results (default: sharpose_out)")
    out.add_argument("--no-video", action="store_true", help="write no annotated video")
    out.add_argument(
        "--format",
        type=_names,
        metavar="A,B",
        help="also write the skeletons as openpose, alphapose, coco, coco_labels, kinetics, pyskl, mot, csv, parquet "
        "or trc",
    )
    out.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        help="an option of --format, as min_score=0.3; `convert --help` lists them",
    )
    out.add_argument("--person-slots", type=int, metavar="N", help="people in the arrays of --format pyskl, kinetics")
    out.add_argument("--fill", choices=("none", "hold", "linear"), help="gaps within a track in --format pyskl")
    out.add_argument("--overwrite", action="store_true", default=None, help="replace results of an earlier run")
    out.add_argument(
        "--skeletons-only",
        action="store_false",
        default=None,
        help="draw on black: video, window and browser show nobody's face",
    )
    out.add_argument(
        "--hide-faces",
        action="store_false",
        default=None,
        help="turn the heads of all who are found into blocks: in video, window and browser",
    )
    out.add_argument("--show", action="store_true", help="show the annotated frames in a window; q ends the run")
    out.add_argument("--quiet", action="store_true", help="print nothing but warnings and errors")
    return out


def add_config_arguments(parser: argparse.ArgumentParser) -> Any:
    """Presets and single options; gives the group, for more of the kind."""
    general = parser.add_argument_group("configuration")
    general.add_argument("--config", metavar="FILE|NAME", help="a preset (file, live) or a YAML file")
    general.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any option, as in --set smooth.hold_s=0.5"
    )
    return general


def add_part_arguments(parser: argparse.ArgumentParser) -> None:
    """Which part of the source, and how its pictures are read."""
    part = parser.add_argument_group("part of the source")
    part.add_argument("--start", type=float, metavar="S", help="first media time in seconds")
    part.add_argument("--end", type=float, metavar="S", help="media time to end at")
    part.add_argument("--stride", type=int, metavar="N", help="use every n-th frame")
    part.add_argument("--max-frames", type=int, metavar="N", help="stop after so many frames")
    part.add_argument(
        "--filmed-fps",
        type=float,
        metavar="F",
        help="frames a second at which slow motion was filmed that is stored at another rate, for times of the scene",
    )
    part.add_argument(
        "--rotate",
        type=int,
        choices=(0, 90, 180, 270),
        help="turn the picture clockwise; coordinates are in the turned one",
    )
    part.add_argument("--hwaccel", metavar="KIND", help=f"what decodes video: none, auto, {', '.join(HWACCELS)}")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `track` but for the source."""
    out = add_output_arguments(parser)
    out.add_argument(
        "--split",
        type=float,
        metavar="SECONDS",
        help="begin new files every so many seconds of the source; of a live one at their multiples on the clock",
    )
    out.add_argument(
        "--record",
        action="store_true",
        default=None,
        help="keep the pictures as they came too, in a video of their own",
    )

    pose = parser.add_argument_group("pose network")
    pose.add_argument(
        "--model",
        help="a variant (`sharpose-rt models` lists them), or a .onnx or .xml file of another top-down network",
    )
    pose.add_argument("--weights", metavar="FILE", help="auto, a .safetensors or released .pth file, or random")
    pose.add_argument("--behaviour", choices=("auto", "paper", "released"), help="which text the network follows")
    pose.add_argument(
        "--quality-threshold", type=_number, metavar="Q", help="crops of lower predicted quality are refined (inf: all)"
    )
    pose.add_argument(
        "--refine-from-px", type=float, metavar="PX", help="people less tall than this take the coarse stage's pose"
    )
    pose.add_argument(
        "--refine-from-gain",
        type=float,
        metavar="AP",
        help="people to whom the fine stage is expected to add less AP (as in 0.05) take the coarse stage's pose",
    )
    pose.add_argument(
        "--refine-every",
        type=int,
        metavar="N",
        help="who moves on as expected is refined on every n-th frame, and takes over what that changed between",
    )
    pose.add_argument("--flip-test", action="store_true", default=None, help="average with the mirrored crop")
    pose.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    pose.add_argument("--backend", choices=("auto", "torch", "openvino"), help="what runs the network")
    pose.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16", "int8"), help="number format of the network"
    )

    people = parser.add_argument_group("finding and following people")
    people.add_argument(
        "--detector",
        metavar="NAME",
        help="auto, bundled, a .safetensors of train-detector, an ultralytics model, or another's .onnx or .xml",
    )
    people.add_argument("--boxes", metavar="full|FILE", help="instead of a detector: the whole frame, or a boxes file")
    people.add_argument(
        "--detector-size", type=int, metavar="PX", help="longer side of what the detector sees: larger, smaller people"
    )
    people.add_argument(
        "--min-person-score",
        type=float,
        metavar="S",
        help="people of whom the detector is less sure, 0 to 1, are left out (default: 0.5 for somebody new, 0.25 for "
        "who is followed already; 0 with --boxes FILE)",
    )
    people.add_argument(
        "--region",
        type=_points,
        metavar="'X,Y X,Y ...'",
        help="look for people there only: two corners of a rectangle, or the corners of a polygon, px",
    )
    people.add_argument("--detect-every", type=int, metavar="N", help="run the detector on every n-th frame")
    people.add_argument(
        "--detect-every-if-sure", type=int, metavar="N", help="on every n-th frame while all poses are sure"
    )
    people.add_argument("--tracker", choices=("sharpose", "bytetrack"), help="how boxes become identities")
    people.add_argument("--smooth", choices=("kalman", "rts", "none"), help="how keypoints are smoothed over time")

    add_tap_arguments(parser)

    add_part_arguments(parser)

    live = parser.add_argument_group("cameras and streams")
    live.add_argument("--camera-size", type=size, metavar="WxH", help="asked of a camera, as in 1280x720")
    live.add_argument("--camera-fps", type=float, metavar="N", help="asked of a camera; looks at a screen (30)")
    live.add_argument("--camera-format", choices=("mjpeg", "yuyv"), help="asked of a camera (default: mjpeg)")
    live.add_argument("--rtsp-transport", choices=("tcp", "udp"), help="for rtsp:// addresses (default: tcp)")
    live.add_argument(
        "--tls",
        metavar="verify|any|FILE",
        help="trusted of https, rtsps, wss, ...: whom the system trusts (default), whoever answers, or a certificate",
    )
    live.add_argument("--open-timeout", type=float, metavar="S", help="wait so long for an answer (default: 10)")
    live.add_argument("--read-timeout", type=float, metavar="S", help="silent for so long is lost (default: 10)")
    live.add_argument(
        "--reconnect", type=_number, metavar="S", help="look so long for what was lost (default: 300; 0: not at all)"
    )
    live.add_argument(
        "--realtime", action="store_true", default=None, help="play a file at its own pace, as a camera would"
    )
    live.add_argument(
        "--latency-budget-ms", type=float, metavar="N", help="keep 95 %% of frames within N ms of their capture"
    )
    live.add_argument("--target-fps", type=float, metavar="N", help="keep up N frames a second")

    general = add_config_arguments(parser)
    general.add_argument("--offline", action="store_true", default=None, help="download nothing")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def size(text: str) -> tuple[int, int]:
    """Width and height, px, of 'WIDTHxHEIGHT'."""
    width, sign, height = text.lower().partition("x")
    if not (sign and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; WIDTHxHEIGHT is accepted, as in 1280x720")
    return int(width), int(height)


def _points(text: str) -> tuple[tuple[float, ...], ...]:
    try:
        points = tuple(tuple(float(value) for value in point.split(",")) for point in text.split())
    except ValueError:
        points = ()
    if not points or any(len(point) != 2 for point in points):
        raise argparse.ArgumentTypeError(
            f"{text!r} are no points; 'X,Y X,Y ...' in px is accepted, as in '0,90 640,360'"
        )
    return points


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; as in 0.9, inf or -inf") from None


def build_config(args: argparse.Namespace) -> RunConfig:
    """The run's configuration: defaults, `--config`, `--set`, then the options of the command line.

    Raises:
        ConfigError: an unknown key or a bad value; names the option by which it was given.
    """
    if getattr(args, "boxes", None):
        if args.detector:
            raise ConfigError("--boxes takes the place of a detector; give --boxes or --detector, not both")
        if args.detector_size:
            raise ConfigError("--detector-size is what a detector sees; --boxes takes its place")
    changes: dict[str, Any] = {"output": {"video": False}} if args.no_video else {}
    given: dict[str, str] = {}
    for option, keys in _KEYS.items():
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


def run(args: argparse.Namespace) -> int:
    """Runs each source in turn; 0 when all were complete, 2 when one of them failed, 130 after Ctrl-C."""
    from sharpose_rt.media import below, expand_sources, is_live

    config = build_config(args)
    sources = listed_sources(args.source)
    _check_used(args, sources)
    if len(sources) == 1:
        return _run_each(args, config, [(spec, below(sources[0], spec)) for spec in expand_sources(sources[0])])
    if len(args.source) == 1 and not any(is_live(source, config.source) for source in sources):  # a list of files
        return _run_each(args, config, _of_list(sources))
    return _run_several(args, config, sources)


def _run_each(args: argparse.Namespace, config: RunConfig, specs: Sequence[tuple[str, Path]]) -> int:
    """Runs sources one after another, each with the folder below the output's that its results go to."""
    from sharpose_rt.graph import Models
    from sharpose_rt.media import redact

    taken: defaultdict[Path, set[str]] = defaultdict(set)
    failed: list[str] = []
    cut_off: list[str] = []
    models = Models(config) if len(specs) > 1 else None  # loaded by the first, and kept for those behind it
    with open_taps(args, config, [spec for spec, _ in specs]) as taps:
        for number, (spec, folder) in enumerate(specs, start=1):
            output = replace(config.output, directory=str(Path(config.output.directory) / folder))
            if len(specs) > 1 and not args.quiet:
                say(args, f"{number} of {len(specs)}: {redact(spec)}")
            try:
                results, signals = _run_one(args, spec, replace(config, output=output), taps, taken[folder], models)
            except SourceError as error:
                if len(specs) == 1:
                    raise
                log.error("%s; the next one follows", error)
                failed.append(redact(spec))
                continue
            if results.figures["cut_off"]:
                cut_off.append(redact(spec))
            if not args.quiet:
                say(args, lines_of(results))
            if signals:
                return 128 + signals[0]
    if len(specs) > 1:
        done = f"{len(specs) - len(failed)} of {len(specs)} done"
        tally = done + named("failed", failed) + named("cut off", cut_off)
        if not args.quiet:
            say(args, tally)
        elif failed:
            log.error(tally)
    return 2 if failed else 0


def _of_list(sources: Sequence[str]) -> list[tuple[str, Path]]:
    """The files of a list, each with its folder below the one that all of them lie in."""
    from sharpose_rt.media import expand_sources

    found: list[tuple[str, Path]] = []
    for source in sources:
        try:
            specs = expand_sources(source)
        except SourceError:  # said when it is its turn
            specs = [source]
        found += [(spec, Path() if spec == "-" or "://" in spec else folder_of(spec)) for spec in specs]
    return below_common(found)


def below_common(found: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Names and their folders, with the folders as they lie below the one that all of them lie in."""
    folders = [folder for _, folder in found if folder != Path()]
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError:  # none, or on several drives
        return [(name, Path()) for name, _ in found]
    return [(name, folder.relative_to(common) if folder != Path() else folder) for name, folder in found]


def folder_of(spec: str) -> Path:
    """The folder of a file, without the '..' that would lead out of the one for results."""
    return Path(os.path.abspath(spec)).parent  # noqa: PTH100 (Path.absolute keeps them)


def named(what: str, specs: Sequence[str]) -> str:
    """'; 2 failed: a, b', of many the first; nothing where there are none."""
    more = ", ..." if len(specs) > 20 else ""
    return f"; {len(specs)} {what}: {', '.join(specs[:20])}{more}" if specs else ""


def _check_used(args: argparse.Namespace, sources: Sequence[str]) -> None:
    """Warns of options that none of the sources looks at: they may stand in a script that takes any source."""
    from sharpose_rt.media import is_live
    from sharpose_rt.media.live import camera_device
    from sharpose_rt.media.redact import redact
    from sharpose_rt.media.screen import is_screen

    asked = [name for name in ("camera_size", "camera_fps", "camera_format") if getattr(args, name) is not None]
    if asked and not any(camera_device(source) is not None or is_screen(source) for source in sources):
        log.warning("--%s is asked of a camera; %s is none", asked[0].replace("_", "-"), redact(sources[0]))
    if args.reconnect is not None and not any(source == "-" or is_live(source) for source in sources):
        log.warning("--reconnect is for what can be lost; %s is a file", redact(sources[0]))


def _run_one(
    args: argparse.Namespace, spec: str, config: RunConfig, taps: Sequence[Tap], taken: set[str], models: Models | None
) -> tuple[Results, list[int]]:
    """The results of one source, and the signals that ended it."""
    from sharpose_rt.app import FileRun

    job = FileRun(spec, config, taps, taken=taken, models=models)
    with stopped_by_signals(job) as signals, display(args, job) as on_packet:
        return job.run(on_packet), signals


def listed_sources(given: list[str]) -> list[str]:
    """The sources with each '@FILE' replaced by its lines; empty ones, and those that begin with '#', are left out.

    Raises:
        ConfigError: a list cannot be read, or is empty.
    """
    sources: list[str] = []
    for name in given:
        if not name.startswith("@"):
            sources.append(name)
            continue
        try:
            lines = Path(name[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"cannot read the list of sources {name[1:]}: {why}; @FILE is a text file of one source a line"
            ) from error
        found = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not found:
            raise ConfigError(f"the list of sources {name[1:]} is empty; one source a line is accepted")
        sources += found
    return sources


def _run_several(args: argparse.Namespace, config: RunConfig, sources: list[str]) -> int:
    """Runs all sources at once; 2 when one of them failed."""
    from sharpose_rt.commands.progress import every_few_seconds
    from sharpose_rt.media import expand_sources
    from sharpose_rt.several import SeveralRun

    if args.show:
        raise ConfigError("--show is for a single source; --serve 8080 shows several in a browser")
    specs = [spec for source in sources for spec in expand_sources(source)]
    if len(specs) > len(sources):
        raise ConfigError(
            f"a folder or glob among several sources stands for {len(specs) - len(sources) + 1} or more videos, which "
            "come one after the other; name each of them by its own --source"
        )
    with open_taps(args, config, specs, at_once=len(specs)) as taps:
        job = SeveralRun(specs, config, taps)
        with stopped_by_signals(job) as signals:
            found = job.run(every_few_seconds(job.status_line, quiet=args.quiet))
        for run, results in zip(job.runs, found, strict=True):
            if not args.quiet:
                say(args, f"{run.source.name}\n{lines_of(results)}")
    if signals:
        return 128 + signals[0]
    return 2 if any(results.status == "error" for results in found) else 0


@contextmanager
def stopped_by_signals(job: Run | SeveralRun) -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM or a closed terminal end the run in order, a second one throws away what is under way, a third
    one ends the program wherever it hangs; gives the signals that came.

    Programs that start others send theirs twice, to the program and to its group (GNU `timeout`, a terminal's Ctrl-C
    that is handed on): that is one.
    """
    came: list[int] = []
    came_s = -math.inf

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal came_s
        now_s = time.monotonic()
        if came[-1:] == [number] and now_s - came_s < _TWICE_S:
            return
        came_s = now_s
        came.append(number)
        if len(came) > 1:
            signal.signal(number, signal.SIG_DFL)
        job.stop()

    wanted = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it stays ignored
        wanted.append(signal.SIGHUP)
    kept = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield came
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def display(args: argparse.Namespace, job: Run) -> Iterator[Any]:
    """What to call for each packet: progress, and the window where it is wanted."""
    from sharpose_rt.commands.progress import Progress

    with Progress(job, quiet=args.quiet) as progress:
        if not args.show:
            yield progress.update
            return
        from sharpose_rt.media.window import Window

        painter = job.outputs.painter()
        with Window(f"sharpose-rt: {job.source.name}") as window:

            def show(packet: Packet) -> None:
                progress.update(packet)
                if not window.show(painter.drawn(packet, job.totals.status_line())):
                    job.stop()

            yield show


def say(args: argparse.Namespace, text: str) -> None:
    """Prints it, beside a stream that is published there; that it cannot be said (a full disk) ends nothing."""
    try:
        print(printable_lines(text), file=sys.stderr if "-" in args.publish else sys.stdout, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        log.warning("the results cannot be printed (%s)", error.strerror)


def lines_of(results: Results) -> str:
    """How the run ended, and where its outputs are."""
    figures = results.figures
    fps = figures["frames_per_s"]
    exit_rate = figures["exit_rate"]
    exits = "" if exit_rate is None else f", {100 * exit_rate:.0f} % of poses left after the coarse stage"
    speed = "" if fps is None else f" at {fps:.1f} fps"
    lines = [f"{results.status}: {figures['frames']} frames{speed}, {figures['people']['ids']} ids{exits}"]
    lines += [f"  {results.parts} parts, the last:"] if results.parts else []
    named = {
        "skeletons": results.stream,
        "video": results.video,
        "recording": results.recording,
        "summary": results.summary,
    }
    lines += [f"  {name:<10} {path}" for name, path in named.items() if path is not None]
    return "\n".join([*lines, *(f"  {'format':<10} {path}" for path in results.formats)])
