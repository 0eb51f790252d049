"""The experts alone: one of fixed width, and one that uses as much of its width as an input needs."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.models.multiscale_moe.fusion.features import as_rows
from moezoo.moe import MoELayer
from moezoo.moe.checks import check_choice, check_int, check_positive, check_probability
from moezoo.moe.experts.mlp_expert import RESIDUALS, check_residual
from moezoo.moe.types import Routing


class ExpertNetwork(nn.Module):
    """``num_layers`` times Linear, LayerNorm, GELU and dropout, with a residual connection around them.

    With two layers it is one of the experts of :class:`MultiScaleMoE`.

    Args:
        input_dim: Width of x.
        hidden_dim: Width between the layers.
        output_dim: Width of the result.
        num_layers: At least 1; one has no hidden units.
        dropout: In training.
        residual: What is added: ``linear`` a linear map of x, ``identity`` x itself.

    Raises:
        ConfigError: An argument is out of range, or ``identity`` between unequal widths.
    """

    def __init__(
        self,
        input_dim: int = 512,
        hidden_dim: int = 1024,
        output_dim: int = 512,
        num_layers: int = 2,
        dropout: float = 0.1,
        residual: str = "linear",
    ):
        super().__init__()
        self.input_dim = check_int("input_dim", input_dim, low=1)
        hidden_dim = check_int("hidden_dim", hidden_dim, low=1)
        self.output_dim = check_int("output_dim", output_dim, low=1)
        check_int("num_layers", num_layers, low=1)
        check_probability("dropout", dropout)
        self.residual = check_residual(check_choice("residual", residual, RESIDUALS), input_dim, output_dim)
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        blocks = [
            part
            for before, after in itertools.pairwise(widths)
            for part in (nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(dropout))
        ]
        self.expert = nn.Sequential(*blocks)
        self.residual_proj = nn.Linear(input_dim, output_dim) if residual == "linear" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., ``input_dim``) to (..., ``output_dim``).

        Raises:
            InputError: The width does not fit.
        """
        rows = as_rows(x, self.input_dim, self)
        return (self.expert(rows) + self.residual_proj(rows)).reshape(*x.shape[:-1], self.output_dim)


class AdaptiveExpertNetwork(nn.Module):
    """An expert whose hidden width follows the input: easy ones use the first units only, hard ones all of them.

    The ``int(input_dim * complexity_ratio)`` hidden units are cut into slices. A small network rates the complexity of
    an input, which says how many slices, from the first on, are computed for it (router ``complexity``); the others are
    not. It learns from the task what more units are worth, and from ``price`` (in :func:`moezoo.aux_loss`) what they
    cost. In training the last slice counts in part, so that the gradient is a true one.

    Args:
        input_dim: Width of x.
        output_dim: Width of the result.
        complexity_ratio: Hidden units at most, in units of ``input_dim``.
        num_slices: Steps in which the width grows, at least 2; the first is always computed.
        price: Loss per slice used.
        dropout: In training.
        residual: What is added: ``linear`` a linear map of x, ``identity`` x itself.

    Raises:
        ConfigError: An argument is out of range, or there are fewer hidden units than slices.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        complexity_ratio: float = 2.0,
        *,
        num_slices: int = 4,
        price: float = 0.01,
        dropout: float = 0.1,
        residual: str = "linear",
    ):
        super().__init__()
        self.input_dim = check_int("input_dim", input_dim, low=1)
        self.output_dim = check_int("output_dim", output_dim, low=1)
        self.hidden_dim = int(input_dim * check_positive("complexity_ratio", complexity_ratio))
        check_int("num_slices", num_slices, low=2)
        if self.hidden_dim < num_slices:
            raise ConfigError(
                f"num_slices={num_slices} is not allowed: input_dim={input_dim} times complexity_ratio="
                f"{complexity_ratio:g} makes only {self.hidden_dim} hidden units."
            )
        check_probability("dropout", dropout)
        self.residual = check_residual(check_choice("residual", residual, RESIDUALS), input_dim, output_dim)
        each, more = divmod(self.hidden_dim, num_slices)
        self.slice_dims = tuple(each + (i < more) for i in range(num_slices))
        self.moe = MoELayer(
            input_dim,
            num_experts=num_slices,
            router="complexity",
            router_args={"ranked": False},
            expert="modules",
            expert_args={"make": lambda i: _slice(input_dim, self.slice_dims[i], output_dim, dropout, bias=i == 0)},
            out_dim=output_dim,
            aux_weights={"compute_budget": check_positive("price", price, zero=True)},
            aux_args={"compute_budget": {"costs": [1.0] * num_slices}},
        )
        self.norm = nn.LayerNorm(output_dim)
        self.act = nn.GELU()
        self.drop = nn.Dropout(dropout)
        self.residual_proj = nn.Linear(input_dim, output_dim) if residual == "linear" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., ``input_dim``) to (..., ``output_dim``).

        Raises:
            InputError: The width does not fit.
        """
        mixed = self.moe(as_rows(x, self.input_dim, self)).reshape(*x.shape[:-1], self.output_dim)
        return self.drop(self.act(self.norm(mixed))) + self.residual_proj(x)

    def hidden_units(self, x: Tensor) -> Tensor:
        """(...) int64: how many hidden units are computed for each input."""
        routing: Routing = self.moe.router(as_rows(x, self.input_dim, self))
        used_TE = routing.weight_by_expert() > 0
        units_E = used_TE.new_tensor(self.slice_dims, dtype=routing.token_index.dtype)
        return (used_TE * units_E).sum(-1).reshape(x.shape[:-1])


def _slice(input_dim: int, hidden_dim: int, output_dim: int, dropout: float, *, bias: bool) -> nn.Module:
    """A part of a two-layer MLP; one of them has the bias of the sum."""
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_dim, output_dim, bias=bias)
    )
