"""Interprets records in COCO's form, in labels and in results of other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def of_people(categories: Any, people: tuple[Any, ...] | None) -> list[dict[str, Any]]:
    """The `categories` of people in a file; `people` are their ids (`skeleton.person_categories`), None for all."""
    listed = [item for item in categories if isinstance(item, dict)] if isinstance(categories, list) else []
    return [item for item in listed if people is None or item.get("id") in people]


def keypoint_names(categories: list[dict[str, Any]]) -> list[Any] | None:
    """The keypoint names of the first of these categories that has any; None if none has."""
    return next((names for item in categories if isinstance(names := item.get("keypoints"), list) and names), None)


def nobody(records: Sequence[Any], people: tuple[Any, ...] | None) -> str:
    """What is wrong with a file in which no record is of a person."""
    wanted = " or ".join(map(repr, people or ()))
    return (
        f"none of its {len(records)} annotations has the category_id of people, {wanted}; is `categories` from another "
        "file?"
    )


def is_id(value: Any) -> bool:
    """Whether a value can be the id of a picture; lists and mappings cannot be keys of a dictionary."""
    return isinstance(value, (int, float, str))


def stated_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of a picture, px; zeros if its record does not have both, for example null or 0."""
    told = image.get("width"), image.get("height")
    width, height = (int(side) if isinstance(side, (int, float)) and 1 <= side < 2**31 else 0 for side in told)
    return (width, height) if width and height else (0, 0)
