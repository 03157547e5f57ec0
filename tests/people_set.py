"""A small set of painted people for the tests of training and evaluation: every joint is a dot of its own colour."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sharpose_rt.evaluation.boxes import truth_boxes
from sharpose_rt.evaluation.coco import score
from sharpose_rt.evaluation.predict import Estimate, predict
from sharpose_rt.models import SHaRPose, Variant
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeleton import COCO17
from sharpose_rt.training.config import DataConfig, OptimConfig, SetConfig, TrainConfig
from sharpose_rt.training.datasets import load_people
from sharpose_rt.training.loop import Trainer

SMALL = Variant("test_128x96", (128, 96), width=32, heads=4, alpha=0.5, sigma_cells=2, depth=2)

# A standing person, left and right as seen from the front, in box heights.
POSE_X = [0.5, 0.54, 0.46, 0.58, 0.42, 0.64, 0.36, 0.7, 0.3, 0.72, 0.28, 0.59, 0.41, 0.6, 0.4, 0.61, 0.39]
POSE_Y = [0.1, 0.07, 0.07, 0.09, 0.09, 0.22, 0.22, 0.38, 0.38, 0.52, 0.52, 0.54, 0.54, 0.74, 0.74, 0.93, 0.93]
POSE = np.stack([POSE_X, POSE_Y], 1).astype(np.float32)
COLOURS_BGR = np.array([((37 * k) % 200 + 55, (91 * k) % 200 + 55, (151 * k) % 200 + 55) for k in range(17)])

POSETRACK = ["nose", "head_bottom", "head_top", *COCO17.keypoints[3:]]
"""The names of PoseTrack 2018's keypoints, as its files have them."""


def write_set(folder: Path, pictures: int = 4, people: int = 2, *, teacher: bool = False, seed: int = 0) -> Path:
    """Write `annotations.json` and `images/` with painted people; gives the folder."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, pictures + 1):
        image = np.full((240, 320, 3), 30, np.uint8)
        for place in range(people):
            height = rng.uniform(150, 200)
            origin = np.array([place * 160 + rng.uniform(-10, 5), rng.uniform(5, 35)])
            points = (POSE + rng.normal(0, 0.015, POSE.shape)) * [height * 0.8, height] + origin
            for k, (x, y) in enumerate(points):
                cv2.circle(image, (round(x), round(y)), 4, COLOURS_BGR[k].tolist(), -1)
            low, high = points.min(0) - 8, points.max(0) + 8
            third = np.full((17, 1), 0.8 if teacher else 2.0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "area": float(0.53 * np.prod(high - low)),
                    "iscrowd": 0,
                    "num_keypoints": 17,
                    "keypoints": np.concatenate([points.round(2), third], 1).flatten().tolist(),
                }
            )
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 320, "height": 240})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def in_posetracks_order(path: Path, *, named: bool = True) -> None:
    """Rewrite a label file into PoseTrack's 17 keypoints: it has no eyes, and neck and top of the head, at (1, 1)."""
    document = json.loads(path.read_text())
    for record in document["annotations"]:
        for key in {"keypoints", "teacher_keypoints"} & set(record):
            triples = np.array(record[key]).reshape(17, 3).tolist()
            place = dict(zip(COCO17.keypoints, triples, strict=True))
            record[key] = [v for name in POSETRACK for v in place.get(name, [1, 1, triples[0][2]])]
    if named:
        document["categories"] = [{"id": 1, "name": "person", "keypoints": POSETRACK}]
    path.write_text(json.dumps(document))


def change(folder: Path, index: int, **fields: object) -> None:
    """Change fields of one annotation of a set; None takes a field away."""
    path = folder / "annotations.json"
    document = json.loads(path.read_text())
    for key, value in fields.items():
        if value is None:
            document["annotations"][index].pop(key)
        else:
            document["annotations"][index][key] = value
    path.write_text(json.dumps(document))


assert len(POSE) == len(COCO17)


def measure(model: SHaRPose | Estimate, document: dict[str, Any], images: Path) -> dict[str, Any]:
    """Metrics in the boxes of the labels, everybody refined."""
    return score(predict(model, document, images, truth_boxes(document)), document, Gate(), model)


def train_config(**changes: Any) -> TrainConfig:
    """A run of `SMALL` over the set `painted`, two steps an epoch, 8 steps unless told else."""
    base = TrainConfig(
        model=SMALL.name,
        drop_path=0.2,
        data=DataConfig(sets=(SetConfig("painted"),), workers=0),
        optim=OptimConfig(lr=2e-3, warmup_steps=2, ema=0.9, schedule="cosine"),
        batch=4,
        epochs=4,
        threads=1,
        device="cpu",
        log_steps=1,
    )
    return replace(base, **changes)


def trainer(config: TrainConfig, folder: Path, out: Path, **options: Any) -> Trainer:
    """What trains on the set at `folder`; the results go to `out`."""
    return Trainer(config, load_people(config, [folder.parent], COCO17), out, **options)
