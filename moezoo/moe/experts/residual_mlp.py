"""MLP experts with norms inside and a residual connection of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.checks import check_choice, check_int, check_positive, check_probability
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.by_expert import PATHS, linear_by_expert
from moezoo.moe.experts.mlp_expert import RESIDUALS, check_residual
from moezoo.moe.experts.stacked import init_linear_
from moezoo.moe.paths.batched import padded, unpadded
from moezoo.moe.paths.packs import KeepsPacks, PackCache, Stacks
from moezoo.moe.paths.products import inferred, pays, product
from moezoo.moe.paths.stack import compute_dtype
from moezoo.moe.paths.static import without_dropped
from moezoo.moe.tracing import has_values
from moezoo.moe.types import Routing

MANY = 2**15
"""Hidden units that an expert computes from which one expert after the other, whose rows then stay in the cache, is
faster than a call for all of them."""


class ResidualMLP(KeepsPacks, Experts):
    """``drop(act(norm2(w_out drop(act(norm1(w_in x + b_in))) + b_out))) + r (w_res x + b_res)`` per expert.

    Args:
        residual: ``linear`` is the above, ``identity`` adds ``r x``.
        residual_weight: r; 0 adds nothing, and there is no ``w_res`` then.
        in_dim: Width of an expert's rows, where they come from a source of their own
            (``MoELayer.forward(x, sources=…)``); ``None`` means D.
        out_dim: Width of what the experts give; ``None`` means that of their rows.
        eps: Of the norms.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``relu`` or ``silu``.
        dropout: After both activations, in training.

    Raises:
        ConfigError: An argument is out of range, or ``identity`` is asked of experts of unequal widths.
    """

    paths = (*PATHS, "batched", "packed")
    stacked = True

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        residual: str = "linear",
        residual_weight: float = 1.0,
        in_dim: int | None = None,
        out_dim: int | None = None,
        eps: float = 1e-5,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__(dim if in_dim is None else check_int("in_dim", in_dim, low=1), hidden_dim, num_experts)
        self._out_dim = self.dim if out_dim is None else check_int("out_dim", out_dim, low=1)
        self.residual_weight = check_positive("residual_weight", residual_weight, zero=True)
        self.residual = check_residual(check_choice("residual", residual, RESIDUALS), self.dim, self._out_dim)
        self.eps = check_positive("eps", eps)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.dropout = check_probability("dropout", dropout)
        E, H, D, out = num_experts, hidden_dim, self.dim, self._out_dim
        self.w_in = nn.Parameter(torch.empty(E, H, D))
        self.b_in = nn.Parameter(torch.empty(E, H))
        self.norm1_weight = nn.Parameter(torch.ones(E, H))
        self.norm1_bias = nn.Parameter(torch.zeros(E, H))
        self.w_out = nn.Parameter(torch.empty(E, out, H))
        self.b_out = nn.Parameter(torch.empty(E, out))
        self.norm2_weight = nn.Parameter(torch.ones(E, out))
        self.norm2_bias = nn.Parameter(torch.zeros(E, out))
        init_linear_(self.w_in, self.b_in)
        init_linear_(self.w_out, self.b_out)
        self.w_res: nn.Parameter | None = None
        self.b_res: nn.Parameter | None = None
        if residual == "linear" and self.residual_weight:
            self.w_res = nn.Parameter(torch.empty(E, out, D))
            self.b_res = nn.Parameter(torch.empty(E, out))
            init_linear_(self.w_res, self.b_res)

        self.packs = PackCache()

    @property
    def out_dim(self) -> int:
        return self._out_dim

    @property
    def stacks(self) -> tuple[Tensor, ...]:
        """In the order of :meth:`one`."""
        stacks = [self.w_in, self.b_in, self.norm1_weight, self.norm1_bias]
        stacks += [self.w_out, self.b_out, self.norm2_weight, self.norm2_bias]
        return (*stacks, *(p for p in (self.w_res, self.b_res) if p is not None))

    def choose_path(self, x_TD: Tensor, routing: Routing) -> str:
        T = x_TD.shape[0]  # len() would fix it in an exported graph
        if self.may_pack(x_TD, self.w_in) and pays(T, self.w_in):
            return "packed"
        usual = super().choose_path(x_TD, routing)
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled() or not has_values(x_TD):
            return usual
        return "loop" if x_TD.is_cpu and T * self.hidden_dim >= MANY else usual

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        if plan.path == "batched":
            x_ECD, place_N = padded(x_ND.to(compute_dtype(x_ND)), plan)
            return unpadded(self._batched(x_ECD), place_N)
        if plan.path == "packed":
            return self._packed(x_ND, plan)
        if plan.path == "loop":
            return self._loop(x_ND, plan.sizes, self.stacks)
        x_ND = without_dropped(x_ND, plan)
        h_NH = linear_by_expert(x_ND, self.w_in, self.b_in, plan)
        h_NH = self._norm_act_drop(h_NH, self.norm1_weight, self.norm1_bias, plan)
        y_ND = linear_by_expert(h_NH, self.w_out, self.b_out, plan)
        y_ND = self._norm_act_drop(y_ND, self.norm2_weight, self.norm2_bias, plan)
        if not self.residual_weight:
            return y_ND
        res_ND = x_ND if self.w_res is None else linear_by_expert(x_ND, self.w_res, self.b_res, plan)
        return torch.add(y_ND, res_ND, alpha=self.residual_weight)

    def _packed(self, x_ND: Tensor, plan: Plan) -> Tensor:
        """(N, out), by reordered matrices; where there can be none, as in training, the reference."""
        stacks = self.stacks
        experts = self.packs.get(stacks, x_ND.dtype, _joined) if self.may_pack(x_ND, self.w_in) else None
        if experts is None or not len(x_ND):
            return self._loop(x_ND, plan.sizes, stacks)
        sizes = plan.sizes
        if sizes[0] * self.hidden_dim < MANY and len(set(sizes)) == 1:
            return self._together(x_ND.view(len(sizes), -1, self.dim), experts).flatten(0, 1)
        parts = zip(x_ND.split(sizes), experts, strict=True)
        return torch.cat([self.one(x, *expert) for x, expert in parts if len(x)])

    def _together(self, x_ECD: Tensor, experts: list[tuple[Tensor, ...]]) -> Tensor:
        """(E, C, O): the products one by one, by reordered matrices; all else for all experts at once, as they wait for
        calls more than for numbers."""
        h_ECJ = torch.stack([inferred(x, w[0], w[1]) for x, w in zip(x_ECD.unbind(0), experts, strict=True)])
        h_ECH, res_ECO = _parted(h_ECJ, self.norm1_weight.shape[1])
        h_ECH = self._batched_norm_act_drop(h_ECH, self.norm1_weight, self.norm1_bias)
        y_ECO = torch.stack([inferred(h, w[4], w[5]) for h, w in zip(h_ECH.unbind(0), experts, strict=True)])
        y_ECO = self._batched_norm_act_drop(y_ECO, self.norm2_weight, self.norm2_bias)
        return self._added(y_ECO, x_ECD if res_ECO is None else res_ECO)

    def _loop(self, x_ND: Tensor, sizes: list[int], stacks: tuple[Tensor, ...]) -> Tensor:
        """(N, out): one expert after the other by plain autograd; the reference."""
        # unbind, not indexing: its backward fills idle experts with zeros in one pass over the stack.
        each = zip(x_ND.split(sizes), *(p.unbind(0) for p in stacks), strict=True)
        return torch.cat([self.one(*parts) for parts in each if len(parts[0]) or not len(x_ND)])

    def one(
        self,
        x: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        norm1_weight: Tensor,
        norm1_bias: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        norm2_weight: Tensor,
        norm2_bias: Tensor,
        w_res: Tensor | None = None,
        b_res: Tensor | None = None,
    ) -> Tensor:
        """(n, out) of (n, D): one expert, given its slices of the stacks, or of those that :func:`_joined` made."""
        h, res = _parted(inferred(x, w_in, b_in), len(norm1_weight))
        h = self._one_norm_act_drop(h, norm1_weight, norm1_bias)
        y = self._one_norm_act_drop(inferred(h, w_out, b_out), norm2_weight, norm2_bias)
        if w_res is not None and b_res is not None:
            res = inferred(x, w_res, b_res)
        return self._added(y, x if res is None else res)

    def _one_norm_act_drop(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        h = h.to(weight.dtype)  # of autocast's half precision
        h = ACTIVATIONS[self.activation](F.layer_norm(h, h.shape[-1:], weight, bias, self.eps))
        return F.dropout(h, self.dropout) if self.training else h

    def _norm_act_drop(self, h_NF: Tensor, weight_EF: Tensor, bias_EF: Tensor, plan: Plan) -> Tensor:
        norm_NF = F.layer_norm(h_NF, h_NF.shape[-1:], eps=self.eps)
        # Each row has the scale and shift of its own expert, so that one call norms the rows of all.
        weight_NF, bias_NF = (p.index_select(0, plan.expert_index) for p in (weight_EF, bias_EF))
        h_NF = ACTIVATIONS[self.activation](torch.addcmul(bias_NF, norm_NF, weight_NF))
        return F.dropout(h_NF, self.dropout, self.training)

    def _batched(self, x_ECD: Tensor) -> Tensor:
        """(E, C, O): every operation for all experts at once."""
        h_ECH = product(x_ECD, self.w_in, self.b_in)
        h_ECH = self._batched_norm_act_drop(h_ECH, self.norm1_weight, self.norm1_bias)
        y_ECO = product(h_ECH, self.w_out, self.b_out)
        y_ECO = self._batched_norm_act_drop(y_ECO, self.norm2_weight, self.norm2_bias)
        if self.w_res is None or self.b_res is None:
            return self._added(y_ECO, x_ECD)
        return self._added(y_ECO, product(x_ECD, self.w_res, self.b_res))

    def _added(self, y: Tensor, res: Tensor) -> Tensor:
        return torch.add(y, res, alpha=self.residual_weight) if self.residual_weight else y

    def _batched_norm_act_drop(self, h_ECF: Tensor, weight_EF: Tensor, bias_EF: Tensor) -> Tensor:
        norm_ECF = F.layer_norm(h_ECF, h_ECF.shape[-1:], eps=self.eps)
        h_ECF = ACTIVATIONS[self.activation](torch.addcmul(bias_EF[:, None], norm_ECF, weight_EF[:, None]))
        return F.dropout(h_ECF, self.dropout) if self.training else h_ECF

    def flops(self, rows: Sequence[int]) -> int:
        products = [w for w in (self.w_in, self.w_out, self.w_res) if w is not None]
        return 2 * sum(rows) * sum(w[0].numel() for w in products)

    def extra_repr(self) -> str:
        widths = f"{self.num_experts} x ({self.dim} -> {self.hidden_dim} -> {self.out_dim})"
        return f"{widths}, residual={self.residual!r}, residual_weight={self.residual_weight:g}"


def _joined(stacks: Stacks) -> Stacks:
    """:attr:`ResidualMLP.stacks` with ``w_res`` below ``w_in``: both read the same rows, and one product is faster."""
    w_in, b_in, *others = stacks
    if len(others) > 6:
        *others, w_res, b_res = others
        w_in, b_in = torch.cat([w_in, w_res], 1), torch.cat([b_in, b_res], 1)
    return (w_in, b_in, *others)


def _parted(h: Tensor, hidden: int) -> tuple[Tensor, Tensor | None]:
    """(…, H) hidden units and, of joined matrices, (…, O) of the residual connection."""
    return (h, None) if h.shape[-1] == hidden else (h[..., :hidden], h[..., hidden:])
