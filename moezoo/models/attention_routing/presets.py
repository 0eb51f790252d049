"""Registered names of the attention routing family. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.models.attention_routing import presets_vit  # noqa: F401  (registers those of transformers)
from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.registry import register_model

VARIANTS: dict[str, dict[str, Any]] = {
    "full_compute": {"compute": "full"},
    "cheap_compute": {"compute": "cheap"},
    "no_routing": {"compute": "none"},
    "random_routing": {"compute": "random"},
    "fixed_center": {"compute": "center"},
    "dense": {"dense": True},
}
"""Baselines and controls, each the same parts in another arrangement."""


@register_model(variants=VARIANTS)
def attention_routing_cifar10() -> AttentionRoutingConfig:
    """CIFAR-10's 32 x 32 colour images in 4 x 4 cells; MLPs as the document has them, the encoder lighter."""
    return AttentionRoutingConfig(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))


@register_model(variants=VARIANTS)
def attention_routing_cifar100() -> AttentionRoutingConfig:
    """The same on CIFAR-100."""
    return AttentionRoutingConfig(num_classes=100, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))


@register_model(variants=VARIANTS)
def attention_routing_digits() -> AttentionRoutingConfig:
    """Scikit-learn's digits, 16 x 16 pixels in 4 x 4 cells. Trains in half a minute on two cores."""
    return AttentionRoutingConfig(
        img_size=16,
        in_channels=1,
        encoder_channels=16,
        attention_hidden=16,
        big_hidden_dim=128,
        big_layers=2,
        small_hidden_dim=16,
        embed_dim=32,
        crop_context=2,
        aggregator_dim=64,
        head_hidden_dim=64,
        dropout=0.0,
        budget_weight=30.0,
        budget_anneal=0.5,
    )


@register_model(variants=VARIANTS)
def attention_routing_cluttered_digits() -> AttentionRoutingConfig:
    """One digit of 20 pixels anywhere among scraps of others, 64 x 64 pixels in 8 x 8 cells.

    A crop reaches 10 pixels beyond its cell, so that the cells in the middle of a digit see all of it. Routes are noisy
    in training: scores have to be clear to stand against it, and the big MLP keeps seeing some of all cells, so that
    every setting of the dial serves. In evaluation, without the noise, about half of the target's cells are chosen.
    """
    return AttentionRoutingConfig(
        img_size=64,
        patch_grid_size=8,
        in_channels=1,
        encoder_channels=16,
        encoder_layers=3,
        attention_hidden=16,
        big_hidden_dim=256,
        big_layers=2,
        small_hidden_dim=32,
        embed_dim=64,
        crop_context=10,
        aggregator="weighted_mean",
        aggregator_dim=128,
        dropout=0.0,
        router_mode="gumbel",
        threshold_init=0.2,
        temperature=0.2,
        budget_target=0.2,
        budget_weight=30.0,
        budget_anneal=0.5,
        mean=(0.1,),
        std=(0.2,),
    )
