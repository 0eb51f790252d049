"""Small models of both families."""

import torch

import moezoo

TINY = {
    "img_size": 16,
    "patch_size": 4,
    "in_channels": 2,
    "num_classes": 3,
    "hidden_size": 16,
    "num_layers": 4,
    "num_heads": 2,
    "mlp_dim": 24,
    "num_experts": 4,
    "expert_dropout": 0.0,
}
NAMES = ("vmoe/digits", "soft_moe/digits")


def tiny(name, **changes):
    torch.manual_seed(0)
    return moezoo.create_model(name, **{**TINY, **changes})


def images(model, batch=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *model.pretrained_cfg["input_size"], generator=generator)
