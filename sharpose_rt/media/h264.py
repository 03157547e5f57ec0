"""Encodes pictures as H.264, for the annotated file and the annotated stream."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.machine.threads import media_threads

TIME_BASE = Fraction(1, 90_000)  # represents all usual frame rates and container clocks within 6 microseconds


def add_h264(container: Any, size_wh: tuple[int, int], fps: float, options: Mapping[str, str]) -> Any:
    """Adds a yuv420p stream in `TIME_BASE`, for frames of `as_frame`, to an output container; returns the stream.

    Args:
        container: of PyAV.
        size_wh: of the pictures, px.
        fps: frame rate for the encoder.
        options: those of x264.
    """
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=dict(options))
    stream.width, stream.height = (side + side % 2 for side in size_wh)
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = TIME_BASE
    # OpenCV converts with the BT.601 matrix in limited range; primaries and gamma are those of sRGB.
    context = stream.codec_context
    context.thread_count = media_threads()
    context.colorspace, context.color_range = 6, 1  # SMPTE 170M, limited
    context.color_primaries, context.color_trc = 1, 1  # BT.709
    return stream


def as_frame(image_bgr: NDArray[np.uint8], size_wh: tuple[int, int]) -> av.VideoFrame:
    """A picture (H, W, 3) uint8 for the encoder: if its size differs, bars are added; odd sides are padded."""
    if (image_bgr.shape[1], image_bgr.shape[0]) != size_wh:
        image_bgr = letterbox(image_bgr, size_wh)
    right, bottom = (side % 2 for side in size_wh)
    if right or bottom:
        image_bgr = cv2.copyMakeBorder(image_bgr, 0, bottom, 0, right, cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    frame = av.VideoFrame.from_ndarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2YUV_I420), format="yuv420p")  # type: ignore[arg-type]
    frame.time_base = TIME_BASE
    frame.colorspace, frame.color_range = 6, 1
    return frame


def letterbox(image: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture scaled to fit into `size_wh`, centred on a black background."""
    scale = min(size_wh[0] / image.shape[1], size_wh[1] / image.shape[0])
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if (width, height) == size_wh:
        return small  # type: ignore[return-value]
    left, top = (size_wh[0] - width) // 2, (size_wh[1] - height) // 2
    whole = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    whole[top : top + height, left : left + width] = small
    return whole
