"""Fusing features of several scales and modalities, each part usable alone in anyone's network."""

from moezoo.models.multiscale_moe.fusion.balance import expert_balance_loss
from moezoo.models.multiscale_moe.fusion.build import KINDS, build_fusion
from moezoo.models.multiscale_moe.fusion.cross_modal import CrossModalMoE
from moezoo.models.multiscale_moe.fusion.dynamic import DynamicMoE
from moezoo.models.multiscale_moe.fusion.experts import AdaptiveExpertNetwork, ExpertNetwork
from moezoo.models.multiscale_moe.fusion.gates import GatingNetwork, MultiHeadGatingNetwork
from moezoo.models.multiscale_moe.fusion.hierarchical import HierarchicalMoE
from moezoo.models.multiscale_moe.fusion.multi_scale import MultiScaleMoE

__all__ = [
    "KINDS",
    "AdaptiveExpertNetwork",
    "CrossModalMoE",
    "DynamicMoE",
    "ExpertNetwork",
    "GatingNetwork",
    "HierarchicalMoE",
    "MultiHeadGatingNetwork",
    "MultiScaleMoE",
    "build_fusion",
    "expert_balance_loss",
]
