"""MediaPipe's pose landmarker, which finds one person, on the part of the frame inside each box."""

from __future__ import annotations

import importlib

import numpy as np
from harness import crop, run


def make(job):
    """The model included in the wheel."""
    pose = importlib.import_module("mediapipe").solutions.pose.Pose(static_image_mode=True, model_complexity=1)

    def peer(image, boxes):
        found = (pose.process(np.ascontiguousarray(crop(image, box)[..., ::-1])) for box in boxes)
        return sum(result.pose_landmarks is not None for result in found)

    return peer


if __name__ == "__main__":
    run(make)
