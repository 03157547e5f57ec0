"""`sharpose.json`: everything that a program with only the graphs needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpose_rt import __version__
from sharpose_rt.config import DetectorConfig, PoseConfig
from sharpose_rt.detection.letterbox import PAD_VALUE
from sharpose_rt.detection.postprocess import AGREES_IOU, DOUBT_FADES, DOUBT_IOU, MIN_SIDE_PX
from sharpose_rt.export.graphs import Plan
from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.weights import GAIN, THRESHOLD, WeightsInfo, bundled_weights, file_sha256
from sharpose_rt.skeleton import Skeleton

FORMAT = "sharpose.onnx/1"
LICENCE = "AGPL-3.0-only"
"""Of the program and of the weights that ship with it."""
MEANINGS = {
    "picture": "the picture, fitted into a square as described in `detect.rule`; blue, green, red",
    "boxes": "people, several boxes each, as x0, y0, x1, y1 in pixels of the square, measured from its outer edge",
    "box_scores": "the share of boxes like this that show a person, 0 to 1",
    "crops": "people, cropped from the picture as described in `crop.rule`; blue, green, red",
    "keypoints": "x, y in pixels of the crop, in the order of `skeleton.keypoints`; pixel centres are whole numbers",
    "scores": "how certain each keypoint is, 0 to 1",
    "heatmaps": "how likely each keypoint is in each cell; keypoints and scores are decoded from them in the graph, "
    "so most programs can ignore them",
    "quality": "predicted object keypoint similarity of this pose, 1 at best; see `gate`",
    "gain": "average precision (0 to 1) that fine.onnx is expected to add to this pose; see `gate`",
    "selected": "for fine.onnx: cells that it splits into fine tokens",
    "low": "for fine.onnx: all other cells",
    "image_inputs": "for fine.onnx: the cells as input to the transformer",
    "image_outputs": "for fine.onnx: the cells as output by the transformer",
    "detail": "for fine.onnx: features of 4x4 places in each cell",
}
"""Meaning of each input and output."""
ORDER = "detect (or boxes from elsewhere), crop, coarse.onnx for all people, gate, fine.onnx for those to be refined"
DETECT = (
    "Resize the picture (w, h) to (rw, rh), rounded from (w, h) * size / max(w, h), each at least 1: bilinearly, "
    "without antialiasing, pixel x read at (x + 0.5) * w / rw - 0.5, y likewise. Place it on a square of `fill`, its "
    "first pixel at left = (size - rw) // 2, top = (size - rh) // 2. Use only boxes with at least `score_threshold`. "
    "Keep the strongest, drop all whose IoU with it is above `iou_threshold`, and continue with the strongest of the "
    "rest. Each box that is kept becomes the mean of itself and of those not dropped before whose IoU with it is at "
    "least `agrees_iou`, weighted by the squares of score and IoU. Then, for each box whose largest IoU with a "
    "stronger one, d, is above `doubt_iou`, multiply its score by exp(-(d - doubt_iou) ** 2 / doubt_fades), and drop "
    "boxes that are now below `score_threshold`. Map boxes back into the picture by x = (x - left) * w / rw - 0.5, y "
    "likewise, clipped to 0 and w - 1 or h - 1, and drop boxes with a side below `min_side_px`. The strongest "
    "`max_people` of the rest are the people. sharpose-rt itself does not use a square, but the least multiples of the "
    "network's stride, so its boxes differ slightly."
)
CROP = (
    "Pixel centres are whole numbers. A box, at least 1 pixel wide and high, is extended in width or height about its "
    "centre (cx, cy) to the aspect ratio w : h of the crop, then enlarged to (bw, bh) by `box_padding`. x of the crop "
    "= (x of the picture - cx) * (w - 1) / bw + (w - 1) / 2, y likewise with h and bh: bilinear, black outside the "
    "picture. If there are more than 2 pixels of the picture per pixel of the crop, the picture is first halved, by "
    "averaging 2x2 pixels, until there are not; pixel i of a picture that is f times smaller has its centre at f * i + "
    "(f - 1) / 2. Keypoints are mapped back by the inverse. For people who never go through fine.onnx, whatever "
    "coarse.onnx outputs, poses are more accurate with crops enlarged by `coarse_box_padding` instead of `box_padding`."
)
GATE = (
    "A crop whose `quality` from coarse.onnx is not at least `quality_threshold`, and whose `gain`, if coarse.onnx "
    "outputs one, is not below `refine_from_gain`, goes through fine.onnx, with its rows of the outputs of "
    "coarse.onnx, and takes its keypoints and scores from there; the others are done. A lower quality threshold, or a "
    "higher gain threshold, is faster and less accurate. The values here are recommended for these weights; if all "
    "crops should be refined, they are the largest and the lowest float32."
)


def sheet(
    network: SHaRPose, info: WeightsInfo, person: Mapping[str, Any], opset: int, graphs: Mapping[str, Any]
) -> dict[str, Any]:
    """The sheet as JSON.

    Args:
        network: of the pose graphs.
        info: of its weights.
        person: facts of the detector: `size`, px, and `weights_sha256`.
        opset: of the graphs.
        graphs: the result of `ports` for each file.

    Raises:
        WeightsError: the shipped weights are not those that were shipped.
    """
    import onnx

    variant, detector = network.variant, DetectorConfig()
    largest = float(np.finfo(np.float32).max)  # JSON has no infinity, and a program needs a number to compare with
    thresholds = {THRESHOLD: info.quality_threshold, GAIN: info.refine_from_gain}
    return {
        "format": FORMAT,
        "licence": _licence(variant.name, info),
        "made_by": {
            "opset": opset,
            "sharpose-rt": __version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
        },
        "model": {"name": variant.name, "behaviour": network.behaviour.name, "weights_sha256": info.sha256},
        "order": ORDER,
        "skeleton": _skeleton(variant.skeleton),
        "detect": {
            **person,
            "fill": PAD_VALUE,
            "score_threshold": detector.score_threshold,
            "iou_threshold": detector.iou_threshold,
            "agrees_iou": AGREES_IOU,
            "doubt_iou": DOUBT_IOU,
            "doubt_fades": DOUBT_FADES,
            "min_side_px": MIN_SIDE_PX,
            "max_people": detector.max_people,
            "rule": DETECT,
        },
        "crop": {
            "size_hw": variant.size_hw,
            "box_padding": network.box_padding,
            "coarse_box_padding": PoseConfig.coarse_padding,
            "rule": CROP,
        },
        "gate": {**{n: min(max(v, -largest), largest) for n, v in thresholds.items()}, "rule": GATE},
        "graphs": graphs,
    }


def ports(plan: Plan, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Name, type, shape and meaning of a graph's inputs and outputs; B is any number of crops."""

    def port(name: str) -> dict[str, Any]:
        tensor = values[name]
        shape = ["B", *tensor.shape[1:]] if plan.batched else list(tensor.shape)
        return {
            "name": name,
            "type": str(tensor.dtype).removeprefix("torch."),
            "shape": shape,
            "meaning": MEANINGS[name],
        }

    return {"inputs": [port(name) for name in plan.inputs], "outputs": [port(name) for name in plan.outputs]}


def _licence(name: str, info: WeightsInfo) -> str:
    shipped = bundled_weights(name)
    if shipped is not None and file_sha256(shipped) == info.sha256:
        return f"{LICENCE}, for the graphs as for the program"
    return f"person_detector.onnx: {LICENCE}; the pose graphs are under the licence of their weights"


def _skeleton(skeleton: Skeleton) -> dict[str, Any]:
    return {
        "name": skeleton.name,
        "keypoints": skeleton.keypoints,
        "limbs": skeleton.limbs,
        "flip_pairs": skeleton.flip_pairs,
        "oks_sigmas": skeleton.sigmas,
    }
