"""Makes crops on a device in one batched sampling, from pictures that are already there."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sharpose_rt.compute.streams import upload
from sharpose_rt.geometry.affine import halvings, invert_affine


def sample(images: Tensor, matrices: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """Crops (N, C, h, w) of pictures (N, C, H, W), both float32; bilinear, 0 outside the picture.

    Args:
        images: a picture for each crop; one expanded to N costs no memory.
        matrices: (N, 2, 3) from a crop's pixels to its picture in the units of `shares`.
        size_wh: of the crops, px.
    """
    w, h = size_wh
    grid = (_pixels(size_wh, images.device) @ matrices.transpose(1, 2)).view(-1, h, w, 2)
    # Not F.grid_sample: on a GPU it uses cuDNN, which first copies an expanded picture once per crop.
    bilinear, zeros = 0, 0
    return torch.ops.aten.grid_sampler_2d(images, grid, bilinear, zeros, True)  # aligned corners


@cache
def _pixels(size_wh: tuple[int, int], device: torch.device) -> Tensor:
    """(hw, 3): x, y and 1 of each pixel, row by row."""
    w, h = size_wh
    y, x = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    # Made on the CPU, which waits for the copy, so that any stream may use it.
    return torch.stack([x, y, torch.ones_like(x)], -1).view(h * w, 3).to(device)


def shares(maps: NDArray[np.float64], size_wh: tuple[int, int]) -> Tensor:
    """Maps (..., 2, 3) into the pixels of a picture of at least 2x2 px, as float32 maps into -1..1 from its first pixel
    to its last."""
    maps = maps * (2 / (np.array(size_wh) - 1))[:, None]
    maps[..., 2] -= 1
    return torch.from_numpy(maps.astype(np.float32))


def warp_on_device(image_bgr: Tensor, affine: ArrayLike, crop_size_wh: tuple[int, int]) -> Tensor:
    """Crops (N, h, w, 3) uint8 of one picture (H, W, 3) uint8; as `affine.warp_crops`, within rounding.

    A person much larger than the crop is sampled from the picture halved as often as in `warp_crops`.
    """
    maps = np.asarray(affine, np.float64).reshape(-1, 2, 3)
    factors = 2 ** np.minimum(halvings(maps), min(image_bgr.shape[:2]).bit_length() - 1)
    picture = image_bgr.permute(2, 0, 1)[None].float()
    w, h = crop_size_wh
    parts = []
    for factor in np.unique(factors).tolist():
        back = invert_affine(maps[factors == factor])  # from the crop to the picture
        # Cell j of the small picture has its centre at factor * j + (factor - 1) / 2 of the large one.
        back[:, :, 2] -= (factor - 1) / 2
        back /= factor
        small = picture if factor == 1 else F.avg_pool2d(picture, factor)
        if 1 in small.shape[2:]:  # a single pixel starts and ends in one place, so nothing would be outside
            small = F.pad(small, (1, 1, 1, 1))
            back[:, :, 2] += 1
        height, width = small.shape[2:]
        matrices = upload(shares(back, (width, height)), image_bgr.device)
        parts.append(sample(small.expand(len(back), -1, -1, -1), matrices, crop_size_wh))
    crops = parts[0] if len(parts) == 1 else torch.cat([picture.new_empty((0, 3, h, w)), *parts])
    crops = crops.round().to(torch.uint8).permute(0, 2, 3, 1)
    if len(parts) > 1:  # back into the order of the maps
        order = factors.argsort(kind="stable").argsort()
        crops = crops.index_select(0, upload(torch.from_numpy(order), crops.device))
    return crops
