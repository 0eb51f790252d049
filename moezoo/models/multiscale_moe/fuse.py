"""How the scales of all modalities become one feature per modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.models.multiscale_moe.config import MultiScaleMoEConfig
from moezoo.models.multiscale_moe.fusion import CrossModalMoE, HierarchicalMoE, build_fusion
from moezoo.models.multiscale_moe.images import Seen


@dataclass(frozen=True)
class Fused:
    """One feature per modality, and the gates' weights."""

    features: Tensor
    """(B, M, D); zeros where a modality is missing."""
    scale_weights: Tensor | None
    """(B, M, E), a modality's sum to one; zeros where it is missing."""
    modality_weights: Tensor | None
    """(B, M), a sighting's sum to one."""


def build_structure(config: MultiScaleMoEConfig, windows: Sequence[tuple[int, int]]) -> nn.Module:
    """The fusion that ``config.structure`` names; in reports its scales are called by their ``windows``.

    A fusion's ``expert_labels`` say what an expert stands for, and the names of them all.
    """
    return _STRUCTURES[config.structure](config, [f"{rows} x {columns} windows" for rows, columns in windows])


class FlatFusion(nn.Module):
    """One fusion of scales that all modalities share, added to their global features."""

    def __init__(self, config: MultiScaleMoEConfig, labels: list[str]):
        super().__init__()
        self.num_modalities = config.num_modalities
        self.expert_labels = ("scale", labels)
        kind, match = ("mlp", "flops") if config.dense else (config.fusion, "parameters")
        self.scales = build_fusion(kind, config.feat_dim, config.scales, match=match, **fusion_fields(config))

    def forward(self, pooled: Tensor, scales: list[Tensor], seen: Seen) -> Fused:
        """(B, m, D) global features and for each scale (B * m, D), a sighting's modalities one after the other."""
        fused, weights = self.scales(scales)
        features = in_their_place(pooled.flatten(0, 1) + fused, seen, self.num_modalities)
        return Fused(features, None if weights is None else in_their_place(weights, seen, self.num_modalities), None)

    def token_geometry(self, shape: torch.Size) -> tuple[tuple[int, int], int]:
        """For recording: a sighting's tokens are its modalities, those that the batch has."""
        return (1, shape[1]), 0


class HierarchicalFusion(nn.Module):
    """A gate over modalities above gates over scales; what they agree on is added to every global feature."""

    def __init__(self, config: MultiScaleMoEConfig, labels: list[str]):
        super().__init__()
        self.num_modalities = config.num_modalities
        self.expert_labels = ("expert", [f"{modality}, {label}" for modality in config.modalities for label in labels])
        self.moe = HierarchicalMoE(config.feat_dim, config.modalities, config.scales, **fusion_fields(config))

    def forward(self, pooled: Tensor, scales: list[Tensor], seen: Seen) -> Fused:
        placed = [in_their_place(scale, seen, self.num_modalities) for scale in scales]
        by_modality = [[scale[:, m] for scale in placed] for m in range(self.num_modalities)]
        fused, weights_BME = self.moe(by_modality, present=seen.present)
        gates_BM = weights_BME.sum(-1)
        within = weights_BME / gates_BM.clamp_min(torch.finfo(gates_BM.dtype).tiny)[..., None]
        return Fused(added(pooled, fused, seen, self.num_modalities), within, gates_BM)

    def token_geometry(self, shape: torch.Size) -> tuple[tuple[int, int], int]:
        """For recording: a sighting is one token."""
        return (1, 1), 0


class CrossModalFusion(nn.Module):
    """The flat fusion, and behind it an expert for each modality and a gate over them, added to every feature."""

    def __init__(self, config: MultiScaleMoEConfig, labels: list[str]):
        super().__init__()
        self.flat = FlatFusion(config, labels)
        self.expert_labels = ("modality", list(config.modalities))
        # top_k is of scales; a modality that is there always counts.
        fields = {**fusion_fields(config), "top_k": None, "expert_threshold": 0.0}
        self.moe = CrossModalMoE(config.feat_dim, config.modalities, **fields)

    def forward(self, pooled: Tensor, scales: list[Tensor], seen: Seen) -> Fused:
        flat = self.flat(pooled, scales, seen)
        across, gates_BM = self.moe(list(flat.features.unbind(1)), present=seen.present)
        both = flat.features + across[:, None]
        return Fused(seen.blank_missing(both), flat.scale_weights, gates_BM)

    def token_geometry(self, shape: torch.Size) -> tuple[tuple[int, int], int]:
        """For recording: to the experts of modalities a sighting is one token."""
        return (1, 1), 0


def fusion_fields(config: MultiScaleMoEConfig) -> dict[str, Any]:
    """What the fusions take of the configuration."""
    names = (
        *("hidden_dim", "temperature", "num_heads", "gate_layers", "top_k", "expert_threshold", "residual_weight"),
        *("final_fusion", "dropout", "balance_weight", "balance_target", "sparsity_weight", "diversity_weight"),
    )
    return {name: getattr(config, name) for name in names}


def in_their_place(rows: Tensor, seen: Seen, num_modalities: int) -> Tensor:
    """(B * m, …) of the modalities seen to (B, M, …), zeros for those that are missing."""
    x = rows.unflatten(0, (-1, len(seen.columns)))
    if len(seen.columns) < num_modalities:
        blank = torch.zeros_like(x[:, 0])
        place = {column: i for i, column in enumerate(seen.columns)}
        x = torch.stack([x[:, place[m]] if m in place else blank for m in range(num_modalities)], 1)
    return seen.blank_missing(x)


def added(pooled: Tensor, fused_BD: Tensor, seen: Seen, num_modalities: int) -> Tensor:
    """(B, M, D): the global features, each with the same vector added; zeros for modalities that are missing."""
    return seen.blank_missing(in_their_place(pooled.flatten(0, 1), seen, num_modalities) + fused_BD[:, None])


_STRUCTURES: dict[str, type[nn.Module]] = {
    "flat": FlatFusion,
    "hierarchical": HierarchicalFusion,
    "cross_modal": CrossModalFusion,
}
