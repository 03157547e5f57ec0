"""Masked-autoencoder pretraining of the encoder (He et al. 2022), on crops of people without their labels.

The encoder sees a quarter of the patches; a small decoder predicts the others, each normalised by its own mean and
deviation. The grids of both stages are used in turn, so that both position tables and both patch scales are learnt.
The decoder is then discarded; `sharpose-rt train --set init=FILE` starts from the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sharpose_rt.config import to_dict
from sharpose_rt.errors import ConfigError
from sharpose_rt.machine.flag import Flag
from sharpose_rt.models import SHaRPose
from sharpose_rt.models.create import attention_scale_of, set_attention_scale
from sharpose_rt.models.layers import Block
from sharpose_rt.models.pixels import normalise
from sharpose_rt.models.selection import take
from sharpose_rt.models.weights import save_weights
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
from sharpose_rt.training.optim import build_optimizers, lr_factor, resume_optimizers, set_lr
from sharpose_rt.training.running import Clock, SampleStream, batches_of, check_loss, plain_errors, run_folder, stopping
from sharpose_rt.training.start import starting_model
from sharpose_rt.training.transforms import CropDataset, Sampler
from sharpose_rt.training.world import pick_device, quicker_in_bf16

MASKED = 0.75
"""Share of patches that the encoder does not see."""


class MaskedAutoencoder(nn.Module):
    """The encoder of a network and a decoder of two narrow blocks that predicts masked patches.

    Args:
        model: only its patch embedding, positions, blocks and last norm are trained.
        width: of the decoder.
        depth: blocks of the decoder.
    """

    def __init__(self, model: SHaRPose, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        self.model, self.patch_px = model, model.variant.patch_px
        self.narrow = nn.Linear(model.variant.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = nn.ModuleList(Block(width, 4, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, 3 * self.patch_px**2)
        self.place = nn.ParameterDict(
            {
                "coarse": torch.zeros_like(model.coarse_position[..., :1]).expand(-1, -1, width).clone(),
                "fine": torch.zeros_like(model.fine_position[..., :1]).expand(-1, -1, width).clone(),
            }
        )
        for place in self.place.values():
            nn.init.trunc_normal_(place, std=0.02)

    def forward(self, images: Tensor, grid: str) -> Tensor:
        """Mean square error (scalar) of masked patches, for crops (B, 3, H, W) on the 'coarse' or 'fine' grid."""
        variant = self.model.variant
        scale = variant.coarse_scale if grid == "coarse" else variant.fine_scale
        images = images if scale == 1 else F.interpolate(images, scale_factor=scale, mode="area")
        position = self.model.coarse_position if grid == "coarse" else self.model.fine_position
        b, n = len(images), position.shape[1]
        order = torch.rand(b, n, device=images.device).argsort(1)
        seen = order[:, : n - round(MASKED * n)]  # (B, V)
        hidden = torch.ones(b, n, device=images.device).scatter(1, seen, 0.0)  # (B, N), 1 where masked
        # Masked in the picture too: a convolutional stem would leak masked patches to their neighbours.
        tokens = self.model.embed(self._hide(images, hidden))[0] + position
        x = take(tokens, seen)
        for block in self.model.blocks:
            x, _ = block(x)
        x = self.narrow(self.model.norm(x))
        full = self.mask_token.expand(b, n, -1).to(x.dtype)
        full = full.scatter(1, seen[:, :, None].expand(-1, -1, x.shape[2]), x) + self.place[grid]
        for block in self.decoder:
            full, _ = block(full)
        error = (self.pixels(self.norm(full)).float() - self._patches(images)).square().mean(2)  # (B, N)
        return (error * hidden).sum() / hidden.sum()

    def _hide(self, images: Tensor, hidden: Tensor) -> Tensor:
        rows, columns = images.shape[2] // self.patch_px, images.shape[3] // self.patch_px
        mask = hidden.view(-1, 1, rows, columns).repeat_interleave(self.patch_px, 2)
        return images * (1 - mask.repeat_interleave(self.patch_px, 3))

    def _patches(self, images: Tensor) -> Tensor:
        """(B, N, 3*p*p), each patch with mean 0 and deviation 1."""
        patches = F.unfold(images.float(), self.patch_px, stride=self.patch_px).transpose(1, 2)
        return (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()


class Pretrainer:
    """A run of pretraining: its networks, optimisers and position in the schedule.

    Args:
        config: model, initial weights, data, optimiser and length are used; losses and stages are not, nor
            `layer_decay`, which is for pretrained weights, like `stem_lr`, unless the stem is pretrained.
        people: whose crops are learnt from; their joints are ignored.
        out: folder for `last.pt` and `weights.safetensors`; created if missing.
        resume: continue from the checkpoint in the folder, see `resume`; the initial weights are not needed then.
    """

    def __init__(self, config: TrainConfig, people: People, out: Path, *, resume: bool = False) -> None:
        if config.budget != "minutes":
            raise ConfigError("pretraining follows the clock; give --set budget=minutes and --set minutes=N")
        augment = replace(config.augment, half_body_p=0.0)  # needs joints
        from_nothing = config.init == config.init_stem == "random"
        optim = replace(config.optim, layer_decay=1.0, stem_lr=1.0 if from_nothing else config.optim.stem_lr)
        self.config, self.people, self.out = replace(config, augment=augment, optim=optim), people, out
        self.device = pick_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.in_bf16 = quicker_in_bf16(config.precision, self.device)
        torch.manual_seed(config.seed)
        start = replace(config, init="random", init_stem="random") if resume else config
        self.network = MaskedAutoencoder(starting_model(start)).to(self.device).train()
        self.optimizers = build_optimizers(self.network, optim)
        self.step, self.samples = 0, 0
        self.clock = Clock(config.minutes)
        self._stop = Flag()
        if resume:
            self.resume()

    def train_step(self, crops: Tensor) -> float:
        """Trains on one batch of crops (B, h, w, 3) uint8; returns the loss.

        Raises:
            DatasetError: see `check_loss`.
        """
        progress = min(1.0, self.clock.progress(self.samples))
        set_lr(self.optimizers, lr_factor(self.config.optim, progress, self.step))
        images = normalise(crops.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bf16):
            loss = self.network(images, ("coarse", "fine")[self.step % 2])
        value = loss.item()
        check_loss(value, self.step + 1, self.out)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.clip_norm or math.inf)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += len(crops)
        return value

    def run(self, say: Callable[[str], None] = print) -> list[float]:
        """Trains to the end of `minutes`, or until stopped; saves, and returns the losses."""
        w, h = self.network.model.variant.size_hw[::-1]
        config, losses = self.config, []
        sampler = Sampler(self.people, (w, h), config.augment, self.network.model.variant.skeleton, config.seed)
        loader = DataLoader(
            CropDataset(sampler),
            batch_sampler=SampleStream(self.people.draws, config.seed, config.batch, self.samples),  # type: ignore[arg-type]
            num_workers=config.data.workers,
            worker_init_fn=quiet_worker,
            generator=torch.Generator(),  # otherwise the loader would take its seed from the random state of the run
        )
        self.clock = replace(self.clock)  # starts now
        saved_s = self.clock.elapsed_s
        with run_folder(self.out), stopping(self.stop), plain_errors():
            for batch in batches_of(loader, self.save):
                if self.clock.progress(self.samples) >= 1 or self.stopped:
                    break
                losses.append(self.train_step(batch["crop"]))
                if self.step % config.log_steps == 0:
                    say(f"step {self.step}  {self.clock.elapsed_s / 60:.1f} min  loss {losses[-1]:.4f}")
                if self.clock.elapsed_s - saved_s > 60 * config.checkpoint_minutes:
                    self.save()
                    saved_s = self.clock.elapsed_s
        self.save()
        return losses

    def stop(self) -> None:
        """Makes `run` end after the current step; may be called from any thread or a signal handler."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def save(self) -> None:
        """Writes `last.pt`, and the network with its pretrained encoder as `weights.safetensors`."""
        state = {
            "config": to_dict(self.config),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "samples": self.samples,
            "elapsed_s": self.clock.elapsed_s,
            "attention_scale": attention_scale_of(self.network.model),
            **get_chance(self.device),
        }
        save_checkpoint(self.out / "last.pt", state)
        save_weights(self.network.model, self.out / "weights.safetensors", metadata={"pretrained": "mae"})

    def resume(self) -> None:
        """Continues exactly from the checkpoint in the folder, with the options that the configuration changes.

        Raises:
            WeightsError: see `load_run`.
            ConfigError: it changes an option that is fixed within a run, see `FIXED`.
        """
        state = load_run("pretrain", self.out)
        was = read_config(state["config"], str(self.out / "last.pt"))
        check_unchanged(was, self.config, FIXED, self.out)
        self.network.load_state_dict(state["network"])
        model = self.network.model
        set_attention_scale(model, state.get("attention_scale", attention_scale_of(model)))  # not always saved
        resume_optimizers(self.optimizers, self.network, was.optim, state["optimizers"])
        self.step, self.samples = state["step"], state["samples"]
        self.clock = replace(self.clock, elapsed_before_s=state["elapsed_s"])
        set_chance(state, self.device)
