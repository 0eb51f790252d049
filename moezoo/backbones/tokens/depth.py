"""Mixture of depths in a pretrained transformer: a block takes some of each image's tokens, the others skip it.

Raposo et al. 2024, "Mixture-of-Depths", routed as in A-MoD (Gadhikar et al. 2024, "Attention Is All You Need For
Mixture-of-Depths Routing"): by the attention map of the block before, without a parameter. In the words of the core a
block is one of two experts, and the other one copies. So no key of a checkpoint changes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from moezoo.backbones.inject import MARK
from moezoo.backbones.site import Site
from moezoo.backbones.tokens.config import TokenRoutingConfig
from moezoo.backbones.tokens.own import CHILD, OwnModule
from moezoo.backbones.tokens.scores import AttentionScores
from moezoo.errors import InputError
from moezoo.moe.experts.zero_computation import CopyExpert
from moezoo.moe.flops import FLOP_FORMULAS
from moezoo.moe.layer import MoELayer
from moezoo.moe.routers.split import num_chosen
from moezoo.moe.tracing import has_values, recomputing


class OwnBlock(OwnModule):
    """A block by its own formula, as an expert whose rows of one sample attend to each other.

    Args:
        block: The block.
        dim: Token width.
    """

    def __init__(self, block: nn.Module, dim: int):
        super().__init__(block)
        one, two = (_flops(block, tokens, dim) for tokens in (1, 2))
        self.pair_flops = (two - 2 * one) // 2
        self.other_row_flops = one - self.pair_flops - 2 * self._linear_numbers()
        self.samples, self.tokens = 1, 0

    @property
    def row_flops(self) -> int:
        """Of one token beside its pairs with others; less once hidden units were pruned."""
        return self.other_row_flops + 2 * self._linear_numbers()

    def _linear_numbers(self) -> int:
        layers = [part for part in self.__dict__["own"].modules() if isinstance(part, nn.Linear)]
        return sum(layer.in_features * layer.out_features for layer in layers)

    def forward(self, x_ND: Tensor) -> Tensor:
        B, L = self.samples, self.tokens
        if torch.compiler.is_compiling():  # where the number of rows is not known otherwise
            torch._check(x_ND.shape[0] == B * L)
        elif not has_values(x_ND):  # where nobody knows how many rows there are, either
            super().forward(x_ND.new_empty(B, L, x_ND.shape[-1]))
            return torch.empty_like(x_ND)
        return super().forward(x_ND.reshape(B, L, x_ND.shape[-1])).reshape(B * L, x_ND.shape[-1])


class DepthRouting(nn.Module):
    """The child of a block that decides which tokens pass it.

    Args:
        block: The block, which is not changed.
        config: How tokens are routed.
        scores: Where they are judged, in the block before; ``None``: by lots.
        site: How the tokens lie.
    """

    def __init__(self, block: nn.Module, config: TokenRoutingConfig, scores: AttentionScores | None, site: Site):
        super().__init__()
        self.site = site
        self.scores = scores
        self.moe = MoELayer(
            site.dim,
            num_experts=2,
            router="random_fraction" if scores is None else "top_fraction",
            router_args={"fraction": config.fraction, **({"first": site.prefix_tokens} if scores is None else {})},
            expert="modules",
            expert_args={"modules": [OwnBlock(block, site.dim), CopyExpert()]},
            aux_weights={},
        )
        router: Any = self.moe.router
        router.budget = config.budget
        self._seen = WeakTensorKeyDictionary()

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self.moe.experts.members[0]  # type: ignore[index]
        router: Any = self.moe.router
        share = router.fraction if router.budget is None else router.budget
        own.samples, own.tokens = x.shape[0], num_chosen(share, x.shape[1])
        return self.moe(x, scores=self._scores_of(x))

    def _scores_of(self, x: Tensor) -> Tensor | None:
        """(B, N) what the block before gave the tokens; where ``x`` comes a second time, what it gave them then.

        Activation checkpointing runs this block again long before the block whose attention judged its input.
        """
        if self.scores is None:
            return None
        if torch.compiler.is_compiling():
            return self.scores.take()
        if recomputing() and x in self._seen:
            return self._seen[x]
        scores = self.scores.take()
        if torch.is_grad_enabled() and not recomputing():
            self._seen[x] = scores
        return scores

    def token_geometry(self, shape: Sequence[int]) -> tuple[tuple[int, int] | None, int]:
        """Grid and prefix tokens of an input of ``shape``, for recording."""
        grid = self.site.grid_of(shape)
        return (grid, self.site.prefix_tokens) if grid is not None else (None, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_seen": WeakTensorKeyDictionary()})

    def extra_repr(self) -> str:
        return f"attention={self.scores is not None}"


def attach_depth(block: nn.Module, routing: DepthRouting) -> None:
    """Let ``block`` take only some of its tokens."""
    block.add_module(CHILD, routing)
    setattr(block, MARK, CHILD)
    block.forward = functools.partial(routed_block, block)


def routed_block(block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What takes the place of the block's ``forward``. Importable, so that models pickle."""
    given = [value for value in (*args, *kwargs.values()) if value is not None and value is not False]
    if given:
        raise InputError(
            f"a {type(block).__name__} that some tokens skip takes the tokens alone, not {type(given[0]).__name__} "
            "(a mask, positions) besides."
        )
    routing: DepthRouting = getattr(block, CHILD)
    return routing(x)


def _flops(block: nn.Module, tokens: int, dim: int) -> int:
    """Of one sample, counted by torch on tensors without values."""
    state = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    empty = {name: torch.empty_like(t, device="meta") for name, t in state.items()}
    like = next(t for t in state.values() if t.is_floating_point())
    x = torch.empty(1, tokens, dim, device="meta", dtype=like.dtype)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        functional_call(block, empty, (x,))
    return counter.get_total_flops()
