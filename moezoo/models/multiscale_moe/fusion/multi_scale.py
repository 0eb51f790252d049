"""One expert per scale and a gate over all scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from moezoo.models.multiscale_moe.fusion.features import check_scales, checked
from moezoo.models.multiscale_moe.fusion.sources import SourceFusion


class MultiScaleMoE(SourceFusion):
    """Features of E scales become one, weighed by a gate that sees them all; expert i only ever sees scale i.

    Called on a list of E features (B, D), it gives the fused feature (B, D) and the weights (B, E), which sum to one.

    Args:
        feat_dim: Width D of the features.
        scales: A name (the window's side) for each, as many as there are inputs.
        hidden_dim: Hidden width of an expert.
        temperature: Of the gate: above 1 evens the weights out, below 1 sharpens them.
        num_heads: Gates that vote by the mean of their weights.
        gate_layers: Layers of the gate, 1 to 3.
        top_k: The most experts of a sample in evaluation; ``None`` means all. In training all take part.
        expert_threshold: The least weight of an expert that is computed in evaluation.
        residual_weight: Of the experts' residual connection; 0 leaves it out.

    The remaining arguments are :class:`~moezoo.models.multiscale_moe.fusion.sources.SourceFusion`'s.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        feat_dim: int = 512,
        scales: Sequence[int] = (4, 8, 16),
        hidden_dim: int = 1024,
        temperature: float = 1.0,
        num_heads: int = 1,
        gate_layers: int = 2,
        top_k: int | None = None,
        expert_threshold: float = 0.0,
        residual_weight: float = 1.0,
        **others: Any,
    ):
        scales = check_scales(scales)
        super().__init__(
            feat_dim,
            len(scales),
            1,
            "mlp_gate",
            {"gate_layers": gate_layers, "num_heads": num_heads, "temperature": temperature},
            hidden_dim=hidden_dim,
            top_k=top_k,
            expert_threshold=expert_threshold,
            residual_weight=residual_weight,
            **others,
        )
        self.scales = scales
        self._names = [f"scale {scale}" for scale in scales]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """A (B, D) feature of each scale, in the order of :attr:`scales`, to (B, D) and weights (B, E).

        Raises:
            InputError: A feature is missing, or its width, batch, device or dtype does not fit.
        """
        return self.mix(checked(features, self._names, self.feat_dim))
