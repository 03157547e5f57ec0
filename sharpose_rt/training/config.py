"""Every option of a training run with its default, unit and range; defaults are defined only here."""

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
    """A dataset of labelled people: a label file with its images."""

    name: str = ""
    """Folder below the data root."""
    annotations: str = "annotations.json"
    """Label file in the dataset's folder: COCO's form, MPII's .mat or common JSON, or a folder of YOLO's text files.
    Without one, `labels` and `images` in YOLO's form are used."""
    head_boxes: str = ""
    """MPII's head boxes (`mpii_gt_val.mat`) in the dataset's folder, to validate on its common JSON."""
    images: str = "images"
    """Folder of pictures in the dataset's folder."""
    weight: float = 1.0
    """How often each person is sampled per epoch; 0.5 samples half of them."""
    labels: str = "auto"
    """'hand' (the third value is COCO visibility), 'teacher' (a score, 0..1) or 'auto' (by the values)."""
    trust: float = 1.0
    """Factor on the joint weights, 0..1: below 1 for noisy labels."""
    compare: str = ""
    """A second label file for the same people (by annotation id) in the dataset's folder, such as a teacher's: joints
    far from its positions are dropped. '': no comparison."""
    compare_limit: float = 2.0
    """Largest distance, in the joint's unit of OKS (2 sigma times the root of the person's area), above 0. At 2 the
    joint's contribution to OKS is 0.14, at 1 it is 0.61, at 3 it is 0.01."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a training set has no name; give the name of its folder below the data root")
        _check(f"data.sets {self.name}: weight", self.weight, 0, 1000)
        _check(f"data.sets {self.name}: trust", self.trust, 0, 1)
        _check(f"data.sets {self.name}: compare_limit", self.compare_limit, 0, above=True)
        _one_of(f"data.sets {self.name}: labels", self.labels, ("auto", "hand", "teacher"))


@dataclass(frozen=True)
class DataConfig:
    """The data for training and validation."""

    sets: tuple[SetConfig, ...] = ()
    """The datasets to mix."""
    validation: SetConfig | None = None
    """Hand-labelled dataset that is never trained on; its AP is logged."""
    min_teacher_score: float = 0.3
    """A teacher's joint below this score has weight 0."""
    hidden_weight: float = 1.0
    """Factor on the weights, 0..1, of joints that are labelled by hand but hidden (COCO's visibility 1)."""
    workers: int = 4
    """Processes that read and crop pictures; 0 does this in the training process."""
    cache: str = "none"
    """'none' (the workers warp each crop from its picture), or 'device': all crops are kept as uint8 on the device and
    augmented there, so that a large GPU is kept busy; 0.33 MB per person at 256x192."""
    max_people: int | None = None
    """Use at most this many people (spread evenly), at least 1: for trial runs."""

    def __post_init__(self) -> None:
        _check("data.min_teacher_score", self.min_teacher_score, 0, 1)
        _check("data.hidden_weight", self.hidden_weight, 0, 1)
        _check("data.workers", self.workers, 0, 256)
        _one_of("data.cache", self.cache, ("none", "device"))
        if self.max_people is not None:
            _check("data.max_people", self.max_people, 1)


@dataclass(frozen=True)
class AugmentConfig:
    """How crops are augmented. The defaults are the paper's (MMPose's top-down pipeline)."""

    padding: float = USUAL_PADDING
    """The crop is the box widened to the crop's aspect ratio and enlarged by this factor."""
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
    """Probability of showing only the upper or lower body, if enough joints are labelled."""
    half_body_joints: int = 8
    """Fewest labelled joints for half bodies."""
    colour: float = 0.0
    """Strength of random brightness, contrast and saturation; 0.3 is moderate."""
    occlusion_p: float = 0.0
    """Probability that a patch is pasted on top."""
    person_p: float = 0.0
    """Probability that another person, cut out along the skeleton, is pasted on top."""
    cut_p: float = 0.0
    """Probability that the picture ends within the person: it is black beyond, and the box ends there."""
    low_resolution: float = 3.0
    """Largest factor by which the resolution of a crop is reduced, as for somebody far away ..."""
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
    """... and the fraction of the run after which it is added."""
    localisation: float = 0.0
    """Initial weight of the divergence between softmaxed heatmaps; it falls to 0 at `localisation_until`."""
    dense: float = 0.0
    """Initial weight of an auxiliary loss on heatmaps directly from the coarse image tokens; it falls likewise."""
    localisation_until: float = 0.9
    """Fraction of the run after which both terms are 0."""
    temperature: float = 10.0
    """Factor on the heatmap inside the softmax."""
    coarse_from_fine: float = 0.0
    """Weight of the difference of coarse heatmaps from those of the fine stage, which gets no gradient from it."""
    joints: str = "equal"
    """'equal', or 'limbs': elbows and knees count 1.2 times, wrists and ankles 1.5 times, as in MMPose for COCO."""

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
    """A teacher whose heatmaps are learnt in addition to the labels."""

    model: str = "small_256x192"
    """Its variant, or 'file' for a network in ONNX, OpenVINO or ncnn form."""
    weights: str = "auto"
    """Its weights, or that file."""
    also: tuple[str, ...] = ()
    """Files of further teachers; the mean of all their heatmaps is learnt."""
    weight: float = 0.0
    """Weight of the difference from its heatmaps; 0: no teacher."""
    flip: bool = False
    """Learn the mean of its heatmaps for each crop and the mirrored crop: more accurate, for twice the teacher's
    time."""

    def __post_init__(self) -> None:
        _check("distill.weight", self.weight, 0, 1000)


@dataclass(frozen=True)
class OptimConfig:
    """How weights are optimised."""

    optimizer: str = "adamw"
    """'adamw', or 'muon' (Muon for the matrices of the blocks, AdamW for the rest)."""
    lr: float = 5e-4
    """Peak learning rate."""
    stem_lr: float = 1.0
    """Factor on it for the stem; lower if the stem is pretrained."""
    muon_lr: float = 5e-4
    """Peak learning rate of the matrices under Muon (updates are scaled to AdamW's size)."""
    weight_decay: float = 0.1
    """Decoupled; none on biases, norms, position tables and tokens."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each block further from the output; 1 for training from scratch."""
    clip_norm: float = 100.0
    """Largest gradient norm, to which longer ones are clipped; 0: no clipping."""
    schedule: str = "steps"
    """'steps' (divided by ten at each of `steps`) or 'cosine' (to `final_lr`)."""
    steps: tuple[float, ...] = (170 / 210, 200 / 210)
    """Fractions of the run at which the learning rate is divided by ten."""
    final_lr: float = 0.01
    """Final learning rate of the cosine schedule, as a factor on the peak."""
    warmup_steps: int = 500
    """Optimiser steps over which the learning rate rises from a thousandth of the peak."""
    ema: float = 0.0
    """Decay of the moving average of weights per step, warmed up from small values; 0: no average."""

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
    """The variant to train."""
    behaviour: str = "paper"
    """'paper', or 'released' (the authors' code, where it differs)."""
    drop_path: float = 0.0
    """Probability that the last block is skipped for a sample; it falls linearly to 0 at the first."""
    init: str = "random"
    """'random', 'auto' (the included weights of the variant, to fine-tune them), or weights to start from (.safetensors
    or .pth), which include the stem: `init_stem` is then ignored."""
    init_stem: str = "random"
    """With random weights, for a convolutional stem: 'movenet-thunder' (downloaded once, 145 MB), or the path of its
    `.json`."""
    frozen_stem_blocks: int = 0
    """Number of blocks of the stem that, with its first convolution, keep their initial weights: edges and corners are
    the same everywhere, their maps are the largest, and they take half of the stem's training time."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch: int = 64
    """People per optimiser step (per process with torchrun)."""
    budget: str = "epochs"
    """What ends the run and drives every schedule: 'epochs', or 'minutes' of training time."""
    epochs: float = 210.0
    """Length of the run if the budget is epochs."""
    minutes: float = 60.0
    """Length of the run if the budget is minutes (resumed parts add up)."""
    coarse_only_until: float = 0.0
    """Fraction of the run in which only the coarse stage is trained, which is more than twice as fast."""
    refined_share: float = 1.0
    """Fraction of the crops in later batches whose fine stage is trained too; it is the slower one."""
    precision: str = "fp32"
    """'fp32', 'bf16' (autocast), or 'auto', the faster one on the device."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    threads: int = 0
    """CPU threads of the network; 0: PyTorch's default."""
    compile: bool = False
    """Run the network through torch.compile."""
    seed: int = 0
    """Seeds weights, sampling and augmentation."""
    checkpoint_minutes: float = 3.0
    """Time between checkpoints."""
    validate_minutes: float = 10.0
    """Time between validations on `data.validation`."""
    tensorboard: bool = False
    """Also write the log for TensorBoard, in the folder of the run."""
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
        ConfigError: an unknown key (suggests the nearest), or a value of another type or out of range.
    """
    result = TrainConfig()
    if config is not None:
        path = find_preset(config, "train")
        result = _merge(result, read_yaml(path), str(path))
    for item in overrides:
        result = _merge(result, override(item), "--set")
    return result


def read_config(saved: Mapping[str, Any], where: str) -> TrainConfig:
    """The configuration in a checkpoint; options that are newer than the checkpoint have their defaults.

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
                raise ConfigError(f"{where}: data.sets is {sets!r}; a list of sets is accepted")
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
        raise ConfigError(f"{where}: a set is {item!r}; its name, or a mapping with `name` is accepted")
    return merge(SetConfig(name=item["name"]), item, where, "data.sets.")
