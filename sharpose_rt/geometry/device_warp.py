"""Crops made on a device in one batched sampling, for pictures that are there already."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from sharpose_rt.compute.streams import upload
from sharpose_rt.geometry.affine import halvings, invert_affine


def sample(images: Tensor, matrices: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """Crops (N, C, h, w) of pictures (N, C, H, W), both float32; bilinear, 0 outside of the picture.

    Args:
        images: a picture for each crop; one expanded to N costs no memory.
        matrices: (N, 2, 3) from a crop's pixels to its picture's.
        size_wh: of the crops, px.
    """
    w, h = size_wh
    if 1 in images.shape[2:]:  # both ends of a single pixel are the same place, and nothing would be outside
        images, matrices = F.pad(images, (1, 1, 1, 1)), matrices.clone()
        matrices[:, :, 2] += 1
    height, width = images.shape[2:]
    ys, xs = torch.meshgrid(
        torch.arange(h, device=images.device, dtype=torch.float32),
        torch.arange(w, device=images.device, dtype=torch.float32),
        indexing="ij",
    )
    pixels = torch.stack([xs, ys, torch.ones_like(xs)], -1).view(1, h * w, 3)
    places = pixels @ matrices.transpose(1, 2)  # (N, hw, 2)
    last = torch.cat([images.new_full((1,), max(side - 1, 1)) for side in (width, height)])
    grid = (places / last * 2 - 1).view(-1, h, w, 2)
    # Not F.grid_sample: on a GPU it hands this to cuDNN, which first copies an expanded picture, once for each crop.
    bilinear, zeros = 0, 0
    return torch.ops.aten.grid_sampler_2d(images, grid, bilinear, zeros, True)  # aligned corners


def warp_on_device(image_bgr: Tensor, affine: ArrayLike, crop_size_wh: tuple[int, int]) -> Tensor:
    """Crops (N, h, w, 3) uint8 of one picture (H, W, 3) uint8; as `affine.warp_crops`, within rounding.

    A person much larger than the crop is sampled from the picture halved as often as there.
    """
    maps = np.asarray(affine, np.float64).reshape(-1, 2, 3)
    factors = 2 ** np.minimum(halvings(maps), min(image_bgr.shape[:2]).bit_length() - 1)
    picture = image_bgr.permute(2, 0, 1)[None].float()
    w, h = crop_size_wh
    crops = torch.empty((len(maps), h, w, 3), dtype=torch.uint8, device=image_bgr.device)
    for factor in np.unique(factors).tolist():
        rows = np.flatnonzero(factors == factor)
        back = invert_affine(maps[rows])  # from the crop to the picture
        # Cell j of the small picture has its centre at factor * j + (factor - 1) / 2 of the large one.
        back[:, :, 2] -= (factor - 1) / 2
        matrices = upload(torch.from_numpy((back / factor).astype(np.float32)), image_bgr.device)
        small = picture if factor == 1 else F.avg_pool2d(picture, factor)
        found = sample(small.expand(len(rows), -1, -1, -1), matrices, crop_size_wh)
        crops[upload(torch.from_numpy(rows), crops.device)] = found.round().to(torch.uint8).permute(0, 2, 3, 1)
    return crops
