"""Networks by name, freshly initialised."""

from __future__ import annotations

import torch
from torch import nn

from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.variants import Behaviour, Variant, find_behaviour, find_variant


def create_model(
    name: str | Variant,
    behaviour: str | Behaviour = "paper",
    *,
    drop_path: float = 0.0,
    attention_scale: float | None = None,
) -> SHaRPose:
    """A network with random weights, in evaluation mode.

    Args:
        name: a variant or its name; `sharpose-rt models` lists them.
        behaviour: 'paper' or 'released'.
        drop_path: see `SHaRPose`.
        attention_scale: factor on the attention's logits; None: 1/sqrt(head width). The authors trained some early
            weights with another one.

    Raises:
        ConfigError: no such variant or behaviour.
    """
    variant = find_variant(name) if isinstance(name, str) else name
    chosen = find_behaviour(behaviour) if isinstance(behaviour, str) else behaviour
    model = SHaRPose(variant, chosen, drop_path)
    model.apply(_initialise)
    for parameter in (model.keypoint_tokens, model.quality_token):
        nn.init.trunc_normal_(parameter, std=0.02)
    with torch.no_grad():
        model.decoder.last_layer().weight.mul_(0.1)  # heatmaps start near 0, like nearly all of their target
        model.coarse_position.copy_(sincos_position(variant.coarse_grid_hw, variant.width))
        model.fine_position.copy_(sincos_position(variant.fine_grid_hw, variant.width))
    if attention_scale is not None:
        set_attention_scale(model, attention_scale)
    return model.float().eval()  # whatever the program's default


def attention_scale_of(model: SHaRPose) -> float:
    """The factor on the logits of all attention layers."""
    return float(model.blocks[0].attn.scale)  # type: ignore[union-attr]


def set_attention_scale(model: SHaRPose, scale: float) -> None:
    """Set the factor on the attention's logits in every block."""
    for block in model.blocks:
        block.attn.scale = scale  # type: ignore[union-attr]


def sincos_position(grid_hw: tuple[int, int], width: int) -> torch.Tensor:
    """Sine-cosine position table (1, h * w, D) over the unit square, so that coarse and fine tables agree on positions.

    Like MAE's (He et al. 2022), but with base 100 instead of 10000, positions in 16ths and 12ths of the crop, and half
    the amplitude, so that it does not drown out the patches; training starts from it.
    """
    h, w = grid_hw
    y = (torch.arange(h, dtype=torch.float64) + 0.5) / h * 16
    x = (torch.arange(w, dtype=torch.float64) + 0.5) / w * 12
    frequency = 1 / 100 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    wave_y, wave_x = y[:, None] * frequency, x[:, None] * frequency
    part_y = torch.cat([wave_y.sin(), wave_y.cos()], 1)[:, None].expand(h, w, -1)
    part_x = torch.cat([wave_x.sin(), wave_x.cos()], 1)[None].expand(h, w, -1)
    return 0.5 * torch.cat([part_y, part_x], -1).reshape(1, h * w, width).float()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        if module.kernel_size[0] in (3, 5):  # in front of a ReLU
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(module.weight.flatten(1))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
