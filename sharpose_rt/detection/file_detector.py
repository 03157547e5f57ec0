"""A person detector from a file in ONNX or OpenVINO format: RTMDet, YOLOX, PicoDet, RT-DETR and others.

The file says neither how such a network expects its pixels nor which of its classes is people, and only partly what its
outputs mean. So it is tried on two photographs whose people are known.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config import DetectorConfig
from sharpose_rt.config.checks import PIXEL_FORMS
from sharpose_rt.detection.file_outputs import Raw, Reading, parse, readings
from sharpose_rt.detection.letterbox import Letterbox
from sharpose_rt.detection.postprocess import each_person_once, finish
from sharpose_rt.detection.runtime import EAGER, Runtime
from sharpose_rt.detection.yolo import IMAGE_SIZE
from sharpose_rt.errors import DetectorError, WeightsError
from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.machine.photographs import PEOPLE, load_photograph, photograph_path
from sharpose_rt.types import Detections, Frame

if TYPE_CHECKING:
    from sharpose_rt.compute.openvino_graphs import Graph

logger = logging.getLogger("sharpose_rt.detection")

LEAST = 0.15
"""Least mean score, times overlap, for the people in the photographs with which a network counts as a person
detector."""
NEAR = 0.98
"""A manner with more than this share of the best result counts as equally good."""
HOPELESS = 0.7
"""A form with less than this share of the best result in the first photograph is not tried on the second."""
BY_CONVENTION = ("rgb_unit", "bgr", "bgr_imagenet", "rgb_imagenet", "rgb", "bgr_unit")
"""Pixel forms, in order of preference among equally good ones."""
_TAIL_BYTES = 1 << 16
_KEYS = tuple(bytes([10, len(key)]) + key + bytes([18]) for key in (b"names", b"stride", b"task"))
"""Keys of ONNX's metadata, as encoded by protobuf."""


@dataclass(frozen=True)
class Manner:
    """How to use a network: its pixel form, the interpretation of its outputs, and the class of people."""

    pixels: str
    reading: Reading
    person: int


@dataclass(frozen=True)
class Ready:
    """A network that has been tried.

    Args:
        manner: how it is used.
        classes: number of scores of each box in a table of cells.
        graph: compiles for the width and height of an input; the last few are kept.
    """

    manner: Manner
    classes: int
    graph: Callable[[tuple[int, int]], Graph]


class FileDetector:
    """A network from a file, run by OpenVINO on the CPU.

    It computes in float32: bf16 would move its boxes by several px.

    Args:
        path: of the `.onnx`, or of the `.xml` beside its `.bin`.
        config: thresholds, input size, and what the user says about its pixels and classes.
        runtime: gives the number of threads.
    """

    closest = 0

    def __init__(self, path: str, config: DetectorConfig, runtime: Runtime = EAGER) -> None:
        self.name, self.config, self.runtime = path, config, runtime
        self.image_size = config.image_size or IMAGE_SIZE
        self._ready: Ready | None = None
        self._fixed_wh: tuple[int, int] | None = None
        self._size_type: Any = None

    def open(self) -> None:
        """Read the network and try it, once.

        Raises:
            DetectorError: it cannot be read, is not a known kind of detector, or finds no people.
            DeviceError: OpenVINO is not installed.
        """
        if self._ready is not None:
            return
        from sharpose_rt.compute.openvino_graphs import read_graph
        from sharpose_rt.detection.openvino_network import KEPT
        from sharpose_rt.models.pixel_forms import ALL

        try:
            model = read_graph(Path(self.name))
        except WeightsError as error:
            raise DetectorError(f"detector: {error}") from error
        self._fixed_wh, self._size_type = self._inputs(model)
        with self._plain_errors("run with OpenVINO"):
            manner, classes = self._tried(model)
            model = ALL[manner.pixels].before(model)
        self._ready = Ready(manner, classes, lru_cache(KEPT)(lambda wh: self._compiled(model, (1, *wh[::-1], 3))))

    def close(self) -> None:
        """Release the network."""
        self._ready = None

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """People in the frame, strongest first."""
        ready = self._ready
        if ready is None:
            raise DetectorError(f"detector '{self.name}' is not open; call open() first")
        fit = self._fit(frame.size_wh)
        width, height = fit.input_wh
        with self._plain_errors(f"run on pictures of {width}x{height}; try another --detector-size"):
            outputs = self._run(ready.graph(fit.input_wh), fit.apply(frame.image_bgr), fit.input_wh)
        raw = parse(outputs, fit.input_wh, ready.classes)
        if raw is None:
            raise self._unknown(outputs)
        boxes, scores = self._people(raw, ready.manner, fit.input_wh)
        return finish(fit.to_frame(boxes), scores, frame.size_wh, self.config)

    @contextmanager
    def _plain_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except DetectorError:
            raise
        except RuntimeError as error:
            raise DetectorError(f"detector '{self.name}' cannot {what}: {' '.join(str(error).split()):.160}") from error

    def _unknown(self, outputs: Sequence[NDArray[Any]]) -> DetectorError:
        from sharpose_rt.compute.openvino_graphs import said

        gives = said(list(output.shape) for output in outputs)
        return DetectorError(
            f"detector '{self.name}' outputs {gives}; expected the boxes of one picture in a form of MMDeploy, YOLO, "
            "PicoDet or RT-DETR (see `sharpose-rt help networks`)"
        )

    def _fit(self, size_wh: tuple[int, int]) -> Letterbox:
        return Letterbox.fit(size_wh, self.image_size, fixed_wh=self._fixed_wh)

    def _people(self, raw: Raw, manner: Manner, input_wh: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Boxes (N, 4) in px of the input and scores (N,) of people above the threshold, each person once."""
        if manner.person >= raw.scores.shape[1]:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        scores = raw.scores[:, manner.person]
        sure = np.flatnonzero(scores >= self.config.score_threshold)
        sure = sure[raw.scores[sure].argmax(1) == manner.person]
        boxes, scores = manner.reading.boxes(raw, input_wh)[sure], scores[sure]
        if not raw.distinct:
            return each_person_once(boxes, scores, self.config.iou_threshold)
        return boxes, scores

    def _inputs(self, model: Any) -> tuple[tuple[int, int] | None, Any]:
        """Its only input size, if it is fixed; the type of the picture's size, if it has such an input."""
        from sharpose_rt.compute.openvino_graphs import lengths, said

        shapes = [lengths(port) for port in model.inputs]
        sized = len(shapes) == 2 and len(shapes[1]) == 2
        if len(shapes) != 1 + sized or len(shapes[0]) != 4 or shapes[0][1] not in (3, -1):
            raise DetectorError(
                f"detector '{self.name}' takes {said(shapes)}; expected a picture [1, 3, height, width], optionally "
                "followed by its size [1, 2]"
            )
        height, width = shapes[0][2:]
        size_type = model.inputs[1].element_type.to_dtype() if sized else None
        return (None if -1 in (height, width) else (width, height)), size_type

    def _compiled(self, model: Any, shape: tuple[int, ...]) -> Graph:
        """The graph for pictures of a shape."""
        import torch

        from sharpose_rt.compute.openvino_graphs import Graph

        sized = model.clone()
        sized.reshape({0: list(shape), **({} if self._size_type is None else {1: [1, 2]})})
        return Graph(sized, torch.float32, self.runtime.threads or 1)

    def _run(self, graph: Graph, picture: NDArray[Any], input_wh: tuple[int, int]) -> list[NDArray[Any]]:
        """A graph's outputs for one picture."""
        import torch

        given = [torch.from_numpy(picture[None])]
        if self._size_type is not None:
            given.append(torch.from_numpy(np.array([input_wh], self._size_type)))
        return [tensor.numpy() for tensor in graph(*given)]

    def _tried(self, model: Any) -> tuple[Manner, int]:
        """The manner that finds the people of two photographs best, and the number of classes."""
        from sharpose_rt.models.pixel_forms import ALL, taking_floats

        model = taking_floats(model.clone())
        forms = list(BY_CONVENTION) if self.config.pixels == "auto" else [self.config.pixels]
        found: dict[Manner, float] = {}
        classes: dict[str, int] = {}
        outputs: list[NDArray[Any]] = []
        graph = lru_cache(len(PEOPLE))(lambda wh: self._compiled(model, (1, 3, *wh[::-1])))
        for image, people in _photographs():
            fit = self._fit((image.shape[1], image.shape[0]))
            picture = fit.apply(image)[None]
            for form in forms:
                outputs = self._run(graph(fit.input_wh), ALL[form].apply(picture)[0], fit.input_wh)
                raw = parse(outputs, fit.input_wh)
                if raw is None:
                    continue
                classes[form] = min(raw.scores.shape[1], classes.get(form, raw.scores.shape[1]))
                for reading in readings(raw, fit.input_wh):
                    boxes = fit.to_frame(reading.boxes(raw, fit.input_wh))
                    for person, share in enumerate(share_found(boxes, raw.scores, people)):
                        manner = Manner(form, reading, person)
                        found[manner] = found.get(manner, 0.0) + share / len(PEOPLE)
            best = {form: max((found[m] for m in found if m.pixels == form), default=0.0) for form in forms}
            forms = [form for form in forms if best[form] >= HOPELESS * max(best.values())]
        if not classes:
            raise self._unknown(outputs)
        manner = self._best(found)
        return manner, classes.get(manner.pixels, 1)

    def _best(self, found: dict[Manner, float]) -> Manner:
        """The manner with the largest share found; among those close to it, the most usual."""
        wanted = self.config.person_class
        shares = {manner: share for manner, share in found.items() if wanted in (None, manner.person)}
        top, of_any = max(shares.values(), default=0.0), max(found, key=lambda manner: found[manner], default=None)
        if top >= LEAST:
            best = next(manner for manner, share in shares.items() if share > NEAR * top)
            logger.info(
                "detector: %s takes pixels as %s and has people as class %d (tried on two photographs)",
                self.name, best.pixels, best.person,
            )  # fmt: skip
            return best
        trouble = f"detector '{self.name}' hardly finds the people of two photographs ({100 * top:.0f} % of them"
        if wanted is not None and of_any is not None and found[of_any] >= LEAST:
            trouble += f" as class {wanted}, {100 * found[of_any]:.0f} % as class {of_any.person}"
        if self.config.pixels == "auto":
            raise DetectorError(
                f"{trouble}; {100 * LEAST:.0f} % are needed), in any pixel form; does it detect people? If so, say "
                f"what it needs: --set detector.pixels={'|'.join(PIXEL_FORMS)}, and detector.person_class"
            )
        logger.warning("%s)", trouble)
        best = max(shares, key=lambda manner: shares[manner], default=Manner(self.config.pixels, Reading(), 0))
        return best if wanted is None else replace(best, person=wanted)


def share_found(boxes: NDArray[Any], scores: NDArray[Any], people: NDArray[Any]) -> NDArray[np.float64]:
    """How well people are found as each class, (C,) in 0..1: the mean of the best score times overlap for each.

    Args:
        boxes: (N, 4) xyxy px.
        scores: (N, C).
        people: (M, 4) xyxy px, of the people.
    """
    sound = np.isfinite(boxes).all(1) & np.isfinite(scores).all(1)
    overlaps = iou_matrix(people, boxes[sound])
    overlaps = np.where(overlaps > 0.5, overlaps, 0.0)
    best = (overlaps[:, :, None] * scores[sound].clip(0, 1)).max(1, initial=0)
    return best.mean(0)


def _photographs() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """The photographs (H, W, 3) uint8 BGR, and boxes (M, 4) xyxy px of the people in them."""
    for name, boxes in PEOPLE.items():
        image = load_photograph(name)
        if image is None:
            raise DetectorError(
                f"a detector from a file is tried on {photograph_path(name) or name}, which is missing; reinstall "
                "ultralytics"
            )
        yield image, np.array(boxes, np.float64)


def is_ultralytics_export(name: str) -> bool:
    """Whether a file is in ONNX and names its classes at its end, after the graph, as ultralytics' exports do.

    Ultralytics does not accept `.ONNX`; such a file is treated like any other network's.
    """
    try:
        with Path(name).open("rb") as file:
            file.seek(-min(_TAIL_BYTES, Path(name).stat().st_size), os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    return name.endswith(".onnx") and all(key in end for key in _KEYS)
