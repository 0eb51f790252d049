"""Experts that are modules of anyone's, of equal or unequal size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from moezoo.errors import ConfigError, InputError
from moezoo.moe.checks import check_int
from moezoo.moe.dispatch.base import Plan
from moezoo.moe.dispatch.plan import AssignmentPlan, OneEachPlan
from moezoo.moe.experts.base import Experts, learnt_numbers
from moezoo.moe.experts.sources import Sources, each_source
from moezoo.moe.flops import FLOP_FORMULAS
from moezoo.moe.paths.static import rows_by_expert


class ModuleExperts(Experts):
    """One module per expert, rows in, rows out: (n, D) to (n, D), or to (n, ``out_dim``).

    A module without rows is not called, and has zero gradients; one that gets all tokens may be given the layer's input
    itself, so none may change its rows in place. Tracing (``torch.compile``, ``torch.export``) takes
    the path ``static``, where every module is called, with a number of rows known only at run time: modules that ask
    for that number (BatchNorm) cannot be traced.

    Args:
        modules: The experts. They become part of these, not copies of them.
        make: Called with 0 to E - 1 in place of ``modules``; returns each expert.
        out_dim: The width of what they all give; ``None`` means D.
        in_dims: For each expert the width of its rows, where they come from a source of its own
            (``MoELayer.forward(x, sources=…)``); ``None`` means D for all.
        hidden_dim, activation, dropout: Arguments of every kind, which mean nothing to these: ``hidden_dim`` is that
            of shared experts, the others must be left at their defaults.

    Raises:
        ConfigError: Not E modules are given, or one of them twice.
        InputError: At a call: a module changes the shape of its rows.
    """

    paths = ("loop", "static")

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        modules: Iterable[nn.Module] | None = None,
        make: Callable[[int], nn.Module] | None = None,
        out_dim: int | None = None,
        in_dims: Sequence[int] | None = None,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__(dim, hidden_dim, num_experts)
        if activation != "gelu" or dropout:
            raise ConfigError(
                f"activation={activation!r} and dropout={dropout!r} are not allowed with modules as experts, which "
                "have their own: leave them out."
            )
        self._out_dim = dim if out_dim is None else check_int("out_dim", out_dim, low=1)
        self.in_dims = [dim] * num_experts if in_dims is None else [check_int("in_dims", d, low=1) for d in in_dims]
        if len(self.in_dims) != num_experts:
            raise ConfigError(f"in_dims={in_dims!r} is not allowed: it must hold {num_experts} widths, one per expert.")
        if (modules is None) == (make is None):
            raise ConfigError("experts 'modules' take either modules or make: one of them must be given.")
        if make is not None and not callable(make):
            raise ConfigError(f"make={make!r} is not allowed: it must be a function of the expert's number.")
        self.members = nn.ModuleList(_checked([make(e) for e in range(num_experts)] if make else modules, num_experts))

    @property
    def out_dim(self) -> int:
        return self._out_dim

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        return self._static(x_ND, plan) if plan.static else self._loop(x_ND, plan)

    def from_sources(self, x_TD: Tensor, plan: Plan, sources: Sources) -> Tensor:
        """(N, ``out_dim``). An expert without rows asks its source for none."""
        if not isinstance(plan, AssignmentPlan):
            raise InputError("sources= is not allowed with a router that mixes tokens: a row is no token's")
        given = each_source(sources, x_TD)
        if plan.static:
            rows = rows_by_expert(plan)
            tokens = [plan.token_index.index_select(0, row) for row in rows]
            return self._put(plan, rows, [source(token) for source, token in zip(given, tokens, strict=True)])
        alone = isinstance(plan, OneEachPlan) and plan.sorted_already
        inputs: list[Tensor | None] = []
        for e, (source, token) in enumerate(zip(given, plan.token_index.split(plan.sizes), strict=True)):
            inputs.append(source(None if alone else token) if len(token) else None)
            got = inputs[-1]
            if got is not None and len(got) != len(token):
                raise InputError(f"sources[{e}] must give a row for each of {len(token)} tokens, got {len(got)}")
        return self._join(x_TD, inputs)

    def _loop(self, x_ND: Tensor, plan: Plan) -> Tensor:
        return self._join(x_ND, [x if len(x) else None for x in x_ND.split(plan.sizes)])

    def _join(self, x_ND: Tensor, rows: Sequence[Tensor | None]) -> Tensor:
        """The results of all experts that have rows, one after the other."""
        done, idle = [], x_ND.new_zeros(0, self.out_dim)
        for e, (member, x) in enumerate(zip(self.members, rows, strict=True)):
            if x is not None:
                done.append(self._call(e, member, x))
            else:  # what made the layer's input stays in the graph, too, also where its source was not asked
                idle = idle + _nothing(member) + x_ND[:0].sum()
        if not done:
            return idle
        if len(done) == 1 and not idle.requires_grad:
            return done[0]
        return torch.cat([*done, idle.to(done[0].dtype)])

    def _static(self, x_ND: Tensor, plan: Plan) -> Tensor:
        rows = rows_by_expert(plan)
        return self._put(plan, rows, [x_ND.index_select(0, row) for row in rows])

    def _put(self, plan: Plan, rows: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """The experts' results in the places of their rows; what is nobody's is zero."""
        done = [self._call(e, member, x) for e, (member, x) in enumerate(zip(self.members, inputs, strict=True))]
        dtype = functools.reduce(torch.promote_types, [y.dtype for y in done])
        y_ND = done[0].new_zeros(plan.expert_index.shape[0], self.out_dim, dtype=dtype)
        for row, y in zip(rows, done, strict=True):
            y_ND = y_ND.index_add(0, row, y.to(dtype))
        return y_ND

    def _call(self, e: int, member: nn.Module, x: Tensor) -> Tensor:
        y = member(x)
        fits = isinstance(y, Tensor) and y.dim() == 2 and y.shape[1] == self.out_dim
        # While tracing, how many rows there are is unknown.
        if not fits or (not torch.compiler.is_compiling() and len(y) != len(x)):
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InputError(
                f"expert {e} ({type(member).__name__}) must give (n, {self.out_dim}) for n = {len(x)} rows of shape "
                f"{tuple(x.shape[1:])}, got {got}"
            )
        return y

    def flops(self, rows: Sequence[int]) -> int:
        each = zip(self.members, rows, self.in_dims, strict=True)
        return sum(_flops(member, n, width) for member, n, width in each if n)

    def pair_flops(self) -> list[int]:
        return [getattr(member, "pair_flops", 0) for member in self.members]

    def expert_parameters(self) -> list[int]:
        return [learnt_numbers(member) for member in self.members]

    def extra_repr(self) -> str:
        return f"{self.num_experts} modules, {self.dim} -> {self.out_dim}"


def _checked(modules: Iterable[nn.Module] | None, num_experts: int) -> list[nn.Module]:
    given = list(modules) if isinstance(modules, Iterable) else []
    if len(given) != num_experts or not all(isinstance(m, nn.Module) for m in given):
        raise ConfigError(
            f"modules: {num_experts} modules are needed, one per expert, got "
            f"{[type(m).__name__ for m in given] if given else repr(modules)}."
        )
    for e, module in enumerate(given):
        if any(module is other for other in given[:e]):
            raise ConfigError(f"modules: number {e} is the same module as an earlier one; give each expert its own.")
    return given


def _nothing(module: nn.Module) -> Tensor | float:
    """Zero, with the module's parameters in its graph: summed over none of their numbers."""
    return sum(p.reshape(-1)[:0].sum() for p in module.parameters() if p.requires_grad)


def _flops(module: nn.Module, rows: int, dim: int) -> int:
    """Counted by torch on tensors without values, so that nothing is computed or changed; or as ``row_flops`` says."""
    if (each := getattr(module, "row_flops", None)) is not None:
        return rows * each
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    empty = {name: torch.empty_like(t, device="meta") for name, t in state.items()}
    x = torch.empty(
        rows, dim, device="meta", dtype=next((t.dtype for t in state.values() if t.is_floating_point()), None)
    )
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        functional_call(module, empty, (x,))
    return counter.get_total_flops()
