"""What is read off the tokens: heatmaps of the keypoint tokens, the quality of the quality token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpose_rt.models.selection import take


class KeypointDecoder(nn.Module):
    """Heatmaps from keypoint tokens (Eq. 3), shared by all keypoints and both stages.

    One linear layer where the token is wide enough, else a hidden layer of half the heatmap's cells (TokenPose's rule).
    """

    def __init__(self, width: int, heatmap_size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = heatmap_size_hw
        cells = math.prod(heatmap_size_hw)
        if width >= cells / 4:
            layers = [nn.LayerNorm(width), nn.Linear(width, cells)]
        else:
            hidden = cells // 2
            layers = [
                nn.LayerNorm(width),
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.LayerNorm(hidden),
                nn.Linear(hidden, cells),
            ]
        self.layers = nn.Sequential(*layers)

    @property
    def last(self) -> nn.Linear:
        """The layer whose scale is that of the heatmaps."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def coarse(self, keypoint_tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """(B, K, h, w) from (B, K, D); the image tokens are not looked at."""
        return self.layers(keypoint_tokens).unflatten(-1, self.size_hw)

    def fine(self, keypoint_tokens: Tensor, high: Tensor, low: Tensor, selected: Tensor, others: Tensor) -> Tensor:
        """(R, K, h, w) from (R, K, D); the image tokens are not looked at."""
        return self.layers(keypoint_tokens).unflatten(-1, self.size_hw)


class PixelDecoder(nn.Module):
    """Heatmaps as agreement of keypoint tokens with pixels: each image token answers for its own cells.

    Ours, after the mask heads of MaskFormer (Cheng et al. 2021). An image token becomes one embedding for each heatmap
    cell it covers, a keypoint token one query; their product is the heatmap. What an image token knows reaches the
    place it stands for directly, where Eq. 3 has to write places into one vector and read them out of it again; it
    has a tenth of the parameters and a quarter of the multiply-accumulates, and learns several times faster.

    Args:
        width: D.
        coarse_grid_hw: rows and columns of coarse cells.
        split: r, fine tokens along a cell's side.
        heatmap_size_hw: h, w.
        channels: C of an embedding.
    """

    def __init__(
        self,
        width: int,
        coarse_grid_hw: tuple[int, int],
        split: int,
        heatmap_size_hw: tuple[int, int],
        channels: int = 32,
    ) -> None:
        super().__init__()
        self.grid_hw, self.split, self.channels = coarse_grid_hw, split, channels
        self.cell_hw = heatmap_size_hw[0] // coarse_grid_hw[0], heatmap_size_hw[1] // coarse_grid_hw[1]
        self.fine_cell_hw = self.cell_hw[0] // split, self.cell_hw[1] // split
        self.query = nn.Linear(width, channels)
        self.coarse_pixels = nn.Linear(width, channels * math.prod(self.cell_hw))
        self.fine_pixels = nn.Linear(width, channels * math.prod(self.fine_cell_hw))

    @property
    def last(self) -> nn.Linear:
        """The layer whose scale is that of the heatmaps."""
        return self.query

    def coarse(self, keypoint_tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """(B, K, h, w) from (B, K, D) and all coarse tokens (B, Nc, D)."""
        return self._picture(self._agreement(self.coarse_pixels(image_tokens), keypoint_tokens))

    def fine(self, keypoint_tokens: Tensor, high: Tensor, low: Tensor, selected: Tensor, others: Tensor) -> Tensor:
        """(R, K, h, w) from (R, K, D), fine tokens (R, S*r*r, D) of cells (R, S), coarse ones (R, Nc-S, D) of the rest.

        Args:
            keypoint_tokens: of the fine stage.
            high: cell by cell, row-major inside a cell.
            low: in the order of `others`.
            selected: indices of split cells.
            others: indices of the other cells.
        """
        r, (rows, columns) = self.split, self.fine_cell_hw
        fine = self._agreement(self.fine_pixels(high), keypoint_tokens)  # (R, S*r*r, p, K)
        k = fine.shape[-1]
        fine = fine.view(high.shape[0], -1, r, r, rows, columns, k).transpose(3, 4)  # (R, S, r, rows, r, columns, K)
        cells = [fine.flatten(4, 5).flatten(2, 4), self._agreement(self.coarse_pixels(low), keypoint_tokens)]
        place = torch.cat([selected, others], 1).argsort(1)  # (R, Nc), back to row-major order
        return self._picture(take(torch.cat(cells, 1).flatten(2), place).unflatten(2, (r * r * rows * columns, k)))

    def _agreement(self, pixels: Tensor, keypoint_tokens: Tensor) -> Tensor:
        """(B, N, p, K) from embeddings (B, N, C*p) and (B, K, D)."""
        b, n, features = pixels.shape
        p = features // self.channels
        query = self.query(keypoint_tokens).transpose(1, 2)  # (B, C, K)
        return (pixels.view(b, n * p, self.channels) @ query).view(b, n, p, query.shape[2])

    def _picture(self, cells: Tensor) -> Tensor:
        """(B, K, h, w) from (B, Nc, cell pixels, K)."""
        b, _, _, k = cells.shape
        (gh, gw), (ch, cw) = self.grid_hw, self.cell_hw
        return cells.reshape(b, gh, gw, ch, cw, k).permute(0, 5, 1, 3, 2, 4).reshape(b, k, gh * ch, gw * cw)


class QualityPredictor(nn.Module):
    """Predicted OKS of the coarse pose from the quality token (Eq. 4)."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.activation = {"sigmoid": torch.sigmoid, "gelu": F.gelu}[activation]
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 1)

    def forward(self, quality_token: Tensor) -> Tensor:
        """(B,) from (B, D); in float32, as it is compared with a threshold."""
        x = F.gelu(self.fc1(self.norm(quality_token)))
        return self.activation(self.fc3(F.gelu(self.fc2(x))).squeeze(-1).float())
