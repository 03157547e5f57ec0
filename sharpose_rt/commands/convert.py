"""`sharpose-rt convert`: a skeleton stream in the format of another program."""

from __future__ import annotations

import argparse
from typing import Any

from sharpose_rt.errors import ConfigError

HELP = "write a skeleton stream as openpose, alphapose, coco, kinetics, pyskl, mot, csv or trc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The stream, the format and its options."""
    parser.add_argument("stream", metavar="IN", help="a *.skeletons.jsonl file")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=HELP.removeprefix("write a skeleton stream as "))
    parser.add_argument("--out", metavar="PATH", help="file or folder to write; default: beside the stream")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--person-slots", type=int, metavar="N", help="people of an array (pyskl, kinetics)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="any option of the format, as its docs name"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file or files and prints where they are."""
    from sharpose_rt.skeletons.convert import convert

    options = _options(args.option)
    if args.person_slots is not None:
        options["person_slots"] = args.person_slots
    for path in convert(args.stream, args.to, args.out, overwrite=args.overwrite, **options):
        print(path)
    return 0


def _options(items: list[str]) -> dict[str, Any]:
    import yaml

    options = {}
    for item in items:
        key, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"--option takes key=value, as in --option min_score=0.2; got {item!r}")
        options[key] = yaml.safe_load(text)
    return options
