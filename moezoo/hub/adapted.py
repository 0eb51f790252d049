"""Stored weights in the model asked for: as they are, or adapted to its classes, channels and image size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moezoo.backbones.adapt import FIELDS, adapt
from moezoo.config import field_names, override
from moezoo.errors import ConfigError
from moezoo.hub.header import compare, header_shapes, model_shapes
from moezoo.hub.load import load_weights
from moezoo.hub.stored import StoredModel

logger = logging.getLogger(__name__)


def load_stored(stored: StoredModel, config: Any, build: Callable[[Any], nn.Module]) -> nn.Module:
    """The model of ``config`` with stored weights, adapted where only the fields of ``FIELDS`` differ.

    Args:
        stored: Where the weights are, with their hash and the configuration they were saved with.
        config: The model asked for.
        build: From a configuration to a model with fresh weights.

    Raises:
        WeightsMismatch: Another difference changes shapes, or the backbone cannot be adapted; the field is named.
        WeightsError: The weights cannot be had or are damaged.
    """
    path = stored.weights_path()
    as_stored = like_stored(config, stored.config, FIELDS)
    check_fits(as_stored, build, path)
    model = build(config)
    if as_stored == config:
        load_weights(model, path, sha256=stored.weights_sha256)
        return model
    donor = build(as_stored)
    load_weights(donor, path, sha256=stored.weights_sha256)
    if adapted := adapt(donor, model):
        logger.info("%s: stored weights adapted: %s", stored.source, ", ".join(adapted))
    return model


def unless_given(config: Any, stored: Any, given: Iterable[str]) -> Any:
    """``config`` with the stored value of each of ``FIELDS`` that is not among the ``given`` names.

    A head is trained for its classes, and none is replaced that nobody asked to replace.
    """
    names = field_names(type(config))
    taken = {names.get(name, name) for name in given}
    return like_stored(config, stored, [field for field in FIELDS if names.get(field, field) not in taken])


def like_stored(config: Any, stored: Any, fields: Iterable[str]) -> Any:
    """``config`` with the stored configuration's value of each field that both have."""
    shared = [field for field in fields if hasattr(config, field) and hasattr(stored, field)]
    return override(config, {field: getattr(stored, field) for field in shared})


def check_fits(config: Any, build: Callable[[Any], nn.Module], path: Path) -> None:
    """Compare a file's header with the model on the meta device, before anything is allocated."""
    with torch.device("meta"):
        try:
            skeleton = build(config)
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise ConfigError(f"the stored configuration cannot be built: {error}") from error
    compare(model_shapes(skeleton), header_shapes(path), path)
