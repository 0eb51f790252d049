"""The MoE layer: router → plan → experts → combine, plus shared experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError
from moezoo.moe.aux_calls import AuxCalls, check_aux_args, check_aux_weights
from moezoo.moe.checks import check_choice, check_int
from moezoo.moe.dispatch import make_plan
from moezoo.moe.experts import RowSource, SharedExperts, build_experts
from moezoo.moe.routers import Router, build_router
from moezoo.moe.routers.per_image import PerImageRouter
from moezoo.moe.types import Routing, recomputing


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
            ``lucidrains``; see :class:`~moezoo.moe.routers.Router`.
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
        capacity_rule: str = "gshard",
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
        if self.experts.whole_maps and not _keeps_maps_whole(self.router):
            why = (
                "it mixes tokens. Allowed: 'per_image' and 'dense_softmax'"
                if self.router.mixes_tokens
                else "it may send the tokens of a map to different experts. Allowed: 'per_image', 'dense_softmax' and "
                "routers with top_k = num_experts"
            )
            raise ConfigError(
                f"router={router!r} is not allowed with expert={expert!r}, whose experts take whole maps: {why}, all "
                "without capacity_factor."
            )
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
        weights = check_aux_weights(aux_weights)
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
        sources: Sequence[RowSource | None] | None = None,
        note: Callable[[Routing], None] | None = None,
    ) -> Tensor:
        """The mixture of every token.

        Args:
            x: (..., D). With three axes or more the first one is the sample, else all tokens are of one sample.
            token_type: (...) int64 kind of each token, for routers that go by it.
            scores: (...) in (0, 1) of each token, for routers that take scores (``score_threshold``).
            sources: For experts that are ``modules``, where each one's rows come from instead of ``x``: a function of
                (n,) token indices, or of ``None`` for all tokens in their order, that gives (n, ``in_dims[e]``); or
                ``None`` for rows of ``x``. So what only some tokens need is only made for those.
            note: Is told the routing, unless this is a recomputation.

        Raises:
            InputError: A shape or type does not fit.
        """
        if x.dim() < 2 or x.shape[-1] != self.dim:
            raise InputError(f"MoELayer takes (..., {self.dim}), got {tuple(x.shape)}")
        if token_type is not None:
            if token_type.shape != x.shape[:-1] or token_type.dtype != torch.int64:
                raise InputError(
                    f"token_type must be int64 {tuple(x.shape[:-1])}, a kind for every token, got "
                    f"{token_type.dtype} {tuple(token_type.shape)}"
                )
            token_type = token_type.reshape(-1)
        if scores is not None:
            if scores.shape != x.shape[:-1] or not scores.is_floating_point():
                raise InputError(
                    f"scores must be floating-point {tuple(x.shape[:-1])}, one for every token, got {scores.dtype} "
                    f"{tuple(scores.shape)}"
                )
            scores = scores.reshape(-1)
        self.experts.check_input(x.shape)
        x_TD = x.reshape(-1, self.dim)
        extra = {} if scores is None else {"scores": scores}
        routing = self.router(x_TD, samples=x.shape[0] if x.dim() > 2 else 1, token_type=token_type, **extra)
        if note is not None and not recomputing():
            note(routing)
        if self.training:
            self.aux.add(routing)
        plan = make_plan(routing, self._path(x_TD, routing))
        if sources is None:
            y_ND = self.experts(plan.gather(x_TD), plan)
        else:
            y_ND = self.experts.from_sources(x_TD, plan, sources)
        out_TD = plan.combine(y_ND)
        if self.shared is not None:
            out_TD = out_TD + self.shared(x_TD)
        if self.training:
            out_TD = self.aux.attach(out_TD, routing)
        return out_TD.reshape(*x.shape[:-1], self.out_dim)

    def _path(self, x_TD: Tensor, routing: Routing) -> str:
        return self.experts.choose_path(x_TD, routing) if self.path == "auto" else self.path

    def flops(self, routing: Routing) -> int:
        """Forward FLOPs (2 x multiply-adds) that ``routing`` costs, by formula: router, chosen experts, shared experts.

        A routing without values (meta or fake tensors) counts as if nothing was dropped and all experts got equally
        many tokens: for experts of equal cost the upper bound.
        """
        shared = routing.num_tokens * self.shared.flops_per_row() if self.shared is not None else 0
        return self.router.flops(routing) + self.experts.flops(routing.expert_rows()) + shared

    def inactive_parameters(self) -> int:
        """Parameters of the routed experts that a token does not use; of experts of unequal size, on average."""
        return sum(self.experts.expert_parameters()) * (self.num_experts - self.top_k) // self.num_experts

    def extra_repr(self) -> str:
        return f"path={self.path!r}, aux={self.aux.weights}"


def _keeps_maps_whole(router: Router) -> bool:
    """Whether all tokens of a sample get the same experts."""
    everywhere = router.top_k == router.num_experts or isinstance(router, PerImageRouter)
    return everywhere and router.capacity_factor is None and not router.mixes_tokens
