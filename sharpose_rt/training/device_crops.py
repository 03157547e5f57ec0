"""All crops kept on the device and augmented there in one batched warp, so that a large GPU is kept busy.

The loader's workers then only sample numbers; `Sampler` samples the same ones for crops warped on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sharpose_rt.errors import ConfigError, is_short_of_gpu_memory, memory_report
from sharpose_rt.geometry.affine import affine_from_region, fit_aspect, warp_crops
from sharpose_rt.geometry.device_warp import sample, shares
from sharpose_rt.training.datasets import People
from sharpose_rt.training.transforms import Sampler, beyond, coarsen

MARGIN = 1.5
"""Margin stored around the crop on each side, so that shifted and turned crops find their pixels."""
READ_ON_CPU = ("patch", "coarser")
"""Values that `DeviceCrops.warp` reads on the CPU, so that they need not be moved to the device."""


def held_affine(people: People, index: int, crop_size_wh: tuple[int, int], padding: float) -> NDArray[np.float64]:
    """(2, 3) from a person's picture to their stored crop."""
    return held_affines(people.bboxes_xyxy[index], crop_size_wh, padding)[0]


def held_affines(bboxes_xyxy: ArrayLike, crop_size_wh: tuple[int, int], padding: float) -> NDArray[np.float64]:
    """(N, 2, 3) from a picture to the stored crops of people in boxes (N, 4) px, at the scale of the crops."""
    size_wh = held_size_wh(crop_size_wh)
    regions = fit_aspect(bboxes_xyxy, crop_size_wh, padding)
    regions[:, 2:] *= (np.array(size_wh) - 1) / (np.array(crop_size_wh) - 1)
    return affine_from_region(regions, size_wh)


def held_size_wh(crop_size_wh: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the stored crop for crops of this size."""
    return round(crop_size_wh[0] * MARGIN), round(crop_size_wh[1] * MARGIN)


class _Held(Dataset[Tensor]):
    """The stored crop of each person: (3, H, W) uint8 BGR."""

    def __init__(self, people: People, crop_size_wh: tuple[int, int], padding: float) -> None:
        self.people, self.crop_size_wh, self.padding = people, crop_size_wh, padding

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Tensor:
        image = self.people.picture(index)
        affine = held_affine(self.people, index, self.crop_size_wh, self.padding)
        crop = warp_crops(image, affine, held_size_wh(self.crop_size_wh))[0]
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


class DrawDataset(Dataset[dict[str, Tensor]]):
    """Labels of a sample and how its pixels are made from the stored crop; requested by (person, draw)."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler.people)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """`keypoints`, `joint_weights`, `area` as in `CropDataset`, and the input of `DeviceCrops.warp`.

        `index` () int64, `matrix` (2, 3) float32 from crop to `shares` of the stored crop, `colour` (3,), `patch` (9,),
        `border` (3,), `coarser` (); if people may be pasted, also `other_index`, `other_matrix` and `mask` (h, w)
        uint8."""
        index, sampler = item[0], self.sampler
        sample = sampler.draw(*item)
        w, h = sampler.crop_size_wh
        row = {
            "index": torch.tensor(index),
            "matrix": self._matrix(index, sample.variation.affine),
            "colour": torch.from_numpy(sample.colour),
            "patch": torch.from_numpy(sample.patch),
            "border": torch.from_numpy(sample.border),
            "coarser": torch.tensor(sample.coarser),
            **sample.labels,
        }
        if sampler.config.person_p > 0:
            passer = sample.passer
            row["other_index"] = torch.tensor(passer.index if passer else index)
            row["other_matrix"] = self._matrix(passer.index, passer.affine) if passer else row["matrix"]
            row["mask"] = torch.from_numpy(passer.mask) if passer else torch.zeros(h, w, dtype=torch.uint8)
        return row

    def _matrix(self, index: int, affine: NDArray[np.float64]) -> Tensor:
        held = held_affine(self.sampler.people, index, self.sampler.crop_size_wh, self.sampler.config.padding)
        square = np.vstack([held, [0, 0, 1]]) @ np.linalg.inv(np.vstack([affine, [0, 0, 1]]))
        return shares(square[:2], held_size_wh(self.sampler.crop_size_wh))


class DeviceCrops:
    """The stored crops of all people, (N, 3, 1.5 h, 1.5 w) uint8 on the device.

    Args:
        sampler: provides the people.
        device: where crops are stored.
        workers: processes that read the pictures, once.
        say: receives the progress.

    Raises:
        ConfigError: they do not fit into the memory of the device.
    """

    def __init__(
        self, sampler: Sampler, device: torch.device, workers: int = 0, say: Callable[[str], None] = lambda _: None
    ) -> None:
        people, self.crop_size_wh, self.config = sampler.people, sampler.crop_size_wh, sampler.config
        width, height = held_size_wh(self.crop_size_wh)
        try:
            self.held = torch.empty((len(people), 3, height, width), dtype=torch.uint8, device=device)
        except RuntimeError as error:
            if not is_short_of_gpu_memory(error):
                raise
            raise ConfigError(
                f"data.cache device holds {len(people)} people's crops of {3 * height * width} bytes each: "
                f"{memory_report(error)}; give --set data.cache=none, or fewer sets"
            ) from error
        held = _Held(people, self.crop_size_wh, self.config.padding)
        # A separate generator: otherwise the loader would take its seed from the random state of the run.
        loader = DataLoader(held, batch_size=64, num_workers=workers, generator=torch.Generator())
        done = 0
        for batch in loader:
            self.held[done : done + len(batch)] = batch.to(device)
            done += len(batch)
            if done % 6400 < 64:
                say(f"{done} of {len(people)} people read")

    def warp(self, batch: dict[str, Tensor]) -> Tensor:
        """Crops (B, h, w, 3) uint8 BGR for a batch of `DrawDataset`, on the device; as in `CropDataset` within
        rounding."""
        pixels = self._sample(batch["index"], batch["matrix"])  # (B, 3, h, w) float32
        if self.config.cut_p > 0:
            w, h = self.crop_size_wh
            pixels.masked_fill_(beyond(batch["border"], (h, w))[:, None], 0)
        if self.config.colour > 0:
            pixels = self._change_colour(pixels, batch["colour"]).clamp(0, 255)
        if "mask" in batch:
            share = batch["mask"][:, None].float() / 255
            pixels = pixels + share * (self._sample(batch["other_index"], batch["other_matrix"]) - pixels)
        for number, factor in enumerate(batch["coarser"].tolist()):
            if factor > 1:
                pixels[number] = coarsen(pixels[number], factor)
        crops = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        for number, (y, x, h, w, from_y, from_x, *colour) in enumerate(batch["patch"].tolist()):
            if h:
                source = crops[number, from_y : from_y + h, from_x : from_x + w].clone()
                if from_y < 0:
                    source = torch.tensor(colour, dtype=torch.uint8, device=crops.device)
                crops[number, y : y + h, x : x + w] = source
        return crops

    def _sample(self, index: Tensor, matrix: Tensor) -> Tensor:
        """Bilinear, black outside of the stored crop."""
        return sample(self.held[index].float(), matrix, self.crop_size_wh)

    @staticmethod
    def _change_colour(pixels: Tensor, factors: Tensor) -> Tensor:
        """Like `transforms.colour_matrix`, for a batch."""
        gain, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors.unbind(1))
        grey = torch.tensor([0.114, 0.587, 0.299], device=pixels.device).view(1, 3, 1, 1)
        mean = pixels.mean((1, 2, 3), keepdim=True)
        mixed = saturation * pixels + (1 - saturation) * (pixels * grey).sum(1, keepdim=True)
        return gain * contrast * mixed + gain * mean * (1 - contrast)
