"""The network of a run with its initial weights."""

from __future__ import annotations

import torch

from sharpose_rt.errors import ConfigError
from sharpose_rt.models import SHaRPose, create_model
from sharpose_rt.models.create import attention_scale_of, set_attention_scale
from sharpose_rt.models.stem import MobileTrunk
from sharpose_rt.models.weights import load_model
from sharpose_rt.training.config import TrainConfig
from sharpose_rt.training.movenet import load_thunder


def starting_model(config: TrainConfig) -> SHaRPose:
    """The network of a configuration with its initial weights.

    Raises:
        WeightsError: they are missing, damaged, or do not fit.
        ConfigError: there is no such variant, or the stem has no blocks to freeze.
    """
    model = create_model(config.model, config.behaviour, drop_path=config.drop_path)
    if config.init != "random":
        source, _ = load_model(config.model, config.init)
        if source.behaviour.name != config.behaviour:
            raise ConfigError(
                f"init: the weights {config.init} are of behaviour {source.behaviour.name!r}, the run of "
                f"{config.behaviour!r}; --set behaviour={source.behaviour.name} trains on what they are"
            )
        source.gain_predictor = None  # fitted to the network before training, which changes it
        model.load_state_dict(source.state_dict())
        set_attention_scale(model, attention_scale_of(source))
    else:  # heatmaps start near zero; otherwise the first hundred steps would only shrink them
        torch.nn.init.trunc_normal_(model.decoder.last_layer().weight, std=0.002)
        if config.init_stem != "random":
            load_thunder(model.patch_embed, config.init_stem)
    model.box_padding = config.augment.padding
    if config.frozen_stem_blocks:
        if not isinstance(model.patch_embed, MobileTrunk):
            raise ConfigError(
                f"frozen_stem_blocks is {config.frozen_stem_blocks}, but the stem of {config.model!r} is a "
                f"{type(model.patch_embed).__name__}; only 0 is accepted there"
            )
        model.patch_embed.freeze(config.frozen_stem_blocks)
    return model
