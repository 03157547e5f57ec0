"""Checkpoints released by the authors: their parameter names, checked and mapped to ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sharpose_rt.errors import WeightsError
from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.variants import VARIANTS

_PREFIXES = {
    "keypoint_tokens": "backbone.keypoint_tokens",
    "quality_token": "backbone.quality_token",
    "patch_embed": "backbone.patch_embed.proj",
    "coarse_position": "backbone.pos_embed_list.0",
    "fine_position": "backbone.pos_embed_list.1",
    "blocks": "backbone.blocks",
    "norm": "backbone.norm",
    "carry_norm": "backbone.reuse_block.0",
    "carry": "backbone.reuse_block.1",
    "quality_predictor.norm": "backbone.quality_predictor.norm",
    "quality_predictor.fc1": "backbone.quality_predictor.mlp.0",
    "quality_predictor.fc2": "backbone.quality_predictor.mlp.3",
    "quality_predictor.fc3": "backbone.quality_predictor.mlp.6",
    "decoder.layers": "keypoint_head.heatmap_mlp",
}


def released_names(model: SHaRPose) -> dict[str, str]:
    """Our parameter name -> the released one, for every parameter.

    Raises:
        WeightsError: the network has parts that the authors' lacks; names the variants that match theirs.
    """
    names = {}
    for name in model.state_dict():
        ours = max((p for p in _PREFIXES if name == p or name.startswith(p + ".")), key=len, default=None)
        if ours is None:
            theirs = " or ".join(v.name for v in VARIANTS.values() if (v.stem, v.decoder) == ("patch", "tokens"))
            raise WeightsError(f"the authors released no network like {model.variant.name}; use --model {theirs}")
        names[name] = _PREFIXES[ours] + name[len(ours) :]
    return names


def load_released_state_dict(model: SHaRPose, state_dict: Mapping[str, Tensor]) -> None:
    """Load parameters under the released names into `model`, strictly.

    Raises:
        WeightsError: the authors released no such network; or keys are missing or surplus, or shapes or the keypoint
            count differ, all of which are listed.
    """
    names = released_names(model)
    check_state_dict(
        {theirs: model.state_dict()[ours] for ours, theirs in names.items()},
        state_dict,
        what=f"the checkpoint does not fit {model.variant.name}",
    )
    model.load_state_dict({ours: state_dict[theirs] for ours, theirs in names.items()})


def check_state_dict(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Checks keys and shapes; the error lists everything that is wrong.

    Raises:
        WeightsError: keys are missing or surplus, or shapes differ.
    """
    wrong = [f"missing: {name}" for name in sorted(wanted.keys() - given.keys())]
    wrong += [f"surplus: {name}" for name in sorted(given.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & given.keys()):
        if wanted[name].shape != given[name].shape:
            wrong.append(f"{name} is {list(given[name].shape)}, expected {list(wanted[name].shape)}")
            if name.endswith("keypoint_tokens") and given[name].ndim == 3:
                wrong[-1] += f" (weights for {given[name].shape[1]} keypoints, model with {wanted[name].shape[1]})"
    if wrong:
        raise WeightsError(f"{what}:\n  " + "\n  ".join(wrong) + "\nTry another --model (see `sharpose-rt models`).")
