"""OpenPose JSON: a folder with one file per frame, also as written by Pose2Sim, or the single file of AlphaPose in this
form."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpose_rt.errors import StreamError
from sharpose_rt.labels.numbering import by_number, photographs
from sharpose_rt.machine.natural import natural
from sharpose_rt.skeleton import COCO17, COCO_FEET23, HALPE26, WHOLEBODY133, Skeleton
from sharpose_rt.skeletons.convert.layouts import BODY_25, OPENPOSE_18, OPENPOSE_PARTS
from sharpose_rt.skeletons.importers.people import Imported, ImportedPerson, found_of, id_of, numbers, read_json

_PEOPLE = {"people": "pose_keypoints_2d", "bodies": "joints"}
"""The keys of the people, and of their keypoints: in OpenPose, and in CMU-Pose as AlphaPose writes it."""

_LAYOUTS = {3 * len(layout): layout for layout in (OPENPOSE_18, BODY_25, COCO17.keypoints, WHOLEBODY133.keypoints, ())}
"""By the count of numbers: none if only face or hands were estimated (--body 0). COCO's sets, and Halpe's, are from
Pose2Sim."""


def read_openpose(path: Path) -> Imported:
    """People with COCO's keypoints, with feet if any were found, and COCO-WholeBody's if any face or hands were found;
    or with Halpe's 26 if people have these.

    OpenPose's neck, middle of the hips and pupils are left out.

    Frame numbers are taken from the file names, `<stem>_<12 digits>_keypoints.json`; if no name ends with a number, as
    for pictures, frames are in the order of the names. `person_id` becomes the track id, unless it is -1.

    Raises:
        StreamError: the folder has no such file, or two for one frame, a file has another form (names file and person),
            only some people have Halpe's keypoints, or coordinates are not px.
    """
    pictures: dict[int, str] = {}
    if path.is_dir():
        # In the same order as a run over pictures with these names; macOS adds files whose names begin with a dot.
        names = sorted((file.name for file in path.glob("*.json") if not file.name.startswith(".")), key=natural)
        numbers_end = any(re.search(r"\d(_keypoints)?\.json$", name) for name in names)
        numbered = by_number(names, str(path)) if numbers_end else dict(enumerate(names))
        files = {number: path / name for number, name in numbered.items()}
        if not files:
            raise StreamError(f"{path} holds no .json file; give the folder of OpenPose's --write_json")
        records = [(number, str(file), read_json(file)) for number, file in sorted(files.items())]
    else:
        document = read_json(path)
        if not isinstance(document, dict) or _PEOPLE.keys() & document.keys():
            records = [(0, str(path), document)]
        else:
            pictures = photographs(document)
            numbered = pictures or by_number(document, str(path))
            records = [(number, f"{path} {name}", document[name]) for number, name in numbered.items()]
    frames = {number: _people(record, where) for number, where, record in records}
    people = [person for persons in frames.values() for person in persons]
    tables = np.concatenate([np.zeros((0, 3)), *(person.table for person in people)])
    found = tables[found_of(tables), :2]
    if len(found) and (np.abs(found) <= 1).all():
        raise StreamError(
            f"{path}: all {len(found)} keypoints lie within -1..1, so they are normalised; px are wanted, as OpenPose "
            "writes them with --keypoint_scale 0"
        )
    halpe = sum(len(person.table) == len(HALPE26) for person in people)
    if 0 < halpe < len(people):
        raise StreamError(
            f"{path}: {halpe} of {len(people)} people have Halpe's 26 keypoints, the others another set; part them"
        )
    skeleton = HALPE26 if halpe else max((_smallest(person.table) for person in people), key=len, default=COCO17)
    frames = {number: [_with_keypoints(p, skeleton) for p in persons] for number, persons in frames.items()}
    return Imported(skeleton, frames, pictures=pictures)


def _smallest(table: NDArray[np.float64]) -> Skeleton:
    """The smallest set with all keypoints that were found of a person (K, 3)."""
    count = np.flatnonzero(found_of(table)).max(initial=0) + 1
    return next(skeleton for skeleton in (COCO17, COCO_FEET23, WHOLEBODY133) if count <= len(skeleton))


def _with_keypoints(person: ImportedPerson, skeleton: Skeleton) -> ImportedPerson:
    """The person with further keypoints, marked as not found, to complete the set."""
    table = np.zeros((len(skeleton), 3))
    table[: len(person.table)] = person.table
    return replace(person, table=table)


def _people(record: Any, where: str) -> list[ImportedPerson]:
    key = "bodies" if isinstance(record, dict) and "bodies" in record else "people"
    if not isinstance(record, dict) or not isinstance(record.get(key), list):
        raise StreamError(f"{where} has no list {key!r}; OpenPose's JSON (version 1.1 to 1.3) is wanted")
    return [_person(person, _PEOPLE[key], f"{where} {key}[{i}]") for i, person in enumerate(record[key])]


def _person(person: Any, key: str, where: str) -> ImportedPerson:
    flat = numbers(person.get(key) if isinstance(person, dict) else None, where, key)
    # Version 1.1 has no person_id; later ones have a list with one, -1 if not tracked.
    track_id = id_of(person.get("person_id"), where, "person_id")
    if len(flat) == 3 * len(HALPE26):
        return ImportedPerson(flat.reshape(-1, 3), track_id=track_id)
    if len(flat) not in _LAYOUTS:
        raise StreamError(
            f"{where}: {len(flat)} numbers in {key}; 54 (COCO) or 75 (BODY_25) are accepted, and as Pose2Sim writes "
            "them 51 (COCO_17), 78 (HALPE_26) or 399 (COCO_133)"
        )
    known, places = _order(_LAYOUTS[len(flat)])
    table = np.zeros((len(WHOLEBODY133), 3))
    table[places] = flat.reshape(-1, 3)[known]
    for part, layout in OPENPOSE_PARTS.items():
        flat = numbers(person.get(part) or [], where, part)
        if len(flat) not in (0, 3 * len(layout)):
            raise StreamError(f"{where}: {len(flat)} numbers in {part}; {3 * len(layout)} are accepted, or none")
        if len(flat):
            known, places = _order(layout)
            table[places] = flat.reshape(-1, 3)[known]
    table = table[: len(_smallest(table))].copy()  # otherwise each person would hold memory for a face and hands
    return ImportedPerson(table, track_id=track_id)


@cache
def _order(layout: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Indices of a layout's keypoints that COCO-WholeBody has, and their indices there."""
    places = {name: place for place, name in enumerate(WHOLEBODY133.keypoints)}
    known = [number for number, name in enumerate(layout) if name in places]
    return known, [places[layout[number]] for number in known]
