"""What every router shares: float32 routing, the NaN check, and capacity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError, NonFiniteError
from moezoo.moe.checks import check_int, check_positive
from moezoo.moe.dispatch.capacity import apply_capacity, expert_capacity
from moezoo.moe.dispatch.capacity_rules import CapacityRule, check_rule, takes_factor
from moezoo.moe.finite import FiniteCheck
from moezoo.moe.precision import without_autocast
from moezoo.moe.ranks import Ranks
from moezoo.moe.tracing import has_values
from moezoo.moe.types import Routing

_NOT_FINITE = (
    "the router's logits are not finite: the input of the MoE layer holds NaN or infinity (check the batch and the "
    "learning rate)."
)


class Router(nn.Module, ABC):
    """Turns ``x_TD`` into a :class:`Routing`. Subclasses write :meth:`route`.

    Args:
        dim: Token width D.
        num_experts: E.
        top_k: Experts per token K.
        normalize: Whether a token's K weights sum to one. ``None`` means ``top_k > 1``: with one expert a weight
            renormalised to 1 would leave the router without a gradient.
        capacity_factor: ``None`` is dropless. Otherwise an expert takes at most as many assignments as
            ``capacity_rule`` says and the rest are dropped.
        capacity_rule: ``gshard`` (``ceil(capacity_factor * T * K / E)``), ``vmoe``, ``tutel``, ``megablocks`` or
            ``lucidrains``: see :data:`~moezoo.moe.dispatch.capacity_rules.CAPACITY_RULES`. Or an object that is called
            as ``rule(num_tokens, top_k, num_experts, factor)``, such as a ``RoundedCapacity``; a ``FixedCapacity`` goes
            without a factor.
        eval_capacity_factor: The factor in evaluation; ``None`` means the same.
        group_size: So many neighbouring tokens of the flattened batch share the capacity of an expert, and the losses
            are the mean over these groups. The last group may be smaller, with a capacity of its own size. ``None``
            makes one group of all tokens.

    Raises:
        ConfigError: An argument is out of range, ``normalize=True`` with ``top_k=1``, a factor or a ``capacity_rule``
            has no effect, or a group leaves an expert no capacity.
    """

    priority = "choice"
    """Whom a full expert serves first: see :func:`~moezoo.moe.dispatch.capacity.apply_capacity`."""

    refuses_nonfinite = True
    """Whether a training forward raises on logits that are not finite; on a GPU a later forward does, which need not
    wait for the device. A loop that looks at every loss and gradient itself sets it to False on the router: one process
    that raised here would leave the others alone."""

    mixes_tokens = False
    """Whether experts compute mixtures of tokens (:attr:`Routing.slots`), not the tokens themselves."""

    takes_scores = False
    """Whether tokens may come with scores that the caller computed: :meth:`route_scored` then gets them."""

    progress: float = 1.0
    """How far training is, for routers with a schedule: see :func:`moezoo.moe.set_progress`."""

    ranks: Ranks | None = None
    """The processes whose tokens the losses measure together: see :func:`moezoo.moe.set_balance_scope`."""

    expert_axes: ClassVar[Mapping[str, int] | None] = None
    """The parameters and buffers with a slice per expert, and on which axis, so that experts can be removed, merged and
    added (:mod:`moezoo.moe.surgery`). ``None``: what the router knows of an expert cannot be handed to another."""

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        top_k: int = 1,
        normalize: bool | None = None,
        capacity_factor: float | None = None,
        capacity_rule: str | CapacityRule = "gshard",
        eval_capacity_factor: float | None = None,
        group_size: int | None = None,
    ):
        super().__init__()
        self.dim = check_int("dim", dim, low=1)
        self.num_experts = check_int("num_experts", num_experts, low=1)
        self.top_k = check_int("top_k", top_k, low=1, high=num_experts)
        if normalize not in (None, True, False):
            raise ConfigError(f"normalize={normalize!r} is not allowed: it must be None, True or False.")
        if normalize and top_k == 1 and num_experts > 1:
            raise ConfigError(
                "normalize=True with top_k=1 fixes every weight to 1, so the router would get no gradient from the "
                "task. Use normalize=False (the default for top_k=1)."
            )
        self.normalize = top_k > 1 if normalize is None else normalize
        self.capacity_factor = None if capacity_factor is None else check_positive("capacity_factor", capacity_factor)
        self.eval_capacity_factor = (
            None if eval_capacity_factor is None else check_positive("eval_capacity_factor", eval_capacity_factor)
        )
        self.capacity_rule = check_rule(capacity_rule)
        _check_factors(self)
        self.group_size = None if group_size is None else check_int("group_size", group_size, low=1)
        self._check_group()
        self._finite = FiniteCheck()

    @property
    def limited(self) -> bool:
        """Whether experts have a capacity."""
        return self.capacity_factor is not None or not takes_factor(self.capacity_rule)

    def capacity(self, num_tokens: int, training: bool | None = None) -> int:
        """What one expert takes of a group of ``num_tokens`` tokens, in training or in evaluation (as it is now).

        Only where experts are :attr:`limited`.
        """
        return expert_capacity(num_tokens, self.top_k, self.num_experts, self._factor(training), self.capacity_rule)

    def _factor(self, training: bool | None = None) -> float | None:
        training = self.training if training is None else training
        return self.capacity_factor if training or self.eval_capacity_factor is None else self.eval_capacity_factor

    def _check_group(self) -> None:
        if self.limited and self.group_size is not None:
            for training in (True, False):
                self.capacity(self.group_size, training)

    @property
    def keeps_samples_whole(self) -> bool:
        """Whether all tokens of a sample get the same experts, and none of them is dropped."""
        return self.top_k == self.num_experts and not self.limited and not self.mixes_tokens

    @abstractmethod
    def route(self, x_TD: Tensor) -> Routing:
        """The routing before capacity, computed in float32 at least."""

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        """:meth:`route` for routers that also look at samples or token types; the others ignore both."""
        return self.route(x_TD)

    def route_scored(self, x_TD: Tensor, samples: int, token_type: Tensor | None, scores_T: Tensor | None) -> Routing:
        """For routers that :attr:`takes_scores`: ``scores_T`` is ``None`` where none were given."""
        return self.route_samples(x_TD, samples, token_type)

    def route_available(self, x_TD: Tensor, available_TE: Tensor) -> Routing:
        """For routers that can leave experts out: (T, E) bool, those that each token may have, one at least."""
        raise InputError(f"{type(self).__name__} takes no available=: it cannot leave experts out.")

    def limit(self, routing: Routing) -> Routing:
        """``routing`` with the assignments marked as dropped that exceed the capacity."""
        if not self.limited:
            return routing
        return apply_capacity(
            routing,
            self._factor(),
            top_k=self.top_k,
            rule=self.capacity_rule,
            priority=self.priority,
            group_size=self.group_size,
        )

    def forward(
        self,
        x_TD: Tensor,
        *,
        samples: int = 1,
        token_type: Tensor | None = None,
        scores: Tensor | None = None,
        available: Tensor | None = None,
    ) -> Routing:
        """Route T tokens.

        Args:
            x_TD: The tokens of ``samples`` samples, T / samples each, the sample first.
            samples: 1 makes one sample of all tokens.
            token_type: (T,) int64, the kind of each token, for routers that go by it.
            scores: (T,) of each token, for routers that :attr:`takes_scores`.
            available: (T, E) bool, the experts a token may have, for routers that can leave some out; ``None``: all.

        Raises:
            InputError: The router takes no scores, or knows no unavailable experts; or a token has none available.
            NonFiniteError: In training, the logits hold NaN or infinity. On a GPU it is the next call that raises, or
                one of those after it: as soon as the answer is there without waiting for it.
        """
        if self.refuses_nonfinite and not torch.compiler.is_compiling() and not self._finite.passed():
            raise NonFiniteError(
                f"{_NOT_FINITE} This was in an earlier training forward, of which the GPU tells only now: steps since "
                "then may have spoiled the weights, so go on from a checkpoint before them."
            )
        # Near-ties flip experts in half precision.
        with without_autocast(x_TD):
            x_TD = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
            if scores is not None:
                if not self.takes_scores:
                    raise InputError(f"{type(self).__name__} takes no scores=: its choice is its own.")
                scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            if available is None:
                routing = self.route_scored(x_TD, samples, token_type, scores)
            else:
                _check_available(available)
                routing = self.route_available(x_TD, available)
            if self._checks() and not self._finite.passes(routing.logits):
                raise NonFiniteError(f"{_NOT_FINITE} Nothing was changed by this step.")
            return self.limit(
                routing.replaced(samples=samples, token_type=token_type, ranks=self.ranks, group_size=self.group_size)
            )

    def _checks(self) -> bool:
        return self.training and self.refuses_nonfinite and not torch.compiler.is_compiling()

    @property
    def expert_groups(self) -> int:
        """Neighbours in the expert index form this many groups of equal size, which surgery keeps equal."""
        return 1

    def set_num_experts(self, num_experts: int) -> None:
        """Told when the tensors of :attr:`expert_axes` were replaced by those of ``num_experts`` experts.

        Routers with further state that depends on the number extend it.

        Raises:
            ConfigError: The router's other arguments do not allow this number.
        """
        if num_experts < self.top_k:
            raise ConfigError(f"{num_experts} experts are too few: the router gives a token top_k={self.top_k}.")
        self.num_experts = num_experts
        self._check_group()

    def flops(self, routing: Routing) -> int:
        """FLOPs (2 x multiply-adds of the matrix products) of making ``routing``: each matrix once per token."""
        return 2 * routing.num_tokens * sum(p.numel() for p in self.parameters() if p.dim() > 1)

    def extra_repr(self) -> str:
        return f"{self.dim}, num_experts={self.num_experts}, top_k={self.top_k}, normalize={self.normalize}"


def linear_weight(num_experts: int, dim: int) -> nn.Parameter:
    """(E, D) weight of a linear router, small enough to start with nearly even probabilities."""
    weight = nn.Parameter(torch.empty(num_experts, dim))
    nn.init.trunc_normal_(weight, std=0.02)
    return weight


def first_choices(score_TE: Tensor, top_k: int) -> Tensor:
    """(T, K) the experts of the highest scores, best first; ties go to the lowest index."""
    # A stable sort, not topk, whose order among equals is unspecified.
    return score_TE.detach().sort(dim=-1, descending=True, stable=True).indices[:, :top_k]


def shares(weight_TK: Tensor) -> Tensor:
    """Each token's weights divided by their sum; where that is zero they stay zero."""
    return weight_TK / weight_TK.sum(-1, keepdim=True).clamp_min(torch.finfo(weight_TK.dtype).tiny)


def _check_factors(router: Router) -> None:
    """Refuse a factor, or a rule, that has no effect."""
    factor, rule = router.capacity_factor, router.capacity_rule
    if not takes_factor(rule):
        for name in ("capacity_factor", "eval_capacity_factor"):
            if getattr(router, name) is not None:
                raise ConfigError(f"{name}={getattr(router, name)!r} does nothing with capacity_rule={rule!r}.")
    elif factor is None and rule != "gshard":
        raise ConfigError(f"capacity_rule={rule!r} does nothing without a capacity_factor.")
    elif factor is None and router.eval_capacity_factor is not None:
        raise ConfigError(
            f"eval_capacity_factor={router.eval_capacity_factor!r} does nothing without a capacity_factor."
        )


def _check_available(available_TE: Tensor) -> None:
    if torch.compiler.is_compiling() or not has_values(available_TE):
        return
    if not bool(available_TE.any(-1).all()):
        raise InputError("available leaves a token without any expert: each needs at least one.")
