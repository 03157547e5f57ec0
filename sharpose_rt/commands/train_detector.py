"""Trains a person detector: our own architecture, or one of ultralytics with a single class."""

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
HELP = "train a person detector"
HELD_OUT = 8
"""Least number of pictures to calibrate scores on (a quarter of a small set): with a single one, a good detector may
get scores so low that a run finds nobody."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt train-detector`."""
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the datasets; repeatable")
    parser.add_argument(
        "--set",
        metavar="NAME[=WEIGHT]",
        nargs="+",
        action="extend",
        default=[],
        help="datasets in COCO's or YOLO's format in which everybody has a box; WEIGHT: how often each picture is "
        "drawn (1)",
    )
    parser.add_argument(
        "--out", metavar="FILE", required=True, help=".safetensors file to write; the run is kept in FILE.run"
    )
    parser.add_argument(
        "--architecture",
        default="mobile150",
        metavar="NAME",
        help="mobile150 (that of the bundled detector) or a model file of ultralytics (%(default)s)",
    )
    parser.add_argument(
        "--init",
        default="movenet-multipose",
        metavar="WEIGHTS",
        help="a detector to fine-tune: bundled or a .safetensors file; or what the first layers of mobile150 start "
        "from: movenet-multipose (downloaded once, 145 MB), the path of its .json, or random (%(default)s)",
    )
    parser.add_argument(
        "--average",
        nargs="+",
        default=[],
        metavar="WEIGHTS",
        help="average the trained weights with these (bundled or .safetensors) at the end, so that the detector "
        "forgets less of what it knew; with --resume also for a finished run",
    )
    parser.add_argument(
        "--frozen-until",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of the run in which the first layers stay fixed (%(default)s)",
    )
    parser.add_argument(
        "--image-size", type=int, default=320, metavar="PX", help="longer side of its input (%(default)s)"
    )
    parser.add_argument(
        "--small-size", type=int, default=256, metavar="PX", help="the same in the first part of the run (%(default)s)"
    )
    parser.add_argument(
        "--large-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the later steps with larger pictures, up to twice --image-size (%(default)s)",
    )
    parser.add_argument(
        "--use-size", type=int, metavar="PX", help="longer side of its input in use (default: --image-size)"
    )
    parser.add_argument(
        "--closer-size", type=int, metavar="PX", help="the same while it sees small people (default: no other)"
    )
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="length of the run (%(default)s)")
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="pictures per step and process (%(default)s)"
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument(
        "--min-score", type=float, default=0.4, help="a teacher's boxes with lower scores are ignored (%(default)s)"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.03,
        metavar="SHARE",
        help=f"share of the pictures to calibrate scores on (%(default)s); at least {HELD_OUT}, or a quarter of fewer "
        f"than {4 * HELD_OUT}",
    )
    parser.add_argument("--precision", default="auto", help="auto, bf16 or fp32 (%(default)s)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: PyTorch's default")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that read pictures (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of weights, order and augmentation (%(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in FILE.run")


def run(args: argparse.Namespace) -> int:
    """Trains the detector and writes it; after Ctrl-C as far as it was trained.

    Under `torchrun`, all processes train together and the first one writes.

    Raises:
        ConfigError: --set is missing, or an option is out of range.
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
        raise OutputError(f"{out} exists; give another --out, or --resume to continue its run in {folder}")
    refuse_begun(folder, args.resume)
    if not args.set:
        raise ConfigError("--set names no dataset; give at least one in which everybody has a box")
    within("--use-size", args.use_size, *SIZES_PX)
    usual = args.use_size or args.image_size
    if args.closer_size and not usual <= args.closer_size <= SIZES_PX[1]:
        raise ConfigError(
            f"--closer-size is {args.closer_size}; {usual} (the usual size) to {SIZES_PX[1]} is accepted, or leave it "
            "out"
        )
    recipe = DetectorRecipe(**{name: getattr(args, name) for name in _RECIPE})
    others = [load_trained(name, recipe.architecture) for name in args.average]  # wrong ones fail before training
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
                f"--average {name} has other numbers of channels than the trained network, since one of them was "
                f"thinned; start from it (--init {name}), or leave it out"
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
    """The pictures of the datasets, and how often each is drawn.

    Raises:
        ConfigError: a weight is not valid.
        DatasetError: a dataset is missing or wrong.
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
    """The pictures kept out of training, each read once as a check, and the indices of the others.

    Raises:
        DatasetError: one of the former cannot be read.
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
