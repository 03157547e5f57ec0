"""Trains a one-class person detector: ours (`detection.person_network`), or an architecture of ultralytics.

The loss is ultralytics'; data, augmentation and the schedule are here, since theirs counts in epochs and this one
follows the clock, takes labels that are unsure, and is shared among processes on a CPU.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from ultralytics.cfg import get_cfg
from ultralytics.utils.loss import E2ELoss

from sharpose_rt.config import DetectorConfig, checks
from sharpose_rt.detection.bundled import LITE, WEIGHTS, BundledDetector, build_module, load_module
from sharpose_rt.detection.yolo import predict
from sharpose_rt.errors import ConfigError, DatasetError, OutputError
from sharpose_rt.geometry.boxes import inside_matrix, iou_matrix
from sharpose_rt.labels.coco import read_image
from sharpose_rt.models.int8 import Ranges, observe
from sharpose_rt.models.stem import EFFICIENTNET_LITE0
from sharpose_rt.models.weights import write_safetensors
from sharpose_rt.training.checkpoint import load_run, save_checkpoint
from sharpose_rt.training.datasets import quiet_worker
from sharpose_rt.training.loop import batches_of, check_loss, plain_errors, stopping
from sharpose_rt.training.optim import Ema
from sharpose_rt.training.pictures import Picture
from sharpose_rt.training.stem_weights import freeze_stem, load_stem_weights
from sharpose_rt.training.transforms import jitter_colour
from sharpose_rt.training.world import join_world, pick_device, quicker_in_bf16
from sharpose_rt.types import Frame

GREY = 114
"""Level of what a letterbox leaves empty."""
MATCH_IOU = 0.5
MIN_VISIBLE, MIN_SIDE_PX = 0.25, 4.0
"""A person of whom less is left by augmentation is painted out."""
Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class DetectorRecipe:
    """One training run of a detector.

    Args:
        architecture: 'lite0', the detector that ships, or a model file of ultralytics.
        init: a detector to train on from: 'bundled', the one that ships, or a `.safetensors` of `train-detector`; or
            where the trunk alone of 'lite0' starts: 'efficientnet-lite0' (ImageNet), a checkpoint, or 'random'.
        frozen_blocks: the trunk's first convolution and so many of its blocks keep their weights.
        frozen_until: part of the run in which the whole trunk keeps them, which is quicker.
        trunk_lr: factor on the learning rate of the trunk.
        image_size: longest side in px that it is trained for.
        small_size: side of the first part of the run, which is quicker; 0 has none.
        small_until: length of that part, of the run.
        minutes: length of the run; the schedule follows the clock.
        batch: pictures in a step of each process.
        lr: peak learning rate of AdamW.
        weight_decay: of matrices and filters.
        warmup_steps: steps over which the learning rate rises.
        mosaic: probability that a sample is made of four pictures; none in the last tenth of the run.
        colour: strength of brightness, contrast and saturation changes.
        ema: decay of the moving average of the weights.
        precision: 'bf16' (autocast), 'fp32', or 'auto', the quicker one of the device.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        threads: CPU threads; 0 leaves PyTorch's choice.
        workers: processes that read pictures.
        seed: of weights, order and augmentation.
    """

    architecture: str = LITE
    init: str = "efficientnet-lite0"
    frozen_blocks: int = 3
    frozen_until: float = 0.2
    trunk_lr: float = 0.3
    image_size: int = 320
    small_size: int = 0
    small_until: float = 0.5
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
        for name in ("image_size", "small_size"):
            if getattr(self, name) % 32:
                raise ConfigError(f"{name} is {getattr(self, name)}; a multiple of 32 px is accepted")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ConfigError(f"precision is {self.precision!r}; auto, bf16 or fp32 is accepted")
        checks.device("device", self.device)
        if not 0 <= self.frozen_blocks <= len(EFFICIENTNET_LITE0):
            raise ConfigError(f"frozen_blocks is {self.frozen_blocks}; 0 to {len(EFFICIENTNET_LITE0)} are accepted")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; 0 to {2**32 - 1} are accepted")
        if not 0 <= self.frozen_until <= 1:
            raise ConfigError(f"frozen_until is {self.frozen_until}; a part of the run, 0 to 1, is accepted")
        if self.minutes <= 0 or self.batch < 1 or self.image_size < 32:
            raise ConfigError(
                f"minutes is {self.minutes}, batch {self.batch}, image_size {self.image_size}; "
                "above 0, at least 1, at least 32 are accepted"
            )


class PeopleScenes(Dataset[tuple[Tensor, Tensor]]):
    """Augmented scenes with people's boxes; an item depends on its number, the recipe and the seed alone.

    Args:
        pictures: with everybody labelled.
        draws: (N,) how often each is drawn, relative to the others.
        recipe: size, mosaic, colour, seed.
    """

    def __init__(self, pictures: Sequence[Picture], draws: NDArray[np.float64], recipe: DetectorRecipe) -> None:
        self.pictures, self.recipe = pictures, recipe
        self.chance = np.cumsum(draws) / np.sum(draws)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, item: tuple[int, bool]) -> tuple[Tensor, Tensor]:
        """Scene `item[0]`, (3, S, S) uint8 RGB, and its people (n, 4) float32, cxcywh in 0..1; mosaic if `item[1]`."""
        number, may_mix = item
        rng = np.random.default_rng((self.recipe.seed, number))
        size = self.recipe.image_size
        scene = np.full((size, size, 3), GREY, np.uint8)
        if may_mix and rng.random() < self.recipe.mosaic:
            x, y = (rng.uniform(0.3, 0.7, 2) * size).astype(int).tolist()
            windows = [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]
            boxes = np.concatenate([self._paste(scene, window, (0.9, 2.0), rng) for window in windows])
        else:
            boxes = self._paste(scene, (0, 0, size, size), (0.8, 1.6), rng)
        scene = jitter_colour(scene, self.recipe.colour, rng)
        pixels = torch.from_numpy(np.ascontiguousarray(scene[..., ::-1].transpose(2, 0, 1)))
        centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / size
        return pixels, torch.from_numpy(centred.astype(np.float32))

    def _paste(
        self,
        scene: NDArray[np.uint8],
        window: tuple[int, int, int, int],
        scales: tuple[float, float],
        rng: np.random.Generator,
    ) -> Boxes:
        """Draw a picture into a window of the scene, in random size, place and mirroring; give its people's boxes."""
        picture = self.pictures[int(np.searchsorted(self.chance, rng.random()))]
        image = read_image(picture.path)
        h, w = image.shape[:2]
        x0, y0, x1, y1 = window
        ww, wh = x1 - x0, y1 - y0
        scale = math.exp(rng.uniform(math.log(scales[0]), math.log(scales[1]))) * max(ww, wh) / max(w, h)
        free_x, free_y = ww - scale * w, wh - scale * h  # negative where the picture is larger than the window
        shift_x, shift_y = rng.random() * free_x, rng.random() * free_y
        matrix = np.array([[scale, 0, shift_x], [0, scale, shift_y]])
        if rng.random() < 0.5:
            matrix[0] = [-scale, 0, ww - shift_x]
        people, unsure = (_move(boxes, matrix) for boxes in (picture.people_xyxy, picture.unsure_xyxy))
        people_seen, keeps = _visible(people, ww, wh)
        centred = matrix.copy()
        centred[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5  # labels count from a pixel's corner, warps from its centre
        # cv2's area averaging is for resizing alone; halving first keeps small scales free of aliasing.
        while scale < 0.55:
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            scale, centred = scale * 2, _for_half(centred)
        patch = cv2.warpAffine(image, centred, (ww, wh), borderMode=cv2.BORDER_CONSTANT, borderValue=(GREY,) * 3)
        hidden, _ = _visible(np.concatenate([unsure, people[~keeps]]), ww, wh)
        for bx0, by0, bx1, by1 in hidden.round().astype(int):
            if not _covers(people_seen, (bx0, by0, bx1, by1)):
                patch[by0:by1, bx0:bx1] = GREY
        scene[y0:y1, x0:x1] = patch
        return people_seen[keeps] + np.array([x0, y0, x0, y0])


def _move(boxes: Boxes, matrix: NDArray[np.float64]) -> Boxes:
    """Boxes (N, 4) under an affine (2, 3) of scale and mirroring."""
    x = boxes[:, [0, 2]] * matrix[0, 0] + matrix[0, 2]
    y = boxes[:, [1, 3]] * matrix[1, 1] + matrix[1, 2]
    return np.stack([x.min(1, initial=np.inf), y[:, 0], x.max(1, initial=-np.inf), y[:, 1]], 1)


def _visible(boxes: Boxes, width: int, height: int) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes (N, 4) cut at the window, and which (N,) show enough of their person."""
    cut = boxes.clip(0, [width, height, width, height])
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(1) / np.maximum(whole.prod(1), 1e-9)
    return cut, (share >= MIN_VISIBLE) & (sides.min(1, initial=np.inf) >= MIN_SIDE_PX)


def _for_half(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine for a picture of half the size, pixel centres kept in place."""
    result = matrix.copy()
    result[:, :2] *= 2
    result[:, 2] += matrix[:, :2].sum(1) * 0.5
    return result


def _covers(people: Boxes, box: tuple[int, int, int, int]) -> bool:
    """Whether painting `box` out would hide a good part of a person who counts."""
    if not len(people):
        return False
    low, high = np.maximum(people[:, :2], box[:2]), np.minimum(people[:, 2:], box[2:])
    inside = np.clip(high - low, 0, None).prod(1)
    return bool((inside > 0.3 * (people[:, 2:] - people[:, :2]).prod(1)).any())


def collate(samples: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A batch as ultralytics' loss wants it, `img` (B, 3, S, S) still uint8."""
    counts = torch.tensor([len(boxes) for _, boxes in samples])
    boxes = torch.cat([boxes for _, boxes in samples])
    return {
        "img": torch.stack([pixels for pixels, _ in samples]),
        "bboxes": boxes,
        "cls": torch.zeros(len(boxes), 1),
        "batch_idx": torch.arange(len(samples)).repeat_interleave(counts).float(),
    }


class DetectorTrainer:
    """One run: its module, optimiser and place in the schedule, and the folder of its checkpoint.

    Args:
        pictures: with everybody labelled.
        draws: (N,) relative frequency of each.
        recipe: the run.
        out: folder of `last.pt`; made when missing.
    """

    def __init__(
        self, pictures: Sequence[Picture], draws: NDArray[np.float64], recipe: DetectorRecipe, out: Path
    ) -> None:
        if not pictures:
            raise DatasetError("no picture with everybody labelled is left to train the detector on; give more sets")
        self.recipe, self.out = recipe, out
        self.world = join_world(recipe.device)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)  # the same in every process, and with it the weights
        self.device = pick_device(recipe.device, self.world)
        self.in_bf16 = quicker_in_bf16(recipe.precision, self.device)
        self.module: Any = _create_module(recipe).train()
        self.trunk: nn.Module | None = getattr(self.module, "trunk", None)
        self.module.to(self.device, memory_format=torch.channels_last)
        self.module.args = get_cfg()
        self.criterion: Any = self.module.init_criterion()
        self.optimizer = self._create_optimizer()
        self.ema = Ema(self.module, recipe.ema)
        self.scenes = PeopleScenes(pictures, draws, recipe)
        self.step, self.elapsed_before_s = 0, 0.0
        self._started_s = time.monotonic()

    def _create_optimizer(self) -> torch.optim.Optimizer:
        trunk = set() if self.trunk is None else set(self.trunk.parameters())
        groups = []
        for in_trunk in (False, True):
            for is_matrix in (False, True):
                wanted = [p for p in self.module.parameters() if (p in trunk, p.ndim > 1) == (in_trunk, is_matrix)]
                peak = self.recipe.lr * (self.recipe.trunk_lr if in_trunk else 1)
                decay = self.recipe.weight_decay if is_matrix else 0.0
                groups.append({"params": wanted, "lr": peak, "peak_lr": peak, "weight_decay": decay})
        return torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.999))

    def _freeze(self, progress: float) -> None:
        if self.trunk is not None:
            self.trunk.requires_grad_(progress >= self.recipe.frozen_until)
            freeze_stem(self.trunk, self.recipe.frozen_blocks)

    @property
    def elapsed_s(self) -> float:
        """Training time, resumed parts included."""
        return self.elapsed_before_s + time.monotonic() - self._started_s

    @property
    def progress(self) -> float:
        """Part of the run that is done, 0 to 1."""
        return min(1.0, self.elapsed_s / (60 * self.recipe.minutes))

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Move the weights by one batch; give the loss and its parts.

        Raises:
            DatasetError: see `check_loss`.
        """
        progress = self.world.agree(self.progress)
        self._freeze(progress)
        warm = min(1.0, (self.step + 1) / max(1, self.recipe.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        if isinstance(self.criterion, E2ELoss):
            # One-to-many teaches quickly, one-to-one is what is used: the weight goes from one to the other.
            self.criterion.o2m = 0.8 - 0.7 * progress
            self.criterion.o2o = 1 - self.criterion.o2m
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        images = batch["img"].float() / 255
        if self.recipe.small_size and progress < self.recipe.small_until:
            images = F.interpolate(images, (self.recipe.small_size,) * 2, mode="bilinear", antialias=True)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bf16):
            predictions = self.module(images)
        loss, parts = self.criterion(_float(predictions), batch)
        value = loss.sum().item()
        check_loss(value, self.step + 1, self.out, "--lr")
        (loss.sum() / len(images)).backward()
        self.world.average_gradients(self.module.parameters())
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.module, self.step)
        return {"loss": value / len(images), **{key: part.item() for key, part in parts.items()}}

    def run(self, max_minutes: float | None = None, say: Callable[[str], None] = print, log_steps: int = 50) -> None:
        """Train to the end of the recipe's minutes, or for `max_minutes` of this process; saved either way."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._started_s = saved_s = logged_s = time.monotonic()
        stopped: list[bool] = []
        with stopping(lambda: stopped.append(True)), plain_errors():
            for batch in batches_of(self._loader(), self.save):
                now_s = time.monotonic()
                over = max_minutes is not None and now_s - self._started_s >= 60 * max_minutes
                if self.world.agree(bool(stopped) or over or self.progress >= 1):
                    break
                row = self.train_step(batch)
                if self.step % log_steps == 0 and self.world.leads:
                    speed = log_steps * self.recipe.batch * self.world.size / (time.monotonic() - logged_s)
                    logged_s = time.monotonic()
                    parts = " ".join(f"{key} {value:.3f}" for key, value in row.items())
                    say(f"step {self.step}  {100 * self.progress:.1f} %  {speed:.1f} pictures/s  {parts}")
                if now_s - saved_s > 180:
                    self.save()
                    saved_s = now_s
        self.save()

    def _loader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            self.scenes,
            batch_sampler=_Numbers(self),  # type: ignore[arg-type]
            num_workers=self.recipe.workers,
            collate_fn=collate,
            worker_init_fn=quiet_worker,
            prefetch_factor=4 if self.recipe.workers else None,
            pin_memory=self.device.type == "cuda",
        )

    def save(self) -> None:
        """Write the checkpoint `last.pt`, where this process leads."""
        if not self.world.leads:
            return
        state = {
            "recipe": asdict(self.recipe),
            "module": self.module.state_dict(),
            "ema": self.ema.shadow,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        save_checkpoint(self.out / "last.pt", state)

    def resume(self) -> None:
        """Go on from the checkpoint in the run's folder.

        Raises:
            WeightsError: see `load_run`.
            ConfigError: it is of another architecture.
        """
        state = load_run("train-detector", self.out)
        for kept in ("architecture", "seed"):  # another seed would hold other pictures back
            was, now = state["recipe"][kept], getattr(self.recipe, kept)
            if was != now:
                raise ConfigError(f"the run in {self.out} has the {kept} {was!r}, not {now!r}; --{kept} {was} goes on")
        self.module.load_state_dict(state["module"])
        earlier = self._create_optimizer()
        earlier.load_state_dict(state["optimizer"])  # which brings the rates of then, too
        self.optimizer.state = earlier.state
        self.ema.shadow = {key: value.to(self.device) for key, value in state["ema"].items()}
        self.step, self.elapsed_before_s = state["step"], state["elapsed_s"]

    def averaged(self) -> Any:
        """The module to use: averaged weights, in evaluation mode."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.ema.shadow)
        return module.eval()


def _create_module(recipe: DetectorRecipe) -> Any:
    """The network of a recipe with the weights that it starts from."""
    if recipe.init == "bundled" or recipe.init.endswith(".safetensors"):
        path = WEIGHTS if recipe.init == "bundled" else Path(recipe.init)
        module, facts = load_module(path)
        if facts["architecture"] != recipe.architecture:
            raise ConfigError(
                f"init is {recipe.init!r}, a {facts['architecture']!r}, but {recipe.architecture!r} is to be trained; "
                f"give --architecture {facts['architecture']}"
            )
        return module
    module = build_module(recipe.architecture, Path())
    if recipe.architecture == LITE and recipe.init != "random":
        load_stem_weights(module.trunk, recipe.init)
    return module


def save_detector(path: Path, module: Any, recipe: DetectorRecipe, facts: dict[str, str]) -> None:
    """Write a file in float16 that `detection.bundled.load_module` reads, at once or not at all.

    `facts` go into its metadata; the `image_size` it is used at is that of training unless they say otherwise.

    Raises:
        OutputError: it cannot be written.
    """
    state = {key: value.detach().cpu() for key, value in module.state_dict().items()}
    tensors = {key: (v.half() if v.is_floating_point() else v).contiguous() for key, v in state.items()}
    fixed = {"architecture": recipe.architecture, "names": "person"}
    facts = {"image_size": str(recipe.image_size), **facts}
    try:
        write_safetensors(tensors, path, {**facts, **fixed})
    except OSError as error:
        raise OutputError(f"cannot write the detector {path}: {error}") from error


def calibrate(weights: Path, pictures: Sequence[Picture]) -> tuple[float, float]:
    """Slope and shift of the logits of a file's scores, such that a score is the share of such boxes that are right.

    A box is right where it overlaps a person by an IoU of 0.5 whom no stronger box has taken, as in AP; boxes that lie
    on unsure labels do not count. The curve is Platt's (1999), with his smoothed targets.

    Raises:
        DatasetError: no box, or all boxes, are right: there is nothing to fit.
    """
    detector = BundledDetector(DetectorConfig(score_threshold=0.0), weights=weights)
    detector.open()
    judged = [_judge(detector, picture) for picture in pictures]
    scores = np.concatenate([np.zeros(0), *(scores for scores, _ in judged)]).clip(1e-6, 1 - 1e-6)
    hits = np.concatenate([np.zeros(0, bool), *(hits for _, hits in judged)])
    right, wrong = int(hits.sum()), int((~hits).sum())
    if not right or not wrong:
        raise DatasetError(
            f"of {len(hits)} boxes in {len(pictures)} pictures {right} show a person; calibration needs both kinds, so "
            "train longer or hold out more pictures"
        )
    x = torch.from_numpy(np.log(scores / (1 - scores)))
    target = torch.from_numpy(np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2)))
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(line[0] * x + line[1], target)
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[arg-type]  (a tensor serves as the loss)
    slope, shift = line.detach().tolist()
    if slope <= 0:
        raise DatasetError(f"strong boxes are no likelier to be right than weak ones (slope {slope:.2f}); train longer")
    return slope, shift


def input_ranges(weights: Path, pictures: Sequence[Picture]) -> Ranges:
    """The ranges of the layers' inputs of a file's network over the first 100 pictures, for int8 (`models.int8`)."""
    detector = BundledDetector(DetectorConfig(), weights=weights)
    network = detector.load()
    frames = (Frame(number, 0.0, read_image(picture.path)) for number, picture in enumerate(pictures[:100]))
    fused: Any = network.run
    return observe(fused, lambda: [predict(network, detector.letterboxed(frame, network)) for frame in frames])


def _judge(detector: BundledDetector, picture: Picture) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores (N,) and which are right (N,), strongest first, of the boxes of a picture that count."""
    found = detector.detect(Frame(0, 0.0, read_image(picture.path)))
    overlap = iou_matrix(found.bboxes_xyxy, picture.people_xyxy)
    unsure = inside_matrix(found.bboxes_xyxy, picture.unsure_xyxy).max(1, initial=0) >= MATCH_IOU  # in a crowd, too
    hits = np.zeros(len(overlap), bool)
    for i in range(len(hits)):
        if overlap.shape[1] and overlap[i].max() >= MATCH_IOU:
            hits[i] = True
            overlap[:, overlap[i].argmax()] = 0  # taken
    counts = hits | ~unsure
    return found.bbox_scores[counts].astype(np.float64), hits[counts]


class _Numbers:
    """Endless batches of (scene number, whether it may be a mosaic); the processes take turns at the numbers."""

    def __init__(self, trainer: DetectorTrainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        world = self.trainer.world
        together = self.trainer.recipe.batch * world.size
        first = self.trainer.step * together
        while True:
            may_mix = self.trainer.progress < 0.9
            yield [(number, may_mix) for number in range(first + world.rank, first + together, world.size)]
            first += together


def _float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _float(item) for key, item in value.items()}
    return [_float(item) for item in value]
