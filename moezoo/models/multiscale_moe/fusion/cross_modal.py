"""Experts of their own for each modality and a gate across the modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moezoo.models.multiscale_moe.fusion.features import check_modalities, check_present, checked
from moezoo.models.multiscale_moe.fusion.sources import SourceFusion
from moezoo.moe.checks import check_int


class CrossModalMoE(SourceFusion):
    """Features of M modalities become one, weighed by a gate that sees them all.

    Args:
        feat_dim: Width D of the features.
        modalities: Their names.
        experts_per_modality: Experts that read the same modality; its weight is the sum of theirs.
        hidden_dim: Hidden width of an expert.
        temperature: Of the gate.
        num_heads: Gates that vote by the mean of their weights.
        gate_layers: Layers of the gate, 1 to 3.

    The remaining arguments are :class:`~moezoo.models.multiscale_moe.fusion.sources.SourceFusion`'s; ``top_k`` and
    ``expert_threshold`` are of the weights of single experts.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        feat_dim: int = 512,
        modalities: Sequence[str] = ("RGB", "NIR", "TIR"),
        experts_per_modality: int = 1,
        hidden_dim: int = 1024,
        temperature: float = 1.0,
        num_heads: int = 1,
        gate_layers: int = 2,
        **others: Any,
    ):
        modalities = check_modalities(modalities)
        each = check_int("experts_per_modality", experts_per_modality, low=1)
        super().__init__(
            feat_dim,
            len(modalities),
            each,
            "mlp_gate",
            {"gate_layers": gate_layers, "num_heads": num_heads, "temperature": temperature},
            hidden_dim=hidden_dim,
            **others,
        )
        self.modalities, self.experts_per_modality = modalities, each

    def forward(self, features: Sequence[Tensor], present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The features of all modalities to one.

        Args:
            features: A (B, D) feature of each modality, in the order of :attr:`modalities`.
            present: (B, M) bool: which modalities each sample has, at least one; ``None`` means all. What the feature
                of a missing one holds is not looked at, and its experts are not computed.

        Returns:
            (B, D), and (B, M) the weights, which sum to one.

        Raises:
            InputError: A feature is missing or does not fit, ``present`` does not, or a sample has no modality.
        """
        own = checked(features, self.modalities, self.feat_dim)
        present = check_present(present, own[0].shape[0], self.modalities, own[0].device)
        available = None
        if present is not None:
            own = [torch.where(there[:, None], x, 0.0) for there, x in zip(present.unbind(1), own, strict=True)]
            available = present.repeat_interleave(self.experts_per_modality, 1)
        fused, weights = self.mix(own, available)
        return fused, weights.unflatten(1, (-1, self.experts_per_modality)).sum(-1)
