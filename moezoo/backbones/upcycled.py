"""The module that takes an MLP's place, and how a dense checkpoint loads into it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.backbones.mlps import DenseMLP
from moezoo.backbones.site import Site
from moezoo.moe.layer import MoELayer
from moezoo.moe.upcycling import ExpertInit, spread

PLACES = "moezoo_upcycled"
"""Attribute of a module that held dense MLPs: the paths inside it of what took their places."""


class UpcycledMLP(nn.Module):
    """An MoE layer in the place, and the layout, of the MLP it was made from.

    Args:
        moe: The layer; its experts' weights are set by :meth:`load_dense`.
        dense: What the MLP was.
        init: How experts are made from dense weights, here and when a dense checkpoint is loaded.
        site: Where the tokens lie at the traced image size; ``None`` when they do not lie on a grid.
        before: The MLP's own norm of its input, which stays under its name.
    """

    def __init__(
        self, moe: MoELayer, dense: DenseMLP, init: ExpertInit, site: Site | None, before: nn.Module | None = None
    ):
        super().__init__()
        if dense.before and before is not None:
            self.add_module(dense.before, before)
        self.moe = moe
        self.dense = dense
        self.init = init
        self.site = site

    def forward(self, x: Tensor) -> Tensor:
        if self.dense.before:
            x = getattr(self, self.dense.before)(x)
        x = self.moe(x.movedim(1, -1)).movedim(-1, 1) if self.dense.channels_first else self.moe(x)
        return F.dropout(x, self.dense.out_dropout, self.training)

    def token_geometry(self, shape: tuple[int, ...]) -> tuple[tuple[int, int] | None, int]:
        """Grid and prefix tokens of an input of ``shape``."""
        if len(shape) == 4:
            return ((shape[2], shape[3]) if self.dense.channels_first else (shape[1], shape[2])), 0
        grid = self.site.grid_of(shape) if self.site is not None else None
        return (grid, self.site.prefix_tokens) if self.site is not None and grid is not None else (None, 0)

    def load_dense(self, state: dict[str, Tensor], prefix: str = "") -> bool:
        """Make the experts from the dense weights in ``state``; whether they are all there, in the right shapes."""
        made = self._experts(state, prefix)
        if made is not None:
            self.moe.experts.load_state_dict(made)
        return made is not None

    def fan_out(self, state: dict[str, Any], prefix: str, path: str) -> None:
        """Replace the dense keys under ``prefix`` in a state dict by those of this module, which is at ``path``.

        What no dense checkpoint has (the router) keeps its value.
        """
        made = self._experts(state, prefix)
        own = ".".join(filter(None, (prefix.removesuffix("."), path, "moe.")))
        if made is None or any(key.startswith(own) for key in state):
            return  # not a dense checkpoint of this MLP: loading says what does not fit
        for key in self.dense.keys:
            del state[prefix + key]
        state.update({f"{own}experts.{name}": weight for name, weight in made.items()})
        for name, tensor in self.moe.state_dict().items():
            state.setdefault(own + name, tensor.detach().clone())

    def _experts(self, state: dict[str, Any], prefix: str) -> dict[str, Tensor] | None:
        if any(prefix + key not in state for key in self.dense.keys):
            return None
        weights = self.dense.weights(state, prefix)
        rows = self.dense.hidden_dim * (2 if self.dense.expert == "glu" else 1)
        fits = weights.w_in.shape == (rows, self.dense.dim)
        fits = fits and weights.w_out.shape == (self.dense.dim, self.dense.hidden_dim)
        # Where some parts of a partition were removed or merged, the rest are no partition.
        parts = self.moe.num_experts if self.init.method == "partition" else 1
        fits = fits and self.moe.experts.hidden_dim * parts == self.dense.hidden_dim
        return spread(weights, self.moe.num_experts, self.init) if fits else None

    def extra_repr(self) -> str:
        return f"init={self.init.method!r}, channels_first={self.dense.channels_first}"


def accept_dense(anchor: nn.Module, path: str) -> None:
    """Let ``anchor`` load the keys that it had before an MLP in it was upcycled, at ``path`` (``""``: itself)."""
    if not hasattr(anchor, PLACES):
        setattr(anchor, PLACES, [])
        anchor.register_load_state_dict_pre_hook(fan_out)
    getattr(anchor, PLACES).append(path)


def fan_out(anchor: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The load hook. Importable, so that models pickle."""
    for path in getattr(anchor, PLACES):
        anchor.get_submodule(path).fan_out(state, prefix, path)  # type: ignore[operator]
