"""Measures speed on this machine, of the networks alone or of whole runs over a clip, and writes a report of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sharpose_rt.config import RunConfig, load, merge
from sharpose_rt.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")

HELP = "measure the speed of the networks alone, or of whole runs over a clip"

_POSE_OPTIONS = ("model", "weights", "quality_threshold", "refine_from_gain", "device", "backend", "precision")
_NUMBERS = ("--quality-threshold", "--refine-from-gain")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_FOUND = "found"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `model`, `pipeline`, `cameras`, `peers` and `report`."""
    actions = parser.add_subparsers(title="actions", metavar="model|pipeline|cameras|peers|report", required=True)
    _add_model(actions.add_parser("model", help="SHaRPose compared with a dense network of its size, in turns"))
    _add_pipeline(actions.add_parser("pipeline", help="whole runs over a clip: fps, latency, memory, stages"))
    _add_cameras(actions.add_parser("cameras", help="several sources in one run compared with one after another"))
    _add_peers(actions.add_parser("peers", help="other packages on the same frames and boxes of people"))
    _add_report(actions.add_parser("report", help="write measurements to a Markdown report"))


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", nargs="+", metavar="NAME", help="variants (default: all of `sharpose-rt models`)")
    parser.add_argument("--batch", type=_list(int), default=(1, 8), metavar="N,..", help="batch sizes (default: 1,8)")
    parser.add_argument(
        "--exit-rates",
        type=_list(float),
        default=(0, 25, 50, 75, 100),
        metavar="P,..",
        help="percentages of crops that skip the fine stage (default: 0,25,50,75,100)",
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each contender (default: 7)")
    parser.add_argument("--behaviour", choices=("paper", "released"), default="paper", help="default: paper")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=_PRECISIONS, default="auto", help="number format of the networks")
    parser.add_argument(
        "--backend", nargs="+", choices=("torch", "openvino"), help="what runs the networks (default: all installed)"
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="OUT.json",
        help="also write a profiler trace of both stages, for chrome://tracing",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the record here")
    parser.set_defaults(action=bench_model)


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, metavar="X", help="a video")
    parser.add_argument(
        "--people",
        type=_list(_people),
        default=(None, 1, 5, 10, 20),
        metavar="N,..",
        help=f"people in each frame, one run each; '{_FOUND}': those that are found (default: {_FOUND},1,5,10,20)",
    )
    parser.add_argument("--frames", type=int, default=120, metavar="N", help="frames of the clip (default: 120)")
    parser.add_argument(
        "--video", action=argparse.BooleanOptionalAction, default=True, help="write the annotated video (default: yes)"
    )
    parser.add_argument(
        "--paced", action="store_true", help="play the file at its own rate and drop late frames, like a camera"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the record here")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw the latency by number of people")
    _add_run_options(parser)
    parser.set_defaults(action=bench_pipeline)


def _add_cameras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, action="append", metavar="X", help="a video; give two or more")
    parser.add_argument("--frames", type=int, default=60, metavar="N", help="frames of each video (default: 60)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each way (default: 3)")
    parser.add_argument(
        "--video", action=argparse.BooleanOptionalAction, default=False, help="write the annotated videos (default: no)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the record here")
    _add_run_options(parser)
    parser.set_defaults(action=bench_cameras)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("the run")
    for option, text in (
        ("--model", "a variant (`sharpose-rt models` lists them), or a .onnx or .xml file of another network"),
        ("--weights", "auto, a file, or random"),
        ("--quality-threshold", "refine crops with a lower predicted quality"),
        ("--refine-from-gain", "do not refine people for whom the fine stage is predicted to add less AP"),
        ("--detector", "auto, bundled, an ultralytics model, another .onnx or .xml file, full, or a boxes file"),
        ("--device", "auto, cpu, cuda or cuda:N"),
        ("--backend", "auto, torch or openvino"),
    ):
        run.add_argument(option, type=float if option in _NUMBERS else str, help=text)
    run.add_argument("--precision", choices=_PRECISIONS, help="number format of the network")
    run.add_argument("--config", metavar="FILE|NAME", help="a preset (file, live) or a YAML file")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other option")
    run.add_argument("--offline", action="store_true", default=None, help="download nothing")


def _add_peers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, metavar="X", help="a video")
    parser.add_argument("--peers", type=_list(str), metavar="A,..", help="ours,dense-loop,mediapipe,rtmlib,ultralytics")
    parser.add_argument("--frames", type=int, default=40, metavar="N", help="frames of the clip (default: 40)")
    parser.add_argument("--people", type=_people, metavar="N", help="boxes in each frame (default: those found)")
    parser.add_argument("--detector", default="auto", help="finds the boxes; also a file of boxes")
    for option in _POSE_OPTIONS:
        name = f"--{option.replace('_', '-')}"
        parser.add_argument(name, type=float if name in _NUMBERS else str, help="of our network; see `track --help`")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the record here")
    parser.add_argument("--offline", action="store_true", help="download nothing and create no environments")
    parser.set_defaults(action=bench_peers)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="JSON", help="files that --json wrote")
    parser.add_argument("--out", type=Path, default=Path("BENCHMARKS.md"), help="default: BENCHMARKS.md")
    parser.set_defaults(action=write_report)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return args.action(args)


def bench_model(args: argparse.Namespace) -> int:
    """Measures the networks, prints a table, writes the record; 130 if Ctrl-C ended it after the first rows.

    Raises:
        ConfigError: no such variant, or a bad number.
        DeviceError: the device or the precision is not available.
        OutputError: the record cannot be written.
    """
    from sharpose_rt.bench.model import ModelBench, run_model_bench
    from sharpose_rt.bench.record import check_writable
    from sharpose_rt.bench.report import MODEL_HEADINGS, model_cells
    from sharpose_rt.models import VARIANTS

    config = ModelBench(
        models=tuple(args.model or VARIANTS),
        batches=args.batch,
        exit_rates=tuple(rate / 100 for rate in args.exit_rates),
        rounds=args.rounds,
        behaviour=args.behaviour,
        device=args.device,
        precision=args.precision,
        backends=tuple(args.backend or ()),
    )
    if args.trace is not None and args.precision == "int8":
        raise ConfigError("--trace uses the networks in torch, which has no int8; use another --precision")
    check_writable(args.json, args.trace)
    record = run_model_bench(config, _say)
    _print(_table(("model", *MODEL_HEADINGS), ([row["model"], *model_cells(row)] for row in record["results"])))
    settings = record["settings"]
    _print(f"{settings['device']}, {settings['precision']}, {settings['backend']}; ratios: median (10-90 % of rounds)")
    _save(record, args.json)
    if settings["interrupted"]:
        return 130
    if args.trace is not None:
        from sharpose_rt.bench.trace import write_trace

        _print(write_trace(config, args.trace))
        _print(f"trace: {args.trace}")
    return 0


def bench_pipeline(args: argparse.Namespace) -> int:
    """Measures whole runs, prints tables, writes record and figure; 130 if Ctrl-C ended it after the first rows.

    Raises:
        SharposeError: the source, the model or the detector cannot be used.
    """
    from sharpose_rt.bench import report
    from sharpose_rt.bench.pipeline import PipelineBench, run_pipeline_bench
    from sharpose_rt.bench.plot import plot_pipeline
    from sharpose_rt.bench.record import check_writable

    bench = PipelineBench(args.source, run_config(args), args.people, args.paced)
    check_writable(args.json, args.plot)
    record = run_pipeline_bench(bench, _say)
    rows = record["results"]
    _print(_table(report.PIPELINE_HEADINGS, map(report.pipeline_cells, rows)))
    _print("\nEach part alone, ms per frame (mean):")
    _print(_table(("people", *(part["name"] for part in rows[0]["alone"]), "sum"), map(report.alone_cells, rows)))
    _print("\nEach stage in the run, ms per frame (p50 / p95):")
    _print(_table(("people", *(stage["name"] for stage in rows[0]["stages"])), map(report.stage_cells, rows)))
    try:
        if args.plot is not None:
            plot_pipeline(record, args.plot)
            record["settings"]["plot"] = str(args.plot)
            _print(f"figure: {args.plot}")
    finally:
        _save(record, args.json)  # even if the figure fails
    return 130 if record["settings"]["interrupted"] else 0


def bench_cameras(args: argparse.Namespace) -> int:
    """Compares several sources in one run with one after another, prints a table, writes the record.

    Raises:
        SharposeError: a source, the model or the detector cannot be used.
    """
    from sharpose_rt.bench import report
    from sharpose_rt.bench.cameras import CamerasBench, run_cameras_bench
    from sharpose_rt.bench.record import check_writable

    bench = CamerasBench(tuple(args.source), run_config(args), args.rounds)
    check_writable(args.json)
    record = run_cameras_bench(bench, _say)
    _print(_table(report.CAMERAS_HEADINGS, map(report.cameras_cells, record["results"])))
    _save(record, args.json)
    return 0


def bench_peers(args: argparse.Namespace) -> int:
    """Compares other packages with ours, prints a table, writes the record.

    Raises:
        SharposeError: the clip or the detector cannot be used.
    """
    from sharpose_rt.bench import report
    from sharpose_rt.bench.compare import PEERS, PeerBench, run_peer_bench
    from sharpose_rt.bench.record import check_writable
    from sharpose_rt.config import DetectorConfig, PoseConfig

    pose = {key: getattr(args, key) for key in _POSE_OPTIONS if getattr(args, key) is not None}
    bench = PeerBench(
        args.source,
        tuple(args.peers or PEERS),
        args.frames,
        args.people,
        merge(PoseConfig(), pose, where="command line"),
        DetectorConfig(args.detector),
        args.offline,
    )
    check_writable(args.json)
    record = run_peer_bench(bench, _say)
    _print(_table(report.PEER_HEADINGS, map(report.peer_cells, record["results"])))
    _save(record, args.json)
    return 0


def run_config(args: argparse.Namespace) -> RunConfig:
    """The configuration of the runs: defaults, `--config`, `--set`, then the options of the command line.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    pose = {key: getattr(args, key) for key in _POSE_OPTIONS}
    changes: dict[str, Any] = {
        "pose": {key: value for key, value in pose.items() if value is not None},
        "source": {"max_frames": args.frames},
        "output": {"video": args.video},
    }
    if args.detector is not None:
        changes["detector"] = {"name": args.detector}
    if args.offline is not None:
        changes["offline"] = args.offline
    return merge(load(args.config, args.set), changes, where="command line")


def write_report(args: argparse.Namespace) -> int:
    """Writes the report.

    Raises:
        StreamError: a file is not a measurement.
        OutputError: the report cannot be written.
    """
    from sharpose_rt.bench import report

    report.write_report(args.files, args.out)
    print(args.out)
    return 0


def _list(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def parse(text: str) -> tuple[T, ...]:
        return tuple(kind(part.strip()) for part in text.split(","))

    parse.__name__ = "list (such as 1,5,10)"  # named in argparse's error
    return parse


def _people(text: str) -> int | None:
    return None if text == _FOUND else int(text)


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _save(record: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        from sharpose_rt.bench.record import write_record

        write_record(path, record)
        _print(f"record: {path}")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _print(what: Any) -> None:
    from rich.console import Console

    # A pipe has no width, and a truncated table would be useless.
    width = None if sys.stdout.isatty() else 200
    Console(highlight=False, markup=False, width=width).print(what, soft_wrap=isinstance(what, str))
