"""Recording what attended to what, by hooks that exist only while :func:`record_attention` is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import MoeZooError
from moezoo.moe.tracing import recomputing

Grid = tuple[int, int]


@dataclass(frozen=True)
class AttentionRecord:
    """One call of one attention."""

    name: str
    """The attention's path in the model."""
    call: int
    """0 for its first call while recording, then 1, …"""
    weights: Tensor
    """(B, heads, queries, keys), detached, before dropout; each query's sum to 1. B counts windows, in such models."""
    cross: bool
    """Whether the keys are of another sequence than the queries."""
    query_grid: Grid | None
    """Rows and columns of the queries of one sample; ``None`` when they do not lie on a grid."""
    query_prefix: int
    """Queries before that grid (class token)."""
    key_grid: Grid | None
    """As ``query_grid``, of the keys."""
    key_prefix: int
    """As ``query_prefix``, of the keys."""

    @property
    def key_mask(self) -> Tensor:
        """(B, keys) bool: False for keys that no query attends to at all, as padding is."""
        return (self.weights > 0).any(dim=(1, 2))


@contextmanager
def record_attention(
    model: nn.Module, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[list[AttentionRecord]]:
    """Collect an :class:`AttentionRecord` for every attention computed inside the ``with`` block.

    An attention is a module as timm writes them: it has ``attn_drop``, which its weights pass through unless
    ``fused_attn`` says that no weights are made. While recording they are made, so the sums differ in the last bits.
    Where the keys come from is seen from what ``forward`` is given; where a model passes that by, the attention's
    attribute ``cross`` may say it.

    Where the tokens lie is asked of the nearest parent with ``token_geometry(shape) -> (grid, prefix_tokens)``, as
    by :func:`moezoo.record_routing`; and for keys of another sequence, of the nearest with ``key_geometry()``.

    Args:
        model: To be looked at.
        wanted: Which attentions, by their paths; weights take (B, heads, queries, keys) of memory each.

    Raises:
        MoeZooError: ``model`` or a part of it that holds attention is compiled; the hooks would never run there.
    """
    _check_not_compiled(model)
    records: list[AttentionRecord] = []
    with ExitStack() as stack:
        for name, module in list(model.named_modules()):
            if is_attention(module) and wanted(name):
                _Watch(model, name, module, records).attach(stack)
        yield records


class _Watch:
    """The hooks of one attention."""

    def __init__(self, model: nn.Module, name: str, attention: Any, records: list[AttentionRecord]):
        self.name, self.attention, self.records, self.calls = name, attention, records, 0
        self.query_host, self.key_host = (_parent_with(f"{of}_geometry", model, name) for of in ("token", "key"))
        self.shape: torch.Size | None = None
        # A model that keeps keys calls another method than forward.
        self.cross = bool(getattr(attention, "cross", False))

    def attach(self, stack: ExitStack) -> None:
        if self.query_host is not None:
            stack.callback(self.query_host.register_forward_pre_hook(self.see_host, with_kwargs=True).remove)
        stack.callback(self.attention.register_forward_pre_hook(self.see_input, with_kwargs=True).remove)
        stack.callback(self.attention.attn_drop.register_forward_pre_hook(self.see_weights).remove)
        stack.callback(setattr, self.attention, "fused_attn", self.attention.fused_attn)
        self.attention.fused_attn = False

    def see_host(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        self.shape = next((t.shape for t in tensors if t.is_floating_point()), tensors[0].shape)

    def see_input(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        # Masks may be floats too; a sequence has three dimensions.
        sequences = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.is_floating_point()]
        self.cross = sum(t.dim() == 3 for t in sequences) > 1

    def see_weights(self, _module: nn.Module, args: Any) -> None:
        if recomputing():
            return
        query: tuple[Grid | None, int] = (None, 0)
        if self.shape is not None:
            query = self.query_host.token_geometry(self.shape)
        key = query
        if self.cross:
            key = (None, 0) if self.key_host is None else self.key_host.key_geometry()
        self.records.append(AttentionRecord(self.name, self.calls, args[0].detach(), self.cross, *query, *key))
        self.calls += 1


def is_attention(module: nn.Module) -> bool:
    """Whether :func:`record_attention` can see this module's weights."""
    return isinstance(getattr(module, "attn_drop", None), nn.Module) and isinstance(
        getattr(module, "fused_attn", None), bool
    )


def _check_not_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        compiled = isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None
        if compiled and any(map(is_attention, module.modules())):
            raise MoeZooError(
                f"record_attention needs the model as it was before torch.compile; {name or 'the model'!r} is compiled"
            )


def _parent_with(method: str, model: nn.Module, name: str) -> Any:
    """The nearest parent of the module called ``name`` that has ``method``."""
    parents = name.split(".")[:-1]
    ancestors = (model.get_submodule(".".join(parents[:i])) for i in range(len(parents), -1, -1))
    return next((each for each in ancestors if hasattr(each, method)), None)
