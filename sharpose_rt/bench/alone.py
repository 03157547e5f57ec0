"""The time of each part of a frame's processing when nothing else runs: one thread, one part after another.

A run overlaps its stages, so its own figures include waiting for cores that other stages use. These do not, and they
also split the pose stage and the writing into their parts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.config import RunConfig
from sharpose_rt.engine import Engine, PoseEngine
from sharpose_rt.geometry.affine import apply_affine, invert_affine
from sharpose_rt.graph import Tracking
from sharpose_rt.media import Painter, VideoWriter, open_source
from sharpose_rt.models.selection import split_cells
from sharpose_rt.runtime import Chain, Stage
from sharpose_rt.skeletons import StreamWriter
from sharpose_rt.tracking import Tracker
from sharpose_rt.types import Packet

PARTS = (
    "capture",
    "detect",
    "track",
    "crop",
    "normalise",
    "coarse",
    "fine",
    "decode",
    "smooth",
    "stream",
    "draw",
    "encode",
)
"""In processing order; 'coarse' includes the gate and the selection of cells, and with OpenVINO the normalisation. All
work of a one-stage network counts as 'fine'."""


class Stopwatch:
    """Seconds of each part in each frame, including work on the device; 0 if a part had nothing to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._frames: list[dict[str, float]] = []

    def next_frame(self) -> None:
        """Begins the next frame, to which later measurements belong."""
        self._frames.append(defaultdict(float))

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Adds the time of a `with` block to `part`."""
        self._wait()
        began_s = time.perf_counter()
        yield
        self._wait()
        self._frames[-1][part] += time.perf_counter() - began_s

    def seconds(self, part: str, skip: int = 0) -> NDArray[np.float64]:
        """(frames - skip,) seconds of `part`."""
        return np.array([frame.get(part, 0.0) for frame in self._frames[skip:]])

    def drop_last(self) -> None:
        """Removes the last entry: there was no frame."""
        self._frames.pop()

    def __len__(self) -> int:
        return len(self._frames)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def begin_ready(tracking: Tracking) -> None:
    """Lets a run start in its later state: prepared for any number of people and for closer looks."""
    source = tracking.source
    tracking.estimate.ready_for = None
    tracking.detect.ready_for = lambda: source.info.size_wh


def measure_alone(spec: str, config: RunConfig, folder: Path, tracker: Tracker | None = None) -> Stopwatch:
    """The time of each of `PARTS` in each frame of a source; outputs go into `folder`; `tracker` as for `Tracking`."""
    source = open_source(spec, config.source)
    tracking = Tracking(source, config, tracker=tracker)
    begin_ready(tracking)
    stages = list(flat(tracking.stages))
    with ExitStack() as stack:
        stack.callback(source.close)
        source.open()
        for stage in stages:
            stack.callback(stage.close, "interrupted")
            stage.open()
        watch = Stopwatch(tracking.engine.device)
        outputs = _Outputs(tracking, config, folder, stack)
        while True:
            watch.next_frame()
            with watch("capture"):
                frame = source.read()
            if frame is None:
                watch.drop_last()
                return watch
            _journey(frame, stages, tracking.engine, watch, outputs)


def _journey(frame: Any, stages: list[Stage[Any, Any]], engine: Engine, watch: Stopwatch, outputs: _Outputs) -> None:
    packet: Any = frame
    for stage in stages:
        if stage.name == "pose":
            if isinstance(engine, PoseEngine):
                pose_parts(engine, frame.image_bgr, packet.tracks.bboxes_xyxy, watch)
            else:
                with watch("fine"):
                    engine.estimate(frame.image_bgr, packet.tracks.bboxes_xyxy)
            (packet,) = stage.process(packet)  # not measured, as its parts were
        else:
            with watch(stage.name):
                (packet,) = stage.process(packet)
    outputs.write(packet, watch)


@torch.inference_mode()
def pose_parts(engine: PoseEngine, image_bgr: NDArray[np.uint8], bboxes_xyxy: ArrayLike, watch: Stopwatch) -> list[Any]:
    """Does what `PoseEngine.estimate` does, part by part, and returns the same keypoints, a list of (n, K, 2) px."""
    h, w = engine.crop_size_hw
    network, choose = engine.network, engine.chooser([bboxes_xyxy])
    found = []
    with watch("crop"):
        affine = engine.affines(bboxes_xyxy)
        crops = engine.backend.cut(image_bgr, affine, (w, h))
    for begin in range(0, len(crops), engine.config.max_batch):
        part = slice(begin, begin + engine.config.max_batch)
        with watch("normalise"):
            images = engine.backend.prepare(crops[part])
        with watch("coarse"):
            coarse = engine.coarse(images)
            asked = engine.ask_gate(coarse, choose and partial(choose, part))
            selected, low = split_cells(coarse.cell_scores, network.selected_count)
            which = asked().nonzero().squeeze(1)
        heatmaps = coarse.heatmaps
        if len(which):
            with watch("fine"):
                heatmaps = engine.refine(images, coarse, selected, low, which)
        with watch("decode"):
            keypoints = engine.decode(heatmaps)[0].cpu().numpy()
            found.append(apply_affine(keypoints, invert_affine(affine[part])).astype(np.float32))
    return found


class _Outputs:
    """The stream and, if requested, the annotated video."""

    def __init__(self, tracking: Tracking, config: RunConfig, folder: Path, stack: ExitStack) -> None:
        info = tracking.source.info
        self._stream = StreamWriter(folder / "alone.skeletons.jsonl", tracking.header(info), overwrite=True)
        stack.callback(self._stream.close)
        self._painter = self._video = None
        if config.output.video:
            self._painter = Painter(tracking.skeleton, config.draw)
            self._video = VideoWriter(folder / "alone.mp4", info.size_wh, info.fps, config.output)
            stack.callback(self._video.close)

    def write(self, packet: Packet, watch: Stopwatch) -> None:
        """Writes one frame."""
        frame, poses = packet.frame, packet.poses
        assert poses is not None
        with watch("stream"):
            self._stream.write(frame.frame_id, frame.pts_s, poses)
        if self._painter is None or self._video is None:
            return
        with watch("draw"):
            image = self._painter.draw(frame.image_bgr.copy(), poses, frame.pts_s, f"{len(poses)} people")
        with watch("encode"):
            self._video.write(image, frame.pts_s)


def flat(stages: list[Stage[Any, Any]]) -> Iterator[Stage[Any, Any]]:
    """The stages, with chains split into their parts."""
    for stage in stages:
        if isinstance(stage, Chain):
            yield from stage.stages
        else:
            yield stage
