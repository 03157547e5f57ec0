"""Which frame a picture of other programs' files is. Frames count from 0; these are the rules, and why they differ.

What we write says it: `convert` puts a `frame_id` into the pictures of COCO's labels, beside their ids. These, and the
`image_id` of results, are for other programs: the number that is the picture's name where all pictures have such names,
as evaluation by a set's labels needs, else `frame_id` + `first_image_id`.

In labels that are read `frame_id` decides. Where they have none (`frame_ids`) the numbers in the pictures' names tell
the frames, and what those count from has to be known:

* `convert --from` takes them as they are, less `--first-frame`, as those of all other formats: frames may be missing.
  Where one picture has no number they are photographs, in the order in which a run takes them.
* `eval-track` takes the pictures in the order of their numbers for the frames 0, 1, ... of the stream, which needs no
  first number, but every picture: it warns of gaps.
* `--boxes FILE` (`detection.boxes`) finds pictures by their names, whatever these are, and takes them for the frames of
  a video in the order of the list.

In results `image_id` is all there is, and taken for the number of the frame. AlphaPose has the pictures' names for it,
of which the same holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpose_rt.errors import StreamError
from sharpose_rt.machine.natural import natural

_A_CLIP = 10_000_000  # more frames than a clip has: three days at 30 a second


def frame_ids(images: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """The `frame_id` of each picture, unchecked; None where one lacks it, or they are numbers of a whole set's pictures
    as PoseTrack's."""
    found = [image.get("frame_id") for image in images]
    return None if any(n is None or (isinstance(n, int) and n > _A_CLIP) for n in found) else found


def number_in(name: str, where: str) -> int:
    """The last number in the name of a frame: 12 of 'clip_000012.jpg'. Raises StreamError, of `where`, without one."""
    found = _numbers(name)
    if not found:
        raise StreamError(
            f"{where}: no frame number in the name {name!r}; names such as '12.jpg' or 'clip_000012.jpg' are read"
        )
    return int(found[-1])


def photographs(names: Iterable[str]) -> dict[int, str]:
    """The names by their places in the order in which a run takes them, where one has no number; else nothing."""
    names = list(names)
    return {} if all(map(_numbers, names)) else dict(enumerate(sorted(names, key=natural)))


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", Path(name).stem)


def by_number(names: Iterable[str], where: str) -> dict[int, str]:
    """The names of frames by the numbers in them. Raises StreamError where two have the same, or one has none."""
    found: dict[int, str] = {}
    for name in names:
        first = found.setdefault(number_in(name, where), name)
        if first != name:
            raise StreamError(
                f"{where}: {first} and {name} are of the same frame: two clips in one folder or file; part them"
            )
    return found
