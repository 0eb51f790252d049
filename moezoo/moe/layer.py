"""The MoE layer: router → plan → experts → combine, plus shared experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError
from moezoo.moe.aux_calls import AuxCalls, check_aux_args, check_aux_weights
from moezoo.moe.call_inputs import available_experts, by_source, token_scores, token_types
from moezoo.moe.checks import check_choice, check_int
from moezoo.moe.dispatch import make_plan
from moezoo.moe.dispatch.capacity_rules import CapacityRule
from moezoo.moe.dispatch.travel import Travel
from moezoo.moe.experts import SharedExperts, Sources, build_experts
from moezoo.moe.experts.sources import own_sources
from moezoo.moe.fits import check_router_fits
from moezoo.moe.routers import build_router
from moezoo.moe.tracing import recomputing
from moezoo.moe.types import Routing


class MoELayer(nn.Module):
    """A sparse mixture of experts, (..., D) to (..., D) or (..., ``out_dim``), usable in anyone's network.

    Args:
        dim: Token width D.
        num_experts: Routed experts E. With 1 the layer equals a dense MLP scaled by its gate of 1.
        top_k: Experts per token K.
        router: A registered router's name (``softmax_topk``, …).
        expert: A registered kind of experts (``mlp``, ``glu``, …).
        hidden_dim: Hidden width of an expert; ``None`` means ``4 * dim``.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``relu`` or ``silu``.
        num_shared_experts: Always-on experts M, each behind its own sigmoid gate.
        normalize: Whether a token's K weights sum to one; ``None`` means ``top_k > 1``.
        capacity_factor: ``None`` is dropless; see :class:`~moezoo.moe.routers.Router`.
        capacity_rule: How the factor becomes a capacity: ``gshard``, ``vmoe``, ``tutel``, ``megablocks`` or
            ``lucidrains``, or an object such as a ``RoundedCapacity``; see :class:`~moezoo.moe.routers.Router`.
        eval_capacity_factor: The factor in evaluation; ``None`` means the same.
        group_size: So many neighbouring tokens share capacities, losses, and what is picked or mixed by expert choice
            and soft routing; see :class:`~moezoo.moe.routers.Router`.
        dispatch_dtype: What routed experts are given and what they give is rounded to this type (``bfloat16``,
            ``float16``) and back, as if it had travelled in it; nothing else is. ``None`` rounds nothing.
        path: How the experts are computed, one of :mod:`moezoo.moe.paths`: ``auto`` takes the fastest for the device,
            dtype and shape of each call.
        dropout: On the experts' hidden units, in training.
        router_args: Further arguments of the router, for example ``{"noise_std": 1.0}``.
        expert_args: Further arguments of the experts, for example ``{"rank": 8}``.
        aux_weights: Auxiliary losses and their weights, by default ``{"load_balancing": 0.01, "router_z": 0.001}``.
            :func:`moezoo.aux_loss` sums them over the model.
        aux_args: Arguments of these losses, for example ``{"compute_budget": {"target": 0.25}}``.
        aux_loss: ``collected`` leaves it to the training loop to add :func:`moezoo.aux_loss`. ``attached`` adds their
            gradient in the backward pass, so that any loop trains right; in a model with several MoE layers use
            :func:`moezoo.moe.set_aux_mode`, which counts them: alone a layer takes itself for the only one.
        out_dim: What the experts give, where it is not D: for experts that are ``modules``.
        layer_reduction: In a model with several MoE layers, ``mean`` or ``sum`` of this layer's losses with theirs.

    Raises:
        ConfigError: An argument is unknown or out of range.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_experts: int,
        top_k: int = 1,
        router: str = "softmax_topk",
        expert: str = "mlp",
        hidden_dim: int | None = None,
        activation: str = "gelu",
        num_shared_experts: int = 0,
        normalize: bool | None = None,
        capacity_factor: float | None = None,
        capacity_rule: str | CapacityRule = "gshard",
        eval_capacity_factor: float | None = None,
        group_size: int | None = None,
        dispatch_dtype: str | None = None,
        path: str = "auto",
        dropout: float = 0.0,
        router_args: Mapping[str, Any] | None = None,
        expert_args: Mapping[str, Any] | None = None,
        aux_weights: Mapping[str, float] | None = None,
        aux_loss: str = "collected",
        layer_reduction: str = "mean",
        aux_args: Mapping[str, Mapping[str, Any]] | None = None,
        out_dim: int | None = None,
    ):
        super().__init__()
        self.dim = check_int("dim", dim, low=1)
        hidden_dim = 4 * dim if hidden_dim is None else check_int("hidden_dim", hidden_dim, low=1)
        self.router = build_router(
            router,
            dim,
            num_experts,
            top_k=top_k,
            normalize=normalize,
            capacity_factor=capacity_factor,
            capacity_rule=capacity_rule,
            eval_capacity_factor=eval_capacity_factor,
            group_size=group_size,
            router_args=router_args,
        )
        self.experts = build_experts(
            expert,
            dim,
            hidden_dim,
            num_experts,
            activation=activation,
            dropout=dropout,
            out_dim=out_dim,
            expert_args=expert_args,
        )
        weights = check_aux_weights(aux_weights)
        check_router_fits(router, self.router, expert, self.experts, weights)
        self.travel = Travel(dispatch_dtype)
        self.path = check_choice("path", path, ("auto", *self.experts.paths))
        self.shared: SharedExperts | None = None
        if check_int("num_shared_experts", num_shared_experts, low=0):
            if self.experts.out_dim != dim:
                raise ConfigError(
                    f"num_shared_experts={num_shared_experts} is not allowed with out_dim={out_dim}: shared experts "
                    f"give width {dim}."
                )
            self.shared = SharedExperts(
                dim, hidden_dim, num_shared_experts, activation=activation, dropout=dropout, gated=self.experts.gated
            )
        self.aux = AuxCalls(weights, aux_loss, layer_reduction, check_aux_args(aux_args, weights, num_experts))

    @property
    def num_experts(self) -> int:
        return self.router.num_experts

    @property
    def out_dim(self) -> int:
        return self.experts.out_dim

    @property
    def top_k(self) -> int:
        return self.router.top_k

    def forward(
        self,
        x: Tensor,
        *,
        token_type: Tensor | None = None,
        scores: Tensor | None = None,
        available: Tensor | None = None,
        sources: Sources | None = None,
        note: Callable[[Routing], None] | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The mixture of every token.

        Args:
            x: (..., D). With three axes or more the first one is the sample, else all tokens are of one sample.
            token_type: (...) int64 kind of each token, for routers that go by it.
            scores: (...) in (0, 1) of each token, for routers that take scores (``score_threshold``).
            available: (..., E) bool, the experts a token may have (whose modality is there, one at least), for routers
                that can leave some out (``mlp_gate``, ``hierarchical``): the others weigh nothing and are not computed.
            sources: Where each expert's rows come from instead of ``x``, which then only the router sees. Either
                (E, ..., ``in_dim``), the rows of all tokens for each expert; or for each expert a function of (n,)
                token indices, or of ``None`` for all tokens in their order, that gives (n, ``in_dim``), or ``None`` for
                rows of ``x``. So what only some tokens need is only made for those. After surgery each expert reads
                what it did; sources, columns of ``available`` and weights are then still as many as before.
            note: Is told the routing, unless this is a recomputation.
            return_weights: Give the weights too.

        Returns:
            (..., ``out_dim``); with ``return_weights`` also (..., E) the weight of each expert for each token, 0 where
            it is not computed, with the router's gradient.

        Raises:
            InputError: A shape or type does not fit.
        """
        if x.dim() < 2 or x.shape[-1] != self.dim:
            raise InputError(f"MoELayer takes (..., {self.dim}), got {tuple(x.shape)}")
        if token_type is not None:
            token_type = token_types(token_type, x)
        extra = {} if scores is None else {"scores": token_scores(scores, x)}
        if available is not None:
            extra["available"] = available_experts(available, x, self.experts)
        if sources is None and self.experts.dim != self.dim:
            raise InputError(f"the experts take rows of width {self.experts.dim}, not {self.dim}: pass sources=")
        self.experts.check_input(x.shape)
        x_TD = x.reshape(-1, self.dim)
        routing = self.router(x_TD, samples=x.shape[0] if x.dim() > 2 else 1, token_type=token_type, **extra)
        if note is not None and not recomputing():
            note(routing)
        plan = make_plan(routing, self._path(x_TD, routing))
        if sources is None:
            rows_ND = plan.gather(self.travel(x_TD))
            if routing.slots is None:
                rows_ND = self.travel(rows_ND)  # the same numbers, whose gradients are rounded row by row
            y_ND = self.travel(self.experts(rows_ND, plan))
        else:
            sources = self.travel.refuse_sources(own_sources(sources, self.experts))
            if isinstance(sources, Tensor) and sources.shape[1 : x.dim()] == x.shape[:-1]:
                sources = sources.flatten(1, x.dim() - 1)
            y_ND = self.experts.from_sources(x_TD, plan, sources)
        if self.training:
            self.aux.add(routing, lambda: plan.by_token(y_ND))
        out_TD = plan.combine(y_ND)
        if self.shared is not None:
            out_TD = out_TD + self.shared(x_TD)
        if self.training:
            out_TD = self.aux.attach(out_TD, routing, lambda: plan.by_token(y_ND))
        out = out_TD.reshape(*x.shape[:-1], self.out_dim)
        if not return_weights:
            return out
        return out, by_source(routing.weight_by_expert(), self.experts).unflatten(0, x.shape[:-1])

    def _path(self, x_TD: Tensor, routing: Routing) -> str:
        return self.experts.choose_path(x_TD, routing) if self.path == "auto" else self.path

    def flops(self, routing: Routing) -> int:
        """Forward FLOPs (2 x multiply-adds) that ``routing`` costs, by formula: router, chosen experts, shared experts.

        A routing without values (meta or fake tensors) counts as if nothing was dropped and all experts got equally
        many tokens: for experts of equal cost the upper bound.
        """
        shared = routing.num_tokens * self.shared.flops_per_row() if self.shared is not None else 0
        return self.router.flops(routing) + self.experts.routed_flops(routing) + shared

    def inactive_parameters(self) -> int:
        """Parameters of the routed experts that a token does not use; of experts of unequal size, on average."""
        return sum(self.experts.expert_parameters()) * (self.num_experts - self.top_k) // self.num_experts

    def extra_repr(self) -> str:
        return f"path={self.path!r}, aux={self.aux.weights}"
