"""The options of a training run of a person detector."""

from __future__ import annotations

from dataclasses import dataclass

from sharpose_rt.config import checks
from sharpose_rt.detection.bundled import OURS, SIZES_PX
from sharpose_rt.detection.person_network import BLOCKS
from sharpose_rt.errors import ConfigError
from sharpose_rt.training.movenet import MULTIPOSE
from sharpose_rt.training.running import check_recipe


@dataclass(frozen=True)
class DetectorRecipe:
    """A training run of a detector.

    Args:
        architecture: 'mobile150', the included detector, or a model file of ultralytics.
        init: a detector to fine-tune: 'bundled', the included one, or a `.safetensors` of `train-detector`; or the
            initial weights of only the trunk of 'mobile150': 'movenet-multipose' (downloaded once, 145 MB), the path of
            its `.json`, or 'random'.
        frozen_blocks: number of blocks of the trunk that, with its first convolution, keep their weights.
        frozen_until: fraction of the run in which the whole trunk keeps its weights, which is faster.
        trunk_lr: factor on the learning rate of the trunk.
        image_size: longest side in px that it is trained for.
        small_size: side in the first part of the run, which is faster; 0: no such part.
        small_until: fraction of the run for this part.
        large_share: share of the later steps with larger scenes, up to twice `image_size`: without them the detector
            finds fewer people at sizes above that of its training.
        minutes: length of the run; the schedule follows the clock.
        batch: pictures per step and process.
        lr: peak learning rate of AdamW.
        weight_decay: of matrices and filters.
        warmup_steps: steps over which the learning rate rises.
        mosaic: probability that a sample consists of four pictures; none in the last tenth of the run.
        colour: strength of brightness, contrast and saturation changes.
        ema: decay of the moving average of weights.
        precision: 'bf16' (autocast), 'fp32', or 'auto', the faster one on the device.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        threads: CPU threads; 0: PyTorch's default.
        workers: processes that read pictures.
        seed: for weights, order and augmentation.
    """

    architecture: str = OURS
    init: str = MULTIPOSE
    frozen_blocks: int = 3
    frozen_until: float = 0.2
    trunk_lr: float = 0.3
    image_size: int = 320
    small_size: int = 0
    small_until: float = 0.5
    large_share: float = 0.0
    minutes: float = 60.0
    batch: int = 16
    lr: float = 2e-3
    weight_decay: float = 5e-4
    warmup_steps: int = 200
    mosaic: float = 0.5
    colour: float = 0.3
    ema: float = 0.999
    precision: str = "auto"
    device: str = "cpu"
    threads: int = 0
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("image_size", SIZES_PX[0]), ("small_size", 0)):
            checks.within(name, getattr(self, name), least, SIZES_PX[1])
            if getattr(self, name) % 32:
                raise ConfigError(f"{name} is {getattr(self, name)}; a multiple of 32 px is accepted")
        check_recipe(self.precision, self.seed, self.minutes, self.lr, self.threads, self.workers)
        checks.device("device", self.device)
        if not 0 <= self.frozen_blocks <= BLOCKS:
            raise ConfigError(f"frozen_blocks is {self.frozen_blocks}; 0 to {BLOCKS} are accepted")
        for name, whole in (("frozen_until", "run"), ("large_share", "steps")):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; a part of the {whole}, 0 to 1, is accepted")
        checks.within("batch", self.batch, 1)
