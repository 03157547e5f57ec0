"""Pretrains the encoder by masked pictures, for `sharpose-rt train --set init=FILE` to start from."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

HELP = "pretrain the encoder on crops without labels (masked autoencoder)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sharpose-rt pretrain`."""
    parser.add_argument("--config", metavar="NAME", required=True, help="preset of configs/train, or a .yaml file")
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the sets; may repeat")
    parser.add_argument("--out", metavar="DIR", default="sharpose_pretrain", help="folder of the run (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="length of the run (else as --set or --config has it)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change an option")


def run(args: argparse.Namespace) -> int:
    """Pretrain as `args` say; 0 when the weights are written, 130 when a signal ended it before its time."""
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
        print(f"stopped after {trainer.samples} crops; the same command with --resume goes on")
        return 130
    weights = out / "weights.safetensors"
    print(f"{trainer.samples} crops; start training from them: sharpose-rt train --config NAME --set init={weights}")
    return 0
