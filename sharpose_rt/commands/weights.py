"""Converts the authors' released checkpoints to safetensors, prepares a training run's weights for release and for
int8, adds a predictor of the fine stage's gain, makes a detector smaller, writes the networks as ONNX files for other
programs, and shows what is in a weights file.

Code in a file is never run: a checkpoint that needs it to load is refused.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpose_rt.commands.printable import printable
from sharpose_rt.config import PoseConfig
from sharpose_rt.errors import ConfigError, OutputError, WeightsError, writing
from sharpose_rt.machine.whole_files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from sharpose_rt.models import SHaRPose
    from sharpose_rt.models.weights import WeightsInfo

log = logging.getLogger("sharpose_rt")

HELP = "import a released checkpoint, export trained weights or ONNX, prepare weights for int8, or show a file"
MOST_LOSS = 0.005
"""Most AP or PCKh that int8 may cost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `import`, `export`, `quantize`, `gain`, `thin`, `onnx` and `show`."""
    names = "import|export|quantize|gain|thin|onnx|show"
    actions = parser.add_subparsers(title="actions", metavar=names, required=True)

    convert = actions.add_parser("import", help="convert a released .pth checkpoint to .safetensors")
    convert.add_argument("source", type=Path, metavar="OFFICIAL.pth", help="checkpoint released by the authors")
    convert.add_argument("target", type=Path, metavar="OUT.safetensors", help="file to write")
    convert.add_argument("--model", required=True, help="its variant; see `sharpose-rt models`")
    convert.add_argument(
        "--attention-scale",
        type=positive,
        metavar="F",
        help="scale of the attention logits that it was trained with (default: 1/sqrt(head width))",
    )
    convert.add_argument(
        "--quality-threshold",
        type=number,
        default=0.95,
        metavar="F",
        help="threshold to recommend with these weights (default: %(default)s)",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace OUT.safetensors if it exists")
    convert.set_defaults(action=import_weights)

    export = actions.add_parser("export", help="prepare a training run's weights for release: float16 and a threshold")
    export.add_argument("source", type=Path, metavar="IN.safetensors", help="weights.safetensors of a training run")
    export.add_argument("target", type=Path, metavar="OUT.safetensors", help="file to write; OUT.json gets its SHA-256")
    export.add_argument("--model", required=True, help="its variant; see `sharpose-rt models`")
    export.add_argument(
        "--quality-threshold",
        type=number,
        required=True,
        metavar="F",
        help="threshold to recommend, from `sharpose-rt eval --sweep-threshold`",
    )
    export.add_argument(
        "--average",
        type=Path,
        nargs="+",
        default=[],
        metavar="IN.safetensors",
        help="average with these in equal parts, such as other checkpoints of the run",
    )
    export.add_argument("--metrics", type=Path, nargs="*", default=[], metavar="JSON", help="files of `eval --json`")
    export.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    export.set_defaults(action=export_weights)

    quantize = actions.add_parser("quantize", help="measure the ranges that int8 needs, and add them to the weights")
    quantize.add_argument("source", type=Path, metavar="IN.safetensors", help="weights")
    quantize.add_argument("target", type=Path, metavar="OUT.safetensors", help="the same weights, ready for int8")
    quantize.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="people in COCO's format, MPII's .mat, or a folder in YOLO's",
    )
    quantize.add_argument(
        "--head-boxes", type=Path, metavar="FILE", help="mpii_gt_val.mat, if the labels are MPII's common JSON"
    )
    quantize.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    quantize.add_argument(
        "--people",
        type=int,
        default=200,
        metavar="N",
        help="number of people to use, evenly spread (default: %(default)s)",
    )
    quantize.add_argument("--overwrite", action="store_true", help="replace OUT.safetensors, which may be IN itself")
    quantize.set_defaults(action=quantize_weights)

    gain = actions.add_parser("gain", help="add a predictor of what the fine stage adds to a pose")
    gain.add_argument("source", type=Path, metavar="IN.safetensors", help="weights")
    gain.add_argument("target", type=Path, metavar="OUT.safetensors", help="the same weights, with the predictor")
    gain.add_argument(
        "--set",
        type=Path,
        nargs=2,
        action="append",
        required=True,
        dest="sets",
        metavar=("FILE", "DIR"),
        help="hand-labelled people in COCO's format, and the folder of their pictures; repeatable",
    )
    gain.add_argument(
        "--refine-from-gain",
        type=float,
        metavar="AP",
        help="threshold to recommend, from `sharpose-rt eval --sweep-gain` (default: none)",
    )
    gain.add_argument("--overwrite", action="store_true", help="replace OUT.safetensors, which may be IN itself")
    gain.set_defaults(action=add_gain)

    thin = actions.add_parser("thin", help="make a person detector smaller, without training")
    thin.add_argument(
        "source", type=Path, metavar="IN.safetensors", help="a detector from `train-detector`, or 'bundled'"
    )
    thin.add_argument("target", type=Path, metavar="OUT.safetensors", help="file to write")
    thin.add_argument(
        "--megabytes", type=positive, required=True, metavar="MB", help="most megabytes of weights, at two bytes each"
    )
    thin.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of pictures like those that it will see; no labels are needed",
    )
    thin.add_argument("--overwrite", action="store_true", help="replace OUT.safetensors, which may be IN itself")
    thin.set_defaults(action=thin_weights)

    onnx = actions.add_parser("onnx", help="write the networks as ONNX, with a JSON file of how to use them")
    onnx.add_argument("folder", type=Path, metavar="OUT_DIR", help="folder to write coarse.onnx, fine.onnx, ... into")
    onnx.add_argument("--model", default=PoseConfig.model, help="see `sharpose-rt models` (default: %(default)s)")
    onnx.add_argument(
        "--weights", default="auto", metavar="FILE", help="file, 'auto' or 'random' (default: %(default)s)"
    )
    onnx.add_argument(
        "--behaviour",
        choices=("auto", "paper", "released"),
        default="auto",
        help="default: the value in the weights",
    )
    onnx.add_argument("--detector-size", type=int, metavar="PX", help="side of the person detector's square input")
    onnx.add_argument("--opset", type=int, default=20, metavar="N", help="ONNX opset, 18 to 23 (default: %(default)s)")
    onnx.add_argument("--overwrite", action="store_true", help="replace these files in OUT_DIR")
    onnx.set_defaults(action=write_onnx)

    show = actions.add_parser("show", help="print metadata, SHA-256 and parameters")
    show.add_argument("what", metavar="FILE|NAME", help=".safetensors or .pth file, or a variant with included weights")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(action=show_weights)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return args.action(args)


def import_weights(args: argparse.Namespace) -> int:
    """Converts a checkpoint, then reads the result back as the tracker would.

    Raises:
        WeightsError: the checkpoint cannot be read or does not fit the model.
        OutputError: the target exists, has another suffix, or cannot be written.
    """
    source, target = args.source, args.target
    check_target(target, args.overwrite)

    from sharpose_rt.models.weights import import_released, load_model

    options = {"attention_scale": args.attention_scale, "quality_threshold": args.quality_threshold}
    import_released(source, target, args.model, **options)
    model, info = load_model(args.model, str(target))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{target}: {args.model}, {parameters / 1e6:.2f} M parameters, SHA-256 {info.sha256}")
    print(f"Use it with: sharpose-rt track --source VIDEO --model {args.model} --weights {target}")
    return 0


def export_weights(args: argparse.Namespace) -> int:
    """Writes weights in float16 with their threshold, and next to them a JSON file with hash and measured metrics.

    Weights of one run, or of runs from the same weights, may be averaged (Wortsman et al. 2022, "Model soups"), which
    drops the ranges for int8 and the gain predictor.

    Raises:
        WeightsError: the weights cannot be read or do not fit the model.
        ConfigError: a metrics file cannot be read.
        OutputError: the target exists, has another suffix, or cannot be written.
    """
    target = args.target
    check_target(target, args.overwrite, card=True)

    from sharpose_rt.models.weights import GAIN, RANGES, file_sha256, save_weights

    model, sources = _load_mean(args.model, [args.source, *args.average])
    kept = {key: text for key, text in sources[0].metadata.items() if key in (RANGES, GAIN) and len(sources) == 1}
    metrics = [_metrics(path) for path in args.metrics]
    threshold = args.quality_threshold
    with writing(target, "give another folder"):
        save_weights(model, target, half=True, metadata=kept | {"quality_threshold": repr(threshold)})
        card = {
            "sha256": file_sha256(target),
            "model": args.model,
            "quality_threshold": threshold if math.isfinite(threshold) else str(threshold),  # JSON has no infinity
            "trained_from": ", ".join(source.sha256 for source in sources),
            "metrics": metrics,
        }
        write_whole(target.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, threshold {threshold:g}")
    return 0


def _load_mean(name: str, paths: list[Path]) -> tuple[SHaRPose, list[WeightsInfo]]:
    """The network whose weights are the mean of the files' weights, and the facts about each file."""
    from sharpose_rt.models.create import attention_scale_of
    from sharpose_rt.models.weights import load_model, mean_state

    loaded = [load_model(name, str(path)) for path in paths]
    model = loaded[0][0]
    for path, (other, _) in zip(paths, loaded, strict=True):
        if other.behaviour != model.behaviour:
            raise WeightsError(
                f"{path} behaves as {other.behaviour.name!r} and {paths[0]} as {model.behaviour.name!r}; "
                "only weights with the same behaviour can be averaged"
            )
        if other.box_padding != model.box_padding:
            raise WeightsError(
                f"{path} has box_padding {other.box_padding:g} and {paths[0]} {model.box_padding:g}; only weights with "
                "the same box_padding can be averaged"
            )
        if attention_scale_of(other) != attention_scale_of(model):
            raise WeightsError(
                f"{path} has the attention scale {attention_scale_of(other):g} and {paths[0]} "
                f"{attention_scale_of(model):g}; only weights with the same scale can be averaged"
            )
    if len(loaded) > 1:
        for network, _ in loaded:
            network.gain_predictor = None  # each predicts for its own network, not for the mean
        model.load_state_dict(mean_state([network for network, _ in loaded]))
    return model, [info for _, info in loaded]


def quantize_weights(args: argparse.Namespace) -> int:
    """Adds the ranges of the layers' inputs, measured on some people, to a weights file; tensors are unchanged.

    A JSON card next to IN is also written next to OUT, with the new SHA-256 and what int8 costs.

    Raises:
        WeightsError: the weights cannot be read, or int8 costs more than `MOST_LOSS`.
        ConfigError: --people is below 1, or the labels' keypoints are not the network's.
        DatasetError: the labels or a picture cannot be read.
        OutputError: the target exists, has another suffix, or cannot be written.
    """
    source, target = args.source, args.target
    check_target(target, args.overwrite, card=source.with_suffix(".json").exists())
    if args.people < 1:
        raise ConfigError(f"--people is {args.people}; 1 or more is accepted")

    from sharpose_rt.evaluation.quantize import quantize
    from sharpose_rt.models.weights import RANGES

    model, info = _load_own(source)
    ranges, costs = quantize(model, args.annotations, args.images, args.people, args.head_boxes)
    measure = "PCKh" if "PCKh" in costs else "AP"  # for MPII's own files
    exact, rounded = costs[measure], costs[f"{measure}_int8"]
    print(f"{measure} of {costs['people']} people: {exact:.4f}, in int8 {rounded:.4f}")
    if not exact - rounded <= MOST_LOSS:  # NaN if nothing could be measured
        all_used = costs["people"] < args.people
        raise WeightsError(
            f"int8 would cost {exact - rounded:.4f} {measure}; up to {MOST_LOSS} is accepted, so nothing was written. "
            + ("The file has no more people; try another with more" if all_used else "Try more --people")
        )
    sha256 = _amend(source, info, target, {RANGES: json.dumps(ranges)}, {"int8": costs})
    print(f"{target}: {info.metadata['model']} with the ranges of {len(ranges)} layers, SHA-256 {sha256}")
    return 0


def add_gain(args: argparse.Namespace) -> int:
    """Adds a predictor of what the fine stage adds to a person's AP, fitted to labelled people, to a weights file.

    A JSON card next to IN is also written next to OUT, with the new SHA-256 and how good the predictor is.

    Raises:
        WeightsError: the weights cannot be read.
        ConfigError: the labels' keypoints are not the network's.
        DatasetError: the labels or a picture cannot be read, or there are too few people.
        OutputError: the target exists, has another suffix, or cannot be written.
    """
    source, target = args.source, args.target
    check_target(target, args.overwrite, card=source.with_suffix(".json").exists())

    from sharpose_rt.config.checks import GAIN_RANGE, within
    from sharpose_rt.evaluation.gain import fit_gain
    from sharpose_rt.models.weights import GAIN, GAIN_PREDICTOR

    within("--refine-from-gain", args.refine_from_gain, *GAIN_RANGE)

    model, info = _load_own(source)
    fit = fit_gain(model, [tuple(pair) for pair in args.sets])
    print(
        f"{fit.people} people, for whom the fine stage adds {fit.mean_gain:.4f} AP; on pictures left out of the fit, "
        f"the correlation of predicted and true gain is {fit.correlation:.3f}; if the half with the lowest predicted "
        f"gain keeps the coarse pose, {100 * fit.lost_by_half:.0f} % of the gain is lost, which costs "
        f"{100 * fit.cost_of_half:.1f} points of AP"
    )
    if fit.correlation <= 0:
        log.warning(
            "the predictor is useless for people outside the fit (correlation %.3f): with --refine-from-gain, those "
            "who are refined would need it no more than others; give more people (--set), or do not use it",
            fit.correlation,
        )
    tensors = {f"{GAIN_PREDICTOR}.{name}": value for name, value in fit.predictor.state_dict().items()}
    threshold = -math.inf if args.refine_from_gain is None else args.refine_from_gain
    facts = {key: round(value, 4) for key, value in vars(fit).items() if key != "predictor"}
    sha256 = _amend(source, info, target, {GAIN: repr(threshold)}, {"gain": facts}, tensors)
    print(f"{target}: {info.metadata['model']} with a predictor of the gain, SHA-256 {sha256}")
    return 0


def thin_weights(args: argparse.Namespace) -> int:
    """Writes a person detector with fewer hidden channels per block, without those that others can replace.

    Raises:
        WeightsError, ConfigError, DatasetError: see `thin_detector`.
        OutputError: the target exists, has another suffix, or cannot be written.
    """
    check_target(args.target, args.overwrite)

    from sharpose_rt.detection.bundled import WEIGHTS
    from sharpose_rt.models.weights import file_sha256
    from sharpose_rt.training.pictures import pictures_in
    from sharpose_rt.training.thinning import thin_detector

    source = WEIGHTS if str(args.source) == "bundled" else args.source
    pictures = [picture for folder in args.images for picture in pictures_in(folder)]
    print(f"looking at {len(pictures)} pictures", flush=True)
    found = thin_detector(source, args.target, pictures, args.megabytes)
    for name, (before, after) in found.items():
        print(f"{name}: {after} of {before} hidden channels")
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB, SHA-256 {file_sha256(args.target)}")
    return 0


def _load_own(source: Path) -> tuple[SHaRPose, WeightsInfo]:
    """A network and its weights from a file that names its model."""
    from sharpose_rt.models.weights import load_model, read_metadata

    facts = read_metadata(source) if source.suffix == ".safetensors" else {}
    if "model" not in facts:
        raise WeightsError(
            f"{source} is not a .safetensors file that names its model; `weights import` and `train` write such files"
        )
    return load_model(facts["model"], str(source))


def _amend(
    source: Path,
    info: WeightsInfo,
    target: Path,
    metadata: dict[str, str],
    facts: dict[str, Any],
    tensors: dict[str, Tensor] | None = None,
) -> str:
    """Writes weights with more metadata and tensors, and their card with more facts; returns their SHA-256."""
    from sharpose_rt.models.weights import amend, file_sha256

    card = _card(source, info.sha256)
    with writing(target, "give another folder"):
        amend(source, target, metadata, tensors)
        sha256 = file_sha256(target)
        if card is not None:
            card |= {"sha256": sha256, **facts}
            write_whole(target.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return sha256


def write_onnx(args: argparse.Namespace) -> int:
    """Writes pose network and person detector as ONNX, checked against torch, and a JSON file of how to use them.

    Raises:
        ConfigError: no such model, opset or size, or a package is missing.
        WeightsError: there are no weights, or they do not fit the model.
        OutputError: the files exist or cannot be written, or their results differ from torch's.
    """
    from sharpose_rt.config import DetectorConfig
    from sharpose_rt.export.folder import export_folder

    export_folder(
        args.folder,
        args.model,
        args.weights,
        args.behaviour,
        DetectorConfig("bundled", image_size=args.detector_size),
        args.opset,
        overwrite=args.overwrite,
        say=print,
    )
    print(
        f"{args.folder / 'sharpose.json'} says how to use them; pipelines/onnx_pose.py in the source code is an "
        "example with numpy, OpenCV and onnxruntime"
    )
    return 0


def _card(weights: Path, sha256: str) -> dict[str, Any] | None:
    """The JSON card that `export` wrote next to these weights; None if there is none."""
    try:
        card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and card.get("sha256") == sha256 else None


def _metrics(path: Path) -> dict[str, Any]:
    """The metrics that `eval --json` wrote, with the command that measured them."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a JSON file of `sharpose-rt eval --json`: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a JSON object; a file of `sharpose-rt eval --json` is accepted")
    return {"command": values.pop("command", ""), "values": values}


def check_target(target: Path, overwrite: bool, *, card: bool = False) -> None:
    """Checks the target, and its card if there will be one, before any work is done.

    Raises:
        OutputError: the suffix is not .safetensors, or a file exists without `overwrite`.
    """
    if target.suffix != ".safetensors":
        raise OutputError(f"{target} ends in {target.suffix!r}; a name that ends in .safetensors is accepted")
    for path in (target, target.with_suffix(".json"))[: 1 + card]:
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; give another name, or --overwrite to replace it")


def show_weights(args: argparse.Namespace) -> int:
    """Prints what is in a weights file.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    facts = describe(args.what)
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    metadata = facts.pop("metadata")
    width = max(map(len, (*facts, *metadata)))
    for key, value in (*facts.items(), *metadata.items()):
        print(f"{printable(key):<{width}}  {printable(str(value))}")
    return 0


def describe(what: str) -> dict[str, Any]:
    """Path, size, SHA-256, parameters, their types and the metadata of a file, or of the included weights of a variant.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    from sharpose_rt.models import VARIANTS
    from sharpose_rt.models.weights import RANGES, file_sha256, parse_ranges, read_released

    path = _bundled(what) if what in VARIANTS else Path(what)
    if not path.is_file():
        raise WeightsError(
            f"there is no file {what!r}; a .safetensors or .pth file, or one of {', '.join(VARIANTS)} is accepted"
        )
    if path.suffix in (".pth", ".pt"):
        tensors = read_released(path)
        count, metadata, tensor_count = sum(t.numel() for t in tensors.values()), {}, len(tensors)
        types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    elif path.suffix == ".safetensors":
        count, types, metadata, tensor_count = _safetensors_facts(path)
    else:
        raise WeightsError(f"{path} ends in {path.suffix!r}; a .safetensors or a released .pth file is accepted")
    ranges = parse_ranges(metadata, path)
    if ranges is not None:
        metadata = {**metadata, RANGES: f"of {len(ranges)} layers: ready for --precision int8"}
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "tensors": tensor_count,
        "parameters": count,
        "types": ", ".join(types),
        "metadata": metadata,
    }


def _bundled(name: str) -> Path:
    from sharpose_rt.models.weights import bundled_weights

    path = bundled_weights(name)
    if path is None:
        raise WeightsError(f"no weights are included for {name}; give a .safetensors or .pth file")
    return path


def _safetensors_facts(path: Path) -> tuple[int, list[str], dict[str, str], int]:
    from sharpose_rt.models.weights import open_safetensors

    with open_safetensors(path) as (file, metadata):
        slices = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118 (no mapping)
        count = sum(math.prod(part.get_shape()) for part in slices)
        return count, sorted({str(part.get_dtype()) for part in slices}), metadata, len(slices)


def number(text: str) -> float:
    """A number that is not NaN; argparse prints the error."""
    value = _float(text)
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; inf and -inf are accepted")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = _float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")
    return value


def _float(text: str) -> float:
    """The number, or NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
