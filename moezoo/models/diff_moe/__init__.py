"""Diff-MoE: a mixture of experts over images and text. Nothing here has to do with diffusion.

Images and sentences are encoded by transformer blocks whose MLPs are mixtures: a general pool behind an attentive
router, one expert for every token, and one for each modality.
"""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "DiffMoEConfig": ".config",
    "Expert": ".expert",
    "PatchEmbed": ".embed",
    "AttentiveRouter": ".block",
    "UnifiedModalEncoder": ".block",
    "ImageEncoder": ".encoders",
    "TextEncoder": ".encoders",
    "CrossModalFusion": ".fusion",
    "DiffMoEOutput": ".output",
    "MultiModalMoE": ".multimodal",
    "MoECaptioner": ".captioner",
    "CaptionerOutput": ".output",
    "GenerationOptions": ".generate",
    "GenerationOutput": ".generate",
    "build": ".model",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
