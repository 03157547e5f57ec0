"""Rules for which frame a picture in the files of other programs is, and why they differ. Frames count from 0.

Our own files state it: `convert` writes a `frame_id` into the pictures of COCO's labels. Their ids, and the `image_id`
of results, are for other programs: the number that is the picture's name if all pictures have such names, as evaluation
with the labels of a dataset needs, else `frame_id` + `first_image_id`.

When reading labels, `frame_id` decides. Without it (`frame_ids`), frames are known by the numbers in the names of the
pictures, and the first number matters:

* `convert --from` subtracts `--first-frame` from the numbers, as for all other formats; frames may be missing. If a
  picture has no number, they are photographs, in the order in which a run takes them.
* `eval-track` takes the pictures in the order of their numbers as frames 0, 1, ... of the stream. This needs no first
  number, but every picture, so it warns of gaps.
* `--boxes FILE` (`detection.boxes`) finds pictures by their names, whatever these are; for a video, the pictures are
  its frames in the order of the list.

Results only have `image_id`, which is taken as the number of the frame. AlphaPose has picture names in it, which are
treated alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpose_rt.errors import StreamError
from sharpose_rt.machine.natural import natural

_A_CLIP = 10_000_000  # more frames than any clip has: almost four days at 30 fps


def frame_ids(images: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """The `frame_id` of each picture, unchecked; None if one lacks it, or if they number the pictures of a whole
    dataset, as in PoseTrack."""
    found = [image.get("frame_id") for image in images]
    return None if any(n is None or (isinstance(n, int) and n > _A_CLIP) for n in found) else found


def number_in(name: str, where: str) -> int:
    """The last number in the name of a frame: 12 of 'clip_000012.jpg'. Raises StreamError, of `where`, without one."""
    found = _numbers(name)
    if not found:
        raise StreamError(
            f"{where}: no frame number in the name {name!r}; names such as '12.jpg' or 'clip_000012.jpg' are accepted"
        )
    return int(found[-1])


def photographs(names: Iterable[str]) -> dict[int, str]:
    """If a name has no number, the names by their positions in the order in which a run takes them; else empty."""
    names = list(names)
    return {} if all(map(_numbers, names)) else dict(enumerate(sorted(names, key=natural)))


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", Path(name).stem)


def by_number(names: Iterable[str], where: str) -> dict[int, str]:
    """The names of frames by their numbers. Raises StreamError if two have the same number, or one has none."""
    found: dict[int, str] = {}
    for name in names:
        first = found.setdefault(number_in(name, where), name)
        if first != name:
            raise StreamError(
                f"{where}: {first} and {name} are of the same frame: two clips in one folder or file; separate them"
            )
    return found
