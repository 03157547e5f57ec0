"""`sharpose-rt eval`: measure COCO AP or MPII's PCKh of a model, and what its quality gate saves and costs."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpose_rt.config import PoseConfig
from sharpose_rt.config.checks import is_network_file
from sharpose_rt.errors import ConfigError, DatasetError, WeightsError
from sharpose_rt.skeleton import COCO17

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sharpose_rt.evaluation.predict import Estimate, Predictions
    from sharpose_rt.models import SHaRPose
    from sharpose_rt.models.gate import Gate
    from sharpose_rt.models.weights import WeightsInfo
    from sharpose_rt.types import Float32

HELP = "measure AP, exit rate and GMACs on labelled pictures"

_POSE_OPTIONS = (
    *("model", "weights", "behaviour", "device", "precision", "flip_test"),
    *("quality_threshold", "refine_from_px", "refine_from_gain"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt eval`."""
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        required=True,
        help="labels in COCO's keypoint format or MPII's, or a folder in YOLO's",
    )
    parser.add_argument("--head-boxes", metavar="FILE", help="mpii_gt_val.mat, if the labels are MPII's common JSON")
    parser.add_argument("--images", metavar="DIR", required=True, help="folder of the pictures")
    parser.add_argument("--boxes", metavar="gt|detector|FILE", default="gt", help="boxes of the people (%(default)s)")
    parser.add_argument("--detector", metavar="NAME", default="auto", help="detector of --boxes detector")
    parser.add_argument("--detector-size", type=int, metavar="PX", help="longer side of its input")
    parser.add_argument(
        "--model",
        metavar="NAME",
        default=PoseConfig.model,
        help="variant (%(default)s), or a .onnx or .xml file of another top-down network",
    )
    parser.add_argument("--weights", metavar="FILE", default="auto", help="'auto', 'random' or a file")
    parser.add_argument("--behaviour", default="auto", choices=("auto", "paper", "released"))
    parser.add_argument(
        "--quality-threshold", type=float, metavar="Q", help="default: the value in the weights; inf refines all"
    )
    parser.add_argument(
        "--refine-from-px", type=float, default=0.0, metavar="PX", help="people less tall keep the coarse pose"
    )
    parser.add_argument(
        "--refine-from-gain",
        type=float,
        metavar="AP",
        help="people for whom the fine stage is predicted to add less keep it, too; default: the value in the weights",
    )
    parser.add_argument("--flip-test", action="store_true", help="average with the mirrored crop")
    parser.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda' or 'cuda:N'")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "int8"),
        help="int8 is simulated in torch on any processor (%(default)s)",
    )
    parser.add_argument("--batch", type=int, default=16, help="crops per batch (%(default)s)")
    parser.add_argument("--json", metavar="OUT", help="write the metrics here")
    parser.add_argument("--results", metavar="OUT", help="write the poses here, as COCO's server accepts them")
    parser.add_argument("--sweep-threshold", metavar="OUT", help="write OUT.csv and OUT.png: AP by threshold")
    parser.add_argument("--sweep-height", metavar="OUT", help="the same, by --refine-from-px")
    parser.add_argument("--sweep-gain", metavar="OUT", help="the same, by --refine-from-gain")
    parser.add_argument(
        "--reliability", metavar="OUT", help="write OUT.csv and OUT.png: the share of correct keypoints by score"
    )
    parser.add_argument("--worst", metavar="OUT.png", help="draw the people with the lowest OKS beside their labels")
    parser.add_argument("--worst-plain", action="store_true", help="draw them on grey, without the photographs")
    parser.add_argument("--offline", action="store_true", help="download nothing")


def run(args: argparse.Namespace) -> int:
    """Measures, writes the files requested, and prints the metrics."""
    from sharpose_rt.evaluation.boxes import choose_boxes
    from sharpose_rt.evaluation.coco import results, score
    from sharpose_rt.evaluation.metrics import stated_precision, write_json
    from sharpose_rt.evaluation.predict import closer_padding, predict
    from sharpose_rt.evaluation.sweep import HEIGHT, QUALITY
    from sharpose_rt.evaluation.truth import read_labels
    from sharpose_rt.models import find_variant
    from sharpose_rt.models.gate import Gate
    from sharpose_rt.models.weights import NO_GAIN

    if args.batch < 1:
        raise ConfigError(f"--batch is {args.batch}; 1 or more is accepted")
    head_boxes = Path(args.head_boxes) if args.head_boxes else None
    # A network in a file may find more keypoints, but the first are COCO's.
    skeleton = COCO17 if is_network_file(args.model) else find_variant(args.model).skeleton
    document = read_labels(Path(args.annotations), head_boxes, skeleton, print)
    images = Path(args.images)
    _check(args, document)
    model, info = _load_file(args) if is_network_file(args.model) else _load(args)
    gate = info.gate(args.quality_threshold, args.refine_from_px, args.refine_from_gain)
    if args.sweep_gain and not info.predicts_gain:
        raise WeightsError(NO_GAIN.format(path=info.path))
    boxes = choose_boxes(args.boxes, document, images, args.detector, args.detector_size, offline=args.offline)
    sweeps = {by: Path(out) for by, out in _sweeps(args).items()}
    # At one end of these two sweeps nobody is refined, whatever the coarse stage finds.
    near = closer_padding(Gate(-math.inf) if sweeps.keys() & {QUALITY, HEIGHT} else gate)
    predictions = predict(model, document, images, boxes, flip_test=args.flip_test, near_padding=near, batch=args.batch)
    if args.results:
        poses = predictions.gated(gate)[:2]
        write_json(Path(args.results), results(predictions, *poses, skeleton))
    if not document["annotations"]:
        print(
            f"{len(predictions)} people in {len(document['images'])} pictures without labels, written to {args.results}"
        )
        return 0
    metrics = score(predictions, document, gate, model)
    precision = args.precision if is_network_file(args.model) else stated_precision(args.precision)
    metrics |= {"model": args.model, "weights": info.path, "precision": precision}
    metrics |= {"boxes": args.boxes, "flip_test": args.flip_test}
    _tell(args, metrics, metrics)  # before drawing, which may fail
    if args.worst:
        from sharpose_rt.evaluation.worst import write_worst

        folder = None if args.worst_plain else images
        write_worst(predictions, document, folder, gate, skeleton, Path(args.worst))
    if args.reliability:
        found = _reliability(predictions, document, gate, Path(args.reliability))
        metrics |= found
        _tell(args, found, metrics)
    asked = {"quality_threshold": args.quality_threshold, "refine_from_gain": args.refine_from_gain}
    # As in a run, one threshold given replaces both of the weights.
    held = Gate(refine_from_px=args.refine_from_px, **{name: v for name, v in asked.items() if v is not None})
    for by, out in sweeps.items():
        found = _sweep(predictions, document, model, out, by, held)
        metrics |= found
        _tell(args, found, metrics)
    return 0


def _load(args: argparse.Namespace) -> tuple[SHaRPose, WeightsInfo]:
    """Our own network on the device requested, and the facts about its weights."""
    from sharpose_rt.engine.device import resolve_device, resolve_precision
    from sharpose_rt.models.int8 import quantized
    from sharpose_rt.models.weights import load_model

    device = resolve_device(args.device)
    model, info = load_model(args.model, args.weights, args.behaviour)
    if args.precision != "int8":
        return model.to(device, resolve_precision(args.precision, device)), info
    if info.ranges is None:
        raise WeightsError(f"{info.path} is not ready for int8; write it with `sharpose-rt weights quantize`")
    return quantized(model, info.ranges).to(device), info  # in floats what OpenVINO computes in integers


def _load_file(args: argparse.Namespace) -> tuple[Estimate, WeightsInfo]:
    """The estimator for a network file, with its own crops, and the facts about the file."""
    from sharpose_rt.engine import FileEngine

    options = {name: getattr(args, name) for name in _POSE_OPTIONS}
    engine = FileEngine(PoseConfig(**options, max_batch=args.batch))

    def estimate(image_bgr: NDArray[np.uint8], bboxes_xyxy: Float32) -> tuple[Float32, Float32]:
        found = engine.estimate(image_bgr, bboxes_xyxy)
        return found.keypoints[:, : len(COCO17)], found.scores[:, : len(COCO17)]

    return estimate, engine.weights


def _sweeps(args: argparse.Namespace) -> dict[str, str]:
    """The sweeps requested: what is swept, and the output of each."""
    from sharpose_rt.evaluation.sweep import GAIN, HEIGHT, QUALITY

    asked = {QUALITY: args.sweep_threshold, HEIGHT: args.sweep_height, GAIN: args.sweep_gain}
    return {by: out for by, out in asked.items() if out}


def _tell(args: argparse.Namespace, new: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Prints the new metrics, and writes all of them if --json is given."""
    from sharpose_rt.evaluation.metrics import describe, write_metrics

    print(describe(new))
    if args.json:
        write_metrics(Path(args.json), metrics)


def _check(args: argparse.Namespace, document: dict[str, Any]) -> None:
    """Raises ConfigError if the labels or this installation cannot provide what the options ask for, DatasetError if
    nobody has a keypoint."""
    from sharpose_rt.config.checks import GAIN_RANGE, within
    from sharpose_rt.evaluation.coco import pycocotools
    from sharpose_rt.evaluation.mpii import check_pckh
    from sharpose_rt.evaluation.reliability import IN_TRUTH
    from sharpose_rt.evaluation.tables import table_files
    from sharpose_rt.evaluation.truth import by_pckh, check_keypoints, counted_people, is_mpii
    from sharpose_rt.evaluation.worst import WORST_IN_TRUTH, check_sheet
    from sharpose_rt.models import find_variant

    check_sheet(args.worst, args.worst_plain)
    if args.reliability and args.boxes != "gt":
        raise ConfigError(IN_TRUTH)
    if args.worst and args.boxes != "gt":
        raise ConfigError(WORST_IN_TRUTH)
    if is_network_file(args.model):
        if is_mpii(document):
            raise ConfigError(f"{args.model} finds COCO's keypoints, but the labels are MPII's; give labels of COCO's")
        if _sweeps(args):
            raise ConfigError(f"sweeps need a network with two stages, and {args.model} has one; leave them out")
    else:
        check_keypoints(find_variant(args.model), document)
    labelled, pckh = bool(document["annotations"]), by_pckh(document)
    if labelled and not counted_people(document):  # AP would be 0, as for a network that finds nobody
        raise DatasetError(
            f"{args.annotations} has people, but nobody with a keypoint, so no pose can be measured; "
            "`sharpose-rt eval-detector` measures boxes"
        )
    if not labelled and (args.boxes == "gt" or not args.results):
        raise ConfigError(
            f"{args.annotations} has pictures without labels, like COCO's test sets, so nothing can be measured; "
            "--results FILE with --boxes detector (or a file of detections) writes poses for COCO's server"
        )
    if pckh:
        check_pckh(document, in_truth=args.boxes == "gt")
    elif labelled:
        pycocotools()
    for option in ("sweep_threshold", "sweep_height", "sweep_gain"):
        if pckh and getattr(args, option):
            raise ConfigError(f"--{option.replace('_', '-')} measures AP, which MPII does not have; leave it out")
    asked = [*_sweeps(args).values(), *([args.reliability] if args.reliability else [])]
    tables = [table_files(Path(out).resolve())[0] for out in asked]
    if twice := {table for table in tables if tables.count(table) > 1}:
        raise ConfigError(f"several tables would be written to {twice.pop()}; give each its own name")
    within("--refine-from-gain", args.refine_from_gain, *GAIN_RANGE)
    if not args.refine_from_px >= 0:
        raise ConfigError(f"--refine-from-px is {args.refine_from_px}; 0 or more is accepted")


def _reliability(predictions: Predictions, document: dict[str, Any], gate: Gate, path: Path) -> dict[str, float]:
    from sharpose_rt.evaluation.reliability import reliability, score_gap, write_reliability

    rows = reliability(predictions, document, gate)
    table, figure = write_reliability(rows, path)
    print(f"reliability of scores in {table} and {figure}")
    return {"score_gap": score_gap(rows)}


def _sweep(
    predictions: Predictions, document: dict[str, Any], model: object, path: Path, by: str, gate: Gate
) -> dict[str, float]:
    from sharpose_rt.evaluation.sweep import QUALITY, calibrated, sweep, write_sweep

    rows = sweep(predictions, document, model, by=by, gate=gate)
    table, figure = write_sweep(rows, path)
    chosen = calibrated(rows)
    print(
        f"sweep in {table} and {figure}; with {by} = {chosen[by]:.3f}, {100 * chosen['exit_rate']:.0f} % of crops keep "
        f"the coarse pose, at AP {chosen['AP']:.3f}"
    )
    names = {QUALITY: ("calibrated_threshold", "calibrated_exit_rate")}
    threshold, rate = names.get(by, (f"calibrated_{by}", f"calibrated_{by}_exit_rate"))
    return {threshold: chosen[by], rate: chosen["exit_rate"]}
