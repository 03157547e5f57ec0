"""`sharpose-rt train`: options, folders and the lines that the user sees."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sharpose_rt.errors import OutputError

if TYPE_CHECKING:
    from sharpose_rt.training.config import TrainConfig
    from sharpose_rt.training.log import Row
    from sharpose_rt.training.loop import Trainer, Validate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sharpose-rt train`."""
    parser.add_argument("--config", metavar="NAME", required=True, help="preset of configs/train, or a .yaml file")
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the sets; may repeat")
    parser.add_argument("--out", metavar="DIR", default="sharpose_train", help="folder of the run")
    parser.add_argument(
        "--max-minutes",
        type=float,
        metavar="N",
        help="end this part of the run after N minutes, for --resume to go on; --set minutes=N, or epochs=N, sets the "
        "length of the whole",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change an option")


def run(args: argparse.Namespace) -> int:
    """Train as `args` say; 0 when the budget or --max-minutes ended it, 130 when a signal did."""
    from sharpose_rt.models import find_variant
    from sharpose_rt.training.config import load_config
    from sharpose_rt.training.datasets import data_roots
    from sharpose_rt.training.loop import Trainer, load_people
    from sharpose_rt.training.report import write_report

    config = load_config(args.config, args.set)
    roots, out = data_roots(args.data_root), Path(args.out)
    if (out / "last.pt").exists() and not args.resume:
        raise OutputError(f"{out} holds a run already; --resume goes on with it, another --out starts a new one")
    if not args.resume:
        _write_config(out, config)
    people = load_people(config, roots, find_variant(config.model).skeleton, print)
    print(f"{len(people)} people in {len(people.image_paths)} pictures, {people.draws.sum():.0f} draws an epoch")
    trainer = Trainer(config, people, out, _validation(config, roots))
    if args.resume:
        trainer.resume()
        _write_config(out, config)  # not before: where it is refused, the run stays as it is
        length = f"{config.minutes:g} minutes" if config.budget == "minutes" else f"{config.epochs:g} epochs"
        print(f"resumed at step {trainer.step}, {trainer.clock.elapsed_s / 60:.1f} minutes, of a run of {length}")
    reason = _train(trainer, args.max_minutes)
    if trainer.world.leads:
        write_report(trainer)
    trainer.world.leave()
    hint = "" if reason == "finished" else "; --resume goes on"
    minutes = trainer.clock.elapsed_s / 60
    print(f"{reason} after {trainer.samples} samples, {minutes:.1f} minutes; results in {out}{hint}")
    return 130 if reason == "stopped" else 0


def _write_config(out: Path, config: TrainConfig) -> None:
    import yaml

    from sharpose_rt.config import to_dict

    try:
        out.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(_plain(to_dict(config)), sort_keys=False)
        (out / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to --out {out}: {error}") from error


def _plain(value: object) -> object:
    """Tuples as lists, which YAML can say."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _validation(config: TrainConfig, roots: list[Path]) -> Validate | None:
    """A function that measures AP of both stages on the validation set, or None without one."""
    item = config.data.validation
    if item is None:
        return None
    from sharpose_rt.evaluation.coco import evaluate
    from sharpose_rt.training.datasets import find_set

    folder = find_set(item.name, roots)

    def validate(model) -> Row:
        result = evaluate(
            model,
            folder / item.annotations,
            folder / item.images,
            head_boxes=folder / item.head_boxes if item.head_boxes else None,
        )
        measure = "PCKh" if "PCKh" in result else "AP"  # MPII has no AP
        return {"val_ap": result[measure], "val_ap_coarse": result[f"{measure}_coarse"]}

    return validate


def _train(trainer: Trainer, max_minutes: float | None) -> str:
    """Run with a progress bar on a terminal, with lines elsewhere."""
    if not sys.stderr.isatty():
        return trainer.run(max_minutes, lambda row: print(describe(row), flush=True))
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("starting", total=1.0)
        return trainer.run(
            max_minutes, lambda row: bar.update(task, completed=row["progress"], description=describe(row))
        )


def describe(row: Row) -> str:
    """One line of the log for people."""
    names = {"mse_coarse": "coarse", "mse_fine": "fine", "samples_per_s": "/s"}
    parts = [f"step {row['step']:.0f}", f"{row['elapsed_s'] / 60:.1f} min", f"{100 * row['progress']:.1f} %"]
    parts += [f"{names.get(key, key)} {value:.4g}" for key, value in row.items() if key not in _PLACE]
    return "  ".join(parts)


_PLACE = ("step", "samples", "elapsed_s", "progress")
