"""Finds the people in a picture with the exported networks, using only numpy, OpenCV and onnxruntime.

    sharpose-rt weights onnx networks/
    python pipelines/onnx_pose.py networks/ photo.jpg --draw drawn.png

Prints a line of JSON for each person, and messages to stderr. The same steps in another language, with the numbers in
`networks/sharpose.json`, run the networks wherever there is an ONNX runtime.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime


class Networks:
    """The graphs in a folder, and their description."""

    def __init__(self, folder: Path) -> None:
        self.sheet = json.loads((folder / "sharpose.json").read_text(encoding="utf-8"))
        self.sessions = {file: onnxruntime.InferenceSession(folder / file) for file in self.sheet["graphs"]}

    def run(self, file: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a graph, by names, from its inputs among `values`."""
        ports = self.sheet["graphs"][file]
        inputs = {port["name"]: values[port["name"]] for port in ports["inputs"]}
        names = [port["name"] for port in ports["outputs"]]
        outputs: list[Any] = list(self.sessions[file].run(names, inputs))
        return dict(zip(names, outputs, strict=True))

    def people(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4) xyxy px and scores (N,) of the people in a picture (H, W, 3) BGR, strongest first."""
        rule, wh = self.sheet["detect"], np.array(picture.shape[1::-1])
        resized = np.round(wh * (rule["size"] / wh.max())).astype(int).clip(1)
        left, top = (rule["size"] - resized) // 2
        square = np.full((rule["size"], rule["size"], 3), rule["fill"], np.uint8)
        square[top : top + resized[1], left : left + resized[0]] = cv2.resize(picture, resized.tolist())
        found = self.run("person_detector.onnx", {"picture": square})
        sure = np.flatnonzero(found["box_scores"] >= rule["score_threshold"])
        sure = sure[np.argsort(-found["box_scores"][sure], kind="stable")]
        boxes, scores = each_person_once(found["boxes"][sure], found["box_scores"][sure], rule)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= rule["score_threshold"]]
        boxes = (boxes[order] - np.tile([left, top], 2)) * np.tile(wh / resized, 2) - 0.5
        boxes = boxes.clip(0, np.tile(wh - 1, 2))
        large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= rule["min_side_px"]).all(1))[: rule["max_people"]]
        return boxes[large], scores[order][large]

    def poses(self, picture: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
        """Keypoints (N, K, 2) px, scores (N, K), quality (N,) and `refined` (N,) of the people in boxes (N, 4)."""
        maps = [self.crop_map(box) for box in boxes]
        found = {"crops": np.stack([self.crop(picture, matrix) for matrix in maps])}
        found |= self.run("coarse.onnx", found)
        gate = self.sheet["gate"]
        found["refined"] = ~(found["quality"] >= gate["quality_threshold"])
        if "gain" in found:
            found["refined"] &= ~(found["gain"] < gate["refine_from_gain"])
        if found["refined"].any():
            fine = self.run("fine.onnx", {name: values[found["refined"]] for name, values in found.items()})
            for name in ("keypoints", "scores"):
                found[name][found["refined"]] = fine[name]
        for keypoints, matrix in zip(found["keypoints"], maps, strict=True):
            keypoints[:] = (keypoints - matrix[:, 2]) / matrix.diagonal()
        return found

    def crop_map(self, box_xyxy: np.ndarray) -> np.ndarray:
        """(2, 3): from pixels of the picture to those of the crop of a person."""
        rule = self.sheet["crop"]
        crop_wh = np.array(rule["size_hw"][::-1])
        size = np.maximum(box_xyxy[2:] - box_xyxy[:2], 1)
        size = crop_wh * (size / crop_wh).max() * rule["box_padding"]
        scale = (crop_wh - 1) / size
        offset = (crop_wh - 1) / 2 - scale * (box_xyxy[:2] + box_xyxy[2:]) / 2
        return np.column_stack([np.diag(scale), offset])

    def crop(self, picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """A person (h, w, 3) cropped from a picture, which is first halved while it is much larger, to avoid
        aliasing."""
        scale, offset = matrix[:, :2], matrix[:, 2]
        while np.sqrt(np.linalg.det(scale)) < 0.5 and min(picture.shape[:2]) > 1:
            h, w = picture.shape[0] // 2, picture.shape[1] // 2
            picture = cv2.resize(picture[: 2 * h, : 2 * w], (w, h), interpolation=cv2.INTER_AREA)
            scale, offset = scale * 2, offset + scale @ [0.5, 0.5]  # centres: 2 * i + 1/2 of the larger picture
        h, w = self.sheet["crop"]["size_hw"]
        return cv2.warpAffine(picture, np.column_stack([scale, offset]), (w, h), flags=cv2.INTER_LINEAR)


def each_person_once(boxes: np.ndarray, scores: np.ndarray, rule: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 4) and scores (M,) of people from boxes (N, 4) and scores (N,) with several per person, best first."""
    overlap, left = overlaps(boxes), np.arange(len(boxes))
    kept, means = [], []
    while len(left):
        kept.append(left[0])
        agrees = left[overlap[left[0], left] >= rule["agrees_iou"]]
        means.append(np.average(boxes[agrees], 0, (overlap[left[0], agrees] * scores[agrees]) ** 2))
        left = left[overlap[left[0], left] <= rule["iou_threshold"]]
    people = np.array(means).reshape(-1, 4)
    surer = np.tril(overlaps(people), -1).max(1, initial=0)
    return people, scores[kept] * np.exp(-((surer - rule["doubt_iou"]).clip(0) ** 2) / rule["doubt_fades"])


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """Intersection over union (N, N) of boxes (N, 4) xyxy."""
    low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    inside, area = np.clip(high - low, 0, None).prod(-1), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return inside / (area[:, None] + area - inside)


def draw(picture: np.ndarray, poses: dict[str, np.ndarray], limbs: list[Any], min_score: float = 0.3) -> None:
    """Draws the limbs between certain keypoints on a picture."""
    for keypoints, scores in zip(poses["keypoints"], poses["scores"], strict=True):
        for ends in limbs:
            if (scores[ends] >= min_score).all():
                a, b = np.round(keypoints[ends]).astype(int).tolist()
                cv2.line(picture, a, b, (0, 220, 0), 2, cv2.LINE_AA)


def read(path: str) -> np.ndarray | None:
    """The picture (H, W, 3) BGR, or None if it cannot be read. cv2.imread crashes on names that are not UTF-8."""
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):  # cv2: an empty file
        return None


def save(picture: np.ndarray, path: str) -> None:
    """Writes a picture, or ends the program."""
    try:
        encoded, data = cv2.imencode(Path(path).suffix, picture)
        if encoded:
            data.tofile(path)
    except (OSError, cv2.error):  # cv2: no suffix, or an unknown one
        encoded = False
    if not encoded:
        raise SystemExit(
            f"{path} cannot be written; a name such as drawn.png or drawn.jpg is accepted, in a folder that exists"
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path, help="folder that `sharpose-rt weights onnx` wrote")
    parser.add_argument("picture")
    parser.add_argument("--draw", metavar="FILE", help="write the picture with skeletons here")
    args = parser.parse_args(argv)

    picture = read(args.picture)
    if picture is None:
        raise SystemExit(f"{args.picture} cannot be read; a picture that OpenCV can read is accepted")
    if not (args.networks / "sharpose.json").is_file():
        raise SystemExit(
            f"{args.networks} has no sharpose.json; a complete folder is accepted, written by "
            f"`sharpose-rt weights onnx {args.networks} --overwrite`"
        )
    networks = Networks(args.networks)
    boxes, sure = networks.people(picture)
    if len(boxes):
        poses, skeleton = networks.poses(picture, boxes), networks.sheet["skeleton"]
        for n, box in enumerate(boxes):
            rows = np.column_stack([poses["keypoints"][n], poses["scores"][n]]).astype(float).round(3).tolist()
            person = {
                "bbox_xyxy": box.round(3).tolist(),
                "bbox_score": round(float(sure[n]), 4),
                "quality": round(float(poses["quality"][n]), 4),
                "stage": "fine" if poses["refined"][n] else "coarse",
                "keypoints": dict(zip(skeleton["keypoints"], rows, strict=True)),
            }
            print(json.dumps(person))
        draw(picture, poses, skeleton["limbs"])
    else:
        print(f"{args.picture} shows nobody", file=sys.stderr)
    if args.draw:
        save(picture, args.draw)


if __name__ == "__main__":
    main()
