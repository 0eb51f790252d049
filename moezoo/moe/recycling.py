"""Checkpoint recycling (Zhu et al. 2024, "MoE Jetpack", section 3.1): experts are sub-networks of a dense MLP.

Each expert draws hidden units of its own, in its own width; channels stay the predecessor's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.moe.clustering import balanced_clusters
from moezoo.moe.tracing import has_values
from moezoo.moe.upcycling import DenseWeights, ExpertInit, unit_importance

CLUSTERS = 32
"""The most sub-graphs: balancing them takes time that grows with their square."""


@dataclass(frozen=True)
class Activity:
    """What an MLP's hidden units did on some images."""

    size: Tensor
    """(H,) mean absolute value of each unit."""
    together: Tensor | None
    """(H, H) share of the tokens by which two units were active (above 0) together, where the graph is wanted."""


def draw_units(dense: DenseWeights, widths: Sequence[int], sampling: str, activity: Activity | None) -> list[Tensor]:
    """The hidden units of each expert: ascending indices, as many as its width says.

    Args:
        dense: The MLP.
        widths: Of the experts, at most its own.
        sampling: ``importance``: drawn without replacement, by chances that go with their activity (equation 5);
            ``graph``: the co-activation graph is cut into balanced sub-graphs, and an expert gets some of these, those
            of more co-activation more often (equation 6; k-means on the graph's rows in the place of Metis);
            ``uniform``: evenly spaced ones (equation 7), the same for all experts of a width; ``random``: any
            (equation 8).
        activity: ``None``: what can be told by the weights alone. Then a unit's importance is the norm of what it
            reads by times that of what it writes, and units that read alike stand for those that fire together.
    """
    H = dense.w_out.shape[1]
    device = dense.w_out.device
    if sampling == "uniform" or not has_values(dense.w_out):
        return [torch.arange(width, device=device) * H // width for width in widths]
    if sampling == "random":
        drawn = [torch.randperm(H, device="cpu")[:width] for width in widths]
    elif sampling == "importance":
        share_H = (unit_importance(dense) if activity is None else activity.size).float().cpu()
        share_H = share_H.clamp_min(torch.finfo(torch.float32).tiny)
        drawn = [share_H.multinomial(width) for width in widths]
    else:
        drawn = _draw_clusters(dense, widths, activity)
    return [unit_U.sort().values.to(device) for unit_U in drawn]


def _draw_clusters(dense: DenseWeights, widths: Sequence[int], activity: Activity | None) -> list[Tensor]:
    H = dense.w_out.shape[1]
    clusters = next(c for c in range(min(CLUSTERS, H), 0, -1) if H % c == 0)
    together_HH = None
    if activity is not None and activity.together is not None:
        together_HH = activity.together.float().cpu().clone().fill_diagonal_(0)
    rows_HF = dense.w_in[:H].float().cpu() if together_HH is None else together_HH
    member_CM = balanced_clusters(rows_HF / rows_HF.norm(dim=1, keepdim=True).clamp_min(1e-12), clusters).cpu()
    if together_HH is None:
        share_C = unit_importance(dense).float().cpu()[member_CM].sum(1)
    else:
        share_C = torch.stack([together_HH[unit_M][:, unit_M].sum() for unit_M in member_CM])
    share_C = share_C.clamp_min(torch.finfo(torch.float32).tiny)
    size = H // clusters
    return [member_CM[share_C.multinomial(math.ceil(w / size))].flatten()[:w] for w in widths]


def recycle_stack(dense: DenseWeights, num_experts: int, init: ExpertInit) -> dict[str, Tensor]:
    """As :func:`~moezoo.moe.upcycling.spread`, of recycled experts of equal width, by the weights alone."""
    widths = init.widths(dense.w_out.shape[1], num_experts)
    parts = [sub_network(dense, u) for u in draw_units(dense, widths, init.sampling or "importance", None)]
    return {name: torch.stack([getattr(part, name) for part in parts]) for name in ("w_in", "b_in", "w_out", "b_out")}


@torch.no_grad()
def sub_network(dense: DenseWeights, unit_U: Tensor) -> DenseWeights:
    """The MLP of these hidden units alone, its own output bias included."""
    H = dense.w_out.shape[1]
    row_W = torch.cat([unit_U + start for start in range(0, dense.w_in.shape[0], H)])  # of a GLU gate and value
    return DenseWeights(dense.w_in[row_W], dense.b_in[row_W], dense.w_out[:, unit_U], dense.b_out.clone())
