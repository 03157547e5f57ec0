"""Converts videos to skeleton streams from your own program, with one network for all.

    python pipelines/video_to_skeletons.py videos/ skeletons/
    python pipelines/video_to_skeletons.py 'set/*/*.mp4' skeletons/

set/jump/01.mp4 becomes skeletons/jump/01.skeletons.jsonl, smoothed forward and backward. The exit status is 1 if a
video could not be used. The command line does the same, and can also continue after a stop: sharpose-rt --source
'set/*/*.mp4' --output skeletons --no-video --smooth rts --resume.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from sharpose_rt.app import FileRun
from sharpose_rt.config import load, merge
from sharpose_rt.errors import SharposeError
from sharpose_rt.graph import Models
from sharpose_rt.media import below, expand_sources


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", help="a folder, a file or a 'glob'")
    parser.add_argument("out", help="folder for the streams")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any option of a run")
    args = parser.parse_args(argv)

    try:
        config = load(None, ["output.video=false", "smooth.method=rts", *args.set])
        videos = expand_sources(args.videos)
        models = Models(config)  # loaded by the first video
    except SharposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    taken: defaultdict[Path, set[str]] = defaultdict(set)  # names of results: walk.avi and walk.mp4 are two
    failed = 0
    for video in videos:
        folder = Path(args.out, below(args.videos, video))
        try:
            one = merge(config, {"output": {"directory": str(folder)}}, where="out")
            results = FileRun(video, one, taken=taken[folder], models=models).run()
        except SharposeError as error:  # one bad file must not cost the others
            print(f"{video}: {error}")
            failed += 1
            continue
        except KeyboardInterrupt:  # what is done stays done
            return 130
        figures = results.figures
        print(f"{video}: {figures['frames']} frames, {figures['people']['ids']} people -> {results.stream}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
