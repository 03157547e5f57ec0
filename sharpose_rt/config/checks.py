"""Checks shared by the sections of all configurations."""

from __future__ import annotations

import math
import re

from sharpose_rt.errors import ConfigError

PADDING_RANGE = 0.5, 4.0
"""Accepted enlargements of a box: outside of this range the crop shows only part of the person, or mostly other
things."""
GAIN_RANGE = -1.0, 1.0
"""AP that another stage can add."""
MOST_SLOTS = 10_000
"""Most people in arrays for action recognition; more would be zeros that do not fit into memory."""
BOX_FILE_SUFFIXES = (".txt", ".csv", ".json")
NETWORK_FILE_SUFFIXES = (".onnx", ".xml")
PIXEL_FORMS = ("rgb_imagenet", "bgr_imagenet", "rgb_unit", "bgr_unit", "rgb", "bgr")
"""Pixel formats of other projects' networks: normalised by ImageNet's mean and deviation, 0 to 1, or 0 to 255."""


class Unset(float):
    """A default that another section may change; a value set by the user, even the same one, is kept."""


def is_boxes_file(name: str) -> bool:
    """Whether a detector's name is a file of boxes."""
    return name.lower().endswith(BOX_FILE_SUFFIXES)


def is_network_file(name: str) -> bool:
    """Whether a model's name is a file of another project's network."""
    return name.lower().endswith(NETWORK_FILE_SUFFIXES)


def one_of(name: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raises ConfigError if `value` is not one of `accepted`."""
    if value not in accepted:
        raise ConfigError(f"{name} is {value!r}; one of {', '.join(accepted)} is accepted")


def device(name: str, value: str) -> None:
    """Raises ConfigError if `value` is not the name of a device; whether it exists is checked when it is used."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise ConfigError(f"{name} is {value!r}; 'auto', 'cpu', 'cuda' or 'cuda:N' is accepted")


def within(name: str, value: float | None, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises ConfigError if `value` is a number outside of `low` (`above`: exclusive) to `high`."""
    if value is None:
        return
    too_low = value <= low if above else value < low
    if math.isnan(value) or too_low or value > high:
        bound = f"above {low:g}" if above else f"at least {low:g}"
        bound += "" if high == math.inf else f" and at most {high:g}"
        raise ConfigError(f"{name} is {value:g}; {bound} is accepted")
