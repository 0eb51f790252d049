"""When gradient checkpointing is on."""

from __future__ import annotations

import torch
from torch import nn


def recomputes(module: nn.Module) -> bool:
    """Whether ``module`` is to be recomputed in the backward pass. A compiler decides that by itself."""
    on = bool(getattr(module, "grad_checkpointing", False)) and module.training and torch.is_grad_enabled()
    return on and not torch.compiler.is_compiling()
