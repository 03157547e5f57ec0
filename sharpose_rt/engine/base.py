"""What every engine does around its network: cuts crops from pictures and maps keypoints back into the pictures.

Letters: N people, K keypoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sharpose_rt.compute.threads import take_threads
from sharpose_rt.config import PoseConfig
from sharpose_rt.geometry.affine import apply_affine, body_heights, crop_affine, invert_affine, warp_crops
from sharpose_rt.machine.threads import network_threads
from sharpose_rt.models.gate import Gate, Outlook
from sharpose_rt.models.weights import WeightsInfo
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.types import Poses, PoseStage

Choose = Callable[[slice, Outlook], NDArray[np.bool_]]
"""Which of these rows to refine, (n,) bool, from the coarse stage's predictions; replaces the engine's own gate."""
ChooseRows = Callable[[Outlook], NDArray[np.bool_]]
"""The same for the rows of one batch."""


@dataclass(frozen=True)
class PoseEstimates:
    """Poses of N boxes: `keypoints` (N, K, 2) px, `scores` (N, K) 0..1, `quality` (N,), `refined` (N,) bool."""

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    quality: NDArray[np.float32]
    refined: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keypoints)

    def poses(self, bboxes_xyxy: ArrayLike, bbox_scores: ArrayLike, track_ids: ArrayLike) -> Poses:
        """The unsmoothed poses of people with these boxes (N, 4), scores (N,) and ids (N,)."""
        return Poses(
            bboxes_xyxy=np.asarray(bboxes_xyxy, np.float32),
            bbox_scores=np.asarray(bbox_scores, np.float32),
            track_ids=np.asarray(track_ids, np.int64),
            keypoints=self.keypoints,
            keypoint_scores=self.scores,
            raw_keypoints=self.keypoints,
            raw_keypoint_scores=self.scores,
            quality=self.quality,
            stage=np.where(self.refined, PoseStage.FINE, PoseStage.COARSE),
        )


class Engine(ABC):
    """A network on a device, ready for pictures. Belongs to the thread that created it, or that last called
    `move_here`.

    Attributes:
        config: which network, where, how.
        device: where it runs.
        dtype: number format of its products.
        backend_name: what runs it.
        behaviour: whether the network follows the paper or the released code, for the header of a stream.
        weights: their source.
        skeleton: of the K keypoints.
        crop_size_hw: height and width of its crops, px.
        gate: decides who is refined; everybody, if the network has one stage (`two_stages`).
        box_padding: factor by which a box is enlarged for its crop.
    """

    config: PoseConfig
    device: torch.device
    dtype: torch.dtype
    backend_name: str
    behaviour: str
    weights: WeightsInfo
    skeleton: Skeleton
    crop_size_hw: tuple[int, int]
    gate: Gate
    two_stages: bool
    box_padding: float

    def move_here(self) -> None:
        """Hand over to the calling thread."""
        if self.device.type == "cpu":
            take_threads(network_threads(self.config.threads))

    @abstractmethod
    def warm_up(self, people: int | None = None, *, behind: bool = False) -> None:
        """Do now what would delay the first frames of a run.

        Args:
            people: number expected at first; the largest batch unless given.
            behind: if more come, use smaller batches while larger ones are prepared in the background, rather than
                wait. Results may then differ in the last digits from run to run, as rounding depends on the batch size.
        """

    def estimate(
        self, image_bgr: NDArray[np.uint8], bboxes_xyxy: ArrayLike, choose: Choose | None = None
    ) -> PoseEstimates:
        """Poses of the people in `bboxes_xyxy` (N, 4) px of a picture (H, W, 3), in picture px."""
        return self.estimate_all([(image_bgr, bboxes_xyxy)], choose)[0]

    def estimate_all(
        self,
        pictures: Sequence[tuple[NDArray[np.uint8], ArrayLike]],
        choose: Choose | None = None,
        *,
        corrected: bool = False,
    ) -> list[PoseEstimates]:
        """As `estimate`, for the people of several pictures together: their crops share the batches.

        The rows passed to `choose` are numbered across all pictures, and its coarse poses are in picture px. If the
        caller has the poses of people who leave early `corrected`, nothing more is done for them: there is no flip
        test, and their poses are zeros.
        """
        affines = [self.affines(boxes) for _, boxes in pictures]
        choose = choose or self.chooser([boxes for _, boxes in pictures])
        back = invert_affine(np.concatenate(affines))
        if (chosen := choose) is not None:
            choose = lambda rows, outlook: chosen(rows, outlook.placed(back[rows]))  # noqa: E731
        with self._on_device():
            crops = [self._cut(image, affine) for (image, _), affine in zip(pictures, affines, strict=True)]
            result = self._estimate(crops[0] if len(crops) == 1 else torch.cat(crops), choose, corrected)
        found, begin = [], 0
        for affine in affines:
            rows = slice(begin, begin + len(affine))
            keypoints = apply_affine(result.keypoints[rows], back[rows]).astype(np.float32)
            found.append(PoseEstimates(keypoints, result.scores[rows], result.quality[rows], result.refined[rows]))
            begin = rows.stop
        return found

    def affines(self, bboxes_xyxy: ArrayLike) -> NDArray[np.float64]:
        """The map from picture to crop for each box (N, 4) px: (N, 2, 3); closer for people who are never refined."""
        h, w = self.crop_size_hw
        padding = np.where(self.gate.never(body_heights(bboxes_xyxy)), self.config.coarse_padding, self.box_padding)
        return crop_affine(bboxes_xyxy, (w, h), padding)

    def chooser(self, bboxes_xyxy: Sequence[ArrayLike]) -> Choose | None:
        """The gate's choice among the people of all pictures, in boxes (N, 4) each; None if it does not depend on
        heights."""
        if self.gate.refine_from_px <= 0:
            return None
        heights_px = np.concatenate([body_heights(boxes) for boxes in bboxes_xyxy])
        return lambda rows, outlook: self.gate.refined(outlook, heights_px[rows])

    def estimate_crops(self, crops_bgr: NDArray[np.uint8], choose: Choose | None = None) -> PoseEstimates:
        """Poses of crops (N, h, w, 3) uint8 of the network's size, in crop px.

        Raises:
            ValueError: crops of another size or type.
        """
        if crops_bgr.dtype != np.uint8 or crops_bgr.shape[1:] != (*self.crop_size_hw, 3):
            raise ValueError(
                f"crops are {crops_bgr.dtype}{list(crops_bgr.shape)}; "
                f"uint8 [N, {self.crop_size_hw[0]}, {self.crop_size_hw[1]}, 3] is needed"
            )
        with self._on_device():
            return self._estimate(as_tensor(crops_bgr), choose)

    def _estimate(self, crops_bgr: Tensor, choose: Choose | None, corrected: bool = False) -> PoseEstimates:
        step = self.config.max_batch
        rows = [slice(i, min(i + step, len(crops_bgr))) for i in range(0, len(crops_bgr), step)]
        parts = [self._batch(crops_bgr[r], None if choose is None else partial(choose, r), corrected) for r in rows]
        k = len(self.skeleton)
        if not parts:
            none = np.zeros(0, np.float32)
            return PoseEstimates(
                np.zeros((0, k, 2), np.float32), np.zeros((0, k), np.float32), none, np.zeros(0, np.bool_)
            )
        return PoseEstimates(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def _on_device(self) -> AbstractContextManager[object]:
        """Context in which the device's work is queued in its own order."""
        return nullcontext()

    def _cut(self, image_bgr: NDArray[np.uint8], affine: NDArray[np.float64]) -> Tensor:
        """Crops (N, h, w, 3) uint8 of a picture (H, W, 3) by maps (N, 2, 3)."""
        h, w = self.crop_size_hw
        return torch.from_numpy(warp_crops(image_bgr, affine, (w, h)))

    @abstractmethod
    def _batch(
        self, crops_bgr: Tensor, choose: ChooseRows | None, corrected: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Keypoints (B, K, 2) in crop px, scores (B, K), quality (B,) and refined (B,) of crops (B, h, w, 3) uint8, B
        from 1 to `max_batch`; `corrected` as in `estimate_all`."""


def as_tensor(crops_bgr: NDArray[np.uint8]) -> Tensor:
    """Crops (N, h, w, 3) uint8 as a tensor."""
    crops = np.ascontiguousarray(crops_bgr)
    return torch.from_numpy(crops if crops.flags.writeable else crops.copy())  # torch warns about read-only arrays
