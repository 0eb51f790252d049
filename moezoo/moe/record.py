"""Recording where the tokens went, by hooks that exist only while :func:`record_routing` is open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from moezoo.errors import MoeZooError
from moezoo.moe.layer import MoELayer
from moezoo.moe.tracing import recomputing
from moezoo.moe.types import Routing


@dataclass(frozen=True)
class RoutingRecord:
    """One call of one MoE layer."""

    name: str
    """The layer's path in the model."""
    call: int
    """0 for the layer's first call while recording, then 1, …"""
    routing: Routing
    """Detached. Tokens are in the order of the flattened input, the sample first."""
    grid: tuple[int, int] | None
    """Rows and columns of the tokens of one sample; ``None`` when they do not lie on a grid."""
    prefix_tokens: int
    """Tokens of a sample before its grid (class token, registers)."""


@contextmanager
def record_routing(model: nn.Module) -> Iterator[list[RoutingRecord]]:
    """Collect a :class:`RoutingRecord` for every MoE call made inside the ``with`` block.

    Recomputations by activation checkpointing are not recorded. A parent of the layer may place its tokens by a
    method ``token_geometry(shape) -> (grid, prefix_tokens)`` of the shape that the parent itself was given; otherwise
    4-D inputs of the layer are (B, rows, columns, D) grids.

    Raises:
        MoeZooError: ``model`` or a part of it that holds MoE layers is compiled; the hooks would never run there.
    """
    for name, module in model.named_modules():
        if _is_compiled(module) and any(isinstance(part, MoELayer) for part in module.modules()):
            raise MoeZooError(
                f"record_routing needs the model as it was before torch.compile; {name or 'the model'!r} is compiled"
            )
    records: list[RoutingRecord] = []
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for name, layer, host in _layers_with_host(model):
            shapes: list[torch.Size] = []

            def see_input(_module, args, kwargs, shapes=shapes):
                tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
                # The tokens, not their types, which may come first among keywords.
                shapes[:] = [next((t.shape for t in tensors if t.is_floating_point()), tensors[0].shape)]

            def see_routing(_module, _args, routing, name=name, host=host, shapes=shapes):
                if recomputing():
                    return
                grid, prefix = _geometry(host, shapes[0])
                records.append(RoutingRecord(name, calls[name], routing.detach(), grid, prefix))
                calls[name] += 1

            placed = layer if host is None else host
            stack.callback(placed.register_forward_pre_hook(see_input, with_kwargs=True).remove)
            stack.callback(layer.router.register_forward_hook(see_routing).remove)
        yield records


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None


def _layers_with_host(model: nn.Module) -> Iterator[tuple[str, MoELayer, nn.Module | None]]:
    """Every MoE layer with the nearest ancestor that knows where its tokens lie."""
    for name, layer in model.named_modules():
        if not isinstance(layer, MoELayer):
            continue
        parents = name.split(".")[:-1]
        ancestors = [model.get_submodule(".".join(parents[:i])) for i in range(len(parents), -1, -1)]
        yield name, layer, next((m for m in ancestors if hasattr(m, "token_geometry")), None)


def _geometry(host: nn.Module | None, shape: torch.Size) -> tuple[tuple[int, int] | None, int]:
    if host is not None:
        return host.token_geometry(shape)  # type: ignore[operator]
    return ((shape[1], shape[2]) if len(shape) == 4 else None), 0
