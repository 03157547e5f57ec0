"""Trains the bundled detector's filters on labelled pictures, or calibrates the scores of a file of them.

A part of the pictures is held out by the seed: the filters never see it, and scores are calibrated on it alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train or calibrate the linear filters of the detector `bundled`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sharpose-rt train-detector`."""
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the sets; may repeat")
    parser.add_argument(
        "--set", metavar="NAME", nargs="+", default=[], help="sets in COCO's form in which everybody has a box"
    )
    parser.add_argument(
        "--people-only",
        metavar="NAME",
        nargs="+",
        default=[],
        help="sets in which somebody may lack a box: they give people, but no background and no calibration",
    )
    parser.add_argument("--out", metavar="FILE", required=True, help=".safetensors file to write")
    parser.add_argument("--rounds", type=int, default=1, help="searches for hard background (%(default)s)")
    parser.add_argument("--people-per-set", type=int, default=3000, metavar="N", help="at most (%(default)s)")
    parser.add_argument("--held-out", type=float, default=0.05, metavar="SHARE", help="for calibration (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of every choice (%(default)s)")
    parser.add_argument(
        "--calibrate", metavar="FILE", help="train nothing: calibrate these filters on all pictures of the sets"
    )


def run(args: argparse.Namespace) -> int:
    """Train and calibrate as `args` say; 0 when the file is written.

    Raises:
        ConfigError: an option is out of range.
        DatasetError: a set is wrong or too small.
        WeightsError: the filters of --calibrate cannot be read.
        OutputError: --out cannot be written.
    """
    from sharpose_rt.detection.hog import load_filters
    from sharpose_rt.training import people_filters as training
    from sharpose_rt.training.datasets import data_roots, find_set

    _check(args)
    roots = data_roots(args.data_root)
    names = [(name, True) for name in args.set] + [(name, False) for name in args.people_only]
    pictures = [p for name, complete in names for p in training.read_pictures(find_set(name, roots), complete=complete)]
    if args.calibrate:
        filters, held_out = load_filters(Path(args.calibrate)), pictures
        facts = _facts_of(Path(args.calibrate))
    else:
        kept, held_out = training.hold_out(pictures, args.held_out, args.seed)
        print(f"{len(kept)} pictures to learn from, {len(held_out)} held out", flush=True)
        recipe = training.Recipe(seed=args.seed, rounds=args.rounds, people_per_set=args.people_per_set)
        filters = training.train_filters(kept, recipe, lambda line: print(line, flush=True))
        facts = {"seed": str(args.seed), "trained_on": ", ".join(name for name, _ in names), "rounds": str(args.rounds)}
    filters, seen = training.calibrate(filters, held_out)
    facts["calibrated_on"] = ", ".join(f"{name} ({count} pictures)" for name, count in seen.pictures.items())
    training.save_filters(Path(args.out), filters, facts)
    print(f"calibrated on {seen.boxes} boxes, {seen.hits} of them people: {facts['calibrated_on']}")
    print(f"filters in {args.out}")
    return 0


def _check(args: argparse.Namespace) -> None:
    from sharpose_rt.errors import ConfigError

    if not args.set:
        raise ConfigError("--set names no set; one in which everybody has a box is wanted, for background at the least")
    if args.rounds < 0 or args.people_per_set < 1 or args.seed < 0:
        raise ConfigError(
            f"--rounds is {args.rounds}, --people-per-set {args.people_per_set}, --seed {args.seed}; "
            "0 or more, 1 or more, 0 or more are accepted"
        )
    if not 0 < args.held_out < 1:
        raise ConfigError(f"--held-out is {args.held_out}; a share above 0 and below 1 is accepted")
    if Path(args.out).suffix != ".safetensors":
        raise ConfigError(f"--out is {args.out!r}; a name that ends in .safetensors is accepted")


def _facts_of(path: Path) -> dict[str, str]:
    """What a file of filters says of its training."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})
