"""A score against a threshold: tokens that matter go to the big expert, the others to the small one."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError, InputError
from moezoo.moe.checks import check_choice, check_positive, check_probability
from moezoo.moe.routers.base import linear_weight
from moezoo.moe.routers.split import SplitRouter, best_tokens, by_sample
from moezoo.moe.tracing import has_values
from moezoo.moe.types import Routing

MODES = ("learnable_threshold", "sigmoid_gate", "gumbel", "top_fraction")


class ScoreThresholdRouter(SplitRouter):
    """Expert 0 where a token's score ``s`` in (0, 1) reaches the threshold ``theta``, else expert 1.

    Scores are given with each call (``MoELayer.forward(x, scores=…)``), or are the router's own.

    * ``learnable_threshold``: theta is learned, kept in (0, 1) as the sigmoid of its parameter. With ``soft =
      sigmoid((s - theta) / T)`` the weight is ``1 + soft - stop(soft)`` for expert 0 and ``1 - soft + stop(soft)`` for
      expert 1: forward exactly 1, in training and evaluation; backward both branches carry the slope of the choice
      (straight-through, Bengio et al. 2013), so that theta and the scores learn from either.
    * ``sigmoid_gate``: theta is fixed; the weights are ``soft`` and ``1 - soft``, so that the gradient is a true one.
    * ``gumbel``: in training the choice is drawn for every token by logistic noise on ``(logit s - logit theta) / T``
      (binary concrete, Maddison et al. 2017; Jang et al. 2017), straight-through; in evaluation there is none.
    * ``top_fraction``: the best ``ceil(fraction * L)`` of each sample's L tokens, ties to the lowest index; theta is
      the score of the last of them.

    Args:
        mode: One of these.
        threshold_init: The first theta, or the fixed one; nothing to ``top_fraction``.
        temperature: T, the width of the slope. Small ones learn from tokens near the threshold only.
        temperature_final: T at the end of training, reached geometrically as :func:`moezoo.moe.set_progress` says;
            ``None`` keeps T.
        fraction: Of ``top_fraction`` only.
        own_score: Score tokens by ``sigmoid(w x + b)`` where none are given.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    takes_scores = True

    threshold_override: float | None = None
    """The threshold instead of the learned one, set by :func:`moezoo.moe.set_threshold`. It is never saved."""

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        mode: str = "learnable_threshold",
        threshold_init: float = 0.5,
        temperature: float = 1.0,
        temperature_final: float | None = None,
        fraction: float = 0.25,
        own_score: bool = False,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        self.mode = check_choice("mode", mode, MODES)
        self.threshold_init = check_threshold("threshold_init", threshold_init)
        self.temperature = check_positive("temperature", temperature)
        self.temperature_final = (
            None if temperature_final is None else check_positive("temperature_final", temperature_final)
        )
        self.fraction = check_probability("fraction", fraction)
        if own_score not in (True, False):
            raise ConfigError(f"own_score={own_score!r} is not allowed: it must be True or False.")
        self.threshold_logit: nn.Parameter | None = None
        if self.mode in ("learnable_threshold", "gumbel"):
            self.threshold_logit = nn.Parameter(torch.tensor([_logit(self.threshold_init)]))  # FSDP has no scalars
        self.weight = linear_weight(1, dim) if own_score else None
        self.bias = nn.Parameter(torch.zeros(1)) if own_score else None

    @property
    def threshold(self) -> Tensor:
        """() theta, in float32 at least; of ``top_fraction``, which has none of its own, ``threshold_init``."""
        if self.threshold_logit is None or self._given is not None:
            return torch.tensor(self._given)
        logit = self.threshold_logit[0].to(torch.promote_types(self.threshold_logit.dtype, torch.float32))
        return _inside(logit.sigmoid())

    @property
    def _given(self) -> float | None:
        """The threshold where it is not the learned one."""
        if self.threshold_override is None and self.threshold_logit is None:
            return self.threshold_init
        return self.threshold_override

    @property
    def slope_temperature(self) -> float:
        """T now: between ``temperature`` and ``temperature_final`` by the progress of training."""
        if self.temperature_final is None:
            return self.temperature
        return self.temperature * (self.temperature_final / self.temperature) ** self.progress

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_scored(x_TD, 1, None, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        return self.route_scored(x_TD, samples, token_type, None)

    def route_scored(self, x_TD: Tensor, samples: int, token_type: Tensor | None, scores_T: Tensor | None) -> Routing:
        score_T, logit_T = self._scores(x_TD, scores_T)
        noise_T = None
        if self.budget is not None or (self.mode == "top_fraction" and self.threshold_override is None):
            fraction = self.fraction if self.budget is None else self.budget
            chosen_BL, least_B1 = best_tokens(by_sample(score_T, samples), fraction)
            chosen_T, theta = chosen_BL.reshape(-1), least_B1.expand(chosen_BL.shape).reshape(-1)
        else:
            # A given one is not copied to the device, which would wait, and keeps the scores' precision.
            given = self._given
            theta = self.threshold.to(score_T) if given is None else score_T.new_full((), given)
            if self.mode == "gumbel" and self.training and self.threshold_override is None:
                noise_T = _inside(torch.rand_like(score_T)).logit()  # logistic
            chosen_T = score_T.detach() >= theta.detach()  # of gumbel's training the noisy ones below
        if self.threshold_logit is not None and torch.is_grad_enabled() and not theta.requires_grad:
            # Something else decides: the parameter stays in the graph, with a gradient of zero.
            theta = theta + self.threshold_logit.reshape(-1)[:0].sum()
        clean_T = logit_T - _inside(theta).logit()
        margin_T, logit_T = score_T - theta, clean_T
        if noise_T is not None:
            margin_T = logit_T = clean_T + noise_T
            chosen_T = margin_T.detach() >= 0
        weight_T, soft_T = self._weights(chosen_T, margin_T)
        routing = Routing.from_choice(
            (~chosen_T).to(torch.int64)[:, None],
            weight_T[:, None],
            F.pad(logit_T[:, None], (0, 1)),
            clean_logits_TE=None if noise_T is None else F.pad(clean_T[:, None], (0, 1)),
            probs_TE=torch.stack([score_T, 1 - score_T], -1),
        )
        if soft_T is None:
            return routing
        return dataclasses.replace(routing, soft_choice=torch.stack([soft_T, 1 - soft_T], -1))

    def _weights(self, chosen_T: Tensor, margin_T: Tensor) -> tuple[Tensor, Tensor | None]:
        """(T,) the weights, and the smooth choice whose slope they have; without gradients it is of no use."""
        if self.mode != "sigmoid_gate" and not torch.is_grad_enabled():
            return torch.ones_like(margin_T), None
        soft_T = (margin_T / self.slope_temperature).sigmoid()
        if self.mode == "sigmoid_gate":
            return torch.where(chosen_T, soft_T, 1 - soft_T), soft_T
        # The difference is exactly zero; without the bracket, adding and subtracting would round.
        slope_T = soft_T - soft_T.detach()
        return 1 + torch.where(chosen_T, slope_T, -slope_T), soft_T

    def _scores(self, x_TD: Tensor, scores_T: Tensor | None) -> tuple[Tensor, Tensor]:
        """(T,) the scores, and their logits, which are finite also where a score is 0 or 1."""
        if scores_T is None:
            if self.weight is None or self.bias is None:
                raise InputError(
                    "router 'score_threshold' needs scores=, a number in (0, 1) for every token: pass them, or build "
                    "it with own_score=True."
                )
            logit_T = F.linear(x_TD, self.weight.to(x_TD.dtype), self.bias.to(x_TD.dtype))[:, 0]
            return logit_T.sigmoid(), logit_T
        if self._checks() and has_values(scores_T) and scores_T.numel():
            low, high = torch.stack(scores_T.detach().aminmax()).tolist()
            if low < 0 or high > 1:
                raise InputError(f"scores hold {low:.4g} to {high:.4g}; they must lie in (0, 1): a sigmoid gives such.")
        return scores_T, _inside(scores_T).logit()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}, own_score={self.weight is not None}"


def check_threshold(name: str, value: object) -> float:
    """``value`` as a number strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"{name}={value!r} is not allowed: it must be above 0 and below 1, as the scores are.")
    return check_probability(name, value)


def _logit(value: float) -> float:
    return math.log(value) - math.log1p(-value)


def _inside(value: Tensor) -> Tensor:
    """``value``, but strictly between 0 and 1."""
    eps = torch.finfo(value.dtype).eps
    return value.clamp(eps, 1 - eps)
