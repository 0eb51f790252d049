"""Which path is taken: by device, dtype, shape, and whether gradients are wanted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moezoo.moe.paths import native, packed, triton
from moezoo.moe.paths.stack import MLPStack, compute_dtype
from moezoo.moe.tracing import has_values
from moezoo.moe.types import Routing

FEW = 8
"""Rows an expert up to which a call for each costs more than its products do."""


def choose_path(x_TD: Tensor, routing: Routing, mlp: MLPStack) -> str:
    """The fastest path that is right here.

    Args:
        x_TD: The tokens.
        routing: Where they go.
        mlp: The experts.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting() or not has_values(x_TD):
        return "grouped"
    if triton.fits(x_TD, mlp) and _plain(x_TD, mlp):
        return "triton"
    if torch.compiler.is_compiling():
        return "grouped"
    if mlp.dropout or not _plain(x_TD, mlp):
        return "loop"
    if native.supports(x_TD.device, compute_dtype(x_TD)):
        return "native"  # few rows are far faster, many within some percent of packed, which keeps a second copy
    if _few_and_even(routing):
        return "batched"
    return "packed" if packed.is_possible(x_TD, mlp) else "sorted"


def _few_and_even(routing: Routing) -> bool:
    """Whether every expert has the same few rows: one product then saves many calls and pads nothing."""
    if routing.slots is None and not 0 < len(routing.expert_index) <= FEW * routing.num_experts:
        return False  # without a wait for the device
    rows = routing.expert_rows()
    return 0 < rows[0] <= FEW and len(set(rows)) == 1


def _plain(x_TD: Tensor, mlp: MLPStack) -> bool:
    """Whether products may write into buffers: no tensor subclasses, function transforms or forward-mode gradients."""
    return (
        all(type(t) in (Tensor, nn.Parameter) for t in (x_TD, *mlp.weights))
        and not torch._C._are_functorch_transforms_active()
        and (torch.compiler.is_compiling() or torch.autograd.forward_ad._current_level < 0)
        and x_TD.device.type in ("cpu", "cuda")
    )
