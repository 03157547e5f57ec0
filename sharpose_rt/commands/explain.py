"""Draws what the network saw of each person in a picture (Figure 5 of the paper): the crop, the attention of the
keypoints, the cells selected for the fine stage, and the heatmaps of both stages. One PNG per person.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpose_rt.config import PoseConfig
from sharpose_rt.errors import ConfigError, SourceError, writing
from sharpose_rt.machine.whole_files import whole

if TYPE_CHECKING:
    from sharpose_rt.engine.explain import Explanation
    from sharpose_rt.models.gate import Gate
    from sharpose_rt.skeleton import Skeleton

HELP = "draw what the network saw of each person in a picture (the paper's Figure 5)"

_MIN_SCORE = 0.2
_POSE_OPTIONS = ("model", "weights", "quality_threshold", "refine_from_gain", "device", "precision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt explain`."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a picture with people")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--boxes",
        metavar="full|x0,y0,x1,y1[;...]",
        help="people's boxes instead of a detector: the whole picture, or corners in pixels, quoted",
    )
    where.add_argument(
        "--detector",
        default="auto",
        help="auto, bundled, an ultralytics model, or another .onnx or .xml file (default: auto)",
    )
    parser.add_argument("--output", type=Path, default=Path("sharpose_out"), metavar="DIR", help="folder of the PNGs")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace earlier figures of a picture with this name (default: a new name)",
    )
    parser.add_argument("--model", default=PoseConfig.model, help="a variant (default: %(default)s)")
    parser.add_argument("--weights", default="auto", metavar="FILE", help="auto, a weights file, or random")
    parser.add_argument(
        "--quality-threshold",
        type=float,
        metavar="Q",
        help="refine crops with a lower predicted quality; inf shows everybody's fine stage",
    )
    parser.add_argument("--refine-from-gain", type=float, metavar="AP", help="as for `track`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16", "int8"), default="auto", help="number format"
    )
    parser.add_argument("--offline", action="store_true", help="download nothing")


def run(args: argparse.Namespace) -> int:
    """Writes the figures and prints their paths; returns 1 if nobody was found.

    Raises:
        SourceError: the picture cannot be read.
        ConfigError: bad boxes or options.
        OutputError: the folder cannot be written to.
    """
    image = read_image(args.image)
    boxes = None if args.boxes is None else parse_boxes(args.boxes, (image.shape[1], image.shape[0]))
    config = PoseConfig(**{name: getattr(args, name) for name in _POSE_OPTIONS})

    from sharpose_rt.engine import PoseEngine
    from sharpose_rt.engine.explain import explain

    engine = PoseEngine(config)
    if boxes is None:
        boxes, found_by = _detect(image, args.detector, str(engine.device), args.offline)
        if not len(boxes):
            print(f"nobody was found in {args.image} by {found_by}; give --boxes full, or x0,y0,x1,y1 in pixels")
            return 1
    stem = _free_stem(args.output, args.image.stem, overwrite=args.overwrite)
    for number, explanation in enumerate(explain(engine, image, boxes), 1):
        path = args.output / f"{stem}.person{number}.png"
        draw(explanation, engine.skeleton, f"{args.model}, person {number}", engine.gate, path)
        stage = "fine" if explanation.refined else "coarse"
        print(f"{path}  quality {explanation.quality:.3f}, {stage} stage", flush=True)
    return 0


def read_image(path: Path) -> np.ndarray:
    """The picture, (H, W, 3) uint8 BGR, turned upright by its EXIF data.

    Raises:
        SourceError: it is missing or not a picture.
    """
    from sharpose_rt.media import files

    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise SourceError(f"{path} is {what}; a picture (.jpg, .png, ...) is accepted")
    image = files.read_image(path)  # as in a run
    if image is None:
        raise SourceError(f"OpenCV cannot read {path}; a .jpg, .png, .webp, .bmp or .tiff picture is accepted")
    return image


def parse_boxes(text: str, size_wh: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) xyxy px from 'full' or 'x0,y0,x1,y1;x0,y0,x1,y1'.

    Raises:
        ConfigError: it is something else, or a box is empty or outside the picture.
    """
    width, height = size_wh
    if text == "full":
        return np.array([[0, 0, width - 1, height - 1]], float)
    accepted = "'full' or 'x0,y0,x1,y1;...' in pixels is accepted, x0 < x1 and y0 < y1"
    try:
        boxes = [[float(value) for value in part.split(",")] for part in text.strip("; ").split(";")]
    except ValueError:
        raise ConfigError(f"--boxes is {text!r}; {accepted}") from None
    for box in boxes:
        said = ",".join(f"{v:g}" for v in box)
        if len(box) != 4 or not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
            raise ConfigError(f"--boxes has {said}; {accepted}")
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            raise ConfigError(f"--boxes has {said}, which is outside the picture of {width}x{height} pixels")
    return np.array(boxes)


def _detect(image: np.ndarray, name: str, device: str, offline: bool) -> tuple[np.ndarray, str]:
    """Boxes (N, 4) of the people in a picture, and what found them."""
    from sharpose_rt.config import DetectorConfig
    from sharpose_rt.detection import Looks, create_detector
    from sharpose_rt.types import Frame

    detector = create_detector(DetectorConfig(name=name), device=device, offline=offline)
    detector.open()
    try:
        return Looks(detector).detect(Frame(0, 0.0, image)).bboxes_xyxy, detector.name  # as in a run
    finally:
        detector.close()


def _free_stem(folder: Path, stem: str, *, overwrite: bool) -> str:
    """The stem for the figures' names: a new one, or with `overwrite` `stem`, whose earlier figures are removed."""
    earlier = list(folder.glob(f"{glob.escape(stem)}.person*.png"))
    if overwrite:
        for path in earlier:
            path.unlink()
        return stem
    names = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
    return next(name for name in names if not any(folder.glob(f"{glob.escape(name)}.person*.png")))


def draw(e: Explanation, skeleton: Skeleton, title: str, gate: Gate, path: Path) -> None:
    """Writes the figure of one person.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    h, w = e.crop_bgr.shape[:2]
    rgb = e.crop_bgr[..., ::-1]
    figure = Figure(figsize=(15, 2.6 * h / w + 1.1), dpi=110, layout="constrained")
    axes = figure.subplots(1, 5)
    for ax in axes:
        ax.set_axis_off()
    axes[0].imshow(rgb)
    axes[0].set_title("crop")
    _overlay(axes[1], rgb, e.attention, (-0.5, w - 0.5, h - 0.5, -0.5))
    axes[1].set_title("attention of the keypoints")
    _cells(axes[2], rgb, e.selected)
    axes[2].set_title(f"{e.selected.sum()} of {e.selected.size} cells selected")
    _pose(axes[3], rgb, e.coarse_heatmap, e.coarse_keypoints, e.coarse_scores, skeleton)
    axes[3].set_title("coarse stage")
    if e.fine_heatmap is not None and e.fine_keypoints is not None and e.fine_scores is not None:
        _pose(axes[4], rgb, e.fine_heatmap, e.fine_keypoints, e.fine_scores, skeleton)
        axes[4].set_title("fine stage")
        decision = "refined"
    else:
        axes[4].imshow(rgb // 4)
        axes[4].text(w / 2, h / 2, "not computed", ha="center", va="center", color="white", fontsize=12)
        axes[4].set_title("fine stage")
        axes[2].set_title(f"{e.selected.sum()} of {e.selected.size} cells would be selected")
        good = e.quality >= gate.quality_threshold
        reason = f"quality reaches {gate.quality_threshold:g}" if good else f"gain is below {gate.refine_from_gain:g}"
        decision = f"the coarse pose is kept, as the {reason}"
    gain = f", gain {e.gain:.3f}" if math.isfinite(e.gain) else ""
    figure.suptitle(f"{title}: predicted quality {e.quality:.3f}{gain}; {decision}")
    with writing(path, "give another --output"), whole(path) as part:
        figure.savefig(part, format="png", bbox_inches="tight", pad_inches=0.1)


def _overlay(ax: Any, rgb: np.ndarray, values: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Values from lowest (blue) to highest (red), upsampled over the crop in grey."""
    ax.imshow(rgb.mean(-1), cmap="gray", vmin=0, vmax=255)
    ax.imshow(values, cmap="jet", alpha=0.55, extent=extent, interpolation="bilinear")
    ax.set_xlim(-0.5, rgb.shape[1] - 0.5)
    ax.set_ylim(rgb.shape[0] - 0.5, -0.5)


def _cells(ax: Any, rgb: np.ndarray, selected: np.ndarray) -> None:
    """The selected cells bright and outlined, the others dark."""
    from matplotlib.patches import Rectangle

    (h, w), (rows, columns) = rgb.shape[:2], selected.shape
    cell_h, cell_w = h // rows, w // columns
    mask = selected.repeat(cell_h, 0).repeat(cell_w, 1)[..., None]
    ax.imshow(np.where(mask, rgb, rgb // 4))
    for row, column in np.argwhere(selected):
        corner = (column * cell_w - 0.5, row * cell_h - 0.5)
        ax.add_patch(Rectangle(corner, cell_w, cell_h, fill=False, edgecolor="#ffe14d", linewidth=0.8))


def _pose(
    ax: Any, rgb: np.ndarray, heatmap: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, skeleton: Skeleton
) -> None:
    """A stage's highest heatmap values, and the limbs and keypoints decoded from the heatmaps."""
    # The corner cells' centres are on the corner pixels (see geometry.affine), so the map extends half a cell beyond.
    half_y, half_x = ((side - 1) / (cells - 1) / 2 for side, cells in zip(rgb.shape, heatmap.shape, strict=False))
    _overlay(ax, rgb, heatmap.clip(0), (-half_x, rgb.shape[1] - 1 + half_x, rgb.shape[0] - 1 + half_y, -half_y))
    from sharpose_rt.media.draw import SIDE_COLOURS

    sure = scores >= _MIN_SCORE
    for a, b in skeleton.limbs:
        if sure[a] and sure[b]:
            ax.plot(*keypoints[[a, b]].T, color="white", linewidth=1.2, alpha=0.9)
    for i in np.flatnonzero(sure).tolist():
        colour = np.array(SIDE_COLOURS[skeleton.side(i)])[::-1] / 255
        ax.plot(*keypoints[i], "o", markersize=4, color=colour, markeredgecolor="black")
