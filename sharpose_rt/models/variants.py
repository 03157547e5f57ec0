"""The sizes of the network, from the paper's Table 2 and ours, and its two behaviours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sharpose_rt.config.checks import is_network_file
from sharpose_rt.errors import ConfigError
from sharpose_rt.skeleton import COCO17, MPII16, Skeleton


@dataclass(frozen=True)
class Behaviour:
    """The points in which the authors' released code differs from the paper's text, one per field."""

    name: str
    round_cells_up: bool
    """Selected cells: ceil(alpha * Nc) instead of floor (below Eq. 7)."""
    skip_last_keypoint_row: bool
    """The attention of the last keypoint token is omitted from the score (Eq. 7)."""
    sum_keypoint_rows: bool
    """The score is the sum over keypoints, not the mean (Eq. 7); the ranking is the same."""
    first_scored_layer: float
    """The moving average (Eq. 6) starts at this fraction of the depth."""
    low_tokens_from_input: bool
    """Unselected cells enter the fine stage as coarse input embeddings instead of coarse outputs (below Eq. 7)."""
    quality_activation: str
    """Last activation of the quality predictor (Eq. 4): the paper names none; an OKS is within 0..1, hence sigmoid."""


PAPER = Behaviour("paper", False, False, False, 0.0, False, "sigmoid")
RELEASED = Behaviour("released", True, True, True, 0.25, True, "gelu")
BEHAVIOURS = {b.name: b for b in (PAPER, RELEASED)}


@dataclass(frozen=True)
class Variant:
    """One row of Table 2.

    Args:
        width: D, features of a token.
        alpha: share of coarse cells that the fine stage splits.
        sigma_cells: standard deviation of the training target's Gaussian, in heatmap cells.
        stem: how a patch becomes a token: 'patch' (one linear map, as in the paper) or 'mobile' (see `MobileStem`;
            needs sides that are multiples of 32 px in both stages).
        decoder: where heatmaps come from: 'tokens' (keypoint tokens alone, Eq. 3) or 'pixels' (see `PixelDecoder`).
    """

    name: str
    size_hw: tuple[int, int]
    width: int
    heads: int
    alpha: float
    sigma_cells: float
    skeleton: Skeleton = COCO17
    depth: int = 12
    patch_px: int = 16
    mlp_ratio: int = 4
    coarse_scale: float = 0.5
    fine_scale: float = 1.0
    stem: str = "patch"
    decoder: str = "tokens"

    @property
    def coarse_grid_hw(self) -> tuple[int, int]:
        """Rows and columns of coarse cells."""
        h, w = self.size_hw
        return int(h * self.coarse_scale) // self.patch_px, int(w * self.coarse_scale) // self.patch_px

    @property
    def split(self) -> int:
        """Fine tokens along one side of a coarse cell: s_f / s_c."""
        return round(self.fine_scale / self.coarse_scale)

    @property
    def fine_grid_hw(self) -> tuple[int, int]:
        """Rows and columns of fine tokens if all cells were split."""
        h, w = self.coarse_grid_hw
        return h * self.split, w * self.split

    @property
    def heatmap_size_hw(self) -> tuple[int, int]:
        """A quarter of the input (below Eq. 3)."""
        return self.size_hw[0] // 4, self.size_hw[1] // 4

    def selected_cells(self, behaviour: Behaviour) -> int:
        """How many coarse cells the fine stage splits (N^h, below Eq. 7)."""
        wanted = self.alpha * math.prod(self.coarse_grid_hw)
        return math.ceil(wanted - 1e-9) if behaviour.round_cells_up else math.floor(wanted + 1e-9)

    def tokens(self, behaviour: Behaviour) -> tuple[int, int]:
        """Tokens in the coarse and in the fine stage."""
        cells, selected, points = math.prod(self.coarse_grid_hw), self.selected_cells(behaviour), len(self.skeleton)
        return cells + points + 1, selected * self.split**2 + (cells - selected) + points


VARIANTS = {
    v.name: v
    for v in (
        # Ours: small enough to ship with weights and to run live on a plain CPU. With this stem and decoder it learns
        # from tens of thousands of people what the paper's needs hundreds of thousands for, at half the depth.
        Variant(
            "tiny_256x192",
            (256, 192),
            width=192,
            heads=6,
            alpha=0.5,
            sigma_cells=2,
            depth=6,
            stem="mobile",
            decoder="pixels",
        ),
        # Table 2 of the paper.
        Variant("small_256x192", (256, 192), width=384, heads=12, alpha=0.5, sigma_cells=2),
        Variant("small_384x288", (384, 288), width=384, heads=12, alpha=0.5, sigma_cells=3),
        Variant("base_256x192", (256, 192), width=768, heads=12, alpha=0.4, sigma_cells=2),
        Variant("base_384x288", (384, 288), width=768, heads=12, alpha=0.3, sigma_cells=3),
        # The MPII model of Table 5.
        Variant("base_mpii_256x256", (256, 256), width=768, heads=12, alpha=0.4, sigma_cells=2, skeleton=MPII16),
    )
}


def find_variant(name: str) -> Variant:
    """The variant of that name.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if is_network_file(name):
        raise ConfigError(
            f"the model is {name!r}, a file, but one of {', '.join(VARIANTS)} is needed here (`track`, `eval`, "
            "PoseTracker and SHaRPose accept a file)"
        )
    if name not in VARIANTS:
        raise ConfigError(
            f"no model {name!r}; one of {', '.join(VARIANTS)} (see `sharpose-rt models`), or the path of a .onnx or "
            ".xml file, is accepted"
        )
    return VARIANTS[name]


def find_behaviour(name: str) -> Behaviour:
    """The behaviour of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in BEHAVIOURS:
        raise ConfigError(f"no behaviour {name!r}; one of {', '.join(BEHAVIOURS)} is accepted")
    return BEHAVIOURS[name]
