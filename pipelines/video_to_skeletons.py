"""A folder of videos to skeleton streams, one for each, without drawing anything; skips what is done.

    python pipelines/video_to_skeletons.py videos/ skeletons/

Run it again after an interruption: finished streams stay, an unfinished one is made anew. Its status is 1 where a video
could not be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sharpose_rt.app import FileRun
from sharpose_rt.config import load, merge
from sharpose_rt.errors import SharposeError, StreamError
from sharpose_rt.graph import Models
from sharpose_rt.media import expand_sources
from sharpose_rt.skeletons import StreamReader, plain
from sharpose_rt.skeletons.names import safe_stem, unique_name


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", help="a folder, a file or a 'glob'")
    parser.add_argument("out", help="folder for the streams")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any option of a run")
    args = parser.parse_args(argv)

    try:
        config = load(None, ["output.video=false", "output.overwrite=true", "smooth.method=rts", *args.set])
        videos = expand_sources(args.videos)
        models = Models(config)  # loaded by the first video
    except SharposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    taken: set[str] = set()
    failed = 0
    for video in videos:
        stem = safe_stem(Path(video).stem)
        out = Path(args.out) / unique_name(stem, taken)  # walk.avi and walk.mp4 are two
        if any(is_complete(stream, video) for stream in out.glob("*.skeletons.jsonl")):
            print(f"{video}: done before")
            continue
        try:
            here = merge(config, {"output": {"directory": str(out)}}, where="out")
            results = FileRun(video, here, models=models).run()
        except SharposeError as error:  # one bad file must not cost the others
            print(f"{video}: {error}")
            failed += 1
            continue
        figures = results.figures
        print(f"{video}: {figures['frames']} frames, {figures['people']['ids']} people -> {results.stream}")
    return 1 if failed else 0


def is_complete(stream: Path, video: str) -> bool:
    """A stream of a video of this name that was written to its end."""
    try:
        reader = StreamReader(stream)
        for _ in reader:
            pass
    except StreamError:  # torn in its first line
        return False
    whole = reader.end is not None and reader.end["status"] == "complete"
    return whole and Path(reader.header.source).name == plain(Path(video).name)


if __name__ == "__main__":
    sys.exit(main())
