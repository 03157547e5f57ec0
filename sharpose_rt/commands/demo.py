"""Shows the main command without needing a file: makes a short clip of people and tracks them.

The clip pans over the photographs inside the installed ultralytics package. Nothing is downloaded, unless --detector
names a model that is not on this machine.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from sharpose_rt.commands import track
from sharpose_rt.commands.run_options import add_run_arguments, build_config

HELP = "track people in a clip that is made on the spot, without a download or a file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `track`, except for the source."""
    parser.add_argument("--seconds", type=_seconds, default=6.0, help="length of the clip (default: %(default)g)")
    add_run_arguments(parser)
    parser.set_defaults(resume=False)  # the clip is new


def run(args: argparse.Namespace) -> int:
    """Makes the clip in the folder for results, then runs `track`."""
    config = build_config(args)  # refuses bad options before any work
    if config.detector.name == "auto":
        args.offline = True  # 'auto' must not download; a detector given by name may
    folder = Path(config.output.directory)

    from sharpose_rt.media.demo_clip import make_demo_clip
    from sharpose_rt.skeletons.names import unique_name

    # An earlier clip, or another video of that name, is kept, like the results next to it.
    taken = set() if config.output.overwrite else {path.stem for path in folder.glob("*.mp4")}
    clip = make_demo_clip(folder / f"{unique_name('demo_clip', taken)}.mp4", args.seconds)
    if not args.quiet:
        print(f"made {clip}", file=sys.stderr if "-" in args.publish else sys.stdout, flush=True)
    args.source = [str(clip)]
    return track.run(args)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.2 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not accepted; use 0.2 to 600 seconds")
    return value
