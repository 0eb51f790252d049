"""How many tokens each expert computed while it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from moezoo.moe.layer import MoELayer
from moezoo.moe.tracing import recomputing
from moezoo.moe.types import Routing


class TokenCount:
    """Counts per MoE layer; see :func:`counting_tokens`."""

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}

    @torch.no_grad()
    def see(self, name: str, routing: Routing) -> None:
        """Add one call's."""
        if routing.slots is not None:
            counts = torch.tensor(routing.expert_rows(), dtype=torch.int64)
        else:
            counts = routing.counts().to(torch.int64)
        self.counts[name] = self.counts[name] + counts if name in self.counts else counts

    def of(self, experts: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The counts of these experts of each layer; zeros where a layer never ran."""
        found = {}
        for name, chosen in experts.items():
            counts = self.counts[name].tolist() if name in self.counts else None
            found[name] = tuple(counts[e] if counts is not None else 0 for e in chosen)
        return found


@contextmanager
def counting_tokens(model: nn.Module) -> Iterator[TokenCount]:
    """Count the assignments of every training forward inside; recomputations and evaluations count nothing."""
    count = TokenCount()

    def see(name: str, router: nn.Module, routing: Routing) -> None:
        if router.training and not recomputing():
            count.see(name, routing)

    with ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, MoELayer):
                hook = layer.router.register_forward_hook(lambda m, _, out, name=name: see(name, m, out))
                stack.callback(hook.remove)
        yield count
