"""A dense ViT of the same width, person by person in float32, as in easy_ViTPose."""

from __future__ import annotations

from harness import run


def make(job):
    """Crops, normalises, runs the network and decodes for one person after the other."""
    import numpy as np
    import torch

    from sharpose_rt.engine.backend import TorchBackend
    from sharpose_rt.geometry.affine import apply_affine, crop_affine, invert_affine, warp_crops
    from sharpose_rt.geometry.heatmap import decode
    from sharpose_rt.models import create_model, find_variant
    from sharpose_rt.models.baselines import create_dense

    variant = find_variant(job["pose"]["model"])
    h, w = variant.size_hw
    network = create_dense(variant)
    device = torch.device("cpu")
    prepare = TorchBackend(create_model(variant), device, torch.float32, 1).prepare

    @torch.inference_mode()
    def peer(image, boxes):
        for box in boxes:
            affine = crop_affine(box[None], (w, h))
            heatmaps = network(prepare(torch.from_numpy(warp_crops(image, affine, (w, h)))))
            keypoints, _ = decode(heatmaps, (h, w), variant.skeleton.sigmas)
            apply_affine(keypoints.numpy(), invert_affine(affine)).astype(np.float32)
        return len(boxes)

    return peer


if __name__ == "__main__":
    run(make)
