"""Registered names of the multi-scale family. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.models.multiscale_moe.config import MultiScaleMoEConfig
from moezoo.registry import register_model

CONTROLS: dict[str, dict[str, Any]] = {
    "dense": {"dense": True},
    "mlp": {"fusion": "mlp"},
    "concat": {"fusion": "concat"},
    "mean": {"fusion": "mean"},
    "attention": {"fusion": "attention"},
}
"""The dense twin, and other ways to fuse scales with as many parameters."""
SPECTRAL: dict[str, dict[str, Any]] = {
    **CONTROLS,
    "hierarchical": {"structure": "hierarchical"},
    "cross_modal": {"structure": "cross_modal"},
}
VEHICLE = (128, 256)


@register_model(variants=SPECTRAL, weights="backbone")
def multiscale_moe_rgbnt201() -> MultiScaleMoEConfig:
    """Persons in visible, near and thermal infrared light; ViT-B/16 at 256 x 128, a grid of 16 x 8 tokens."""
    return MultiScaleMoEConfig(num_classes=171)


@register_model(variants=SPECTRAL, weights="backbone")
def multiscale_moe_rgbnt100() -> MultiScaleMoEConfig:
    """Vehicles in three spectra, wider than high: 128 x 256, a grid of 8 x 16 tokens."""
    return MultiScaleMoEConfig(num_classes=50, img_size=VEHICLE)


@register_model(variants=SPECTRAL, weights="backbone")
def multiscale_moe_msvr310() -> MultiScaleMoEConfig:
    """Vehicles in three spectra, matched across scenes: 128 x 256."""
    return MultiScaleMoEConfig(num_classes=155, img_size=VEHICLE)


@register_model(variants=CONTROLS, weights="backbone")
def multiscale_moe_market1501() -> MultiScaleMoEConfig:
    """Persons in colour images alone: the same model of one modality."""
    return MultiScaleMoEConfig(num_classes=751, modalities=("RGB",))


@register_model(variants=SPECTRAL)
def multiscale_moe_synthetic() -> MultiScaleMoEConfig:
    """Generated figures in three spectra, 128 x 64: patches of 8 x 8 pixels through one linear layer, from scratch.

    Trains in about a minute on two cores: ``moezoo train multiscale_moe/synthetic``. The fine cue is a weave of three
    to five pixels, which a token still shows and the mean over a large window does not; blocks before the windows
    would make something of it that every scale sees (``model_name="moezoo_vit_figures"`` has two).
    """
    return MultiScaleMoEConfig(
        model_name="moezoo_patches_figures",
        img_size=(128, 64),
        num_classes=64,
        feat_dim=64,
        scales=(1, 4, 16),
        hidden_dim=128,
        window_op="pool",
    )
