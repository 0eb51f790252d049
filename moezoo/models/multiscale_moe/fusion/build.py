"""A fusion by name, the controls as large as the mixture of experts they are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from moezoo.errors import ConfigError
from moezoo.models.multiscale_moe.fusion.controls import (
    AttentionFusion,
    ConcatFusion,
    MeanFusion,
    MLPFusion,
    PlainFusion,
)
from moezoo.models.multiscale_moe.fusion.multi_scale import MultiScaleMoE
from moezoo.moe.checks import check_choice

CONTROLS: dict[str, type[PlainFusion]] = {
    "mlp": MLPFusion,
    "concat": ConcatFusion,
    "mean": MeanFusion,
    "attention": AttentionFusion,
}
KINDS = ("moe", *CONTROLS)
MATCHES = ("parameters", "flops")


def build_fusion(
    kind: str, feat_dim: int = 512, scales: Sequence[int] = (4, 8, 16), *, match: str = "parameters", **moe: Any
) -> nn.Module:
    """A fusion of scales; the controls have as many parameters as the mixture of experts of the same arguments.

    Args:
        kind: ``moe`` is :class:`MultiScaleMoE`; ``mlp``, ``concat``, ``mean`` and ``attention`` have no gate. Each
            takes a list of (B, D) features and gives the fused one and the weights, or ``None``.
        feat_dim: Width D.
        scales: A name for each input.
        match: What of a control equals the mixture's: its ``parameters``, or the ``flops`` of a sample, of ``top_k``
            experts where that is given.
        moe: Further arguments of :class:`MultiScaleMoE`. Of a control they say how large it is to be; its dropout and
            last layer are as the mixture's.

    Raises:
        ConfigError: An argument is out of range, or no hidden width makes the control so small.
    """
    check_choice("kind", kind, KINDS)
    check_choice("match", match, MATCHES)
    if kind == "moe":
        return MultiScaleMoE(feat_dim, scales, **moe)
    size = _products if match == "flops" else _parameters
    with torch.device("meta"):
        wanted = size(MultiScaleMoE(feat_dim, scales, **moe))
        own = {name: moe[name] for name in ("dropout", "final_fusion") if name in moe}
        small, larger = (size(CONTROLS[kind](feat_dim, scales, width, **own)) for width in (1, 2))
    width = 1 + round((wanted - small) / (larger - small))
    if width < 1:
        raise ConfigError(
            f"kind={kind!r} is not allowed here: even with one hidden unit it has {match} of {small}, more than the "
            f"{wanted} of the mixture of experts. Give that a larger hidden_dim."
        )
    return CONTROLS[kind](feat_dim, scales, width, **own)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _products(module: nn.Module) -> int:
    """Multiply-adds of the matrix products for one sample."""
    if isinstance(module, MultiScaleMoE):
        router, experts = module.moe.router, module.moe.experts
        active = int(router.eval_top_k or module.num_experts)  # type: ignore[arg-type]
        gate = sum(p.numel() for name, p in router.named_parameters() if name.endswith("weight") and "norm" not in name)
        return gate + experts.flops([1] * active) // 2 + sum(_products(part) for part in module.final)
    if isinstance(module, nn.Linear):
        return module.weight.numel()
    once = sum(_products(child) for child in module.children())
    if isinstance(module, AttentionFusion):
        E = len(module.scales)
        last = sum(_products(part) for part in module.final)
        return E * (once - last) + last + 2 * E * E * module.feat_dim
    return once
