"""`sharpose-rt collect`: make a training dataset from videos and their skeleton streams.

Picks frames spread over the videos, preferring those where the network was least certain. Correct the labels in a
labelling program, then fine-tune the included network with them.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from sharpose_rt.commands.given import listed, streams
from sharpose_rt.errors import ConfigError

log = logging.getLogger("sharpose_rt")

HELP = "make a dataset from videos and their skeleton streams, to correct by hand and train on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt collect`."""
    parser.add_argument(
        "streams", metavar="STREAM", nargs="+", help="*.skeletons.jsonl files, folders or 'globs' of them, or @LIST"
    )
    parser.add_argument(
        "--video",
        metavar="FILE",
        nargs="+",
        help="the videos or pictures of the streams: matched by name, otherwise in this order (default: the recording "
        "of --record next to each stream)",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the dataset, which must not exist yet")
    parser.add_argument(
        "--pictures", metavar="N", type=int, default=100, help="number of pictures from all videos (default: 100)"
    )
    parser.add_argument(
        "--choose",
        choices=("unsure", "even"),
        default="unsure",
        help="from each of N spans of time: the frame where the network was least certain (default), or the middle one",
    )
    parser.add_argument(
        "--form",
        choices=("coco", "yolo"),
        default="coco",
        help="labels as annotations.json and images/ (default), or as ultralytics' text files with data.yaml",
    )
    parser.add_argument(
        "--val-share",
        metavar="SHARE",
        type=float,
        help="share of the pictures, the last of each video, for validation (default: 0, for yolo 0.2)",
    )
    parser.add_argument(
        "--min-score",
        metavar="S",
        type=float,
        default=0.3,
        help="do not label keypoints with lower scores (default: 0.3)",
    )
    parser.add_argument(
        "--rotate", type=int, choices=(0, 90, 180, 270), default=0, help="degrees, as in the runs (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Makes the dataset, and prints what is in it."""
    from sharpose_rt.collect import collect
    from sharpose_rt.commands.progress import every_few_seconds
    from sharpose_rt.config import SourceConfig

    done = 0.0
    say = every_few_seconds(lambda: f"{done:.0%}", quiet=False)

    def progress(share: float) -> None:
        nonlocal done
        done = share
        say()

    made = collect(
        _paired(streams(args.streams), args.video and _videos(args.video)),
        args.out,
        pictures=args.pictures,
        choose=args.choose,
        form=args.form,
        val_share=args.val_share,
        min_score=args.min_score,
        config=SourceConfig(rotate=args.rotate),
        progress=progress,
    )
    if made.unseen:
        log.warning("left out %d of the chosen frames: the video has no picture at their time", made.unseen)
    told = [f", {count} in {split}" for split, count in made.pictures.items() if len(made.pictures) > 1]
    total, people = sum(made.pictures.values()), sum(made.people.values())
    print(f"{made.folder}: {total} pictures with {people} people{''.join(told)}")
    return 0


def _videos(given: Sequence[str]) -> list[str]:
    """The videos and pictures: for a folder, or a glob that no shell has expanded, all in it."""
    from sharpose_rt.media import expand_sources

    return [spec for name in listed(given, "videos") for spec in expand_sources(name)]


def _paired(streams: Sequence[str], videos: Sequence[str] | None) -> list[tuple[str, str]]:
    """Each stream with its video.

    Raises:
        ConfigError: their numbers differ, there is no video, or a stream is given twice.
        StreamError: a stream cannot be read.
    """
    from sharpose_rt.skeletons import StreamReader
    from sharpose_rt.skeletons.convert.common import stem_of
    from sharpose_rt.skeletons.names import RECORDING

    if len({Path(stream).resolve() for stream in streams}) < len(streams):
        raise ConfigError("a stream is given twice; give it once")
    if videos is None:
        kept = [Path(stream).with_name(f"{stem_of(Path(stream))}{RECORDING}") for stream in streams]
        if missing := next((path for path in kept if not path.is_file()), None):
            raise ConfigError(
                f"there is no {missing}, which --record would have written; give the videos of the streams (--video "
                "FILE)"
            )
        return [(stream, str(path)) for stream, path in zip(streams, kept, strict=True)]
    sources = [StreamReader(stream).header.source for stream in streams]
    found, wanted = dict[str, str](), list[str]()
    for key in (os.path.realpath, os.path.basename):  # full paths first, as several may have the same name
        found, wanted = {key(video): video for video in videos}, [key(source) for source in sources]
        if len(found) == len(videos) and len(set(wanted)) == len(wanted) and set(wanted) <= set(found):
            return [(stream, found[one]) for stream, one in zip(streams, wanted, strict=True)]
    if len(streams) != len(videos):
        missing = ", ".join(name for name in wanted if name not in found) or "two have the same name"
        raise ConfigError(
            f"{len(streams)} streams and {len(videos)} videos were given, and cannot be matched by name ({missing}); "
            "give the videos in the order of the streams"
        )
    return list(zip(streams, videos, strict=True))
