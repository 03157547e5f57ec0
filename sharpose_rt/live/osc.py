"""Open Sound Control 1.0 messages for a stream's records (opensoundcontrol.stanford.edu/spec-1_0.html).

    /sharpose/keypoints  s...                         names, in the order of the numbers below
    /sharpose/size       ii                           width and height of the frames, px
    /sharpose/frame      i frame_id, d pts_s, i people
    /sharpose/person     i frame_id, i track_id (0: none), s stage, f quality (-1: unknown), ffff box x1 y1 x2 y2,
                         then fff x y score for each keypoint
    /sharpose/end        s status

A frame and its people are sent in bundles no larger than receivers usually accept (`MAX_BUNDLE`). With several sources,
the name of each follows the prefix: /sharpose/NAME/frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

MAX_BUNDLE = 8192  # bytes; macOS refuses UDP datagrams above 9216

_FORMS = {"h": "q"}  # OSC tags that `struct` names differently
_IMMEDIATELY = struct.pack("!Q", 1)


def message(address: str, tags: str, *values: Any) -> bytes:
    """One message; `tags` has one of i (int32), f (float32), d (float64) and s (string) per value.

    An integer that does not fit int32 is sent as h (int64).
    """
    tags = "".join("h" if t == "i" and not -(2**31) <= v < 2**31 else t for t, v in zip(tags, values, strict=True))
    packed = b"".join(
        _text(value) if tag == "s" else struct.pack(f"!{_FORMS.get(tag, tag)}", value)
        for tag, value in zip(tags, values, strict=True)
    )
    return _text(address) + _text("," + tags) + packed


def bundle(messages: list[bytes]) -> bytes:
    """A bundle of messages to be processed together and immediately."""
    sized = b"".join(struct.pack("!i", len(item)) + item for item in messages)
    return b"#bundle\0" + _IMMEDIATELY + sized


def packets(record: dict[str, Any], prefix: str = "/sharpose") -> Iterator[bytes]:
    """The datagrams of one header, frame or end record."""
    match record["type"]:
        case "header":
            names = record["keypoints"]
            yield message(f"{prefix}/keypoints", "s" * len(names), *names)
            yield message(f"{prefix}/size", "ii", *record["frame_size_wh"])
        case "frame":
            yield from _frame(record, prefix)
        case "end":
            yield message(f"{prefix}/end", "s", record["status"])


def _frame(record: dict[str, Any], prefix: str) -> Iterator[bytes]:
    frame_id, people = record["frame_id"], record["people"]
    messages = [message(f"{prefix}/frame", "idi", frame_id, record["pts_s"], len(people))]
    size = 16 + 4 + len(messages[0])
    for person in people:
        item = _person(frame_id, person, prefix)
        if size + 4 + len(item) > MAX_BUNDLE:
            yield bundle(messages)
            messages, size = [], 16
        messages.append(item)
        size += 4 + len(item)
    yield bundle(messages)


def _person(frame_id: int, person: dict[str, Any], prefix: str) -> bytes:
    numbers = [*person["bbox_xyxy"], *(value for point in person["keypoints"] for value in point)]
    quality = -1.0 if person["quality"] is None else person["quality"]
    tags = "iisf" + "f" * len(numbers)
    return message(f"{prefix}/person", tags, frame_id, person["track_id"] or 0, person["stage"], quality, *numbers)


def _text(text: str) -> bytes:
    """Null-terminated, padded to a multiple of four bytes."""
    data = text.encode() + b"\0"
    return data + b"\0" * (-len(data) % 4)
