"""`sharpose-rt track`: the main command. Turns a source into tracked skeletons and an annotated video."""

from __future__ import annotations

import argparse
import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sharpose_rt.commands.given import below_common, folder_of, listed, named, say
from sharpose_rt.commands.run_options import add_run_arguments, build_config
from sharpose_rt.commands.taps import open_taps
from sharpose_rt.commands.turns import Job, Turn, Turns
from sharpose_rt.config import RunConfig
from sharpose_rt.errors import ConfigError, SourceError
from sharpose_rt.machine.paths import place_of

if TYPE_CHECKING:
    from sharpose_rt.app import Run
    from sharpose_rt.graph import Models
    from sharpose_rt.outputs import Results
    from sharpose_rt.several import SeveralRun
    from sharpose_rt.stages import Tap
    from sharpose_rt.types import Packet

log = logging.getLogger("sharpose_rt")

_TWICE_S = 0.2  # a signal repeated within this time is the same one
HELP = "track people and their keypoints through a video, pictures, a camera or a stream (the default command)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds all options of a run; those that are not given keep their configured values."""
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="X",
        help="video, picture, folder or 'glob' of either, webcam[:N], screen[:N], screen:WxH+X+Y, rtsp://..., "
        "http://..., or - for stdin; several, or @FILE with one per line, are read at once",
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue a set of files: skip those that are done or being processed by another run, and do unfinished "
        "ones again",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the sources in turn; returns 0 if all were complete, 2 if one of them failed, 130 after Ctrl-C."""
    from sharpose_rt.media import below, is_live

    config = build_config(args)
    sources = listed(args.source)
    _check_used(args, sources)
    if len(sources) == 1:
        return _run_each(args, config, [(spec, below(sources[0], spec)) for spec in _files_of(sources[0], config)])
    if len(args.source) == 1 and not any(is_live(source, config.source) for source in sources):  # a list of files
        return _run_each(args, config, _of_list(sources, config))
    return _run_several(args, config, sources)


def _run_each(args: argparse.Namespace, config: RunConfig, jobs: Sequence[Job]) -> int:
    """Runs sources one after another, each with the subfolder of the output for its results."""
    from sharpose_rt.graph import Models
    from sharpose_rt.media import redact

    jobs = _once(jobs)
    turns = _resumed(config, jobs) if args.resume else Turns(config, jobs)
    taken: defaultdict[Path, set[str]] = defaultdict(set)
    failed: list[str] = []
    cut_off: list[str] = []
    todo, asked = turns.left, len(jobs)
    changed = named("changed since then and done again", [redact(spec) for spec in turns.changed])
    if (len(todo) < asked or changed) and not args.quiet:
        say(args, f"{asked - len(todo)} of {asked} done before, with the same options{changed}")
    models = Models(config) if len(todo) > 1 else None  # loaded by the first, and kept for the others
    with open_taps(args, config, [spec for spec, _ in todo]) as taps:
        for number, (spec, folder) in turns.numbered():
            with turns.turn(spec, folder) as turn:
                if turn is None:
                    continue
                if asked > 1 and not args.quiet:
                    say(args, f"{number} of {len(todo)}: {redact(spec)}")
                try:
                    results, signals = _run_one(args, spec, turn, taps, taken[folder], models)
                except SourceError as error:
                    if asked == 1:
                        raise
                    log.error("%s; continuing with the next one", error)
                    failed.append(redact(spec))
                    continue
            if results.figures["cut_off"]:
                cut_off.append(redact(spec))
            if not args.quiet:
                say(args, lines_of(results))
            if signals:
                return 128 + signals[0]
    if (asked > 1 and todo) or turns.elsewhere:
        elsewhere = [redact(spec) for spec in turns.elsewhere]
        done = f"{len(todo) - len(failed) - len(elsewhere)} of {len(todo)} done"
        tally = done + named("failed", failed) + named("left to another run", elsewhere) + named("cut off", cut_off)
        if not args.quiet:
            say(args, tally)
        elif failed:
            log.error(tally)
    return 2 if failed else 0


def _once(jobs: Sequence[Job]) -> Sequence[Job]:
    """The jobs with each file once, even if a list contains it several times or under several names."""
    once: dict[Job, Job] = {}
    for spec, folder in jobs:
        once.setdefault((place_of(spec), folder), (spec, folder))
    if more := len(jobs) - len(once):
        log.warning("%d of %d sources are duplicates; each is processed once", more, len(jobs))
    return list(once.values())


def _resumed(config: RunConfig, jobs: Sequence[Job]) -> Turns:
    from sharpose_rt.commands.resume import Resumed

    return Resumed(config, jobs)


def _files_of(source: str, config: RunConfig) -> list[str]:
    """Like `expand_sources`, without videos that runs have written to the output, unless there are no others."""
    from sharpose_rt.media import expand_sources
    from sharpose_rt.skeletons.names import is_video_of_run

    specs = expand_sources(source)
    kept = [spec for spec in specs if spec == source or not is_video_of_run(spec, config.output.directory)]
    if kept and len(kept) < len(specs):
        log.info("ignoring %d videos that runs have written to %s", len(specs) - len(kept), config.output.directory)
    return kept or specs


def _of_list(sources: Sequence[str], config: RunConfig) -> list[tuple[str, Path]]:
    """The files of a list, each with its folder relative to the one that contains all of them."""
    found: list[tuple[str, Path]] = []
    for source in sources:
        try:
            specs = _files_of(source, config)
        except SourceError:  # reported when it is its turn
            specs = [source]
        found += [(spec, Path() if spec == "-" or "://" in spec else folder_of(spec)) for spec in specs]
    return below_common(found)


def _check_used(args: argparse.Namespace, sources: Sequence[str]) -> None:
    """Warns about options that no source uses. They are not refused, as a script may use them for any source."""
    from sharpose_rt.media import is_live
    from sharpose_rt.media.live import camera_device
    from sharpose_rt.media.redact import redact
    from sharpose_rt.media.screen import is_screen

    asked = [name for name in ("camera_size", "camera_fps", "camera_format") if getattr(args, name) is not None]
    if asked and not any(camera_device(source) is not None or is_screen(source) for source in sources):
        log.warning("--%s is for a camera, which %s is not", asked[0].replace("_", "-"), redact(sources[0]))
    if args.reconnect is not None and not any(source == "-" or is_live(source) for source in sources):
        log.warning("--reconnect is for cameras and streams; %s is a file", redact(sources[0]))


def _run_one(
    args: argparse.Namespace, spec: str, turn: Turn, taps: Sequence[Tap], taken: set[str], models: Models | None
) -> tuple[Results, list[int]]:
    """The results of one source, and the signals that stopped it."""
    from sharpose_rt.app import FileRun

    job = FileRun(spec, turn.config, taps, taken=taken, models=models)
    job.outputs.in_place_of = turn.in_place_of
    with stopped_by_signals(job) as signals, display(args, job) as on_packet:
        return job.run(on_packet), signals


def _run_several(args: argparse.Namespace, config: RunConfig, sources: list[str]) -> int:
    """Runs all sources at once; returns 2 if one of them failed."""
    from sharpose_rt.commands.progress import every_few_seconds
    from sharpose_rt.media import expand_sources
    from sharpose_rt.several import SeveralRun

    if args.resume:
        raise ConfigError("--resume is for files that are processed one after another; these sources are read at once")
    if args.show:
        raise ConfigError("--show is for a single source; --serve 8080 shows several in a browser")
    specs = [spec for source in sources for spec in expand_sources(source)]
    if len(specs) > len(sources):
        raise ConfigError(
            f"a folder or glob among several sources contains {len(specs) - len(sources) + 1} or more videos, which "
            "would be processed one after another; give each its own --source"
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
    """Lets Ctrl-C, SIGTERM or a closed terminal stop the run cleanly; yields the list of signals received.

    A second signal discards the frames in progress, a third one ends the program wherever it hangs. Some programs send
    a signal twice, to the process and to its group (GNU `timeout`, a forwarded Ctrl-C): that counts once.
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
    """Yields what to call for each packet: it updates the progress, and the window if there is one."""
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


def lines_of(results: Results) -> str:
    """How the run ended and where its outputs are, as text."""
    figures = results.figures
    fps = figures["frames_per_s"]
    exit_rate = figures["exit_rate"]
    exits = "" if exit_rate is None else f", {100 * exit_rate:.0f} % of poses without refinement"
    speed = "" if fps is None else f" at {fps:.1f} fps"
    frames, ids = (_counted(n, what) for n, what in ((figures["frames"], "frame"), (figures["people"]["ids"], "id")))
    lines = [f"{results.status}: {frames}{speed}, {ids}{exits}"]
    lines += [f"  {results.parts} parts; the last one:"] if results.parts else []
    files = {
        "skeletons": results.stream,
        "video": results.video,
        "recording": results.recording,
        "summary": results.summary,
    }
    lines += [f"  {name:<10} {path}" for name, path in files.items() if path is not None]
    return "\n".join([*lines, *(f"  {'format':<10} {path}" for path in results.formats)])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
