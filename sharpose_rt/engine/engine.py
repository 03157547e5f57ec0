"""The pose engine: crops of one picture through the network in batches, keypoints back in picture pixels.

Letters: N people, K keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sharpose_rt.compute.streams import OwnStream, fetch, upload
from sharpose_rt.compute.threads import take_threads
from sharpose_rt.config import PoseConfig
from sharpose_rt.engine.batching import Batcher
from sharpose_rt.engine.choice import create_backend
from sharpose_rt.engine.device import resolve_device
from sharpose_rt.geometry.affine import apply_affine, body_heights, crop_affine, invert_affine
from sharpose_rt.geometry.heatmap import flip_back
from sharpose_rt.machine.threads import network_threads
from sharpose_rt.models.gate import Outlook
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import CoarseOutput, SHaRPose, SHaRPoseOutput
from sharpose_rt.models.weights import load_model
from sharpose_rt.types import Poses, PoseStage

Choose = Callable[[slice, Outlook], NDArray[np.bool_]]
"""Which of these rows to refine, (n,) bool, by what the coarse stage says of them: in the place of the engine's own
gate."""
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
        """As the poses of people with these boxes (N, 4), scores (N,) and ids (N,), not smoothed."""
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


class PoseEngine:
    """A network on a device, ready for pictures. Belongs to the thread that made it, or called `move_here` last.

    Args:
        config: which network, where, how.

    Raises:
        WeightsError: there are no weights, or they do not fit.
        DeviceError: the device or the precision cannot be had.
    """

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.move_here()
        self.network: SHaRPose
        self.network, self.weights = load_model(config.model, config.weights, config.behaviour)
        self.backend = create_backend(self.network, config, self.weights.ranges)
        self.dtype = self.backend.dtype
        self.skeleton = self.network.variant.skeleton
        self.crop_size_hw = self.network.variant.size_hw
        self.gate = self.weights.gate(config.quality_threshold, config.refine_from_px, config.refine_from_gain)
        self.box_padding = self.network.box_padding if config.box_padding is None else config.box_padding
        backend = self.backend
        self._batcher = Batcher(backend.buckets, backend.overhead, backend.sizes, backend.forget)
        self._stream = OwnStream(self.device)

    def move_here(self) -> None:
        """From now on the calling thread uses it."""
        if self.device.type == "cpu":
            take_threads(network_threads(self.config.threads))

    def warm_up(self, people: int | None = None, *, behind: bool = False) -> None:
        """Do now what would delay the first frames of a run.

        Args:
            people: as many of them as come at first; as many as there is a batch for unless given.
            behind: where more come, go on in smaller batches while larger ones are prepared, rather than wait. What
                is found may then differ in its last digits from run to run, as batches of other sizes round otherwise.
        """
        with self._stream():
            self.backend.warm_up(self.backend.buckets[-1] if people is None else people, behind=behind)

    def estimate(
        self, image_bgr: NDArray[np.uint8], bboxes_xyxy: ArrayLike, choose: Choose | None = None
    ) -> PoseEstimates:
        """Poses of the people in `bboxes_xyxy` (N, 4) px of a picture (H, W, 3), in picture px."""
        return self.estimate_all([(image_bgr, bboxes_xyxy)], choose)[0]

    def estimate_all(
        self, pictures: Sequence[tuple[NDArray[np.uint8], ArrayLike]], choose: Choose | None = None
    ) -> list[PoseEstimates]:
        """As `estimate`, for the people of several pictures together: their crops share the batches.

        The rows that `choose` is asked for count through all pictures.
        """
        h, w = self.crop_size_hw
        affines = [self.affines(boxes) for _, boxes in pictures]
        choose = choose or self.chooser([boxes for _, boxes in pictures])
        with self._stream():
            crops = [self.backend.cut(image, a, (w, h)) for (image, _), a in zip(pictures, affines, strict=True)]
            result = self._estimate(crops[0] if len(crops) == 1 else torch.cat(crops), choose)
        found, begin = [], 0
        for affine in affines:
            rows = slice(begin, begin + len(affine))
            keypoints = apply_affine(result.keypoints[rows], invert_affine(affine)).astype(np.float32)
            found.append(PoseEstimates(keypoints, result.scores[rows], result.quality[rows], result.refined[rows]))
            begin = rows.stop
        return found

    def affines(self, bboxes_xyxy: ArrayLike) -> NDArray[np.float64]:
        """The map from picture to crop for each box (N, 4) px: (N, 2, 3); closer for who is not refined in any case."""
        h, w = self.crop_size_hw
        padding = np.where(self.gate.never(body_heights(bboxes_xyxy)), self.config.coarse_padding, self.box_padding)
        return crop_affine(bboxes_xyxy, (w, h), padding)

    def chooser(self, bboxes_xyxy: Sequence[ArrayLike]) -> Choose | None:
        """Who of the people of all pictures, in boxes (N, 4) each, the gate refines, where heights matter."""
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
                f"uint8 [N, {self.crop_size_hw[0]}, {self.crop_size_hw[1]}, 3] is wanted"
            )
        with self._stream():
            return self._estimate(_tensor(crops_bgr), choose)

    def _estimate(self, crops_bgr: Tensor, choose: Choose | None) -> PoseEstimates:
        step = self.config.max_batch
        rows = [slice(i, min(i + step, len(crops_bgr))) for i in range(0, len(crops_bgr), step)]
        parts = [self._batch(crops_bgr[r], None if choose is None else partial(choose, r)) for r in rows]
        k = len(self.skeleton)
        if not parts:
            none = np.zeros(0, np.float32)
            return PoseEstimates(
                np.zeros((0, k, 2), np.float32), np.zeros((0, k), np.float32), none, np.zeros(0, np.bool_)
            )
        return PoseEstimates(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def infer(self, crops_bgr: NDArray[np.uint8], choose: ChooseRows | None = None) -> SHaRPoseOutput:
        """The network's whole output for crops (N, h, w, 3) uint8, N at least 1: what `explain` shows."""
        with self._stream():
            output = self._infer(_tensor(crops_bgr), choose)
        self._stream.join()
        return output

    @torch.inference_mode()
    def _infer(self, crops_bgr: Tensor, choose: ChooseRows | None) -> SHaRPoseOutput:
        images = self.backend.prepare(crops_bgr)
        coarse = self.coarse(images)
        asked = self.ask_gate(coarse, choose)
        selected, low = split_cells(coarse.cell_scores, self.network.selected_count)  # queued while the outlook travels
        refined = asked()
        which = refined.nonzero().squeeze(1)  # (R,)
        heatmaps = self.refine(images, coarse, selected, low, which) if len(which) else coarse.heatmaps
        scores = coarse.quality, coarse.gain, coarse.cell_scores
        return SHaRPoseOutput(coarse.heatmaps, heatmaps, *scores, selected, refined)

    def coarse(self, images: Tensor) -> CoarseOutput:
        """The coarse stage of any number of prepared crops, in the backend's buckets."""
        return CoarseOutput(*self._batcher.run(lambda rows: self.backend.coarse(rows).tensors, images))

    def fine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor) -> Tensor:
        """Fine heatmaps (R, K, h, w) of any number of prepared crops, in the backend's buckets."""

        def stage(images: Tensor, selected: Tensor, low: Tensor, *tokens: Tensor) -> tuple[Tensor]:
            return (self.backend.fine(images, CoarseOutput(*tokens), selected, low),)

        return self._batcher.run(stage, images, selected, low, *coarse.tensors)[0]

    def ask_gate(self, coarse: CoarseOutput, choose: ChooseRows | None) -> Callable[[], Tensor]:
        """Call the result for which crops go on to the fine stage: (B,) bool on the CPU.

        Until then what the coarse stage says of them travels there; where all are refined, whatever it is, nothing
        does.
        """
        if choose is None and not self.gate.asks_network:
            return lambda: torch.ones(len(coarse.quality), dtype=torch.bool)
        arrived, decide = fetch(torch.stack([coarse.quality, coarse.gain])), choose or self.gate.refined
        return lambda: torch.from_numpy(decide(Outlook(*arrived().numpy())))

    def refine(self, images: Tensor, coarse: CoarseOutput, selected: Tensor, low: Tensor, which: Tensor) -> Tensor:
        """Heatmaps (B, K, h, w) of prepared crops: fine ones of rows `which` (R,), R at least 1, coarse ones of the
        rest."""
        if len(which) == len(images):  # nothing to pick out and put back
            return self.fine(images, coarse, selected, low)
        which = upload(which, images.device)
        fine = self.fine(images[which], coarse[which], selected[which], low[which])
        return coarse.heatmaps.index_copy(0, which, fine.to(coarse.heatmaps.dtype))

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (B, K, 2) in crop px and scores (B, K) of any number of heatmaps (B, K, h, w)."""
        keypoints, scores = self._batcher.run(self.backend.decode, heatmaps)
        return keypoints, scores

    @torch.inference_mode()
    def _batch(
        self, crops_bgr: Tensor, choose: ChooseRows | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        output = self._infer(crops_bgr, choose)
        heatmaps, quality, refined = output.heatmaps, output.quality, output.refined
        if self.config.flip_test:
            mirrored = self._infer(crops_bgr.flip(2), lambda _: refined.numpy())  # the same people again
            heatmaps = (heatmaps.float() + flip_back(mirrored.heatmaps, self.skeleton.flip_order).float()) / 2
        keypoints, scores = self.decode(heatmaps)
        together = torch.cat([keypoints.flatten(1), scores, quality[:, None]], 1).float()
        rows, k = together.cpu().numpy(), scores.shape[1]  # one transfer from a GPU
        return rows[:, : 2 * k].reshape(-1, k, 2), rows[:, 2 * k : 3 * k], rows[:, -1], refined.numpy()


def _tensor(crops_bgr: NDArray[np.uint8]) -> Tensor:
    crops = np.ascontiguousarray(crops_bgr)
    return torch.from_numpy(crops if crops.flags.writeable else crops.copy())  # torch warns of what it may not write to
