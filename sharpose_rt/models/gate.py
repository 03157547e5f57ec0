"""The gate between the stages: who goes on to the fine one. Letters: N people."""

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
    """What the coarse stage says of N crops: the OKS of its own poses, the AP that the fine stage would add, the poses.

    Args:
        quality: (N,), predicted (Eq. 4), NaN where unknown.
        gain: (N,), inf where the weights do not predict it.
        coarse: gives keypoints (N, K, 2) px and scores (N, K), decoded when it is called; None: nobody asks.
    """

    quality: Floats
    gain: Floats
    coarse: Callable[[], tuple[Float32, Float32]] | None = None

    def placed(self, affines: NDArray[np.float64]) -> Outlook:
        """The same with its poses mapped by affines (N, 2, 3), from crops into pictures."""
        if (found := self.coarse) is None:
            return self

        def coarse() -> tuple[Float32, Float32]:
            keypoints, scores = found()
            return apply_affine(keypoints, affines).astype(np.float32), scores

        return replace(self, coarse=coarse)


@dataclass(frozen=True)
class Gate:
    """Refines whose pose is worse than a threshold, who is tall enough, and who promises enough.

    Args:
        quality_threshold: predicted OKS from which on a coarse pose is good enough (below Eq. 4); inf: none is.
        refine_from_px: height of a person in the picture.
        refine_from_gain: predicted gain in AP.
    """

    quality_threshold: float = math.inf
    refine_from_px: float = 0.0
    refine_from_gain: float = -math.inf

    @property
    def asks_network(self) -> bool:
        """What the coarse stage says matters."""
        return self.quality_threshold < math.inf or self.refine_from_gain > -math.inf

    def stated(self) -> dict[str, float]:
        """The fields as a stream's header has them: the quality's always, the others where they ask something."""
        asked = {"refine_from_px": self.refine_from_px > 0, "refine_from_gain": self.refine_from_gain > -math.inf}
        return {name: value for name, value in vars(self).items() if asked.get(name, True)}

    @property
    def leaves_some(self) -> bool:
        """Some people leave after the coarse stage whatever it says."""
        return self.quality_threshold == -math.inf or self.refine_from_px > 0

    def never(self, heights_px: Floats) -> NDArray[np.bool_]:
        """Who of people of these heights (N,) leaves after the coarse stage, whatever it says: (N,)."""
        return (heights_px < self.refine_from_px) | (self.quality_threshold == -math.inf)

    def refined(self, outlook: Outlook, heights_px: Floats | None = None) -> NDArray[np.bool_]:
        """Who of N people goes on, (N,); tall enough is who has no height. A number that is none never passes for good:
        it refines."""
        wanted = ~(outlook.quality >= self.quality_threshold) & ~(outlook.gain < self.refine_from_gain)
        return wanted if heights_px is None else wanted & ~(heights_px < self.refine_from_px)
