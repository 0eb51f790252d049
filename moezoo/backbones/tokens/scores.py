"""Scores of a transformer's tokens by what its own attention looks at.

Two hooks read the queries and keys of one attention on their way. Attention itself is computed as ever, by the fused
kernel where there is one: of the scores only one row is made anew.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.backbones.trace import BATCH, Trace
from moezoo.errors import ConfigError, InputError


class AttentionScores:
    """The scores that the attention of a block gives to its tokens, held from there to the block's MLP.

    With ``a`` what one query's attention gives to a patch of P (softmax over the patches, mean over the heads) it
    scores ``a / (a + 1 / P)``: 0.5 where it gets its even share, whatever P. Tokens before the patches score 1. Queries
    and keys are read before a rotary embedding turns them.

    Args:
        prefix_tokens: Tokens before the patches.
        by_class: Whether the query is the class token's, the first; else it is the mean of the patches'.
    """

    detached = False
    """Whether no gradient is to reach the attention by its scores."""

    def __init__(self, prefix_tokens: int, by_class: bool):
        self.prefix_tokens = prefix_tokens
        self.by_class = by_class
        self.scale = 0.0
        self._query: Tensor | None = None
        self._scores: Tensor | None = None

    def attach(self, attention: Any) -> None:
        """Watch a module with ``q_norm`` and ``k_norm``, which give (B, heads, N, d), as timm's have."""
        scale = getattr(attention, "scale", None)
        self.scale = scale if isinstance(scale, float) else 0.0
        attention.q_norm.register_forward_hook(self.see_query)
        attention.k_norm.register_forward_hook(self.see_key)

    def see_query(self, _module: nn.Module, _args: Any, query: Tensor) -> None:
        """The hook of ``q_norm``."""
        first = query[:, :, :1] if self.by_class else query[:, :, self.prefix_tokens :].mean(2, keepdim=True)
        self._query = first

    def see_key(self, _module: nn.Module, _args: Any, key: Tensor) -> None:
        """The hook of ``k_norm``, which runs after that of ``q_norm``."""
        query, self._query = self._query, None
        if query is None:
            raise InputError("the scores of token routing need an attention whose q_norm runs before its k_norm.")
        with torch.no_grad() if self.detached else nullcontext():
            self._scores = self.judge(query, key)

    def judge(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, N) the scores, by what :meth:`see_query` kept of the queries and (B, heads, N, d) keys."""
        grouped = query[:, :, 0].unflatten(1, (key.shape[1], -1))  # several heads may share their keys
        logits = (grouped * self.scale_of(query)) @ key[:, :, self.prefix_tokens :].transpose(-2, -1)
        # (B, groups, heads, patches)
        attention = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).mean((1, 2))
        even = 1 / max(attention.shape[1], 1)
        return F.pad(attention / (attention + even), (self.prefix_tokens, 0), value=1.0)

    def scale_of(self, query: Tensor) -> float:
        """What the attention multiplies its logits with."""
        return self.scale or query.shape[-1] ** -0.5

    def take(self) -> Tensor:
        """(B, N) the scores of the forward that is under way, once."""
        scores, self._scores = self._scores, None
        if scores is None:
            raise InputError("an MLP that routes its tokens ran without the attention before it, which scores them.")
        return scores

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_query": None, "_scores": None}


def find_attention(traced: Trace, block: str, mlp: str) -> str | None:
    """The path of the last attention in ``block`` that can score the tokens of the MLP at ``mlp``."""
    tokens = traced.calls[mlp][0].inputs[0]
    if tokens.dim() != 3:
        return None
    found = None
    for name, module in traced.model.named_modules():
        if not name.startswith(f"{block}.") or not all(hasattr(module, norm) for norm in ("q_norm", "k_norm")):
            continue
        seen = [traced.calls.get(f"{name}.{norm}", []) for norm in ("q_norm", "k_norm")]
        if any(len(calls) != 1 for calls in seen) or seen[1][0].order > traced.calls[mlp][0].order:
            continue
        query, key = (calls[0].output for calls in seen)
        if all(t.dim() == 4 and (t.shape[0], t.shape[2]) == (BATCH, tokens.shape[1]) for t in (query, key)):
            found = name
    return found


def has_class_token(model: nn.Module) -> bool:
    """Whether a token of its own stands for the class, before the patches."""
    return any(isinstance(getattr(module, "cls_token", None), Tensor) for module in model.modules())


def resolve_score(score: str | None, attention: str | None, class_token: bool, mlp: str, model: nn.Module) -> str:
    """``score``, or what ``None`` means here.

    Raises:
        ConfigError: The model has no such attention or no class token.
    """
    if score in ("learned", "random"):
        return score
    kind = type(model).__name__
    if attention is None:
        raise ConfigError(
            f"score={score!r} is not possible: before {mlp!r} this {kind} has no attention among the same tokens whose "
            "queries and keys can be read (as q_norm and k_norm of timm's). Allowed: 'learned', 'random'."
        )
    if score == "class_attention" and not class_token:
        raise ConfigError(
            f"score='class_attention' is not possible: this {kind} has no class token. Allowed: 'mean_attention', "
            "'learned', 'random'."
        )
    return score or ("class_attention" if class_token else "mean_attention")
