"""Stored weights in the model asked for: as they are, or adapted to its classes, channels and image size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from moezoo.altered.note import alter
from moezoo.altered.said import Compression
from moezoo.backbones.adapt import FIELDS, adapt
from moezoo.backbones.create import load_backbone_weights
from moezoo.config import field_names, override, to_dict
from moezoo.errors import ConfigError, WeightsMismatch
from moezoo.hub.header import compare, model_shapes, own_hint
from moezoo.hub.load import Files, files_header, load_files
from moezoo.hub.meta import at_most_parameters, load_skeleton
from moezoo.hub.partial import backbone_keys
from moezoo.hub.schema import CONFIG_NAME
from moezoo.hub.state import digest
from moezoo.hub.stored_model import StoredModel

SLACK, UNKNOWN = 2_000, 100_000
"""Parameters that a stored configuration may build beyond those in its files, and where the backbone is elsewhere."""

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
    files = stored.weights_files()
    if stored.compression is not None:
        _refuse_changes(config, stored)
        build = _altering(build, stored.compression, f"{stored.source}: {CONFIG_NAME}: compression")
    as_stored = like_stored(config, stored.config, FIELDS)
    skeleton = check_fits(as_stored, build, stored, files)
    if as_stored == config and stored.backbone is None and load_skeleton(skeleton, files):
        return skeleton
    model = build(config)
    donor = model if as_stored == config else build(as_stored)
    fill(donor, as_stored, stored, files)
    if donor is not model and (adapted := adapt(donor, model)):
        logger.info("%s: stored weights adapted: %s", stored.source, ", ".join(adapted))
    return model


def _altering(build: Callable[[Any], nn.Module], note: Compression, place: str) -> Callable[[Any], nn.Module]:
    return lambda config: alter(build(config), note, place)


def _refuse_changes(config: Any, stored: StoredModel) -> None:
    """Raise :class:`ConfigError` where a quantised model is asked for with another configuration than its own."""
    asked, was = to_dict(config), to_dict(stored.config)
    changed = [key for key in asked if asked[key] != was.get(key)]
    if changed and stored.compression is not None and stored.compression.int8_weights:
        raise ConfigError(
            f"{stored.source} is quantised to int8, which loads only as it is: "
            f"{', '.join(f'{key}={asked[key]!r}' for key in changed)} is not allowed, it was saved with "
            f"{', '.join(f'{key}={was.get(key)!r}' for key in changed)}."
        )


def fill(model: nn.Module, config: Any, stored: StoredModel, files: Files) -> None:
    """Load stored files into a model with fresh weights, the backbone's from where it is published if need be."""
    if stored.backbone is None:
        load_files(model, files)
        return
    said, published, keep = stored.backbone, stored.fetch_backbone(), backbone_keys(model)
    if (got := published.sha256) != said.sha256:
        raise WeightsMismatch(
            f"{stored.source}: the backbone published as {said.id!r} is not the one it was saved with: expected hash "
            f"{said.sha256}, got {got}."
        )
    load_backbone_weights(model, config, published.files)
    state = model.state_dict()
    if digest({name: state[name] for name in keep}) != said.tensors_sha256:
        # Interpolated positions may differ in their last bits from one machine, or release of timm, to the next.
        told = f"the backbone {said.id!r} is prepared otherwise here than where the model was saved"
        if said.sha256 is None:
            raise WeightsMismatch(f"{stored.source}: {told}, or its weights are not the same.")
        logger.warning("%s: %s; outputs may differ a little", stored.source, told)
    load_files(model, files, keep=keep)
    logger.info("%s: the backbone is the published %s", stored.source, said.id)


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


def check_fits(config: Any, build: Callable[[Any], nn.Module], stored: StoredModel, files: Files) -> nn.Module:
    """Compare the headers of files with the model on the meta device, before anything is allocated; returns it."""
    header = files_header(files)
    # Beyond what the files hold a model may have parts that it drops: the text encoder of a CLIP, say.
    limit = UNKNOWN if stored.backbone is not None else 2 * len(header) + SLACK
    with torch.device("meta"), at_most_parameters(limit):
        try:
            skeleton = build(config)
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise ConfigError(f"the stored configuration cannot be built: {error}") from error
    keep = backbone_keys(skeleton) if stored.backbone is not None else ()
    compare(model_shapes(skeleton), header, ", ".join(map(str, files)), keep=keep, hint=own_hint(skeleton))
    return skeleton
