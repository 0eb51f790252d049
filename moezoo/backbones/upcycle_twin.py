"""The dense twin of an upcycled backbone: one wider MLP in the place of each mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.chains import Place
from moezoo.backbones.in_place import InPlaceOfMLP
from moezoo.backbones.mlp_places import prepared_by, replace_mlps, settle, weight_like
from moezoo.backbones.mlps import DenseMLP
from moezoo.backbones.site import Site
from moezoo.moe.experts.mlp_expert import MLPExpert
from moezoo.moe.recycling import recycle_stack
from moezoo.moe.upcycling import DenseWeights, ExpertInit, spread


@torch.inference_mode(False)  # to be trained, wherever it was made
def widen(
    model: nn.Module,
    where: Any,
    *,
    num_experts: int,
    top_k: int,
    init: ExpertInit,
    dropout: float | None = None,
) -> nn.Module:
    """Give the MLPs at ``where`` the width that a token uses of a mixture made from them, in place.

    Args:
        model, where: As of :func:`~moezoo.backbones.upcycle.upcycle`.
        num_experts, top_k, init: Of the mixture.
        dropout: On the hidden units; ``None`` keeps the MLP's own.

    Returns:
        The same object.

    Raises:
        InjectionError: As of :func:`~moezoo.backbones.upcycle.upcycle`.
    """

    def make(place: Place) -> WideMLP:
        dense = place.dense
        with weight_like(model, place).device:
            made = WideMLP(
                dense,
                place.site,
                prepared_by(model, place),
                num_experts=num_experts,
                top_k=top_k,
                init=init,
                dropout=dense.dropout if dropout is None else dropout,
            )
        return settle(made, model, place)

    replace_mlps(model, where, None, make)
    return model


class WideMLP(InPlaceOfMLP):
    """The dense twin of an :class:`UpcycledMLP`: one MLP as wide as the K experts that a token uses.

    It starts as these K experts together, with weights 1/K, so that as of them copies leave what the MLP computes.

    Args:
        dense, site, before: As of :class:`InPlaceOfMLP`.
        num_experts, top_k: E and K of the mixture.
        init: How its experts are made.
        dropout: On the hidden units.
    """

    child = "mlp"
    mlp: MLPExpert

    def __init__(
        self,
        dense: DenseMLP,
        site: Site | None,
        before: nn.Module | None,
        *,
        num_experts: int,
        top_k: int,
        init: ExpertInit,
        dropout: float,
    ):
        width = top_k * init.hidden_dim(dense.hidden_dim, num_experts)
        gated = dense.expert == "glu"
        mlp = MLPExpert(dense.dim, width, activation=dense.activation, dropout=dropout, gated=gated)
        super().__init__(mlp, dense, site, before)
        self.num_experts, self.top_k, self.init = num_experts, top_k, init

    def made_from(self, weights: DenseWeights) -> dict[str, Tensor]:
        made = recycle_stack if self.init.method == "recycle" else spread
        used = {name: part[: self.top_k] for name, part in made(weights, self.num_experts, self.init).items()}
        halves = 2 if self.mlp.gated else 1

        def rows(part_KW: Tensor) -> Tensor:
            """Those of all experts one after another, of a GLU all gates first."""
            return part_KW.unflatten(1, (halves, -1)).transpose(0, 1).flatten(0, 2)

        return {
            "fc1.weight": rows(used["w_in"]),
            "fc1.bias": rows(used["b_in"]),
            "fc2.weight": used["w_out"].transpose(0, 1).flatten(1) / self.top_k,
            "fc2.bias": used["b_out"].mean(0),
        }

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, hidden_dim={self.mlp.hidden_dim}"
