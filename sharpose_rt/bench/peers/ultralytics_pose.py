"""A one-stage pose network of ultralytics on the whole frame, with random weights: only its speed is measured."""

from __future__ import annotations

from harness import run

ARCHITECTURE, IMAGE_SIZE = "yolo11n-pose.yaml", 640


def make(job):
    """Letterbox, fused network, non-maximum suppression."""
    import torch

    from sharpose_rt.detection.assets import import_ultralytics
    from sharpose_rt.detection.letterbox import Letterbox

    module = import_ultralytics().YOLO(ARCHITECTURE).model.eval().fuse(verbose=False)
    module = module.to(memory_format=torch.channels_last)
    from ultralytics.utils.nms import non_max_suppression

    @torch.inference_mode()
    def peer(image, boxes):  # random weights find nobody, so the number of people is meaningless
        fit = Letterbox.fit((image.shape[1], image.shape[0]), IMAGE_SIZE, 32)
        pixels = torch.from_numpy(fit.apply(image)).flip(-1).permute(2, 0, 1)[None].float() / 255
        out = module(pixels)
        non_max_suppression(out[0] if isinstance(out, (tuple, list)) else out, nc=1)

    return peer


if __name__ == "__main__":
    run(make)
