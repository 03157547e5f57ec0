"""A folder of videos to skeleton streams, one for each, without drawing anything; skips what is done.

    python pipelines/video_to_skeletons.py videos/ skeletons/
    python pipelines/video_to_skeletons.py 'set/*/*.mp4' skeletons/

Each video has a folder of its name, below those that the pattern leaves open: set/jump/01.mp4 skeletons/jump/01. Run it
again after an interruption, or when there are more videos: finished streams stay, an unfinished one is made anew. Its
status is 1 where a video could not be used.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from pathlib import Path

from sharpose_rt.app import FileRun
from sharpose_rt.config import load, merge
from sharpose_rt.errors import SharposeError, StreamError
from sharpose_rt.graph import Models
from sharpose_rt.media import below, expand_sources, open_source
from sharpose_rt.skeletons import StreamReader, plain
from sharpose_rt.skeletons.names import safe_stem


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
    folders = [Path(args.out, below(args.videos, video), safe_stem(Path(video).stem)) for video in videos]
    sharing = Counter(folders)
    failed = 0
    for video, folder in zip(videos, folders, strict=True):
        with_ending = folder.with_name(safe_stem(Path(video).name))  # walk.avi and walk.mp4 are two
        out = with_ending if sharing[folder] > 1 else folder
        try:
            source = str(Path(plain(open_source(video).name)).resolve())  # as the header of its stream has it
            if source in finished(folder) | finished(with_ending):
                print(f"{video}: done before")
                continue
            output = {"directory": str(out), "overwrite": not finished(out)}  # what is of another video stays
            results = FileRun(video, merge(config, {"output": output}, where="out"), models=models).run()
        except SharposeError as error:  # one bad file must not cost the others
            print(f"{video}: {error}")
            failed += 1
            continue
        except KeyboardInterrupt:  # what is done stays done
            return 130
        figures = results.figures
        print(f"{video}: {figures['frames']} frames, {figures['people']['ids']} people -> {results.stream}")
    return 1 if failed else 0


def finished(folder: Path) -> set[str]:
    """The sources, from the root on, of the streams in the folder that were written to their end."""
    sources = set()
    for path in folder.glob("*.skeletons.jsonl"):
        with contextlib.suppress(StreamError):  # torn in its first line
            reader = StreamReader(path)
            if reader.ending()[0] == "complete":
                sources.add(str(Path(reader.header.source).resolve()))
    return sources


if __name__ == "__main__":
    sys.exit(main())
