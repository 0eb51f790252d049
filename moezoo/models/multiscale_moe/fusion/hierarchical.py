"""A gate over modalities above a gate over scales for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.models.multiscale_moe.fusion.features import check_modalities, check_present, check_scales, checked
from moezoo.models.multiscale_moe.fusion.sources import SourceFusion


class HierarchicalMoE(SourceFusion):
    """Coarse by modality, fine by scale: ``w_me = coarse_m * fine_me``, and an expert for each modality and scale.

    The coarse gate sees everything; the fine gate of a modality sees the scales of that modality.

    Args:
        feat_dim: Width D of the features.
        modalities: Their names.
        scales: A name (the window's side) for each scale.
        hidden_dim: Hidden width of an expert.
        temperature: Of both gates.
        num_heads: Gates of either kind that vote.
        gate_layers: Layers of the gates, 1 to 3.

    The remaining arguments are :class:`~moezoo.models.multiscale_moe.fusion.sources.SourceFusion`'s; ``top_k`` and
    ``expert_threshold`` are of the weights ``w_me``.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        feat_dim: int = 512,
        modalities: Sequence[str] = ("RGB", "NIR", "TIR"),
        scales: Sequence[int] = (4, 8, 16),
        hidden_dim: int = 1024,
        temperature: float = 1.0,
        num_heads: int = 1,
        gate_layers: int = 2,
        **others: Any,
    ):
        modalities, scales = check_modalities(modalities), check_scales(scales)
        gate = {"gate_layers": gate_layers, "num_heads": num_heads, "temperature": temperature}
        super().__init__(
            feat_dim,
            len(modalities) * len(scales),
            1,
            "hierarchical",
            {"num_groups": len(modalities), **gate},
            hidden_dim=hidden_dim,
            **others,
        )
        self.modalities, self.scales = modalities, scales
        self._names = [f"{modality}, scale {scale}" for modality in modalities for scale in scales]

    def forward(self, features: Sequence[Sequence[Tensor]], present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The features of all modalities to one.

        Args:
            features: For each modality, in the order of :attr:`modalities`, a (B, D) feature of each scale.
            present: (B, M) bool: which modalities each sample has, at least one; ``None`` means all. What the features
                of a missing one hold is not looked at, and its experts are not computed.

        Returns:
            (B, D), and (B, M, E) the weights, which sum to one over both axes.

        Raises:
            InputError: A feature is missing or does not fit, ``present`` does not, or a sample has no modality.
        """
        M, E = len(self.modalities), len(self.scales)
        if isinstance(features, Tensor) or not isinstance(features, Sequence) or len(features) != M:
            got = len(features) if isinstance(features, Sequence) else type(features).__name__
            raise InputError(
                f"features must be a list of {M} lists, one per modality ({', '.join(self.modalities)}), got {got}"
            )
        for m, (name, own) in enumerate(zip(self.modalities, features, strict=True)):
            if isinstance(own, Tensor) or not isinstance(own, Sequence) or len(own) != E:
                got = len(own) if isinstance(own, Sequence) else type(own).__name__
                raise InputError(
                    f"features[{m}] ({name}) must be a list of {E} tensors (B, {self.feat_dim}), one per scale, got "
                    f"{got}"
                )
        flat = checked([feature for own in features for feature in own], self._names, self.feat_dim)
        present = check_present(present, flat[0].shape[0], self.modalities, flat[0].device)
        available = None
        if present is not None:
            available = present.repeat_interleave(E, 1)
            flat = [torch.where(there[:, None], x, 0.0) for there, x in zip(available.unbind(1), flat, strict=True)]
        fused, weights = self.mix(flat, available)
        return fused, weights.unflatten(1, (M, E))
