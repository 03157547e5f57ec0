"""Reads results from the tokens: heatmaps from the keypoint tokens, the quality from the quality token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpose_rt.models.selection import take
from sharpose_rt.models.stem import DETAIL_SIDE


class KeypointDecoder(nn.Module):
    """Heatmaps from keypoint tokens (Eq. 3), shared by all keypoints and both stages.

    One linear layer if the token is wide enough, else with a hidden layer of half the heatmap's cells (TokenPose's
    rule).
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

    def last_layer(self) -> nn.Linear:
        """The layer whose scale is that of the heatmaps."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def coarse(self, keypoint_tokens: Tensor, *_: object) -> Tensor:
        """(B, K, h, w) from (B, K, D); image tokens are ignored."""
        return self.layers(keypoint_tokens).unflatten(-1, self.size_hw)

    fine = coarse


class PixelEmbedding(nn.Module):
    """One embedding for each heatmap cell that an image token covers, from the token and the detail of its places."""

    def __init__(self, width: int, detail: int, cell_hw: tuple[int, int], channels: int, hidden: int = 96) -> None:
        super().__init__()
        self.place_hw = cell_hw[0] // DETAIL_SIDE, cell_hw[1] // DETAIL_SIDE
        self.channels, self.hidden = channels, hidden
        self.token = nn.Linear(width, 4 * hidden)  # for quarters: detail says what is where inside each
        self.detail = nn.Linear(detail, hidden, bias=False)
        self.out = nn.Linear(hidden, channels * math.prod(self.place_hw))

    def forward(self, tokens: Tensor, detail: Tensor | None) -> Tensor:
        """(B, N * cells, C) from tokens (B, N, D) and detail (B, N, 16, E); place by place, row-major inside each."""
        assert detail is not None, "a pixel decoder needs a stem with detail"
        b, n, places, _ = detail.shape
        half = DETAIL_SIDE // 2
        quarters = self.token(tokens).view(b, n, 2, 1, 2, 1, self.hidden)
        x = self.detail(detail).view(b, n, 2, half, 2, half, self.hidden)
        x = F.gelu(x + quarters).view(b, n, places, self.hidden)
        return self.out(x).view(b, n * places * math.prod(self.place_hw), self.channels)


class PixelDecoder(nn.Module):
    """Heatmaps as agreement of keypoint tokens with pixels: each image token provides its own cells.

    Our design, after the mask heads of MaskFormer (Cheng et al. 2021). An image token becomes one embedding for each
    heatmap cell it covers, a keypoint token one query; their product is the heatmap. So an image token acts directly on
    its own place, whereas Eq. 3 has to encode positions into one vector and decode them again; this learns several
    times faster. The stem's detail says where in a token's cell a joint is.

    Args:
        width: D.
        coarse_grid_hw: rows and columns of coarse cells.
        split: r, fine tokens along a cell's side.
        heatmap_size_hw: h, w.
        detail: E, channels of the stem's detail.
        channels: C of an embedding.
    """

    def __init__(
        self,
        width: int,
        coarse_grid_hw: tuple[int, int],
        split: int,
        heatmap_size_hw: tuple[int, int],
        detail: int,
        channels: int = 32,
    ) -> None:
        super().__init__()
        self.grid_hw, self.split = coarse_grid_hw, split
        self.cell_hw = heatmap_size_hw[0] // coarse_grid_hw[0], heatmap_size_hw[1] // coarse_grid_hw[1]
        fine_cell_hw = self.cell_hw[0] // split, self.cell_hw[1] // split
        self.query = nn.Linear(width, channels)
        self.coarse_pixels = PixelEmbedding(width, detail, self.cell_hw, channels)
        self.fine_pixels = PixelEmbedding(width, detail, fine_cell_hw, channels)

    def last_layer(self) -> nn.Linear:
        """The layer whose scale is that of the heatmaps."""
        return self.query

    def coarse(self, keypoint_tokens: Tensor, image_tokens: Tensor, detail: Tensor | None) -> Tensor:
        """(B, K, h, w) from (B, K, D) and all coarse tokens (B, Nc, D) with their detail (B, Nc, 16, E)."""
        return self._picture(self._coarse_cells(keypoint_tokens, image_tokens, detail))

    def fine(
        self,
        keypoint_tokens: Tensor,
        high: tuple[Tensor, Tensor | None],
        low: tuple[Tensor, Tensor | None],
        selected: Tensor,
        others: Tensor,
    ) -> Tensor:
        """(R, K, h, w) from (R, K, D), fine tokens (R, S*r*r, D) of cells (R, S), coarse ones (R, Nc-S, D) of the rest.

        Args:
            keypoint_tokens: of the fine stage.
            high: tokens cell by cell, row-major inside a cell; and their detail.
            low: tokens in the order of `others`, and their detail.
            selected: indices of split cells.
            others: indices of the other cells.
        """
        r, p, query = self.split, DETAIL_SIDE, self._query(keypoint_tokens)
        rows, columns = self.fine_pixels.place_hw
        fine = self.fine_pixels(*high) @ query  # (R, S*r*r*cells, K)
        fine = fine.view(query.shape[0], -1, r, r, p, p, rows, columns, query.shape[2])
        fine = fine.permute(0, 1, 2, 4, 6, 3, 5, 7, 8)  # (R, S, r, p, rows, r, p, columns, K)
        fine = fine.reshape(query.shape[0], -1, math.prod(self.cell_hw), query.shape[2])
        cells = torch.cat([fine, self._coarse_cells(keypoint_tokens, *low)], 1)  # (R, Nc, cells, K)
        place = torch.cat([selected, others], 1).argsort(1)  # back to row-major order
        return self._picture(take(cells.flatten(2), place).view_as(cells))

    def _query(self, keypoint_tokens: Tensor) -> Tensor:
        """(B, C, K)."""
        return self.query(keypoint_tokens).transpose(1, 2)

    def _coarse_cells(self, keypoint_tokens: Tensor, image_tokens: Tensor, detail: Tensor | None) -> Tensor:
        """(B, N, heatmap cells, K), row-major inside a coarse cell."""
        (rows, columns), query = self.coarse_pixels.place_hw, self._query(keypoint_tokens)
        b, n, p = *image_tokens.shape[:2], DETAIL_SIDE
        maps = self.coarse_pixels(image_tokens, detail) @ query
        maps = maps.view(b, n, p, p, rows, columns, query.shape[2]).transpose(3, 4)  # (B, N, p, rows, p, columns, K)
        return maps.reshape(b, n, math.prod(self.cell_hw), query.shape[2])

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
