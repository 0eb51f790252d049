"""What takes the place of a backbone's MLP, and how a dense checkpoint loads into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.backbones.mlps import DenseMLP
from moezoo.backbones.site import Site
from moezoo.moe.upcycling import DenseWeights

PLACES = "moezoo_upcycled"
"""Attribute of a module that held dense MLPs: the paths inside it of what took their places."""


class InPlaceOfMLP(nn.Module, ABC):
    """What takes the place, and the layout, of an MLP, and loads its dense checkpoints.

    Args:
        inside: What computes (..., D) from (..., D); becomes the child :attr:`child`.
        dense: What the MLP was.
        site: Where the tokens lie at the traced image size; ``None`` when they do not lie on a grid.
        before: The MLP's own norm of its input, which stays under its name.
    """

    child: str

    def __init__(self, inside: nn.Module, dense: DenseMLP, site: Site | None, before: nn.Module | None = None):
        super().__init__()
        if dense.before and before is not None:
            self.add_module(dense.before, before)
        self.add_module(self.child, inside)
        self.dense = dense
        self.site = site

    @property
    def inside(self) -> nn.Module:
        """The child that computes."""
        return getattr(self, self.child)

    def forward(self, x: Tensor) -> Tensor:
        if self.dense.before:
            x = getattr(self, self.dense.before)(x)
        x = self.inside(x.movedim(1, -1)).movedim(-1, 1) if self.dense.channels_first else self.inside(x)
        return F.dropout(x, self.dense.out_dropout, self.training)

    @abstractmethod
    def made_from(self, weights: DenseWeights) -> dict[str, Tensor] | None:
        """The tensors of :attr:`inside` that come from the dense weights; ``None`` if those do not fit."""

    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        """The dense keys with the shapes of their tensors."""
        dense, ones = self.dense, (1, 1) if self.dense.channels_first else ()
        rows = dense.hidden_dim * (2 if dense.expert == "glu" and len(dense.inputs) == 1 else 1)
        shapes = dict.fromkeys(dense.inputs, (rows, dense.dim)) | {dense.output: (dense.dim, dense.hidden_dim)}
        both = {f"{name}.weight": (*shape, *ones) for name, shape in shapes.items()}
        both |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
        return {key: both[key] for key in dense.keys}

    def load_dense(self, state: Mapping[str, Tensor], prefix: str = "") -> bool:
        """Take over the dense weights in ``state``; whether they are all there, in the right shapes."""
        made = self._made(state, prefix)
        if made is not None:
            unknown = self.inside.load_state_dict(made, strict=False).unexpected_keys
            assert not unknown, unknown
        return made is not None

    def fan_out(self, state: dict[str, Any], prefix: str, path: str) -> None:
        """Replace the dense keys under ``prefix`` in a state dict by those of this module, which is at ``path``.

        What no dense checkpoint has (the router) keeps its value.
        """
        made = self._made(state, prefix)
        own = ".".join(filter(None, (prefix.removesuffix("."), path, f"{self.child}.")))
        if made is None or any(key.startswith(own) for key in state):
            return  # not a dense checkpoint of this MLP: loading says what does not fit
        for key in self.dense.keys:
            del state[prefix + key]
        state.update({f"{own}{name}": weight for name, weight in made.items()})
        for name, tensor in self.inside.state_dict().items():
            state.setdefault(own + name, tensor.detach().clone())

    def _made(self, state: Mapping[str, Any], prefix: str) -> dict[str, Tensor] | None:
        if any(prefix + key not in state for key in self.dense.keys):
            return None
        weights = self.dense.weights(state, prefix)
        rows = self.dense.hidden_dim * (2 if self.dense.expert == "glu" else 1)
        fits = weights.w_in.shape == (rows, self.dense.dim)
        fits = fits and weights.w_out.shape == (self.dense.dim, self.dense.hidden_dim)
        return self.made_from(weights) if fits else None


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


def spread_dense(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` of a plain backbone as loading it into ``model``, which was upcycled, would take it."""
    state = dict(state)
    for name, module in model.named_modules():
        if hasattr(module, PLACES):
            fan_out(module, state, f"{name}." if name else "")
    return state


def plain_shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]] | None:
    """Names, shapes and dtypes of what ``model`` was upcycled from; ``None`` if it was not."""
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    found = False
    for name, anchor in model.named_modules():
        for path in getattr(anchor, PLACES, ()):
            prefix = f"{name}." if name else ""
            place: Any = anchor.get_submodule(path)
            inside = ".".join(filter(None, (name, path, place.child))) + "."
            dtype = next(dtype for key, (_, dtype) in shapes.items() if key.startswith(inside))
            shapes = {key: value for key, value in shapes.items() if not key.startswith(inside)}
            shapes |= {prefix + key: (shape, dtype) for key, shape in place.dense_shapes().items()}
            found = True
    return shapes if found else None
