"""Building a transformers backbone from a family's fields."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from moezoo.backbones.hf.config import known_args, published_classes, transformers_config
from moezoo.backbones.hf.data import data_description
from moezoo.backbones.hf.model import TransformersModel
from moezoo.backbones.hf.names import repo_id
from moezoo.errors import ConfigError

# MAE's own encoder hides most patches at random, for pre-training only (He et al. 2022, section 4.1).
_ENCODER_OF = {"vit_mae": "vit"}


def create_hf_backbone(config: Any) -> nn.Module:
    """The plain model, with fresh weights, that a complete configuration with an ``hf:`` name stands on.

    Raises:
        ConfigError: The configuration is incomplete, or a field means nothing to this model.
    """
    hf = hf_config(config)
    if hf.model_type == "sam":
        model = _sam(config, hf)
    else:
        own = config.num_classes is None
        model = TransformersModel(hf, published_classes(known_args(config)) if own else config.num_classes)
    model.pretrained_cfg = model.default_cfg = data_description(config, hf)  # type: ignore[assignment]
    return model


def hf_config(config: Any) -> Any:
    """The ``PretrainedConfig`` of the model that is built: for MAE a plain ViT's."""
    args = known_args(config)
    kind = _ENCODER_OF.get(args.get("model_type", ""))
    if kind is not None:
        config = dataclasses.replace(config, backbone_args={**args, "model_type": kind})
    hf = transformers_config(config)
    hf.name_or_path = repo_id(config.model_name)
    return hf


def _sam(config: Any, hf: Any) -> nn.Module:
    from moezoo.backbones.hf.sam import Sam

    if config.num_classes:
        raise ConfigError(
            f"num_classes={config.num_classes} is not allowed for {config.model_name!r}: SAM has no classifier, so it "
            "must be 0."
        )
    for part in (hf.vision_config, hf.prompt_encoder_config, hf.mask_decoder_config):
        part.name_or_path = hf.name_or_path
    return Sam(hf)
