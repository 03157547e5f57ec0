"""`sharpose-rt train`: train a variant of the pose network from a preset; see `configs/train`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sharpose_rt.errors import DatasetError, writing
from sharpose_rt.machine.whole_files import write_whole

if TYPE_CHECKING:
    from sharpose_rt.training.config import TrainConfig
    from sharpose_rt.training.log import Row
    from sharpose_rt.training.loop import Trainer, Validate

HELP = "train a pose network, with a time limit, resuming and a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt train`."""
    parser.add_argument("--config", metavar="NAME", required=True, help="preset of configs/train, or a .yaml file")
    parser.add_argument("--data-root", metavar="DIR", action="append", help="parent folder of the datasets; repeatable")
    parser.add_argument("--out", metavar="DIR", default="sharpose_train", help="folder of the run")
    parser.add_argument(
        "--max-minutes",
        type=float,
        metavar="N",
        help="stop after N minutes, to continue later with --resume; --set minutes=N, or epochs=N, sets the length of "
        "the whole run",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change an option")


def run(args: argparse.Namespace) -> int:
    """Trains the network; returns 0 if the budget or --max-minutes ended it, 130 if a signal did."""
    from sharpose_rt.config.checks import within
    from sharpose_rt.models import find_variant
    from sharpose_rt.training.checkpoint import refuse_begun
    from sharpose_rt.training.config import load_config
    from sharpose_rt.training.datasets import data_roots, load_people
    from sharpose_rt.training.loop import Trainer
    from sharpose_rt.training.report import write_report

    within("--max-minutes", args.max_minutes, 0)
    config = load_config(args.config, args.set)
    roots, out = data_roots(args.data_root), Path(args.out)
    refuse_begun(out, args.resume)
    with nullcontext() if args.resume else _new_run(out, config):
        people = load_people(config, roots, find_variant(config.model).skeleton, print)
        pictures = len(set(people.image_index.tolist()))
        print(f"{len(people)} people in {pictures} pictures, {people.draws.sum():.0f} draws per epoch")
        trainer = Trainer(config, people, out, _validation(config, roots), resume=args.resume)
        if args.resume:
            _write_config(out, config)  # not earlier: if resuming is refused, the run stays as it is
            length = f"{config.minutes:g} minutes" if config.budget == "minutes" else f"{config.epochs:g} epochs"
            print(
                f"resumed at step {trainer.step} after {trainer.clock.elapsed_s / 60:.1f} minutes; length of the run: "
                f"{length}"
            )
        reason = _train(trainer, args.max_minutes)
    minutes = trainer.clock.elapsed_s / 60
    if trainer.world.leads:
        write_report(trainer)
    trainer.world.leave()
    hint = "" if reason == "finished" else "; continue with --resume"
    print(f"{reason} after {trainer.samples} samples, {minutes:.1f} minutes; results in {out}{hint}")
    return 130 if reason == "stopped" else 0


@contextmanager
def _new_run(out: Path, config: TrainConfig) -> Iterator[None]:
    """Writes the configuration, so that a folder that cannot be written to fails early. If the block fails before the
    run's first step, the files that were made are removed."""
    from sharpose_rt.training.log import read_log
    from sharpose_rt.training.running import run_folder

    with run_folder(out):
        first = [out / name for name in ("config.yaml", "log.csv", "tensorboard")]
        new = [path for path in first if not path.exists()]
        _write_config(out, config)
        try:
            yield
        except BaseException:
            for path in [] if read_log(out / "log.csv") else new:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            raise


def _write_config(out: Path, config: TrainConfig) -> None:
    import yaml

    from sharpose_rt.config import to_dict

    with writing(f"--out {out}", "give a folder that you may write to"):
        write_whole(out / "config.yaml", yaml.safe_dump(_plain(to_dict(config)), sort_keys=False))


def _plain(value: object) -> object:
    """The value with lists instead of tuples, which YAML does not have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _validation(config: TrainConfig, roots: list[Path]) -> Validate | None:
    """A function that measures AP of both stages on the validation set, or None without one.

    Raises:
        DatasetError: the set is missing or wrong, or nobody in it can be measured.
        ConfigError: its keypoints are not the network's, or the package that measures is not installed.
    """
    item = config.data.validation
    if item is None:
        return None
    from sharpose_rt.evaluation.boxes import truth_boxes
    from sharpose_rt.evaluation.coco import pycocotools, score
    from sharpose_rt.evaluation.mpii import check_pckh
    from sharpose_rt.evaluation.predict import predict
    from sharpose_rt.evaluation.truth import by_pckh, check_keypoints, read_labels
    from sharpose_rt.labels.coco import read_image
    from sharpose_rt.labels.yolo import set_files
    from sharpose_rt.models import find_variant
    from sharpose_rt.models.gate import Gate
    from sharpose_rt.training.datasets import find_set

    folder, variant = find_set(item.name, roots), find_variant(config.model)
    annotations, images = set_files(folder, item.annotations, item.images)
    head_boxes = folder / item.head_boxes if item.head_boxes else None
    document = read_labels(annotations, head_boxes, variant.skeleton, print)
    check_keypoints(variant, document)
    check_pckh(document, in_truth=True)
    if not by_pckh(document):
        pycocotools()
    boxes = truth_boxes(document)
    if not len(boxes):
        raise DatasetError(f"{annotations} has nobody with keypoints; validation needs labelled people")
    names = {record["id"]: record["file_name"] for record in document["images"]}
    for path in (images / names[image_id] for image_id in set(boxes.image_ids.tolist())):
        if not path.is_file():
            read_image(path)  # raises the error

    def validate(model) -> Row:
        result = score(predict(model, document, images, boxes), document, Gate(), model)
        measure = "PCKh" if "PCKh" in result else "AP"  # for MPII's own files
        return {"val_ap": result[measure], "val_ap_coarse": result[f"{measure}_coarse"]}

    return validate


def _train(trainer: Trainer, max_minutes: float | None) -> str:
    """Trains with a progress bar on a terminal, otherwise with lines; returns why it ended."""
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
    """A row of the log as readable text."""
    names = {"mse_coarse": "coarse", "mse_fine": "fine", "samples_per_s": "/s"}
    parts = [f"step {row['step']:.0f}", f"{row['elapsed_s'] / 60:.1f} min", f"{100 * row['progress']:.1f} %"]
    parts += [f"{names.get(key, key)} {value:.4g}" for key, value in row.items() if key not in _PLACE]
    return "  ".join(parts)


_PLACE = ("step", "samples", "elapsed_s", "progress")
