"""`sharpose-rt replay`: play a skeleton stream again, without detector and network.

Draws it over its video or on black, plays it in a browser or window or to other programs, and changes its people:
tracks or smooths them again, merges ids of one person, or keeps some people. Changes are written to a new stream.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sharpose_rt.commands.given import named, say, streams, streams_below
from sharpose_rt.commands.run_options import (
    add_config_arguments,
    add_output_arguments,
    add_part_arguments,
    build_config,
)
from sharpose_rt.commands.taps import add_tap_arguments, open_taps
from sharpose_rt.commands.track import display, lines_of, stopped_by_signals
from sharpose_rt.errors import ConfigError, StreamError

if TYPE_CHECKING:
    from sharpose_rt.config import RunConfig
    from sharpose_rt.replay import Changes
    from sharpose_rt.stages import Swap

log = logging.getLogger("sharpose_rt")

HELP = "show a skeleton stream over its video or on black; track or smooth its people again, correct their ids"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt replay`."""
    parser.add_argument(
        "streams",
        metavar="STREAM",
        nargs="+",
        help="*.skeletons.jsonl files, folders or 'globs' of them, or @LIST (- for standard input)",
    )
    parser.add_argument(
        "--video", metavar="FILE", help="the video or pictures of the skeletons (default: draw on black)"
    )
    out = add_output_arguments(parser)
    out.add_argument(
        "--pace",
        choices=("auto", "video", "fastest"),
        default="auto",
        help="play at the pace of the video, or as fast as possible (auto: of the video if shown or published)",
    )

    out.add_argument("--loop", action="store_true", help="repeat until stopped; nothing is written")

    people = parser.add_argument_group("people")
    people.add_argument(
        "--track", action="store_true", help="give people new ids, by boxes and poses, and with --video by appearance"
    )
    people.add_argument("--tracker", choices=("sharpose", "bytetrack"), help="the tracker of --track")
    people.add_argument("--smooth", choices=("kalman", "rts", "none"), help="smooth again, from raw_keypoints")
    people.add_argument(
        "--merge",
        action="append",
        default=[],
        type=_merge,
        metavar="ID=ID,..",
        help="ids of one person: 3=7,12 gives 7 and 12 the id 3; repeatable",
    )
    people.add_argument(
        "--swap",
        action="append",
        default=[],
        type=_swap,
        metavar="ID,ID@S",
        help="exchange two ids from a time in seconds on: 3,5@12.4; an unused id makes a new person; repeatable, "
        "applied before --merge",
    )
    people.add_argument("--people", type=_ids, metavar="ID,..", help="keep only these people")

    add_tap_arguments(parser)

    add_part_arguments(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Replays each stream; returns 0 if all could be read, 2 if one of several could not, 130 after Ctrl-C."""
    config, changes = build_config(args), changes_of(args)
    if args.video is None:
        config = replace(config, draw=replace(config.draw, picture=False))
    watched = bool(args.show or args.serve or args.publish or args.publish_video)
    paced = watched if args.pace == "auto" else args.pace == "video"
    if args.loop:
        if not watched:
            raise ConfigError("--loop needs --serve, --show, --publish or --publish-video")
        config = replace(config, output=replace(config.output, video=False))
    names = streams(args.streams)
    if len(names) > 1:
        for option in ("video", "loop", "swap", "merge", "people"):
            if getattr(args, option):
                raise ConfigError(f"--{option} is for a single stream, and {len(names)} were given; replay it alone")
    return _run_each(args, config, names, changes, paced=paced)


def _run_each(
    args: argparse.Namespace, config: RunConfig, names: Sequence[str], changes: Changes, *, paced: bool
) -> int:
    """Replays streams one after another; results keep the folder structure below the output."""
    from sharpose_rt.replay import ReplayRun

    failed: list[str] = []
    jobs = streams_below(names)
    with open_taps(args, config, names, paced=paced) as taps:
        for stream, folder in jobs:
            try:
                job = ReplayRun(stream, config.below(folder), changes, args.video, taps, paced=paced, loop=args.loop)
                with stopped_by_signals(job) as signals, display(args, job) as on_packet:
                    results = job.run(on_packet)
            except (StreamError, ConfigError) as error:
                if len(jobs) == 1:
                    raise
                log.error("%s; continuing with the next one", error)
                failed.append(stream)
                continue
            if not args.quiet:
                say(args, lines_of(results))
            if signals:
                return 128 + signals[0]
    if len(jobs) > 1 and not args.quiet:
        say(args, f"{len(jobs) - len(failed)} of {len(jobs)} done{named('failed', failed)}")
    return 2 if failed else 0


def changes_of(args: argparse.Namespace) -> Changes:
    """The changes to the people that the command line asks for.

    Raises:
        ConfigError: the options contradict each other.
    """
    from sharpose_rt.replay import Changes

    if args.tracker and not args.track:
        raise ConfigError("--tracker needs --track")
    same: dict[int, int] = {}
    for new, olds in args.merge:
        for old in olds:
            if old == new or same.get(old, new) != new:
                raise ConfigError(f"--merge gives {old} two ids; one is accepted")
            same[old] = new
    if chained := sorted(set(same) & set(same.values())):
        raise ConfigError(f"--merge gives {chained[0]} another id, and its id to others; name only the final id")
    if args.people is not None and (gone := sorted(args.people & set(same))):
        raise ConfigError(f"--people keeps {gone[0]}, which --merge changes to {same[gone[0]]}; use that id")
    # Keypoints that were smoothed under a wrong id mix two people.
    smooth = args.track or args.smooth is not None or bool(args.swap)
    return Changes(track=args.track, smooth=smooth, same=same, wanted=args.people, swaps=tuple(args.swap))


def _ids(text: str) -> frozenset[int]:
    try:
        ids = frozenset(int(part) for part in text.split(","))
    except ValueError:
        ids = frozenset((0,))
    if min(ids) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ids; whole numbers from 1 are accepted, as in 1,3")
    return ids


def _merge(text: str) -> tuple[int, frozenset[int]]:
    one, sign, others = text.partition("=")
    if not sign or "," in one:
        raise argparse.ArgumentTypeError(f"{text!r} does not merge ids; ID=ID,ID is accepted, as in 3=7,12")
    return min(_ids(one)), _ids(others)


def _swap(text: str) -> Swap:
    from sharpose_rt.stages import Swap

    ids, _, time = text.rpartition("@")
    try:
        one, other = map(int, ids.split(","))
        from_s = float(time)
    except ValueError:
        one = other = 0
        from_s = math.nan
    if one < 1 or other < 1 or one == other or not 0 <= from_s < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} does not exchange ids; ID,ID@SECONDS is accepted, two ids and a time in the stream, as in "
            "3,5@12.4"
        )
    return Swap(one, other, from_s)
