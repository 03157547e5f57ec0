"""Trains the person detector: ours, or an architecture of ultralytics, one class."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpose_rt.training.pictures import Picture

_RECIPE = (
    *("architecture", "init", "frozen_until", "image_size", "small_size", "large_share"),
    *("minutes", "batch", "lr", "precision", "device", "threads", "workers", "seed"),
)
HELP = "train the person detector"
HELD_OUT = 8
"""Pictures that scores are calibrated on at least, or a quarter of all: by one alone a sound detector may be so unsure
of everybody that a run finds nobody."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sharpose-rt train-detector`."""
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the sets; may repeat")
    parser.add_argument(
        "--set",
        metavar="NAME[=WEIGHT]",
        nargs="+",
        action="extend",
        default=[],
        help="sets in COCO's or YOLO's form in which everybody has a box, and how often each picture is drawn (1)",
    )
    parser.add_argument(
        "--out", metavar="FILE", required=True, help=".safetensors file to write; FILE.run holds the run"
    )
    parser.add_argument(
        "--architecture",
        default="mobile150",
        metavar="NAME",
        help="mobile150, the one that ships, or a model file of ultralytics (%(default)s)",
    )
    parser.add_argument(
        "--init",
        default="movenet-multipose",
        metavar="WEIGHTS",
        help="bundled (the detector that ships) or a .safetensors, to train on from; or where the first layers of "
        "mobile150 start: movenet-multipose (downloaded once, 145 MB), the path of its .json, or random (%(default)s)",
    )
    parser.add_argument(
        "--average",
        nargs="+",
        default=[],
        metavar="WEIGHTS",
        help="at the end, take the mean of what was trained and of these (bundled, or .safetensors): so "
        "it forgets less of what it was trained on from; with --resume, of a run that has ended, too",
    )
    parser.add_argument(
        "--frozen-until", type=float, default=0.2, metavar="SHARE", help="of the run they stay so (%(default)s)"
    )
    parser.add_argument("--image-size", type=int, default=320, metavar="PX", help="longest side (%(default)s)")
    parser.add_argument(
        "--small-size", type=int, default=256, metavar="PX", help="side in the first part of the run (%(default)s)"
    )
    parser.add_argument(
        "--large-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the steps behind that, with larger pictures, up to twice --image-size (%(default)s)",
    )
    parser.add_argument("--use-size", type=int, metavar="PX", help="longest side it is used at (that of training)")
    parser.add_argument(
        "--closer-size", type=int, metavar="PX", help="longest side it is used at where there are small people (none)"
    )
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="length of the run (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="of a step and process (%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--min-score", type=float, default=0.4, help="a teacher's box below is unsure (%(default)s)")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.03,
        metavar="SHARE",
        help=f"to calibrate on (%(default)s); {HELD_OUT} pictures at least, a quarter of fewer than {4 * HELD_OUT}",
    )
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (%(default)s)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 is PyTorch's choice")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that read (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and variation (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in FILE.run")


def run(args: argparse.Namespace) -> int:
    """Train as `args` say; 0 when the file is written, also after Ctrl-C with what there is.

    Under `torchrun` all processes train together, and the first writes.

    Raises:
        ConfigError: an option is out of range.
        DatasetError: a set is wrong or empty.
        OutputError: --out cannot be written.
    """
    import numpy as np

    from sharpose_rt.config.checks import within
    from sharpose_rt.detection.bundled import SIZES_PX
    from sharpose_rt.errors import ConfigError, OutputError
    from sharpose_rt.models.weights import mean_state
    from sharpose_rt.training.checkpoint import refuse_begun
    from sharpose_rt.training.detector_finish import finish_detector
    from sharpose_rt.training.detector_recipe import DetectorRecipe
    from sharpose_rt.training.person_detector import DetectorTrainer, load_trained
    from sharpose_rt.training.running import weights_file

    out = weights_file(args.out)
    folder = out.with_name(out.name + ".run")
    if out.exists() and not args.resume:
        raise OutputError(f"{out} exists; another --out leaves it alone, --resume goes on with its run in {folder}")
    refuse_begun(folder, args.resume)
    if not args.set:
        raise ConfigError("--set names no set; at least one in which everybody has a box is wanted")
    within("--use-size", args.use_size, *SIZES_PX)
    usual = args.use_size or args.image_size
    if args.closer_size and not usual <= args.closer_size <= SIZES_PX[1]:
        raise ConfigError(
            f"--closer-size is {args.closer_size}; at least the usual {usual} and at most {SIZES_PX[1]} is accepted, "
            "or none"
        )
    recipe = DetectorRecipe(**{name: getattr(args, name) for name in _RECIPE})
    others = [load_trained(name, recipe.architecture) for name in args.average]  # wrong ones are told of before hours
    if not 0 < args.held_out < 1:
        raise ConfigError(f"--held-out is {args.held_out}; a share above 0 and below 1 is accepted")
    pictures, draws = _read_sets(args)
    people = sum(len(picture.people_xyxy) for picture in pictures)
    held_out, kept = _hold_out(pictures, args.held_out, args.seed)
    used = [pictures[i] for i in kept], np.array(draws)[kept]
    trainer = DetectorTrainer(*used, recipe, folder, resume=args.resume)
    for name, other in zip(args.average, others, strict=True):
        if _shapes(other) != _shapes(trainer.module):
            raise ConfigError(
                f"--average {name} has other numbers of channels than what is trained, since one of them was thinned; "
                f"the mean of two as wide is accepted: train on from it (--init {name}), or leave it out"
            )
    leads = trainer.world.leads
    if leads:
        print(f"{len(pictures)} pictures with {people} people", flush=True)
    trainer.run(say=lambda line: print(line, flush=True))
    trainer.world.leave()
    if not leads:
        return 0
    facts = {
        "trained_on": ", ".join(args.set),
        "trained_steps": str(trainer.step),
        "trained_minutes": f"{trainer.clock.elapsed_s / 60:.1f}",
        "seed": str(args.seed),
    }
    if args.average:
        facts["average_with"] = ", ".join(Path(name).name for name in args.average)
    if args.use_size:
        facts["image_size"] = str(args.use_size)
    if args.closer_size:
        facts["closer_size"] = str(args.closer_size)
    module = trainer.averaged()
    if others:
        module.load_state_dict(mean_state([module, *others]))
    finish_detector(out, module, recipe, facts, held_out, print)
    print(f"{trainer.step} steps, {trainer.clock.elapsed_s / 60:.1f} minutes; detector in {out}")
    return 0


def _read_sets(args: argparse.Namespace) -> tuple[list[Picture], list[float]]:
    """The pictures of the sets, and how often each is drawn.

    Raises:
        ConfigError: a weight is none.
        DatasetError: a set is missing or wrong.
    """
    from sharpose_rt.training.datasets import data_roots, find_set
    from sharpose_rt.training.pictures import read_pictures

    roots, pictures, draws = data_roots(args.data_root), [], []
    for name, weight in map(_weighted, args.set):
        found = read_pictures(find_set(name, roots), args.min_score)
        pictures += found
        draws += [weight] * len(found)
    return pictures, draws


def _hold_out(pictures: Sequence[Picture], share: float, seed: int) -> tuple[list[Picture], list[int]]:
    """Pictures that the training never looks at, and the places of the others; each of the first is read once here.

    Raises:
        DatasetError: one cannot be read.
    """
    import numpy as np

    order = np.random.default_rng((seed, 1)).permutation(len(pictures)).tolist()
    count = max(1, round(share * len(pictures)), min(HELD_OUT, len(pictures) // 4))
    held_out = [pictures[i] for i in order[:count]]
    for picture in held_out:
        picture.read()
    return held_out, sorted(order[count:])


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _weighted(text: str) -> tuple[str, float]:
    from sharpose_rt.errors import ConfigError

    name, _, weight = text.partition("=")
    try:
        value = float(weight or 1)
    except ValueError:
        value = -1.0
    if not name or not 0 < value < math.inf:
        raise ConfigError(f"--set got {text!r}; NAME or NAME=WEIGHT with a finite weight above 0 is accepted")
    return name, value
