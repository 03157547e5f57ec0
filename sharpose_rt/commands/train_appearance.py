"""Trains the network with which the tracker recognises people who return."""

from __future__ import annotations

import argparse

_RECIPE = ("minutes", "people", "lr", "precision", "threads", "workers", "seed")
HELP = "train the network that recognises people by their appearance"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt train-appearance`."""
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the datasets; repeatable")
    parser.add_argument(
        "--set",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=[],
        help="datasets in COCO's or YOLO's format, of people with boxes",
    )
    parser.add_argument("--out", metavar="FILE", required=True, help=".safetensors file to write")
    parser.add_argument("--minutes", type=float, default=20.0, metavar="N", help="length of the run (%(default)s)")
    parser.add_argument(
        "--people", type=int, default=192, metavar="N", help="people per step, with two views of each (%(default)s)"
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument(
        "--min-score", type=float, default=0.4, help="leave out a teacher's boxes with lower scores (%(default)s)"
    )
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: PyTorch's default")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that read pictures (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of weights, order and augmentation (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Trains the network and writes it; after Ctrl-C as far as it was trained.

    Raises:
        ConfigError: --set is missing, or an option is out of range.
        DatasetError: a set is wrong or has too few people.
        OutputError: --out cannot be written.
    """
    import numpy as np

    from sharpose_rt.errors import ConfigError, OutputError
    from sharpose_rt.models.weights import write_network
    from sharpose_rt.training.appearance import AppearanceRecipe, AppearanceTrainer, hold
    from sharpose_rt.training.datasets import data_roots, find_set
    from sharpose_rt.training.pictures import read_pictures
    from sharpose_rt.training.running import weights_file

    out = weights_file(args.out)
    if out.exists():
        raise OutputError(f"{out} exists; give another --out")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"there is no folder {out.absolute().parent} for --out; create it first")
    if not args.set:
        raise ConfigError("--set names no dataset; give at least one whose people have boxes")
    recipe = AppearanceRecipe(**{name: getattr(args, name) for name in _RECIPE})
    roots = data_roots(args.data_root)
    pictures = [picture for name in args.set for picture in read_pictures(find_set(name, roots), args.min_score)]
    order = np.random.default_rng((args.seed, 1)).permutation(len(pictures))
    people = hold([pictures[i] for i in order], recipe.workers)
    print(f"{len(pictures)} pictures, {len(people)} people", flush=True)
    trainer = AppearanceTrainer(people, recipe)
    trainer.run(say=lambda line: print(line, flush=True))
    minutes = f"{trainer.clock.elapsed_s / 60:.1f}"
    facts = {"trained_on": ", ".join(args.set), "trained_steps": str(trainer.step), "trained_minutes": minutes}
    write_network(trainer.averaged(), out, facts | {"seed": str(args.seed)})
    print(f"{trainer.step} steps, {minutes} minutes; network in {out}")
    return 0
