"""What transformers leaves undone when it loads a checkpoint into a model built on the meta device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

LOADED = "_is_hf_initialized"
"""The mark that transformers sets on every tensor it has loaded."""


@torch.no_grad()
def restore_unloaded(model: nn.Module, fresh: Callable[[], nn.Module]) -> None:
    """Copy from a fresh twin what was not loaded: buffers that no checkpoint holds, and a head of another size.

    Args:
        model: Just loaded, on its devices.
        fresh: Builds the twin; not called if nothing is missing.
    """
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    absent = [name for name, tensor in tensors.items() if not getattr(tensor, LOADED, False)]
    if absent:
        with torch.device("cpu"):
            twin = fresh()
        values = {**dict(twin.named_buffers()), **dict(twin.named_parameters())}
        for name in absent:
            tensors[name].copy_(values[name])


def own_memory(model: nn.Module) -> None:
    """Move CPU weights out of the mapped file, where they lie unaligned: products then round otherwise."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
