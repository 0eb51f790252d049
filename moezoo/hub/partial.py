"""Saving the MoE and the head alone: the backbone stays where it is published, if it is still that one."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.adapt import head_keys, keys_of
from moezoo.backbones.create import create_backbone, load_backbone_weights
from moezoo.backbones.inject import adapters_of
from moezoo.config import override
from moezoo.errors import HubError, InputError, WeightsUnavailable
from moezoo.hub.backbone import published_weights
from moezoo.hub.schema import PublishedBackbone
from moezoo.hub.state import digest, portable_state, shown


def backbone_keys(model: nn.Module) -> frozenset[str]:
    """The state-dict names that are neither an adapter's nor the classifier's."""
    added = keys_of(model, adapters_of(model).values())
    head: frozenset[str] = frozenset()
    with contextlib.suppress(AttributeError):  # SAM has no classifier, and some fail to answer once theirs is gone
        head = head_keys(model)
    return frozenset(model.state_dict()) - added - head


def without_backbone(
    model: nn.Module,
    config: Any,
    state: dict[str, Tensor],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: bool | str | None = None,
) -> tuple[dict[str, Tensor], Any, PublishedBackbone]:
    """What of ``state`` has to be stored, and what completes it.

    Every tensor of the backbone is compared with the published ones, bit for bit, so it does not matter whether it was
    frozen: it matters that nothing has moved.

    Returns:
        The tensors of the MoE and the head, ``config`` with timm's tag spelt out, and where the backbone is.

    Raises:
        InputError: The backbone was never published, or is not the published one any more.
        HubError: The published weights cannot be reached.
    """
    what = "include_backbone=False stores the MoE and the head alone, but"
    if not adapters_of(model):
        raise InputError(f"{what} {type(model).__name__} has no adapters beside its backbone.")
    try:
        published = published_weights(config, cache_dir=cache_dir, token=token)
    except HubError:
        raise
    except WeightsUnavailable as error:
        raise InputError(f"{what} the backbone has no published source: {error}") from None
    if published.tag:
        config = override(config, {"backbone_tag": published.tag})
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        reference = create_backbone(config)
        load_backbone_weights(reference, config, published.files)
    theirs, keep = portable_state(reference), backbone_keys(model)
    moved = sorted(name for name in keep if name not in theirs or not _same(theirs[name], state[name]))
    if moved:
        raise InputError(
            f"{what} {len(moved)} tensors of the backbone are not those published as {published.id!r}: {shown(moved)}. "
            "They were trained, converted or never loaded (running statistics move in training even where weights are "
            "frozen). Save with include_backbone=True."
        )
    own = {name: tensor for name, tensor in state.items() if name not in keep}
    tensors = digest({name: state[name] for name in keep})
    source = PublishedBackbone(published.id, published.revision, published.sha256, tensors)
    return own, config, source


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
