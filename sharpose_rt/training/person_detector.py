"""Trains a one-class person detector: ours (`detection.person_network`), or an architecture of ultralytics.

The loss is ultralytics'; the scenes (`detector_scenes`) and the schedule are ours, because ours follow the clock
instead of epochs, support uncertain labels, and run in several processes on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from ultralytics.cfg import get_cfg
from ultralytics.utils.loss import E2ELoss

from sharpose_rt.detection.bundled import OURS, WEIGHTS, build_module, load_module
from sharpose_rt.errors import ConfigError, DatasetError
from sharpose_rt.models.stem import MobileTrunk
from sharpose_rt.training.checkpoint import load_run, save_checkpoint
from sharpose_rt.training.datasets import quiet_worker
from sharpose_rt.training.detector_recipe import DetectorRecipe
from sharpose_rt.training.detector_scenes import PeopleScenes, Wanted, collate
from sharpose_rt.training.movenet import load_multipose
from sharpose_rt.training.optim import Ema, cosine
from sharpose_rt.training.pictures import Picture
from sharpose_rt.training.running import Clock, batches_of, check_loss, plain_errors, run_folder, stopping
from sharpose_rt.training.world import join_world, pick_device, quicker_in_bf16


class DetectorTrainer:
    """A run: its module, optimiser, position in the schedule, and the folder of its checkpoint.

    Args:
        pictures: with everybody labelled.
        draws: (N,) relative frequency of each.
        recipe: of the run.
        out: folder for `last.pt`; created if missing.
        resume: continue from the checkpoint in the folder; the initial weights are not needed then.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        draws: NDArray[np.float64],
        recipe: DetectorRecipe,
        out: Path,
        *,
        resume: bool = False,
    ) -> None:
        if not pictures:
            raise DatasetError("there is no picture with everybody labelled to train the detector on; give more sets")
        self.recipe, self.out = recipe, out
        self.world = join_world(recipe.device)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)  # the same in every process, so that the weights are too
        self.device = pick_device(recipe.device, self.world)
        self.in_bf16 = quicker_in_bf16(recipe.precision, self.device)
        state = self._begun() if resume else None
        self.module: Any = _create_module(recipe, None if state is None else state["module"]).train()
        self.trunk: MobileTrunk | None = getattr(self.module, "trunk", None)
        self.module.to(self.device, memory_format=torch.channels_last)
        self.module.args = get_cfg()
        self.criterion: Any = self.module.init_criterion()
        self.optimizer = self._create_optimizer()
        self.ema = Ema(self.module, recipe.ema)
        self.scenes = PeopleScenes(pictures, draws, recipe)
        self.step, self.clock = 0, Clock(recipe.minutes)
        if state is not None:
            self._resume(state)

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
            self.trunk.freeze(self.recipe.frozen_blocks)

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Trains on one batch; returns the loss and its parts.

        Raises:
            DatasetError: see `check_loss`.
        """
        progress = self.world.agree(min(1.0, self.clock.progress()))
        self._freeze(progress)
        warm = min(1.0, (self.step + 1) / max(1, self.recipe.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * warm * cosine(progress, final=0.01)
        if isinstance(self.criterion, E2ELoss):
            # One-to-many learns faster, one-to-one is used in the end: the weight shifts from one to the other.
            self.criterion.o2m = 0.8 - 0.7 * progress
            self.criterion.o2o = 1 - self.criterion.o2m
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        images = batch["img"].float() / 255
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

    def run(self, say: Callable[[str], None] = print, log_steps: int = 50) -> None:
        """Trains to the end of the recipe's minutes, or until stopped; saves in both cases."""
        self.clock = replace(self.clock)  # starts now
        saved_s = logged_s = self.clock.elapsed_s
        logged_at = self.step
        stopped: list[bool] = []
        with run_folder(self.out), stopping(lambda: stopped.append(True)), plain_errors():
            for batch in batches_of(self._loader(), self.save):
                if self.world.agree(bool(stopped) or self.clock.progress() >= 1):
                    break
                row = self.train_step(batch)
                now_s = self.clock.elapsed_s
                if self.step % log_steps == 0 and self.world.leads:
                    speed = (self.step - logged_at) * self.recipe.batch * self.world.size / (now_s - logged_s)
                    logged_at, logged_s = self.step, now_s
                    parts = " ".join(f"{key} {value:.3f}" for key, value in row.items())
                    done = min(1.0, self.clock.progress())
                    say(f"step {self.step}  {100 * done:.1f} %  {speed:.1f} pictures/s  {parts}")
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
        """Writes the checkpoint `last.pt`, in the leading process."""
        if not self.world.leads:
            return
        state = {
            "recipe": asdict(self.recipe),
            "module": self.module.state_dict(),
            "ema": self.ema.shadow,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.clock.elapsed_s,
        }
        save_checkpoint(self.out / "last.pt", state)

    def _begun(self) -> dict[str, Any]:
        """The checkpoint in the folder of the run.

        Raises:
            WeightsError: see `load_run`.
            ConfigError: it has another architecture.
        """
        state = load_run("train-detector", self.out)
        for kept in ("architecture", "seed"):  # another seed would hold out other pictures
            was, now = state["recipe"][kept], getattr(self.recipe, kept)
            if was != now:
                raise ConfigError(f"the run in {self.out} has the {kept} {was!r}, not {now!r}; --{kept} {was} goes on")
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint."""
        self.module.load_state_dict(state["module"])
        earlier = self._create_optimizer()
        earlier.load_state_dict(state["optimizer"])  # includes the earlier learning rates
        self.optimizer.state = earlier.state
        self.ema.shadow = {key: value.to(self.device) for key, value in state["ema"].items()}
        self.step, self.clock = state["step"], replace(self.clock, elapsed_before_s=state["elapsed_s"])

    def averaged(self) -> Any:
        """The final module: averaged weights, in evaluation mode."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.ema.shadow)
        return module.eval()


def _create_module(recipe: DetectorRecipe, state: Mapping[str, Tensor] | None) -> Any:
    """The network of a recipe with its initial weights, or those of a state."""
    if state is not None:
        return build_module(recipe.architecture, Path(), state)
    if recipe.init == "bundled" or recipe.init.endswith(".safetensors"):
        return load_trained(recipe.init, recipe.architecture)
    module = build_module(recipe.architecture, Path())
    if recipe.architecture == OURS and recipe.init != "random":
        load_multipose(module.trunk, recipe.init)
    return module


def load_trained(name: str, architecture: str) -> Any:
    """The module of the included detector ('bundled') or of a .safetensors file.

    Raises:
        WeightsError: see `load_module`.
        ConfigError: it has another architecture.
    """
    module, facts = load_module(WEIGHTS if name == "bundled" else Path(name))
    if facts["architecture"] != architecture:
        raise ConfigError(
            f"{name!r} is a {facts['architecture']!r}, but {architecture!r} is to be trained; "
            f"give --architecture {facts['architecture']}"
        )
    return module


class _Numbers:
    """Endless batches of scenes, each of one size; the processes take turns by number."""

    def __init__(self, trainer: DetectorTrainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[list[Wanted]]:
        world = self.trainer.world
        together = self.trainer.recipe.batch * world.size
        step = self.trainer.step
        while True:
            size, may_mix = self._size(step), self.trainer.clock.progress() < 0.9
            numbers = range(step * together + world.rank, (step + 1) * together, world.size)
            yield [Wanted(number, size, may_mix) for number in numbers]
            step += 1

    def _size(self, step: int) -> int:
        """Side of the scenes of a step in px.

        Which steps are larger, and by how much, only depends on the step and the seed: no process waits for another.
        """
        recipe = self.trainer.recipe
        if recipe.small_size and self.trainer.clock.progress() < recipe.small_until:
            return recipe.small_size
        rng = np.random.default_rng((recipe.seed, step, 2))
        if rng.random() >= recipe.large_share:
            return recipe.image_size
        return recipe.image_size + 32 * int(rng.integers(1, recipe.image_size // 32 + 1))


def _float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _float(item) for key, item in value.items()}
    return [_float(item) for item in value]
