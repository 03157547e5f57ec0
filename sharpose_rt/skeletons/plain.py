"""Conversion of any value of a run to JSON values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from sharpose_rt.machine.paths import as_text


def plain(value: Any) -> Any:
    """`value` converted to dict, list, str, int, float, bool and None, in the same order.

    Infinities become "inf" and "-inf", NaN becomes None, negative zero becomes zero, text that is not UTF-8 (file
    names) gets backslash escapes, dataclasses become dicts, enumerations their lower-case names, everything else its
    str()."""
    match value:
        case None | bool():
            return value
        case Enum():
            return value.name.lower()
        case str() | PurePath():
            return as_text(str(value))
        case int() | np.integer():
            return int(value)
        case float() | np.floating():
            return plain_number(float(value))
        case np.bool_():
            return bool(value)
        case np.ndarray():
            return plain(value.tolist())
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=str)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        case _:
            return plain(str(value))


def plain_number(value: float) -> float | str | None:
    """`value`, or "inf", "-inf", or None for NaN."""
    if math.isnan(value):
        return None
    return value + 0.0 if math.isfinite(value) else ("inf" if value > 0 else "-inf")
