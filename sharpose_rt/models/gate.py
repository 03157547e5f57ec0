"""The gate between the stages: decides who is refined by the fine stage. Letters: N people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.geometry.affine import apply_affine
from sharpose_rt.types import Float32

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Outlook:
    """Predictions of the coarse stage for N crops: the OKS of its own poses, the AP that the fine stage would add, the
    poses.

    Args:
        quality: (N,), predicted (Eq. 4); NaN if unknown.
        gain: (N,); inf if the weights do not predict it.
        coarse: returns keypoints (N, K, 2) px and scores (N, K), decoded when called; None if not needed.
    """

    quality: Floats
    gain: Floats
    coarse: Callable[[], tuple[Float32, Float32]] | None = None

    def placed(self, affines: NDArray[np.float64]) -> Outlook:
        """The same with its poses mapped from crops into pictures by affines (N, 2, 3)."""
        if (found := self.coarse) is None:
            return self

        def coarse() -> tuple[Float32, Float32]:
            keypoints, scores = found()
            return apply_affine(keypoints, affines).astype(np.float32), scores

        return replace(self, coarse=coarse)


@dataclass(frozen=True)
class Gate:
    """Refines people whose coarse pose is bad enough, who are tall enough, and whose predicted gain is high enough.

    Args:
        quality_threshold: predicted OKS from which a coarse pose is good enough (below Eq. 4); inf: none is.
        refine_from_px: least height of a person in the picture.
        refine_from_gain: least predicted gain in AP.
    """

    quality_threshold: float = math.inf
    refine_from_px: float = 0.0
    refine_from_gain: float = -math.inf

    @property
    def asks_network(self) -> bool:
        """Whether the decision depends on the coarse stage."""
        return self.quality_threshold < math.inf or self.refine_from_gain > -math.inf

    def stated(self) -> dict[str, float]:
        """The fields for a stream's header: always the quality threshold, the others if they are in use."""
        asked = {"refine_from_px": self.refine_from_px > 0, "refine_from_gain": self.refine_from_gain > -math.inf}
        return {name: value for name, value in vars(self).items() if asked.get(name, True)}

    @property
    def leaves_some(self) -> bool:
        """Whether some people leave after the coarse stage whatever its output."""
        return self.quality_threshold == -math.inf or self.refine_from_px > 0

    def never(self, heights_px: Floats) -> NDArray[np.bool_]:
        """Which people of these heights (N,) leave after the coarse stage whatever its output: (N,)."""
        return (heights_px < self.refine_from_px) | (self.quality_threshold == -math.inf)

    def refined(self, outlook: Outlook, heights_px: Floats | None = None) -> NDArray[np.bool_]:
        """Which of N people are refined, (N,). Without heights all are tall enough; a prediction of NaN refines."""
        wanted = ~(outlook.quality >= self.quality_threshold) & ~(outlook.gain < self.refine_from_gain)
        return wanted if heights_px is None else wanted & ~(heights_px < self.refine_from_px)
