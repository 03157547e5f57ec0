"""SHaRPose (An et al., AAAI 2024): coarse stage, quality gate, choice of regions, fine stage.

Letters: B crops, R crops that are refined, K keypoints (the paper's M), D width,
Nc coarse image tokens (cells), S selected cells (N^h), r fine tokens along a cell's side.

Order of tokens, as in Eq. 1 and Eq. 8: image tokens, keypoint tokens, quality token (coarse stage only).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpose_rt.geometry.affine import USUAL_PADDING
from sharpose_rt.models.head import KeypointDecoder, PixelDecoder, QualityPredictor
from sharpose_rt.models.layers import Block, Mlp
from sharpose_rt.models.selection import AttentionAverage, fine_indices, split_cells, take
from sharpose_rt.models.stem import DETAIL_CHANNELS, MobileStem
from sharpose_rt.models.variants import Behaviour, Variant


@dataclass(frozen=True)
class CoarseOutput:
    """Output of the coarse stage, for the gate and the fine stage.

    `heatmaps` (B, K, h, w); `quality` and `gain` (B,), see `SHaRPoseOutput`; `cell_scores` (B, Nc); `image_inputs` and
    `image_outputs` (B, Nc, D); `detail` (B, Nc, 16, E) of the stem, if it has any.
    """

    heatmaps: Tensor
    quality: Tensor
    gain: Tensor
    cell_scores: Tensor
    image_inputs: Tensor
    image_outputs: Tensor
    detail: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors present, in the order of the arguments of `CoarseOutput`."""
        return tuple(value for name in self.__dataclass_fields__ if (value := getattr(self, name)) is not None)

    @property
    def tokens(self) -> tuple[Tensor, ...]:
        """The tensors that the fine stage may use."""
        return self.tensors[4:]

    @classmethod
    def of_tokens(cls, image_inputs: Tensor, image_outputs: Tensor, detail: Tensor | None = None) -> CoarseOutput:
        """With only what the fine stage uses; the rest is empty."""
        nothing = image_outputs[:, 0, 0]
        return cls(nothing, nothing, nothing, nothing, image_inputs, image_outputs, detail)

    def __getitem__(self, index: Tensor) -> CoarseOutput:
        return CoarseOutput(*(tensor.index_select(0, index) for tensor in self.tensors))


@dataclass(frozen=True)
class SHaRPoseOutput:
    """Result of both stages.

    Args:
        coarse_heatmaps: (B, K, h, w) of the coarse stage.
        heatmaps: (B, K, h, w), of the fine stage if a crop was refined, else of the coarse one.
        quality: (B,) float32, predicted OKS of the coarse pose (Eq. 4).
        gain: (B,) float32, predicted AP that the fine stage adds; inf for weights without a `gain_predictor`.
        cell_scores: (B, Nc) float32, how much the keypoints attended to each coarse cell (Eq. 7).
        selected_cells: (B, S) int64, ascending; the cells that the fine stage splits, or would split.
        refined: (B,) bool.
    """

    coarse_heatmaps: Tensor
    heatmaps: Tensor
    quality: Tensor
    gain: Tensor
    cell_scores: Tensor
    selected_cells: Tensor
    refined: Tensor


class SHaRPose(nn.Module):
    """The network. Its input is crops (B, 3, H, W), RGB normalised with ImageNet's mean and standard deviation.

    Args:
        variant: sizes.
        behaviour: the paper's text or the authors' released code, point by point.
        drop_path: rate of stochastic depth at the last layer, growing linearly from 0 (training only).
    """

    def __init__(self, variant: Variant, behaviour: Behaviour, drop_path: float = 0.0) -> None:
        super().__init__()
        self.variant, self.behaviour = variant, behaviour
        self.box_padding = USUAL_PADDING  # of the crops that the weights were trained on; loading them sets it
        d, k, cells = variant.width, len(variant.skeleton), math.prod(variant.coarse_grid_hw)
        self.images, self.keypoints = slice(0, cells), slice(cells, cells + k)  # positions in the coarse sequence
        self.selected_count = variant.selected_cells(behaviour)

        self.keypoint_tokens = nn.Parameter(torch.zeros(1, k, d))
        self.quality_token = nn.Parameter(torch.zeros(1, 1, d))
        mobile = variant.stem == "mobile"
        self.patch_embed = MobileStem(d) if mobile else nn.Conv2d(3, d, variant.patch_px, variant.patch_px)
        self.coarse_position = nn.Parameter(torch.zeros(1, cells, d))
        self.fine_position = nn.Parameter(torch.zeros(1, math.prod(variant.fine_grid_hw), d))
        rates = [drop_path * i / max(1, variant.depth - 1) for i in range(variant.depth)]
        self.blocks = nn.ModuleList(Block(d, variant.heads, variant.mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(d)
        self.carry_norm = nn.LayerNorm(d)
        self.carry = Mlp(d, d * variant.mlp_ratio)
        self.quality_predictor = QualityPredictor(d, behaviour.quality_activation)
        self.gain_predictor: nn.Linear | None = None  # ours; fitted to a trained network (`evaluation.gain`)
        self.decoder = (
            PixelDecoder(d, variant.coarse_grid_hw, variant.split, variant.heatmap_size_hw, DETAIL_CHANNELS)
            if variant.decoder == "pixels"
            else KeypointDecoder(d, variant.heatmap_size_hw)
        )

    def forward(self, images: Tensor, quality_threshold: float = math.inf) -> SHaRPoseOutput:
        """Both stages for crops (B, 3, H, W); the fine stage runs only on crops with a quality below the threshold.

        A threshold of +inf refines all crops, -inf none. No crop's result depends on the others in the batch.
        """
        coarse = self.coarse_stage(images)
        refined = self.needs_refining(coarse.quality, quality_threshold)  # (B,)
        selected, low = split_cells(coarse.cell_scores, self.selected_count)  # (B, S), (B, Nc-S)
        heatmaps = coarse.heatmaps
        if bool(refined.any()):
            which = refined.nonzero().squeeze(1)  # (R,)
            fine = self.fine_stage(images[which], coarse[which], selected[which], low[which])  # (R, K, h, w)
            heatmaps = fine if len(which) == len(images) else heatmaps.index_copy(0, which, fine.to(heatmaps.dtype))
        scores = coarse.quality, coarse.gain, coarse.cell_scores
        return SHaRPoseOutput(coarse.heatmaps, heatmaps, *scores, selected, refined)

    @staticmethod
    def needs_refining(quality: Tensor, quality_threshold: float) -> Tensor:
        """The gate (below Eq. 4): Q < Q_thres, (B,) bool. NaN counts as bad, so it refines."""
        return ~(quality >= quality_threshold)

    def coarse_stage(self, images: Tensor) -> CoarseOutput:
        """Coarse poses, their quality and the keypoints' attention to cells, for crops (B, 3, H, W)."""
        b = images.shape[0]  # not len(), which a trace would make a constant
        small = self._resample(images, self.variant.coarse_scale)  # (B, 3, H*s_c, W*s_c)
        embedded, detail = self.embed(small)
        v0 = embedded + self.coarse_position  # (B, Nc, D)
        x = torch.cat([v0, self.keypoint_tokens.expand(b, -1, -1), self.quality_token.expand(b, -1, -1)], 1)  # Eq. 1

        average = AttentionAverage(sum_rows=self.behaviour.sum_keypoint_rows)
        rows = slice(self.keypoints.start, self.keypoints.stop - self.behaviour.skip_last_keypoint_row)
        first_scored = int(self.behaviour.first_scored_layer * len(self.blocks))
        for layer, block in enumerate(self.blocks):  # Eq. 2
            scored = layer >= first_scored
            x, attention = block(x, rows if scored else None)
            if attention is not None:
                average.add(attention[..., self.images].detach())  # Eq. 5, 6, 7
        assert average.scores is not None
        x = self.norm(x)
        quality = self.quality_predictor(x[:, -1])  # Eq. 4
        gain = torch.full_like(quality, math.inf) if self.gain_predictor is None else self.gain_predictor(x[:, -1])
        return CoarseOutput(
            heatmaps=self.decoder.coarse(x[:, self.keypoints], x[:, self.images], detail),  # Eq. 3
            quality=quality,
            gain=gain.flatten().float(),
            cell_scores=average.scores,
            image_inputs=v0,
            image_outputs=x[:, self.images],
            detail=detail,
        )

    def fine_stage(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """Fine heatmaps (R, K, h, w) of crops (R, 3, H, W), with fine tokens only in `selected` cells (R, S).

        `low` (R, Nc-S) are the other cells, which stay coarse.
        """
        v = self.variant
        low_source = coarse.image_inputs if self.behaviour.low_tokens_from_input else coarse.image_outputs
        x_low = take(low_source, low)  # X_low: (R, Nc-S, D)

        # {MLP(v_K^j) + v_f^c}: the coarse token of a selected cell is added to each fine token in it.
        carried = self.carry(self.carry_norm(take(coarse.image_outputs, selected)))  # (R, S, D)
        inside = fine_indices(selected, v.coarse_grid_hw, v.split)  # (R, S*r*r)
        fine, detail = self._fine_tokens(images, inside)  # (R, S*r*r, D)
        x_high = fine + carried.repeat_interleave(v.split**2, dim=1)

        x = torch.cat([x_high, x_low, self.keypoint_tokens.expand(images.shape[0], -1, -1)], 1)  # Eq. 8
        for block in self.blocks:
            x, _ = block(x)
        x = self.norm(x)
        high, low_end = inside.shape[1], inside.shape[1] + low.shape[1]
        low_detail = coarse.detail if coarse.detail is None else _take_detail(coarse.detail, low)
        ends = (x[:, :high], detail), (x[:, high:low_end], low_detail)
        return self.decoder.fine(x[:, low_end:], *ends, selected, low)  # Eq. 3

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, D) of all patches, without position, and the detail (B, N, 16, E), if the stem has any."""
        if isinstance(self.patch_embed, MobileStem):
            return self.patch_embed(images)
        return self.patch_embed(images).flatten(2).transpose(1, 2), None

    def _fine_tokens(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embedded fine patches (R, S*r*r, D), with position, only at `index` (R, S*r*r), and their detail; the other
        patches cost nothing if the stem embeds each patch separately."""
        p, (rows, columns) = self.variant.patch_px, self.variant.fine_grid_hw
        full = self._resample(images, self.variant.fine_scale)
        if isinstance(self.patch_embed, MobileStem):  # its convolutions extend across patches, so all are computed
            tokens, detail = self.patch_embed(full)
            return take(tokens, index) + self.fine_position[0, index], _take_detail(detail, index)
        patches = full.unflatten(2, (rows, p)).unflatten(4, (columns, p))  # (R, 3, rows, p, columns, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (R, rows*columns, 3, p, p)
        crops = torch.arange(images.shape[0], device=images.device)[:, None]
        chosen = patches[crops, index].flatten(2)  # (R, S*r*r, 3*p*p)
        embedded = F.linear(chosen, self.patch_embed.weight.flatten(1), self.patch_embed.bias)
        return embedded + self.fine_position[0, index], None

    @staticmethod
    def _resample(images: Tensor, scale: float) -> Tensor:
        if scale == 1:
            return images
        if scale == 0.5:  # here bilinear without aligned corners is the mean of 2x2, but much slower
            # OpenVINO pools three channels at the cost of sixteen, but convolves only three.
            if torch.jit.is_tracing():  # type: ignore[reportPrivateImportUsage]
                return F.conv2d(images, torch.full((3, 1, 2, 2), 0.25, dtype=torch.float32), stride=2, groups=3)
            return F.avg_pool2d(images, 2)
        return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)


def _take_detail(detail: Tensor, index: Tensor) -> Tensor:
    """Detail (B, S, 16, E) at `index` (B, S) of (B, N, 16, E)."""
    return take(detail.flatten(2), index).unflatten(2, detail.shape[2:])
