"""Labels in ultralytics' YOLO form: one text file per picture, one line per person, as shares of the picture's sides.

A line is `class x y w h` (centre and sides of the box), followed for poses by `x y v` or `x y` for each keypoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from sharpose_rt.errors import DatasetError, shown
from sharpose_rt.media.files import IMAGE_SUFFIXES
from sharpose_rt.skeleton import SKELETONS, Skeleton

Points = NDArray[np.floating]

_BOX = 5  # number of values: class and box
_FARTHEST = 1.5
"""Share of the picture: a box may extend over its border, but larger values must be px."""
_ORIENTATION = 0x0112  # EXIF
# Labels in this form are for upright pictures, but we read pictures as stored: maps upright points to stored ones.
_STORED: Mapping[int, Callable[[Points, Points], tuple[Points, Points]]] = {
    3: lambda x, y: (1 - x, 1 - y),
    6: lambda x, y: (y, 1 - x),
    8: lambda x, y: (1 - y, x),
}

_EXPORTS = {
    "annotations/person_keypoints_default.json": "images/default",  # CVAT
    "annotations/instances_default.json": "images/default",  # CVAT's boxes
    "annotations/instances.json": "images",  # Supervisely
    "_annotations.coco.json": "",  # Roboflow
    "labels.json": "data",  # FiftyOne
    "result.json": "",  # Label Studio, where file names begin with images/
}
"""Label files in COCO's form that labelling programs export, and the folders of their pictures."""
_DESCRIPTIONS = ("data.yaml", "dataset.yaml", "classes.txt")
"""FiftyOne uses `dataset.yaml`; Label Studio and LabelImg only have the names of classes, one per line."""


def read_yolo(folder: Path) -> dict[str, list[Any]]:
    """The labels in a folder of text files in COCO's form, in pixels of the pictures as stored.

    The pictures are in `images` where the labels are in `labels`, as for ultralytics; one without a text file has no
    people. A keypoint without visibility is visible unless it is at 0, 0. `data.yaml` in one of the folders above has
    the shape and names of keypoints and the names of classes; without it, keypoints are those of the skeleton with as
    many, and class 0 is people.

    Raises:
        DatasetError: there are no pictures, one cannot be read, or a line is wrong; names file and line.
    """
    images = pictures_of(folder)
    pictures = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not pictures:
        raise DatasetError(f"{folder} has labels in YOLO's form, but there are no pictures in {images}; put them there")
    told = _description(folder)
    shape = told.get("kpt_shape")
    document: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    classes: set[int] = set()
    for number, picture in enumerate(pictures, 1):
        inner = picture.relative_to(images)
        (width, height), orientation = _facts(picture)
        document["images"].append({"id": number, "file_name": inner.as_posix(), "width": width, "height": height})
        for row, points in _rows((folder / inner).with_suffix(".txt"), shape):
            record = {"id": len(document["annotations"]) + 1, "image_id": number, "category_id": int(row[0])}
            document["annotations"].append(record | _places(row[1:_BOX], points, (width, height), orientation))
            classes.add(int(row[0]))
    names, points = _by_number(told.get("names")), _by_number(told.get("kpt_names"))
    for number in sorted(classes):
        name = names.get(number)
        if not isinstance(name, (str, int, float)):  # other YAML values may have any size as text
            name = "person" if number == 0 else number
        category = {"id": number, "name": str(name)}
        if isinstance(of_class := points.get(number), list):
            category["keypoints"] = of_class
        document["categories"].append(category)
    return document


def write_yolo(
    folder: Path,
    splits: Mapping[str, Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]],
    skeleton: Skeleton,
) -> None:
    """Writes `labels/<split>/<picture>.txt` and `data.yaml` for the pictures in `images/<split>`.

    `splits` has each picture and its people as records in COCO's form. All people have class 0. A split without
    pictures refers to the first split, as readers need pictures in every split.
    """
    first = next(iter(splits))
    for split, pictures in splits.items():
        labels = folder / "labels" / split
        for image, people in pictures:
            labels.mkdir(parents=True, exist_ok=True)
            text = "".join(_line(person, (image["width"], image["height"])) for person in people)
            (labels / image["file_name"]).with_suffix(".txt").write_text(text, encoding="ascii")
    told = {
        **{split: f"images/{split if pictures else first}" for split, pictures in splits.items()},
        "names": {0: "person"},
        "kpt_shape": [len(skeleton), 3],
        "flip_idx": list(skeleton.flip_order),
        "kpt_names": {0: list(skeleton.keypoints)},
    }
    text = yaml.safe_dump(told, sort_keys=False, default_flow_style=None)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _line(person: Mapping[str, Any], size_wh: tuple[int, int]) -> str:
    left, top, width, height = person["bbox"]
    box = np.array([left + width / 2, top + height / 2, width, height]) / (*size_wh, *size_wh)
    points = np.array(person["keypoints"], float).reshape(-1, 3) / (*size_wh, 1)
    return " ".join(f"{value:.6g}" for value in (0, *box, *points.ravel())) + "\n"


def set_files(folder: Path, annotations: str = "annotations.json", images: str = "images") -> tuple[Path, Path]:
    """The label file of a dataset and its folder of pictures; without such a file, those in YOLO's form, or as exported
    by a labelling program.

    YOLO's form has `labels` and `images` in the folder, or the folder is itself one of labels, such as `labels/train`.
    """
    if not (folder / annotations).exists():
        for labels in (folder / "labels", folder):
            if labels.is_dir() and "labels" in labels.resolve().parts:
                return labels, pictures_of(labels)
        for theirs, beside in _EXPORTS.items():
            if (folder / theirs).exists():
                return folder / theirs, folder / beside
    return folder / annotations, folder / images


def pictures_of(folder: Path) -> Path:
    """The folder of the pictures for a folder of labels: `images/train` for `labels/train`.

    Raises:
        DatasetError: no part of its path is named 'labels'.
    """
    parts = list(folder.resolve().parts)
    if "labels" not in parts:
        raise DatasetError(
            f"{folder} is a folder, and no part of its path is named 'labels'; a label file is accepted, or a folder "
            "of YOLO's text files such as 'labels/train' with its pictures in 'images/train'"
        )
    parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
    return Path(*parts)


def _description(folder: Path) -> dict[str, Any]:
    """The content of the dataset's `data.yaml`, or of its equivalent in other programs; empty if there is none."""
    above = [folder, *list(folder.resolve().parents)[:3]]
    files = [place / name for name in _DESCRIPTIONS for place in above if (place / name).is_file()]
    if not files:
        return {}
    file = files[0]
    try:
        text = file.read_text(encoding="utf-8")
        told = {"names": text.splitlines()} if file.suffix == ".txt" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(f"cannot read {file}: {error}") from error
    told = told if isinstance(told, dict) else {}
    match told.get("kpt_shape"):
        case None | [int(), 2 | 3]:
            return told
        case shape:
            raise DatasetError(f"{file}: kpt_shape is {shown(shape)}; [keypoints, 2] or [keypoints, 3] is accepted")


def _by_number(values: Any) -> dict[Any, Any]:
    """Names by number, from a list or a mapping."""
    return dict(enumerate(values)) if isinstance(values, list) else values if isinstance(values, dict) else {}


def _facts(picture: Path) -> tuple[tuple[int, int], int]:
    """Width and height in px as stored, and the EXIF orientation."""
    try:
        with Image.open(picture) as image:
            size_wh, orientation = image.size, image.getexif().get(_ORIENTATION, 1)
    # SyntaxError: a broken PNG. ImportError: ultralytics, if loaded, tries to import plugins for formats unknown to
    # PIL.
    except (OSError, ValueError, SyntaxError, ImportError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot read the picture {picture}: {error}; fetch it again or remove it") from error
    if orientation in (2, 4, 5, 7):
        raise DatasetError(f"{picture} is stored mirrored (EXIF orientation {orientation}); save it without mirroring")
    return size_wh, orientation


def _rows(text: Path, shape: list[int] | None) -> Iterator[tuple[Points, Points | None]]:
    """The values of each line, and its keypoints (K, 3): x and y as shares, and visibility."""
    try:
        lines = text.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the labels {text}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = np.array([float(value) for value in line.split()])
        except ValueError:
            row = np.array([np.nan])
        wrong = f"{text} line {number} is {line[:60]!r}"
        if not np.isfinite(row).all():
            raise DatasetError(f"{wrong}; finite numbers are accepted")
        sides = row[3:_BOX]  # CVAT: both are 0 for a person with one keypoint
        spans = sides.min(initial=np.inf) > 0 or (row.size > _BOX and not sides.any())
        if row.size < _BOX or row[0] < 0 or row[0] % 1 or not spans or abs(row[1:_BOX]).max() > _FARTHEST:
            raise DatasetError(
                f"{wrong}; a class from 0 is needed, then centre and sides of the box as shares of the picture's sides"
            )
        yield row, None if row.size == _BOX else _keypoints(row[_BOX:], shape, f"{text} line {number}")


def _keypoints(values: Points, shape: list[int] | None, where: str) -> Points:
    shapes = [tuple(shape)] if shape else [(len(known), width) for known in SKELETONS.values() for width in (3, 2)]
    fitting = next(((joints, width) for joints, width in shapes if joints * width == values.size), None)
    if fitting is None:
        accepted = " or ".join(f"{joints}x{width}" for joints, width in shapes)
        raise DatasetError(
            f"{where} has {values.size} values after the box; {accepted} are accepted, {'as' if shape else 'or'} "
            "stated by kpt_shape in data.yaml; outlines are not supported"
        )
    joints, width = fitting
    points = values.reshape(joints, width)
    return points if width == 3 else np.concatenate([points, 2.0 * points.any(axis=1, keepdims=True)], axis=1)


def _places(box: Points, points: Points | None, size_wh: tuple[int, int], orientation: int) -> dict[str, Any]:
    """`bbox` and `keypoints` of a record, px of the stored picture."""
    centre, half = box[:2], box[2:] / 2
    corners = _stored(np.stack([centre - half, centre + half]), orientation) * size_wh
    low, high = corners.min(0), corners.max(0)
    record: dict[str, Any] = {"bbox": [*low.tolist(), *(high - low).tolist()], "iscrowd": 0}
    if points is not None:
        labelled = points[:, 2] > 0
        places = np.where(labelled[:, None], _stored(points[:, :2], orientation) * size_wh, 0)
        record["keypoints"] = np.concatenate([places, points[:, 2:]], axis=1).ravel().tolist()
        record["num_keypoints"] = int(labelled.sum())
    return record


def _stored(shares: Points, orientation: int) -> Points:
    """Positions of points (N, 2) of the upright picture in the stored one."""
    x, y = shares.T
    return np.stack(_STORED.get(orientation, lambda x, y: (x, y))(x, y), axis=1)
