"""Dense mixtures in training that skip experts in evaluation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int, check_probability
from moezoo.moe.routers.base import Router, first_choices, shares
from moezoo.moe.types import Routing


class SkippingRouter(Router):
    """All E experts in training; in evaluation only those that matter: the others are not computed.

    What is left of a token's weights is divided by its sum, so that they sum to one always. Where both limits are given
    an expert must pass both; the best one is always kept.

    Args:
        eval_top_k: The most experts of a token in evaluation; ``None`` means all.
        threshold: The least weight of an expert that is computed in evaluation; 0 means all.
        top_k: Left at 1, or E; both mean E.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        eval_top_k: int | None = None,
        threshold: float = 0.0,
        top_k: int = 1,
        **shared,
    ):
        if top_k not in (1, num_experts):
            raise ConfigError(
                f"top_k={top_k} is not allowed: {type(self).__name__} learns with all {num_experts} experts. For fewer "
                "in evaluation set eval_top_k."
            )
        super().__init__(dim, num_experts, top_k=num_experts, **shared)
        self.eval_top_k = None if eval_top_k is None else check_int("eval_top_k", eval_top_k, low=1, high=num_experts)
        self.threshold = check_probability("threshold", threshold)

    def set_num_experts(self, num_experts: int) -> None:
        if self.eval_top_k is not None and num_experts < self.eval_top_k:
            raise ConfigError(f"{num_experts} experts are too few: the router has eval_top_k={self.eval_top_k}.")
        self.top_k = num_experts
        super().set_num_experts(num_experts)

    @property
    def skips(self) -> bool:
        """Whether experts may be skipped in evaluation."""
        return self.threshold > 0 or (self.eval_top_k is not None and self.eval_top_k < self.num_experts)

    @property
    def keeps_samples_whole(self) -> bool:
        return super().keeps_samples_whole and not self.skips

    def mixture(self, logits_TE: Tensor, probs_TE: Tensor, available_TE: Tensor | None = None) -> Routing:
        """The routing by ``probs_TE``, which are zero where an expert is not available."""
        skips = self.skips and not self.training
        if not skips and available_TE is None and not self.limited:
            return Routing.of_all(probs_TE, logits_TE)
        chosen_TE = torch.ones_like(probs_TE, dtype=torch.bool) if available_TE is None else available_TE
        if skips:
            chosen_TE = chosen_TE & (probs_TE >= self.threshold)
            few_TK = first_choices(probs_TE, self.eval_top_k or self.num_experts)
            chosen_TE = chosen_TE & torch.zeros_like(chosen_TE).scatter(1, few_TK, True)
            chosen_TE = chosen_TE.scatter(1, few_TK[:, :1], True)
        return Routing.from_mask(chosen_TE, shares(probs_TE * chosen_TE), logits_TE, probs_TE, probs_TE=probs_TE)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature``."""
    return logits if temperature == 1 else logits / temperature


def without(logits: Tensor, available: Tensor | None) -> Tensor:
    """``logits`` so low where an expert is not available that a softmax gives it exactly zero."""
    return logits if available is None else logits.masked_fill(~available, torch.finfo(logits.dtype).min)


def voted(logits_hTE: Tensor) -> Tensor:
    """(T, E) the logarithms of the mean over h gates of their softmaxes."""
    log_hTE = logits_hTE.log_softmax(-1)
    return log_hTE[0] if len(log_hTE) == 1 else log_hTE.logsumexp(0) - math.log(len(log_hTE))
