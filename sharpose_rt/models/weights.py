"""Weights as safetensors: saved, hashed, found, loaded strictly. Nothing here unpickles code.

A file's metadata describes its weights: model, behaviour, attention scale, recommended quality threshold, and how
tightly people were cropped in training.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sharpose_rt.config.checks import GAIN_RANGE, PADDING_RANGE
from sharpose_rt.errors import WeightsError, writing
from sharpose_rt.geometry.affine import USUAL_PADDING
from sharpose_rt.machine.paths import is_file
from sharpose_rt.machine.process import settings_lock
from sharpose_rt.machine.whole_files import whole
from sharpose_rt.models.create import attention_scale_of, create_model, set_attention_scale
from sharpose_rt.models.gate import Gate
from sharpose_rt.models.int8 import NEW_RANGES, End, Ranges
from sharpose_rt.models.released import check_state_dict, load_released_state_dict
from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.variants import find_variant

BUNDLED = Path(__file__).resolve().parents[1] / "weights"
RANGES = "input_ranges"
"""In a file's metadata: ranges of layers' inputs (`models.int8`), a JSON object of [low, high]."""
PADDING = "box_padding"
"""In a file's metadata: the factor by which boxes were enlarged for the crops that the weights were trained on."""
SCALE = "attention_scale"
"""In a file's metadata: the factor on the attention's logits."""
THRESHOLD = "quality_threshold"
"""In a file's metadata: crops with at least this quality leave after the coarse stage, ..."""
USUAL_THRESHOLD = 0.95
"""... and its value if the file states none (the paper's choice)."""
GAIN = "refine_from_gain"
"""In a file's metadata: crops also leave if the fine stage is expected to add less AP."""
NO_GAIN = (
    "{path} does not predict what the fine stage adds, which `refine_from_gain` needs; write weights that do with "
    "`sharpose-rt weights gain`, or omit the option"
)
GAIN_PREDICTOR = "gain_predictor"
"""A layer that weights may or may not have (`evaluation.gain`)."""


@dataclass(frozen=True)
class WeightsInfo:
    """Source of a model's weights: `sha256` of the file ("" for random ones) and its metadata."""

    path: str
    sha256: str
    quality_threshold: float
    metadata: Mapping[str, str]
    refine_from_gain: float = -math.inf
    predicts_gain: bool = False

    def gate(self, quality_threshold: float | None, refine_from_px: float, refine_from_gain: float | None) -> Gate:
        """The gate of a run with these options; without either threshold, those stated by the weights apply.

        Raises:
            WeightsError: a gain is requested that the weights do not predict.
        """
        if refine_from_gain is not None and not self.predicts_gain:
            raise WeightsError(NO_GAIN.format(path=self.path))
        quality, gain = quality_threshold, refine_from_gain
        if quality is None and gain is None:
            quality, gain = self.quality_threshold, self.refine_from_gain
        return Gate(math.inf if quality is None else quality, refine_from_px, -math.inf if gain is None else gain)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields for a summary; the metadata is without the ranges, which are long."""
        return {**vars(self), "metadata": {key: text for key, text in self.metadata.items() if key != RANGES}}

    @property
    def ranges(self) -> Ranges | None:
        """The ranges that `models.int8` needs; None if `sharpose-rt weights quantize` has not written any.

        Raises:
            WeightsError: they are damaged.
        """
        return parse_ranges(self.metadata, self.path)


def save_weights(model: SHaRPose, path: Path, *, half: bool = False, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's weights and metadata to `path`, atomically; in float16 if `half`.

    Raises:
        OutputError: see `write_safetensors`.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:
        tensors = {k: v.half() for k, v in tensors.items()}
    facts = {
        "format": "sharpose.weights/1",
        "model": model.variant.name,
        "behaviour": model.behaviour.name,
        SCALE: repr(attention_scale_of(model)),
        PADDING: repr(model.box_padding),
        **(metadata or {}),
    }
    write_safetensors(tensors, path, facts)


def write_safetensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file that everybody may read, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    # safetensors has its own error for a full disk or a read-only folder.
    with writing(f"the weights {path}", "free some space or give another folder", SafetensorError), whole(path) as part:
        save_file(tensors, part, metadata=metadata)
        part.chmod(0o644)  # safetensors makes it readable only by the owner


def write_network(module: nn.Module, path: Path, facts: dict[str, str]) -> None:
    """Write a module in float16, with `facts` as metadata, atomically.

    Raises:
        OutputError: see `write_safetensors`.
    """
    state = {key: value.detach().cpu() for key, value in module.state_dict().items()}
    tensors = {key: (v.half() if v.is_floating_point() else v).contiguous() for key, v in state.items()}
    write_safetensors(tensors, path, facts)


@torch.random.fork_rng(devices=[])  # new layers are filled at random; the program's own generator is unchanged
def load_model(name: str, weights: str = "auto", behaviour: str = "auto") -> tuple[SHaRPose, WeightsInfo]:
    """A network with weights, in float32 on the CPU, and the source of the weights.

    Args:
        name: a variant.
        weights: 'auto' (those bundled for the variant), a .safetensors or released .pth file, or 'random'.
        behaviour: 'paper', 'released', or 'auto' (as stated by the weights, else 'paper').

    Raises:
        WeightsError: there are no weights, the file is damaged, or it does not fit the variant.
        ConfigError: no such variant or behaviour.
    """
    find_variant(name)  # before an error that there are no weights for it
    if weights == "random":
        torch.default_generator.manual_seed(0)  # not also a GPU's, which would not be restored
        model = create_model(name, "paper" if behaviour == "auto" else behaviour)
        return model, WeightsInfo("random", "", math.inf, {})
    path = _find(name, weights)
    sha256 = file_sha256(path)
    if path.suffix in (".pth", ".pt"):
        model = create_model(name, "released" if behaviour == "auto" else behaviour)
        load_released_state_dict(model, read_released(path))
        return model, WeightsInfo(str(path), sha256, USUAL_THRESHOLD, {})
    tensors, facts = read_safetensors(path)
    made_for = facts.get("model", name)
    if made_for != name:
        raise WeightsError(f"{path} contains weights for {made_for}, not {name}; use --model {made_for} with them")
    model = create_model(name, facts.get("behaviour", "paper") if behaviour == "auto" else behaviour)
    if f"{GAIN_PREDICTOR}.weight" in tensors:
        model.gain_predictor = torch.nn.Linear(model.variant.width, 1, dtype=torch.float32)
    check_state_dict(model.state_dict(), tensors, what=f"{path} does not fit {name}")
    model.load_state_dict(tensors)
    set_attention_scale(model, stated(facts, SCALE, path, attention_scale_of(model), (1e-6, 1e6)))
    model.box_padding = stated(facts, PADDING, path, USUAL_PADDING, PADDING_RANGE)
    threshold = stated(facts, THRESHOLD, path, USUAL_THRESHOLD, (-math.inf, math.inf))
    gain = stated(facts, GAIN, path, -math.inf, (-math.inf, GAIN_RANGE[1]))
    return model, WeightsInfo(str(path), sha256, threshold, facts, gain, model.gain_predictor is not None)


@contextmanager
def open_safetensors(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A safetensors file, which reads its tensors on demand, and its metadata.

    Raises:
        WeightsError: it is not a complete safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read {path}: {error}; is it a complete .safetensors file?") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in float32 and metadata of a file.

    Raises:
        WeightsError: see `open_safetensors`; or it contains a number that is not finite.
    """
    with open_safetensors(path) as (file, metadata):
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (no mapping)
    _check_finite(tensors, path)
    return tensors, metadata


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """With NaN weights a network finds nothing, without saying why."""
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise WeightsError(
            f"{path} contains numbers that are not finite ({bad[0]}; {len(bad)} of {len(tensors)} tensors): its "
            "training diverged, or the file is damaged. Use an earlier checkpoint"
        )


def stated(metadata: Mapping[str, str], name: str, path: Path, usual: float, accepted: tuple[float, float]) -> float:
    """A number in a file's metadata, or the usual one if there is none.

    Raises:
        WeightsError: the value is not a number, or out of range.
    """
    text, (low, high) = metadata.get(name, repr(usual)), accepted
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise WeightsError(f"{path} states a {name} of {text!r}; {low:g} to {high:g} is accepted; export it again")
    return value


def parse_ranges(metadata: Mapping[str, str], path: object) -> Ranges | None:
    """The ranges of layers' inputs in a file's metadata; None if there are none.

    Raises:
        WeightsError: they are damaged.
    """
    text = metadata.get(RANGES)
    if text is None:
        return None
    try:
        return {str(name): (_end(low), _end(high)) for name, (low, high) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"the ranges for int8 in {path} are damaged ({error}); {NEW_RANGES}") from error


def _end(stored: object) -> End:
    """A number, or one for each channel of a depthwise layer."""
    if isinstance(stored, list):
        return [float(value) for value in stored]
    return float(stored)  # type: ignore[reportArgumentType]


def read_ranges(name: str, weights: str) -> Ranges | None:
    """The ranges stored with a model's weights (as in `load_model`), without reading the tensors.

    Raises:
        WeightsError: there are no weights, or the file is damaged.
    """
    if weights == "random":
        return None
    path = _find(name, weights)
    return None if path.suffix in (".pth", ".pt") else parse_ranges(read_metadata(path), path)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; raises WeightsError, see `open_safetensors`."""
    with open_safetensors(path) as (_, metadata):
        return metadata


def mean_state(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The mean of the states of modules of one kind, in float32 on the CPU: weights and normalisation statistics.

    They are from one training, or from trainings with the same start (Wortsman et al. 2022, "Model soups"). If one was
    fine-tuned from another, the mean keeps what it learnt and forgets less (same authors, "Robust fine-tuning").
    """
    states = [module.state_dict() for module in modules]
    return {key: torch.stack([state[key].cpu().float() for state in states]).mean(0) for key in states[0]}


def amend(source: Path, target: Path, more: Mapping[str, str], tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write the tensors of a safetensors file unchanged, with additional metadata and with added or replaced tensors;
    atomically."""
    with open_safetensors(source) as (file, facts):
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    write_safetensors({**kept, **(tensors or {})}, target, {**facts, **more})


class _Unread:
    """Stands in for numpy values: MMCV stores one in each checkpoint, the best AP so far."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_UNREAD: list[Any] = [
    (_Unread, f"numpy.{name}")
    for name in (
        "dtype",
        "ndarray",
        "core.multiarray.scalar",  # of numpy 1
        "core.multiarray._reconstruct",
        "_core.multiarray.scalar",
        "_core.multiarray._reconstruct",
    )
]


def read_released(path: Path) -> dict[str, Tensor]:
    """Parameters of a checkpoint released by the authors, unchanged, under their names; never runs code from it.

    Raises:
        WeightsError: it cannot be read in this way, or contains something else.
    """
    try:
        with settings_lock, warnings.catch_warnings(), torch.serialization.safe_globals(_UNREAD):
            warnings.simplefilter("ignore", UserWarning)  # torch's, about pickle protocols that it reads anyway
            data = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds for damaged files
        text = str(error) or type(error).__name__
        # Before that, torch advises in bold to trust the file.
        reason = re.search(r"GLOBAL \S+", text) or re.search(r"(?<=Unpickler error: )\s*(.+)", text)
        raise WeightsError(
            f"cannot read {path} as a checkpoint of tensors ({reason[0].strip() if reason else text.splitlines()[0]}); "
            "a file that needs code to load is refused"
        ) from error
    data = data.get("state_dict", data) if isinstance(data, dict) else data
    if not isinstance(data, dict) or not data or not all(isinstance(v, Tensor) for v in data.values()):
        wanted = "a released checkpoint (its `state_dict`)"
        if isinstance(data, dict) and str(data.get("format")).startswith("sharpose.training/"):
            wanted = "the .safetensors file that the training wrote"
        raise WeightsError(f"{path} contains no table of tensors; expected {wanted}")
    _check_finite(data, path)
    return {str(key): value for key, value in data.items()}


def import_released(
    source: Path,
    target: Path,
    name: str,
    *,
    attention_scale: float | None = None,
    quality_threshold: float = USUAL_THRESHOLD,
) -> SHaRPose:
    """Convert a released checkpoint to a safetensors file, and return the model.

    Raises:
        WeightsError: see `read_released` and `load_released_state_dict`.
    """
    if not is_file(source):
        raise WeightsError(f"no file {source}; give the path of a released .pth checkpoint")
    model = create_model(name, "released", attention_scale=attention_scale)
    load_released_state_dict(model, read_released(source))
    facts = {THRESHOLD: repr(quality_threshold), "imported_from": source.name}
    save_weights(model, target, metadata=facts)
    return model


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bundled_weights(name: str) -> Path | None:
    """The bundled weights of a variant, checked against the bundled hash; None if there are none.

    Raises:
        WeightsError: the file is not the one that was shipped.
    """
    path = BUNDLED / f"{name}.safetensors"
    if not path.is_file():
        return None
    check_shipped(path)
    return path


def check_shipped(path: Path) -> None:
    """Compares a file with the SHA-256 in the .json of its model card.

    Raises:
        WeightsError: they differ, or one of the two files is missing.
    """
    try:
        wanted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
        found = file_sha256(path)
    except OSError as error:
        raise WeightsError(f"cannot read a shipped file: {error}; reinstall the package") from error
    if found != wanted:
        raise WeightsError(f"{path} has SHA-256 {found}, but {wanted} was shipped; reinstall the package")


def _find(name: str, weights: str) -> Path:
    if weights != "auto":
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(
                f"no weights at {weights!r}; 'auto', 'random', a .safetensors or a .pth file is accepted"
            )
        if path.suffix not in (".safetensors", ".pth", ".pt"):
            raise WeightsError(f"{path} ends in {path.suffix!r}; a .safetensors or a released .pth file is accepted")
        return path
    path = bundled_weights(name)
    if path is None:
        shipped = sorted(p.stem for p in BUNDLED.glob("*.safetensors") if not p.stem.startswith("person"))
        have = f"weights ship for {', '.join(shipped)}" if shipped else "no weights ship with this version"
        raise WeightsError(
            f"there are no weights for {name}: {have}. Give --weights FILE, import a released checkpoint with "
            f"`sharpose-rt weights import`, or use --weights random to test the pipeline (poses will be noise)"
        )
    return path
