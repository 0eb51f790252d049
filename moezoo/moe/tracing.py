"""What kind of call this is: with numbers or without, exported, run again, differentiated again."""

from __future__ import annotations

import torch
from torch import Tensor


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, as meta and fake tensors do not."""
    return not (tensor.is_meta or isinstance(tensor, torch._subclasses.FakeTensor))


def recomputing() -> bool:
    """Whether this forward runs again inside a backward pass, as activation checkpointing makes it do."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def differentiates_again() -> bool:
    """Whether this backward pass is to be differentiated itself. A compiled one never is."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def flattened(x_ECD: Tensor) -> Tensor:
    """(E * C, D). For an exported graph a copy, as the strides of a view would fix C there on torch before 2.12."""
    return torch.cat(x_ECD.unbind(0)) if torch.compiler.is_exporting() else x_ECD.flatten(0, 1)
