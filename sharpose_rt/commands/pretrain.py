"""Pretrains the encoder on masked pictures, as a start for `sharpose-rt train --set init=FILE`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

HELP = "pretrain the encoder on unlabelled crops (masked autoencoder)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt pretrain`."""
    parser.add_argument("--config", metavar="NAME", required=True, help="preset of configs/train, or a .yaml file")
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the datasets; repeatable")
    parser.add_argument("--out", metavar="DIR", default="sharpose_pretrain", help="folder of the run (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="length of the run (default: from --set or --config)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change an option")


def run(args: argparse.Namespace) -> int:
    """Pretrains the encoder; returns 0 if the weights were written, 130 if a signal stopped it early."""
    from sharpose_rt.models import find_variant
    from sharpose_rt.training.checkpoint import refuse_begun
    from sharpose_rt.training.config import load_config
    from sharpose_rt.training.datasets import data_roots, load_people
    from sharpose_rt.training.pretrain import Pretrainer

    config = replace(load_config(args.config, args.set), budget="minutes")
    config = config if args.minutes is None else replace(config, minutes=args.minutes)
    out = Path(args.out)
    refuse_begun(out, args.resume)
    people = load_people(config, data_roots(args.data_root), find_variant(config.model).skeleton)
    trainer = Pretrainer(config, people, out, resume=args.resume)
    trainer.run(lambda line: print(line, flush=True))
    if trainer.stopped:
        print(f"stopped after {trainer.samples} crops; continue with the same command and --resume")
        return 130
    weights = out / "weights.safetensors"
    print(f"{trainer.samples} crops; to train from these weights: sharpose-rt train --config NAME --set init={weights}")
    return 0
