"""Pixel forms that networks from files may expect: the order of colours, the mean subtracted and the divisor.

Nothing in a file states them. Letters: B pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.compute.openvino_graphs import openvino
from sharpose_rt.config.checks import PIXEL_FORMS
from sharpose_rt.models.pixels import MEAN_RGB, STD_RGB


@dataclass(frozen=True)
class PixelForm:
    """The order of the channels; the mean is subtracted, then the result is divided by the scale.

    Args:
        rgb: red first, else blue first.
        mean: of red, green and blue, 0..255.
        scale: divisor of red, green and blue.
    """

    rgb: bool
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(cls, name: str) -> PixelForm:
        """The form for one of the names in `config.checks.PIXEL_FORMS`."""
        order, _, values = name.partition("_")
        mean, scale = {
            "imagenet": (tuple(MEAN_RGB), tuple(STD_RGB)),
            "unit": ((0.0,) * 3, (255.0,) * 3),
            "": ((0.0,) * 3, (1.0,) * 3),
        }[values]
        return cls(order == "rgb", mean, scale)

    def ordered(self, values_rgb: tuple[float, ...]) -> list[float]:
        """Values of red, green and blue in the network's order."""
        return list(values_rgb if self.rgb else values_rgb[::-1])

    def apply(self, images_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A network's input (B, 3, H, W) for pictures (B, H, W, 3)."""
        pixels = images_bgr[..., ::-1] if self.rgb else images_bgr
        values = (pixels.astype(np.float32) - self.ordered(self.mean)) / self.ordered(self.scale)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)

    def before(self, model: Any, picture: int = 0) -> Any:
        """OpenVINO's graph with this as its first steps, which takes pictures (B, H, W, 3) uint8 BGR.

        Args:
            model: takes (B, 3, H, W); is modified.
            picture: index of its input for pictures.
        """
        ov, _ = openvino()
        steps = ov.preprocess.PrePostProcessor(model)
        layout, color = ov.Layout, ov.preprocess.ColorFormat
        port = steps.input(picture)
        port.tensor().set_element_type(ov.Type.u8).set_layout(layout("NHWC")).set_color_format(color.BGR)
        port.model().set_layout(layout("NCHW"))
        values = port.preprocess().convert_element_type(ov.Type.f32)
        if self.rgb:
            values = values.convert_color(color.RGB)
        values.mean(self.ordered(self.mean)).scale(self.ordered(self.scale))
        values.convert_element_type(model.inputs[picture].element_type)
        return steps.build()


def taking_floats(model: Any, picture: int = 0) -> Any:
    """OpenVINO's graph with float32 for that input, even if made for float16; it is modified."""
    ov, _ = openvino()
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input(picture).tensor().set_element_type(ov.Type.f32)
    return steps.build()


ALL = {name: PixelForm.of(name) for name in PIXEL_FORMS}
