"""Keypoint sets: names, limbs, left-right pairs and OKS sigmas, each with its source; and which labels are people."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

PERSON_NAMES = frozenset({"person", "pedestrian", "people", "human"})
"""Names of the categories and classes of people, in lower case."""
TRUNK = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
"""The keypoints of the trunk, in the sets that have all four."""
BOX_TO_AREA = 0.53
"""Ratio of a person's segment to their box, mean over COCO: for labels without the area that OKS needs."""


def person_categories(categories: Any) -> tuple[Any, ...] | None:
    """Ids of the categories of people (`PERSON_NAMES`) among the `categories` of a COCO file.

    None if every record is a person: the file has no categories, or a single one with another name, whatever its
    supercategory (Roboflow uses the name of the project).

    Raises:
        ValueError: there are several, and none has such a name; lists them. Or Label Studio wrote the file, which mixes
            up the people of a picture.
    """
    listed = [item for item in categories if isinstance(item, dict)] if isinstance(categories, list) else []
    if any(item.get("keypoints") and item.get("name") == item.get("supercategory") == "default" for item in listed):
        raise ValueError(
            "Label Studio's COCO form combines the keypoints of everybody in a picture into one person; export 'YOLO "
            "with images' instead, with each keypoint's position in COCO's order as its model_index, and give that "
            "folder"
        )
    people = tuple(item.get("id") for item in listed if str(item.get("name")).lower() in PERSON_NAMES)
    above = [item.get("supercategory") for item in listed if item.get("supercategory") != item.get("name")]
    names = [repr(item.get("name")) for item in listed if item.get("name") not in above]
    if not people and len(names) > 1:
        raise ValueError(
            f"its categories are {', '.join(names):.120}, and none is 'person'; "
            "rename the category of people, or remove the others"
        )
    return people or None


def is_person(record: Mapping[str, Any], people: tuple[Any, ...] | None) -> bool:
    """Whether a record is a person; without a `category_id` it is."""
    return people is None or record.get("category_id") in (None, *people)


@dataclass(frozen=True)
class Skeleton:
    """One keypoint set, in the order of the model's output.

    `sigmas` are the per-keypoint constants of COCO's object keypoint similarity (OKS); `upper_body` are the keypoints
    that half-body augmentation may keep. The first `body` keypoints are those of the body, by which poses are compared:
    all of them, unless they are followed by hands and a face.
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper_body: tuple[int, ...]
    body: int = 0
    flip_order: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", self.body or len(self.keypoints))
        order = list(range(len(self.keypoints)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        object.__setattr__(self, "flip_order", tuple(order))

    def __len__(self) -> int:
        return len(self.keypoints)

    def side(self, index: int) -> str:
        """The side of keypoint `index`, 'left', 'right' or 'centre', from its name."""
        return side_of(self.keypoints[index])[0]


_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}


def side_of(name: str) -> tuple[str, str]:
    """The side in a keypoint's name, 'left', 'right' or 'centre', and the name without it, which both sides share.

    The side may be a word or a letter, at the beginning or end: 'left_hip', 'Left-Hip', 'hip_l', 'L_HIP', 'LHip'.
    """
    for word in _WORD.finditer(name):
        if side := _SIDES.get(word[0].lower()):
            return side, name[: word.start()] + name[word.end() :]
    return "centre", name


# COCO keypoints 2017: names, order and limbs from its annotation files (categories[0]), sigmas from pycocotools.
COCO17 = Skeleton(
    name="coco17",
    keypoints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
    upper_body=tuple(range(11)),
)  # fmt: skip

# MPII human pose: joint order of its annotation file (Andriluka et al. 2014). MPII defines no OKS; the sigmas are
# those that MMPose publishes for this set.
MPII16 = Skeleton(
    name="mpii16",
    keypoints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist",
    ),
    limbs=(
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (8, 12), (12, 11), (11, 10), (8, 13),
        (13, 14), (14, 15),
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    sigmas=(
        0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026, 0.026, 0.026, 0.062, 0.072, 0.179, 0.179, 0.072,
        0.062,
    ),
    upper_body=(7, 8, 9, 10, 11, 12, 13, 14, 15),
)  # fmt: skip

_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))

# Body and feet of COCO-WholeBody (Jin et al. 2020), with which its 133 keypoints begin; sigmas from its evaluation.
COCO_FEET23 = Skeleton(
    name="coco_feet23",
    keypoints=(*COCO17.keypoints, *_FEET),
    limbs=(*COCO17.limbs, (15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22)),
    flip_pairs=(*COCO17.flip_pairs, (17, 20), (18, 21), (19, 22)),
    sigmas=(*COCO17.sigmas, 0.068, 0.066, 0.066, 0.092, 0.094, 0.094),
    upper_body=COCO17.upper_body,
)

_HAND = (
    "hand_root",
    *(f"{f}{i}" for f in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger") for i in range(1, 5)),
)
_FACE_MIRROR = {
    **{i: 16 - i for i in range(8)}, **{i: 43 - i for i in range(17, 22)}, 31: 35, 32: 34, 36: 45, 37: 44, 38: 43,
    39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52, 55: 59, 56: 58, 60: 64, 61: 63, 65: 67,
}  # fmt: skip
# Chains of face landmarks (closed ones end where they begin): jaw, brows, nose, eyes, lips.
_FACE_LINES = (
    range(17), range(17, 22), range(22, 27), range(27, 31), range(31, 36), (*range(36, 42), 36),
    (*range(42, 48), 42), (*range(48, 60), 48), (*range(60, 68), 60),
)  # fmt: skip
_LEFT_HAND, _RIGHT_HAND, _FACE = 91, 112, 23


def _hand_limbs(root: int) -> tuple[tuple[int, int], ...]:
    fingers = [(root, *range(root + first, root + first + 4)) for first in range(1, 21, 4)]
    return tuple(pair for finger in fingers for pair in pairwise(finger))


# COCO-WholeBody (Jin et al. 2020): body, feet, the 68 landmarks of a face, 21 keypoints of each hand; sigmas from its
# evaluation.
WHOLEBODY133 = Skeleton(
    name="wholebody133",
    keypoints=(
        *COCO_FEET23.keypoints,
        *(f"face_{i}" for i in range(68)),
        *(f"{side}_{part}" for side in ("left", "right") for part in _HAND),
    ),
    limbs=(
        *COCO_FEET23.limbs,
        *((_FACE + a, _FACE + b) for line in _FACE_LINES for a, b in pairwise(line)),
        *((9, _LEFT_HAND), *_hand_limbs(_LEFT_HAND)),
        *((10, _RIGHT_HAND), *_hand_limbs(_RIGHT_HAND)),
    ),
    flip_pairs=(
        *COCO_FEET23.flip_pairs,
        *((_FACE + a, _FACE + b) for a, b in _FACE_MIRROR.items()),
        *((_LEFT_HAND + i, _RIGHT_HAND + i) for i in range(21)),
    ),
    sigmas=(
        *COCO_FEET23.sigmas,
        *(0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043),
        *(0.041, 0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007),
        *(0.007, 0.012, 0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011),
        *(0.012, 0.010, 0.034, 0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007),
        *(0.007, 0.008, 0.011, 0.008, 0.008, 0.008, 0.010, 0.008),
        *2 * (
            *(0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024),
            *(0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.020, 0.019, 0.022, 0.031),
        ),
    ),
    upper_body=COCO17.upper_body,
    body=len(COCO_FEET23.keypoints),
)  # fmt: skip

# The body of Halpe (Fang et al. 2022, AlphaPose), as RTMPose's "body with feet" has it; sigmas from its evaluation.
HALPE26 = Skeleton(
    name="halpe26",
    keypoints=(*COCO17.keypoints, "head", "neck", "hip", *(_FEET[i] for i in (0, 3, 1, 4, 2, 5))),
    limbs=(
        *COCO17.limbs,
        (17, 18),
        (18, 19),
        *((15, toe) for toe in (20, 22, 24)),
        *((16, toe) for toe in (21, 23, 25)),
    ),
    flip_pairs=(*COCO17.flip_pairs, (20, 21), (22, 23), (24, 25)),
    sigmas=(*COCO17.sigmas, 0.026, 0.026, 0.066, *[0.079] * 6),
    upper_body=(*COCO17.upper_body, 17, 18),
)

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO17, MPII16, COCO_FEET23, HALPE26, WHOLEBODY133)}

_ENOUGH = 12
"""How many names of a set are needed to recognise it if there are other names too: the twelve joints of a body,
without the face."""


def order_by_name(names: Sequence[Any], first: Skeleton | None = None) -> tuple[Skeleton, list[int | None]]:
    """The set to which keypoints with these names belong, and the index of each of its keypoints, None if missing.

    That is a set with all of its names present: `first` if it is one, otherwise the largest. If there is none, it is
    the first set with 12 of its names present, or with all names given. Upper case, spaces and hyphens do not matter.

    Raises:
        ValueError: there is no such set, or a name occurs twice; says which names were seen.
    """
    plain = [str(name).strip().lower().replace(" ", "_").replace("-", "_") for name in names]
    place = {name: row for row, name in enumerate(plain)}
    sets = (*((first,) if first else ()), *SKELETONS.values())
    shared = {item: len(place.keys() & set(item.keypoints)) for item in sets}
    fitting = [item for item, count in shared.items() if count >= min(_ENOUGH, len(place))]
    if not fitting:
        as_many = len(names) in map(len, sets)
        raise ValueError(
            f"its keypoints are named {', '.join(map(str, names)):.120}; at least {_ENOUGH} of COCO's or MPII's names "
            f"are accepted, such as {', '.join(COCO17.keypoints[:6])}, or fewer and no others; rename them"
            + (", or, if they are in that order, remove the names" if as_many else "")
        )
    whole = [item for item in fitting if shared[item] == len(item)] or fitting[:1]
    skeleton = whole[0] if first else max(whole, key=len)
    if twice := [name for name in skeleton.keypoints if plain.count(name) > 1]:
        raise ValueError(f"several of its keypoints are named {twice[0]}; give each its own name")
    return skeleton, [place.get(name) for name in skeleton.keypoints]
