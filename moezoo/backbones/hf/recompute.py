"""Activation checkpointing of transformers' layers, by the switch each of them carries."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(modules: Iterable[nn.Module], enable: bool = True) -> None:
    """Let the layers among ``modules`` be recomputed in the backward pass of training, adapters included, or not."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in modules:
        if isinstance(layer, GradientCheckpointingLayer):
            layer.gradient_checkpointing = enable
            # Without reentrance the auxiliary losses of a recomputed layer keep their graph.
            layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
