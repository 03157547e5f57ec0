"""`sharpose-rt convert`: convert a skeleton stream to the format of another program, or from one."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpose_rt.commands.given import named, streams, streams_below
from sharpose_rt.commands.run_options import size
from sharpose_rt.errors import ConfigError, OutputError, StreamError

log = logging.getLogger("sharpose_rt")

HELP = "convert skeleton streams to openpose, alphapose, coco, kinetics, pyskl, mot, csv, ..., or from other programs"

OPTIONS = """\
--option of each format, with its default:
  openpose    model=BODY_25 (or COCO), raw=false, min_score=0.0, predicted=true
  alphapose   raw=false, min_score=0.0, predicted=true
  coco        first_image_id=0, raw=false, min_score=0.0, predicted=true
  coco_labels file_name={stem}_{frame:06d}.jpg, first_image_id=0, raw=false, min_score=0.3
  kinetics    label=unknown, label_index=-1, person_slots=5, max_frames=null, fps=null, raw=false, \
min_score=0.0, predicted=true
  pyskl       split=val, label=-1, person_slots=2, fill=none, max_gap_s=null, fps=null, dtype=float32, raw=false, \
min_score=0.0, predicted=true
  mot         predicted=true
  csv         raw=false, min_score=0.0, predicted=true, angles=false
  parquet     raw=false, min_score=0.0, predicted=true, angles=false
  trc         px_per_m=null, raw=false, min_score=0.0, predicted=true
  deeplabcut  raw=false, min_score=0.0, predicted=true
raw=true uses the keypoints before smoothing; keypoints with a score below min_score count as not found;
predicted=false leaves out people in frames where they were not seen but predicted (stage), as coco_labels always does;
angles=true adds joint angles."""
"""Written out, because asking the formats would load them for every command. A test compares."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the stream, the format and its options."""
    parser.add_argument(
        "streams",
        metavar="IN",
        nargs="+",
        help="*.skeletons.jsonl files, folders or 'globs' of them, or @LIST (- for standard input); with --from the "
        "files of the other program",
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--to",
        metavar="FORMAT",
        help="openpose, alphapose, coco, coco_labels, kinetics, pyskl, mot, csv, parquet, trc or deeplabcut",
    )
    way.add_argument(
        "--from",
        dest="from_",
        metavar="FORMAT",
        help="write a skeleton stream from coco, openpose, alphapose, mmpose, ultralytics or easy_vitpose JSON",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="file to write, or a folder for it (openpose: the folder of its files); default: next to IN. For several "
        "IN a folder, or with pyskl one file for all of them",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")

    to = parser.add_argument_group("with --to")
    to.add_argument("--person-slots", type=int, metavar="N", help="number of people (pyskl, kinetics)")
    to.add_argument("--fill", choices=("none", "hold", "linear"), help="how gaps in a track are filled (pyskl)")
    to.add_argument("--max-gap", type=float, metavar="S", help="do not fill gaps longer than this (pyskl)")
    to.add_argument(
        "--labels",
        metavar="FILE|folders",
        help="the class of each clip in a dataset (pyskl): a file with lines of name,label[,split], where names may "
        "have folders (jump/01.mp4) and labels are numbers or names, the CSV of Kinetics, or JSON, an object of labels "
        "by name; or 'folders': the folder of its video is the class, and train, val or test above it the split",
    )
    to.add_argument(
        "--classes",
        metavar="FILE",
        help="class names in the order of their numbers, one per line (default: sorted, and written next to the "
        "dataset)",
    )
    to.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the format, listed below"
    )

    back = parser.add_argument_group(
        "with --from", "The video gives times and frame size; without it, give both (COCO labels contain the size)."
    )
    back.add_argument("--video", metavar="FILE", help="the video that the results belong to")
    back.add_argument("--fps", type=float, metavar="N", help="frames per second")
    back.add_argument(
        "--first-frame", type=int, metavar="N", help="number of the first frame in the results (default: 0)"
    )
    back.add_argument("--frame-size", type=size, metavar="WxH", help="frame size in px, such as 1280x720")

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = OPTIONS


def run(args: argparse.Namespace) -> int:
    """Writes the files and prints where they are."""
    other = (
        ("video", "fps", "frame_size", "first_frame")
        if args.to
        else ("person_slots", "fill", "max_gap", "labels", "classes", "option")
    )
    for name in other:
        if getattr(args, name) not in (None, []):
            raise ConfigError(f"--{name.replace('_', '-')} goes with {'--from' if args.to else '--to'}; leave it out")
    if args.from_:
        print(_import(args))
        return 0
    failed: list[str] = []
    for path in _export(args, failed):
        print(path)
    if failed:
        log.error("not all were converted%s", named("failed", failed))
    return 2 if failed else 0


def _export(args: argparse.Namespace, failed: list[str]) -> Iterator[Path]:
    """Yields each file as it is written; if there are several streams, unreadable ones are added to `failed`."""
    from sharpose_rt.skeletons.convert import check_format, convert, convert_set, options_of
    from sharpose_rt.skeletons.convert.common import stem_of
    from sharpose_rt.skeletons.names import results_of

    if args.classes and not args.labels:
        raise ConfigError("--classes names the classes of --labels; give that too, or leave it out")
    names = streams(args.streams)
    options = options_of(args.option)
    given = {"person_slots": args.person_slots, "fill": args.fill, "max_gap_s": args.max_gap}
    options |= {name: value for name, value in given.items() if value is not None}
    if args.to == "pyskl" and (args.labels or len(names) > 1):
        if args.out is None:
            raise ConfigError("a dataset of several clips needs a name; give one (--out FILE)")
        yield convert_set(names, args.out, args.labels, classes=args.classes, overwrite=args.overwrite, **options)
        return
    if args.labels:
        raise ConfigError(f"--labels goes with --to pyskl, not with {args.to}; leave it out")
    if len(names) == 1 and (args.out is None or args.to == "pyskl" or names == args.streams):
        yield from convert(names[0], args.to, args.out, overwrite=args.overwrite, **options)
        return
    suffix = check_format(args.to, options).suffix
    if args.out is None:
        folders = [Path(name).parent for name in names]
    else:
        folders = [Path(args.out) / below for _, below in streams_below(names)]
    targets = [folder / (stem_of(Path(name)) + suffix) for folder, name in zip(folders, names, strict=True)]
    if twice := [target for target, count in Counter(targets).items() if count > 1]:
        raise ConfigError(f"several streams would be written to {twice[0]}; rename one, or convert them one by one")
    old = [] if args.overwrite else [found[0] for found in map(results_of, targets) if found]
    if old:
        raise OutputError(
            f"{len(old)} of {len(targets)} results exist already, such as {old[0]}; choose another folder (--out), or "
            "replace them (--overwrite)"
        )
    for name, target in zip(names, targets, strict=True):
        try:
            yield from convert(name, args.to, target, overwrite=args.overwrite, **options)
        except StreamError as error:
            log.error("%s; continuing with the next one", error)
            failed.append(name)


def _import(args: argparse.Namespace) -> Path:
    from sharpose_rt.skeletons.importers import import_stream

    if len(args.streams) > 1:
        raise ConfigError(f"--from accepts one IN, of one video; {len(args.streams)} were given")
    what: dict[str, Any] = {"frame_size_wh": args.frame_size, "fps": args.fps}
    if args.video:
        for option in ("fps", "frame_size"):
            if getattr(args, option) is not None:
                raise ConfigError(f"--video already determines --{option.replace('_', '-')}; give only one of them")
        what = _facts(args.video)
    elif args.fps is None:
        raise ConfigError(
            "results of other programs contain no times, and only COCO labels the frame size; give --video FILE, or "
            "--fps N and --frame-size WxH"
        )
    what["first_frame"] = args.first_frame or 0
    return import_stream(args.streams[0], args.from_, args.out, overwrite=args.overwrite, **what)


def _facts(video: str) -> dict[str, Any]:
    """Name, frame size, frame rate and the media time of each frame, as in a run over the video."""
    from sharpose_rt.media import open_source

    with open_source(video) as source:
        times_s = [frame.pts_s for frame in source]
        info = source.info
    return {"source": info.name, "frame_size_wh": info.size_wh, "fps": info.fps, "times_s": times_s}
