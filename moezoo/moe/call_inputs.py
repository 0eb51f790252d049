"""What a layer is given beside its tokens, checked and with a row for each token."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.experts.base import Experts


def token_types(token_type: Tensor, x: Tensor) -> Tensor:
    """(T,) of one kind for every token of ``x`` (..., D)."""
    if token_type.shape != x.shape[:-1] or token_type.dtype != torch.int64:
        raise InputError(
            f"token_type must be int64 {tuple(x.shape[:-1])}, a kind for every token, got "
            f"{token_type.dtype} {tuple(token_type.shape)}"
        )
    return token_type.reshape(-1)


def token_scores(scores: Tensor, x: Tensor) -> Tensor:
    """(T,) of one score for every token of ``x`` (..., D)."""
    if scores.shape != x.shape[:-1] or not scores.is_floating_point():
        raise InputError(
            f"scores must be floating-point {tuple(x.shape[:-1])}, one for every token, got {scores.dtype} "
            f"{tuple(scores.shape)}"
        )
    return scores.reshape(-1)


def available_experts(available: Tensor, x: Tensor, experts: Experts) -> Tensor:
    """(T, E) of (..., S): which experts each token of ``x`` (..., D) may have."""
    shape = (*x.shape[:-1], experts.num_sources or experts.num_experts)
    if available.shape != shape or available.dtype != torch.bool:
        raise InputError(
            f"available must be bool {shape}, one for every token and expert, got "
            f"{available.dtype} {tuple(available.shape)}"
        )
    available = available.reshape(-1, shape[-1])
    return available if experts.source_of is None else available[:, list(experts.source_of)]


def by_source(weight_TE: Tensor, experts: Experts) -> Tensor:
    """(T, S) of the experts' weights: what each source gets, where surgery changed who reads them."""
    if experts.source_of is None or experts.num_sources is None:
        return weight_TE
    index = torch.tensor(experts.source_of, device=weight_TE.device)
    return weight_TE.new_zeros(len(weight_TE), experts.num_sources).index_add(1, index, weight_TE)
