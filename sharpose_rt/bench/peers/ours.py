"""This package: all boxes of a frame in one batch, both stages as the gate decides."""

from __future__ import annotations

from harness import run


def make(job):
    """The pose engine as in a run."""
    from sharpose_rt.config import PoseConfig
    from sharpose_rt.engine import PoseEngine

    engine = PoseEngine(PoseConfig(**job["pose"]))
    engine.warm_up()
    return lambda image, boxes: len(engine.estimate(image, boxes))


if __name__ == "__main__":
    run(make)
