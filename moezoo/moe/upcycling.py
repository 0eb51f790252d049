"""Experts that start from a dense MLP: copies of it (Komatsuzaki et al. 2023, "Sparse Upcycling"), or parts of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_int, check_positive, check_probability
from moezoo.moe.clustering import balanced_clusters

INITS = ("copy", "noise", "partition", "recycle")
SAMPLINGS = ("importance", "graph", "uniform", "random")
PARTITIONS = ("contiguous", "random", "clustering", "importance")


@dataclass(frozen=True)
class DenseWeights:
    """The weights of one MLP, in the order that :class:`~moezoo.moe.experts.StackedMLP` and its GLU keep them."""

    w_in: Tensor
    """(H, D); of a GLU (2H, D), the gate's rows first."""
    b_in: Tensor
    """(H,) or (2H,)."""
    w_out: Tensor
    """(D, H)."""
    b_out: Tensor
    """(D,)."""


@dataclass(frozen=True)
class ExpertInit:
    """How E experts start from one MLP.

    Raises:
        ConfigError: A method is unknown, or an option is given that the method does not have.
    """

    method: str = "copy"
    """``copy``; ``noise`` (copies with noise); ``partition`` (the hidden units are dealt out to the experts);
    ``recycle`` (every expert is a sub-network of hidden units that it draws: Zhu et al. 2024, "MoE Jetpack")."""
    noise_std: float | None = None
    """``noise``: standard deviation of the noise, relative to that of the weight matrix; ``None`` means 0.02."""
    partition: str | None = None
    """``partition``: ``contiguous`` or ``random`` (the default) parts; by ``clustering``, units that read alike, and so
    fire together, share an expert (balanced k-means over their input weights, of a GLU the gate's: Zhang et al. 2022,
    "MoEfication"); or by ``importance``: every expert draws its own units, the larger ones more often, and a unit may
    be in several experts or in none."""

    sampling: str | None = None
    """``recycle``: how units are drawn, by ``importance`` (the default), ``graph``, ``uniform`` or ``random``: see
    :func:`~moezoo.moe.recycling.draw_units`."""
    num_core: int | None = None
    """``recycle``: so many experts, the first, are core experts, the others universal ones; ``None`` means a third,
    the best share of the paper."""
    core_ratio: float | None = None
    """``recycle``: width of a core expert over the MLP's; ``None`` means 1."""
    universal_ratio: float | None = None
    """``recycle``: that of a universal expert; ``None`` means 1/4."""

    def __post_init__(self):
        check_choice("init", self.method, INITS)
        for option, method in (
            ("noise_std", "noise"),
            ("partition", "partition"),
            *((option, "recycle") for option in ("sampling", "num_core", "core_ratio", "universal_ratio")),
        ):
            if getattr(self, option) is not None and self.method != method:
                raise ConfigError(
                    f"{option}={getattr(self, option)!r} is not allowed with init={self.method!r}: it belongs to "
                    f"init={method!r}."
                )
        if self.noise_std is not None:
            check_positive("noise_std", self.noise_std)
        if self.partition is not None:
            check_choice("partition", self.partition, PARTITIONS)
        if self.sampling is not None:
            check_choice("sampling", self.sampling, SAMPLINGS)
        if self.num_core is not None:
            check_int("num_core", self.num_core, low=0)
        for option in ("core_ratio", "universal_ratio"):
            if getattr(self, option) is not None:
                check_positive(option, check_probability(option, getattr(self, option)))

    def widths(self, dense: int, num_experts: int) -> list[int]:
        """``recycle``: hidden width of each of ``num_experts`` experts made from an MLP of hidden width ``dense``.

        Raises:
            ConfigError: There are fewer experts than core experts.
        """
        return [max(1, round(ratio * dense)) for ratio in self.ratios(num_experts)]

    def ratios(self, num_experts: int) -> list[float]:
        """``recycle``: the width of each expert over the MLP's.

        Raises:
            ConfigError: There are fewer experts than core experts.
        """
        core = max(1, round(num_experts / 3)) if self.num_core is None else self.num_core
        check_int("num_core", core, low=0, high=num_experts)
        return [_ratio(self.core_ratio, 1.0)] * core + [_ratio(self.universal_ratio, 0.25)] * (num_experts - core)

    def hidden_dim(self, dense: int, num_experts: int) -> int:
        """Hidden width of an expert, the first, made from an MLP of hidden width ``dense``.

        Raises:
            ConfigError: The units cannot be dealt out evenly.
        """
        if self.method == "recycle":
            return self.widths(dense, num_experts)[0]
        if self.method != "partition":
            return dense
        if dense % num_experts:
            raise ConfigError(
                f"num_experts={num_experts} is not allowed with init='partition': it must divide the MLP's "
                f"{dense} hidden units."
            )
        return dense // num_experts


@torch.no_grad()
def spread(dense: DenseWeights, num_experts: int, init: ExpertInit) -> dict[str, Tensor]:
    """The stacked weights ``w_in, b_in, w_out, b_out`` of ``num_experts`` experts, by any method but ``recycle``.

    The parts of a partition are scaled by E, so that with weights of 1/E all of them together are the dense MLP.
    """
    E, H = num_experts, dense.w_out.shape[1]
    if init.method == "partition":
        unit_EH = _deal_out(dense, E, init.partition or "random")
        row_EW = torch.cat([unit_EH, unit_EH + H], dim=1) if _gated(dense) else unit_EH
        w_in = dense.w_in[row_EW]
        b_in = dense.b_in[row_EW]
        w_out = dense.w_out.t()[unit_EH].transpose(1, 2) * E
    else:
        w_in, b_in, w_out = (w.expand(E, *w.shape).clone() for w in (dense.w_in, dense.b_in, dense.w_out))
        if init.method == "noise":
            std = 0.02 if init.noise_std is None else init.noise_std
            for stack, weight in ((w_in, dense.w_in), (w_out, dense.w_out)):
                stack += torch.randn_like(stack) * (std * weight.std(correction=0))
    return {"w_in": w_in, "b_in": b_in, "w_out": w_out, "b_out": dense.b_out.expand(E, -1).clone()}


def unit_importance(dense: DenseWeights) -> Tensor:
    """(H,) of each hidden unit the norm of what it reads by times that of what it writes."""
    H = dense.w_out.shape[1]
    return dense.w_out.float().norm(dim=0) * dense.w_in.float().unflatten(0, (-1, H)).norm(dim=(0, 2))


def _ratio(given: float | None, default: float) -> float:
    return default if given is None else given


def _deal_out(dense: DenseWeights, num_experts: int, rule: str) -> Tensor:
    """(E, H/E) indices of each expert's hidden units."""
    device, H = dense.w_out.device, dense.w_out.shape[1]
    if rule == "importance":
        share_EH = unit_importance(dense).clamp_min(torch.finfo(torch.float32).tiny).expand(num_experts, -1)
        return share_EH.multinomial(H // num_experts)
    if rule == "clustering":
        return balanced_clusters(dense.w_in[:H], num_experts).to(device)
    order_H = torch.randperm(H, device=device) if rule == "random" else torch.arange(H, device=device)
    return order_H.view(num_experts, -1)


def _gated(dense: DenseWeights) -> bool:
    return dense.w_in.shape[0] == 2 * dense.w_out.shape[1]
