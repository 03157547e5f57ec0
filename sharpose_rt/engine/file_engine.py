"""The engine of a top-down pose network from a file in ONNX or OpenVINO format: RTMPose, ViTPose and others.

Such a network has one stage: no coarse stage, and no predicted quality. Letters: B crops, K keypoints.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sharpose_rt.compute.openvino_graphs import Graph, for_batch, lengths, openvino, read_graph, said, with_batch
from sharpose_rt.config import PoseConfig
from sharpose_rt.config.checks import PIXEL_FORMS
from sharpose_rt.engine import known_people
from sharpose_rt.engine.base import ChooseRows, Engine
from sharpose_rt.engine.batching import Batcher
from sharpose_rt.engine.choice import check_file_options
from sharpose_rt.engine.device import resolve_precision
from sharpose_rt.engine.openvino_backend import BUCKETS, OVERHEAD
from sharpose_rt.errors import WeightsError
from sharpose_rt.geometry.affine import USUAL_PADDING
from sharpose_rt.geometry.heatmap import decode, flip_back
from sharpose_rt.geometry.simcc import decode_simcc, flip_simcc_back, from_udp
from sharpose_rt.machine.paths import is_file
from sharpose_rt.machine.photographs import load_photograph
from sharpose_rt.machine.threads import network_threads
from sharpose_rt.models.gate import Gate
from sharpose_rt.models.pixel_forms import ALL, PixelForm, taking_floats
from sharpose_rt.models.weights import WeightsInfo, file_sha256
from sharpose_rt.skeleton import COCO17, HALPE26, WHOLEBODY133, Skeleton

_SETS = {len(skeleton): skeleton for skeleton in (COCO17, HALPE26, WHOLEBODY133)}
"""The keypoints of a network, by their number."""
USUAL_PIXELS = "rgb_imagenet"
"""The pixel form of MMPose's, ViTPose's and PaddleDetection's networks."""
NEAR = 0.98
"""A pixel form with more than this share of the best result counts as equally good."""
HARDLY = 0.2
"""OKS times score of two known people below which no form is right."""
logger = logging.getLogger("sharpose_rt.engine")


class FileEngine(Engine):
    """A network from a file, run by OpenVINO on the CPU.

    It takes crops (B, 3, H, W), RGB and normalised as for ImageNet, or in another pixel form if it finds two known
    people better in that. It outputs heatmaps (B, K, h, w), or (B, K, W') and (B, K, H') along the two axes (SimCC, Li
    et al. 2022, as in RTMPose). Coordinates of heatmaps are as in UDP (Huang et al. 2020), the others as in MMPose's
    RTMPose: their pixel centres differ by half a pixel. Batches may have any size if the file allows it; otherwise each
    thread runs one crop.

    Args:
        config: `model` is the file.

    Raises:
        WeightsError: it cannot be read, or is not such a network.
        ConfigError: an option is given that such a network does not have.
        DeviceError: OpenVINO is not installed; the device or the precision is not available.
    """

    backend_name = "openvino"
    behaviour = "file"
    two_stages = False

    def __init__(self, config: PoseConfig) -> None:
        check_file_options(config)
        self.config, self.device = config, torch.device("cpu")
        self.dtype = resolve_precision(config.precision, self.device)
        self.move_here()
        path = Path(config.model)
        self._bare, self.crop_size_hw, self.skeleton = _prepared(path)
        self._simcc = len(self._bare.outputs) == 2
        self.weights = WeightsInfo(str(path), file_sha256(weights_of(path)), math.inf, {})
        self.gate = Gate()
        self.box_padding = USUAL_PADDING if config.box_padding is None else config.box_padding
        self._threads = network_threads(config.threads)
        open_batch = self._bare.input(0).partial_shape[0].is_dynamic
        sizes = BUCKETS if open_batch else sorted({1, self._threads})
        self._batcher = Batcher([size for size in sizes if size <= config.max_batch], OVERHEAD)
        self._form: PixelForm | None = None  # the form applied before the bare network while it is tried
        self._graphs: dict[int, Graph] = {}
        self.pixels = self._tried() if config.pixels == "auto" else config.pixels
        self._model = self._behind(ALL[self.pixels].before)

    def _behind(self, steps: Callable[[Any], Any]) -> Any:
        """The network preceded by those steps."""
        try:
            return steps(self._bare.clone())
        except RuntimeError as error:
            raise WeightsError(f"{self.config.model} does not take pictures: {error!s:.200}") from error

    def _tried(self) -> str:
        """The pixel form with which it finds two people best; among those close to it, the most usual."""
        image, shares = load_photograph(known_people.PHOTOGRAPH), {}
        if image is None:
            return USUAL_PIXELS
        self._model = self._behind(taking_floats)
        for pixels in PIXEL_FORMS:
            self._form = ALL[pixels]
            found = self.estimate(image, known_people.BOXES)
            shares[pixels] = known_people.similarity(found) * float(found.scores[:, : len(COCO17)].mean())
        self._form, self._graphs = None, {}
        top = max(shares.values())
        if top < HARDLY:
            logger.warning(
                "%s hardly finds the keypoints of two people in a photograph (%.0f %% of them), in any pixel form; is "
                "it a top-down network with COCO's keypoints first? It is assumed to need %s (--set pose.pixels)",
                self.config.model, 100 * top, USUAL_PIXELS,
            )  # fmt: skip
            return USUAL_PIXELS
        best = next(pixels for pixels, share in shares.items() if share > NEAR * top)
        if best != USUAL_PIXELS:
            logger.info("%s takes pixels as %s (tried on two people in a photograph)", self.config.model, best)
        return best

    def warm_up(self, people: int | None = None, *, behind: bool = False) -> None:
        """See `Engine`; such graphs compile in a moment, so `behind` has no effect."""
        for size in self._batcher.buckets:
            if people is None or size <= people:
                self._graph(size)

    def affines(self, bboxes_xyxy: ArrayLike) -> NDArray[np.float64]:
        """See `Engine`."""
        maps = super().affines(bboxes_xyxy)
        return from_udp(self.crop_size_hw) @ maps if self._simcc else maps

    def _graph(self, rows: int) -> Graph:
        if rows not in self._graphs:
            self._graphs[rows] = for_batch(self._model, rows, self.dtype, self._threads)
        return self._graphs[rows]

    @torch.inference_mode()
    def _batch(
        self, crops_bgr: Tensor, choose: ChooseRows | None, corrected: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        maps = self._maps(crops_bgr)
        if self.config.flip_test:
            mirrored = self._flipped_back(self._maps(crops_bgr.flip(2)))
            maps = [(one + other) / 2 for one, other in zip(maps, mirrored, strict=True)]
        if self._simcc:
            keypoints, scores = decode_simcc(maps[0], maps[1], self.crop_size_hw)
        else:
            keypoints, scores = decode(maps[0], self.crop_size_hw, self.skeleton.sigmas)
        unknown = np.full(len(crops_bgr), np.nan, np.float32)
        return keypoints.numpy(), scores.numpy(), unknown, np.ones(len(crops_bgr), np.bool_)

    def _maps(self, crops_bgr: Tensor) -> list[Tensor]:
        """The outputs, (B, K, h, w), or (B, K, W') and (B, K, H'), in float32."""
        given = crops_bgr if self._form is None else torch.from_numpy(self._form.apply(crops_bgr.numpy()))
        return list(self._batcher.run(lambda rows: tuple(self._graph(len(rows))(rows)), given))

    def _flipped_back(self, maps: list[Tensor]) -> list[Tensor]:
        order = self.skeleton.flip_order
        return flip_simcc_back(maps, order, self.crop_size_hw[1]) if self._simcc else [flip_back(maps[0], order)]


def weights_of(path: Path) -> Path:
    """The file with a network's weights: in OpenVINO's format the one beside it. External data of ONNX is ignored."""
    return path.with_suffix(".bin") if path.suffix.lower() == ".xml" else path


def file_skeleton(path: str) -> Skeleton:
    """The keypoints of a file's network; raises WeightsError and DeviceError as `FileEngine` does."""
    return _skeleton(path, Path(path).stat().st_mtime if is_file(path) else 0.0)


@lru_cache(maxsize=8)  # called for each source of a run
def _skeleton(path: str, changed_s: float) -> Skeleton:
    return _prepared(Path(path))[2]


def _prepared(path: Path) -> tuple[Any, tuple[int, int], Skeleton]:
    """The network with only its maps as outputs; its crops' H and W; its keypoints."""
    model = read_graph(path)
    takes = [lengths(port) for port in model.inputs]
    if len(takes) != 1 or len(takes[0]) != 4 or takes[0][1] != 3 or -1 in takes[0][1:]:
        raise WeightsError(
            f"{path} takes {said(takes)}; its input must be [B, 3, height, width] with fixed height and width"
        )
    size_hw = takes[0][2], takes[0][3]
    if takes[0][0] != -1 or not _takes_any_batch(model):
        try:
            model = with_batch(model, 1)
        except RuntimeError as error:
            raise WeightsError(
                f"{path} takes batches of one fixed size, which is not 1; export it with a dynamic batch, or for one "
                "crop"
            ) from error
    shapes = [lengths(port) for port in model.outputs]
    chosen = _chosen(shapes, size_hw)
    if chosen is None:
        h, w = size_hw
        sets = ", ".join(f"{count} ({skeleton.name})" for count, skeleton in _SETS.items())
        raise WeightsError(
            f"{path} outputs {said(shapes)}; expected heatmaps of one person per crop [B, K, h, w], or [B, K, n {w}] "
            f"and [B, K, n {h}] (SimCC), with K one of {sets}"
        )
    return _bare(model, chosen), size_hw, _SETS[shapes[chosen[0]][1]]


def _chosen(shapes: list[list[int]], size_hw: tuple[int, int]) -> tuple[int, ...] | None:
    """Which outputs of these shapes are the heatmaps, or the rows of bins along x and y; None if none are."""
    h, w = size_hw
    maps = [(i,) for i, shape in enumerate(shapes) if len(shape) == 4 and min(shape[2:]) >= 5]
    lines = [(i, shape[2]) for i, shape in enumerate(shapes) if len(shape) == 3 and shape[2] > 0]
    simcc = [(i, j) for (i, x), (j, y) in permutations(lines, 2) if x % w == 0 and x * h == y * w]
    chosen = maps[0] if len(maps) == 1 else simcc[0] if len(lines) == 2 and simcc else ()
    counts = {shapes[i][1] for i in chosen}
    return chosen if len(counts) == 1 and counts <= _SETS.keys() else None


def _bare(model: Any, chosen: tuple[int, ...]) -> Any:
    """The network with only the chosen outputs, in float32."""
    ov, _ = openvino()
    model = ov.Model([model.outputs[i].get_node().input_value(0) for i in chosen], model.get_parameters(), "pose")
    steps = ov.preprocess.PrePostProcessor(model)
    for i in range(len(chosen)):
        steps.output(i).tensor().set_element_type(ov.Type.f32)
    return steps.build()


def _takes_any_batch(model: Any) -> bool:
    """Whether a graph with a dynamic batch is dynamic throughout."""
    try:
        return all(lengths(port)[:1] == [2] for port in with_batch(model, 2).outputs)
    except RuntimeError:
        return False
