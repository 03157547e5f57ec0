"""The training loop: sample, forward, loss, step; log, validate, save; stop and resume.

A run is a function of its configuration: sampling and augmentation only depend on the seed and the number of samples
seen, so a run that is resumed from its checkpoint continues as if it had not stopped. (If the budget is minutes, the
schedule follows the clock, and two runs differ.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sharpose_rt.config import to_dict
from sharpose_rt.errors import SharposeError
from sharpose_rt.geometry.heatmap import decode, encode
from sharpose_rt.machine.flag import Flag
from sharpose_rt.models import SHaRPose
from sharpose_rt.models.create import attention_scale_of, set_attention_scale
from sharpose_rt.models.pixels import normalise
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import CoarseOutput
from sharpose_rt.models.weights import save_weights
from sharpose_rt.training import losses
from sharpose_rt.training.checkpoint import (
    FIXED,
    check_unchanged,
    get_chance,
    load_run,
    save_checkpoint,
    set_chance,
)
from sharpose_rt.training.config import TrainConfig, read_config
from sharpose_rt.training.datasets import People, quiet_worker
from sharpose_rt.training.device_crops import READ_ON_CPU, DeviceCrops, DrawDataset
from sharpose_rt.training.distill import Teacher, create_teacher, distillation_loss, fitted, is_right
from sharpose_rt.training.log import Row, TensorBoard, read_log, write_log
from sharpose_rt.training.optim import Ema, build_optimizers, lr_factor, resume_optimizers, set_lr
from sharpose_rt.training.running import Clock, SampleStream, batches_of, check_loss, plain_errors, stopping
from sharpose_rt.training.start import starting_model
from sharpose_rt.training.transforms import CropDataset, Sampler
from sharpose_rt.training.world import join_world, pick_device, quicker_in_bf16

Validate = Callable[[SHaRPose], Row]


class Trainer:
    """A run: its model, optimisers, position in the schedule, and output folder.

    Args:
        config: of the run.
        people: the training data.
        out: folder for checkpoint, log, weights and pictures; created if missing.
        validate: measures a model; its columns are logged.
        resume: continue from the checkpoint in the folder, see `resume`; the initial weights are not needed then.
    """

    def __init__(
        self,
        config: TrainConfig,
        people: People,
        out: Path,
        validate: Validate | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self.config, self.people, self.out, self.validate = config, people, out, validate
        self.world = join_world(config.device)
        self.device = pick_device(config.device, self.world)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.in_bf16 = quicker_in_bf16(config.precision, self.device)
        torch.manual_seed(config.seed)
        start = replace(config, init="random", init_stem="random") if resume else config
        self.model = starting_model(start).to(self.device).train()
        self.dense_head = self._create_dense_head() if config.loss.dense else None
        self.trained = nn.ModuleDict({"model": self.model, "dense_head": self.dense_head or nn.Identity()})
        self.world.share(self.trained.state_dict().values())
        self.teacher = self._create_teacher()
        names = self.model.variant.skeleton.keypoints
        factors = losses.limb_weights(names) if config.loss.joints == "limbs" else torch.ones(len(names))
        self.joint_factors = factors.to(self.device)  # (K,)
        self.optimizers = build_optimizers(self.trained, config.optim, self.world)
        self.ema = Ema(self.model, config.optim.ema) if config.optim.ema else None
        self.crops: DeviceCrops | None = None
        self.board: TensorBoard | None = None
        if config.compile:
            for block in self.model.blocks:
                block.compile()
        self.step = 0
        self.samples = 0
        length = None if config.budget == "minutes" else config.epochs * float(people.draws.sum())
        self.clock = Clock(config.minutes, length)
        self.rows: list[Row] = []
        self._stop = Flag()
        if resume:
            self.resume()

    def _create_dense_head(self) -> losses.DenseHead:
        variant = self.model.variant
        return losses.DenseHead(
            variant.width, len(variant.skeleton), variant.coarse_grid_hw, variant.heatmap_size_hw
        ).to(self.device)

    def _create_teacher(self) -> Teacher | None:
        wanted = self.config.distill
        if wanted.weight == 0:
            return None
        return create_teacher(wanted, self.model.variant, self.device)

    # --- one step ---------------------------------------------------------------------------------------------

    def train_step(self, batch: dict[str, Tensor]) -> Row:
        """Trains on one batch and returns its columns for the log.

        Raises:
            DatasetError: see `check_loss`.
        """
        progress = self.world.agree(min(self.clock.progress(self.samples), 1.0))
        factor = lr_factor(self.config.optim, progress, self.step)
        set_lr(self.optimizers, factor)
        numbers = {key: batch.pop(key) for key in READ_ON_CPU if key in batch}
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        if self.crops:
            batch["crop"] = self.crops.warp(batch | numbers)
        loss, parts = self.loss(batch, progress)
        loss.backward()
        value, *values = torch.stack([loss.detach(), *parts.values()]).tolist()  # waits for the device once
        check_loss(value, self.step + 1, self.out)
        self.world.average_gradients(self.trained.parameters())
        limit = self.config.optim.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), limit)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += len(batch["crop"]) * self.world.size
        if self.ema:
            self.ema.update(self.model, self.step)
        return {
            "lr": self.config.optim.lr * factor,
            "grad_norm": float(norm),
            "loss": value,
            **dict(zip(parts, values, strict=True)),
        }

    def loss(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (Eq. 9) at `progress`, times the cells of a heatmap so that gradients are about 1; and its parts,
        ()."""
        config, variant = self.config.loss, self.model.variant
        images = normalise(batch["crop"])
        coarse, stages = self._forward(images, coarse_only=progress < self.config.coarse_only_until)
        targets = encode(batch["keypoints"], variant.heatmap_size_hw, variant.size_hw, variant.sigma_cells)
        weights = batch["joint_weights"] * self.joint_factors
        early = max(0.0, 1 - progress / config.localisation_until)

        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for name, heatmaps in stages.items():
            share = config.dense * early if name == "dense" else 1.0
            if share == 0:
                continue
            n = len(heatmaps)  # the fine stage may only have the first crops
            error = losses.heatmap_mse(heatmaps, targets[:n], weights[:n])  # Eq. 10
            parts[f"mse_{name}"] = error.detach()
            if config.localisation * early > 0:
                pull = losses.localisation(heatmaps, targets[:n], weights[:n], config.temperature)
                parts[f"localisation_{name}"] = pull.detach() * math.prod(variant.heatmap_size_hw)
                error = error + config.localisation * early * pull
            total = total + share * error
        if config.coarse_from_fine > 0 and "fine" in stages:  # self-distillation: Zhang et al. 2019
            error = distillation_loss(stages["coarse"][: len(stages["fine"])], stages["fine"].detach())
            parts["coarse_from_fine"] = error.detach()
            total = total + config.coarse_from_fine * error
        if self.teacher:
            taught = fitted(self.teacher(images), variant.heatmap_size_hw)
            followed = is_right(taught, targets, weights)
            for name in ("coarse", "fine"):
                if name in stages:
                    n = len(stages[name])
                    error = distillation_loss(stages[name], taught[:n], followed[:n])
                    parts[f"distill_{name}"] = error.detach()
                    total = total + self.config.distill.weight * error
        if progress >= config.quality_from:
            oks = self._oks(stages["coarse"], batch)
            error = losses.quality_mse(coarse.quality, oks, (weights > 0).any(1).float())  # Eq. 11
            total = total + config.quality * error
            parts["quality"] = error.detach()
        if (self.step + 1) % self.config.log_steps == 0:
            for name, heatmaps in stages.items():
                parts[f"oks_{name}"] = self._oks(heatmaps, batch).mean()
        return total * math.prod(variant.heatmap_size_hw), parts

    def _forward(self, images: Tensor, *, coarse_only: bool) -> tuple[CoarseOutput, dict[str, Tensor]]:
        """The output of the coarse stage, and heatmaps (B, K, h, w) float32 by stage: coarse, dense, and fine for the
        first crops of a batch."""
        model = self.model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bf16):
            coarse = model.coarse_stage(images)
            stages = {"coarse": coarse.heatmaps.float()}
            if self.dense_head:
                stages["dense"] = self.dense_head(coarse.image_outputs).float()
            if not coarse_only:  # in training, crops are refined whatever their quality
                first = torch.arange(math.ceil(self.config.refined_share * len(images)), device=self.device)
                coarse_first = coarse if len(first) == len(images) else coarse[first]
                selected, low = split_cells(coarse_first.cell_scores, model.selected_count)
                stages["fine"] = model.fine_stage(images[: len(first)], coarse_first, selected, low).float()
        return coarse, stages

    @torch.no_grad()
    def _oks(self, heatmaps: Tensor, batch: dict[str, Tensor]) -> Tensor:
        variant, n = self.model.variant, len(heatmaps)
        keypoints, _ = decode(heatmaps, variant.size_hw, variant.skeleton.sigmas)
        truth, weights, area = (batch[name][:n] for name in ("keypoints", "joint_weights", "area"))
        return losses.batch_oks(keypoints, truth, weights, area, variant.skeleton.sigmas)

    # --- the run ----------------------------------------------------------------------------------------------

    def run(self, max_minutes: float | None = None, progress: Callable[[Row], None] | None = None) -> str:
        """Trains to the end of the budget; returns why it ended: 'finished', 'max-minutes' or 'stopped'.

        Args:
            max_minutes: end this part of the run after this time.
            progress: called with every line of the log.
        """
        if self.world.leads:
            write_log(self.rows, self.out / "log.csv")
            self.board = TensorBoard(self.out / "tensorboard", self.samples) if self.config.tensorboard else None
        reason = "finished"
        first = self.step  # each part makes at least one step
        with stopping(self.stop), plain_errors():
            loader = self._loader()  # reads all crops if the device caches them; not yet training time
            self.clock = replace(self.clock)  # starts now
            saved_s = validated_s = self.clock.elapsed_s
            logged_at, logged_s = self.samples, self.clock.elapsed_s
            for batch in batches_of(loader, self.save):
                if reason_now := self._over(max_minutes if self.step > first else None):
                    reason = reason_now
                    break
                row = self.train_step(batch)
                now_s = self.clock.elapsed_s
                if self.step % self.config.log_steps == 0 or self.step == 1:
                    speed = (self.samples - logged_at) / max(now_s - logged_s, 1e-9)
                    logged_at, logged_s = self.samples, now_s
                    self._log(row | {"samples_per_s": speed}, progress)
                if now_s - validated_s >= 60 * self.config.validate_minutes:
                    self._validate(progress)
                    validated_s = logged_s = self.clock.elapsed_s
                    logged_at = self.samples
                if now_s - saved_s >= 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved_s = self.clock.elapsed_s
        self.save()
        if reason != "stopped":
            self._validate(progress)
        return reason

    def _over(self, max_minutes: float | None) -> str:
        """Why the run ends here, the same in all processes; "" if it continues."""
        late = max_minutes is not None and self.clock.session_s >= 60 * max_minutes
        finished = self.clock.progress(self.samples) >= 1
        return ("", "max-minutes", "stopped", "finished")[
            int(self.world.agree(3 if finished else 2 if self._stop.is_set() else int(late)))
        ]

    def stop(self) -> None:
        """Makes `run` end after the current step; may be called from any thread or a signal handler."""
        self._stop.set()

    def _loader(self) -> DataLoader[dict[str, Tensor]]:
        w, h = self.model.variant.size_hw[::-1]
        data, config = self.people, self.config
        sampler = Sampler(data, (w, h), config.augment, self.model.variant.skeleton, config.seed)
        if config.data.cache == "device" and self.crops is None:
            self.crops = DeviceCrops(sampler, self.device, config.data.workers, lambda line: print(line, flush=True))
        return DataLoader(
            DrawDataset(sampler) if self.crops else CropDataset(sampler),
            batch_sampler=SampleStream(data.draws, config.seed, config.batch, self.samples, self.world),  # type: ignore[arg-type]
            num_workers=config.data.workers,
            worker_init_fn=quiet_worker,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if config.data.workers else None,
            generator=torch.Generator(),  # otherwise the loader would take its seed from the random state of the run
        )

    def averaged(self) -> SHaRPose:
        """The final network, in evaluation mode: a copy with averaged weights if an average is kept."""
        model = copy.deepcopy(self.model)  # a new one would change the random state of the run
        if self.ema:
            model.load_state_dict(self.ema.shadow)
        return model.eval()

    def _validate(self, progress: Callable[[Row], None] | None) -> None:
        if self.validate and self.world.leads:
            try:
                row = self.validate(self.averaged())
            except SharposeError:
                self.save()  # saves what was learnt before
                raise
            self._log(row, progress)

    # --- log and state ----------------------------------------------------------------------------------------

    def _log(self, row: Row, progress: Callable[[Row], None] | None) -> None:
        if not self.world.leads:
            return
        elapsed_s = self.clock.elapsed_s
        place = {"step": self.step, "samples": self.samples, "elapsed_s": elapsed_s}
        row = {**place, "progress": self.clock.progress(self.samples), **row}
        self.rows.append(row)
        write_log([row], self.out / "log.csv", append=True)
        if self.board:
            self.board.add(row)
        if progress:
            progress(row)

    def save(self) -> None:
        """Writes the checkpoint `last.pt`, and the final weights as `weights.safetensors`."""
        if not self.world.leads:
            return
        state = {
            "config": to_dict(self.config),
            "model": self.model.state_dict(),
            "dense_head": self.dense_head.state_dict() if self.dense_head else None,
            "ema": self.ema.shadow if self.ema else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "samples": self.samples,
            "elapsed_s": self.clock.elapsed_s,
            "attention_scale": attention_scale_of(self.model),
            **get_chance(self.device),
        }
        save_checkpoint(self.out / "last.pt", state)
        facts = {"trained_samples": str(self.samples), "trained_minutes": f"{self.clock.elapsed_s / 60:.1f}"}
        save_weights(self.averaged(), self.out / "weights.safetensors", metadata=facts)

    def resume(self) -> None:
        """Continues exactly from the checkpoint in the folder, with the options that the configuration changes.

        Raises:
            WeightsError: see `load_run`.
            ConfigError: it changes an option that is fixed within a run: `FIXED`, the layer decay, or the dense head.
        """
        state = load_run("train", self.out)
        was = read_config(state["config"], str(self.out / "last.pt"))
        other_head = (was.loss.dense > 0) != (self.config.loss.dense > 0)
        kept = (*FIXED, "optim.layer_decay", *(("loss.dense",) if other_head else ()))
        check_unchanged(was, self.config, kept, self.out)
        self.model.load_state_dict(state["model"])
        usual = (
            self.model.variant.width // self.model.variant.heads
        ) ** -0.5  # for checkpoints from before it was saved
        set_attention_scale(self.model, state.get("attention_scale", usual))
        if self.dense_head:
            self.dense_head.load_state_dict(state["dense_head"])
        resume_optimizers(self.optimizers, self.trained, was.optim, state["optimizers"])
        if self.ema:
            self.ema = Ema(self.model, self.config.optim.ema)  # from here on, if the run had none
            if state["ema"]:
                self.ema.shadow = {key: value.to(self.device) for key, value in state["ema"].items()}
        self.step, self.samples = state["step"], state["samples"]
        self.clock = replace(self.clock, elapsed_before_s=state["elapsed_s"])
        set_chance(state, self.device)
        self.rows = read_log(self.out / "log.csv", self.step)
