"""The layers of MLP gates before their last: several gates of one size side by side, stacked."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_int, check_positive, check_probability
from moezoo.moe.paths.packs import KeepsPacks, PackCache
from moezoo.moe.paths.products import inferred, pays


class GateLayer(KeepsPacks):
    """``dropout(gelu(norm(W x + b)))`` of each of G gates: (G, T, D), or (T, D) for all alike, to (G, T, H)."""

    def __init__(self, gates: int, in_dim: int, out_dim: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(gates, out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(gates, out_dim))
        self.norm_weight = nn.Parameter(torch.ones(gates, out_dim))
        self.norm_bias = nn.Parameter(torch.zeros(gates, out_dim))
        nn.init.uniform_(self.weight, -(in_dim**-0.5), in_dim**-0.5)
        self.packs = PackCache()

    def forward(self, x: Tensor) -> Tensor:
        if self.may_pack(x, self.weight) and pays(x.shape[-2], self.weight):
            gates = self.packs.get((self.weight, self.bias, self.norm_weight, self.norm_bias), x.dtype)
            if gates is not None:
                return self._packed(x, gates)
        h_GTH = gate_product(x, self.weight, self.bias)
        shape = h_GTH.shape[-1:]
        if len(self.weight) == 1:
            h_GTH = F.layer_norm(h_GTH, shape, self.norm_weight[0].to(x.dtype), self.norm_bias[0].to(x.dtype))
        else:
            scale, shift = self.norm_weight[:, None].to(x.dtype), self.norm_bias[:, None].to(x.dtype)
            h_GTH = torch.addcmul(shift, F.layer_norm(h_GTH, shape), scale)
        h_GTH = F.gelu(h_GTH)
        return F.dropout(h_GTH, self.dropout) if self.training else h_GTH

    def _packed(self, x: Tensor, gates: list[tuple[Tensor, ...]]) -> Tensor:
        """:meth:`forward` in evaluation, one gate after the other, by reordered matrices."""
        each = []
        for x_TD, (weight, bias, scale, shift) in zip(x.expand(len(gates), -1, -1).unbind(0), gates, strict=True):
            each.append(F.gelu(F.layer_norm(inferred(x_TD, weight, bias), bias.shape, scale, shift)))
        return each[0][None] if len(each) == 1 else torch.stack(each)


def gate_product(x: Tensor, weight_GHD: Tensor, bias_GH: Tensor) -> Tensor:
    """(G, T, H): each gate's linear map of its rows (G, T, D), or of the same (T, D)."""
    weight_GHD, bias_GH = weight_GHD.to(x.dtype), bias_GH.to(x.dtype)
    if len(weight_GHD) == 1:
        return inferred(x.reshape(-1, x.shape[-1]), weight_GHD[0], bias_GH[0])[None]
    if x.dim() == 2:
        h = inferred(x, weight_GHD.flatten(0, 1), bias_GH.flatten())
        return h.unflatten(-1, bias_GH.shape).transpose(0, 1)
    return torch.baddbmm(bias_GH[:, None], x, weight_GHD.transpose(1, 2))


class Gates(nn.Module):
    """G gates of 1 to 3 layers each, without the last, whose weights have a slice per expert and belong to the router.

    Args:
        gates: G.
        dim: Width D of what a gate sees.
        gate_layers: 1 is a linear gate: there is nothing before its last layer.
        hidden_dim: Width of the hidden layers; ``None`` means ``dim // 2``, at least 4.
        dropout: After each hidden layer, in training.
    """

    def __init__(self, gates: int, dim: int, gate_layers: int, hidden_dim: int | None, dropout: float):
        super().__init__()
        check_int("gate_layers", gate_layers, low=1, high=3)
        hidden = max(dim // 2, 4) if hidden_dim is None else check_int("hidden_dim", hidden_dim, low=1)
        dropout = check_probability("dropout", dropout)
        widths = [dim, *[hidden] * (gate_layers - 1)]
        self.out_dim = widths[-1]
        self.layers = nn.Sequential(
            *(GateLayer(gates, before, after, dropout) for before, after in itertools.pairwise(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        """What the last layer of each gate sees: (G, T, H), or ``x`` itself for linear gates."""
        for layer in self.layers:
            x = layer(x)
        return x

    def products(self) -> int:
        """Multiply-adds for one token."""
        return sum(layer.weight.numel() for layer in self.layers)  # type: ignore[operator, misc]


def last_layer(gates: int, num_experts: int, dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """(G, E, D) and (G, E) of the gates' last layers, small enough to start with nearly even probabilities."""
    weight = nn.Parameter(torch.empty(gates, num_experts, dim))
    nn.init.trunc_normal_(weight, std=0.02)
    return weight, nn.Parameter(torch.zeros(gates, num_experts))


def check_temperature(value: float) -> float:
    """``value`` above zero."""
    return check_positive("temperature", value)
