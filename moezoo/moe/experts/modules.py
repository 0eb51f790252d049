"""Experts that are modules of anyone's, of equal or unequal size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from moezoo.errors import ConfigError, InputError
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.flops import FLOP_FORMULAS
from moezoo.moe.paths.static import rows_by_expert


class ModuleExperts(Experts):
    """One module per expert, rows in, rows out: (n, D) to (n, D).

    A module without rows is not called, and has zero gradients. Tracing (``torch.compile``, ``torch.export``) takes
    the path ``static``, where every module is called, with a number of rows known only at run time: modules that ask
    for that number (BatchNorm) cannot be traced.

    Args:
        modules: The experts. They become part of these, not copies of them.
        make: Called with 0 to E - 1 in place of ``modules``; returns each expert.
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
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__(dim, hidden_dim, num_experts)
        if activation != "gelu" or dropout:
            raise ConfigError(
                f"activation={activation!r} and dropout={dropout!r} are not allowed with modules as experts, which "
                "have their own: leave them out."
            )
        if (modules is None) == (make is None):
            raise ConfigError("experts 'modules' take either modules or make: one of them must be given.")
        if make is not None and not callable(make):
            raise ConfigError(f"make={make!r} is not allowed: it must be a function of the expert's number.")
        self.members = nn.ModuleList(_checked([make(e) for e in range(num_experts)] if make else modules, num_experts))

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        return self._static(x_ND, plan) if plan.static else self._loop(x_ND, plan)

    def _loop(self, x_ND: Tensor, plan: Plan) -> Tensor:
        done, idle = [], x_ND[:0]
        for e, (member, x) in enumerate(zip(self.members, x_ND.split(plan.sizes), strict=True)):
            if len(x):
                done.append(self._call(e, member, x))
            else:
                idle = idle + _nothing(member)
        return torch.cat([*done, idle.to(done[0].dtype)]) if done else idle

    def _static(self, x_ND: Tensor, plan: Plan) -> Tensor:
        rows = rows_by_expert(plan)
        done = [self._call(e, m, x_ND.index_select(0, rows[e])) for e, m in enumerate(self.members)]
        dtype = functools.reduce(torch.promote_types, [y.dtype for y in done])
        y_ND = torch.zeros_like(x_ND, dtype=dtype)
        for row, y in zip(rows, done, strict=True):
            y_ND = y_ND.index_add(0, row, y.to(dtype))
        return y_ND

    def _call(self, e: int, member: nn.Module, x: Tensor) -> Tensor:
        y = member(x)
        fits = isinstance(y, Tensor) and y.dim() == 2 and y.shape[1] == self.dim
        # While tracing, how many rows there are is unknown.
        if not fits or (not torch.compiler.is_compiling() and len(y) != len(x)):
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InputError(
                f"expert {e} ({type(member).__name__}) must give (n, {self.dim}) for n = {len(x)} such rows, got {got}"
            )
        return y

    def flops(self, rows: Sequence[int]) -> int:
        return sum(_flops(member, n, self.dim) for member, n in zip(self.members, rows, strict=True) if n)

    def expert_parameters(self) -> list[int]:
        return [sum(p.numel() for p in member.parameters()) for member in self.members]

    def extra_repr(self) -> str:
        return f"{self.num_experts} modules of width {self.dim}"


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
    """Counted by torch on tensors without values, so that nothing is computed or changed."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    empty = {name: torch.empty_like(t, device="meta") for name, t in state.items()}
    x = torch.empty(
        rows, dim, device="meta", dtype=next((t.dtype for t in state.values() if t.is_floating_point()), None)
    )
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        functional_call(module, empty, (x,))
    return counter.get_total_flops()
