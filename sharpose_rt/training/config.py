"""Every option of a training run with its default, unit and range: the only home of its defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sharpose_rt.config import PoseConfig, find_preset, merge, override, read_yaml
from sharpose_rt.config.checks import PADDING_RANGE
from sharpose_rt.config.checks import device as _device
from sharpose_rt.config.checks import one_of as _one_of
from sharpose_rt.config.checks import within as _check
from sharpose_rt.errors import ConfigError
from sharpose_rt.geometry.affine import USUAL_PADDING


@dataclass(frozen=True)
class SetConfig:
    """One set of labelled people: COCO's keypoint form, images beside it."""

    name: str = ""
    """Folder below the data root."""
    annotations: str = "annotations.json"
    """Label file, below the set's folder: COCO's form, or MPII's .mat or common JSON, or a folder of YOLO's text files.
    Where there is none, `labels` and `images` of that form are taken."""
    head_boxes: str = ""
    """MPII's head boxes (`mpii_gt_val.mat`), below the set's folder, to validate on its common JSON."""
    images: str = "images"
    """Folder of pictures, below the set's folder."""
    weight: float = 1.0
    """How often each person is drawn in an epoch; 0.5 draws half of them."""
    labels: str = "auto"
    """'hand' (third value is COCO visibility), 'teacher' (a score, 0..1) or 'auto' (by the values)."""
    trust: float = 1.0
    """Factor on the joint weights, 0..1: below 1 for noisy labels."""
    compare: str = ""
    """A second label file of the same people (by annotation id), below the set's folder, as a teacher's: joints that
    lie far from where it has them are dropped. '' compares with none."""
    compare_limit: float = 2.0
    """How far, in OKS's measure of the joint (2 sigma times the root of the person's area), above 0: at 2 the joint's
    part of OKS is 0.14, at 1 it is 0.61, at 3 it is 0.01."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a training set has no name; give the name of its folder below the data root")
        _check(f"data.sets {self.name}: weight", self.weight, 0, 1000)
        _check(f"data.sets {self.name}: trust", self.trust, 0, 1)
        _check(f"data.sets {self.name}: compare_limit", self.compare_limit, 0, above=True)
        _one_of(f"data.sets {self.name}: labels", self.labels, ("auto", "hand", "teacher"))


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and what it is measured on."""

    sets: tuple[SetConfig, ...] = ()
    """Sets that are mixed."""
    validation: SetConfig | None = None
    """Hand-labelled set that is never trained on; its AP goes into the log."""
    min_teacher_score: float = 0.3
    """A teacher's joint below this score has weight 0."""
    hidden_weight: float = 1.0
    """Factor on the joint weights, 0..1, of what is labelled by hand but hidden (COCO's visibility 1)."""
    workers: int = 4
    """Processes that read and crop; 0 reads in the training process."""
    cache: str = "none"
    """'none' (each crop is warped out of its picture by the workers), or 'device': everybody's crop is held as uint8
    on the device and varied there, so that a large GPU is not starved; 0.33 MB a person at 256x192."""
    max_people: int | None = None
    """Take only so many people (spread evenly), at least 1: for rehearsals."""

    def __post_init__(self) -> None:
        _check("data.min_teacher_score", self.min_teacher_score, 0, 1)
        _check("data.hidden_weight", self.hidden_weight, 0, 1)
        _check("data.workers", self.workers, 0, 256)
        _one_of("data.cache", self.cache, ("none", "device"))
        if self.max_people is not None:
            _check("data.max_people", self.max_people, 1)


@dataclass(frozen=True)
class AugmentConfig:
    """How a crop is varied. Defaults are the paper's (MMPose's top-down pipeline)."""

    padding: float = USUAL_PADDING
    """The crop is the box widened to the crop's aspect and enlarged by this factor."""
    shift: float = 0.16
    """Largest shift of the box centre, in box sizes ..."""
    shift_p: float = 0.3
    """... and its probability."""
    scale: float = 0.5
    """Standard deviation of the size factor, cut at one standard deviation on either side of 1."""
    rotation_deg: float = 40.0
    """Standard deviation of the rotation, cut at twice that ..."""
    rotation_p: float = 0.6
    """... and its probability."""
    flip_p: float = 0.5
    """Probability of the mirror image."""
    half_body_p: float = 0.3
    """Probability of showing the upper or lower body alone, where enough joints are labelled."""
    half_body_joints: int = 8
    """Labelled joints from which half bodies are cut."""
    colour: float = 0.0
    """Strength of random brightness, contrast and saturation; 0.3 is moderate."""
    occlusion_p: float = 0.0
    """Probability that a patch is pasted over."""
    person_p: float = 0.0
    """Probability that another person, cut out along the skeleton, is pasted over."""
    cut_p: float = 0.0
    """Probability that the picture ends somewhere in the person: black beyond, and the box ends there."""
    low_resolution: float = 3.0
    """Largest factor by which a crop is made as coarse as that of somebody far away ..."""
    low_resolution_p: float = 0.0
    """... and its probability."""

    def __post_init__(self) -> None:
        _check("augment.padding", self.padding, *PADDING_RANGE)
        _check("augment.shift", self.shift, 0, 1)
        _check("augment.scale", self.scale, 0, 0.9)
        _check("augment.rotation_deg", self.rotation_deg, 0, 180)
        _check("augment.colour", self.colour, 0, 0.9)
        _check("augment.low_resolution", self.low_resolution, 1, 16)
        for name in (item.name for item in fields(self) if item.name.endswith("_p")):
            _check(f"augment.{name}", getattr(self, name), 0, 1)


@dataclass(frozen=True)
class LossConfig:
    """Eq. 9-11 of the paper, and our localisation term."""

    quality: float = 0.03
    """Weight of the quality loss (lambda of Eq. 9) ..."""
    quality_from: float = 180 / 210
    """... and the part of the run from which it counts."""
    localisation: float = 0.0
    """Weight of the divergence between softmaxed heatmaps at the start; it falls to 0 at `localisation_until`."""
    dense: float = 0.0
    """Weight of heatmaps straight from the coarse image tokens, a helper of training; it falls likewise."""
    localisation_until: float = 0.9
    """Part of the run at which both terms have gone."""
    temperature: float = 10.0
    """Factor on the heatmap inside the softmax."""
    coarse_from_fine: float = 0.0
    """Weight of the coarse heatmaps' error to those of the fine stage, which teaches and does not learn by it."""
    joints: str = "equal"
    """'equal', or 'limbs': elbows and knees count 1.2 times, wrists and ankles 1.5 times, as MMPose does for COCO."""

    def __post_init__(self) -> None:
        _one_of("loss.joints", self.joints, ("equal", "limbs"))
        _check("loss.quality", self.quality, 0, 1000)
        _check("loss.quality_from", self.quality_from, 0, 1)
        _check("loss.localisation", self.localisation, 0, 1000)
        _check("loss.dense", self.dense, 0, 1000)
        _check("loss.localisation_until", self.localisation_until, 1e-6, 1)
        _check("loss.temperature", self.temperature, 0.1, 1000)
        _check("loss.coarse_from_fine", self.coarse_from_fine, 0, 1000)


@dataclass(frozen=True)
class DistillConfig:
    """A teacher whose heatmaps are learnt beside the labels."""

    model: str = "small_256x192"
    """Its variant, or 'file' for a network in ONNX, OpenVINO's or ncnn's form."""
    weights: str = "auto"
    """Its weights, or that file."""
    also: tuple[str, ...] = ()
    """Files of further teachers; the mean of all their heatmaps is learnt."""
    weight: float = 0.0
    """Factor on the error to its heatmaps; 0 has no teacher."""
    flip: bool = False
    """The mean of its heatmaps of each crop and of the mirror image is learnt: better ones, for twice its time."""

    def __post_init__(self) -> None:
        _check("distill.weight", self.weight, 0, 1000)


@dataclass(frozen=True)
class OptimConfig:
    """How weights move."""

    optimizer: str = "adamw"
    """'adamw', or 'muon' (Muon for the matrices of the blocks, AdamW for the rest)."""
    lr: float = 5e-4
    """Peak learning rate."""
    stem_lr: float = 1.0
    """Factor on it for the stem, lower where the stem does not start from nothing."""
    muon_lr: float = 5e-4
    """Peak learning rate of the matrices under Muon (updates are scaled to AdamW's size)."""
    weight_decay: float = 0.1
    """Decoupled; none on biases, norms, position tables and tokens."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each block further from the output; 1 for training from nothing."""
    clip_norm: float = 100.0
    """Gradients longer than this are shortened; 0 leaves them."""
    schedule: str = "steps"
    """'steps' (a tenth at each of `steps`) or 'cosine' (to `final_lr`)."""
    steps: tuple[float, ...] = (170 / 210, 200 / 210)
    """Parts of the run at which the learning rate falls to a tenth."""
    final_lr: float = 0.01
    """Cosine's last learning rate, as a factor on the peak."""
    warmup_steps: int = 500
    """Optimiser steps over which the learning rate rises from a thousandth."""
    ema: float = 0.0
    """Decay of the moving average of the weights, each step; 0 keeps none. Warmed up from small values."""

    def __post_init__(self) -> None:
        _one_of("optim.optimizer", self.optimizer, ("adamw", "muon"))
        _one_of("optim.schedule", self.schedule, ("steps", "cosine"))
        _check("optim.lr", self.lr, 0, 1)
        _check("optim.stem_lr", self.stem_lr, 0, 100)
        _check("optim.muon_lr", self.muon_lr, 0, 1)
        _check("optim.weight_decay", self.weight_decay, 0, 100)
        _check("optim.clip_norm", self.clip_norm, 0)
        _check("optim.final_lr", self.final_lr, 0, 1)
        _check("optim.warmup_steps", self.warmup_steps, 0)
        _check("optim.layer_decay", self.layer_decay, 0.1, 1)
        _check("optim.ema", self.ema, 0, 0.99999)


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: str = PoseConfig.model
    """The variant that is trained."""
    behaviour: str = "paper"
    """'paper', or 'released' (as the authors' code departs from it)."""
    drop_path: float = 0.0
    """Probability that the last block is left out for a sample; it falls linearly to 0 at the first."""
    init: str = "random"
    """'random', 'auto' (what ships with the variant, to train on from it), or weights to start from (.safetensors or
    .pth), which bring their stem: `init_stem` is then not used."""
    init_stem: str = "random"
    """Under a random start, for a stem of convolutions: 'movenet-thunder' (downloaded once, 145 MB), or the path
    of its `.json`."""
    frozen_stem_blocks: int = 0
    """So many blocks of the stem, and its first convolution, keep the weights they start with: edges and corners are
    the same everywhere, and their maps are the largest; half of the stem's training time is theirs."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch: int = 64
    """People in one optimiser step (of each process under torchrun)."""
    budget: str = "epochs"
    """What ends the run and drives every schedule: 'epochs', or 'minutes' of training time."""
    epochs: float = 210.0
    """Length of the run, where the budget is epochs."""
    minutes: float = 60.0
    """Length of the run, where the budget is minutes (resumed parts are counted together)."""
    coarse_only_until: float = 0.0
    """Part of the run in which the coarse stage alone is trained: more than twice as fast."""
    refined_share: float = 1.0
    """Part of the crops of each later batch whose fine stage is trained too; it is the dearer one."""
    precision: str = "fp32"
    """'fp32', 'bf16' (autocast), or 'auto', the quicker one of the device."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    threads: int = 0
    """CPU threads of the network; 0 leaves PyTorch's choice."""
    compile: bool = False
    """Run the network through torch.compile."""
    seed: int = 0
    """Seeds weights, sampling and augmentation."""
    checkpoint_minutes: float = 3.0
    """Time between checkpoints."""
    validate_minutes: float = 10.0
    """Time between measurements on `data.validation`."""
    tensorboard: bool = False
    """Write the log for TensorBoard too, below the run's folder."""
    log_steps: int = 20
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        _one_of("behaviour", self.behaviour, ("paper", "released"))
        _one_of("budget", self.budget, ("epochs", "minutes"))
        _one_of("precision", self.precision, ("auto", "fp32", "bf16"))
        _device("device", self.device)
        _check("batch", self.batch, 1, 65536)
        _check("seed", self.seed, 0, 2**32 - 1)
        _check("epochs", self.epochs, 1e-6, 1e6)
        _check("minutes", self.minutes, 1e-3, 1e6)
        _check("coarse_only_until", self.coarse_only_until, 0, 1)
        _check("refined_share", self.refined_share, 0.01, 1)
        _check("threads", self.threads, 0)
        _check("checkpoint_minutes", self.checkpoint_minutes, 0)
        _check("validate_minutes", self.validate_minutes, 0)
        _check("log_steps", self.log_steps, 1, 1e9)
        _check("drop_path", self.drop_path, 0, 0.9)
        _check("frozen_stem_blocks", self.frozen_stem_blocks, 0, 17)


def load_config(config: str | None, overrides: Iterable[str] = ()) -> TrainConfig:
    """Defaults, then a preset of `configs/train` (name or path), then `key.path=value` overrides.

    Raises:
        ConfigError: an unknown key (the nearest is offered), a value of another type or out of range.
    """
    result = TrainConfig()
    if config is not None:
        path = find_preset(config, "train")
        result = _merge(result, read_yaml(path), str(path))
    for item in overrides:
        result = _merge(result, override(item), "--set")
    return result


def read_config(saved: Mapping[str, Any], where: str) -> TrainConfig:
    """The configuration that a checkpoint holds; options which are newer than it have their defaults.

    Raises:
        ConfigError: see `load_config`.
    """
    return _merge(TrainConfig(), saved, where)


def _merge(config: TrainConfig, changes: Mapping[str, Any], where: str) -> TrainConfig:
    """`merge`, with the list of sets built first: it is replaced as a whole."""
    changes = dict(changes)
    data = changes.get("data")
    if isinstance(data, Mapping):
        data = dict(data)
        built: dict[str, Any] = {}
        if "sets" in data:
            sets = data.pop("sets")
            if not isinstance(sets, (list, tuple)):
                raise ConfigError(f"{where}: data.sets is {sets!r}; a list of sets is wanted")
            built["sets"] = tuple(_set(item, where) for item in sets)
        if "validation" in data:
            item = data.pop("validation")
            built["validation"] = None if item is None else _set(item, where)
        config = replace(config, data=replace(config.data, **built))
        changes["data"] = data
    return merge(config, changes, where)


def _set(item: Any, where: str) -> SetConfig:
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise ConfigError(f"{where}: a set is {item!r}; its name, or a mapping with `name` is wanted")
    return merge(SetConfig(name=item["name"]), item, where, "data.sets.")
