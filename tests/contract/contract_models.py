"""Every registered model made small enough to run, without changing what it is made of."""

import torch

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.registry import model_config

ADAPTER = {"expert_dim": 16, "mlp_ratio": 0.5, "dropout": 0.0}
BY_BACKBONE = {
    "vit": {"img_size": 32, "backbone_args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}},
    "swin": {
        "img_size": 32,
        "backbone_args": {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2},
    },
    "resnet": {"backbone_args": {"layers": [1, 1, 1, 2], "channels": [8, 8, 16, 16], "stem_width": 8}},
    "moezoo": {"backbone_args": {"depth": 2, "embed_dim": 32}},
}


def tiny_overrides(name):
    """Keyword arguments for ``create_model(name, …)``."""
    backbone = model_config(name).model_name.split("_")[0].rstrip("0123456789")
    classes = {} if backbone == "moezoo" else {"num_classes": 5}
    return {**ADAPTER, **classes, **BY_BACKBONE[backbone]}


def tiny_input_size(model):
    channels, height, width = model.pretrained_cfg["input_size"]
    return (channels, min(height, 32), min(width, 32))  # convolutional backbones state 224 and take less


def make(name, **more):
    torch.manual_seed(0)
    model = moezoo.create_model(name, **{**tiny_overrides(name), **more})
    for path, adapter in adapters_of(model).items() if not more.get("features_only") else ():
        torch.nn.init.normal_(adapter.ffn.fc2.weight, std=0.2)  # past step 0, so that everything takes part
        assert "entity_moe" in path
    return model


def images_for(model, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *tiny_input_size(model), generator=generator)
