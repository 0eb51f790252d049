"""Multi-scale mixture of experts for re-identification across modalities.

A backbone's tokens are pooled in windows of several scales; an expert for each scale and a gate over all of them make
one vector, which is added to the backbone's global feature. The parts are usable alone.
"""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "MultiScaleMoEConfig": ".config",
    "MultiScaleReid": ".reid",
    "ReidOutput": ".output",
    "ScaleWindows": ".windows",
    "BNNeck": ".neck",
    "build": ".model",
    **dict.fromkeys(
        [
            "ExpertNetwork",
            "GatingNetwork",
            "MultiHeadGatingNetwork",
            "AdaptiveExpertNetwork",
            "MultiScaleMoE",
            "HierarchicalMoE",
            "CrossModalMoE",
            "DynamicMoE",
            "build_fusion",
            "expert_balance_loss",
        ],
        ".fusion",
    ),
    **dict.fromkeys(
        [
            "ArchitectureSearch",
            "FederatedMoE",
            "ExplainableMoE",
            "CachedMoE",
            "prune_expert_networks",
            "batch_inference",
            "visualize_expert_weights",
            "analyze_expert_activation_patterns",
        ],
        ".functions",
    ),
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
