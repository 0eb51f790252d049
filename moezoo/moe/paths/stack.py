"""What every path is given of its experts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.paths.packs import PackCache


class MLPStack(NamedTuple):
    """E two-layer MLPs: ``w_out hidden(w_in x + b_in) + b_out`` each."""

    w_in: Tensor
    """(E, H, D); of a gated MLP (E, 2H, D), the gate's rows first."""
    b_in: Tensor
    """(E, H) or (E, 2H)."""
    w_out: Tensor
    """(E, D, H)."""
    b_out: Tensor
    """(E, D)."""
    activation: str
    gated: bool
    dropout: float = 0.0
    """On the hidden units; 0 outside training."""
    packs: PackCache | None = None
    """Where inference keeps reordered weights; ``None`` in training."""

    def hidden(self, h: Tensor) -> Tensor:
        """(…, H): the nonlinearity between the two products, with dropout."""
        act = ACTIVATIONS[self.activation]
        if self.gated:
            gate, up = h.chunk(2, dim=-1)
            h = act(gate) * up
        else:
            h = act(h)
        return F.dropout(h, self.dropout) if self.dropout else h

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.w_in, self.b_in, self.w_out, self.b_out

    def learns(self, x: Tensor) -> bool:
        """Whether gradients are wanted, of ``x`` or of the weights."""
        return torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in self.weights))

    def cast(self, dtype: torch.dtype) -> MLPStack:
        """With weights of ``dtype``, for products that know no autocast."""
        return self._replace(**{name: getattr(self, name).to(dtype) for name in ("w_in", "b_in", "w_out", "b_out")})


def autocasts(x: Tensor) -> bool:
    """Whether products of ``x`` would be autocast."""
    return not x.is_meta and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What ``F.linear`` would compute ``x`` in."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x) else x.dtype
