"""The plain backbone that a configuration names: timm's, or with ``hf:`` one of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg
from torch import nn

from moezoo.backbones import timm_models
from moezoo.backbones.hf.config import is_complete
from moezoo.backbones.hf.create import create_hf_backbone, hf_config
from moezoo.backbones.hf.data import data_description
from moezoo.backbones.hf.names import is_hf, repo_id
from moezoo.backbones.hf.weights import load_hf_weights


def has_backbone(config: Any) -> bool:
    """Whether a family's configuration names a backbone, as against describing a whole model."""
    return hasattr(config, "model_name")


def create_backbone(config: timm_models.BackboneFields) -> nn.Module:
    """The plain backbone with fresh weights.

    Raises:
        UnknownModelError: There is no such architecture.
        ConfigError: It does not take one of the arguments, or its sizes are not known without the Hub.
    """
    return create_hf_backbone(config) if is_hf(config.model_name) else timm_models.create_backbone(config)


def pretrained_cfg(config: timm_models.BackboneFields) -> Any:
    """timm's ``PretrainedCfg`` of the backbone: size, mean, source of its weights.

    Of an ``hf:`` backbone whose sizes are not known without the Hub it holds the source alone.
    """
    if not is_hf(config.model_name):
        return timm_models.pretrained_cfg(config.model_name, config.backbone_tag)
    if is_complete(config):
        return PretrainedCfg(**data_description(config, hf_config(config)))
    repo = repo_id(config.model_name)
    return PretrainedCfg(architecture=config.model_name, tag=config.backbone_tag or "", hf_hub_id=repo)


def load_backbone_weights(model: nn.Module, config: timm_models.BackboneFields, weights: Path | bool) -> None:
    """Copy the backbone's pretrained weights into an injected model, adapted to channels, size and classes.

    Args:
        model: Built from ``config``.
        config: A family's configuration.
        weights: timm's file, or ``True`` to let timm fetch it; for ``hf:`` the folder that holds the files.

    A model that holds its backbone, or several, as parts says so by ``backbone_parts()``: pairs of a part and the
    configuration that describes it.

    Raises:
        WeightsMismatch: A weight of the backbone is missing; only adapters and a new classifier may be.
    """
    if hasattr(model, "backbone_parts"):
        for part, described in model.backbone_parts():  # type: ignore[operator]
            load_backbone_weights(part, described, weights)
    elif is_hf(config.model_name):
        assert isinstance(weights, Path)
        load_hf_weights(model, config, weights)
    else:
        timm_models.load_backbone_weights(model, config, weights)
