"""A tiny attention routing model, and images for it."""

import torch

from moezoo.models.attention_routing import AttentionRoutingConfig, build

TINY = {
    "img_size": 16,
    "patch_grid_size": 4,
    "in_channels": 2,
    "num_classes": 3,
    "encoder_channels": 8,
    "attention_hidden": 6,
    "big_hidden_dim": 24,
    "big_layers": 2,
    "small_hidden_dim": 5,
    "embed_dim": 7,
    "crop_context": 1,
    "aggregator_dim": 12,
    "head_hidden_dim": 10,
    "dropout": 0.0,
}


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return build(AttentionRoutingConfig(**{**TINY, **changes}))


def images(batch=4, *, seed=1, channels=2, side=16):
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(seed))


def asked(model, x, **more):
    """All that the model can tell."""
    return model(x, return_stats=True, return_attention=True, **more)


def same_weights(source, target):
    """``target`` with the weights of the parts of ``source`` that it has."""
    for name in ("encoder", "attention", "big", "small", "aggregator", "head"):
        part = getattr(target, name)
        if part is not None:
            part.load_state_dict(getattr(source, name).state_dict())
    return target
