"""Checks that the sections of every configuration share."""

from __future__ import annotations

import math
import re

from sharpose_rt.errors import ConfigError

PADDING_RANGE = 0.5, 4.0
"""Enlargements of a box that are accepted: beyond them its crop holds a piece of the person, or little of one."""
GAIN_RANGE = -1.0, 1.0
"""AP that one more stage can add."""
MOST_SLOTS = 10_000
"""People of arrays for action recognition; more would be zeros that no memory holds."""
BOX_FILE_SUFFIXES = (".txt", ".csv", ".json")
NETWORK_FILE_SUFFIXES = (".onnx", ".xml")
PIXEL_FORMS = ("rgb_imagenet", "bgr_imagenet", "rgb_unit", "bgr_unit", "rgb", "bgr")
"""How another project's network may want its pixels: less ImageNet's mean over its deviation, 0 to 1, or 0 to 255."""


class Unset(float):
    """A default that is another one where another section says so: what a user sets, even to the same, stays."""


def is_boxes_file(name: str) -> bool:
    """Whether a detector's name is that of a file of boxes."""
    return name.lower().endswith(BOX_FILE_SUFFIXES)


def is_network_file(name: str) -> bool:
    """Whether a model's name is that of a file of another project's network."""
    return name.lower().endswith(NETWORK_FILE_SUFFIXES)


def one_of(name: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raises ConfigError where `value` is none of `accepted`."""
    if value not in accepted:
        raise ConfigError(f"{name} is {value!r}; one of {', '.join(accepted)} is accepted")


def device(name: str, value: str) -> None:
    """Raises ConfigError where `value` is no name of a device; whether it is there is asked where it is used."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise ConfigError(f"{name} is {value!r}; 'auto', 'cpu', 'cuda' or 'cuda:N' is accepted")


def within(name: str, value: float | None, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises ConfigError where `value` is a number that is not from `low` (`above`: beyond it) to `high`."""
    if value is None:
        return
    too_low = value <= low if above else value < low
    if math.isnan(value) or too_low or value > high:
        bound = f"above {low:g}" if above else f"at least {low:g}"
        bound += "" if high == math.inf else f" and at most {high:g}"
        raise ConfigError(f"{name} is {value:g}; {bound} is accepted")
