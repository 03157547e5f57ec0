"""Trains the appearance network to recognise a person in another view of the same photograph, among other people.

Instance discrimination (Dosovitskiy et al. 2014; the loss of Chen et al. 2020), because no freely usable dataset labels
the same person in different photographs. Two views of a person differ like pictures taken a few seconds apart: in crop,
size, light, occlusion and the edge of the picture. People of one photograph are in the same step, so that light and
background do not distinguish them.

Letters: N people, B views, H x W the stored picture of a person.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sharpose_rt.config.checks import within
from sharpose_rt.errors import DatasetError
from sharpose_rt.geometry.affine import warp_crops
from sharpose_rt.models.appearance import CROP_HW, PADDING, AppearanceNetwork
from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB
from sharpose_rt.training.datasets import quiet_worker
from sharpose_rt.training.device_crops import MARGIN, held_affines, held_size_wh
from sharpose_rt.training.optim import Ema, cosine
from sharpose_rt.training.pictures import Picture
from sharpose_rt.training.running import Clock, all_of, check_recipe, plain_errors, stopping
from sharpose_rt.training.world import quicker_in_bf16

_CROP_WH = CROP_HW[1], CROP_HW[0]
HELD_HW = held_size_wh(_CROP_WH)[::-1]
"""Height and width of the stored picture of a person, px."""
SMALLEST_PX, MOST_OF_ONE = 60, 5
"""Smaller people are left out, and people beyond a number per photograph."""
TEMPERATURE = 0.07
TOGETHER = 3
"""Number of neighbours, in the order of photographs, in the same step."""
SIZES_PX = (24, 32, 44, 64)
"""Heights of distant people."""


@dataclass(frozen=True)
class AppearanceRecipe:
    """A training run.

    Args:
        minutes: length; the schedule follows the clock.
        people: per step, with two views of each.
        lr: peak learning rate of AdamW.
        weight_decay: of its matrices.
        ema: decay of the moving average of weights.
        precision: 'bf16' (autocast), 'fp32', or 'auto', the faster one here.
        threads: CPU threads; 0: PyTorch's default.
        workers: processes that read pictures at the start.
        seed: for weights, order and augmentation.
    """

    minutes: float = 20.0
    people: int = 192
    lr: float = 2e-3
    weight_decay: float = 0.05
    ema: float = 0.998
    precision: str = "auto"
    threads: int = 0
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_recipe(self.precision, self.seed, self.minutes, self.lr, self.threads, self.workers)
        within("people", self.people, 2 * TOGETHER)


class _Crops(Dataset[NDArray[np.uint8]]):
    """The stored pictures of the people in each photograph."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        picture = self.pictures[index]
        affines = held_affines(_large(picture)[:MOST_OF_ONE], _CROP_WH, PADDING)
        crops = warp_crops(picture.read(), affines, held_size_wh(_CROP_WH))
        return np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2))


def _large(picture: Picture) -> NDArray[np.float64]:
    boxes = picture.people_xyxy
    return boxes[boxes[:, 3] - boxes[:, 1] >= SMALLEST_PX]


def hold(pictures: Sequence[Picture], workers: int = 1) -> Tensor:
    """The people of photographs, cropped once: (N, 3, H, W) uint8 RGB, those of one photograph next to each other.

    Raises:
        DatasetError: a picture cannot be read, or there are too few people of `SMALLEST_PX`.
    """
    used = [picture for picture in pictures if len(_large(picture))]
    options: Any = {"collate_fn": _as_it_is, "worker_init_fn": quiet_worker}
    loader = DataLoader(_Crops(used), batch_size=None, num_workers=workers, **options)
    with plain_errors():
        crops = list(all_of(loader))
    count = sum(map(len, crops))
    if count < 4 * TOGETHER:
        raise DatasetError(f"{len(pictures)} photographs show {count} people of {SMALLEST_PX} px; more are wanted")
    return torch.from_numpy(np.concatenate(crops))


def _as_it_is(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Not as tensors: each one from a worker would keep a file open."""
    return crops


class AppearanceTrainer:
    """A run over people (N, 3, H, W) from `hold`; `averaged` is its result."""

    def __init__(self, people: Tensor, recipe: AppearanceRecipe) -> None:
        self.people, self.recipe = people, recipe
        self.random = torch.Generator().manual_seed(recipe.seed)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = AppearanceNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = Ema(self.network, recipe.ema)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
        self.in_bf16 = quicker_in_bf16(recipe.precision, torch.device("cpu"))
        self.step = 0
        self.clock = Clock(recipe.minutes)
        self._stop = False

    def run(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Trains until the time is over; Ctrl-C ends it earlier, cleanly.

        Raises:
            DatasetError: the loss is not finite.
        """
        with stopping(self._end):
            while not self._stop and self.clock.progress() < 1:
                loss, right = self._step()
                if self.step % 100 == 0:
                    minutes = self.clock.elapsed_s / 60
                    say(f"step {self.step}  {minutes:.1f} min  loss {loss:.3f}  known again {right:.3f}")

    def _end(self) -> None:
        self._stop = True

    def averaged(self) -> AppearanceNetwork:
        """The moving average of the weights."""
        network = AppearanceNetwork()
        network.load_state_dict(self.ema.shadow)
        return network.eval()

    def _step(self) -> tuple[float, float]:
        recipe = self.recipe
        starts = torch.randint(len(self.people) - TOGETHER + 1, (recipe.people // TOGETHER,), generator=self.random)
        rows = (starts[:, None] + torch.arange(TOGETHER)).flatten().unique()
        views = torch.cat([vary(self.people[rows], self.random) for _ in range(2)])
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bf16):
            vectors = self.network(views.contiguous(memory_format=torch.channels_last))
        loss, right = alike_loss(*vectors.float().chunk(2))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DatasetError(f"the loss is {value} at step {self.step}; start again with a lower --lr")
        for group in self.optimiser.param_groups:
            rise = min(1.0, (self.step + 1) / 100)
            group["lr"] = recipe.lr * rise * cosine(self.clock.progress())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.ema.update(self.network, self.step)
        self.step += 1
        return value, float(right)


def alike_loss(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """NT-Xent between two views (N, D) of N people, and the share of people nearest to themselves."""
    alike = a @ b.T / TEMPERATURE
    own = torch.arange(len(a), device=a.device)
    loss = (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)) / 2
    return loss, (alike.argmax(1) == own).float().mean()


def vary(held: Tensor, random: torch.Generator) -> Tensor:
    """A view of each person as in another camera frame, (B, 3, *CROP_HW) normalised.

    Args:
        held: (B, 3, H, W) uint8 RGB, from `hold`.
        random: source of the variation.
    """
    b = len(held)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(b, *shape, generator=random)

    def some(share: float) -> Tensor:
        return torch.rand(b, generator=random) < share

    mirrored = torch.where(some(0.5), -1.0, 1.0)
    size = draw(0.88, 1.15) / MARGIN
    shift = torch.stack([draw(-0.08, 0.08), draw(-0.06, 0.06)], 1)
    upper = some(0.15)  # if somebody is partly hidden or cut off, their box is smaller, and shows this part larger
    shift[:, 1] += torch.where(upper, torch.sign(draw(-1, 1)) * draw(0.1, 0.3), torch.zeros(b))
    size = torch.where(upper, 0.8 * size, size)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = mirrored * size, size, shift / MARGIN
    grid = F.affine_grid(theta, [b, 3, *CROP_HW], align_corners=False)
    views = F.grid_sample(held.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    far = torch.randint(2 * len(SIZES_PX), (b,), generator=random)
    for number, height in enumerate(SIZES_PX):  # half of them are distant
        rows = (far == number).nonzero().squeeze(1)
        if len(rows):
            small = F.interpolate(views[rows], (height, height * CROP_HW[1] // CROP_HW[0]), mode="area")
            views[rows] = F.interpolate(small, CROP_HW, mode="bilinear", align_corners=False)
    views = _hide(views, some(0.15), *_edge(draw), torch.zeros(b, 3, 1, 1))
    views = _hide(views, some(0.3), *_patch(draw), draw(0, 255, 3, 1, 1))
    light = draw(0.8, 1.25, 1, 1, 1) * draw(0.95, 1.05, 3, 1, 1)
    noise = torch.randn(views.shape, generator=random) * draw(2, 8, 1, 1, 1) * some(0.3)[:, None, None, None]
    views = (views * light + draw(-12, 12, 1, 1, 1) + noise).clamp(0, 255)
    return (views - torch.tensor(MEAN_RGB).view(3, 1, 1)) / torch.tensor(STD_RGB).view(3, 1, 1)


def _edge(draw: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """The left or right part of each crop outside the picture: centre and half size (B, 2), 0 to 1."""
    width, right = draw(0.1, 0.45), draw(0, 1) < 0.5
    x = torch.where(right, 1 - width / 2, width / 2)
    return torch.stack([x, torch.full_like(x, 0.5)], 1), torch.stack([width / 2, torch.ones_like(x)], 1)


def _patch(draw: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """A rectangle that hides a part of each crop: centre and half size (B, 2), 0 to 1."""
    return draw(0, 1, 2), draw(0.05, 0.22, 2)


def _hide(views: Tensor, which: Tensor, centre: Tensor, half: Tensor, colour: Tensor) -> Tensor:
    """The views (B, 3, h, w), of which those in `which` (B,) get a rectangle of a colour (B, 3, 1, 1)."""
    h, w = views.shape[2:]
    y = ((torch.arange(h) + 0.5) / h - centre[:, 1:]).abs() <= half[:, 1:]
    x = ((torch.arange(w) + 0.5) / w - centre[:, :1]).abs() <= half[:, :1]
    hidden = (y[:, None, :, None] & x[:, None, None, :]) & which[:, None, None, None]
    return torch.where(hidden, colour, views)
