"""What records of COCO's form say, whoever reads them: labels, or results of other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def of_people(categories: Any, people: tuple[Any, ...] | None) -> list[dict[str, Any]]:
    """The people's among the `categories` of a file, whose ids `skeleton.person_categories` gives."""
    listed = [item for item in categories if isinstance(item, dict)] if isinstance(categories, list) else []
    return [item for item in listed if people is None or item.get("id") in people]


def keypoint_names(categories: list[dict[str, Any]]) -> list[Any] | None:
    """What the first of these categories that names keypoints calls them; None where none does."""
    return next((names for item in categories if isinstance(names := item.get("keypoints"), list) and names), None)


def nobody(records: Sequence[Any], people: tuple[Any, ...] | None) -> str:
    """What is wrong with a file none of whose `records` is of a person."""
    wanted = " or ".join(map(repr, people or ()))
    return (
        f"none of its {len(records)} annotations has the category_id of people, {wanted}; is `categories` of another "
        "file?"
    )


def is_id(value: Any) -> bool:
    """Whether a value may name a picture: lists and mappings have no place in a table."""
    return isinstance(value, (int, float, str))


def stated_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of a picture, px; zeros where its record does not tell both, as by null or 0."""
    told = image.get("width"), image.get("height")
    width, height = (int(side) if isinstance(side, (int, float)) and 1 <= side < 2**31 else 0 for side in told)
    return (width, height) if width and height else (0, 0)
