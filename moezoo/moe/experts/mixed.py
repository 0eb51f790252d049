"""Experts of several kinds and sizes side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_int
from moezoo.moe.experts.mlp_expert import MLPExpert, ResidualMLPExpert
from moezoo.moe.experts.modules import ModuleExperts
from moezoo.moe.experts.zero_computation import ConstantExpert, CopyExpert, ZeroExpert

MLP_KINDS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLPExpert,
    "glu": lambda *args, **shared: MLPExpert(*args, gated=True, **shared),
    "residual_mlp": ResidualMLPExpert,
}
FREE_KINDS: dict[str, Callable[[int], nn.Module]] = {
    "zero": lambda dim: ZeroExpert(),
    "copy": lambda dim: CopyExpert(),
    "constant": ConstantExpert,
}
KINDS = (*MLP_KINDS, *FREE_KINDS)


class MixedExperts(ModuleExperts):
    """A kind and a hidden width for each expert.

    Args:
        kinds: One for each expert: ``mlp``, ``glu``, ``residual_mlp``, or one that computes nearly nothing: ``zero``
            gives 0, ``copy`` gives x, ``constant`` a learned mixture of x and a vector. ``None`` means ``mlp`` for all.
        hidden_dims: One for each expert; ``None`` in it, or for it, means ``hidden_dim``. Experts without hidden
            units have ``None``.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``relu`` or ``silu``.
        dropout: On the hidden units, in training.

    Raises:
        ConfigError: An argument is out of range, or not one for each expert.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        kinds: Sequence[str] | None = None,
        hidden_dims: Sequence[int | None] | None = None,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        each_kind = ["mlp"] * num_experts if kinds is None else _one_each("kinds", kinds, num_experts)
        each_hidden = (
            [None] * num_experts if hidden_dims is None else _one_each("hidden_dims", hidden_dims, num_experts)
        )
        members = []
        for kind, hidden in zip(each_kind, each_hidden, strict=True):
            if check_choice("kinds", kind, KINDS) in FREE_KINDS:
                if hidden is not None:
                    raise ConfigError(f"hidden_dims: {hidden!r} is not allowed for kind {kind!r}: it must be None.")
                members.append(FREE_KINDS[kind](dim))
            else:
                width = hidden_dim if hidden is None else check_int("hidden_dims", hidden, low=1)
                members.append(MLP_KINDS[kind](dim, width, activation=activation, dropout=dropout))
        super().__init__(dim, hidden_dim, num_experts, modules=members)
        self.kinds = each_kind

    def extra_repr(self) -> str:
        return f"kinds={self.kinds}"


def _one_each(name: str, values: object, num_experts: int) -> list:
    if not isinstance(values, (list, tuple)) or len(values) != num_experts:
        raise ConfigError(f"{name}={values!r} is not allowed: it must be a list of {num_experts}, one for each expert.")
    return list(values)
