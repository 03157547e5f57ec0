"""Runs any network with YOLO outputs on frames: letterbox in, people's boxes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.letterbox import Letterbox
from sharpose_rt.detection.looks import SURE
from sharpose_rt.detection.postprocess import each_person_once, finish
from sharpose_rt.detection.runtime import EAGER, Runtime
from sharpose_rt.errors import DetectorError, is_short_of_gpu_memory
from sharpose_rt.geometry.boxes import iou_matrix, longer_side
from sharpose_rt.skeleton import PERSON_NAMES
from sharpose_rt.types import Detections, Frame

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("sharpose_rt.detection")

SMALL = 1 / 8
"""People are small if their longer side is less than this share of the picture's: where some are seen, others are
missed."""
MANY, SHARPER = 5, 1.5
"""If this many people are small, and the picture's longer side has this many times the pixels of the closer look, there
may be a crowd, of which that look misses most."""
CLOSEST = 2
"""The look for crowds; large people are taken from the look before, in which a network recognises them better."""
_OVER = 1.25  # people near the limit may be larger in one look than in the other
TASKS = ("detect", "pose", "segment")
IMAGE_SIZE = 640
"""Size at which ultralytics' models are trained, px."""


@dataclass(frozen=True)
class Network:
    """A loaded network and how to use it."""

    run: Callable[[torch.Tensor], Any]
    """Maps RGB (1, 3, H, W) in 0..1 to the predictions, the first tensor of its output: (1, n, 6 + extra) xyxy, score,
    class if `end2end`, else (1, 4 + classes + extra, n) cxcywh, class scores. A torch module may be traced and
    recorded; any other callable is only called."""
    class_count: int
    person_classes: tuple[int, ...]
    end2end: bool
    """Its head outputs each person once; no suppression is needed."""
    device: torch.device
    stride: int = 32
    fixed_wh: tuple[int, int] | None = None
    """Its only input size; None: any multiple of the stride."""
    half: bool = False
    """It takes float16."""
    in_int8: bool = False
    """It rounds to 8 bits."""
    score_curve: tuple[float, float] = (1.0, 0.0)
    """Slope and shift of a score's logit that turn it into the share of such boxes that show a person (Platt 1999)."""

    def calibrated(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Scores (N,) after the curve, which keeps their ranking."""
        slope, shift = self.score_curve
        if (slope, shift) == (1.0, 0.0):
            return np.asarray(scores, np.float64)
        clipped = np.clip(scores, 1e-7, 1 - 1e-7)
        return 1 / (1 + np.exp(-(slope * np.log(clipped / (1 - clipped)) + shift)))


def person_classes(names: Mapping[int, str], model: str) -> tuple[int, ...]:
    """Which classes are people: by name, or the only class.

    Raises:
        DetectorError: no class of the model is people.
    """
    found = tuple(sorted(i for i, name in names.items() if name.strip().lower() in PERSON_NAMES))
    if found or len(names) == 1:
        return found or tuple(names)
    some = ", ".join(list(names.values())[:5])
    raise DetectorError(
        f"detector '{model}' has no class for people: its {len(names)} classes are {some}, ...; "
        f"one named {' or '.join(sorted(PERSON_NAMES))} is needed, or a model with one class"
    )


def module_network(module: Any, names: Mapping[int, str], model: str, device: str) -> Network:
    """A network from ultralytics' bare torch module: fused, and without suppression if its head allows it.

    Raises:
        DetectorError: the module outputs no boxes (classification, ...), does not take RGB, or has no class for people.
    """
    import torch

    task = getattr(module, "task", None) or guess_task(module)
    if task not in TASKS:
        raise DetectorError(f"detector '{model}' is a model for {task}; {', '.join(TASKS)} are accepted")
    channels = (getattr(module, "yaml", None) or {}).get("channels", 3)
    if channels != 3:
        raise DetectorError(f"detector '{model}' takes pictures with {channels} channels; 3 (RGB) are accepted")
    classes = person_classes(names, model)
    head = module.model[-1]
    if getattr(head, "one2one_cv2", None) is not None:
        head.end2end = True  # must be set before fusing, which drops the other head
    place = torch.device(device)
    module = module.float().eval().fuse(verbose=False).to(place)
    # channels_last: x1.3 on CPU.
    module = module.to(memory_format=torch.channels_last).requires_grad_(False)
    return Network(
        run=module,
        class_count=int(head.nc),
        person_classes=classes,
        end2end=bool(getattr(module, "end2end", False)),
        device=place,
        stride=max(32, int(module.stride.max())),
    )


def with_runtime(network: Network, runtime: Runtime) -> Network:
    """The network, run as `runtime` says if it is a bare torch module on the CPU, or recorded if it is one on a GPU; an
    exported network is unchanged."""
    import torch

    if network.device.type != "cpu":
        return replace(network, run=_recorded(network.run)) if isinstance(network.run, torch.nn.Module) else network
    if runtime.backend != "openvino" or not isinstance(network.run, torch.nn.Module):
        return network
    from sharpose_rt.detection.openvino_network import GraphPerSize

    return replace(
        network, run=GraphPerSize(network.run, runtime.threads or 1, int8=network.in_int8, bf16=runtime.bf16)
    )


def _recorded(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A module on a GPU as one launch for all its kernels, if it can be recorded: hundreds of launches take longer than
    what they launch, and meanwhile the pose network's thread waits for Python.

    As with OpenVINO, recordings for `KEPT` picture sizes are kept; another size discards all of them together, as the
    recordings of a network require (`cuda_graphs`). If memory is too small, nothing is recorded."""
    import torch

    from sharpose_rt.compute.cuda_graphs import Recorded
    from sharpose_rt.detection.first_output import FirstOutput
    from sharpose_rt.detection.openvino_network import KEPT

    first, head = FirstOutput(module), module.model[-1]
    fits = True
    kept: dict[torch.Size, Recorded] = {}

    def recorded(size: torch.Size) -> Recorded:
        if size in kept:
            return kept[size]
        if len(kept) == KEPT:
            kept.clear()
        grid: list[Any] = []

        def stage(pixels: torch.Tensor) -> tuple[torch.Tensor]:
            found = first(pixels)
            if not grid:  # the head drops it when the picture size changes, but the recording still reads it
                grid[:] = head.anchors, head.strides
            return (found,)

        kept[size] = Recorded("detector", stage)
        return kept[size]

    def run(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal fits
        if fits:
            try:
                return recorded(pixels.shape)(pixels)[0]
            except RuntimeError as error:
                if not is_short_of_gpu_memory(error):
                    raise
                fits = False
            logger.warning("the detector with CUDA graphs does not fit into the GPU's memory; continuing without them")
            kept.clear()
            torch.cuda.empty_cache()
        return first(pixels)

    return run


def guess_task(module: Any) -> str:
    """The task that ultralytics reads from a module's head: 'detect', 'pose', 'segment', 'classify', ..."""
    from ultralytics.nn.tasks import RTDETRDetectionModel, guess_model_task

    # RT-DETR calls itself 'detect', but needs stretched pictures and has different outputs.
    return "RT-DETR" if isinstance(module, RTDETRDetectionModel) else str(guess_model_task(module))


def people_from_predictions(
    predictions: NDArray[np.floating], network: Network, score_threshold: float, iou_threshold: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Boxes (N, 4) xyxy in input pixels and scores (N,) of the people among a network's predictions.

    Args:
        predictions: (n, 6 + extra) or (4 + classes + extra, n), as in `Network.run`, without the batch axis.
        network: says which.
        score_threshold: weaker ones are omitted before suppression.
        iou_threshold: see `postprocess.suppress`.
    """
    rows = np.asarray(predictions, np.float64)
    if network.end2end:
        scores = network.calibrated(rows[:, 4])
        kept = (scores >= score_threshold) & np.isin(rows[:, 5].astype(int), network.person_classes)
        return rows[kept, :4], scores[kept]
    class_scores = rows[4 : 4 + network.class_count]
    best = class_scores.argmax(0)
    scores = network.calibrated(class_scores[best, np.arange(rows.shape[1])])
    person = (scores >= score_threshold) & np.isin(best, network.person_classes)
    centre, size, scores = rows[:2, person].T, rows[2:4, person].T, scores[person]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    return each_person_once(boxes, scores, iou_threshold)


class YoloDetector:
    """Base of detectors with YOLO networks; a subclass provides its network in `load`."""

    def __init__(self, name: str, config: DetectorConfig, device: str = "cpu", runtime: Runtime = EAGER) -> None:
        self.name = name
        self.config = config
        self.device = device
        self.runtime = runtime
        self.sizes: tuple[int, ...] = (config.image_size or IMAGE_SIZE,)
        """Longer side of the network's input in each look, px; in the look for crowds, at most that of the frame."""
        self._network: Network | None = None
        self._stream: Callable[[], AbstractContextManager[object]] = nullcontext

    def load(self) -> Network:
        """The network, ready to run; raises DetectorError."""
        raise NotImplementedError

    def open(self) -> None:
        """Load the network, once."""
        from sharpose_rt.compute.threads import take_threads

        if self.device == "cpu" and self.runtime.threads is not None:
            take_threads(self.runtime.threads)
        if self._network is None:
            from sharpose_rt.compute.streams import OwnStream

            self._network = with_runtime(self.load(), self.runtime)
            self._stream = OwnStream(self._network.device)

    @property
    def in_int8(self) -> bool:
        """The network, which must be open, rounds to 8 bits."""
        return self._network is not None and self._network.in_int8

    def close(self) -> None:
        """Release the network."""
        self._network = None

    @property
    def closest(self) -> int:
        """See `Detector`."""
        return len(self.sizes) - 1

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """People in the frame, strongest first."""
        found = self._detect(frame, look)
        if look == CLOSEST:
            found = self._joined(self._detect(frame, look - 1), found, frame)
        return replace(found, look=self._wanted_look(found, frame))

    def _detect(self, frame: Frame, look: int) -> Detections:
        network = self._network
        if network is None:
            raise DetectorError(f"detector '{self.name}' is not open; call open() first")
        fit = self._fit(frame, network, look)
        with self._stream():
            predictions = predict(network, fit.apply(frame.image_bgr))
        boxes, scores = people_from_predictions(
            predictions, network, self.config.score_threshold, self.config.iou_threshold
        )
        return finish(fit.to_frame(boxes), scores, frame.size_wh, self.config)

    def letterboxed(self, frame: Frame, network: Network, *, look: int = 0) -> NDArray[np.uint8]:
        """The network's input (H, W, 3) uint8 for a frame."""
        return self._fit(frame, network, look).apply(frame.image_bgr)

    def _fit(self, frame: Frame, network: Network, look: int) -> Letterbox:
        size = self.sizes[look] if look < CLOSEST else min(self.sizes[look], max(frame.size_wh))
        return Letterbox.fit(frame.size_wh, size, network.stride, network.fixed_wh)

    def _joined(self, large: Detections, small: Detections, frame: Frame) -> Detections:
        """The large people of one look and the small ones of a closer look."""
        limit_px = SMALL * max(frame.size_wh)
        large = large.take(longer_side(large.bboxes_xyxy) >= limit_px)
        small = small.take(longer_side(small.bboxes_xyxy) < _OVER * limit_px)
        overlap = iou_matrix(small.bboxes_xyxy, large.bboxes_xyxy).max(1, initial=0)
        small = small.take(overlap <= self.config.iou_threshold)
        boxes = np.concatenate([large.bboxes_xyxy, small.bboxes_xyxy])
        return finish(boxes, np.concatenate([large.bbox_scores, small.bbox_scores]), frame.size_wh, self.config)

    def _wanted_look(self, found: Detections, frame: Frame) -> int:
        """The look that the confident people's sizes call for, if the frame has more pixels than the network saw."""
        longest = max(frame.size_wh)
        sides = longer_side(found.bboxes_xyxy)
        small = int((sides[found.bbox_scores >= SURE] < SMALL * longest).sum())
        if small >= MANY and self.closest >= CLOSEST and longest >= SHARPER * self.sizes[CLOSEST - 1]:
            return CLOSEST
        return int(small > 0 and self.closest > 0 and longest > self.sizes[0])


def predict(network: Network, image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A network's predictions for one letterboxed picture (H, W, 3), without the batch axis."""
    import torch

    from sharpose_rt.compute.streams import upload
    from sharpose_rt.detection.first_output import first_tensor

    with torch.inference_mode():
        planes = image_bgr[..., ::-1].transpose(2, 0, 1).copy()  # (3, H, W) RGB; torch flips pixels ten times slower
        pixels = upload(torch.from_numpy(planes), network.device)[None]
        out = network.run(pixels.to(torch.float16 if network.half else torch.float32) / 255)
        return first_tensor(out)[0].float().cpu().numpy()
