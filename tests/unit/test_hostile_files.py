"""Files that are made, or damaged, to harm whoever reads them: each is refused, in few words and at once."""

from __future__ import annotations

import io
import json
import random
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sharpose_rt.config import DetectorConfig, load
from sharpose_rt.detection import create_detector
from sharpose_rt.errors import ConfigError, DatasetError, DetectorError, WeightsError
from sharpose_rt.labels.coco import read_document
from sharpose_rt.media.files import read_image
from sharpose_rt.models.weights import read_released
from sharpose_rt.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.timeout(30)

LONGEST = 10_000
"""Characters of a message."""


def aliases(key: str, levels: int = 30) -> str:
    """YAML of a few lines whose value has 9^levels parts when it is written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"{key}: *a{levels - 1}"])


def nested(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("key", ["queue_frames", "pose"])
def test_aliases_are_not_written_out(tmp_path: Path, key: str) -> None:
    path = tmp_path / "run.yaml"
    inner = "\n".join(f"  {line}" for line in aliases("model", 20).splitlines())
    path.write_text(f"pose:\n{inner}" if key == "pose" else aliases(key))
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert len(str(caught.value)) < LONGEST


def yolo_set(tmp_path: Path, description: str) -> Path:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (tmp_path / "data.yaml").write_text(description)
    return tmp_path / "labels"


def test_aliases_in_a_sets_description_are_not_written_out(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        read_document(yolo_set(tmp_path, aliases("kpt_shape")))
    assert len(str(caught.value)) < LONGEST


def test_a_name_of_a_class_is_a_text(tmp_path: Path) -> None:
    document = read_document(yolo_set(tmp_path, aliases("deep") + "\nnames: [*a29]"))
    assert [category["name"] for category in document["categories"]] == ["person"]


def test_what_is_nested_too_deeply_is_told_by_the_name_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text(nested())
    with pytest.raises(DatasetError, match=r"deep\.json"):
        read_document(path)
    with pytest.raises(DetectorError, match=r"deep\.json"):
        create_detector(DetectorConfig(name=str(path))).open()
    with pytest.raises(DatasetError, match=r"data\.yaml"):
        read_document(yolo_set(tmp_path, nested(3_000)))


def test_a_name_that_no_file_can_have_is_no_picture() -> None:
    assert read_image("a\0b.jpg") is None


@pytest.mark.parametrize("old_form", [False, True])
def test_a_damaged_checkpoint_is_told_of(tmp_path: Path, old_form: bool) -> None:
    """Torch raises errors of many kinds for it."""
    buffer, rng = io.BytesIO(), random.Random(0)
    state = {"state_dict": {f"layer.{n}.weight": torch.ones(3, 2) for n in range(4)}}
    torch.save(state, buffer, _use_new_zipfile_serialization=not old_form)
    whole, told = buffer.getvalue(), 0
    path = tmp_path / "damaged.pth"
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        for read in (read_released, load_checkpoint):
            with suppress(WeightsError):
                read(path)
                told -= 1
            told += 1
    assert told > 150


def test_sound_files_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("queue_frames: 3\npose: {model: small_256x192}\n")
    config = load(str(tmp_path / "run.yaml"))
    assert (config.queue_frames, config.pose.model) == (3, "small_256x192")
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert read_document(path)["images"] == []
